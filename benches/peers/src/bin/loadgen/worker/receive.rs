//! What a worker receives: answers to handshakes, and frames.
use super::{St, Worker};
use crate::now;
use crate::opts::Scenario;
use crate::wire::{self, MAGIC, gather};
use std::sync::atomic::Ordering::*;

impl Worker {
    pub(super) fn handshake(&mut self, c: usize) -> Option<bool> {
        let x = &mut self.conns[c];
        loop {
            let mut b = [0u8; 4096];
            let r = unsafe { libc::recv(x.fd, b.as_mut_ptr() as *mut libc::c_void, b.len(), 0) };
            if r < 0 {
                if std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock {
                    break;
                }
                x.st = St::Dead;
                return Some(false);
            }
            if r == 0 {
                eprintln!("refused: {}", String::from_utf8_lossy(&x.part).lines().next().unwrap_or("closed"));
                x.st = St::Dead;
                return Some(false);
            }
            x.part.extend_from_slice(&b[..r as usize]);
        }
        let n = wire::head_end(&x.part)?;
        if !wire::is_101(&x.part) {
            eprintln!("refused: {}", String::from_utf8_lossy(&x.part).lines().next().unwrap_or(""));
            x.st = St::Dead;
            return Some(false);
        }
        x.part.drain(..n);
        x.st = St::Open;
        if !x.part.is_empty() {
            let p = std::mem::take(&mut x.part);
            self.buf[..p.len()].copy_from_slice(&p);
            self.parse(c, p.len());
        }
        if self.conns[c].part.is_empty() {
            self.conns[c].part = Vec::new();
        }
        self.conns[c].out = Vec::new();
        Some(true)
    }

    #[inline]
    pub(super) fn recv(&mut self, c: usize) {
        loop {
            let x = &mut self.conns[c];
            if x.st != St::Open {
                return;
            }
            let pre = x.part.len();
            if pre > 0 {
                self.buf[..pre].copy_from_slice(&x.part);
                x.part.clear();
            }
            let cap = self.buf.len() - pre;
            let r = unsafe { libc::recv(x.fd, self.buf.as_mut_ptr().add(pre) as *mut libc::c_void, cap, 0) };
            if r <= 0 {
                if pre > 0 {
                    let p = self.buf[..pre].to_vec();
                    self.conns[c].part = p;
                }
                if r < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock {
                    return;
                }
                self.dead(c);
                return;
            }
            if self.measuring {
                self.tot.recvs += 1;
            }
            self.parse(c, pre + r as usize);
            if (r as usize) < cap {
                return;
            }
        }
    }

    #[inline]
    fn parse(&mut self, c: usize, end: usize) {
        let t = now();
        self.last_rx = t;
        let mut off = 0;
        let k = self.o.k;
        let w = self.o.window;
        let lobby = self.conns[c].lobby as usize;
        let nsenders = self.senders.len();
        let mut delivered = 0u64;
        while end - off >= 2 {
            let b0 = self.buf[off];
            let l7 = self.buf[off + 1] & 0x7f;
            let (hl, len) = if l7 < 126 {
                (2, l7 as usize)
            } else if l7 == 126 {
                if end - off < 4 {
                    break;
                }
                (4, u16::from_be_bytes([self.buf[off + 2], self.buf[off + 3]]) as usize)
            } else {
                if end - off < 10 {
                    break;
                }
                (10, u64::from_be_bytes(self.buf[off + 2..off + 10].try_into().unwrap()) as usize)
            };
            if end - off < hl + len {
                break;
            }
            let p = &self.buf[off + hl..off + hl + len];
            off += hl + len;
            let op = b0 & 0x0f;
            let p = if op == 1 || op == 2 { wire::payload_of(&self.o, p) } else { p };
            if (op == 1 || op == 2) && p.len() >= 37 && p[..7] == *MAGIC {
                let a = u64::from_le_bytes(p[7..15].try_into().unwrap());
                let b = u64::from_le_bytes(p[15..23].try_into().unwrap());
                let s = u64::from_le_bytes(p[23..31].try_into().unwrap());
                let i = u32::from_le_bytes(p[31..35].try_into().unwrap());
                let ts = gather(a) as u64 | (gather(b) as u64) << 32;
                let seq = gather(s);
                let idx = gather(i as u64) as usize & 0xffff;
                if idx >= k {
                    self.tot.other += 1;
                    continue;
                }
                let slot = &mut self.expect[c * k + idx];
                let want = *slot;
                if seq == want {
                    *slot = want.wrapping_add(1);
                } else if seq.wrapping_sub(want) < 1 << 31 {
                    self.tot.lost += seq.wrapping_sub(want) as u64;
                    *slot = seq.wrapping_add(1);
                } else {
                    self.tot.dup += 1;
                    continue;
                }
                delivered += 1;
                let relay_b = self.o.scenario == Scenario::Relay && self.conns[c].member == 1;
                if relay_b {
                    let p = p.to_vec();
                    let x = &mut self.conns[c];
                    wire::frame_payload(&mut x.out, &self.o, op, &p);
                    if !x.queued {
                        x.queued = true;
                        self.out_dirty.push(c as u32);
                    }
                    continue;
                }
                if self.measuring {
                    self.hist.add(t.saturating_sub(ts));
                    self.tot.trips += 1;
                }
                let sid = lobby * k + idx;
                let r = &mut self.rem[sid * w + (seq as usize & (w - 1))];
                *r = r.wrapping_sub(1);
                if *r == 0 {
                    let s = &mut self.senders[sid];
                    s.completed = seq.wrapping_add(1);
                    if self.o.scenario == Scenario::Idle && s.completed == self.o.touch {
                        self.touched_done += 1;
                        if self.touched_done == nsenders {
                            self.sh.touched.fetch_add(1, AcqRel);
                        }
                    }
                    if !s.queued {
                        s.queued = true;
                        self.dirty.push(sid as u32);
                    }
                }
            } else if op == 9 {
                let p = p.to_vec();
                wire::frame_masked(&mut self.conns[c].out, 10, &p);
                if !self.conns[c].queued {
                    self.conns[c].queued = true;
                    self.out_dirty.push(c as u32);
                }
                self.tot.other += 1;
            } else if op == 8 {
                eprintln!("closed by server: {:?}", String::from_utf8_lossy(p.get(2..).unwrap_or(&[])));
                self.dead(c);
                return;
            } else {
                self.tot.other += 1;
            }
        }
        if self.measuring {
            self.tot.delivered += delivered;
        }
        self.tot.delivered_all += delivered;
        if off < end {
            let (x, b) = (&mut self.conns[c], &self.buf[off..end]);
            x.part.clear();
            x.part.extend_from_slice(b);
        }
    }
}

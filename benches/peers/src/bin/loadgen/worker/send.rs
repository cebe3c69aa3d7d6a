//! What a worker sends.
use super::{St, Worker};
use crate::now;
use crate::opts::Scenario;

impl Worker {
    /// Sends as many messages as the window and the schedule of a sender allow.
    pub(super) fn refill(&mut self, s: usize) {
        let x = &mut self.senders[s];
        x.queued = false;
        if !self.sending {
            return;
        }
        let w = self.o.window as u32;
        let mut room = w - x.sent.wrapping_sub(x.completed);
        if self.period > 0 {
            room = room.min(x.due.wrapping_sub(x.sent));
        }
        if self.o.scenario == Scenario::Idle {
            room = room.min(self.o.touch - x.sent);
        }
        if room == 0 {
            return;
        }
        let c = x.conn as usize;
        if self.conns[c].st != St::Open {
            return;
        }
        let t = if self.period > 0 { 0 } else { now() };
        for _ in 0..room {
            let x = &mut self.senders[s];
            let ts = if self.period > 0 { self.base + x.sent as u64 * self.period + x.phase } else { t };
            self.rem[s * w as usize + (x.sent & (w - 1)) as usize] = self.receivers;
            self.tpl.put(&mut self.conns[c].out, ts, x.sent, x.idx);
            x.sent = x.sent.wrapping_add(1);
            if self.o.single {
                self.flush(c);
            }
        }
        if self.measuring {
            self.tot.sent += room as u64;
        }
        self.tot.sent_all += room as u64;
        self.flush(c);
    }

    pub(super) fn flush(&mut self, c: usize) {
        let x = &mut self.conns[c];
        if x.st == St::Dead {
            return;
        }
        while x.out_off < x.out.len() {
            let r = unsafe {
                libc::send(
                    x.fd,
                    x.out.as_ptr().add(x.out_off) as *const libc::c_void,
                    x.out.len() - x.out_off,
                    libc::MSG_NOSIGNAL,
                )
            };
            if r < 0 {
                let e = std::io::Error::last_os_error();
                if e.kind() == std::io::ErrorKind::WouldBlock {
                    return;
                }
                self.dead(c);
                return;
            }
            x.out_off += r as usize;
        }
        x.out.clear();
        x.out_off = 0;
    }
}

//! One worker thread: a part of the lobbies on one edge-triggered epoll.
mod receive;
mod send;

use crate::hist::Hist;
use crate::opts::{Opts, Scenario};
use crate::wire::{self, Template};
use crate::{PH_CONNECT, PH_DRAIN, PH_MEASURE, PH_WARM, Shared, now};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

#[derive(Default, Clone)]
pub struct Totals {
    pub delivered: u64,
    pub sent: u64,
    pub trips: u64,
    pub recvs: u64,
    pub meas_ns: u64,
    pub idle_ns: u64,
    pub delivered_all: u64,
    pub sent_all: u64,
    pub lost: u64,
    pub dup: u64,
    pub missing: u64,
    pub other: u64,
    pub disconnects: u64,
    pub backlog: u64,
}
impl Totals {
    pub fn add(&mut self, o: &Totals) {
        macro_rules! a { ($($f:ident)*) => { $( self.$f += o.$f; )* } }
        a!(delivered sent trips recvs meas_ns idle_ns delivered_all sent_all lost dup missing other disconnects backlog);
    }
}
pub struct Outcome {
    pub hist: Hist,
    pub totals: Totals,
}
#[derive(Clone, Copy, PartialEq)]
enum St {
    Connecting,
    Handshake,
    Open,
    Dead,
}
struct Conn {
    fd: i32,
    st: St,
    queued: bool,
    lobby: u32,
    member: u32,
    out_off: usize,
    part: Vec<u8>,
    out: Vec<u8>,
}
impl Conn {
    fn new(fd: i32, st: St, lobby: usize, member: usize) -> Conn {
        Conn {
            fd,
            st,
            queued: false,
            lobby: lobby as u32,
            member: member as u32,
            out_off: 0,
            part: vec![],
            out: vec![],
        }
    }
}
struct Sender {
    conn: u32,
    idx: u32,
    sent: u32,
    completed: u32,
    due: u32,
    queued: bool,
    phase: u64,
}
pub struct Worker {
    o: Arc<Opts>,
    sh: Arc<Shared>,
    ep: i32,
    conns: Vec<Conn>,
    senders: Vec<Sender>,
    rem: Vec<u32>,
    expect: Vec<u32>,
    dirty: Vec<u32>,
    out_dirty: Vec<u32>,
    hist: Hist,
    tot: Totals,
    measuring: bool,
    sending: bool,
    buf: Vec<u8>,
    tpl: Template,
    receivers: u32,
    my_lobbies: Vec<usize>,
    touched_done: usize,
    sched: Vec<(u64, u32)>,
    base: u64,
    period: u64,
    round: u64,
    cursor: usize,
    last_rx: u64,
}
impl Worker {
    pub fn new(o: Arc<Opts>, sh: Arc<Shared>, t: usize) -> Worker {
        let my: Vec<usize> = (0..o.lobbies).filter(|l| l % o.threads == t).collect();
        let nc = my.len() * o.size;
        let k = o.k;
        let mut senders = Vec::with_capacity(my.len() * k);
        let period = if o.rate > 0.0 { (1e9 / o.rate) as u64 } else { 0 };
        let mut rng = 0x9E37_79B9_7F4A_7C15u64 ^ (t as u64 + 1);
        for l in 0..my.len() {
            for i in 0..k {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                let phase = if period > 0 { rng % period } else { 0 };
                senders.push(Sender {
                    conn: (l * o.size + i) as u32,
                    idx: i as u32,
                    sent: 0,
                    completed: 0,
                    due: 0,
                    queued: false,
                    phase,
                });
            }
        }
        let mut sched: Vec<(u64, u32)> =
            if period > 0 { senders.iter().enumerate().map(|(i, s)| (s.phase, i as u32)).collect() } else { vec![] };
        sched.sort();
        Worker {
            ep: unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) },
            conns: Vec::with_capacity(nc),
            rem: vec![0; senders.len() * o.window],
            expect: vec![0; nc * k],
            senders,
            dirty: vec![],
            out_dirty: vec![],
            hist: Hist::new(),
            tot: Totals::default(),
            measuring: false,
            sending: false,
            buf: vec![0; 1 << 20],
            tpl: Template::new(&o),
            receivers: if o.scenario == Scenario::Echo || o.scenario == Scenario::Relay {
                1
            } else {
                o.size as u32 - 1
            },
            my_lobbies: my,
            touched_done: 0,
            sched,
            base: 0,
            period,
            round: 0,
            cursor: 0,
            last_rx: 0,
            o,
            sh,
        }
    }

    fn open_next(&mut self) {
        let i = self.conns.len();
        let lobby = i / self.o.size;
        let member = i % self.o.size;
        let global = self.my_lobbies[lobby] * self.o.size + member;
        match wire::connect(&self.o, global) {
            Ok(fd) => {
                self.conns.push(Conn::new(fd, St::Connecting, lobby, member));
                let mut ev = libc::epoll_event {
                    events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET | libc::EPOLLRDHUP) as u32,
                    u64: i as u64,
                };
                unsafe { libc::epoll_ctl(self.ep, libc::EPOLL_CTL_ADD, fd, &mut ev) };
            }
            Err(e) => {
                eprintln!("connect {}: {}", global, std::io::Error::from_raw_os_error(e));
                self.sh.failed.fetch_add(1, Relaxed);
                self.conns.push(Conn::new(-1, St::Dead, lobby, member));
            }
        }
    }

    pub fn run(mut self) -> Outcome {
        let total = self.my_lobbies.len() * self.o.size;
        let mut events: Vec<libc::epoll_event> = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
        let mut phase = PH_CONNECT;
        let mut open = 0u64;
        let mut failed = 0u64;
        let mut meas_start = 0u64;
        let mut last = now();
        let mut drain_start = 0u64;
        let mut announced = false;
        loop {
            let ph = self.sh.phase.load(Acquire);
            if ph != phase {
                let t = now();
                match ph {
                    PH_WARM => self.start(t),
                    PH_MEASURE => {
                        meas_start = t;
                        self.measuring = true;
                        self.tot.idle_ns = 0;
                    }
                    PH_DRAIN => {
                        if self.measuring {
                            self.tot.meas_ns = t - meas_start;
                        }
                        self.measuring = false;
                        self.sending = false;
                        drain_start = t;
                        self.last_rx = t;
                    }
                    _ => {}
                }
                phase = ph;
            }
            if phase == PH_CONNECT {
                while self.conns.len() < total && (self.conns.len() as u64) < open + failed + self.o.concurrency as u64
                {
                    self.open_next();
                }
                if !announced && open == total as u64 {
                    announced = true;
                    self.sh.ready.fetch_add(1, AcqRel);
                }
            }
            if phase == PH_DRAIN {
                let quiet = last.saturating_sub(self.last_rx) > 200_000_000;
                let done = self.senders.iter().all(|s| s.sent == s.completed);
                if (quiet && done) || last.saturating_sub(drain_start) > 30_000_000_000 {
                    break;
                }
            }
            // Poll only while traffic is in flight.
            let live = phase == PH_WARM || phase == PH_MEASURE;
            let wait_ns: i64 = if live && self.o.spin && self.o.scenario != Scenario::Idle {
                0
            } else if live && self.period > 0 {
                let due = self.base + self.round * self.period + self.sched.get(self.cursor).map_or(0, |s| s.0);
                (due as i64 - now() as i64).clamp(0, 5_000_000)
            } else {
                5_000_000
            };
            let n = if wait_ns == 0 {
                unsafe { libc::epoll_wait(self.ep, events.as_mut_ptr(), events.len() as i32, 0) }
            } else {
                let ts = libc::timespec { tv_sec: 0, tv_nsec: wait_ns };
                unsafe {
                    libc::syscall(
                        libc::SYS_epoll_pwait2,
                        self.ep,
                        events.as_mut_ptr(),
                        events.len() as i32,
                        &ts,
                        std::ptr::null::<libc::sigset_t>(),
                        8usize,
                    ) as i32
                }
            };
            let t = now();
            if n <= 0 && self.measuring {
                self.tot.idle_ns += t - last;
            }
            last = t;
            for &ev in &events[..n.max(0) as usize] {
                let c = ev.u64 as usize;
                let e = ev.events as i32;
                match self.conns[c].st {
                    St::Open => {
                        if e & libc::EPOLLOUT != 0 && !self.conns[c].out.is_empty() {
                            self.flush(c);
                        }
                        if e & !libc::EPOLLOUT != 0 {
                            self.recv(c);
                        }
                    }
                    St::Connecting => {
                        if e & (libc::EPOLLERR | libc::EPOLLHUP) != 0 {
                            self.conns[c].st = St::Dead;
                            failed += 1;
                            self.sh.failed.fetch_add(1, Relaxed);
                        } else if e & libc::EPOLLOUT != 0 {
                            let global = self.my_lobbies[self.conns[c].lobby as usize] * self.o.size
                                + self.conns[c].member as usize;
                            let r = wire::request(&self.o, self.my_lobbies[self.conns[c].lobby as usize], global);
                            self.conns[c].out = r;
                            self.flush(c);
                            self.conns[c].st = St::Handshake;
                        }
                    }
                    St::Handshake => {
                        let ok = self.handshake(c);
                        if ok == Some(true) {
                            open += 1;
                            self.sh.connected.fetch_add(1, Relaxed);
                        } else if ok == Some(false) {
                            failed += 1;
                            self.sh.failed.fetch_add(1, Relaxed);
                        }
                    }
                    St::Dead => {}
                }
            }
            if live && self.period > 0 && self.sending {
                let t = now();
                while self.base + self.round * self.period + self.sched[self.cursor].0 <= t {
                    let s = self.sched[self.cursor].1;
                    let x = &mut self.senders[s as usize];
                    x.due = x.due.wrapping_add(1);
                    if !x.queued {
                        x.queued = true;
                        self.dirty.push(s);
                    }
                    self.cursor += 1;
                    if self.cursor == self.sched.len() {
                        self.cursor = 0;
                        self.round += 1;
                    }
                }
            }
            if !self.dirty.is_empty() {
                let d = std::mem::take(&mut self.dirty);
                for &s in &d {
                    self.refill(s as usize);
                }
                let mut d = d;
                d.clear();
                self.dirty = d;
            }
            if !self.out_dirty.is_empty() {
                let d = std::mem::take(&mut self.out_dirty);
                for &c in &d {
                    self.conns[c as usize].queued = false;
                    self.flush(c as usize);
                }
                let mut d = d;
                d.clear();
                self.out_dirty = d;
            }
        }
        self.finish()
    }

    fn start(&mut self, t: u64) {
        self.sending = true;
        self.base = t;
        if self.period == 0 {
            for s in 0..self.senders.len() {
                self.senders[s].queued = true;
                self.dirty.push(s as u32);
            }
        }
        if self.o.scenario == Scenario::Idle && self.senders.is_empty() {
            self.sh.touched.fetch_add(1, AcqRel);
        }
    }

    fn dead(&mut self, c: usize) {
        if self.conns[c].st != St::Dead {
            self.conns[c].st = St::Dead;
            wire::close_rst(self.conns[c].fd);
            self.conns[c].fd = -1;
            self.tot.disconnects += 1;
        }
    }

    fn finish(mut self) -> Outcome {
        // Every receiver must have received exactly the messages of each sender of its lobby.
        let k = self.o.k;
        for c in 0..self.conns.len() {
            let lobby = self.conns[c].lobby as usize;
            for i in 0..k {
                let receives = match self.o.scenario {
                    Scenario::Echo | Scenario::Relay => true,
                    _ => self.conns[c].member as usize != i,
                };
                let want = if receives { self.senders[lobby * k + i].sent } else { 0 };
                self.tot.missing += want.abs_diff(self.expect[c * k + i]) as u64;
            }
        }
        self.tot.backlog =
            if self.period > 0 { self.senders.iter().map(|s| s.due.wrapping_sub(s.sent) as u64).sum() } else { 0 };
        for c in &self.conns {
            if c.fd >= 0 {
                wire::close_rst(c.fd);
            }
        }
        Outcome { hist: self.hist, totals: self.tot }
    }
}

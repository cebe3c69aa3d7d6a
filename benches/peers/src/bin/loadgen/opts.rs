use std::net::SocketAddrV4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    Echo,
    Relay,
    Fanout,
    Big,
    Tickrooms,
    Idle,
    Storm,
}
impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Echo => "echo",
            Scenario::Relay => "relay",
            Scenario::Fanout => "fanout",
            Scenario::Big => "big",
            Scenario::Tickrooms => "tickrooms",
            Scenario::Idle => "idle",
            Scenario::Storm => "storm",
        }
    }
}
pub const HELP: &str = "loadgen SCENARIO --url 'ws://127.0.0.1:PORT/ws/{lobby}?token={user}' [options]
scenarios: echo relay fanout big tickrooms idle storm
  --server-pid PID   report that process's CPU, context switches, memory
  --name NAME        label in the output
  --conns N          echo, storm, idle: connections          (echo 64, idle 10000, storm 20000)
  --lobbies L        lobbies (relay: pairs)                   (relay 64, fanout 100, big 1, tickrooms 100)
  --size S           members a lobby                          (fanout 10, big 1000, tickrooms 8, idle 8)
  --senders K        senders a lobby                          (fanout 1, big 1, tickrooms S)
  --window W         undelivered messages a sender may have   (echo 1, relay 1, fanout 4, big 4, tickrooms 8)
  --rate R           messages/s a sender, 0: as fast as the window allows (tickrooms 20)
  --payload P        bytes, at least 37                       (64)
  --warmup S --duration S --settle S   seconds                (1, 5, 0.5)
  --concurrency C    connections being opened at once         (64; storm 64)
  --touch N          idle: messages each member sends before the second memory reading (1)
  --close clean|fin|rst   storm: how each connection ends     (clean)
  --threads T        worker threads, each with a part of the lobbies   (1)
  --single-writes    one write() per message instead of one per refill of the window
  --no-spin          block in epoll_wait instead of polling
  --binary           binary frames instead of text
  --envelope         use lobbyd's protocol: sends broadcast requests, receives message objects (not echo)
  --src-ips N        source addresses 127.0.0.2.. to spread over (8)
  --json             only the JSON line";

pub struct Opts {
    pub scenario: Scenario,
    pub url: String,
    pub addr: SocketAddrV4,
    pub path: String,
    pub server_pid: i32,
    pub name: String,
    pub conns: usize,
    pub lobbies: usize,
    pub size: usize,
    pub k: usize,
    pub window: usize,
    pub rate: f64,
    pub payload: usize,
    pub warmup: f64,
    pub duration: f64,
    pub settle: f64,
    pub concurrency: usize,
    pub touch: u32,
    pub close: String,
    pub threads: usize,
    pub single: bool,
    pub spin: bool,
    pub binary: bool,
    pub envelope: bool,
    pub src_ips: usize,
    pub json: bool,
    pub connect_timeout: f64,
}
fn die(m: &str) -> ! {
    eprintln!("{m}\n{HELP}");
    std::process::exit(64)
}
impl Opts {
    pub fn parse() -> Opts {
        let a: Vec<String> = std::env::args().skip(1).collect();
        let sc = match a.first().map(|s| s.as_str()) {
            Some("echo") => Scenario::Echo,
            Some("relay") => Scenario::Relay,
            Some("fanout") => Scenario::Fanout,
            Some("big") => Scenario::Big,
            Some("tickrooms") => Scenario::Tickrooms,
            Some("idle") => Scenario::Idle,
            Some("storm") => Scenario::Storm,
            _ => die("which scenario?"),
        };
        use Scenario::*;
        let mut o = Opts {
            scenario: sc,
            url: String::new(),
            addr: "127.0.0.1:0".parse().unwrap(),
            path: String::new(),
            server_pid: 0,
            name: "server".into(),
            conns: match sc {
                Echo => 64,
                Idle => 10000,
                _ => 20000,
            },
            lobbies: match sc {
                Relay => 64,
                Big => 1,
                _ => 100,
            },
            size: match sc {
                Fanout => 10,
                Big => 1000,
                Echo => 1,
                Relay => 2,
                _ => 8,
            },
            k: 0,
            window: match sc {
                Echo | Relay | Idle => 1,
                Tickrooms => 8,
                _ => 4,
            },
            rate: if sc == Tickrooms { 20.0 } else { 0.0 },
            payload: 64,
            warmup: 1.0,
            duration: 5.0,
            settle: 0.5,
            concurrency: 64,
            touch: 1,
            close: "clean".into(),
            threads: 1,
            single: false,
            spin: true,
            binary: false,
            envelope: false,
            src_ips: 8,
            json: false,
            connect_timeout: 120.0,
        };
        let mut i = 1;
        while i < a.len() {
            let f = a[i].clone();
            let mut v = || {
                i += 1;
                a.get(i).cloned().unwrap_or_else(|| die(&format!("{f} needs a value")))
            };
            fn n<T: std::str::FromStr>(s: String) -> T {
                s.parse().unwrap_or_else(|_| die(&format!("not a number: {s}")))
            }
            match f.as_str() {
                "--url" => o.url = v(),
                "--server-pid" => o.server_pid = n(v()),
                "--name" => o.name = v(),
                "--conns" => o.conns = n(v()),
                "--lobbies" => o.lobbies = n(v()),
                "--size" => o.size = n(v()),
                "--senders" => o.k = n(v()),
                "--window" => o.window = n(v()),
                "--rate" => o.rate = n(v()),
                "--payload" => o.payload = n(v()),
                "--warmup" => o.warmup = n(v()),
                "--duration" => o.duration = n(v()),
                "--settle" => o.settle = n(v()),
                "--concurrency" => o.concurrency = n(v()),
                "--touch" => o.touch = n(v()),
                "--close" => o.close = v(),
                "--threads" => o.threads = n(v()),
                "--src-ips" => o.src_ips = n(v()),
                "--connect-timeout" => o.connect_timeout = n(v()),
                "--single-writes" => o.single = true,
                "--no-spin" => o.spin = false,
                "--spin" => o.spin = true,
                "--binary" => o.binary = true,
                "--envelope" => o.envelope = true,
                "--json" => o.json = true,
                _ => die(&format!("unknown option {f}")),
            }
            i += 1;
        }
        let rest = o.url.strip_prefix("ws://").unwrap_or_else(|| die("--url ws://HOST:PORT/…"));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        o.path = format!("/{path}");
        o.addr = host.replace("localhost", "127.0.0.1").parse().unwrap_or_else(|_| die("host must be IPv4:port"));
        match sc {
            Echo => {
                o.lobbies = o.conns;
                o.size = 1;
                o.k = 1;
            }
            Relay => {
                o.size = 2;
                o.k = 1;
            }
            Tickrooms => {
                if o.k == 0 {
                    o.k = o.size
                }
            }
            Idle => {
                o.lobbies = o.conns.div_ceil(o.size);
                o.k = o.size;
                o.rate = 0.0;
            }
            _ => {
                if o.k == 0 {
                    o.k = 1
                }
            }
        }
        if o.k > o.size {
            o.k = o.size
        }
        if o.payload < 37 {
            die("--payload must be at least 37")
        }
        o.window = o.window.next_power_of_two().max(1);
        if o.scenario != Storm && o.total_conns() + 64 > 20000 {
            eprintln!("warning: {} connections may pass the fd limit", o.total_conns())
        }
        o
    }
    pub fn senders(&self) -> usize {
        self.k
    }
    pub fn total_conns(&self) -> usize {
        self.lobbies * self.size
    }
    pub fn describe(&self) -> String {
        use Scenario::*;
        let io = format!(
            "{}{}{}{}",
            if self.spin { "" } else { " no-spin" },
            if self.single { " single-writes" } else { "" },
            if self.binary { " binary" } else { "" },
            if self.envelope { " envelope" } else { "" }
        );
        match self.scenario {
            Echo => format!("C={} W={} P={}{}", self.conns, self.window, self.payload, io),
            Relay => format!("pairs={} W={} P={}{}", self.lobbies, self.window, self.payload, io),
            Storm => format!("N={} C={} close={}", self.conns, self.concurrency, self.close),
            Idle => format!("N={} S={} touch={}", self.total_conns(), self.size, self.touch),
            _ => format!(
                "L={} S={} K={} W={} R={} P={}{}",
                self.lobbies, self.size, self.k, self.window, self.rate, self.payload, io
            ),
        }
    }
}

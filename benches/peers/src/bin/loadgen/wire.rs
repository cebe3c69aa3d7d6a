//! Handshake, pre-built masked client frames, sockets.
use crate::opts::Opts;
use std::net::Ipv4Addr;

/// Start of every payload. The payload is JSON text exactly as Python's json.dumps
/// writes it, so that a server that parses and re-serialises it sends the
/// same bytes: {"d": "<16 time><8 number><4 sender>xxxx"}
pub const MAGIC: &[u8; 7] = b"{\"d\": \"";
/// With --envelope the payload is the `data` of a broadcast request. The prefix has 28 bytes, a multiple of 4, so that the
/// payload is masked as without it.
const ENVELOPE: (&[u8], &[u8]) = (b"{\"type\":\"broadcast\", \"data\":", b"}");
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// KEY from payload offset 7 on, twice (7, 15, 23 and 31 are all 3 modulo 4).
const KEY7: u64 = u64::from_le_bytes([0x3d, 0x37, 0xfa, 0x21, 0x3d, 0x37, 0xfa, 0x21]);

#[inline(always)]
pub fn spread(v: u32) -> u64 {
    let mut x = v as u64;
    x = (x | (x << 16)) & 0x0000_FFFF_0000_FFFF;
    x = (x | (x << 8)) & 0x00FF_00FF_00FF_00FF;
    x = (x | (x << 4)) & 0x0F0F_0F0F_0F0F_0F0F;
    x | 0x4040_4040_4040_4040
}
#[inline(always)]
pub fn gather(x: u64) -> u32 {
    let mut x = x & 0x0F0F_0F0F_0F0F_0F0F;
    x = (x | (x >> 4)) & 0x00FF_00FF_00FF_00FF;
    x = (x | (x >> 8)) & 0x0000_FFFF_0000_FFFF;
    (x | (x >> 16)) as u32
}
/// A masked frame into which time, number and sender are patched.
pub struct Template {
    bytes: Vec<u8>,
    hl: usize,
}
impl Template {
    pub fn new(o: &Opts) -> Template {
        let mut p = Vec::with_capacity(o.payload);
        p.extend_from_slice(MAGIC);
        p.resize(o.payload - 2, b'x');
        p.extend_from_slice(b"\"}");
        let mut b = vec![];
        frame_payload(&mut b, o, if o.binary { 2 } else { 1 }, &p);
        let hl = b.len() - o.payload - if o.envelope { ENVELOPE.1.len() } else { 0 };
        Template { bytes: b, hl }
    }
    #[inline(always)]
    pub fn put(&self, out: &mut Vec<u8>, ts: u64, seq: u32, idx: u32) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        let p = at + self.hl;
        let d = &mut out[p + 7..p + 35];
        d[0..8].copy_from_slice(&(spread(ts as u32) ^ KEY7).to_le_bytes());
        d[8..16].copy_from_slice(&(spread((ts >> 32) as u32) ^ KEY7).to_le_bytes());
        d[16..24].copy_from_slice(&(spread(seq) ^ KEY7).to_le_bytes());
        d[24..28].copy_from_slice(&(spread(idx) as u32 ^ KEY7 as u32).to_le_bytes());
    }
}
/// Appends the payload as a client message.
pub fn frame_payload(out: &mut Vec<u8>, o: &Opts, opcode: u8, p: &[u8]) {
    if o.envelope {
        frame_masked(out, opcode, &[ENVELOPE.0, p, ENVELOPE.1].concat());
    } else {
        frame_masked(out, opcode, p);
    }
}
/// Returns the payload of a server message: the whole message, or the `data` of a message object, usually its last field.
#[inline(always)]
pub fn payload_of<'a>(o: &Opts, message: &'a [u8]) -> &'a [u8] {
    if !o.envelope || message.len() <= o.payload {
        return message;
    }
    let mut at = message.len() - 1 - o.payload;
    if !message[at..].starts_with(MAGIC) {
        at = message.windows(MAGIC.len()).position(|w| w == MAGIC).unwrap_or(message.len());
    }
    &message[at..message.len().min(at + o.payload)]
}
pub fn frame_masked(out: &mut Vec<u8>, opcode: u8, p: &[u8]) {
    out.push(0x80 | opcode);
    if p.len() < 126 {
        out.push(0x80 | p.len() as u8);
    } else if p.len() < 65536 {
        out.push(0x80 | 126);
        out.extend_from_slice(&(p.len() as u16).to_be_bytes());
    } else {
        out.push(0x80 | 127);
        out.extend_from_slice(&(p.len() as u64).to_be_bytes());
    }
    out.extend_from_slice(&KEY);
    let at = out.len();
    out.extend_from_slice(p);
    for (i, b) in out[at..].iter_mut().enumerate() {
        *b ^= KEY[i & 3];
    }
}
pub fn request(o: &Opts, lobby: usize, user: usize) -> Vec<u8> {
    let path = o.path.replace("{lobby}", &format!("L{lobby}")).replace("{user}", &format!("u{user}"));
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", o.addr).into_bytes()
}
/// A nonblocking socket with a connect() in progress.
pub fn connect(o: &Opts, i: usize) -> Result<i32, i32> {
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(*libc::__errno_location());
        }
        let one: i32 = 1;
        let p = &one as *const i32 as *const libc::c_void;
        libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, p, 4);
        if o.addr.ip().is_loopback() && o.src_ips > 0 {
            libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, p, 4);
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, p, 4);
            let sa = sockaddr(Ipv4Addr::new(127, 0, 0, 2 + (i % o.src_ips) as u8), 0);
            libc::bind(fd, &sa as *const _ as *const libc::sockaddr, 16);
        }
        let sa = sockaddr(*o.addr.ip(), o.addr.port());
        if libc::connect(fd, &sa as *const _ as *const libc::sockaddr, 16) < 0 {
            let e = *libc::__errno_location();
            if e != libc::EINPROGRESS {
                libc::close(fd);
                return Err(e);
            }
        }
        Ok(fd)
    }
}
fn sockaddr(ip: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    let mut s: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    s.sin_family = libc::AF_INET as u16;
    s.sin_port = port.to_be();
    s.sin_addr.s_addr = u32::from_ne_bytes(ip.octets());
    s
}
/// Closes with a reset, which leaves no TIME_WAIT for the next run.
pub fn close_rst(fd: i32) {
    unsafe {
        let l = libc::linger { l_onoff: 1, l_linger: 0 };
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            &l as *const _ as *const libc::c_void,
            std::mem::size_of::<libc::linger>() as u32,
        );
        libc::close(fd);
    }
}
/// Length of the response head, if it is complete.
pub fn head_end(b: &[u8]) -> Option<usize> {
    b.windows(4).position(|w| w == b"\r\n\r\n").map(|p| p + 4)
}
pub fn is_101(b: &[u8]) -> bool {
    b.len() > 12 && &b[..5] == b"HTTP/" && &b[9..12] == b"101"
}

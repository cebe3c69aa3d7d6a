//! SIGTERM, SIGINT and SIGHUP as bytes on pipes that the loop polls.

use std::io::{self, Read};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// The receiving ends of the signal pipes.
#[derive(Debug)]
pub(super) struct Signals {
    stop: UnixStream,
    reload: UnixStream,
}

impl Signals {
    /// Installs the handlers. SIGTERM and SIGINT arrive under the token `stop`, SIGHUP under `reload`.
    pub(super) fn listen(registry: &Registry, stop: Token, reload: Token) -> io::Result<Signals> {
        Ok(Signals {
            stop: pipe_of(&[SIGTERM, SIGINT], registry, stop)?,
            reload: pipe_of(&[SIGHUP], registry, reload)?,
        })
    }

    /// Returns the number of SIGTERM and SIGINT since the last call.
    pub(super) fn take_stops(&mut self) -> usize {
        drain(&mut self.stop)
    }

    /// Returns whether SIGHUP has arrived since the last call.
    pub(super) fn take_reload(&mut self) -> bool {
        drain(&mut self.reload) > 0
    }
}

fn pipe_of(signals: &[i32], registry: &Registry, token: Token) -> io::Result<UnixStream> {
    let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    sender.set_nonblocking(true)?;
    for &signal in signals {
        pipe::register(signal, sender.try_clone()?)?;
    }
    let mut receiver = UnixStream::from_std(receiver);
    registry.register(&mut receiver, token, Interest::READABLE)?;
    Ok(receiver)
}

fn drain(pipe: &mut UnixStream) -> usize {
    let mut total = 0;
    let mut bytes = [0; 16];
    while let Ok(n @ 1..) = pipe.read(&mut bytes) {
        total += n;
    }
    total
}

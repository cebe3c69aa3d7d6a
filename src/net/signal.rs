//! SIGTERM and SIGINT as bytes on a pipe that the loop polls.

use std::io::{self, Read};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

#[derive(Debug)]
pub(super) struct Signals {
    receiver: UnixStream,
}

impl Signals {
    pub(super) fn listen(registry: &Registry, token: Token) -> io::Result<Signals> {
        let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        pipe::register(SIGTERM, sender.try_clone()?)?;
        pipe::register(SIGINT, sender)?;
        let mut receiver = UnixStream::from_std(receiver);
        registry.register(&mut receiver, token, Interest::READABLE)?;
        Ok(Signals { receiver })
    }

    /// How many signals have arrived since the last call.
    pub(super) fn take(&mut self) -> usize {
        let mut total = 0;
        let mut bytes = [0; 16];
        while let Ok(n @ 1..) = self.receiver.read(&mut bytes) {
            total += n;
        }
        total
    }
}

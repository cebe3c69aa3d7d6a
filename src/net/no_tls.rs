//! Stands in for `tls` in a build without the feature `tls`: no stream speaks TLS, and nothing is done.

use std::io::{self, IoSlice};
use std::net::IpAddr;

use super::error::Error;
use super::plain_stream::{PlainStream, Received};
use crate::admin::Exposition;
use crate::base::time::Time;
use crate::config::Config;

/// There is none.
pub(super) struct Tls;

impl Tls {
    pub(super) fn open(_: &Config) -> Result<Tls, Error> {
        Ok(Tls)
    }

    pub(super) fn reload(&mut self, _: &Config) -> Result<(), Error> {
        Ok(())
    }

    pub(super) fn admits(&mut self, _: Time, _: Option<IpAddr>) -> bool {
        true
    }

    pub(super) fn admits_operator(&mut self, _: Time, _: Option<IpAddr>) -> bool {
        true
    }

    pub(super) fn write_metrics(&self, _: &mut Exposition) {}
}

pub(super) fn check_files(_: &Config) -> Result<Option<String>, Error> {
    Ok(None)
}

/// A stream with TLS. None can exist, so it adds nothing to the size of a stream.
pub(super) enum TlsStream {}

impl TlsStream {
    pub(super) fn new(_: PlainStream) -> TlsStream {
        unreachable!("the check of the configuration refuses addresses with tls:")
    }

    pub(super) fn socket(&self) -> &PlainStream {
        match *self {}
    }

    pub(super) fn socket_mut(&mut self) -> &mut PlainStream {
        match *self {}
    }

    pub(super) fn start(&mut self, _: &mut Tls) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub(super) fn receive(&mut self, _: &mut Tls, _: &mut [u8]) -> io::Result<Received> {
        match *self {}
    }

    pub(super) fn write(&mut self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn handle_writable(&mut self) {
        match *self {}
    }

    pub(super) fn shut_down_output(&mut self) {
        match *self {}
    }

    pub(super) fn close(self, _: &mut Tls) {
        match self {}
    }
}

//! A link and its connection to the model of Redis. Bytes are on the way in both directions.

use super::redis_model::RedisModel;
use crate::base::time::Time;
use crate::cluster::link::{Connection, Link, LinkConfig};

/// What the network between a node and Redis does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Works,
    /// No connection is established.
    Refuses,
    /// Nothing arrives, and nobody is told.
    Silent,
}

pub(super) struct RedisLink {
    pub(super) link: Link,
    client: Option<usize>,
    /// Bytes that have not arrived yet.
    to_redis: Vec<u8>,
    to_link: Vec<u8>,
}

/// What the network still carries of a connection that its node has given up.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) client: usize,
    pub(super) to_redis: Vec<u8>,
}

impl RedisLink {
    pub(super) fn new(config: LinkConfig) -> RedisLink {
        RedisLink { link: Link::new(config), client: None, to_redis: Vec::new(), to_link: Vec::new() }
    }

    /// Ends the connection, as far as the node is concerned. Redis has still to be told.
    pub(super) fn disconnect(&mut self, now: Time) -> Option<Rest> {
        let client = self.client.take();
        if client.is_some() {
            self.link.disconnected(now, None);
        }
        self.to_link.clear();
        let to_redis = std::mem::take(&mut self.to_redis);
        client.map(|client| Rest { client, to_redis })
    }

    /// Ends the connection. What is on the way is lost.
    pub(super) fn cut(&mut self, now: Time, redis: &mut RedisModel) {
        if let Some(rest) = self.disconnect(now) {
            redis.disconnect(rest.client);
        }
    }

    /// Lets Redis carry out what it is sent, at most `chunk` bytes.
    pub(super) fn serve(&mut self, redis: &mut RedisModel, chunk: usize) {
        if let Some(client) = self.client {
            let part: Vec<u8> = self.to_redis.drain(..self.to_redis.len().min(chunk)).collect();
            redis.receive(client, &part);
        }
    }

    /// Lets the node connect, write, read and act on its timers. At most `chunk` bytes move in each direction. Returns what the
    /// network carries of a connection that the node gives up.
    pub(super) fn turn(&mut self, now: Time, redis: &mut RedisModel, network: Network, chunk: usize) -> Option<Rest> {
        let mut rest = None;
        match self.link.connection() {
            Connection::Open(at) if at <= now => {
                self.link.connecting(now);
                match network {
                    Network::Works => {
                        self.client = Some(redis.connect());
                        self.link.connected(now);
                    }
                    Network::Refuses => self.link.disconnected(now, Some("connection refused")),
                    Network::Silent => {}
                }
            }
            Connection::Close if self.client.is_some() => rest = self.disconnect(now),
            Connection::Close => self.link.disconnected(now, None),
            _ => {}
        }
        if let Some(client) = self.client {
            let len = self.link.output().len().min(chunk);
            self.to_redis.extend_from_slice(&self.link.output()[..len]);
            self.link.written(now, len);
            if network != Network::Silent {
                self.to_link.extend(redis.take_output(client));
                let part: Vec<u8> = self.to_link.drain(..self.to_link.len().min(chunk)).collect();
                self.link.received(now, &part);
                if !redis.is_connected(client) && self.to_link.is_empty() {
                    self.cut(now, redis);
                }
            }
        }
        if self.link.poll_timeout() <= now {
            self.link.expire(now);
        }
        rest
    }
}

//! Event streams and the POSTs that belong to them. Plain data: it does not know seats.

use std::collections::BTreeMap;

use crate::base::id::{ConnId, ConnKey};
use crate::base::session::SessionHash;
use crate::http::Cors;

/// A POST whose body is being received.
#[derive(Debug)]
pub(crate) struct Post {
    /// Connection of the event stream whose messages it brings.
    pub(crate) stream: ConnId,
    pub(crate) cors: Option<Cors>,
    pub(crate) keep_alive: bool,
    /// Whether a message came when the stream had ended.
    pub(crate) has_lost: bool,
}

/// The event streams of sessions, and the POSTs of these sessions.
#[derive(Debug, Default)]
pub(crate) struct Posts {
    /// By the connection of an event stream: its session, and the POST that is being received.
    streams: BTreeMap<ConnKey, (SessionHash, Option<ConnId>)>,
    /// By the connection of a POST.
    posts: BTreeMap<ConnKey, Post>,
}

/// Another POST of the session is being received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy;

impl Posts {
    pub(crate) fn open_stream(&mut self, stream: ConnKey, session: SessionHash) {
        self.streams.insert(stream, (session, None));
    }

    /// Returns whether the connection is an event stream of the session.
    pub(crate) fn is_stream_of(&self, stream: ConnKey, session: SessionHash) -> bool {
        self.streams.get(&stream).is_some_and(|&(name, _)| name == session)
    }

    /// Begins a POST on the connection `conn`.
    ///
    /// # Errors
    ///
    /// [`Busy`]: then nothing has changed.
    pub(crate) fn begin(&mut self, conn: ConnId, post: Post) -> Result<(), Busy> {
        let (_, current) = self.streams.get_mut(&post.stream.key()).expect("the stream of a session");
        if current.is_some() {
            return Err(Busy);
        }
        *current = Some(conn);
        self.posts.insert(conn.key(), post);
        Ok(())
    }

    pub(crate) fn get_mut(&mut self, conn: ConnKey) -> Option<&mut Post> {
        self.posts.get_mut(&conn)
    }

    /// Ends the POST on a connection, if there is one.
    pub(crate) fn end(&mut self, conn: ConnId) -> Option<Post> {
        let post = self.posts.remove(&conn.key())?;
        if let Some((_, current)) = self.streams.get_mut(&post.stream.key())
            && *current == Some(conn)
        {
            *current = None;
        }
        Some(post)
    }

    /// Removes an event stream, or does nothing.
    pub(crate) fn close_stream(&mut self, stream: ConnKey) {
        self.streams.remove(&stream);
    }

    /// Asserts that both sides agree.
    pub(crate) fn check(&self, is_stream: impl Fn(ConnKey) -> bool, is_post: impl Fn(ConnKey) -> bool) {
        for (&stream, &(_, post)) in &self.streams {
            assert!(is_stream(stream), "only open streams have a session");
            let post = post.and_then(|post| self.posts.get(&post.key()));
            assert!(post.is_none_or(|post| post.stream.key() == stream), "a stream has its own POST");
        }
        assert!(self.posts.keys().all(|&conn| is_post(conn)), "a POST ends with its body");
    }
}

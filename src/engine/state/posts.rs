//! Event streams and the POSTs that belong to them. Plain data: it does not know seats.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::arena::Key;
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
}

/// The event stream of a session.
#[derive(Debug)]
struct Stream {
    session: SessionHash,
    /// Connection of the POST that is being received.
    post: Option<ConnId>,
    /// Connection of the POST about which the application is asked.
    asked: Option<ConnKey>,
    /// Whether a POST for it was refused: it may help somebody to guess tokens.
    is_suspect: bool,
}

/// The event streams of sessions, and the POSTs of these sessions.
#[derive(Debug, Default)]
pub(crate) struct Posts {
    /// By the connection of the stream.
    streams: BTreeMap<ConnKey, Stream>,
    /// The same, by session. Several users may have chosen one name.
    by_session: BTreeSet<(SessionHash, ConnKey)>,
    /// By the connection of a POST.
    posts: BTreeMap<ConnKey, Post>,
    /// POSTs about which the application is asked: the stream that each one occupies, by the connection of the POST.
    asked: BTreeMap<ConnKey, ConnKey>,
}

/// Another POST of the session is being received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy;

impl Posts {
    pub(crate) fn open_stream(&mut self, stream: ConnKey, session: SessionHash) {
        self.streams.insert(stream, Stream { session, post: None, asked: None, is_suspect: false });
        self.by_session.insert((session, stream));
    }

    /// The event streams of a session. Some of them may be closing.
    pub(crate) fn streams_of(&self, session: SessionHash) -> impl Iterator<Item = ConnKey> {
        let from = (session, ConnKey::new(0));
        self.by_session.range(from..).take_while(move |(name, _)| *name == session).map(|&(_, stream)| stream)
    }

    /// Whether the stream has a POST that is asked about or received.
    pub(crate) fn is_busy(&self, stream: ConnKey) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.post.is_some() || stream.asked.is_some())
    }

    /// The application is asked about the POST on the connection `conn`, which occupies the stream meanwhile. Which user has sent
    /// it is not known yet, so it may be for another stream of the session.
    pub(crate) fn ask(&mut self, conn: ConnKey, stream: ConnKey) {
        // The application may have closed it.
        let Some(asked) = self.streams.get_mut(&stream).map(|stream| &mut stream.asked) else { return };
        if asked.is_none() {
            *asked = Some(conn);
            self.asked.insert(conn, stream);
        }
    }

    /// The application is not asked any longer about the POST on the connection. Returns the session, if it was.
    pub(crate) fn end_question(&mut self, conn: ConnKey) -> Option<SessionHash> {
        let stream = self.asked.remove(&conn)?;
        let stream = self.streams.get_mut(&stream).expect("it is open while it is occupied");
        stream.asked = None;
        Some(stream.session)
    }

    /// Whether a POST for the stream was refused.
    pub(crate) fn is_suspect(&self, stream: ConnKey) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.is_suspect)
    }

    /// Records that a POST for a stream of this session was refused, or given up by its sender.
    pub(crate) fn note_refused(&mut self, session: SessionHash) {
        let streams: Vec<ConnKey> = self.streams_of(session).collect();
        for stream in streams {
            self.streams.get_mut(&stream).expect("both maps have it").is_suspect = true;
        }
    }

    /// Begins a POST on the connection `conn`.
    ///
    /// # Errors
    ///
    /// [`Busy`]: then nothing has changed.
    pub(crate) fn begin(&mut self, conn: ConnId, post: Post) -> Result<(), Busy> {
        let stream = self.streams.get_mut(&post.stream.key()).expect("the stream of a session");
        if stream.post.is_some() {
            return Err(Busy);
        }
        stream.post = Some(conn);
        self.posts.insert(conn.key(), post);
        Ok(())
    }

    pub(crate) fn get(&self, conn: ConnKey) -> Option<&Post> {
        self.posts.get(&conn)
    }

    /// Ends the POST on a connection, if there is one.
    pub(crate) fn end(&mut self, conn: ConnId) -> Option<Post> {
        let post = self.posts.remove(&conn.key())?;
        if let Some(stream) = self.streams.get_mut(&post.stream.key()).filter(|stream| stream.post == Some(conn)) {
            stream.post = None;
        }
        Some(post)
    }

    /// Removes an event stream, or does nothing.
    pub(crate) fn close_stream(&mut self, stream: ConnKey) {
        if let Some(Stream { session, asked, .. }) = self.streams.remove(&stream) {
            self.by_session.remove(&(session, stream));
            if let Some(conn) = asked {
                self.asked.remove(&conn);
            }
        }
    }

    /// Asserts that both sides agree.
    pub(crate) fn check(
        &self,
        is_stream: impl Fn(ConnKey) -> bool,
        is_asked: impl Fn(ConnKey) -> bool,
        is_post: impl Fn(ConnKey) -> bool,
    ) {
        assert_eq!(self.by_session.len(), self.streams.len(), "both maps have the same streams");
        let occupied = self.streams.iter().filter_map(|(&stream, state)| Some((state.asked?, stream)));
        assert_eq!(occupied.collect::<BTreeMap<_, _>>(), self.asked, "both maps have the same questions");
        assert!(self.asked.keys().all(|&conn| is_asked(conn)), "a question ends with its answer or its connection");
        for (&stream, &Stream { session, post, .. }) in &self.streams {
            assert!(is_stream(stream) && self.by_session.contains(&(session, stream)), "only streams have a session");
            let post = post.and_then(|post| self.posts.get(&post.key()));
            assert!(post.is_none_or(|post| post.stream.key() == stream), "a stream has its own POST");
        }
        assert!(self.posts.keys().all(|&conn| is_post(conn)), "a POST ends with its body");
    }
}

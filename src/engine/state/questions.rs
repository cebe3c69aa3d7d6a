//! Questions of the application that the driver passes on: see [`Context::ask_hook`](crate::Context::ask_hook).

use std::fmt;
use std::net::IpAddr;

use crate::base::id::ConnId;

/// A question about a connection, whose authorization is pending until the driver answers it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) conn: ConnId,
    /// The client's address.
    pub(crate) address: IpAddr,
    pub(crate) of: QuestionKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QuestionKind {
    /// Whether the client may connect.
    Connect(Box<ConnectQuestion>),
    /// The key of a token.
    Key(TokenText),
}

/// A token, which is never displayed.
#[derive(PartialEq, Eq)]
pub(crate) struct TokenText(pub(crate) Box<str>);

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(…)")
    }
}

/// Facts about a client for the backend.
#[derive(PartialEq, Eq)]
pub(crate) struct ConnectQuestion {
    pub(crate) path: String,
    /// The lobby that the default path names.
    pub(crate) lobby: Option<String>,
    pub(crate) token: Option<String>,
    /// The query parameter `user`.
    pub(crate) user: Option<String>,
    pub(crate) origin: Option<String>,
    /// Headers of the request that `hook_headers` names.
    pub(crate) headers: Vec<(String, String)>,
}

/// Without anything that the client wrote.
impl fmt::Debug for ConnectQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectQuestion").finish_non_exhaustive()
    }
}

/// Questions since the driver last took them. `None` unless a consumer is registered.
#[derive(Debug, Default)]
pub(crate) struct AskedQuestions {
    connect: Option<Vec<Question>>,
    keys: Option<Vec<Question>>,
    /// The application has refused the contents of a reload.
    is_reload_refused: bool,
}

impl AskedQuestions {
    /// Lets the driver answer questions whether clients may connect, or questions about keys.
    pub(crate) fn start(&mut self, answers_connect: bool, answers_keys: bool) {
        self.connect = answers_connect.then(Vec::new);
        self.keys = answers_keys.then(Vec::new);
    }

    /// Adds a question. Returns false if nobody answers it.
    pub(crate) fn push(&mut self, question: Question) -> bool {
        let queue = match question.of {
            QuestionKind::Connect(_) => &mut self.connect,
            QuestionKind::Key(_) => &mut self.keys,
        };
        queue.as_mut().map(|queue| queue.push(question)).is_some()
    }

    pub(crate) fn refuse_reload(&mut self) {
        self.is_reload_refused = true;
    }

    /// Returns whether the application has refused the contents of a reload since the last call.
    pub(crate) fn take_reload_refusal(&mut self) -> bool {
        std::mem::take(&mut self.is_reload_refused)
    }

    pub(crate) fn take(&mut self) -> impl Iterator<Item = Question> + use<> {
        let taken = [self.connect.as_mut(), self.keys.as_mut()];
        let [connect, keys] = taken.map(|queue| queue.map(std::mem::take).unwrap_or_default());
        connect.into_iter().chain(keys)
    }
}

//! Authentication for the built-in applications: open, by a list of tokens, or by JSON Web Tokens.

use std::collections::HashMap;

#[cfg(feature = "jwt")]
use super::jwt::Jwt;
use crate::admission::{Rate, is_lobby_code, is_user_id};
use crate::{Authorization, CloseReason, ConnId, Context, Identity, Request};

/// Authentication method of the built-in applications.
///
/// ```
/// use lobbyd::apps::{Auth, Relay, Tokens};
///
/// let tokens = Tokens::parse("4f1c ann tier=pro").unwrap();
/// let relay = Relay::new(Auth::Tokens(tokens));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Auth {
    /// The token is the user id. For development, and behind a proxy that has authenticated the user.
    #[default]
    Open,
    /// Only the tokens of a list are accepted.
    Tokens(Tokens),
    /// Tokens that are signed by a login service are accepted.
    #[cfg(feature = "jwt")]
    Jwt(Jwt),
    /// The backend at [`hook`](crate::Config::hook) is asked about each client.
    Hook,
}

impl Auth {
    pub(super) fn authorize(&self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        match self {
            Auth::Open => Authorization::token_is_user(request),
            Auth::Tokens(tokens) => match request.token().and_then(|token| tokens.identities.get(token)) {
                Some(identity) => Authorization::Allow(identity.clone()),
                None => Authorization::Refuse(CloseReason::Unauthorized),
            },
            #[cfg(feature = "jwt")]
            Auth::Jwt(jwt) => jwt.authorize(cx, request),
            Auth::Hook => cx.ask_hook(request),
        }
    }

    /// Decides about a client whose token had an unknown key.
    #[cfg_attr(not(feature = "jwt"), expect(unused_variables, reason = "only a JWT has a key"))]
    pub(super) fn authorize_again(&self, cx: &Context<'_>, conn: ConnId, token: &str) -> Authorization {
        match self {
            #[cfg(feature = "jwt")]
            Auth::Jwt(jwt) => jwt.authorize_again(cx, conn, token),
            _ => Authorization::Refuse(CloseReason::Unauthorized),
        }
    }

    /// Replaces the list of tokens, or the keys of JWTs, unless the new contents are empty or invalid. Does nothing with
    /// [`Auth::Open`] and [`Auth::Hook`]. The new contents apply to new connections only.
    pub(super) fn reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        match self {
            Auth::Open | Auth::Hook => {}
            Auth::Tokens(tokens) => tokens.reload(cx, contents),
            #[cfg(feature = "jwt")]
            Auth::Jwt(jwt) => jwt.reload(cx, contents),
        }
    }
}

/// A list of tokens and the identities of their users.
///
/// The text form has one line for each token: the token, the user id, and optionally `tier=free|pro|enterprise`,
/// `lobby=CODE` and `expires=MILLISECONDS` since the Unix epoch, separated by white space. `#` begins a comment at the
/// start of a line and after white space; elsewhere it is part of a word.
///
/// ```
/// use lobbyd::apps::Tokens;
///
/// let tokens = Tokens::parse("# the players\n4f1c ann tier=pro\n99d0 bob lobby=chess expires=1900000000000\n").unwrap();
/// assert_eq!(tokens.len(), 2);
/// assert_eq!(Tokens::parse("4f1c").unwrap_err(), ["line 1: a token is followed by its user"]);
/// ```
#[derive(Clone, Default)]
pub struct Tokens {
    identities: HashMap<String, Identity>,
}

/// Shows the number of tokens, never a token.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.len())
    }
}

impl Tokens {
    /// Most bytes of a token file that the program accepts.
    pub const MAX_FILE: usize = 16 << 20;

    /// Parses the contents of a token file.
    ///
    /// # Errors
    ///
    /// One problem when the contents are not UTF-8; else as [`parse`](Self::parse).
    pub fn read(contents: &[u8]) -> Result<Tokens, Vec<String>> {
        str::from_utf8(contents).map_err(|_| vec!["it is not UTF-8".to_owned()]).and_then(Tokens::parse)
    }

    /// Parses a list.
    ///
    /// # Errors
    ///
    /// All problems, with their line numbers. They never contain a token.
    pub fn parse(text: &str) -> Result<Tokens, Vec<String>> {
        if text.starts_with('\u{feff}') {
            // It would become a part of the first token.
            return Err(vec!["it begins with a byte order mark; save it without one".to_owned()]);
        }
        let mut tokens = Tokens::default();
        let mut problems = Vec::new();
        for (number, line) in text.lines().enumerate() {
            // Checked in comments too: a lone CR may be meant as a line end.
            if line.chars().any(|c| c.is_control() && c != '\t') {
                problems.push(format!("line {}: it holds a control character", number + 1));
                continue;
            }
            let line = without_comment(line).trim();
            if line.is_empty() {
                continue;
            }
            match entry(line) {
                Ok((token, identity)) => {
                    if tokens.identities.insert(token, identity).is_some() {
                        problems.push(format!("line {}: the token occurs twice", number + 1));
                    }
                }
                Err(problem) => problems.push(format!("line {}: {problem}", number + 1)),
            }
        }
        if problems.is_empty() { Ok(tokens) } else { Err(problems) }
    }

    fn reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        let problems = match Tokens::read(contents) {
            // A file that is being rewritten is empty for a moment.
            Ok(new) if new.is_empty() => vec!["the list is empty".to_owned()],
            Ok(new) => {
                log::info!("{} tokens read", new.len());
                *self = new;
                return;
            }
            Err(problems) => problems,
        };
        log::warn!("the old tokens stay in force: {}", problems.join("; "));
        cx.refuse_reload();
    }

    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// Returns whether the list is empty, so that every connection is refused.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }
}

fn without_comment(line: &str) -> &str {
    let mut follows_space = true;
    let comment = line.find(|c: char| {
        let begins = c == '#' && follows_space;
        follows_space = c.is_whitespace();
        begins
    });
    &line[..comment.unwrap_or(line.len())]
}

/// Parses a line. Problems repeat no word of it: if the columns are swapped, any word may be the token.
fn entry(line: &str) -> Result<(String, Identity), String> {
    let mut words = line.split_whitespace();
    let (Some(token), Some(user)) = (words.next(), words.next()) else {
        return Err("a token is followed by its user".into());
    };
    if !is_user_id(user) {
        return Err("the second word is no user id: 1 to 128 bytes without control characters".into());
    }
    let mut identity = Identity::new(user);
    let mut known: Vec<&str> = Vec::new();
    for (at, word) in words.enumerate() {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        if matches!(name, "tier" | "lobby" | "expires") && known.contains(&name) {
            return Err(format!("word {} repeats {name}=", at + 3));
        }
        known.push(name);
        identity = match word.split_once('=') {
            Some(("tier", name)) if Rate::of_tier(name).is_some() => Identity { tier: Rate::of_tier(name), ..identity },
            Some(("lobby", code)) if is_lobby_code(code) => identity.only_in(code),
            Some(("expires", millis)) => match millis.parse() {
                Ok(millis) => identity.expires_at_unix_millis(millis),
                Err(_) => return Err("expires= is not followed by a number of milliseconds".into()),
            },
            _ => {
                return Err(format!(
                    "word {} is none of tier=free|pro|enterprise, lobby=CODE, expires=MILLISECONDS",
                    at + 3
                ));
            }
        };
    }
    Ok((token.to_owned(), identity))
}

//! Who the stock applications let in.

use std::collections::HashMap;

use crate::{Authorization, CloseReason, Identity, Rate, Request};

/// How the stock applications know a user.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// The token is the user's name: for trying out, and behind something that has checked it.
    #[default]
    Open,
    /// Only the tokens of a list are good.
    Tokens(Tokens),
}

impl Auth {
    pub(super) fn authorize(&self, request: &Request<'_>) -> Authorization {
        match self {
            Auth::Open => Authorization::token_is_user(request),
            Auth::Tokens(tokens) => match request.token().and_then(|token| tokens.identities.get(token)) {
                Some(identity) => Authorization::Allow(identity.clone()),
                None => Authorization::Refuse(CloseReason::Unauthorized),
            },
        }
    }

    /// Takes a new list in place of the old, unless it is wrong or no list is used. Those who are in stay in.
    pub(super) fn reload(&mut self, contents: &[u8]) {
        if let Auth::Tokens(tokens) = self {
            match Tokens::read(contents) {
                // A file that is being written anew is empty for a moment.
                Ok(new) if new.is_empty() => log::warn!("the old tokens stay in force: the list is empty"),
                Ok(new) => {
                    log::info!("{} tokens read", new.len());
                    *tokens = new;
                }
                Err(problems) => log::warn!("the old tokens stay in force: {}", problems.join("; ")),
            }
        }
    }
}

/// Tokens and who they stand for.
///
/// As text one line each: the token, the user, and perhaps `tier=free|pro|enterprise`, `lobby=CODE` and
/// `expires=MILLISECONDS` since the Unix epoch, separated by white space. `#` begins a comment at the start of a line and
/// after white space; elsewhere it is part of its word.
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

/// Says how many there are, and none of them.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.len())
    }
}

impl Tokens {
    /// Bytes of the largest file that the program takes for a list.
    pub const MAX_FILE: usize = 16 << 20;

    /// Reads a list as it stands in a file.
    ///
    /// # Errors
    ///
    /// That it is not UTF-8; else as [`parse`](Self::parse).
    pub fn read(contents: &[u8]) -> Result<Tokens, Vec<String>> {
        str::from_utf8(contents).map_err(|_| vec!["it is not UTF-8".to_owned()]).and_then(Tokens::parse)
    }

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// All that is wrong, by line. Never a token.
    pub fn parse(text: &str) -> Result<Tokens, Vec<String>> {
        if text.starts_with('\u{feff}') {
            // The first token would begin with it.
            return Err(vec!["it begins with a byte order mark; save it without one".to_owned()]);
        }
        let mut tokens = Tokens::default();
        let mut problems = Vec::new();
        for (number, line) in text.lines().enumerate() {
            // In comments, too: a lone CR may be meant as the end of a line.
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

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// Whether there is none, so that nobody can come in.
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

/// Problems repeat no word of the line: where two columns are mistaken for each other, any of them may be the token.
fn entry(line: &str) -> Result<(String, Identity), String> {
    let mut words = line.split_whitespace();
    let (Some(token), Some(user)) = (words.next(), words.next()) else {
        return Err("a token is followed by its user".into());
    };
    if !crate::is_user_id(user) {
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
            Some(("tier", "free")) => identity.tier(Rate::FREE),
            Some(("tier", "pro")) => identity.tier(Rate::PRO),
            Some(("tier", "enterprise")) => identity.tier(Rate::ENTERPRISE),
            Some(("lobby", code)) if crate::is_lobby_code(code) => identity.only_in(code),
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

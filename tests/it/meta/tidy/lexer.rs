//! Splits Rust source into tokens. Comments are left out.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    /// Counted from 1.
    pub(super) line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name.
    Word,
    /// A number, a character, a string or a lifetime.
    Literal,
    /// `::`, `->`, `=>`, or any other single character.
    Symbol,
}

pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (kind, length) = scan(rest, first);
        let (text, after) = rest.split_at(length);
        tokens.extend(kind.map(|kind| Token { kind, text, line }));
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

/// Returns the kind and the length of what `text` begins with. The kind is `None` for white space and comments.
fn scan(text: &str, first: char) -> (Option<Kind>, usize) {
    if first.is_whitespace() {
        (None, first.len_utf8())
    } else if text.starts_with("//") {
        (None, text.find('\n').unwrap_or(text.len()))
    } else if text.starts_with("/*") {
        (None, block_comment(text))
    } else if let Some(length) = literal(text, first) {
        (Some(Kind::Literal), length)
    } else if is_of_word(first) {
        (Some(Kind::Word), word(text))
    } else if ["::", "->", "=>"].iter().any(|symbol| text.starts_with(symbol)) {
        (Some(Kind::Symbol), 2)
    } else {
        (Some(Kind::Symbol), first.len_utf8())
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the length of the word that `text` begins with; 0 if there is none.
fn word(text: &str) -> usize {
    text.find(|c| !is_of_word(c)).unwrap_or(text.len())
}

/// Block comments may contain block comments.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn literal(text: &str, first: char) -> Option<usize> {
    if first.is_ascii_digit() {
        return Some(number(text));
    }
    // The letters that may precede a string.
    let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix).unwrap_or_default();
        rest.starts_with('"') || *prefix == "b" && rest.starts_with('\'') || prefix.ends_with('r') && is_raw(rest)
    });
    let length = prefix.map_or(0, str::len);
    let rest = &text[length..];
    if prefix.is_some_and(|prefix| prefix.ends_with('r')) {
        return Some(length + raw_string(rest));
    }
    match rest.chars().next() {
        Some('"') => Some(length + quoted(rest, '"')),
        Some('\'') => Some(length + character_or_lifetime(rest)),
        _ => None,
    }
}

fn number(text: &str) -> usize {
    let whole = word(text);
    match text[whole..].strip_prefix('.') {
        // `1.5`, but neither `1..5` nor `1.max(5)`.
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => whole + 1 + word(rest),
        _ => whole,
    }
}

/// Whether `text` is the part of a raw string after its letters. `r#type` is a name.
fn is_raw(text: &str) -> bool {
    text.trim_start_matches('#').starts_with('"')
}

fn raw_string(text: &str) -> usize {
    let hashes = text.len() - text.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let start = hashes + 1;
    text[start..].find(&end).map_or(text.len(), |at| start + at + end.len())
}

/// Returns the length of the literal between two `quote`s, with both of them.
fn quoted(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

fn character_or_lifetime(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    let (first, second) = (chars.next(), chars.next());
    if first == Some('\\') || second == Some('\'') { quoted(text, '\'') } else { 1 + word(&text[1..]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let texts: Vec<&str> = tokens(text).iter().map(|token| token.text).collect();
        assert_eq!(texts, expected, "{text}");
    }

    #[test]
    fn comments_are_left_out() {
        check("a // use b;\nc", &["a", "c"]);
        check("/// use b;\n//! use c;\nd", &["d"]);
        check("a /* b /* c */ d */ e", &["a", "e"]);
    }

    #[test]
    fn a_literal_is_one_token() {
        check(r#"f("use a; \" // b", 'c')"#, &["f", "(", r#""use a; \" // b""#, ",", "'c'", ")"]);
        check(
            r##"r#"a "b" c"# r"\" b"d" br"e" c"f""##,
            &[r##"r#"a "b" c"#"##, r#"r"\""#, r#"b"d""#, r#"br"e""#, r#"c"f""#],
        );
        check(r"'\'' '\u{1F600}' b'{' '{' '}'", &[r"'\''", r"'\u{1F600}'", "b'{'", "'{'", "'}'"]);
        check("1_000.5f64 0..4 1.max(2)", &["1_000.5f64", "0", ".", ".", "4", "1", ".", "max", "(", "2", ")"]);
    }

    #[test]
    fn lifetimes_and_raw_names_are_not_mistaken_for_literals() {
        check("fn f<'a>(b: &'a str)", &["fn", "f", "<", "'a", ">", "(", "b", ":", "&", "'a", "str", ")"]);
        check("r#type rest bed", &["r", "#", "type", "rest", "bed"]);
    }

    #[test]
    fn lines_are_counted_in_comments_and_strings_too() {
        let lines: Vec<usize> = tokens("a\n/* \n */ b\n\"\n\" c").iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 4, 5]);
    }

    #[test]
    fn a_path_separator_is_one_symbol() {
        check("a::b: c => d -> e", &["a", "::", "b", ":", "c", "=>", "d", "->", "e"]);
    }
}

//! The configuration file: TOML, read into the texts that flags would have.
//!
//! Every option is a key at the top level. A problem names the line. It never shows a line of the file, which may contain a
//! secret by mistake: of the parser's errors only the message and the position are used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lobbyd::config::Form;
use lobbyd::net::read_file;
use toml::de::{DeTable, DeValue};

use super::suggestion::nearest;
use super::table::{Entry, OFF, entries};

/// Most bytes of the file. The file that `lobbyd config` prints has about 20 KiB.
const MAX_BYTES: usize = 1 << 20;
/// Most syntax errors that are reported. A file in another format has one in every line.
const MAX_SYNTAX_ERRORS: usize = 10;
/// Most characters of an unknown key that are shown.
const MAX_KEY: usize = 64;

/// What a configuration file says.
#[derive(Default)]
pub(crate) struct ConfigFile {
    pub(crate) values: BTreeMap<&'static str, FileValue>,
    pub(crate) problems: Vec<String>,
    /// The file could not be read, or its syntax is invalid. Its other values are unknown then.
    pub(crate) is_unreadable: bool,
}

/// The value of one option.
pub(crate) struct FileValue {
    /// The value as a flag would have it.
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl ConfigFile {
    /// Reads the file. Relative paths in it are relative to its folder.
    pub(crate) fn read(path: &str) -> ConfigFile {
        let unreadable =
            |problem: String| ConfigFile { problems: vec![problem], is_unreadable: true, ..ConfigFile::default() };
        if path.is_empty() {
            return unreadable("config: must not be empty".into());
        }
        let bytes = match read_file(path.as_ref(), MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => return unreadable(format!("config = {path}: {error}")),
        };
        match String::from_utf8(bytes) {
            Ok(text) => ConfigFile::parse(path, &text),
            Err(error) => {
                let line =
                    1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|c| **c == b'\n').count();
                unreadable(format!("{path}:{line}: is not UTF-8"))
            }
        }
    }

    fn parse(path: &str, text: &str) -> ConfigFile {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let shown = errors.iter().take(MAX_SYNTAX_ERRORS).map(|error| {
                let (line, column) = position(text, error.span().map_or(text.len(), |span| span.start));
                format!("{path}:{line}:{column}: {}", error.message())
            });
            let more = errors.len().saturating_sub(MAX_SYNTAX_ERRORS);
            let more = (more > 0).then(|| format!("{path}: {more} more syntax errors"));
            return ConfigFile { problems: shown.chain(more).collect(), is_unreadable: true, ..ConfigFile::default() };
        }
        let known: Vec<Entry> = entries().collect();
        let mut file = ConfigFile::default();
        let mut keys: Vec<_> = table.get_ref().iter().collect();
        // The order of the file; the table is sorted by name.
        keys.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in keys {
            let line = position(text, key.span().start).0;
            let name: &str = key.get_ref();
            let read = match known.iter().find(|entry| entry.name == name) {
                Some(entry) => text_of(entry, value.get_ref(), Path::new(path))
                    .map(|text| file.values.insert(entry.name, FileValue { text, line }))
                    .map_err(|rule| format!("{name}: {rule}")),
                None => Err(unknown(name, value.get_ref())),
            };
            file.problems.extend(read.err().map(|problem| format!("{path}:{line}: {problem}")));
        }
        file
    }
}

/// Returns the line and the column of a byte, both counted from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    // An error may point behind the last character.
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Describes a key that is not an option. Its value is not shown.
fn unknown(name: &str, value: &DeValue<'_>) -> String {
    let shown: String = name.chars().take(MAX_KEY).flat_map(char::escape_debug).collect();
    if matches!(value, DeValue::Table(_)) {
        return format!("the table {shown} is not known; options are keys at the top level of the file");
    }
    let names: Vec<String> = entries().map(|entry| entry.name.to_owned()).collect();
    match nearest(&name.to_lowercase(), &names, 0) {
        Some(nearest) => format!("the key {shown} is not known; do you mean {nearest}?"),
        None => format!("the key {shown} is not known"),
    }
}

/// Returns the value as a flag would have it. Fails with the rule that the type of the value breaks.
fn text_of(entry: &Entry, value: &DeValue<'_>, file: &Path) -> Result<String, String> {
    let is_list = entry.form == Form::List;
    match value {
        DeValue::String(text) if entry.form == Form::Path => Ok(resolve(text, file)),
        DeValue::String(text) if is_list => Ok(resolve_list(text.split(','), file)),
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(is_on) if entry.form == Form::Switch => Ok(if *is_on { "on" } else { "off" }.into()),
        DeValue::Boolean(false) if entry.accepts_off() => Ok(OFF.into()),
        // Not hexadecimal or octal: a flag has neither, and `0o660` would become 432.
        DeValue::Integer(number) if entry.form == Form::Text && number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Array(elements) if is_list => {
            let texts = elements.iter().map(|element| match element.get_ref() {
                DeValue::String(text) if text.contains(',') => {
                    Err("a comma separates two values: write them as two elements of the array".to_owned())
                }
                DeValue::String(text) => Ok(text.as_ref()),
                _ => Err("the elements of the array must be strings".to_owned()),
            });
            Ok(resolve_list(texts.collect::<Result<Vec<&str>, String>>()?.into_iter(), file))
        }
        _ => Err(expected(entry)),
    }
}

/// The types of TOML that an option accepts.
fn expected(entry: &Entry) -> String {
    match entry.form {
        Form::Switch => "must be true or false, or a string with on or off".into(),
        Form::List => "must be a string or an array of strings".into(),
        Form::Text => "must be a string or a whole number in decimal".into(),
        _ => "must be a string".into(),
    }
}

/// A relative path is relative to the folder of the file, so that the file means the same in every working directory.
fn resolve(text: &str, file: &Path) -> String {
    let path = PathBuf::from(text);
    match file.parent() {
        Some(folder) if text != OFF && !text.is_empty() && path.is_relative() => {
            folder.join(path).display().to_string()
        }
        _ => text.to_owned(),
    }
}

/// Joins the values of a list. The paths of socket files in it are relative to the folder of the file, too.
fn resolve_list<'a>(values: impl Iterator<Item = &'a str>, file: &Path) -> String {
    let resolved = values.map(|value| match value.trim().strip_prefix("unix:") {
        Some(path) => format!("unix:{}", resolve(path, file)),
        None => value.to_owned(),
    });
    resolved.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_1_and_columns_count_characters() {
        for (text, at, expected) in
            [("", 0, (1, 1)), ("ab", 1, (1, 2)), ("a\nbc", 3, (2, 2)), ("ü\nüü", 7, (2, 3)), ("a\n", 9, (2, 1))]
        {
            assert_eq!(position(text, at), expected, "{text:?} at {at}");
        }
    }

    /// Whatever the syntax error is, its message does not quote the file.
    #[test]
    fn no_problem_shows_a_value() {
        let secret = "hunter2";
        for line in [
            "K",
            "K K",
            "tokens_file = K",
            "tokens_file = \"K",
            "tokens_file = 'K",
            "tokens_file = \"\"\"K",
            "= K",
            "a = 0xK",
            "a = 1K",
            "a = 2026-K",
            "a = 07:32:K",
            "a = [\"K\", K",
            "a = { b = \"K\", K",
            "a = \"K\" K",
            "a = \"\\K\"",
            "a = \"K\"\na = \"K\"",
            "a = \"K\"\na.b = \"K\"",
            "[a]\nb = \"K\"",
            "[[a]]\nb = \"K\"",
            "a.b = \"K\"",
            "token = \"K\"",
            "tokens_file = [\"K\"]",
            "tokens_file = { a = \"K\" }",
            "listen = 1.5e300",
            "tokens_file = 1979-05-27",
            "allowed_origin = [\"K,\"]",
            "allowed_origin = [[\"K\"]]",
            "log_format = [\"K\"]",
            "[K",
            "\u{0}K",
            "a = true # K\r",
            "# K\u{1}",
            "max_connections = [\"K\"]",
            "[\"K\" = 1",
        ] {
            let file = ConfigFile::parse("lobbyd.toml", &line.replace('K', secret));
            assert!(!file.problems.is_empty(), "{line}");
            assert!(file.problems.iter().all(|problem| problem.starts_with("lobbyd.toml:")), "{:?}", file.problems);
            assert!(!file.problems.concat().contains(secret), "{line}: {:?}", file.problems);
        }
    }

    /// A cut or a changed character gives other values or problems, and each problem has a place in the file.
    #[test]
    fn damaged_files_are_refused_and_never_panic() {
        let sample = "# ü\nlisten = \"[::1]:9001\"\r\nallowed_origin = [\"null\", 'x',]\nmax_pending = 1_000\n\
                      journal = \"\"\"a\"\"\"\ntick_hz = \"\\u00e9\\n\"\n[t.u]\nv = { w = 1979-05-27T07:32:00Z, x = -1.5e3 }\n[[y]]\n";
        let lines = sample.lines().count() + 1;
        let mut damaged: Vec<String> = (0..sample.len()).filter_map(|at| sample.get(..at)).map(str::to_owned).collect();
        for (at, _) in sample.char_indices() {
            for c in "\"'[]{}=,.#\n\r\\\0-_0u\u{feff}\u{10ffff}".chars() {
                let end = at + sample[at..].chars().next().map_or(0, char::len_utf8);
                damaged.push([&sample[..at], c.encode_utf8(&mut [0; 4]), &sample[end..]].concat());
            }
        }
        assert!(damaged.len() > 3000, "{}", damaged.len());
        for text in damaged {
            let file = ConfigFile::parse("f", &text);
            assert!(!file.is_unreadable || !file.problems.is_empty() && file.values.is_empty(), "{text:?}");
            for problem in &file.problems {
                let line = problem.strip_prefix("f:").and_then(|rest| rest.split(':').next()?.parse().ok());
                let is_rest = problem.ends_with("more syntax errors");
                assert!(
                    is_rest || line.is_some_and(|line: usize| (1..=lines + 1).contains(&line)),
                    "{problem} in {text:?}"
                );
            }
        }
    }
}

//! The log of the program, on standard error: as text, or one JSON object per line.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic;

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use simple_logger::SimpleLogger;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::json_line::JsonLine;

/// Target of the program's own log lines.
pub(crate) const TARGET: &str = "lobbyd";

/// Always in UTC (RFC 3339, with milliseconds).
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Log levels: the default, and those of single modules.
pub(crate) struct Levels {
    pub(crate) default: LevelFilter,
    pub(crate) modules: Vec<(String, LevelFilter)>,
}

/// Form of the log lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Writes the records that pass the filter.
///
/// [`SimpleLogger`] is only the filter, because its own output panics when standard error cannot be written. On a full
/// disk or a closed pipe log lines are lost, and the server continues.
struct StderrLog {
    filter: SimpleLogger,
    format: Format,
}

/// Installs the logger. With [`Format::Json`], panics are reported as JSON too.
pub(crate) fn log_to_stderr(levels: &Levels, format: Format) -> Result<(), SetLoggerError> {
    let filter = SimpleLogger::new().with_level(levels.default);
    // The client of the hook logs the bytes that it sends, with tokens, at the level trace.
    let quiet = ["ureq", "ureq_proto", "rustls"]
        .iter()
        .fold(filter, |filter, module| filter.with_module_level(module, levels.default.min(LevelFilter::Warn)));
    let modules = levels.modules.iter();
    let filter = modules.fold(quiet, |filter, (module, level)| filter.with_module_level(module, *level));
    log::set_max_level(filter.max_level());
    if format == Format::Json {
        panic::set_hook(Box::new(|panicked| {
            let backtrace = Backtrace::capture();
            let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| format!("\n{backtrace}"));
            write(&json_error(&format!("{panicked}{}", backtrace.unwrap_or_default())));
        }));
    }
    log::set_boxed_logger(Box::new(StderrLog { filter, format }))
}

impl Log for StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let at = OffsetDateTime::now_utc();
            write(&match self.format {
                Format::Text => text_line(at, record),
                Format::Json => json_line(at, record.level(), record.target(), &record.args().to_string()),
            });
        }
    }

    fn flush(&self) {}
}

/// Writes at once, so that a line is not mixed with the output of other processes.
fn write(line: &str) {
    let _ = io::stderr().write_all(line.as_bytes());
}

fn time(at: OffsetDateTime) -> String {
    at.format(TIME).expect("every time has the parts of the format")
}

fn text_line(at: OffsetDateTime, record: &Record<'_>) -> String {
    format!("{} {:<5} [{}] {}\n", time(at), record.level(), record.target(), record.args())
}

fn json_line(at: OffsetDateTime, level: Level, target: &str, message: &str) -> String {
    JsonLine::new(&time(at), level, target, message).to_string()
}

/// Returns the JSON line of an error that is reported whatever the log levels are: a refused start, or a panic.
pub(crate) fn json_error(message: &str) -> String {
    json_line(OffsetDateTime::now_utc(), Level::Error, TARGET, message)
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use serde_json::Value;
    use time::macros::datetime;

    use super::*;

    #[track_caller]
    fn check(at: OffsetDateTime, level: Level, expected: &str, expected_json: &str) {
        let record = Record::builder().level(level).target("lobbyd::net").args(format_args!("seed=7")).build();
        assert_eq!(text_line(at, &record), expected);
        assert_eq!(json_line(at, level, "lobbyd::net", "seed=7"), expected_json);
    }

    #[test]
    fn a_line_has_the_time_the_level_the_module_and_the_text() {
        let at = datetime!(2026-01-02 03:04:05.006_999 UTC);
        let json = r#"{"ts":"2026-01-02T03:04:05.006Z","level":"info","target":"lobbyd::net","message":"seed=7"}"#;
        check(at, Level::Info, "2026-01-02T03:04:05.006Z INFO  [lobbyd::net] seed=7\n", &format!("{json}\n"));
        let json = json.replace("info", "error");
        check(at, Level::Error, "2026-01-02T03:04:05.006Z ERROR [lobbyd::net] seed=7\n", &format!("{json}\n"));
    }

    /// A process has one logger and one panic hook, so the test starts itself again, with this variable.
    const PANICS: &str = "TEST_PANICS";

    #[test]
    fn a_panic_is_reported_as_one_object_whatever_the_log_level_is() {
        if env::var_os(PANICS).is_some() {
            let levels = Levels { default: LevelFilter::Off, modules: Vec::new() };
            log_to_stderr(&levels, Format::Json).expect("the first logger");
            panic!("two\nlines and a \"quotation\"");
        }
        let name = "program::logger::tests::a_panic_is_reported_as_one_object_whatever_the_log_level_is";
        for (backtrace, has_backtrace) in [("0", false), ("1", true)] {
            let output = Command::new(env::current_exe().expect("the path of the tests"))
                .args(["--exact", name, "--nocapture"])
                .env(PANICS, "1")
                .env("RUST_BACKTRACE", backtrace)
                .output()
                .expect("the tests can be started");
            let stderr = String::from_utf8(output.stderr).expect("UTF-8");
            let line = stderr.lines().find(|line| line.starts_with('{')).expect("a line of JSON");
            let report: Value = serde_json::from_str(line).expect("JSON");
            let message = report["message"].as_str().expect("a string");
            assert!(message.starts_with("panicked at src/program/logger.rs:"), "{message}");
            assert!(message.contains("two\nlines and a \"quotation\""), "{message}");
            assert_eq!(
                message.contains("log_to_stderr") || message.contains("rust_begin_unwind"),
                has_backtrace,
                "{message}"
            );
            assert_eq!((&report["level"], &report["target"]), (&"error".into(), &"lobbyd".into()));
        }
    }
}

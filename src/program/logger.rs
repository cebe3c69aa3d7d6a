//! The log of the program, on standard error.

use std::io::{self, Write};

use log::{Log, Metadata, Record, SetLoggerError};
use simple_logger::SimpleLogger;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::options::Levels;

/// Target of the program's own log lines.
pub(crate) const TARGET: &str = "lobbyd";

/// Always in UTC.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Writes the records that pass the filter.
///
/// [`SimpleLogger`] is only the filter, because its own output panics when standard error cannot be written. On a full
/// disk or a closed pipe log lines are lost, and the server continues.
struct StderrLog {
    filter: SimpleLogger,
}

pub(crate) fn log_to_stderr(levels: &Levels) -> Result<(), SetLoggerError> {
    let filter = SimpleLogger::new().with_level(levels.default);
    let modules = levels.modules.iter();
    let filter = modules.fold(filter, |filter, (module, level)| filter.with_module_level(module, *level));
    log::set_max_level(filter.max_level());
    log::set_boxed_logger(Box::new(StderrLog { filter }))
}

impl Log for StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // Written at once, so that a line is not mixed with the output of other processes.
            let _ = io::stderr().write_all(line(OffsetDateTime::now_utc(), record).as_bytes());
        }
    }

    fn flush(&self) {}
}

fn line(at: OffsetDateTime, record: &Record<'_>) -> String {
    let at = at.format(TIME).expect("every time has the parts of the format");
    format!("{at} {:<5} [{}] {}\n", record.level(), record.target(), record.args())
}

#[cfg(test)]
mod tests {
    use log::Level;
    use time::macros::datetime;

    use super::*;

    #[track_caller]
    fn check(at: OffsetDateTime, level: Level, expected: &str) {
        let record = Record::builder().level(level).target("lobbyd::net").args(format_args!("seed=7")).build();
        assert_eq!(line(at, &record), expected);
    }

    #[test]
    fn a_line_has_the_time_the_level_the_module_and_the_text() {
        let at = datetime!(2026-01-02 03:04:05.006_999 UTC);
        check(at, Level::Info, "2026-01-02T03:04:05.006Z INFO  [lobbyd::net] seed=7\n");
        check(at, Level::Error, "2026-01-02T03:04:05.006Z ERROR [lobbyd::net] seed=7\n");
    }
}

//! The log of the program, on standard error.

use std::panic::{self, AssertUnwindSafe};

use log::{Log, Metadata, Record, SetLoggerError};
use simple_logger::SimpleLogger;

use super::options::Levels;

/// Target of the program's own log lines.
pub(crate) const TARGET: &str = "lobbyd";

pub(crate) fn log_to_stderr(levels: &Levels) -> Result<(), SetLoggerError> {
    let logger = SimpleLogger::new().with_level(levels.default).with_utc_timestamps();
    let modules = levels.modules.iter();
    let logger = modules.fold(logger, |logger, (module, level)| logger.with_module_level(module, *level));
    log::set_max_level(logger.max_level());
    log::set_boxed_logger(Box::new(NonPanickingLog(logger)))
}

/// Wraps the logger, which panics when it cannot write. On a full disk or a closed pipe log lines are lost, and the
/// server continues.
struct NonPanickingLog(SimpleLogger);

impl Log for NonPanickingLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| self.0.log(record)));
    }

    fn flush(&self) {
        self.0.flush();
    }
}

//! The warnings that the code under test logs.

use std::cell::RefCell;
use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    /// Texts of the warnings of this thread; `None` outside of [`warnings_of`].
    static WARNINGS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

struct OfThisThread;

impl Log for OfThisThread {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        WARNINGS.with_borrow_mut(|warnings| warnings.iter_mut().for_each(|all| all.push(record.args().to_string())));
    }

    fn flush(&self) {}
}

/// Returns the result of `run`, and the warnings that it logs in this thread.
pub fn warnings_of<R>(run: impl FnOnce() -> R) -> (R, Vec<String>) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        log::set_logger(&OfThisThread).expect("no test has a logger of its own");
        log::set_max_level(LevelFilter::Warn);
    });
    WARNINGS.set(Some(Vec::new()));
    let result = run();
    (result, WARNINGS.take().expect("it was set"))
}

//! Detects a panic of the engine inside a call of the application.

use std::cell::Cell;

/// Set while a method of [`Context`](crate::Context) runs. If it is still set afterwards, the method has panicked, and
/// the engine's state may be inconsistent, even if the application caught the panic.
#[derive(Debug, Default)]
pub(crate) struct CallGuard(Cell<bool>);

impl CallGuard {
    /// Marks the start of a call of the application into the engine.
    #[inline]
    pub(crate) fn begin(&self) {
        self.assert_consistent();
        self.0.set(true);
    }

    #[inline]
    pub(crate) fn end(&self) {
        self.0.set(false);
    }

    /// Whether the engine has panicked during such a call.
    pub(crate) fn has_panicked(&self) -> bool {
        self.0.get()
    }

    /// Panics if the engine has panicked before.
    #[inline]
    pub(crate) fn assert_consistent(&self) {
        assert!(!self.0.get(), "the engine has panicked before, so its state may be inconsistent");
    }
}

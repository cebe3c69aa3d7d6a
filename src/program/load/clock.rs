//! The clock of the generator: microseconds since its start, the same in all threads.

use std::time::Instant;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the generator measures real servers")]
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(super) fn micros(self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

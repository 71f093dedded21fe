//! How long the suite may run, and how much it saw.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seconds of the bounded suite, on one core.
const BOUNDED_SECONDS: u64 = 240;

/// Crash states that were looked at, in all tests of this process.
pub static STATES: AtomicU64 = AtomicU64::new(0);

/// All tests together, in seconds.
pub fn seconds() -> u64 {
    std::env::var("SERO_CRASH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(BOUNDED_SECONDS)
}

/// How much longer than the bounded suite it may take: 1 in CI.
pub fn scale() -> u64 {
    (seconds() / BOUNDED_SECONDS).max(1)
}

/// A share of the time, in hundredths.
pub fn share(hundredths: u64) -> Deadline {
    Deadline { started: Instant::now(), length: Duration::from_millis(seconds() * 10 * hundredths) }
}

/// When to stop looking for more.
pub struct Deadline {
    started: Instant,
    length: Duration,
}

impl Deadline {
    pub fn is_over(&self) -> bool {
        self.started.elapsed() >= self.length
    }
}

pub fn count_state() {
    STATES.fetch_add(1, Ordering::Relaxed);
}

/// A seed that a failure can be repeated with: `SERO_CRASH_SEED`, or another one each day of the long run.
pub fn first_seed() -> u64 {
    std::env::var("SERO_CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

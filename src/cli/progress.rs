//! How far a long command is: on a terminal one line that is redrawn, with rate and time left; elsewhere a plain line
//! from time to time. Nothing before the first second is over, and nothing at all with `--quiet`.
//!
//! It goes to standard error. It uses no colour, so that `NO_COLOR` has nothing to change.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use super::Context;

/// What is over sooner needs no line.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two plain lines.
const PERIOD: Duration = Duration::from_secs(10);
const REDRAWS_PER_SECOND: u8 = 8;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    /// Files, or whatever the verb is about.
    Items,
}

/// The progress of one command. Can be used by several threads. The line is gone when it is dropped.
pub(super) struct Progress {
    verb: &'static str,
    unit: Unit,
    started: Instant,
    /// Counts in any case; draws only on a terminal.
    bar: ProgressBar,
    shown: Shown,
}

enum Shown {
    Nothing,
    /// The line appears when the first second is over.
    Bar(Mutex<bool>),
    /// When the last plain line was written.
    Lines(Mutex<Instant>),
}

impl Progress {
    /// Begins now. `verb` says what is being done: "checking".
    pub(super) fn start(context: &Context, verb: &'static str, unit: Unit) -> Self {
        let started = Instant::now();
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let shown = if context.verbosity < 0 {
            Shown::Nothing
        } else if io::stderr().is_terminal() && !is_dumb {
            Shown::Bar(Mutex::new(false))
        } else {
            Shown::Lines(Mutex::new(started + PATIENCE))
        };
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { verb, unit, started, bar, shown }
    }

    /// How much there is to do. Unknown until this is called; may be called again.
    pub(super) fn set_total(&self, total: u64) {
        self.bar.set_length(total);
        self.restyle();
    }

    /// So much more is done.
    pub(super) fn advance(&self, done: u64) {
        self.bar.inc(done);
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(drawn) => {
                if self.started.elapsed() >= PATIENCE {
                    let mut drawn = drawn.lock();
                    if !*drawn {
                        *drawn = true;
                        self.restyle();
                        self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND));
                    }
                }
            }
            Shown::Lines(last) => {
                // Whoever is first writes it; the others go on.
                if let Some(mut last) = last.try_lock()
                    && last.elapsed() >= PERIOD
                {
                    *last = Instant::now();
                    self.note(&self.line(self.started.elapsed()));
                }
            }
        }
    }

    /// Runs what writes to the terminal, with the line out of the way.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    fn restyle(&self) {
        let counted = match (self.unit, self.bar.length()) {
            (Unit::Bytes, Some(_)) => "{binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            (Unit::Bytes, None) => "{binary_bytes}, {binary_bytes_per_sec}",
            (Unit::Items, Some(_)) => "{human_pos} of {human_len}, {per_sec}, {eta} left",
            (Unit::Items, None) => "{human_pos}, {per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(&format!("{} {counted}", self.verb)) {
            self.bar.set_style(style);
        }
    }

    /// The same in words, for a file or a pipe.
    fn line(&self, elapsed: Duration) -> String {
        let (done, total) = (self.bar.position(), self.bar.length());
        let amount = |count: u64| match self.unit {
            Unit::Bytes => BinaryBytes(count).to_string(),
            Unit::Items => HumanCount(count).to_string(),
        };
        // Over everything, which swings less than the last moments.
        let per_second = done as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = amount(per_second as u64);
        match total {
            Some(total) if per_second >= 1.0 => {
                let left = Duration::from_secs_f64(total.saturating_sub(done) as f64 / per_second);
                format!("{} {} of {}, {rate}/s, {} left", self.verb, amount(done), amount(total), HumanDuration(left))
            }
            Some(total) => format!("{} {} of {}", self.verb, amount(done), amount(total)),
            None => format!("{} {}, {rate}/s", self.verb, amount(done)),
        }
    }

    fn note(&self, line: &str) {
        let _ = writeln!(io::stderr().lock(), "sero: {line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Context {
        Context { verbosity: -1, is_silent_on_success: false, config: None, output_error: std::sync::Arc::default() }
    }

    #[test]
    fn a_plain_line_has_amounts_rate_and_time_left() {
        let progress = Progress::start(&quiet(), "checking", Unit::Bytes);
        progress.advance(10 << 30);
        let after = Duration::from_secs(10);
        assert_eq!(progress.line(after), "checking 10.00 GiB, 1.00 GiB/s");
        progress.set_total(40 << 30);
        assert_eq!(progress.line(after), "checking 10.00 GiB of 40.00 GiB, 1.00 GiB/s, 30 seconds left");
    }

    #[test]
    fn items_are_counted_without_units() {
        let progress = Progress::start(&quiet(), "copying", Unit::Items);
        progress.set_total(2000);
        assert_eq!(progress.line(Duration::from_secs(1)), "copying 0 of 2,000");
    }
}

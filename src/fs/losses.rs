//! [`Losses`]: writes that the kernel had taken into its cache, and that the vault could not take afterwards.
//!
//! Whoever wrote was told "done" by `write(2)`. The kernel tells `close(2)` or `fsync(2)`, and not everybody asks: so it is
//! logged, counted, and said when the vault is sealed. A loss is over when its range was written after all, cut off, or
//! removed with its file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::FsError;
use super::types::{InodeNo, Lost};

/// Lines of the log are so far apart at least.
const SAID_EVERY: Duration = Duration::from_secs(5);

/// Ranges that are told apart in one file; beyond it they count as one.
const RANGES_KEPT: usize = 256;

/// A range of a file, in bytes: from the first on, up to the second.
type Range = (u64, u64);

#[derive(Default)]
pub(super) struct Losses {
    /// Whether there are any: what is asked at each write.
    any: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    files: HashMap<InodeNo, Vec<Range>>,
    said: Option<Instant>,
    unsaid: u64,
}

impl Losses {
    /// A write out of the kernel's cache failed.
    #[cold]
    pub fn lost(&self, ino: InodeNo, start: u64, end: u64, error: &FsError) {
        let mut known = self.known.lock();
        let ranges = known.files.entry(ino).or_default();
        remove(ranges, start, end);
        ranges.push((start, end));
        if ranges.len() > RANGES_KEPT {
            let hull = ranges.iter().fold((u64::MAX, 0), |hull, range| (hull.0.min(range.0), hull.1.max(range.1)));
            *ranges = vec![hull];
        }
        self.any.store(true, Ordering::Release);
        known.unsaid = known.unsaid.saturating_add(1);
        if known.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            let writes = std::mem::take(&mut known.unsaid);
            known.said = Some(Instant::now());
            let Lost { files, bytes } = known.total();
            log::warn!(
                "{writes} cached write(s) did not reach the vault: {error}; in all, {bytes} bytes of {files} file(s) are \
                 missing; who checks close(2) or fsync(2) is told"
            );
        }
    }

    /// A range was written.
    pub fn written(&self, ino: InodeNo, start: u64, end: u64) {
        self.change(ino, |ranges| remove(ranges, start, end));
    }

    /// A file was cut, or got longer: what is behind its end is not missed.
    pub fn resized(&self, ino: InodeNo, size_bytes: u64) {
        self.change(ino, |ranges| remove(ranges, size_bytes, u64::MAX));
    }

    /// A file is gone, or another one has its number.
    pub fn removed(&self, ino: InodeNo) {
        self.change(ino, Vec::clear);
    }

    /// What is missing now.
    pub fn total(&self) -> Lost {
        self.known.lock().total()
    }

    fn change(&self, ino: InodeNo, change: impl FnOnce(&mut Vec<Range>)) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut known = self.known.lock();
        if let Some(ranges) = known.files.get_mut(&ino) {
            change(ranges);
            if ranges.is_empty() {
                known.files.remove(&ino);
            }
        }
        self.any.store(!known.files.is_empty(), Ordering::Release);
    }
}

impl Known {
    fn total(&self) -> Lost {
        let bytes = self
            .files
            .values()
            .flatten()
            .fold(0_u64, |sum, (start, end)| sum.saturating_add(end.saturating_sub(*start)));
        Lost { files: self.files.len() as u64, bytes }
    }
}

/// Takes a range out of ranges that do not overlap.
fn remove(ranges: &mut Vec<Range>, start: u64, end: u64) {
    let mut left = Vec::with_capacity(ranges.len().saturating_add(1));
    for (from, to) in ranges.drain(..) {
        left.extend([(from, to.min(start)), (from.max(end), to)].into_iter().filter(|(from, to)| from < to));
    }
    *ranges = left;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(losses: &Losses) -> (u64, u64) {
        let Lost { files, bytes } = losses.total();
        (files, bytes)
    }

    #[test]
    fn a_loss_is_over_when_it_was_made_good() {
        let losses = Losses::default();
        let (one, other) = (InodeNo(2), InodeNo(3));
        losses.written(one, 0, 100);
        assert_eq!(total(&losses), (0, 0));
        losses.lost(one, 0, 100, &FsError::TooLarge);
        losses.lost(one, 50, 150, &FsError::TooLarge);
        losses.lost(other, 0, 10, &FsError::TooLarge);
        assert_eq!(total(&losses), (2, 160));
        losses.written(one, 20, 30);
        assert_eq!(total(&losses), (2, 150));
        losses.resized(one, 90);
        assert_eq!(total(&losses), (2, 90));
        losses.removed(other);
        assert_eq!(total(&losses), (1, 80));
        losses.written(one, 0, 90);
        assert_eq!(total(&losses), (0, 0));
    }

    #[test]
    fn very_many_ranges_become_one() {
        let losses = Losses::default();
        for at in 0..=RANGES_KEPT as u64 {
            losses.lost(InodeNo(2), at * 10, at * 10 + 1, &FsError::TooLarge);
        }
        assert_eq!(total(&losses), (1, RANGES_KEPT as u64 * 10 + 1));
    }
}

//! [`Activity`]: what was asked of a mount so far, counted so that counting costs nothing that could be measured.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::fs::FsError;

/// Threads beyond this number share counters.
const SHARDS: usize = 8;

thread_local! {
    /// The counters of this thread.
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

/// Counters of one thread, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    requests: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// What was asked of a mount since it was mounted.
#[derive(Debug, Default)]
pub struct Activity {
    shards: [Shard; SHARDS],
    /// Touched by requests that fail alone.
    errors: Mutex<ErrorCount>,
}

/// The sums at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivityCount {
    /// Requests of the kernel; what it answers from its cache, forgets, and asks about space does not count.
    pub requests: u64,
    /// Of these, reads.
    pub reads: u64,
    /// Of these, writes.
    pub writes: u64,
    /// Plain bytes that reads returned.
    pub bytes_read: u64,
    /// Plain bytes that writes took.
    pub bytes_written: u64,
}

/// Requests that failed where the caller is not the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorCount {
    /// Because bytes of the vault are not what sero wrote.
    pub integrity: u64,
    /// Because the backing failed or is full, or of a bug.
    pub backing: u64,
    /// The last of them, and when. Without plain names, as in the log.
    pub last: Option<(SystemTime, String)>,
}

impl Activity {
    pub(super) fn requested(&self) {
        self.shard().requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, len_bytes: usize) {
        let shard = self.shard();
        shard.reads.fetch_add(1, Ordering::Relaxed);
        shard.bytes_read.fetch_add(len_bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn written(&self, len_bytes: usize) {
        let shard = self.shard();
        shard.writes.fetch_add(1, Ordering::Relaxed);
        shard.bytes_written.fetch_add(len_bytes as u64, Ordering::Relaxed);
    }

    #[cold]
    pub(super) fn failed(&self, operation: &str, error: &FsError) {
        let mut errors = self.errors.lock();
        let count = if error.is_integrity() { &mut errors.integrity } else { &mut errors.backing };
        *count = count.saturating_add(1);
        errors.last = Some((SystemTime::now(), format!("{operation} failed: {error}")));
    }

    #[cold]
    pub(super) fn panicked(&self, operation: &str) {
        let mut errors = self.errors.lock();
        errors.backing = errors.backing.saturating_add(1);
        errors.last = Some((SystemTime::now(), format!("{operation} failed: a bug in sero")));
    }

    /// The sums now. Requests under way may be in some of them and not yet in others.
    pub fn count(&self) -> ActivityCount {
        let sum = |counter: fn(&Shard) -> &AtomicU64| {
            self.shards.iter().fold(0_u64, |sum, shard| sum.wrapping_add(counter(shard).load(Ordering::Relaxed)))
        };
        ActivityCount {
            requests: sum(|shard| &shard.requests),
            reads: sum(|shard| &shard.reads),
            writes: sum(|shard| &shard.writes),
            bytes_read: sum(|shard| &shard.bytes_read),
            bytes_written: sum(|shard| &shard.bytes_written),
        }
    }

    /// What failed so far.
    pub fn errors(&self) -> ErrorCount {
        self.errors.lock().clone()
    }

    fn shard(&self) -> &Shard {
        let index = SHARD.get().unwrap_or_else(|| {
            let index = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
            SHARD.set(Some(index));
            index
        });
        &self.shards[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::VaultError;
    use std::thread;

    #[test]
    fn nothing_is_lost_between_threads() {
        let activity = Activity::default();
        thread::scope(|scope| {
            for _ in 0..SHARDS + 3 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        activity.requested();
                        activity.read(3);
                        activity.written(5);
                    }
                });
            }
        });
        let requests = (SHARDS as u64 + 3) * 1000;
        let expected = ActivityCount {
            requests,
            reads: requests,
            writes: requests,
            bytes_read: 3 * requests,
            bytes_written: 5 * requests,
        };
        assert_eq!(activity.count(), expected);
    }

    #[test]
    fn errors_are_told_apart() {
        let activity = Activity::default();
        activity.failed("read", &FsError::Vault(VaultError::integrity("tree/x", "does not verify")));
        activity.failed("write", &FsError::Vault(VaultError::NoSpace { what: "a test" }));
        let errors = activity.errors();
        assert_eq!((errors.integrity, errors.backing), (1, 1));
        assert!(errors.last.is_some_and(|(_, message)| message == "write failed: no room for a test"));
    }
}

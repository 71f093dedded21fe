//! A simulated disk: it loses power at any point, and forgets what a real one may forget.
//!
//! A [`SimDisk`] holds an in-memory POSIX tree, and beside what a process sees also what is durable.
//! [`SimDisk::storage`] is the [`Storage`](crate::storage::Storage) to run code on; every call of it
//! that changes something or syncs is a numbered *step*. A crash test runs once to count the steps;
//! then for each step, it runs again with [`SimDisk::set_crash_at`], and continues on the disks that
//! [`SimDisk::crash`] (or all of [`SimDisk::crashes`]) and [`SimDisk::kill`] give:
//!
//! ```ignore
//! for step in 1..=steps {
//!     let disk = SimDisk::new(seed);
//!     disk.set_crash_at(step);
//!     assert!(is_crash(&workload(disk.storage()).unwrap_err()));
//!     for after in disk.crashes(CrashPolicy::JOURNALED, 1000, seed) {
//!         check(after.storage()); // and crash again, inside recovery
//!     }
//! }
//! ```
//!
//! All is deterministic: the same calls, seeds and policies give the same disks.
//!
//! # What is durable
//!
//! - **Names, modes, owners, times, attributes** are an ordered log. `sync_file`, `sync_dir`, and
//!   `sync_data` if the file could not be read back otherwise, make the changes durable that concern
//!   the inode: [`CrashPolicy`] says which others are taken along, and which unsynced ones a crash
//!   may keep. A rename concerns its two directories, not what is renamed.
//! - **Content** (`file.rs`): each sector of 512 bytes is durable, or any version since, or garbage
//!   (a policy); the length likewise. A file's data is made durable by its own syncs and `sync_all`
//!   only: also under an ordered log, what is ordered is metadata.
//! - A step during which the power fails is done, not done, or done in part. So the change is made
//!   for the crash states to choose from, but the caller gets [`Crashed`], as from all later calls.
//!
//! Kernel, not media: [`SimDisk::kill`] ends the process only. The page cache survives, and what was
//! not synced before is not synced after.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use disk::Disk;
use fault::WriteVerdict;
use live::{Beside, Live, Shared};
use random::Random;

use super::Timestamp;

mod backing;
mod content;
mod crash;
mod disk;
mod fault;
mod file;
mod live;
mod log;
mod random;
mod raw;
mod tree;

#[cfg(test)]
mod tests;

pub use backing::{SimDir, SimFile, SimPin, SimStorage};
pub use crash::{CrashPolicy, CrashStates, MetadataOrder};
pub use fault::Fault;
pub use raw::RawEntry;

/// The time on a new disk's clock.
const EPOCH: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };

/// The error of every call from the crash on. It carries no errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crashed;

impl fmt::Display for Crashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated machine has crashed")
    }
}

impl std::error::Error for Crashed {}

fn crashed() -> io::Error {
    io::Error::other(Crashed)
}

/// True for the error that a crash gives.
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Crashed>())
}

/// One call that changes something, or syncs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counted from 1.
    pub number: u64,
    /// The method of [`Storage`](crate::storage::Storage).
    pub call: &'static str,
    /// Paths, and a range or length.
    pub subject: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.number, self.call, self.subject)
    }
}

/// A simulated disk, and the machine it is in.
pub struct SimDisk {
    shared: Arc<Shared>,
    choices: Vec<u32>,
}

/// A disk's state, page cache included, to look at or go back to.
#[derive(Clone)]
pub struct Snapshot(Disk);

impl SimDisk {
    /// An empty disk. The seed decides what faults leave undecided.
    pub fn new(seed: u64) -> Self {
        Self::with(Disk::new(EPOCH), seed, Vec::new())
    }

    fn with(disk: Disk, seed: u64, choices: Vec<u32>) -> Self {
        let shared = Shared {
            live: Mutex::new(Live::new(disk, seed)),
            before_sync_all: Beside::default(),
            before_sync_file: Beside::default(),
        };
        Self { shared: Arc::new(shared), choices }
    }

    /// The disk as a backing.
    pub fn storage(&self) -> SimStorage {
        SimStorage { shared: self.shared.clone() }
    }

    /// Has this done at the beginning of the next sync of everything, as others do something beside it.
    pub fn before_sync_all(&self, work: impl FnOnce() + Send + 'static) {
        self.shared.before_sync_all.set(work);
    }

    /// The same, of one file with its attributes.
    pub fn before_sync_file(&self, work: impl FnOnce() + Send + 'static) {
        self.shared.before_sync_file.set(work);
    }

    // --- steps and crashes ---

    /// How many steps there were: calls that change something, and syncs, successful or not.
    pub fn steps(&self) -> u64 {
        self.shared.live.lock().steps
    }

    /// This step, counted from 1, and all calls after it fail.
    pub fn set_crash_at(&self, step: u64) {
        self.shared.live.lock().crash_at = Some(step);
    }

    /// True if the step of the crash was reached.
    pub fn has_crashed(&self) -> bool {
        self.shared.live.lock().has_crashed
    }

    /// One disk that a power cut now may leave. The seed chooses.
    pub fn crash(&self, policy: &CrashPolicy, seed: u64) -> SimDisk {
        self.crash_with(policy, crash::Chooser::random(seed))
    }

    /// The disk of these choices: what [`SimDisk::choices`] said of one that the same policy made.
    pub fn crash_again(&self, policy: &CrashPolicy, choices: &[u32]) -> SimDisk {
        self.crash_with(policy, crash::Chooser::path(choices.to_vec()))
    }

    /// All disks that a power cut now may leave; if they are more than `limit`, that many of them,
    /// among them the one with nothing and the one with all of what was not durable.
    pub fn crashes(&self, policy: CrashPolicy, limit: u64, seed: u64) -> CrashStates {
        CrashStates::new(self.shared.live.lock().disk.clone(), policy, limit, seed)
    }

    fn crash_with(&self, policy: &CrashPolicy, mut chooser: crash::Chooser) -> SimDisk {
        let disk = crash::crash(&self.shared.live.lock().disk, policy, &mut chooser);
        Self::with(disk, 0, chooser.choices())
    }

    /// The disk after the process was killed: the page cache survives, handles and locks do not.
    pub fn kill(&self) -> SimDisk {
        self.snapshot().to_disk()
    }

    /// As [`Self::kill`], but if it was a write in which the crash came, only a part of it was done.
    pub fn kill_inside(&self, seed: u64) -> SimDisk {
        let live = self.shared.live.lock();
        let Some(write) = &live.in_flight else {
            drop(live);
            return self.kill();
        };
        let mut disk = write.before.clone();
        let len = Random::new(seed).below(write.bytes.len() as u64 + 1) as usize;
        // Whether there was space for it does not matter any more.
        let _ = disk.write(write.id, &[IoSlice::new(&write.bytes[..len])], write.offset_bytes, WriteVerdict::All);
        Snapshot(disk).to_disk()
    }

    /// The choices that made this disk, if a crash did.
    pub fn choices(&self) -> &[u32] {
        &self.choices
    }

    /// Makes everything durable that was done so far; no step.
    pub fn settle(&self) {
        self.shared.live.lock().disk.sync_all();
    }

    // --- faults and space ---

    /// Orders an error.
    pub fn inject(&self, fault: Fault) {
        self.shared.live.lock().faults.inject(fault);
    }

    /// Takes back all faults that have not come.
    pub fn clear_faults(&self) {
        self.shared.live.lock().faults.clear();
    }

    /// Limits the space for content, in whole pages of 4 KiB: beyond it, `ENOSPC`. On a full disk, new
    /// names and attributes fail too.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.live.lock().disk.set_capacity(bytes);
    }

    /// Space that files take, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.shared.live.lock().disk.used_bytes()
    }

    // --- time ---

    /// Lets time pass. It does not by itself.
    pub fn advance(&self, by: Duration) {
        let mut live = self.shared.live.lock();
        let clock = &mut live.disk.clock;
        let nanoseconds = clock.nanoseconds + by.subsec_nanos();
        clock.seconds += by.as_secs() as i64 + i64::from(nanoseconds / 1_000_000_000);
        clock.nanoseconds = nanoseconds % 1_000_000_000;
    }

    /// Sets the clock that stamps inodes, and that `now()` shows.
    pub fn set_clock(&self, now: Timestamp) {
        self.shared.live.lock().disk.clock = now;
    }

    // --- looking on ---

    /// Notes every step from now on.
    pub fn record_steps(&self) {
        self.shared.live.lock().trace = Some(Vec::new());
    }

    /// The steps noted.
    pub fn recorded_steps(&self) -> Vec<Step> {
        self.shared.live.lock().trace.clone().unwrap_or_default()
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.shared.live.lock().disk.clone())
    }

    /// Puts an earlier state of this disk back, under the feet of those who use it: steps and faults go
    /// on, and handles of what did not exist then fail with `ESTALE`.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut live = self.shared.live.lock();
        live.disk = snapshot.0.clone();
        live.reclaim_closed();
    }
}

impl Snapshot {
    /// A disk of its own in this state, in no process's hands.
    pub fn to_disk(&self) -> SimDisk {
        let mut disk = self.0.clone();
        disk.reclaim_all();
        SimDisk::with(disk, 0, Vec::new())
    }
}

impl Iterator for CrashStates {
    type Item = SimDisk;

    fn next(&mut self) -> Option<SimDisk> {
        let (disk, choices) = self.next_disk()?;
        Some(SimDisk::with(disk, 0, choices))
    }
}

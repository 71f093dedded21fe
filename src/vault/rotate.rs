//! Rotation: everything in the vault is brought under a new version of the project key, while it is in use or not.
//!
//! [`Vault::begin_rotation`] makes the new version active: from then on everything is sealed under it, and what is there
//! opens under either. [`Vault::rotate`] brings the rest over; it can be stopped, or killed, at any moment, and called
//! again. In its order:
//!
//! 1. What a crash left half-made is settled, and everything is made durable.
//! 2. Names: each directory gets a new IV, and its entries new sealed names ([`super::directory`], `rekey.rs`), many
//!    directories between two syncs of the backing.
//! 3. Inodes: tables of extended attributes, symbolic links, and the content of files, which goes through the journal
//!    as if it were overwritten (`file/reseal.rs`).
//! 4. Everything is looked at once more, and must open under the active version alone.
//! 5. What was moved meanwhile from where step 2 or 3 had not been to where they had; at last while nothing is moved.
//! 6. The journal is emptied and what is left in its files overwritten; the crash windows are sealed anew; the backing
//!    is synced. Nothing in the vault is under the older version now.
//! 7. The caller takes the older version out of the configuration; then it is forgotten.
//!
//! Whatever does not open under either version is reported, and keeps the rotation from coming to its end: the older key
//! may be needed to save it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};
use parking_lot::{Mutex, RwLockWriteGuard};

use super::Vault;
use super::directory::Directory;
use super::error::{IntegrityError, Result, VaultError};
use super::keyring::{LiveKeys, VersionKeys};
use crate::storage::Storage;

pub mod configuration;
mod inodes;
pub(super) use inodes::FOLDER;
mod walk;

/// Directories whose names are changed between two syncs of the backing.
const BATCH: usize = 256;
/// How often what was moved meanwhile is followed before all moves wait for the last of it.
const DRAINS: usize = 3;
/// Problems that are kept for the report.
const PROBLEMS_MAX: usize = 20;
/// How long a pause of the throttle lasts at most, so that a stop is noticed.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What a rotation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not begun.
    Idle = 0,
    /// What there is to do is counted.
    Counting,
    Names,
    Content,
    Verifying,
    /// All is done, and the older key is gone or kept.
    Done,
}

impl Phase {
    const ALL: [Self; 6] = [Self::Idle, Self::Counting, Self::Names, Self::Content, Self::Verifying, Self::Done];

    /// The phase of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// One word, for people and for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Counting => "counting",
            Self::Names => "names",
            Self::Content => "content",
            Self::Verifying => "verifying",
            Self::Done => "done",
        }
    }
}

/// How far a rotation is, and how it is told to stop or to go slower. Shared between who works and who watches.
#[derive(Debug, Default)]
pub struct RotationControl {
    stop: AtomicBool,
    phase: AtomicU8,
    entries_total: AtomicU64,
    entries_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    /// Bytes a second; 0: as fast as it goes.
    rate: AtomicU64,
    pace: Mutex<Option<(Instant, u64)>>,
}

/// A moment of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationProgress {
    pub phase: Phase,
    /// Names of the tree, of which each is dealt with once in the phase of names and once in that of content.
    pub entries_total: u64,
    pub entries_done: u64,
    /// Plain bytes of files.
    pub bytes_total: u64,
    pub bytes_done: u64,
}

/// How a rotation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationEnd {
    /// Everything is under the active version, and the older one is forgotten.
    Done,
    /// It was told to stop; it goes on from there.
    Stopped,
    /// These do not open under either version. Everything else is done; the older key stays.
    Damaged(Vec<RotationProblem>),
}

/// Something that opens under neither version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationProblem {
    /// The path from the top of the vault, without a '/' in front; None where a name does not open, or there is none.
    pub plain: Option<Vec<u8>>,
    pub error: IntegrityError,
}

impl RotationControl {
    /// Without a limit of the rate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the rotation stop soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Limits the bytes of content that are sealed in a second; 0 lifts the limit.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
        *self.pace.lock() = None;
    }

    /// How far it is.
    pub fn progress(&self) -> RotationProgress {
        let phase = Phase::ALL.get(usize::from(self.phase.load(Ordering::Relaxed))).copied().unwrap_or(Phase::Idle);
        RotationProgress {
            phase,
            entries_total: self.entries_total.load(Ordering::Relaxed),
            entries_done: self.entries_done.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.entries_done.store(0, Ordering::Relaxed);
    }

    /// After a step: counts it, waits if that was too fast, and is an error if the work is to stop.
    fn step(&self, entries: u64, bytes: u64) -> Result<()> {
        self.entries_done.fetch_add(entries, Ordering::Relaxed);
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        let mut wait = self.debt(bytes);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(VaultError::Interrupted);
            }
            if wait.is_zero() {
                return Ok(());
            }
            let pause = wait.min(PAUSE_MAX);
            thread::sleep(pause);
            wait = wait.saturating_sub(pause);
        }
    }

    /// How long to wait so that what was done since the rate was set is not above it.
    fn debt(&self, bytes: u64) -> Duration {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 || bytes == 0 {
            return Duration::ZERO;
        }
        let mut pace = self.pace.lock();
        let now = Instant::now();
        let (since, done) = pace.get_or_insert((now, 0));
        *done = done.saturating_add(bytes);
        let due = Duration::from_micros(done.saturating_mul(1_000_000) / rate);
        let spent = now.duration_since(*since);
        if spent > due + Duration::from_secs(1) {
            // Time that was not used is not saved up.
            *pace = Some((now, 0));
            return Duration::ZERO;
        }
        due.saturating_sub(spent)
    }
}

/// What a run of a rotation remembers.
struct Run<'a> {
    control: &'a RotationControl,
    problems: Vec<RotationProblem>,
    /// How many more problems there were than are kept.
    more: u64,
}

impl Run<'_> {
    /// Visits these directories and all below. What a visit fails with is noted, as is what keeps children away.
    fn each_below<S: Storage>(
        &mut self,
        mut pending: Vec<Arc<Directory<S>>>,
        mut visit: impl FnMut(&mut Self, &Arc<Directory<S>>) -> Result<()>,
    ) -> Result<()> {
        while let Some(directory) = pending.pop() {
            let outcome = visit(self, &directory);
            self.note(&directory, None, outcome)?;
            match directory.child_directories() {
                Ok(children) => pending.extend(children),
                Err(error) => self.note(&directory, None, Err(error))?,
            }
        }
        Ok(())
    }

    /// The names in a directory that open; the others are noted.
    fn names_in<S: Storage>(&mut self, directory: &Directory<S>) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let listed = directory.list(0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        });
        self.note(directory, None, listed)?;
        Ok(names)
    }

    /// Notes what does not open of a directory, or of what has this name in it; any other error ends the run.
    fn note<S: Storage>(&mut self, directory: &Directory<S>, name: Option<&[u8]>, outcome: Result<()>) -> Result<()> {
        self.note_by(outcome, |error| match name {
            Some(name) => directory.plain_path().map(|above| plain_below(above, name)),
            // An entry of it whose name does not open has no plain path.
            None => directory.plain_path().filter(|_| error.path == directory.backing_path()),
        })
    }

    fn note_by(&mut self, outcome: Result<()>, plain: impl FnOnce(&IntegrityError) -> Option<Vec<u8>>) -> Result<()> {
        match outcome {
            Err(VaultError::Integrity(error)) => {
                if self.problems.iter().any(|known| known.error.path == error.path) {
                    // Met in more than one phase.
                } else if self.problems.len() < PROBLEMS_MAX {
                    self.problems.push(RotationProblem { plain: plain(&error), error });
                } else {
                    self.more = self.more.saturating_add(1);
                }
                Ok(())
            }
            // It went meanwhile.
            Err(error) if error.is_errno(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

fn plain_below(mut above: Vec<u8>, name: &[u8]) -> Vec<u8> {
    if !above.is_empty() {
        above.push(b'/');
    }
    above.extend_from_slice(name);
    above
}

impl<S: Storage> Vault<S> {
    /// Whether something in the vault may be under an older version of the project key.
    pub fn is_rotating(&self) -> bool {
        self.core.keys.is_rotating()
    }

    /// Makes a new version of the project key active; the one that is active now becomes the older one. What is in
    /// memory seals with the new version when this returns.
    ///
    /// # Errors
    /// If the older of the given versions is not the active one, or a rotation has not come to its end.
    pub fn begin_rotation(&self, keys: LiveKeys) -> Result<()> {
        self.core.ensure_writable()?;
        let now = self.core.keys.live();
        if keys.active.is_same_key(&now.active) {
            return Ok(());
        }
        if now.older.is_some() {
            return Err(VaultError::RotationUnfinished);
        }
        if !keys.older.as_ref().is_some_and(|older| older.is_same_key(&now.active)) {
            return Err(VaultError::Internal("a rotation was begun from another key than the active one"));
        }
        info!(
            "rotation: key version {} is active; what is under version {} is sealed anew",
            keys.active.version.0, now.active.version.0
        );
        {
            let windows = self.core.windows.write();
            // Before the first journal under it.
            windows.store(&self.core.storage, self.core.tree.private(), &keys.active)?;
            self.core.keys.replace(keys);
        }
        self.renew_files();
        Ok(())
    }

    fn renew_files(&self) {
        for file in self.core.all_files() {
            file.renew_versions();
        }
    }

    /// Brings everything under the active version. `finish` is called when nothing needs the older one any more, and
    /// takes it out of the configuration; it is given the keys of the active one. One call at a time.
    pub fn rotate(
        &self,
        control: &RotationControl,
        finish: impl FnOnce(&VersionKeys) -> Result<()>,
    ) -> Result<RotationEnd> {
        let Some(_alone) = self.core.rotating.try_lock() else { return Err(VaultError::RotationRunning) };
        if !self.is_rotating() {
            control.enter(Phase::Done);
            return Ok(RotationEnd::Done);
        }
        self.core.ensure_writable()?;
        let outcome = self.wait_for_verify(control).and_then(|_nothing_is_verified| {
            self.core.moved.watch(true);
            let outcome = self.rotate_watched(control, finish);
            self.core.moved.watch(false);
            outcome
        });
        match outcome {
            Err(VaultError::Interrupted) => Ok(RotationEnd::Stopped),
            other => other,
        }
    }

    /// Returns when no verify is under way; until the result is dropped, none begins.
    fn wait_for_verify(&self, control: &RotationControl) -> Result<RwLockWriteGuard<'_, ()>> {
        loop {
            if let Some(alone) = self.core.verifying.try_write_for(PAUSE_MAX) {
                return Ok(alone);
            }
            control.step(0, 0)?;
        }
    }

    fn rotate_watched(
        &self,
        control: &RotationControl,
        finish: impl FnOnce(&VersionKeys) -> Result<()>,
    ) -> Result<RotationEnd> {
        let mut run = Run { control, problems: Vec::new(), more: 0 };
        self.settle_leftovers()?;
        self.sync()?;
        control.enter(Phase::Counting);
        self.count(&mut run)?;
        // Fewer renames need a record if nothing is in the journal.
        self.core.checkpoint(false)?;
        control.enter(Phase::Names);
        self.rekey_names(&mut run, vec![self.root.clone()])?;
        control.enter(Phase::Content);
        self.reseal_inodes(&mut run, vec![self.root.clone()])?;
        for _ in 0..DRAINS {
            self.follow_moves(&mut run)?;
        }
        control.enter(Phase::Verifying);
        self.core.checkpoint(false)?;
        self.verify_rotated(&mut run)?;
        self.reseal_open_files(&mut run)?;
        {
            // What was moved during the walk is among what was noted since, or was moved on from there. Now nothing is
            // moved until the last of it has been dealt with, and then all is under the new key for good.
            let _nothing_moves = self.core.moved.gate.write();
            self.follow_moves(&mut run)?;
            // Nor does anything get its first name, after which it might be closed.
            self.reseal_open_files(&mut run)?;
        }
        self.settle_links()?;
        if !run.problems.is_empty() {
            if run.more > 0 {
                warn!("rotation: {} more entries do not open", run.more);
            }
            return Ok(RotationEnd::Damaged(run.problems));
        }
        self.leave_older()?;
        finish(&self.core.keys.active())?;
        let keys = LiveKeys { older: None, ..self.core.keys.live() };
        let version = keys.active.version.0;
        self.core.keys.replace(keys);
        self.renew_files();
        control.enter(Phase::Done);
        info!("rotation: everything is under key version {version}");
        Ok(RotationEnd::Done)
    }

    /// Nothing that is not in the tree needs the older version after this, and everything is durable.
    fn leave_older(&self) -> Result<()> {
        // Twice: each segment was in use under the older version, and holds what was brought home long ago.
        for _ in 0..2 {
            self.core.checkpoint(false)?;
            self.core.scrub_journal()?;
        }
        self.clear_old_pieces()?;
        self.core.windows.read().store(&self.core.storage, self.core.tree.private(), &self.core.keys.active())?;
        self.sync()
    }

    /// Deals with what was moved until now.
    fn follow_moves(&self, run: &mut Run<'_>) -> Result<()> {
        let moved = self.core.moved.take();
        if !moved.is_empty() {
            let (folders, below): (Vec<_>, Vec<_>) = moved.into_iter().partition(|(_, whole)| !whole);
            let below: Vec<Arc<Directory<S>>> = below.into_iter().map(|(directory, _)| directory).collect();
            self.rekey_names(run, below.clone())?;
            self.reseal_inodes(run, below.clone())?;
            self.verify_below(run, below)?;
            for (directory, _) in folders {
                let outcome =
                    self.reseal_entries(run, &directory).and_then(|()| self.verify_directory(run, &directory));
                run.note(&directory, None, outcome)?;
            }
        }
        Ok(())
    }
}

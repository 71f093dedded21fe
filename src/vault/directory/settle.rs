//! What must be durable before something else is: a directory's IV and sidecars before the files that are named
//! by them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::{Directory, Location, Place, Tree};
use crate::storage::{Stat, Storage};
use crate::vault::core::VaultCore;
use crate::vault::error::Result;

/// Its IV or a sidecar in it is new: what it names must not become durable before.
pub(super) const DEPENDED_ON: u8 = 1;
/// Something durable was moved out of it: its IV must not go before that is durable.
pub(super) const MOVED_OUT: u8 = 2;
/// A sync of it is under way.
const SYNCING: u8 = 4;

impl<S: Storage> Location<S> {
    /// To be called before what is here becomes durable: syncs the directories above that its name depends on,
    /// those nearer to the top first. Costs nothing if none of them changed since it was last synced.
    pub fn settle(&self) -> Result<()> {
        self.directory.settle()
    }
}

impl<S: Storage> Directory<S> {
    /// `fsync(2)` of the directory: its names are durable when it returns.
    pub fn sync(&self) -> Result<()> {
        // What a failed sync did not bring to the disk, another would not bring there either, and say that all is well.
        self.core.ensure_not_degraded()?;
        self.settle()?;
        let handle = self.handle()?;
        self.core.storage.sync_dir(&handle).map_err(|e| self.core.sync_failed("sync a directory", e))?;
        self.core.ensure_not_degraded()
    }

    /// See [`Location::settle`].
    pub(super) fn settle(&self) -> Result<()> {
        if self.chain().all(|directory| directory.unsettled.load(Ordering::Acquire) == 0) {
            return Ok(());
        }
        let _settling = self.core.tree.settling.lock();
        let mut changed: Vec<_> =
            self.chain().filter(|directory| directory.unsettled.load(Ordering::Acquire) != 0).collect();
        changed.reverse();
        changed.iter().try_for_each(|directory| directory.sync_if_unsettled())
    }

    /// Before something gets a name in this directory: if a crash must not lose it, neither may it lose what the
    /// name depends on.
    pub(super) fn settle_for(&self, stat: &Stat) -> Result<()> {
        if self.core.is_volatile(stat.ino) { Ok(()) } else { self.settle() }
    }

    /// Remembers that the directory must be synced before something that depends on it.
    pub(super) fn mark_unsettled(&self, why: u8) -> Result<()> {
        if self.unsettled.fetch_or(why, Ordering::AcqRel) == 0 {
            // Held until it is settled, as the mark would be lost with the directory.
            let mut unsettled = self.core.tree.unsettled.lock();
            unsettled.push(self.arc()?);
            if unsettled.len() >= 4096 && unsettled.len().is_power_of_two() {
                let (kept, dropped) =
                    std::mem::take(&mut *unsettled).into_iter().partition(|directory| directory.is_unsettled());
                *unsettled = kept;
                drop_outside(unsettled, dropped);
            }
        }
        Ok(())
    }

    pub(super) fn is_marked(&self, why: u8) -> bool {
        self.unsettled.load(Ordering::Acquire) & why != 0
    }

    fn is_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) != 0 && !matches!(*self.place.read(), Place::Gone)
    }

    /// [`Tree::settling`] is held. Marks that are made during the sync stay.
    fn sync_if_unsettled(&self) -> Result<()> {
        if self.unsettled.swap(SYNCING, Ordering::AcqRel) == 0 {
            self.unsettled.fetch_and(!SYNCING, Ordering::AcqRel);
            return Ok(());
        }
        let synced = match self.handle() {
            Ok(handle) => self.core.storage.sync_dir(&handle),
            // Removed: nothing depends on it any more.
            Err(error) if error.is_errno(libc::ENOENT) => Ok(()),
            Err(error) => {
                self.unsettled.fetch_or(DEPENDED_ON | MOVED_OUT, Ordering::AcqRel);
                return Err(error);
            }
        };
        if let Err(error) = synced {
            self.unsettled.fetch_or(DEPENDED_ON | MOVED_OUT, Ordering::AcqRel);
            return Err(self.core.sync_failed("sync a directory", error));
        }
        self.unsettled.fetch_and(!SYNCING, Ordering::AcqRel);
        Ok(())
    }
}

impl<S: Storage> Tree<S> {
    /// Settles every directory, by a sync of the whole backing if any has to be.
    pub fn settle_all(&self, core: &VaultCore<S>) -> Result<()> {
        if self.unsettled.lock().is_empty() {
            return Ok(());
        }
        self.settle_by(|| core.sync_backing())
    }

    /// Runs a sync of the whole backing that is made anyway, and takes note of what it settles.
    pub fn settle_by(&self, sync_all: impl FnOnce() -> Result<()>) -> Result<()> {
        let _settling = self.settling.lock();
        let taken = std::mem::take(&mut *self.unsettled.lock());
        for directory in &taken {
            directory.unsettled.store(SYNCING, Ordering::Release);
        }
        let outcome = sync_all();
        let mut again: Vec<Arc<Directory<S>>> = Vec::new();
        for directory in taken {
            if outcome.is_err() {
                directory.unsettled.fetch_or(DEPENDED_ON | MOVED_OUT, Ordering::AcqRel);
            }
            let marks = directory.unsettled.fetch_and(!SYNCING, Ordering::AcqRel) & !SYNCING;
            if marks != 0 {
                again.push(directory);
            }
        }
        self.unsettled.lock().extend(again);
        outcome
    }
}

/// Directories take the tree's locks when they are dropped.
fn drop_outside<T>(lock: MutexGuard<'_, Vec<T>>, dropped: Vec<T>) {
    drop(lock);
    drop(dropped);
}

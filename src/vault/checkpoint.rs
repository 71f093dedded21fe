//! Checkpoints bring home what is in the journal; the background tick makes new files durable.
//!
//! A checkpoint, in its order (each step is a barrier that the crash suite takes out in turn):
//!
//! 1. Alone (nobody appends): seal the dirty nodes and headers of every file in the journal into it, mark the end,
//!    and go on in the other segment. From here on the old segment describes, by itself, the state to reach.
//! 2. Sync the old segment. Only now may a home be touched.
//! 3. Write every image home, set lengths and times, sync the homes.
//! 4. Record the retirement in the new segment and sync that. Only now may the old segment be used again.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::debug;
use parking_lot::MutexGuard;

use super::core::VaultCore;
use super::error::{Result, VaultError};
use super::file::{Applied, VaultFile};
use super::switches;
use crate::format::record::{FileId, Lsn, Operation, SegmentSeq};
use crate::storage::Storage;

/// More homes than this are synced all at once.
const SYNC_SINGLY_MAX: usize = 16;

/// A checkpoint whose segment is sealed and whose homes are not all written: the backing was full.
pub(crate) struct Unfinished<S: Storage> {
    segment: SegmentSeq,
    end: Lsn,
    applied: Vec<Applied<S>>,
    /// Something was left out because its last name is gone, which must be durable before the segment is used again.
    removed: bool,
}

/// What a checkpoint concerns.
struct Collected<S: Storage> {
    applied: Vec<Applied<S>>,
    /// Closed, and without a name: they are left out.
    unlinked: Vec<(FileId, Arc<VaultFile<S>>)>,
}

impl<S: Storage> Unfinished<S> {
    /// What was removed and closed since is not brought home any more: its space may be what the others need.
    fn let_go_of_the_removed(&mut self, journaled: &BTreeMap<FileId, Arc<VaultFile<S>>>) {
        let before = self.applied.len();
        self.applied.retain(|applied| {
            let file = &applied.file;
            // Known to this list, to the other, and to nobody else.
            let listed = 1 + journaled.values().filter(|known| Arc::ptr_eq(known, file)).count();
            !file.ends_with_its_users() || Arc::strong_count(file) > listed
        });
        self.removed |= self.applied.len() < before;
    }
}

impl<S: Storage> VaultCore<S> {
    /// Brings home what is in the journal. `pressed`: somebody waits for room, so the segment may grow.
    pub fn checkpoint(self: &Arc<Self>, pressed: bool) -> Result<()> {
        let unfinished = self.checkpoint.lock();
        self.checkpoint_locked(unfinished, pressed)
    }

    /// For somebody who waits for room for so many blocks, unless another has made it meanwhile.
    pub fn checkpoint_for(self: &Arc<Self>, blocks: u32) -> Result<()> {
        let unfinished = self.checkpoint.lock();
        if self.would_admit(blocks)? { Ok(()) } else { self.checkpoint_locked(unfinished, true) }
    }

    fn checkpoint_locked(
        self: &Arc<Self>,
        mut unfinished: MutexGuard<'_, Option<Unfinished<S>>>,
        pressed: bool,
    ) -> Result<()> {
        self.ensure_writable()?;
        if let Some(mut before) = unfinished.take() {
            before.let_go_of_the_removed(&self.journaled.lock());
            self.bring_home(before, pressed, &mut unfinished)?;
        }
        let journal = self.journal()?;
        let begun = {
            let _gate = self.gate.write();
            let segment = journal.current();
            let Collected { applied, unlinked } = self.collect()?;
            self.append(&[(Operation::CheckpointEnd, &[])])?;
            let end = journal.end();
            // Half a switch cannot be gone on with: what was sealed for this checkpoint counts in the old segment alone.
            journal
                .switch(&self.storage, self.segment_key(), self.session_mark())
                .map_err(|error| self.switch_failed(error))?;
            applied.iter().for_each(|applied| applied.file.taken_by_checkpoint());
            Unfinished { segment, end, applied, removed: self.let_go(unlinked) }
        };
        self.bring_home(begun, pressed, &mut unfinished)
    }

    fn bring_home(
        self: &Arc<Self>,
        checkpoint: Unfinished<S>,
        pressed: bool,
        unfinished: &mut Option<Unfinished<S>>,
    ) -> Result<()> {
        let Unfinished { segment, end, applied, removed } = checkpoint;
        if let Err(error) = self.write_homes(end, &applied, removed) {
            // Nothing is lost: the segment says what to do, and it is tried again when there is room.
            *unfinished = Some(Unfinished { segment, end, applied, removed });
            return Err(error);
        }
        // The segment has the only good copy of what another sync did not bring to the disk.
        self.ensure_not_degraded()?;
        let retired = self.append(&[(Operation::Retired { seq: segment }, &[])])?;
        if !switches::holds("checkpoint.retirement-synced-before-reuse", false) {
            self.sync_journal(retired.lsn)?;
        }
        for file in applied {
            file.file.retired(segment);
        }
        self.journal()?.free(&self.storage, pressed).map_err(|e| self.sync_failed("make the journal larger", e))?;
        self.checkpoint_is_done();
        debug!("checkpoint of journal segment {} done", segment.0);
        Ok(())
    }

    fn write_homes(self: &Arc<Self>, end: Lsn, applied: &[Applied<S>], removed: bool) -> Result<()> {
        if !switches::holds("checkpoint.journal-synced-before-homes", false) {
            self.sync_journal(end)?;
        }
        for file in applied {
            file.bring_home(self)?;
        }
        if !switches::holds("checkpoint.homes-synced-before-retirement", false) {
            self.sync_homes(applied, removed)?;
        }
        Ok(())
    }

    /// The checkpoint that ends a recovery: in the segment as it is, which is removed afterwards.
    pub fn apply_recovered(self: &Arc<Self>) -> Result<()> {
        let (applied, removed) = {
            let _gate = self.gate.write();
            let Collected { applied, unlinked } = self.collect()?;
            self.append(&[(Operation::CheckpointEnd, &[])])?;
            (applied, self.let_go(unlinked))
        };
        let journal = self.journal()?;
        self.write_homes(journal.end(), &applied, removed)?;
        if let Some(seq) = journal.segment_before() {
            // It is removed first: what is left for a moment must say that it was not taken away by somebody.
            let retired = self.append(&[(Operation::Retired { seq }, &[])])?;
            if !switches::holds("recovery.retirement-synced-before-removal", false) {
                self.sync_journal(retired.lsn)?;
            }
        }
        for file in applied {
            file.file.taken_by_checkpoint();
            file.file.retired(SegmentSeq(u64::MAX));
        }
        self.journaled.lock().clear();
        Ok(())
    }

    /// Every file that has something in the journal, its nodes and header sealed into it.
    fn collect(self: &Arc<Self>) -> Result<Collected<S>> {
        let mut collected = Collected { applied: Vec::new(), unlinked: Vec::new() };
        let journaled: Vec<_> = self.journaled.lock().iter().map(|(id, file)| (*id, file.clone())).collect();
        for (id, file) in journaled {
            // Known to this list, to the table's own count, and to nobody else: it is closed and its name is gone.
            if file.ends_with_its_users() && Arc::strong_count(&file) == 2 {
                collected.unlinked.push((id, file));
                continue;
            }
            if let Some(applied) = file.seal_for_checkpoint()? {
                collected.applied.push(applied);
            } else {
                self.journaled.lock().remove(&id);
            }
        }
        Ok(collected)
    }

    /// Forgets files that have no name any more, now that a checkpoint leaves them out: were it given up before, the next
    /// must know of them. Whether there are any.
    fn let_go(&self, unlinked: Vec<(FileId, Arc<VaultFile<S>>)>) -> bool {
        for (id, file) in &unlinked {
            file.abandon();
            self.journaled.lock().remove(id);
        }
        !unlinked.is_empty()
    }

    /// Runs `work`; where the backing has no room for it, once more after a checkpoint that gives some back. Nothing of
    /// the vault is locked by this thread.
    pub fn with_room<T>(self: &Arc<Self>, work: impl Fn() -> Result<T>) -> Result<T> {
        let before = self.checkpoints();
        let error = match work() {
            Err(error) if error.is_out_of_space() => error,
            outcome => return outcome,
        };
        // One that is under way may give it back.
        drop(self.checkpoint.lock());
        if self.holds_space() {
            self.checkpoint(false)?;
        }
        if self.checkpoints() == before { Err(error) } else { work() }
    }

    /// Whether the next checkpoint will give space back: of what was cut off or punched out of files, or of files whose last
    /// name is gone and that the journal alone keeps, with a checkpoint that is not finished.
    fn holds_space(&self) -> bool {
        let is_kept = |file: &Arc<VaultFile<S>>| file.ends_with_its_users() && Arc::strong_count(file) <= 2;
        let journaled: Vec<_> = {
            let journaled = self.journaled.lock();
            if journaled.values().any(is_kept) {
                return true;
            }
            journaled.values().cloned().collect()
        };
        journaled.iter().any(|file| file.gives_space_back())
    }

    fn sync_homes(&self, applied: &[Applied<S>], removed: bool) -> Result<()> {
        if removed || applied.len() > SYNC_SINGLY_MAX {
            return self.sync_backing();
        }
        applied.iter().try_for_each(|applied| applied.file.sync_home())
    }

    /// Makes everything durable that was closed, written or made until now, without anyone asking: files that were
    /// never synced, and what the journal holds.
    pub fn make_durable(self: &Arc<Self>) -> Result<()> {
        let _alone = self.background.lock();
        self.ensure_writable()?;
        for file in self.take_uncommitted() {
            // It stays on the list if the backing is still full.
            let _ = file.commit();
        }
        let (ended, began) = self.next_epoch();
        let new = self.volatile_until(ended);
        let files = self.all_files();
        // On a full disk the files that cannot be completed stay what they are, and so does their epoch.
        let mut incomplete = None;
        for file in files.iter().filter(|file| file.is_volatile()) {
            match file.settle_in_background() {
                Err(error) if error.is_out_of_space() => incomplete = Some(error),
                // The others must not wait for one that is damaged.
                Err(error @ VaultError::Integrity(_)) => incomplete = Some(error),
                other => other?,
            }
        }
        if !new.is_empty() || self.is_open(ended) {
            // Also where whoever made a file has synced it: what was there before the crash is not half-made.
            let attributes = self.all_changed_attributes();
            self.watch_late_unlinks();
            let sync = || switches::barrier("tick.epoch-synced", || self.sync_backing());
            self.tree.settle_by(|| self.settle_names_by(sync))?;
            self.attributes_synced(&attributes);
            for ino in new {
                self.settle_volatile(ino, ended);
            }
            // A file that was written again meanwhile keeps its epoch open until the next time. So does one that may have been
            // and is gone, as that it is may not be durable; but not those before.
            let durable = ended.min(self.first_late_unlink().saturating_sub(1));
            if !self.has_volatile_until(durable)
                // One that went since is left out there.
                && self.first_late_unlink() > durable
                && let Some(window_start) = self.epoch_is_durable(durable, ended, began)
            {
                self.append(&[(Operation::Epoch { durable, window_start }, &[])])?;
            }
        }
        self.tree.settle_all(self)?;
        let journaled: Vec<_> = self.journaled.lock().values().cloned().collect();
        for file in journaled {
            match file.record_in_background() {
                // Nor does the next find room. What is in the journal is synced all the same.
                Err(error) if error.is_out_of_space() => {
                    incomplete = Some(error);
                    break;
                }
                other => other?,
            }
        }
        let journal = self.journal()?;
        self.sync_journal(journal.end())?;
        incomplete.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use crate::crypto::{KdfParams, Passphrase};
    use crate::storage::SimDisk;
    use crate::vault::create::{CreateOptions, create_on};
    use crate::vault::{Mode, NewInode, Vault, unlock};

    /// Pages that were home and not recorded counted for ever, and took the journal's room, if their file was removed.
    #[test]
    fn what_is_pending_of_a_removed_file_counts_no_more() {
        let disk = SimDisk::new(1);
        let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let passphrase = Passphrase::new(b"correct horse".to_vec());
        create_on(&disk.storage(), &CreateOptions { kdf, label: String::new(), hint: None }, &passphrase).unwrap();
        let keys = unlock(&disk.storage(), &passphrase).unwrap();
        let vault = Vault::open(disk.storage(), keys, Mode::ReadWrite).unwrap();
        let root = vault.root();
        let (_, file) = root.make_file(b"file", &NewInode { mode: 0o600, uid: None, gid: None }).unwrap();
        file.write(0, &[1; 20_000]).unwrap();
        file.sync().unwrap();
        file.write(20_480, &[2; 256 * 4096]).unwrap();
        assert!(file.has_pending());
        root.unlink(b"file").unwrap();
        drop(file);
        vault.checkpoint().unwrap();
        assert_eq!(vault.core.pages_pending_now(), 0);
        vault.seal().unwrap();
    }
}

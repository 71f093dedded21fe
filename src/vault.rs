//! The vault: an encrypted tree in a backing directory, crash-proof and tamper-evident, without FUSE.
//!
//! [`Vault::open`] takes the lock, replays the journal of a session that did not end cleanly, and begins one of its
//! own; [`Vault::seal`] brings everything home and removes it. In between, [`Directory`] speaks of names and
//! [`VaultFile`] of content, both in plain terms; what stands in the backing is docs/format.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use log::warn;

use core::VaultCore;
use directory::Tree;
use journal::Journal;
use keyring::KeyRing;
use lock::VaultLock;
use windows::Windows;

use crate::format::directory_iv::DirectoryIv;

mod attributes;
mod checkpoint;
mod core;
pub mod create;
mod directory;
pub mod error;
mod figures;
mod file;
mod journal;
mod keyring;
mod keyslots;
pub mod lock;
mod lost;
pub mod measure;
mod place;
mod recovery;
pub mod repair;
mod rescue;
pub mod rotate;
mod salvage;
pub mod switches;
mod tree;
pub mod unlock;
pub mod verify;
mod windows;

pub use crate::crypto::kdf::{KdfParams, Passphrase, RFC9106_SECOND, calibrate};
pub use crate::crypto::{RawKey, wipe_stack};
pub use crate::format::configuration::{Configuration, Keyslot, KeyslotId, KeyslotKind};
pub use crate::format::recovery_key;
pub use crate::storage::{
    Access, FileKind, PosixStorage, RenameMode, SetTime, SpaceInfo, Stat, Storage, Target, Timestamp, XattrMode,
};
pub use attributes::*;
pub use create::{CreateOptions, FIRST_ROLE, create, create_with};
pub use directory::{Directory, ListEntry, Listing, NewInode, Pin};
pub use error::{Degraded, Holder, IntegrityError, Result, VaultError};
pub use figures::{Figures, JournalFill};
pub use file::VaultFile;
pub use journal::ROOM_TO_MOUNT_BYTES;
pub use keyring::{LiveKeys, VersionKeys};
pub use keyslots::{NewKeyslot, Removal, Removed, add_keyslot, change_keyslot, check_texts, remove_keyslots};
pub use lock::{READERS_PATIENCE, alone, holder, is_in_use};
pub use lost::count_put_aside;
pub use place::{Before, ConfigurationPlace, has_folders};
pub use recovery::Recovery;
pub use recovery::is_sealed;
pub use salvage::{SalvageEvent, SalvageSummary};
pub use unlock::{RootKeys, Secrets, UnlockedKeys, read_configuration, unlock, unlock_root};
pub use verify::{Extent, Finding, FindingKind, Severity, VerifyObserver, VerifyOptions, VerifySummary};

/// How many ticks (seconds) pass between two background syncs: what was closed is durable within five seconds.
const TICKS_PER_SYNC: u32 = 3;
/// After so many ticks without a checkpoint, what is in the journal is brought home even if there is room.
const TICKS_PER_CHECKPOINT: u32 = 15;
/// How often a sync of everything looks again for files that were not durable after it.
const SYNC_ATTEMPTS: usize = 3;
/// How often the tree is gone through for what a crash left, where directories are moved meanwhile.
const WALKS: usize = 8;

/// So often is brought home what others write while a vault is sealed.
const SEAL_ROUNDS: usize = 32;

/// How a vault is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    ReadWrite,
    /// Nothing in the backing changes; a journal is replayed in memory.
    ReadOnly,
}

/// An open vault.
pub struct Vault<S: Storage> {
    core: Arc<VaultCore<S>>,
    root: Arc<Directory<S>>,
    ticks: AtomicU32,
    recovery: Option<Recovery>,
    /// What was wrong with the vault's own files, and was passed over.
    tolerated: Vec<Finding>,
    /// Whether there is a journal that could not be replayed: then the tree is not what it will be with it.
    misses_journal: bool,
    /// Held as long as the vault is open.
    lock: VaultLock<S>,
}

impl<S: Storage> Vault<S> {
    /// Opens the vault in `storage`. Refuses one that another process has open.
    pub fn open(storage: S, keys: impl Into<LiveKeys>, mode: Mode) -> Result<Arc<Self>> {
        let keys = KeyRing::new(keys.into());
        let tree = Tree::open(&storage)?;
        let lock = match mode {
            Mode::ReadWrite => VaultLock::exclusive(&storage, tree.private())?,
            Mode::ReadOnly => VaultLock::shared(&storage, tree.private())?,
        };
        let windows = Windows::load(&storage, tree.private(), &keys)?;
        let core = Arc::new(VaultCore::new(storage, keys, tree, mode == Mode::ReadOnly, windows));
        let (root, recovery) = Self::start(&core, mode).inspect_err(|_| {
            // The files of a journal hold the core, and it them.
            core.journaled.lock().clear();
        })?;
        if let Some(recovery) = &recovery {
            warn!("{recovery}");
        }
        Ok(Arc::new(Self {
            core,
            root,
            ticks: AtomicU32::new(0),
            recovery,
            tolerated: Vec::new(),
            misses_journal: false,
            lock,
        }))
    }

    fn start(core: &Arc<VaultCore<S>>, mode: Mode) -> Result<(Arc<Directory<S>>, Option<Recovery>)> {
        let root = Directory::root(core)?;
        let recovery = recovery::recover(core, &root)?;
        Self::refuse_foreign_keys(core, mode, recovery.as_ref())?;
        if mode == Mode::ReadWrite {
            if recovery.is_some() {
                recovery::finish(core)?;
            }
            let private = core.tree.private();
            let active = core.keys.active();
            if Windows::is_missing_under(&core.storage, private, &active)? {
                core.windows.read().store(&core.storage, private, &active)?;
            }
            let journal = Journal::create(&core.storage, private, core.segment_key(), core.session_mark())?;
            core.set_journal(Some(journal));
        }
        Ok((root, recovery))
    }

    /// Keys of another vault, or of another version, open no journal: it would be taken for noise and removed, and a new
    /// state put beside it. So where nothing has vouched for the keys, the top directory must.
    fn refuse_foreign_keys(core: &Arc<VaultCore<S>>, mode: Mode, recovery: Option<&Recovery>) -> Result<()> {
        let is_unread = recovery.is_some_and(|recovery| recovery.segments == 0);
        let stores_state = mode == Mode::ReadWrite
            && Windows::is_missing_under(&core.storage, core.tree.private(), &core.keys.active())?;
        if !is_unread && !stores_state {
            return Ok(());
        }
        let opens = |record: &[u8]| core.keys.open(|keys| DirectoryIv::decode(keys, record)).is_ok();
        if unlock::opens_top(&core.storage, opens)? { Ok(()) } else { Err(VaultError::ForeignConfiguration) }
    }

    /// The top directory of the tree.
    pub fn root(&self) -> Arc<Directory<S>> {
        self.root.clone()
    }

    /// What was done for a session that did not end cleanly; None: it had been sealed.
    pub const fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    /// Whether changes are refused: mounted so, or after a failure of the backing.
    pub fn is_read_only(&self) -> bool {
        self.core.is_read_only()
    }

    /// Why the vault turned read-only, if it did after it was mounted for writing: the first failure of the backing.
    pub fn degraded(&self) -> Option<Degraded> {
        self.core.degraded()
    }

    /// The backing.
    pub fn storage(&self) -> &S {
        &self.core.storage
    }

    /// The file of a backing inode, if anyone has it open or the journal speaks of it.
    pub fn live_file(&self, ino: u64) -> Option<Arc<VaultFile<S>>> {
        self.core.file(ino)
    }

    /// Space of the filesystem under the backing.
    pub fn space(&self) -> Result<SpaceInfo> {
        self.core.storage.space().map_err(|e| VaultError::io("read the free space", e))
    }

    /// To be called every second: what nobody has synced becomes durable in the background, and the journal is
    /// brought home before anybody must wait for it.
    pub fn tick(&self) -> Result<()> {
        if self.core.is_read_only() {
            return Ok(());
        }
        self.core.watch_clock()?;
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let durable = if ticks.is_multiple_of(TICKS_PER_SYNC) { self.core.make_durable() } else { Ok(()) };
        let in_journal = !self.core.journaled.lock().is_empty();
        if self.core.checkpoint_is_due() || (in_journal && ticks.is_multiple_of(TICKS_PER_CHECKPOINT)) {
            // Also on a full disk: it may give space back.
            self.core.checkpoint(false)?;
        }
        durable
    }

    /// Makes everything written so far durable (`syncfs(2)` of the mount).
    pub fn sync(&self) -> Result<()> {
        let until = self.core.epoch().current;
        for _ in 0..SYNC_ATTEMPTS {
            self.core.make_durable()?;
            // One that somebody was just opening is taken the next time.
            if !self.core.has_volatile_until(until) {
                break;
            }
        }
        let attributes = self.core.all_changed_attributes();
        self.core.sync_backing()?;
        self.core.attributes_synced(&attributes);
        Ok(())
    }

    /// Makes every name durable that was given until now.
    pub fn sync_names(&self) -> Result<()> {
        self.core.tree.settle_by(|| self.core.settle_names())
    }

    /// A checkpoint now (tests, and before a backup).
    pub fn checkpoint(&self) -> Result<()> {
        self.core.checkpoint(false)
    }

    /// Brings everything home and removes the journal: the backing is self-contained when it returns, and the vault
    /// takes no more changes.
    pub fn seal(&self) -> Result<()> {
        if self.core.is_read_only() {
            return match self.core.degraded() {
                Some(_) => Err(VaultError::ReadOnly),
                None => Ok(()),
            };
        }
        match self.core.make_durable() {
            // What that could not complete is tried once more.
            Err(error) if error.is_out_of_space() => {}
            outcome => outcome?,
        }
        let uncommitted = self.core.take_uncommitted();
        if !uncommitted.is_empty() {
            // The backing was full. What was removed since gives its space back with a checkpoint.
            self.core.checkpoint(false)?;
        }
        for file in uncommitted {
            file.commit()?;
        }
        self.core.checkpoint(false)?;
        switches::barrier("seal.everything-synced", || self.core.sync_backing())?;
        self.take_no_more_changes()?;
        self.core.ensure_not_degraded()?;
        let active = self.core.journal()?.active_slot();
        journal::remove_segments(&self.core.storage, self.core.tree.private(), active)?;
        self.core.set_journal(None);
        self.lock.forget_who(&self.core.storage);
        Ok(())
    }

    /// Until here others may have written: what came since the checkpoint is brought home, too.
    fn take_no_more_changes(&self) -> Result<()> {
        for _ in 0..SEAL_ROUNDS {
            {
                // Nobody is in the middle of a change of the journal.
                let _alone = self.core.gate.write();
                if self.core.journaled.lock().is_empty() {
                    self.core.set_read_only();
                    break;
                }
            }
            self.core.checkpoint(false)?;
        }
        if !self.core.is_read_only() {
            return Err(VaultError::errno("seal a vault that is written to", libc::EBUSY));
        }
        let mut late = false;
        for file in self.core.all_files() {
            late |= file.complete()?;
        }
        if late {
            self.core.sync_backing()?;
        }
        Ok(())
    }

    /// Whether a crash may have left half-made files that have not been looked at yet.
    pub fn has_leftovers_to_settle(&self) -> bool {
        !self.core.is_read_only() && self.core.crash_window_open()
    }

    /// Looks at everything in the tree that was made shortly before a crash, keeps what verifies of it, and closes the
    /// crash windows: from then on, everything that does not verify is an error. May run beside ordinary work.
    pub fn settle_leftovers(&self) -> Result<()> {
        let windows = self.core.open_windows();
        if windows.is_empty() || self.core.is_read_only() {
            return Ok(());
        }
        for _ in 0..WALKS {
            let moves = self.core.moved.moves();
            if !self.look_through() {
                break;
            }
            self.sync()?;
            // One that was moved may have been passed by.
            if self.core.moved.moves() == moves {
                let mut current = self.core.windows.write();
                current.remove(&windows);
                return current.store(&self.core.storage, self.core.tree.private(), &self.core.keys.active());
            }
        }
        // They stay as they are until somebody opens them, or until the next mount.
        self.sync()
    }

    /// Looks at everything in the tree, which settles what lies in a crash window; false if not all could be looked at.
    fn look_through(&self) -> bool {
        let mut seen = true;
        let mut pending = vec![self.root.clone()];
        while let Some(directory) = pending.pop() {
            let mut names = Vec::new();
            let listed = directory.list(0, &mut |entry| {
                names.push((entry.name.to_vec(), entry.kind));
                true
            });
            if let Err(error) = listed {
                seen &= !is_unseen(&error);
                warn!("a directory could not be looked through after the crash: {error}");
            }
            for (name, kind) in names {
                match kind {
                    FileKind::Directory => match directory.open_child(&name) {
                        Ok(child) => pending.push(child),
                        Err(error) => {
                            seen &= !is_unseen(&error);
                            warn!("a directory could not be looked through after the crash: {error}");
                        }
                    },
                    // The lookup itself settles what lies in a window.
                    FileKind::Regular | FileKind::Unknown => {
                        seen &= !directory.lookup(&name).is_err_and(|error| is_unseen(&error));
                    }
                    _ => {}
                }
            }
        }
        seen
    }

    /// Lowers the number of seals after which page keys change (tests).
    #[cfg(any(test, feature = "simulation"))]
    pub fn set_seal_limit(&self, limit: u64) {
        self.core.set_seal_limit(limit);
    }
}

impl<S: Storage> Drop for Vault<S> {
    fn drop(&mut self) {
        // These hold the core, and the core holds them.
        self.core.journaled.lock().clear();
        drop(self.core.take_uncommitted());
        self.core.tree.release();
        self.core.moved.watch(false);
    }
}

/// Whether what a crash may have left there has not been looked at: it is there, and neither opened nor refused for good.
fn is_unseen(error: &VaultError) -> bool {
    !matches!(error, VaultError::Integrity(_)) && !error.is_errno(libc::ENOENT)
}

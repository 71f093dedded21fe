//! What every part of an open vault shares: the backing, the keys, the journal, and who has changed what.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use log::error;
use parking_lot::{Mutex, RwLock};

use super::checkpoint::Unfinished;
use super::directory::{Directory, Location, RenamePlan, Tree};
use super::error::{Result, VaultError};
use super::file::{Base, VaultFile};
use super::journal::{self, Appended, Journal, SessionMark};
use super::switches;
use super::windows::{CrashWindow, Windows};
use crate::crypto::entropy;
use crate::crypto::keys::VaultKeys;
use crate::format::geometry::{self, HEADER_LEN};
use crate::format::header::Birth;
use crate::format::record::{FileId, Lsn, Operation, Time};
use crate::storage::{Access, FileKind, RenameMode, Stat, Storage, Timestamp};

/// Seals under the page keys of one session before the next session begins: far below the 2^32 that
/// NIST SP 800-38D allows for random nonces under one key.
const SEALS_PER_SESSION: u64 = 1 << 31;
/// Files in the journal at once: each holds a descriptor.
const JOURNALED_MAX: usize = 1024;
/// Dirty nodes of durable files in memory at once (16 MiB).
const DIRTY_NODES_MAX: usize = 4096;

/// See the module's documentation.
pub(crate) struct VaultCore<S: Storage> {
    pub storage: S,
    pub keys: VaultKeys,
    pub tree: Tree<S>,
    /// Held shared by everything that appends to the journal, alone by the checkpoint while it switches segments.
    pub gate: RwLock<()>,
    read_only: AtomicBool,
    /// Why the vault turned read-only.
    failure: Mutex<Option<String>>,
    journal: RwLock<Option<Arc<Journal<S>>>>,
    session: AtomicU32,
    seals: AtomicU64,
    seal_limit: AtomicU64,
    epoch: Mutex<Epoch>,
    files: Mutex<HashMap<u64, Weak<VaultFile<S>>>>,
    volatile: Mutex<HashMap<u64, u32>>,
    uncommitted: Mutex<HashMap<u64, Arc<VaultFile<S>>>>,
    synced: Mutex<HashSet<u64>>,
    pub journaled: Mutex<BTreeMap<FileId, Arc<VaultFile<S>>>>,
    next_file_id: AtomicU32,
    dirty_nodes: AtomicUsize,
    /// Pages that are home and not recorded.
    pending_pages: AtomicUsize,
    admitted: Mutex<u32>,
    pub checkpoint: Mutex<Option<Unfinished<S>>>,
    pub windows: RwLock<Windows>,
}

/// Background durability: files made in epochs up to `durable` survive a power cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    pub current: u32,
    pub durable: u32,
    /// When the first epoch that is not durable began.
    pub began: Timestamp,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Room in the journal that a step was promised; given back when the step is over.
pub(crate) struct Admission<'a, S: Storage> {
    core: &'a VaultCore<S>,
    blocks: u32,
}

impl<S: Storage> Drop for Admission<'_, S> {
    fn drop(&mut self) {
        let mut admitted = self.core.admitted.lock();
        *admitted = admitted.saturating_sub(self.blocks);
    }
}

impl<S: Storage> VaultCore<S> {
    pub fn new(storage: S, keys: VaultKeys, tree: Tree<S>, read_only: bool, windows: Windows) -> Self {
        let began = storage.now();
        Self {
            storage,
            keys,
            tree,
            gate: RwLock::new(()),
            read_only: AtomicBool::new(read_only),
            failure: Mutex::new(None),
            journal: RwLock::new(None),
            session: AtomicU32::new(u32::from_le_bytes(entropy::array()) | 1),
            seals: AtomicU64::new(0),
            seal_limit: AtomicU64::new(SEALS_PER_SESSION),
            epoch: Mutex::new(Epoch { current: 1, durable: 0, began }),
            files: Mutex::default(),
            volatile: Mutex::default(),
            uncommitted: Mutex::default(),
            synced: Mutex::default(),
            journaled: Mutex::default(),
            next_file_id: AtomicU32::new(1),
            dirty_nodes: AtomicUsize::new(0),
            pending_pages: AtomicUsize::new(0),
            admitted: Mutex::new(0),
            checkpoint: Mutex::new(None),
            windows: RwLock::new(windows),
        }
    }

    // --- read-only, errors ---

    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Why the vault turned read-only after it was mounted read-write.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    pub fn ensure_writable(&self) -> Result<()> {
        if self.is_read_only() { Err(VaultError::ReadOnly) } else { Ok(()) }
    }

    pub fn set_read_only(&self) {
        self.read_only.store(true, Ordering::Release);
    }

    fn fail_stop(&self, context: &'static str, source: &io::Error) {
        let first = {
            let mut failure = self.failure.lock();
            let first = failure.is_none();
            failure.get_or_insert_with(|| format!("could not {context}: {source}"));
            first
        };
        self.set_read_only();
        if first {
            error!(
                "could not {context}: {source}; the vault is read-only from here on, and nothing of it is lost that \
                 was reported as stored. Check the disk, then unmount and mount again"
            );
        }
    }

    /// A sync of the backing failed: what it should have stored may be gone, so nothing is tried again.
    pub fn sync_failed(&self, context: &'static str, source: io::Error) -> VaultError {
        self.fail_stop(context, &source);
        VaultError::io(context, source)
    }

    /// A write to the backing failed. A full disk is the caller's error; anything else stops the vault.
    pub fn write_failed(&self, context: &'static str, source: io::Error) -> VaultError {
        if !is_out_of_space(&source) {
            self.fail_stop(context, &source);
        }
        VaultError::io(context, source)
    }

    /// Reserves space in a home file. A backing that can't is no error: then a full disk is met later.
    pub fn reserve(&self, file: &S::File, offset_bytes: u64, len_bytes: u64) -> Result<()> {
        match self.storage.allocate(file, offset_bytes, len_bytes) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(self.write_failed("reserve space for a file", error)),
            Ok(()) => Ok(()),
        }
    }

    // --- sessions and epochs ---

    /// The session whose page keys seal now; `count` seals are about to be made.
    pub fn sealing_session(&self, count: u64) -> u32 {
        let before = self.seals.fetch_add(count, Ordering::Relaxed);
        if before >= self.seal_limit.load(Ordering::Relaxed) {
            // Another session, other page keys: no key comes near its limit.
            self.seals.store(0, Ordering::Relaxed);
            self.session.fetch_add(2, Ordering::Relaxed);
        }
        self.session.load(Ordering::Relaxed)
    }

    /// Lowers the number of seals per session (tests).
    #[cfg(any(test, feature = "simulation"))]
    pub fn set_seal_limit(&self, limit: u64) {
        self.seal_limit.store(limit, Ordering::Relaxed);
    }

    /// The session and epoch of a file that is made now.
    pub fn birth(&self) -> Birth {
        Birth { session: self.session.load(Ordering::Relaxed), epoch: self.epoch.lock().current }
    }

    pub fn epoch(&self) -> Epoch {
        *self.epoch.lock()
    }

    /// Begins the next epoch; returns the one that ended and when the new one began.
    pub fn next_epoch(&self) -> (u32, Timestamp) {
        let mut epoch = self.epoch.lock();
        let ended = epoch.current;
        epoch.current = epoch.current.saturating_add(1);
        (ended, self.storage.now())
    }

    pub fn epoch_is_durable(&self, durable: u32, began: Timestamp) {
        let mut epoch = self.epoch.lock();
        epoch.durable = durable;
        epoch.began = began;
    }

    pub fn session_mark(&self) -> SessionMark {
        let epoch = self.epoch();
        SessionMark {
            session: self.session.load(Ordering::Relaxed),
            durable_epoch: epoch.durable,
            window_start: (epoch.began.seconds, epoch.began.nanoseconds),
        }
    }

    // --- the journal ---

    pub fn journal(&self) -> Result<Arc<Journal<S>>> {
        self.journal.read().clone().ok_or(VaultError::ReadOnly)
    }

    pub fn set_journal(&self, journal: Option<Journal<S>>) {
        *self.journal.write() = journal.map(Arc::new);
    }

    pub fn append(&self, items: &[(Operation, &[u8])]) -> Result<Appended> {
        self.journal()?.append(&self.storage, items).map_err(|error| self.journal_failed(error))
    }

    pub fn append_text(&self, text: &[u8], operation: Operation) -> Result<Appended> {
        self.journal()?.append_text(&self.storage, text, operation).map_err(|error| self.journal_failed(error))
    }

    /// Makes the journal durable up to a record.
    pub fn sync_journal(&self, lsn: Lsn) -> Result<()> {
        self.journal()?.sync_through(&self.storage, lsn).map_err(|error| self.journal_failed(error))
    }

    pub fn read_journal(&self, at: journal::Location, out: &mut [u8]) -> Result<()> {
        self.journal()?.read(&self.storage, at, out)
    }

    fn journal_failed(&self, error: VaultError) -> VaultError {
        if let VaultError::Io { context, source } = &error {
            self.fail_stop(context, source);
        }
        error
    }

    /// Waits until the journal has room for `blocks` beside what a checkpoint itself will need.
    pub fn admit(self: &Arc<Self>, blocks: u32) -> Result<Admission<'_, S>> {
        let mut tried = 0;
        loop {
            self.ensure_writable()?;
            {
                let mut admitted = self.admitted.lock();
                let (room, _) = self.journal()?.room();
                let journaled = self.journaled.lock().len();
                let dirty = self.dirty_nodes.load(Ordering::Relaxed);
                let wanted = u64::from(*admitted) + u64::from(blocks) + self.checkpoint_blocks(dirty, journaled);
                if wanted <= u64::from(room) && journaled < JOURNALED_MAX && dirty < DIRTY_NODES_MAX {
                    *admitted += blocks;
                    return Ok(Admission { core: self, blocks });
                }
            }
            // Others may take the room that a checkpoint made, so it may need more than one.
            if tried > 64 {
                return Err(VaultError::JournalFull);
            }
            tried += 1;
            self.checkpoint(true)?;
        }
    }

    /// Whether it is time for a checkpoint, before anyone must wait for one.
    pub fn checkpoint_is_due(&self) -> bool {
        let Ok(journal) = self.journal() else { return false };
        let (room, capacity) = journal.room();
        let dirty = self.dirty_nodes.load(Ordering::Relaxed);
        room < capacity / 2 || dirty > DIRTY_NODES_MAX / 2 || self.journaled.lock().len() > JOURNALED_MAX / 2
    }

    /// What a checkpoint itself appends: node and header images, a descriptor for every so many of them, the records
    /// of pending pages, and the end.
    fn checkpoint_blocks(&self, dirty: usize, journaled: usize) -> u64 {
        let images = (dirty + journaled) as u64;
        let pending = self.pending_pages.load(Ordering::Relaxed) as u64;
        images + images / 64 + pending / 64 + 2 * journaled as u64 + 16
    }

    pub fn pages_pending(&self, count: usize) {
        self.pending_pages.fetch_add(count, Ordering::Relaxed);
    }

    pub fn pages_recorded(&self, count: usize) {
        let pending = &self.pending_pages;
        let _ = pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(count)));
    }

    pub fn nodes_dirtied(&self, count: usize) {
        self.dirty_nodes.fetch_add(count, Ordering::Relaxed);
    }

    pub fn nodes_settled(&self, count: usize) {
        let _ = self.dirty_nodes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(count)));
    }

    pub fn next_file_id(&self) -> FileId {
        FileId(self.next_file_id.fetch_add(1, Ordering::Relaxed))
    }

    /// File ids below this one are in a journal that is being gone on with.
    pub fn file_ids_used(&self, below: u32) {
        self.next_file_id.fetch_max(below, Ordering::Relaxed);
    }

    // --- files ---

    /// The file of a backing inode, if it is in memory.
    pub fn file(&self, ino: u64) -> Option<Arc<VaultFile<S>>> {
        self.files.lock().get(&ino).and_then(Weak::upgrade)
    }

    /// All files in memory.
    pub fn all_files(&self) -> Vec<Arc<VaultFile<S>>> {
        self.files.lock().values().filter_map(Weak::upgrade).collect()
    }

    pub fn enter_file(&self, file: &Arc<VaultFile<S>>) {
        let mut files = self.files.lock();
        files.insert(file.ino(), Arc::downgrade(file));
        if files.len() > 1024 && files.len().is_power_of_two() {
            files.retain(|_, file| file.strong_count() > 0);
        }
    }

    /// A file that was just made at `location`.
    pub fn create_file(
        self: &Arc<Self>,
        location: Location<S>,
        file: S::File,
        stat: Stat,
    ) -> Result<Arc<VaultFile<S>>> {
        self.synced.lock().remove(&stat.ino);
        // In one step for the background sync: it knows of the inode and has the file, or neither.
        let mut volatile = self.volatile.lock();
        let made = Arc::new(VaultFile::new_empty(self, location, file, &stat));
        self.enter_file(&made);
        volatile.insert(stat.ino, self.epoch.lock().current);
        Ok(made)
    }

    /// The file at `location`: the one in memory, or opened from the backing.
    pub fn open_file(self: &Arc<Self>, location: Location<S>, stat: &Stat) -> Result<Arc<VaultFile<S>>> {
        if let Some(file) = self.file(stat.ino) {
            if file.is_lost() {
                file.moved(location);
            }
            return Ok(file);
        }
        let file = location.open_backing(stat)?;
        self.enter_opened(VaultFile::open(self, location, file, stat)?)
    }

    /// The file behind a pin, which may have no name any more.
    pub fn open_pinned(self: &Arc<Self>, pin: &S::Pin, stat: &Stat) -> Result<Arc<VaultFile<S>>> {
        if let Some(file) = self.file(stat.ino) {
            return Ok(file);
        }
        let access = if self.is_read_only() { Access::Read } else { Access::ReadWrite };
        let file = self.storage.open_pinned(pin, access).map_err(|e| VaultError::io("open a file", e))?;
        let nowhere = Location { directory: Directory::root(self)?, entry: "(unlinked)".into() };
        let opened = VaultFile::open(self, nowhere, file, stat)?;
        if stat.nlink == 0 {
            opened.set_unlinked();
        }
        self.enter_opened(opened)
    }

    fn enter_opened(&self, opened: VaultFile<S>) -> Result<Arc<VaultFile<S>>> {
        let opened = Arc::new(opened);
        let mut files = self.files.lock();
        // Somebody else may have opened it meanwhile: there is one of each.
        if let Some(first) = files.get(&opened.ino()).and_then(Weak::upgrade) {
            return Ok(first);
        }
        files.insert(opened.ino(), Arc::downgrade(&opened));
        Ok(opened)
    }

    /// The plain size of a regular file, from its backing attributes or from memory.
    pub fn plain_size(self: &Arc<Self>, location: &Location<S>, stat: &Stat) -> Result<u64> {
        if let Some(file) = self.file(stat.ino) {
            if file.is_lost() {
                file.moved(location.clone());
            }
            return Ok(file.len_bytes());
        }
        if self.windows.read().covers(stat).is_some() && !self.is_volatile(stat.ino) {
            // It may be what a crash left of a file: look before anyone relies on its length.
            return Ok(self.open_file(location.clone(), stat)?.len_bytes());
        }
        match geometry::plain_len(stat.size_bytes) {
            Some(size) => Ok(size),
            // Shown with what content it could have; opening it gives the error.
            None => Ok(stat.size_bytes.saturating_sub(HEADER_LEN as u64)),
        }
    }

    /// The crash window in which a file was made, if what lies in it has not been looked at in this session.
    pub fn window_of(&self, stat: &Stat, base: Base) -> Option<CrashWindow> {
        if base == (Base::Durable { synced: false }) { self.windows.read().covers(stat) } else { None }
    }

    /// Whether a session that did not end cleanly may have left directories without their IV.
    pub fn crash_window_open(&self) -> bool {
        !self.windows.read().is_empty()
    }

    pub fn open_windows(&self) -> Vec<CrashWindow> {
        self.windows.read().list().to_vec()
    }

    pub fn base_of(&self, ino: u64) -> Base {
        if self.is_volatile(ino) {
            Base::Volatile
        } else {
            Base::Durable { synced: self.synced.lock().contains(&ino) }
        }
    }

    pub fn is_volatile(&self, ino: u64) -> bool {
        self.volatile.lock().contains_key(&ino)
    }

    pub fn remember_volatile(&self, ino: u64) {
        let epoch = self.epoch.lock().current;
        self.volatile.lock().insert(ino, epoch);
    }

    pub fn forget_volatile(&self, ino: u64) {
        self.volatile.lock().remove(&ino);
    }

    /// Inodes made in epochs up to `epoch` that are not known to be durable.
    pub fn volatile_until(&self, epoch: u32) -> Vec<u64> {
        self.volatile.lock().iter().filter(|(_, born)| **born <= epoch).map(|(ino, _)| *ino).collect()
    }

    pub fn remember_synced(&self, ino: u64) {
        let mut synced = self.synced.lock();
        if synced.len() >= 1 << 16 {
            synced.clear();
        }
        synced.insert(ino);
    }

    pub fn remember_journaled(&self, id: FileId, file: &VaultFile<S>) {
        if let Some(file) = self.file(file.ino()) {
            self.journaled.lock().insert(id, file);
        }
    }

    pub fn remember_uncommitted(&self, ino: u64) {
        if let Some(file) = self.file(ino) {
            self.uncommitted.lock().insert(ino, file);
        }
    }

    pub fn take_uncommitted(&self) -> Vec<Arc<VaultFile<S>>> {
        std::mem::take(&mut *self.uncommitted.lock()).into_values().collect()
    }

    // --- names: what the directories ask and tell ---

    /// Before a rename: the source is durable if it replaces something, and what the journal holds for anything that
    /// moves can still be found.
    pub fn journal_rename(self: &Arc<Self>, plan: &RenamePlan<'_, S>) -> Result<()> {
        self.ensure_writable()?;
        let replaces = plan.replaced.is_some() && plan.mode != RenameMode::Exchange;
        if replaces && plan.source.kind() == FileKind::Regular && self.is_volatile(plan.source.ino) {
            let location = Location { directory: plan.from.clone(), entry: plan.from_entry.to_owned() };
            if !switches::holds("rename.source-is-durable", false) {
                self.open_file(location, &plan.source)?.sync()?;
            }
        }
        if let Some(replaced) = plan.replaced.filter(|other| replaces && other.ino != plan.source.ino) {
            self.before_unlink(plan.to, plan.to_entry, &replaced)?;
        }
        if self.journal_concerns(plan) {
            let from = Location { directory: plan.from.clone(), entry: plan.from_entry.to_owned() }.backing_path();
            let to = Location { directory: plan.to.clone(), entry: plan.to_entry.to_owned() }.backing_path();
            let text = [from.as_bytes(), &[0], to.as_bytes()].concat();
            let exchange = plan.mode == RenameMode::Exchange;
            let _admission = self.admit(8)?;
            let _gate = self.gate.read();
            if !switches::holds("rename.intent-is-recorded", false) {
                let appended = self.append_text(&text, Operation::Rename { exchange })?;
                self.sync_journal(appended.lsn)?;
            }
        }
        Ok(())
    }

    /// Whether the journal holds something for what a rename moves.
    fn journal_concerns(&self, plan: &RenamePlan<'_, S>) -> bool {
        let moved = [Some(plan.source), plan.replaced.filter(|_| plan.mode == RenameMode::Exchange)];
        let journaled: Vec<_> = self.journaled.lock().values().cloned().collect();
        if journaled.is_empty() {
            return false;
        }
        moved.into_iter().flatten().any(|stat| {
            if stat.kind() == FileKind::Directory {
                journaled.iter().any(|file| file.location().directory.is_within(stat.ino))
            } else {
                journaled.iter().any(|file| file.ino() == stat.ino)
            }
        })
    }

    /// After a rename.
    pub fn renamed(&self, plan: &RenamePlan<'_, S>) {
        let exchange = plan.mode == RenameMode::Exchange;
        if let Some(file) = self.file(plan.source.ino) {
            file.moved(Location { directory: plan.to.clone(), entry: plan.to_entry.to_owned() });
        }
        let Some(replaced) = plan.replaced else { return };
        if exchange {
            if let Some(file) = self.file(replaced.ino) {
                file.moved(Location { directory: plan.from.clone(), entry: plan.from_entry.to_owned() });
            }
        } else if replaced.ino != plan.source.ino {
            self.unlinked(plan.to, plan.to_entry, &replaced);
        }
    }

    /// Before a name other than a directory's goes: a file with other names is brought home first if the journal
    /// knows it by this one.
    pub fn before_unlink(self: &Arc<Self>, directory: &Arc<Directory<S>>, entry: &OsStr, stat: &Stat) -> Result<()> {
        self.ensure_writable()?;
        if stat.kind() != FileKind::Regular || stat.nlink < 2 {
            return Ok(());
        }
        let Some(file) = self.file(stat.ino).filter(|file| file.is_known_as(directory, entry)) else { return Ok(()) };
        if file.is_volatile() {
            file.sync()
        } else if self.journaled.lock().values().any(|journaled| journaled.ino() == stat.ino) {
            self.checkpoint(false)
        } else {
            Ok(())
        }
    }

    /// After a name went.
    pub fn unlinked(&self, directory: &Arc<Directory<S>>, entry: &OsStr, stat: &Stat) {
        self.name_is_gone(stat);
        if let Some(file) = self.file(stat.ino) {
            file.name_went(directory, entry);
        }
    }

    fn name_is_gone(&self, stat: &Stat) {
        if stat.kind() == FileKind::Regular && stat.nlink <= 1 {
            if let Some(file) = self.file(stat.ino) {
                file.set_unlinked();
            }
            self.forget_volatile_unless_open(stat.ino);
        }
    }

    fn forget_volatile_unless_open(&self, ino: u64) {
        if self.file(ino).is_none() {
            self.forget_volatile(ino);
        }
    }

    /// After a file got another name: it is known by that one from here on.
    pub fn linked(&self, to: &Location<S>, stat: &Stat) {
        if let Some(file) = self.file(stat.ino) {
            file.got_name(to.clone());
        }
    }

    /// A buffer of this thread, of this many bytes, whatever they are.
    pub fn scratch(&self, len: usize) -> Scratch {
        let mut scratch = Scratch { bytes: SCRATCH.take(), len: 0 };
        scratch.set_len(len);
        scratch
    }
}

/// A buffer that goes back to its thread, so that large requests do not each map and unmap their own. It holds
/// ciphertext only.
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    len: usize,
}

impl Scratch {
    pub fn set_len(&mut self, len: usize) {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        self.len = len;
    }
}

impl std::ops::Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.bytes));
    }
}

pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

pub(crate) fn time(time: Time) -> Timestamp {
    Timestamp { seconds: time.0, nanoseconds: time.1 }
}

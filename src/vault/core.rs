//! What every part of an open vault shares: the backing, the keys, the journal, and who has changed what.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use log::error;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::checkpoint::Unfinished;
use super::directory::Tree;
use super::error::{Degraded, Result, VaultError, is_full};
use super::file::VaultFile;
use super::journal::{self, Appended, Journal, SegmentKey, SessionMark};
use super::keyring::KeyRing;
use super::windows::Windows;
use crate::crypto::entropy;
use crate::format::header::Birth;
use crate::format::record::{FileId, Lsn, Operation, Time};
use crate::storage::{SetTime, Storage, Target, Timestamp};

mod attributes;
mod files;
mod moved;
mod names;
mod scratch;
mod table;

use moved::Moved;
pub(crate) use scratch::Scratch;
use table::FileTable;

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
    pub keys: KeyRing,
    pub tree: Tree<S>,
    /// Held shared by everything that appends to the journal, alone by the checkpoint while it switches segments.
    pub gate: RwLock<()>,
    /// Held shared while the journal is told a file's name, alone from the intent of a rename until it is done. Taken
    /// after the gate.
    pub naming: RwLock<()>,
    /// Held alone while an inode has other permissions than its own for a moment, and shared while somebody sets some. After
    /// any other lock.
    pub widening: RwLock<()>,
    /// Held shared while the table of an inode's extended attributes is replaced, alone while a rotation does so.
    pub xattrs: RwLock<()>,
    /// One rotation at a time.
    pub rotating: Mutex<()>,
    /// Held shared by a verify, alone by a rotation: whoever looks at names one by one while they are renamed misses some,
    /// and takes others for damage.
    pub verifying: RwLock<()>,
    pub moved: Moved<S>,
    read_only: AtomicBool,
    /// Why the vault turned read-only.
    degraded: Mutex<Option<Degraded>>,
    journal: RwLock<Option<Arc<Journal<S>>>>,
    /// The mount, in births and marks.
    first_session: u32,
    /// Whose page keys seal.
    session: AtomicU32,
    seals: AtomicU64,
    seal_limit: AtomicU64,
    epoch: Mutex<Epoch>,
    files: FileTable<S>,
    volatile: Mutex<HashMap<u64, Volatile>>,
    /// The earliest epoch of files that have gone since it was watched, and may have been written to after that epoch.
    first_late_unlink: AtomicU32,
    /// How many came to their end.
    checkpoints: AtomicU64,
    uncommitted: Mutex<HashMap<u64, Arc<VaultFile<S>>>>,
    synced: Mutex<HashSet<u64>>,
    renamed: Mutex<Renamed>,
    changed: Mutex<attributes::Changed>,
    pub journaled: Mutex<BTreeMap<FileId, Arc<VaultFile<S>>>>,
    next_file_id: AtomicU32,
    dirty_nodes: AtomicUsize,
    /// Pages that are home and not recorded.
    pending_pages: AtomicUsize,
    admitted: Mutex<u32>,
    /// Held by who makes everything durable: what one has just taken from the lists, another must not take for durable.
    pub background: Mutex<()>,
    pub checkpoint: Mutex<Option<Unfinished<S>>>,
    pub windows: RwLock<Windows>,
    /// Held by who syncs the whole backing.
    syncing: Mutex<()>,
}

/// Background durability: files made in epochs up to `durable` survive a power cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    pub current: u32,
    /// The last one in which anything was made.
    pub fertile: u32,
    pub durable: u32,
    /// When the first epoch that is not durable began.
    pub began: Timestamp,
}

/// Inodes whose last change of name may not be durable, with that change's number: a crash may bring the old name back.
#[derive(Default)]
struct Renamed {
    files: HashMap<u64, u64>,
    directories: HashMap<u64, u64>,
    changes: u64,
}

/// A file that is not durable yet: the epochs in which it was made and last changed.
#[derive(Clone, Copy)]
struct Volatile {
    born: u32,
    written: u32,
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
    pub fn new(storage: S, keys: KeyRing, tree: Tree<S>, read_only: bool, windows: Windows) -> Self {
        let began = storage.now();
        let session = u32::from_le_bytes(entropy::array()) | 1;
        Self {
            storage,
            keys,
            tree,
            gate: RwLock::new(()),
            naming: RwLock::new(()),
            widening: RwLock::new(()),
            xattrs: RwLock::new(()),
            rotating: Mutex::new(()),
            verifying: RwLock::new(()),
            moved: Moved::default(),
            read_only: AtomicBool::new(read_only),
            degraded: Mutex::new(None),
            journal: RwLock::new(None),
            first_session: session,
            session: AtomicU32::new(session),
            seals: AtomicU64::new(0),
            seal_limit: AtomicU64::new(SEALS_PER_SESSION),
            epoch: Mutex::new(Epoch { current: 1, fertile: 0, durable: 0, began }),
            files: FileTable::default(),
            volatile: Mutex::default(),
            first_late_unlink: AtomicU32::new(u32::MAX),
            checkpoints: AtomicU64::new(0),
            uncommitted: Mutex::default(),
            synced: Mutex::default(),
            renamed: Mutex::default(),
            changed: Mutex::default(),
            journaled: Mutex::default(),
            next_file_id: AtomicU32::new(1),
            dirty_nodes: AtomicUsize::new(0),
            pending_pages: AtomicUsize::new(0),
            admitted: Mutex::new(0),
            background: Mutex::new(()),
            checkpoint: Mutex::new(None),
            windows: RwLock::new(windows),
            syncing: Mutex::new(()),
        }
    }

    // --- read-only, errors ---

    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Why the vault turned read-only after it was mounted read-write.
    pub fn degraded(&self) -> Option<Degraded> {
        self.degraded.lock().clone()
    }

    pub fn ensure_writable(&self) -> Result<()> {
        if self.is_read_only() { Err(VaultError::ReadOnly) } else { Ok(()) }
    }

    /// Held by everything that appends to the journal. Nobody does after a seal.
    pub fn change_gate(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let gate = self.gate.read();
        self.ensure_writable()?;
        Ok(gate)
    }

    pub fn set_read_only(&self) {
        self.read_only.store(true, Ordering::Release);
    }

    fn fail_stop(&self, context: &'static str, source: &io::Error) {
        let first = {
            let mut degraded = self.degraded.lock();
            let first = degraded.is_none();
            degraded.get_or_insert_with(|| Degraded {
                operation: context,
                reason: source.to_string(),
                errno: source.raw_os_error(),
                since: self.storage.now().seconds,
            });
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

    /// Whether nothing of the backing has failed: what was reported to somebody else before may not be reported again.
    pub fn ensure_not_degraded(&self) -> Result<()> {
        if self.degraded.lock().is_some() { Err(VaultError::ReadOnly) } else { Ok(()) }
    }

    /// `syncfs(2)`.
    pub fn sync_backing(&self) -> Result<()> {
        self.sync_alone(&self.syncing, "sync the backing", || self.storage.sync_all())
    }

    /// Syncs, one thread of those that share `turn` after the other: the kernel tells one of them of an error, and to the
    /// next one all is well.
    pub fn sync_alone(
        &self,
        turn: &Mutex<()>,
        context: &'static str,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> Result<()> {
        let _one = turn.lock();
        self.ensure_not_degraded()?;
        sync().map_err(|e| self.sync_failed(context, e))
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

    /// Gives a home file its modification time. Where it is another user's, that is not allowed, and no failure of the backing:
    /// it has the time of the last write to it then.
    pub fn set_mtime(&self, file: &S::File, mtime: Timestamp) -> Result<()> {
        match self.storage.set_times(Target::File(file), SetTime::Keep, SetTime::To(mtime)) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
            outcome => outcome.map_err(|e| self.write_failed("set a file's times", e)),
        }
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
            self.seals.store(count, Ordering::Relaxed);
            self.session.fetch_add(2, Ordering::Relaxed);
        }
        self.session.load(Ordering::Relaxed)
    }

    /// How many seals a key may make.
    pub fn seal_limit(&self) -> u64 {
        self.seal_limit.load(Ordering::Relaxed)
    }

    /// Lowers the number of seals per session (tests).
    #[cfg(any(test, feature = "simulation"))]
    pub fn set_seal_limit(&self, limit: u64) {
        self.seal_limit.store(limit, Ordering::Relaxed);
    }

    /// The session and epoch of what is made now.
    pub fn birth(&self) -> Birth {
        let mut epoch = self.epoch.lock();
        epoch.fertile = epoch.current;
        Birth { session: self.first_session, epoch: epoch.current }
    }

    pub fn epoch(&self) -> Epoch {
        *self.epoch.lock()
    }

    /// Whether anything was made up to the end of this epoch that a crash could still have cost, as far as the journal knows.
    pub fn is_open(&self, epoch: u32) -> bool {
        let Epoch { fertile, durable, .. } = *self.epoch.lock();
        fertile > durable && durable < epoch
    }

    /// Begins the next epoch; returns the one that ended and when the new one began.
    pub fn next_epoch(&self) -> (u32, Timestamp) {
        let mut epoch = self.epoch.lock();
        let ended = epoch.current;
        epoch.current = epoch.current.saturating_add(1);
        (ended, self.storage.now())
    }

    /// Epochs up to `durable` are; `began`: when the one after `ended` did. Returns the start of a crash window from here on;
    /// None: they were before.
    pub fn epoch_is_durable(&self, durable: u32, ended: u32, began: Timestamp) -> Option<(i64, u32)> {
        let mut epoch = self.epoch.lock();
        if durable <= epoch.durable {
            return None;
        }
        epoch.durable = durable;
        // When one in between began nobody remembers: not before the first that was not durable.
        if durable == ended {
            epoch.began = began;
        }
        Some((epoch.began.seconds, epoch.began.nanoseconds))
    }

    /// How many checkpoints came to their end.
    pub fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::Acquire)
    }

    pub fn checkpoint_is_done(&self) {
        self.checkpoints.fetch_add(1, Ordering::AcqRel);
    }

    /// Where the clock of the backing was set back, the first epoch that is not durable begins now: otherwise a crash would
    /// find its files older than their window.
    pub fn watch_clock(&self) -> Result<()> {
        let now = self.storage.now();
        let durable = {
            let mut epoch = self.epoch.lock();
            if now >= epoch.began {
                return Ok(());
            }
            epoch.began = now;
            epoch.durable
        };
        let window_start = (now.seconds, now.nanoseconds);
        let appended = self.append(&[(Operation::Epoch { durable, window_start }, &[])])?;
        self.sync_journal(appended.lsn)
    }

    pub fn session_mark(&self) -> SessionMark {
        let epoch = self.epoch();
        SessionMark {
            session: self.first_session,
            durable_epoch: epoch.durable,
            window_start: (epoch.began.seconds, epoch.began.nanoseconds),
        }
    }

    // --- the journal ---

    pub fn journal(&self) -> Result<Arc<Journal<S>>> {
        self.journal.read().clone().ok_or(VaultError::ReadOnly)
    }

    /// What a new segment is sealed with: an id of its own, and so a key of its own, under the active version.
    pub fn segment_key(&self) -> SegmentKey {
        let id = entropy::array();
        SegmentKey { id, key: self.keys.active().journal(&id) }
    }

    /// Overwrites the segment of the journal that is not in use.
    pub fn scrub_journal(&self) -> Result<()> {
        // A checkpoint that is under way has both in use.
        let _no_checkpoint = self.checkpoint.lock();
        self.journal()?.scrub(&self.storage).map_err(|e| self.sync_failed("overwrite the journal", e))
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

    /// The journal could not go on in its other segment.
    pub fn switch_failed(&self, error: VaultError) -> VaultError {
        const CONTEXT: &str = "go on in the journal's other segment";
        match &error {
            VaultError::Io { source, .. } => self.fail_stop(CONTEXT, source),
            other => self.fail_stop(CONTEXT, &io::Error::other(other.to_string())),
        }
        error
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
                if self.has_room(*admitted, blocks)? {
                    *admitted += blocks;
                    return Ok(Admission { core: self, blocks });
                }
            }
            // Others may take the room that a checkpoint made, so it may need more than one.
            if tried > 64 {
                return Err(VaultError::JournalFull);
            }
            tried += 1;
            self.checkpoint_for(blocks)?;
        }
    }

    /// Whether the journal has room for so many blocks, beside those that were promised to others.
    fn has_room(&self, admitted: u32, blocks: u32) -> Result<bool> {
        let (room, _) = self.journal()?.room();
        let journaled = self.journaled.lock().len();
        let dirty = self.dirty_nodes.load(Ordering::Relaxed);
        let wanted = u64::from(admitted) + u64::from(blocks) + self.checkpoint_blocks(dirty, journaled);
        Ok(wanted <= u64::from(room) && journaled < JOURNALED_MAX && dirty < DIRTY_NODES_MAX)
    }

    /// Whether it would be admitted now.
    pub fn would_admit(&self, blocks: u32) -> Result<bool> {
        let admitted = *self.admitted.lock();
        self.has_room(admitted, blocks)
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

    /// Pages that are home and not recorded.
    #[cfg(test)]
    pub fn pages_pending_now(&self) -> usize {
        self.pending_pages.load(Ordering::Relaxed)
    }

    pub fn pages_pending(&self, count: usize) {
        self.pending_pages.fetch_add(count, Ordering::Relaxed);
    }

    pub fn pages_recorded(&self, count: usize) {
        let pending = &self.pending_pages;
        let _ = pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(count)));
    }

    pub fn dirty_nodes(&self) -> usize {
        self.dirty_nodes.load(Ordering::Relaxed)
    }

    pub fn nodes_dirtied(&self, count: usize) {
        self.dirty_nodes.fetch_add(count, Ordering::Relaxed);
    }

    pub fn nodes_settled(&self, count: usize) {
        let _ =
            self.dirty_nodes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(count)));
    }

    pub fn next_file_id(&self) -> FileId {
        FileId(self.next_file_id.fetch_add(1, Ordering::Relaxed))
    }

    /// File ids below this one are in a journal that is being gone on with.
    pub fn file_ids_used(&self, below: u32) {
        self.next_file_id.fetch_max(below, Ordering::Relaxed);
    }
}

pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    is_full(error) || error.raw_os_error() == Some(libc::EFBIG)
}

pub(crate) fn time(time: Time) -> Timestamp {
    Timestamp { seconds: time.0, nanoseconds: time.1 }
}

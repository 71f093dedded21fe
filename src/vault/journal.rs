//! The redo journal of a read-write mount: two preallocated segments, used in turn.
//!
//! Appending gathers operations and images into one pending record; the record is sealed and written when
//! it is full, when somebody syncs, or when the segment is switched. [`Journal::sync_through`] is group
//! commit: one caller syncs for all who wait. What makes the journal safe:
//!
//! - Records are chained, and a record counts only with all its images: recovery stops at the first that
//!   did not reach the disk whole, and everything that was synced lies before it.
//! - A switch leaves the old segment unsynced; the next sync syncs it before the new one, so that what is
//!   durable is always a prefix of the whole journal.
//! - A segment is used again only after [`Journal::free`], which the checkpoint calls when the retirement
//!   is recorded and synced.

use std::io::IoSlice;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::error::{Result, VaultError};
use super::switches;
use crate::crypto::aead::{AeadKey, Tag};
use crate::crypto::entropy;
use crate::format::geometry::{PAGE_BYTES, PAGE_LEN};
use crate::format::record::{
    IMAGES_MAX, JournalId, Lsn, OPERATIONS_MAX, Operation, RecordHead, SegmentHeader, SegmentSeq, TEXT_MAX, Time,
    seal_record,
};
use crate::storage::{Storage, read_into, write_from};

/// The segments' file names in the vault's private folder.
pub(crate) const SEGMENT_NAMES: [&str; 2] = ["journal.0", "journal.1"];
/// A new segment's size: small, so that a mount is quick.
pub(crate) const FIRST_CAPACITY: u32 = 512;
/// What the two segments of a new journal take: whoever mounts for writing needs that much room.
pub const ROOM_TO_MOUNT_BYTES: u64 = 2 * FIRST_CAPACITY as u64 * PAGE_BYTES;
/// The largest a segment grows to (64 MiB).
const LAST_CAPACITY: u32 = 16 * 1024;

/// Blocks of the largest segment: one to which a recovery appended its checkpoint.
pub(crate) const SEGMENT_MAX: u32 = LAST_CAPACITY * 4;

/// Where an image is in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub segment: SegmentSeq,
    pub block: u32,
}

/// What an append came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    /// The record that holds it: sync through this to make it durable.
    pub lsn: Lsn,
    /// Where its first image is; the others follow.
    pub first_image: Location,
}

/// What a segment header says beside its place in the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionMark {
    pub session: u32,
    pub durable_epoch: u32,
    pub window_start: Time,
}

/// What one segment is sealed with.
pub(crate) struct SegmentKey {
    pub id: JournalId,
    pub key: AeadKey,
}

/// Where a recovered journal goes on.
pub(crate) struct Resume {
    pub key: SegmentKey,
    pub active: usize,
    pub seq: SegmentSeq,
    pub next_block: u32,
    pub next_lsn: Lsn,
    pub chain: Tag,
}

/// See the module's documentation.
pub(crate) struct Journal<S: Storage> {
    inner: Mutex<Inner<S>>,
    /// Held while a text and the operation that takes it are appended.
    text: Mutex<()>,
    sync: Mutex<SyncState>,
    synced: Condvar,
}

pub(crate) struct Slot<S: Storage> {
    pub file: Arc<S::File>,
    pub capacity: u32,
}

struct Inner<S: Storage> {
    slots: [Option<Slot<S>>; 2],
    active: usize,
    /// Of the segment in use. Each has its own: no key comes near its limit, and the key version can change.
    key: SegmentKey,
    seq: SegmentSeq,
    /// Where the pending record's descriptor goes.
    next_block: u32,
    next_lsn: Lsn,
    chain: Tag,
    operations: Vec<u8>,
    images: Vec<u8>,
    /// The segment before, until it is synced.
    unsynced: Option<Arc<S::File>>,
    /// The other slot still holds records that count.
    other_busy: bool,
}

#[derive(Default)]
struct SyncState {
    synced: Lsn,
    running: bool,
    failed: bool,
}

impl<S: Storage> Journal<S> {
    /// A new journal in the vault's private folder; durable when it returns.
    pub fn create(storage: &S, private: &S::Dir, key: SegmentKey, mark: SessionMark) -> Result<Self> {
        // Both now: a full disk must not keep the first checkpoint from making room.
        let slots = [Some(make_segment(storage, private, 0)?), Some(make_segment(storage, private, 1)?)];
        let journal = Self {
            inner: Mutex::new(Inner {
                slots,
                active: 0,
                key,
                seq: SegmentSeq(0),
                next_block: 1,
                next_lsn: Lsn(1),
                chain: [0; 16],
                operations: Vec::new(),
                images: Vec::new(),
                unsynced: None,
                other_busy: false,
            }),
            text: Mutex::new(()),
            sync: Mutex::default(),
            synced: Condvar::new(),
        };
        {
            let mut inner = journal.inner.lock();
            journal.begin_segment(storage, &mut inner, SegmentSeq(1), mark)?;
            let file = inner.active_file()?;
            storage.sync_file(&file).map_err(|e| VaultError::io("sync the new journal", e))?;
        }
        storage.sync_dir(private).map_err(|e| VaultError::io("sync the private folder", e))?;
        Ok(journal)
    }

    /// The journal of a crashed session, to be read and then gone on with behind its last good record.
    pub fn resume(slots: [Option<Slot<S>>; 2], at: Resume) -> Self {
        Self {
            inner: Mutex::new(Inner {
                slots,
                active: at.active,
                key: at.key,
                seq: at.seq,
                next_block: at.next_block,
                next_lsn: at.next_lsn,
                chain: at.chain,
                operations: Vec::new(),
                images: Vec::new(),
                unsynced: None,
                other_busy: true,
            }),
            text: Mutex::new(()),
            sync: Mutex::default(),
            synced: Condvar::new(),
        }
    }

    /// Appends operations with their images, all in one record, so that a crash takes all or none.
    pub fn append(&self, storage: &S, items: &[(Operation, &[u8])]) -> Result<Appended> {
        let mut encoded = Vec::with_capacity(256);
        let mut image_bytes = 0_usize;
        for (operation, images) in items {
            operation.encode(&mut encoded);
            debug_assert_eq!(operation.images() * PAGE_LEN, images.len());
            image_bytes = image_bytes.saturating_add(images.len());
        }
        if encoded.len() > OPERATIONS_MAX || image_bytes > IMAGES_MAX * PAGE_LEN {
            return Err(VaultError::Internal("a journal record would be too large"));
        }
        let mut inner = self.inner.lock();
        if inner.operations.len() + encoded.len() > OPERATIONS_MAX
            || inner.images.len() + image_bytes > IMAGES_MAX * PAGE_LEN
        {
            self.flush_locked(storage, &mut inner)?;
        }
        let blocks = 1 + (inner.images.len() + image_bytes) / PAGE_LEN;
        if u64::from(inner.next_block) + blocks as u64 > u64::from(inner.capacity()) {
            return Err(VaultError::JournalFull);
        }
        let first_image =
            Location { segment: inner.seq, block: inner.next_block + 1 + (inner.images.len() / PAGE_LEN) as u32 };
        inner.operations.extend(&encoded);
        for (_, images) in items {
            inner.images.extend_from_slice(images);
        }
        Ok(Appended { lsn: inner.next_lsn, first_image })
    }

    /// Appends an operation that takes `text` (a path, or two).
    pub fn append_text(&self, storage: &S, text: &[u8], operation: Operation) -> Result<Appended> {
        let _text = self.text.lock();
        for piece in text.chunks(TEXT_MAX) {
            self.append(storage, &[(Operation::Text(piece.to_vec()), &[])])?;
        }
        self.append(storage, &[(operation, &[])])
    }

    /// Reads the image at `location` into `out` (one block, or its beginning); more of them only where all have been written.
    pub fn read(&self, storage: &S, location: Location, out: &mut [u8]) -> Result<()> {
        let file = {
            let inner = self.inner.lock();
            if location.segment == inner.seq && location.block > inner.next_block {
                let at = (location.block - inner.next_block - 1) as usize * PAGE_LEN;
                let image = inner
                    .images
                    .get(at..at + out.len())
                    .ok_or(VaultError::Internal("a journal image is not where it was put"))?;
                out.copy_from_slice(image);
                return Ok(());
            }
            let blocks = out.len().div_ceil(PAGE_LEN) as u64;
            if location.segment == inner.seq && u64::from(location.block) + blocks > u64::from(inner.next_block) {
                return Err(VaultError::Internal("a journal image was asked for with what is not written yet"));
            }
            inner.file_of(location.segment)?
        };
        let read = read_into(storage, &file, out, u64::from(location.block) * PAGE_BYTES)
            .map_err(|e| VaultError::io("read the journal", e))?;
        if read != out.len() {
            let reason = format!("the journal was cut: block {} of a segment in use is gone", location.block);
            return Err(VaultError::integrity("private/journal.*", reason));
        }
        Ok(())
    }

    /// The segment in use.
    pub fn current(&self) -> SegmentSeq {
        self.inner.lock().seq
    }

    /// Blocks that can still be appended to the segment in use, and its capacity.
    pub fn room(&self) -> (u32, u32) {
        let inner = self.inner.lock();
        let used = inner.next_block + 1 + (inner.images.len() / PAGE_LEN) as u32;
        (inner.capacity().saturating_sub(used), inner.capacity())
    }

    /// The last record that anything was appended to.
    pub fn end(&self) -> Lsn {
        let inner = self.inner.lock();
        if inner.operations.is_empty() { Lsn(inner.next_lsn.0.saturating_sub(1)) } else { inner.next_lsn }
    }

    /// Returns when every record up to `lsn` is durable. Callers that come while a sync runs share the next.
    pub fn sync_through(&self, storage: &S, lsn: Lsn) -> Result<()> {
        let mut state = self.sync.lock();
        loop {
            if state.failed {
                return Err(VaultError::ReadOnly);
            }
            if state.synced >= lsn {
                return Ok(());
            }
            if state.running {
                self.synced.wait(&mut state);
                continue;
            }
            state.running = true;
            drop(state);
            let outcome = self.sync_now(storage);
            state = self.sync.lock();
            state.running = false;
            self.synced.notify_all();
            match outcome {
                Ok(synced) => state.synced = state.synced.max(synced),
                Err(error) => {
                    state.failed = true;
                    return Err(error);
                }
            }
        }
    }

    fn sync_now(&self, storage: &S) -> Result<Lsn> {
        let (before, file, last) = {
            let mut inner = self.inner.lock();
            self.flush_locked(storage, &mut inner)?;
            (inner.unsynced.take(), inner.active_file()?, Lsn(inner.next_lsn.0.saturating_sub(1)))
        };
        let failed = |e| VaultError::io("sync the journal", e);
        if let Some(before) = before {
            switches::barrier("journal.sync-previous-segment", || storage.sync_data(&before)).map_err(failed)?;
        }
        switches::barrier("journal.sync", || storage.sync_data(&file)).map_err(failed)?;
        Ok(last)
    }

    fn flush_locked(&self, storage: &S, inner: &mut Inner<S>) -> Result<()> {
        if inner.operations.is_empty() {
            return Ok(());
        }
        let head = RecordHead {
            lsn: inner.next_lsn,
            segment: inner.seq,
            previous: inner.chain,
            synced_through: self.sync.try_lock().map_or(Lsn(0), |state| state.synced),
        };
        let mut descriptor = [0; PAGE_LEN];
        let at = u64::from(inner.next_block);
        let tag = seal_record(&head, &inner.operations, &inner.images, at, &inner.key.key, &mut descriptor)?;
        let file = inner.active_file()?;
        storage
            .write_at(&file, &[IoSlice::new(&descriptor), IoSlice::new(&inner.images)], at * PAGE_BYTES)
            .map_err(|e| VaultError::io("write the journal", e))?;
        inner.next_block += 1 + (inner.images.len() / PAGE_LEN) as u32;
        inner.next_lsn = inner.next_lsn.next();
        inner.chain = tag;
        inner.operations.clear();
        inner.images.clear();
        Ok(())
    }

    /// Whether the other segment is free, so that [`Self::switch`] may be called.
    pub fn other_is_free(&self) -> bool {
        !self.inner.lock().other_busy
    }

    /// Goes on in the other segment, which must be free. What was appended stays valid and unsynced.
    pub fn switch(&self, storage: &S, key: SegmentKey, mark: SessionMark) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.other_busy {
            return Err(VaultError::Internal("the journal's other segment is still in use"));
        }
        self.flush_locked(storage, &mut inner)?;
        let before = inner.active_file()?;
        let other = 1 - inner.active;
        inner.slot(other)?;
        inner.active = other;
        inner.key = key;
        inner.other_busy = true;
        inner.unsynced = Some(before);
        let seq = SegmentSeq(inner.seq.0.saturating_add(1));
        self.begin_segment(storage, &mut inner, seq, mark)
    }

    /// Writes random bytes over the segment that is not in use, which is free: what it held is home, and may be under an
    /// older version of the key.
    pub fn scrub(&self, storage: &S) -> std::io::Result<()> {
        let inner = self.inner.lock();
        let other = 1 - inner.active;
        match &inner.slots[other] {
            Some(slot) if !inner.other_busy => fill(storage, &slot.file, 0, slot.capacity),
            _ => Ok(()),
        }
    }

    /// Declares the segment that is not in use free: its retirement is durable. It grows if it was too small, unless that
    /// would take what is free from the files.
    pub fn free(&self, storage: &S, grow: bool) -> std::io::Result<()> {
        let (other, file, capacity) = {
            let inner = self.inner.lock();
            let other = 1 - inner.active;
            let Some(slot) = &inner.slots[other] else { return Ok(()) };
            (other, slot.file.clone(), slot.capacity)
        };
        let larger = capacity.saturating_mul(4).min(LAST_CAPACITY);
        let mut grown = false;
        if grow && larger > capacity && is_small_beside_what_is_free(storage, u64::from(larger - capacity) * PAGE_BYTES)
        {
            grown = match fill(storage, &file, capacity, larger) {
                Ok(()) => true,
                // It stays as large as it is.
                Err(error) if super::core::is_out_of_space(&error) => false,
                Err(error) => return Err(error),
            };
        }
        let mut inner = self.inner.lock();
        if let Some(slot) = &mut inner.slots[other] {
            if grown {
                slot.capacity = larger;
            }
            inner.other_busy = false;
        }
        Ok(())
    }

    fn begin_segment(&self, storage: &S, inner: &mut Inner<S>, seq: SegmentSeq, mark: SessionMark) -> Result<()> {
        let header = SegmentHeader {
            seq,
            first_lsn: inner.next_lsn,
            session: mark.session,
            durable_epoch: mark.durable_epoch,
            window_start: mark.window_start,
            previous: inner.chain,
        };
        let mut block = [0; PAGE_LEN];
        entropy::fill(&mut block);
        inner.chain = header.seal(&inner.key.id, &inner.key.key, &mut block)?;
        inner.seq = seq;
        inner.next_block = 1;
        let file = inner.active_file()?;
        write_from(storage, &file, &block, 0).map_err(|e| VaultError::io("write the journal", e))
    }

    /// The one before the segment in use, where it has records that count.
    pub fn segment_before(&self) -> Option<SegmentSeq> {
        let inner = self.inner.lock();
        let is_there = inner.other_busy && inner.slots.get(1 - inner.active.min(1)).is_some_and(Option::is_some);
        is_there.then(|| SegmentSeq(inner.seq.0.saturating_sub(1)))
    }

    /// The slot of the segment in use.
    pub fn active_slot(&self) -> usize {
        self.inner.lock().active
    }
}

/// Removes a journal's files, durably: everything in them is home and synced. The segment in use goes last, since
/// the older one alone would be taken for a journal that has not been applied.
pub(crate) fn remove_segments<S: Storage>(storage: &S, private: &S::Dir, active: usize) -> Result<()> {
    for slot in [1 - active.min(1), active.min(1)] {
        let name = SEGMENT_NAMES.get(slot).copied().unwrap_or(SEGMENT_NAMES[0]);
        match storage.unlink(private, name.as_ref()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(VaultError::io("remove the journal", error)),
            Ok(()) => storage.sync_dir(private).map_err(|e| VaultError::io("sync the private folder", e))?,
        }
    }
    Ok(())
}

impl<S: Storage> Inner<S> {
    fn slot(&self, index: usize) -> Result<&Slot<S>> {
        self.slots.get(index).and_then(Option::as_ref).ok_or(VaultError::Internal("a journal segment is not open"))
    }

    fn active_file(&self) -> Result<Arc<S::File>> {
        Ok(self.slot(self.active)?.file.clone())
    }

    fn file_of(&self, segment: SegmentSeq) -> Result<Arc<S::File>> {
        let index = if segment == self.seq { self.active } else { 1 - self.active };
        Ok(self.slot(index)?.file.clone())
    }

    fn capacity(&self) -> u32 {
        self.slots.get(self.active).and_then(Option::as_ref).map_or(0, |slot| slot.capacity)
    }
}

/// Creates a segment, written over its whole length so that later writes change no metadata.
fn make_segment<S: Storage>(storage: &S, private: &S::Dir, index: usize) -> Result<Slot<S>> {
    let name = SEGMENT_NAMES.get(index).copied().unwrap_or(SEGMENT_NAMES[0]);
    let failed = |e| VaultError::io("create the journal", e);
    let file = storage.create_file(private, name.as_ref(), 0o600).map_err(failed)?;
    let made = fill(storage, &file, 0, FIRST_CAPACITY).and_then(|()| storage.sync_file(&file));
    if let Err(error) = made {
        // Nothing is in it yet: leave no half segment behind.
        let _ = storage.unlink(private, name.as_ref());
        return Err(failed(error));
    }
    Ok(Slot { file: Arc::new(file), capacity: FIRST_CAPACITY })
}

/// The journal is there to make things faster: on a nearly full disk that is worth less than room.
fn is_small_beside_what_is_free<S: Storage>(storage: &S, bytes: u64) -> bool {
    storage.space().is_ok_and(|space| space.blocks_available.saturating_mul(space.block_size) / 8 >= bytes)
}

/// Writes random bytes from block `from` up to block `to`, and syncs them.
fn fill<S: Storage>(storage: &S, file: &S::File, from: u32, to: u32) -> std::io::Result<()> {
    const CHUNK_BLOCKS: u32 = 256;
    let mut key = [0; 32];
    entropy::fill(&mut key);
    let key = AeadKey::new(&key);
    let mut chunk = vec![0; CHUNK_BLOCKS as usize * PAGE_LEN];
    let mut block = from;
    while block < to {
        let count = CHUNK_BLOCKS.min(to - block);
        // The ciphertext of zeros under a key that nobody keeps.
        let bytes = &mut chunk[..count as usize * PAGE_LEN];
        bytes.fill(0);
        let nonce = entropy::array();
        key.seal(&nonce, &[], bytes).map_err(|_| std::io::Error::from_raw_os_error(libc::EIO))?;
        let written = write_from(storage, file, bytes, u64::from(block) * PAGE_BYTES);
        if let Err(error) = written {
            let _ = storage.set_len(file, u64::from(from) * PAGE_BYTES);
            return Err(error);
        }
        block += count;
    }
    storage.sync_file(file)
}

//! Open files: open, read, write, flush, release, fsync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{FsError, Result};
use super::node::Node;
use super::types::{Attr, Caller, FileHandle, InodeNo};
use super::{Fs, MAX_FILE_LEN};
use crate::vault::{FileKind, SetTime, Storage, Timestamp, VaultFile};

/// How old an access time may become before a read renews it (`relatime`).
const ACCESS_TIME_KEPT_SECONDS: i64 = 24 * 60 * 60;

/// The longest tick of the clock by which the kernel dates changes (100 in a second).
const KERNEL_TICK_NANOSECONDS: u32 = 10_000_000;

/// An open file.
pub(super) struct OpenFile<S: Storage> {
    pub node: Arc<Node<S>>,
    pub file: Arc<VaultFile<S>>,
    /// Who opened it.
    pub opener: Caller,
    /// A read through this handle was noted.
    read: AtomicBool,
}

impl<S: Storage> OpenFile<S> {
    /// Has what was written reach the backing; not synced.
    pub fn commit(&self) -> Result<()> {
        let changed = self.node.uncommitted.swap(false, Ordering::AcqRel);
        let outcome = self.file.commit();
        if outcome.is_err() && changed {
            self.node.uncommitted.store(true, Ordering::Release);
        }
        if changed {
            self.node.touch();
        }
        Ok(outcome?)
    }
}

impl<S: Storage> Fs<S> {
    /// Opens a regular file; `O_TRUNC` is done here. The access mode is not looked at: with a writeback cache the
    /// kernel reads through handles that were opened for writing, and it has checked what the caller may do.
    pub fn open(&self, caller: &Caller, ino: InodeNo, flags: i32) -> Result<FileHandle> {
        let node = self.table.get(ino)?;
        match node.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            FileKind::Symlink => return Err(FsError::IsSymlink),
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Unknown => {
                return Err(FsError::Invalid);
            }
        }
        let truncates = flags & libc::O_TRUNC != 0;
        if truncates || flags & libc::O_ACCMODE != libc::O_RDONLY {
            self.check_writable()?;
        }
        let file = self.vault_file(&node)?;
        if truncates {
            let told = node.last_attr().mtime;
            self.truncate_file(caller, &node, &file, 0)?;
            if is_within(told, self.now(), KERNEL_TICK_NANOSECONDS) {
                // The kernel's clock may not have moved since: then it sees no change of the time, and tells none.
                file.set_times(SetTime::Keep, SetTime::To(told))?;
            }
        }
        Ok(self.new_file_handle(caller, &node, file))
    }

    /// A handle on an open file. The kernel has a reference to the node, so that it is in the table.
    pub(super) fn new_file_handle(&self, caller: &Caller, node: &Arc<Node<S>>, file: Arc<VaultFile<S>>) -> FileHandle {
        self.table.hold(node);
        let file = node.opened(file);
        let file = OpenFile { node: node.clone(), file, opener: *caller, read: AtomicBool::new(false) };
        let handle = self.new_handle();
        self.files.insert(handle, Arc::new(file));
        handle
    }

    pub(super) fn file(&self, handle: FileHandle) -> Result<Arc<OpenFile<S>>> {
        self.files.get(&handle).map(|file| file.value().clone()).ok_or(FsError::UnknownHandle)
    }

    /// Reads into `out`, less than it takes only at the end of the file; returns how many bytes.
    pub fn read(&self, handle: FileHandle, offset_bytes: u64, out: &mut [u8]) -> Result<usize> {
        let open = self.file(handle)?;
        let read = open.file.read(offset_bytes, out)?;
        if !open.read.swap(true, Ordering::Relaxed) {
            self.note_access(&open.node);
        }
        Ok(read)
    }

    /// Where a read renews the access time at the backing, it is to be asked for again.
    pub(super) fn note_access(&self, node: &Node<S>) {
        if renews_access_time(&node.last_attr(), self.now()) {
            node.touch();
        }
    }

    /// Writes all of `data`. `kill_suid`: the caller may not leave a set-user-id bit behind a write.
    pub fn write(
        &self,
        caller: &Caller,
        handle: FileHandle,
        offset_bytes: u64,
        data: &[u8],
        kill_suid: bool,
    ) -> Result<usize> {
        let open = self.file(handle)?;
        self.write_with(caller, &open, offset_bytes, data, kill_suid, Some(self.now()))
    }

    /// Writes what the kernel had cached: when the file was modified, the kernel says by itself ([`Self::setattr`]).
    pub fn write_back(
        &self,
        caller: &Caller,
        handle: FileHandle,
        offset_bytes: u64,
        data: &[u8],
        kill_suid: bool,
    ) -> Result<usize> {
        let open = self.file(handle)?;
        let outcome = self.write_with(caller, &open, offset_bytes, data, kill_suid, None);
        if let Err(error) = &outcome
            && (open.node.last_attr().nlink > 0 || open.file.is_unnamed())
        {
            let end_bytes = offset_bytes.saturating_add(data.len() as u64);
            self.losses.lost(open.node.ino, offset_bytes, end_bytes, error);
        }
        outcome
    }

    /// `modified` None: the time of modification stays.
    fn write_with(
        &self,
        caller: &Caller,
        open: &OpenFile<S>,
        offset_bytes: u64,
        data: &[u8],
        kill_suid: bool,
        modified: Option<Timestamp>,
    ) -> Result<usize> {
        let end_bytes =
            offset_bytes.checked_add(data.len() as u64).filter(|end| *end <= MAX_FILE_LEN).ok_or(FsError::TooLarge)?;
        if data.is_empty() {
            return Ok(0);
        }
        if kill_suid {
            self.drop_privileges(caller, &open.node)?;
            self.drop_capabilities(&open.node)?;
        }
        let _content = open.node.content.read();
        let outcome = match modified {
            Some(_) => open.file.write(offset_bytes, data),
            None => open.file.write_back(offset_bytes, data),
        };
        match outcome {
            Ok(()) => {
                open.node.wrote(end_bytes, modified);
                self.room.written(data.len());
                self.losses.written(open.node.ino, offset_bytes, end_bytes);
                Ok(data.len())
            }
            Err(error) => {
                // Part of it may have been written.
                open.node.wrote(open.file.len_bytes(), modified);
                Err(self.noted(error.into()))
            }
        }
    }

    /// An error that may be the backing's lack of room.
    pub(super) fn noted(&self, error: FsError) -> FsError {
        if matches!(error.errno(), libc::ENOSPC | libc::EDQUOT) {
            self.room.refused();
        }
        error
    }

    /// Closes a handle.
    pub fn release(&self, handle: FileHandle) -> Result<()> {
        let (_, open) = self.files.remove(&handle).ok_or(FsError::UnknownHandle)?;
        let outcome = open.commit();
        if open.node.closed().is_some_and(|file| file.is_unnamed()) {
            // Nobody misses anything of it.
            self.losses.removed(open.node.ino);
        }
        self.table.release(&open.node);
        outcome.map_err(|error| self.noted(error))
    }

    /// Makes a file durable: content, attributes, and the names that lead to it.
    pub fn fsync(&self, handle: FileHandle, _data_only: bool) -> Result<()> {
        let open = self.file(handle)?;
        open.file.sync()?;
        if open.node.uncommitted.swap(false, Ordering::AcqRel) {
            open.node.touch();
        }
        self.sync_names(&open.node)
    }

    /// Syncs the directories that an inode has its names in, and those above as far as they are not known
    /// to be durable. POSIX does not ask for it, but Linux programs rely on a new file being there after its fsync.
    fn sync_names(&self, node: &Arc<Node<S>>) -> Result<()> {
        let mut unsynced = vec![node.clone()];
        let mut synced = Vec::new();
        while let Some(node) = unsynced.pop() {
            // Before the names are looked at: a rename from now on counts again.
            let Some(change) = node.unsynced_names() else { continue };
            if node.has_more_names() {
                // Wherever they are.
                self.vault.sync_names()?;
                synced.push((node, change));
                continue;
            }
            for name in node.all_names() {
                self.sync_directory(&name.parent)?;
                unsynced.push(name.parent);
            }
            synced.push((node, change));
        }
        // Not before all of it is durable: others would not sync what is above.
        for (node, change) in synced {
            node.names_synced(change);
        }
        Ok(())
    }

    /// Makes the entries of a directory durable, unless they are.
    pub(super) fn sync_directory(&self, node: &Arc<Node<S>>) -> Result<()> {
        let folder = node.folder()?;
        if let Some(change) = folder.unsynced_change() {
            self.directory(node)?.sync()?;
            folder.synced(change);
        }
        Ok(())
    }
}

/// Whether two times are at most so many nanoseconds (less than a second) apart. What the kernel told may be later than
/// our clock, which moves with its ticks: since Linux 6.13 the kernel's own is ahead of it once somebody has looked at a
/// time that was just set.
fn is_within(then: Timestamp, now: Timestamp, nanoseconds: u32) -> bool {
    let seconds = now.seconds.saturating_sub(then.seconds);
    let passed = seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(now.nanoseconds));
    passed.saturating_sub(i64::from(then.nanoseconds)).unsigned_abs() <= u64::from(nanoseconds)
}

/// Whether Linux, with its default `relatime`, writes the access time for a read now.
fn renews_access_time(attr: &Attr, now: Timestamp) -> bool {
    attr.atime <= attr.mtime
        || attr.atime <= attr.ctime
        || now.seconds.saturating_sub(attr.atime.seconds) >= ACCESS_TIME_KEPT_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_near_on_either_side() {
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        for (now, near) in [
            (time(7, 500), true),
            (time(7, 600), true),
            (time(7, 601), false),
            (time(7, 400), true),
            (time(7, 399), false),
            (time(8, 500), false),
            (time(6, 500), false),
            (time(i64::MAX, 0), false),
            (time(i64::MIN, 0), false),
        ] {
            assert_eq!(is_within(time(7, 500), now, 100), near, "{now:?}");
        }
        assert!(is_within(time(7, 0), time(6, 999_999_999), 1), "across a second");
    }
}

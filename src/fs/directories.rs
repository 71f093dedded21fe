//! Listings: opendir, readdir, readdirplus.

use std::ffi::OsStr;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::Fs;
use super::error::{FsError, Result};
use super::node::Node;
use super::types::{DirEntry, DirEntryPlus, Entry, FileHandle, InodeNo};
use crate::vault::{FileKind, ListEntry, Listing, Storage};

/// An open directory.
pub(super) struct OpenDirectory<S: Storage> {
    node: Arc<Node<S>>,
    /// Opened at the first use.
    listing: OnceLock<Listing<S>>,
    /// What went wrong after entries had been delivered, and the offset of the call that is to hear of it.
    pending: Mutex<Option<(u64, FsError)>>,
}

/// A listing as it goes: the offset after the last accepted entry.
struct Progress {
    next_cookie: u64,
    delivered: bool,
    full: bool,
}

impl<S: Storage> Fs<S> {
    /// Opens a directory for listing.
    pub fn opendir(&self, ino: InodeNo) -> Result<FileHandle> {
        let node = self.table.get(ino)?;
        if !node.folder()?.is_removed() {
            // What is wrong with the directory is said here.
            self.directory(&node)?;
        }
        self.table.hold(&node);
        let handle = self.new_handle();
        let directory = OpenDirectory { node, listing: OnceLock::new(), pending: Mutex::new(None) };
        self.directories.insert(handle, Arc::new(directory));
        Ok(handle)
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: FileHandle) -> Result<()> {
        let (_, open) = self.directories.remove(&handle).ok_or(FsError::UnknownHandle)?;
        self.table.release(&open.node);
        Ok(())
    }

    /// Makes the entries of a directory durable.
    pub fn fsyncdir(&self, handle: FileHandle) -> Result<()> {
        let open = self.open_directory(handle)?;
        let folder = open.node.folder()?;
        if folder.is_removed() {
            return Ok(());
        }
        // Also if no name in it was changed: its own attributes may have been.
        let change = folder.last_change();
        self.directory(&open.node)?.sync()?;
        folder.synced(change);
        Ok(())
    }

    /// Lists entries from `offset` on (0: from the start) until `sink` does not accept one. An error after the
    /// first entry is reported by the next call.
    pub fn readdir(&self, handle: FileHandle, offset: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let open = self.open_directory(handle)?;
        let directory = self.directory(&open.node).ok().cloned();
        self.list(&open, offset, &mut |ino, entry, next_cookie| {
            let kind = match (entry.kind, &directory) {
                // The backing does not say in listings; it is no secret.
                (FileKind::Unknown, Some(directory)) => {
                    directory.lookup(entry.name).map_or(entry.kind, |stat| stat.kind())
                }
                (kind, _) => kind,
            };
            Ok(sink(DirEntry { ino, kind, name: entry.name, next_cookie }))
        })
    }

    /// Lists entries with their attributes. An entry that is not accepted was not handed out.
    pub fn readdirplus(
        &self,
        handle: FileHandle,
        offset: u64,
        sink: &mut dyn FnMut(DirEntryPlus<'_>) -> bool,
    ) -> Result<()> {
        let open = self.open_directory(handle)?;
        let node = &open.node;
        let own = Entry { attr: node.last_attr(), generation: node.generation };
        // Names stay where they are while their inodes are looked up.
        let _names = node.folder()?.names.read();
        self.list(&open, offset, &mut |ino, listed, next_cookie| {
            if is_dot(listed.name) {
                // The kernel takes no reference for these.
                let mut entry = own;
                entry.attr.ino = ino;
                return Ok(sink(DirEntryPlus { entry, name: listed.name, next_cookie }));
            }
            let entry = match self.lookup_by(node, listed.name, |directory| directory.lookup_listed(listed)) {
                Ok(entry) => entry,
                // Removed since it was read.
                Err(error) if error.is_not_found() => return Ok(true),
                Err(error) => return Err(error),
            };
            let accepted = sink(DirEntryPlus { entry, name: listed.name, next_cookie });
            if !accepted {
                self.table.forget(entry.attr.ino, 1);
            }
            Ok(accepted)
        })
    }

    /// Lists entries in order; `sink` gets each with its number and the offset after it. An entry for which `sink`
    /// fails is left out, and the error is reported at the end.
    fn list(
        &self,
        open: &OpenDirectory<S>,
        offset: u64,
        sink: &mut dyn FnMut(InodeNo, &ListEntry<'_>, u64) -> Result<bool>,
    ) -> Result<()> {
        let pending = open.pending.lock().take();
        if let Some((at, error)) = pending
            && at == offset
        {
            return Err(error);
        }
        let mut progress = Progress { next_cookie: offset, delivered: false, full: false };
        let outcome = self.list_until_error(open, offset, &mut progress, sink);
        if offset == 0 {
            self.note_access(&open.node);
        }
        match outcome {
            Err(error) if progress.delivered => {
                *open.pending.lock() = Some((progress.next_cookie, error));
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn list_until_error(
        &self,
        open: &OpenDirectory<S>,
        offset: u64,
        progress: &mut Progress,
        sink: &mut dyn FnMut(InodeNo, &ListEntry<'_>, u64) -> Result<bool>,
    ) -> Result<()> {
        if open.node.folder()?.is_removed() {
            return Ok(());
        }
        let mut first_error = None;
        let mut deliver = |ino, entry: &ListEntry<'_>, next_cookie| match sink(ino, entry, next_cookie) {
            Ok(true) => {
                progress.next_cookie = next_cookie;
                progress.delivered = true;
                true
            }
            Ok(false) => {
                progress.full = true;
                false
            }
            Err(error) => {
                first_error.get_or_insert(error);
                progress.next_cookie = next_cookie;
                true
            }
        };
        for (cookie, name, ino) in [(0, b".".as_slice(), open.node.ino), (1, b"..", parent_of(&open.node))] {
            let next_cookie = cookie + 1;
            let dot = ListEntry { name, entry: OsStr::new(""), ino: ino.0, kind: FileKind::Directory, next_cookie };
            if offset <= cookie && !deliver(ino, &dot, next_cookie) {
                return Ok(());
            }
        }
        let listing = match open.listing.get() {
            Some(listing) => listing,
            None => {
                let listing = self.directory(&open.node)?.open_listing()?;
                open.listing.get_or_init(|| listing)
            }
        };
        let listed = listing.next(cookies::decode(offset), &mut |entry| {
            deliver(self.table.number(entry.ino), &entry, cookies::encode(entry.next_cookie))
        });
        match (listed, first_error) {
            (Err(error), _) => Err(error.into()),
            // Reported once the entries that were good are through.
            (Ok(()), Some(error)) => Err(error),
            (Ok(()), None) => Ok(()),
        }
    }

    fn open_directory(&self, handle: FileHandle) -> Result<Arc<OpenDirectory<S>>> {
        self.directories.get(&handle).map(|open| open.value().clone()).ok_or(FsError::UnknownHandle)
    }
}

fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

fn parent_of<S: Storage>(node: &Node<S>) -> InodeNo {
    node.any_name().map_or(node.ino, |name| name.parent.ino)
}

/// Offsets of a listing: 1 and 2 stand after "." and "..", which the backing's listing is without; everything
/// else is the backing's own cookie, so that it means the same in every call, whatever was removed or added.
mod cookies {
    /// The offset after "..": the start of the backing's listing.
    const START: u64 = 2;

    /// What stands for the backing's cookies 1 and 2, should it use them. No backing is known to use these:
    /// ext4's cookies are hashes whose upper half is below 0x7fff_ffff, others count from the start.
    const INSTEAD: u64 = 0x7fff_ffff_5e70_0000;

    pub(super) fn encode(backing: u64) -> u64 {
        match backing {
            1 | 2 => INSTEAD | backing,
            other => other,
        }
    }

    pub(super) fn decode(offset: u64) -> u64 {
        match offset {
            0..=START => 0,
            other if other == INSTEAD | 1 || other == INSTEAD | 2 => other & 3,
            other => other,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_cookies_of_the_backing_come_back_as_they_were() {
            for cookie in [1, 2, 3, 4, 1 << 31, u64::from(u32::MAX), i64::MAX as u64, i64::MAX as u64 - 1] {
                assert_eq!(decode(encode(cookie)), cookie);
                assert!(encode(cookie) > START, "{cookie} looks like a dot");
            }
        }

        #[test]
        fn the_dots_come_before_the_listing() {
            assert_eq!([0, 1, 2].map(decode), [0, 0, 0]);
        }
    }
}

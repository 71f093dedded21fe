//! [`WriteThrough`]: files that are written past the kernel's cache, while the backing is nearly full.
//!
//! What waits in the cache is accepted before anyone knows whether there is room for it. So a file that is opened for
//! writing when there is little is opened for direct I/O: each `write(2)` waits for our answer, and is told what it is.
//!
//! With its writeback cache the kernel keeps the modification time by itself, and Linux (6.18) forgets to move it at such
//! a write. So when the file is closed it is made to forget the inode, and asks for it anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::{DashMap, DashSet};

use super::transport::{self, Agreement, Device, init};
use crate::fs::InodeNo;

#[derive(Default)]
pub(super) struct WriteThrough {
    /// The kernel lets such files be mapped.
    mappable: AtomicBool,
    /// Handles, and whether something was written by them.
    handles: DashMap<u64, bool>,
    /// Inodes that the kernel will be made to ask anew for.
    due: DashSet<u64>,
}

impl WriteThrough {
    /// What the kernel can was settled.
    pub(super) fn agreed(&self, agreement: &Agreement) {
        self.mappable.store(agreement.taken & init::DIRECT_IO_ALLOW_MMAP != 0, Ordering::Relaxed);
    }

    /// Whether a file that is opened so can be written through: not what may be mapped, if the kernel cannot do both.
    pub(super) fn may_open(&self, flags: i32) -> bool {
        self.mappable.load(Ordering::Relaxed) || flags & libc::O_ACCMODE == libc::O_WRONLY
    }

    pub(super) fn opened(&self, handle: u64) {
        self.handles.insert(handle, false);
    }

    /// Something was written, and not out of the kernel's cache.
    pub(super) fn written(&self, handle: u64) {
        if let Some(mut written) = self.handles.get_mut(&handle) {
            *written = true;
        }
    }

    /// True if the handle was opened so, and something was written by it.
    pub(super) fn released(&self, handle: u64) -> bool {
        self.handles.remove(&handle).is_some_and(|(_, written)| written)
    }

    /// The kernel is to ask anew for an inode; true unless it is waited for already.
    pub(super) fn refresh_is_due(&self, node: u64) -> bool {
        self.due.insert(node)
    }

    /// It begins: what is written from here on needs another.
    pub(super) fn refresh_begins(&self, node: u64) {
        self.due.remove(&node);
    }
}

/// Has the kernel ask anew for an inode.
pub(super) fn refresh(device: &Device, node: u64, names: &[(InodeNo, Arc<[u8]>)]) {
    // Who reads beside a direct write may have brought old content into the cache.
    let mut outcome = transport::invalidate(device, node);
    for (parent, name) in names {
        outcome = outcome.and(transport::invalidate_name(device, parent.0, name));
    }
    if let Err(error) = outcome {
        // Unmounted, removed or forgotten meanwhile.
        log::debug!("a file that was written through was not refreshed: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_through_is_refreshed() {
        let through = WriteThrough::default();
        through.opened(7);
        through.opened(8);
        through.written(8);
        through.written(9);
        assert!(!through.released(7) && through.released(8) && !through.released(9));
        assert!(!through.released(8));
    }

    #[test]
    fn without_mappings_only_what_cannot_be_mapped() {
        let through = WriteThrough::default();
        assert!(through.may_open(libc::O_WRONLY | libc::O_APPEND) && !through.may_open(libc::O_RDWR));
    }
}

//! [`WriteThrough`]: files that are written past the kernel's cache, while the backing is nearly full.
//!
//! What waits in the cache is accepted before anyone knows whether there is room for it. So a file that is opened for
//! writing when there is little is opened for direct I/O: each `write(2)` waits for our answer, and is told what it is.
//!
//! With its writeback cache the kernel keeps the modification time by itself, and Linux (6.18) forgets to move it at such
//! a write. So when the file is closed the kernel is made to forget the inode, and asks for it anew. Whoever has it open, or
//! looks at it at that moment (the kernel does until it has our answer to the RELEASE), keeps it from that: it is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use super::background::Background;
use super::transport::{self, Agreement, init};
use crate::fs::{InodeNo, SharedName};

/// How often the kernel is asked to forget an inode after it was closed.
const ATTEMPTS: u32 = 9;
/// Before the second time; twice as long before each other.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// What a file is called: directories, and names in them.
pub(super) type Names = Vec<(InodeNo, SharedName)>;

#[derive(Default)]
pub(super) struct WriteThrough {
    /// The kernel lets such files be mapped.
    mappable: AtomicBool,
    /// Handles, and whether something was written by them.
    handles: DashMap<u64, bool>,
    /// Inodes of which the kernel keeps another time than the file has, and how often it was asked to forget them.
    stale: DashMap<u64, u32>,
}

impl WriteThrough {
    /// What the kernel can was settled.
    pub(super) fn agreed(&self, agreement: &Agreement) {
        self.mappable.store(agreement.taken & init::DIRECT_IO_ALLOW_MMAP != 0, Ordering::Relaxed);
    }

    /// Whether files can be written through: kernels that cannot map such files (before Linux 6.6) neither write back nor
    /// drop what of them is in the cache.
    pub(super) fn is_possible(&self) -> bool {
        self.mappable.load(Ordering::Relaxed)
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

    /// True if the inode is to be refreshed, perhaps for what was written by this handle, and nobody is about to.
    pub(super) fn released(&self, node: u64, handle: u64) -> bool {
        let written = self.handles.remove(&handle).is_some_and(|(_, written)| written);
        match self.stale.get_mut(&node) {
            Some(mut attempts) => std::mem::take(&mut *attempts) == ATTEMPTS,
            None if written => self.stale.insert(node, 0).is_none(),
            None => false,
        }
    }

    /// The kernel has nothing of the inode any more.
    pub(super) fn forgotten(&self, node: u64) {
        self.stale.remove(&node);
    }

    /// One attempt more at an inode that is stale, if there is one to be made; how long to wait for the next.
    fn attempt(&self, node: u64) -> Option<Duration> {
        let mut attempts = self.stale.get_mut(&node).filter(|attempts| **attempts < ATTEMPTS)?;
        let pause = FIRST_PAUSE.saturating_mul(1 << *attempts);
        *attempts += 1;
        Some(pause)
    }
}

/// Has the kernel ask anew for an inode, in `background` after a pause, until it has; `names` finds what it is called.
pub(super) fn refresh(
    pause: Duration,
    through: Arc<WriteThrough>,
    background: Background,
    node: u64,
    names: impl Fn() -> Names + Send + 'static,
) {
    background.clone().run_after(pause, move |device| {
        // In this order: whoever gives it another name from here on is seen the next time.
        let Some(pause) = through.attempt(node) else { return };
        let names_now = names();
        // Who reads beside a direct write may have brought old content into the cache.
        transport::invalidate(device, node);
        for (parent, name) in names_now {
            transport::invalidate_name(device, parent.0, &name);
        }
        refresh(pause, through, background, node, names);
    });
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
        assert!(!through.released(1, 7) && through.released(2, 8) && !through.released(3, 9));
        assert!(!through.released(2, 8), "somebody is about to");
        assert_eq!((through.attempt(1), through.attempt(2)), (None, Some(FIRST_PAUSE)));
        through.forgotten(2);
        assert_eq!(through.attempt(2), None);
        assert!(!through.released(2, 8));
    }

    /// Another program may have the file open, and keep the kernel from forgetting it, for as long as it likes.
    #[test]
    fn a_stale_inode_is_refreshed_for_some_time_after_each_close() {
        let through = WriteThrough::default();
        through.opened(7);
        through.written(7);
        assert!(through.released(1, 7));
        let pauses: Vec<_> = std::iter::from_fn(|| through.attempt(1)).collect();
        assert_eq!((pauses.len(), pauses.last()), (ATTEMPTS as usize, Some(&Duration::from_millis(256))));
        assert!(through.released(1, 8), "a reader");
        assert!(!through.released(1, 9) && through.attempt(1).is_some());
    }
}

//! What the directories of one vault share: which are in memory, which are open, and which changed since they
//! were last synced.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::{Directory, PRIVATE, TREE};
use crate::storage::Storage;
use crate::vault::error::{Result, VaultError};

/// Directories kept open: the limit on descriptors of a process can be as low as 20,000.
const OPEN_MAX: usize = 1024;

/// See the module's documentation.
pub(crate) struct Tree<S: Storage> {
    private: S::Dir,
    has_private: bool,
    /// Every directory in memory, by its backing inode.
    live: Mutex<HashMap<u64, Weak<Directory<S>>>>,
    /// The open ones but the top, each once, in the order in which they are considered for closing.
    open: Mutex<VecDeque<Weak<Directory<S>>>>,
    /// Shared: the places of directories are being followed. Alone: one is being moved or removed.
    pub(super) moves: RwLock<()>,
    /// Directories that must be synced before something becomes durable that depends on them.
    pub(super) unsettled: Mutex<Vec<Arc<Directory<S>>>>,
    /// Held while they are.
    pub(super) settling: Mutex<()>,
    open_max: usize,
}

/// A directory's handle, if it is open.
pub(super) struct Slot<S: Storage> {
    handle: RwLock<Option<Arc<S::Dir>>>,
    /// Since it was last considered for closing.
    used: AtomicBool,
}

impl<S: Storage> Default for Slot<S> {
    fn default() -> Self {
        Self { handle: RwLock::new(None), used: AtomicBool::new(false) }
    }
}

impl<S: Storage> Slot<S> {
    pub fn get(&self) -> Option<Arc<S::Dir>> {
        let handle = self.handle.read().clone();
        if handle.is_some() && !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        handle
    }

    /// Returns whether there was none before.
    pub fn keep(&self, handle: Arc<S::Dir>) -> bool {
        self.handle.write().replace(handle).is_none()
    }

    pub fn close(&self) {
        self.handle.write().take();
    }

    fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

impl<S: Storage> Tree<S> {
    /// The tree of a vault, at rest in memory.
    pub fn open(storage: &S) -> Result<Self> {
        let top = storage.open_root().map_err(|e| VaultError::io("open the vault's directory", e))?;
        let private = storage.open_dir(&top, PRIVATE.as_ref()).map_err(|error| missing(PRIVATE, error))?;
        Ok(Self::with_private(private, true))
    }

    /// The tree of a vault whose private folder cannot be opened: for reading. In its place stands the top of the
    /// tree, where none of the folder's files can be found.
    pub fn open_without_private(storage: &S) -> Result<Self> {
        Ok(Self::with_private(open_top(storage)?, false))
    }

    fn with_private(private: S::Dir, has_private: bool) -> Self {
        Self {
            private,
            has_private,
            live: Mutex::default(),
            open: Mutex::default(),
            moves: RwLock::new(()),
            unsettled: Mutex::default(),
            settling: Mutex::new(()),
            open_max: OPEN_MAX,
        }
    }

    /// Whether the private folder is there.
    pub const fn has_private(&self) -> bool {
        self.has_private
    }

    /// The vault's private folder, held open for good.
    pub fn private(&self) -> &S::Dir {
        &self.private
    }

    /// Lets go of what may hold the vault: to be called when it is sealed or dropped.
    pub fn release(&self) {
        let released = std::mem::take(&mut *self.unsettled.lock());
        drop(released);
    }

    pub(super) fn find(&self, ino: u64) -> Option<Arc<Directory<S>>> {
        self.live.lock().get(&ino).and_then(Weak::upgrade)
    }

    /// Enters a new directory; returns the one that is to be used, as somebody else may have been first.
    pub(super) fn enter(&self, directory: Arc<Directory<S>>) -> Arc<Directory<S>> {
        let known = {
            let mut live = self.live.lock();
            let known = live.get(&directory.ino).and_then(Weak::upgrade);
            if known.is_none() {
                live.insert(directory.ino, Arc::downgrade(&directory));
            }
            known
        };
        // Dropped outside of the lock, which its drop takes.
        known.unwrap_or(directory)
    }

    /// Enters a directory that was just made: what was known by its inode number is gone.
    pub(super) fn enter_new(&self, directory: &Arc<Directory<S>>) {
        let stale = self.live.lock().insert(directory.ino, Arc::downgrade(directory)).and_then(|known| known.upgrade());
        if let Some(stale) = stale {
            stale.is_gone();
        }
    }

    /// A directory is being dropped, or was removed.
    pub(super) fn leave(&self, directory: &Directory<S>) {
        let mut live = self.live.lock();
        if live.get(&directory.ino).is_some_and(|entered| std::ptr::eq(entered.as_ptr(), directory)) {
            live.remove(&directory.ino);
        }
    }

    /// Keeps a directory open, and closes another if there are too many.
    pub(super) fn keep_open(&self, directory: &Arc<Directory<S>>, handle: Arc<S::Dir>) {
        if !directory.handle.keep(handle) {
            return;
        }
        let mut open = self.open.lock();
        open.push_back(Arc::downgrade(directory));
        // A second chance for those that were used meanwhile; two rounds find one in any case.
        let mut looks = open.len().saturating_mul(2);
        let mut dropped = Vec::new();
        while open.len() > self.open_max && looks > 0 {
            looks = looks.saturating_sub(1);
            let Some(next) = open.pop_front() else { break };
            let Some(candidate) = next.upgrade() else { continue };
            if candidate.handle.was_used() {
                open.push_back(next);
            } else {
                candidate.handle.close();
            }
            // The last reference may be this one.
            dropped.push(candidate);
        }
        drop(open);
        drop(dropped);
    }

    /// How many directories are open, and may be.
    pub fn open_directories(&self) -> (usize, usize) {
        let open = self.open.lock().iter().filter(|directory| directory.strong_count() > 0).count();
        (open, self.open_max)
    }
}

/// Opens the tree's top directory.
pub(super) fn open_top<S: Storage>(storage: &S) -> Result<S::Dir> {
    let top = storage.open_root().map_err(|e| VaultError::io("open the vault's directory", e))?;
    storage.open_dir(&top, TREE.as_ref()).map_err(|error| missing(TREE, error))
}

fn missing(folder: &str, error: std::io::Error) -> VaultError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => {
            VaultError::NotAVault { reason: format!("its folder \"{folder}\" is missing") }
        }
        _ => VaultError::io("open a folder of the vault", error),
    }
}

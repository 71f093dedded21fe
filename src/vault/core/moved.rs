//! What was renamed or linked while somebody goes through the tree, a rotation, or who looks for what a crash left: it may
//! have been moved from where they had not been to where they had.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::storage::Storage;
use crate::vault::directory::Directory;

/// See the module's documentation. By the directory's inode.
pub(crate) struct Moved<S: Storage> {
    watching: AtomicBool,
    /// Held shared while something is renamed or linked, alone by a rotation that is about to end. Before the names of
    /// a directory.
    pub gate: RwLock<()>,
    directories: Mutex<HashMap<u64, (Arc<Directory<S>>, bool)>>,
    /// Directories that got another name.
    moves: AtomicU64,
}

impl<S: Storage> Default for Moved<S> {
    fn default() -> Self {
        Self {
            watching: AtomicBool::new(false),
            gate: RwLock::new(()),
            directories: Mutex::default(),
            moves: AtomicU64::new(0),
        }
    }
}

impl<S: Storage> Moved<S> {
    /// Begins anew, or ends.
    pub fn watch(&self, watching: bool) {
        self.watching.store(watching, Ordering::Release);
        drop(self.take());
    }

    /// Something other than a directory got a name in this one.
    pub fn name_in(&self, directory: &Arc<Directory<S>>) {
        self.note(directory, false);
    }

    /// This directory got another name.
    pub fn whole(&self, directory: &Arc<Directory<S>>) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        self.note(directory, true);
    }

    /// How many directories got another name so far; none is in the midst of it.
    pub fn moves(&self) -> u64 {
        let _nothing_moves = self.gate.write();
        self.moves.load(Ordering::Relaxed)
    }

    fn note(&self, directory: &Arc<Directory<S>>, whole: bool) {
        if self.watching.load(Ordering::Acquire) {
            let mut directories = self.directories.lock();
            let (_, known) = directories.entry(directory.ino()).or_insert_with(|| (directory.clone(), whole));
            *known |= whole;
        }
    }

    /// What was noted: a directory, and whether all below it is meant.
    pub fn take(&self) -> Vec<(Arc<Directory<S>>, bool)> {
        let taken = std::mem::take(&mut *self.directories.lock());
        taken.into_values().collect()
    }
}

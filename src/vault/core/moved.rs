//! What was renamed or linked while a rotation goes through the tree: it may have been moved from where the rotation had
//! not been to where it had.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
}

impl<S: Storage> Default for Moved<S> {
    fn default() -> Self {
        Self { watching: AtomicBool::new(false), gate: RwLock::new(()), directories: Mutex::default() }
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
        self.note(directory, true);
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

//! The table of files: each inode is in memory at most once, from before its home is read until nothing more is written
//! to it. Whoever opened it twice would have two states of one home, and the older would undo the newer.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::storage::Storage;
use crate::vault::file::VaultFile;

pub(super) struct FileTable<S: Storage> {
    /// By the backing's inode number.
    slots: Mutex<HashMap<u64, Slot<S>>>,
    /// A slot was filled, or is free.
    settled: Condvar,
}

enum Slot<S: Storage> {
    /// Its home is being read. `renamed`: one of its names changed since that began.
    Opening { renamed: bool },
    /// Without a strong reference: it is being dropped, and may still write to its home.
    Open(Weak<VaultFile<S>>),
}

/// What the table has of an inode.
pub(super) enum Found<S: Storage> {
    /// Nothing: its home is all there is.
    Nothing,
    /// It is just being opened, or dropped.
    Busy,
    Open(Arc<VaultFile<S>>),
}

/// The right to open an inode, which nobody else does meanwhile.
pub(crate) struct Claim<'a, S: Storage> {
    table: &'a FileTable<S>,
    ino: u64,
}

impl<S: Storage> Slot<S> {
    fn file(&self) -> Option<Arc<VaultFile<S>>> {
        match self {
            Self::Opening { .. } => None,
            Self::Open(file) => file.upgrade(),
        }
    }
}

impl<S: Storage> Default for FileTable<S> {
    fn default() -> Self {
        Self { slots: Mutex::default(), settled: Condvar::new() }
    }
}

impl<S: Storage> FileTable<S> {
    pub fn find(&self, ino: u64) -> Found<S> {
        match self.slots.lock().get(&ino).map(Slot::file) {
            None => Found::Nothing,
            Some(None) => Found::Busy,
            Some(Some(file)) => Found::Open(file),
        }
    }

    /// The file, if it is in memory, after one of its names changed: who is just opening it begins again.
    pub fn find_renamed(&self, ino: u64) -> Option<Arc<VaultFile<S>>> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&ino)?;
        if let Slot::Opening { renamed } = slot {
            *renamed = true;
        }
        slot.file()
    }

    pub fn all(&self) -> Vec<Arc<VaultFile<S>>> {
        self.slots.lock().values().filter_map(Slot::file).collect()
    }

    pub fn count(&self) -> usize {
        self.slots.lock().len()
    }

    /// The file, or else the right to open it, once nobody else is about to or still writes to its home.
    pub fn claim(&self, ino: u64) -> Result<Claim<'_, S>, Arc<VaultFile<S>>> {
        let mut slots = self.slots.lock();
        loop {
            match slots.get(&ino).map(Slot::file) {
                None => break,
                Some(Some(file)) => return Err(file),
                Some(None) => self.settled.wait(&mut slots),
            }
        }
        slots.insert(ino, Slot::Opening { renamed: false });
        Ok(Claim { table: self, ino })
    }

    /// A file that nobody else can be opening.
    pub fn insert(&self, file: &Arc<VaultFile<S>>) {
        self.slots.lock().insert(file.ino(), Slot::Open(Arc::downgrade(file)));
        self.settled.notify_all();
    }

    /// A file that is dropped has written what it had to.
    pub fn leave(&self, ino: u64, file: *const VaultFile<S>) {
        let mut slots = self.slots.lock();
        // One that never came in has nothing to leave.
        let is_its_own = |slot: &Slot<S>| matches!(slot, Slot::Open(known) if std::ptr::eq(known.as_ptr(), file));
        if slots.get(&ino).is_some_and(is_its_own) {
            slots.remove(&ino);
            drop(slots);
            self.settled.notify_all();
        }
    }
}

impl<S: Storage> Claim<'_, S> {
    /// Everybody finds the file from here on. Refused, with the claim given back: one of its names changed while it was
    /// opened, so that what it is known by may be wrong.
    pub fn enter(self, file: &Arc<VaultFile<S>>) -> Result<(), Self> {
        let mut slots = self.table.slots.lock();
        if let Some(Slot::Opening { renamed }) = slots.get_mut(&self.ino)
            && std::mem::take(renamed)
        {
            drop(slots);
            return Err(self);
        }
        slots.insert(self.ino, Slot::Open(Arc::downgrade(file)));
        Ok(())
    }
}

impl<S: Storage> Drop for Claim<'_, S> {
    fn drop(&mut self) {
        let mut slots = self.table.slots.lock();
        if matches!(slots.get(&self.ino), Some(Slot::Opening { .. })) {
            slots.remove(&self.ino);
        }
        drop(slots);
        self.table.settled.notify_all();
    }
}

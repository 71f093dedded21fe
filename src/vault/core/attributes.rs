//! Files whose mode, owner, times or extended attributes were changed in the backing and may not be durable: an `fsync`
//! of a durable file syncs the journal, which says nothing of them.

use std::collections::HashMap;

use super::VaultCore;
use crate::storage::Storage;
use crate::vault::error::Result;

/// More files than this are made durable all at once.
const CHANGED_MAX: usize = 1 << 16;

/// By inode, the number of its last change.
#[derive(Clone, Default)]
pub(super) struct Changed {
    files: HashMap<u64, u64>,
    changes: u64,
}

/// What was changed before a sync began.
pub(crate) struct ChangedBefore(HashMap<u64, u64>);

impl ChangedBefore {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<S: Storage> VaultCore<S> {
    /// The attributes of a regular file were changed in the backing.
    pub fn attributes_changed(&self, ino: u64) -> Result<()> {
        let full = {
            let mut changed = self.changed.lock();
            changed.changes = changed.changes.saturating_add(1);
            let change = changed.changes;
            changed.files.insert(ino, change);
            changed.files.len() >= CHANGED_MAX
        };
        if full {
            let before = self.all_changed_attributes();
            self.sync_backing()?;
            self.attributes_synced(&before);
        }
        Ok(())
    }

    /// To be asked before a sync of this file that is made anyway.
    pub fn changed_attributes(&self, ino: u64) -> ChangedBefore {
        ChangedBefore(self.changed.lock().files.get(&ino).map(|change| (ino, *change)).into_iter().collect())
    }

    /// To be asked before a sync of the whole backing that is made anyway.
    pub fn all_changed_attributes(&self) -> ChangedBefore {
        ChangedBefore(self.changed.lock().files.clone())
    }

    /// The sync is over. What was changed meanwhile is not covered by it.
    pub fn attributes_synced(&self, before: &ChangedBefore) {
        let mut changed = self.changed.lock();
        for (ino, change) in &before.0 {
            if changed.files.get(ino) == Some(change) {
                changed.files.remove(ino);
            }
        }
    }
}

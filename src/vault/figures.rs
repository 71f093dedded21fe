//! [`Figures`]: how full things are, for those who look at a mount.

use super::Vault;
use crate::format::geometry::PAGE_LEN;
use crate::storage::Storage;

/// What an open vault holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// None: mounted read-only, or sealed.
    pub journal: Option<JournalFill>,
    /// Files in memory: open, or in the journal.
    pub files: usize,
    /// Directories with an open descriptor.
    pub open_directories: usize,
    /// How many may have one.
    pub open_directories_max: usize,
    /// Changed nodes of tag trees that wait for a checkpoint.
    pub dirty_bytes: u64,
}

/// The journal's segment in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalFill {
    /// What stands in it; a checkpoint empties it.
    pub used_bytes: u64,
    /// It grows when it is too small.
    pub capacity_bytes: u64,
    /// Files that it speaks of.
    pub files: usize,
}

impl<S: Storage> Vault<S> {
    /// How full things are. Costs a few locks, each for a moment.
    pub fn figures(&self) -> Figures {
        let core = &self.core;
        let journal = core.journal().ok().map(|journal| {
            let (room, capacity) = journal.room();
            let bytes = |blocks: u32| u64::from(blocks).saturating_mul(PAGE_LEN as u64);
            JournalFill {
                used_bytes: bytes(capacity.saturating_sub(room)),
                capacity_bytes: bytes(capacity),
                files: core.journaled.lock().len(),
            }
        });
        let (open_directories, open_directories_max) = core.tree.open_directories();
        Figures {
            journal,
            files: core.file_count(),
            open_directories,
            open_directories_max,
            dirty_bytes: (core.dirty_nodes() as u64).saturating_mul(PAGE_LEN as u64),
        }
    }
}

//! POSIX semantics over a vault: inodes and their numbers, names, handles, attributes. Nothing of FUSE.
//!
//! | file | what |
//! |---|---|
//! | `node`, `table` | what is remembered of an inode, the order of locks; which inodes are remembered |
//! | `attributes` | getattr and setattr, and how an inode is reached |
//! | `names`, `removal`, `rename` | lookup and creation; unlink and rmdir; rename |
//! | `files`, `ranges`, `directories` | open files; holes and space; listings |
//! | `room`, `losses` | whether the backing is nearly full; what did not fit |
//! | `xattrs` | extended attributes and ACLs |
//! | `privileges` | when set-user-id and set-group-id bits go |
//!
//! The daemon holds the backing alone, so that attributes are answered from memory. Permissions are the
//! kernel's to check (`default_permissions`): it has the caller's credentials, here they are not known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

pub use crate::vault::{FileKind, SetTime, Storage, Timestamp};
use crate::vault::{NodeRef, Vault};

mod attributes;
mod directories;
mod error;
mod files;
mod losses;
mod names;
mod node;
mod privileges;
mod ranges;
mod removal;
mod rename;
mod room;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod xattrs;

use directories::OpenDirectory;
pub use error::FsError;
use error::Result;
use files::OpenFile;
use losses::Losses;
use node::Node;
use room::Room;
use table::Table;
pub use types::{
    Attr, Caller, DirEntry, DirEntryPlus, Entry, FileHandle, FsOptions, InodeNo, Lost, Ownership, SetAttr, SharedName,
    Space, Usage,
};

/// The largest file and the largest offset: `off_t` is signed.
pub const MAX_FILE_LEN: u64 = i64::MAX as u64;

/// The longest name, in bytes.
pub const NAME_MAX: u32 = 255;

/// A vault as a POSIX filesystem. All methods may be called from any thread.
pub struct Fs<S: Storage> {
    vault: Arc<Vault<S>>,
    options: FsOptions,
    table: Table<S>,
    files: DashMap<FileHandle, Arc<OpenFile<S>>>,
    directories: DashMap<FileHandle, Arc<OpenDirectory<S>>>,
    next_handle: AtomicU64,
    room: Room,
    losses: Losses,
}

impl<S: Storage> Fs<S> {
    /// Presents an open vault. The root is known from the start and never forgotten.
    pub fn new(vault: Arc<Vault<S>>, options: FsOptions) -> Result<Self> {
        let root = vault.root();
        let stat = vault.stat(NodeRef::Directory(&root))?;
        table::check_number(&stat)?;
        let fs = Self {
            vault,
            options,
            table: Table::new(stat.ino),
            files: DashMap::new(),
            directories: DashMap::new(),
            next_handle: AtomicU64::new(1),
            room: Room::default(),
            losses: Losses::default(),
        };
        let attr = Attr::new(InodeNo::ROOT, &stat);
        let generation = fs.table.generation(stat.btime);
        fs.table
            .enter(&attr, generation, false, || Node::new(attr, generation, xattrs::Knowledge::default(), Some(root)));
        Ok(fs)
    }

    /// The vault underneath.
    pub fn vault(&self) -> &Arc<Vault<S>> {
        &self.vault
    }

    /// Space and numbers of files.
    pub fn statfs(&self) -> Result<Space> {
        let space = self.vault.space()?;
        Ok(Space {
            block_size: u32::try_from(space.block_size).ok().filter(|size| *size > 0).unwrap_or(4096),
            blocks: space.blocks,
            blocks_free: space.blocks_free,
            blocks_available: space.blocks_available,
            files: space.files,
            files_free: space.files_free,
            name_max: NAME_MAX,
        })
    }

    /// What is held in memory, to be looked at for leaks.
    pub fn usage(&self) -> Usage {
        Usage { nodes: self.table.len(), files: self.files.len(), directories: self.directories.len() }
    }

    /// Whether the backing is nearly full: then what is written had better not wait in a cache.
    pub fn has_little_room(&self) -> bool {
        !self.vault.is_read_only() && self.room.is_little(self.options.ownership, || self.vault.space().ok())
    }

    /// What tells an inode from another one that had its number before, as the kernel was told.
    pub fn generation(&self, ino: InodeNo) -> Option<u32> {
        self.table.find(ino).map(|node| node.generation)
    }

    /// The names of an inode that are known: the directory's number, and the name in it.
    pub fn names(&self, ino: InodeNo) -> Vec<(InodeNo, SharedName)> {
        let names = self.table.find(ino).map(|node| node.all_names()).unwrap_or_default();
        names.into_iter().map(|name| (name.parent.ino, name.name)).collect()
    }

    /// What the kernel had cached, and the vault could not take.
    pub fn lost(&self) -> Lost {
        self.losses.total()
    }

    /// The plain path of an inode below the mountpoint, for a line of the log: only if names may be logged.
    pub fn path_for_log(&self, ino: InodeNo) -> Option<String> {
        if !self.options.log_names {
            return None;
        }
        let mut node = self.table.find(ino)?;
        let mut parts = Vec::new();
        while node.ino != InodeNo::ROOT {
            let name = node.any_name()?;
            parts.push(String::from_utf8_lossy(&name.name).into_owned());
            node = name.parent;
        }
        parts.reverse();
        // Quoted: a name may hold anything.
        Some(format!("{:?}", parts.join("/")))
    }

    /// Commits every open file and seals the vault: nothing may change after that.
    pub fn shutdown(&self) -> Result<()> {
        // What has no name goes first: on a full disk, its space is what the others need.
        self.files.retain(|_, open| open.node.last_attr().nlink > 0);
        self.table.let_go_of_the_nameless();
        let open: Vec<_> = self.files.iter().map(|file| file.value().clone()).collect();
        for file in open {
            // The vault tries it again when it is sealed, and then there may be room.
            let _ = file.commit();
        }
        Ok(self.vault.seal()?)
    }

    /// The kernel gives `count` references to an inode back.
    pub fn forget(&self, ino: InodeNo, count: u64) {
        self.table.forget(ino, count);
    }

    fn new_handle(&self) -> FileHandle {
        FileHandle(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }

    fn check_writable(&self) -> Result<()> {
        if self.vault.is_read_only() { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    fn now(&self) -> Timestamp {
        self.vault.storage().now()
    }
}

impl<S: Storage> Drop for Fs<S> {
    fn drop(&mut self) {
        self.files.clear();
        self.directories.clear();
        self.table.clear();
    }
}

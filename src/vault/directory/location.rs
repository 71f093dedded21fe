//! A place in the backing: a directory and the sealed name of an entry.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::{Directory, links, widened};
use crate::format::names;
use crate::format::symlink::{self, BackingTarget, LinkId};
use crate::storage::{Access, FileKind, Stat, Storage, Target};
use crate::vault::error::{Result, VaultError};

/// See the module's documentation.
pub(crate) struct Location<S: Storage> {
    pub directory: Arc<Directory<S>>,
    /// The sealed name.
    pub entry: OsString,
}

impl<S: Storage> Clone for Location<S> {
    fn clone(&self) -> Self {
        Self { directory: self.directory.clone(), entry: self.entry.clone() }
    }
}

/// No sealed name has these letters.
const NAMELESS: &str = "(unlinked)";

impl<S: Storage> Location<S> {
    /// What stands for a file that has no name, or whose name is not known.
    pub fn nameless(directory: Arc<Directory<S>>) -> Self {
        Self { directory, entry: NAMELESS.into() }
    }

    pub fn is_nameless(&self) -> bool {
        self.entry == NAMELESS
    }

    /// Whether this is the place of that entry in that directory.
    pub fn is(&self, directory: &Arc<Directory<S>>, entry: &OsStr) -> bool {
        self.entry == entry && Arc::ptr_eq(&self.directory, directory)
    }

    /// The path below the vault.
    pub fn backing_path(&self) -> String {
        format!("{}/{}", self.directory.backing_path(), self.entry.to_string_lossy())
    }

    /// The same, as it is in the backing.
    pub fn backing_os_path(&self) -> OsString {
        let mut entries = self.directory.backing_entries();
        entries.push(self.entry.clone());
        entries.join(OsStr::new("/"))
    }

    /// The backing's attributes.
    pub fn stat(&self) -> Result<Stat> {
        self.with_dir(|dir| self.directory.core.storage.stat(Target::Entry(dir, &self.entry)))?
            .map_err(|e| VaultError::io("read attributes", e))
    }

    /// Holds the backing's inode.
    pub(super) fn pin(&self) -> Result<S::Pin> {
        self.with_dir(|dir| self.directory.core.storage.pin(dir, &self.entry))?
            .map_err(|e| VaultError::io("hold an inode", e))
    }

    /// Calls with an open handle of the directory.
    pub fn with_dir<T>(&self, call: impl FnOnce(&S::Dir) -> T) -> Result<T> {
        Ok(call(&*self.directory.handle()?))
    }

    /// Opens the backing file, for writing too unless the vault is read-only.
    pub fn open_backing(&self, stat: &Stat) -> Result<S::File> {
        let core = &self.directory.core;
        if stat.kind() != FileKind::Regular {
            return Err(VaultError::errno("open a file", libc::EINVAL));
        }
        let access = if core.is_read_only() { Access::Read } else { Access::ReadWrite };
        let dir = self.directory.handle()?;
        let open = || core.storage.open_file(&dir, &self.entry, access);
        widened(core, Target::Entry(&*dir, &self.entry), 0o600, open).map_err(|e| VaultError::io("open a file", e))
    }

    /// Turns the backing's attributes into those of the vault.
    pub(super) fn present(&self, stat: &mut Stat) -> Result<()> {
        let core = &self.directory.core;
        match stat.kind() {
            FileKind::Regular => {
                stat.size_bytes = core.plain_size(self, stat)?;
                if let Some(mtime) = core.file(stat.ino).and_then(|file| file.mtime()) {
                    stat.mtime = mtime;
                }
            }
            FileKind::Symlink => stat.size_bytes = links::target_len(core, self, stat.size_bytes)?,
            FileKind::Directory
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice
            | FileKind::Unknown => {}
        }
        Ok(())
    }

    /// The target of the backing symbolic link.
    pub(crate) fn read_symlink(&self) -> Result<Vec<u8>> {
        self.with_dir(|dir| self.directory.core.storage.read_symlink(dir, &self.entry))?
            .map_err(|e| VaultError::io("read a symbolic link", e))
    }

    /// The plain target of the symbolic link.
    pub fn open_symlink(&self) -> Result<Vec<u8>> {
        let core = &self.directory.core;
        let backing_target = self.read_symlink()?;
        let text = links::whole_text(core, self, &backing_target)?;
        let target = core
            .keys
            .open(|keys| symlink::open(keys.symlink(), &text))
            .map_err(|refused| VaultError::integrity(self.backing_path(), refused))?;
        Ok(target.to_vec())
    }

    /// What the pieces of its target are named by, if it is a symbolic link whose target is in pieces.
    pub fn link_id(&self) -> Option<LinkId> {
        match symlink::parse(&self.read_symlink().ok()?).ok()? {
            BackingTarget::Pieces(id) => Some(id),
            BackingTarget::Inline(_) => None,
        }
    }

    /// Whether the entry stands for a long name.
    pub(super) fn is_long(&self) -> bool {
        names::EntryForm::of(&self.entry) == names::EntryForm::Long
    }
}

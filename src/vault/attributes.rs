//! Attributes of inodes, however they are reached: permissions, owner, times, extended attributes, ACLs.
//!
//! Extended attributes are sealed together in one backing attribute. Access control lists stand in the backing as they
//! are, because the backing must apply them to new files, as it does with permissions.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use super::Vault;
use super::core::VaultCore;
use super::directory::{Directory, Pin, widened};
use super::error::{Result, VaultError};
use super::file::VaultFile;
use crate::format::geometry;
use crate::format::xattrs::{self, Table, XattrError};
use crate::storage::{FileKind, SetTime, Stat, Storage, Target, XattrMode};

/// The extended attributes of an inode, by their full names.
pub type XattrTable = Table;

/// What an attribute call is about.
pub enum NodeRef<'a, S: Storage> {
    /// What has this plain name in the directory; itself if it is a symbolic link.
    Entry(&'a Directory<S>, &'a [u8]),
    /// The directory itself.
    Directory(&'a Directory<S>),
    /// An open file, which may have no name any more.
    File(&'a VaultFile<S>),
    /// An inode of any kind, which may have no name any more.
    Pinned(&'a Pin<S>),
}

impl<S: Storage> Clone for NodeRef<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage> Copy for NodeRef<'_, S> {}

/// Which access control list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclKind {
    Access,
    /// Of a directory: what is made in it gets this one.
    Default,
}

impl AclKind {
    fn attribute(self) -> &'static OsStr {
        OsStr::new(match self {
            Self::Access => "system.posix_acl_access",
            Self::Default => "system.posix_acl_default",
        })
    }
}

impl<S: Storage> Vault<S> {
    /// The attributes: plain sizes, newest times.
    pub fn stat(&self, node: NodeRef<'_, S>) -> Result<Stat> {
        match node {
            NodeRef::Entry(directory, name) => directory.lookup(name),
            NodeRef::Directory(directory) => directory.stat_self(),
            NodeRef::File(file) => file.stat(),
            NodeRef::Pinned(pin) => self.stat_pinned(pin),
        }
    }

    /// Whether the space that a regular file takes is going to change without anything being done to it: a checkpoint will give
    /// back what was cut off or punched out.
    pub fn space_is_due(&self, ino: u64) -> bool {
        self.core.file(ino).is_some_and(|file| file.space_is_due())
    }

    fn stat_pinned(&self, pin: &Pin<S>) -> Result<Stat> {
        let mut stat =
            self.core.storage.stat(Target::Pin(&pin.pin)).map_err(|e| VaultError::io("read attributes", e))?;
        match stat.kind() {
            FileKind::Regular => match self.core.file(stat.ino) {
                Some(file) => return file.stat(),
                None => stat.size_bytes = geometry::plain_len(stat.size_bytes).unwrap_or(stat.size_bytes),
            },
            FileKind::Symlink => stat.size_bytes = pin.target_len.unwrap_or(stat.size_bytes),
            FileKind::Directory
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice
            | FileKind::Unknown => {}
        }
        Ok(stat)
    }

    /// Sets the permission bits (07777).
    pub fn set_mode(&self, node: NodeRef<'_, S>, mode: u32) -> Result<()> {
        self.change(node, "set permissions", |target| {
            let _own = self.core.widening.read();
            self.core.storage.set_mode(target, mode & 0o7777)
        })
    }

    /// Sets the owner, and nothing else but what the backing does by itself.
    pub fn set_owner(&self, node: NodeRef<'_, S>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change(node, "set the owner", |target| {
            let _own = self.core.widening.read();
            self.core.storage.set_owner(target, uid, gid)
        })
    }

    /// Sets the times. A file that is in memory keeps its own: it must be given as [`NodeRef::File`].
    pub fn set_times(&self, node: NodeRef<'_, S>, atime: SetTime, mtime: SetTime) -> Result<()> {
        if let NodeRef::File(file) = node {
            return file.set_times(atime, mtime);
        }
        self.change(node, "set times", |target| self.core.storage.set_times(target, atime, mtime))
    }

    /// The extended attributes; none where the backing has no such thing.
    pub fn xattrs(&self, node: NodeRef<'_, S>, kind: FileKind) -> Result<XattrTable> {
        self.reach(node, |target| Ok(read_table(&self.core, target, kind, || self.backing_path(node))))?
            .map_err(|e| VaultError::io("read extended attributes", e))?
    }

    /// Replaces the extended attributes.
    pub fn set_xattrs(&self, node: NodeRef<'_, S>, kind: FileKind, table: &XattrTable) -> Result<()> {
        let attribute = OsStr::new(table_attribute(kind));
        // A rotation reads and writes back, and then forgets a key: what is sealed under it is there before. Nor does it
        // write back what is removed meanwhile.
        let _resealing = self.core.xattrs.read();
        if table.is_empty() {
            return self.remove(node, 0o600, attribute);
        }
        let sealed = table.seal(self.core.keys.active().xattr()).map_err(|error| match error {
            XattrError::Name => VaultError::InvalidName,
            XattrError::Full => VaultError::NoSpace { what: "so many extended attributes" },
        })?;
        self.change(node, "set extended attributes", |target| {
            let set = || self.core.storage.set_xattr(target, attribute, &sealed, XattrMode::Any);
            widened(&self.core, target, 0o600, set)
        })
    }

    /// An access control list in the kernel's form. None: there is none, or the backing has no such thing.
    pub fn acl(&self, node: NodeRef<'_, S>, kind: AclKind) -> Result<Option<Vec<u8>>> {
        match self.reach(node, |target| self.core.storage.xattr(target, kind.attribute()))? {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(VaultError::io("read an access control list", error)),
        }
    }

    /// Sets an access control list.
    pub fn set_acl(&self, node: NodeRef<'_, S>, kind: AclKind, value: &[u8]) -> Result<()> {
        self.change(node, "set an access control list", |target| {
            let _own = self.core.widening.read();
            self.core.storage.set_xattr(target, kind.attribute(), value, XattrMode::Any)
        })
    }

    /// Removes an access control list. That there is none is no error.
    pub fn remove_acl(&self, node: NodeRef<'_, S>, kind: AclKind) -> Result<()> {
        self.remove(node, 0, kind.attribute())
    }

    /// Gives an inode another name, whatever it is reached by. `ENOENT` if it has none left.
    pub fn link(&self, node: NodeRef<'_, S>, to: &Arc<Directory<S>>, name: &[u8]) -> Result<Stat> {
        let source = self
            .reach(node, |target| self.core.storage.stat(target))?
            .map_err(|e| VaultError::io("read attributes", e))?;
        to.link_here(name, &source, |dir, entry| self.reach(node, |target| self.core.storage.link(target, dir, entry)))
    }

    /// Opens a pinned regular file, which may have no name any more.
    pub fn open_pinned(&self, pin: &Pin<S>) -> Result<Arc<VaultFile<S>>> {
        let stat = self.core.storage.stat(Target::Pin(&pin.pin)).map_err(|e| VaultError::io("read attributes", e))?;
        if stat.kind() != FileKind::Regular {
            return Err(VaultError::errno("open a file", libc::EINVAL));
        }
        self.core.open_pinned(&pin.pin, &stat)
    }

    fn remove(&self, node: NodeRef<'_, S>, bits: u32, attribute: &OsStr) -> Result<()> {
        self.change(node, "remove attributes", |target| {
            match widened(&self.core, target, bits, || self.core.storage.remove_xattr(target, attribute)) {
                Err(error) if is_absent(&error) => Ok(()),
                other => other,
            }
        })
    }

    fn change(
        &self,
        node: NodeRef<'_, S>,
        context: &'static str,
        work: impl FnOnce(Target<'_, S>) -> io::Result<()>,
    ) -> Result<()> {
        self.core.ensure_writable()?;
        let mut regular = None;
        let outcome = self.reach(node, |target| {
            work(target)?;
            if !matches!(node, NodeRef::Directory(_)) {
                let stat = self.core.storage.stat(target)?;
                regular = (stat.kind() == FileKind::Regular).then_some(stat.ino);
            }
            Ok(())
        })?;
        outcome.map_err(|e| VaultError::io(context, e))?;
        regular.map_or(Ok(()), |ino| self.core.attributes_changed(ino))
    }

    /// Calls with what the backing knows the inode by.
    fn reach<T>(
        &self,
        node: NodeRef<'_, S>,
        work: impl FnOnce(Target<'_, S>) -> io::Result<T>,
    ) -> Result<io::Result<T>> {
        match node {
            NodeRef::Entry(directory, name) => {
                // What is reached may be linked into the same directory.
                let _names = directory.names.read_recursive();
                let location = directory.locate(name)?;
                location.with_dir(|dir| work(Target::Entry(dir, &location.entry)))
            }
            NodeRef::Directory(directory) => Ok(work(Target::Dir(&*directory.handle()?))),
            NodeRef::File(file) => Ok(file.with_backing(|file| work(Target::File(file)))),
            NodeRef::Pinned(pin) => Ok(work(Target::Pin(&pin.pin))),
        }
    }

    fn backing_path(&self, node: NodeRef<'_, S>) -> String {
        match node {
            NodeRef::Entry(directory, name) => match directory.locate(name) {
                Ok(location) => location.backing_path(),
                Err(_) => directory.backing_path(),
            },
            NodeRef::Directory(directory) => directory.backing_path(),
            NodeRef::File(file) => file.location().backing_path(),
            NodeRef::Pinned(_) => "(an inode without a name)".into(),
        }
    }
}

/// The extended attributes of an inode of the backing.
pub(super) fn read_table<S: Storage>(
    core: &VaultCore<S>,
    target: Target<'_, S>,
    kind: FileKind,
    path: impl FnOnce() -> String,
) -> Result<XattrTable> {
    let attribute = OsStr::new(table_attribute(kind));
    let sealed = match widened(core, target, 0o400, || core.storage.xattr(target, attribute)) {
        Ok(sealed) => sealed,
        Err(error) if is_absent(&error) => return Ok(Table::default()),
        Err(error) => return Err(VaultError::io("read extended attributes", error)),
    };
    core.keys.open(|keys| Table::open(keys.xattr(), &sealed)).map_err(|refused| VaultError::integrity(path(), refused))
}

/// The kernel allows "user." attributes on regular files and directories alone.
pub(crate) fn table_attribute(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular | FileKind::Directory => xattrs::ATTRIBUTE,
        FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice
        | FileKind::Unknown => xattrs::TRUSTED_ATTRIBUTE,
    }
}

pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP))
}

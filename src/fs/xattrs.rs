//! Extended attributes and access control lists.
//!
//! The attributes of an inode are one sealed table at the backing; ACLs are the backing's own, so that it inherits
//! and applies them. Programs and the kernel ask for attributes far more often than there are any: that there
//! are none is remembered per inode, and answered without a system call.

use std::sync::Arc;

use super::Fs;
use super::error::{FsError, Result};
use super::node::Node;
use super::privileges;
use super::types::{Caller, InodeNo};
use crate::vault::{AclKind, FileKind, Storage, XattrTable};

/// Linux's own limits (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 64 * 1024;

const CREATE: i32 = libc::XATTR_CREATE;
const REPLACE: i32 = libc::XATTR_REPLACE;

/// Run a program with these rights; any change of the content takes them away.
const CAPABILITY: &[u8] = b"security.capability";

/// Root's alone, in lists, too.
const TRUSTED: &[u8] = b"trusted.";

const ACL_NAMES: [(AclKind, &[u8]); 2] =
    [(AclKind::Access, b"system.posix_acl_access"), (AclKind::Default, b"system.posix_acl_default")];

/// What an inode is known not to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Knowledge {
    no_table: bool,
    no_access_acl: bool,
    no_default_acl: bool,
}

impl Knowledge {
    /// Of an inode that was just made.
    pub fn of_new(kind: FileKind, inherits_acl: bool) -> Self {
        Self {
            no_table: true,
            no_access_acl: !inherits_acl,
            no_default_acl: !(inherits_acl && kind == FileKind::Directory),
        }
    }

    fn no_acl(&mut self, kind: AclKind) -> &mut bool {
        match kind {
            AclKind::Access => &mut self.no_access_acl,
            AclKind::Default => &mut self.no_default_acl,
        }
    }
}

/// Where an attribute is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Table,
    Acl(AclKind),
}

fn place(name: &[u8]) -> Result<Place> {
    if name.len() > NAME_MAX {
        return Err(FsError::AttributeNameTooLong);
    }
    if let Some((kind, _)) = ACL_NAMES.iter().find(|(_, acl)| *acl == name) {
        return Ok(Place::Acl(*kind));
    }
    let in_namespace = |prefix: &[u8]| name.len() > prefix.len() && name.starts_with(prefix);
    match in_namespace(b"user.") || in_namespace(TRUSTED) || in_namespace(b"security.") {
        true => Ok(Place::Table),
        false => Err(FsError::NotSupported),
    }
}

/// Attributes of users belong to content: devices and links, which anyone may write or nobody, have none.
fn may_have(kind: FileKind, name: &[u8]) -> bool {
    matches!(kind, FileKind::Regular | FileKind::Directory) || !name.starts_with(b"user.")
}

/// What is said of an attribute that is not there. A label of SELinux is kept if somebody sets it, but nobody goes by it on
/// a FUSE filesystem, and this error has programs that show labels (`ls -l`) ask once for each filesystem instead of once
/// for each file.
fn absent(name: &[u8]) -> FsError {
    match name {
        b"security.selinux" => FsError::NotSupported,
        _ => FsError::NoAttribute,
    }
}

impl<S: Storage> Fs<S> {
    /// The value of an attribute.
    pub fn getxattr(&self, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.table.get(ino)?;
        match place(name)? {
            Place::Acl(kind) => self.acl(&node, kind)?.ok_or(FsError::NoAttribute),
            Place::Table if !may_have(node.kind, name) => Err(FsError::NoAttribute),
            Place::Table => {
                let mut known = node.xattrs.lock();
                let table = self.load(&node, &mut known)?;
                table.get(name).map(<[u8]>::to_vec).ok_or_else(|| absent(name))
            }
        }
    }

    /// Sets an attribute. `flags`: `XATTR_CREATE` or `XATTR_REPLACE`.
    pub fn setxattr(&self, caller: &Caller, ino: InodeNo, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let node = self.table.get(ino)?;
        let place = place(name)?;
        if value.len() > VALUE_MAX {
            return Err(FsError::AttributeTooLarge);
        }
        if flags & !(CREATE | REPLACE) != 0 {
            return Err(FsError::Invalid);
        }
        self.check_writable()?;
        match place {
            Place::Acl(kind) => self.set_acl(caller, &node, kind, value, flags),
            Place::Table if !may_have(node.kind, name) => Err(FsError::NotPermitted),
            Place::Table => {
                let mut known = node.xattrs.lock();
                let mut table = self.load(&node, &mut known)?;
                check_flags(flags, table.get(name).is_some())?;
                table.insert(name, value);
                self.store(&node, &mut known, &table)
            }
        }
    }

    /// Removes an attribute.
    pub fn removexattr(&self, ino: InodeNo, name: &[u8]) -> Result<()> {
        let node = self.table.get(ino)?;
        let place = place(name)?;
        self.check_writable()?;
        match place {
            Place::Acl(kind) => {
                let mut known = node.xattrs.lock();
                // That there is none is what was asked for, as on other filesystems.
                if !*known.no_acl(kind) {
                    self.reach(&node, |inode| self.vault.remove_acl(inode, kind))?;
                    *known.no_acl(kind) = true;
                    node.touch();
                }
                Ok(())
            }
            Place::Table if !may_have(node.kind, name) => Err(FsError::NotPermitted),
            Place::Table => {
                let mut known = node.xattrs.lock();
                let mut table = self.load(&node, &mut known)?;
                if !table.remove(name) {
                    return Err(FsError::NoAttribute);
                }
                self.store(&node, &mut known, &table)
            }
        }
    }

    /// The names of all attributes that the caller may know of, each ended by a zero byte.
    pub fn listxattr(&self, caller: &Caller, ino: InodeNo) -> Result<Vec<u8>> {
        let node = self.table.get(ino)?;
        let mut names = Vec::new();
        for (kind, name) in ACL_NAMES {
            if self.acl(&node, kind)?.is_some() {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        let mut known = node.xattrs.lock();
        for name in self.load(&node, &mut known)?.names() {
            // The kernel refuses these names to others, but does not look through a list.
            if caller.uid != 0 && name.starts_with(TRUSTED) {
                continue;
            }
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }

    /// Whether what is made in this directory inherits an ACL.
    pub(super) fn has_default_acl(&self, directory: &Arc<Node<S>>) -> Result<bool> {
        Ok(self.acl(directory, AclKind::Default)?.is_some())
    }

    /// Takes the rights of a program away whose content changes.
    pub(super) fn drop_capabilities(&self, node: &Arc<Node<S>>) -> Result<()> {
        let mut known = node.xattrs.lock();
        if known.no_table {
            return Ok(());
        }
        let mut table = self.load(node, &mut known)?;
        if table.remove(CAPABILITY) {
            self.store(node, &mut known, &table)?;
        }
        Ok(())
    }

    /// The table of an inode, while its knowledge is locked.
    fn load(&self, node: &Arc<Node<S>>, known: &mut Knowledge) -> Result<XattrTable> {
        if known.no_table {
            return Ok(XattrTable::default());
        }
        let table = self.reach(node, |inode| self.vault.xattrs(inode, node.kind))?;
        known.no_table = table.is_empty();
        Ok(table)
    }

    fn store(&self, node: &Arc<Node<S>>, known: &mut Knowledge, table: &XattrTable) -> Result<()> {
        known.no_table = false;
        self.reach(node, |inode| self.vault.set_xattrs(inode, node.kind, table))?;
        known.no_table = table.is_empty();
        node.touch();
        Ok(())
    }

    fn acl(&self, node: &Arc<Node<S>>, kind: AclKind) -> Result<Option<Vec<u8>>> {
        let possible = match kind {
            AclKind::Access => node.kind != FileKind::Symlink,
            AclKind::Default => node.kind == FileKind::Directory,
        };
        if !possible {
            return Ok(None);
        }
        let mut known = node.xattrs.lock();
        if *known.no_acl(kind) {
            return Ok(None);
        }
        let acl = self.reach(node, |inode| self.vault.acl(inode, kind))?;
        *known.no_acl(kind) = acl.is_none();
        Ok(acl)
    }

    /// Sets an ACL. The backing brings the permission bits in line with an access ACL.
    fn set_acl(&self, caller: &Caller, node: &Arc<Node<S>>, kind: AclKind, value: &[u8], flags: i32) -> Result<()> {
        if node.kind == FileKind::Symlink {
            return Err(FsError::NotSupported);
        }
        if flags != 0 {
            check_flags(flags, self.acl(node, kind)?.is_some())?;
        }
        // `cp -a` sets on every file an ACL that says what the permissions say, and the backing would not keep it.
        let says_nothing = {
            let mut known = node.xattrs.lock();
            let says_nothing =
                kind == AclKind::Access && known.no_access_acl && is_of_mode(value, node.last_attr().mode());
            if !says_nothing {
                *known.no_acl(kind) = false;
                self.reach(node, |inode| self.vault.set_acl(inode, kind, value))?;
                node.touch();
            }
            says_nothing
        };
        if kind == AclKind::Access {
            let attr = if says_nothing { node.last_attr() } else { self.attr(node)? };
            let lost = privileges::lost_by_acl(&attr, caller);
            if lost != 0 {
                self.set_mode(node, attr.mode() & !lost)?;
            }
        }
        Ok(())
    }
}

/// Whether an ACL, as `setxattr(2)` takes it (version 2, then tag, permissions and id of each entry), has the entries of
/// owner, group and others alone, with the permissions of this mode.
fn is_of_mode(acl: &[u8], mode: u32) -> bool {
    let entry = |tag: u16, bits: u32| {
        let [tag, permissions] = [tag, (bits & 7) as u16].map(u16::to_le_bytes);
        [tag, permissions, [0xff; 2], [0xff; 2]].concat()
    };
    let entries = [entry(0x01, mode >> 6), entry(0x04, mode >> 3), entry(0x20, mode)].concat();
    acl.strip_prefix(&2_u32.to_le_bytes()).is_some_and(|given| given == entries)
}

fn check_flags(flags: i32, exists: bool) -> Result<()> {
    match exists {
        true if flags & CREATE != 0 => Err(FsError::Exists),
        false if flags & REPLACE != 0 => Err(FsError::NoAttribute),
        true | false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces() {
        for name in ["user.a", "trusted.overlay.opaque", "security.capability"] {
            assert_eq!(place(name.as_bytes()).ok(), Some(Place::Table), "{name}");
        }
        assert_eq!(place(b"system.posix_acl_default").ok(), Some(Place::Acl(AclKind::Default)));
        for name in ["", "user", "user.", "system.nfs4_acl", "system.posix_acl_access2", "btrfs.compression", "User.a"]
        {
            assert!(matches!(place(name.as_bytes()), Err(FsError::NotSupported)), "{name}");
        }
    }

    #[test]
    fn names_have_255_bytes_at_most() {
        let name = |len: usize| [b"user.".as_slice(), &vec![b'a'; len - 5]].concat();
        assert_eq!(place(&name(255)).ok(), Some(Place::Table));
        assert!(matches!(place(&name(256)), Err(FsError::AttributeNameTooLong)));
    }

    #[test]
    fn only_files_and_directories_have_attributes_of_users() {
        assert!(may_have(FileKind::Regular, b"user.a"));
        assert!(may_have(FileKind::Directory, b"user.a"));
        assert!(!may_have(FileKind::Symlink, b"user.a"));
        assert!(!may_have(FileKind::Fifo, b"user.a"));
        assert!(may_have(FileKind::Symlink, b"security.selinux"));
    }

    #[test]
    fn an_acl_that_says_what_the_mode_says() {
        let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
        assert!(is_of_mode(acl, 0o644) && is_of_mode(acl, 0o4644));
        assert!(!is_of_mode(acl, 0o640) && !is_of_mode(acl, 0o755));
        for len in 0..acl.len() {
            assert!(!is_of_mode(&acl[..len], 0o644), "{len}");
        }
        assert!(!is_of_mode(&[acl.as_slice(), &acl[4..12]].concat(), 0o644));
    }

    #[test]
    fn create_and_replace() {
        assert!(check_flags(0, true).is_ok() && check_flags(0, false).is_ok());
        assert_eq!(check_flags(CREATE, true).map_err(|e| e.errno()), Err(libc::EEXIST));
        assert_eq!(check_flags(REPLACE, false).map_err(|e| e.errno()), Err(libc::ENODATA));
        assert!(check_flags(CREATE, false).is_ok() && check_flags(REPLACE, true).is_ok());
    }
}

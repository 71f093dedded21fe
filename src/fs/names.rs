//! Names: lookup, and everything that makes an inode or gives one another name.

use std::sync::Arc;

use super::attributes::Place;
use super::error::{FsError, Result};
use super::node::{Anchor, Name, Node, lock_names};
use super::types::{Attr, Caller, Entry, FileHandle, InodeNo, Ownership};
use super::xattrs::Knowledge;
use super::{Fs, table};
use crate::vault::{Directory, FileKind, NewInode, NodeRef, Stat, Storage, VaultError, VaultFile};

/// An inode that was found or made at a name.
pub(super) struct Found<S: Storage> {
    pub stat: Stat,
    /// `Table::removals` before `stat` was read; None: the inode was just made.
    pub removals: Option<u64>,
    pub knowledge: Knowledge,
    pub directory: Option<Arc<Directory<S>>>,
}

impl<S: Storage> Fs<S> {
    /// The inode of a name. The kernel holds one reference more to it.
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Entry> {
        let parent = self.directory_node(parent)?;
        let _names = parent.folder()?.names.read();
        self.lookup_in(&parent, name)
    }

    /// The same while the directory's names are locked.
    pub(super) fn lookup_in(&self, parent: &Arc<Node<S>>, name: &[u8]) -> Result<Entry> {
        self.lookup_by(parent, name, |directory| directory.lookup(name))
    }

    /// The same; `stat` asks the vault about the name, if its inode is not known.
    pub(super) fn lookup_by(
        &self,
        parent: &Arc<Node<S>>,
        name: &[u8],
        stat: impl FnOnce(&Arc<Directory<S>>) -> std::result::Result<Stat, VaultError>,
    ) -> Result<Entry> {
        let directory = self.directory(parent)?;
        if let Some(node) = parent.child(name)
            && self.table.count_lookup(&node)
        {
            return self.entry_of(&node, self.attr_at(&node, directory, name));
        }
        let removals = self.table.removals();
        let stat = stat(directory)?;
        let found = Found { stat, removals: Some(removals), knowledge: Knowledge::default(), directory: None };
        let (node, is_new) = self.enter(parent, name, found)?;
        let attr = match is_new {
            true => Ok(node.last_attr()),
            false => self.attr_at(&node, directory, name),
        };
        self.entry_of(&node, attr)
    }

    /// The answer about a node for which a reference was counted; it is given back if there is no answer.
    fn entry_of(&self, node: &Arc<Node<S>>, attr: Result<Attr>) -> Result<Entry> {
        match attr {
            Ok(attr) => Ok(Entry { attr, generation: node.generation }),
            Err(error) => {
                self.table.forget(node.ino, 1);
                Err(error)
            }
        }
    }

    /// Finds or makes the node of an inode, and counts one reference of the kernel. True if it is new.
    fn enter_inode(&self, found: Found<S>) -> Result<(Arc<Node<S>>, bool)> {
        table::check_number(&found.stat)?;
        let attr = self.attr_of(self.table.number(found.stat.ino), &found.stat);
        let created = found.removals.is_none();
        if created {
            self.losses.removed(attr.ino);
        }
        let generation = self.table.generation(found.stat.btime);
        let make = || Node::new(attr, generation, found.knowledge, found.directory);
        Ok(self.table.enter(&attr, generation, created, make))
    }

    /// The same of an inode at a name. The directory's names are locked.
    fn enter(&self, parent: &Arc<Node<S>>, name: &[u8], found: Found<S>) -> Result<(Arc<Node<S>>, bool)> {
        let removals = found.removals;
        let (node, is_new) = self.enter_inode(found)?;
        if is_new && removals.is_some_and(|before| before != self.table.removals()) {
            // Its node may have gone after `stat` was read, and with it a change of the attributes.
            node.touch();
            let attr = self.attr_at(&node, self.directory(parent)?, name);
            if attr.is_err() {
                self.table.forget(node.ino, 1);
            }
            attr?;
        }
        self.name_node(&node, parent, name);
        Ok((node, is_new))
    }

    /// Remembers a name of a node. The directory's names are locked.
    pub(super) fn name_node(&self, node: &Arc<Node<S>>, parent: &Arc<Node<S>>, name: &[u8]) {
        // The hold first: a directory in which a node has a name is in the table.
        if !self.table.hold(parent) {
            return;
        }
        let added = node.add_name(parent, name);
        // Was the node forgotten meanwhile, its names were taken before or after this one was added.
        if !added || !self.table.contains(node) && node.remove_name(parent, name) {
            self.table.release(parent);
        }
    }

    /// Forgets a name of a node. The directory's names are locked exclusively.
    pub(super) fn unname_node(&self, node: &Arc<Node<S>>, parent: &Arc<Node<S>>, name: &[u8]) {
        if node.remove_name(parent, name) {
            self.table.release(parent);
        }
    }

    // --- making ---

    /// Makes a regular file, FIFO, socket or device.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<Entry> {
        if FileKind::from_mode(mode) == FileKind::Regular || mode & libc::S_IFMT == 0 {
            return self.make_file(caller, parent, name, mode, umask, true).map(|(entry, ..)| entry);
        }
        let (node, attr, ()) = self.make(caller, parent, name, mode, umask, |directory, inode| {
            let inode = NewInode { mode: inode.mode | mode & libc::S_IFMT, ..*inode };
            Ok((directory.make_node(name, &inode, u64::from(rdev))?, None, ()))
        })?;
        Ok(Entry { attr, generation: node.generation })
    }

    /// Makes a directory.
    pub fn mkdir(&self, caller: &Caller, parent: InodeNo, name: &[u8], mode: u32, umask: u32) -> Result<Entry> {
        let mode = libc::S_IFDIR | mode & 0o7777;
        let (node, attr, ()) = self.make(caller, parent, name, mode, umask, |directory, inode| {
            let (stat, made) = directory.make_dir(name, inode)?;
            Ok((stat, Some(made), ()))
        })?;
        Ok(Entry { attr, generation: node.generation })
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, caller: &Caller, parent: InodeNo, name: &[u8], target: &[u8]) -> Result<Entry> {
        let mode = libc::S_IFLNK | 0o777;
        let (node, attr, ()) = self.make(caller, parent, name, mode, 0, |directory, inode| {
            Ok((directory.make_symlink(name, target, inode)?, None, ()))
        })?;
        Ok(Entry { attr, generation: node.generation })
    }

    /// Makes and opens a regular file. If it exists (the kernel did not know), it is opened, unless
    /// `flags` has `O_EXCL`.
    pub fn create(
        &self,
        caller: &Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        umask: u32,
        flags: i32,
    ) -> Result<(Entry, FileHandle)> {
        match self.make_file(caller, parent, name, mode, umask, self.has_little_room()) {
            Ok((entry, node, file)) => Ok((entry, self.new_file_handle(caller, &node, file))),
            Err(error) if error.errno() == libc::EEXIST && flags & libc::O_EXCL == 0 => {
                let entry = self.lookup(parent, name)?;
                match self.open(caller, entry.attr.ino, flags) {
                    Ok(handle) => Ok((entry, handle)),
                    Err(error) => {
                        self.forget(entry.attr.ino, 1);
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes and opens a regular file without a name (`O_TMPFILE`): [`Self::link`] gives it one, and what never got one is
    /// gone when it is closed. Whether it may be linked (`O_EXCL`) is the kernel's to know.
    pub fn create_unnamed(
        &self,
        caller: &Caller,
        parent: InodeNo,
        mode: u32,
        umask: u32,
    ) -> Result<(Entry, FileHandle)> {
        self.check_writable()?;
        let parent = self.directory_node(parent)?;
        let (inode, knowledge) = self.new_inode(caller, &parent, libc::S_IFREG | mode & 0o7777, umask)?;
        let (stat, file) = self.directory(&parent)?.make_unnamed(&inode)?;
        let (node, _) = self.enter_inode(Found { stat, removals: None, knowledge, directory: None })?;
        let attr = node.last_attr();
        // As of what lost its last name while it is open.
        node.state().set_anchor(Anchor::File(file.clone()));
        Ok((Entry { attr, generation: node.generation }, self.new_file_handle(caller, &node, file)))
    }

    /// `whole`: an empty file at once, where it is otherwise made with the first commit. Without room for it there is none.
    fn make_file(
        &self,
        caller: &Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        umask: u32,
        whole: bool,
    ) -> Result<(Entry, Arc<Node<S>>, Arc<VaultFile<S>>)> {
        let mode = libc::S_IFREG | mode & 0o7777;
        let (node, attr, file) = self.make(caller, parent, name, mode, umask, |directory, inode| {
            let (stat, file) = directory.make_file(name, inode)?;
            if !whole {
                return Ok((stat, None, file));
            }
            match file.commit().and_then(|()| file.stat()) {
                Ok(stat) => Ok((stat, None, file)),
                Err(error) => {
                    // It was made by this call alone, and nobody knows of it yet.
                    let _ = directory.unlink(name);
                    Err(self.noted(error.into()))
                }
            }
        })?;
        Ok((Entry { attr, generation: node.generation }, node, file))
    }

    /// What every creation has in common; `make` asks the vault for it.
    fn make<T>(
        &self,
        caller: &Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        umask: u32,
        make: impl FnOnce(&Arc<Directory<S>>, &NewInode) -> Result<(Stat, Option<Arc<Directory<S>>>, T)>,
    ) -> Result<(Arc<Node<S>>, Attr, T)> {
        self.check_writable()?;
        let parent = self.directory_node(parent)?;
        let (inode, knowledge) = self.new_inode(caller, &parent, mode, umask)?;
        let _names = parent.folder()?.names.write();
        let made = make(self.directory(&parent)?, &inode);
        parent.touch();
        let (stat, directory, extra) = made?;
        let found = Found { stat, removals: None, knowledge, directory };
        let (node, _) = self.enter(&parent, name, found)?;
        let attr = node.last_attr();
        Ok((node, attr, extra))
    }

    /// Owner and permissions of a new inode, and what is known of its attributes. `mode` has the type.
    ///
    /// A default ACL of the directory takes the place of the umask; the backing works the permissions
    /// out from it, so that they are given to the creating call and not set afterwards.
    fn new_inode(
        &self,
        caller: &Caller,
        parent: &Arc<Node<S>>,
        mode: u32,
        umask: u32,
    ) -> Result<(NewInode, Knowledge)> {
        let kind = FileKind::from_mode(mode);
        let directory = parent.last_attr();
        let gives_group = directory.mode() & libc::S_ISGID != 0;
        let inherits_acl = kind != FileKind::Symlink && self.has_default_acl(parent)?;
        let mut mode = mode & 0o7777;
        if !inherits_acl && kind != FileKind::Symlink {
            mode &= !(umask & 0o777);
        }
        if gives_group && kind == FileKind::Directory {
            mode |= libc::S_ISGID;
        }
        let (uid, gid) = match self.options.ownership {
            Ownership::Caller => (Some(caller.uid), Some(if gives_group { directory.gid } else { caller.gid })),
            Ownership::Daemon => (None, None),
        };
        Ok((NewInode { mode, uid, gid }, Knowledge::of_new(kind, inherits_acl)))
    }

    /// Gives an inode another name.
    pub fn link(&self, ino: InodeNo, new_parent: InodeNo, new_name: &[u8]) -> Result<Entry> {
        self.check_writable()?;
        let node = self.table.get(ino)?;
        if node.kind == FileKind::Directory {
            return Err(FsError::NotPermitted);
        }
        let parent = self.directory_node(new_parent)?;
        loop {
            let Some(name) = node.any_name() else {
                match self.place(&node)? {
                    Place::File(file) | Place::Anchor(Anchor::File(file)) => {
                        return self.link_held(&node, NodeRef::File(&file), &parent, new_name);
                    }
                    Place::Anchor(Anchor::Pin(pin)) => {
                        return self.link_held(&node, NodeRef::Pinned(&pin), &parent, new_name);
                    }
                    Place::Directory(_) => return Err(FsError::NotPermitted),
                    // It has a name again.
                    Place::Name(_) => continue,
                }
            };
            let _names = lock_names([Some(&name.parent), Some(&parent), None]);
            if node.is_at(&name) {
                return self.link_from(&node, &name, &parent, new_name);
            }
        }
    }

    /// From a name that is known; the names of both directories are locked.
    fn link_from(&self, node: &Arc<Node<S>>, name: &Name<S>, parent: &Arc<Node<S>>, new_name: &[u8]) -> Result<Entry> {
        let from = self.directory(&name.parent)?;
        self.link_by(node, parent, new_name, |to| Ok(from.link(&name.name, to, new_name)?))
    }

    /// From what holds an inode of which no name is known. It may have one: the backing knows.
    fn link_held(
        &self,
        node: &Arc<Node<S>>,
        held: NodeRef<'_, S>,
        parent: &Arc<Node<S>>,
        new_name: &[u8],
    ) -> Result<Entry> {
        let _names = parent.folder()?.names.write();
        self.link_by(node, parent, new_name, |to| Ok(self.vault.link(held, to, new_name)?))
    }

    fn link_by(
        &self,
        node: &Arc<Node<S>>,
        parent: &Arc<Node<S>>,
        new_name: &[u8],
        link: impl FnOnce(&Arc<Directory<S>>) -> Result<Stat>,
    ) -> Result<Entry> {
        let version = node.state().version;
        let directory = self.directory(parent)?;
        let linked = link(directory);
        parent.touch();
        let stat = linked?;
        let attr = self.attr_of(node.ino, &stat);
        {
            let mut state = node.state();
            // Of another kind it is somebody else's: whoever asks next is refused.
            if state.version == version && attr.kind == node.kind {
                state.attr = attr.into();
                state.fresh = !attr.provisional;
            } else {
                // It was changed in another way meanwhile, which may or may not be in `stat`.
                state.attr.nlink = state.attr.nlink.saturating_add(1);
                state.fresh = false;
            }
            state.version = state.version.wrapping_add(1);
        }
        // In this order: whoever syncs the names in between comes again.
        self.name_node(node, parent, new_name);
        node.names_changed();
        if !self.table.count_lookup(node) {
            return Err(FsError::UnknownInode);
        }
        self.entry_of(node, self.attr_at(node, directory, new_name))
    }

    /// Where a symbolic link leads.
    pub fn readlink(&self, ino: InodeNo) -> Result<Vec<u8>> {
        let node = self.table.get(ino)?;
        if node.kind != FileKind::Symlink {
            return Err(FsError::Invalid);
        }
        loop {
            let Some(name) = node.any_name() else {
                let target = node.state().last_target().cloned();
                return target.map(|target| target.to_vec()).ok_or(FsError::NotFound);
            };
            let _names = name.parent.folder()?.names.read();
            if node.is_at(&name) {
                let target = self.directory(&name.parent)?.read_symlink(&name.name)?;
                self.note_access(&node);
                return Ok(target);
            }
        }
    }
}

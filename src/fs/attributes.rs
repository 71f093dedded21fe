//! getattr and setattr, and how an inode is reached: by an open file, an opened directory, a name, or a pin.

use std::sync::Arc;

use super::error::{FsError, Result};
use super::node::{Anchor, Name, Node};
use super::privileges;
use super::types::{Attr, Caller, FileHandle, InodeNo, SetAttr};
use super::{Fs, MAX_FILE_LEN};
use crate::vault::{Directory, FileKind, NodeRef, SetTime, Stat, Storage, Timestamp, VaultError, VaultFile};

/// How often attributes are asked for again when the inode changes meanwhile, before they are taken as they are.
const ATTEMPTS: usize = 8;

/// What an inode is reached by.
pub(super) enum Place<S: Storage> {
    File(Arc<VaultFile<S>>),
    Directory(Arc<Directory<S>>),
    Anchor(Anchor<S>),
    Name(Name<S>),
}

impl<S: Storage> Fs<S> {
    /// The attributes of an inode, without a system call unless something changed beneath.
    pub fn getattr(&self, ino: InodeNo, handle: Option<FileHandle>) -> Result<Attr> {
        let node = self.node_of(ino, handle)?;
        self.attr(&node)
    }

    /// The attributes, and the time of creation where the backing knows it: that is not remembered, but asked for.
    pub fn getattr_and_birth(&self, ino: InodeNo, handle: Option<FileHandle>) -> Result<(Attr, Option<Timestamp>)> {
        let node = self.node_of(ino, handle)?;
        let attr = self.attr(&node)?;
        let stat = self.reach(&node, |inode| self.vault.stat(inode));
        Ok((attr, stat.ok().and_then(|stat| stat.btime)))
    }

    /// Changes attributes, in the order in which one does not undo the other: owner, permissions, size, times.
    pub fn setattr(&self, caller: &Caller, ino: InodeNo, handle: Option<FileHandle>, change: SetAttr) -> Result<Attr> {
        self.check_writable()?;
        let node = self.node_of(ino, handle)?;
        let outcome = self.change(caller, &node, &change);
        if outcome.is_err() {
            // Part of it may have been done.
            node.touch();
        }
        outcome
    }

    fn change(&self, caller: &Caller, node: &Arc<Node<S>>, change: &SetAttr) -> Result<Attr> {
        if change.uid.is_some() || change.gid.is_some() {
            self.change_owner(caller, node, change)?;
        }
        if let Some(mode) = change.mode {
            self.set_mode(node, mode & 0o7777)?;
        }
        if let Some(size_bytes) = change.size {
            self.truncate(caller, node, size_bytes)?;
        }
        let times = (change.atime, change.mtime);
        if times != (SetTime::Keep, SetTime::Keep) {
            let only_times =
                change.uid.is_none() && change.gid.is_none() && change.mode.is_none() && change.size.is_none();
            match self.live_file(node) {
                Some(file) if only_times => return self.change_times_of_file(node, &file, times),
                // A removed file that nobody has open: Linux says when it was removed. Nothing is kept of it.
                None if only_times && node.is_removed_file() => return Ok(node.set_last_times(times, self.now())),
                Some(file) => file.set_times(times.0, times.1)?,
                None => self.reach(node, |inode| self.vault.set_times(inode, times.0, times.1))?,
            }
        }
        node.touch();
        self.attr(node)
    }

    fn change_owner(&self, caller: &Caller, node: &Arc<Node<S>>, change: &SetAttr) -> Result<()> {
        let before = node.last_attr();
        self.reach(node, |inode| self.vault.set_owner(inode, change.uid, change.gid))?;
        node.touch();
        // A kernel below takes bits from what it sees as a program, for a caller that is the daemon. What
        // the real caller loses is decided here.
        let kept = before.mode() & !privileges::lost_by_chown(&before, caller);
        if before.mode() & 0o6000 != 0 && change.mode.is_none() && self.attr(node)?.mode() != kept {
            self.set_mode(node, kept)?;
        }
        if before.kind == FileKind::Regular {
            self.drop_capabilities(node)?;
        }
        Ok(())
    }

    pub(super) fn set_mode(&self, node: &Arc<Node<S>>, mode: u32) -> Result<()> {
        self.reach(node, |inode| self.vault.set_mode(inode, mode))?;
        node.touch();
        node.state().attr.perm = (mode & 0o7777) as u16;
        Ok(())
    }

    /// The frequent case: the kernel sets the times of a file that it wrote. The answer needs no system call.
    fn change_times_of_file(
        &self,
        node: &Arc<Node<S>>,
        file: &Arc<VaultFile<S>>,
        (atime, mtime): (SetTime, SetTime),
    ) -> Result<Attr> {
        let now = self.now();
        let exact = |time| match time {
            SetTime::Now => SetTime::To(now),
            SetTime::Keep | SetTime::To(_) => time,
        };
        let (atime, mtime) = (exact(atime), exact(mtime));
        file.set_times(atime, mtime)?;
        let mut state = node.state();
        state.version = state.version.wrapping_add(1);
        set_if_given(&mut state.attr.atime, atime);
        set_if_given(&mut state.attr.mtime, mtime);
        state.attr.ctime = now;
        // What else is known may be of before it was written to.
        Ok(Attr { provisional: state.attr.provisional || !state.fresh, ..state.attr.of(node) })
    }

    fn truncate(&self, caller: &Caller, node: &Arc<Node<S>>, size_bytes: u64) -> Result<()> {
        match node.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            FileKind::Symlink
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice
            | FileKind::Unknown => return Err(FsError::Invalid),
        }
        if size_bytes > MAX_FILE_LEN {
            return Err(FsError::TooLarge);
        }
        let file = self.vault_file(node)?;
        self.truncate_file(caller, node, &file, size_bytes)?;
        // Looked at after the change: whoever has it open now commits that, too.
        let in_use = node.state().open().is_some();
        if !in_use {
            file.commit()?;
        }
        Ok(())
    }

    /// Truncates an open file; the bits that go with a change of the content go.
    pub(super) fn truncate_file(
        &self,
        caller: &Caller,
        node: &Arc<Node<S>>,
        file: &Arc<VaultFile<S>>,
        size_bytes: u64,
    ) -> Result<()> {
        {
            let _content = node.content.write();
            let truncated = file.truncate(size_bytes);
            node.resized(if truncated.is_ok() { size_bytes } else { file.len_bytes() });
            truncated?;
            self.losses.resized(node.ino, size_bytes);
        }
        self.drop_privileges(caller, node)?;
        self.drop_capabilities(node)
    }

    /// Takes set-user-id and set-group-id away, as far as this caller's change of the content does.
    pub(super) fn drop_privileges(&self, caller: &Caller, node: &Arc<Node<S>>) -> Result<()> {
        let attr = node.last_attr();
        match privileges::lost_by_writing(&attr, caller) {
            0 => Ok(()),
            lost => self.set_mode(node, attr.mode() & !lost),
        }
    }

    // --- reading attributes ---

    /// The node of a number, or of the open file that is named with it.
    fn node_of(&self, ino: InodeNo, handle: Option<FileHandle>) -> Result<Arc<Node<S>>> {
        match self.table.find(ino) {
            Some(node) => Ok(node),
            None => {
                let handle = handle.ok_or(FsError::UnknownInode)?;
                self.file(handle).map(|file| file.node.clone())
            }
        }
    }

    /// The attributes of a node; asks the vault if something changed beneath.
    pub(super) fn attr(&self, node: &Arc<Node<S>>) -> Result<Attr> {
        self.attr_by(node, || self.reach(node, |inode| self.vault.stat(inode)))
    }

    /// The same while a name of the inode is locked by this thread.
    pub(super) fn attr_at(&self, node: &Arc<Node<S>>, directory: &Arc<Directory<S>>, name: &[u8]) -> Result<Attr> {
        self.attr_by(node, || match self.live_file(node) {
            Some(file) => Ok(file.stat()?),
            None => Ok(directory.lookup(name)?),
        })
    }

    /// As the kernel is told the vault's attributes of an inode.
    pub(super) fn attr_of(&self, ino: InodeNo, stat: &Stat) -> Attr {
        let attr = Attr::new(ino, stat);
        Attr { provisional: attr.kind == FileKind::Regular && self.vault.space_is_due(stat.ino), ..attr }
    }

    fn attr_by(&self, node: &Arc<Node<S>>, stat: impl Fn() -> Result<Stat>) -> Result<Attr> {
        let mut attempts_left = ATTEMPTS;
        loop {
            let version = {
                let state = node.state();
                if state.fresh {
                    return Ok(state.attr.of(node));
                }
                state.version
            };
            // Before as well: a checkpoint may give space back in between.
            let is_due = node.kind == FileKind::Regular && self.vault.space_is_due(node.ino.0);
            let stat = stat()?;
            let attr = self.attr_of(node.ino, &stat);
            let attr = Attr { provisional: attr.provisional || is_due, ..attr };
            // A rotation of the key puts a symbolic link in the place of another.
            let is_same = attr.kind == FileKind::Symlink || self.table.number(stat.ino) == node.ino;
            if attr.kind != node.kind || !is_same {
                // Another inode has the name: someone else works on the backing.
                return Err(FsError::UnknownInode);
            }
            attempts_left = attempts_left.saturating_sub(1);
            let mut state = node.state();
            if state.version == version {
                state.attr = attr.into();
                state.fresh = !attr.provisional;
                return Ok(attr);
            }
            if attempts_left == 0 {
                return Ok(Attr { size_bytes: state.attr.size_bytes, ..attr });
            }
        }
    }

    // --- reaching inodes ---

    /// Calls `work` with the inode, however it can be reached. No name is locked by this thread.
    pub(super) fn reach<T>(
        &self,
        node: &Arc<Node<S>>,
        work: impl FnOnce(NodeRef<'_, S>) -> std::result::Result<T, VaultError>,
    ) -> Result<T> {
        loop {
            let outcome = match self.place(node)? {
                Place::File(file) | Place::Anchor(Anchor::File(file)) => work(NodeRef::File(&file)),
                Place::Directory(directory) => work(NodeRef::Directory(&directory)),
                Place::Anchor(Anchor::Pin(pin)) => work(NodeRef::Pinned(&pin)),
                Place::Name(name) => {
                    let folder = name.parent.folder()?;
                    let _names = folder.names.read();
                    if !node.is_at(&name) {
                        // Renamed or removed meanwhile.
                        continue;
                    }
                    work(NodeRef::Entry(self.directory(&name.parent)?, &name.name))
                }
            };
            return Ok(outcome?);
        }
    }

    pub(super) fn place(&self, node: &Arc<Node<S>>) -> Result<Place<S>> {
        if let Some(file) = self.live_file(node) {
            return Ok(Place::File(file));
        }
        let state = node.state();
        if let Some(anchor) = state.anchor() {
            return Ok(Place::Anchor(anchor.clone()));
        }
        if let Ok(folder) = node.folder()
            && let Some(directory) = folder.opened()
        {
            return Ok(Place::Directory(directory.clone()));
        }
        drop(state);
        node.any_name().map(Place::Name).ok_or(FsError::NotFound)
    }

    /// The file of an inode, if handles are open or the vault keeps newer content than the backing's.
    pub(super) fn live_file(&self, node: &Node<S>) -> Option<Arc<VaultFile<S>>> {
        if node.kind != FileKind::Regular {
            return None;
        }
        let open = node.state().open().cloned();
        open.or_else(|| self.vault.live_file(self.table.backing_number(node.ino)))
    }

    /// The file of an inode, opened if it is not.
    pub(super) fn vault_file(&self, node: &Arc<Node<S>>) -> Result<Arc<VaultFile<S>>> {
        loop {
            return match self.place(node)? {
                Place::File(file) | Place::Anchor(Anchor::File(file)) => Ok(file),
                Place::Anchor(Anchor::Pin(pin)) => Ok(self.vault.open_pinned(&pin)?),
                Place::Directory(_) => Err(FsError::IsDirectory),
                Place::Name(name) => {
                    let folder = name.parent.folder()?;
                    let _names = folder.names.read();
                    if !node.is_at(&name) {
                        continue;
                    }
                    Ok(self.directory(&name.parent)?.open_file(&name.name)?)
                }
            };
        }
    }

    /// The vault's directory of a node, opened at the first use. Where a node has a name in it, it was opened,
    /// and no lock is taken.
    pub(super) fn directory<'a>(&self, node: &'a Arc<Node<S>>) -> Result<&'a Arc<Directory<S>>> {
        let folder = node.folder()?;
        if folder.is_removed() {
            return Err(FsError::NotFound);
        }
        if let Some(directory) = folder.opened() {
            return Ok(directory);
        }
        loop {
            let name = node.any_name().ok_or(FsError::NotFound)?;
            let _names = name.parent.folder()?.names.read();
            if node.is_at(&name) {
                let directory = self.directory(&name.parent)?.open_child(&name.name)?;
                return Ok(folder.set_opened(directory));
            }
        }
    }

    /// A directory by its number.
    pub(super) fn directory_node(&self, ino: InodeNo) -> Result<Arc<Node<S>>> {
        let node = self.table.get(ino)?;
        self.directory(&node)?;
        Ok(node)
    }
}

fn set_if_given(time: &mut Timestamp, to: SetTime) {
    if let SetTime::To(given) = to {
        *time = given;
    }
}

//! The disk and its page cache as a value: what processes see, and what would be left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;

use super::content::PAGE_BYTES;
use super::fault::WriteVerdict;
use super::file::FileData;
use super::log::Log;
use super::tree::{Body, Change, Dir, Found, Id, Inode, Op, Tree};
use crate::storage::{FileKind, RenameMode, SpaceInfo, Stat, Timestamp, XattrMode};

/// ext4's limit with blocks of 4 KiB.
pub(super) const MAX_FILE_BYTES: u64 = (1 << 44) - PAGE_BYTES;
/// xfs's limit, which is smaller than ext4's.
const MAX_SYMLINK_BYTES: usize = 1023;
/// The kernel's limits (`XATTR_SIZE_MAX`, `XATTR_NAME_MAX`).
const MAX_XATTR_BYTES: usize = 65536;
const MAX_XATTR_NAME_BYTES: usize = 255;
/// What a disk without a set capacity says it has.
const DEFAULT_PAGES: u64 = 1 << 28;

/// Cloning shares all content.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) tree: Tree,
    pub(super) log: Log,
    pub(super) files: BTreeMap<Id, Arc<FileData>>,
    /// Files that no process sees, but a crash may bring back.
    dead: BTreeSet<Id>,
    pub(super) clock: Timestamp,
    capacity_pages: Option<u64>,
    used_pages: u64,
    next_id: u64,
    /// The number of the last change, of any kind.
    seq: u64,
}

impl Disk {
    /// An empty disk whose clock shows `clock`.
    pub(super) fn new(clock: Timestamp) -> Self {
        let tree = Tree::new(clock);
        Self {
            log: Log::new(tree.clone()),
            tree,
            files: BTreeMap::new(),
            dead: BTreeSet::new(),
            clock,
            capacity_pages: None,
            used_pages: 0,
            next_id: 1,
            seq: 0,
        }
    }

    /// A disk on which everything is durable; clock, capacity and counters are those of `before`.
    pub(super) fn settled(tree: Tree, files: BTreeMap<Id, Arc<FileData>>, before: &Self) -> Self {
        Self {
            used_pages: files.values().map(|file| file.now.allocated_pages()).sum(),
            log: Log::new(tree.clone()),
            tree,
            files,
            dead: BTreeSet::new(),
            clock: before.clock,
            capacity_pages: before.capacity_pages,
            next_id: before.next_id,
            seq: before.seq,
        }
    }

    pub(super) fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity_pages = bytes.map(|bytes| bytes / PAGE_BYTES);
    }

    pub(super) fn space(&self) -> SpaceInfo {
        let free = self.free_pages();
        SpaceInfo {
            block_size: PAGE_BYTES,
            blocks: self.capacity_pages.unwrap_or(DEFAULT_PAGES),
            blocks_free: free,
            blocks_available: free,
            files: 1 << 32,
            files_free: (1 << 32) - self.tree.iter().count() as u64,
        }
    }

    pub(super) fn free_pages(&self) -> u64 {
        self.capacity_pages.unwrap_or(DEFAULT_PAGES).saturating_sub(self.used_pages)
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_pages * PAGE_BYTES
    }

    // --- inodes and names ---

    /// Makes a change, and returns an inode that lost its last name by it.
    fn commit(&mut self, op: Op) -> Result<Option<Id>, Errno> {
        self.seq += 1;
        let change = Change { seq: self.seq, time: self.clock, op };
        let orphan = self.tree.apply(&change)?;
        self.log.push(change);
        Ok(orphan)
    }

    /// A new inode of any type; `mode` carries it.
    pub(super) fn create(
        &mut self,
        parent: Id,
        name: &OsStr,
        mode: u32,
        rdev: u64,
        symlink: Option<&[u8]>,
    ) -> Result<Id, Errno> {
        if symlink == Some(&[]) {
            return Err(Errno::NOENT);
        }
        // The kernel looks for the name before it asks the filesystem for anything.
        match self.tree.lookup(parent, name) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let (id, inode) = self.new_inode(parent, mode, rdev, symlink)?;
        self.commit(Op::Create { parent, name: name.into(), id, inode: Arc::new(inode) })?;
        self.made(id);
        Ok(id)
    }

    /// A new regular file without a name.
    pub(super) fn create_unnamed(&mut self, parent: Id, mode: u32) -> Result<Id, Errno> {
        let above = self.tree.get(parent)?;
        above.dir()?;
        if above.nlink == 0 {
            // What ext4 says of a directory that was removed.
            return Err(Errno::PERM);
        }
        let (id, inode) = self.new_inode(parent, mode, 0, None)?;
        self.commit(Op::CreateUnnamed { id, inode: Arc::new(Inode { nlink: 0, unnamed: true, ..inode }) })?;
        self.made(id);
        Ok(id)
    }

    fn new_inode(&self, parent: Id, mode: u32, rdev: u64, symlink: Option<&[u8]>) -> Result<(Id, Inode), Errno> {
        if self.free_pages() == 0 {
            return Err(Errno::NOSPC);
        }
        let id = Id(self.next_id);
        let body = match (FileKind::from_mode(mode), symlink) {
            (FileKind::Symlink, Some(target)) if target.len() > MAX_SYMLINK_BYTES => return Err(Errno::NAMETOOLONG),
            (FileKind::Symlink, Some(target)) => Body::Symlink(target.into()),
            (FileKind::Symlink | FileKind::Unknown, _) => return Err(Errno::INVAL),
            (FileKind::Regular, _) => Body::Regular,
            (FileKind::Directory, _) => Body::Dir(Dir { parent, entries: BTreeMap::new() }),
            (FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice, _) => Body::Node,
        };
        let above = self.tree.get(parent)?;
        let inherits_group = above.mode & libc::S_ISGID != 0;
        let is_dir = matches!(body, Body::Dir(_));
        let inode = Inode {
            ino: self.tree.free_ino(),
            mode: if inherits_group && is_dir { mode | libc::S_ISGID } else { mode },
            nlink: if is_dir { 2 } else { 1 },
            unnamed: false,
            uid: 0,
            gid: if inherits_group { above.gid } else { 0 },
            rdev,
            atime: self.clock,
            mtime: self.clock,
            ctime: self.clock,
            btime: self.clock,
            mtime_seq: self.seq + 1,
            xattrs: BTreeMap::new(),
            body,
        };
        Ok((id, inode))
    }

    /// This new inode is in the tree.
    fn made(&mut self, id: Id) {
        self.next_id += 1;
        if self.tree.get(id).is_ok_and(|inode| matches!(inode.body, Body::Regular)) {
            self.files.insert(id, Arc::new(FileData::new(self.seq, self.clock)));
        }
    }

    /// `source` is the name that the inode was found by, if it was.
    pub(super) fn link(
        &mut self,
        id: Id,
        source: Option<(Id, Arc<OsStr>)>,
        to: Id,
        to_name: &OsStr,
    ) -> Result<(), Errno> {
        match self.tree.lookup(to, to_name) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        self.commit(Op::Link { parent: to, name: to_name.into(), id, source }).map(|_| ())
    }

    pub(super) fn unlink(&mut self, parent: Id, name: &OsStr) -> Result<Option<Id>, Errno> {
        let id = self.tree.lookup(parent, name)?;
        self.commit(Op::Unlink { parent, name: name.into(), id })
    }

    pub(super) fn remove_dir(&mut self, parent: Id, name: &OsStr) -> Result<Option<Id>, Errno> {
        let id = self.tree.lookup(parent, name)?;
        self.commit(Op::RemoveDir { parent, name: name.into(), id })
    }

    pub(super) fn rename(
        &mut self,
        (from, from_name): (Id, &OsStr),
        (to, to_name): (Id, &OsStr),
        mode: RenameMode,
    ) -> Result<Option<Id>, Errno> {
        let id = self.tree.lookup(from, from_name)?;
        let target = self.tree.lookup(to, to_name).ok();
        let is_dir = |id: Id| self.tree.get(id).is_ok_and(Inode::is_dir);
        let found = Found { target, moves_dir: is_dir(id) || target.is_some_and(is_dir) };
        let (from, to) = ((from, from_name.into()), (to, to_name.into()));
        self.commit(Op::Rename { from, to, id, mode, found })
    }

    /// The last handle of an inode without names is gone: so is the inode.
    pub(super) fn reclaim(&mut self, id: Id) {
        self.tree.remove(id);
        if let Some(file) = self.files.get(&id) {
            self.used_pages -= file.now.allocated_pages();
            if self.log.may_show(id) {
                self.dead.insert(id);
            } else {
                self.files.remove(&id);
            }
        }
    }

    /// Every handle is gone.
    pub(super) fn reclaim_all(&mut self) {
        let orphans: Vec<Id> = self.tree.orphans().collect();
        orphans.into_iter().for_each(|id| self.reclaim(id));
    }

    // --- attributes ---

    pub(super) fn stat(&self, id: Id) -> Result<Stat, Errno> {
        let inode = self.tree.get(id)?;
        let file = self.files.get(&id);
        let size_bytes = match (&inode.body, file) {
            (Body::Regular, Some(file)) => file.now.len_bytes,
            (Body::Symlink(target), _) => target.len() as u64,
            (Body::Dir(_), _) => PAGE_BYTES,
            (Body::Regular | Body::Node, _) => 0,
        };
        Ok(Stat {
            ino: inode.ino,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size_bytes,
            blocks: file.map_or(0, |file| file.now.allocated_pages() * (PAGE_BYTES / 512)),
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: Some(inode.btime),
        })
    }

    pub(super) fn set_mode(&mut self, id: Id, mode: u32) -> Result<(), Errno> {
        if self.tree.get(id)?.kind() == FileKind::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        self.commit(Op::SetMode { id, mode }).map(|_| ())
    }

    pub(super) fn set_owner(&mut self, id: Id, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(Errno::INVAL);
        }
        self.commit(Op::SetOwner { id, uid, gid }).map(|_| ())
    }

    pub(super) fn set_times(
        &mut self,
        id: Id,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<(), Errno> {
        if [atime, mtime].iter().flatten().any(|time| time.nanoseconds >= 1_000_000_000) {
            return Err(Errno::INVAL);
        }
        self.commit(Op::SetTimes { id, atime, mtime }).map(|_| ())
    }

    pub(super) fn xattr(&self, id: Id, name: &OsStr) -> Result<Arc<[u8]>, Errno> {
        let inode = self.tree.get(id)?;
        check_xattr_name(inode.kind(), name, false)?;
        inode.xattrs.get(name).cloned().ok_or(Errno::NODATA)
    }

    pub(super) fn set_xattr(&mut self, id: Id, name: &OsStr, value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        if value.len() > MAX_XATTR_BYTES {
            return Err(Errno::TOOBIG);
        }
        let inode = self.tree.get(id)?;
        check_xattr_name(inode.kind(), name, true)?;
        match (mode, inode.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(Errno::EXIST),
            (XattrMode::Replace, false) => return Err(Errno::NODATA),
            _ => {}
        }
        if self.free_pages() == 0 {
            return Err(Errno::NOSPC);
        }
        self.commit(Op::SetXattr { id, name: name.into(), value: Some(value.into()) }).map(|_| ())
    }

    pub(super) fn remove_xattr(&mut self, id: Id, name: &OsStr) -> Result<(), Errno> {
        let inode = self.tree.get(id)?;
        check_xattr_name(inode.kind(), name, true)?;
        if !inode.xattrs.contains_key(name) {
            return Err(Errno::NODATA);
        }
        self.commit(Op::SetXattr { id, name: name.into(), value: None }).map(|_| ())
    }

    // --- file content ---

    pub(super) fn file(&self, id: Id) -> Result<&FileData, Errno> {
        self.files.get(&id).map(|file| &**file).ok_or(Errno::STALE)
    }

    /// Changes a file's data by `change`, which is told the number and time of this change.
    fn change_file(&mut self, id: Id, change: impl FnOnce(&mut FileData, u64, Timestamp)) -> Result<(), Errno> {
        self.seq += 1;
        let file = Arc::make_mut(self.files.get_mut(&id).ok_or(Errno::STALE)?);
        let before = file.now.allocated_pages();
        change(file, self.seq, self.clock);
        self.used_pages = self.used_pages - before + file.now.allocated_pages();
        let mtime = file.mtime();
        let inode = self.tree.get_mut(id)?;
        if mtime.seq == self.seq {
            (inode.mtime, inode.ctime, inode.mtime_seq) = (mtime.mtime, self.clock, self.seq);
        }
        Ok(())
    }

    /// Writes the buffers, or as much of them as the verdict and the space allow, and then fails.
    pub(super) fn write(
        &mut self,
        id: Id,
        buffers: &[IoSlice<'_>],
        offset_bytes: u64,
        verdict: WriteVerdict,
    ) -> Result<(), Errno> {
        // In one piece: a sector never shows half of a call.
        let mut bytes: Vec<u8> = Vec::with_capacity(buffers.iter().map(|buffer| buffer.len()).sum());
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        let end = offset_bytes.checked_add(bytes.len() as u64).filter(|end| *end <= i64::MAX as u64);
        let end = end.ok_or(Errno::INVAL)?;
        if end > MAX_FILE_BYTES && !bytes.is_empty() {
            return Err(Errno::FBIG);
        }
        let (mut allowed, mut failure) = match verdict {
            WriteVerdict::All => (bytes.len() as u64, None),
            WriteVerdict::NoSpaceAfter(allowed) => (allowed, Some(Errno::NOSPC)),
            WriteVerdict::ErrorAfter(allowed) => (allowed, Some(Errno::IO)),
        };
        let mut free = self.free_pages();
        let file = self.file(id)?;
        for page in offset_bytes / PAGE_BYTES..(offset_bytes + allowed).div_ceil(PAGE_BYTES) {
            if file.now.has_space_for(page) {
                continue;
            }
            if free == 0 {
                allowed = (page * PAGE_BYTES).saturating_sub(offset_bytes);
                failure = Some(Errno::NOSPC);
                break;
            }
            free -= 1;
        }
        bytes.truncate(allowed as usize);
        self.change_file(id, |file, seq, time| file.write(seq, time, &bytes, offset_bytes))?;
        failure.map_or(Ok(()), Err)
    }

    pub(super) fn set_len(&mut self, id: Id, len_bytes: u64) -> Result<(), Errno> {
        if len_bytes > i64::MAX as u64 {
            return Err(Errno::INVAL);
        }
        if len_bytes > MAX_FILE_BYTES {
            return Err(Errno::FBIG);
        }
        self.change_file(id, |file, seq, time| file.set_len(seq, time, len_bytes))
    }

    pub(super) fn allocate(&mut self, id: Id, offset_bytes: u64, len_bytes: u64) -> Result<(), Errno> {
        let Some(range) = checked_range(offset_bytes, len_bytes)? else {
            return Ok(());
        };
        let pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
        let file = self.file(id)?;
        let mut free = self.free_pages();
        for _ in pages.clone().filter(|page| !file.now.has_space_for(*page)) {
            free = free.checked_sub(1).ok_or(Errno::NOSPC)?;
        }
        self.change_file(id, |file, _, _| file.reserve(pages))
    }

    pub(super) fn punch(&mut self, id: Id, offset_bytes: u64, len_bytes: u64) -> Result<(), Errno> {
        let Some(range) = checked_range(offset_bytes, len_bytes)? else {
            return Ok(());
        };
        self.change_file(id, |file, seq, time| file.punch(seq, time, range))
    }

    // --- durability ---

    /// fsync of a file or directory.
    pub(super) fn sync(&mut self, id: Id) -> Result<(), Errno> {
        self.sync_content(id, true)?;
        self.log.sync(id);
        self.forget_dead();
        Ok(())
    }

    /// fdatasync: the inode only if the data could not be read back without it.
    pub(super) fn sync_data(&mut self, id: Id) -> Result<(), Errno> {
        if self.file(id)?.needs_inode() {
            return self.sync(id);
        }
        self.sync_content(id, false)
    }

    fn sync_content(&mut self, id: Id, with_inode: bool) -> Result<(), Errno> {
        match self.files.get_mut(&id) {
            Some(file) if file.is_settled() => {}
            Some(file) => Arc::make_mut(file).sync(with_inode),
            // A directory has none.
            None => {
                self.tree.get(id)?;
            }
        }
        Ok(())
    }

    /// syncfs.
    pub(super) fn sync_all(&mut self) {
        for file in self.files.values_mut().filter(|file| !file.is_settled()) {
            Arc::make_mut(file).sync(true);
        }
        self.log.sync_all(&self.tree);
        // Files without names are in the tree while a process has them open, but never in a crash state. One that may
        // yet get its first is needed for that.
        let orphans: Vec<Id> = self.tree.orphans().collect();
        let lost = |id: &Id| self.tree.get(*id).is_ok_and(|inode| !inode.unnamed);
        orphans.into_iter().filter(lost).for_each(|id| self.log.base.remove(id));
        self.forget_dead();
    }

    /// A sync of this inode failed; of everything if `None`.
    pub(super) fn lose_unsynced(&mut self, id: Option<Id>) {
        let lost = self.files.iter_mut().filter(|(file, _)| id.is_none_or(|id| id == **file));
        lost.for_each(|(_, file)| Arc::make_mut(file).lose_unsynced());
    }

    /// The last change of names or attributes is durable (an attacker's, made on a disk at rest).
    pub(super) fn settle_last_change(&mut self) {
        self.log.settle_last();
        self.forget_dead();
    }

    /// This file is on the disk as it is now (an attacker's doing): no sync, so no name is made durable.
    pub(super) fn settle_content(&mut self, id: Id) -> Result<(), Errno> {
        let file = Arc::make_mut(self.files.get_mut(&id).ok_or(Errno::STALE)?);
        *file = file.settled_now();
        Ok(())
    }

    fn forget_dead(&mut self) {
        let gone: Vec<Id> = self.dead.iter().copied().filter(|id| !self.log.may_show(*id)).collect();
        for id in gone {
            self.dead.remove(&id);
            self.files.remove(&id);
        }
    }
}

/// `None` if it is empty.
fn checked_range(offset_bytes: u64, len_bytes: u64) -> Result<Option<Range<u64>>, Errno> {
    let end = offset_bytes.checked_add(len_bytes).filter(|end| *end <= MAX_FILE_BYTES).ok_or(Errno::FBIG)?;
    Ok((len_bytes > 0).then_some(offset_bytes..end))
}

/// Which attributes an inode can have (`xattr(7)`).
fn check_xattr_name(kind: FileKind, name: &OsStr, for_change: bool) -> Result<(), Errno> {
    let bytes = name.as_encoded_bytes();
    if bytes.is_empty() || bytes.len() > MAX_XATTR_NAME_BYTES {
        return Err(Errno::RANGE);
    }
    let in_namespace = |prefix: &[u8]| bytes.len() > prefix.len() && bytes.starts_with(prefix);
    if in_namespace(b"user.") {
        return match kind {
            FileKind::Regular | FileKind::Directory => Ok(()),
            _ if for_change => Err(Errno::PERM),
            _ => Err(Errno::NODATA),
        };
    }
    let is_acl = bytes == b"system.posix_acl_access" || bytes == b"system.posix_acl_default";
    let has_acl = is_acl && kind != FileKind::Symlink;
    match has_acl || in_namespace(b"trusted.") || in_namespace(b"security.") {
        true => Ok(()),
        false => Err(Errno::OPNOTSUPP),
    }
}

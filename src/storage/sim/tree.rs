//! Inodes and names as a value, and every change of them as one [`Op`].
//!
//! A running process and a crash apply the same operations by the same code: live, an operation that
//! does not fit is the caller's error; in a crash state it is one that was lost with what it needed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::random::mix;
use crate::storage::{FileKind, RenameMode, Timestamp};

/// Which inode: never used again, unlike `Inode::ino`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(pub(super) u64);

/// The top directory.
pub(super) const ROOT: Id = Id(0);
/// The number that filesystems give the top directory.
const ROOT_INO: u64 = 2;

#[derive(Clone, Debug)]
pub(super) struct Inode {
    /// What `stat` shows: the smallest number that was free, as real filesystems use numbers again.
    pub(super) ino: u64,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    /// Made without a name, and never had one: only then can a file that has none get one.
    pub(super) unnamed: bool,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) btime: Timestamp,
    /// The change that set `mtime`: what a file's data brings along after a crash may be older.
    pub(super) mtime_seq: u64,
    pub(super) xattrs: BTreeMap<Arc<OsStr>, Arc<[u8]>>,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Its content stands in `Disk::files`.
    Regular,
    Symlink(Arc<[u8]>),
    /// FIFO, socket, device.
    Node,
    Dir(Dir),
}

#[derive(Clone, Debug)]
pub(super) struct Dir {
    pub(super) parent: Id,
    /// By cookie, which is a hash of the name: an order that nothing else depends on, as ext4's.
    pub(super) entries: BTreeMap<u64, (Arc<OsStr>, Id)>,
}

impl Inode {
    pub(super) fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode)
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    pub(super) fn dir(&self) -> Result<&Dir, Errno> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            Body::Regular | Body::Symlink(_) | Body::Node => Err(Errno::NOTDIR),
        }
    }

    fn dir_mut(&mut self) -> Result<&mut Dir, Errno> {
        match &mut self.body {
            Body::Dir(dir) => Ok(dir),
            Body::Regular | Body::Symlink(_) | Body::Node => Err(Errno::NOTDIR),
        }
    }
}

/// One change of inodes or names, complete in itself.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    pub(super) op: Op,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Any type: the inode as it is at birth, and its first name.
    Create {
        parent: Id,
        name: Arc<OsStr>,
        id: Id,
        inode: Arc<Inode>,
    },
    /// A file without a name, which a `Link` may give it.
    CreateUnnamed {
        id: Id,
        inode: Arc<Inode>,
    },
    /// `source` is the name that led to the inode, unless it was held.
    Link {
        parent: Id,
        name: Arc<OsStr>,
        id: Id,
        source: Option<(Id, Arc<OsStr>)>,
    },
    Unlink {
        parent: Id,
        name: Arc<OsStr>,
        id: Id,
    },
    RemoveDir {
        parent: Id,
        name: Arc<OsStr>,
        id: Id,
    },
    Rename {
        from: (Id, Arc<OsStr>),
        to: (Id, Arc<OsStr>),
        id: Id,
        mode: RenameMode,
        found: Found,
    },
    SetMode {
        id: Id,
        mode: u32,
    },
    SetOwner {
        id: Id,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    SetTimes {
        id: Id,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    },
    SetXattr {
        id: Id,
        name: Arc<OsStr>,
        value: Option<Arc<[u8]>>,
    },
}

/// What a rename found when it was made: what depends on it, and on what it depends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) target: Option<Id>,
    pub(super) moves_dir: bool,
}

/// All inodes by identity. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    inodes: BTreeMap<Id, Arc<Inode>>,
}

impl Tree {
    /// An empty top directory.
    pub(super) fn new(time: Timestamp) -> Self {
        let root = Inode {
            ino: ROOT_INO,
            mode: libc::S_IFDIR | 0o755,
            nlink: 2,
            unnamed: false,
            uid: 0,
            gid: 0,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            mtime_seq: 0,
            xattrs: BTreeMap::new(),
            body: Body::Dir(Dir { parent: ROOT, entries: BTreeMap::new() }),
        };
        Self { inodes: BTreeMap::from([(ROOT, Arc::new(root))]) }
    }

    pub(super) fn get(&self, id: Id) -> Result<&Inode, Errno> {
        // A handle whose inode is gone: the disk was replaced under it (`SimDisk::restore`).
        self.inodes.get(&id).map(|inode| &**inode).ok_or(Errno::STALE)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&id).map(Arc::make_mut).ok_or(Errno::STALE)
    }

    pub(super) fn remove(&mut self, id: Id) {
        self.inodes.remove(&id);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Inode)> {
        self.inodes.iter().map(|(id, inode)| (*id, &**inode))
    }

    /// Inodes that only handles keep alive.
    pub(super) fn orphans(&self) -> impl Iterator<Item = Id> {
        self.iter().filter(|(_, inode)| inode.nlink == 0).map(|(id, _)| id)
    }

    pub(super) fn lookup(&self, parent: Id, name: &OsStr) -> Result<Id, Errno> {
        match self.get(parent)?.dir()?.entries.get(&cookie_of(name)) {
            Some((found, id)) if **found == *name => Ok(*id),
            _ => Err(Errno::NOENT),
        }
    }

    /// The smallest inode number that nobody has.
    pub(super) fn free_ino(&self) -> u64 {
        let mut used: Vec<u64> = self.inodes.values().map(|inode| inode.ino).collect();
        used.sort_unstable();
        let mut free = ROOT_INO + 1;
        for ino in used {
            if ino == free {
                free += 1;
            }
        }
        free
    }

    /// A path of this inode, for people.
    pub(super) fn path_of(&self, wanted: Id) -> PathBuf {
        let mut pending = vec![(ROOT, PathBuf::new())];
        while let Some((id, path)) = pending.pop() {
            if id == wanted {
                return path;
            }
            if let Ok(dir) = self.get(id).and_then(Inode::dir) {
                pending.extend(dir.entries.values().map(|(name, child)| (*child, path.join(&**name))));
            }
        }
        PathBuf::from(format!("(unlinked {})", wanted.0))
    }

    /// Makes the change, or leaves everything as it was. Returns an inode that lost its last name by it.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Option<Id>, Errno> {
        let time = change.time;
        match &change.op {
            Op::Create { parent, name, id, inode } => {
                self.insert_entry(*parent, name, *id, time)?;
                if inode.is_dir() {
                    self.get_mut(*parent)?.nlink += 1;
                }
                self.inodes.insert(*id, inode.clone());
                Ok(None)
            }
            Op::CreateUnnamed { id, inode } => {
                self.inodes.insert(*id, inode.clone());
                Ok(None)
            }
            Op::Link { parent, name, id, .. } => {
                let inode = self.get(*id)?;
                if self.get(*parent)?.nlink == 0 {
                    return Err(Errno::NOENT);
                }
                if inode.is_dir() {
                    return Err(Errno::PERM);
                }
                if inode.nlink == 0 && !inode.unnamed {
                    return Err(Errno::NOENT);
                }
                self.insert_entry(*parent, name, *id, time)?;
                let inode = self.get_mut(*id)?;
                inode.nlink += 1;
                inode.unnamed = false;
                inode.ctime = time;
                Ok(None)
            }
            Op::Unlink { parent, name, id } => {
                self.expect_entry(*parent, name, *id)?;
                if self.get(*id)?.is_dir() {
                    return Err(Errno::ISDIR);
                }
                self.remove_entry(*parent, name, time)?;
                Ok(self.drop_link(*id, *parent, time))
            }
            Op::RemoveDir { parent, name, id } => {
                self.expect_entry(*parent, name, *id)?;
                if !self.get(*id)?.dir()?.entries.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                self.remove_entry(*parent, name, time)?;
                Ok(self.drop_link(*id, *parent, time))
            }
            Op::Rename { from, to, id, mode, found } => self.rename(from, to, *id, (*mode, found.target), time),
            Op::SetMode { id, mode } => {
                let inode = self.get_mut(*id)?;
                inode.mode = inode.mode & libc::S_IFMT | mode & 0o7777;
                inode.ctime = time;
                Ok(None)
            }
            Op::SetOwner { id, uid, gid } => {
                let inode = self.get_mut(*id)?;
                inode.uid = uid.unwrap_or(inode.uid);
                inode.gid = gid.unwrap_or(inode.gid);
                // As chown(2), also root's: the set-id bits go, setgid only where it means that.
                if !inode.is_dir() {
                    inode.mode &= !libc::S_ISUID;
                    if inode.mode & libc::S_IXGRP != 0 {
                        inode.mode &= !libc::S_ISGID;
                    }
                }
                inode.ctime = time;
                Ok(None)
            }
            Op::SetTimes { id, atime, mtime } => {
                let inode = self.get_mut(*id)?;
                inode.atime = atime.unwrap_or(inode.atime);
                if let Some(mtime) = mtime {
                    inode.mtime = *mtime;
                    inode.mtime_seq = change.seq;
                }
                inode.ctime = time;
                Ok(None)
            }
            Op::SetXattr { id, name, value } => {
                let inode = self.get_mut(*id)?;
                match value {
                    Some(value) => inode.xattrs.insert(name.clone(), value.clone()),
                    None => inode.xattrs.remove(name),
                };
                inode.ctime = time;
                Ok(None)
            }
        }
    }

    /// The checks stand in the kernel's order (`do_renameat2`, then `vfs_rename`).
    fn rename(
        &mut self,
        (from, from_name): &(Id, Arc<OsStr>),
        (to, to_name): &(Id, Arc<OsStr>),
        id: Id,
        (mode, found): (RenameMode, Option<Id>),
        time: Timestamp,
    ) -> Result<Option<Id>, Errno> {
        self.expect_entry(*from, from_name, id)?;
        let target = match self.lookup(*to, to_name) {
            Ok(target) => Some(target),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (RenameMode::Exchange, None) => return Err(Errno::NOENT),
            _ if self.get(*to)?.nlink == 0 => return Err(Errno::NOENT),
            _ => {}
        }
        if self.is_within(*to, id) {
            return Err(Errno::INVAL);
        }
        if let Some(target) = target
            && self.is_within(*from, target)
        {
            return Err(if mode == RenameMode::Exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        // Live, this is what it found. In a crash state, a rename takes the place of nothing that had
        // moved away when it was made.
        if target.is_some() && target != found {
            return Err(Errno::EXIST);
        }
        if target == Some(id) {
            return Ok(None);
        }
        let is_dir = self.get(id)?.is_dir();
        if let (RenameMode::Exchange, Some(target)) = (mode, target) {
            self.set_entry(*from, from_name, target, time)?;
            self.set_entry(*to, to_name, id, time)?;
            self.move_dir(id, *from, *to, time)?;
            self.move_dir(target, *to, *from, time)?;
            return Ok(None);
        }
        if let Some(target) = target {
            match (is_dir, &self.get(target)?.body) {
                (true, Body::Dir(dir)) if !dir.entries.is_empty() => return Err(Errno::NOTEMPTY),
                (true, Body::Dir(_)) => {}
                (true, _) => return Err(Errno::NOTDIR),
                (false, Body::Dir(_)) => return Err(Errno::ISDIR),
                (false, _) => {}
            }
            self.set_entry(*to, to_name, id, time)?;
        } else {
            self.insert_entry(*to, to_name, id, time)?;
        }
        self.remove_entry(*from, from_name, time)?;
        let orphan = target.and_then(|target| self.drop_link(target, *to, time));
        self.move_dir(id, *from, *to, time)?;
        Ok(orphan)
    }

    /// True for the directory `inner` itself too.
    fn is_within(&self, inner: Id, outer: Id) -> bool {
        let mut at = inner;
        loop {
            if at == outer {
                return true;
            }
            match self.get(at).and_then(Inode::dir) {
                Ok(dir) if at != ROOT => at = dir.parent,
                _ => return false,
            }
        }
    }

    fn expect_entry(&self, parent: Id, name: &OsStr, id: Id) -> Result<(), Errno> {
        if self.lookup(parent, name)? == id { Ok(()) } else { Err(Errno::NOENT) }
    }

    fn insert_entry(&mut self, parent: Id, name: &Arc<OsStr>, id: Id, time: Timestamp) -> Result<(), Errno> {
        let inode = self.get(parent)?;
        let dir = inode.dir()?;
        match dir.entries.get(&cookie_of(name)) {
            Some((found, _)) if found == name => return Err(Errno::EXIST),
            // As ext4 says when too many names share a hash.
            Some(_) => return Err(Errno::NOSPC),
            None => {}
        }
        // Removed, and only a handle is left.
        if inode.nlink == 0 {
            return Err(Errno::NOENT);
        }
        self.set_entry(parent, name, id, time)
    }

    fn set_entry(&mut self, parent: Id, name: &Arc<OsStr>, id: Id, time: Timestamp) -> Result<(), Errno> {
        let inode = self.get_mut(parent)?;
        inode.dir_mut()?.entries.insert(cookie_of(name), (name.clone(), id));
        (inode.mtime, inode.ctime) = (time, time);
        Ok(())
    }

    fn remove_entry(&mut self, parent: Id, name: &OsStr, time: Timestamp) -> Result<(), Errno> {
        let inode = self.get_mut(parent)?;
        inode.dir_mut()?.entries.remove(&cookie_of(name));
        (inode.mtime, inode.ctime) = (time, time);
        Ok(())
    }

    /// One name less; the inode if that was the last.
    fn drop_link(&mut self, id: Id, parent: Id, time: Timestamp) -> Option<Id> {
        let inode = self.get_mut(id).ok()?;
        inode.ctime = time;
        if inode.is_dir() {
            inode.nlink = 0;
            self.get_mut(parent).ok()?.nlink -= 1;
            return Some(id);
        }
        inode.nlink -= 1;
        (inode.nlink == 0).then_some(id)
    }

    fn move_dir(&mut self, id: Id, from: Id, to: Id, time: Timestamp) -> Result<(), Errno> {
        let inode = self.get_mut(id)?;
        inode.ctime = time;
        if inode.is_dir() {
            inode.dir_mut()?.parent = to;
            self.get_mut(from)?.nlink -= 1;
            self.get_mut(to)?.nlink += 1;
        }
        Ok(())
    }
}

/// Where a name stands in its directory: 63 bits, as `d_off` is signed, and never 0 (the start).
fn cookie_of(name: &OsStr) -> u64 {
    let hash = name
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (mix(hash) >> 1).max(1)
}

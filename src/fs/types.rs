//! The words that this layer and the transport above it share.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use triomphe::ThinArc;

use crate::vault::{FileKind, SetTime, Stat, Timestamp};

/// The number of an inode: what `stat(2)` shows as `st_ino`, and what the kernel calls a node by.
/// [`InodeNo::ROOT`] is the root of the mount; every other inode has its number of the backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNo(pub u64);

impl InodeNo {
    /// The root of the mount.
    pub const ROOT: Self = Self(1);
}

/// The number of an open file or directory; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle(pub u64);

/// A name in a directory, shared by whoever refers to it, each with one word.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedName(ThinArc<(), u8>);

impl From<&[u8]> for SharedName {
    fn from(name: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice((), name))
    }
}

impl Deref for SharedName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.slice
    }
}

impl Borrow<[u8]> for SharedName {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl Hash for SharedName {
    /// As the bytes, by which maps are asked.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

/// On whose behalf a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// 0 if it has no number here (another PID namespace, or the kernel itself).
    pub pid: u32,
}

/// Attributes of an inode, as the kernel is told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: InodeNo,
    pub kind: FileKind,
    /// Permission bits with set-user-id, set-group-id and sticky (07777).
    pub perm: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number, in the 32-bit encoding of the kernel's interfaces.
    pub rdev: u32,
    pub size_bytes: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// `blocks` is going to change by itself soon.
    pub provisional: bool,
}

impl Attr {
    pub(super) fn new(ino: InodeNo, stat: &Stat) -> Self {
        let kind = stat.kind();
        let blocks = match kind {
            // A home file has a header, so that it is never without blocks once it is written out. Until
            // then: some programs take a file with a size and no blocks for one large hole. Nor does an empty file
            // begin without: the kernel counts what is written to it by itself, and asks for the blocks when it is closed.
            FileKind::Regular => stat.blocks.max(1),
            _ => stat.blocks,
        };
        Self {
            ino,
            kind,
            perm: (stat.mode & 0o7777) as u16,
            nlink: stat.nlink,
            uid: stat.uid,
            gid: stat.gid,
            rdev: u32::try_from(stat.rdev).unwrap_or(0),
            size_bytes: stat.size_bytes,
            blocks,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
            provisional: false,
        }
    }

    /// The permission bits in the width of `mode_t`.
    pub(super) fn mode(&self) -> u32 {
        u32::from(self.perm)
    }
}

/// What a name stands for: an inode, of which the kernel now holds one reference more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub attr: Attr,
    /// Tells apart the inodes that had the same number one after the other.
    pub generation: u32,
}

/// What `setattr` changes; None and [`SetTime::Keep`] leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: SetTime,
    pub mtime: SetTime,
}

impl Default for SetAttr {
    fn default() -> Self {
        Self { mode: None, uid: None, gid: None, size: None, atime: SetTime::Keep, mtime: SetTime::Keep }
    }
}

/// `statvfs(3)`, in plain sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub block_size: u32,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_max: u32,
}

/// One entry of a listing.
#[derive(Clone, Copy)]
pub struct DirEntry<'a> {
    pub ino: InodeNo,
    pub kind: FileKind,
    pub name: &'a [u8],
    /// The offset to go on at after this entry.
    pub next_cookie: u64,
}

/// One entry of a listing with attributes. Except for "." and "..", the kernel holds one reference more
/// to the inode if the entry is accepted.
#[derive(Clone, Copy)]
pub struct DirEntryPlus<'a> {
    pub entry: Entry,
    pub name: &'a [u8],
    /// The offset to go on at after this entry.
    pub next_cookie: u64,
}

/// Who owns what is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The caller (the daemon is root).
    Caller,
    /// The daemon's user, whoever asked: an ordinary user cannot give files away.
    Daemon,
}

/// How a vault is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsOptions {
    pub ownership: Ownership,
    /// Errors may be logged with plain paths.
    pub log_names: bool,
}

impl FsOptions {
    /// For the user that this process runs as, who holds the vault alone.
    pub fn for_this_process() -> Self {
        let ownership = match rustix::process::geteuid().is_root() {
            true => Ownership::Caller,
            false => Ownership::Daemon,
        };
        Self { ownership, log_names: false }
    }
}

impl Default for FsOptions {
    fn default() -> Self {
        Self::for_this_process()
    }
}

/// What was written into the kernel's cache, and is not in the vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub files: u64,
    pub bytes: u64,
}

/// What is held in memory: after the kernel let go of everything, one node (the root) and no handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub nodes: usize,
    pub files: usize,
    pub directories: usize,
}

impl Usage {
    /// Open files and directories.
    pub fn handles(&self) -> usize {
        self.files.saturating_add(self.directories)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes, {} open handles", self.nodes, self.handles())
    }
}

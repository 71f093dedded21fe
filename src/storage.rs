//! What the daemon asks of a backing: directories, files, syncs, and nothing else.
//!
//! The vault is generic over [`Storage`], so that the same code runs on a real directory
//! ([`PosixStorage`]) and on a simulated disk that loses power at any point (the crash suite).
//! Every method that makes something durable is a place where the simulated disk may crash.
//!
//! Errors are [`std::io::Error`] values that carry the errno of the backing (`raw_os_error`).
//! No method follows a symbolic link in its last path component: the backing is untrusted.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};

mod posix;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;

pub use posix::PosixStorage;
#[cfg(any(test, feature = "simulation"))]
pub use sim::{CrashPolicy, Fault, SimDisk, SimStorage};

/// Seconds and nanoseconds since the Unix epoch; negative seconds are times before 1970,
/// and `nanoseconds` always counts forward from `seconds` (0..1_000_000_000), as in `struct timespec`.
///
/// Packed, as every inode in memory has three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(4))]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What a time is set to (`utimensat(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it (`UTIME_OMIT`).
    Keep,
    /// The backing's clock (`UTIME_NOW`).
    Now,
    /// This time.
    To(Timestamp),
}

/// The attributes of a backing inode (`statx(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    pub ino: u64,
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number of a character or block device, in the kernel's `makedev` encoding.
    pub rdev: u64,
    pub size_bytes: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Creation time, where the backing knows it.
    pub btime: Option<Timestamp>,
}

impl Stat {
    /// The type bits of `mode`.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode)
    }
}

/// The type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
    /// It is not known: the backing did not list it (`DT_UNKNOWN`), and it could not be looked at.
    Unknown,
}

impl FileKind {
    /// From `st_mode`.
    pub fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Self::Regular,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => Self::Unknown,
        }
    }
}

/// One entry of a backing directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    pub name: &'a OsStr,
    pub ino: u64,
    pub kind: FileKind,
    /// Where to go on after this entry (`d_off`); opaque, stable while other entries come and go.
    pub next_cookie: u64,
}

/// Space of the filesystem under the backing (`statvfs(3)`).
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceInfo {
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// What `rename` does with an existing target (`renameat2(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// How an extended attribute is set (`setxattr(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    Any,
    Create,
    Replace,
}

/// What an attribute call is about.
pub enum Target<'a, S: Storage + ?Sized> {
    /// The entry of this name in this directory, itself if it is a symbolic link.
    Entry(&'a S::Dir, &'a OsStr),
    Dir(&'a S::Dir),
    File(&'a S::File),
    Pin(&'a S::Pin),
}

impl<S: Storage + ?Sized> Clone for Target<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage + ?Sized> Copy for Target<'_, S> {}

/// A backing: one directory and what is below it.
pub trait Storage: Send + Sync + 'static {
    /// An open directory. Dropping it closes it.
    type Dir: Send + Sync + 'static;
    /// An open regular file. Dropping it closes it.
    type File: Send + Sync + 'static;
    /// An inode of any type, held so that it outlives its last name (`O_PATH`).
    type Pin: Send + Sync + 'static;

    /// Opens the top directory of the backing (a new handle each time).
    fn open_root(&self) -> io::Result<Self::Dir>;

    // --- names ---

    /// The name "." gives a second handle of `at` itself.
    fn open_dir(&self, at: &Self::Dir, name: &OsStr) -> io::Result<Self::Dir>;
    fn open_file(&self, at: &Self::Dir, name: &OsStr, access: Access) -> io::Result<Self::File>;
    /// Creates and opens for reading and writing; `EEXIST` if the name exists.
    fn create_file(&self, at: &Self::Dir, name: &OsStr, mode: u32) -> io::Result<Self::File>;
    /// As [`Self::create_file`], of a file without a name, which is gone with its last handle unless
    /// [`link`](Self::link) gives it one. It inherits from `at` what a file made there would. `EOPNOTSUPP` where the
    /// backing can't.
    fn create_unnamed(&self, at: &Self::Dir, mode: u32) -> io::Result<Self::File>;
    fn make_dir(&self, at: &Self::Dir, name: &OsStr, mode: u32) -> io::Result<()>;
    /// A FIFO, socket or device; `mode` carries the type.
    fn make_node(&self, at: &Self::Dir, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()>;
    fn make_symlink(&self, at: &Self::Dir, name: &OsStr, target: &[u8]) -> io::Result<()>;
    fn read_symlink(&self, at: &Self::Dir, name: &OsStr) -> io::Result<Vec<u8>>;
    /// Gives an inode that has a name another one; an open file or a pin leads to it also if its name is not known. An
    /// open file that was made without a name gets its first: only what had one and lost it is `ENOENT`.
    fn link(&self, from: Target<'_, Self>, to: &Self::Dir, to_name: &OsStr) -> io::Result<()>;
    fn rename(
        &self,
        from: &Self::Dir,
        from_name: &OsStr,
        to: &Self::Dir,
        to_name: &OsStr,
        mode: RenameMode,
    ) -> io::Result<()>;
    fn unlink(&self, at: &Self::Dir, name: &OsStr) -> io::Result<()>;
    fn remove_dir(&self, at: &Self::Dir, name: &OsStr) -> io::Result<()>;
    fn pin(&self, at: &Self::Dir, name: &OsStr) -> io::Result<Self::Pin>;
    /// Opens a pinned regular file, also after its last name is gone.
    fn open_pinned(&self, pin: &Self::Pin, access: Access) -> io::Result<Self::File>;
    /// Calls `sink` for each entry after `cookie` (0: from the start), without "." and "..", in the
    /// backing's order, until it returns false. The handle's position is the call's own: callers
    /// that list at the same time use handles of their own.
    fn read_dir(&self, dir: &Self::Dir, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> io::Result<()>;

    // --- attributes ---

    fn stat(&self, target: Target<'_, Self>) -> io::Result<Stat>;
    /// Permission bits (07777).
    fn set_mode(&self, target: Target<'_, Self>, mode: u32) -> io::Result<()>;
    fn set_owner(&self, target: Target<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    fn set_times(&self, target: Target<'_, Self>, atime: SetTime, mtime: SetTime) -> io::Result<()>;
    /// The value of a backing attribute; `ENODATA` if there is none.
    fn xattr(&self, target: Target<'_, Self>, name: &OsStr) -> io::Result<Vec<u8>>;
    fn set_xattr(&self, target: Target<'_, Self>, name: &OsStr, value: &[u8], mode: XattrMode) -> io::Result<()>;
    fn remove_xattr(&self, target: Target<'_, Self>, name: &OsStr) -> io::Result<()>;

    // --- file content ---

    /// Reads until `buffers` are full or the file ends; returns the number of bytes.
    fn read_at(&self, file: &Self::File, buffers: &mut [IoSliceMut<'_>], offset_bytes: u64) -> io::Result<usize>;
    /// Writes all of `buffers`, or fails; a failed write may have left a prefix.
    fn write_at(&self, file: &Self::File, buffers: &[IoSlice<'_>], offset_bytes: u64) -> io::Result<()>;
    fn set_len(&self, file: &Self::File, len_bytes: u64) -> io::Result<()>;
    /// Whether a file can become so long here. Looks at the filesystem's bounds alone, and changes nothing.
    fn fits(&self, file: &Self::File, len_bytes: u64) -> bool;
    /// Reserves space without changing the length; `EOPNOTSUPP` where the backing can't.
    fn allocate(&self, file: &Self::File, offset_bytes: u64, len_bytes: u64) -> io::Result<()>;
    /// Gives the space of a range back; it reads as zeros afterwards. `EOPNOTSUPP` where the backing can't.
    fn punch_hole(&self, file: &Self::File, offset_bytes: u64, len_bytes: u64) -> io::Result<()>;

    // --- durability ---

    /// `fdatasync(2)`: content, and the length if it changed.
    fn sync_data(&self, file: &Self::File) -> io::Result<()>;
    /// `fsync(2)`.
    fn sync_file(&self, file: &Self::File) -> io::Result<()>;
    /// `fsync(2)` of a directory: its entries.
    fn sync_dir(&self, dir: &Self::Dir) -> io::Result<()>;
    /// `syncfs(2)`: everything on the filesystem under the backing.
    fn sync_all(&self) -> io::Result<()>;

    // --- the rest ---

    fn space(&self) -> io::Result<SpaceInfo>;
    /// Advisory lock of a file (an open file description's, `fcntl_locking(2)`), released when the handle is dropped.
    /// False if someone else holds it. `EBADF` for an exclusive one by a handle that is for reading alone.
    fn try_lock(&self, file: &Self::File, exclusive: bool) -> io::Result<bool>;
    /// Whether no other handle's lock is in the way of such a lock; takes none, so that it is in nobody's way itself (but on SMB).
    fn could_lock(&self, file: &Self::File, exclusive: bool) -> io::Result<bool>;
    /// Now, on the clock that stamps the backing's inodes (not finer than its ticks).
    fn now(&self) -> Timestamp;
}

/// A name that is one component of a path, or `EINVAL`: no way out of its directory.
fn component(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_encoded_bytes();
    match bytes {
        b"" => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        b"." | b".." => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        _ if bytes.contains(&b'/') || bytes.contains(&0) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        _ => Ok(name),
    }
}

/// Reads exactly `buffer.len()` bytes unless the file ends before; returns the number of bytes.
pub fn read_into<S: Storage>(storage: &S, file: &S::File, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
    storage.read_at(file, &mut [IoSliceMut::new(buffer)], offset_bytes)
}

/// Writes all of `bytes`.
pub fn write_from<S: Storage>(storage: &S, file: &S::File, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
    storage.write_at(file, &[IoSlice::new(bytes)], offset_bytes)
}

//! The backing as a real directory.
//!
//! Whoever can write to the backing is an adversary, and the daemon may be root. So:
//!
//! - every call is relative to a directory's descriptor and names one component: nothing that is
//!   renamed or replaced above it can lead the call elsewhere;
//! - no symbolic link is followed in that component. Where the kernel has no such variant of a call
//!   (chmod, xattrs), the inode is pinned first (`O_PATH`), or reached as `/proc/self/fd/N/name` by a
//!   call that does not follow links;
//! - a FIFO or device where a file should be is refused, and does not block the daemon.
//!
//! Modes are given to the kernel as they are: the daemon clears its umask, for the caller's umask
//! was already applied.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self as sys, AtFlags, FallocateFlags, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{
    Access, DirEntry, FileKind, RenameMode, SetTime, SpaceInfo, Stat, Storage, Target, Timestamp, XattrMode, component,
};
use proc_path::ProcPath;

mod locks;
mod no_replace;
mod proc_path;
mod vectored;

#[cfg(test)]
mod tests;

/// What the first read of an attribute has room for; longer values take a second call.
const XATTR_PROBE_BYTES: usize = 1024;
/// The kernel's limit for the value of an attribute (`XATTR_SIZE_MAX`).
const XATTR_MAX_BYTES: usize = 65536;
/// Room for directory entries per `getdents` call.
const READ_DIR_BYTES: usize = 32 * 1024;

/// A directory on a mounted filesystem.
pub struct PosixStorage {
    root: OwnedFd,
    /// Of the filesystem that it is on.
    device: u64,
}

/// An open directory of a [`PosixStorage`].
pub struct PosixDir(OwnedFd);

/// An open regular file of a [`PosixStorage`].
pub struct PosixFile(OwnedFd);

/// An inode of a [`PosixStorage`], opened with `O_PATH`.
pub struct PosixPin(OwnedFd);

impl PosixStorage {
    /// Opens the directory at `path` as a backing. This path is the user's own: links in it are followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = sys::open(path, flags, Mode::empty())?;
        let device = sys::fstat(&root)?.st_dev;
        // Without /proc, attribute calls would fail with an ENOENT that looks like a missing file.
        sys::stat("/proc/self/fd").map_err(|errno| {
            let message = format!("/proc/self/fd is not accessible ({errno}): mount proc on /proc");
            io::Error::new(io::ErrorKind::Unsupported, message)
        })?;
        Ok(Self { root, device })
    }
}

impl Storage for PosixStorage {
    type Dir = PosixDir;
    type File = PosixFile;
    type Pin = PosixPin;

    fn open_root(&self) -> io::Result<PosixDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(PosixDir(sys::openat(&self.root, c".", flags, Mode::empty())?))
    }

    // --- names ---

    fn open_dir(&self, at: &PosixDir, name: &OsStr) -> io::Result<PosixDir> {
        // "." is the one name that is no component: a second handle of the same directory.
        let name = if name == "." { name } else { component(name)? };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = sys::openat(&at.0, name, flags, Mode::empty())?;
        // Another filesystem, or another subvolume of btrfs, has inode numbers of its own.
        if sys::fstat(&directory)?.st_dev != self.device {
            return Err(Errno::XDEV.into());
        }
        Ok(PosixDir(directory))
    }

    fn open_file(&self, at: &PosixDir, name: &OsStr, access: Access) -> io::Result<PosixFile> {
        open_regular(at.0.as_fd(), component(name)?, OFlags::NOFOLLOW | access_flags(access))
    }

    fn create_file(&self, at: &PosixDir, name: &OsStr, mode: u32) -> io::Result<PosixFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(PosixFile(sys::openat(&at.0, component(name)?, flags, permissions(mode))?))
    }

    fn create_unnamed(&self, at: &PosixDir, mode: u32) -> io::Result<PosixFile> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match sys::openat(&at.0, c".", flags, permissions(mode)) {
            Ok(fd) => Ok(PosixFile(fd)),
            // A kernel below that does not know the flag (9p and others pass it on) takes this for opening a directory.
            Err(Errno::ISDIR) => Err(Errno::OPNOTSUPP.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn make_dir(&self, at: &PosixDir, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(sys::mkdirat(&at.0, component(name)?, permissions(mode))?)
    }

    fn make_node(&self, at: &PosixDir, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
        let kind = sys::FileType::from_raw_mode(mode);
        Ok(sys::mknodat(&at.0, component(name)?, kind, permissions(mode), rdev)?)
    }

    fn make_symlink(&self, at: &PosixDir, name: &OsStr, target: &[u8]) -> io::Result<()> {
        Ok(sys::symlinkat(target, &at.0, component(name)?)?)
    }

    fn read_symlink(&self, at: &PosixDir, name: &OsStr) -> io::Result<Vec<u8>> {
        Ok(sys::readlinkat(&at.0, component(name)?, Vec::new())?.into_bytes())
    }

    fn link(&self, from: Target<'_, Self>, to: &PosixDir, to_name: &OsStr) -> io::Result<()> {
        let to_name = component(to_name)?;
        let outcome = match from {
            Target::Entry(dir, name) => sys::linkat(&dir.0, component(name)?, &to.0, to_name, AtFlags::empty()),
            // The link in /proc leads to the inode itself, and is not followed further if that is a link.
            Target::Dir(PosixDir(fd)) | Target::File(PosixFile(fd)) | Target::Pin(PosixPin(fd)) => {
                let path = ProcPath::of_fd(fd.as_fd());
                sys::linkat(sys::CWD, path.as_c_str()?, &to.0, to_name, AtFlags::SYMLINK_FOLLOW)
            }
        };
        Ok(outcome?)
    }

    fn rename(
        &self,
        from: &PosixDir,
        from_name: &OsStr,
        to: &PosixDir,
        to_name: &OsStr,
        mode: RenameMode,
    ) -> io::Result<()> {
        let (from_name, to_name) = (component(from_name)?, component(to_name)?);
        let rename = |flags| sys::renameat_with(&from.0, from_name, &to.0, to_name, flags);
        match mode {
            RenameMode::Replace => Ok(sys::renameat(&from.0, from_name, &to.0, to_name)?),
            RenameMode::Exchange => Ok(rename(RenameFlags::EXCHANGE)?),
            RenameMode::NoReplace => match rename(RenameFlags::NOREPLACE) {
                // NFS, 9p and many FUSE filesystems take no flags.
                Err(errno @ (Errno::INVAL | Errno::NOSYS)) => {
                    no_replace::rename((from.0.as_fd(), from_name), (to.0.as_fd(), to_name), errno)
                }
                outcome => Ok(outcome?),
            },
        }
    }

    fn unlink(&self, at: &PosixDir, name: &OsStr) -> io::Result<()> {
        Ok(sys::unlinkat(&at.0, component(name)?, AtFlags::empty())?)
    }

    fn remove_dir(&self, at: &PosixDir, name: &OsStr) -> io::Result<()> {
        Ok(sys::unlinkat(&at.0, component(name)?, AtFlags::REMOVEDIR)?)
    }

    fn pin(&self, at: &PosixDir, name: &OsStr) -> io::Result<PosixPin> {
        Ok(PosixPin(pin_entry(at.0.as_fd(), component(name)?)?))
    }

    fn open_pinned(&self, pin: &PosixPin, access: Access) -> io::Result<PosixFile> {
        // Here the type can be known before the open: no device is touched at all.
        refuse_unless_regular(stat_fd(pin.0.as_fd())?.kind())?;
        open_regular(sys::CWD, ProcPath::of_fd(pin.0.as_fd()).as_c_str()?, access_flags(access))
    }

    fn read_dir(&self, dir: &PosixDir, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> io::Result<()> {
        sys::seek(&dir.0, sys::SeekFrom::Start(cookie))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); READ_DIR_BYTES];
        let mut entries = sys::RawDir::new(&dir.0, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            // Not every filesystem lists what an entry is.
            let kind = match kind_of(entry.file_type()) {
                FileKind::Unknown => stat_at(dir.0.as_fd(), name).map_or(FileKind::Unknown, |stat| stat.kind()),
                kind => kind,
            };
            let wants_more = sink(DirEntry { name, ino: entry.ino(), kind, next_cookie: entry.next_entry_cookie() });
            if !wants_more {
                break;
            }
        }
        Ok(())
    }

    // --- attributes ---

    fn stat(&self, target: Target<'_, Self>) -> io::Result<Stat> {
        match target {
            Target::Entry(dir, name) => stat_at(dir.0.as_fd(), component(name)?),
            Target::Dir(PosixDir(fd)) | Target::File(PosixFile(fd)) | Target::Pin(PosixPin(fd)) => stat_fd(fd.as_fd()),
        }
    }

    fn set_mode(&self, target: Target<'_, Self>, mode: u32) -> io::Result<()> {
        match target {
            Target::Entry(dir, name) => chmod_pinned(pin_entry(dir.0.as_fd(), component(name)?)?.as_fd(), mode),
            Target::Dir(PosixDir(fd)) | Target::File(PosixFile(fd)) => Ok(sys::fchmod(fd, permissions(mode))?),
            Target::Pin(PosixPin(fd)) => chmod_pinned(fd.as_fd(), mode),
        }
    }

    fn set_owner(&self, target: Target<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        // All bits set means "leave it" to the kernel: no id of anyone.
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(Errno::INVAL.into());
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        let outcome = match target {
            Target::Entry(dir, name) => sys::chownat(&dir.0, component(name)?, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
            Target::Dir(PosixDir(fd)) | Target::File(PosixFile(fd)) => sys::fchown(fd, uid, gid),
            Target::Pin(PosixPin(fd)) => sys::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        };
        Ok(outcome?)
    }

    fn set_times(&self, target: Target<'_, Self>, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        let times = sys::Timestamps { last_access: timespec(atime)?, last_modification: timespec(mtime)? };
        let outcome = match target {
            Target::Entry(dir, name) => sys::utimensat(&dir.0, component(name)?, &times, AtFlags::SYMLINK_NOFOLLOW),
            Target::Dir(PosixDir(fd)) | Target::File(PosixFile(fd)) => sys::futimens(fd, &times),
            // The link in /proc leads to the inode itself, and is not followed further if that is a
            // link (AT_EMPTY_PATH would need Linux 5.8).
            Target::Pin(PosixPin(fd)) => {
                sys::utimensat(sys::CWD, ProcPath::of_fd(fd.as_fd()).as_c_str()?, &times, AtFlags::empty())
            }
        };
        Ok(outcome?)
    }

    fn xattr(&self, target: Target<'_, Self>, name: &OsStr) -> io::Result<Vec<u8>> {
        match read_xattr(target, name, XATTR_PROBE_BYTES) {
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => read_xattr(target, name, XATTR_MAX_BYTES),
            outcome => outcome,
        }
    }

    fn set_xattr(&self, target: Target<'_, Self>, name: &OsStr, value: &[u8], mode: XattrMode) -> io::Result<()> {
        let flags = match mode {
            XattrMode::Any => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        let outcome = match target {
            Target::Entry(dir, entry) => {
                let path = ProcPath::of_entry(dir.0.as_fd(), component(entry)?)?;
                sys::lsetxattr(path.as_c_str()?, name, value, flags)
            }
            Target::Dir(PosixDir(fd)) | Target::File(PosixFile(fd)) => sys::fsetxattr(fd, name, value, flags),
            Target::Pin(PosixPin(fd)) => sys::setxattr(ProcPath::of_fd(fd.as_fd()).as_c_str()?, name, value, flags),
        };
        Ok(outcome?)
    }

    fn remove_xattr(&self, target: Target<'_, Self>, name: &OsStr) -> io::Result<()> {
        let outcome = match target {
            Target::Entry(dir, entry) => {
                let path = ProcPath::of_entry(dir.0.as_fd(), component(entry)?)?;
                sys::lremovexattr(path.as_c_str()?, name)
            }
            Target::Dir(PosixDir(fd)) | Target::File(PosixFile(fd)) => sys::fremovexattr(fd, name),
            Target::Pin(PosixPin(fd)) => sys::removexattr(ProcPath::of_fd(fd.as_fd()).as_c_str()?, name),
        };
        Ok(outcome?)
    }

    // --- file content ---

    fn read_at(&self, file: &PosixFile, buffers: &mut [IoSliceMut<'_>], offset_bytes: u64) -> io::Result<usize> {
        vectored::read_full(file.0.as_fd(), buffers, offset_bytes)
    }

    fn write_at(&self, file: &PosixFile, buffers: &[IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        vectored::write_all(file.0.as_fd(), buffers, offset_bytes)
    }

    fn set_len(&self, file: &PosixFile, len_bytes: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| sys::ftruncate(&file.0, len_bytes))?)
    }

    fn fits(&self, file: &PosixFile, len_bytes: u64) -> bool {
        // The kernel holds a position against the same bound as a length, and nobody else uses this one.
        !matches!(sys::seek(&file.0, sys::SeekFrom::Start(len_bytes)), Err(Errno::INVAL))
    }

    fn allocate(&self, file: &PosixFile, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        fallocate(file, FallocateFlags::KEEP_SIZE, offset_bytes, len_bytes)
    }

    fn punch_hole(&self, file: &PosixFile, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file, mode, offset_bytes, len_bytes)
    }

    // --- durability ---
    // EINTR says that the wait was cut short, not that a write-back failed: waiting again hides no error.

    fn sync_data(&self, file: &PosixFile) -> io::Result<()> {
        Ok(retry_on_intr(|| sys::fdatasync(&file.0))?)
    }

    fn sync_file(&self, file: &PosixFile) -> io::Result<()> {
        Ok(retry_on_intr(|| sys::fsync(&file.0))?)
    }

    fn sync_dir(&self, dir: &PosixDir) -> io::Result<()> {
        Ok(retry_on_intr(|| sys::fsync(&dir.0))?)
    }

    fn sync_all(&self) -> io::Result<()> {
        // Linux reports write-back errors since the descriptor's last syncfs: hence always the root's.
        Ok(retry_on_intr(|| sys::syncfs(&self.root))?)
    }

    // --- the rest ---

    fn space(&self) -> io::Result<SpaceInfo> {
        let space = sys::fstatvfs(&self.root)?;
        Ok(SpaceInfo {
            block_size: space.f_frsize,
            blocks: space.f_blocks,
            blocks_free: space.f_bfree,
            blocks_available: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
        })
    }

    fn try_lock(&self, file: &PosixFile, exclusive: bool) -> io::Result<bool> {
        locks::try_lock(&file.0, exclusive)
    }

    fn could_lock(&self, file: &PosixFile, exclusive: bool) -> io::Result<bool> {
        locks::could_lock(&file.0, exclusive)
    }

    fn now(&self) -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        timestamp(now.tv_sec, now.tv_nsec)
    }
}

fn access_flags(access: Access) -> OFlags {
    match access {
        Access::Read => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_retain(mode & 0o7777)
}

/// Opens what should be a regular file, and does not hang if it is something else.
fn open_regular(at: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: OFlags) -> io::Result<PosixFile> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = sys::openat(at, path, flags, Mode::empty())?;
    refuse_unless_regular(FileKind::from_mode(sys::fstat(&fd)?.st_mode))?;
    // A filesystem below that honours O_NONBLOCK (FUSE passes it on) would answer EAGAIN.
    sys::fcntl_setfl(&fd, OFlags::empty())?;
    Ok(PosixFile(fd))
}

/// The errno that `open(2)` has for what is no regular file.
fn refuse_unless_regular(kind: FileKind) -> io::Result<()> {
    match kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(Errno::ISDIR.into()),
        FileKind::Symlink => Err(Errno::LOOP.into()),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Unknown => {
            Err(Errno::NXIO.into())
        }
    }
}

fn pin_entry(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(sys::openat(at, name, flags, Mode::empty())?)
}

/// chmod of an `O_PATH` descriptor's inode (rustix has no `fchmodat2`, and old kernels neither).
fn chmod_pinned(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // Some kernels changed a link's mode and then failed: don't try.
    if stat_fd(fd)?.kind() == FileKind::Symlink {
        return Err(Errno::OPNOTSUPP.into());
    }
    Ok(sys::chmod(ProcPath::of_fd(fd).as_c_str()?, permissions(mode))?)
}

fn read_xattr(target: Target<'_, PosixStorage>, name: &OsStr, capacity_bytes: usize) -> io::Result<Vec<u8>> {
    let mut value = Vec::with_capacity(capacity_bytes);
    let room = rustix::buffer::spare_capacity(&mut value);
    match target {
        Target::Entry(dir, entry) => {
            let path = ProcPath::of_entry(dir.0.as_fd(), component(entry)?)?;
            sys::lgetxattr(path.as_c_str()?, name, room)
        }
        Target::Dir(PosixDir(fd)) | Target::File(PosixFile(fd)) => sys::fgetxattr(fd, name, room),
        Target::Pin(PosixPin(fd)) => sys::getxattr(ProcPath::of_fd(fd.as_fd()).as_c_str()?, name, room),
    }?;
    Ok(value)
}

fn fallocate(file: &PosixFile, mode: FallocateFlags, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
    // The kernel refuses an empty range; here it is nothing to do.
    if len_bytes == 0 {
        return Ok(());
    }
    match retry_on_intr(|| sys::fallocate(&file.0, mode, offset_bytes, len_bytes)) {
        Err(Errno::NOSYS) => Err(Errno::OPNOTSUPP.into()),
        outcome => Ok(outcome?),
    }
}

fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    match sys::statx(fd, c"", AtFlags::EMPTY_PATH, statx_mask()) {
        Ok(statx) => Ok(from_statx(&statx)),
        Err(Errno::NOSYS) => Ok(from_stat(&sys::fstat(fd)?)),
        Err(errno) => Err(errno.into()),
    }
}

fn stat_at(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match sys::statx(at, name, flags, statx_mask()) {
        Ok(statx) => Ok(from_statx(&statx)),
        Err(Errno::NOSYS) => Ok(from_stat(&sys::statat(at, name, flags)?)),
        Err(errno) => Err(errno.into()),
    }
}

fn statx_mask() -> sys::StatxFlags {
    sys::StatxFlags::BASIC_STATS | sys::StatxFlags::BTIME
}

fn from_statx(statx: &sys::Statx) -> Stat {
    let time = |time: &sys::StatxTimestamp| timestamp(time.tv_sec, i64::from(time.tv_nsec));
    let has_btime = statx.stx_mask & sys::StatxFlags::BTIME.bits() != 0;
    Stat {
        ino: statx.stx_ino,
        mode: u32::from(statx.stx_mode),
        nlink: statx.stx_nlink,
        uid: statx.stx_uid,
        gid: statx.stx_gid,
        rdev: sys::makedev(statx.stx_rdev_major, statx.stx_rdev_minor),
        size_bytes: statx.stx_size,
        blocks: statx.stx_blocks,
        atime: time(&statx.stx_atime),
        mtime: time(&statx.stx_mtime),
        ctime: time(&statx.stx_ctime),
        btime: has_btime.then(|| time(&statx.stx_btime)),
    }
}

// The widths of these fields differ between architectures.
#[allow(clippy::unnecessary_cast)]
fn from_stat(stat: &sys::Stat) -> Stat {
    Stat {
        ino: stat.st_ino as u64,
        mode: stat.st_mode as u32,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u64,
        size_bytes: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: timestamp(stat.st_atime as i64, stat.st_atime_nsec as i64),
        mtime: timestamp(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime: timestamp(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        btime: None,
    }
}

fn timestamp(seconds: i64, nanoseconds: i64) -> Timestamp {
    // The kernel keeps nanoseconds within 0..10^9; a broken FUSE backing might not.
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0).min(999_999_999);
    Timestamp { seconds, nanoseconds }
}

fn timespec(time: SetTime) -> io::Result<sys::Timespec> {
    let (tv_sec, tv_nsec) = match time {
        SetTime::Keep => (0, sys::UTIME_OMIT),
        SetTime::Now => (0, sys::UTIME_NOW),
        // The kernel refuses 10^9 and above, but two such values mean "now" and "omit".
        SetTime::To(time) if time.nanoseconds >= 1_000_000_000 => return Err(Errno::INVAL.into()),
        SetTime::To(time) => (time.seconds, time.nanoseconds.into()),
    };
    Ok(sys::Timespec { tv_sec, tv_nsec })
}

fn kind_of(kind: sys::FileType) -> FileKind {
    match kind {
        sys::FileType::RegularFile => FileKind::Regular,
        sys::FileType::Directory => FileKind::Directory,
        sys::FileType::Symlink => FileKind::Symlink,
        sys::FileType::Fifo => FileKind::Fifo,
        sys::FileType::Socket => FileKind::Socket,
        sys::FileType::CharacterDevice => FileKind::CharDevice,
        sys::FileType::BlockDevice => FileKind::BlockDevice,
        sys::FileType::Unknown => FileKind::Unknown,
    }
}

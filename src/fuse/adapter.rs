//! [`Adapter`]: each request of the kernel becomes one call of [`Fs`], and its result one reply.
//!
//! A panic below is caught here and answered with EIO: it must neither end the thread that serves the
//! mount nor leave a process waiting. Errors are logged here, once, without names or content.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::activity::Activity;
use super::convert::{absent, caller, file_attr, file_type, set_time};
use super::negotiate;
use super::seeking::Seeking;
use crate::fs::{self, Attr, FileKind, Fs, FsError, SetAttr, Storage};

thread_local! {
    /// The plaintext of the read that this thread is answering.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How long the kernel may rely on what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caching {
    /// Nobody else changes the backing: until it hears otherwise, that is for ever.
    Exclusive,
    /// A writer may be at work beside this read-only mount.
    Shared,
}

impl Caching {
    fn lifetime(self) -> Duration {
        match self {
            // As good as for ever, far from the kernel's overflows.
            Self::Exclusive => Duration::from_secs(u32::MAX as u64),
            Self::Shared => Duration::from_secs(1),
        }
    }

    fn file_flags(self) -> FopenFlags {
        match self {
            Self::Exclusive => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
            Self::Shared => FopenFlags::FOPEN_NOFLUSH,
        }
    }

    fn directory_flags(self) -> FopenFlags {
        match self {
            // The kernel drops a listing that it keeps when it changes the directory itself.
            Self::Exclusive => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
            Self::Shared => FopenFlags::empty(),
        }
    }
}

/// A vault's filesystem as the kernel sees it.
pub(super) struct Adapter<S: Storage> {
    fs: Arc<Fs<S>>,
    caching: Caching,
    lifetime: Duration,
    absent: fuser::FileAttr,
    seeking: Seeking,
    activity: Arc<Activity>,
}

impl<S: Storage> Adapter<S> {
    pub(super) fn new(fs: Arc<Fs<S>>, caching: Caching, activity: Arc<Activity>) -> io::Result<Self> {
        let seeking = Seeking::start()?;
        Ok(Self { fs, caching, lifetime: caching.lifetime(), absent: absent(), seeking, activity })
    }

    /// Where the session puts its way to the kernel once it has one.
    pub(super) fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        self.seeking.notifier()
    }

    fn answer<T>(&self, operation: &'static str, work: impl FnOnce(&Fs<S>) -> Result<T, FsError>) -> Result<T, Errno> {
        self.activity.requested();
        answer(&self.fs, &self.activity, operation, work)
    }

    /// For requests that are no sign of anyone at work.
    fn answer_uncounted<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Fs<S>) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        answer(&self.fs, &self.activity, operation, work)
    }

    fn answer_empty(
        &self,
        operation: &'static str,
        reply: ReplyEmpty,
        work: impl FnOnce(&Fs<S>) -> Result<(), FsError>,
    ) {
        match self.answer(operation, work) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    /// How long the kernel may keep these attributes. Set-user-id bits go with a write, which the kernel is not told.
    fn lifetime(&self, attr: &Attr) -> Duration {
        if attr.kind == FileKind::Regular && attr.perm & 0o6000 != 0 { Duration::ZERO } else { self.lifetime }
    }

    fn answer_entry(
        &self,
        operation: &'static str,
        reply: ReplyEntry,
        work: impl FnOnce(&Fs<S>) -> Result<fs::Entry, FsError>,
    ) {
        match self.answer(operation, work) {
            Ok(entry) => {
                reply.entry(&self.lifetime(&entry.attr), &file_attr(&entry.attr), Generation(entry.generation))
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn answer_attr(
        &self,
        operation: &'static str,
        reply: ReplyAttr,
        work: impl FnOnce(&Fs<S>) -> Result<fs::Attr, FsError>,
    ) {
        match self.answer(operation, work) {
            Ok(attr) => reply.attr(&self.lifetime(&attr), &file_attr(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    /// `size_bytes` 0 asks for the length alone (`getxattr(2)`).
    fn answer_xattr(
        &self,
        operation: &'static str,
        size_bytes: u32,
        reply: ReplyXattr,
        work: impl FnOnce(&Fs<S>) -> Result<Vec<u8>, FsError>,
    ) {
        let value = match self.answer(operation, work) {
            Ok(value) => value,
            Err(errno) => return reply.error(errno),
        };
        match u32::try_from(value.len()) {
            Ok(len_bytes) if size_bytes == 0 => reply.size(len_bytes),
            Ok(len_bytes) if len_bytes <= size_bytes => reply.data(&value),
            Ok(_) | Err(_) => reply.error(Errno::ERANGE),
        }
    }
}

/// Does the work of one request; whatever goes wrong becomes an errno.
fn answer<S: Storage, T>(
    fs: &Fs<S>,
    activity: &Activity,
    operation: &'static str,
    work: impl FnOnce(&Fs<S>) -> Result<T, FsError>,
) -> Result<T, Errno> {
    match catch_unwind(AssertUnwindSafe(|| work(fs))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(report(activity, operation, &error)),
        Err(panic) => {
            activity.panicked(operation);
            Err(report_panic(operation, panic.as_ref()))
        }
    }
}

/// The errno of an error. What is no ordinary answer is logged; never a name.
fn report(activity: &Activity, operation: &'static str, error: &FsError) -> Errno {
    let errno = Errno::from_i32(error.errno());
    if matches!(errno, Errno::EIO | Errno::ENOSPC | Errno::EDQUOT) {
        activity.failed(operation, error);
    }
    if errno == Errno::EIO && !error.is_reported() {
        log::error!("{operation} failed: {error}");
    } else {
        log::debug!("{operation}: errno {}", errno.code());
    }
    errno
}

#[cold]
fn report_panic(operation: &'static str, panic: &(dyn Any + Send)) -> Errno {
    // The place was logged by the panic hook; the message might quote a name.
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    log::error!("{operation} failed: a bug in sero stopped it; the caller gets EIO, the mount goes on");
    log::trace!("the panic's message: {message}");
    Errno::EIO
}

fn ino(ino: INodeNo) -> fs::InodeNo {
    fs::InodeNo(ino.0)
}

fn handle(handle: FileHandle) -> fs::FileHandle {
    fs::FileHandle(handle.0)
}

impl<S: Storage> Filesystem for Adapter<S> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate::settle(config, self.caching);
        Ok(())
    }

    // --- names ---

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.answer("lookup", |fs| fs.lookup(ino(parent), name.as_bytes())) {
            Ok(entry) => {
                reply.entry(&self.lifetime(&entry.attr), &file_attr(&entry.attr), Generation(entry.generation))
            }
            Err(Errno::ENOENT) => reply.entry(&self.lifetime, &self.absent, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _request: &Request, node: INodeNo, lookups: u64) {
        // There is no reply to a forget.
        let _ = self.answer_uncounted("forget", |fs| {
            fs.forget(ino(node), lookups);
            Ok(())
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.answer_entry("mknod", reply, |fs| {
            fs.mknod(&caller(request), ino(parent), name.as_bytes(), mode, umask, rdev)
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.answer_entry("mkdir", reply, |fs| fs.mkdir(&caller(request), ino(parent), name.as_bytes(), mode, umask));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.answer_entry("symlink", reply, |fs| {
            fs.symlink(&caller(request), ino(parent), name.as_bytes(), target.as_os_str().as_bytes())
        });
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match self.answer("readlink", |fs| fs.readlink(ino(node))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn link(&self, _request: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answer_entry("link", reply, |fs| fs.link(ino(node), ino(parent), name.as_bytes()));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer_empty("unlink", reply, |fs| fs.unlink(ino(parent), name.as_bytes()));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer_empty("rmdir", reply, |fs| fs.rmdir(ino(parent), name.as_bytes()));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.answer_empty("rename", reply, |fs| {
            fs.rename(ino(parent), name.as_bytes(), ino(new_parent), new_name.as_bytes(), flags.bits())
        });
    }

    // --- attributes ---

    fn getattr(&self, _request: &Request, node: INodeNo, file: Option<FileHandle>, reply: ReplyAttr) {
        self.answer_attr("getattr", reply, |fs| fs.getattr(ino(node), file.map(handle)));
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size_bytes: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        // The backing stamps it.
        _ctime: Option<SystemTime>,
        file: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = SetAttr { mode, uid, gid, size: size_bytes, atime: set_time(atime), mtime: set_time(mtime) };
        self.answer_attr("setattr", reply, |fs| fs.setattr(&caller(request), ino(node), file.map(handle), change));
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, name: &OsStr, size_bytes: u32, reply: ReplyXattr) {
        self.answer_xattr("getxattr", size_bytes, reply, |fs| fs.getxattr(ino(node), name.as_bytes()));
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size_bytes: u32, reply: ReplyXattr) {
        self.answer_xattr("listxattr", size_bytes, reply, |fs| fs.listxattr(&caller(request), ino(node)));
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.answer_empty("setxattr", reply, |fs| {
            fs.setxattr(&caller(request), ino(node), name.as_bytes(), value, flags)
        });
    }

    fn removexattr(&self, _request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer_empty("removexattr", reply, |fs| fs.removexattr(ino(node), name.as_bytes()));
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        match self.answer_uncounted("statfs", Fs::statfs) {
            Ok(space) => reply.statfs(
                space.blocks,
                space.blocks_free,
                space.blocks_available,
                space.files,
                space.files_free,
                space.block_size,
                space.name_max,
                space.block_size,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    // --- files ---

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.answer("create", |fs| fs.create(&caller(request), ino(parent), name.as_bytes(), mode, umask, flags))
        {
            Ok((entry, file)) => {
                self.seeking.opened(INodeNo(entry.attr.ino.0), flags);
                reply.created(
                    &self.lifetime,
                    &file_attr(&entry.attr),
                    Generation(entry.generation),
                    FileHandle(file.0),
                    self.caching.file_flags(),
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.answer("open", |fs| fs.open(&caller(request), ino(node), flags.0)) {
            Ok(file) => {
                self.seeking.opened(node, flags.0);
                reply.opened(FileHandle(file.0), self.caching.file_flags());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset_bytes: u64,
        len_bytes: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            match self.answer("read", |fs| fs.read(handle(file), offset_bytes, len_bytes as usize, buffer)) {
                Ok(()) => {
                    self.activity.read(buffer.len());
                    reply.data(buffer);
                }
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset_bytes: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.answer("write", |fs| fs.write(&caller(request), handle(file), offset_bytes, data, kill_suid)) {
            // Never more than max_write, so that it fits.
            Ok(written) => {
                self.activity.written(written);
                reply.written(u32::try_from(written).unwrap_or(u32::MAX));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _request: &Request, _node: INodeNo, file: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // Never asked again: what close(2) has to report, the writes reported already, and RELEASE commits.
        let _ = file;
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        file: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.seeking.released(node, flags.0);
        self.answer_empty("release", reply, |fs| fs.release(handle(file)));
    }

    fn fsync(&self, _request: &Request, _node: INodeNo, file: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.answer_empty("fsync", reply, |fs| fs.fsync(handle(file), data_only));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset_bytes: u64,
        len_bytes: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.answer_empty("fallocate", reply, |fs| fs.fallocate(handle(file), offset_bytes, len_bytes, mode));
    }

    fn lseek(
        &self,
        _request: &Request,
        node: INodeNo,
        file: FileHandle,
        offset_bytes: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(offset_bytes) = u64::try_from(offset_bytes) else {
            return reply.error(Errno::ENXIO);
        };
        self.activity.requested();
        let (fs, activity) = (Arc::clone(&self.fs), Arc::clone(&self.activity));
        self.seeking.when_written_back(node, move || {
            match answer(&fs, &activity, "lseek", |fs| fs.lseek(handle(file), offset_bytes, whence)) {
                Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _file: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_len_bytes: u32,
        reply: ReplyIoctl,
    ) {
        // What a file without such an ioctl says; lsattr and overlayfs understand it.
        reply.error(Errno::ENOTTY);
    }

    // --- directories ---

    fn opendir(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.answer("opendir", |fs| fs.opendir(ino(node))) {
            Ok(directory) => reply.opened(FileHandle(directory.0), self.caching.directory_flags()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        directory: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.answer("readdir", |fs| {
            fs.readdir(handle(directory), cookie, &mut |entry| {
                let full = reply.add(
                    INodeNo(entry.ino.0),
                    entry.next_cookie,
                    file_type(entry.kind),
                    OsStr::from_bytes(entry.name),
                );
                !full
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _node: INodeNo,
        directory: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.answer("readdirplus", |fs| {
            fs.readdirplus(handle(directory), cookie, &mut |entry| {
                let full = reply.add(
                    INodeNo(entry.entry.attr.ino.0),
                    entry.next_cookie,
                    OsStr::from_bytes(entry.name),
                    &self.lifetime(&entry.entry.attr),
                    &file_attr(&entry.entry.attr),
                    Generation(entry.entry.generation),
                );
                !full
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _node: INodeNo,
        directory: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.answer_empty("releasedir", reply, |fs| fs.releasedir(handle(directory)));
    }

    fn fsyncdir(&self, _request: &Request, _node: INodeNo, directory: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        self.answer_empty("fsyncdir", reply, |fs| fs.fsyncdir(handle(directory)));
    }
}

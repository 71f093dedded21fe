//! [`Adapter`]: each request of the kernel becomes one call of [`Fs`], and its result one reply.
//!
//! A panic below is caught here and answered with EIO: it must neither end the thread that serves the
//! mount nor leave a process waiting. Errors are logged here, once, without names or content.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::activity::Activity;
use super::background::Background;
use super::seeking::{Seeking, is_for_writing};
use super::through::{self, WriteThrough};
use super::transport::{
    self, Agreement, Device, Filesystem, List, Making, Range, Rename, Reply, Request, Writing, node_at_work,
};
use super::write_back::Mountpoint;
use crate::fs::{self, Attr, Caller, FileHandle, FileKind, Fs, FsError, InodeNo, SetAttr, Storage};

/// An errno, as the kernel is told it.
type Outcome<T> = Result<T, i32>;

/// How long the kernel may keep attributes that will change without its doing.
const PROVISIONAL_KEPT: Duration = Duration::from_secs(1);

/// How long the kernel may rely on what it was told: nobody else changes the backing, so until it hears otherwise. As good as
/// for ever, far from the kernel's overflows.
const KEPT: Duration = Duration::from_secs(u32::MAX as u64);

const FILE_FLAGS: u32 = transport::open::KEEP_CACHE | transport::open::NOFLUSH;
/// The kernel drops a listing that it keeps when it changes the directory itself.
const DIRECTORY_FLAGS: u32 = transport::open::KEEP_CACHE | transport::open::CACHE_DIR;

/// A vault's filesystem as the kernel sees it.
pub(super) struct Adapter<S: Storage> {
    fs: Arc<Fs<S>>,
    device: Arc<OnceLock<Device>>,
    seeking: Seeking,
    through: Arc<WriteThrough>,
    /// For notifications beside those of `seeking`: they wait for a directory that may be locked by who waits for an answer there.
    refreshing: Background,
    activity: Arc<Activity>,
}

impl<S: Storage> Adapter<S> {
    pub(super) fn new(fs: Arc<Fs<S>>, activity: Arc<Activity>, mountpoint: Option<Mountpoint>) -> io::Result<Self> {
        let device = Arc::default();
        let seeking = Seeking::start(Arc::clone(&device), mountpoint)?;
        let refreshing = Background::start("refreshing", Arc::clone(&device))?;
        Ok(Self { fs, device, seeking, through: Arc::default(), refreshing, activity })
    }

    /// Where the session puts its way to the kernel once it has one.
    pub(super) fn device(&self) -> Arc<OnceLock<Device>> {
        Arc::clone(&self.device)
    }

    /// Notes what was agreed with the kernel.
    pub(super) fn when_agreed(&self) -> impl FnOnce(&Agreement) + use<S> {
        let (through, seeking) = (Arc::clone(&self.through), self.seeking.when_agreed());
        move |agreement| {
            through.agreed(agreement);
            seeking(agreement);
        }
    }

    /// After an error the kernel keeps nothing of the listing: an entry may be missing from it.
    fn answer_listing(&self, node: u64, listed: Result<(), i32>, list: &List, reply: Reply) {
        match listed {
            Ok(()) => reply.data(list.bytes()),
            Err(errno) => {
                reply.error(errno);
                self.refreshing.run(move |device| transport::invalidate(device, node));
            }
        }
    }

    /// Notes that a file was opened; how the kernel is to treat it.
    fn opened(&self, node: u64, file: FileHandle, flags: i32) -> u32 {
        self.seeking.opened(node, flags);
        if is_for_writing(flags) && self.through.is_possible() && self.fs.has_little_room() {
            self.through.opened(file.0);
            return FILE_FLAGS | transport::open::DIRECT_IO;
        }
        FILE_FLAGS
    }

    fn answer<T>(&self, operation: &'static str, work: impl FnOnce(&Fs<S>) -> Result<T, FsError>) -> Outcome<T> {
        self.activity.requested();
        answer(&self.fs, &self.activity, operation, node_at_work(), work)
    }

    /// For requests that are no sign of anyone at work.
    fn answer_uncounted<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Fs<S>) -> Result<T, FsError>,
    ) -> Outcome<T> {
        answer(&self.fs, &self.activity, operation, node_at_work(), work)
    }

    fn answer_empty(&self, operation: &'static str, reply: Reply, work: impl FnOnce(&Fs<S>) -> Result<(), FsError>) {
        match self.answer(operation, work) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    /// How long the kernel may keep these attributes. Set-user-id bits go with a write, which the kernel is not told.
    fn attr_kept(&self, attr: &Attr) -> Duration {
        match attr {
            Attr { kind: FileKind::Regular, perm, .. } if perm & 0o6000 != 0 => Duration::ZERO,
            Attr { provisional: true, .. } => PROVISIONAL_KEPT,
            _ => KEPT,
        }
    }

    fn answer_entry(
        &self,
        operation: &'static str,
        reply: Reply,
        work: impl FnOnce(&Fs<S>) -> Result<fs::Entry, FsError>,
    ) {
        match self.answer(operation, work) {
            Ok(entry) => reply.entry(&entry, KEPT, self.attr_kept(&entry.attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn answer_created(
        &self,
        operation: &'static str,
        flags: i32,
        reply: Reply,
        work: impl FnOnce(&Fs<S>) -> Result<(fs::Entry, FileHandle), FsError>,
    ) {
        match self.answer(operation, work) {
            Ok((entry, file)) => {
                let file_flags = self.opened(entry.attr.ino.0, file, flags);
                reply.created(&entry, KEPT, self.attr_kept(&entry.attr), file.0, file_flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn answer_attr(
        &self,
        operation: &'static str,
        reply: Reply,
        work: impl FnOnce(&Fs<S>) -> Result<fs::Attr, FsError>,
    ) {
        match self.answer(operation, work) {
            Ok(attr) => reply.attr(&attr, self.attr_kept(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    /// `room` 0 asks for the length alone (`getxattr(2)`).
    fn answer_xattr(
        &self,
        operation: &'static str,
        room: u32,
        reply: Reply,
        work: impl FnOnce(&Fs<S>) -> Result<Vec<u8>, FsError>,
    ) {
        let value = match self.answer(operation, work) {
            Ok(value) => value,
            Err(errno) => return reply.error(errno),
        };
        match u32::try_from(value.len()) {
            Ok(len_bytes) if room == 0 => reply.xattr_len(len_bytes),
            Ok(len_bytes) if len_bytes <= room => reply.data(&value),
            Ok(_) | Err(_) => reply.error(libc::ERANGE),
        }
    }
}

/// Does the work of one request about a node; whatever goes wrong becomes an errno.
fn answer<S: Storage, T>(
    fs: &Fs<S>,
    activity: &Activity,
    operation: &'static str,
    node: u64,
    work: impl FnOnce(&Fs<S>) -> Result<T, FsError>,
) -> Outcome<T> {
    match catch_unwind(AssertUnwindSafe(|| work(fs))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let errno = report(activity, operation, &error);
            if is_serious(errno)
                && let Some(path) = fs.path_for_log(InodeNo(node))
            {
                log::error!("{operation} of {path} failed: {error}");
            }
            Err(errno)
        }
        Err(panic) => {
            activity.panicked(operation);
            Err(report_panic(operation, panic.as_ref()))
        }
    }
}

/// The errno of an error. What is no ordinary answer is logged; never a name.
fn report(activity: &Activity, operation: &'static str, error: &FsError) -> i32 {
    let errno = error.errno();
    if is_serious(errno) {
        activity.failed(operation, error);
    }
    if errno == libc::EIO && !error.is_reported() {
        log::error!("{operation} failed: {error}");
    } else {
        log::debug!("{operation}: errno {errno}");
    }
    errno
}

/// Whether the caller is not the reason.
fn is_serious(errno: i32) -> bool {
    matches!(errno, libc::EIO | libc::ENOSPC | libc::EDQUOT)
}

#[cold]
fn report_panic(operation: &'static str, panic: &(dyn Any + Send)) -> i32 {
    // The place was logged by the panic hook; the message might quote a name.
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    log::error!("{operation} failed: a bug in sero stopped it; the caller gets EIO, the mount goes on");
    log::trace!("the panic's message: {message}");
    libc::EIO
}

/// The node that a request is about.
fn node(request: &Request) -> InodeNo {
    InodeNo(request.node)
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid, gid: request.gid, pid: request.pid }
}

impl<S: Storage> Filesystem for Adapter<S> {
    // --- names ---

    fn lookup(&self, request: &Request, name: &[u8], reply: Reply) {
        match self.answer("lookup", |fs| fs.lookup(node(request), name)) {
            Ok(entry) => reply.entry(&entry, KEPT, self.attr_kept(&entry.attr)),
            Err(libc::ENOENT) => reply.absent(KEPT),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, node: u64, lookups: u64) {
        self.through.forgotten(node);
        // There is no reply to a forget.
        let _ = self.answer_uncounted("forget", |fs| {
            fs.forget(InodeNo(node), lookups);
            Ok(())
        });
    }

    fn mknod(&self, request: &Request, making: Making<'_>, rdev: u32, reply: Reply) {
        let Making { name, mode, umask } = making;
        self.answer_entry("mknod", reply, |fs| fs.mknod(&caller(request), node(request), name, mode, umask, rdev));
    }

    fn mkdir(&self, request: &Request, making: Making<'_>, reply: Reply) {
        let Making { name, mode, umask } = making;
        self.answer_entry("mkdir", reply, |fs| fs.mkdir(&caller(request), node(request), name, mode, umask));
    }

    fn symlink(&self, request: &Request, name: &[u8], target: &[u8], reply: Reply) {
        self.answer_entry("symlink", reply, |fs| fs.symlink(&caller(request), node(request), name, target));
    }

    fn readlink(&self, request: &Request, reply: Reply) {
        match self.answer("readlink", |fs| fs.readlink(node(request))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn link(&self, request: &Request, linked: u64, name: &[u8], reply: Reply) {
        self.answer_entry("link", reply, |fs| fs.link(InodeNo(linked), node(request), name));
    }

    fn unlink(&self, request: &Request, name: &[u8], reply: Reply) {
        self.answer_empty("unlink", reply, |fs| fs.unlink(node(request), name));
    }

    fn rmdir(&self, request: &Request, name: &[u8], reply: Reply) {
        self.answer_empty("rmdir", reply, |fs| fs.rmdir(node(request), name));
    }

    fn rename(&self, request: &Request, rename: &Rename<'_>, reply: Reply) {
        self.answer_empty("rename", reply, |fs| {
            fs.rename(node(request), rename.name, InodeNo(rename.to), rename.to_name, rename.flags)
        });
    }

    // --- attributes ---

    fn getattr(&self, request: &Request, handle: Option<u64>, reply: Reply) {
        self.answer_attr("getattr", reply, |fs| fs.getattr(node(request), handle.map(FileHandle)));
    }

    fn statx(&self, request: &Request, handle: Option<u64>, reply: Reply) {
        match self.answer("statx", |fs| fs.getattr_and_birth(node(request), handle.map(FileHandle))) {
            Ok((attr, birth)) => reply.statx(&attr, birth, self.attr_kept(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(&self, request: &Request, handle: Option<u64>, change: SetAttr, reply: Reply) {
        self.answer_attr("setattr", reply, |fs| {
            fs.setattr(&caller(request), node(request), handle.map(FileHandle), change)
        });
    }

    fn getxattr(&self, request: &Request, name: &[u8], room: u32, reply: Reply) {
        self.answer_xattr("getxattr", room, reply, |fs| fs.getxattr(node(request), name));
    }

    fn listxattr(&self, request: &Request, room: u32, reply: Reply) {
        self.answer_xattr("listxattr", room, reply, |fs| fs.listxattr(&caller(request), node(request)));
    }

    fn setxattr(&self, request: &Request, name: &[u8], value: &[u8], flags: i32, reply: Reply) {
        self.answer_empty("setxattr", reply, |fs| fs.setxattr(&caller(request), node(request), name, value, flags));
    }

    fn removexattr(&self, request: &Request, name: &[u8], reply: Reply) {
        self.answer_empty("removexattr", reply, |fs| fs.removexattr(node(request), name));
    }

    fn statfs(&self, _request: &Request, reply: Reply) {
        match self.answer_uncounted("statfs", Fs::statfs) {
            Ok(space) => reply.space(&space),
            Err(errno) => reply.error(errno),
        }
    }

    // --- files ---

    fn create(&self, request: &Request, making: Making<'_>, flags: i32, reply: Reply) {
        let Making { name, mode, umask } = making;
        let create = |fs: &Fs<S>| fs.create(&caller(request), node(request), name, mode, umask, flags);
        self.answer_created("create", flags, reply, create);
    }

    fn create_unnamed(&self, request: &Request, mode: u32, umask: u32, flags: i32, reply: Reply) {
        let create = |fs: &Fs<S>| fs.create_unnamed(&caller(request), node(request), mode, umask);
        self.answer_created("tmpfile", flags, reply, create);
    }

    fn open(&self, request: &Request, flags: i32, reply: Reply) {
        match self.answer("open", |fs| fs.open(&caller(request), node(request), flags)) {
            Ok(file) => reply.opened(file.0, self.opened(request.node, file, flags)),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(&self, _request: &Request, range: Range, reply: Reply) {
        // Never more than the kernel has room for, so that it fits.
        let len_bytes = usize::try_from(range.len_bytes).unwrap_or(usize::MAX);
        reply.fill(len_bytes, |room| {
            let read = self.answer("read", |fs| fs.read(FileHandle(range.handle), range.offset_bytes, room))?;
            self.activity.read(read);
            Ok(read)
        });
    }

    fn write(&self, request: &Request, range: Range, data: &[u8], how: Writing, reply: Reply) {
        let file = FileHandle(range.handle);
        let write = |fs: &Fs<S>| {
            let caller = caller(request);
            if how.from_cache {
                fs.write_back(&caller, file, range.offset_bytes, data, how.kill_suid)
            } else {
                fs.write(&caller, file, range.offset_bytes, data, how.kill_suid)
            }
        };
        match self.answer("write", write) {
            Ok(written) => {
                self.activity.written(written);
                if !how.from_cache {
                    self.through.written(range.handle);
                }
                reply.written(u32::try_from(written).unwrap_or(u32::MAX));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _request: &Request, _handle: u64, reply: Reply) {
        // Never asked again: what close(2) has to report, the writes reported already, and RELEASE commits.
        reply.error(libc::ENOSYS);
    }

    fn release(&self, request: &Request, handle: u64, flags: i32, reply: Reply) {
        self.seeking.released(request.node, flags);
        self.answer_empty("release", reply, |fs| fs.release(FileHandle(handle)));
        // The kernel has the inode until it has the answer.
        if self.through.released(request.node, handle) {
            let (fs, node) = (Arc::downgrade(&self.fs), InodeNo(request.node));
            let names = move || fs.upgrade().map(|fs| fs.names(node)).unwrap_or_default();
            through::refresh(Duration::ZERO, Arc::clone(&self.through), self.refreshing.clone(), node.0, names);
        }
    }

    fn fsync(&self, _request: &Request, handle: u64, data_only: bool, reply: Reply) {
        self.answer_empty("fsync", reply, |fs| fs.fsync(FileHandle(handle), data_only));
    }

    fn fallocate(&self, _request: &Request, range: Range, mode: i32, reply: Reply) {
        self.answer_empty("fallocate", reply, |fs| {
            fs.fallocate(FileHandle(range.handle), range.offset_bytes, range.len_bytes, mode)
        });
    }

    fn lseek(&self, request: &Request, handle: u64, offset_bytes: i64, whence: i32, reply: Reply) {
        let Ok(offset_bytes) = u64::try_from(offset_bytes) else {
            return reply.error(libc::ENXIO);
        };
        self.activity.requested();
        let (fs, activity, about) = (Arc::clone(&self.fs), Arc::clone(&self.activity), request.node);
        let seek = move |reply: Reply| match answer(&fs, &activity, "lseek", about, |fs| {
            fs.lseek(FileHandle(handle), offset_bytes, whence)
        }) {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(errno),
        };
        if !self.seeking.has_writer(request.node) {
            seek(reply);
        } else if self.seeking.can_write_back() && reply.defer() {
            let generation = self.fs.generation(node(request));
            self.seeking.when_written_back(request.node, generation, move |written| match written {
                Ok(()) => seek(reply),
                Err(error) => reply.error(error.raw_os_error().unwrap_or(libc::EIO)),
            });
        } else {
            // From here on the kernel takes everything in every file for data.
            reply.error(libc::ENOSYS);
        }
    }

    fn ioctl(&self, _request: &Request, reply: Reply) {
        // What a file without such an ioctl says; lsattr and overlayfs understand it.
        reply.error(libc::ENOTTY);
    }

    // --- directories ---

    fn opendir(&self, request: &Request, reply: Reply) {
        match self.answer("opendir", |fs| fs.opendir(node(request))) {
            Ok(directory) => reply.opened(directory.0, DIRECTORY_FLAGS),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, request: &Request, handle: u64, cookie: u64, mut list: List, reply: Reply) {
        let listed = self.answer("readdir", |fs| {
            fs.readdir(FileHandle(handle), cookie, &mut |entry| {
                list.add(entry.ino.0, entry.next_cookie, entry.kind, entry.name)
            })
        });
        self.answer_listing(request.node, listed, &list, reply);
    }

    fn readdirplus(&self, request: &Request, handle: u64, cookie: u64, mut list: List, reply: Reply) {
        let listed = self.answer("readdirplus", |fs| {
            fs.readdirplus(FileHandle(handle), cookie, &mut |entry| {
                let kept = self.attr_kept(&entry.entry.attr);
                list.add_plus(&entry.entry, KEPT, kept, entry.next_cookie, entry.name)
            })
        });
        self.answer_listing(request.node, listed, &list, reply);
    }

    fn releasedir(&self, _request: &Request, handle: u64, reply: Reply) {
        self.answer_empty("releasedir", reply, |fs| fs.releasedir(FileHandle(handle)));
    }

    fn fsyncdir(&self, _request: &Request, handle: u64, _data_only: bool, reply: Reply) {
        self.answer_empty("fsyncdir", reply, |fs| fs.fsyncdir(FileHandle(handle)));
    }
}

//! [`Filesystem`]: what is served. Each request of the kernel becomes one call.

use std::cell::Cell;

use super::abi::{FSYNC_DATA_ONLY, GETATTR_HANDLE, WRITE_CACHE, WRITE_KILL_SUIDGID, opcode, set};
use super::reply::{Channel, List, Reply};
use super::request::{Fields, Request};
use crate::fs::{SetAttr, SetTime, Timestamp};

/// How a node is to get another name.
pub(crate) struct Rename<'a> {
    pub name: &'a [u8],
    pub to: u64,
    pub to_name: &'a [u8],
    pub flags: u32,
}

/// A range of an open file. Handle 0: one that was opened without asking.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub handle: u64,
    pub offset_bytes: u64,
    pub len_bytes: u64,
}

/// How something is written.
#[derive(Clone, Copy)]
pub(crate) struct Writing {
    /// Set-user-id and set-group-id bits have to go.
    pub kill_suid: bool,
    /// By the kernel, out of its cache.
    pub from_cache: bool,
}

/// What is made: its mode with the type, and the caller's umask, which has not been applied.
#[derive(Clone, Copy)]
pub(crate) struct Making<'a> {
    pub name: &'a [u8],
    pub mode: u32,
    pub umask: u32,
}

/// A filesystem that can be served: one method for each kind of request, called by several threads at once.
pub(crate) trait Filesystem: Send + Sync + 'static {
    fn lookup(&self, request: &Request, name: &[u8], reply: Reply);
    fn forget(&self, node: u64, lookups: u64);
    fn getattr(&self, request: &Request, handle: Option<u64>, reply: Reply);
    fn statx(&self, request: &Request, handle: Option<u64>, reply: Reply);
    fn setattr(&self, request: &Request, handle: Option<u64>, change: SetAttr, reply: Reply);
    fn readlink(&self, request: &Request, reply: Reply);
    fn symlink(&self, request: &Request, name: &[u8], target: &[u8], reply: Reply);
    fn mknod(&self, request: &Request, making: Making<'_>, rdev: u32, reply: Reply);
    fn mkdir(&self, request: &Request, making: Making<'_>, reply: Reply);
    fn unlink(&self, request: &Request, name: &[u8], reply: Reply);
    fn rmdir(&self, request: &Request, name: &[u8], reply: Reply);
    fn rename(&self, request: &Request, rename: &Rename<'_>, reply: Reply);
    /// The request's node is the directory.
    fn link(&self, request: &Request, node: u64, name: &[u8], reply: Reply);
    fn open(&self, request: &Request, flags: i32, reply: Reply);
    fn create(&self, request: &Request, making: Making<'_>, flags: i32, reply: Reply);
    /// A regular file without a name; the request's node is the directory that it is of.
    fn create_unnamed(&self, request: &Request, mode: u32, umask: u32, flags: i32, reply: Reply);
    fn read(&self, request: &Request, range: Range, reply: Reply);
    fn write(&self, request: &Request, range: Range, data: &[u8], how: Writing, reply: Reply);
    fn flush(&self, request: &Request, handle: u64, reply: Reply);
    fn release(&self, request: &Request, handle: u64, flags: i32, reply: Reply);
    fn fsync(&self, request: &Request, handle: u64, data_only: bool, reply: Reply);
    fn fallocate(&self, request: &Request, range: Range, mode: i32, reply: Reply);
    fn lseek(&self, request: &Request, handle: u64, offset_bytes: i64, whence: i32, reply: Reply);
    fn ioctl(&self, request: &Request, reply: Reply);
    fn statfs(&self, request: &Request, reply: Reply);
    fn opendir(&self, request: &Request, reply: Reply);
    fn readdir(&self, request: &Request, handle: u64, cookie: u64, list: List, reply: Reply);
    fn readdirplus(&self, request: &Request, handle: u64, cookie: u64, list: List, reply: Reply);
    fn releasedir(&self, request: &Request, handle: u64, reply: Reply);
    fn fsyncdir(&self, request: &Request, handle: u64, data_only: bool, reply: Reply);
    fn getxattr(&self, request: &Request, name: &[u8], room: u32, reply: Reply);
    fn listxattr(&self, request: &Request, room: u32, reply: Reply);
    fn setxattr(&self, request: &Request, name: &[u8], value: &[u8], flags: i32, reply: Reply);
    fn removexattr(&self, request: &Request, name: &[u8], reply: Reply);
}

thread_local! {
    /// The inode that this thread's request is about.
    static NODE: Cell<u64> = const { Cell::new(0) };
}

/// The inode that the request which this thread answers is about; of a change of names, the directory.
pub(in crate::fuse) fn node_at_work() -> u64 {
    NODE.get()
}

/// Calls the filesystem. What is not understood, or not known here, is ENOSYS: the kernel does not ask again.
pub(super) fn dispatch<F: Filesystem>(filesystem: &F, request: &Request, fields: Fields<'_>, channel: &Channel) {
    NODE.set(request.node);
    match request.opcode {
        opcode::FORGET | opcode::BATCH_FORGET => {
            channel.expects_none(request.unique);
            return forget(filesystem, request, fields);
        }
        opcode::INTERRUPT | opcode::NOTIFY_REPLY => return channel.expects_none(request.unique),
        _ => {}
    }
    let mut unanswered = Some(Reply::new(channel, request.unique));
    if call(filesystem, request, fields, &mut unanswered).is_none()
        && let Some(reply) = unanswered
    {
        log::debug!("a request was not understood: operation {}", request.opcode);
        reply.error(libc::ENOSYS);
    }
}

fn forget<F: Filesystem>(filesystem: &F, request: &Request, mut fields: Fields<'_>) {
    if request.opcode == opcode::FORGET {
        if let Some(lookups) = fields.u64() {
            filesystem.forget(request.node, lookups);
        }
        return;
    }
    let count = fields.u32().unwrap_or(0);
    let _ = fields.skip(4);
    for _ in 0..count {
        let (Some(node), Some(lookups)) = (fields.u64(), fields.u64()) else { return };
        filesystem.forget(node, lookups);
    }
}

/// None, with the reply left, if a field is missing or the operation is not known.
fn call<F: Filesystem>(
    filesystem: &F,
    request: &Request,
    mut fields: Fields<'_>,
    unanswered: &mut Option<Reply>,
) -> Option<()> {
    let fields = &mut fields;
    // Taken once everything has been read.
    let mut reply = || unanswered.take();
    match request.opcode {
        opcode::LOOKUP => filesystem.lookup(request, fields.name()?, reply()?),
        opcode::GETATTR | opcode::STATX => {
            let flags = fields.u32()?;
            fields.skip(4)?;
            let handle = fields.u64()?;
            let handle = (flags & GETATTR_HANDLE != 0).then_some(handle);
            if request.opcode == opcode::GETATTR {
                filesystem.getattr(request, handle, reply()?);
            } else {
                // Which fields are wanted does not matter: all are told.
                filesystem.statx(request, handle, reply()?);
            }
        }
        opcode::SETATTR => {
            let (handle, change) = setattr(fields)?;
            filesystem.setattr(request, handle, change, reply()?);
        }
        opcode::READLINK => filesystem.readlink(request, reply()?),
        opcode::SYMLINK => {
            let (name, target) = (fields.name()?, fields.name()?);
            filesystem.symlink(request, name, target, reply()?);
        }
        opcode::MKNOD => {
            let (mode, rdev, umask) = (fields.u32()?, fields.u32()?, fields.u32()?);
            fields.skip(4)?;
            filesystem.mknod(request, Making { name: fields.name()?, mode, umask }, rdev, reply()?);
        }
        opcode::MKDIR => {
            let (mode, umask) = (fields.u32()?, fields.u32()?);
            filesystem.mkdir(request, Making { name: fields.name()?, mode, umask }, reply()?);
        }
        opcode::UNLINK => filesystem.unlink(request, fields.name()?, reply()?),
        opcode::RMDIR => filesystem.rmdir(request, fields.name()?, reply()?),
        opcode::RENAME | opcode::RENAME2 => {
            let to = fields.u64()?;
            let flags = if request.opcode == opcode::RENAME2 { fields.u32()? } else { 0 };
            if request.opcode == opcode::RENAME2 {
                fields.skip(4)?;
            }
            let (name, to_name) = (fields.name()?, fields.name()?);
            filesystem.rename(request, &Rename { name, to, to_name, flags }, reply()?);
        }
        opcode::LINK => {
            let node = fields.u64()?;
            filesystem.link(request, node, fields.name()?, reply()?);
        }
        opcode::OPEN => filesystem.open(request, fields.i32()?, reply()?),
        opcode::CREATE => {
            let (flags, mode, umask) = (fields.i32()?, fields.u32()?, fields.u32()?);
            fields.skip(4)?;
            filesystem.create(request, Making { name: fields.name()?, mode, umask }, flags, reply()?);
        }
        opcode::TMPFILE => {
            // As CREATE. What stands for the name says nothing.
            let (flags, mode, umask) = (fields.i32()?, fields.u32()?, fields.u32()?);
            filesystem.create_unnamed(request, mode, umask, flags, reply()?);
        }
        opcode::READ => filesystem.read(request, range(fields)?, reply()?),
        opcode::WRITE => {
            let range = range(fields)?;
            let flags = fields.u32()?;
            // The lock's owner, the file's flags, padding.
            fields.skip(16)?;
            let data = fields.bytes(usize::try_from(range.len_bytes).ok()?)?;
            let how = Writing { kill_suid: flags & WRITE_KILL_SUIDGID != 0, from_cache: flags & WRITE_CACHE != 0 };
            filesystem.write(request, range, data, how, reply()?);
        }
        opcode::FLUSH => filesystem.flush(request, fields.u64()?, reply()?),
        opcode::RELEASE => {
            let (handle, flags) = (fields.u64()?, fields.i32()?);
            filesystem.release(request, handle, flags, reply()?);
        }
        opcode::FSYNC => {
            let (handle, flags) = (fields.u64()?, fields.u32()?);
            filesystem.fsync(request, handle, flags & FSYNC_DATA_ONLY != 0, reply()?);
        }
        opcode::FALLOCATE => {
            let (handle, offset_bytes, len_bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
            filesystem.fallocate(request, Range { handle, offset_bytes, len_bytes }, fields.i32()?, reply()?);
        }
        opcode::LSEEK => {
            let (handle, offset_bytes) = (fields.u64()?, fields.i64()?);
            filesystem.lseek(request, handle, offset_bytes, fields.i32()?, reply()?);
        }
        opcode::IOCTL => filesystem.ioctl(request, reply()?),
        opcode::STATFS => filesystem.statfs(request, reply()?),
        opcode::OPENDIR => filesystem.opendir(request, reply()?),
        opcode::READDIR | opcode::READDIRPLUS => {
            let range = range(fields)?;
            let list = List::new(usize::try_from(range.len_bytes).ok()?);
            if request.opcode == opcode::READDIR {
                filesystem.readdir(request, range.handle, range.offset_bytes, list, reply()?);
            } else {
                filesystem.readdirplus(request, range.handle, range.offset_bytes, list, reply()?);
            }
        }
        opcode::RELEASEDIR => filesystem.releasedir(request, fields.u64()?, reply()?),
        opcode::FSYNCDIR => {
            let (handle, flags) = (fields.u64()?, fields.u32()?);
            filesystem.fsyncdir(request, handle, flags & FSYNC_DATA_ONLY != 0, reply()?);
        }
        opcode::GETXATTR => {
            let room = fields.u32()?;
            fields.skip(4)?;
            filesystem.getxattr(request, fields.name()?, room, reply()?);
        }
        opcode::LISTXATTR => filesystem.listxattr(request, fields.u32()?, reply()?),
        opcode::SETXATTR => {
            let (len, flags) = (fields.u32()?, fields.i32()?);
            let name = fields.name()?;
            filesystem.setxattr(request, name, fields.bytes(len as usize)?, flags, reply()?);
        }
        opcode::REMOVEXATTR => filesystem.removexattr(request, fields.name()?, reply()?),
        opcode::DESTROY => reply()?.ok(),
        _ => return None,
    }
    Some(())
}

/// Handle, offset and length, as READ, WRITE and READDIR begin.
fn range(fields: &mut Fields<'_>) -> Option<Range> {
    let (handle, offset_bytes, len_bytes) = (fields.u64()?, fields.u64()?, fields.u32()?);
    Some(Range { handle, offset_bytes, len_bytes: u64::from(len_bytes) })
}

fn setattr(fields: &mut Fields<'_>) -> Option<(Option<u64>, SetAttr)> {
    let valid = fields.u32()?;
    fields.skip(4)?;
    let (handle, size_bytes) = (fields.u64()?, fields.u64()?);
    // The lock's owner.
    fields.skip(8)?;
    let (atime, mtime) = (fields.i64()?, fields.i64()?);
    // The time of change is the backing's to stamp.
    fields.skip(8)?;
    let (atime_nanoseconds, mtime_nanoseconds) = (fields.u32()?, fields.u32()?);
    fields.skip(4)?;
    let mode = fields.u32()?;
    fields.skip(4)?;
    let (uid, gid) = (fields.u32()?, fields.u32()?);
    let given = |bit: u32| valid & bit != 0;
    let time = |to: u32, now: u32, seconds, nanoseconds| match (given(to), given(now)) {
        (false, _) => SetTime::Keep,
        (true, true) => SetTime::Now,
        (true, false) => SetTime::To(Timestamp { seconds, nanoseconds }),
    };
    let change = SetAttr {
        mode: given(set::MODE).then_some(mode),
        uid: given(set::UID).then_some(uid),
        gid: given(set::GID).then_some(gid),
        size: given(set::SIZE).then_some(size_bytes),
        atime: time(set::ATIME, set::ATIME_NOW, atime, atime_nanoseconds),
        mtime: time(set::MTIME, set::MTIME_NOW, mtime, mtime_nanoseconds),
    };
    Some((given(set::HANDLE).then_some(handle), change))
}

//! [`Storage`] on a simulated disk.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use parking_lot::MutexGuard;
use rustix::io::Errno;

use super::disk::{Disk, MAX_FILE_BYTES};
use super::live::{Live, Shared};
use super::tree::{Body, Id, ROOT};
use crate::storage::{
    Access, DirEntry, FileKind, RenameMode, SetTime, SpaceInfo, Stat, Storage, Target, Timestamp, XattrMode, component,
};

/// The backing as one process sees it, until the crash: then every call fails.
#[derive(Clone)]
pub struct SimStorage {
    pub(super) shared: Arc<Shared>,
}

/// An open directory of a [`SimStorage`].
pub struct SimDir(Handle);

/// An open file of a [`SimStorage`].
pub struct SimFile {
    handle: Handle,
    access: Access,
}

/// A pinned inode of a [`SimStorage`].
pub struct SimPin(Handle);

/// Keeps an inode alive after its last name is gone.
struct Handle {
    shared: Arc<Shared>,
    id: Id,
    number: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.live.lock().close(self.id, self.number);
    }
}

impl SimStorage {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.shared.live.lock()
    }

    /// For calls that are no step.
    fn alive(&self) -> io::Result<MutexGuard<'_, Live>> {
        let live = self.live();
        live.check_alive()?;
        Ok(live)
    }

    fn handle(&self, live: &mut Live, id: Id) -> Handle {
        Handle { shared: self.shared.clone(), id, number: live.open(id) }
    }

    fn create(
        &self,
        live: &mut Live,
        call: &'static str,
        (at, name): (&SimDir, &OsStr),
        (mode, rdev): (u32, u64),
        symlink: Option<&[u8]>,
    ) -> io::Result<Id> {
        let name = checked(name)?;
        let change = |disk: &mut Disk| disk.create(at.0.id, name, mode, rdev, symlink);
        live.change_taking_space(call, |disk| path(disk, at, name), change)
    }

    fn open_regular(&self, live: &mut Live, id: Id, access: Access) -> io::Result<SimFile> {
        let errno = match live.disk.tree.get(id)?.kind() {
            FileKind::Regular => {
                return Ok(SimFile { handle: self.handle(live, id), access });
            }
            FileKind::Directory => Errno::ISDIR,
            FileKind::Symlink => Errno::LOOP,
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Unknown => {
                Errno::NXIO
            }
        };
        Err(errno.into())
    }

    /// A step that changes an attribute of the target.
    fn set(
        &self,
        call: &'static str,
        target: Target<'_, Self>,
        set: impl FnOnce(&mut Disk, Id) -> Result<(), Errno>,
    ) -> io::Result<()> {
        checked_target(target)?;
        let subject = |disk: &Disk| resolve(disk, target).map_or_else(|_| String::new(), |id| shown(disk, id));
        self.live().change(call, subject, |disk| set(disk, resolve(disk, target)?))
    }
}

impl Storage for SimStorage {
    type Dir = SimDir;
    type File = SimFile;
    type Pin = SimPin;

    fn open_root(&self) -> io::Result<SimDir> {
        let mut live = self.alive()?;
        Ok(SimDir(self.handle(&mut live, ROOT)))
    }

    fn open_dir(&self, at: &SimDir, name: &OsStr) -> io::Result<SimDir> {
        let mut live = self.alive()?;
        let id = match name == "." {
            true => at.0.id,
            false => live.disk.tree.lookup(at.0.id, checked(name)?)?,
        };
        live.disk.tree.get(id)?.dir()?;
        Ok(SimDir(self.handle(&mut live, id)))
    }

    fn open_file(&self, at: &SimDir, name: &OsStr, access: Access) -> io::Result<SimFile> {
        let mut live = self.alive()?;
        let id = live.disk.tree.lookup(at.0.id, checked(name)?)?;
        self.open_regular(&mut live, id, access)
    }

    fn create_file(&self, at: &SimDir, name: &OsStr, mode: u32) -> io::Result<SimFile> {
        let mut live = self.live();
        let mode = libc::S_IFREG | mode & 0o7777;
        let id = self.create(&mut live, "create_file", (at, name), (mode, 0), None)?;
        Ok(SimFile { handle: self.handle(&mut live, id), access: Access::ReadWrite })
    }

    fn create_unnamed(&self, at: &SimDir, mode: u32) -> io::Result<SimFile> {
        let mut live = self.live();
        if live.faults.refuses_unnamed() {
            return Err(Errno::OPNOTSUPP.into());
        }
        let mode = libc::S_IFREG | mode & 0o7777;
        let subject = |disk: &Disk| shown(disk, at.0.id);
        let id = live.change_taking_space("create_unnamed", subject, |disk| disk.create_unnamed(at.0.id, mode))?;
        Ok(SimFile { handle: self.handle(&mut live, id), access: Access::ReadWrite })
    }

    fn make_dir(&self, at: &SimDir, name: &OsStr, mode: u32) -> io::Result<()> {
        // mkdir(2) takes permissions and the sticky bit only.
        let mode = libc::S_IFDIR | mode & 0o1777;
        self.create(&mut self.live(), "make_dir", (at, name), (mode, 0), None).map(|_| ())
    }

    fn make_node(&self, at: &SimDir, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
        let is_device = matches!(FileKind::from_mode(mode), FileKind::CharDevice | FileKind::BlockDevice);
        let rdev = if is_device { rdev } else { 0 };
        self.create(&mut self.live(), "make_node", (at, name), (mode, rdev), None).map(|_| ())
    }

    fn make_symlink(&self, at: &SimDir, name: &OsStr, target: &[u8]) -> io::Result<()> {
        let mode = libc::S_IFLNK | 0o777;
        self.create(&mut self.live(), "make_symlink", (at, name), (mode, 0), Some(target)).map(|_| ())
    }

    fn read_symlink(&self, at: &SimDir, name: &OsStr) -> io::Result<Vec<u8>> {
        let live = self.alive()?;
        let id = live.disk.tree.lookup(at.0.id, checked(name)?)?;
        match &live.disk.tree.get(id)?.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            Body::Regular | Body::Node | Body::Dir(_) => Err(Errno::INVAL.into()),
        }
    }

    fn link(&self, from: Target<'_, Self>, to: &SimDir, to_name: &OsStr) -> io::Result<()> {
        checked_target(from)?;
        let to_name = checked(to_name)?;
        let source = |disk: &Disk| resolve(disk, from).map_or_else(|_| String::new(), |id| shown(disk, id));
        let subject = |disk: &Disk| format!("{} {}", source(disk), path(disk, to, to_name));
        let link = |disk: &mut Disk| {
            let id = resolve(disk, from)?;
            let source = match from {
                Target::Entry(dir, name) => Some((dir.0.id, name.into())),
                Target::Dir(_) | Target::File(_) | Target::Pin(_) => None,
            };
            disk.link(id, source, to.0.id, to_name)
        };
        self.live().change_taking_space("link", subject, link)
    }

    fn rename(
        &self,
        from: &SimDir,
        from_name: &OsStr,
        to: &SimDir,
        to_name: &OsStr,
        mode: RenameMode,
    ) -> io::Result<()> {
        let (from_name, to_name) = (checked(from_name)?, checked(to_name)?);
        let subject = |disk: &Disk| format!("{} {} {mode:?}", path(disk, from, from_name), path(disk, to, to_name));
        let rename = |disk: &mut Disk| disk.rename((from.0.id, from_name), (to.0.id, to_name), mode);
        self.live().change_dropping("rename", subject, rename)
    }

    fn unlink(&self, at: &SimDir, name: &OsStr) -> io::Result<()> {
        let name = checked(name)?;
        self.live().change_dropping("unlink", |disk| path(disk, at, name), |disk| disk.unlink(at.0.id, name))
    }

    fn remove_dir(&self, at: &SimDir, name: &OsStr) -> io::Result<()> {
        let name = checked(name)?;
        self.live().change_dropping("remove_dir", |disk| path(disk, at, name), |disk| disk.remove_dir(at.0.id, name))
    }

    fn pin(&self, at: &SimDir, name: &OsStr) -> io::Result<SimPin> {
        let mut live = self.alive()?;
        let id = live.disk.tree.lookup(at.0.id, checked(name)?)?;
        Ok(SimPin(self.handle(&mut live, id)))
    }

    fn open_pinned(&self, pin: &SimPin, access: Access) -> io::Result<SimFile> {
        let mut live = self.alive()?;
        self.open_regular(&mut live, pin.0.id, access)
    }

    fn read_dir(&self, dir: &SimDir, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> io::Result<()> {
        // The sink may call this storage: nothing is locked meanwhile.
        let entries: Vec<_> = {
            let live = self.alive()?;
            let tree = &live.disk.tree;
            let from_here = tree.get(dir.0.id)?.dir()?.entries.range(cookie.saturating_add(1)..);
            let entries = from_here.filter_map(|(cookie, (name, id))| {
                let inode = tree.get(*id).ok()?;
                Some((*cookie, name.clone(), inode.ino, inode.kind()))
            });
            entries.collect()
        };
        for (next_cookie, name, ino, kind) in &entries {
            if !sink(DirEntry { name, ino: *ino, kind: *kind, next_cookie: *next_cookie }) {
                break;
            }
        }
        Ok(())
    }

    fn stat(&self, target: Target<'_, Self>) -> io::Result<Stat> {
        checked_target(target)?;
        let live = self.alive()?;
        Ok(live.disk.stat(resolve(&live.disk, target)?)?)
    }

    fn set_mode(&self, target: Target<'_, Self>, mode: u32) -> io::Result<()> {
        self.set("set_mode", target, |disk, id| disk.set_mode(id, mode))
    }

    fn set_owner(&self, target: Target<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.set("set_owner", target, |disk, id| disk.set_owner(id, uid, gid))
    }

    fn set_times(&self, target: Target<'_, Self>, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        if (atime, mtime) == (SetTime::Keep, SetTime::Keep) {
            // The kernel does not even look for it.
            return self.alive().map(|_| ());
        }
        self.set("set_times", target, |disk, id| {
            let (atime, mtime) = (time_of(atime, disk.clock), time_of(mtime, disk.clock));
            disk.set_times(id, atime, mtime)
        })
    }

    fn xattr(&self, target: Target<'_, Self>, name: &OsStr) -> io::Result<Vec<u8>> {
        checked_target(target)?;
        let live = self.alive()?;
        Ok(live.disk.xattr(resolve(&live.disk, target)?, name)?.to_vec())
    }

    fn set_xattr(&self, target: Target<'_, Self>, name: &OsStr, value: &[u8], mode: XattrMode) -> io::Result<()> {
        checked_target(target)?;
        let subject = |disk: &Disk| resolve(disk, target).map_or_else(|_| String::new(), |id| shown(disk, id));
        let set = |disk: &mut Disk| disk.set_xattr(resolve(disk, target)?, name, value, mode);
        self.live().change_taking_space("set_xattr", subject, set)
    }

    fn remove_xattr(&self, target: Target<'_, Self>, name: &OsStr) -> io::Result<()> {
        self.set("remove_xattr", target, |disk, id| disk.remove_xattr(id, name))
    }

    fn read_at(&self, file: &SimFile, buffers: &mut [IoSliceMut<'_>], offset_bytes: u64) -> io::Result<usize> {
        let mut live = self.alive()?;
        if live.faults.on_read() {
            return Err(Errno::IO.into());
        }
        let content = &live.disk.file(file.handle.id)?.now;
        if offset_bytes > i64::MAX as u64 {
            return Err(Errno::INVAL.into());
        }
        let mut total = 0;
        for buffer in buffers {
            let count = content.read(buffer, offset_bytes.saturating_add(total as u64));
            total += count;
            if count < buffer.len() {
                break;
            }
        }
        Ok(total)
    }

    fn write_at(&self, file: &SimFile, buffers: &[IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        writable(file, Errno::BADF)?;
        self.live().write(file.handle.id, buffers, offset_bytes)
    }

    fn set_len(&self, file: &SimFile, len_bytes: u64) -> io::Result<()> {
        writable(file, Errno::INVAL)?;
        let subject = |disk: &Disk| format!("{} {len_bytes}", shown(disk, file.handle.id));
        self.live().change("set_len", subject, |disk| disk.set_len(file.handle.id, len_bytes))
    }

    fn fits(&self, _file: &SimFile, len_bytes: u64) -> bool {
        len_bytes <= MAX_FILE_BYTES
    }

    fn allocate(&self, file: &SimFile, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        writable(file, Errno::BADF)?;
        let subject = |disk: &Disk| format!("{} {offset_bytes}+{len_bytes}", shown(disk, file.handle.id));
        let allocate = |disk: &mut Disk| disk.allocate(file.handle.id, offset_bytes, len_bytes);
        self.live().change_taking_space("allocate", subject, allocate)
    }

    fn punch_hole(&self, file: &SimFile, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        writable(file, Errno::BADF)?;
        let subject = |disk: &Disk| format!("{} {offset_bytes}+{len_bytes}", shown(disk, file.handle.id));
        let punch = |disk: &mut Disk| disk.punch(file.handle.id, offset_bytes, len_bytes);
        self.live().change("punch_hole", subject, punch)
    }

    fn sync_data(&self, file: &SimFile) -> io::Result<()> {
        let id = file.handle.id;
        self.live().sync("sync_data", Some(id), |disk| disk.sync_data(id))
    }

    fn sync_file(&self, file: &SimFile) -> io::Result<()> {
        self.shared.before_sync_file.run();
        let id = file.handle.id;
        self.live().sync("sync_file", Some(id), |disk| disk.sync(id))
    }

    fn sync_dir(&self, dir: &SimDir) -> io::Result<()> {
        let id = dir.0.id;
        self.live().sync("sync_dir", Some(id), |disk| disk.sync(id))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.shared.before_sync_all.run();
        self.live().sync("sync_all", None, |disk| {
            disk.sync_all();
            Ok(())
        })
    }

    fn space(&self) -> io::Result<SpaceInfo> {
        Ok(self.alive()?.disk.space())
    }

    fn try_lock(&self, file: &SimFile, exclusive: bool) -> io::Result<bool> {
        if exclusive {
            writable(file, Errno::BADF)?;
        }
        Ok(self.alive()?.try_lock(file.handle.id, file.handle.number, exclusive))
    }

    fn could_lock(&self, file: &SimFile, exclusive: bool) -> io::Result<bool> {
        Ok(self.alive()?.could_lock(file.handle.id, file.handle.number, exclusive))
    }

    fn now(&self) -> Timestamp {
        self.live().disk.clock
    }
}

fn writable(file: &SimFile, errno: Errno) -> io::Result<()> {
    if file.access == Access::ReadWrite { Ok(()) } else { Err(errno.into()) }
}

fn checked(name: &OsStr) -> io::Result<&OsStr> {
    if name.len() > 255 { Err(Errno::NAMETOOLONG.into()) } else { component(name) }
}

fn checked_target(target: Target<'_, SimStorage>) -> io::Result<()> {
    match target {
        Target::Entry(_, name) => checked(name).map(|_| ()),
        Target::Dir(_) | Target::File(_) | Target::Pin(_) => Ok(()),
    }
}

fn resolve(disk: &Disk, target: Target<'_, SimStorage>) -> Result<Id, Errno> {
    match target {
        Target::Entry(dir, name) => disk.tree.lookup(dir.0.id, name),
        Target::Dir(SimDir(handle)) | Target::File(SimFile { handle, .. }) | Target::Pin(SimPin(handle)) => {
            Ok(handle.id)
        }
    }
}

fn time_of(time: SetTime, now: Timestamp) -> Option<Timestamp> {
    match time {
        SetTime::Keep => None,
        SetTime::Now => Some(now),
        SetTime::To(time) => Some(time),
    }
}

fn shown(disk: &Disk, id: Id) -> String {
    disk.tree.path_of(id).display().to_string()
}

fn path(disk: &Disk, at: &SimDir, name: &OsStr) -> String {
    disk.tree.path_of(at.0.id).join(name).display().to_string()
}

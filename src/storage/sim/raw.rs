//! An attacker's hands on the disk: changes that no process makes, durable at once.
//!
//! Paths are relative to the top directory, and no link in them is followed. No step is counted and
//! no fault applies.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::SimDisk;
use super::disk::Disk;
use super::fault::WriteVerdict;
use super::tree::{Body, Id, ROOT};
use crate::storage::{FileKind, RenameMode, Stat, XattrMode};

/// Something on the disk, as [`SimDisk::raw_list`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// From the top directory.
    pub path: PathBuf,
    /// Its type.
    pub kind: FileKind,
    /// Length of a file, or of a link's target.
    pub len_bytes: u64,
}

impl SimDisk {
    /// Everything below the top directory, sorted by path.
    pub fn raw_list(&self) -> Vec<RawEntry> {
        let live = self.shared.live.lock();
        let tree = &live.disk.tree;
        let mut found = Vec::new();
        let mut pending = vec![(ROOT, PathBuf::new())];
        while let Some((id, path)) = pending.pop() {
            let Ok(dir) = tree.get(id).and_then(|inode| inode.dir()) else {
                continue;
            };
            for (name, child) in dir.entries.values() {
                let Ok(stat) = live.disk.stat(*child) else { continue };
                let kind = stat.kind();
                let len_bytes = if kind == FileKind::Directory { 0 } else { stat.size_bytes };
                let path = path.join(&**name);
                if kind == FileKind::Directory {
                    pending.push((*child, path.clone()));
                }
                found.push(RawEntry { path, kind, len_bytes });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    /// The attributes of what is at the path.
    pub fn raw_stat(&self, path: impl AsRef<Path>) -> io::Result<Stat> {
        let live = self.shared.live.lock();
        Ok(live.disk.stat(find(&live.disk, path.as_ref())?)?)
    }

    /// The content of a file, or the target of a symbolic link.
    pub fn raw_read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let live = self.shared.live.lock();
        let id = find(&live.disk, path.as_ref())?;
        match &live.disk.tree.get(id)?.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            Body::Dir(_) => Err(Errno::ISDIR.into()),
            Body::Node => Err(Errno::NXIO.into()),
            Body::Regular => {
                let content = &live.disk.file(id)?.now;
                let mut bytes = vec![0; content.len_bytes as usize];
                content.read(&mut bytes, 0);
                Ok(bytes)
            }
        }
    }

    /// Replaces the whole content of a file, which is made if it is missing.
    pub fn raw_write(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        self.tamper(|disk| {
            let (parent, name) = find_parent(disk, path.as_ref())?;
            let id = match disk.tree.lookup(parent, name) {
                Ok(id) => id,
                Err(Errno::NOENT) => {
                    let id = disk.create(parent, name, libc::S_IFREG | 0o600, 0, None)?;
                    disk.settle_last_change();
                    id
                }
                Err(errno) => return Err(errno),
            };
            disk.set_len(id, 0)?;
            disk.write(id, &[IoSlice::new(bytes)], 0, WriteVerdict::All)?;
            disk.settle_content(id)
        })
    }

    /// Writes into a file, which grows if need be.
    pub fn raw_write_at(&self, path: impl AsRef<Path>, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        self.tamper(|disk| {
            let id = find(disk, path.as_ref())?;
            disk.write(id, &[IoSlice::new(bytes)], offset_bytes, WriteVerdict::All)?;
            disk.settle_content(id)
        })
    }

    /// Cuts a file, or extends it by a hole.
    pub fn raw_set_len(&self, path: impl AsRef<Path>, len_bytes: u64) -> io::Result<()> {
        self.tamper(|disk| {
            let id = find(disk, path.as_ref())?;
            disk.set_len(id, len_bytes)?;
            disk.settle_content(id)
        })
    }

    /// Makes a directory.
    pub fn raw_make_dir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.tamper(|disk| {
            let (parent, name) = find_parent(disk, path.as_ref())?;
            disk.create(parent, name, libc::S_IFDIR | 0o700, 0, None)?;
            disk.settle_last_change();
            Ok(())
        })
    }

    /// Makes a symbolic link; one that is there is replaced.
    pub fn raw_symlink(&self, path: impl AsRef<Path>, target: &[u8]) -> io::Result<()> {
        let path = path.as_ref();
        match self.raw_stat(path) {
            Ok(stat) if stat.kind() == FileKind::Symlink => self.raw_remove(path)?,
            _ => {}
        }
        self.tamper(|disk| {
            let (parent, name) = find_parent(disk, path)?;
            disk.create(parent, name, libc::S_IFLNK | 0o777, 0, Some(target))?;
            disk.settle_last_change();
            Ok(())
        })
    }

    /// Removes a name, and all below if it is a directory.
    pub fn raw_remove(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let children: Vec<PathBuf> = {
            let live = self.shared.live.lock();
            let inode = live.disk.tree.get(find(&live.disk, path)?)?;
            inode
                .dir()
                .map_or_else(|_| Vec::new(), |dir| dir.entries.values().map(|(name, _)| path.join(&**name)).collect())
        };
        children.iter().try_for_each(|child| self.raw_remove(child))?;
        self.tamper_dropping(|disk| {
            let (parent, name) = find_parent(disk, path)?;
            match disk.tree.get(disk.tree.lookup(parent, name)?)?.is_dir() {
                true => disk.remove_dir(parent, name),
                false => disk.unlink(parent, name),
            }
        })
    }

    /// Renames, or exchanges two names.
    pub fn raw_rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, mode: RenameMode) -> io::Result<()> {
        self.tamper_dropping(|disk| {
            let from = find_parent(disk, from.as_ref())?;
            let to = find_parent(disk, to.as_ref())?;
            disk.rename(from, to, mode)
        })
    }

    /// Makes a hard link.
    pub fn raw_link(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        self.tamper(|disk| {
            let (from, from_name) = find_parent(disk, from.as_ref())?;
            let (to, to_name) = find_parent(disk, to.as_ref())?;
            let id = disk.tree.lookup(from, from_name)?;
            disk.link(id, Some((from, from_name.into())), to, to_name)?;
            disk.settle_last_change();
            Ok(())
        })
    }

    /// The value of an extended attribute.
    pub fn raw_xattr(&self, path: impl AsRef<Path>, name: &str) -> io::Result<Vec<u8>> {
        let live = self.shared.live.lock();
        let id = find(&live.disk, path.as_ref())?;
        Ok(live.disk.xattr(id, OsStr::new(name))?.to_vec())
    }

    /// Sets an extended attribute, or removes it.
    pub fn raw_set_xattr(&self, path: impl AsRef<Path>, name: &str, value: Option<&[u8]>) -> io::Result<()> {
        self.tamper(|disk| {
            let id = find(disk, path.as_ref())?;
            match value {
                Some(value) => disk.set_xattr(id, OsStr::new(name), value, XattrMode::Any)?,
                None => disk.remove_xattr(id, OsStr::new(name))?,
            }
            disk.settle_last_change();
            Ok(())
        })
    }

    fn tamper(&self, change: impl FnOnce(&mut Disk) -> Result<(), Errno>) -> io::Result<()> {
        Ok(change(&mut self.shared.live.lock().disk)?)
    }

    /// For a change that may take the last name of an inode.
    fn tamper_dropping(&self, change: impl FnOnce(&mut Disk) -> Result<Option<Id>, Errno>) -> io::Result<()> {
        let mut live = self.shared.live.lock();
        let orphan = change(&mut live.disk)?;
        live.disk.settle_last_change();
        if let Some(id) = orphan {
            live.reclaim_unless_open(id);
        }
        Ok(())
    }
}

fn find(disk: &Disk, path: &Path) -> Result<Id, Errno> {
    path.components().try_fold(ROOT, |at, component| match component {
        Component::Normal(name) => disk.tree.lookup(at, name),
        Component::CurDir | Component::RootDir => Ok(at),
        Component::ParentDir | Component::Prefix(_) => Err(Errno::INVAL),
    })
}

fn find_parent<'a>(disk: &Disk, path: &'a Path) -> Result<(Id, &'a OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    Ok((find(disk, path.parent().unwrap_or(Path::new("")))?, name))
}

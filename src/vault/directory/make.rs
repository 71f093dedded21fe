//! Making names: files, directories, symbolic links, devices, and hard links.
//!
//! A long name's sidecar is there before its entry, and is taken back if the entry is not made.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use super::{Directory, Location, Place, links, open_below, settle};
use crate::format::names::{self, SealedName};
use crate::format::symlink::{self, SealedTarget, TargetError};
use crate::storage::{FileKind, Stat, Storage, Target};
use crate::vault::error::{Result, VaultError};
use crate::vault::file::VaultFile;

/// The attributes of a new inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewInode {
    /// Permission bits (07777) as the making call gets them: the backing still applies its default ACL. Of a
    /// device, FIFO or socket the type, too.
    pub mode: u32,
    /// None: as the backing sets it.
    pub uid: Option<u32>,
    /// None: as the backing sets it (by a setgid directory, too).
    pub gid: Option<u32>,
}

impl<S: Storage> Directory<S> {
    /// Makes an empty file and opens it.
    pub fn make_file(&self, name: &[u8], attributes: &NewInode) -> Result<(Stat, Arc<VaultFile<S>>)> {
        let storage = &self.core.storage;
        self.make(name, |dir, entry| {
            let file = storage
                .create_file(dir, entry, attributes.mode & 0o7777)
                .map_err(|e| VaultError::io("create a file", e))?;
            self.or_unmake(dir, entry, || {
                let mut stat = self.dress(Target::File(&file), attributes)?;
                let location = Location { directory: self.arc()?, entry: entry.to_owned() };
                let file = self.core.create_file(location, file, stat)?;
                stat.size_bytes = 0;
                Ok((stat, file))
            })
        })
    }

    /// Makes an empty file without a name, with what a file of this directory inherits, and opens it. `Vault::link` gives
    /// it a name.
    pub fn make_unnamed(&self, attributes: &NewInode) -> Result<(Stat, Arc<VaultFile<S>>)> {
        self.core.ensure_writable()?;
        let dir = self.handle()?;
        let file = self
            .core
            .storage
            .create_unnamed(&dir, attributes.mode & 0o7777)
            .map_err(|e| VaultError::io("make a file without a name", e))?;
        let mut stat = self.dress(Target::File(&file), attributes)?;
        let file = self.core.create_file(Location::nameless(self.arc()?), file, stat)?;
        stat.size_bytes = 0;
        Ok((stat, file))
    }

    /// Makes a directory, its IV in it.
    pub fn make_dir(&self, name: &[u8], attributes: &NewInode) -> Result<(Stat, Arc<Self>)> {
        let storage = &self.core.storage;
        self.make(name, |dir, entry| {
            // The owner's bits let an ordinary user put the IV inside; nothing else is changed later, so that the
            // backing computes the others' from its default ACL as for any new directory.
            let mode = attributes.mode & 0o7777;
            // Until it is durable a crash may leave it without its IV.
            let _ = self.core.birth();
            storage.make_dir(dir, entry, mode | 0o700).map_err(|e| VaultError::io("make a directory", e))?;
            let made = self.furnish(dir, entry, attributes);
            if made.is_err() {
                if let Ok(made) = storage.open_dir(dir, entry) {
                    let _ = storage.unlink(&made, crate::format::directory_iv::ENTRY.as_ref());
                }
                // Also where it could not be opened, then or now.
                let _ = storage.remove_dir(dir, entry);
            }
            made
        })
    }

    fn furnish(&self, dir: &S::Dir, entry: &OsStr, attributes: &NewInode) -> Result<(Stat, Arc<Self>)> {
        let handle = Arc::new(open_below(&self.core, dir, entry)?);
        let target = Target::Dir(&*handle);
        let io = |e| VaultError::io("set the attributes of a new directory", e);
        let before = self.core.storage.stat(target).map_err(io)?;
        let place = Place::Below { parent: self.arc()?, entry: entry.to_owned() };
        let made = Self::new(&self.core, before.ino, place);
        made.place_iv(&handle)?;
        self.own(target, &before, attributes)?;
        let withheld = 0o700 & !attributes.mode;
        if withheld != 0 {
            self.core.storage.set_mode(target, before.mode & 0o7777 & !withheld).map_err(io)?;
        }
        let stat = self.core.storage.stat(target).map_err(io)?;
        self.core.tree.enter_new(&made);
        self.core.tree.keep_open(&made, handle);
        Ok((stat, made))
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, name: &[u8], target: &[u8], attributes: &NewInode) -> Result<Stat> {
        // A rotation takes the names of each directory alone, and then forgets a key: what is sealed under it is there before.
        let _names = self.names.read_recursive();
        let sealed = symlink::seal(self.core.keys.active().symlink(), target).map_err(|error| match error {
            TargetError::Invalid => VaultError::errno("make a symbolic link", libc::ENOENT),
            TargetError::TooLong => VaultError::NameTooLong,
        })?;
        let (backing_target, pieces) = match sealed {
            SealedTarget::Inline(text) => (text, None),
            SealedTarget::Pieces(id, pieces) => (id.reference(), Some((id, pieces))),
        };
        self.make(name, |dir, entry| {
            if let Some((id, pieces)) = &pieces {
                links::place(&self.core, id, pieces)?;
            }
            let made = self
                .core
                .storage
                .make_symlink(dir, entry, &backing_target)
                .map_err(|e| VaultError::io("make a symbolic link", e))
                .and_then(|()| {
                    self.or_unmake(dir, entry, || {
                        let mut stat = self.dress(Target::Entry(dir, entry), attributes)?;
                        stat.size_bytes = target.len() as u64;
                        Ok(stat)
                    })
                });
            if made.is_err()
                && let Some((id, _)) = &pieces
            {
                links::remove(&self.core, id);
            }
            made
        })
    }

    /// Makes a FIFO, socket or device; `mode` carries the type.
    pub fn make_node(&self, name: &[u8], attributes: &NewInode, rdev: u64) -> Result<Stat> {
        match FileKind::from_mode(attributes.mode) {
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {}
            FileKind::Regular | FileKind::Directory | FileKind::Symlink | FileKind::Unknown => {
                return Err(VaultError::errno("make a special file", libc::EINVAL));
            }
        }
        self.make(name, |dir, entry| {
            self.core
                .storage
                .make_node(dir, entry, attributes.mode, rdev)
                .map_err(|e| VaultError::io("make a special file", e))?;
            self.or_unmake(dir, entry, || self.dress(Target::Entry(dir, entry), attributes))
        })
    }

    /// Gives what has this name another one.
    pub fn link(&self, name: &[u8], to: &Arc<Self>, to_name: &[u8]) -> Result<Stat> {
        let _moving = self.core.moved.gate.read();
        // The target may be this directory.
        let _names = self.names.read_recursive();
        let from = self.locate(name)?;
        let source = from.stat()?;
        let from_dir = self.handle()?;
        // What cannot be told of the new name cannot be told of this one: nothing is made then.
        from.present(&mut source.clone())?;
        to.link_here(to_name, &source, |to_dir, to_entry| {
            Ok(self.core.storage.link(Target::Entry(&*from_dir, &from.entry), to_dir, to_entry))
        })
    }

    /// Gives an inode a name here; `link` asks the backing for it.
    pub(crate) fn link_here(
        self: &Arc<Self>,
        name: &[u8],
        source: &Stat,
        link: impl FnOnce(&S::Dir, &OsStr) -> Result<io::Result<()>>,
    ) -> Result<Stat> {
        let _moving = self.core.moved.gate.read_recursive();
        let (stat, first_name_of) = self.make(name, |dir, entry| {
            let unnamed = self.core.before_link(source)?;
            self.settle_for(source)?;
            link(dir, entry)?.map_err(|e| VaultError::io("make a hard link", e))?;
            let location = Location { directory: self.clone(), entry: entry.to_owned() };
            let mut stat = location.stat()?;
            self.core.linked(&location, &stat);
            self.core.moved.name_in(self);
            location.present(&mut stat)?;
            Ok((stat, unnamed))
        })?;
        if let Some(file) = first_name_of {
            file.sync_after_first_name()?;
        }
        Ok(stat)
    }

    /// Makes an entry by `make`, its sidecar before it.
    fn make<T>(&self, name: &[u8], make: impl FnOnce(&S::Dir, &OsStr) -> Result<T>) -> Result<T> {
        self.core.ensure_writable()?;
        names::validate(name)?;
        let _names = self.names.read_recursive();
        let ivs = self.iv_for_new_name()?;
        let sealed = self.seal_name(&ivs, name)?;
        let dir = self.handle()?;
        let sidecar_is_new = self.place_sidecar(&dir, &sealed)?;
        let made = make(&dir, &sealed.entry);
        // Unless the entry was there before: then its sidecar was, too.
        if made.is_err() && sidecar_is_new {
            let left = self.core.storage.stat(Target::Entry(&*dir, &sealed.entry));
            // What could not be taken back keeps its name.
            if matches!(left, Err(error) if error.raw_os_error() == Some(libc::ENOENT)) {
                let _ = self.core.storage.unlink(&dir, &names::sidecar_of(&sealed.entry));
            }
        }
        made
    }

    /// Makes sure that a long name's sidecar is there. True if it was not.
    pub(super) fn place_sidecar(&self, dir: &S::Dir, sealed: &SealedName) -> Result<bool> {
        let Some(target) = &sealed.sidecar_target else { return Ok(false) };
        let storage = &self.core.storage;
        let io = |e| VaultError::io("store a long name", e);
        let sidecar = names::sidecar_of(&sealed.entry);
        let is_new = match storage.make_symlink(dir, &sidecar, target) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                // Left by a crash, or the entry's own: the same name has the same sealed form. Else it is damaged.
                if storage.read_symlink(dir, &sidecar).is_ok_and(|found| found == *target) {
                    false
                } else {
                    storage.unlink(dir, &sidecar).map_err(io)?;
                    storage.make_symlink(dir, &sidecar, target).map_err(io)?;
                    true
                }
            }
            Err(error) => return Err(io(error)),
        };
        // One that a crash left may never have been synced, either.
        self.mark_unsettled(settle::DEPENDED_ON)?;
        Ok(is_new && !exists(storage, dir, &sealed.entry))
    }

    /// Takes a new entry away again if what is done to it fails.
    fn or_unmake<T>(&self, dir: &S::Dir, entry: &OsStr, work: impl FnOnce() -> Result<T>) -> Result<T> {
        work().inspect_err(|_| {
            let _ = self.core.storage.unlink(dir, entry);
        })
    }

    /// Sets the owner of a new inode that is no directory; returns its attributes.
    fn dress(&self, target: Target<'_, S>, attributes: &NewInode) -> Result<Stat> {
        let io = |e| VaultError::io("set the attributes of a new file", e);
        let made = self.core.storage.stat(target).map_err(io)?;
        if !self.own(target, &made, attributes)? {
            return Ok(made);
        }
        // A change of owner takes set-user-id and set-group-id away.
        if attributes.mode & 0o6000 != 0 && made.kind() != FileKind::Symlink {
            self.core.storage.set_mode(target, made.mode & 0o777 | attributes.mode & 0o7000).map_err(io)?;
        }
        self.core.storage.stat(target).map_err(io)
    }

    /// Sets the owner, if it is to be another. True if it was.
    fn own(&self, target: Target<'_, S>, made: &Stat, attributes: &NewInode) -> Result<bool> {
        let uid = attributes.uid.filter(|&uid| uid != made.uid);
        let gid = attributes.gid.filter(|&gid| gid != made.gid);
        if uid.is_none() && gid.is_none() {
            return Ok(false);
        }
        self.core.storage.set_owner(target, uid, gid).map_err(|e| VaultError::io("set the owner of a new file", e))?;
        Ok(true)
    }
}

fn exists<S: Storage>(storage: &S, dir: &S::Dir, entry: &OsStr) -> bool {
    storage.stat(Target::Entry(dir, entry)).is_ok()
}

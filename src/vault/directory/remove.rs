//! Removing names. A sidecar goes after its entry, a directory's IV just before the directory.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::{Directory, Location, Pin, Place, links, listing, settle, widened};
use crate::format::directory_iv;
use crate::format::names::{self, EntryForm};
use crate::storage::{FileKind, Stat, Storage, Target};
use crate::vault::error::{Result, VaultError};

impl<S: Storage> Directory<S> {
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, name: &[u8]) -> Result<()> {
        self.core.ensure_writable()?;
        let _names = self.names.read();
        let location = self.locate(name)?;
        let stat = location.stat()?;
        self.unlink_at(location, stat)
    }

    /// The same of a regular file, which is held so that it can be reached without the name. None: it could not be, or
    /// is none; that is no reason to keep the name.
    pub fn unlink_held(&self, name: &[u8]) -> Result<Option<Pin<S>>> {
        self.core.ensure_writable()?;
        let _names = self.names.read();
        let location = self.locate(name)?;
        let held = location.pin().ok();
        let stat = match &held {
            Some(pin) => self.core.storage.stat(Target::Pin(pin)).map_err(|e| VaultError::io("read attributes", e))?,
            None => location.stat()?,
        };
        self.unlink_at(location, stat)?;
        Ok(held.filter(|_| stat.kind() == FileKind::Regular).map(|pin| Pin { pin, target_len: None }))
    }

    fn unlink_at(&self, location: Location<S>, stat: Stat) -> Result<()> {
        if stat.kind() == FileKind::Directory {
            return Err(VaultError::errno("remove a file", libc::EISDIR));
        }
        let this = self.arc()?;
        let pieces = (stat.kind() == FileKind::Symlink && stat.nlink <= 1)
            .then(|| links::referred_to(&location, stat.size_bytes))
            .flatten();
        self.core.before_unlink(&this, &location.entry, &stat)?;
        let durable = !self.core.is_volatile(stat.ino);
        let dir = self.handle()?;
        {
            let _number = self.core.hold_number(&stat);
            self.core.storage.unlink(&dir, &location.entry).map_err(|e| VaultError::io("remove a file", e))?;
            self.core.unlinked(&this, &location.entry, &stat);
        }
        if location.is_long() && durable {
            // The name must be gone for good before what it is read from is.
            self.core.storage.sync_dir(&dir).map_err(|e| self.core.sync_failed("sync a directory", e))?;
        }
        self.remove_sidecar(&dir, &location);
        if let Some(id) = pieces {
            // The link must be gone for good before its target is.
            self.core.storage.sync_dir(&dir).map_err(|e| self.core.sync_failed("sync a directory", e))?;
            links::remove(&self.core, &id);
        }
        Ok(())
    }

    /// Removes a directory without names.
    pub fn remove_dir(&self, name: &[u8]) -> Result<()> {
        self.core.ensure_writable()?;
        let _names = self.names.read();
        let location = self.locate(name)?;
        let removed = self.open_entry(&location.entry)?;
        let dir = self.handle()?;
        let emptied = removed.empty_out()?;
        let outcome = {
            let _moves = self.core.tree.moves.write();
            let outcome = self.core.storage.remove_dir(&dir, &location.entry);
            if outcome.is_ok() {
                removed.is_gone();
            }
            outcome
        };
        if let Err(error) = outcome {
            emptied.take_back();
            return Err(VaultError::io("remove a directory", error));
        }
        self.remove_sidecar(&dir, &location);
        Ok(())
    }

    /// Removes the sidecar of an entry that is gone. That it stays is no error: nothing looks for it.
    pub(super) fn remove_sidecar(&self, dir: &S::Dir, location: &Location<S>) {
        if location.is_long() {
            let _ = self.core.storage.unlink(dir, &names::sidecar_of(&location.entry));
        }
    }

    /// Takes out of a directory without names what the backing must not find in it. `ENOTEMPTY` if it has names.
    pub(super) fn empty_out(self: &Arc<Self>) -> Result<Emptied<S>> {
        let listed = self.open_anew()?;
        if listing::has_names(&self.core.storage, &listed)? {
            return Err(VaultError::errno("remove a directory", libc::ENOTEMPTY));
        }
        if self.is_marked(settle::MOVED_OUT) {
            // What was moved out must not be found in it after a crash, its IV gone.
            self.settle()?;
        }
        let storage = &self.core.storage;
        let io = |e| VaultError::io("remove a directory", e);
        let mut leftovers: Vec<OsString> = Vec::new();
        storage
            .read_dir(&listed, 0, &mut |entry| {
                if EntryForm::of(entry.name) == EntryForm::Sidecar {
                    leftovers.push(entry.name.to_owned());
                }
                true
            })
            .map_err(io)?;
        let handle = self.handle()?;
        let remove = |entry: &OsStr| {
            widened(&self.core, Target::Dir(&*handle), 0o300, || storage.unlink(&handle, entry))
                .or_else(|error| if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) })
        };
        leftovers.iter().try_for_each(|entry| remove(entry)).map_err(io)?;
        let iv = storage.read_symlink(&handle, directory_iv::ENTRY.as_ref()).ok();
        remove(directory_iv::ENTRY.as_ref()).map_err(io)?;
        Ok(Emptied { directory: self.clone(), iv })
    }

    /// The directory was removed, or another took its place.
    pub(super) fn is_gone(&self) {
        let before = std::mem::replace(&mut *self.place.write(), Place::Gone);
        self.core.tree.leave(self);
        // The parent is held by the caller, so that this is not its last reference.
        drop(before);
    }
}

/// A directory without its IV, about to be removed.
pub(super) struct Emptied<S: Storage> {
    pub directory: Arc<Directory<S>>,
    iv: Option<Vec<u8>>,
}

impl<S: Storage> Emptied<S> {
    /// It was not removed: puts the IV back. If that fails, the first name that is made in it gets it a new one.
    pub fn take_back(self) {
        let Some(target) = self.iv else { return };
        let core = &self.directory.core;
        let Ok(handle) = self.directory.handle() else { return };
        let place = || core.storage.make_symlink(&handle, directory_iv::ENTRY.as_ref(), &target);
        if let Err(error) = widened(core, Target::Dir(&*handle), 0o300, place) {
            log::warn!("{}: its IV could not be put back: {error}", self.directory.backing_path());
            self.directory.forget_iv();
        }
    }
}

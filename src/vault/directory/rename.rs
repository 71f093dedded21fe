//! Renaming. In the backing it is one rename of sealed names; what surrounds it keeps sidecars, the IV of a
//! replaced directory, and the journal in step, in an order that a crash may cut anywhere.

use std::ffi::OsStr;
use std::sync::Arc;

use super::{Directory, Location, Place, RenamePlan, links, settle};
use crate::format::names;
use crate::storage::{FileKind, RenameMode, Stat, Storage};
use crate::vault::error::{Result, VaultError};

impl<S: Storage> Directory<S> {
    /// Renames, as `renameat2(2)`.
    pub fn rename(&self, name: &[u8], to: &Arc<Self>, to_name: &[u8], mode: RenameMode) -> Result<()> {
        self.core.ensure_writable()?;
        names::validate(to_name)?;
        let this = self.arc()?;
        let _moving = self.core.moved.gate.read();
        // Both may be one.
        let _names = (self.names.read_recursive(), to.names.read_recursive());
        let from = self.locate(name)?;
        let source = from.stat()?;
        let to_iv = to.iv_for_new_name()?;
        let to_sealed = to.seal_name(&to_iv, to_name)?;
        let target = Location { directory: to.clone(), entry: to_sealed.entry.clone() };
        let replaced = match target.stat() {
            Ok(stat) => Some(stat),
            Err(error) if error.is_errno(libc::ENOENT) => None,
            Err(error) => return Err(error),
        };
        check(&source, replaced.as_ref(), mode)?;
        if mode != RenameMode::NoReplace && replaced.is_some_and(|replaced| replaced.ino == source.ino) {
            // Two names of one inode: both stay.
            return Ok(());
        }
        let source_dir = (source.kind() == FileKind::Directory).then(|| self.open_entry(&from.entry)).transpose()?;
        if source_dir.as_ref().is_some_and(|moved| to.is_within(moved.ino)) {
            return Err(VaultError::errno("move a directory into itself", libc::EINVAL));
        }
        let replaced_dir = match &replaced {
            Some(stat) if stat.kind() == FileKind::Directory => Some(to.open_entry(&target.entry)?),
            _ => None,
        };
        if mode == RenameMode::Exchange && replaced_dir.as_ref().is_some_and(|moved| this.is_within(moved.ino)) {
            return Err(VaultError::errno("move a directory into itself", libc::EINVAL));
        }

        let (from_handle, to_handle) = (self.handle()?, to.handle()?);
        let sidecar_is_new = to.place_sidecar(&to_handle, &to_sealed)?;
        let step = Step { this: &this, from: &from, to, target: &target, mode, source, replaced };
        let outcome = step.run(&from_handle, &to_handle, source_dir.as_ref(), replaced_dir.as_ref());
        if let Err(error) = outcome {
            if sidecar_is_new {
                to.remove_sidecar(&to_handle, &target);
            }
            return Err(error);
        }
        if mode == RenameMode::Exchange {
            return Ok(());
        }
        if from.is_long() {
            if !self.core.is_volatile(source.ino) {
                // The old name must be gone for good before what it is read from is.
                self.core.storage.sync_dir(&from_handle).map_err(|e| self.core.sync_failed("sync a directory", e))?;
            }
            self.remove_sidecar(&from_handle, &from);
        }
        Ok(())
    }
}

/// What rename(2) refuses by the kinds alone; the rest is the backing's to say.
fn check(source: &Stat, replaced: Option<&Stat>, mode: RenameMode) -> Result<()> {
    let errno = match (mode, replaced) {
        (RenameMode::NoReplace, Some(_)) => libc::EEXIST,
        (RenameMode::Exchange, None) => libc::ENOENT,
        (RenameMode::Replace, Some(replaced)) => {
            match (source.kind() == FileKind::Directory, replaced.kind() == FileKind::Directory) {
                (true, false) => libc::ENOTDIR,
                (false, true) => libc::EISDIR,
                (true, true) | (false, false) => return Ok(()),
            }
        }
        (RenameMode::NoReplace | RenameMode::Replace, None) | (RenameMode::Exchange, Some(_)) => return Ok(()),
    };
    Err(VaultError::errno("rename", errno))
}

/// A rename that has been looked at.
struct Step<'a, S: Storage> {
    this: &'a Arc<Directory<S>>,
    from: &'a Location<S>,
    to: &'a Arc<Directory<S>>,
    target: &'a Location<S>,
    mode: RenameMode,
    source: Stat,
    replaced: Option<Stat>,
}

impl<S: Storage> Step<'_, S> {
    fn run(
        &self,
        from_handle: &S::Dir,
        to_handle: &S::Dir,
        source_dir: Option<&Arc<Directory<S>>>,
        replaced_dir: Option<&Arc<Directory<S>>>,
    ) -> Result<()> {
        let core = &self.this.core;
        let exchange = self.mode == RenameMode::Exchange;
        self.to.settle_for(&self.source)?;
        if let Some(replaced) = self.replaced.filter(|_| exchange) {
            self.this.settle_for(&replaced)?;
        }
        let pieces = match &self.replaced {
            Some(replaced) if !exchange && replaced.kind() == FileKind::Symlink && replaced.nlink <= 1 => {
                links::referred_to(self.target, replaced.size_bytes)
            }
            _ => None,
        };
        let plan = RenamePlan {
            from: self.this,
            from_entry: &self.from.entry,
            to: self.to,
            to_entry: &self.target.entry,
            mode: self.mode,
            source: self.source,
            replaced: self.replaced,
        };
        let _naming = core.journal_rename(&plan)?;
        // The directory that is replaced must be empty for the backing, too.
        let emptied = match replaced_dir.filter(|_| !exchange) {
            Some(replaced) => Some(replaced.empty_out()?),
            None => None,
        };
        self.depart();

        let rename = || core.storage.rename(from_handle, &self.from.entry, to_handle, &self.target.entry, self.mode);
        let outcome = if source_dir.is_none() && replaced_dir.is_none() {
            rename()
        } else {
            let _moves = core.tree.moves.write();
            let outcome = rename();
            if outcome.is_ok() {
                if let Some(emptied) = &emptied {
                    emptied.directory.is_gone();
                }
                if let Some(moved) = source_dir {
                    moved.is_now_at(self.to, &self.target.entry);
                }
                if let Some(moved) = replaced_dir.filter(|_| exchange) {
                    moved.is_now_at(self.this, &self.from.entry);
                }
            }
            outcome
        };
        if let Err(error) = outcome {
            if let Some(emptied) = emptied {
                emptied.take_back();
            }
            return Err(VaultError::io("rename", error));
        }
        core.renamed(&plan);
        match source_dir {
            Some(moved) => core.moved.whole(moved),
            None => core.moved.name_in(self.to),
        }
        if exchange {
            match replaced_dir {
                Some(moved) => core.moved.whole(moved),
                None => core.moved.name_in(self.this),
            }
        }
        if let Some(id) = pieces {
            core.storage.sync_dir(to_handle).map_err(|e| core.sync_failed("sync a directory", e))?;
            links::remove(core, &id);
        }
        Ok(())
    }

    /// Remembers that something durable leaves a directory.
    fn depart(&self) {
        let core = &self.this.core;
        if Arc::ptr_eq(self.this, self.to) {
            return;
        }
        if !core.is_volatile(self.source.ino) {
            let _ = self.this.mark_unsettled(settle::MOVED_OUT);
        }
        if let Some(replaced) = self.replaced.filter(|_| self.mode == RenameMode::Exchange)
            && !core.is_volatile(replaced.ino)
        {
            let _ = self.to.mark_unsettled(settle::MOVED_OUT);
        }
    }
}

impl<S: Storage> Directory<S> {
    /// The directory was moved. [`Tree::moves`](super::Tree::moves) is held alone.
    pub(super) fn is_now_at(&self, parent: &Arc<Self>, entry: &OsStr) {
        let place = Place::Below { parent: parent.clone(), entry: entry.to_owned() };
        let before = std::mem::replace(&mut *self.place.write(), place);
        // The old parent is held by the caller.
        drop(before);
    }
}

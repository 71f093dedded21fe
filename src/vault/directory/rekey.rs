//! A rotation's part in a directory: its names under a new IV and the active version of the keys.
//!
//! In three steps, each of which may be cut anywhere and is gone on with:
//!
//! 1. [`Directory::begin_rekey`]: the link "=iv" gets a second record in front. Durable before the next.
//! 2. [`Directory::rename_to_newest`]: each entry is renamed, in the backing alone. Every name is found under either
//!    form meanwhile. All renames are durable before the next.
//! 3. [`Directory::end_rekey`]: the link is left with the new record.
//!
//! The names of a directory are locked for a few entries at a time. The backing's own times of the directory are put
//! back as they were.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::iv::{Ivs, KeyedIv};
use super::{Directory, RenamePlan};
use crate::format::directory_iv::DirectoryIv;
use crate::format::names::{self, EntryForm};
use crate::storage::{FileKind, RenameMode, SetTime, Stat, Storage, Target};
use crate::vault::error::{IntegrityError, Result, VaultError};

/// Entries that are renamed under one lock.
const CHUNK: usize = 64;
/// How long a listing that is in use is waited for, and how often.
const PAUSE: Duration = Duration::from_millis(2);

/// What the renaming of a directory came to.
#[derive(Default)]
pub(crate) struct Renamed {
    pub entries: u64,
    /// The first name that opens under no live version.
    pub bad: Option<IntegrityError>,
}

impl<S: Storage> Directory<S> {
    /// Gives the directory an IV under the active version beside its own. False: it has one, and no other.
    pub(crate) fn begin_rekey(&self) -> Result<bool> {
        loop {
            let names = self.names.write();
            let active = self.core.keys.active();
            let Some(ivs) = self.iv()? else { return Ok(false) };
            if ivs.newest.keys.version == active.version {
                return Ok(ivs.older.is_some());
            }
            if self.read_listings_out()? {
                let newest = KeyedIv { iv: DirectoryIv::random(), keys: active };
                self.keeping_times(|| self.replace_iv(Ivs { newest, older: Some(ivs.newest.clone()) }))?;
                return Ok(true);
            }
            drop(names);
            thread::sleep(PAUSE);
        }
    }

    /// Renames every entry to its form under the newest IV. `step` is called with nothing locked.
    pub(crate) fn rename_to_newest(&self, step: &mut dyn FnMut(u64) -> Result<()>) -> Result<Renamed> {
        let mut outcome = Renamed::default();
        loop {
            let entries = self.sealed_entries()?;
            let mut renamed = 0;
            outcome.bad = None;
            for chunk in entries.chunks(CHUNK) {
                let count = self.rename_chunk(chunk, &mut outcome)?;
                renamed += count;
                step(count)?;
            }
            outcome.entries += renamed;
            // Somebody else may have been renaming, too, but nothing new comes under the older form.
            if renamed == 0 {
                return Ok(outcome);
            }
        }
    }

    fn rename_chunk(&self, entries: &[OsString], outcome: &mut Renamed) -> Result<u64> {
        let _names = self.names.write();
        let Some(ivs) = self.iv()? else { return Ok(0) };
        let Some(older) = &ivs.older else { return Ok(0) };
        let handle = self.handle()?;
        let mut moves = Vec::new();
        for entry in entries {
            let stat = match self.core.storage.stat(Target::Entry(&*handle, entry)) {
                Ok(stat) => stat,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(error) => return Err(VaultError::io("read attributes", error)),
            };
            let under = |iv: &KeyedIv| match EntryForm::of(entry) {
                EntryForm::Long => self
                    .core
                    .storage
                    .read_symlink(&handle, &names::sidecar_of(entry))
                    .ok()
                    .and_then(|target| iv.open_long(entry, &target).ok()),
                _ => iv.open(entry).ok(),
            };
            if under(&ivs.newest).is_some() {
                continue;
            }
            let Some(name) = under(older) else {
                let path = format!("{}/{}", self.backing_path(), entry.to_string_lossy());
                outcome.bad.get_or_insert_with(|| {
                    IntegrityError::report(path, None, "the name opens under no version of the project key")
                });
                continue;
            };
            let sealed = ivs.newest.seal(&name)?;
            if self.core.storage.stat(Target::Entry(&*handle, &sealed.entry)).is_ok() {
                let path = format!("{}/{}", self.backing_path(), entry.to_string_lossy());
                outcome.bad.get_or_insert_with(|| {
                    IntegrityError::report(path, None, "another entry has the same name, under the newest key")
                });
                continue;
            }
            moves.push((entry, sealed, stat));
        }
        if moves.is_empty() {
            return Ok(0);
        }
        self.keeping_times(|| {
            // Each sidecar before its entry, and durable before any.
            for (_, sealed, _) in &moves {
                self.place_sidecar(&handle, sealed)?;
            }
            self.settle()?;
            for (entry, sealed, stat) in &moves {
                self.rename_sealed(&handle, entry, &sealed.entry, *stat)?;
            }
            Ok(moves.len() as u64)
        })
    }

    /// The rename of one entry within the directory, as the journal and everyone else must know of it.
    fn rename_sealed(&self, handle: &S::Dir, from: &OsStr, to: &OsStr, stat: Stat) -> Result<()> {
        let this = self.arc()?;
        let moved = if stat.kind() == FileKind::Directory { Some(self.open_entry(from)?) } else { None };
        let mode = RenameMode::NoReplace;
        let plan =
            RenamePlan { from: &this, from_entry: from, to: &this, to_entry: to, mode, source: stat, replaced: None };
        let _naming = self.core.journal_rename(&plan)?;
        let rename = || {
            self.core.storage.rename(handle, from, handle, to, mode).map_err(|e| VaultError::io("rename an entry", e))
        };
        if let Some(moved) = moved {
            let _moves = self.core.tree.moves.write();
            rename()?;
            moved.is_now_at(&this, to);
        } else {
            rename()?;
        }
        self.core.renamed(&plan);
        Ok(())
    }

    /// Leaves the directory with its new IV. Every rename in it is durable. False: entries under the older form are
    /// left, which do not open.
    pub(crate) fn end_rekey(&self) -> Result<bool> {
        let _names = self.names.write();
        let Some(ivs) = self.iv()? else { return Ok(true) };
        if ivs.older.is_none() {
            return Ok(true);
        }
        let handle = self.handle()?;
        let listed = self.open_anew()?;
        let mut sidecars = Vec::new();
        let mut entries = HashSet::new();
        self.core
            .storage
            .read_dir(&listed, 0, &mut |entry| {
                match EntryForm::of(entry.name) {
                    EntryForm::Short | EntryForm::Long => drop(entries.insert(entry.name.to_owned())),
                    EntryForm::Sidecar => sidecars.push(entry.name.to_owned()),
                    _ => {}
                }
                true
            })
            .map_err(|e| VaultError::io("read a directory", e))?;
        let opens = |entry: &OsString| match EntryForm::of(entry) {
            EntryForm::Long => self
                .core
                .storage
                .read_symlink(&handle, &names::sidecar_of(entry))
                .is_ok_and(|target| ivs.newest.open_long(entry, &target).is_ok()),
            _ => ivs.newest.open(entry).is_ok(),
        };
        if !entries.iter().all(opens) {
            return Ok(false);
        }
        self.keeping_times(|| {
            self.replace_iv(Ivs { newest: ivs.newest.clone(), older: None })?;
            // Of names as they were; and what crashes left.
            for sidecar in sidecars {
                if names::entry_of_sidecar(&sidecar).is_some_and(|entry| !entries.contains(entry)) {
                    let _ = self.core.storage.unlink(&handle, &sidecar);
                }
            }
            Ok(())
        })?;
        Ok(true)
    }

    /// Whether the directory has one IV, under the active version.
    pub(crate) fn is_rekeyed(&self) -> Result<bool> {
        let version = self.core.keys.active().version;
        Ok(self.unchecked_iv()?.is_none_or(|ivs| ivs.older.is_none() && ivs.newest.keys.version == version))
    }

    /// The entries that have a name.
    pub(crate) fn sealed_entries(&self) -> Result<Vec<OsString>> {
        let listed = self.open_anew()?;
        let mut entries = Vec::new();
        self.core
            .storage
            .read_dir(&listed, 0, &mut |entry| {
                if matches!(EntryForm::of(entry.name), EntryForm::Short | EntryForm::Long) {
                    entries.push(entry.name.to_owned());
                }
                true
            })
            .map_err(|e| VaultError::io("read a directory", e))?;
        Ok(entries)
    }

    /// The directories in this one.
    pub(crate) fn child_directories(&self) -> Result<Vec<Arc<Self>>> {
        let _names = self.names.read();
        let listed = self.open_anew()?;
        let mut entries = Vec::new();
        self.core
            .storage
            .read_dir(&listed, 0, &mut |entry| {
                let named = matches!(EntryForm::of(entry.name), EntryForm::Short | EntryForm::Long);
                if named && matches!(entry.kind, FileKind::Directory | FileKind::Unknown) {
                    entries.push(entry.name.to_owned());
                }
                true
            })
            .map_err(|e| VaultError::io("read a directory", e))?;
        let mut children = Vec::new();
        for entry in entries {
            match self.open_entry(&entry) {
                Ok(child) => children.push(child),
                Err(error) if error.is_errno(libc::ENOTDIR) || error.is_errno(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }

    /// Does something that changes names and not, for anyone who looks, the directory.
    pub(crate) fn keeping_times<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let handle = self.handle()?;
        let before = self.core.storage.stat(Target::Dir(&*handle));
        let done = work();
        if let Ok(before) = before {
            // Whether that works or not, nothing depends on it.
            let _ = self.core.storage.set_times(Target::Dir(&*handle), SetTime::Keep, SetTime::To(before.mtime));
        }
        done
    }
}

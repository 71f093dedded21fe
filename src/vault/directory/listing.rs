//! Listing a directory in plain names.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use parking_lot::Mutex;

use super::iv::Ivs;
use super::{Directory, Location, aside};
use crate::format::names::{self, EntryForm};
use crate::storage::{FileKind, Storage};
use crate::vault::error::{IntegrityError, Result, VaultError};

/// Entries that are read from the backing at a time.
const BATCH: usize = 512;
/// Entries of one listing that are logged one by one if they do not open.
const LOGGED_MAX: usize = 20;

/// One name of a directory.
#[derive(Clone, Copy, Debug)]
pub struct ListEntry<'a> {
    /// Plain.
    pub name: &'a [u8],
    pub ino: u64,
    pub kind: FileKind,
    /// Where to go on after this entry; the backing's, stable while other entries come and go.
    pub next_cookie: u64,
}

/// A directory that is open for listing.
pub struct Listing<S: Storage> {
    directory: Arc<Directory<S>>,
    progress: Mutex<Progress<S>>,
}

struct Progress<S: Storage> {
    /// A handle of its own, as it has one position.
    handle: S::Dir,
    /// Read and not delivered; the first of them comes after `cookie`.
    batch: VecDeque<Found>,
    cookie: u64,
    /// Nothing comes after the batch.
    ended: bool,
    /// Entries since the start that did not open, and the first of them.
    bad: usize,
    first_bad: Option<IntegrityError>,
}

struct Found {
    entry: OsString,
    ino: u64,
    kind: FileKind,
    next_cookie: u64,
}

/// What became of an entry.
pub(super) enum Opened {
    Name(Vec<u8>),
    /// Not for the user's eyes.
    Skipped,
    Bad(String),
}

impl<S: Storage> Directory<S> {
    /// Opens the directory for listing: once for each open directory of a user.
    pub fn open_listing(&self) -> Result<Listing<S>> {
        let progress = Progress {
            handle: self.open_anew()?,
            batch: VecDeque::new(),
            cookie: 0,
            ended: false,
            bad: 0,
            first_bad: None,
        };
        Ok(Listing { directory: self.arc()?, progress: Mutex::new(progress) })
    }

    /// One listing from `cookie` on, as [`Listing::next`]. Entries before `cookie` are not looked at.
    pub fn list(&self, cookie: u64, sink: &mut dyn FnMut(ListEntry<'_>) -> bool) -> Result<()> {
        self.open_listing()?.next(cookie, sink)
    }

    /// Opens the name of an entry that was found in the backing.
    pub(super) fn open_found(&self, ivs: &Ivs, entry: &OsStr, handle: &S::Dir) -> Result<Opened> {
        let core = &self.core;
        let opened = match EntryForm::of(entry) {
            EntryForm::DirectoryIv | EntryForm::Sidecar | EntryForm::Foreign => return Ok(Opened::Skipped),
            EntryForm::Unknown => return Ok(Opened::Bad("nothing in a vault has such a name".into())),
            EntryForm::Short => ivs.open(entry),
            EntryForm::Long => match core.storage.read_symlink(handle, &names::sidecar_of(entry)) {
                Ok(target) => ivs.open_long(entry, &target),
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOENT) => return self.without_sidecar(entry),
                    Some(libc::EINVAL) => return Ok(Opened::Bad("its sidecar is not a symbolic link".into())),
                    _ => return Err(VaultError::io("read a long name", error)),
                },
            },
        };
        Ok(match opened {
            Ok(name) => {
                self.iv_fits();
                Opened::Name(name)
            }
            Err(refused) => Opened::Bad(refused.to_string()),
        })
    }

    fn without_sidecar(&self, entry: &OsStr) -> Result<Opened> {
        let location = Location { directory: self.arc()?, entry: entry.to_owned() };
        match location.stat() {
            // Removed after it was read: its sidecar went after it.
            Err(error) if error.is_errno(libc::ENOENT) => Ok(Opened::Skipped),
            Err(error) => Err(error),
            Ok(stat) if aside::put_one(&location, &stat)? => Ok(Opened::Skipped),
            Ok(_) => Ok(Opened::Bad("the sidecar with its name is missing".into())),
        }
    }
}

impl<S: Storage> Listing<S> {
    /// Gives `sink` the names after `cookie` (0: from the start), without "." and "..", until it returns false: that
    /// entry counts as not given. At the end of the directory, all good names given, it is an integrity error if an
    /// entry since the start did not open.
    ///
    /// The sink may use the directory, but not this listing.
    pub fn next(&self, cookie: u64, sink: &mut dyn FnMut(ListEntry<'_>) -> bool) -> Result<()> {
        let mut progress = self.progress.lock();
        if cookie == 0 {
            progress.bad = 0;
            progress.first_bad = None;
        }
        if cookie != progress.cookie || cookie == 0 {
            progress.batch.clear();
            progress.cookie = cookie;
            progress.ended = false;
        }
        let Some(ivs) = self.directory.unchecked_iv()? else { return Ok(()) };
        loop {
            if progress.batch.is_empty() {
                if progress.ended {
                    return progress.end(&self.directory);
                }
                progress.fetch(&self.directory)?;
                continue;
            }
            let Some(found) = progress.batch.front() else { continue };
            let opened = self.directory.open_found(&ivs, &found.entry, &progress.handle)?;
            let next_cookie = found.next_cookie;
            match opened {
                Opened::Name(name) => {
                    if !sink(ListEntry { name: &name, ino: found.ino, kind: found.kind, next_cookie }) {
                        return Ok(());
                    }
                }
                Opened::Skipped => {}
                Opened::Bad(reason) => {
                    let path = format!("{}/{}", self.directory.backing_path(), found.entry.to_string_lossy());
                    progress.note_bad(path, reason);
                }
            }
            progress.batch.pop_front();
            progress.cookie = next_cookie;
        }
    }
}

impl<S: Storage> Progress<S> {
    fn fetch(&mut self, directory: &Directory<S>) -> Result<()> {
        let Self { handle, batch, cookie, ended, .. } = self;
        let mut full = false;
        directory
            .core
            .storage
            .read_dir(handle, *cookie, &mut |entry| {
                if batch.len() >= BATCH {
                    full = true;
                    return false;
                }
                batch.push_back(Found {
                    entry: entry.name.to_owned(),
                    ino: entry.ino,
                    kind: entry.kind,
                    next_cookie: entry.next_cookie,
                });
                true
            })
            .map_err(|e| VaultError::io("read a directory", e))?;
        *ended = !full;
        Ok(())
    }

    fn note_bad(&mut self, path: String, reason: String) {
        self.bad = self.bad.saturating_add(1);
        let error = if self.bad <= LOGGED_MAX {
            IntegrityError::report(path, None, reason)
        } else {
            IntegrityError { path, page: None, reason }
        };
        self.first_bad.get_or_insert(error);
    }

    fn end(&self, directory: &Directory<S>) -> Result<()> {
        let Some(first) = &self.first_bad else { return Ok(()) };
        if self.bad > LOGGED_MAX {
            log::error!("{}: {} entries do not open; not all were named", directory.backing_path(), self.bad);
        }
        Err(VaultError::Integrity(first.clone()))
    }
}

/// Whether there is anything that could be a name.
pub(super) fn has_names<S: Storage>(storage: &S, handle: &S::Dir) -> Result<bool> {
    let mut found = false;
    storage
        .read_dir(handle, 0, &mut |entry| {
            found = matches!(EntryForm::of(entry.name), EntryForm::Short | EntryForm::Long | EntryForm::Unknown);
            !found
        })
        .map_err(|e| VaultError::io("read a directory", e))?;
    Ok(found)
}

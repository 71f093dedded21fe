//! Listing a directory in plain names.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Weak};

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
    /// Sealed, as it was when it was read.
    pub entry: &'a OsStr,
    pub ino: u64,
    pub kind: FileKind,
    /// Where to go on after this entry; the backing's, stable while other entries come and go.
    pub next_cookie: u64,
}

/// A directory that is open for listing.
pub struct Listing<S: Storage> {
    directory: Arc<Directory<S>>,
    progress: Arc<Mutex<Progress<S>>>,
}

/// How a directory knows of its listings.
pub(super) type OpenListing<S> = Weak<Mutex<Progress<S>>>;

pub(super) struct Progress<S: Storage> {
    /// A handle of its own, as it has one position.
    handle: S::Dir,
    /// Read and not delivered; the first of them comes after `cookie`.
    batch: VecDeque<Found>,
    cookie: u64,
    /// The last that was given to the user, who goes on from there: entries that are not for the user may come after it.
    delivered: u64,
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
    /// What it came to, if that was looked at when it was read.
    opened: Option<Opened>,
}

/// Why an entry of an unknown form is bad.
pub(super) const NO_NAME: &str = "nothing in a vault has such a name";

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
            delivered: 0,
            ended: false,
            bad: 0,
            first_bad: None,
        };
        let progress = Arc::new(Mutex::new(progress));
        let mut listings = self.listings.lock();
        if listings.len().is_power_of_two() {
            listings.retain(|listing| listing.strong_count() > 0);
        }
        listings.push(Arc::downgrade(&progress));
        drop(listings);
        Ok(Listing { directory: self.arc()?, progress })
    }

    /// Has every open listing read what is left to it, in plain names: the sealed ones are about to change. The caller
    /// holds [`Self::names`] alone. False: one of them is in use, and whoever uses it may wait for the caller.
    pub(super) fn read_listings_out(&self) -> Result<bool> {
        let listings: Vec<_> = self.listings.lock().iter().filter_map(Weak::upgrade).collect();
        let Some(ivs) = self.unchecked_iv()? else { return Ok(true) };
        for listing in listings {
            let Some(mut progress) = listing.try_lock() else { return Ok(false) };
            // One that has not begun, or is at its end, reads nothing of what is now.
            if progress.cookie != 0 || !progress.batch.is_empty() {
                progress.read_out(self, &ivs)?;
            }
        }
        Ok(true)
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
            EntryForm::Unknown => return Ok(Opened::Bad(NO_NAME.into())),
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
        if cookie != progress.delivered || cookie == 0 {
            progress.batch.clear();
            progress.cookie = cookie;
            progress.delivered = cookie;
            progress.ended = false;
        }
        let Some(mut ivs) = self.directory.unchecked_iv()? else { return Ok(()) };
        loop {
            if progress.batch.is_empty() {
                if progress.ended {
                    return progress.end(&self.directory);
                }
                let _names = self.directory.names.read();
                if let Some(current) = self.directory.unchecked_iv()? {
                    ivs = current;
                }
                if ivs.older.is_some() {
                    // While names are being changed, all at once.
                    progress.read_out(&self.directory, &ivs)?;
                } else {
                    progress.fetch(&self.directory, BATCH)?;
                }
                continue;
            }
            let Progress { batch, handle, .. } = &mut *progress;
            let Some(found) = batch.front_mut() else { continue };
            let opened = match found.opened.take() {
                Some(opened) => opened,
                None => self.directory.open_found(&ivs, &found.entry, handle)?,
            };
            let next_cookie = found.next_cookie;
            let is_given = matches!(opened, Opened::Name(_));
            match opened {
                Opened::Name(name) => {
                    if !sink(ListEntry {
                        name: &name,
                        entry: &found.entry,
                        ino: found.ino,
                        kind: found.kind,
                        next_cookie,
                    }) {
                        found.opened = Some(Opened::Name(name));
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
            if is_given {
                progress.delivered = next_cookie;
            }
        }
    }
}

impl<S: Storage> Progress<S> {
    /// Reads all that is left, and opens it.
    fn read_out(&mut self, directory: &Directory<S>, ivs: &Ivs) -> Result<()> {
        if !self.ended {
            let last = self.batch.back().map_or(self.cookie, |found| found.next_cookie);
            let before = std::mem::replace(&mut self.cookie, last);
            let fetched = self.fetch(directory, usize::MAX);
            self.cookie = before;
            fetched?;
        }
        for found in &mut self.batch {
            if found.opened.is_none() {
                found.opened = Some(directory.open_found(ivs, &found.entry, &self.handle)?);
            }
        }
        Ok(())
    }

    fn fetch(&mut self, directory: &Directory<S>, most: usize) -> Result<()> {
        let most = self.batch.len().saturating_add(most);
        let Self { handle, batch, cookie, ended, .. } = self;
        let mut full = false;
        directory
            .core
            .storage
            .read_dir(handle, *cookie, &mut |entry| {
                if batch.len() >= most {
                    full = true;
                    return false;
                }
                batch.push_back(Found {
                    entry: entry.name.to_owned(),
                    ino: entry.ino,
                    kind: entry.kind,
                    next_cookie: entry.next_cookie,
                    opened: None,
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

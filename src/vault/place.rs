//! Where a vault's configuration lies, and how it is read and replaced.
//!
//! It is `sero.json` in the vault's directory, or a file of any name elsewhere, so that keys and ciphertext are kept
//! apart. Beside it lie the version before the last change (`.bak`) and, for a moment, the one that is being written
//! (`.tmp`).
//!
//! What an older version can do: it holds the keyslots of its time, and whoever could open one of these still opens the
//! keys of that time with it. So a change that takes a way in away leaves no older version here. Copies elsewhere
//! (snapshots, backups, what an attacker took) are out of reach: renewing the root key and `sero rotate` end what they
//! open.

use std::ffi::{OsStr, OsString};
use std::io;
use std::thread;
use std::time::Duration;

use super::directory::{PRIVATE, TREE};
use super::error::{Result, VaultError};
use super::lost::ignoring;
use crate::crypto::VaultKeys;
use crate::format::configuration::{self, Configuration, ConfigurationError, KeyVersion};
use crate::storage::{Access, FileKind, RenameMode, Stat, Storage, Target, read_into, write_from};

/// Behind the configuration's name: the version before the last change.
pub const BACKUP_SUFFIX: &str = ".bak";
/// Behind a name: while it is being written.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// Somebody else's change takes milliseconds.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Where a vault's configuration lies.
pub struct ConfigurationPlace<'a, S: Storage> {
    storage: &'a S,
    entry: &'a OsStr,
}

/// What becomes of the version before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It is kept as the backup.
    Kept,
    /// The backup, too, is of the new version: the old one has a way in that was taken away, or lacks a key that the
    /// vault needs from here on.
    Replaced,
}

impl<'a, S: Storage> ConfigurationPlace<'a, S> {
    /// In the vault's own directory.
    pub fn inside(vault: &'a S) -> Self {
        Self { storage: vault, entry: OsStr::new(configuration::ENTRY) }
    }

    /// The file of this name in another directory.
    pub const fn detached(directory: &'a S, entry: &'a OsStr) -> Self {
        Self { storage: directory, entry }
    }

    /// Reads the public facts of a vault. They keep the rules of the format, and nobody has vouched for them yet.
    pub fn read(&self) -> Result<Configuration> {
        let root = self.root()?;
        self.read_entry(&root, self.entry)
    }

    /// The backup, if there is one that parses.
    pub fn read_backup(&self) -> Option<Configuration> {
        let root = self.root().ok()?;
        self.read_entry(&root, &self.with(BACKUP_SUFFIX)).ok()
    }

    /// Changes the configuration: at every moment the old or the new one is there, whole. `now` are the keys of the
    /// active version, which must vouch for what is there; `then` those of the version that is active afterwards.
    /// Changes of others wait meanwhile.
    pub fn change<T>(
        &self,
        now: (KeyVersion, &VaultKeys),
        then: &VaultKeys,
        before: Before,
        change: impl FnOnce(&mut Configuration) -> Result<T>,
    ) -> Result<T> {
        let root = self.root()?;
        let _locked = self.lock(&root)?;
        let old = self.read_vouched(&root, now)?;
        let mut new = old.clone();
        let result = change(&mut new)?;
        new.authenticate(then);
        let (old, new) = (old.encode()?, new.encode().map_err(VaultError::ConfigurationRefused)?);
        // A crash between the two leaves the old one in use, and says so by what it opens.
        let backup = if before == Before::Replaced { &new } else { &old };
        self.put(&root, &self.with(BACKUP_SUFFIX), backup)?;
        self.put(&root, self.entry, &new)?;
        Ok(result)
    }

    /// Puts a configuration where none is, nor anything else by its name or by that of its temporary.
    pub(super) fn put_new(&self, configuration: &Configuration) -> Result<()> {
        let root = self.root()?;
        let bytes = configuration.encode().map_err(VaultError::ConfigurationRefused)?;
        let placed = write_atomically(self.storage, &root, self.entry, &self.with(TEMPORARY_SUFFIX), &bytes, None);
        placed.map_err(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => VaultError::ConfigurationExists,
            _ => VaultError::io("write the configuration", error),
        })
    }

    /// What is there, if it is as whoever has these keys left it.
    fn read_vouched(&self, root: &S::Dir, (version, keys): (KeyVersion, &VaultKeys)) -> Result<Configuration> {
        let there = self.read_entry(root, self.entry)?;
        if there.verify(keys) {
            Ok(there)
        } else if there.active_key == version {
            Err(VaultError::ConfigurationEdited)
        } else {
            // A rotation has begun since the keys were unlocked: they cannot vouch for it any more.
            Err(VaultError::ConfigurationBusy)
        }
    }

    /// Writes a copy of what `from` has, whose rules are checked, unless something is there already.
    pub fn copy_from<T: Storage>(&self, from: &ConfigurationPlace<'_, T>) -> Result<Configuration> {
        let configuration = from.read()?;
        self.put_new(&configuration)?;
        Ok(configuration)
    }

    /// Moves the configuration to `to`, where nothing is: nothing of it stays here. `now` are the keys of the active version,
    /// which must vouch for it.
    pub fn move_to<T: Storage>(&self, to: &ConfigurationPlace<'_, T>, now: (KeyVersion, &VaultKeys)) -> Result<()> {
        let io = |e| VaultError::io("remove the configuration", e);
        let root = self.root()?;
        let _locked = self.lock(&root)?;
        to.put_new(&self.read_vouched(&root, now)?)?;
        let backup = self.with(BACKUP_SUFFIX);
        // Itself at last: until then a vault that a crash leaves here opens as before.
        for entry in [with(&backup, TEMPORARY_SUFFIX), backup, self.with(TEMPORARY_SUFFIX), self.entry.to_owned()] {
            ignoring(libc::ENOENT, self.storage.unlink(&root, &entry)).map_err(io)?;
        }
        self.storage.sync_dir(&root).map_err(io)
    }

    /// Unix time, seconds: the creation date of what is put here.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.storage.now().seconds).unwrap_or(0)
    }

    fn root(&self) -> Result<S::Dir> {
        self.storage.open_root().map_err(|e| VaultError::io("open the directory of the configuration", e))
    }

    fn with(&self, suffix: &str) -> OsString {
        with(self.entry, suffix)
    }

    fn read_entry(&self, root: &S::Dir, entry: &OsStr) -> Result<Configuration> {
        let io = |e| VaultError::io("read the configuration", e);
        // Looked at before it is opened: it might be a device, or larger than memory.
        let stat = match self.storage.stat(Target::Entry(root, entry)) {
            Ok(stat) => stat,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                return Err(VaultError::NotAVault { reason: self.why_missing(root) });
            }
            Err(error) => return Err(io(error)),
        };
        if stat.kind() != FileKind::Regular {
            return Err(VaultError::NotAVault { reason: format!("{} is not a file", entry.display()) });
        }
        let len = usize::try_from(stat.size_bytes).unwrap_or(usize::MAX);
        if len > configuration::FILE_MAX {
            return Err(ConfigurationError::TooLarge.into());
        }
        let file = self.storage.open_file(root, entry, Access::Read).map_err(io)?;
        let mut bytes = vec![0; len];
        let read = read_into(self.storage, &file, &mut bytes, 0).map_err(io)?;
        bytes.truncate(read);
        Ok(Configuration::parse(&bytes)?)
    }

    fn why_missing(&self, root: &S::Dir) -> String {
        let (shown, backup) = (self.entry.display(), self.with(BACKUP_SUFFIX));
        let has = |name: &OsStr| self.storage.stat(Target::Entry(root, name)).is_ok();
        if has(&backup) {
            format!("it has no {shown}, but {} is there and may be put in its place", backup.display())
        } else if has(PRIVATE.as_ref()) && has(TREE.as_ref()) {
            format!("it has no {shown}; if its configuration lies elsewhere, give that with --config")
        } else {
            format!("it has no {shown}")
        }
    }

    /// A lock on the file itself, which every change replaces: so it is looked again whether it is still the one.
    fn lock(&self, root: &S::Dir) -> Result<S::File> {
        let io = |e| VaultError::io("lock the configuration", e);
        for attempt in 0..LOCK_ATTEMPTS {
            if attempt > 0 {
                thread::sleep(LOCK_PAUSE);
            }
            let file = match self.storage.open_file(root, self.entry, Access::ReadWrite) {
                // Taken elsewhere while this waited.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    return Err(VaultError::NotAVault { reason: self.why_missing(root) });
                }
                opened => opened.map_err(io)?,
            };
            if !self.storage.try_lock(&file, true).map_err(io)? {
                continue;
            }
            let held = self.storage.stat(Target::File(&file)).map_err(io)?;
            match self.storage.stat(Target::Entry(root, self.entry)) {
                Ok(there) if there.ino == held.ino => return Ok(file),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(io(error)),
            }
        }
        Err(VaultError::ConfigurationBusy)
    }

    /// Puts it into the place of what is there, with the owner and the permissions of that. Under the lock: no other
    /// change writes by the same name.
    fn put(&self, root: &S::Dir, entry: &OsStr, bytes: &[u8]) -> Result<()> {
        let temporary = with(entry, TEMPORARY_SUFFIX);
        let like = self.storage.stat(Target::Entry(root, self.entry)).ok();
        let io = |e| VaultError::io("write the configuration", e);
        // Left by a crash.
        ignoring(libc::ENOENT, self.storage.unlink(root, &temporary)).map_err(io)?;
        write_atomically(self.storage, root, entry, &temporary, bytes, like.as_ref()).map_err(io)
    }
}

fn with(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

/// Whether the directory has the folders of a vault, wherever its configuration is.
pub fn has_folders<S: Storage>(storage: &S) -> bool {
    let is_folder = |root: &S::Dir, name: &str| {
        storage.stat(Target::Entry(root, name.as_ref())).is_ok_and(|stat| stat.kind() == FileKind::Directory)
    };
    storage.open_root().is_ok_and(|root| is_folder(&root, PRIVATE) && is_folder(&root, TREE))
}

/// Writes a file beside its place, makes it durable, and puts it there: with the owner and the permissions of `like`, over
/// what is there; without, where nothing is.
fn write_atomically<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    entry: &OsStr,
    temporary: &OsStr,
    bytes: &[u8],
    like: Option<&Stat>,
) -> io::Result<()> {
    let file = storage.create_file(dir, temporary, 0o600)?;
    let dress = || {
        let Some(like) = like else { return Ok(()) };
        // Root may be at work on a user's vault; nobody else may give a file away, but perhaps to another group.
        let _ = storage.set_owner(Target::File(&file), None, Some(like.gid));
        let _ = storage.set_owner(Target::File(&file), Some(like.uid), None);
        let has_group = storage.stat(Target::File(&file))?.gid == like.gid;
        storage.set_mode(Target::File(&file), like.mode & if has_group { 0o777 } else { 0o707 })
    };
    let mode = if like.is_some() { RenameMode::Replace } else { RenameMode::NoReplace };
    let placed = write_from(storage, &file, bytes, 0)
        .and_then(|()| dress())
        .and_then(|()| storage.sync_file(&file))
        .and_then(|()| storage.rename(dir, temporary, dir, entry, mode));
    if let Err(error) = placed {
        let _ = storage.unlink(dir, temporary);
        return Err(error);
    }
    storage.sync_dir(dir)
}

#[cfg(test)]
mod tests;

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
use crate::crypto::VaultKeys;
use crate::format::configuration::{self, Configuration, ConfigurationError};
use crate::storage::{Access, FileKind, RenameMode, Storage, Target, read_into, write_from};

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
    /// The backup, too, is of the new version: the old one has a way in that was taken away.
    Forgotten,
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
        now: &VaultKeys,
        then: &VaultKeys,
        before: Before,
        change: impl FnOnce(&mut Configuration) -> Result<T>,
    ) -> Result<T> {
        let root = self.root()?;
        let _locked = self.lock(&root)?;
        let old = self.read_entry(&root, self.entry)?;
        if !old.verify(now) {
            return Err(VaultError::ConfigurationEdited);
        }
        let mut new = old.clone();
        let result = change(&mut new)?;
        new.authenticate(then);
        let (old, new) = (old.encode()?, new.encode()?);
        // A crash between the two leaves the old one in use, and says so by what it opens.
        let backup = if before == Before::Forgotten { &new } else { &old };
        self.put(&root, &self.with(BACKUP_SUFFIX), backup)?;
        self.put(&root, self.entry, &new)?;
        Ok(result)
    }

    /// Puts the first configuration of a vault into its place.
    pub(super) fn write_first(&self, configuration: &Configuration) -> Result<()> {
        self.put(&self.root()?, self.entry, &configuration.encode()?)
    }

    /// Writes a copy of what `from` has, whose rules are checked, unless something is there already.
    pub fn copy_from<T: Storage>(&self, from: &ConfigurationPlace<'_, T>) -> Result<Configuration> {
        let configuration = from.read()?;
        let root = self.root()?;
        if self.storage.stat(Target::Entry(&root, self.entry)).is_ok() {
            return Err(VaultError::ConfigurationExists);
        }
        self.put(&root, self.entry, &configuration.encode()?)?;
        Ok(configuration)
    }

    /// Removes the configuration and its backup: only after it was copied to another place.
    pub fn remove(&self) -> Result<()> {
        let io = |e| VaultError::io("remove the configuration", e);
        let root = self.root()?;
        let _locked = self.lock(&root)?;
        for entry in [self.entry.to_owned(), self.with(BACKUP_SUFFIX)] {
            match self.storage.unlink(&root, &entry) {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(io(error)),
                _ => {}
            }
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
        let mut name = self.entry.to_owned();
        name.push(suffix);
        name
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
            let file = self.storage.open_file(root, self.entry, Access::ReadWrite).map_err(io)?;
            if !self.storage.try_lock(&file, true).map_err(io)? {
                continue;
            }
            let held = self.storage.stat(Target::File(&file)).map_err(io)?;
            match self.storage.stat(Target::Entry(root, self.entry)) {
                Ok(there) if there.ino == held.ino => return Ok(file),
                Ok(_) => {}
                Err(error) => return Err(io(error)),
            }
        }
        Err(VaultError::ConfigurationBusy)
    }

    fn put(&self, root: &S::Dir, entry: &OsStr, bytes: &[u8]) -> Result<()> {
        let mut temporary = entry.to_owned();
        temporary.push(TEMPORARY_SUFFIX);
        write_atomically(self.storage, root, entry, &temporary, bytes)
            .map_err(|e| VaultError::io("write the configuration", e))
    }
}

/// Whether the directory has the folders of a vault, wherever its configuration is.
pub fn has_folders<S: Storage>(storage: &S) -> bool {
    let is_folder = |root: &S::Dir, name: &str| {
        storage.stat(Target::Entry(root, name.as_ref())).is_ok_and(|stat| stat.kind() == FileKind::Directory)
    };
    storage.open_root().is_ok_and(|root| is_folder(&root, PRIVATE) && is_folder(&root, TREE))
}

/// Writes a file beside its place, makes it durable, and puts it there.
fn write_atomically<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    entry: &OsStr,
    temporary: &OsStr,
    bytes: &[u8],
) -> io::Result<()> {
    let create = || storage.create_file(dir, temporary, 0o600);
    let file = create().or_else(|error| {
        if error.raw_os_error() != Some(libc::EEXIST) {
            return Err(error);
        }
        // Left by a crash.
        storage.unlink(dir, temporary)?;
        create()
    })?;
    let placed = write_from(storage, &file, bytes, 0)
        .and_then(|()| storage.sync_file(&file))
        .and_then(|()| storage.rename(dir, temporary, dir, entry, RenameMode::Replace));
    if let Err(error) = placed {
        let _ = storage.unlink(dir, temporary);
        return Err(error);
    }
    storage.sync_dir(dir)
}

#[cfg(test)]
mod tests;

//! A vault on the way from a path to an open one, with errors that name it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::{Context, paths};
use crate::fuse::mountinfo::{self, Mount};
use crate::vault::{
    self, Configuration, ConfigurationPlace, Holder, LiveKeys, Mode, PosixStorage, RootKeys, Secrets, UnlockedKeys,
    Vault, VaultError,
};

/// How often is looked whether somebody has let go of a vault.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// A vault's directory, whatever is known of its configuration.
pub(super) struct Backing {
    path: PathBuf,
    storage: PosixStorage,
}

impl Backing {
    /// Finds the directory: this one, or the one of the vault that is mounted here. It may be no vault.
    pub(super) fn find(path: &Path) -> Result<Self> {
        let found = paths::vault(path).and_then(Self::at);
        if found.as_ref().is_ok_and(Self::is_vault) {
            return found;
        }
        match mounted_at(path) {
            Some(mount) => paths::vault(Path::new(&mount.source)).and_then(Self::at),
            None => found,
        }
    }

    fn at(path: PathBuf) -> Result<Self> {
        let storage = open_storage(&path)?;
        Ok(Self { path, storage })
    }

    /// Canonical.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has the folders of a vault.
    pub(super) fn is_vault(&self) -> bool {
        vault::has_folders(&self.storage)
    }

    /// Where it is mounted, as far as this process can see; the uppermost mount last.
    pub(super) fn mounts(&self) -> Vec<Mount> {
        let mut mounts = mountinfo::read().unwrap_or_default();
        mounts.retain(|mount| is_mount_of(mount, &self.path));
        mounts
    }

    /// Refuses a canonical path that lies in the vault, for what is to be written elsewhere.
    pub(super) fn check_outside(&self, path: &Path, shown: impl std::fmt::Display) -> Result<()> {
        if path.starts_with(&self.path) {
            return Err(Failure::new(ExitCode::Usage, format!("{shown} lies in the vault; choose another place")));
        }
        Ok(())
    }

    /// Who has it mounted for reading and writing.
    pub(super) fn holder(&self) -> Result<Option<Holder>> {
        vault::holder(&self.storage).map_err(|error| self.about(error))
    }

    /// Whether anyone has it mounted, for reading only or not.
    pub(super) fn is_in_use(&self) -> Result<bool> {
        vault::is_in_use(&self.storage).map_err(|error| self.about(error))
    }

    /// Whether it is at rest: all of it in place, no journal.
    pub(super) fn is_sealed(&self) -> Result<bool> {
        vault::is_sealed(&self.storage).map_err(|error| self.about(error))
    }

    /// Whether anyone has it, and whether it is at rest. Neither: the last session did not seal it.
    pub(super) fn rest(&self) -> Result<(bool, bool)> {
        let look = || Ok((self.is_in_use()?, self.is_sealed()?));
        match look()? {
            // A session may have begun in between.
            (false, false) => look(),
            found => Ok(found),
        }
    }

    /// Whether a session that has it is ending: its process is one of this machine, and has it mounted nowhere (any more).
    pub(super) fn is_ending(&self, holder: &Holder) -> bool {
        let is_mounted = |mounts: io::Result<Vec<Mount>>| {
            let has_it = |mount: &Mount| mount.is_vault() && mount.source == *self.path.as_os_str();
            mounts.is_ok_and(|mounts| mounts.iter().any(has_it))
        };
        let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // Its mounts may stand where we see none of them. One that cannot be looked at has just ended.
        self.mounts().is_empty()
            && holder.host.as_ref() == Some(&here)
            && holder.pid.is_some_and(|pid| !is_mounted(mountinfo::read_of_process(pid)))
    }

    /// How much was put aside in it.
    pub(super) fn put_aside(&self) -> Result<usize> {
        vault::count_put_aside(&self.storage).map_err(|error| self.about(error))
    }

    /// Fails if somebody else's mount is in the way: a writer's always, readers' if this is to be a writer.
    /// Opening will take the lock itself.
    pub(super) fn check_free(&self, mode: Mode) -> Result<()> {
        let started = Instant::now();
        let holder = loop {
            let is_free = match mode {
                Mode::ReadWrite => !self.is_in_use()?,
                Mode::ReadOnly => self.holder()?.is_none(),
            };
            if is_free {
                return Ok(());
            }
            match self.holder()? {
                // Readers, who may be about to end.
                None if started.elapsed() < vault::READERS_PATIENCE => thread::sleep(POLL),
                holder => break holder.unwrap_or_default(),
            }
        };
        let Some(mount) = self.mounts().pop() else { return Err(self.about(VaultError::AlreadyMounted { holder })) };
        let place = mount.mountpoint.display();
        let message =
            format!("the vault is already mounted on {place} {holder}; use it there, or `sero seal {place}` first");
        Err(Failure::new(ExitCode::AlreadyMounted, message).about(self.path.display()))
    }

    /// Does something while nobody else opens it.
    pub(super) fn alone<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        vault::alone(&self.storage, work).map_err(|error| self.about(error))
    }

    pub(super) fn about(&self, error: VaultError) -> Failure {
        Failure::from(error).about(self.path.display())
    }
}

/// A configuration that lies apart from the vault.
pub(super) struct Detached {
    directory: PosixStorage,
    entry: OsString,
    path: PathBuf,
}

impl Detached {
    /// The file at this path, which need not exist yet.
    pub(super) fn at(path: &Path) -> Result<Self> {
        // A link is followed, so that what it leads to is replaced and not the link.
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(_) => paths::canonical_parent(path).ok_or_else(|| no_place(path))?,
        };
        let (Some(parent), Some(entry)) = (path.parent(), path.file_name()) else { return Err(no_place(&path)) };
        Ok(Self { directory: open_storage(parent)?, entry: entry.to_owned(), path: path.clone() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn place(&self) -> ConfigurationPlace<'_, PosixStorage> {
        ConfigurationPlace::detached(&self.directory, OsStr::new(&self.entry))
    }
}

/// A vault's directory with a configuration that was read: public facts, not authenticated.
pub(super) struct Opening {
    backing: Backing,
    detached: Option<Detached>,
    configuration: Configuration,
}

impl Opening {
    /// Finds the vault and reads its configuration. Needs no passphrase and changes nothing.
    pub(super) fn find(path: &Path, context: &Context) -> Result<Self> {
        Self::with_configuration(path, context.config.as_deref())
    }

    /// As [`find`](Self::find), with the configuration at this path if one is given.
    pub(super) fn with_configuration(path: &Path, config: Option<&Path>) -> Result<Self> {
        let backing = Backing::find(path)?;
        let detached = config.map(Detached::at).transpose()?;
        let (read, about) = match &detached {
            Some(detached) => (detached.place().read(), detached.path()),
            None => (ConfigurationPlace::inside(&backing.storage).read(), backing.path()),
        };
        let configuration = read.map_err(|error| Failure::from(error).about(about.display()))?;
        Ok(Self { backing, detached, configuration })
    }

    /// Public facts, not authenticated.
    pub(super) fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Where the configuration lies, if that is apart from the vault.
    pub(super) fn detached(&self) -> Option<&Path> {
        self.detached.as_ref().map(Detached::path)
    }

    /// Where the configuration lies.
    pub(super) fn place(&self) -> ConfigurationPlace<'_, PosixStorage> {
        match &self.detached {
            Some(detached) => detached.place(),
            None => ConfigurationPlace::inside(&self.backing.storage),
        }
    }

    /// Takes as long as the keyslots say. Commands call `UnlockArguments::unlock`, which obtains the secrets first.
    pub(super) fn unlock(&self, secrets: &Secrets<'_>) -> Result<RootKeys, VaultError> {
        vault::unlock_root(&self.place(), secrets)
    }

    /// The keys again that [`UnlockedKeys::expose`] gave.
    pub(super) fn unlock_exposed(&self, exposed: &[u8]) -> Result<UnlockedKeys> {
        UnlockedKeys::from_exposed_at(&self.place(), exposed).map_err(|error| self.about(error))
    }

    /// Whether the keys are those that the vault is sealed under by now.
    pub(super) fn check_newest(&self, keys: &UnlockedKeys) -> Result<()> {
        match keys.opens_top(&self.backing.storage) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.about(VaultError::ForeignConfiguration)),
            Err(error) => Err(self.about(error)),
        }
    }

    /// Takes the lock, and repairs what the last session left unfinished.
    pub(super) fn open(self, keys: UnlockedKeys, mode: Mode) -> Result<Arc<Vault<PosixStorage>>> {
        if self.detached.is_some() {
            keys.check_belong_to(&self.backing.storage).map_err(|error| self.about(error))?;
        }
        let changes = self.changes_since(&keys);
        let keys = self.live(keys);
        let Backing { path, storage } = self.backing;
        let opened = Vault::open(storage, keys, mode);
        let opened = opened.map_err(|error| match error {
            VaultError::AlreadyMounted { .. } => error,
            _ if changes() => VaultError::ConfigurationBusy,
            error => error,
        });
        opened.map_err(|error| Failure::from(error).about(path.display()))
    }

    /// Whether, once the vault is opened and nobody else can, the keys are others than when they were unlocked: a rotation may
    /// have ended in between.
    fn changes_since(&self, keys: &UnlockedKeys) -> impl Fn() -> bool + use<> {
        let versions = |configuration: &Configuration| {
            let keys = configuration.project_keys.iter().map(|key| key.version).collect::<Vec<_>>();
            (configuration.active_key, keys)
        };
        let before = versions(keys.configuration());
        let (path, detached) = (self.path().to_owned(), self.detached().map(Path::to_owned));
        move || {
            let now = Self::with_configuration(&path, detached.as_deref());
            now.is_ok_and(|now| versions(now.configuration()) != before)
        }
    }

    /// A key that was rotated away and kept opens old copies, which are named as such: with a configuration that lies apart.
    /// In the vault's own it opens nothing, whoever put something into the vault that is sealed under it.
    pub(super) fn live(&self, keys: UnlockedKeys) -> LiveKeys {
        if self.detached.is_none() {
            return keys.into();
        }
        let (live, kept) = keys.into_live_for(&self.backing.storage);
        if let Some(version) = kept {
            log::warn!(
                "{}: a copy from before a rotation, opened with the key that was kept (version {})",
                self.backing.path.display(),
                version.0
            );
        }
        live
    }

    /// Whether what [`live`](Self::live) gives opens the top of the vault. Where that cannot be read, it does not.
    pub(super) fn opens_top(&self, keys: &UnlockedKeys) -> bool {
        let storage = &self.backing.storage;
        match self.detached {
            Some(_) => keys.check_belong_to(storage).is_ok(),
            None => keys.opens_top(storage).unwrap_or(false),
        }
    }

    /// For looking at a vault that may be damaged.
    pub(super) fn open_tolerant(self, keys: UnlockedKeys) -> Result<Arc<Vault<PosixStorage>>> {
        let changes = self.changes_since(&keys);
        let keys = self.live(keys);
        let Backing { path, storage } = self.backing;
        let opened = Vault::open_tolerant(storage, keys);
        let opened = match opened {
            Err(error @ VaultError::AlreadyMounted { .. }) => Err(error),
            // It would look damaged.
            _ if changes() => Err(VaultError::ConfigurationBusy),
            opened => opened,
        };
        opened.map_err(|error| Failure::from(error).about(path.display()))
    }
}

impl Deref for Opening {
    type Target = Backing;

    fn deref(&self) -> &Backing {
        &self.backing
    }
}

/// Whether this is where the vault in that directory is mounted. Every user can mount something and call it so: believed are
/// root, this user, and whose the directory is.
pub(super) fn is_mount_of(mount: &Mount, vault: &Path) -> bool {
    let is_believed = |user: u32| {
        user == 0
            || user == rustix::process::geteuid().as_raw()
            || fs::symlink_metadata(vault).is_ok_and(|metadata| metadata.uid() == user)
    };
    mount.is_vault() && mount.source == *vault.as_os_str() && mount.user_id().is_none_or(is_believed)
}

/// The uppermost mount of a vault at this place, whether anybody answers there or not.
fn mounted_at(path: &Path) -> Option<Mount> {
    let mounts = mountinfo::read().ok()?;
    let at = |place: PathBuf| mountinfo::at(&mounts, &place).filter(Mount::is_vault);
    paths::canonical_parent(path).and_then(at).or_else(|| fs::canonicalize(path).ok().and_then(at))
}

fn open_storage(path: &Path) -> Result<PosixStorage> {
    PosixStorage::open(path)
        .map_err(|error| Failure::from(VaultError::io("open the directory", error)).about(path.display()))
}

fn no_place(path: &Path) -> Failure {
    Failure::new(ExitCode::BackingIo, format!("{}: there is no such directory; make it first", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::rotate::{RotationControl, configuration};
    use crate::vault::{CreateOptions, KdfParams, Passphrase, create};

    #[test]
    fn a_rotation_between_unlocking_and_opening_is_no_damage() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("vault");
        let passphrase = Passphrase::new(b"correct horse".to_vec());
        let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        create(&path, &CreateOptions { kdf, label: "test".into(), hint: None }, &passphrase).unwrap();
        let secrets = Secrets { passphrase: Some(&passphrase), ..Secrets::default() };
        let find = || Opening::with_configuration(&path, None).unwrap();
        let unlocked = || (find(), UnlockedKeys::from(find().unlock(&secrets).unwrap()));
        let (verified, read) = (unlocked(), unlocked());

        let rotated = find();
        let root = rotated.unlock(&secrets).unwrap();
        let keys = configuration::start(&rotated.place(), &root, false).unwrap();
        let vault = rotated.open(keys, Mode::ReadWrite).unwrap();
        vault.rotate(&RotationControl::new(), |active| configuration::finish(&find().place(), active)).unwrap();
        vault.seal().unwrap();
        drop(vault);

        let refused = [verified.0.open_tolerant(verified.1), read.0.open(read.1, Mode::ReadOnly)];
        for refused in refused {
            let message = refused.map(drop).unwrap_err().message;
            assert!(message.contains("try again"), "{message}");
        }
        let (found, keys) = unlocked();
        found.open_tolerant(keys).unwrap();
    }
}

//! A vault on the way from a path to an open one, with errors that name it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::failure::{Failure, Result};
use super::paths;
use crate::vault::{self, Configuration, Holder, Mode, Passphrase, PosixStorage, UnlockedKeys, Vault, VaultError};

/// A directory with a vault's configuration in it.
pub(super) struct Opening {
    path: PathBuf,
    storage: PosixStorage,
    configuration: Configuration,
}

impl Opening {
    /// Finds the vault and reads its configuration. Needs no passphrase and changes nothing.
    pub(super) fn find(path: &Path) -> Result<Self> {
        let path = paths::vault(path)?;
        let (storage, configuration) = PosixStorage::open(&path)
            .map_err(|error| VaultError::io("open the vault's directory", error))
            .and_then(|storage| vault::read_configuration(&storage).map(|configuration| (storage, configuration)))
            .map_err(|error| Failure::from(error).about(path.display()))?;
        Ok(Self { path, storage, configuration })
    }

    /// Canonical.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Public facts, not authenticated.
    pub(super) fn configuration(&self) -> &Configuration {
        &self.configuration
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

    /// Fails if somebody else's mount is in the way: a writer's always, readers' if this is to be a writer.
    /// Opening will take the lock itself.
    pub(super) fn check_free(&self, mode: Mode) -> Result<()> {
        let is_free = match mode {
            Mode::ReadWrite => !self.is_in_use()?,
            Mode::ReadOnly => self.holder()?.is_none(),
        };
        if is_free {
            return Ok(());
        }
        let holder = self.holder()?.unwrap_or_default();
        Err(self.about(VaultError::AlreadyMounted { holder }))
    }

    /// Takes as long as the keyslots say.
    pub(super) fn unlock(&self, passphrase: &Passphrase) -> Result<UnlockedKeys> {
        vault::unlock(&self.storage, passphrase).map_err(|error| self.about(error))
    }

    /// The keys again that [`UnlockedKeys::expose`] gave.
    pub(super) fn unlock_exposed(&self, exposed: &[u8]) -> Result<UnlockedKeys> {
        UnlockedKeys::from_exposed(&self.storage, exposed).map_err(|error| self.about(error))
    }

    /// Takes the lock, and repairs what the last session left unfinished.
    pub(super) fn open(self, keys: UnlockedKeys, mode: Mode) -> Result<Arc<Vault<PosixStorage>>> {
        let path = self.path;
        Vault::open(self.storage, keys, mode).map_err(|error| Failure::from(error).about(path.display()))
    }

    fn about(&self, error: VaultError) -> Failure {
        Failure::from(error).about(self.path.display())
    }
}

//! From `sero.json` and a passphrase to the vault's keys; and how `sero.json` is replaced.

use std::ffi::OsStr;
use std::io;

use zeroize::Zeroizing;

use super::error::{Result, VaultError};
use crate::crypto::aead::{AeadKey, KEY_LEN};
use crate::crypto::kdf::{KdfError, derive_kek};
use crate::crypto::{Passphrase, ProjectKey, VaultKeys};
use crate::format::configuration::{self, Configuration, ConfigurationError, KeyVersion, Keyslot, KeyslotKind};
use crate::storage::{Access, FileKind, RenameMode, Storage, Target, read_into, write_from};

/// The configuration before the last change.
pub const BACKUP_ENTRY: &str = "sero.json.bak";
/// The configuration while it is being written.
pub(super) const TEMPORARY_ENTRY: &str = "sero.json.tmp";
const BACKUP_TEMPORARY_ENTRY: &str = "sero.json.bak.tmp";

const EXPOSED_LEN: usize = 4 + KEY_LEN;

/// The keys of a vault whose configuration was verified.
pub struct UnlockedKeys {
    configuration: Configuration,
    keys: VaultKeys,
    versions: Vec<(KeyVersion, ProjectKey)>,
}

impl UnlockedKeys {
    /// Verified.
    pub const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The keys of the active version.
    pub const fn keys(&self) -> &VaultKeys {
        &self.keys
    }

    /// What [`from_exposed`](Self::from_exposed) takes: every version of the project key, in the open. For handing them
    /// to a process of the same user, through a pipe.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<Vec<u8>> {
        let mut exposed = Zeroizing::new(Vec::with_capacity(self.versions.len().saturating_mul(EXPOSED_LEN)));
        for (version, key) in &self.versions {
            exposed.extend(version.0.to_le_bytes());
            exposed.extend(key.expose());
        }
        exposed
    }

    /// The keys that another process unlocked, and the configuration, read and verified again.
    pub fn from_exposed<S: Storage>(storage: &S, exposed: &[u8]) -> Result<Self> {
        let configuration = read_configuration(storage)?;
        let mut versions = Vec::new();
        for record in exposed.chunks(EXPOSED_LEN) {
            let (version, key) =
                record.split_first_chunk::<4>().ok_or(VaultError::Internal("exposed keys were cut short"))?;
            let key: &[u8; KEY_LEN] =
                key.try_into().map_err(|_| VaultError::Internal("exposed keys were cut short"))?;
            let mut key = Zeroizing::new(*key);
            versions.push((KeyVersion(u32::from_le_bytes(*version)), ProjectKey::from_bytes(&mut key)));
        }
        Self::verified(configuration, versions)
    }

    fn verified(configuration: Configuration, versions: Vec<(KeyVersion, ProjectKey)>) -> Result<Self> {
        let (_, active) = versions
            .iter()
            .find(|(version, _)| *version == configuration.active_key)
            .ok_or(VaultError::ConfigurationEdited)?;
        let keys = VaultKeys::derive(active, &configuration.vault_id.0);
        if !configuration.verify(&keys) {
            return Err(VaultError::ConfigurationEdited);
        }
        Ok(Self { configuration, keys, versions })
    }
}

impl From<UnlockedKeys> for VaultKeys {
    fn from(unlocked: UnlockedKeys) -> Self {
        unlocked.keys
    }
}

/// Unlocks the vault. Takes as long as Argon2id does for each keyslot that is tried.
pub fn unlock<S: Storage>(storage: &S, passphrase: &Passphrase) -> Result<UnlockedKeys> {
    let configuration = read_configuration(storage)?;
    let root_key = open_root_key(&configuration, passphrase)?;
    let versions = open_project_keys(&configuration, &root_key)?;
    UnlockedKeys::verified(configuration, versions)
}

fn open_root_key(configuration: &Configuration, passphrase: &Passphrase) -> Result<AeadKey> {
    let mut refused: Option<KdfError> = None;
    let mut tried = false;
    for slot in &configuration.keyslots {
        match open_keyslot(configuration, slot, passphrase) {
            Ok(Some(root_key)) => return Ok(root_key),
            Ok(None) => tried = true,
            // Another slot may cost less.
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(refused) if !tried => Err(VaultError::KdfRefused(refused)),
        _ => Err(VaultError::WrongPassphrase { hint: configuration.hint.clone() }),
    }
}

/// None: the passphrase is not this slot's, or the slot was changed.
fn open_keyslot(
    configuration: &Configuration,
    slot: &Keyslot,
    passphrase: &Passphrase,
) -> Result<Option<AeadKey>, KdfError> {
    match slot.kind {
        KeyslotKind::Passphrase => {
            let kek = derive_kek(passphrase, &slot.kdf.salt.0, &slot.kdf.params())?;
            let root_key = kek.unwrap(&configuration.keyslot_aad(slot.id, slot.kind), &slot.wrapped.0).ok();
            Ok(root_key.map(|root_key| AeadKey::new(&root_key)))
        }
    }
}

fn open_project_keys(configuration: &Configuration, root_key: &AeadKey) -> Result<Vec<(KeyVersion, ProjectKey)>> {
    let open = |key: &configuration::WrappedProjectKey| {
        let opened = root_key
            .open_message(&configuration.project_key_aad(key.version), &key.wrapped.0)
            .map_err(|_| VaultError::ConfigurationEdited)?;
        let opened: &[u8; KEY_LEN] = opened.as_slice().try_into().map_err(|_| VaultError::ConfigurationEdited)?;
        Ok((key.version, ProjectKey::from_bytes(&mut Zeroizing::new(*opened))))
    };
    configuration.project_keys.iter().map(open).collect()
}

/// Reads the public facts of a vault. They keep the rules of the format, and nobody has vouched for them yet.
pub fn read_configuration<S: Storage>(storage: &S) -> Result<Configuration> {
    let io = |e| VaultError::io("read sero.json", e);
    let root = storage.open_root().map_err(|e| VaultError::io("open the vault's directory", e))?;
    let entry = OsStr::new(configuration::ENTRY);
    // Looked at before it is opened: it might be a device, or larger than memory.
    let stat = match storage.stat(Target::Entry(&root, entry)) {
        Ok(stat) => stat,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            let backup = storage.stat(Target::Entry(&root, BACKUP_ENTRY.as_ref())).is_ok();
            let reason = if backup {
                format!("it has no {}, but {BACKUP_ENTRY} is there and may be put in its place", configuration::ENTRY)
            } else {
                format!("it has no {}", configuration::ENTRY)
            };
            return Err(VaultError::NotAVault { reason });
        }
        Err(error) => return Err(io(error)),
    };
    if stat.kind() != FileKind::Regular {
        return Err(VaultError::NotAVault { reason: format!("{} is not a file", configuration::ENTRY) });
    }
    let len = usize::try_from(stat.size_bytes).unwrap_or(usize::MAX);
    if len > configuration::FILE_MAX {
        return Err(ConfigurationError::TooLarge.into());
    }
    let file = storage.open_file(&root, entry, Access::Read).map_err(io)?;
    let mut bytes = vec![0; len];
    let read = read_into(storage, &file, &mut bytes, 0).map_err(io)?;
    bytes.truncate(read);
    Ok(Configuration::parse(&bytes)?)
}

/// Replaces the configuration, which must be authenticated. At every moment one of the two is there, whole; the one
/// before is kept as [`BACKUP_ENTRY`].
///
/// What a kept one can do: it holds the keyslots of its time. Whoever could open one of these still opens the project
/// keys of that time with it; removing a keyslot is complete only when the backup is replaced, too.
pub fn replace_configuration<S: Storage>(storage: &S, new: &Configuration) -> Result<()> {
    let bytes = new.encode()?;
    let io = |e| VaultError::io("replace sero.json", e);
    let root = storage.open_root().map_err(io)?;
    let before = read_configuration(storage)?.encode()?;
    write_atomically(storage, &root, BACKUP_ENTRY, BACKUP_TEMPORARY_ENTRY, &before).map_err(io)?;
    write_atomically(storage, &root, configuration::ENTRY, TEMPORARY_ENTRY, &bytes).map_err(io)
}

/// Writes a file beside its place, makes it durable, and puts it there.
pub(super) fn write_atomically<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    entry: &str,
    temporary: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let temporary = OsStr::new(temporary);
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
        .and_then(|()| storage.rename(dir, temporary, dir, entry.as_ref(), RenameMode::Replace));
    if let Err(error) = placed {
        let _ = storage.unlink(dir, temporary);
        return Err(error);
    }
    storage.sync_dir(dir)
}

#[cfg(test)]
mod tests;

//! Making a vault.
//!
//! `sero.json` is put in place last, and atomically: a crash before leaves what is visibly no vault, and after, a
//! whole one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::directory::{PRIVATE, TREE};
use super::error::{Result, VaultError};
use super::keyslots::{NewKeyslot, fixed};
use super::lock;
use super::place::ConfigurationPlace;
use super::unlock::{Secrets, wrap_project_key};
use crate::crypto::{KdfParams, Passphrase, ProjectKey, RawKey, VaultKeys, entropy};
use crate::format::configuration::{
    self, Base64, Cipher, Configuration, Hex, KeyVersion, NameCipher, WrappedProjectKey,
};
use crate::format::directory_iv::{self, DirectoryIv};
use crate::storage::{PosixStorage, Storage};

/// The role of a vault's first keyslots.
pub const FIRST_ROLE: &str = "owner";

/// How an ordinary vault is made: with one passphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// What opening the first keyslot costs.
    pub kdf: KdfParams,
    /// Of the first keyslot; readable without the passphrase.
    pub label: String,
    /// Readable without the passphrase, too.
    pub hint: Option<String>,
}

/// Makes a vault at `path`, which does not exist or is an empty directory.
pub fn create(path: &Path, options: &CreateOptions, passphrase: &Passphrase) -> Result<Configuration> {
    options.with_slot(passphrase, |slot| create_with(path, None, options.hint.as_deref(), &[slot]))
}

/// Makes a vault with these keyslots at `path`, which does not exist or is an empty directory. Its configuration goes
/// to `detached`, if that is given.
pub fn create_with(
    path: &Path,
    detached: Option<&ConfigurationPlace<'_, PosixStorage>>,
    hint: Option<&str>,
    slots: &[NewKeyslot<'_>],
) -> Result<Configuration> {
    let io = |e| VaultError::io("make the vault's directory", e);
    let made = match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(io(error)),
    };
    let created = PosixStorage::open(path).map_err(io).and_then(|storage| {
        let inside = ConfigurationPlace::inside(&storage);
        make(&storage, detached.unwrap_or(&inside), hint, slots)
    });
    if made {
        if created.is_err() {
            let _ = fs::remove_dir(path);
        } else {
            sync_parent(path).map_err(io)?;
        }
    }
    created
}

/// Makes a vault in the top directory of `storage`, which is empty.
pub fn create_on<S: Storage>(storage: &S, options: &CreateOptions, passphrase: &Passphrase) -> Result<Configuration> {
    let hint = options.hint.as_deref();
    options.with_slot(passphrase, |slot| make(storage, &ConfigurationPlace::inside(storage), hint, &[slot]))
}

impl CreateOptions {
    fn with_slot<T>(&self, passphrase: &Passphrase, then: impl FnOnce(NewKeyslot<'_>) -> T) -> T {
        let secrets = Secrets { passphrase: Some(passphrase), ..Secrets::default() };
        then(NewKeyslot { secrets, kdf: self.kdf, label: &self.label, role: FIRST_ROLE })
    }
}

fn make<S: Storage>(
    storage: &S,
    place: &ConfigurationPlace<'_, S>,
    hint: Option<&str>,
    slots: &[NewKeyslot<'_>],
) -> Result<Configuration> {
    let root = storage.open_root().map_err(|e| VaultError::io("open the vault's directory", e))?;
    ensure_empty(storage, &root)?;
    let (configuration, keys) = new_configuration(hint, slots, storage.now().seconds)?;
    // Who makes this folder makes the vault. What another process makes in the same directory is not to be cleared away.
    storage.make_dir(&root, PRIVATE.as_ref(), 0o700).map_err(|error| match error.raw_os_error() {
        Some(libc::EEXIST) => VaultError::TargetNotEmpty,
        _ => VaultError::io("make the vault's folders", error),
    })?;
    let outcome = lay_out(storage, &root, &keys).and_then(|()| place.put_new(&configuration));
    if let Err(error) = outcome {
        clear_away(storage, &root);
        return Err(error);
    }
    Ok(configuration)
}

fn ensure_empty<S: Storage>(storage: &S, root: &S::Dir) -> Result<()> {
    let mut names: Vec<OsString> = Vec::new();
    storage
        .read_dir(root, 0, &mut |entry| {
            names.push(entry.name.to_owned());
            true
        })
        .map_err(|e| VaultError::io("look into the vault's directory", e))?;
    if names.iter().any(|name| name == configuration::ENTRY) {
        Err(VaultError::VaultExists)
    } else if names.is_empty() {
        Ok(())
    } else {
        Err(VaultError::TargetNotEmpty)
    }
}

/// New keys, and the configuration that wraps them.
fn new_configuration(hint: Option<&str>, slots: &[NewKeyslot<'_>], now: i64) -> Result<(Configuration, VaultKeys)> {
    let random = |e| VaultError::io("get random bytes for the keys", e);
    let created = u64::try_from(now).unwrap_or(0);
    let version = KeyVersion::FIRST;
    let (project_key, root) = (ProjectKey::generate().map_err(random)?, RawKey::generate().map_err(random)?);
    let mut configuration = Configuration {
        format: configuration::FORMAT,
        vault_id: Hex(entropy::array()),
        created,
        cipher: Cipher::Aes256Gcm,
        names: NameCipher::Aes256Siv,
        project_keys: Vec::new(),
        active_key: version,
        keyslots: Vec::new(),
        hint: hint.map(ToOwned::to_owned),
        rotation: None,
        authenticator: Base64([0; crate::crypto::keys::CONFIGURATION_TAG_LEN]),
    };
    configuration.project_keys.push(WrappedProjectKey {
        version,
        key_id: Hex(entropy::array()),
        wrapped: fixed(wrap_project_key(&configuration, &root, version, &project_key))?,
    });
    for slot in slots {
        slot.kdf.validate().map_err(VaultError::KdfRefused)?;
        let slot = slot.seal(&configuration, configuration.free_keyslot_id(), created, &root)?;
        configuration.keyslots.push(slot);
    }
    // What the caller chose is checked before anything is made.
    configuration.encode().map_err(VaultError::ConfigurationRefused)?;
    let keys = VaultKeys::derive(&project_key, &configuration.vault_id.0);
    configuration.authenticate(&keys);
    Ok((configuration, keys))
}

/// Makes what is in the folders, durably.
fn lay_out<S: Storage>(storage: &S, root: &S::Dir, keys: &VaultKeys) -> Result<()> {
    let io = |e| VaultError::io("make the vault's folders", e);
    storage.make_dir(root, TREE.as_ref(), 0o700).map_err(io)?;
    let tree = storage.open_dir(root, TREE.as_ref()).map_err(io)?;
    let iv = DirectoryIv::random().encode(keys);
    storage.make_symlink(&tree, directory_iv::ENTRY.as_ref(), &iv).map_err(io)?;
    let private = storage.open_dir(root, PRIVATE.as_ref()).map_err(io)?;
    let lock = storage.create_file(&private, lock::ENTRY.as_ref(), 0o600).map_err(io)?;
    storage.sync_file(&lock).map_err(io)?;
    for dir in [&tree, &private, root] {
        storage.sync_dir(dir).map_err(io)?;
    }
    Ok(())
}

/// Removes what was made for a vault that did not come to be. The directory was empty before.
fn clear_away<S: Storage>(storage: &S, root: &S::Dir) {
    let _ = storage.unlink(root, configuration::ENTRY.as_ref());
    for (folder, entry) in [(TREE, directory_iv::ENTRY), (PRIVATE, lock::ENTRY)] {
        if let Ok(opened) = storage.open_dir(root, folder.as_ref()) {
            let _ = storage.unlink(&opened, OsStr::new(entry));
        }
        let _ = storage.remove_dir(root, folder.as_ref());
    }
}

/// Makes the entry of a new vault durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

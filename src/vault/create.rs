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
use super::lock;
use super::unlock::{TEMPORARY_ENTRY, write_atomically};
use crate::crypto::aead::AeadKey;
use crate::crypto::kdf::derive_kek;
use crate::crypto::{KdfParams, Passphrase, ProjectKey, VaultKeys, entropy};
use crate::format::configuration::{
    self, Base64, Cipher, Configuration, Hex, Kdf, KdfAlgorithm, KeyVersion, Keyslot, KeyslotId, KeyslotKind,
    NameCipher, WrappedProjectKey,
};
use crate::format::directory_iv::{self, DirectoryIv};
use crate::storage::{PosixStorage, Storage};

/// How a vault is made.
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
    let io = |e| VaultError::io("make the vault's directory", e);
    let made = match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(io(error)),
    };
    let created = PosixStorage::open(path).map_err(io).and_then(|storage| create_on(&storage, options, passphrase));
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
    let root = storage.open_root().map_err(|e| VaultError::io("open the vault's directory", e))?;
    ensure_empty(storage, &root)?;
    let (configuration, keys) = new_configuration(options, passphrase, storage.now().seconds)?;
    let bytes = configuration.encode()?;
    let outcome = lay_out(storage, &root, &keys).and_then(|()| {
        write_atomically(storage, &root, configuration::ENTRY, TEMPORARY_ENTRY, &bytes)
            .map_err(|e| VaultError::io("write sero.json", e))
    });
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
fn new_configuration(options: &CreateOptions, passphrase: &Passphrase, now: i64) -> Result<(Configuration, VaultKeys)> {
    let random = |e| VaultError::io("get random bytes for the keys", e);
    let created = u64::try_from(now).unwrap_or(0);
    let (slot, version) = (KeyslotId(1), KeyVersion(1));
    let kdf = Kdf {
        algorithm: KdfAlgorithm::Argon2id,
        memory_kib: options.kdf.memory_kib,
        passes: options.kdf.passes,
        lanes: options.kdf.lanes,
        salt: Base64(entropy::array()),
    };
    let mut configuration = Configuration {
        format: configuration::FORMAT,
        vault_id: Hex(entropy::array()),
        created,
        cipher: Cipher::Aes256Gcm,
        names: NameCipher::Aes256Siv,
        project_keys: vec![WrappedProjectKey {
            version,
            key_id: Hex(entropy::array()),
            wrapped: Base64([0; crate::crypto::kdf::WRAPPED_KEY_LEN]),
        }],
        active_key: version,
        keyslots: vec![Keyslot {
            id: slot,
            kind: KeyslotKind::Passphrase,
            label: options.label.clone(),
            role: "owner".into(),
            created,
            kdf,
            wrapped: Base64([0; crate::crypto::kdf::WRAPPED_KEY_LEN]),
        }],
        hint: options.hint.clone(),
        authenticator: Base64([0; crate::crypto::keys::CONFIGURATION_TAG_LEN]),
    };
    // What the caller chose is checked before a second is spent on the passphrase.
    configuration.encode()?;

    let project_key = ProjectKey::generate().map_err(random)?;
    // Of the same make: 32 bytes from the kernel, wiped.
    let root_key = ProjectKey::generate().map_err(random)?;
    let project_key_aad = configuration.project_key_aad(version);
    let keyslot_aad = configuration.keyslot_aad(slot, KeyslotKind::Passphrase);
    for wrapped in &mut configuration.project_keys {
        wrapped.wrapped =
            wrapped_bytes(AeadKey::new(root_key.expose()).seal_message(&project_key_aad, project_key.expose()))?;
    }
    for keyslot in &mut configuration.keyslots {
        let kek = derive_kek(passphrase, &keyslot.kdf.salt.0, &keyslot.kdf.params()).map_err(VaultError::KdfRefused)?;
        keyslot.wrapped = wrapped_bytes(kek.wrap(&keyslot_aad, root_key.expose()))?;
    }
    let keys = VaultKeys::derive(&project_key, &configuration.vault_id.0);
    configuration.authenticate(&keys);
    Ok((configuration, keys))
}

fn wrapped_bytes<const N: usize>(wrapped: Vec<u8>) -> Result<Base64<N>> {
    wrapped.try_into().map(Base64).map_err(|_| VaultError::Internal("a wrapped key has another length"))
}

/// Makes the folders, durably.
fn lay_out<S: Storage>(storage: &S, root: &S::Dir, keys: &VaultKeys) -> Result<()> {
    let io = |e| VaultError::io("make the vault's folders", e);
    storage.make_dir(root, PRIVATE.as_ref(), 0o700).map_err(io)?;
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

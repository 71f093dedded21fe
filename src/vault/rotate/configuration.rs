//! A rotation in the vault's configuration: what stands in `sero.json` before, during and after it.

use zeroize::Zeroizing;

use super::super::error::{Result, VaultError};
use super::super::keyring::VersionKeys;
use super::super::keyslots::check_root;
use super::super::place::{Before, ConfigurationPlace};
use super::super::unlock::{RootKeys, UnlockedKeys};
use crate::crypto::{ProjectKey, VaultKeys, entropy};
use crate::format::configuration::{
    Base64, Configuration, Hex, KeyVersion, PROJECT_KEYS_MAX, Rotation, WrappedProjectKey,
};
use crate::storage::Storage;

/// Makes a new version of the project key and puts it into the configuration as the active one. Nothing is under it yet.
/// Returns the keys of all versions.
///
/// # Errors
/// If the last rotation has not come to its end.
pub fn start<S: Storage>(place: &ConfigurationPlace<'_, S>, keys: &RootKeys, keep_old: bool) -> Result<UnlockedKeys> {
    let version = next_version(keys.unlocked().configuration())?;
    let key = ProjectKey::generate().map_err(|e| VaultError::io("get random bytes for the key", e))?;
    let wrapped = keys.wrap(version, &key)?;
    let wrapped = wrapped.try_into().map_err(|_| VaultError::Internal("a wrapped key has another length"))?;
    let new = WrappedProjectKey { version, key_id: Hex(entropy::array()), wrapped: Base64(wrapped) };
    let then = VaultKeys::derive(&key, &keys.unlocked().configuration().vault_id.0);
    // The version before lacks the new key, which all is sealed under from here on.
    place.change(keys.unlocked().vouching(), &then, Before::Replaced, |configuration| {
        if next_version(configuration)? != version {
            return Err(VaultError::RotationUnfinished);
        }
        // Wrapped by a root key that was renewed meanwhile, the new version would open for nobody.
        check_root(configuration, keys)?;
        begin(configuration, new, keep_old, place.now());
        Ok(())
    })?;
    let mut exposed = Zeroizing::new(Vec::with_capacity(keys.unlocked().expose().len().saturating_add(64)));
    exposed.extend_from_slice(&keys.unlocked().expose());
    exposed.extend_from_slice(&version.0.to_le_bytes());
    exposed.extend_from_slice(key.expose());
    UnlockedKeys::from_exposed_at(place, &exposed)
}

/// Takes the older version out of the configuration and of its backup. `keys` are those of the active version.
pub fn finish<S: Storage>(place: &ConfigurationPlace<'_, S>, keys: &VersionKeys) -> Result<()> {
    place.change((keys.version, keys), keys, Before::Replaced, |configuration| {
        end(configuration);
        Ok(())
    })
}

/// The version that the next rotation makes active: one that no key of the vault has had.
///
/// # Errors
/// If the last rotation has not come to its end.
pub fn next_version(configuration: &Configuration) -> Result<KeyVersion> {
    if configuration.rotation.is_some() {
        return Err(VaultError::RotationUnfinished);
    }
    if configuration.project_keys.len() >= PROJECT_KEYS_MAX {
        return Err(VaultError::NoSpace { what: "one more kept version of the project key" });
    }
    let last = configuration.project_keys.iter().map(|key| key.version.0).max().unwrap_or(0);
    last.checked_add(1).map(KeyVersion).ok_or(VaultError::Internal("there are no more key versions"))
}

/// Makes a new version the active one. The caller authenticates the configuration with its keys.
pub fn begin(configuration: &mut Configuration, new: WrappedProjectKey, keep_old: bool, now: u64) {
    let from = configuration.active_key;
    configuration.active_key = new.version;
    configuration.project_keys.push(new);
    configuration.rotation = Some(Rotation { from, keep_old, started: now });
}

/// Ends the rotation: the older version is gone from the configuration, unless it is to be kept. True if something
/// changed. The caller authenticates it.
pub fn end(configuration: &mut Configuration) -> bool {
    let Some(rotation) = configuration.rotation.take() else { return false };
    if !rotation.keep_old {
        configuration.project_keys.retain(|key| key.version != rotation.from);
    }
    true
}

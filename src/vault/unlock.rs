//! From the configuration and a secret to the vault's keys.

use zeroize::Zeroizing;

use super::directory::TREE;
use super::error::{Result, VaultError};
use super::keyring::{LiveKeys, VersionKeys};
use super::place::ConfigurationPlace;
use crate::crypto::aead::{AeadKey, KEY_LEN};
use crate::crypto::kdf::{KdfError, Kek, derive_kek};
use crate::crypto::{Passphrase, ProjectKey, RawKey, VaultKeys};
use crate::format::configuration::{Configuration, KeyVersion, Keyslot, KeyslotId, KeyslotKind, WrappedProjectKey};
use crate::format::directory_iv::{self, DirectoryIv};
use crate::storage::Storage;

const EXPOSED_LEN: usize = 4 + KEY_LEN;

/// What is given to open a vault: any of these. A keyslot is tried if everything that it takes is given.
#[derive(Clone, Copy, Default)]
pub struct Secrets<'a> {
    pub passphrase: Option<&'a Passphrase>,
    /// The hash of the keyfile's content.
    pub keyfile: Option<&'a RawKey>,
    pub recovery: Option<&'a RawKey>,
    /// What the key command printed.
    pub command: Option<&'a RawKey>,
    /// What the environment variable holds.
    pub environment: Option<&'a RawKey>,
}

impl Secrets<'_> {
    /// For a message: "passphrase and keyfile".
    pub fn names(&self) -> String {
        let given = [
            (self.passphrase.is_some(), "passphrase"),
            (self.keyfile.is_some(), "keyfile"),
            (self.recovery.is_some(), "recovery key"),
            (self.command.is_some(), "key of the command"),
            (self.environment.is_some(), "key of the environment"),
        ];
        let names: Vec<&str> = given.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect();
        names.join(" and ")
    }

    /// The slot's KEK, if what the slot takes is given.
    pub(super) fn kek(&self, slot: &Keyslot) -> Option<Result<Kek, KdfError>> {
        let (salt, kind) = (slot.kdf.salt(), slot.kind.name());
        let stretched = |passphrase| match slot.kdf.params() {
            Some(params) => derive_kek(passphrase, salt, &params),
            // The configuration's rules leave no such slot.
            None => Err(KdfError::Passes(0)),
        };
        let of_key = |key: &RawKey| Ok(Kek::of_key(key, salt, kind));
        match slot.kind {
            KeyslotKind::Passphrase => self.passphrase.map(stretched),
            KeyslotKind::PassphraseKeyfile => self
                .passphrase
                .zip(self.keyfile)
                .map(|(passphrase, keyfile)| Ok(stretched(passphrase)?.combined_with(keyfile, salt, kind))),
            KeyslotKind::Keyfile => self.keyfile.map(of_key),
            KeyslotKind::Recovery => self.recovery.map(of_key),
            KeyslotKind::Command => self.command.map(of_key),
            KeyslotKind::Environment => self.environment.map(of_key),
        }
    }
}

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

    /// The active version, and the one that a rotation has not finished with.
    pub(super) fn into_live(self) -> LiveKeys {
        let older = self.configuration.rotation.and_then(|rotation| self.version(rotation.from));
        LiveKeys::new(VersionKeys::new(self.configuration.active_key, self.keys), older)
    }

    /// What the vault in `storage` is opened with: [`into_live`](Self::into_live), or the version that was kept for such
    /// copies, and which that is, if it is a copy from before a rotation.
    pub fn into_live_for<S: Storage>(self, storage: &S) -> (LiveKeys, Option<KeyVersion>) {
        // What cannot be read is said when it is opened.
        match self.kept_version_of(storage).ok().flatten() {
            Some(kept) => {
                let version = kept.version;
                (LiveKeys::new(kept, None), Some(version))
            }
            None => (self.into_live(), None),
        }
    }

    /// Whether these are the keys of the vault in `storage`. To be asked where the configuration came from elsewhere: what
    /// opens none of it is otherwise taken for damaged.
    pub fn check_belong_to<S: Storage>(&self, storage: &S) -> Result<()> {
        if self.opens_top(storage)? || self.kept_version_of(storage)?.is_some() {
            return Ok(());
        }
        Err(VaultError::ForeignConfiguration)
    }

    /// The kept version that the top of a vault is sealed under, where none of those in use opens it.
    fn kept_version_of<S: Storage>(&self, storage: &S) -> Result<Option<VersionKeys>> {
        let Some(target) = iv_of_top(storage)? else { return Ok(None) };
        let (newest, _) = directory_iv::split(&target);
        let opens = |keys: &VersionKeys| DirectoryIv::decode(keys, newest).is_ok();
        let is_in_use = |version| self.is_in_use(version);
        let mut kept = None;
        for keys in self.versions.iter().filter_map(|(version, _)| self.version(*version)) {
            match (opens(&keys), is_in_use(keys.version)) {
                (true, true) => return Ok(None),
                (true, false) => kept = Some(keys),
                (false, _) => {}
            }
        }
        Ok(kept)
    }

    fn is_in_use(&self, version: KeyVersion) -> bool {
        let Configuration { active_key, rotation, .. } = &self.configuration;
        version == *active_key || rotation.is_some_and(|rotation| rotation.from == version)
    }

    fn version(&self, version: KeyVersion) -> Option<VersionKeys> {
        let (_, key) = self.versions.iter().find(|(known, _)| *known == version)?;
        Some(VersionKeys::new(version, VaultKeys::derive(key, &self.configuration.vault_id.0)))
    }

    /// Whether the versions in use open what the names at the top of a vault are sealed by now; so, too, if that is not
    /// there. A configuration from before a rotation that has begun with them does not, nor does another vault's.
    pub fn opens_top<S: Storage>(&self, storage: &S) -> Result<bool> {
        let in_use = self.versions.iter().filter(|(version, _)| self.is_in_use(*version));
        let keys: Vec<_> = in_use.filter_map(|(version, _)| self.version(*version)).collect();
        opens_top(storage, |record| keys.iter().any(|keys| DirectoryIv::decode(keys, record).is_ok()))
    }

    /// The active version, with its keys: what vouches for a configuration.
    pub const fn vouching(&self) -> (KeyVersion, &VaultKeys) {
        (self.configuration.active_key, &self.keys)
    }

    /// Every version of the project key.
    pub fn versions(&self) -> &[(KeyVersion, ProjectKey)] {
        &self.versions
    }

    /// What [`from_exposed_at`](Self::from_exposed_at) takes: every version of the project key, in the open. For handing them
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

    /// As [`from_exposed_at`](Self::from_exposed_at), of a vault whose configuration is in it.
    pub fn from_exposed<S: Storage>(storage: &S, exposed: &[u8]) -> Result<Self> {
        Self::from_exposed_at(&ConfigurationPlace::inside(storage), exposed)
    }

    /// The keys that another process unlocked, and the configuration, read and verified again.
    pub fn from_exposed_at<S: Storage>(place: &ConfigurationPlace<'_, S>, exposed: &[u8]) -> Result<Self> {
        let configuration = place.read()?;
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
        // Of keys that were handed over: a rotation may have begun meanwhile.
        let (_, active) = versions
            .iter()
            .find(|(version, _)| *version == configuration.active_key)
            .ok_or(VaultError::ConfigurationBusy)?;
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

/// The root key as well: for changes of keyslots and of project keys.
pub struct RootKeys {
    pub(super) root: RawKey,
    slot: KeyslotId,
    unlocked: UnlockedKeys,
}

impl RootKeys {
    /// The keyslot that opened.
    pub const fn slot(&self) -> KeyslotId {
        self.slot
    }

    pub const fn unlocked(&self) -> &UnlockedKeys {
        &self.unlocked
    }

    /// The project key of this version, wrapped by the root key.
    pub fn wrap(&self, version: KeyVersion, key: &ProjectKey) -> Result<Vec<u8>> {
        Ok(wrap_project_key(&self.unlocked.configuration, &self.root, version, key))
    }
}

impl From<RootKeys> for UnlockedKeys {
    fn from(keys: RootKeys) -> Self {
        keys.unlocked
    }
}

/// Unlocks a vault whose configuration is in it. Takes as long as Argon2id does for each keyslot that is tried.
pub fn unlock<S: Storage>(storage: &S, passphrase: &Passphrase) -> Result<UnlockedKeys> {
    let secrets = Secrets { passphrase: Some(passphrase), ..Secrets::default() };
    unlock_root(&ConfigurationPlace::inside(storage), &secrets).map(UnlockedKeys::from)
}

/// Unlocks a vault with whatever is given. Takes as long as Argon2id does for each keyslot that is tried.
pub fn unlock_root<S: Storage>(place: &ConfigurationPlace<'_, S>, secrets: &Secrets<'_>) -> Result<RootKeys> {
    let configuration = place.read()?;
    let (slot, root) = open_root_key(&configuration, secrets)?;
    let versions = open_project_keys(&configuration, &root)?;
    Ok(RootKeys { root, slot, unlocked: UnlockedKeys::verified(configuration, versions)? })
}

/// Reads the public facts of a vault whose configuration is in it.
pub fn read_configuration<S: Storage>(storage: &S) -> Result<Configuration> {
    ConfigurationPlace::inside(storage).read()
}

fn open_root_key(configuration: &Configuration, secrets: &Secrets<'_>) -> Result<(KeyslotId, RawKey)> {
    let mut slots: Vec<&Keyslot> = configuration.keyslots.iter().collect();
    // Those that cost nothing first; otherwise in the order of the table.
    slots.sort_by_key(|slot| slot.kind.has_passphrase());
    let mut refused: Option<KdfError> = None;
    let mut tried = false;
    for slot in slots {
        match open_keyslot(configuration, slot, secrets) {
            Some(Ok(Some(root))) => return Ok((slot.id, root)),
            Some(Ok(None)) => tried = true,
            // Another slot may cost less.
            Some(Err(error)) => refused = Some(error),
            None => {}
        }
    }
    let given = secrets.names();
    match refused {
        Some(refused) if !tried => Err(VaultError::KdfRefused(refused)),
        None if !tried => Err(VaultError::NoKeyslotFor { given, kinds: kinds(configuration) }),
        untried => Err(VaultError::WrongPassphrase { given, hint: configuration.hint.clone(), untried }),
    }
}

/// None: what the slot takes is not given. Inside, None: it is not this slot's, or the slot was changed.
pub(super) fn open_keyslot(
    configuration: &Configuration,
    slot: &Keyslot,
    secrets: &Secrets<'_>,
) -> Option<Result<Option<RawKey>, KdfError>> {
    let aad = configuration.keyslot_aad(slot.id, slot.kind);
    Some(secrets.kek(slot)?.map(|kek| kek.unwrap(&aad, &slot.wrapped.0).ok()))
}

fn kinds(configuration: &Configuration) -> String {
    let there = |kind: &KeyslotKind| configuration.keyslots.iter().any(|slot| slot.kind == *kind);
    let names: Vec<&str> = KeyslotKind::ALL.into_iter().filter(there).map(KeyslotKind::name).collect();
    names.join(", ")
}

fn open_project_keys(configuration: &Configuration, root: &RawKey) -> Result<Vec<(KeyVersion, ProjectKey)>> {
    let root = AeadKey::new(root.expose());
    let open = |key: &WrappedProjectKey| {
        let mut opened = root
            .open_message(&configuration.project_key_aad(key.version), &key.wrapped.0)
            .map_err(|_| VaultError::ConfigurationEdited)?;
        let opened: &mut [u8; KEY_LEN] =
            opened.as_mut_slice().try_into().map_err(|_| VaultError::ConfigurationEdited)?;
        Ok((key.version, ProjectKey::from_bytes(opened)))
    };
    configuration.project_keys.iter().map(open).collect()
}

pub(super) fn wrap_project_key(
    configuration: &Configuration,
    root: &RawKey,
    version: KeyVersion,
    key: &ProjectKey,
) -> Vec<u8> {
    AeadKey::new(root.expose()).seal_message(&configuration.project_key_aad(version), key.expose())
}

/// Whether `opens` opens the newest IV of a vault's top directory; so, too, if that is not there.
pub(super) fn opens_top<S: Storage>(storage: &S, opens: impl FnOnce(&[u8]) -> bool) -> Result<bool> {
    Ok(iv_of_top(storage)?.is_none_or(|target| opens(directory_iv::split(&target).0)))
}

/// What the link of the top directory's IV says; None: there is none.
fn iv_of_top<S: Storage>(storage: &S) -> Result<Option<Vec<u8>>> {
    let io = |e| VaultError::io("look at the vault's top directory", e);
    let root = storage.open_root().map_err(io)?;
    let tree = storage.open_dir(&root, TREE.as_ref()).map_err(io)?;
    match storage.read_symlink(&tree, directory_iv::ENTRY.as_ref()) {
        Ok(target) => Ok(Some(target)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(None),
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests;

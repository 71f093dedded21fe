//! The versions of the project key that open something in the vault.
//!
//! There is one, but while a rotation is under way: then what is sealed is sealed under the *active* version, and what
//! was not reached yet still opens with the *older* one. Whoever opens tries the active version first. When the
//! rotation is over the older one is forgotten, and what only it opens is an integrity error.

use std::ops::Deref;
use std::sync::Arc;

use parking_lot::RwLock;

use super::unlock::UnlockedKeys;
use crate::crypto::ProjectKey;
use crate::crypto::keys::{VAULT_ID_LEN, VaultKeys};
use crate::format::configuration::KeyVersion;

/// The keys of one version.
pub struct VersionKeys {
    pub(crate) version: KeyVersion,
    keys: VaultKeys,
}

impl VersionKeys {
    /// Whether these are the same keys under the same number.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        const PROBE: &[u8] = b"is this the same key?";
        self.version == other.version && self.verify_configuration(PROBE, &other.configuration_tag(PROBE))
    }

    pub(crate) const fn new(version: KeyVersion, keys: VaultKeys) -> Self {
        Self { version, keys }
    }
}

impl Deref for VersionKeys {
    type Target = VaultKeys;

    fn deref(&self) -> &VaultKeys {
        &self.keys
    }
}

/// What a vault is opened with: the active version, and the one that a rotation has not finished with.
#[derive(Clone)]
pub struct LiveKeys {
    pub(crate) active: Arc<VersionKeys>,
    pub(crate) older: Option<Arc<VersionKeys>>,
}

impl LiveKeys {
    pub(crate) fn new(active: VersionKeys, older: Option<VersionKeys>) -> Self {
        Self { active: Arc::new(active), older: older.map(Arc::new) }
    }

    /// From the project keys themselves, the active version's first.
    #[must_use]
    pub fn derive(
        vault_id: &[u8; VAULT_ID_LEN],
        active: (KeyVersion, &ProjectKey),
        older: Option<(KeyVersion, &ProjectKey)>,
    ) -> Self {
        let derived =
            |(version, key): (KeyVersion, &ProjectKey)| VersionKeys::new(version, VaultKeys::derive(key, vault_id));
        Self::new(derived(active), older.map(derived))
    }
}

impl From<VaultKeys> for LiveKeys {
    /// Of a vault that was never rotated.
    fn from(keys: VaultKeys) -> Self {
        Self::new(VersionKeys::new(KeyVersion::FIRST, keys), None)
    }
}

impl From<UnlockedKeys> for LiveKeys {
    fn from(unlocked: UnlockedKeys) -> Self {
        unlocked.into_live()
    }
}

/// The live keys of an open vault; a rotation changes them.
pub(crate) struct KeyRing(RwLock<LiveKeys>);

impl KeyRing {
    pub const fn new(keys: LiveKeys) -> Self {
        Self(RwLock::new(keys))
    }

    /// What is sealed is sealed with these.
    pub fn active(&self) -> Arc<VersionKeys> {
        self.0.read().active.clone()
    }

    /// Both, as they are now.
    pub fn live(&self) -> LiveKeys {
        self.0.read().clone()
    }

    /// Whether a rotation is under way.
    pub fn is_rotating(&self) -> bool {
        self.0.read().older.is_some()
    }

    /// What `open` makes of the first version that it accepts; else its last refusal.
    pub fn open<T, E>(&self, open: impl Fn(&VaultKeys) -> Result<T, E>) -> Result<T, E> {
        let live = self.live();
        match (open(&live.active), &live.older) {
            (Err(_), Some(older)) => open(older),
            (outcome, _) => outcome,
        }
    }

    /// Others from here on.
    pub fn replace(&self, keys: LiveKeys) {
        *self.0.write() = keys;
    }
}

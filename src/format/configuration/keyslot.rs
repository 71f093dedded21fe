//! Keyslots: the ways to the root key.

use serde::{Deserialize, Serialize};

use super::{Base64, ConfigurationError, Hex};
use crate::crypto::kdf::{KDF_SALT_LEN, WRAPPED_KEY_LEN};
use crate::crypto::{KdfError, KdfParams};

/// The number of a keyslot, by which it is named in commands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(transparent)]
pub struct KeyslotId(pub u32);

/// One way to the root key.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Keyslot {
    pub id: KeyslotId,
    /// Random; another one with each new secret.
    pub key_id: Hex<8>,
    pub kind: KeyslotKind,
    pub label: String,
    pub role: String,
    pub created: u64,
    pub kdf: Kdf,
    pub wrapped: Base64<WRAPPED_KEY_LEN>,
}

/// Where a keyslot's KEK comes from.
///
/// | kind | KEK |
/// |---|---|
/// | `passphrase` | `Argon2id(passphrase, salt, costs)` |
/// | `passphrase-keyfile` | `HKDF(salt, Argon2id(passphrase, salt, costs) || SHA-256(the file's content))` |
/// | `keyfile` | `HKDF(salt, SHA-256(the file's content))` |
/// | `recovery` | `HKDF(salt, the recovery key's 32 bytes)` |
/// | `command` | `HKDF(salt, the 32 bytes that the command printed)` |
/// | `environment` | `HKDF(salt, the 32 bytes of the variable)` |
///
/// HKDF's info is `sero/v1/keyslot/` followed by the kind's name.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum KeyslotKind {
    Passphrase,
    PassphraseKeyfile,
    Keyfile,
    Recovery,
    Command,
    Environment,
}

/// How what is given becomes a KEK.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "algorithm", deny_unknown_fields)]
pub enum Kdf {
    /// For what people remember.
    #[serde(rename = "argon2id")]
    Argon2id { memory_kib: u32, passes: u32, lanes: u32, salt: Base64<KDF_SALT_LEN> },
    /// For keys that nobody can guess.
    #[serde(rename = "hkdf-sha256")]
    HkdfSha256 { salt: Base64<KDF_SALT_LEN> },
}

impl KeyslotKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Passphrase, Self::PassphraseKeyfile, Self::Keyfile, Self::Recovery, Self::Command, Self::Environment];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::PassphraseKeyfile => "passphrase-keyfile",
            Self::Keyfile => "keyfile",
            Self::Recovery => "recovery",
            Self::Command => "command",
            Self::Environment => "environment",
        }
    }

    /// Whether a passphrase is a part of it, so that guessing must be made dear.
    pub const fn has_passphrase(self) -> bool {
        match self {
            Self::Passphrase | Self::PassphraseKeyfile => true,
            Self::Keyfile | Self::Recovery | Self::Command | Self::Environment => false,
        }
    }
}

impl Kdf {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Argon2id { .. } => "argon2id",
            Self::HkdfSha256 { .. } => "hkdf-sha256",
        }
    }

    pub const fn salt(&self) -> &[u8; KDF_SALT_LEN] {
        match self {
            Self::Argon2id { salt, .. } | Self::HkdfSha256 { salt } => &salt.0,
        }
    }

    /// What it costs, if it is Argon2id. That this machine can pay it is checked there, before memory is taken.
    pub const fn params(&self) -> Option<KdfParams> {
        match self {
            Self::Argon2id { memory_kib, passes, lanes, salt: _ } => {
                Some(KdfParams { memory_kib: *memory_kib, passes: *passes, lanes: *lanes })
            }
            Self::HkdfSha256 { .. } => None,
        }
    }

    pub(super) const fn fits(&self, kind: KeyslotKind) -> bool {
        kind.has_passphrase() == matches!(self, Self::Argon2id { .. })
    }

    pub(super) fn check(&self) -> Result<(), ConfigurationError> {
        match self.params().map_or(Ok(()), |params| params.validate()) {
            // The vault is right, this machine is too small now: another slot may do, and `sero info` always.
            Ok(()) | Err(KdfError::MemoryUnavailable { .. } | KdfError::OutOfMemory { .. }) => Ok(()),
            Err(refused) => Err(ConfigurationError::Kdf(refused)),
        }
    }
}

//! `sero.json`: the one readable file of a vault.
//!
//! ```json
//! {
//!   "format": 1,
//!   "vault_id": "16 bytes, hexadecimal",
//!   "created": 1700000000,
//!   "cipher": "AES-256-GCM",
//!   "names": "AES-256-SIV",
//!   "project_keys": [ { "version": 1, "key_id": "8 bytes, hexadecimal", "wrapped": "60 bytes, base64" } ],
//!   "active_key": 1,
//!   "keyslots": [ {
//!     "id": 1, "key_id": "8 bytes, hexadecimal", "kind": "passphrase", "label": "", "role": "owner", "created": 1700000000,
//!     "kdf": { "algorithm": "argon2id", "memory_kib": 65536, "passes": 3, "lanes": 4, "salt": "32 bytes, base64" },
//!     "wrapped": "60 bytes, base64"
//!   }, {
//!     "id": 2, "key_id": "8 bytes, hexadecimal", "kind": "keyfile", "label": "", "role": "owner", "created": 1700000000,
//!     "kdf": { "algorithm": "hkdf-sha256", "salt": "32 bytes, base64" },
//!     "wrapped": "60 bytes, base64"
//!   } ],
//!   "hint": "optional",
//!   "rotation": { "from": 1, "keep_old": false, "started": 1700000000 },
//!   "authenticator": "32 bytes, base64"
//! }
//! ```
//!
//! Times are Unix times in seconds; hexadecimal is lower case; base64 is RFC 4648's, with padding. A field that is not
//! listed, a field twice, and any bound of this module that is passed, make the file damaged.
//!
//! How a slot's kind and `kdf` make its KEK is said at [`KeyslotKind`].
//!
//! ```text
//! keyslot   wrapped = nonce[12] || tag[16] || AES-256-GCM(KEK, root key[32]),
//!           associated data = vault id[16] || slot id u32 || the kind's name
//! project key wrapped = nonce[12] || tag[16] || AES-256-GCM(root key, project key[32]),
//!           associated data = vault id[16] || version u32
//! authenticator = HMAC-SHA256(configuration key of the ACTIVE project key, canonical)
//! ```
//!
//! The canonical bytes hold every other field, in the order above; integers are little-endian, a text is its length (u32)
//! and its bytes, a list is its length (u32) and its elements, an optional field is one byte, 0 or 1, and, if 1, the field:
//!
//! ```text
//! format u32, vault_id[16], created u64, cipher text, names text,
//! project_keys list of { version u32, key_id[8], wrapped[60] }, active_key u32,
//! keyslots list of { id u32, key_id[8], kind text, label text, role text, created u64,
//!                    algorithm text, memory_kib u32, passes u32, lanes u32 (these three for argon2id alone),
//!                    salt[32], wrapped[60] },
//! hint optional text,
//! rotation: if there is one { from u32, keep_old u8, started u64 }, else nothing
//! ```
//!
//! The root key stands between, so that a new keyslot needs no project key, and a new project key no other slot's secret.

use std::fmt;

use data_encoding::{BASE64, Encoding, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::crypto::kdf::WRAPPED_KEY_LEN;
use crate::crypto::keys::{CONFIGURATION_TAG_LEN, VAULT_ID_LEN};
use crate::crypto::{KdfError, VaultKeys};

mod keyslot;

pub use keyslot::{Kdf, Keyslot, KeyslotId, KeyslotKind};

/// The file's name in the vault.
pub const ENTRY: &str = "sero.json";
/// The format that this version reads and writes.
pub const FORMAT: u32 = 1;
/// The largest file that is read, in bytes.
pub const FILE_MAX: usize = 1024 * 1024;
/// The most keyslots.
pub const KEYSLOTS_MAX: usize = 64;
/// The most versions of the project key.
pub const PROJECT_KEYS_MAX: usize = 64;
/// The longest label and role, in bytes.
pub const LABEL_MAX: usize = 256;
/// The longest hint, in bytes.
pub const HINT_MAX: usize = 1024;

/// Why bytes are not a configuration.
#[derive(Debug, Error)]
pub enum ConfigurationError {
    #[error("sero.json has more than {FILE_MAX} bytes")]
    TooLarge,
    /// Not JSON, or not of the listed fields.
    #[error("sero.json does not parse: {0}")]
    Syntax(String),
    /// JSON of the listed fields, with impossible values.
    #[error("sero.json has an impossible value: {0}")]
    Rule(&'static str),
    #[error("sero.json has format {found}, which is newer than {FORMAT}")]
    NewerFormat { found: u64 },
    #[error("{0}")]
    Kdf(KdfError),
}

/// The version of a project key, counted from 1.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(transparent)]
pub struct KeyVersion(pub u32);

impl KeyVersion {
    /// That of a vault whose key was never rotated.
    pub const FIRST: Self = Self(1);
}

/// Bytes of a fixed length that stand in the file as base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Base64<const N: usize>(pub [u8; N]);

/// Bytes of a fixed length that stand in the file as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// The whole file.
///
/// Parsed, it keeps the rules of the format, and anyone may have edited it: the public facts may be shown,
/// nothing else be built on them before [`Configuration::verify`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    pub format: u32,
    pub vault_id: Hex<VAULT_ID_LEN>,
    pub created: u64,
    pub cipher: Cipher,
    pub names: NameCipher,
    pub project_keys: Vec<WrappedProjectKey>,
    pub active_key: KeyVersion,
    pub keyslots: Vec<Keyslot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// There only while a rotation is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    pub authenticator: Base64<CONFIGURATION_TAG_LEN>,
}

/// A rotation that has not come to its end: what is not under the active key version yet is under an older one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The older version.
    pub from: KeyVersion,
    /// It is kept at the end.
    pub keep_old: bool,
    pub started: u64,
}

/// What seals content.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum Cipher {
    #[serde(rename = "AES-256-GCM")]
    Aes256Gcm,
}

/// What seals names.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum NameCipher {
    #[serde(rename = "AES-256-SIV")]
    Aes256Siv,
}

/// A version of the project key, wrapped by the root key.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct WrappedProjectKey {
    pub version: KeyVersion,
    /// Random; names the key in reports.
    pub key_id: Hex<8>,
    pub wrapped: Base64<WRAPPED_KEY_LEN>,
}

impl Configuration {
    /// Parses the file, and checks every rule that needs no key.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigurationError> {
        /// What a newer format keeps, whatever else it changes.
        #[derive(Deserialize)]
        struct Probe {
            format: u64,
        }

        if bytes.len() > FILE_MAX {
            return Err(ConfigurationError::TooLarge);
        }
        let syntax = |error: serde_json::Error| ConfigurationError::Syntax(error.to_string());
        let Probe { format } = serde_json::from_slice(bytes).map_err(syntax)?;
        if format > u64::from(FORMAT) {
            return Err(ConfigurationError::NewerFormat { found: format });
        }
        let configuration: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        configuration.check()?;
        Ok(configuration)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, ConfigurationError> {
        self.check()?;
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|error| ConfigurationError::Syntax(error.to_string()))?;
        bytes.push(b'\n');
        if bytes.len() > FILE_MAX {
            return Err(ConfigurationError::TooLarge);
        }
        Ok(bytes)
    }

    /// Sets the authenticator for the other fields as they are now. The keys are the active version's.
    pub fn authenticate(&mut self, keys: &VaultKeys) {
        self.authenticator = Base64(keys.configuration_tag(&self.canonical()));
    }

    /// Whether every field is as it was when it was authenticated. The keys are the active version's.
    #[must_use]
    pub fn verify(&self, keys: &VaultKeys) -> bool {
        keys.verify_configuration(&self.canonical(), &self.authenticator.0)
    }

    /// The active version of the project key.
    pub fn active(&self) -> Option<&WrappedProjectKey> {
        self.project_keys.iter().find(|key| key.version == self.active_key)
    }

    /// The associated data of a wrapped project key.
    pub fn project_key_aad(&self, version: KeyVersion) -> Vec<u8> {
        let mut aad = self.vault_id.0.to_vec();
        aad.extend(version.0.to_le_bytes());
        aad
    }

    /// The keyslot with this number.
    pub fn keyslot(&self, id: KeyslotId) -> Option<&Keyslot> {
        self.keyslots.iter().find(|slot| slot.id == id)
    }

    /// A number that no keyslot has. The number of a removed slot may come again; key ids do not.
    pub fn free_keyslot_id(&self) -> KeyslotId {
        let largest = self.keyslots.iter().map(|slot| slot.id.0).max().unwrap_or(0);
        let free = |id: &u32| self.keyslots.iter().all(|slot| slot.id.0 != *id);
        KeyslotId(largest.checked_add(1).or_else(|| (1..=u32::MAX).find(free)).unwrap_or(u32::MAX))
    }

    /// The associated data of a keyslot's wrapped root key.
    pub fn keyslot_aad(&self, id: KeyslotId, kind: KeyslotKind) -> Vec<u8> {
        let mut aad = self.vault_id.0.to_vec();
        aad.extend(id.0.to_le_bytes());
        aad.extend(kind.name().bytes());
        aad
    }

    fn check(&self) -> Result<(), ConfigurationError> {
        rule(self.format == FORMAT, "format is not 1")?;
        rule((1..=PROJECT_KEYS_MAX).contains(&self.project_keys.len()), "project_keys has not 1 to 64 elements")?;
        rule(all_differ(self.project_keys.iter().map(|key| key.version)), "two project_keys have one version")?;
        rule(self.project_keys.iter().all(|key| key.version.0 != 0), "a project key has version 0")?;
        rule(self.active().is_some(), "active_key is not the version of a project key")?;
        rule(
            self.rotation.is_none_or(|rotation| {
                rotation.from != self.active_key && self.project_keys.iter().any(|key| key.version == rotation.from)
            }),
            "rotation.from is not the version of another project key",
        )?;
        rule((1..=KEYSLOTS_MAX).contains(&self.keyslots.len()), "keyslots has not 1 to 64 elements")?;
        rule(all_differ(self.keyslots.iter().map(|slot| slot.id)), "two keyslots have one id")?;
        check_texts("", self.hint.as_deref())?;
        for slot in &self.keyslots {
            check_texts(&slot.label, None)?;
            rule(is_text(&slot.role, LABEL_MAX), "a keyslot's role is too long, or has control characters")?;
            rule(slot.kdf.fits(slot.kind), "a keyslot's kdf is not one of its kind")?;
            slot.kdf.check()?;
        }
        Ok(())
    }

    fn canonical(&self) -> Vec<u8> {
        let mut out = Canonical(Vec::new());
        out.u32(self.format);
        out.bytes(&self.vault_id.0);
        out.u64(self.created);
        out.text(self.cipher.name());
        out.text(self.names.name());
        out.len(self.project_keys.len());
        for WrappedProjectKey { version, key_id, wrapped } in &self.project_keys {
            out.u32(version.0);
            out.bytes(&key_id.0);
            out.bytes(&wrapped.0);
        }
        out.u32(self.active_key.0);
        out.len(self.keyslots.len());
        for Keyslot { id, key_id, kind, label, role, created, kdf, wrapped } in &self.keyslots {
            out.u32(id.0);
            out.bytes(&key_id.0);
            out.text(kind.name());
            out.text(label);
            out.text(role);
            out.u64(*created);
            out.text(kdf.name());
            match kdf {
                Kdf::Argon2id { memory_kib, passes, lanes, salt: _ } => {
                    out.u32(*memory_kib);
                    out.u32(*passes);
                    out.u32(*lanes);
                }
                Kdf::HkdfSha256 { salt: _ } => {}
            }
            out.bytes(kdf.salt());
            out.bytes(&wrapped.0);
        }
        match &self.hint {
            None => out.bytes(&[0]),
            Some(hint) => {
                out.bytes(&[1]);
                out.text(hint);
            }
        }
        // Behind everything else, so that its absence needs no mark.
        if let Some(Rotation { from, keep_old, started }) = self.rotation {
            out.u32(from.0);
            out.bytes(&[u8::from(keep_old)]);
            out.u64(started);
        }
        out.0
    }
}

impl Cipher {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
        }
    }
}

impl NameCipher {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Siv => "AES-256-SIV",
        }
    }
}

fn rule(kept: bool, broken: &'static str) -> Result<(), ConfigurationError> {
    if kept { Ok(()) } else { Err(ConfigurationError::Rule(broken)) }
}

/// Whether a keyslot's label and a hint keep the rules.
pub fn check_texts(label: &str, hint: Option<&str>) -> Result<(), ConfigurationError> {
    rule(is_text(label, LABEL_MAX), "a keyslot's label is too long, or has control characters")?;
    rule(hint.is_none_or(|hint| is_text(hint, HINT_MAX)), "hint is too long, or has control characters")
}

/// Whether it can be shown on a terminal in one line.
fn is_text(text: &str, len_max: usize) -> bool {
    text.len() <= len_max && !text.chars().any(char::is_control)
}

fn all_differ<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    let mut items: Vec<T> = items.collect();
    items.sort();
    items.windows(2).all(|pair| pair.first() != pair.last())
}

/// The writer of the canonical bytes.
struct Canonical(Vec<u8>);

impl Canonical {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// Every length is far below its bound in the file, and so below 2^32.
    fn len(&mut self, len: usize) {
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
    }

    fn text(&mut self, text: &str) {
        self.len(text.len());
        self.bytes(text.as_bytes());
    }
}

fn from_text<'de, D: Deserializer<'de>, const N: usize>(
    deserializer: D,
    encoding: &Encoding,
    expected: &'static str,
) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = encoding.decode(text.as_bytes()).map_err(|_| de::Error::custom(format_args!("not {expected}")))?;
    bytes.try_into().map_err(|_| de::Error::custom(format_args!("not {N} bytes in {expected}")))
}

impl<const N: usize> Serialize for Base64<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Base64<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, &BASE64, "base64").map(Self)
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, &HEXLOWER, "lower-case hexadecimal").map(Self)
    }
}

impl<const N: usize> fmt::Debug for Base64<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

#[cfg(test)]
mod tests;

//! The key hierarchy: one project key, and every key that is derived from it.
//!
//! ```text
//! project key (32 random bytes)
//! ├─ vault PRK = HKDF-Extract(salt = vault id, IKM = project key)
//! │   ├─ label::NAMES                  → AES-256-SIV key of names (64 bytes)
//! │   ├─ label::DIRECTORY_IV           → HMAC-SHA256 key of directory IVs
//! │   ├─ label::SYMLINK                → AES-256-GCM key of symlink targets
//! │   ├─ label::XATTR                  → AES-256-GCM key of extended attributes
//! │   ├─ label::CONFIGURATION          → HMAC-SHA256 key of the vault's configuration
//! │   ├─ label::JOURNAL ‖ journal id   → AES-256-GCM key of one journal
//! │   └─ label::STATE                  → AES-256-GCM key of the vault's state
//! └─ file PRK  = HKDF-Extract(salt = file salt, IKM = project key)
//!     ├─ label::FILE_HEADER            → AES-256-GCM key of the file's header
//!     └─ label::FILE_PAGE ‖ session    → AES-256-GCM key of the file's pages, one a session
//! ```
//!
//! Above the project key stand the root key, which wraps it, and the keyslots' KEKs, which wrap the root key. The KEK of a
//! slot with a passphrase alone is Argon2id's output; every other is
//! `HKDF-Expand(HKDF-Extract(slot's salt, the slot's secrets), label::KEYSLOT ‖ kind)`.
//!
//! HKDF is RFC 5869 over SHA-256: `PRK = HMAC(salt, IKM)`, and with `T(0)` empty,
//! `T(i) = HMAC(PRK, T(i-1) ‖ info ‖ i)`, `OKM = T(1) ‖ T(2) ‖ …`; info is the label and its suffix.
//!
//! HMAC pads its key with zeros, so a file salt that equals a vault id followed by zeros gives the
//! vault PRK, and the salt of a file is what an adversary can write. The labels keep even those keys
//! apart: all differ, under both PRKs, and none is a prefix of another.

use std::io;

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::Secret;
use super::aead::{AeadKey, KEY_LEN};
use super::names::{NAME_KEY_LEN, NameKey};

/// Length of a vault's id in bytes.
pub const VAULT_ID_LEN: usize = 16;
/// Length of a journal's id in bytes.
pub const JOURNAL_ID_LEN: usize = 16;
/// Length of a file's salt in bytes.
pub const FILE_SALT_LEN: usize = 32;
/// Length of a directory's IV in bytes.
pub const DIRECTORY_IV_LEN: usize = 16;
/// Length of the authenticator of a directory's IV in bytes.
pub const DIRECTORY_IV_TAG_LEN: usize = 16;
/// Length of the authenticator of the configuration in bytes.
pub const CONFIGURATION_TAG_LEN: usize = 32;

/// Length of a pseudorandom key of HKDF-SHA256 in bytes.
const PRK_LEN: usize = 32;

/// Every HKDF label of the format. A label is never changed or reused: a new use takes a new one.
mod label {
    /// Names of directory entries: 64 bytes, AES-256-SIV.
    pub const NAMES: &[u8] = b"sero/v1/names";
    /// Authenticators of directory IVs: HMAC-SHA256.
    pub const DIRECTORY_IV: &[u8] = b"sero/v1/directory-iv";
    /// Targets of symbolic links: AES-256-GCM.
    pub const SYMLINK: &[u8] = b"sero/v1/symlink";
    /// Tables of extended attributes: AES-256-GCM.
    pub const XATTR: &[u8] = b"sero/v1/xattr";
    /// Authenticator of the configuration: HMAC-SHA256.
    pub const CONFIGURATION: &[u8] = b"sero/v1/configuration";
    /// Records of a journal: AES-256-GCM. Followed by the journal's id.
    pub const JOURNAL: &[u8] = b"sero/v1/journal";
    /// The vault's state (crash windows): AES-256-GCM.
    pub const STATE: &[u8] = b"sero/v1/state";
    /// The header of a file: AES-256-GCM.
    pub const FILE_HEADER: &[u8] = b"sero/v1/file/header";
    /// Pages and nodes of a file: AES-256-GCM. Followed by the session, u32, little-endian.
    pub const FILE_PAGE: &[u8] = b"sero/v1/file/page";
    /// The KEK of a keyslot that has more than a passphrase. Followed by the name of the slot's kind.
    pub const KEYSLOT: &[u8] = b"sero/v1/keyslot/";

    #[cfg(test)]
    pub const ALL: &[&[u8]] =
        &[NAMES, DIRECTORY_IV, SYMLINK, XATTR, CONFIGURATION, JOURNAL, STATE, FILE_HEADER, FILE_PAGE, KEYSLOT];
}

/// The secret that opens a vault: 32 random bytes, from which every other key is derived.
pub struct ProjectKey(Secret<KEY_LEN>);

impl ProjectKey {
    /// A new key, from the kernel's generator.
    ///
    /// # Errors
    /// If the kernel's generator fails.
    pub fn generate() -> io::Result<Self> {
        Ok(Self(Secret::from_kernel()?))
    }

    /// Takes the bytes, and wipes the source.
    #[must_use]
    pub fn from_bytes(bytes: &mut [u8; KEY_LEN]) -> Self {
        Self(Secret::take(bytes))
    }

    /// The raw bytes: to be wrapped by the root key.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        self.0.bytes()
    }
}

/// 32 secret bytes that are not a project key: a vault's root key, what a keyfile, a key command or an environment
/// variable gives, a recovery key.
pub struct RawKey(Secret<KEY_LEN>);

impl RawKey {
    /// A new key, from the kernel's generator.
    ///
    /// # Errors
    /// If the kernel's generator fails.
    pub fn generate() -> io::Result<Self> {
        Ok(Self(Secret::from_kernel()?))
    }

    /// Takes the bytes, and wipes the source.
    #[must_use]
    pub fn from_bytes(bytes: &mut [u8; KEY_LEN]) -> Self {
        Self(Secret::take(bytes))
    }

    /// `SHA-256(parts)`: what stands for the content of a keyfile.
    #[must_use]
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        parts.into_iter().for_each(|part| hash.update(part));
        Self::from_bytes(&mut hash.finalize().into())
    }

    /// The raw bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        self.0.bytes()
    }

    /// Whether both are the same. Takes the same time for any two that differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

/// `HKDF-Expand(HKDF-Extract(salt, IKM = parts), label::KEYSLOT || kind, 32)`: the KEK of a keyslot.
pub(super) fn keyslot_kek(salt: &[u8], kind: &str, parts: &[&[u8; KEY_LEN]]) -> Secret<KEY_LEN> {
    let (mut prk, _) = {
        let mut extract = hkdf::HkdfExtract::<Sha256>::new(Some(salt));
        parts.iter().for_each(|part| extract.input_ikm(part.as_slice()));
        extract.finalize()
    };
    let mut secret = Secret::zeroed();
    secret.bytes_mut().copy_from_slice(&prk);
    prk.as_mut_slice().zeroize();
    expand(&secret, &[label::KEYSLOT, kind.as_bytes()])
}

/// The keys of one vault.
pub struct VaultKeys {
    /// The input keying material of every file's PRK.
    project_key: Secret<KEY_LEN>,
    prk: Secret<PRK_LEN>,
    names: NameKey,
    directory_iv: Secret<KEY_LEN>,
    symlink: AeadKey,
    xattr: AeadKey,
    state: AeadKey,
    configuration: Secret<KEY_LEN>,
}

impl VaultKeys {
    /// `vault PRK = HKDF-Extract(vault_id, project_key)`, and the keys under it.
    #[must_use]
    pub fn derive(project_key: &ProjectKey, vault_id: &[u8; VAULT_ID_LEN]) -> Self {
        let prk = extract(vault_id, project_key.expose());
        Self {
            project_key: Secret::copy_of(project_key.expose()),
            names: NameKey::new(expand::<NAME_KEY_LEN>(&prk, &[label::NAMES]).bytes()),
            directory_iv: expand(&prk, &[label::DIRECTORY_IV]),
            symlink: aead_key(&prk, &[label::SYMLINK]),
            xattr: aead_key(&prk, &[label::XATTR]),
            state: aead_key(&prk, &[label::STATE]),
            configuration: expand(&prk, &[label::CONFIGURATION]),
            prk,
        }
    }

    /// The key of names.
    #[must_use]
    pub fn names(&self) -> &NameKey {
        &self.names
    }

    /// The key of symlink targets.
    #[must_use]
    pub fn symlink(&self) -> &AeadKey {
        &self.symlink
    }

    /// The key of extended attributes.
    #[must_use]
    pub fn xattr(&self) -> &AeadKey {
        &self.xattr
    }

    /// The key of the vault's state.
    #[must_use]
    pub fn state(&self) -> &AeadKey {
        &self.state
    }

    /// The key of the journal with that id.
    #[must_use]
    pub fn journal(&self, journal_id: &[u8; JOURNAL_ID_LEN]) -> AeadKey {
        aead_key(&self.prk, &[label::JOURNAL, journal_id])
    }

    /// The keys of the file with that salt.
    #[must_use]
    pub fn file(&self, salt: &[u8; FILE_SALT_LEN]) -> FileKeys {
        let prk = extract(salt, self.project_key.bytes());
        FileKeys { header: aead_key(&prk, &[label::FILE_HEADER]), prk }
    }

    /// The first 16 bytes of `HMAC-SHA256(directory-iv key, iv)`.
    #[must_use]
    pub fn directory_iv_tag(&self, iv: &[u8; DIRECTORY_IV_LEN]) -> [u8; DIRECTORY_IV_TAG_LEN] {
        let mac = hmac_sha256(&self.directory_iv, iv);
        std::array::from_fn(|i| mac[i])
    }

    /// Whether `tag` is the authenticator of that IV. Takes the same time for any wrong tag.
    #[must_use]
    pub fn verify_directory_iv(&self, iv: &[u8; DIRECTORY_IV_LEN], tag: &[u8]) -> bool {
        self.directory_iv_tag(iv).ct_eq(tag).into()
    }

    /// `HMAC-SHA256(configuration key, bytes)` (RFC 2104).
    #[must_use]
    pub fn configuration_tag(&self, bytes: &[u8]) -> [u8; CONFIGURATION_TAG_LEN] {
        hmac_sha256(&self.configuration, bytes)
    }

    /// Whether `tag` is the authenticator of that configuration. Takes the same time for any wrong tag.
    #[must_use]
    pub fn verify_configuration(&self, bytes: &[u8], tag: &[u8]) -> bool {
        self.configuration_tag(bytes).ct_eq(tag).into()
    }
}

/// The keys of one file, until it gets a new salt.
pub struct FileKeys {
    prk: Secret<PRK_LEN>,
    header: AeadKey,
}

impl FileKeys {
    /// The key of the header.
    #[must_use]
    pub fn header(&self) -> &AeadKey {
        &self.header
    }

    /// The key of what is sealed in that session: pages, nodes, blobs.
    #[must_use]
    pub fn page(&self, session: u32) -> AeadKey {
        aead_key(&self.prk, &[label::FILE_PAGE, &session.to_le_bytes()])
    }
}

/// `HKDF-Extract(salt, IKM)` (RFC 5869, section 2.2).
fn extract(salt: &[u8], input: &[u8]) -> Secret<PRK_LEN> {
    let (mut prk, _) = Hkdf::<Sha256>::extract(Some(salt), input);
    let mut secret = Secret::zeroed();
    secret.bytes_mut().copy_from_slice(&prk);
    prk.as_mut_slice().zeroize();
    secret
}

/// `HKDF-Expand(PRK, info, N)` (RFC 5869, section 2.3); info is the concatenation of the parts.
fn expand<const N: usize>(prk: &Secret<PRK_LEN>, info: &[&[u8]]) -> Secret<N> {
    const { assert!(N <= 255 * 32, "HKDF-SHA256 expands to 255 hashes at most") };
    let mut secret = Secret::zeroed();
    Hkdf::<Sha256>::from_prk(prk.bytes())
        .expect("a PRK is as long as a hash")
        .expand_multi_info(info, secret.bytes_mut())
        .expect("the length is asserted above");
    secret
}

fn aead_key(prk: &Secret<PRK_LEN>, info: &[&[u8]]) -> AeadKey {
    AeadKey::new(expand(prk, info).bytes())
}

fn hmac_sha256(key: &Secret<KEY_LEN>, bytes: &[u8]) -> [u8; 32] {
    let mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("HMAC takes keys of any length");
    mac.chain_update(bytes).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::{NONCE_LEN, Tag};
    use crate::crypto::tests::{hex, hex_array};

    #[test]
    fn rfc_5869_vectors() {
        let input = [0x0b; 22];

        // A.1
        let prk = extract(&hex("000102030405060708090a0b0c"), &input);
        assert_eq!(*prk.bytes(), hex_array("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
        let expected =
            hex_array("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
        let info = hex("f0f1f2f3f4f5f6f7f8f9");
        assert_eq!(*expand::<42>(&prk, &[&info]).bytes(), expected);
        assert_eq!(*expand::<42>(&prk, &[&info[..4], &info[4..]]).bytes(), expected, "parts concatenate");

        // A.3: empty salt, empty info
        let prk = extract(b"", &input);
        assert_eq!(*prk.bytes(), hex_array("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"));
        let expected =
            hex_array("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
        assert_eq!(*expand::<42>(&prk, &[]).bytes(), expected);
    }

    /// Bytes that count up from `first`.
    fn counting<const N: usize>(first: u8) -> [u8; N] {
        std::array::from_fn(|i| first + i as u8)
    }

    fn vault_keys() -> VaultKeys {
        VaultKeys::derive(&ProjectKey::from_bytes(&mut counting(0)), &counting(0x40))
    }

    /// Tells keys apart: the tag of nothing, under the zero nonce.
    fn fingerprint(key: &AeadKey) -> Tag {
        key.seal(&[0; NONCE_LEN], b"", &mut []).unwrap()
    }

    /// The format's own vectors. They were computed by an independent implementation (Python's
    /// `hmac`, and OpenSSL for AES); a change here makes every vault unreadable.
    #[test]
    fn derived_keys_are_what_they_were() {
        let keys = vault_keys();
        let iv = counting(0xc0);
        assert_eq!(
            keys.names().seal(&iv, b"README.md\0\0\0\0\0\0\0"),
            hex("f19876bc1fa186f71b7cd3201fee3fa5cd96992fbf911aaf87557520c62db7e7")
        );
        assert_eq!(keys.directory_iv_tag(&iv), hex_array("70b5d1b6c06bf0b18928b0094773dd46"));
        assert_eq!(
            keys.configuration_tag(b"{\"format\":1}"),
            hex_array("831aef8e654dc2bd482ce21f9bf50052189a6df89fe2125f2019ef06aec13808")
        );
        assert_eq!(fingerprint(keys.symlink()), hex_array("b0f558df1be7a9dbcc60764ac82723ec"));
        assert_eq!(fingerprint(keys.xattr()), hex_array("8f76e548e017e7f143ee8a89d87a5e30"));
        assert_eq!(fingerprint(keys.state()), hex_array("7f4fddd3ce8177676e394295c49a5ffa"));
        assert_eq!(fingerprint(&keys.journal(&counting(0x60))), hex_array("41646fab13859ec704734d0e81aae312"));

        let file = keys.file(&counting(0x80));
        assert_eq!(fingerprint(file.header()), hex_array("719edd72a9e663f8e75c658b72f9c8ce"));
        assert_eq!(fingerprint(&file.page(0)), hex_array("7feab1dcecec2408d69caac06b25d4b1"));
        assert_eq!(fingerprint(&file.page(1)), hex_array("3c5debfe5081292e1f02b8a395dbfbbb"));
        assert_eq!(fingerprint(&file.page(0x0102_0304)), hex_array("dd536a8ae4c32d926cbde6c1f3ab8066"));
    }

    #[test]
    fn no_label_is_a_prefix_of_another() {
        for (i, one) in label::ALL.iter().enumerate() {
            for (j, other) in label::ALL.iter().enumerate() {
                assert!(i == j || !other.starts_with(one), "labels {i} and {j}");
            }
        }
    }

    #[test]
    fn every_input_changes_the_keys() {
        let keys = vault_keys();
        let iv = counting(0);
        let other_project = VaultKeys::derive(&ProjectKey::from_bytes(&mut counting(1)), &counting(0x40));
        let other_vault = VaultKeys::derive(&ProjectKey::from_bytes(&mut counting(0)), &counting(0x41));
        for other in [&other_project, &other_vault] {
            assert_ne!(fingerprint(keys.symlink()), fingerprint(other.symlink()));
            assert_ne!(keys.directory_iv_tag(&iv), other.directory_iv_tag(&iv));
            assert_ne!(keys.configuration_tag(b""), other.configuration_tag(b""));
        }
        assert_ne!(fingerprint(&keys.journal(&[0; 16])), fingerprint(&keys.journal(&[1; 16])));
        assert_ne!(fingerprint(keys.file(&[0; 32]).header()), fingerprint(keys.file(&[1; 32]).header()));
        // A file belongs to the project, not to the vault: its keys do not depend on the vault's id.
        assert_eq!(fingerprint(keys.file(&[0; 32]).header()), fingerprint(other_vault.file(&[0; 32]).header()));
    }

    #[test]
    fn authenticators_verify_and_nothing_else_does() {
        let keys = vault_keys();
        let iv = counting(3);
        let tag = keys.directory_iv_tag(&iv);
        assert!(keys.verify_directory_iv(&iv, &tag));
        assert!(!keys.verify_directory_iv(&counting(4), &tag));
        assert!(!keys.verify_directory_iv(&iv, &tag[..15]));
        assert!(!keys.verify_directory_iv(&iv, b""));

        let tag = keys.configuration_tag(b"configuration");
        assert!(keys.verify_configuration(b"configuration", &tag));
        assert!(!keys.verify_configuration(b"Configuration", &tag));
        for at in 0..tag.len() {
            let mut changed = tag;
            changed[at] ^= 0x80;
            assert!(!keys.verify_configuration(b"configuration", &changed));
            assert!(!keys.verify_configuration(b"configuration", &tag[..at]));
        }
    }

    #[test]
    fn a_project_key_takes_its_bytes_away() {
        let mut bytes = counting(9);
        let key = ProjectKey::from_bytes(&mut bytes);
        assert_eq!(bytes, [0; KEY_LEN]);
        assert_eq!(*key.expose(), counting(9));
        assert_ne!(ProjectKey::generate().unwrap().expose(), ProjectKey::generate().unwrap().expose());
    }
}

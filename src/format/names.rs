//! Sealed names: what stands in a backing directory for a name in the vault.
//!
//! ```text
//! padded = name || zero bytes up to the next multiple of 16
//! sealed = AES-256-SIV(names key, associated data = the directory's IV, padded)     16 bytes longer
//! text   = base64url(sealed), without padding
//!
//! padded <= 160 bytes:  the entry is named  text                                      43..=235 bytes
//! longer:               the entry is named  "=" base64url(SHA-256(sealed))            44 bytes
//!                       and beside it is a symbolic link, its sidecar, named
//!                       entry ".n"                                                    46 bytes
//!                       whose target is  text                                         256..=363 bytes
//! ```
//!
//! '=' is not in the base64url alphabet: no sealed name starts with it, and every special name does.
//!
//! A name is 1 to 255 bytes, is neither "." nor "..", and has no NUL and no '/'. As it has no NUL, the zero
//! bytes at the end of an opened name are its padding, all of it; fewer than 16 of them is the only
//! padding that a reader accepts, so that a name has exactly one sealed form in a directory.
//!
//! Equal names in two directories differ, as the IVs do; a name that was edited, or moved to another
//! directory, does not open.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::directory_iv::DirectoryIv;
use crate::crypto::NameKey;
use crate::crypto::names::NAME_TAG_LEN;

/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// The longest padded name whose sealed form is itself the name of the entry.
pub const SHORT_PADDED_MAX: usize = 160;

const BLOCK: usize = 16;
const PADDED_MAX: usize = 256;
const SPECIAL: u8 = b'=';
const SIDECAR_SUFFIX: &[u8] = b".n";
/// '=' and a SHA-256 in base64url.
const LONG_ENTRY_LEN: usize = 44;
/// What network filesystems and FUSE leave in place of a file that was removed while open.
const FOREIGN_PREFIXES: [&[u8]; 2] = [b".nfs", b".fuse_hidden"];

const _: () = assert!(encoded_len(NAME_TAG_LEN + SHORT_PADDED_MAX) <= NAME_MAX);
const _: () = assert!(encoded_len(NAME_TAG_LEN + SHORT_PADDED_MAX + BLOCK) > NAME_MAX);
const _: () = assert!(LONG_ENTRY_LEN == 1 + encoded_len(32));

#[expect(clippy::arithmetic_side_effects, reason = "evaluated at compile time alone")]
const fn encoded_len(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// A name that no file can have.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    #[error("a name has 1 to 255 bytes, is neither \".\" nor \"..\", and has no '/' and no NUL")]
    Invalid,
    #[error("a name has at most 255 bytes")]
    TooLong,
}

/// Why an entry of a backing directory is not the sealed form of a name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SealedNameError {
    #[error("the name is not base64url")]
    Alphabet,
    #[error("the name has a length that no sealed name has")]
    Length,
    #[error("the name does not open: it was edited, or belongs to another directory")]
    Refused,
    #[error("the name opens, but is not padded as it must be")]
    Padding,
    #[error("the name opens, but to what is not a name")]
    NotAName,
    #[error("the name is short, and yet has a sidecar (or is long, and has none)")]
    WrongForm,
    #[error("the sidecar belongs to another name")]
    WrongSidecar,
}

/// The sealed form of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedName {
    /// The name of the entry in the backing.
    pub entry: OsString,
    /// For a long name, the target of its sidecar.
    pub sidecar_target: Option<Vec<u8>>,
}

/// What a name in a backing directory says about its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryForm {
    /// A sealed name, if it opens.
    Short,
    /// A long name: the sidecar has its sealed form.
    Long,
    /// The sidecar of a long name.
    Sidecar,
    /// The directory's IV.
    DirectoryIv,
    /// Made by the filesystem under the backing, for itself.
    Foreign,
    /// Nothing that sero makes.
    Unknown,
}

impl EntryForm {
    /// By the name alone; whether it opens is another question.
    pub fn of(entry: &OsStr) -> Self {
        let bytes = entry.as_bytes();
        if bytes.first() != Some(&SPECIAL) {
            return if FOREIGN_PREFIXES.iter().any(|prefix| bytes.starts_with(prefix)) {
                Self::Foreign
            } else {
                Self::Short
            };
        }
        if bytes == super::directory_iv::ENTRY.as_bytes() {
            return Self::DirectoryIv;
        }
        match bytes.strip_suffix(SIDECAR_SUFFIX) {
            Some(entry) if is_long(entry) => Self::Sidecar,
            None if is_long(bytes) => Self::Long,
            _ => Self::Unknown,
        }
    }
}

fn is_long(entry: &[u8]) -> bool {
    entry.len() == LONG_ENTRY_LEN
        && entry.strip_prefix(&[SPECIAL]).is_some_and(|digest| BASE64URL_NOPAD.decode(digest).is_ok())
}

/// The name of a long entry's sidecar.
pub fn sidecar_of(entry: &OsStr) -> OsString {
    let mut name = entry.as_bytes().to_vec();
    name.extend(SIDECAR_SUFFIX);
    OsString::from_vec(name)
}

/// The entry that a sidecar belongs to.
pub fn entry_of_sidecar(sidecar: &OsStr) -> Option<&OsStr> {
    sidecar.as_bytes().strip_suffix(SIDECAR_SUFFIX).map(OsStr::from_bytes)
}

/// Whether a file can have this name.
pub fn validate(name: &[u8]) -> Result<(), NameError> {
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|&byte| byte == 0 || byte == b'/') {
        return Err(NameError::Invalid);
    }
    Ok(())
}

/// Seals a name for the directory with this IV. The same name always gives the same result.
pub fn seal(key: &NameKey, iv: &DirectoryIv, name: &[u8]) -> Result<SealedName, NameError> {
    validate(name)?;
    let mut padded = name.to_vec();
    padded.resize(padded_len(name.len()), 0);
    let sealed = key.seal(&iv.0, &padded);
    let text = BASE64URL_NOPAD.encode(&sealed);
    Ok(if padded.len() <= SHORT_PADDED_MAX {
        SealedName { entry: text.into(), sidecar_target: None }
    } else {
        SealedName { entry: long_entry(&sealed), sidecar_target: Some(text.into_bytes()) }
    })
}

/// Opens an entry of the [`EntryForm::Short`] form.
pub fn open(key: &NameKey, iv: &DirectoryIv, entry: &OsStr) -> Result<Vec<u8>, SealedNameError> {
    let name = open_text(key, iv, entry.as_bytes())?;
    if padded_len(name.len()) > SHORT_PADDED_MAX {
        return Err(SealedNameError::WrongForm);
    }
    Ok(name)
}

/// Opens an entry of the [`EntryForm::Long`] form by the target of its sidecar.
pub fn open_long(
    key: &NameKey,
    iv: &DirectoryIv,
    entry: &OsStr,
    sidecar_target: &[u8],
) -> Result<Vec<u8>, SealedNameError> {
    // The hash first: a sidecar that was swapped is told from a name that was moved.
    let sealed = decode_text(sidecar_target)?;
    if long_entry(&sealed) != entry {
        return Err(SealedNameError::WrongSidecar);
    }
    let name = open_text(key, iv, sidecar_target)?;
    if padded_len(name.len()) <= SHORT_PADDED_MAX {
        return Err(SealedNameError::WrongForm);
    }
    Ok(name)
}

fn long_entry(sealed: &[u8]) -> OsString {
    let mut entry = String::with_capacity(LONG_ENTRY_LEN);
    entry.push(char::from(SPECIAL));
    BASE64URL_NOPAD.encode_append(&Sha256::digest(sealed), &mut entry);
    entry.into()
}

/// The canonical base64url of a whole number of blocks.
fn decode_text(text: &[u8]) -> Result<Vec<u8>, SealedNameError> {
    if text.len() > const { encoded_len(NAME_TAG_LEN + PADDED_MAX) } {
        return Err(SealedNameError::Length);
    }
    // The decoder accepts one encoding for each value: unused bits must be zero.
    let sealed = BASE64URL_NOPAD.decode(text).map_err(|_| SealedNameError::Alphabet)?;
    let padded_len = sealed.len().saturating_sub(NAME_TAG_LEN);
    if padded_len == 0 || !padded_len.is_multiple_of(BLOCK) {
        return Err(SealedNameError::Length);
    }
    Ok(sealed)
}

fn open_text(key: &NameKey, iv: &DirectoryIv, text: &[u8]) -> Result<Vec<u8>, SealedNameError> {
    let sealed = decode_text(text)?;
    let mut name = key.open(&iv.0, &sealed).map_err(|_| SealedNameError::Refused)?;
    let padded = name.len();
    name.truncate(name.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1)));
    if padded_len(name.len()) != padded {
        return Err(SealedNameError::Padding);
    }
    validate(&name).map_err(|_| SealedNameError::NotAName)?;
    Ok(name)
}

fn padded_len(name_len: usize) -> usize {
    name_len.next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> NameKey {
        NameKey::new(&[7; 64])
    }

    const IV: DirectoryIv = DirectoryIv([1; 16]);
    const OTHER_IV: DirectoryIv = DirectoryIv([2; 16]);

    fn reopen(sealed: &SealedName, iv: &DirectoryIv) -> Result<Vec<u8>, SealedNameError> {
        match &sealed.sidecar_target {
            None => open(&key(), iv, &sealed.entry),
            Some(target) => open_long(&key(), iv, &sealed.entry, target),
        }
    }

    /// What a writer would make of any padded bytes, right or wrong.
    fn entry_of(padded: &[u8]) -> OsString {
        BASE64URL_NOPAD.encode(&key().seal(&IV.0, padded)).into()
    }

    #[test]
    fn every_length_round_trips_in_the_form_that_fits() {
        for len in 1..=NAME_MAX {
            let name = vec![b'x'; len];
            let sealed = seal(&key(), &IV, &name).unwrap();
            assert_eq!(reopen(&sealed, &IV).unwrap(), name);
            assert!(sealed.entry.len() <= 255);
            assert_eq!(sealed.sidecar_target.is_some(), len > SHORT_PADDED_MAX, "length {len}");
            let form = if len > SHORT_PADDED_MAX { EntryForm::Long } else { EntryForm::Short };
            assert_eq!(EntryForm::of(&sealed.entry), form);
            assert_eq!(EntryForm::of(&sidecar_of(&sealed.entry)) == EntryForm::Sidecar, len > SHORT_PADDED_MAX);
            assert_eq!(reopen(&sealed, &OTHER_IV), Err(SealedNameError::Refused));
        }
    }

    #[test]
    fn the_lengths_of_the_format_are_those_of_the_code() {
        let entry_len = |len| seal(&key(), &IV, &vec![b'x'; len]).unwrap().entry.len();
        let target_len = |len| seal(&key(), &IV, &vec![b'x'; len]).unwrap().sidecar_target.unwrap().len();
        assert_eq!((entry_len(1), entry_len(160), entry_len(161), entry_len(255)), (43, 235, 44, 44));
        assert_eq!((target_len(161), target_len(255)), (256, 363));
    }

    #[test]
    fn names_that_no_file_has_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", b"\0"] {
            assert_eq!(seal(&key(), &IV, name), Err(NameError::Invalid), "{name:?}");
        }
        assert_eq!(seal(&key(), &IV, &[b'x'; 256]), Err(NameError::TooLong));
        assert!(seal(&key(), &IV, b"...").is_ok());
    }

    #[test]
    fn equal_names_in_two_directories_differ() {
        assert_ne!(seal(&key(), &IV, b"a").unwrap(), seal(&key(), &OTHER_IV, b"a").unwrap());
    }

    #[test]
    fn rejects_a_character_outside_the_alphabet() {
        let entry = seal(&key(), &IV, b"name").unwrap().entry.into_string().unwrap();
        for bad in ["+", "/", "=", ".", "\u{e4}"] {
            let edited = format!("{}{bad}", &entry[..entry.len() - bad.len()]);
            assert_eq!(open(&key(), &IV, edited.as_ref()), Err(SealedNameError::Alphabet));
        }
    }

    #[test]
    fn rejects_a_second_encoding_of_the_same_bytes() {
        // 32 bytes are 43 characters, and the last has two bits too many: they must be zero.
        let mut entry = seal(&key(), &IV, b"name").unwrap().entry.into_string().unwrap();
        let last = BASE64URL_NOPAD.specification().symbols.find(entry.pop().unwrap()).unwrap();
        entry.push(BASE64URL_NOPAD.specification().symbols.chars().nth(last + 1).unwrap());
        assert_eq!(open(&key(), &IV, entry.as_ref()), Err(SealedNameError::Alphabet));
    }

    #[test]
    fn rejects_a_length_that_no_sealed_name_has() {
        for len in [0, 1, 15, 16, 17, 31, 33, 40, 273, 288] {
            let entry = BASE64URL_NOPAD.encode(&vec![3; len]);
            assert_eq!(open(&key(), &IV, entry.as_ref()), Err(SealedNameError::Length), "{len} bytes");
        }
    }

    #[test]
    fn rejects_an_edited_name() {
        let sealed = key().seal(&IV.0, b"0123456789abcdef");
        for bit in 0..sealed.len() * 8 {
            let mut edited = sealed.clone();
            edited[bit / 8] ^= 1 << (bit % 8);
            let entry = BASE64URL_NOPAD.encode(&edited);
            assert_eq!(open(&key(), &IV, entry.as_ref()), Err(SealedNameError::Refused), "bit {bit}");
        }
    }

    #[test]
    fn rejects_padding_that_is_not_minimal() {
        let mut padded = b"name".to_vec();
        padded.resize(32, 0);
        assert_eq!(open(&key(), &IV, &entry_of(&padded)), Err(SealedNameError::Padding));
        assert_eq!(open(&key(), &IV, &entry_of(&[0; 16])), Err(SealedNameError::Padding));
    }

    #[test]
    fn rejects_what_is_not_a_name() {
        for bad in [&b"."[..], b"..", b"a/b", b"a\0b"] {
            let mut padded = bad.to_vec();
            padded.resize(16, 0);
            assert_eq!(open(&key(), &IV, &entry_of(&padded)), Err(SealedNameError::NotAName), "{bad:?}");
        }
        assert_eq!(
            open_long(&key(), &IV, &long_entry(&key().seal(&IV.0, &[b'x'; 256])), entry_of(&[b'x'; 256]).as_bytes()),
            Err(SealedNameError::NotAName)
        );
    }

    #[test]
    fn rejects_the_wrong_form() {
        let sealed = key().seal(&IV.0, b"0123456789abcdef");
        let text = BASE64URL_NOPAD.encode(&sealed);
        let as_long = open_long(&key(), &IV, &long_entry(&sealed), text.as_bytes());
        assert_eq!(as_long, Err(SealedNameError::WrongForm));
        let as_short = open(&key(), &IV, &entry_of(&[b'x'; 176]));
        assert_eq!(as_short, Err(SealedNameError::WrongForm));
    }

    #[test]
    fn rejects_a_sidecar_of_another_name() {
        let one = seal(&key(), &IV, &[b'x'; 200]).unwrap();
        let other = seal(&key(), &IV, &[b'y'; 200]).unwrap();
        let opened = open_long(&key(), &IV, &one.entry, &other.sidecar_target.unwrap());
        assert_eq!(opened, Err(SealedNameError::WrongSidecar));
    }

    #[test]
    fn forms_are_told_by_the_name() {
        let long = format!("={}", "A".repeat(43));
        for (name, form) in [
            ("=iv", EntryForm::DirectoryIv),
            (&long, EntryForm::Long),
            (&format!("{long}.n"), EntryForm::Sidecar),
            (&format!("{long}.m"), EntryForm::Unknown),
            (&format!("={}", "A".repeat(42)), EntryForm::Unknown),
            (&format!("={}", "+".repeat(43)), EntryForm::Unknown),
            ("=iv.n", EntryForm::Unknown),
            ("=", EntryForm::Unknown),
            (".nfs0000000000000123", EntryForm::Foreign),
            (".fuse_hidden0001", EntryForm::Foreign),
            ("AAAA", EntryForm::Short),
        ] {
            assert_eq!(EntryForm::of(name.as_ref()), form, "{name}");
        }
    }

    #[test]
    fn a_sidecar_leads_back_to_its_entry() {
        let entry = seal(&key(), &IV, &[b'x'; 200]).unwrap().entry;
        assert_eq!(entry_of_sidecar(&sidecar_of(&entry)), Some(entry.as_os_str()));
    }

    proptest! {
        #[test]
        fn any_name_round_trips(name in prop::collection::vec(any::<u8>(), 0..300)) {
            match seal(&key(), &IV, &name) {
                Ok(sealed) => prop_assert_eq!(reopen(&sealed, &IV).unwrap(), name),
                Err(error) => prop_assert_eq!(validate(&name), Err(error)),
            }
        }

        #[test]
        fn no_entry_panics(entry in prop::collection::vec(any::<u8>(), 0..400), target in prop::collection::vec(any::<u8>(), 0..400)) {
            let entry = OsStr::from_bytes(&entry);
            EntryForm::of(entry);
            prop_assert!(open(&key(), &IV, entry).is_err());
            prop_assert!(open_long(&key(), &IV, entry, &target).is_err());
        }
    }
}

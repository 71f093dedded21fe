//! A directory's IV: the random number that makes its names its own.
//!
//! Every directory of the tree has a symbolic link named "=iv". Its target is
//!
//! ```text
//! base64url( IV[16] || tag[16] )        43 characters, without padding
//! tag = the first 16 bytes of HMAC-SHA256(directory-IV key, IV)
//! ```
//!
//! A symbolic link, because its target travels with the metadata: there is no moment at which it
//! exists and is empty, as a small file can be after a power cut.
//!
//! While a rotation renames what is in a directory, its target is two such records with a "." between them, the active
//! key version's first: names are under either. At any other time two are refused.
//!
//! The tag says that the IV was made by this vault, not that it belongs to this directory: that is
//! seen when one of the directory's names opens, which is checked whenever an IV is loaded.

use data_encoding::BASE64URL_NOPAD;
use thiserror::Error;

use crate::crypto::entropy;
use crate::crypto::keys::{DIRECTORY_IV_LEN, DIRECTORY_IV_TAG_LEN, VaultKeys};

/// The name of the symbolic link.
pub const ENTRY: &str = "=iv";

const RECORD_LEN: usize = 32;
const RECORD_TEXT_LEN: usize = 43;
const SEPARATOR: u8 = b'.';

const _: () = assert!(RECORD_LEN == DIRECTORY_IV_LEN + DIRECTORY_IV_TAG_LEN);

/// 16 random bytes, public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryIv(pub [u8; DIRECTORY_IV_LEN]);

/// Why a target is not the record of an IV.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DirectoryIvError {
    #[error("the directory's IV is not a record of 43 base64url characters")]
    Syntax,
    #[error("the directory has the IVs of a rotation, and none is under way")]
    SecondRecord,
    #[error("the directory's IV was edited: its tag does not match")]
    Refused,
}

impl DirectoryIv {
    /// A new one, for a new directory.
    pub fn random() -> Self {
        Self(entropy::array())
    }

    /// The target of the symbolic link.
    pub fn encode(&self, keys: &VaultKeys) -> Vec<u8> {
        let mut record = self.0.to_vec();
        record.extend(keys.directory_iv_tag(&self.0));
        BASE64URL_NOPAD.encode(&record).into_bytes()
    }

    /// From one record of the symbolic link's target.
    pub fn decode(keys: &VaultKeys, target: &[u8]) -> Result<Self, DirectoryIvError> {
        if split(target).1.is_some() {
            return Err(DirectoryIvError::SecondRecord);
        }
        if target.len() != RECORD_TEXT_LEN {
            return Err(DirectoryIvError::Syntax);
        }
        let record = BASE64URL_NOPAD.decode(target).map_err(|_| DirectoryIvError::Syntax)?;
        let (iv, tag) = record.split_first_chunk().ok_or(DirectoryIvError::Syntax)?;
        if !keys.verify_directory_iv(iv, tag) {
            return Err(DirectoryIvError::Refused);
        }
        Ok(Self(*iv))
    }
}

/// The records in a target: one, or two during a rotation.
pub fn split(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    if let Some((first, rest)) = target.split_at_checked(RECORD_TEXT_LEN)
        && let Some((&SEPARATOR, second)) = rest.split_first()
        && BASE64URL_NOPAD.decode(first).is_ok()
    {
        return (first, Some(second));
    }
    (target, None)
}

/// The target of two records.
pub fn join(newest: &[u8], older: &[u8]) -> Vec<u8> {
    [newest, &[SEPARATOR], older].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::ProjectKey;

    fn keys() -> VaultKeys {
        VaultKeys::derive(&ProjectKey::from_bytes(&mut [5; 32]), &[6; 16])
    }

    #[test]
    fn a_record_round_trips() {
        let iv = DirectoryIv::random();
        let target = iv.encode(&keys());
        assert_eq!(target.len(), RECORD_TEXT_LEN);
        assert_eq!(DirectoryIv::decode(&keys(), &target), Ok(iv));
    }

    #[test]
    fn rejects_an_edited_record() {
        let target = DirectoryIv([9; 16]).encode(&keys());
        let record = BASE64URL_NOPAD.decode(&target).unwrap();
        for bit in 0..record.len() * 8 {
            let mut edited = record.clone();
            edited[bit / 8] ^= 1 << (bit % 8);
            let target = BASE64URL_NOPAD.encode(&edited);
            assert_eq!(DirectoryIv::decode(&keys(), target.as_bytes()), Err(DirectoryIvError::Refused), "bit {bit}");
        }
    }

    #[test]
    fn rejects_a_record_of_another_vault() {
        let other = VaultKeys::derive(&ProjectKey::from_bytes(&mut [5; 32]), &[7; 16]);
        let target = DirectoryIv([9; 16]).encode(&other);
        assert_eq!(DirectoryIv::decode(&keys(), &target), Err(DirectoryIvError::Refused));
    }

    #[test]
    fn rejects_what_is_no_record() {
        let target = DirectoryIv([9; 16]).encode(&keys());
        let mut longer = target.clone();
        longer.push(b'A');
        for bad in [&b""[..], &target[..42], &longer, &[b'+'; 43], &[0xff; 43], &[b'.'; 87]] {
            assert_eq!(DirectoryIv::decode(&keys(), bad), Err(DirectoryIvError::Syntax), "{bad:?}");
        }
    }

    #[test]
    fn rejects_a_second_record() {
        let target = DirectoryIv([9; 16]).encode(&keys());
        let two = [&target[..], b".", &target].concat();
        assert_eq!(DirectoryIv::decode(&keys(), &two), Err(DirectoryIvError::SecondRecord));
    }

    proptest! {
        #[test]
        fn no_target_panics(target in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(DirectoryIv::decode(&keys(), &target).is_err());
        }
    }
}

//! The sealed table of an inode's extended attributes.
//!
//! All attributes that a user sees stand in one backing attribute ("user.sero" on regular files and directories,
//! "trusted.sero" on everything else, where the kernel allows no "user." attributes):
//!
//! ```text
//! value = nonce[12] || tag[16] || ciphertext        AES-256-GCM, xattr key, no associated data
//! plain = for each attribute, sorted by name, no name twice:
//!         name length u16, value length u32, name, value        little-endian
//! ```
//!
//! A name has 1 to 255 bytes and no NUL; the sealed table has at most 65536 bytes, the kernel's limit for one attribute. Access control lists are not in the table (the backing must inherit them).

use std::collections::BTreeMap;

use thiserror::Error;

use crate::crypto::aead::{AeadKey, MESSAGE_OVERHEAD};

/// The backing attribute of regular files and directories.
pub const ATTRIBUTE: &str = "user.sero";
/// The backing attribute of everything else.
pub const TRUSTED_ATTRIBUTE: &str = "trusted.sero";
/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// The longest sealed table, in bytes.
pub const VALUE_MAX: usize = 65536;

const AAD: &[u8] = b"";
const PLAIN_MAX: usize = 65508;

const _: () = assert!(PLAIN_MAX + MESSAGE_OVERHEAD == VALUE_MAX);

/// An attribute that does not fit.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum XattrError {
    #[error("an attribute's name has 1 to 255 bytes, and no NUL")]
    Name,
    #[error("the attributes of one inode have at most 65508 bytes together")]
    Full,
}

/// Why a backing attribute is not a sealed table.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SealedTableError {
    #[error("the attribute table has a length that no sealed table has")]
    Length,
    #[error("the attribute table does not open: it was edited")]
    Refused,
    #[error("the attribute table opens, but ends within an attribute")]
    Truncated,
    #[error("the attribute table opens, but has a name that no attribute has")]
    Name,
    #[error("the attribute table opens, but its names are not in order")]
    Order,
}

/// The attributes of an inode, by their full names ("user.comment").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<Vec<u8>, Vec<u8>>);

impl Table {
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Adds or replaces. Whether it fits is said when the table is sealed.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.0.insert(name.to_vec(), value.to_vec());
    }

    /// False if there is none of this name.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        self.0.remove(name).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the names.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(Vec::as_slice)
    }

    /// The value of the backing attribute.
    pub fn seal(&self, key: &AeadKey) -> Result<Vec<u8>, XattrError> {
        if !self.names().all(is_name) {
            return Err(XattrError::Name);
        }
        let len = self.plain_len();
        if len > PLAIN_MAX {
            return Err(XattrError::Full);
        }
        let mut plain = Vec::with_capacity(len);
        for (name, value) in &self.0 {
            plain.extend(u16::try_from(name.len()).map_err(|_| XattrError::Full)?.to_le_bytes());
            plain.extend(u32::try_from(value.len()).map_err(|_| XattrError::Full)?.to_le_bytes());
            plain.extend(name);
            plain.extend(value);
        }
        Ok(key.seal_message(AAD, &plain))
    }

    /// From the value of the backing attribute.
    pub fn open(key: &AeadKey, sealed: &[u8]) -> Result<Self, SealedTableError> {
        if !(MESSAGE_OVERHEAD..=VALUE_MAX).contains(&sealed.len()) {
            return Err(SealedTableError::Length);
        }
        Self::decode(&key.open_message(AAD, sealed).map_err(|_| SealedTableError::Refused)?)
    }

    fn decode(mut plain: &[u8]) -> Result<Self, SealedTableError> {
        let mut table = BTreeMap::new();
        while !plain.is_empty() {
            let name_len = usize::from(u16::from_le_bytes(*take_array(&mut plain)?));
            let value_len = u32::from_le_bytes(*take_array(&mut plain)?);
            let value_len = usize::try_from(value_len).map_err(|_| SealedTableError::Truncated)?;
            let name = take(&mut plain, name_len)?;
            let value = take(&mut plain, value_len)?;
            if !is_name(name) {
                return Err(SealedTableError::Name);
            }
            if table.last_key_value().is_some_and(|(last, _): (&Vec<u8>, _)| last.as_slice() >= name) {
                return Err(SealedTableError::Order);
            }
            table.insert(name.to_vec(), value.to_vec());
        }
        Ok(Self(table))
    }

    fn plain_len(&self) -> usize {
        self.0.iter().fold(0_usize, |sum, (name, value)| {
            sum.saturating_add(6).saturating_add(name.len()).saturating_add(value.len())
        })
    }
}

fn is_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.contains(&0)
}

fn take<'a>(plain: &mut &'a [u8], len: usize) -> Result<&'a [u8], SealedTableError> {
    let (taken, rest) = plain.split_at_checked(len).ok_or(SealedTableError::Truncated)?;
    *plain = rest;
    Ok(taken)
}

fn take_array<'a, const N: usize>(plain: &mut &'a [u8]) -> Result<&'a [u8; N], SealedTableError> {
    let (taken, rest) = plain.split_first_chunk().ok_or(SealedTableError::Truncated)?;
    *plain = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> AeadKey {
        AeadKey::new(&[7; 32])
    }

    fn record(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut bytes = (name.len() as u16).to_le_bytes().to_vec();
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(name);
        bytes.extend(value);
        bytes
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut table = Table::default();
        table.insert(b"user.b", b"2");
        table.insert(b"user.a", b"");
        let plain = key().open_message(AAD, &table.seal(&key()).unwrap()).unwrap();
        assert_eq!(plain.as_slice(), [record(b"user.a", b""), record(b"user.b", b"2")].concat());
    }

    #[test]
    fn insert_replaces_and_remove_tells_whether_there_was_one() {
        let mut table = Table::default();
        table.insert(b"user.a", b"1");
        table.insert(b"user.a", b"2");
        assert_eq!(table.get(b"user.a"), Some(&b"2"[..]));
        assert!(table.remove(b"user.a") && !table.remove(b"user.a") && table.is_empty());
    }

    #[test]
    fn what_no_reader_would_accept_is_not_sealed() {
        for name in [&b""[..], b"a\0", &[b'x'; 256]] {
            let mut table = Table::default();
            table.insert(name, b"");
            assert_eq!(table.seal(&key()), Err(XattrError::Name));
        }
        let mut table = Table::default();
        table.insert(b"user.a", &vec![1; PLAIN_MAX - 12]);
        let sealed = table.seal(&key()).unwrap();
        assert_eq!(sealed.len(), VALUE_MAX);
        assert_eq!(Table::open(&key(), &sealed).unwrap(), table);
        table.insert(b"user.a", &vec![1; PLAIN_MAX - 11]);
        assert_eq!(table.seal(&key()), Err(XattrError::Full));
    }

    #[test]
    fn rejects_an_edited_table() {
        let mut table = Table::default();
        table.insert(b"user.a", b"1");
        let sealed = table.seal(&key()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut edited = sealed.clone();
            edited[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Table::open(&key(), &edited), Err(SealedTableError::Refused), "bit {bit}");
        }
        assert_eq!(Table::open(&key(), &sealed[..27]), Err(SealedTableError::Length));
        assert_eq!(Table::open(&key(), &vec![0; VALUE_MAX + 1]), Err(SealedTableError::Length));
    }

    #[test]
    fn rejects_a_table_that_ends_within_an_attribute() {
        let plain = record(b"user.a", b"1");
        for len in 1..plain.len() {
            assert_eq!(Table::decode(&plain[..len]), Err(SealedTableError::Truncated), "{len} bytes");
        }
        let mut huge = record(b"user.a", b"1");
        huge[2..6].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Table::decode(&huge), Err(SealedTableError::Truncated));
    }

    #[test]
    fn rejects_a_name_that_no_attribute_has() {
        for name in [&b""[..], b"a\0", &[b'x'; 256]] {
            assert_eq!(Table::decode(&record(name, b"")), Err(SealedTableError::Name));
        }
    }

    #[test]
    fn rejects_names_out_of_order_or_twice() {
        let (a, b) = (record(b"user.a", b""), record(b"user.b", b""));
        assert_eq!(Table::decode(&[b.clone(), a.clone()].concat()), Err(SealedTableError::Order));
        assert_eq!(Table::decode(&[a.clone(), a].concat()), Err(SealedTableError::Order));
    }

    proptest! {
        #[test]
        fn any_table_round_trips(attributes in prop::collection::btree_map(
            prop::collection::vec(1_u8..=255, 1..=255), prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut table = Table::default();
            for (name, value) in &attributes {
                table.insert(name, value);
            }
            prop_assert_eq!(Table::open(&key(), &table.seal(&key()).unwrap()).unwrap(), table);
        }

        #[test]
        fn no_plain_panics(plain in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(table) = Table::decode(&plain) {
                prop_assert_eq!(table.plain_len(), plain.len());
            }
        }
    }
}

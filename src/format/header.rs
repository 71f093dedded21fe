//! The header of a home file: 128 bytes that look random.
//!
//! ```text
//! salt[32]                    of the file's keys; a new one when the file starts anew
//! nonce[12] tag[16]           AES-256-GCM under the file's header key, associated data "sero/v1/header"
//! sealed[68]:
//!   kind u8                   1 blob, 2 paged
//!   zero [3]
//!   session u32               whose page key seals the body (blob) or the root (paged)
//!   size u64                  plain bytes; determines the home's length
//!   seq u64                   raised, by a random step, with every header of this file that reaches the home
//!   birth session u32, epoch u32   when the file was made: what a crash of that session may have cost
//!   body nonce[12] tag[16]    of the blob's message, or of the root node
//!   under u32                 all of the file is under this key version or a later one; 0: not known
//!   zero [4]
//! ```
//! All integers are little-endian.

use super::geometry::{self, HEADER_LEN};
use crate::crypto::aead::{AeadError, AeadKey, NONCE_LEN, Nonce, TAG_LEN, Tag};
use crate::crypto::entropy;

/// Bytes of a file's salt.
pub const SALT_LEN: usize = 32;
const SEALED_LEN: usize = HEADER_LEN - SALT_LEN - NONCE_LEN - TAG_LEN;
const AAD: &[u8] = b"sero/v1/header";

const _: () = assert!(SEALED_LEN == 1 + 3 + 4 + 8 + 8 + 4 + 4 + NONCE_LEN + TAG_LEN + 4 + 4);

/// The salt of a file's keys.
pub type Salt = [u8; SALT_LEN];

/// One entry of a node, or the body's own in the header: what opens a page or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    pub nonce: Nonce,
    pub tag: Tag,
    /// Whose page key it is.
    pub session: u32,
}

impl Seal {
    /// The entry of a hole.
    pub const HOLE_BYTES: [u8; geometry::ENTRY_LEN] = [0; geometry::ENTRY_LEN];

    /// From the 32 bytes of an entry; None is a hole.
    pub fn decode(bytes: &[u8; geometry::ENTRY_LEN]) -> Option<Self> {
        if *bytes == Self::HOLE_BYTES {
            return None;
        }
        let mut reader = Reader::new(bytes);
        Some(Self { nonce: reader.array().ok()?, tag: reader.array().ok()?, session: reader.u32().ok()? })
    }

    /// The 32 bytes of an entry.
    pub fn encode(&self) -> [u8; geometry::ENTRY_LEN] {
        let mut bytes = [0; geometry::ENTRY_LEN];
        let mut writer = Writer::new(&mut bytes);
        writer.put(&self.nonce);
        writer.put(&self.tag);
        writer.put(&self.session.to_le_bytes());
        bytes
    }
}

/// How the body is stored; the size decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Blob,
    Paged,
}

impl Kind {
    /// The kind of every file of this plain size.
    pub const fn of_size(size: u64) -> Self {
        if size <= geometry::BLOB_MAX { Self::Blob } else { Self::Paged }
    }
}

/// When a file was made: the session (one read-write mount) and its epoch (between two background syncs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Birth {
    pub session: u32,
    pub epoch: u32,
}

/// What a verified header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub size: u64,
    pub seq: u64,
    pub birth: Birth,
    pub body: Seal,
    /// All of the file is under this version of the project key or a later one; 0: that is not known.
    pub under: u32,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the file is shorter than its header")]
    Short,
    #[error("the header does not verify")]
    Unauthentic,
    #[error("the header verifies but breaks a rule of the format")]
    Malformed,
}

impl Header {
    /// The kind of body.
    pub const fn kind(&self) -> Kind {
        Kind::of_size(self.size)
    }

    /// The salt of a home file's first bytes, which names the keys that open the rest.
    pub fn salt(home: &[u8]) -> Result<Salt, HeaderError> {
        Reader::new(home).array().map_err(|_| HeaderError::Short)
    }

    /// Seals the header into its 128 bytes.
    pub fn seal(&self, salt: &Salt, key: &AeadKey) -> Result<[u8; HEADER_LEN], AeadError> {
        let mut plain = [0; SEALED_LEN];
        let mut writer = Writer::new(&mut plain);
        writer.put(&[match self.kind() {
            Kind::Blob => 1,
            Kind::Paged => 2,
        }]);
        writer.put(&[0; 3]);
        writer.put(&self.body.session.to_le_bytes());
        writer.put(&self.size.to_le_bytes());
        writer.put(&self.seq.to_le_bytes());
        writer.put(&self.birth.session.to_le_bytes());
        writer.put(&self.birth.epoch.to_le_bytes());
        writer.put(&self.body.nonce);
        writer.put(&self.body.tag);
        writer.put(&self.under.to_le_bytes());
        let nonce: Nonce = entropy::array();
        let tag = key.seal(&nonce, AAD, &mut plain)?;
        let mut bytes = [0; HEADER_LEN];
        let mut writer = Writer::new(&mut bytes);
        writer.put(salt);
        writer.put(&nonce);
        writer.put(&tag);
        writer.put(&plain);
        Ok(bytes)
    }

    /// Opens and checks the first 128 bytes of a home file.
    pub fn open(home: &[u8], key: &AeadKey) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(home);
        let _salt: Salt = reader.array().map_err(|_| HeaderError::Short)?;
        let nonce: Nonce = reader.array().map_err(|_| HeaderError::Short)?;
        let tag: Tag = reader.array().map_err(|_| HeaderError::Short)?;
        let mut plain: [u8; SEALED_LEN] = reader.array().map_err(|_| HeaderError::Short)?;
        key.open(&nonce, AAD, &tag, &mut plain).map_err(|_| HeaderError::Unauthentic)?;
        Self::parse(&plain).map_err(|_| HeaderError::Malformed)
    }

    fn parse(plain: &[u8; SEALED_LEN]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(plain);
        let kind = match reader.array::<1>()? {
            [1] => Kind::Blob,
            [2] => Kind::Paged,
            _ => return Err(Malformed),
        };
        if reader.array::<3>()? != [0; 3] {
            return Err(Malformed);
        }
        let session = reader.u32()?;
        let size = reader.u64()?;
        let seq = reader.u64()?;
        let birth = Birth { session: reader.u32()?, epoch: reader.u32()? };
        let body = Seal { nonce: reader.array()?, tag: reader.array()?, session };
        let under = reader.u32()?;
        if reader.array::<4>()? != [0; 4] || size > geometry::SIZE_MAX || Kind::of_size(size) != kind {
            return Err(Malformed);
        }
        Ok(Self { size, seq, birth, body, under })
    }
}

/// Bytes that do not say what they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes")]
pub struct Malformed;

/// Reads fields one after another, each from where the one before ended.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// What has not been read.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Writes fields one after another into a buffer whose length is known to fit them.
pub struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    pub const fn new(bytes: &'a mut [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Appends `bytes`; what does not fit is a mistake in a layout, which the length assertions exclude.
    pub fn put(&mut self, bytes: &[u8]) {
        let rest = std::mem::take(&mut self.rest);
        if let Some((head, tail)) = rest.split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(bytes);
            self.rest = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Header {
        Header {
            size: 5000,
            seq: 7,
            birth: Birth { session: 1, epoch: 2 },
            body: Seal { nonce: [3; 12], tag: [4; 16], session: 5 },
            under: 6,
        }
    }

    #[test]
    fn a_header_opens_as_it_was_sealed() {
        let key = AeadKey::new(&[9; 32]);
        let bytes = example().seal(&[1; 32], &key).expect("seals");
        assert_eq!(Header::salt(&bytes), Ok([1; 32]));
        assert_eq!(Header::open(&bytes, &key), Ok(example()));
        assert_ne!(bytes, example().seal(&[1; 32], &key).expect("seals"), "nonces are fresh");
    }

    #[test]
    fn any_flipped_bit_behind_the_salt_is_refused() {
        let key = AeadKey::new(&[9; 32]);
        let bytes = example().seal(&[1; 32], &key).expect("seals");
        for bit in SALT_LEN * 8..HEADER_LEN * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::open(&damaged, &key), Err(HeaderError::Unauthentic), "bit {bit}");
        }
        assert_eq!(Header::open(&bytes[..127], &key), Err(HeaderError::Short));
    }

    #[test]
    fn sealed_rules_are_checked() {
        let sealed = |edit: &dyn Fn(&mut [u8])| {
            let mut plain = [0_u8; SEALED_LEN];
            plain[0] = 1;
            edit(&mut plain);
            Header::parse(&plain)
        };
        assert!(sealed(&|_| ()).is_ok());
        assert_eq!(sealed(&|plain| plain[0] = 0), Err(Malformed), "an unknown kind");
        assert_eq!(sealed(&|plain| plain[0] = 2), Err(Malformed), "a paged file of a blob's size");
        assert_eq!(sealed(&|plain| plain[2] = 1), Err(Malformed), "reserved bytes");
        assert_eq!(sealed(&|plain| plain[SEALED_LEN - 1] = 1), Err(Malformed), "reserved bytes at the end");
        assert_eq!(sealed(&|plain| plain[8..16].fill(0xff)), Err(Malformed), "a size beyond the largest");
    }

    #[test]
    fn an_entry_of_zeros_is_a_hole_and_no_other_is() {
        assert_eq!(Seal::decode(&[0; 32]), None);
        let seal = Seal { nonce: [0; 12], tag: [0; 16], session: 1 };
        assert_eq!(Seal::decode(&seal.encode()), Some(seal));
    }
}

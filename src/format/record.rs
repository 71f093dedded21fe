//! The redo journal's bytes: segment headers, records, and the operations in them.
//!
//! A segment is a file of 4 KiB blocks. Block 0 holds the segment's header; records follow, each a
//! descriptor of one block and then the images it speaks of, one block each. Everything is sealed or is
//! ciphertext already, so that a segment looks random. A descriptor seals:
//!
//! ```text
//! lsn u64              one more than the record before
//! segment seq u64      which use of the segment this is
//! previous tag[16]     of the descriptor before (of the segment's header, for the first): the chain
//! synced through u64   a record up to which everything was known to be durable when this was written
//! images u16           blocks after this one
//! images' nonce[12] tag[16]   AES-256-GCM over all images as associated data, no plaintext
//! operations u16       bytes of operations, which follow; zeros to the end of the block
//! ```
//!
//! Images are ciphertext of the file already and are not sealed again, only authenticated, so that an image
//! that did not reach the disk whole is noticed before anything of its record is used.

use super::geometry::PAGE_LEN;
use super::header::{Malformed, Reader, Salt, Writer};
use crate::crypto::aead::{AeadError, AeadKey, NONCE_LEN, Nonce, TAG_LEN, Tag};
use crate::crypto::entropy;

/// Bytes of a journal's random id, which derives its key.
pub const JOURNAL_ID_LEN: usize = 16;
/// A journal's id: one for each read-write mount.
pub type JournalId = [u8; JOURNAL_ID_LEN];

const RECORD_AAD: &[u8; 22] = b"sero/v1/journal/record";
const SEGMENT_AAD: &[u8] = b"sero/v1/journal/segment";
const PLAIN_LEN: usize = PAGE_LEN - NONCE_LEN - TAG_LEN;
const FIXED_LEN: usize = 8 + 8 + TAG_LEN + 8 + 2 + NONCE_LEN + TAG_LEN + 2;
/// Bytes of operations that one record holds at the most.
pub const OPERATIONS_MAX: usize = PLAIN_LEN - FIXED_LEN;
/// Images that one record holds at the most.
pub const IMAGES_MAX: usize = 256;
/// Bytes of one page's entry in [`Operation::Pages`].
pub const PAGE_SEAL_LEN: usize = 8 + NONCE_LEN + TAG_LEN;
/// The largest piece of text in one [`Operation::Text`].
pub const TEXT_MAX: usize = 2048;

/// The number of a record in its journal; one more than the record before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The number of a segment's use in its journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSeq(pub u64);

/// Seconds and nanoseconds since the epoch, as the journal keeps them.
pub type Time = (i64, u32);

/// What a segment's first block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub seq: SegmentSeq,
    /// The number of the first record in it.
    pub first_lsn: Lsn,
    /// The session (read-write mount) that wrote it.
    pub session: u32,
    /// Files made in this session in epochs up to this one are durable.
    pub durable_epoch: u32,
    /// When the first epoch began that is not known to be durable.
    pub window_start: Time,
    /// The tag of the last record of the segment before: the chain goes on across segments.
    pub previous: Tag,
}

const SEGMENT_PLAIN_LEN: usize = 8 + 8 + 4 + 4 + 8 + 4 + TAG_LEN;

impl SegmentHeader {
    /// Seals the header into the start of a block; what is behind it stays as it is. Returns the tag, which
    /// begins the chain of the segment's records.
    pub fn seal(&self, id: &JournalId, key: &AeadKey, block: &mut [u8]) -> Result<Tag, AeadError> {
        let mut plain = [0; SEGMENT_PLAIN_LEN];
        let mut writer = Writer::new(&mut plain);
        writer.put(&self.seq.0.to_le_bytes());
        writer.put(&self.first_lsn.0.to_le_bytes());
        writer.put(&self.session.to_le_bytes());
        writer.put(&self.durable_epoch.to_le_bytes());
        writer.put(&self.window_start.0.to_le_bytes());
        writer.put(&self.window_start.1.to_le_bytes());
        writer.put(&self.previous);
        let nonce: Nonce = entropy::array();
        let tag = key.seal(&nonce, SEGMENT_AAD, &mut plain)?;
        let mut writer = Writer::new(block);
        writer.put(id);
        writer.put(&nonce);
        writer.put(&tag);
        writer.put(&plain);
        Ok(tag)
    }

    /// The journal id in a segment's first block: random bytes that name the key.
    pub fn journal_id(block: &[u8]) -> Result<JournalId, Malformed> {
        Reader::new(block).array()
    }

    /// Opens a segment's first block.
    pub fn open(block: &[u8], key: &AeadKey) -> Result<(Self, Tag), Malformed> {
        let mut reader = Reader::new(block);
        let _id: JournalId = reader.array()?;
        let nonce: Nonce = reader.array()?;
        let tag: Tag = reader.array()?;
        let mut plain: [u8; SEGMENT_PLAIN_LEN] = reader.array()?;
        key.open(&nonce, SEGMENT_AAD, &tag, &mut plain).map_err(|_| Malformed)?;
        let mut reader = Reader::new(&plain);
        let header = Self {
            seq: SegmentSeq(reader.u64()?),
            first_lsn: Lsn(reader.u64()?),
            session: reader.u32()?,
            durable_epoch: reader.u32()?,
            window_start: (reader.i64()?, reader.u32()?),
            previous: reader.array()?,
        };
        Ok((header, tag))
    }
}

/// A file's number in one journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Where the image of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The next image of this record.
    Journal,
    /// In the home file already, synced.
    Home,
}

/// What opens one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSeal {
    pub page: u64,
    pub nonce: Nonce,
    pub tag: Tag,
}

/// One step of the journal. Images are consumed in order, by the operations that speak of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A piece of the text that the next `File` or `Rename` takes.
    Text(Vec<u8>),
    /// From here on `file` means the file at the collected path (in the tree), which at this point has this
    /// salt and header sequence number. Stands in each segment before the file's first operation there.
    File { file: FileId, salt: Salt, seq: u64 },
    /// These pages have new content.
    Pages { file: FileId, session: u32, placement: Placement, seals: Vec<PageSeal> },
    /// The plain size and modification time; pages beyond the size are dropped.
    Length { file: FileId, size: u64, mtime: Option<Time> },
    /// The whole home file, a blob: `images` blocks, of which `home_len` bytes count.
    Blob { file: FileId, images: u8, home_len: u32, mtime: Option<Time> },
    /// The file starts anew as an empty tree with this salt; what its home held counts for nothing.
    Reset { file: FileId, salt: Salt, birth_session: u32, birth_epoch: u32 },
    /// These pages are holes.
    Punch { file: FileId, first: u64, count: u64 },
    /// The home may be longer than its size says: it was extended before its pages were recorded.
    Extending { file: FileId },
    /// A checkpoint's image of a node (one image).
    Node { file: FileId, block: u64 },
    /// A checkpoint's image of block 0, header and root (one image).
    Root { file: FileId, mtime: Option<Time> },
    /// The checkpoint's images in this segment are complete: they stand for all before them.
    CheckpointEnd,
    /// The segment of this number has been applied, durably, and may be used again.
    Retired { seq: SegmentSeq },
    /// Files made in this session in epochs up to this one are durable; the next began at this time.
    Epoch { durable: u32, window_start: Time },
    /// The collected text is two tree paths and a NUL between: the first is about to be renamed to the second.
    Rename { exchange: bool },
}

impl Operation {
    /// How many images it consumes.
    pub fn images(&self) -> usize {
        match self {
            Self::Pages { placement: Placement::Journal, seals, .. } => seals.len(),
            Self::Blob { images, .. } => usize::from(*images),
            Self::Node { .. } | Self::Root { .. } => 1,
            Self::Text(_)
            | Self::File { .. }
            | Self::Pages { placement: Placement::Home, .. }
            | Self::Length { .. }
            | Self::Reset { .. }
            | Self::Punch { .. }
            | Self::Extending { .. }
            | Self::CheckpointEnd
            | Self::Retired { .. }
            | Self::Epoch { .. }
            | Self::Rename { .. } => 0,
        }
    }

    /// Appends the operation's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                out.push(1);
                out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
                out.extend(text);
            }
            Self::File { file, salt, seq } => {
                out.push(2);
                out.extend(file.0.to_le_bytes());
                out.extend(salt);
                out.extend(seq.to_le_bytes());
            }
            Self::Pages { file, session, placement, seals } => {
                out.push(3);
                out.extend(file.0.to_le_bytes());
                out.extend(session.to_le_bytes());
                out.push(match placement {
                    Placement::Journal => 0,
                    Placement::Home => 1,
                });
                out.extend(u16::try_from(seals.len()).unwrap_or(u16::MAX).to_le_bytes());
                for seal in seals {
                    out.extend(seal.page.to_le_bytes());
                    out.extend(seal.nonce);
                    out.extend(seal.tag);
                }
            }
            Self::Length { file, size, mtime } => {
                out.push(4);
                out.extend(file.0.to_le_bytes());
                out.extend(size.to_le_bytes());
                encode_time(*mtime, out);
            }
            Self::Blob { file, images, home_len, mtime } => {
                out.push(5);
                out.extend(file.0.to_le_bytes());
                out.push(*images);
                out.extend(home_len.to_le_bytes());
                encode_time(*mtime, out);
            }
            Self::Reset { file, salt, birth_session, birth_epoch } => {
                out.push(6);
                out.extend(file.0.to_le_bytes());
                out.extend(salt);
                out.extend(birth_session.to_le_bytes());
                out.extend(birth_epoch.to_le_bytes());
            }
            Self::Punch { file, first, count } => {
                out.push(7);
                out.extend(file.0.to_le_bytes());
                out.extend(first.to_le_bytes());
                out.extend(count.to_le_bytes());
            }
            Self::Extending { file } => {
                out.push(8);
                out.extend(file.0.to_le_bytes());
            }
            Self::Node { file, block } => {
                out.push(9);
                out.extend(file.0.to_le_bytes());
                out.extend(block.to_le_bytes());
            }
            Self::Root { file, mtime } => {
                out.push(10);
                out.extend(file.0.to_le_bytes());
                encode_time(*mtime, out);
            }
            Self::CheckpointEnd => out.push(11),
            Self::Retired { seq } => {
                out.push(12);
                out.extend(seq.0.to_le_bytes());
            }
            Self::Epoch { durable, window_start } => {
                out.push(13);
                out.extend(durable.to_le_bytes());
                out.extend(window_start.0.to_le_bytes());
                out.extend(window_start.1.to_le_bytes());
            }
            Self::Rename { exchange } => out.extend([14, u8::from(*exchange)]),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let file = |reader: &mut Reader<'_>| reader.u32().map(FileId);
        Ok(match reader.u8()? {
            1 => {
                let len = usize::from(reader.u16()?);
                Self::Text(reader.bytes(len)?.to_vec())
            }
            2 => Self::File { file: file(reader)?, salt: reader.array()?, seq: reader.u64()? },
            3 => {
                let file = file(reader)?;
                let session = reader.u32()?;
                let placement = match reader.u8()? {
                    0 => Placement::Journal,
                    1 => Placement::Home,
                    _ => return Err(Malformed),
                };
                let count = usize::from(reader.u16()?);
                let mut seals = Vec::with_capacity(count.min(OPERATIONS_MAX / PAGE_SEAL_LEN));
                for _ in 0..count {
                    seals.push(PageSeal { page: reader.u64()?, nonce: reader.array()?, tag: reader.array()? });
                }
                Self::Pages { file, session, placement, seals }
            }
            4 => Self::Length { file: file(reader)?, size: reader.u64()?, mtime: decode_time(reader)? },
            5 => Self::Blob {
                file: file(reader)?,
                images: reader.u8()?,
                home_len: reader.u32()?,
                mtime: decode_time(reader)?,
            },
            6 => Self::Reset {
                file: file(reader)?,
                salt: reader.array()?,
                birth_session: reader.u32()?,
                birth_epoch: reader.u32()?,
            },
            7 => Self::Punch { file: file(reader)?, first: reader.u64()?, count: reader.u64()? },
            8 => Self::Extending { file: file(reader)? },
            9 => Self::Node { file: file(reader)?, block: reader.u64()? },
            10 => Self::Root { file: file(reader)?, mtime: decode_time(reader)? },
            11 => Self::CheckpointEnd,
            12 => Self::Retired { seq: SegmentSeq(reader.u64()?) },
            13 => Self::Epoch { durable: reader.u32()?, window_start: (reader.i64()?, reader.u32()?) },
            14 => Self::Rename { exchange: reader.u8()? != 0 },
            _ => return Err(Malformed),
        })
    }
}

fn encode_time(time: Option<Time>, out: &mut Vec<u8>) {
    let (seconds, nanoseconds) = time.unwrap_or((0, u32::MAX));
    out.extend(seconds.to_le_bytes());
    out.extend(nanoseconds.to_le_bytes());
}

fn decode_time(reader: &mut Reader<'_>) -> Result<Option<Time>, Malformed> {
    let time = (reader.i64()?, reader.u32()?);
    Ok((time.1 != u32::MAX).then_some(time))
}

/// A record's descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub lsn: Lsn,
    pub segment: SegmentSeq,
    pub previous: Tag,
    pub synced_through: Lsn,
    /// Blocks after the descriptor.
    pub images: u16,
    images_nonce: Nonce,
    images_tag: Tag,
    pub operations: Vec<Operation>,
}

fn aad(block: u64) -> [u8; RECORD_AAD.len() + 8] {
    let mut aad = [0; RECORD_AAD.len() + 8];
    let mut writer = Writer::new(&mut aad);
    writer.put(RECORD_AAD);
    writer.put(&block.to_le_bytes());
    aad
}

/// The fixed fields of a descriptor that is about to be sealed.
#[derive(Clone, Copy, Debug)]
pub struct RecordHead {
    pub lsn: Lsn,
    pub segment: SegmentSeq,
    pub previous: Tag,
    pub synced_through: Lsn,
}

/// Seals a descriptor of encoded `operations` (at most [`OPERATIONS_MAX`] bytes) and `images` (whole blocks)
/// for the block at which it will stand; `descriptor` is one block. Returns the tag that the next record is
/// chained to.
pub fn seal_record(
    head: &RecordHead,
    operations: &[u8],
    images: &[u8],
    block: u64,
    key: &AeadKey,
    descriptor: &mut [u8],
) -> Result<Tag, AeadError> {
    let images_nonce: Nonce = entropy::array();
    let images_tag = key.seal(&images_nonce, images, &mut [])?;
    let mut plain = [0; PLAIN_LEN];
    let mut writer = Writer::new(&mut plain);
    writer.put(&head.lsn.0.to_le_bytes());
    writer.put(&head.segment.0.to_le_bytes());
    writer.put(&head.previous);
    writer.put(&head.synced_through.0.to_le_bytes());
    writer.put(&u16::try_from(images.len() / PAGE_LEN).unwrap_or(u16::MAX).to_le_bytes());
    writer.put(&images_nonce);
    writer.put(&images_tag);
    writer.put(&u16::try_from(operations.len()).unwrap_or(u16::MAX).to_le_bytes());
    writer.put(operations);
    let nonce: Nonce = entropy::array();
    let tag = key.seal(&nonce, &aad(block), &mut plain)?;
    let mut writer = Writer::new(descriptor);
    writer.put(&nonce);
    writer.put(&tag);
    writer.put(&plain);
    Ok(tag)
}

impl Record {
    /// Opens the descriptor that stands at `block`; also returns its tag.
    pub fn open(descriptor: &[u8], block: u64, key: &AeadKey) -> Result<(Self, Tag), Malformed> {
        let mut reader = Reader::new(descriptor);
        let nonce: Nonce = reader.array()?;
        let tag: Tag = reader.array()?;
        let mut plain: [u8; PLAIN_LEN] = reader.array()?;
        key.open(&nonce, &aad(block), &tag, &mut plain).map_err(|_| Malformed)?;
        Ok((Self::parse(&plain)?, tag))
    }

    fn parse(plain: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(plain);
        let lsn = Lsn(reader.u64()?);
        let segment = SegmentSeq(reader.u64()?);
        let previous = reader.array()?;
        let synced_through = Lsn(reader.u64()?);
        let images = reader.u16()?;
        let images_nonce = reader.array()?;
        let images_tag = reader.array()?;
        let len = usize::from(reader.u16()?);
        let mut body = Reader::new(reader.bytes(len)?);
        let mut operations = Vec::new();
        let mut consumed = 0_usize;
        while !body.rest().is_empty() {
            let operation = Operation::decode(&mut body)?;
            consumed = consumed.saturating_add(operation.images());
            operations.push(operation);
        }
        if consumed != usize::from(images) || consumed > IMAGES_MAX {
            return Err(Malformed);
        }
        Ok(Self { lsn, segment, previous, synced_through, images, images_nonce, images_tag, operations })
    }

    /// Whether `images` are the blocks that were written with this descriptor.
    pub fn images_verify(&self, images: &[u8], key: &AeadKey) -> bool {
        images.len() == usize::from(self.images).saturating_mul(PAGE_LEN)
            && key.open(&self.images_nonce, images, &self.images_tag, &mut []).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES_AT: usize = 8 + 8 + TAG_LEN + 8;

    fn every_operation() -> Vec<Operation> {
        let file = FileId(3);
        let seal = |page| PageSeal { page, nonce: [1; 12], tag: [2; 16] };
        vec![
            Operation::Text(b"ab/cd".to_vec()),
            Operation::File { file, salt: [7; 32], seq: 9 },
            Operation::Pages { file, session: 5, placement: Placement::Journal, seals: vec![seal(1), seal(2)] },
            Operation::Pages { file, session: 5, placement: Placement::Home, seals: vec![seal(3)] },
            Operation::Length { file, size: 70_000, mtime: Some((-5, 6)) },
            Operation::Length { file, size: 70_000, mtime: None },
            Operation::Blob { file, images: 2, home_len: 5000, mtime: None },
            Operation::Reset { file, salt: [8; 32], birth_session: 1, birth_epoch: 2 },
            Operation::Punch { file, first: 4, count: 5 },
            Operation::Extending { file },
            Operation::Node { file, block: 120 },
            Operation::Root { file, mtime: None },
            Operation::CheckpointEnd,
            Operation::Retired { seq: SegmentSeq(4) },
            Operation::Epoch { durable: 3, window_start: (1, 2) },
            Operation::Rename { exchange: true },
        ]
    }

    fn sealed(operations: &[Operation], block: u64) -> (Vec<u8>, Tag) {
        let mut bytes = Vec::new();
        operations.iter().for_each(|operation| operation.encode(&mut bytes));
        let head = RecordHead { lsn: Lsn(11), segment: SegmentSeq(2), previous: [6; 16], synced_through: Lsn(10) };
        let images = vec![5; operations.iter().map(Operation::images).sum::<usize>() * PAGE_LEN];
        let mut descriptor = vec![0; PAGE_LEN];
        let tag = seal_record(&head, &bytes, &images, block, &AeadKey::new(&[1; 32]), &mut descriptor).expect("seals");
        (descriptor, tag)
    }

    #[test]
    fn every_operation_survives_the_journal() {
        let (descriptor, tag) = sealed(&every_operation(), 5);
        let (record, opened_tag) = Record::open(&descriptor, 5, &AeadKey::new(&[1; 32])).expect("opens");
        assert_eq!(record.operations, every_operation());
        assert_eq!((record.lsn, record.segment, opened_tag), (Lsn(11), SegmentSeq(2), tag));
        let mut images = vec![5; usize::from(record.images) * PAGE_LEN];
        assert!(record.images_verify(&images, &AeadKey::new(&[1; 32])));
        images[PAGE_LEN] ^= 1;
        assert!(!record.images_verify(&images, &AeadKey::new(&[1; 32])), "a torn image");
        assert!(!record.images_verify(&images[..PAGE_LEN], &AeadKey::new(&[1; 32])), "an image that is missing");
    }

    #[test]
    fn a_record_elsewhere_or_damaged_is_refused() {
        let (descriptor, _) = sealed(&every_operation(), 5);
        let key = AeadKey::new(&[1; 32]);
        assert!(Record::open(&descriptor, 6, &key).is_err(), "another block");
        assert!(Record::open(&descriptor, 5, &AeadKey::new(&[2; 32])).is_err(), "another journal");
        assert!(Record::open(&descriptor[..4095], 5, &key).is_err(), "cut short");
        for byte in 0..PAGE_LEN {
            let mut damaged = descriptor.clone();
            damaged[byte] ^= 1;
            assert!(Record::open(&damaged, 5, &key).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn operations_and_images_must_agree() {
        let mut plain = vec![0; PLAIN_LEN];
        plain[IMAGES_AT] = 1; // one image, no operation that takes it
        assert_eq!(Record::parse(&plain), Err(Malformed));
        plain[IMAGES_AT] = 0;
        assert!(Record::parse(&plain).is_ok());
        plain[FIXED_LEN - 2] = 1;
        plain[FIXED_LEN] = 0xff; // an unknown operation
        assert_eq!(Record::parse(&plain), Err(Malformed));
        plain[FIXED_LEN - 2..FIXED_LEN].fill(0xff); // more operations than the block holds
        assert_eq!(Record::parse(&plain), Err(Malformed));
    }

    #[test]
    fn a_segment_header_opens_as_it_was_sealed() {
        let header = SegmentHeader {
            seq: SegmentSeq(1),
            first_lsn: Lsn(2),
            session: 3,
            durable_epoch: 4,
            window_start: (5, 6),
            previous: [7; 16],
        };
        let key = AeadKey::new(&[1; 32]);
        let mut block = vec![0; PAGE_LEN];
        let tag = header.seal(&[9; 16], &key, &mut block).expect("seals");
        assert_eq!(SegmentHeader::journal_id(&block), Ok([9; 16]));
        assert_eq!(SegmentHeader::open(&block, &key), Ok((header, tag)));
        block[50] ^= 1;
        assert!(SegmentHeader::open(&block, &key).is_err());
    }
}

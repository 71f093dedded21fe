//! The parsers of `format`, each on raw bytes and on what a holder of the key could have sealed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use data_encoding::BASE64URL_NOPAD;
use sero::crypto::aead::AeadKey;
use sero::crypto::names::NameKey;
use sero::crypto::{ProjectKey, VaultKeys};
use sero::format::configuration::Configuration;
use sero::format::directory_iv::DirectoryIv;
use sero::format::geometry::{
    BlockIndex, Child, PAGE_BYTES, PageIndex, Path, SIZE_MAX, at_block, home_len, page_block, parent_of, plain_len,
};
use sero::format::header::{Header, Seal};
use sero::format::names::{self, EntryForm};
use sero::format::record::{Record, SegmentHeader};
use sero::format::symlink;
use sero::format::xattrs::Table;

use super::Input;

fn key() -> AeadKey {
    AeadKey::new(&[7; 32])
}

/// `prefix`, and behind it `plain`, padded or cut to `len`, sealed as nonce, tag and ciphertext.
fn sealed(prefix: &[u8], plain: &[u8], len: usize, aad: &[u8]) -> Vec<u8> {
    let mut plain = plain.to_vec();
    plain.resize(len, 0);
    let tag = key().seal(&[5; 12], aad, &mut plain).expect("it seals");
    [prefix, &[5; 12], &tag, &plain].concat()
}

pub fn header(data: &[u8]) {
    let _ = Header::salt(data);
    let _ = Header::open(data, &key());
    if let Some(entry) = data.first_chunk()
        && let Some(seal) = Seal::decode(entry)
    {
        assert_eq!(seal.encode(), *entry);
    }
    if let Ok(header) = Header::open(&sealed(&[1; 32], data, 68, b"sero/v1/header"), &key()) {
        assert!(header.size <= SIZE_MAX);
        assert_eq!(plain_len(home_len(header.size)), Some(header.size));
        let again = header.seal(&[1; 32], &key()).expect("it seals");
        assert_eq!(Header::open(&again, &key()), Ok(header));
    }
}

pub fn geometry(data: &[u8]) {
    for number in data.chunks(8) {
        let mut bytes = [0; 8];
        bytes[..number.len()].copy_from_slice(number);
        let number = u64::from_le_bytes(bytes);
        if let Some(size) = plain_len(number) {
            assert!(size <= SIZE_MAX);
            assert_eq!(home_len(size), number);
        }
        let _ = home_len(number);
        let _ = PageIndex(number).len_in(number);
        match at_block(BlockIndex(number)) {
            Some(Child::Page(page)) if number > 0 => assert_eq!(page_block(page).0, number),
            Some(Child::Node(node)) => {
                assert_eq!(node.block.0, number);
                let above = parent_of(node).map(|slot| at_block(slot.node));
                assert!(node.is_root() || matches!(above, Some(Some(Child::Node(_)))));
            }
            _ => {}
        }
        let _ = page_block(PageIndex(number));
        match Path::to(PageIndex(number)) {
            Some(path) => {
                let (leaf, index) = path.leaf();
                assert_eq!(leaf.child(index), Child::Page(PageIndex(number)));
                assert_eq!(at_block(page_block(PageIndex(number))), Some(Child::Page(PageIndex(number))));
            }
            None => assert!(number >= SIZE_MAX / PAGE_BYTES),
        }
    }
}

pub fn record(data: &[u8]) {
    let _ = Record::open(data, 1, &key());
    let aad = [&b"sero/v1/journal/record"[..], &9_u64.to_le_bytes()].concat();
    let Ok((record, _)) = Record::open(&sealed(&[], data, 4068, &aad), 9, &key()) else { return };
    // What follows the fixed fields is what the operations encode to; a rename's flag alone has several forms.
    let mut encoded = Vec::new();
    record.operations.iter().for_each(|operation| operation.encode(&mut encoded));
    let images: usize = record.operations.iter().map(|operation| operation.images()).sum();
    assert_eq!(images, usize::from(record.images));
    assert!(encoded.len() <= sero::format::record::OPERATIONS_MAX);
    assert!(!record.images_verify(&[0; 17], &key()));
}

pub fn segment(data: &[u8]) {
    let _ = SegmentHeader::journal_id(data);
    let _ = SegmentHeader::open(data, &key());
    let opened = SegmentHeader::open(&sealed(&[3; 16], data, 52, b"sero/v1/journal/segment"), &key());
    let (header, _) = opened.expect("every value has a meaning");
    let mut block = [0; 4096];
    let tag = header.seal(&[3; 16], &key(), &mut block).expect("it seals");
    assert_eq!(SegmentHeader::open(&block, &key()), Ok((header, tag)));
}

pub fn configuration(data: &[u8]) {
    let Ok(configuration) = Configuration::parse(data) else { return };
    let encoded = configuration.encode().expect("what was parsed can be encoded");
    assert_eq!(Configuration::parse(&encoded).expect("and parsed again"), configuration);
    let _ = configuration.verify(&vault_keys());
}

fn vault_keys() -> VaultKeys {
    VaultKeys::derive(&ProjectKey::from_bytes(&mut [9; 32]), &[4; 16])
}

pub fn names(data: &[u8]) {
    let (key, iv) = (NameKey::new(&[7; 64]), DirectoryIv([1; 16]));
    let entry = OsStr::from_bytes(data);
    let _ = EntryForm::of(entry);
    let _ = names::open(&key, &iv, entry);
    let _ = names::entry_of_sidecar(entry);
    let half = data.len() / 2;
    let _ = names::open_long(&key, &iv, OsStr::from_bytes(&data[..half]), &data[half..]);
    // Sealed, whole and padded to blocks.
    let mut padded = data.to_vec();
    for _ in 0..2 {
        let text = BASE64URL_NOPAD.encode(&key.seal(&iv.0, &padded));
        if let Ok(name) = names::open(&key, &iv, OsStr::new(&text)) {
            let sealed = names::seal(&key, &iv, &name).expect("a name that opens can be sealed");
            assert_eq!((sealed.entry.as_os_str(), sealed.sidecar_target), (OsStr::new(&text), None));
        }
        padded.resize(data.len().next_multiple_of(16).max(16), 0);
    }
    if let Ok(sealed) = names::seal(&key, &iv, data) {
        let opened = match &sealed.sidecar_target {
            None => names::open(&key, &iv, &sealed.entry),
            Some(target) => names::open_long(&key, &iv, &sealed.entry, target),
        };
        assert_eq!(opened.as_deref(), Ok(data));
    }
}

pub fn directory_iv(data: &[u8]) {
    let keys = vault_keys();
    if let Ok(iv) = DirectoryIv::decode(&keys, data) {
        assert_eq!(iv.encode(&keys), data);
    }
    if let Some(iv) = data.first_chunk() {
        let record = DirectoryIv(*iv).encode(&keys);
        assert_eq!(DirectoryIv::decode(&keys, &record), Ok(DirectoryIv(*iv)));
        // The rest of the input edits it.
        let mut edited = record.clone();
        for edit in data[16..].chunks_exact(2) {
            let at = usize::from(edit[0]) % edited.len();
            edited[at] = edit[1];
        }
        assert!(edited == record || DirectoryIv::decode(&keys, &edited).is_err());
    }
}

pub fn symlink(data: &[u8]) {
    let _ = symlink::parse(data);
    let _ = symlink::open(&key(), data);
    let mut input = Input(data);
    let _ = symlink::plain_len(u64::MAX - input.number(1 << 32));
    let _ = symlink::plain_len(input.number(6000));
    let text = BASE64URL_NOPAD.encode(&key().seal_message(b"", data));
    if let Ok(target) = symlink::open(&key(), text.as_bytes()) {
        assert_eq!(target.as_slice(), data);
        assert_eq!(symlink::plain_len(text.len() as u64), Some(data.len() as u64));
        assert!(symlink::seal(&key(), data).is_ok());
    } else {
        assert!(symlink::seal(&key(), data).is_err());
    }
}

pub fn xattrs(data: &[u8]) {
    let _ = Table::open(&key(), data);
    let sealed = key().seal_message(b"", data);
    if let Ok(table) = Table::open(&key(), &sealed) {
        let again = table.seal(&key()).expect("what opens can be sealed");
        assert_eq!(again.len(), sealed.len(), "there is one form of a table");
        assert_eq!(Table::open(&key(), &again), Ok(table));
    }
}

//! Sealed targets of symbolic links.
//!
//! ```text
//! sealed = nonce[12] || tag[16] || ciphertext     AES-256-GCM, symlink key, no associated data
//! text   = base64url(sealed), without padding
//!
//! text <= 1000 bytes:  it is the target of the backing symbolic link              39..=1000 bytes
//! longer:              that target is  "=" id                                      33 bytes
//!                      where id is 24 random bytes in base64url; the text, cut into pieces of 1000 bytes (the
//!                      last may be shorter), is the targets of the symbolic links "id.0", "id.1", ... in the
//!                      folder private/links                                        2 to 6 of them
//! ```
//!
//! 1000, because xfs has room for 1023 bytes in a target. A target in the vault has 1 to 4095 bytes and no NUL,
//! as everywhere in Linux. The two forms differ in length: no text has 33 bytes, as the shortest has 39.

use data_encoding::BASE64URL_NOPAD;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::crypto::aead::{AeadKey, MESSAGE_OVERHEAD};
use crate::crypto::entropy;

/// The longest target, in bytes.
pub const TARGET_MAX: usize = 4095;
/// The longest target in the backing, in bytes.
pub const PIECE_MAX: usize = 1000;
/// The most pieces that a target has.
pub const PIECES_MAX: usize = 6;

const SPECIAL: u8 = b'=';
const ID_LEN: usize = 24;
const ID_TEXT_LEN: usize = 32;
const REFERENCE_LEN: usize = 33;
const TEXT_MAX: usize = encoded_len(MESSAGE_OVERHEAD + TARGET_MAX);
const AAD: &[u8] = b"";

const _: () = assert!(TEXT_MAX.div_ceil(PIECE_MAX) == PIECES_MAX);
const _: () = assert!(encoded_len(ID_LEN) == ID_TEXT_LEN && 1 + ID_TEXT_LEN == REFERENCE_LEN);
const _: () = assert!(encoded_len(MESSAGE_OVERHEAD + 1) > REFERENCE_LEN);

#[expect(clippy::arithmetic_side_effects, reason = "evaluated at compile time alone")]
const fn encoded_len(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// A target that no symbolic link can have.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    #[error("a symbolic link's target has 1 to 4095 bytes, and no NUL")]
    Invalid,
    #[error("a symbolic link's target has at most 4095 bytes")]
    TooLong,
}

/// Why a backing symbolic link does not hold a sealed target.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SealedTargetError {
    #[error("the symbolic link's target is not base64url")]
    Alphabet,
    #[error("the symbolic link's target has a length that no sealed target has")]
    Length,
    #[error("the symbolic link's target does not open: it was edited, or a piece of it is missing")]
    Refused,
    #[error("the symbolic link's target opens, but to what is not a target")]
    NotATarget,
}

/// The name of a long target's pieces in private/links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkId(String);

impl LinkId {
    fn random() -> Self {
        Self(BASE64URL_NOPAD.encode(&entropy::array::<ID_LEN>()))
    }

    /// The name of the piece of this index.
    pub fn piece_name(&self, index: usize) -> String {
        format!("{}.{index}", self.0)
    }

    /// The target of the backing symbolic link in the tree.
    pub fn reference(&self) -> Vec<u8> {
        format!("{}{}", char::from(SPECIAL), self.0).into_bytes()
    }
}

/// A sealed target, as it stands in the backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealedTarget {
    /// The target of the backing symbolic link.
    Inline(Vec<u8>),
    /// The pieces, and what they are named by.
    Pieces(LinkId, Vec<Vec<u8>>),
}

/// What the target of a backing symbolic link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackingTarget<'a> {
    Inline(&'a [u8]),
    Pieces(LinkId),
}

/// Seals a target.
pub fn seal(key: &AeadKey, target: &[u8]) -> Result<SealedTarget, TargetError> {
    if target.len() > TARGET_MAX {
        return Err(TargetError::TooLong);
    }
    if !is_target(target) {
        return Err(TargetError::Invalid);
    }
    let text = BASE64URL_NOPAD.encode(&key.seal_message(AAD, target)).into_bytes();
    Ok(if text.len() <= PIECE_MAX {
        SealedTarget::Inline(text)
    } else {
        SealedTarget::Pieces(LinkId::random(), text.chunks(PIECE_MAX).map(<[u8]>::to_vec).collect())
    })
}

/// Which of the two forms it is.
pub fn parse(backing_target: &[u8]) -> Result<BackingTarget<'_>, SealedTargetError> {
    let Some(id) = backing_target.strip_prefix(&[SPECIAL]) else {
        return Ok(BackingTarget::Inline(backing_target));
    };
    if backing_target.len() != REFERENCE_LEN {
        return Err(SealedTargetError::Length);
    }
    BASE64URL_NOPAD.decode(id).map_err(|_| SealedTargetError::Alphabet)?;
    let id = std::str::from_utf8(id).map_err(|_| SealedTargetError::Alphabet)?;
    Ok(BackingTarget::Pieces(LinkId(id.to_owned())))
}

/// Opens the whole text: inline, or the pieces together.
pub fn open(key: &AeadKey, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealedTargetError> {
    if text.len() > TEXT_MAX {
        return Err(SealedTargetError::Length);
    }
    let sealed = BASE64URL_NOPAD.decode(text).map_err(|_| SealedTargetError::Alphabet)?;
    if sealed.len() <= MESSAGE_OVERHEAD {
        return Err(SealedTargetError::Length);
    }
    let target = key.open_message(AAD, &sealed).map_err(|_| SealedTargetError::Refused)?;
    if !is_target(&target) {
        return Err(SealedTargetError::NotATarget);
    }
    Ok(target)
}

/// Whether the target of a backing symbolic link of this length stands for pieces.
pub fn is_reference_len(backing_len: u64) -> bool {
    usize::try_from(backing_len) == Ok(REFERENCE_LEN)
}

/// The length of the target that a text of this length holds; None if none has this length.
pub fn plain_len(text_len: u64) -> Option<u64> {
    // The decoder panics on lengths near the end of usize.
    let text_len = usize::try_from(text_len).ok().filter(|&len| len <= TEXT_MAX)?;
    let sealed = BASE64URL_NOPAD.decode_len(text_len).ok()?;
    let plain = sealed.checked_sub(MESSAGE_OVERHEAD)?;
    (1..=TARGET_MAX).contains(&plain).then_some(u64::try_from(plain).ok()?)
}

fn is_target(target: &[u8]) -> bool {
    (1..=TARGET_MAX).contains(&target.len()) && !target.contains(&0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> AeadKey {
        AeadKey::new(&[7; 32])
    }

    fn text_of(sealed: &SealedTarget) -> Vec<u8> {
        match sealed {
            SealedTarget::Inline(text) => text.clone(),
            SealedTarget::Pieces(_, pieces) => pieces.concat(),
        }
    }

    #[test]
    fn every_length_round_trips_and_tells_its_length() {
        for len in 1..=TARGET_MAX {
            let target = vec![b'x'; len];
            let sealed = seal(&key(), &target).unwrap();
            let text = text_of(&sealed);
            assert_eq!(open(&key(), &text).unwrap().as_slice(), target);
            assert_eq!(plain_len(text.len() as u64), Some(len as u64));
            assert!(!is_reference_len(text.len() as u64));
            match &sealed {
                SealedTarget::Inline(text) => {
                    assert!(text.len() <= PIECE_MAX);
                    assert_eq!(parse(text), Ok(BackingTarget::Inline(text)));
                }
                SealedTarget::Pieces(id, pieces) => {
                    assert!(text.len() > PIECE_MAX && (2..=PIECES_MAX).contains(&pieces.len()));
                    let reference = id.reference();
                    assert!(is_reference_len(reference.len() as u64));
                    assert_eq!(parse(&reference), Ok(BackingTarget::Pieces(id.clone())));
                }
            }
        }
    }

    #[test]
    fn targets_that_no_link_has_are_refused() {
        assert_eq!(seal(&key(), b""), Err(TargetError::Invalid));
        assert_eq!(seal(&key(), b"a\0"), Err(TargetError::Invalid));
        assert_eq!(seal(&key(), &[b'x'; 4096]), Err(TargetError::TooLong));
    }

    #[test]
    fn rejects_an_edited_target() {
        let sealed = BASE64URL_NOPAD.decode(&text_of(&seal(&key(), b"/etc/passwd").unwrap())).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut edited = sealed.clone();
            edited[bit / 8] ^= 1 << (bit % 8);
            let text = BASE64URL_NOPAD.encode(&edited);
            assert_eq!(open(&key(), text.as_bytes()).unwrap_err(), SealedTargetError::Refused, "bit {bit}");
        }
    }

    #[test]
    fn rejects_a_missing_or_swapped_piece() {
        let SealedTarget::Pieces(_, pieces) = seal(&key(), &[b'x'; 4000]).unwrap() else {
            panic!("4000 bytes are long")
        };
        let mut swapped = pieces.clone();
        swapped.swap(0, 1);
        for bad in [pieces[1..].concat(), pieces[..pieces.len() - 1].concat(), swapped.concat()] {
            assert_eq!(open(&key(), &bad).unwrap_err(), SealedTargetError::Refused);
        }
    }

    #[test]
    fn rejects_a_length_that_no_target_has() {
        for len in [0, 1, 27, 28] {
            let text = BASE64URL_NOPAD.encode(&vec![0; len]);
            assert_eq!(open(&key(), text.as_bytes()).unwrap_err(), SealedTargetError::Length, "{len} bytes");
            assert_eq!(plain_len(text.len() as u64), None);
        }
        let text = BASE64URL_NOPAD.encode(&vec![0; MESSAGE_OVERHEAD + TARGET_MAX + 1]);
        assert_eq!(open(&key(), text.as_bytes()).unwrap_err(), SealedTargetError::Length);
        assert_eq!(plain_len(text.len() as u64), None);
        assert_eq!(plain_len(u64::MAX), None);
    }

    #[test]
    fn rejects_what_is_not_a_target() {
        let text = BASE64URL_NOPAD.encode(&key().seal_message(AAD, b"a\0b"));
        assert_eq!(open(&key(), text.as_bytes()).unwrap_err(), SealedTargetError::NotATarget);
    }

    #[test]
    fn rejects_what_is_no_reference() {
        let reference = LinkId::random().reference();
        assert_eq!(parse(&reference[..32]), Err(SealedTargetError::Length));
        assert_eq!(parse(b"="), Err(SealedTargetError::Length));
        let mut slash = reference.clone();
        slash[5] = b'/';
        assert_eq!(parse(&slash), Err(SealedTargetError::Alphabet));
        assert_eq!(parse(b"=../../../../../../../../etc/shadow"), Err(SealedTargetError::Length));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in prop::collection::vec(any::<u8>(), 0..100), len in any::<u64>()) {
            let _ = parse(&text);
            prop_assert!(open(&key(), &text).is_err());
            plain_len(len);
        }
    }
}

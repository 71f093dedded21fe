//! Authenticated encryption: AES-256-GCM (NIST SP 800-38D), 96-bit nonces, 128-bit tags.
//!
//! Two engines compute the same function: AWS-LC (feature `aws-lc`, the default) and the pure-Rust
//! [`portable`] one, which is always compiled, because the tests hold the first against it.
//!
//! # What the caller owes
//!
//! - A nonce is never used twice with one key. Nonces are random, so a key is retired before 2^31
//!   seals: two of its nonces then collide with probability below 2^-35 (SP 800-38D, section 8.3,
//!   allows 2^32 seals at 2^-32).
//! - The associated data says where the bytes belong. It is authenticated, and not stored.
//! - GCM does not commit to its key: that a message opens does not prove that it opens under
//!   no other key. Nothing here relies on that.

use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::entropy;

#[cfg(feature = "aws-lc")]
mod aws_lc;
pub mod portable;

#[cfg(feature = "aws-lc")]
use aws_lc as engine;
#[cfg(not(feature = "aws-lc"))]
use portable as engine;

/// Length of a key in bytes.
pub const KEY_LEN: usize = 32;
/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 12;
/// Length of a tag in bytes.
pub const TAG_LEN: usize = 16;
/// What [`AeadKey::seal_message`] adds to a plaintext, in bytes: the nonce and the tag.
pub const MESSAGE_OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// A number used once with a key.
pub type Nonce = [u8; NONCE_LEN];
/// An authenticator.
pub type Tag = [u8; TAG_LEN];

/// Why bytes were not sealed or not opened.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AeadError {
    /// Input and output differ in length, or a message is too short to hold its nonce and tag.
    #[error("the length of the data is impossible")]
    Length,
    /// The tag does not match: the ciphertext, tag, nonce, associated data or key is not the one
    /// that was sealed with. Which of them is not known.
    #[error("authentication failed: the data was changed, or the key is a different one")]
    Refused,
    /// The engine refused to seal. GCM seals up to 2^36 - 32 bytes at once, which nothing comes near.
    #[error("the data could not be sealed")]
    Seal,
}

/// An AES-256-GCM key with its key schedule, wiped on drop.
///
/// Sealing and opening allocate nothing, and take `&self`: a key is used by any number of threads.
pub struct AeadKey {
    engine: engine::Key,
}

impl AeadKey {
    /// Expands the key schedule. `key` remains the caller's to wipe.
    ///
    /// # Panics
    /// If memory is exhausted.
    #[must_use]
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self { engine: engine::Key::new(key) }
    }

    /// `(C, T) = GCM-AE(K, nonce, P, aad)` (SP 800-38D, algorithm 4), P replaced by C.
    ///
    /// # Errors
    /// [`AeadError::Seal`] if `in_out` is longer than 2^36 - 32 bytes.
    #[inline]
    pub fn seal(&self, nonce: &Nonce, aad: &[u8], in_out: &mut [u8]) -> Result<Tag, AeadError> {
        self.engine.seal(nonce, aad, in_out)
    }

    /// As [`seal`](Self::seal), from `plain` to `out`, which have the same length.
    ///
    /// # Errors
    /// [`AeadError::Length`] if the lengths differ, or as [`seal`](Self::seal). In both cases `out`
    /// holds nothing of `plain`.
    #[inline]
    pub fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], out: &mut [u8]) -> Result<Tag, AeadError> {
        if plain.len() != out.len() {
            out.zeroize();
            return Err(AeadError::Length);
        }
        // A failed engine may have left plaintext behind.
        self.engine.seal_into(nonce, aad, plain, out).inspect_err(|_| out.zeroize())
    }

    /// `P = GCM-AD(K, nonce, C, aad, tag)` (SP 800-38D, algorithm 5), C replaced by P.
    ///
    /// # Errors
    /// [`AeadError::Refused`] if the tag does not match; `in_out` is then zeroed.
    #[inline]
    pub fn open(&self, nonce: &Nonce, aad: &[u8], tag: &Tag, in_out: &mut [u8]) -> Result<(), AeadError> {
        self.engine.open(nonce, aad, tag, in_out).inspect_err(|_| in_out.zeroize())
    }

    /// As [`open`](Self::open), from `ciphertext` to `out`, which have the same length.
    ///
    /// # Errors
    /// [`AeadError::Length`] if the lengths differ, [`AeadError::Refused`] if the tag does not match.
    /// In both cases `out` is zeroed.
    #[inline]
    pub fn open_into(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        tag: &Tag,
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<(), AeadError> {
        if ciphertext.len() != out.len() {
            out.zeroize();
            return Err(AeadError::Length);
        }
        self.engine.open_into(nonce, aad, tag, ciphertext, out).inspect_err(|_| out.zeroize())
    }

    /// `nonce || T || C` under a fresh random nonce.
    ///
    /// # Panics
    /// If `plain` is longer than 2^36 - 32 bytes.
    #[must_use]
    pub fn seal_message(&self, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce: Nonce = entropy::array();
        let mut ciphertext = vec![0; MESSAGE_OVERHEAD + plain.len()];
        let (head, body) = ciphertext.split_at_mut(MESSAGE_OVERHEAD);
        let tag = self.seal_into(&nonce, aad, plain, body).expect("a message is shorter than 2^36 - 32 bytes");
        let (nonce_out, tag_out) = head.split_at_mut(NONCE_LEN);
        nonce_out.copy_from_slice(&nonce);
        tag_out.copy_from_slice(&tag);
        ciphertext
    }

    /// Opens what [`seal_message`](Self::seal_message) made.
    ///
    /// # Errors
    /// [`AeadError::Length`] if `message` is shorter than a nonce and a tag,
    /// [`AeadError::Refused`] if the tag does not match.
    pub fn open_message(&self, aad: &[u8], message: &[u8]) -> Result<Zeroizing<Vec<u8>>, AeadError> {
        let (nonce, rest) = message.split_first_chunk::<NONCE_LEN>().ok_or(AeadError::Length)?;
        let (tag, ciphertext) = rest.split_first_chunk::<TAG_LEN>().ok_or(AeadError::Length)?;
        let mut plain = Zeroizing::new(vec![0; ciphertext.len()]);
        self.open_into(nonce, aad, tag, ciphertext, &mut plain)?;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::crypto::tests::{hex, hex_array, seeded_rng};

    struct Vector {
        key: &'static str,
        nonce: &'static str,
        aad: &'static str,
        plain: &'static str,
        ciphertext: &'static str,
        tag: &'static str,
    }

    /// AES-256 with 96-bit nonces: test cases 13 to 16 of the GCM specification that was submitted
    /// to NIST (McGrew and Viega, appendix B).
    const NIST_VECTORS: &[Vector] = &[
        Vector {
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            nonce: "000000000000000000000000",
            aad: "",
            plain: "",
            ciphertext: "",
            tag: "530f8afbc74536b9a963b4f1c4cb738b",
        },
        Vector {
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            nonce: "000000000000000000000000",
            aad: "",
            plain: "00000000000000000000000000000000",
            ciphertext: "cea7403d4d606b6e074ec5d3baf39d18",
            tag: "d0d1c8a799996bf0265b98b5d48ab919",
        },
        Vector {
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "",
            plain: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
            ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
            tag: "b094dac5d93471bdec1a502270e3cc6c",
        },
        Vector {
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plain: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            tag: "76fc6ece0f4e1768cddf8853bb2d551b",
        },
    ];

    #[test]
    fn nist_vectors_hold_for_both_engines() {
        for vector in NIST_VECTORS {
            let (key, nonce) = (hex_array(vector.key), hex_array(vector.nonce));
            let (aad, plain) = (hex(vector.aad), hex(vector.plain));
            let (ciphertext, tag): (_, Tag) = (hex(vector.ciphertext), hex_array(vector.tag));

            let chosen = AeadKey::new(&key);
            let mut out = vec![0; plain.len()];
            assert_eq!(chosen.seal_into(&nonce, &aad, &plain, &mut out), Ok(tag));
            assert_eq!(out, ciphertext);
            assert_eq!(chosen.open(&nonce, &aad, &tag, &mut out), Ok(()));
            assert_eq!(out, plain);

            let oracle = portable::Key::new(&key);
            assert_eq!(oracle.seal(&nonce, &aad, &mut out), Ok(tag));
            assert_eq!(out, ciphertext);
            assert_eq!(oracle.open_into(&nonce, &aad, &tag, &ciphertext, &mut out), Ok(()));
            assert_eq!(out, plain);
        }
    }

    /// Block and page boundaries first, then anything up to 72 KiB.
    fn lengths(rng: &mut impl Rng) -> Vec<usize> {
        let mut lengths = vec![0, 1, 15, 16, 17, 127, 128, 129, 255, 256, 257, 4095, 4096, 4097, 16384];
        lengths.extend((0..200).map(|_| rng.random_range(0..600)));
        lengths.extend((0..60).map(|_| rng.random_range(0..72 * 1024)));
        lengths
    }

    fn bytes(rng: &mut impl Rng, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes[..]);
        bytes
    }

    #[test]
    fn the_chosen_engine_and_the_portable_one_are_the_same_function() {
        let mut rng = seeded_rng();
        for len in lengths(&mut rng) {
            let (key, nonce): ([u8; KEY_LEN], Nonce) = (rng.random(), rng.random());
            let (chosen, oracle) = (AeadKey::new(&key), portable::Key::new(&key));
            let aad_len = rng.random_range(0..80);
            let (aad, plain) = (bytes(&mut rng, aad_len), bytes(&mut rng, len));

            let mut expected = plain.clone();
            let tag = oracle.seal(&nonce, &aad, &mut expected).unwrap();

            let mut in_place = plain.clone();
            assert_eq!(chosen.seal(&nonce, &aad, &mut in_place), Ok(tag), "len {len}");
            assert_eq!(in_place, expected, "len {len}");
            let mut apart = bytes(&mut rng, len);
            assert_eq!(chosen.seal_into(&nonce, &aad, &plain, &mut apart), Ok(tag), "len {len}");
            assert_eq!(apart, expected, "len {len}");

            // Each opens what the other sealed.
            assert_eq!(chosen.open(&nonce, &aad, &tag, &mut in_place), Ok(()));
            assert_eq!(in_place, plain, "len {len}");
            let mut opened = bytes(&mut rng, len);
            assert_eq!(chosen.open_into(&nonce, &aad, &tag, &expected, &mut opened), Ok(()));
            assert_eq!(opened, plain, "len {len}");
            assert_eq!(oracle.open(&nonce, &aad, &tag, &mut apart), Ok(()));
            assert_eq!(apart, plain, "len {len}");
        }
    }

    #[test]
    fn any_changed_bit_is_refused_and_the_output_zeroed() {
        let mut rng = seeded_rng();
        let key = AeadKey::new(&rng.random());
        for len in lengths(&mut rng) {
            let (nonce, aad_len): (Nonce, usize) = (rng.random(), rng.random_range(1..40));
            let (aad, plain) = (bytes(&mut rng, aad_len), bytes(&mut rng, len));
            let mut ciphertext = plain.clone();
            let tag = key.seal(&nonce, &aad, &mut ciphertext).unwrap();

            let flip = |bytes: &[u8], rng: &mut rand::rngs::StdRng| {
                let mut changed = bytes.to_vec();
                let at = rng.random_range(0..changed.len());
                changed[at] ^= 1 << rng.random_range(0..8);
                changed
            };
            let other_nonce: Nonce = flip(&nonce, &mut rng).try_into().unwrap();
            let other_tag: Tag = flip(&tag, &mut rng).try_into().unwrap();
            let other_aad = flip(&aad, &mut rng);
            let mut cases = vec![
                (nonce, aad.clone(), other_tag, ciphertext.clone()),
                (other_nonce, aad.clone(), tag, ciphertext.clone()),
                (nonce, other_aad, tag, ciphertext.clone()),
                (nonce, Vec::new(), tag, ciphertext.clone()),
            ];
            if len > 0 {
                cases.push((nonce, aad.clone(), tag, flip(&ciphertext, &mut rng)));
                cases.push((nonce, aad.clone(), tag, ciphertext[..len - 1].to_vec()));
            }
            for (case, (nonce, aad, tag, ciphertext)) in cases.into_iter().enumerate() {
                let mut out = vec![0xa5; ciphertext.len()];
                let opened = key.open_into(&nonce, &aad, &tag, &ciphertext, &mut out);
                assert_eq!(opened, Err(AeadError::Refused), "len {len}, case {case}");
                assert!(out.iter().all(|&byte| byte == 0), "len {len}, case {case}");

                let mut in_out = ciphertext;
                let opened = key.open(&nonce, &aad, &tag, &mut in_out);
                assert_eq!(opened, Err(AeadError::Refused), "len {len}, case {case}");
                assert!(in_out.iter().all(|&byte| byte == 0), "len {len}, case {case}");
            }
        }
    }

    #[test]
    fn another_key_opens_nothing() {
        let message = AeadKey::new(&[1; KEY_LEN]).seal_message(b"aad", b"plain");
        assert_eq!(AeadKey::new(&[2; KEY_LEN]).open_message(b"aad", &message), Err(AeadError::Refused));
    }

    #[test]
    fn unequal_lengths_are_an_error_and_the_output_zeroed() {
        let (key, nonce, tag) = (AeadKey::new(&[7; KEY_LEN]), [0; NONCE_LEN], [0; TAG_LEN]);
        for (from_len, to_len) in [(0, 1), (1, 0), (4096, 4095), (4095, 4096)] {
            let mut out = vec![0xa5; to_len];
            assert_eq!(key.seal_into(&nonce, b"", &vec![1; from_len], &mut out), Err(AeadError::Length));
            assert!(out.iter().all(|&byte| byte == 0));
            let mut out = vec![0xa5; to_len];
            assert_eq!(key.open_into(&nonce, b"", &tag, &vec![1; from_len], &mut out), Err(AeadError::Length));
            assert!(out.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_message_is_nonce_tag_ciphertext() {
        let key = AeadKey::new(&[7; KEY_LEN]);
        for plain in [&b""[..], b"p", &[3; 5000]] {
            let message = key.seal_message(b"aad", plain);
            assert_eq!(message.len(), plain.len() + MESSAGE_OVERHEAD);
            assert_eq!(key.open_message(b"aad", &message).unwrap().as_slice(), plain);
            assert_eq!(key.open_message(b"dad", &message), Err(AeadError::Refused));

            let (nonce, rest) = message.split_first_chunk::<NONCE_LEN>().unwrap();
            let (tag, ciphertext) = rest.split_first_chunk::<TAG_LEN>().unwrap();
            let mut opened = ciphertext.to_vec();
            assert_eq!(key.open(nonce, b"aad", tag, &mut opened), Ok(()));
            assert_eq!(opened, plain);
        }
        assert_ne!(key.seal_message(b"", b"p"), key.seal_message(b"", b"p"), "nonces are fresh");
    }

    #[test]
    fn a_message_of_any_length_is_opened_without_panic() {
        let key = AeadKey::new(&[7; KEY_LEN]);
        let message = key.seal_message(b"", b"0123456789");
        for len in 0..message.len() {
            let expected = if len < MESSAGE_OVERHEAD { AeadError::Length } else { AeadError::Refused };
            assert_eq!(key.open_message(b"", &message[..len]), Err(expected), "len {len}");
        }
    }
}

//! AES-256-GCM by AWS-LC: C and assembly, with VAES where the CPU has it.
//!
//! The key schedule lives in memory of AWS-LC, which `EVP_AEAD_CTX_free` gives back through
//! `OPENSSL_free`, which cleanses it. The safe interface checks every length before the call.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as LibraryNonce, UnboundKey};

use super::{AeadError, KEY_LEN, Nonce, TAG_LEN, Tag};

/// An expanded key. `LessSafeKey` is the interface that takes a given nonce.
pub struct Key(LessSafeKey);

impl Key {
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("memory for an AES-256 key schedule");
        Self(LessSafeKey::new(key))
    }

    #[inline]
    pub fn seal(&self, nonce: &Nonce, aad: &[u8], in_out: &mut [u8]) -> Result<Tag, AeadError> {
        let mut tag = [0; TAG_LEN];
        self.0
            .seal_in_place_scatter(library_nonce(nonce), Aad::from(aad), in_out, &[], &mut tag)
            .map_err(|_| AeadError::Seal)?;
        Ok(tag)
    }

    #[inline]
    pub fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], out: &mut [u8]) -> Result<Tag, AeadError> {
        let mut tag = [0; TAG_LEN];
        self.0
            .seal_out_of_place_scatter(library_nonce(nonce), Aad::from(aad), plain, out, &[], &mut tag)
            .map_err(|_| AeadError::Seal)?;
        Ok(tag)
    }

    #[inline]
    pub fn open(&self, nonce: &Nonce, aad: &[u8], tag: &Tag, in_out: &mut [u8]) -> Result<(), AeadError> {
        self.0
            .open_in_place_separate_tag(library_nonce(nonce), Aad::from(aad), tag, in_out)
            .map(|_| ())
            .map_err(|_| AeadError::Refused)
    }

    #[inline]
    pub fn open_into(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        tag: &Tag,
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<(), AeadError> {
        self.0
            .open_separate_gather(library_nonce(nonce), Aad::from(aad), ciphertext, tag, out)
            .map_err(|_| AeadError::Refused)
    }
}

#[inline]
fn library_nonce(nonce: &Nonce) -> LibraryNonce {
    LibraryNonce::assume_unique_for_key(*nonce)
}

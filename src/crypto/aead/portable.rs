//! AES-256-GCM in pure Rust (`aes-gcm`): the engine where AWS-LC cannot be built, and the oracle
//! that the tests hold AWS-LC against. AES-NI and CLMUL are used where the CPU has them.

use std::hint::black_box;

use aes_gcm::{AeadInPlace, Aes256Gcm, KeyInit};

use super::{AeadError, KEY_LEN, Nonce, Tag};

/// An expanded key.
///
/// On the heap: a move leaves no copy of the schedule behind.
pub struct Key(Box<Aes256Gcm>);

impl Key {
    /// Expands the key schedule.
    #[must_use]
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Box::new(Aes256Gcm::new(key.into())))
    }

    /// As [`AeadKey::seal`](super::AeadKey::seal).
    ///
    /// # Errors
    /// [`AeadError::Seal`] if `in_out` is longer than 2^36 bytes.
    #[inline]
    pub fn seal(&self, nonce: &Nonce, aad: &[u8], in_out: &mut [u8]) -> Result<Tag, AeadError> {
        let tag = self.0.encrypt_in_place_detached(nonce.into(), aad, in_out).map_err(|_| AeadError::Seal)?;
        Ok(tag.into())
    }

    /// As [`AeadKey::seal_into`](super::AeadKey::seal_into).
    ///
    /// # Errors
    /// [`AeadError::Length`] if the lengths differ, or as [`seal`](Self::seal).
    #[inline]
    pub fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], out: &mut [u8]) -> Result<Tag, AeadError> {
        copy(plain, out)?;
        self.seal(nonce, aad, out)
    }

    /// As [`AeadKey::open`](super::AeadKey::open), except that a refused ciphertext stays as it was.
    ///
    /// # Errors
    /// [`AeadError::Refused`] if the tag does not match.
    #[inline]
    pub fn open(&self, nonce: &Nonce, aad: &[u8], tag: &Tag, in_out: &mut [u8]) -> Result<(), AeadError> {
        self.0.decrypt_in_place_detached(nonce.into(), aad, in_out, tag.into()).map_err(|_| AeadError::Refused)
    }

    /// As [`AeadKey::open_into`](super::AeadKey::open_into), except that a refused ciphertext is copied.
    ///
    /// # Errors
    /// [`AeadError::Length`] if the lengths differ, [`AeadError::Refused`] if the tag does not match.
    #[inline]
    pub fn open_into(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        tag: &Tag,
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<(), AeadError> {
        copy(ciphertext, out)?;
        self.open(nonce, aad, tag, out)
    }
}

impl Drop for Key {
    /// `Aes256Gcm` cannot be wiped; it can be overwritten in place by the schedule of the zero key.
    /// `black_box` keeps the compiler from dropping the write, as nothing reads it.
    fn drop(&mut self) {
        *self.0 = Aes256Gcm::new(&[0; KEY_LEN].into());
        black_box(&mut *self.0);
    }
}

/// `copy_from_slice`, with an error in place of its panic.
#[inline]
fn copy(from: &[u8], to: &mut [u8]) -> Result<(), AeadError> {
    if from.len() != to.len() {
        return Err(AeadError::Length);
    }
    to.copy_from_slice(from);
    Ok(())
}

//! Deterministic authenticated encryption of names: AES-256-SIV (RFC 5297).
//!
//! `sealed = V ‖ C`, where `V = S2V(K1, iv, name)` (a CMAC chain, section 2.4) and
//! `C = AES-CTR(K2, V with two bits cleared, name)` (section 2.5); the key is `K1 ‖ K2`.
//!
//! Equal names in one directory seal equally: that is how a name is looked up. The directory's IV,
//! the one string of associated data, makes equal names in two directories differ, and binds a name
//! to its directory. Padding is the format's matter, not this module's.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;

use super::{AeadError, Secret};

/// Length of the key in bytes: one AES-256 key for the CMAC, one for the counter mode.
pub const NAME_KEY_LEN: usize = 64;
/// Length of the synthetic IV, which is the tag, in bytes. It stands before the ciphertext.
pub const NAME_TAG_LEN: usize = 16;

/// The key of names, wiped on drop.
///
/// The raw key is kept, not its schedules: the library's object seals by `&mut self`, and expanding
/// the key for every name (0.15 µs) spares a lock that all threads would share.
pub struct NameKey(Secret<NAME_KEY_LEN>);

impl NameKey {
    /// Copies the key. `key` remains the caller's to wipe.
    #[must_use]
    pub fn new(key: &[u8; NAME_KEY_LEN]) -> Self {
        Self(Secret::copy_of(key))
    }

    /// `V ‖ C`, 16 bytes longer than `plain`.
    #[must_use]
    pub fn seal(&self, iv: &[u8; 16], plain: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; NAME_TAG_LEN + plain.len()];
        let (tag_out, body) = sealed.split_at_mut(NAME_TAG_LEN);
        body.copy_from_slice(plain);
        let tag = self
            .cipher()
            .encrypt_in_place_detached([iv], body)
            .expect("AES-SIV fails only for more than 126 strings of associated data");
        tag_out.copy_from_slice(&tag);
        sealed
    }

    /// Opens what [`seal`](Self::seal) made with the same IV.
    ///
    /// # Errors
    /// [`AeadError::Length`] if `sealed` is shorter than a tag, [`AeadError::Refused`] if the name was
    /// changed, or sealed with another IV or key.
    pub fn open(&self, iv: &[u8; 16], sealed: &[u8]) -> Result<Vec<u8>, AeadError> {
        let (tag, body) = sealed.split_first_chunk::<NAME_TAG_LEN>().ok_or(AeadError::Length)?;
        let mut plain = body.to_vec();
        self.cipher().decrypt_in_place_detached([iv], &mut plain, tag.into()).map_err(|_| AeadError::Refused)?;
        Ok(plain)
    }

    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new(self.0.bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use aes_siv::siv::Aes128Siv;
    use rand::Rng;

    use super::*;
    use crate::crypto::tests::{hex, hex_array, seeded_rng};

    /// RFC 5297, appendix A. Its examples use AES-128; the mode is the same code.
    #[test]
    fn rfc_5297_vectors() {
        let key: [u8; 32] = hex_array("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
        let sealed = Aes128Siv::new(&key.into())
            .encrypt([hex("101112131415161718191a1b1c1d1e1f2021222324252627")], &hex("112233445566778899aabbccddee"))
            .unwrap();
        assert_eq!(sealed, hex("85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"));

        let key: [u8; 32] = hex_array("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f");
        let associated = [
            hex("00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100"),
            hex("102030405060708090a0"),
            hex("09f911029d74e35bd84156c5635688c0"),
        ];
        let sealed = Aes128Siv::new(&key.into())
            .encrypt(&associated, b"this is some plaintext to encrypt using SIV-AES")
            .unwrap();
        assert_eq!(
            sealed,
            hex("7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe404326601965c889bf17\
                 dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d")
        );
    }

    fn key() -> NameKey {
        NameKey::new(&std::array::from_fn(|i| i as u8))
    }

    /// AES-256-SIV with one string of associated data, as computed by OpenSSL 3.
    #[test]
    fn openssl_vectors() {
        let iv = std::array::from_fn(|i| 0xc0 + i as u8);
        for (plain, sealed) in [
            (&b""[..], "6adcce20200110ff7e0c015f485afad6"),
            (b"README.md\0\0\0\0\0\0\0", "a1696a2f470e568e2dff1bef342a89ba969991ca268f6a55e3c61ce86da8c9d7"),
            (
                &[b'n'; 160],
                "85e39090759a13485e0267887e7a755a0f45a1fc2dcda740132c2d6b39a4255a1ce81167563736da3a71d24e8af8c064\
                 42563b092cd3e460e9244f2f975f30fa895db70cca9e2592dbdf71489ec1731e6d448ed849ef979bec6c2e56403b746f\
                 9b17ec16f25e997dba3a4992ec13939a76a7fb43d33491a1d53fdc8fd8af93f0209a23fddcbf5d0fc17e0ef86fa0ef63\
                 a83fbde3b29160b037e5e999ae962c080b290379f2296a7c739ba92ff3c2657b",
            ),
        ] {
            assert_eq!(key().seal(&iv, plain), hex(sealed));
            assert_eq!(key().open(&iv, &hex(sealed)).unwrap(), plain);
        }
    }

    #[test]
    fn a_name_opens_in_its_directory_only() {
        let mut rng = seeded_rng();
        let key = key();
        for _ in 0..200 {
            let (iv, other_iv): ([u8; 16], [u8; 16]) = (rng.random(), rng.random());
            let mut plain = vec![0; rng.random_range(0..=256)];
            rng.fill(&mut plain[..]);
            let sealed = key.seal(&iv, &plain);
            assert_eq!(sealed, key.seal(&iv, &plain), "sealing is deterministic");
            assert_ne!(sealed, key.seal(&other_iv, &plain));
            assert_eq!(key.open(&iv, &sealed).unwrap(), plain);
            assert_eq!(key.open(&other_iv, &sealed), Err(AeadError::Refused));

            let mut changed = sealed.clone();
            let at = rng.random_range(0..changed.len());
            changed[at] ^= 1 << rng.random_range(0..8);
            assert_eq!(key.open(&iv, &changed), Err(AeadError::Refused));
        }
    }

    #[test]
    fn a_name_of_any_length_is_opened_without_panic() {
        let sealed = key().seal(&[0; 16], &[b'n'; 32]);
        for len in 0..sealed.len() {
            let expected = if len < NAME_TAG_LEN { AeadError::Length } else { AeadError::Refused };
            assert_eq!(key().open(&[0; 16], &sealed[..len]), Err(expected), "len {len}");
        }
    }
}

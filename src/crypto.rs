//! Cryptography: the primitives, the key hierarchy, and the types that hold secrets.
//!
//! This layer imports nothing of the crate and does no input or output, but for the kernel's
//! generator and one look at the available memory. It knows no format: what is sealed, and which
//! associated data goes with it, is said by the layers above.
//!
//! | module | what | standard |
//! |---|---|---|
//! | [`aead`] | AES-256-GCM over pages, nodes, headers, blobs | NIST SP 800-38D |
//! | [`names`] | AES-256-SIV over names | RFC 5297 |
//! | [`keys`] | HKDF-SHA256 and HMAC-SHA256: every derived key, every label | RFC 5869, RFC 2104 |
//! | [`kdf`] | Argon2id: passphrase to key encryption key; what else opens a keyslot | RFC 9106 |
//! | [`entropy`] | nonces, salts and keys | ChaCha12, getrandom(2) |
//!
//! # Secrets in memory
//!
//! A type that holds a secret has no `Debug`, no `Clone` and no `Display`, and wipes it on drop.
//! Raw keys lie in locked memory ([`locked`](self)), where moving their owner leaves no copy behind. The objects
//! of the libraries differ, and are not locked:
//!
//! | object | where | wiped |
//! |---|---|---|
//! | AWS-LC key schedule | heap, as long as the [`AeadKey`] | yes: `OPENSSL_free` cleanses what it frees |
//! | AWS-LC's copy of H, the GHASH key | stack, one call | no |
//! | `aes-gcm` key schedule (portable engine) | heap, as long as the key | overwritten on drop by the schedule of the zero key |
//! | `aes-siv` key schedules | stack, one call | only if the `aes` crate's feature `zeroize` is on |
//! | `hkdf`, `hmac`, `sha2` states | stack, one call | no: these versions offer no wiping |
//! | Argon2 memory | heap, one call | yes |
//! | thread-local generator | heap, as long as the thread | no: it makes public values only (nonces, salts, IVs) |
//!
//! What remains on the stack is overwritten by later calls, and by [`wipe_stack`] after a vault was unlocked.

use zeroize::Zeroize;

pub mod aead;
pub mod entropy;
pub mod kdf;
pub mod keys;
mod locked;
pub mod names;

pub use aead::{AeadError, AeadKey, KEY_LEN, MESSAGE_OVERHEAD, NONCE_LEN, Nonce, TAG_LEN, Tag};
pub use kdf::{KdfError, KdfParams, Kek, Passphrase};
pub use keys::{FileKeys, ProjectKey, RawKey, VaultKeys};
pub use names::NameKey;

/// `N` secret bytes: in locked memory, wiped on drop, with no way out but [`Secret::bytes`].
///
/// They stay where they are when their owner is moved: a value that is moved would leave its old bytes behind.
struct Secret<const N: usize>(&'static mut [u8]);

impl<const N: usize> Secret<N> {
    /// All zero, to be filled in place.
    fn zeroed() -> Self {
        const { assert!(N <= locked::SLOT_LEN, "a secret has room in a slot") };
        Self(locked::take())
    }

    fn copy_of(bytes: &[u8; N]) -> Self {
        let mut secret = Self::zeroed();
        secret.bytes_mut().copy_from_slice(bytes);
        secret
    }

    /// Takes the bytes, and wipes the source.
    fn take(bytes: &mut [u8; N]) -> Self {
        let secret = Self::copy_of(bytes);
        bytes.zeroize();
        secret
    }

    /// New ones, from the kernel's generator.
    fn from_kernel() -> std::io::Result<Self> {
        let mut secret = Self::zeroed();
        entropy::fill_from_kernel(secret.bytes_mut())?;
        Ok(secret)
    }

    fn bytes(&self) -> &[u8; N] {
        self.0.first_chunk().expect("a slot is longer than any secret")
    }

    fn bytes_mut(&mut self) -> &mut [u8; N] {
        self.0.first_chunk_mut().expect("a slot is longer than any secret")
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        locked::give_back(std::mem::take(&mut self.0));
    }
}

/// Overwrites what earlier calls have left on this thread's stack below the caller: copies of a passphrase or a key that
/// libraries made there. To be called when a secret has been used for the last time.
#[inline(never)]
pub fn wipe_stack() {
    let mut stack = [0xa5_u8; 128 * 1024];
    std::hint::black_box(&mut stack).zeroize();
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use data_encoding::HEXLOWER_PERMISSIVE;
    use rand::{SeedableRng, rngs::StdRng};

    /// Bytes of a test vector.
    pub fn hex(digits: &str) -> Vec<u8> {
        HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).expect("a test vector is valid hexadecimal")
    }

    /// As [`hex`], of a known length.
    pub fn hex_array<const N: usize>(digits: &str) -> [u8; N] {
        hex(digits).try_into().expect("a test vector has the length that it is used with")
    }

    /// A generator whose seed a failing test prints; `SERO_TEST_SEED` repeats it.
    pub fn seeded_rng() -> StdRng {
        let seed = match std::env::var("SERO_TEST_SEED") {
            Ok(given) => given.parse().expect("SERO_TEST_SEED is a number"),
            Err(_) => rand::random(),
        };
        println!("SERO_TEST_SEED={seed}");
        StdRng::seed_from_u64(seed)
    }

    /// Compiles only if the type does not implement the trait: if it does, two implementations of
    /// `Probe` match and the call is ambiguous.
    macro_rules! assert_not_impl {
        ($type:ty, $($bound:path),+) => {$({
            trait Probe<Marker> {
                fn probe() {}
            }
            struct Implements;
            impl<T: ?Sized> Probe<()> for T {}
            impl<T: ?Sized + $bound> Probe<Implements> for T {}
            <$type as Probe<_>>::probe();
        })+};
    }

    fn shared_between_threads<T: Send + Sync>() {}

    macro_rules! assert_secret {
        ($($type:ty),+ $(,)?) => {$({
            assert_not_impl!($type, fmt::Debug, fmt::Display, Clone);
            shared_between_threads::<$type>();
        })+};
    }

    #[test]
    fn secrets_are_neither_printed_nor_copied() {
        assert_secret!(
            super::Secret<32>,
            super::AeadKey,
            super::aead::portable::Key,
            super::ProjectKey,
            super::RawKey,
            super::VaultKeys,
            super::FileKeys,
            super::NameKey,
            super::Passphrase,
            super::Kek,
        );
    }
}

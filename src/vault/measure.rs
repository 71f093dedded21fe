//! What the cryptography costs on this machine, for `sero bench`: the same functions that a mount calls.

use std::time::{Duration, Instant};

use crate::crypto::aead::{AeadKey, KEY_LEN};
use crate::crypto::entropy;
use crate::crypto::kdf::{self, KDF_SALT_LEN, KdfError, KdfParams, Passphrase};
use crate::crypto::names::{NAME_KEY_LEN, NameKey};
use crate::format::geometry::PAGE_LEN;

use super::error::Result;

/// Sealing and opening pages (AES-256-GCM, 4 KiB), in bytes per second on one core.
pub fn pages_per_core(time: Duration) -> Result<(f64, f64)> {
    let key = AeadKey::new(&entropy::array::<KEY_LEN>());
    let plain = vec![0x5a; PAGE_LEN];
    let mut sealed = vec![0; PAGE_LEN];
    let mut opened = vec![0; PAGE_LEN];
    let nonce = entropy::array();
    let seal = |_| key.seal_into(&nonce, b"", &plain, &mut sealed).map(drop);
    let per_second = rate(time, seal)?;
    let tag = key.seal_into(&nonce, b"", &plain, &mut sealed)?;
    let open = |_| key.open_into(&nonce, b"", &tag, &sealed, &mut opened);
    let opened_per_second = rate(time, open)?;
    Ok((per_second * PAGE_LEN as f64, opened_per_second * PAGE_LEN as f64))
}

/// Sealing names of 16 bytes (AES-256-SIV), a second on one core.
pub fn names_per_core(time: Duration) -> f64 {
    let key = NameKey::new(&entropy::array::<NAME_KEY_LEN>());
    let iv = entropy::array();
    let seal = |count: u64| {
        std::hint::black_box(key.seal(&iv, &count.to_le_bytes()));
        Ok::<(), std::convert::Infallible>(())
    };
    rate(time, seal).unwrap_or_default()
}

/// How long Argon2id takes with these parameters.
pub fn key_derivation(params: &KdfParams) -> Result<Duration, KdfError> {
    let started = Instant::now();
    kdf::derive_kek(&Passphrase::new(b"a measurement".to_vec()), &entropy::array::<KDF_SALT_LEN>(), params)?;
    Ok(started.elapsed())
}

/// Calls a second, over at least this time.
fn rate<E>(time: Duration, mut call: impl FnMut(u64) -> Result<(), E>) -> Result<f64, E> {
    const BATCH: u64 = 64;
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < time {
        for _ in 0..BATCH {
            call(count)?;
            count += 1;
        }
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

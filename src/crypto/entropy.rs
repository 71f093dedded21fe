//! Randomness, of two kinds: from the kernel for keys, from a thread-local generator for the rest.
//!
//! The thread-local generator is ChaCha12, seeded by the kernel and reseeded by it after every
//! 64 KiB of output: a nonce costs nanoseconds, and no system call.
//!
//! A machine that is put back to a snapshot of its memory repeats what the generator gives until then, and a nonce must not
//! be used for two contents. So what is drawn is mixed with the time in nanoseconds, at which the two runs do not agree for
//! long.
//!
//! It repeats itself in a child made by `fork` without `exec`. This crate never forks (it takes
//! unsafe code, which three files have, for something else): a daemon starts itself anew by `exec`.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngCore;

/// Fills `out` with random bytes that may become public: nonces, salts, IVs, ids.
///
/// # Panics
/// If the kernel's generator fails when a thread first asks. Linux never fails there.
#[inline]
pub fn fill(out: &mut [u8]) {
    rand::rng().fill_bytes(out);
}

/// `N` random bytes, as [`fill`] makes them, mixed with the time.
///
/// # Panics
/// As [`fill`].
#[inline]
#[must_use]
pub fn array<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill(&mut out);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Random bytes stay random, whatever they are mixed with.
    out.iter_mut().zip(since_epoch.as_nanos().to_le_bytes()).for_each(|(byte, time)| *byte ^= time);
    out
}

/// Fills `out` with bytes of the kernel's generator, getrandom(2): keys.
///
/// # Errors
/// If the kernel's generator fails; `out` must then not be used.
pub fn fill_from_kernel(out: &mut [u8]) -> io::Result<()> {
    getrandom::fill(out).map_err(|error| match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nothing_repeats_within_or_between_threads() {
        let draw = || (0..10_000).map(|_| array::<12>()).collect::<Vec<_>>();
        let drawn: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), 40_000);
    }

    #[test]
    fn the_kernel_fills_every_byte() {
        // 64 draws leave each of the bytes zero with probability 2^-512.
        let mut seen = [0_u8; 300];
        for _ in 0..64 {
            let mut drawn = [0_u8; 300];
            fill_from_kernel(&mut drawn).unwrap();
            seen.iter_mut().zip(drawn).for_each(|(seen, byte)| *seen |= byte);
        }
        assert!(seen.iter().all(|&byte| byte != 0));
    }
}

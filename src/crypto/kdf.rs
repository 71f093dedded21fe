//! Passphrase to key: Argon2id, version 1.3 (RFC 9106).
//!
//! `KEK = Argon2id(P = passphrase, S = 32-byte salt, p = lanes, T = 32, m = memory_kib, t = passes)`,
//! with neither secret value nor associated data. The KEK wraps the root key in a keyslot, by
//! AES-256-GCM; a changed passphrase rewrites a keyslot, and no file. Slots that take something else, or something more,
//! than a passphrase have a KEK by HKDF ([`Kek::of_key`], [`Kek::combined_with`]).
//!
//! The parameters come from a configuration that nothing has authenticated yet, so they are bounded
//! before memory is taken for them. Lowering them wins an adversary nothing: it gives another KEK.

use std::fs;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::Secret;
use super::aead::{AeadError, AeadKey, KEY_LEN, MESSAGE_OVERHEAD};
use super::keys::{RawKey, keyslot_kek};

/// Length of a keyslot's salt in bytes.
pub const KDF_SALT_LEN: usize = 32;
/// Length of a wrapped key in bytes: nonce, tag, key.
pub const WRAPPED_KEY_LEN: usize = MESSAGE_OVERHEAD + KEY_LEN;

/// RFC 9106, section 4: the second recommended option, for where 2 GiB are too much.
pub const RFC9106_SECOND: KdfParams = KdfParams { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

const MAX_MEMORY_KIB: u32 = 4 * 1024 * 1024;
const MAX_PASSES: u32 = 1000;
const MAX_LANES: u32 = 64;
/// Argon2 divides each lane into four slices of two blocks at least (RFC 9106, section 3.1).
const MIN_MEMORY_KIB_PER_LANE: u32 = 8;
/// Calibration stops here: a vault is opened on smaller machines too.
const MAX_CALIBRATED_MEMORY_KIB: u32 = 1024 * 1024;

/// What Argon2id costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB (RFC 9106: m).
    pub memory_kib: u32,
    /// Passes over the memory (RFC 9106: t).
    pub passes: u32,
    /// Degree of parallelism (RFC 9106: p). This engine computes the lanes one after another.
    pub lanes: u32,
}

/// Why no key was derived.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KdfError {
    /// The lanes are out of bounds.
    #[error("Argon2id with {0} lanes: 1 to {MAX_LANES} are supported")]
    Lanes(u32),
    /// The passes are out of bounds.
    #[error("Argon2id with {0} passes: 1 to {MAX_PASSES} are supported")]
    Passes(u32),
    /// The memory is out of bounds.
    #[error("Argon2id with {memory_kib} KiB of memory: {min_kib} to {MAX_MEMORY_KIB} KiB are supported")]
    Memory {
        /// What was asked for.
        memory_kib: u32,
        /// The least that so many lanes need.
        min_kib: u32,
    },
    /// The memory is within the bounds, but this machine does not have it to spare now.
    #[error(
        "Argon2id needs {memory_kib} KiB of memory, and {available_kib} KiB are available \
         (at most three quarters of them are used): close some programs, or use a machine with more memory"
    )]
    MemoryUnavailable {
        /// What was asked for.
        memory_kib: u32,
        /// What the kernel could give without swapping.
        available_kib: u64,
    },
    /// The allocator refused the memory.
    #[error("Argon2id needs {memory_kib} KiB of memory, which could not be allocated")]
    OutOfMemory {
        /// What was asked for.
        memory_kib: u32,
    },
    /// Argon2 refused its input: a passphrase of 4 GiB, as the bounds leave nothing else.
    #[error("Argon2id refused its input: {0}")]
    Engine(argon2::Error),
}

impl KdfParams {
    /// Whether this engine and this machine, now, can derive a key by these parameters.
    ///
    /// # Errors
    /// Unless there are 1 to 64 lanes, 1 to 1000 passes, and 8 KiB a lane to 4 GiB of memory, no more
    /// than three quarters of the available RAM.
    pub fn validate(&self) -> Result<(), KdfError> {
        self.validate_on_machine_with(available_memory_kib())
    }

    fn validate_on_machine_with(&self, available_kib: Option<u64>) -> Result<(), KdfError> {
        let Self { memory_kib, passes, lanes } = *self;
        if !(1..=MAX_LANES).contains(&lanes) {
            return Err(KdfError::Lanes(lanes));
        }
        if !(1..=MAX_PASSES).contains(&passes) {
            return Err(KdfError::Passes(passes));
        }
        let min_kib = MIN_MEMORY_KIB_PER_LANE * lanes;
        if !(min_kib..=MAX_MEMORY_KIB).contains(&memory_kib) {
            return Err(KdfError::Memory { memory_kib, min_kib });
        }
        match available_kib {
            Some(available_kib) if u64::from(memory_kib) > available_kib / 4 * 3 => {
                Err(KdfError::MemoryUnavailable { memory_kib, available_kib })
            }
            _ => Ok(()),
        }
    }
}

/// `MemAvailable` of /proc/meminfo. `None` where it cannot be read: then only the fixed bounds hold.
fn available_memory_kib() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    value.trim().strip_suffix("kB")?.trim_end().parse().ok()
}

/// Parameters by which this machine takes about `target` to derive a key, and never less than
/// [`RFC9106_SECOND`].
///
/// Memory is doubled first, as it is what an attacker pays most for, up to 1 GiB and a quarter of the
/// available RAM; then passes are added. This takes about as long as the target.
#[must_use]
pub fn calibrate(target: Duration) -> KdfParams {
    let quarter_kib = available_memory_kib().unwrap_or(0) / 4;
    let cap_kib = u32::try_from(quarter_kib).unwrap_or(u32::MAX).min(MAX_CALIBRATED_MEMORY_KIB);
    calibrate_between(RFC9106_SECOND, cap_kib, target, &mut measure)
}

/// How long one derivation takes; `None` if the machine cannot do it.
fn measure(params: KdfParams) -> Option<Duration> {
    let started = Instant::now();
    derive_kek(&Passphrase::new(b"calibration".to_vec()), &[0; KDF_SALT_LEN], &params).ok()?;
    Some(started.elapsed())
}

fn calibrate_between(
    floor: KdfParams,
    cap_kib: u32,
    target: Duration,
    measure: &mut dyn FnMut(KdfParams) -> Option<Duration>,
) -> KdfParams {
    let mut chosen = floor;
    let Some(mut took) = measure(chosen) else {
        return floor;
    };
    while took.saturating_mul(2) <= target && chosen.memory_kib.saturating_mul(2) <= cap_kib {
        let doubled = KdfParams { memory_kib: chosen.memory_kib * 2, ..chosen };
        let Some(doubled_took) = measure(doubled) else {
            break;
        };
        (chosen, took) = (doubled, doubled_took);
    }
    // Time is linear in passes.
    let affordable = target.as_micros() * u128::from(chosen.passes) / took.as_micros().max(1);
    let passes = u32::try_from(affordable).unwrap_or(MAX_PASSES).clamp(floor.passes, MAX_PASSES);
    KdfParams { passes, ..chosen }
}

/// `KEK = Argon2id(passphrase, salt, params)` (RFC 9106). Takes as long as the parameters say.
///
/// # Errors
/// If the parameters do not [`validate`](KdfParams::validate), or the memory cannot be had.
pub fn derive_kek(passphrase: &Passphrase, salt: &[u8; KDF_SALT_LEN], params: &KdfParams) -> Result<Kek, KdfError> {
    params.validate()?;
    let argon2_params =
        Params::new(params.memory_kib, params.passes, params.lanes, Some(KEY_LEN)).map_err(KdfError::Engine)?;
    let block_count = argon2_params.block_count();

    let mut memory = Memory(Vec::new());
    memory.0.try_reserve_exact(block_count).map_err(|_| KdfError::OutOfMemory { memory_kib: params.memory_kib })?;
    memory.0.resize(block_count, Block::new());

    let mut kek = Secret::zeroed();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, argon2_params)
        .hash_password_into_with_memory(&passphrase.0, salt, kek.bytes_mut(), &mut memory.0[..])
        .map_err(KdfError::Engine)?;
    Ok(Kek(kek))
}

/// Argon2's memory. Its first blocks let a passphrase be guessed without the memory's cost, so it is
/// wiped on drop: by words, as `Zeroizing<Vec<_>>` would wipe twice, the second time byte by byte.
struct Memory(Vec<Block>);

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.iter_mut().zeroize();
    }
}

/// A passphrase, byte for byte as it was typed: no trimming, no Unicode normalisation. Wiped on drop.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes the bytes. What earlier reallocations of the vector left behind is out of reach.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both are the same: for asking twice.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }

    /// The bytes, for an estimate of how hard they are to guess.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Passphrase {
    fn from(typed: String) -> Self {
        Self::new(typed.into_bytes())
    }
}

/// A key encryption key: wraps the root key in a keyslot. Wiped on drop.
pub struct Kek(Secret<KEY_LEN>);

impl Kek {
    /// Of a slot that a random key opens: a keyfile's, a command's, an environment variable's, a recovery key.
    #[must_use]
    pub fn of_key(key: &RawKey, salt: &[u8; KDF_SALT_LEN], kind: &str) -> Self {
        Self(keyslot_kek(salt, kind, &[key.expose()]))
    }

    /// Of a slot that takes a key besides what this one was derived from.
    #[must_use]
    pub fn combined_with(&self, key: &RawKey, salt: &[u8; KDF_SALT_LEN], kind: &str) -> Self {
        Self(keyslot_kek(salt, kind, &[self.0.bytes(), key.expose()]))
    }

    /// `nonce ‖ T ‖ C`: the key, sealed by AES-256-GCM. 60 bytes.
    #[must_use]
    pub fn wrap(&self, aad: &[u8], key: &[u8; KEY_LEN]) -> Vec<u8> {
        AeadKey::new(self.0.bytes()).seal_message(aad, key)
    }

    /// Opens what [`wrap`](Self::wrap) made.
    ///
    /// # Errors
    /// [`AeadError::Refused`] if the passphrase was another one, or the keyslot was changed;
    /// [`AeadError::Length`] if it is not 60 bytes long.
    pub fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<RawKey, AeadError> {
        if wrapped.len() != WRAPPED_KEY_LEN {
            return Err(AeadError::Length);
        }
        let mut opened = AeadKey::new(self.0.bytes()).open_message(aad, wrapped)?;
        let opened: &mut [u8; KEY_LEN] = opened.as_mut_slice().try_into().map_err(|_| AeadError::Length)?;
        Ok(RawKey::from_bytes(opened))
    }
}

#[cfg(test)]
mod tests {
    use argon2::{AssociatedData, ParamsBuilder};

    use super::*;
    use crate::crypto::tests::{hex, hex_array};

    const SMALL: KdfParams = KdfParams { memory_kib: 256, passes: 2, lanes: 4 };
    const PLENTY_KIB: Option<u64> = Some(1 << 30);

    /// RFC 9106, section 5.3. It has a secret value and associated data, which [`derive_kek`] has not.
    #[test]
    fn rfc_9106_vector() {
        let params = ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .data(AssociatedData::new(&[4; 12]).unwrap())
            .build()
            .unwrap();
        let mut tag = [0; 32];
        Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params)
            .unwrap()
            .hash_password_into(&[1; 32], &[2; 16], &mut tag)
            .unwrap();
        assert_eq!(tag, hex_array("0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"));
    }

    fn kek(passphrase: &str, salt_first: u8, params: &KdfParams) -> Kek {
        let salt = std::array::from_fn(|i| salt_first + i as u8);
        derive_kek(&passphrase.to_owned().into(), &salt, params).unwrap()
    }

    /// As computed by OpenSSL 3.
    #[test]
    fn openssl_vector() {
        assert_eq!(
            *kek("correct horse battery staple", 0, &SMALL).0.bytes(),
            hex_array("c5d86614b55870742cc7e74c4553a79514eeb9451ac5b7e98458226442ca94af")
        );
    }

    #[test]
    fn every_input_changes_the_kek() {
        let base = *kek("passphrase", 0, &SMALL).0.bytes();
        assert_ne!(base, *kek("Passphrase", 0, &SMALL).0.bytes());
        assert_ne!(base, *kek("passphrase", 1, &SMALL).0.bytes());
        assert_ne!(base, *kek("passphrase", 0, &KdfParams { memory_kib: 512, ..SMALL }).0.bytes());
        assert_ne!(base, *kek("passphrase", 0, &KdfParams { passes: 3, ..SMALL }).0.bytes());
        assert_ne!(base, *kek("passphrase", 0, &KdfParams { lanes: 2, ..SMALL }).0.bytes());
    }

    #[test]
    fn parameters_out_of_bounds_are_refused_before_memory_is_taken() {
        let params = |memory_kib, passes, lanes| KdfParams { memory_kib, passes, lanes };
        for accepted in [RFC9106_SECOND, params(8, 1, 1), params(512, 1000, 64), params(4 << 20, 1, 4)] {
            assert_eq!(accepted.validate_on_machine_with(PLENTY_KIB), Ok(()), "{accepted:?}");
        }
        for (refused, error) in [
            (params(65536, 3, 0), KdfError::Lanes(0)),
            (params(65536, 3, 65), KdfError::Lanes(65)),
            (params(65536, 3, u32::MAX), KdfError::Lanes(u32::MAX)),
            (params(65536, 0, 4), KdfError::Passes(0)),
            (params(65536, 1001, 4), KdfError::Passes(1001)),
            (params(0, 3, 4), KdfError::Memory { memory_kib: 0, min_kib: 32 }),
            (params(31, 3, 4), KdfError::Memory { memory_kib: 31, min_kib: 32 }),
            (params((4 << 20) + 1, 3, 4), KdfError::Memory { memory_kib: (4 << 20) + 1, min_kib: 32 }),
        ] {
            assert_eq!(refused.validate_on_machine_with(PLENTY_KIB), Err(error));
            let derived = derive_kek(&Passphrase::new(Vec::new()), &[0; KDF_SALT_LEN], &refused);
            assert_eq!(derived.err(), Some(error));
        }
    }

    #[test]
    fn three_quarters_of_the_available_memory_are_the_limit() {
        let params = KdfParams { memory_kib: 3000, passes: 1, lanes: 1 };
        assert_eq!(params.validate_on_machine_with(Some(4000)), Ok(()));
        assert_eq!(
            params.validate_on_machine_with(Some(3999)),
            Err(KdfError::MemoryUnavailable { memory_kib: 3000, available_kib: 3999 })
        );
        assert_eq!(params.validate_on_machine_with(None), Ok(()));
        assert!(available_memory_kib().is_some_and(|kib| kib > 1024), "/proc/meminfo is understood");
    }

    /// A machine that takes 1 ms for each MiB and pass.
    fn steady(params: KdfParams) -> Option<Duration> {
        Some(Duration::from_millis(u64::from(params.memory_kib / 1024) * u64::from(params.passes)))
    }

    #[test]
    fn calibration_raises_memory_then_passes() {
        let floor = RFC9106_SECOND; // 192 ms on this machine
        let calibrated =
            |cap_kib, target_ms| calibrate_between(floor, cap_kib, Duration::from_millis(target_ms), &mut steady);
        assert_eq!(calibrated(1 << 20, 0), floor);
        assert_eq!(calibrated(1 << 20, 383), KdfParams { passes: 5, ..floor });
        assert_eq!(calibrated(1 << 20, 800), KdfParams { memory_kib: 256 * 1024, ..floor });
        assert_eq!(calibrated(1 << 20, 1100), KdfParams { memory_kib: 256 * 1024, passes: 4, ..floor });
        // Memory stops at the cap, also at one below the floor.
        assert_eq!(calibrated(128 << 10, 1280), KdfParams { memory_kib: 128 << 10, passes: 10, ..floor });
        assert_eq!(calibrated(0, 640), KdfParams { passes: 10, ..floor });
        assert_eq!(calibrated(0, u64::MAX), KdfParams { passes: MAX_PASSES, ..floor });
        // A machine that cannot do more, or nothing at all.
        let mut limited = |params: KdfParams| (params.memory_kib <= 65536).then(|| steady(params)).flatten();
        assert_eq!(
            calibrate_between(floor, 1 << 20, Duration::from_millis(640), &mut limited),
            KdfParams { passes: 10, ..floor }
        );
        assert_eq!(calibrate_between(floor, 1 << 20, Duration::from_secs(9), &mut |_| None), floor);
    }

    #[test]
    fn calibration_measures_this_machine() {
        let floor = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
        let chosen = calibrate_between(floor, 256, Duration::from_millis(20), &mut measure);
        assert!((64..=256).contains(&chosen.memory_kib));
        assert_eq!(chosen.validate(), Ok(()));
    }

    #[test]
    fn a_wrapped_key_opens_under_its_kek_and_associated_data_only() {
        let (right, wrong) = (kek("right", 0, &SMALL), kek("wrong", 0, &SMALL));
        let wrapped = right.wrap(b"slot 1", &[5; KEY_LEN]);
        assert_eq!(wrapped.len(), WRAPPED_KEY_LEN);
        assert_eq!(*right.unwrap(b"slot 1", &wrapped).unwrap().expose(), [5; KEY_LEN]);
        assert_eq!(right.unwrap(b"slot 2", &wrapped).err(), Some(AeadError::Refused));
        assert_eq!(wrong.unwrap(b"slot 1", &wrapped).err(), Some(AeadError::Refused));
        for len in 0..wrapped.len() {
            assert_eq!(right.unwrap(b"slot 1", &wrapped[..len]).err(), Some(AeadError::Length));
        }
        // Sealed rightly, but not a key.
        let short = AeadKey::new(right.0.bytes()).seal_message(b"slot 1", &[5; 31]);
        assert_eq!(right.unwrap(b"slot 1", &short).err(), Some(AeadError::Length));
    }

    #[test]
    fn passphrases_are_compared_as_bytes() {
        let passphrase = |bytes: &[u8]| Passphrase::new(bytes.to_vec());
        assert!(passphrase(b"same").matches(&"same".to_owned().into()));
        assert!(!passphrase(b"same").matches(&passphrase(b"same ")));
        assert!(!passphrase(&hex("c3a9")).matches(&passphrase("e\u{301}".as_bytes())));
        assert!(passphrase(b"").is_empty() && !passphrase(b" ").is_empty());
    }
}

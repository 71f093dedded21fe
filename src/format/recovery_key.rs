//! The text of a recovery key: four lines to be written on paper and typed again.
//!
//! ```text
//! line i (1 to 4) = base32( key[8 (i-1) .. 8 i] || the first 2 bytes of SHA-256("sero/v1/recovery" || i u8 || those 8 bytes) )
//! ```
//!
//! base32 is Crockford's alphabet: no I, L, O and U; lower case, `O` for 0 and `I` or `L` for 1 are understood. The 16 characters of a
//! line are shown in groups of four with hyphens. White space and hyphens count for nothing when it is read.

use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::crypto::RawKey;
use crate::crypto::aead::KEY_LEN;

const LINES: usize = 4;
const LINE_CHARS: usize = 16;
const LINE_KEY_BYTES: usize = 8;
const CHECK_BYTES: usize = 2;
const LABEL: &[u8] = b"sero/v1/recovery";

/// Why a text is not a recovery key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecoveryKeyError {
    #[error("the recovery key has {found} characters, and not 64 (4 lines of 16): one was left out or typed twice")]
    Length { found: usize },
    #[error("line {line} of the recovery key has a character that is in none: it was mistyped")]
    Character { line: usize },
    #[error("line {line} of the recovery key was mistyped: its checksum does not match")]
    Mistyped { line: usize },
}

static BASE32: LazyLock<Option<Encoding>> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    specification.translate.from.push_str("abcdefghjkmnpqrstvwxyzoOiIlL");
    specification.translate.to.push_str("ABCDEFGHJKMNPQRSTVWXYZ001111");
    specification.encoding().ok()
});

/// The text, four lines.
#[must_use]
pub fn encode(key: &RawKey) -> Zeroizing<String> {
    // Its full length at once: a growing string would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(LINES.saturating_mul(LINE_CHARS.saturating_mul(2))));
    for (index, part) in key.expose().chunks(LINE_KEY_BYTES).enumerate() {
        let mut bytes = Zeroizing::new(part.to_vec());
        bytes.extend(check(index, part));
        let line = Zeroizing::new(BASE32.as_ref().map(|base32| base32.encode(&bytes)).unwrap_or_default());
        if index > 0 {
            text.push('\n');
        }
        for (at, char) in line.chars().enumerate() {
            if at > 0 && at.is_multiple_of(4) {
                text.push('-');
            }
            text.push(char);
        }
    }
    text
}

/// The key of a text that somebody typed.
pub fn decode(typed: &[u8]) -> Result<RawKey, RecoveryKeyError> {
    let counts = |byte: &&u8| !byte.is_ascii_whitespace() && **byte != b'-';
    let found = typed.iter().filter(counts).count();
    if found != LINES.saturating_mul(LINE_CHARS) {
        return Err(RecoveryKeyError::Length { found });
    }
    let mut chars = Zeroizing::new(Vec::with_capacity(found));
    chars.extend(typed.iter().filter(counts));
    let mut key = Zeroizing::new([0; KEY_LEN]);
    for (index, (line, place)) in chars.chunks(LINE_CHARS).zip(key.chunks_mut(LINE_KEY_BYTES)).enumerate() {
        let number = index.saturating_add(1);
        let decoded = BASE32.as_ref().and_then(|base32| base32.decode(line).ok()).map(Zeroizing::new);
        let decoded = decoded.ok_or(RecoveryKeyError::Character { line: number })?;
        let Some((part, sum)) = decoded.split_at_checked(LINE_KEY_BYTES) else {
            return Err(RecoveryKeyError::Character { line: number });
        };
        if sum != check(index, part) {
            return Err(RecoveryKeyError::Mistyped { line: number });
        }
        place.copy_from_slice(part);
    }
    Ok(RawKey::from_bytes(&mut key))
}

fn check(index: usize, part: &[u8]) -> [u8; CHECK_BYTES] {
    let number = u8::try_from(index.saturating_add(1)).unwrap_or(u8::MAX);
    let hash = Sha256::new().chain_update(LABEL).chain_update([number]).chain_update(part).finalize();
    let mut check = [0; CHECK_BYTES];
    check.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RawKey {
        RawKey::from_bytes(&mut std::array::from_fn(|i| i as u8 * 7))
    }

    fn decoded(text: &str) -> Result<[u8; 32], RecoveryKeyError> {
        decode(text.as_bytes()).map(|key| *key.expose())
    }

    /// As computed by an independent implementation.
    #[test]
    fn the_text_is_what_it_was() {
        assert_eq!(encode(&key()).as_str(), VECTOR);
    }

    const VECTOR: &str = "\
        003G-W58W-4CN3-2TJK\n\
        70ZM-CKAM-BDH6-JZ20\n\
        E1VQ-X1CC-JEDA-2EHP\n\
        N2QV-DFE4-SF9D-KQ6T";

    #[test]
    fn it_round_trips_however_it_is_typed() {
        let text = encode(&key()).to_string();
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| line.len() == 19));
        for typed in [
            text.clone(),
            text.to_lowercase(),
            text.replace('-', " "),
            text.replace(['-', '\n'], ""),
            format!("\r\n {}\n\n", text.replace('0', "O").replace('1', "l")),
        ] {
            assert_eq!(decoded(&typed), Ok(*key().expose()), "{typed}");
        }
    }

    #[test]
    fn a_typo_is_named_with_its_line() {
        let text = encode(&key()).to_string();
        for (at, old) in text.char_indices().filter(|(_, old)| old.is_ascii_alphanumeric()) {
            let line = at / 20 + 1;
            let mut typed = text.clone();
            typed.replace_range(at..=at, if old == 'X' { "Y" } else { "X" });
            assert_eq!(decoded(&typed), Err(RecoveryKeyError::Mistyped { line }), "{typed}");
            typed.replace_range(at..=at, "U");
            assert_eq!(decoded(&typed), Err(RecoveryKeyError::Character { line }), "{typed}");
            typed.replace_range(at..=at, "");
            assert_eq!(decoded(&typed), Err(RecoveryKeyError::Length { found: 63 }), "{typed}");
        }
        let mut swapped: Vec<&str> = text.lines().collect();
        swapped.swap(1, 2);
        assert_eq!(decoded(&swapped.join("\n")), Err(RecoveryKeyError::Mistyped { line: 2 }));
        assert_eq!(decoded(""), Err(RecoveryKeyError::Length { found: 0 }));
        assert_eq!(decoded(&"ß".repeat(32)), Err(RecoveryKeyError::Character { line: 1 }));
    }
}

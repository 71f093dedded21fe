//! What is asked of new passphrases and hints.

use zxcvbn::{Score, zxcvbn};

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::words::count;
use crate::vault::Passphrase;

/// In characters.
const LEN_MIN: usize = 12;
/// zxcvbn: "safely unguessable: moderate protection from offline slow-hash scenario", from 10^8 guesses on.
const SCORE_MIN: Score = Score::Three;
/// The estimate takes time with the square of the length; what is longer is strong by its first characters, or refused.
const ESTIMATED_CHARS: usize = 100;

fn weak(message: String) -> Failure {
    Failure::new(ExitCode::WeakPassphrase, message)
}

/// Refuses an empty passphrase in any case, and a weak one unless that is allowed. `known` are words that a guesser
/// would try first: the vault's name, the label.
pub(super) fn check_passphrase(passphrase: &Passphrase, known: &[&str], allow_weak: bool) -> Result<()> {
    if passphrase.is_empty() {
        return Err(super::passphrase::unavailable("the passphrase is empty; choose one"));
    }
    if allow_weak {
        return Ok(());
    }
    // Bytes that are no text are nothing that somebody would guess by a dictionary; their number counts.
    let Ok(text) = std::str::from_utf8(passphrase.expose()) else {
        let len = passphrase.expose().len();
        return if len >= LEN_MIN { Ok(()) } else { Err(too_short(len)) };
    };
    let chars = text.chars().count();
    if chars < LEN_MIN {
        return Err(too_short(chars));
    }
    let end = text.char_indices().nth(ESTIMATED_CHARS).map_or(text.len(), |(at, _)| at);
    let estimate = zxcvbn(&text[..end], known);
    if estimate.score() >= SCORE_MIN {
        return Ok(());
    }
    let why = estimate.feedback().and_then(|feedback| feedback.warning()).map(|why| why.to_string().to_lowercase());
    let why = why.map(|why| format!(" ({})", why.trim_end_matches('.'))).unwrap_or_default();
    Err(weak(format!(
        "the new passphrase is too easy to guess: about 10^{:.0} guesses{why}; take four or more words that do not belong \
         together, or give --allow-weak",
        estimate.guesses_log10()
    )))
}

fn too_short(chars: usize) -> Failure {
    weak(format!(
        "the new passphrase has {}, and {LEN_MIN} are the least; take a longer one, or give --allow-weak",
        count(chars as u64, "character", "characters")
    ))
}

/// Refuses a hint that contains the passphrase: everyone can read it. There is no option to allow that.
pub(super) fn check_hint(hint: Option<&str>, passphrase: Option<&Passphrase>) -> Result<()> {
    let (Some(hint), Some(passphrase)) = (hint, passphrase) else { return Ok(()) };
    let Ok(passphrase) = std::str::from_utf8(passphrase.expose()) else { return Ok(()) };
    // However it is written: in capitals, or with other spaces.
    let bare = |text: &str| -> String {
        let kept = text.chars().filter(|char| char.is_alphanumeric());
        kept.flat_map(char::to_lowercase).collect()
    };
    let secret = bare(passphrase);
    if hint.contains(passphrase) || (!secret.is_empty() && bare(hint).contains(&secret)) {
        return Err(weak(
            "the hint contains the passphrase, and everyone can read the hint; choose another one".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(passphrase: &[u8], known: &[&str]) -> Option<ExitCode> {
        let passphrase = Passphrase::new(passphrase.to_vec());
        assert!(passphrase.is_empty() || check_passphrase(&passphrase, known, true).is_ok());
        check_passphrase(&passphrase, known, false).err().map(|failure| failure.code)
    }

    #[test]
    fn weak_passphrases_are_refused() {
        for weak in ["short", "elevenchars", "password1234", "aaaaaaaaaaaaaaaa", "qwertyuiop123", "hunter2hunter2"] {
            assert_eq!(code(weak.as_bytes(), &[]), Some(ExitCode::WeakPassphrase), "{weak}");
        }
        assert_eq!(code(b"elf\xff", &[]), Some(ExitCode::WeakPassphrase));
        assert_eq!(code(b"", &[]), Some(ExitCode::PassphraseUnavailable));
        assert_eq!(code(b"quarterlyfigures", &["quarterlyfigures"]), Some(ExitCode::WeakPassphrase));
    }

    #[test]
    fn strong_passphrases_are_taken() {
        let long: String = (1..200_u64).map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        for strong in ["correct horse battery staple", "kX9vQ2mL7pRt", "größe \u{1f512} tisch lampe", &long] {
            assert_eq!(code(strong.as_bytes(), &[]), None, "{strong}");
        }
        assert_eq!(code(b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6\xf5\xf4", &[]), None);
    }

    #[test]
    fn a_hint_does_not_give_the_passphrase_away() {
        let passphrase = Passphrase::new(b"Blue Horse 7".to_vec());
        let refused = |hint| check_hint(Some(hint), Some(&passphrase)).is_err();
        for bad in ["Blue Horse 7", "it is BLUE HORSE 7!", "bluehorse7", "blue-horse-7"] {
            assert!(refused(bad), "{bad}");
        }
        assert!(!refused("the animal, its colour and the day"));
        assert!(check_hint(None, Some(&passphrase)).is_ok());
        assert!(check_hint(Some("x"), None).is_ok());
        let symbols = Passphrase::new(b"!!!???".to_vec());
        assert!(check_hint(Some("anything"), Some(&symbols)).is_ok());
        assert!(check_hint(Some("is !!!??? it"), Some(&symbols)).is_err());
    }
}

//! What is said about a rotation over the control socket, and with `--json`.

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::vault::UnlockedKeys;
use crate::vault::rotate::{Phase, RotationProgress};

/// Where a rotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum RotationState {
    None,
    Running,
    /// Unfinished, and nobody works on it.
    Stopped,
    /// Unfinished: something does not open.
    Damaged,
    /// Unfinished: the backing failed.
    Failed,
    /// Unfinished: the backing is full.
    Full,
    Done,
}

/// A rotation, as the daemon tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct RotationFacts {
    pub(in super::super) state: RotationState,
    phase: String,
    entries_total: u64,
    entries_done: u64,
    bytes_total: u64,
    bytes_done: u64,
    pub(in super::super) problems: Vec<String>,
}

impl RotationFacts {
    pub(in super::super) fn at(state: RotationState, progress: RotationProgress, problems: Vec<String>) -> Self {
        let RotationProgress { phase, entries_total, entries_done, bytes_total, bytes_done } = progress;
        Self { state, phase: phase.name().to_owned(), entries_total, entries_done, bytes_total, bytes_done, problems }
    }

    pub(in super::super) fn progress(&self) -> RotationProgress {
        RotationProgress {
            phase: Phase::of_name(&self.phase).unwrap_or(Phase::Idle),
            entries_total: self.entries_total,
            entries_done: self.entries_done,
            bytes_total: self.bytes_total,
            bytes_done: self.bytes_done,
        }
    }
}

/// The exposed keys in base64: the one secret that goes over the control socket.
#[derive(Clone, PartialEq, Eq)]
pub(in super::super) struct KeysText(Zeroizing<String>);

impl KeysText {
    pub(in super::super) fn of(keys: &UnlockedKeys) -> Self {
        Self(Zeroizing::new(BASE64.encode(&keys.expose())))
    }

    /// What [`UnlockedKeys::from_exposed`] takes.
    pub(in super::super) fn exposed(&self) -> Option<Zeroizing<Vec<u8>>> {
        BASE64.decode(self.0.as_bytes()).ok().map(Zeroizing::new)
    }
}

impl fmt::Debug for KeysText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Serialize for KeysText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeysText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Self(Zeroizing::new(String::deserialize(deserializer)?));
        if text.exposed().is_none() {
            return Err(de::Error::custom("not keys in base64"));
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_over_the_wire_and_into_no_log() {
        let text = KeysText(Zeroizing::new(BASE64.encode(&[7; 36])));
        let line = serde_json::to_string(&text).unwrap();
        assert_eq!(serde_json::from_str::<KeysText>(&line).unwrap(), text);
        assert_eq!(*text.exposed().unwrap(), vec![7; 36]);
        assert_eq!(format!("{text:?}"), "(secret)");
        assert!(serde_json::from_str::<KeysText>("\"!\"").is_err());
    }
}

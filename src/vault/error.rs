//! What can go wrong with a vault: what happened, and what to do about it.
//!
//! The variants are matched exhaustively above (`fs` maps them to an errno, `cli` to an exit code),
//! so that a new one is a decision and not an accident.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::crypto::{AeadError, KdfError};
use crate::format::configuration::{self, ConfigurationError};

/// The result of an operation on a vault.
pub type Result<T, E = VaultError> = std::result::Result<T, E>;

/// Why an operation on a vault failed.
#[derive(Debug, Error)]
pub enum VaultError {
    // --- creating and opening ---
    /// The directory is missing something that every vault has.
    #[error("this is not a vault: {reason}; give the directory that `sero create` made")]
    NotAVault { reason: String },
    /// `sero.json` breaks a rule of the format.
    #[error(
        "the vault's configuration is damaged: {reason}; restore sero.json from a backup \
         (sero.json.bak beside it may be good)"
    )]
    ConfigurationDamaged { reason: String },
    /// The passphrase opens the vault, but the configuration is not the one that was written with it.
    #[error(
        "the vault's configuration was edited: its authenticator does not match; do not trust this copy, \
         restore sero.json from a backup"
    )]
    ConfigurationEdited,
    /// The configuration's keys do not open the vault that it was given for.
    #[error(
        "this configuration is not the vault's: it belongs to another vault, or is older than the last rotation of \
         the key; give the right one with --config"
    )]
    ForeignConfiguration,
    /// The vault was made by a newer sero.
    #[error(
        "the vault has format {found}, and this sero knows formats up to {supported}; \
         use a version of sero that knows format {found} (`sero --version` lists the formats)"
    )]
    UnsupportedFormat { found: u64, supported: u64 },
    /// No keyslot opens with what was given.
    #[error("wrong {given} (or its keyslot was damaged){}{}", shown_hint(.hint), shown_untried(.untried))]
    WrongPassphrase {
        given: String,
        hint: Option<String>,
        /// Why another keyslot could not be tried.
        untried: Option<KdfError>,
    },
    /// There is no keyslot that takes what was given.
    #[error("no keyslot of this vault opens with a {given} alone; it has: {kinds} (`sero key list` shows them)")]
    NoKeyslotFor { given: String, kinds: String },
    /// Somebody else is changing the configuration.
    #[error("the vault's configuration is being changed by another process; try again")]
    ConfigurationBusy,
    /// A configuration is where a new one is to be.
    #[error(
        "there is a file already where the configuration is to be, or with .tmp behind that name; choose another place"
    )]
    ConfigurationExists,
    /// What was asked for breaks a rule of the format.
    #[error("{0}; choose another text, or another cost of guessing")]
    ConfigurationRefused(ConfigurationError),
    /// The number is not that of a keyslot.
    #[error("there is no keyslot {id}; `sero key list` shows those that are there")]
    NoKeyslot { id: u32 },
    /// Removing it would lose the vault.
    #[error("the last keyslot cannot be removed: nothing would open the vault any more; add another one first")]
    LastKeyslot,
    /// The passphrase cannot be turned into a key here.
    #[error("{0}")]
    KdfRefused(KdfError),
    /// Another process has the vault.
    #[error("the vault is already mounted {holder}; seal it there first")]
    AlreadyMounted { holder: Holder },
    /// There is a vault where one is to be made.
    #[error("a vault exists here already; choose another directory, or mount this one")]
    VaultExists,
    /// The directory for a new vault has something in it.
    #[error("the directory is not empty; choose a new name or an empty directory")]
    TargetNotEmpty,

    // --- working in it ---
    /// The backing refused an operation, or failed.
    #[error("could not {context}: {source}")]
    Io { context: &'static str, source: io::Error },
    /// Bytes of the backing are not what sero wrote there.
    #[error("{0}")]
    Integrity(IntegrityError),
    /// The vault does not accept changes.
    #[error("the vault is read-only: it was mounted so, or a sync of the backing failed (see the log)")]
    ReadOnly,
    /// Not the backing's space is used up, but room that the format has.
    #[error("no room for {what}")]
    NoSpace { what: &'static str },
    /// A journal that cannot be replayed as a whole is not replayed at all before there is a copy of it.
    #[error(
        "could not keep a copy of the damaged journal in private/lost: {source}; make room where the vault lies, \
         {} MiB at least, or read what is there with `sero mount --read-only` or `sero cat`: these change nothing",
        .needed_bytes.div_ceil(1 << 20)
    )]
    NoRoomForCopy { needed_bytes: u64, source: io::Error },
    /// Empty, ".", "..", or with a '/' or NUL in it.
    #[error("the name is not one that a file can have")]
    InvalidName,
    /// More than 255 bytes, or a symlink's target of more than 4095.
    #[error("the name or target is too long")]
    NameTooLong,
    /// Beyond the largest file that the format has.
    #[error("the file would be too large")]
    TooLarge,
    /// The backing or the format does not offer it.
    #[error("{what} is not supported here")]
    NotSupported { what: &'static str },

    // --- rotation ---
    /// A second version of the key cannot be begun before everything is under the first.
    #[error("the last rotation of the vault's key has not come to its end; `sero rotate VAULT` goes on with it")]
    RotationUnfinished,
    /// Somebody else is at it.
    #[error(
        "the vault's key is being rotated; wait until that is over (`sero rotate --status VAULT` shows how far it is)"
    )]
    RotationRunning,
    /// It was told to.
    #[error("the work was interrupted; it goes on from there the next time")]
    Interrupted,

    // --- inside ---
    /// The engine did not seal or open what it must be able to.
    #[error("encryption failed: {0}")]
    Sealing(#[from] AeadError),
    /// The journal has no room before the next checkpoint.
    #[error("the journal is full; a checkpoint makes room")]
    JournalFull,
    /// Something that cannot be; please report it.
    #[error("internal error: {0}; please report it")]
    Internal(&'static str),
}

impl VaultError {
    /// What was being done, to complete "could not ...", and the backing's error.
    pub fn io(context: &'static str, source: io::Error) -> Self {
        Self::Io { context, source }
    }

    /// An error of the backing's kind that the vault itself decides on.
    pub(crate) fn errno(context: &'static str, errno: i32) -> Self {
        Self::io(context, io::Error::from_raw_os_error(errno))
    }

    /// An error of opening one of the vault's own files: what is there and is no file will not be one the next time.
    pub(crate) fn own_file(path: &str, context: &'static str, source: io::Error) -> Self {
        if is_of_another_kind(&source) {
            return Self::integrity(path, "there is no file there, but something else; `sero repair` puts it aside");
        }
        Self::io(context, source)
    }

    /// Whether it is the backing's (or the vault's own) error of this number.
    pub(crate) fn is_errno(&self, errno: i32) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(errno))
    }

    /// Whether the filesystem under the vault has no room.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_full(source),
            Self::NoRoomForCopy { .. } => true,
            _ => false,
        }
    }

    /// Whether the backing took no more of a file: it has no room, or the file has its largest size there.
    pub(crate) fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if super::core::is_out_of_space(source))
    }

    /// Makes and logs an [`IntegrityError`].
    pub(crate) fn integrity(path: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Integrity(IntegrityError::report(path, None, reason))
    }
}

/// Whether a filesystem has no room, or a quota leaves none.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Whether something is in the place of a file or directory that is none: a directory in a file's, a link, a FIFO.
pub(crate) fn is_of_another_kind(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::EISDIR | libc::ELOOP | libc::ENXIO))
}

impl From<ConfigurationError> for VaultError {
    fn from(error: ConfigurationError) -> Self {
        match error {
            ConfigurationError::NewerFormat { found } => {
                Self::UnsupportedFormat { found, supported: u64::from(configuration::FORMAT) }
            }
            ConfigurationError::Kdf(refused) => Self::KdfRefused(refused),
            ConfigurationError::TooLarge | ConfigurationError::Syntax(_) | ConfigurationError::Rule(_) => {
                Self::ConfigurationDamaged { reason: error.to_string() }
            }
        }
    }
}

fn shown_untried(untried: &Option<KdfError>) -> String {
    untried.as_ref().map(|refused| format!("; a keyslot could not be tried: {refused}")).unwrap_or_default()
}

fn shown_hint(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("; hint: {hint}")).unwrap_or_default()
}

/// Bytes of the backing that are not what sero wrote there: changed, moved, cut, or put back.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct IntegrityError {
    /// Where, below the vault's directory.
    pub path: String,
    /// Which page of the file, where it is one.
    pub page: Option<u64>,
    pub reason: String,
}

impl IntegrityError {
    /// Makes one and logs it. Integrity errors are logged here alone, where they are found, once.
    pub(crate) fn report(path: impl Into<String>, page: Option<u64>, reason: impl fmt::Display) -> Self {
        let error = Self { path: path.into(), page, reason: reason.to_string() };
        log::error!("{error}");
        error
    }
}

impl fmt::Display for IntegrityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "integrity: {}", self.path.escape_debug())?;
        if let Some(page) = self.page {
            write!(f, ", page {page}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Why a vault that was mounted for writing takes no more changes: the backing failed, and what it should have stored
/// may not be there. Nothing is tried again until the vault is mounted anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// What could not be done, to complete "could not ...".
    pub operation: &'static str,
    /// The backing's error.
    pub reason: String,
    /// Its number, if it has one.
    pub errno: Option<i32>,
    /// Unix time, seconds, on the clock of the backing.
    pub since: i64,
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}: {}", self.operation, self.reason)
    }
}

/// Who holds a vault, as far as it said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    pub host: Option<String>,
    pub pid: Option<u32>,
    /// Unix time, seconds.
    pub started: Option<u64>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.pid) {
            (Some(host), Some(pid)) => write!(f, "on host {} by process {pid}", host.escape_debug()),
            (Some(host), None) => write!(f, "on host {}", host.escape_debug()),
            (None, Some(pid)) => write!(f, "by process {pid}"),
            (None, None) => f.write_str("by another process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integrity_error_names_path_page_and_reason() {
        let error = IntegrityError { path: "tree/a\nb".into(), page: Some(7), reason: "the tag does not match".into() };
        assert_eq!(error.to_string(), "integrity: tree/a\\nb, page 7: the tag does not match");
    }

    #[test]
    fn the_holder_is_named_as_far_as_known() {
        let holder = Holder { host: Some("anvil".into()), pid: Some(12), started: None };
        assert_eq!(
            VaultError::AlreadyMounted { holder }.to_string(),
            "the vault is already mounted on host anvil by process 12; seal it there first"
        );
        assert_eq!(Holder::default().to_string(), "by another process");
    }

    #[test]
    fn a_hint_is_shown_after_a_wrong_passphrase() {
        let error = VaultError::WrongPassphrase {
            given: "passphrase".into(),
            hint: Some("the blue one".into()),
            untried: None,
        };
        assert_eq!(error.to_string(), "wrong passphrase (or its keyslot was damaged); hint: the blue one");
    }
}

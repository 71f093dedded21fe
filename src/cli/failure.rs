//! [`Failure`]: what a command tells the user when it fails. One sentence: what happened; what to do.

use std::fmt;
use std::io;

use super::exit_code::ExitCode;
use crate::fuse::{FuseError, UnknownOption};
use crate::vault::{ROOM_TO_MOUNT_BYTES, VaultError};

/// The result of a command.
pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: ExitCode,
    pub(super) message: String,
    /// Because the filesystem under the vault is full.
    pub(super) is_full: bool,
}

impl Failure {
    pub(super) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), is_full: false }
    }

    pub(super) fn other(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Other, message)
    }

    /// With what it is about in front: `VAULT: message`.
    pub(super) fn about(self, subject: impl fmt::Display) -> Self {
        Self { message: format!("{subject}: {}", self.message), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let mut message = error.to_string();
        let is_full = error.is_full();
        if is_full && matches!(error, VaultError::Io { .. }) {
            message.push_str(&format!("; make room where the vault lies, {} MiB at least", ROOM_TO_MOUNT_BYTES >> 20));
        }
        Self { is_full, ..Self::new(code_of(&error), message) }
    }
}

fn code_of(error: &VaultError) -> ExitCode {
    match error {
        VaultError::NotAVault { .. } => ExitCode::NotAVault,
        VaultError::UnsupportedFormat { .. } => ExitCode::UnsupportedFormat,
        VaultError::WrongPassphrase { .. } | VaultError::NoKeyslotFor { .. } => ExitCode::WrongPassphrase,
        VaultError::ConfigurationRefused(_) => ExitCode::Usage,
        VaultError::NoKeyslot { .. } | VaultError::LastKeyslot => ExitCode::Keyslot,
        VaultError::KdfRefused(_) => ExitCode::KdfRefused,
        VaultError::AlreadyMounted { .. } => ExitCode::AlreadyMounted,
        VaultError::VaultExists | VaultError::TargetNotEmpty | VaultError::ConfigurationExists => {
            ExitCode::TargetExists
        }
        VaultError::ConfigurationDamaged { .. }
        | VaultError::ConfigurationEdited
        | VaultError::ForeignConfiguration
        | VaultError::Integrity(_) => ExitCode::Integrity,
        VaultError::RotationUnfinished | VaultError::RotationRunning => ExitCode::RotationRefused,
        VaultError::Io { .. }
        | VaultError::ReadOnly
        | VaultError::NoSpace { .. }
        | VaultError::NoRoomForCopy { .. } => ExitCode::BackingIo,
        VaultError::InvalidName
        | VaultError::NameTooLong
        | VaultError::TooLarge
        | VaultError::NotSupported { .. }
        | VaultError::Interrupted
        | VaultError::Sealing(_)
        | VaultError::JournalFull
        | VaultError::ConfigurationBusy
        | VaultError::Internal(_) => ExitCode::Other,
    }
}

impl From<FuseError> for Failure {
    fn from(error: FuseError) -> Self {
        let (code, advice) = match &error {
            FuseError::NoDevice { source } if source.kind() == io::ErrorKind::PermissionDenied => (
                ExitCode::FuseUnavailable,
                "have root let users open it, as udev does (`chmod 666 /dev/fuse`), or mount as root",
            ),
            FuseError::NoDevice { .. } => (
                ExitCode::FuseUnavailable,
                "load the kernel's FUSE (`modprobe fuse`), and in a container give it the device /dev/fuse",
            ),
            FuseError::NoFusermount => {
                (ExitCode::FuseUnavailable, "install the package fuse3 (`apt install fuse3`), or mount as root")
            }
            FuseError::AllowOtherForbidden => (
                ExitCode::FuseUnavailable,
                "have root put the line `user_allow_other` into /etc/fuse.conf, or leave the option out",
            ),
            FuseError::Mount { source, .. } if source.raw_os_error() == Some(libc::EPERM) => (
                ExitCode::FuseUnavailable,
                "mounting takes the capability CAP_SYS_ADMIN, which this root does not have (in a container?)",
            ),
            FuseError::Mount { .. } | FuseError::Fusermount { .. } => {
                (ExitCode::MountpointUnusable, "choose an empty directory that is yours")
            }
            FuseError::Session { .. } => (ExitCode::Other, "see the log (`-v` shows more)"),
            FuseError::Busy { .. } => (ExitCode::Busy, "close what uses it, or detach it with --lazy"),
            FuseError::NotMounted { .. } => (ExitCode::NotMounted, "there is nothing to seal"),
            FuseError::Unmount { .. } => (ExitCode::Other, "seal it as the user who mounted it, or as root"),
        };
        Self::new(code, format!("{error}; {advice}"))
    }
}

impl From<UnknownOption> for Failure {
    fn from(error: UnknownOption) -> Self {
        Self::new(ExitCode::Usage, format!("{error}; `sero mount --help` lists those that are"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_copy_of_the_journal_takes_is_said_and_nothing_else() {
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        let failure = Failure::from(VaultError::NoRoomForCopy { needed_bytes: (68 << 20) + 1, source });
        assert!(failure.is_full && failure.code == ExitCode::BackingIo);
        assert!(failure.message.contains("make room where the vault lies, 69 MiB at least"), "{failure}");
        assert!(failure.message.contains("--read-only") && failure.message.matches("MiB").count() == 1, "{failure}");
    }
}

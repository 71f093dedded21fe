//! [`FsError`]: what a request can fail with, and the errno that says so to the caller.

use std::io;

use thiserror::Error;

use crate::vault::VaultError;

pub(super) type Result<T> = std::result::Result<T, FsError>;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum FsError {
    /// The vault or its backing failed, or refused.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// No such name, or nothing has the name any more.
    #[error("no such file or directory")]
    NotFound,
    /// The kernel names an inode that it was never told of, or has let go of.
    #[error("unknown inode")]
    UnknownInode,
    /// The kernel names a handle that is not open.
    #[error("unknown file handle")]
    UnknownHandle,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// An entry is needed, not a directory.
    #[error("is a directory")]
    IsDirectory,
    /// A directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// Open a symbolic link itself.
    #[error("is a symbolic link")]
    IsSymlink,
    /// Flags or values that make no sense together or at all.
    #[error("invalid argument")]
    Invalid,
    /// Never allowed on this kind of inode.
    #[error("operation not permitted")]
    NotPermitted,
    /// Not offered.
    #[error("operation not supported")]
    NotSupported,
    /// Beyond the largest offset.
    #[error("file too large")]
    TooLarge,
    /// `lseek`: no data, or no byte, from there on.
    #[error("no data beyond this offset")]
    NoMoreData,
    /// No attribute of this name.
    #[error("no such attribute")]
    NoAttribute,
    /// An attribute's name is longer than 255 bytes.
    #[error("attribute name too long")]
    AttributeNameTooLong,
    /// An attribute's value is larger than 64 KiB.
    #[error("attribute value too large")]
    AttributeTooLarge,
    /// The mount takes no changes.
    #[error("read-only filesystem")]
    ReadOnly,
}

impl FsError {
    /// The error number for the caller, always one that the kernel takes (1..512).
    pub fn errno(&self) -> i32 {
        match self {
            Self::Vault(error) => vault_errno(error),
            Self::NotFound => libc::ENOENT,
            Self::UnknownInode => libc::ESTALE,
            Self::UnknownHandle => libc::EBADF,
            Self::Exists => libc::EEXIST,
            Self::IsDirectory => libc::EISDIR,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsSymlink => libc::ELOOP,
            Self::Invalid => libc::EINVAL,
            Self::NotPermitted => libc::EPERM,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::TooLarge => libc::EFBIG,
            Self::NoMoreData => libc::ENXIO,
            Self::NoAttribute => libc::ENODATA,
            Self::AttributeNameTooLong => libc::ERANGE,
            Self::AttributeTooLarge => libc::E2BIG,
            Self::ReadOnly => libc::EROFS,
        }
    }

    /// Whether bytes of the vault are not what sero wrote there.
    pub fn is_integrity(&self) -> bool {
        matches!(self, Self::Vault(VaultError::Integrity(_)))
    }

    /// Whether it was logged where it was found, so that it need not be again.
    pub fn is_reported(&self) -> bool {
        self.is_integrity()
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.errno() == libc::ENOENT
    }
}

/// The errno of a vault's error. No wildcard: a new error is to be thought about here.
pub(super) fn vault_errno(error: &VaultError) -> i32 {
    match error {
        VaultError::Io { source, .. } => io_errno(source),
        VaultError::Integrity(_) => libc::EIO,
        VaultError::ReadOnly => libc::EROFS,
        VaultError::NoSpace { .. } => libc::ENOSPC,
        VaultError::InvalidName => libc::EINVAL,
        VaultError::NameTooLong => libc::ENAMETOOLONG,
        VaultError::TooLarge => libc::EFBIG,
        VaultError::NotSupported { .. } => libc::EOPNOTSUPP,
        // Out of the daemon's hands, and of the caller's: broken, not refused.
        VaultError::Sealing(_) | VaultError::JournalFull | VaultError::Internal(_) => libc::EIO,
        // Only on the way to a mounted vault; they cannot come from one.
        VaultError::NotAVault { .. }
        | VaultError::ConfigurationDamaged { .. }
        | VaultError::ConfigurationEdited
        | VaultError::ForeignConfiguration
        | VaultError::UnsupportedFormat { .. }
        | VaultError::WrongPassphrase { .. }
        | VaultError::NoKeyslotFor { .. }
        | VaultError::NoKeyslot { .. }
        | VaultError::LastKeyslot
        | VaultError::ConfigurationBusy
        | VaultError::ConfigurationExists
        | VaultError::ConfigurationRefused(_)
        | VaultError::KdfRefused(_)
        | VaultError::AlreadyMounted { .. }
        | VaultError::NoRoomForCopy { .. }
        | VaultError::RotationUnfinished
        | VaultError::RotationRunning
        | VaultError::Interrupted
        | VaultError::VaultExists
        | VaultError::TargetNotEmpty => libc::EIO,
    }
}

fn io_errno(error: &io::Error) -> i32 {
    match error.raw_os_error() {
        // The kernel takes ENOSYS for "never ask again", for the whole mount: that is not the backing's to say.
        Some(libc::ENOSYS) => libc::EOPNOTSUPP,
        // The kernel refuses a reply with any other number, and the caller would wait for ever.
        Some(errno @ 1..=511) => errno,
        Some(_) | None => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(errno: i32) -> FsError {
        FsError::Vault(VaultError::Io { context: "test", source: io::Error::from_raw_os_error(errno) })
    }

    #[test]
    fn the_errno_of_the_backing_reaches_the_caller() {
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::ENOTEMPTY, libc::EMLINK] {
            assert_eq!(io(errno).errno(), errno);
        }
    }

    #[test]
    fn what_the_kernel_would_misunderstand_is_replaced() {
        assert_eq!(io(libc::ENOSYS).errno(), libc::EOPNOTSUPP);
        assert_eq!(io(0).errno(), libc::EIO);
        assert_eq!(io(-5).errno(), libc::EIO);
        assert_eq!(io(512).errno(), libc::EIO);
        let without_number = FsError::Vault(VaultError::Io { context: "test", source: io::Error::other("x") });
        assert_eq!(without_number.errno(), libc::EIO);
    }
}

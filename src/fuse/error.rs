//! What can go wrong between a vault and the kernel's FUSE.

use std::io;
use std::path::PathBuf;

/// Mounting or unmounting failed.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The kernel offers no FUSE, or not to this process.
    #[error("/dev/fuse cannot be opened: {source}")]
    NoDevice {
        /// Why.
        source: io::Error,
    },
    /// An ordinary user mounts through the set-user-id helper of the fuse3 package; it is not installed.
    #[error("neither fusermount3 nor fusermount was found")]
    NoFusermount,
    /// An ordinary user may give `allow_other` only where the administrator allows it.
    #[error("the option allow_other is not allowed to ordinary users here")]
    AllowOtherForbidden,
    /// mount(2) refused.
    #[error("{} cannot be mounted on: {source}", .mountpoint.display())]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// fusermount3 refused, in its own words.
    #[error("{} cannot be mounted on: {message}", .mountpoint.display())]
    Fusermount {
        /// Where.
        mountpoint: PathBuf,
        /// Its message, without its name.
        message: String,
    },
    /// The mount was made, but the kernel and the daemon did not come to terms.
    #[error("the kernel's FUSE did not answer as expected: {source}")]
    Session {
        /// Why.
        source: io::Error,
    },
    /// Processes use the mount.
    #[error("{} is in use", .mountpoint.display())]
    Busy {
        /// What was to be unmounted.
        mountpoint: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("{} is not mounted", .mountpoint.display())]
    NotMounted {
        /// What was to be unmounted.
        mountpoint: PathBuf,
    },
    /// Unmounting failed for another reason.
    #[error("{} cannot be unmounted: {message}", .mountpoint.display())]
    Unmount {
        /// What was to be unmounted.
        mountpoint: PathBuf,
        /// Why.
        message: String,
    },
}

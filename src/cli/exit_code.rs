//! The exit codes: an interface. A number never changes its meaning and is never used again for another
//! one; `docs/cli.md` lists them for scripts.

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Ok = 0,
    /// Failed in a way that has no number of its own.
    Other = 1,
    /// The command line is not one that sero understands (clap's own code, too).
    Usage = 2,
    /// No keyslot opens with this passphrase.
    WrongPassphrase = 3,
    /// The directory is not a vault.
    NotAVault = 4,
    /// The vault was made by a newer sero.
    UnsupportedFormat = 5,
    /// The vault is mounted already, here or on another machine.
    AlreadyMounted = 6,
    /// The mountpoint is missing, not a directory, not empty, inside the vault, or already a mountpoint.
    MountpointUnusable = 7,
    /// Bytes of the vault are not what sero wrote there.
    Integrity = 8,
    /// The filesystem under the vault failed, is full, or denies access.
    BackingIo = 9,
    /// Processes use the mount.
    Busy = 10,
    /// There is no mount to seal.
    NotMounted = 11,
    /// The machine offers no FUSE: no `/dev/fuse`, no fusermount3, or not to this user.
    FuseUnavailable = 12,
    /// The passphrase could not be had: no terminal, an unreadable file, a failing command.
    PassphraseUnavailable = 13,
    /// The key derivation's parameters are out of bounds, or take more memory than there is.
    KdfRefused = 14,
    /// `create` found something where the vault is to be.
    TargetExists = 15,
    /// The process behind the mount has died, or does not answer.
    DaemonUnreachable = 16,
    /// A new passphrase is too easy to guess, or the hint gives it away.
    WeakPassphrase = 17,
    /// A keyfile, key command or environment variable gave no key.
    KeyUnusable = 18,
    /// A recovery key was mistyped.
    RecoveryKeyMistyped = 19,
    /// There is no such keyslot, or it is the last one.
    Keyslot = 20,
    /// Something in the vault does not verify, or could not be read (`verify`, `repair`, `salvage`).
    DamageFound = 21,
    /// A rotation of the key runs, or another has not come to its end.
    RotationRefused = 22,
    /// The filesystem under the vault has no room for the rotation of the key.
    RotationNoRoom = 23,
    /// Sealed and whole, but the vault could not take all that the kernel had cached for it.
    WritesLost = 24,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

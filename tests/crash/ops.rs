//! What is done to a vault before it crashes.

/// One operation. Paths are plain, "/" between names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Create(&'static str),
    Write {
        path: &'static str,
        at: u64,
        len: u64,
    },
    Append {
        path: &'static str,
        len: u64,
    },
    Truncate {
        path: &'static str,
        size: u64,
    },
    Punch {
        path: &'static str,
        at: u64,
        len: u64,
    },
    SetTimes(&'static str),
    Fsync(&'static str),
    /// Close: commit, and let go of it.
    Close(&'static str),
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Link(&'static str, &'static str),
    Unlink(&'static str),
    /// Unlink with a handle open.
    UnlinkOpen(&'static str),
    /// A write to the file that was unlinked last while open.
    WriteOrphan {
        at: u64,
        len: u64,
    },
    /// The orphan's last handle goes.
    CloseOrphan,
    /// A file without a name, as `O_TMPFILE` makes it.
    CreateUnnamed,
    /// A write to the file that was made so last.
    WriteUnnamed {
        at: u64,
        len: u64,
    },
    FsyncUnnamed,
    /// It gets a name, the first or another.
    LinkUnnamed(&'static str),
    /// It does not get this name, which is taken.
    LinkUnnamedRefused(&'static str),
    /// Its handle goes, and what has no name.
    CloseUnnamed,
    Mkdir(&'static str),
    Rmdir(&'static str),
    SyncDir(&'static str),
    Checkpoint,
    /// A checkpoint that finds no room for the homes: until the next, two segments of the journal count.
    HeldCheckpoint,
    /// `Vault::sync`.
    Sync,
    /// Three seconds of the daemon's ticks.
    Tick,
    /// Seal, and open again.
    Seal,
    /// The process is killed, and the vault opened again. What was not synced still is not.
    Kill,
    /// The power goes after so many more steps; then all goes on with what is left. `policy` is one of
    /// [`POLICIES`](super::explore::POLICIES), or beyond them a kill.
    CutSoon {
        steps: u64,
        policy: usize,
        seed: u64,
    },
    /// The page keys change soon.
    ShortSession,
    /// A rotation of the project key, or the rest of one that a crash cut.
    Rotate,
}

/// A durable blob, in the prepared vault.
pub const BLOB: &str = "blob";
/// A durable paged file with a leaf node.
pub const PAGED: &str = "paged";
/// A durable directory.
pub const DIR: &str = "dir";
/// A durable paged file without a leaf node, in it.
pub const INNER: &str = "dir/inner";
/// A name that needs a sidecar.
pub const LONG: &str = "a name that is so long that what it is sealed to does not fit into a directory entry of the backing \
any more so that a hash stands for it and the sealed name stands beside it in a symbolic link of its own";

/// Sizes of the prepared files.
pub const BLOB_LEN: u64 = 3000;
pub const PAGED_LEN: u64 = 130 * 4096 + 100;
pub const INNER_LEN: u64 = 20 * 4096;

/// The largest content that is stored as a blob.
pub const BLOB_MAX: u64 = 16256;

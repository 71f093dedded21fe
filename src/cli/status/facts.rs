//! [`Status`]: what a daemon says about itself. The names of the fields are an interface (docs/cli.md), and other
//! versions of sero read them: what one does not know it leaves out, or takes for its default.

use serde::{Deserialize, Serialize};

/// How a mount is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum State {
    /// It answers.
    Mounted,
    /// It is to end, and still in use.
    Ending,
    /// Unmounted; what is left is being written.
    Sealing,
    /// The daemon did not say (`sero status` alone says this).
    Unreachable,
    /// A state that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What a daemon says about its mount. Times in seconds since 1970, spans in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Status {
    pub(in super::super) state: State,
    pub(in super::super) mountpoint: String,
    pub(in super::super) vault: String,
    pub(in super::super) vault_id: String,
    /// Where its configuration lies, if that is apart from the vault.
    pub(in super::super) config: Option<String>,
    /// The daemon's version, process and user.
    pub(in super::super) version: String,
    pub(in super::super) pid: u32,
    pub(in super::super) uid: u32,
    /// When it was mounted.
    pub(in super::super) since: u64,
    pub(in super::super) read_only: bool,
    /// Why it takes no changes although it was mounted for them.
    pub(in super::super) degraded: Option<Degraded>,
    pub(in super::super) session: Session,
    /// Open files and directories.
    pub(in super::super) open_files: u64,
    pub(in super::super) open_directories: u64,
    pub(in super::super) operations: Operations,
    pub(in super::super) errors: Errors,
    pub(in super::super) journal: Option<Journal>,
    pub(in super::super) memory: Memory,
    /// How far a re-encryption is; null: none is under way.
    pub(in super::super) rotation: Option<serde_json::Value>,
}

/// A vault that takes no changes any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Degraded {
    /// What could not be done, and why.
    pub(in super::super) reason: String,
    /// The backing's error number.
    pub(in super::super) errno: Option<i32>,
    pub(in super::super) since: u64,
}

/// When it will seal itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Session {
    /// Since the last access, or since the last file was closed; 0 while one is open.
    pub(in super::super) idle_seconds: u64,
    /// `--idle`.
    pub(in super::super) idle_limit: Option<u64>,
    /// Since it was mounted.
    pub(in super::super) seconds: u64,
    /// `--max-session`.
    pub(in super::super) limit: Option<u64>,
    /// `suspend`, `lock`: it is sealed then, too.
    pub(in super::super) seal_on: Vec<String>,
    /// The session's end is near: what is open should be saved.
    pub(in super::super) ends_soon: bool,
    /// Why it ends, and who keeps it from ending.
    pub(in super::super) ending: Option<Busy>,
}

/// A mount that is to end and cannot yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Busy {
    /// `idle`, `max-session`, `signal`, `suspend`, `lock`.
    pub(in super::super) reason: String,
    /// When it was tried first.
    pub(in super::super) since: u64,
    /// Processes, as `PID (program)`.
    pub(in super::super) users: Vec<String>,
}

/// Since it was mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Operations {
    /// Requests of the kernel; what it answers from its cache is not among them.
    pub(in super::super) total: u64,
    pub(in super::super) reads: u64,
    pub(in super::super) writes: u64,
    pub(in super::super) bytes_read: u64,
    pub(in super::super) bytes_written: u64,
}

/// Since it was mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Errors {
    /// Requests that failed because bytes of the vault are not what sero wrote.
    pub(in super::super) integrity: u64,
    /// Requests that failed otherwise where the filesystem, not the caller, is the reason: the backing, its space.
    pub(in super::super) backing: u64,
    /// Of what programs wrote into the kernel's cache the vault could not take so many bytes, of so many files; what was
    /// written again or removed since does not count.
    pub(in super::super) lost_bytes: u64,
    pub(in super::super) lost_files: u64,
    pub(in super::super) last: Option<LastError>,
}

/// The last of the errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct LastError {
    pub(in super::super) when: u64,
    /// As in the log: without plain names.
    pub(in super::super) message: String,
}

/// What is in the journal, and not in its place yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Journal {
    pub(in super::super) used_bytes: u64,
    pub(in super::super) capacity_bytes: u64,
    pub(in super::super) files: u64,
}

/// What is held in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Memory {
    /// Files and directories that the kernel knows.
    pub(in super::super) inodes: u64,
    /// Files whose content is in reach: open, or in the journal.
    pub(in super::super) files: u64,
    /// Directories with an open descriptor, and how many may have one.
    pub(in super::super) directories: u64,
    pub(in super::super) directories_max: u64,
    /// Changed parts of tag trees that wait for a checkpoint.
    pub(in super::super) dirty_bytes: u64,
    /// Resident memory of the daemon.
    pub(in super::super) resident_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_are_understood() {
        let newer = r#"{"state": "hovering", "mountpoint": "/mnt", "session": {"idle_limit": 600}, "colour": "red"}"#;
        let status: Status = serde_json::from_str(newer).unwrap();
        assert_eq!((status.state, status.mountpoint.as_str()), (State::Unknown, "/mnt"));
        assert_eq!(status.session.idle_limit, Some(600));
        assert_eq!(serde_json::from_str::<Status>("{}").unwrap(), Status::default());
    }
}

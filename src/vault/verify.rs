//! Verify: everything in the backing against its tags, without changing any of it.
//!
//! It runs on an open vault and goes through the engine's own view of it (memory, then journal, then home), so that it
//! is sound beside ordinary work: inside the daemon of a mounted vault each step sees a consistent state, and what is
//! on its way home is not taken for damage. Reading the backing of a mounted vault from outside would be guesswork:
//! homes are rewritten in place by checkpoints, and what they will be is in the journal and in the daemon's memory.
//!
//! A vault at rest is opened by [`Vault::open_tolerant`], which finds what is wrong with the vault's own files; a
//! crashed one's journal is replayed in memory.
//!
//! Directories, files and ranges of large files are tasks for a few threads ([`queue`]). Names are opened by
//! [`walk`], content by [`Checker`](super::file::check::Checker), the vault's own files by [`private`].

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Vault;
use super::directory::Directory;
use super::error::{Result, VaultError};
use crate::storage::{FileKind, Storage};

mod estimate;
mod private;
pub(super) mod queue;
mod walk;

use walk::{Plain, Walk};

/// What verify looks at.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Plain paths from the top of the vault; none: everything, the vault's own files included.
    pub paths: Vec<Vec<u8>>,
    /// Threads; 0: one for each core.
    pub jobs: usize,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Bytes are not what sero wrote.
    Damage,
    /// The backing refused to read it: what it holds is not known.
    Unreadable,
    /// What a crash left half-made; the next mount settles it. Nobody was promised it.
    Crash,
    /// Harmless: nothing refers to it.
    Leftover,
}

impl Severity {
    /// As `--json` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Unreadable => "unreadable",
            Self::Crash => "crash",
            Self::Leftover => "leftover",
        }
    }

    /// Whether the vault is not whole.
    pub const fn is_damage(self) -> bool {
        matches!(self, Self::Damage | Self::Unreadable)
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FindingKind {
    // --- the vault's own files ---
    ConfigurationBackup,
    State,
    Journal,
    Private,
    // --- names ---
    DirectoryIv,
    Directory,
    Name,
    Sidecar,
    // --- files ---
    Header,
    Length,
    Root,
    Blob,
    Node,
    Page,
    /// Pages that the backing file does not hold any more.
    Missing,
    File,
    // --- the rest ---
    Symlink,
    LinkPiece,
    Xattrs,
    Temporary,
    Lost,
    Foreign,
}

impl FindingKind {
    /// As `--json` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfigurationBackup => "configuration-backup",
            Self::State => "state",
            Self::Journal => "journal",
            Self::Private => "private",
            Self::DirectoryIv => "directory-iv",
            Self::Directory => "directory",
            Self::Name => "name",
            Self::Sidecar => "sidecar",
            Self::Header => "header",
            Self::Length => "length",
            Self::Root => "root",
            Self::Blob => "blob",
            Self::Node => "node",
            Self::Page => "page",
            Self::Missing => "missing",
            Self::File => "file",
            Self::Symlink => "symlink",
            Self::LinkPiece => "link-piece",
            Self::Xattrs => "xattrs",
            Self::Temporary => "temporary",
            Self::Lost => "lost",
            Self::Foreign => "foreign",
        }
    }
}

/// A range of a file's plain content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Extent {
    pub offset_bytes: u64,
    pub len_bytes: u64,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    pub kind: FindingKind,
    /// Below the vault, as it is in the backing.
    pub backing: OsString,
    /// From the top of the vault, without a slash in front. None: its name, or one above it, does not open; or it is
    /// one of the vault's own files.
    pub plain: Option<Vec<u8>>,
    /// What of the content is concerned; None: all of it, or it is not about content.
    pub extent: Option<Extent>,
    pub reason: String,
}

impl Finding {
    /// About one of the vault's own files.
    pub(super) fn own(severity: Severity, kind: FindingKind, backing: impl Into<OsString>, reason: String) -> Self {
        Self { severity, kind, backing: backing.into(), plain: None, extent: None, reason }
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifySummary {
    pub directories: u64,
    /// Regular files; one with several names counts once.
    pub files: u64,
    pub symlinks: u64,
    /// Devices, FIFOs, sockets.
    pub others: u64,
    /// Plain bytes of the files, holes included.
    pub bytes: u64,
    pub damaged: u64,
    pub unreadable: u64,
    pub crash: u64,
    pub leftovers: u64,
}

impl VerifySummary {
    /// Nothing is damaged. Leftovers may be there.
    pub const fn is_whole(&self) -> bool {
        self.damaged == 0 && self.unreadable == 0
    }
}

/// Who is told, from several threads.
pub trait VerifyObserver: Sync {
    /// How many bytes of content there are, as soon as it is known.
    fn total(&self, _bytes: u64) {}
    /// So many more are checked.
    fn checked(&self, _bytes: u64) {}
    fn found(&self, finding: Finding);
    /// Whether to stop early, which is an error then; once it says so, it goes on saying so.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Counted by several threads.
#[derive(Default)]
struct Counters {
    directories: AtomicU64,
    files: AtomicU64,
    symlinks: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
    severities: [AtomicU64; 4],
}

/// What all threads share.
struct Shared<'a, S: Storage> {
    vault: &'a Vault<S>,
    observer: &'a dyn VerifyObserver,
    counters: Counters,
    /// Inodes with several names that were looked at.
    seen: Mutex<HashSet<u64>>,
    /// What the pieces of long symlink targets are named by, as far as a link refers to them.
    link_ids: Mutex<HashSet<Vec<u8>>>,
    /// Others change it meanwhile: what looks left over may be on its way.
    is_live: bool,
}

impl<S: Storage> Shared<'_, S> {
    fn found(&self, finding: Finding) {
        let [damaged, unreadable, crash, leftovers] = &self.counters.severities;
        let counter = match finding.severity {
            Severity::Damage => damaged,
            Severity::Unreadable => unreadable,
            Severity::Crash => crash,
            Severity::Leftover => leftovers,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.observer.found(finding);
    }

    /// Whether something could not be read.
    fn has_unread(&self) -> bool {
        let [_, unreadable, ..] = &self.counters.severities;
        unreadable.load(Ordering::Relaxed) > 0
    }

    fn summary(&self) -> VerifySummary {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [damaged, unreadable, crash, leftovers] = &self.counters.severities;
        VerifySummary {
            directories: get(&self.counters.directories),
            files: get(&self.counters.files),
            symlinks: get(&self.counters.symlinks),
            others: get(&self.counters.others),
            bytes: get(&self.counters.bytes),
            damaged: get(damaged),
            unreadable: get(unreadable),
            crash: get(crash),
            leftovers: get(leftovers),
        }
    }
}

impl<S: Storage> Vault<S> {
    /// Checks everything, or what is at the given paths. May run beside ordinary work, but not beside a rotation, which
    /// waits for it or has it refused. An error is one of the
    /// request (a path that is not there) or of this process; what is wrong with the vault is told to the observer.
    pub fn verify(&self, options: &VerifyOptions, observer: &dyn VerifyObserver) -> Result<VerifySummary> {
        let Some(_nothing_is_rotated) = self.core.verifying.try_read() else {
            return Err(VaultError::RotationRunning);
        };
        let shared = Shared {
            vault: self,
            observer,
            counters: Counters::default(),
            seen: Mutex::default(),
            link_ids: Mutex::default(),
            is_live: !self.is_read_only(),
        };
        let walk = Walk { shared: &shared };
        let mut tasks = Vec::new();
        if options.paths.is_empty() {
            tasks.push(walk::Task::Directory { directory: self.root(), plain: Some(Plain::default()) });
        }
        for path in &options.paths {
            let task = walk.task_at(path).map_err(|error| match &error {
                VaultError::Io { source, .. } if is_not_there(source) => VaultError::io(
                    "find what to verify",
                    io::Error::new(
                        io::ErrorKind::NotFound,
                        format!("there is no /{} in the vault", path.escape_ascii()),
                    ),
                ),
                _ => error,
            })?;
            tasks.extend(task);
        }
        let jobs = queue::jobs(options.jobs);
        let estimate = estimate::Estimate::of(&tasks);
        std::thread::scope(|scope| {
            scope.spawn(|| estimate.run(&shared));
            queue::run(
                jobs,
                tasks,
                || observer.is_cancelled(),
                walk::Worker::new,
                |worker, task, queue| {
                    walk.run(worker, task, queue);
                },
            );
        });
        if observer.is_cancelled() {
            return Err(VaultError::Interrupted);
        }
        if options.paths.is_empty() {
            private::check(&shared);
        }
        Ok(shared.summary())
    }

    /// The directory that a plain path leads to, and the last name; None is the top. Symbolic links are not followed.
    pub(super) fn parent_at(&self, path: &[u8]) -> Result<Option<(Arc<Directory<S>>, Vec<u8>)>> {
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").peekable();
        let mut directory = self.root();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return Ok(Some((directory, name.to_vec())));
            }
            directory = directory.open_child(name)?;
        }
        Ok(None)
    }
}

/// A backing path of its parts.
pub(super) fn joined(entries: &[OsString]) -> OsString {
    entries.join(std::ffi::OsStr::new("/"))
}

fn is_not_there(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

/// How a failed call of the vault is reported.
pub(super) fn severity_of(error: &VaultError) -> Severity {
    if matches!(error, VaultError::Integrity(_)) { Severity::Damage } else { Severity::Unreadable }
}

/// The reason alone: the finding names the path.
pub(super) fn reason_of(error: VaultError) -> String {
    match error {
        VaultError::Integrity(error) => error.reason,
        other => other.to_string(),
    }
}

/// What the backing's listing says, or a look at it where it does not.
fn kind_of(kind: FileKind, stat: &crate::storage::Stat) -> FileKind {
    if kind == FileKind::Unknown { stat.kind() } else { kind }
}

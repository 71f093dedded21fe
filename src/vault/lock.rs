//! One writer at a time: an advisory lock on private/lock.
//!
//! The lock is the kernel's (`fcntl_locking(2)`): it goes with the process that holds it, however that ends, and who
//! looks at it does not take it. What stands in the file only says who it was, for the message; it may be out of date
//! and is never believed.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::directory::PRIVATE;
use super::error::{Holder, Result, VaultError, is_of_another_kind};
use crate::storage::{Access, Storage, read_into, write_from};

/// The lock's file in the private folder.
pub(super) const ENTRY: &str = "lock";
/// The same below the vault.
pub(super) const PATH: &str = "private/lock";

const CONTENT_MAX: usize = 4096;
/// Readers may be about to end (`sero ls`), and on SMB even a look takes the lock for a moment. A writer has come to stay.
pub const READERS_PATIENCE: Duration = Duration::from_secs(1);
const WRITER_PATIENCE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(20);

/// The lock, held until it is dropped.
pub struct VaultLock<S: Storage> {
    /// None: read-only, on a backing that cannot be locked as it cannot be changed.
    file: Option<S::File>,
}

/// What the file says.
#[derive(Serialize, Deserialize)]
struct Content {
    host: Option<String>,
    pid: Option<u32>,
    started: Option<u64>,
}

impl<S: Storage> VaultLock<S> {
    /// For reading and writing: excludes everyone else.
    pub fn exclusive(storage: &S, private: &S::Dir) -> Result<Self> {
        let file = match storage.open_file(private, ENTRY.as_ref(), Access::ReadWrite) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                match storage.create_file(private, ENTRY.as_ref(), 0o600) {
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                        storage.open_file(private, ENTRY.as_ref(), Access::ReadWrite)
                    }
                    created => created,
                }
            }
            opened => opened,
        }
        .map_err(not_locked)?;
        take(storage, &file, true)?;
        // The message of others depends on it, the vault's safety does not.
        if let Err(error) = say_who(storage, &file) {
            log::debug!("the lock could not be signed: {error}");
        }
        Ok(Self { file: Some(file) })
    }

    /// The session is over: what says whose it was goes. The lock itself stays until it is dropped.
    pub fn forget_who(&self, storage: &S) {
        if let Some(file) = &self.file
            && let Err(error) = storage.set_len(file, 0)
        {
            log::debug!("the lock's file could not be emptied: {error}");
        }
    }

    /// None: for reading what cannot be locked.
    pub const fn none() -> Self {
        Self { file: None }
    }

    /// For reading alone: excludes writers, admits other readers.
    pub fn shared(storage: &S, private: &S::Dir) -> Result<Self> {
        let file = match storage.open_file(private, ENTRY.as_ref(), Access::Read) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                match storage.create_file(private, ENTRY.as_ref(), 0o600) {
                    Ok(file) => file,
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                        storage.open_file(private, ENTRY.as_ref(), Access::Read).map_err(not_locked)?
                    }
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)) => {
                        return Ok(Self { file: None });
                    }
                    Err(error) => return Err(not_locked(error)),
                }
            }
            Err(error) => return Err(not_locked(error)),
        };
        take(storage, &file, false)?;
        Ok(Self { file: Some(file) })
    }
}

fn not_locked(error: std::io::Error) -> VaultError {
    VaultError::own_file(PATH, "lock the vault", error)
}

/// Who has the vault for reading and writing. None: nobody.
pub fn holder<S: Storage>(storage: &S) -> Result<Option<Holder>> {
    let Some(file) = existing(storage)? else { return Ok(None) };
    let free = storage.could_lock(&file, false).map_err(|e| VaultError::io("look at the vault's lock", e))?;
    Ok(if free { None } else { Some(read_holder(storage, &file)) })
}

/// Does something that leaves no session behind, while nobody else opens the vault.
pub fn alone<S: Storage, T>(storage: &S, work: impl FnOnce() -> T) -> Result<T> {
    let root = storage.open_root().map_err(not_locked)?;
    let private = storage.open_dir(&root, PRIVATE.as_ref()).map_err(not_locked)?;
    let lock = VaultLock::exclusive(storage, &private)?;
    let outcome = work();
    lock.forget_who(storage);
    Ok(outcome)
}

/// Whether anyone has the vault, for reading alone too.
pub fn is_in_use<S: Storage>(storage: &S) -> Result<bool> {
    let Some(file) = existing(storage)? else { return Ok(false) };
    let free = storage.could_lock(&file, true).map_err(|e| VaultError::io("look at the vault's lock", e))?;
    Ok(!free)
}

fn existing<S: Storage>(storage: &S) -> Result<Option<S::File>> {
    let io = |e| VaultError::io("look at the vault's lock", e);
    let root = storage.open_root().map_err(io)?;
    let opened = storage
        .open_dir(&root, PRIVATE.as_ref())
        .and_then(|private| storage.open_file(&private, ENTRY.as_ref(), Access::Read));
    match opened {
        Ok(file) => Ok(Some(file)),
        // Where something else is in its place nobody can lock it: that is said by who opens the vault.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) || is_of_another_kind(&error) => Ok(None),
        Err(error) => Err(io(error)),
    }
}

fn take<S: Storage>(storage: &S, file: &S::File, exclusive: bool) -> Result<()> {
    let started = Instant::now();
    let readers_only = loop {
        if storage.try_lock(file, exclusive).map_err(not_locked)? {
            return Ok(());
        }
        // Readers do not sign the file: what it says is about a writer, if there is one.
        let readers_only = exclusive && storage.could_lock(file, false).unwrap_or(false);
        if started.elapsed() >= if readers_only { READERS_PATIENCE } else { WRITER_PATIENCE } {
            break readers_only;
        }
        thread::sleep(PAUSE);
    };
    let holder = if readers_only { Holder::default() } else { read_holder(storage, file) };
    Err(VaultError::AlreadyMounted { holder })
}

/// As far as the file says; a writer may not have signed it yet.
fn read_holder<S: Storage>(storage: &S, file: &S::File) -> Holder {
    let mut bytes = vec![0; CONTENT_MAX];
    let read = read_into(storage, file, &mut bytes, 0).unwrap_or(0);
    bytes.truncate(read);
    match serde_json::from_slice(&bytes) {
        Ok(Content { host, pid, started }) => Holder { host, pid, started },
        Err(_) => Holder::default(),
    }
}

fn say_who<S: Storage>(storage: &S, file: &S::File) -> std::io::Result<()> {
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let content = Content { host: Some(host), pid: Some(std::process::id()), started };
    let mut bytes = serde_json::to_vec(&content).map_err(std::io::Error::other)?;
    bytes.push(b'\n');
    storage.set_len(file, 0)?;
    write_from(storage, file, &bytes, 0)
}

#[cfg(test)]
mod tests;

//! Crash windows: which files may have been left half-made by sessions that did not end cleanly.
//!
//! A file that was made in a session and was not durable when that session crashed may be anything: empty, a
//! prefix, a header without its pages. No journal speaks of it, and nobody was promised that it survives. Such
//! a file must not be taken for an attacker's work, nor an attacker's work for such a file; so the window is
//! narrow: only files whose inode was made between the beginning of the last epoch that was not durable and
//! the mount after the crash. The windows are kept, sealed, in `private/state` until a pass over the tree has
//! settled what lies in them.
//!
//! In a vault whose key was rotated the file is always there, under the active version, and written before the first journal
//! under that version: a configuration from before the rotation does not open it, and so no vault, whose journal it could
//! not open either.

use crate::format::configuration::KeyVersion;
use crate::format::header::{Birth, Malformed, Reader};
use crate::storage::{Access, Stat, Storage, Timestamp, read_into, write_from};

use super::error::{Result, VaultError};
use super::keyring::{KeyRing, VersionKeys};

/// The sealed list's file in the private folder.
const STATE_NAME: &str = "state";
const STATE_NEW_NAME: &str = "state.new";
const AAD: &[u8] = b"sero/v1/state";
/// Crashes in a row whose windows are kept.
const WINDOWS_MAX: usize = 64;
/// The clock that stamps inodes is coarse, and a file may be stamped just before its epoch is counted.
const SLACK_SECONDS: i64 = 2;

/// What one crash may have cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrashWindow {
    pub session: u32,
    /// Files of epochs up to this one were durable.
    pub durable_epoch: u32,
    pub start: Timestamp,
    pub end: Timestamp,
}

impl CrashWindow {
    /// Whether a file of this birth may have been left half-made.
    pub fn may_have_cost(&self, birth: Birth) -> bool {
        birth.session == self.session && birth.epoch > self.durable_epoch
    }
}

/// All windows that have not been settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows(Vec<CrashWindow>);

impl Windows {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn list(&self) -> &[CrashWindow] {
        &self.0
    }

    pub fn add(&mut self, window: CrashWindow) {
        if self.0.contains(&window) {
            // Of a recovery that did not come to its end.
            return;
        }
        if self.0.len() >= WINDOWS_MAX {
            self.0.remove(0);
        }
        self.0.push(window);
    }

    /// These are settled.
    pub fn remove(&mut self, settled: &[CrashWindow]) {
        self.0.retain(|window| !settled.contains(window));
    }

    /// The window in which an inode was made. Where the backing does not tell, the last change of its attributes
    /// counts, which is never earlier.
    pub fn covers(&self, stat: &Stat) -> Option<CrashWindow> {
        self.covering(stat).next()
    }

    /// Whether one of the crashes came before a file of this birth was durable. Windows of crashes in quick
    /// succession overlap.
    pub fn may_have_cost(&self, stat: &Stat, birth: Birth) -> bool {
        self.covering(stat).any(|window| window.may_have_cost(birth))
    }

    fn covering(&self, stat: &Stat) -> impl Iterator<Item = CrashWindow> {
        let made = stat.btime.unwrap_or(stat.ctime).seconds;
        self.0.iter().copied().filter(move |window| {
            window.start.seconds.saturating_sub(SLACK_SECONDS) <= made
                && made <= window.end.seconds.saturating_add(SLACK_SECONDS)
        })
    }

    /// Whether the list has to be stored before there is a journal under the active version of the key.
    pub fn is_missing_under<S: Storage>(storage: &S, private: &S::Dir, keys: &VersionKeys) -> Result<bool> {
        if keys.version == KeyVersion::FIRST {
            return Ok(false);
        }
        let Some(bytes) = Self::read(storage, private)? else { return Ok(true) };
        Ok(keys.state().open_message(AAD, &bytes).is_err())
    }

    fn read<S: Storage>(storage: &S, private: &S::Dir) -> Result<Option<Vec<u8>>> {
        let failed = |e| VaultError::io("read the vault's state", e);
        let file = match storage.open_file(private, STATE_NAME.as_ref(), Access::Read) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(VaultError::own_file("private/state", "read the vault's state", error)),
        };
        let mut bytes = vec![0; 64 * 1024];
        let read = read_into(storage, &file, &mut bytes, 0).map_err(failed)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Reads the list. None is an empty one; one that does not verify is an error.
    pub fn load<S: Storage>(storage: &S, private: &S::Dir, keys: &KeyRing) -> Result<Self> {
        let Some(bytes) = Self::read(storage, private)? else { return Ok(Self::default()) };
        let damaged = || {
            let reason =
                "the vault's state does not verify; or the configuration is older than the last rotation of the key";
            VaultError::integrity("private/state", reason)
        };
        let plain = keys.open(|keys| keys.state().open_message(AAD, &bytes)).map_err(|_| damaged())?;
        Self::parse(&plain).map_err(|_| damaged())
    }

    fn parse(plain: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(plain);
        let count = usize::from(reader.u8()?);
        let mut windows = Vec::new();
        for _ in 0..count {
            windows.push(CrashWindow {
                session: reader.u32()?,
                durable_epoch: reader.u32()?,
                start: Timestamp { seconds: reader.i64()?, nanoseconds: reader.u32()? },
                end: Timestamp { seconds: reader.i64()?, nanoseconds: reader.u32()? },
            });
        }
        if reader.rest().is_empty() { Ok(Self(windows)) } else { Err(Malformed) }
    }

    /// Stores the list, durably and as a whole; an empty one is no file, as long as the key was never rotated.
    pub fn store<S: Storage>(&self, storage: &S, private: &S::Dir, keys: &VersionKeys) -> Result<()> {
        let failed = |e| VaultError::io("write the vault's state", e);
        if self.0.is_empty() && keys.version == KeyVersion::FIRST {
            match storage.unlink(private, STATE_NAME.as_ref()) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                other => other.map_err(failed)?,
            }
            return storage.sync_dir(private).map_err(failed);
        }
        let mut plain = vec![u8::try_from(self.0.len()).unwrap_or(u8::MAX)];
        for window in &self.0 {
            plain.extend(window.session.to_le_bytes());
            plain.extend(window.durable_epoch.to_le_bytes());
            for time in [window.start, window.end] {
                plain.extend(time.seconds.to_le_bytes());
                plain.extend(time.nanoseconds.to_le_bytes());
            }
        }
        match storage.unlink(private, STATE_NEW_NAME.as_ref()) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(failed(error)),
            _ => {}
        }
        let file = storage.create_file(private, STATE_NEW_NAME.as_ref(), 0o600).map_err(failed)?;
        write_from(storage, &file, &keys.state().seal_message(AAD, &plain), 0).map_err(failed)?;
        storage.sync_file(&file).map_err(failed)?;
        storage
            .rename(private, STATE_NEW_NAME.as_ref(), private, STATE_NAME.as_ref(), crate::storage::RenameMode::Replace)
            .map_err(failed)?;
        storage.sync_dir(private).map_err(failed)
    }
}

//! Wrong tries wait: longer each time, for each vault, also across runs.
//!
//! How many there were is kept in the user's state directory, in a file named by the vault's id: nothing secret, nothing in the
//! vault, which may be on read-only media. Whoever sits at this account is slowed down, and so are scripts that guess; whoever
//! has a copy of the vault is not, and pays for each guess what the keyslots cost. The owner is never locked out: the wait
//! ends after a minute at most. Tries at the same time wait for each other. Where the state cannot be kept, nobody waits.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::Context;
use super::words::count;
use crate::vault::VaultError;

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After so long without a try, the wrong ones are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    wrong: u32,
    /// Unix time, seconds.
    last: u64,
}

impl Record {
    /// How long the next try has to wait, at this time.
    fn wait(self, now: u64) -> Duration {
        // A clock that was set back makes nobody wait longer than the whole time.
        let since = Duration::from_secs(now.saturating_sub(self.last));
        self.whole_wait().saturating_sub(since)
    }

    /// 1, 2, 4 seconds and so on.
    fn whole_wait(self) -> Duration {
        match self.wrong.checked_sub(1) {
            None => Duration::ZERO,
            Some(before) => Duration::from_secs(1_u64.checked_shl(before.min(32)).unwrap_or(u64::MAX)).min(WAIT_MAX),
        }
    }
}

/// A try to unlock a vault.
pub(super) struct Attempt {
    /// Locked. None: the state cannot be kept.
    file: Option<File>,
    record: Record,
}

impl Attempt {
    /// Waits as long as the wrong tries before make it wait.
    pub(super) fn begin(vault_id: &str, context: &Context) -> Self {
        let kept = directory()
            .ok_or_else(|| io::Error::other("no state directory"))
            .and_then(|directory| open(&directory, vault_id));
        let (file, record) = match kept {
            Ok((file, record)) => (Some(file), record),
            Err(error) => {
                log::debug!("wrong tries are not counted: {error}");
                (None, Record::default())
            }
        };
        let now = now();
        let record = match now.saturating_sub(record.last) > FORGOTTEN_AFTER.as_secs() {
            true => Record::default(),
            false => record,
        };
        let wait = record.wait(now);
        if !wait.is_zero() {
            context.note(&format!(
                "waiting {}, as {} wrong",
                count(wait.as_secs(), "second", "seconds"),
                count(record.wrong.into(), "try was", "tries were")
            ));
            thread::sleep(wait);
        }
        Self { file, record }
    }

    /// Remembers how it ended.
    pub(super) fn end<T>(self, result: &Result<T, VaultError>) {
        let Some(mut file) = self.file else { return };
        let record = match result {
            Ok(_) => Record::default(),
            Err(VaultError::WrongPassphrase { .. }) => {
                Record { wrong: self.record.wrong.saturating_add(1), last: now() }
            }
            Err(_) => return,
        };
        if let Err(error) = write(&mut file, record) {
            log::debug!("the try is not counted: {error}");
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `$XDG_STATE_HOME/sero/attempts`, by default `~/.local/state/sero/attempts`.
fn directory() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("sero/attempts"))
}

fn open(directory: &Path, vault_id: &str) -> io::Result<(File, Record)> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(directory.join(vault_id))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    let mut text = String::new();
    Read::by_ref(&mut file).take(1024).read_to_string(&mut text)?;
    // What does not parse was not written by this.
    Ok((file, serde_json::from_str(&text).unwrap_or_default()))
}

fn write(file: &mut File, record: Record) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    if record != Record::default() {
        file.write_all(&serde_json::to_vec(&record)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_wrong_try_doubles_the_wait_up_to_a_minute() {
        let waits: Vec<u64> = (0..9).map(|wrong| Record { wrong, last: 100 }.wait(100).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(Record { wrong: u32::MAX, last: 100 }.wait(100), WAIT_MAX);
        assert_eq!(Record { wrong: 5, last: 100 }.wait(110), Duration::from_secs(6), "time that has passed counts");
        assert_eq!(Record { wrong: 5, last: 100 }.wait(1000), Duration::ZERO);
        assert_eq!(Record { wrong: 5, last: 1000 }.wait(0), Duration::from_secs(16), "the clock was set back");
    }

    #[test]
    fn wrong_tries_are_kept_and_a_right_one_clears_them() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("sero/attempts");
        let attempt = |expected: u32| {
            let (file, record) = open(&place, "id").unwrap();
            assert_eq!(record.wrong, expected);
            Attempt { file: Some(file), record }
        };
        let wrong = || Err::<(), _>(VaultError::WrongPassphrase { given: String::new(), hint: None, untried: None });
        attempt(0).end(&wrong());
        attempt(1).end(&wrong());
        attempt(2).end(&Err::<(), _>(VaultError::LastKeyslot));
        attempt(2).end(&Ok(()));
        attempt(0).end(&Ok(()));
        fs::write(place.join("id"), b"{\xff").unwrap();
        assert!(open(&place, "id").is_err());
    }
}

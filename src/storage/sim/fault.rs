//! Errors that tests ask for.

use std::path::PathBuf;

use super::random::Random;

/// An error to come. `nth` counts the calls of that kind from now on: 1 is the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Writes take this many more bytes; then they, new names and new attributes fail with `ENOSPC`,
    /// until the faults are cleared.
    NoSpace {
        /// Bytes of file content, overwritten ones too (as on a copy-on-write filesystem).
        after_bytes: u64,
    },
    /// Writes to files below this folder of the top fail with `ENOSPC`, until the faults are cleared.
    NoSpaceBelow { folder: &'static str },
    /// A write leaves a prefix, and fails with `EIO`.
    ShortWrite {
        /// Which write.
        nth: u64,
    },
    /// A write leaves nothing, and fails with `EIO`.
    WriteError {
        /// Which write.
        nth: u64,
    },
    /// A read fails with `EIO`.
    ReadError {
        /// Which read.
        nth: u64,
    },
    /// A sync fails with `EIO`. What it should have written is marked clean all the same, as Linux
    /// does: a later sync that succeeds does not mean that it is on the disk.
    SyncError {
        /// Which sync, of any kind.
        nth: u64,
    },
    /// A sync does nothing and says that all is well: what happens if a barrier is left out.
    SyncSkipped {
        /// Which sync, of any kind.
        nth: u64,
    },
    /// No file is made without a name: `EOPNOTSUPP`, until the faults are cleared, as on filesystems that cannot.
    NoUnnamed,
}

/// The faults to come.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pending: Vec<Fault>,
}

/// What a write is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteVerdict {
    All,
    /// This many bytes, then `ENOSPC`.
    NoSpaceAfter(u64),
    /// This many bytes, then `EIO`.
    ErrorAfter(u64),
}

/// What becomes of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncVerdict {
    Done,
    Skipped,
    Failed,
}

impl Faults {
    pub(super) fn inject(&mut self, fault: Fault) {
        self.pending.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    pub(super) fn on_read(&mut self) -> bool {
        self.count(|fault| match fault {
            Fault::ReadError { nth } => Some(nth),
            _ => None,
        })
        .is_some()
    }

    pub(super) fn on_write(&mut self, path: impl Fn() -> PathBuf, len_bytes: u64, random: &mut Random) -> WriteVerdict {
        let failed = self.count(|fault| match fault {
            Fault::ShortWrite { nth } | Fault::WriteError { nth } => Some(nth),
            _ => None,
        });
        match failed {
            Some(Fault::ShortWrite { .. }) if len_bytes > 0 => {
                return WriteVerdict::ErrorAfter(random.below(len_bytes));
            }
            Some(_) => return WriteVerdict::ErrorAfter(0),
            None => {}
        }
        for fault in &mut self.pending {
            match fault {
                Fault::NoSpace { after_bytes } => {
                    let room = *after_bytes;
                    *after_bytes = room.saturating_sub(len_bytes);
                    if room < len_bytes {
                        return WriteVerdict::NoSpaceAfter(room);
                    }
                }
                Fault::NoSpaceBelow { folder } if path().starts_with(&**folder) => {
                    return WriteVerdict::NoSpaceAfter(0);
                }
                _ => {}
            }
        }
        WriteVerdict::All
    }

    pub(super) fn on_sync(&mut self) -> SyncVerdict {
        let hit = self.count(|fault| match fault {
            Fault::SyncError { nth } | Fault::SyncSkipped { nth } => Some(nth),
            _ => None,
        });
        match hit {
            Some(Fault::SyncSkipped { .. }) => SyncVerdict::Skipped,
            Some(_) => SyncVerdict::Failed,
            None => SyncVerdict::Done,
        }
    }

    /// True while new names find no space.
    pub(super) fn is_full(&self) -> bool {
        self.pending.contains(&Fault::NoSpace { after_bytes: 0 })
    }

    pub(super) fn refuses_unnamed(&self) -> bool {
        self.pending.contains(&Fault::NoUnnamed)
    }

    /// Counts a call down in all faults of its kind; returns one that is due now.
    fn count(&mut self, nth_of: impl Fn(&mut Fault) -> Option<&mut u64>) -> Option<Fault> {
        let mut due = None;
        self.pending.retain_mut(|fault| {
            let copy = *fault;
            match nth_of(fault) {
                Some(nth) if *nth <= 1 => {
                    due = due.or(Some(copy));
                    false
                }
                Some(nth) => {
                    *nth -= 1;
                    true
                }
                None => true,
            }
        });
        due
    }
}

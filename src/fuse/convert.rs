//! Between fuser's types and ours: attributes, times, kinds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::fs::{Attr, Caller, FileKind, SetTime, Timestamp};

/// What `stat(2)` shows as the preferred size of reads and writes.
const BLOCK_SIZE: u32 = 4096;

/// Who asks.
pub(super) fn caller(request: &fuser::Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size_bytes,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        // Not in the protocol of Linux.
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The attributes of a name that does not exist: node 0 tells the kernel to remember that.
pub(super) fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        // The vault finds out what the backing did not say; a plain file is the harmless guess.
        FileKind::Regular | FileKind::Unknown => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// To fuser, which encodes it rightly on both sides of 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let fraction = Duration::from_nanos(u64::from(time.nanoseconds));
    let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|whole| whole.checked_add(fraction)).unwrap_or(UNIX_EPOCH)
}

/// From fuser. The kernel's (seconds, nanoseconds) is seconds + nanoseconds, but for negative seconds
/// fuser 0.18 computes seconds - nanoseconds. That loses nothing: the distance to 1970 still has both
/// numbers in it, so that they are taken apart again.
fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => {
            Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
        }
        Err(before) => {
            let before = before.duration();
            Timestamp {
                seconds: 0_i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN),
                nanoseconds: before.subsec_nanos(),
            }
        }
    }
}

/// A time to set; absent means: leave it.
pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::To(timestamp(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser 0.18 makes of the kernel's numbers (`system_time_from_time`).
    fn as_fuser_decodes(seconds: i64, nanoseconds: u32) -> SystemTime {
        let distance = Duration::new(seconds.unsigned_abs(), nanoseconds);
        if seconds >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
    }

    #[test]
    fn times_before_1970_with_fractions_survive_fuser() {
        for (seconds, nanoseconds) in
            [(0, 0), (0, 1), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 500_000_000), (-9_999_999_999, 7)]
        {
            let decoded = timestamp(as_fuser_decodes(seconds, nanoseconds));
            assert_eq!(decoded, Timestamp { seconds, nanoseconds });
        }
    }

    #[test]
    fn times_given_to_fuser_are_exact() {
        let time = system_time(Timestamp { seconds: -2, nanoseconds: 500_000_000 });
        assert_eq!(time, UNIX_EPOCH - Duration::from_millis(1500));
        // The extremes neither panic nor wrap.
        system_time(Timestamp { seconds: i64::MIN, nanoseconds: 999_999_999 });
        system_time(Timestamp { seconds: i64::MAX, nanoseconds: 999_999_999 });
        assert_eq!(timestamp(system_time(Timestamp { seconds: i64::MIN, nanoseconds: 0 })).seconds, i64::MIN);
    }
}

//! Ranges of a file: fallocate, and lseek for data and holes.

use std::sync::atomic::Ordering;

use super::error::{FsError, Result};
use super::files::OpenFile;
use super::types::FileHandle;
use super::{Fs, MAX_FILE_LEN};
use crate::vault::Storage;

const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;

/// What `fallocate(2)` does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    zeroes: bool,
    reserves: bool,
    grows: bool,
}

impl Request {
    fn from_mode(mode: i32) -> Result<Self> {
        let grows = mode & KEEP_SIZE == 0;
        match mode & !KEEP_SIZE {
            0 => Ok(Self { zeroes: false, reserves: true, grows }),
            ZERO_RANGE => Ok(Self { zeroes: true, reserves: true, grows }),
            PUNCH_HOLE if !grows => Ok(Self { zeroes: true, reserves: false, grows }),
            // Collapsing and inserting move content: not offered. A hole that changes the size: nobody offers it.
            _ => Err(FsError::NotSupported),
        }
    }
}

impl<S: Storage> Fs<S> {
    /// `fallocate(2)`: reserves, zeroes or gives back space.
    pub fn fallocate(&self, handle: FileHandle, offset_bytes: u64, len_bytes: u64, mode: i32) -> Result<()> {
        let request = Request::from_mode(mode)?;
        if len_bytes == 0 || offset_bytes > MAX_FILE_LEN {
            return Err(FsError::Invalid);
        }
        let end_bytes =
            offset_bytes.checked_add(len_bytes).filter(|end| *end <= MAX_FILE_LEN).ok_or(FsError::TooLarge)?;
        self.check_writable()?;
        let open = self.file(handle)?;
        if request.reserves {
            // What is refused takes no privileges.
            open.file.check_len(end_bytes)?;
        }
        // The kernel leaves it to us, and does not say who asks: who opened it did.
        self.drop_privileges(&open.opener, &open.node)?;
        self.drop_capabilities(&open.node)?;
        let outcome = change_range(&open, request, offset_bytes, end_bytes);
        open.node.uncommitted.store(true, Ordering::Release);
        open.node.touch();
        outcome
    }

    /// `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`. The end of the file counts as a hole.
    pub fn lseek(&self, handle: FileHandle, offset_bytes: u64, whence: i32) -> Result<u64> {
        let open = self.file(handle)?;
        // Neither the size nor the content changes between the question and its answer.
        let _content = open.node.content.write();
        let len_bytes = open.file.len_bytes();
        match whence {
            libc::SEEK_DATA | libc::SEEK_HOLE if offset_bytes >= len_bytes => Err(FsError::NoMoreData),
            libc::SEEK_DATA => open.file.next_data(offset_bytes)?.ok_or(FsError::NoMoreData),
            libc::SEEK_HOLE => Ok(open.file.next_hole(offset_bytes)?.min(len_bytes)),
            // The kernel does the others itself.
            _ => Err(FsError::Invalid),
        }
    }
}

fn change_range<S: Storage>(open: &OpenFile<S>, request: Request, offset_bytes: u64, end_bytes: u64) -> Result<()> {
    let _content = open.node.content.write();
    let len_bytes = open.file.len_bytes();
    if request.zeroes && offset_bytes < len_bytes {
        let within = end_bytes.min(len_bytes).saturating_sub(offset_bytes);
        open.file.punch_hole(offset_bytes, within)?;
    }
    if request.reserves {
        let reserved = open.file.reserve(offset_bytes, end_bytes.saturating_sub(offset_bytes));
        match reserved.map_err(FsError::from) {
            // Zeroes are what was asked for; that later writes find room is extra.
            Err(error) if request.zeroes && error.errno() == libc::EOPNOTSUPP => {}
            outcome => outcome?,
        }
    }
    if request.grows && end_bytes > len_bytes {
        let grown = open.file.truncate(end_bytes);
        open.node.resized(open.file.len_bytes());
        grown?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_fallocate() {
        let request = |zeroes, reserves, grows| Request { zeroes, reserves, grows };
        assert_eq!(Request::from_mode(0).ok(), Some(request(false, true, true)));
        assert_eq!(Request::from_mode(KEEP_SIZE).ok(), Some(request(false, true, false)));
        assert_eq!(Request::from_mode(PUNCH_HOLE | KEEP_SIZE).ok(), Some(request(true, false, false)));
        assert_eq!(Request::from_mode(ZERO_RANGE).ok(), Some(request(true, true, true)));
        assert_eq!(Request::from_mode(ZERO_RANGE | KEEP_SIZE).ok(), Some(request(true, true, false)));
        let refused = [
            PUNCH_HOLE,
            PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE,
            libc::FALLOC_FL_COLLAPSE_RANGE,
            libc::FALLOC_FL_INSERT_RANGE,
            libc::FALLOC_FL_UNSHARE_RANGE,
            -1,
        ];
        for mode in refused {
            assert!(matches!(Request::from_mode(mode), Err(FsError::NotSupported)), "{mode:#x}");
        }
    }
}

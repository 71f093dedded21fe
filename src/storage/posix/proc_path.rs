//! Paths below /proc/self/fd, for calls that have no variant with a descriptor.

use std::ffi::{CStr, OsStr};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

/// "/proc/self/fd/", a descriptor of up to 10 digits, "/", a name of up to 255 bytes, NUL.
const CAPACITY_BYTES: usize = 14 + 10 + 1 + 255 + 1;

/// A path on the stack: the first `len_bytes` of it, and zeros after.
pub(super) struct ProcPath {
    bytes: [u8; CAPACITY_BYTES],
    len_bytes: usize,
}

impl ProcPath {
    /// The inode that the descriptor is open on; calls must follow this (magic) link.
    pub(super) fn of_fd(fd: BorrowedFd<'_>) -> Self {
        let mut bytes = [0; CAPACITY_BYTES];
        let mut rest: &mut [u8] = &mut bytes;
        // Fits: see CAPACITY_BYTES.
        let _ = write!(rest, "/proc/self/fd/{}", fd.as_raw_fd());
        let len_bytes = CAPACITY_BYTES - rest.len();
        Self { bytes, len_bytes }
    }

    /// An entry of the directory that the descriptor is open on; calls must not follow it.
    pub(super) fn of_entry(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Self> {
        let mut path = Self::of_fd(dir);
        let name = name.as_bytes();
        let end = path.len_bytes + 1 + name.len();
        // One byte stays for the NUL.
        if name.len() > 255 || end >= CAPACITY_BYTES {
            return Err(Errno::NAMETOOLONG.into());
        }
        path.bytes[path.len_bytes] = b'/';
        path.bytes[path.len_bytes + 1..end].copy_from_slice(name);
        path.len_bytes = end;
        Ok(path)
    }

    pub(super) fn as_c_str(&self) -> io::Result<&CStr> {
        let with_nul = &self.bytes[..=self.len_bytes];
        CStr::from_bytes_with_nul(with_nul).map_err(|_| Errno::INVAL.into())
    }
}

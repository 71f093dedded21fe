//! [`Mountpoint`]: has the kernel write one file of the mount back, and keep its pages.
//!
//! A notification that drops the pages would write them, too: one after the other, and what a device reads into a page
//! meanwhile (`O_DIRECT` into a shared mapping) would be lost with it. `sync_file_range(2)` is what does no more than is wanted,
//! and waits for no lock that whoever asks for data and holes has. It takes a descriptor, and who asked is in another process: so
//! the file is opened by its number in the kernel's memory.
//!
//! # Unsafe code
//!
//! System calls that no library has; one reads a structure, and keeps nothing of it.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;

use super::mountinfo::DeviceNumber;
use super::users;

/// `FILEID_INO64_GEN`, Linux's type of a FUSE file's handle.
const HANDLE_TYPE: i32 = 0x81;

/// A file's handle, as name_to_handle_at(2) gives it.
#[repr(C)]
struct Handle {
    len_bytes: u32,
    kind: i32,
    /// The upper and the lower half of the node's number, and its generation.
    words: [u32; 3],
}

/// Where the mount is.
pub(super) struct Mountpoint {
    pub path: PathBuf,
    pub device: DeviceNumber,
}

impl Mountpoint {
    /// Writes a file back; what came of that. It uses the mount meanwhile: for a file that somebody has open.
    ///
    /// # Errors
    /// If the file cannot be reached: that takes CAP_DAC_READ_SEARCH, and the mount must stand where it was made.
    pub fn write_back(&self, node: u64, generation: u32) -> io::Result<io::Result<()>> {
        let apart = || {
            leave_descriptors()?;
            // Whatever else stands there is not to be waited for.
            if !users::is_on(&self.path, self.device) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let root = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&self.path)?;
            Ok(write_back(&open(&root, node, generation)?))
        };
        thread::scope(|scope| {
            let working = thread::Builder::new().name("write-back".to_owned()).spawn_scoped(scope, apart)?;
            working.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    }
}

/// Gives this thread a table of descriptors of its own, with the standard ones alone. It waits for requests that other threads of this
/// process answer: if these are killed, nobody has the device open any more, and the kernel cuts the connection.
fn leave_descriptors() -> io::Result<()> {
    // SAFETY: From here on no other thread's descriptors are this one's, and it uses none that it did not open itself.
    let left = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if left < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn open(root: &File, node: u64, generation: u32) -> io::Result<OwnedFd> {
    let low = |number: u64| (number & u64::from(u32::MAX)) as u32;
    let words = [low(node >> 32), low(node), generation];
    let mut handle = Handle { len_bytes: size_of_val(&words) as u32, kind: HANDLE_TYPE, words };
    let address = (&raw mut handle).cast::<libc::file_handle>();
    // SAFETY: The structure is laid out as the kernel's, with as many bytes after its head as it says, and lives until the call
    // returns; the kernel only reads it.
    let opened = unsafe { libc::open_by_handle_at(root.as_raw_fd(), address, libc::O_RDONLY | libc::O_CLOEXEC) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: It was just opened, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

fn write_back(file: &OwnedFd) -> io::Result<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: It takes no address.
    let outcome = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, all) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

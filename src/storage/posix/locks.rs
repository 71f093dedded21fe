//! Locks of open file descriptions (`F_OFD_SETLK`, fcntl_locking(2)). Unlike those of flock(2) they can be looked at
//! without being taken: whoever only asks is not in the way of who is about to mount (but on SMB, where Linux asks by trying).

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Behind all that a file contains: where a network's locks are mandatory (SMB), others can still read who holds it.
const LOCKED_BYTE: libc::off_t = 1 << 62;

pub(super) fn try_lock(file: impl AsFd, exclusive: bool) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock(exclusive))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

pub(super) fn could_lock(file: impl AsFd, exclusive: bool) -> io::Result<bool> {
    let mut lock = lock(exclusive);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) == libc::F_UNLCK)
}

fn lock(exclusive: bool) -> libc::flock {
    libc::flock {
        l_type: if exclusive { libc::F_WRLCK as libc::c_short } else { libc::F_RDLCK as libc::c_short },
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKED_BYTE,
        l_len: 1,
        // Must be 0 for these.
        l_pid: 0,
    }
}

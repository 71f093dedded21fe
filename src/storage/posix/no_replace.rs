//! `RENAME_NOREPLACE` for filesystems without it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{self as sys, AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Renames by other calls that replace nothing; `errno` is what the real one said.
///
/// A crash in between leaves both names (a file), or an empty directory at the new one.
pub(super) fn rename(from: (BorrowedFd<'_>, &OsStr), to: (BorrowedFd<'_>, &OsStr), errno: Errno) -> io::Result<()> {
    let source = sys::statat(from.0, from.1, AtFlags::SYMLINK_NOFOLLOW)?;
    match sys::FileType::from_raw_mode(source.st_mode) {
        // EINVAL is also what a directory gets that is moved into itself.
        sys::FileType::Directory if is_within(to.0, &source)? => Err(errno.into()),
        sys::FileType::Directory => rename_dir(from, to),
        _ => rename_file(from, to, errno),
    }
}

/// mkdir does not replace, and rename replaces an empty directory only.
fn rename_dir(from: (BorrowedFd<'_>, &OsStr), to: (BorrowedFd<'_>, &OsStr)) -> io::Result<()> {
    sys::mkdirat(to.0, to.1, Mode::RWXU)?;
    let outcome = sys::renameat(from.0, from.1, to.0, to.1);
    if outcome.is_err() {
        // Best effort: what is reported is why the rename failed.
        let _ = sys::unlinkat(to.0, to.1, AtFlags::REMOVEDIR);
    }
    Ok(outcome?)
}

/// link does not replace.
fn rename_file(from: (BorrowedFd<'_>, &OsStr), to: (BorrowedFd<'_>, &OsStr), errno: Errno) -> io::Result<()> {
    match sys::linkat(from.0, from.1, to.0, to.1, AtFlags::empty()) {
        Ok(()) => {}
        // No hard links either: then there is no safe way.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => return Err(errno.into()),
        Err(errno) => return Err(errno.into()),
    }
    let outcome = sys::unlinkat(from.0, from.1, AtFlags::empty());
    if outcome.is_err() {
        let _ = sys::unlinkat(to.0, to.1, AtFlags::empty());
    }
    Ok(outcome?)
}

/// True if `dir` is the directory `outer`, or anywhere below it.
fn is_within(dir: BorrowedFd<'_>, outer: &sys::Stat) -> io::Result<bool> {
    let open = |at: BorrowedFd<'_>, name| -> Result<(OwnedFd, sys::Stat), Errno> {
        let fd = sys::openat(at, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = sys::fstat(&fd)?;
        Ok((fd, stat))
    };
    let is_same = |a: &sys::Stat, b: &sys::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let (mut at, mut stat) = open(dir, c".")?;
    while !is_same(&stat, outer) {
        let (above, above_stat) = open(std::os::fd::AsFd::as_fd(&at), c"..")?;
        if is_same(&above_stat, &stat) {
            return Ok(false);
        }
        (at, stat) = (above, above_stat);
    }
    Ok(true)
}

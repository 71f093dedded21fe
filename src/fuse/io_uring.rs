//! Linux has FUSE over io_uring since 6.14, and does not offer it unless the parameter `enable_uring` of its module says so.
//! A connection that began while it was offered keeps it. So a mount that root makes has it offered for as long as it
//! takes to begin, and leaves the parameter as it was.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::system::uname;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
/// The first Linux that sero's tests ran on. On older ones it is the administrator's to offer it.
const TRIED: (u32, u32) = (6, 18);
/// How long another mount that begins is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(1);

/// While this lives, the kernel offers it, and goes on doing so until INIT is answered: an answer that takes what is no longer
/// offered would leave the rings half agreed on. Its lock is shared by those who found it offered, and kept from others by
/// who switches it off again.
pub(super) struct Offered {
    parameter: File,
    switch_off: bool,
}

/// Has the kernel offer it, if it does not already, and that is ours to say. None: it is not offered.
pub(super) fn offer() -> Option<Offered> {
    let deadline = Instant::now() + PATIENCE;
    let is_tried = uname().release().to_str().is_ok_and(is_tried);
    let switched_on = if is_tried { switch_on(deadline).ok() } else { None };
    switched_on.or_else(|| {
        find(deadline).unwrap_or_else(|error| {
            log::debug!("without FUSE over io_uring: {error}");
            None
        })
    })
}

fn switch_on(deadline: Instant) -> io::Result<Offered> {
    let parameter = OpenOptions::new().read(true).write(true).open(PARAMETER)?;
    lock(&parameter, FlockOperation::NonBlockingLockExclusive, deadline)?;
    let switch_off = !is_on(&parameter)?;
    if switch_off {
        parameter.write_all_at(b"Y", 0)?;
    }
    Ok(Offered { parameter, switch_off })
}

fn find(deadline: Instant) -> io::Result<Option<Offered>> {
    let parameter = File::open(PARAMETER)?;
    lock(&parameter, FlockOperation::NonBlockingLockShared, deadline)?;
    Ok(is_on(&parameter)?.then_some(Offered { parameter, switch_off: false }))
}

fn lock(parameter: &File, operation: FlockOperation, deadline: Instant) -> io::Result<()> {
    while let Err(errno) = flock(parameter, operation) {
        if errno != Errno::WOULDBLOCK || Instant::now() > deadline {
            return Err(errno.into());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn is_on(mut parameter: &File) -> io::Result<bool> {
    let mut value = String::new();
    parameter.read_to_string(&mut value)?;
    Ok(value.trim() == "Y")
}

impl Drop for Offered {
    fn drop(&mut self) {
        if self.switch_off
            && let Err(error) = self.parameter.write_all_at(b"N", 0)
        {
            log::warn!("{PARAMETER} was not set to N again: {error}");
        }
    }
}

/// Whether a kernel's release ("6.18.1-amd64") is new enough.
fn is_tried(release: &str) -> bool {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= TRIED,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart() {
        for (release, tried) in [
            ("6.18.0", true),
            ("6.18.44-fc-v509", true),
            ("6.18-rc1", true),
            ("7.0.0", true),
            ("6.17.12", false),
            ("6.9.1-amd64", false),
            ("5.19.0", false),
            ("6", false),
            ("next", false),
        ] {
            assert_eq!(is_tried(release), tried, "{release}");
        }
    }
}

//! What the scheduler, sched(7), and the disk's queue think of a thread. No library sets it for a thread alone.
//!
//! # Unsafe code
//!
//! System calls that take numbers, and one a structure, which it does not keep.

#![allow(unsafe_code)]

use std::io;

use rustix::process::{Pid, getpriority_process};

/// A policy of the scheduler, as far as sero uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// `SCHED_OTHER`: its share, by its nice value.
    Normal,
    /// `SCHED_IDLE`: where nothing else wants the CPU.
    Idle,
}

impl Policy {
    /// That of a thread; None: another one.
    pub fn of(thread: Pid) -> Option<Self> {
        // SAFETY: It takes no address.
        match unsafe { libc::sched_getscheduler(thread.as_raw_nonzero().get()) } {
            libc::SCHED_OTHER => Some(Self::Normal),
            libc::SCHED_IDLE => Some(Self::Idle),
            _ => None,
        }
    }

    /// Makes it the policy of a thread of this process.
    pub fn apply(self, thread: Pid) -> io::Result<()> {
        let policy = match self {
            Self::Normal => libc::SCHED_OTHER,
            Self::Idle => libc::SCHED_IDLE,
        };
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: The structure lives until the call returns; the kernel only reads it.
        let outcome = unsafe { libc::sched_setscheduler(thread.as_raw_nonzero().get(), policy, &raw const parameters) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Gives the calling thread the I/O priority that it has, ioprio_set(2), for its own: otherwise it would follow from the
/// scheduler's policy, and the disk would let a `SCHED_IDLE` thread wait for all others.
pub(super) fn keep_io_priority() -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    const BEST_EFFORT: libc::c_long = 2 << CLASS_SHIFT;
    // SAFETY: It takes no address.
    let found = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
    if found < 0 {
        return Err(io::Error::last_os_error());
    }
    let has_its_own = found >> CLASS_SHIFT != 0;
    let level = (getpriority_process(None)? + 20) / 5;
    let priority = if has_its_own { found } else { BEST_EFFORT | libc::c_long::from(level) };
    // SAFETY: It takes no address.
    let outcome = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::thread::gettid;

    use super::*;

    #[test]
    fn the_disk_does_not_let_it_wait() {
        thread::spawn(|| {
            // Zero: none of its own.
            let class = || {
                // SAFETY: It takes no address.
                (unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) }) >> 13
            };
            let before = class();
            keep_io_priority().unwrap();
            let kept = class();
            assert!(kept != 0 && (before == 0 || kept == before), "{before}, {kept}");
            Policy::Idle.apply(gettid()).unwrap();
            assert_eq!(class(), kept);
        })
        .join()
        .unwrap();
    }
}

//! The scheduler's policies for a thread, sched(7), of which no library sets one for a thread alone.
//!
//! # Unsafe code
//!
//! One system call that takes a number and a structure, and keeps neither.

#![allow(unsafe_code)]

use std::io;

use rustix::process::Pid;

/// A policy, as far as sero uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// `SCHED_OTHER`: its share, by its nice value.
    Normal,
    /// `SCHED_IDLE`: where nothing else wants the CPU.
    Idle,
}

impl Policy {
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

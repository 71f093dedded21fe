//! [`Place`]: where a thread runs. One that is bound to a caller's CPU is changed over to as soon as the caller waits. But with
//! what the kernel sends ahead, reading and writing back, the two can work at once, on two CPUs.

use std::sync::Arc;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::courtesy::{Courtesy, Watched};

/// After so many such requests, one after the other, a thread may run anywhere.
const STREAM: u32 = 4;

/// See the module's documentation.
pub(super) struct Place {
    cpu: u16,
    anywhere: Option<CpuSet>,
    ahead: u32,
    watched: Watched,
}

impl Place {
    /// Binds the calling thread.
    pub fn new(cpu: u16, courtesy: &Arc<Courtesy>) -> Self {
        let anywhere = sched_getaffinity(None);
        if let Err(errno) = &anywhere {
            log::debug!("where a thread may run is not known: {errno}");
        }
        let place = Self { cpu, anywhere: anywhere.ok(), ahead: 0, watched: Watched::new(courtesy) };
        place.bind();
        place
    }

    /// A request came to the thread.
    pub fn came(&mut self, is_ahead: bool) {
        self.watched.came();
        let was_streaming = self.ahead >= STREAM;
        self.ahead = if is_ahead { self.ahead.saturating_add(1) } else { 0 };
        match &self.anywhere {
            Some(anywhere) if self.ahead == STREAM => {
                self.watched.streams(true);
                self.run_on(anywhere);
            }
            Some(_) if was_streaming && !is_ahead => {
                self.bind();
                self.watched.streams(false);
            }
            _ => {}
        }
    }

    fn bind(&self) {
        let mut only = CpuSet::new();
        only.set(usize::from(self.cpu));
        self.run_on(&only);
    }

    fn run_on(&self, cpus: &CpuSet) {
        // Where that is forbidden it is only slower.
        if let Err(errno) = sched_setaffinity(None, cpus) {
            log::debug!("a thread for CPU {} was not moved: {errno}", self.cpu);
        }
    }
}

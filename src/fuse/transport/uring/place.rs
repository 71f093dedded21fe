//! [`Place`]: where a thread runs. One that is bound to a caller's CPU is changed over to as soon as the caller waits. But with
//! what the kernel sends ahead, reading and writing back, the two can work at once, on two CPUs.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::courtesy::{Courtesy, Watched};

/// After so many such requests, one after the other, a thread may run anywhere.
const STREAM: u32 = 4;

/// For whom a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// Somebody waits for the answer.
    Caller,
    /// The kernel sends it ahead.
    Ahead,
    /// The kernel writes a page back while nothing else is under way in this queue: a caller may have synced it, and wait.
    /// Or a stream is slow.
    Either,
}

/// See the module's documentation.
pub(super) struct Place<'a> {
    cpu: u16,
    anywhere: Option<CpuSet>,
    ahead: u32,
    last: Sender,
    watched: Option<Watched<'a>>,
}

impl<'a> Place<'a> {
    /// Binds the calling thread, unless the daemon was told to keep off that CPU (taskset(1), `CPUAffinity=`).
    pub fn new(cpu: u16, courtesy: &'a Courtesy) -> Self {
        let anywhere = sched_getaffinity(None);
        match &anywhere {
            Ok(cpus) if !cpus.is_set(usize::from(cpu)) => {
                return Self { cpu, anywhere: None, ahead: 0, last: Sender::Caller, watched: None };
            }
            Ok(_) => {}
            Err(errno) => log::debug!("where a thread may run is not known: {errno}"),
        }
        let watched = Watched::new(courtesy);
        if let Err(error) = &watched {
            log::debug!("a thread keeps its policy: {error}");
        }
        let place = Self { cpu, anywhere: anywhere.ok(), ahead: 0, last: Sender::Caller, watched: watched.ok() };
        place.bind();
        place
    }

    /// A request came to the thread.
    pub fn came(&mut self, sender: Sender) {
        if let Some(watched) = &self.watched {
            watched.came();
        }
        let was_streaming = self.ahead >= STREAM;
        self.ahead = match (sender, self.last) {
            (Sender::Ahead, _) => self.ahead.saturating_add(1),
            (Sender::Either, Sender::Ahead) => self.ahead,
            (Sender::Either | Sender::Caller, _) => 0,
        };
        self.last = sender;
        let streams = self.ahead >= STREAM;
        if streams != was_streaming
            && let Some(anywhere) = &self.anywhere
        {
            if let Some(watched) = &self.watched {
                watched.streams(streams);
            }
            if streams { self.run_on(anywhere) } else { self.bind() }
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

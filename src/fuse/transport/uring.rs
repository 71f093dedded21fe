//! FUSE over io_uring (Linux 6.14 and later, where it is switched on): [`Rings`]. The kernel has a queue of requests for each
//! CPU, and puts a caller's request into that of the CPU that the caller is on. Threads that are bound to that CPU answer it:
//! to change from the caller to one of them costs a fraction of what it takes to wake a thread on another CPU, and one system
//! call hands an answer over and fetches the next request. Each of them has a ring with one entry.
//!
//! `/dev/fuse` stays in use: the kernel sends through it what nobody waits for (INTERRUPT, nearly every FORGET), and everything if
//! a queue cannot have an entry.

mod courtesy;
mod place;
mod policy;
mod ring;
mod slot;

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Scope};

use parking_lot::Mutex;

use super::dispatch::{Filesystem, dispatch};
use super::reply::{Channel, Device, Reply};
use super::request::Request;
pub(super) use courtesy::Courtesy;
use place::{Place, Sender};
use ring::Ring;
use slot::Free;
pub(super) use slot::Slot;

/// On machines with more CPUs there are too many threads.
const MOST_CPUS: u16 = 64;
/// Threads for each CPU: others answer while one waits for the backing, or for a file to be written back. More of them get
/// into each other's way where the kernel writes back: a request for each is under way at once.
const THREADS: usize = 4;

/// The rings of a mount, all of them set up: the kernel sends nothing before each queue has an entry, once it was told that
/// there will be rings.
pub(super) struct Rings {
    queues: Vec<(u16, Vec<Ring>)>,
}

impl Rings {
    /// Rings for requests and answers of up to `payload_len` bytes.
    pub fn prepare(device: &Device, payload_len: usize) -> io::Result<Self> {
        let cpus = cpus()?;
        let queue = |cpu| {
            let rings: io::Result<_> = (0..THREADS).map(|_| Ring::new(device, cpu, payload_len)).collect();
            Ok((cpu, rings?))
        };
        Ok(Self { queues: (0..cpus).map(queue).collect::<io::Result<_>>()? })
    }

    /// The queues, to be served. `fail` ends the connection.
    pub fn share<'a, F: Filesystem>(
        self,
        filesystem: &'a F,
        device: &'a Device,
        fail: &'a Fail<'a>,
    ) -> Vec<Queue<'a, F>> {
        let queue = |(cpu, rings): (u16, Vec<Ring>)| Queue {
            cpu,
            filesystem,
            device,
            fail,
            working: AtomicU32::new(0),
            free: Arc::new(Free::new(rings.len())),
            rings: Mutex::new(rings),
        };
        self.queues.into_iter().map(queue).collect()
    }
}

/// How many CPUs there are; the kernel has a queue for each that there could be.
fn cpus() -> io::Result<u16> {
    let list = |name| fs::read_to_string(format!("/sys/devices/system/cpu/{name}"));
    let (possible, online) = (list("possible")?, list("online")?);
    let unsuited = || io::Error::other(format!("{} CPUs are online, of {}", online.trim(), possible.trim()));
    // "0-3", or "0".
    let last = possible.trim().strip_prefix("0-").unwrap_or(possible.trim());
    let last = last.parse::<u16>().map_err(|_| unsuited())?;
    (possible == online && last < MOST_CPUS).then(|| last.saturating_add(1)).ok_or_else(unsuited)
}

/// What is called with an error after which a caller would wait for ever.
pub(super) type Fail<'a> = dyn Fn(io::Error) + Sync + 'a;

/// A queue of the kernel's, and what its threads need.
pub(super) struct Queue<'a, F> {
    cpu: u16,
    filesystem: &'a F,
    device: &'a Device,
    fail: &'a Fail<'a>,
    /// Threads that have a request.
    working: AtomicU32,
    /// Until the threads are started.
    rings: Mutex<Vec<Ring>>,
    free: Arc<Free>,
}

/// Starts the threads of all queues.
pub(super) fn start<'scope, 'a, F: Filesystem>(
    queues: &'scope [Queue<'a, F>],
    courtesy: &'scope Courtesy,
    scope: &'scope Scope<'scope, 'a>,
) {
    queues.iter().for_each(|queue| queue.start(scope, courtesy));
    // With one CPU there is no other to put a caller on.
    if queues.len() > 1
        && let Err(error) =
            thread::Builder::new().name("courtesy".to_owned()).spawn_scoped(scope, || courtesy.watch(queues.len()))
    {
        log::warn!("a thread was not started: {error}");
    }
}

impl<'a, F: Filesystem> Queue<'a, F> {
    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, 'a>, courtesy: &'scope Courtesy) {
        for ring in std::mem::take(&mut *self.rings.lock()) {
            let name = format!("fuse-cpu{}", self.cpu);
            if let Err(error) = thread::Builder::new().name(name).spawn_scoped(scope, move || self.run(ring, courtesy))
            {
                self.go_without(&error);
            }
        }
    }

    fn run(&self, mut ring: Ring, courtesy: &Courtesy) {
        let place = Place::new(self.cpu, courtesy);
        match ring.enable().and_then(|()| ring.next()) {
            Ok(true) => {
                if let Err(error) = self.serve(ring, place) {
                    // Its request is not answered, and the kernel takes no other answer for it.
                    (self.fail)(error);
                }
            }
            Ok(false) => {}
            Err(error) => self.go_without(&error),
        }
    }

    /// A thread was not started, or its entry not taken. Without any the kernel is told to use the device after all.
    fn go_without(&self, error: &io::Error) {
        log::warn!("CPU {} has a thread less that answers: {error}", self.cpu);
        if self.free.lose() {
            return;
        }
        // An entry for a queue that there is not: the kernel refuses it, and then goes without rings.
        let refused = Ring::new(self.device, u16::MAX, 0).and_then(|mut ring| ring.enable().and_then(|()| ring.next()));
        match refused.map_err(|error| error.raw_os_error()) {
            // EOPNOTSUPP: it does already. False: the mount has ended.
            Err(Some(libc::EINVAL | libc::EOPNOTSUPP)) | Ok(false) => {}
            _ => (self.fail)(io::Error::other("the kernel waits for rings that there are not")),
        }
    }

    fn serve(&self, mut ring: Ring, mut place: Place<'_>) -> io::Result<()> {
        let slot = Arc::new(Slot::new(Arc::clone(&self.free)));
        let channel = Channel::Ring(Arc::clone(&slot));
        loop {
            let others = self.working.fetch_add(1, Ordering::Relaxed);
            slot.open(&mut ring);
            // After a panic the reply has said EIO. The thread goes on: without its entry the kernel would wait for ever.
            if catch_unwind(AssertUnwindSafe(|| self.work(ring.request(), &channel, &mut place, others > 0))).is_err() {
                log::error!("a request was ended by a bug in sero");
            }
            slot.hand_over(&mut ring);
            self.working.fetch_sub(1, Ordering::Relaxed);
            if !ring.next()? {
                return Ok(());
            }
        }
    }

    fn work(&self, request: &[u8], channel: &Channel, place: &mut Place<'_>, is_one_of_several: bool) {
        match Request::parse(request) {
            Some((request, fields)) => {
                place.came(match (request.is_large(fields), request.is_from_cache(fields)) {
                    (true, _) => Sender::Ahead,
                    (false, true) if is_one_of_several => Sender::Ahead,
                    (false, true) => Sender::Either,
                    (false, false) => Sender::Caller,
                });
                dispatch(self.filesystem, &request, fields, channel);
            }
            None => {
                log::error!("the kernel sent {} bytes that are no request", request.len());
                drop(Reply::new(channel, 0));
            }
        }
    }
}

//! [`Session`]: agrees with the kernel (INIT), reads requests, and has them answered, until the mount ends.
//!
//! Nearly all requests come from a caller that waits and asks again as soon as it has its answer, so that what a request
//! costs is mostly what it takes to wake the daemon. Therefore the reader (see [`Seat`]) looks for the next request for a
//! few microseconds before it sleeps, as long as that is worth while ([`Gaze`]). What is known to take long is done while
//! another thread reads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::abi::{self, IN_HEADER_LEN, MIN_READ_BUFFER, OUT_HEADER_LEN, WRITE_IN_LEN, init, opcode};
use super::dispatch::{Filesystem, dispatch};
use super::reply::{Channel, Device, Reply};
use super::request::{Fields, Request};
use super::seat::Seat;
use super::uring::{Courtesy, Rings, start};

/// Threads that serve one mount. One is enough for what takes microseconds; the others are for what waits for the
/// backing, and for large reads and writes.
const THREADS: usize = 4;
/// A sync that takes longer, on the average, is done while another thread reads.
const SLOW_SYNC: Duration = Duration::from_micros(150);
/// After so many requests that were there already, each of another caller than the one before, another thread reads while
/// this one works.
const BACKLOG: u32 = 4;
/// How long the next request is looked for before the reader sleeps.
const GAZE: Duration = Duration::from_micros(40);
/// A read that took longer waited for its request.
const AT_ONCE: Duration = Duration::from_micros(4);

/// What was agreed with the kernel.
pub(crate) struct Agreement {
    /// The kernel's minor version of the protocol, which tells what it does where no flag does.
    pub minor: u32,
    /// What the kernel offers; what is taken of it is set to `taken`.
    pub offered: u64,
    pub taken: u64,
    pub max_write_bytes: u32,
    pub max_readahead_bytes: u32,
    pub max_background: u16,
}

/// A mount that is being served.
pub(crate) struct Session<F> {
    filesystem: Arc<F>,
    device: Device,
    channel: Channel,
    max_write_bytes: u32,
    /// Taken by who serves.
    rings: Option<Rings>,
    seat: Seat,
    /// Nanoseconds that a sync takes, on the average.
    sync_nanos: AtomicU64,
    gazes: bool,
    /// A read of the device waits for a request. Changed by who has the seat.
    blocks: AtomicBool,
}

impl<F: Filesystem> Session<F> {
    /// Answers INIT, by what `settle` makes of the kernel's offer.
    pub fn begin(filesystem: F, connection: OwnedFd, settle: impl FnOnce(&mut Agreement)) -> io::Result<Self> {
        let device = Arc::new(connection);
        let (max_write_bytes, rings) = agree(&device, settle)?;
        fcntl_setfl(&device, OFlags::NONBLOCK)?;
        let gazes = thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
        let filesystem = Arc::new(filesystem);
        Ok(Self {
            filesystem,
            channel: Channel::Device(device.clone()),
            device,
            max_write_bytes,
            rings,
            seat: Seat::default(),
            sync_nanos: AtomicU64::new(0),
            gazes,
            blocks: AtomicBool::new(false),
        })
    }

    /// The way to the kernel, for notifications.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// Serves until the mount ends. `abort` ends the connection, where after an error its threads or callers would wait for
    /// ever.
    pub fn run(mut self, abort: impl Fn() + Sync) -> io::Result<()> {
        let rings = self.rings.take();
        let failed = OnceLock::new();
        let fail = |error: io::Error| {
            log::error!("the mount ends: {error}");
            // Where it has ended by itself there is nothing to be cut.
            if failed.set(error).is_ok() && !has_ended(&self.device) {
                abort();
            }
        };
        let queues = rings.map(|rings| rings.share(&*self.filesystem, &self.device, &fail)).unwrap_or_default();
        let courtesy = Courtesy::new();
        thread::scope(|scope| {
            let _ends = Ends(&courtesy);
            let watch = thread::Builder::new().name("watch".to_owned()).spawn_scoped(scope, || self.seat.watch());
            let served = watch.and_then(|_| {
                start(&queues, &courtesy, scope);
                self.serve_by_several(scope)
            });
            match served {
                // In here: the queues' threads end with the connection.
                Err(error) if !queues.is_empty() => fail(error),
                Err(error) => drop(failed.set(error)),
                Ok(()) => {}
            }
        });
        drop(queues);
        failed.into_inner().map_or(Ok(()), Err)
    }

    fn serve_by_several<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> io::Result<()> {
        let mut others = Vec::with_capacity(THREADS);
        for number in 1..THREADS {
            match thread::Builder::new().name(format!("fuse-{number}")).spawn_scoped(scope, || self.serve()) {
                Ok(thread) => others.push(thread),
                // With fewer it goes on, too.
                Err(error) => log::warn!("a thread was not started: {error}"),
            }
        }
        let mut outcome = self.serve();
        for thread in others {
            let served = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the mount ended early")));
            outcome = outcome.and(served);
        }
        outcome
    }

    fn serve(&self) -> io::Result<()> {
        let room = (self.max_write_bytes as usize + IN_HEADER_LEN + WRITE_IN_LEN).max(MIN_READ_BUFFER);
        // Holds what is written, in the clear.
        let mut buffer = Zeroizing::new(vec![0; room]);
        let mut gaze = Gaze::new(self.gazes);
        while self.seat.take() {
            let mut backlog = Backlog::default();
            loop {
                let received = match self.receive(&mut buffer, &mut gaze) {
                    Ok(Some(received)) => received,
                    Ok(None) => {
                        self.seat.end();
                        return Ok(());
                    }
                    Err(error) => {
                        self.seat.end();
                        return Err(error);
                    }
                };
                let Some((request, fields)) = buffer.get(..received.len).and_then(Request::parse) else {
                    log::error!("the kernel sent {} bytes that are no request", received.len);
                    continue;
                };
                backlog.came(&request, received.waited);
                if self.takes_long(&request, fields) || backlog.is_long() {
                    self.seat.leave();
                    self.work(&request, fields);
                    if let Err(error) = self.work_off(&mut buffer) {
                        self.seat.end();
                        return Err(error);
                    }
                    break;
                }
                self.seat.begin(request.unique);
                self.work(&request, fields);
                if !self.seat.done(request.unique) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Does what is there already, beside who has the seat: nobody has to be woken for it.
    fn work_off(&self, buffer: &mut [u8]) -> io::Result<()> {
        // The end is for who has the seat to find. Where a read waits and another was faster, this one is a second reader
        // until the next request.
        while (!self.blocks.load(Ordering::Relaxed) || self.has_request(Some(&Timespec::default()))?)
            && let Polled::Received(len) = self.poll_once(buffer)?
        {
            if let Some((request, fields)) = buffer.get(..len).and_then(Request::parse) {
                self.work(&request, fields);
            }
        }
        Ok(())
    }

    fn takes_long(&self, request: &Request, fields: Fields<'_>) -> bool {
        match request.opcode {
            opcode::FSYNC | opcode::FSYNCDIR => {
                u128::from(self.sync_nanos.load(Ordering::Relaxed)) > SLOW_SYNC.as_nanos()
            }
            opcode::FALLOCATE => true,
            _ => request.is_large(fields),
        }
    }

    fn work(&self, request: &Request, fields: Fields<'_>) {
        let started = matches!(request.opcode, opcode::FSYNC | opcode::FSYNCDIR).then(Instant::now);
        dispatch(&*self.filesystem, request, fields, &self.channel);
        if let Some(started) = started {
            let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            // A moving average over about eight; two at once may lose one.
            let before = self.sync_nanos.load(Ordering::Relaxed);
            self.sync_nanos.store((before - before / 8).saturating_add(took / 8), Ordering::Relaxed);
        }
    }

    /// The next request; None: the mount is gone.
    fn receive(&self, buffer: &mut [u8], gaze: &mut Gaze) -> io::Result<Option<Received>> {
        if gaze.pauses() {
            // One call, and not three.
            self.set_blocking(true)?;
            let since = Instant::now();
            match self.poll_once(buffer)? {
                Polled::Received(len) => {
                    let waited = since.elapsed() > AT_ONCE;
                    if waited {
                        gaze.sleeps();
                    }
                    gaze.found();
                    return Ok(Some(Received { len, waited }));
                }
                // Another reader came to look.
                Polled::Nothing => {}
                Polled::Ended => return Ok(None),
            }
        }
        self.set_blocking(false)?;
        let mut since = None;
        loop {
            match self.poll_once(buffer)? {
                Polled::Received(len) => {
                    gaze.found();
                    return Ok(Some(Received { len, waited: since.is_some() }));
                }
                Polled::Nothing => {
                    let since = *since.get_or_insert_with(Instant::now);
                    if !gaze.goes_on(since.elapsed()) {
                        gaze.sleeps();
                        self.has_request(None)?;
                    }
                }
                Polled::Ended => return Ok(None),
            }
        }
    }

    fn set_blocking(&self, blocks: bool) -> io::Result<()> {
        if self.blocks.swap(blocks, Ordering::Relaxed) != blocks {
            fcntl_setfl(&self.device, if blocks { OFlags::empty() } else { OFlags::NONBLOCK })?;
        }
        Ok(())
    }

    /// Waits for so long at most, or for ever, and less if a signal comes.
    fn has_request(&self, timeout: Option<&Timespec>) -> io::Result<bool> {
        match poll(&mut [PollFd::new(&*self.device, PollFlags::IN)], timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads a request; waits for one only where reads wait.
    fn poll_once(&self, buffer: &mut [u8]) -> io::Result<Polled> {
        loop {
            return match rustix::io::read(&*self.device, &mut *buffer) {
                Ok(len) => Ok(Polled::Received(len)),
                Err(Errno::AGAIN) => Ok(Polled::Nothing),
                // A caller that was killed before its request was read.
                Err(Errno::INTR | Errno::NOENT) => continue,
                Err(Errno::NODEV | Errno::CONNABORTED) => Ok(Polled::Ended),
                Err(errno) => Err(errno.into()),
            };
        }
    }
}

enum Polled {
    /// So many bytes of a request.
    Received(usize),
    Nothing,
    /// The mount is gone.
    Ended,
}

/// A request that was read.
struct Received {
    len: usize,
    /// It was not there at once.
    waited: bool,
}

/// Whether callers wait for each other. A request that was there already says little by itself: where the caller shares the
/// reader's CPU, its next one always is. But nobody can have waited if the same caller is back before any other.
#[derive(Default)]
struct Backlog {
    last_caller: u32,
    others: u32,
}

impl Backlog {
    fn came(&mut self, request: &Request, waited: bool) {
        // What nobody waits for.
        if matches!(request.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::RELEASE | opcode::RELEASEDIR) {
            return;
        }
        let is_same = request.pid != 0 && request.pid == self.last_caller;
        self.last_caller = request.pid;
        self.others = if waited || is_same { 0 } else { self.others.saturating_add(1) };
    }

    fn is_long(&self) -> bool {
        self.others > BACKLOG
    }
}

/// Whether to look for the next request for a moment. A look that finds one saves the time to wake up. One that does not
/// holds up whoever waits for this CPU, and that can be the very caller whose next request is looked for: then every look
/// is in vain. So after such a look some requests are waited for asleep, twice as many each time, until one succeeds.
struct Gaze {
    allowed: bool,
    /// Requests to wait for without a look.
    pause: u32,
    /// Looks in vain, one after the other.
    vain: u32,
    looked: bool,
    slept: bool,
}

impl Gaze {
    /// After so many looks in vain the pauses grow no longer: 1,024 requests.
    const MOST_VAIN: u32 = 10;

    fn new(allowed: bool) -> Self {
        Self { allowed, pause: 0, vain: 0, looked: false, slept: false }
    }

    /// Whether the next request is waited for without a look.
    fn pauses(&self) -> bool {
        !self.allowed || self.pause > 0
    }

    /// Nothing was there since this time; true to look again.
    fn goes_on(&mut self, waited: Duration) -> bool {
        if self.pauses() || self.slept || waited >= GAZE {
            return false;
        }
        self.looked = true;
        std::hint::spin_loop();
        true
    }

    /// The reader sleeps now.
    fn sleeps(&mut self) {
        self.slept = true;
    }

    /// A request came.
    fn found(&mut self) {
        match (std::mem::take(&mut self.looked), std::mem::take(&mut self.slept)) {
            (true, false) => self.vain = 0,
            (true, true) => {
                self.vain = (self.vain + 1).min(Self::MOST_VAIN);
                self.pause = 1 << self.vain;
            }
            (false, true) => self.pause = self.pause.saturating_sub(1),
            // It was there already.
            (false, false) => {}
        }
    }
}

/// Whether the connection is no more.
fn has_ended(device: &Device) -> bool {
    let mut device = PollFd::new(&**device, PollFlags::IN);
    let polled = poll(std::slice::from_mut(&mut device), Some(&Timespec::default()));
    polled.is_ok() && device.revents().contains(PollFlags::ERR)
}

/// Reads INIT and answers it; returns the largest write that was agreed on, and the rings if the kernel is to use them.
fn agree(device: &Device, settle: impl FnOnce(&mut Agreement)) -> io::Result<(u32, Option<Rings>)> {
    let refused = |what: &str| io::Error::new(io::ErrorKind::Unsupported, what.to_owned());
    let mut buffer = vec![0; MIN_READ_BUFFER];
    loop {
        let len = match rustix::io::read(&**device, &mut buffer[..]) {
            Ok(len) => len,
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let (request, mut fields) = buffer
            .get(..len)
            .and_then(Request::parse)
            .filter(|(request, _)| request.opcode == opcode::INIT)
            .ok_or_else(|| refused("the kernel did not begin with INIT"))?;
        let reply = Reply::new(&Channel::Device(device.clone()), request.unique);
        let mut word = || fields.u32().ok_or_else(|| refused("the kernel's INIT is cut"));
        let (major, minor) = (word()?, word()?);
        if major > abi::MAJOR {
            // It asks again in the version that this names.
            reply.data(&[abi::MAJOR.to_ne_bytes(), abi::MINOR.to_ne_bytes()].concat());
            continue;
        }
        if major < abi::MAJOR {
            reply.error(libc::EPROTO);
            return Err(refused("the kernel's FUSE is too old"));
        }
        let (readahead, flags) = (word()?, word()?);
        let mut offered = u64::from(flags);
        if offered & init::INIT_EXT != 0 {
            offered |= u64::from(word()?) << 32;
        }
        let mut agreement = Agreement {
            minor,
            offered,
            taken: 0,
            max_write_bytes: 128 << 10,
            max_readahead_bytes: readahead,
            max_background: 16,
        };
        settle(&mut agreement);
        let rings = prepare_rings(device, &mut agreement);
        reply.data(&answer(&agreement, readahead));
        return Ok((agreement.max_write_bytes, rings));
    }
}

/// Has the watch end when the session does, also by a panic: otherwise its end would be waited for.
struct Ends<'a>(&'a Courtesy);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What io_uring takes, if it was agreed on; otherwise it is not agreed on.
fn prepare_rings(device: &Device, agreement: &mut Agreement) -> Option<Rings> {
    if agreement.taken & init::OVER_IO_URING == 0 {
        return None;
    }
    let payload_len = (agreement.max_write_bytes as usize).max(MIN_READ_BUFFER);
    match Rings::prepare(device, payload_len) {
        Ok(rings) => {
            log::info!("requests come over io_uring");
            Some(rings)
        }
        Err(error) => {
            log::info!("without io_uring: {error}");
            agreement.taken &= !init::OVER_IO_URING;
            None
        }
    }
}

/// The answer to INIT.
fn answer(agreement: &Agreement, readahead: u32) -> Vec<u8> {
    // These say how the protocol is spoken, and are no choice.
    let base = init::ASYNC_READ | init::BIG_WRITES | init::MAX_PAGES | init::INIT_EXT;
    let taken = (agreement.taken | base) & agreement.offered;
    // In the kernel's pages; more than these it would want rings to have room for, too.
    let pages = (agreement.max_write_bytes as usize).div_ceil(rustix::param::page_size());
    let pages = u16::try_from(pages).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(64);
    let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
    put(&abi::MAJOR.to_ne_bytes());
    put(&abi::MINOR.to_ne_bytes());
    put(&agreement.max_readahead_bytes.min(readahead).to_ne_bytes());
    put(&(taken as u32).to_ne_bytes());
    put(&agreement.max_background.to_ne_bytes());
    // Where the kernel calls it congestion.
    put(&(agreement.max_background / 4 * 3).to_ne_bytes());
    put(&agreement.max_write_bytes.to_ne_bytes());
    // Times are kept to the nanosecond.
    put(&1_u32.to_ne_bytes());
    put(&pages.to_ne_bytes());
    put(&0_u16.to_ne_bytes());
    put(&((taken >> 32) as u32).to_ne_bytes());
    put(&[0; 64 - 36]);
    debug_assert_eq!(out.len() + OUT_HEADER_LEN, 80);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, pid: u32) -> Request {
        Request { opcode, unique: 7, node: 1, uid: 0, gid: 0, pid }
    }

    #[test]
    fn one_caller_is_no_backlog() {
        let mut backlog = Backlog::default();
        for _ in 0..100 {
            backlog.came(&request(opcode::UNLINK, 5), false);
            backlog.came(&request(opcode::FORGET, 0), false);
            backlog.came(&request(opcode::RELEASE, 0), false);
            assert!(!backlog.is_long());
        }
    }

    #[test]
    fn callers_by_turns_are() {
        // The kernel, writing back, says no caller.
        for callers in [[5, 6], [0, 0]] {
            let mut backlog = Backlog::default();
            for turn in 0..BACKLOG as usize + 1 {
                assert!(!backlog.is_long());
                backlog.came(&request(opcode::WRITE, callers[turn % 2]), false);
            }
            assert!(backlog.is_long());
            backlog.came(&request(opcode::WRITE, callers[0]), true);
            assert!(!backlog.is_long(), "nobody was waiting");
        }
    }

    fn looks(gaze: &mut Gaze) -> bool {
        gaze.goes_on(Duration::ZERO)
    }

    /// A request that comes only once the reader sleeps; true if it was looked for before.
    fn comes_late(gaze: &mut Gaze) -> bool {
        let looked = looks(gaze);
        assert!(!gaze.goes_on(GAZE));
        gaze.sleeps();
        assert!(!looks(gaze), "it sleeps");
        gaze.found();
        looked
    }

    #[test]
    fn looks_in_vain_become_rare() {
        let mut gaze = Gaze::new(true);
        let looked: Vec<_> = (0..4000).filter(|_| comes_late(&mut gaze)).collect();
        assert_eq!(looked, [0, 3, 8, 17, 34, 67, 132, 261, 518, 1031, 2056, 3081]);
    }

    #[test]
    fn one_that_finds_something_makes_up_for_those() {
        let mut gaze = Gaze::new(true);
        while gaze.vain < 5 {
            comes_late(&mut gaze);
        }
        for _ in 0..1 << 5 {
            assert!(!comes_late(&mut gaze));
        }
        assert!(looks(&mut gaze));
        gaze.found();
        assert!(comes_late(&mut gaze));
        assert!(!comes_late(&mut gaze) && !comes_late(&mut gaze));
        assert!(comes_late(&mut gaze));
    }

    #[test]
    fn with_one_cpu_nothing_is_looked_for() {
        let mut gaze = Gaze::new(false);
        assert!((0..100).all(|_| !comes_late(&mut gaze)));
    }
}

//! The process behind a mount: opens the vault, serves until the mount ends, seals.
//!
//! It ends by an unmount, from `sero seal`, umount(8) or fusermount3 alike, or by SIGINT, SIGTERM or
//! SIGHUP. After a signal:
//!
//! 1. The mount is taken down if nobody uses it. While somebody does, this is tried again for
//!    [`PATIENCE`]; another signal cuts that short. The log names who uses it.
//! 2. Then what the kernel holds is written to the vault, and the mount leaves the tree of directories.
//!    Files that are open go on working for [`LAST_ORDERS`].
//! 3. Then the connection is cut. Whoever still has a file open gets ENOTCONN.
//!
//! In every case everything written is committed and the vault sealed before the process ends.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use crate::fuse::{self, Fs, FsOptions, FuseError, Held, MountRequest, MountedSession, Process, Unmount};
use crate::vault::{PosixStorage, Vault};

/// How long a signal waits for the mount to fall idle.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long files that are open go on working after the mount was detached.
const LAST_ORDERS: Duration = Duration::from_secs(5);
/// How long the kernel may take to write its dirty pages at such an end.
const WRITE_BACK_LIMIT: Duration = Duration::from_secs(30);
/// How often a busy mount is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How long the session may take to notice that its connection was cut.
const CUT_LIMIT: Duration = Duration::from_secs(2);
/// How often the vault does what is due.
const TICK: Duration = Duration::from_secs(1);

/// What the main thread waits for.
enum Event {
    /// The last of the mount is gone.
    Ended(io::Result<()>),
    Signal(i32),
}

/// Makes this process one that keeps secrets: no core dump, no debugger of the same user, no inherited
/// umask or working directory, as many open files as it may have.
pub(super) fn harden() {
    // Best effort, each: none of them is worth not mounting.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, nothing);
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    rustix::process::umask(rustix::fs::Mode::empty());
    let _ = std::env::set_current_dir("/");
}

/// Mounts an open vault and serves it until the end. `ready` is called when the mount answers; if it
/// returns false, nobody is there any more who wanted the mount, and it is taken down.
pub(super) fn serve(
    vault: Arc<Vault<PosixStorage>>,
    request: &MountRequest,
    ready: impl FnOnce() -> bool,
) -> Result<()> {
    let (sender, events) = mpsc::channel();
    watch_signals(sender.clone())?;
    let options = FsOptions { changes_elsewhere: request.changes_elsewhere, ..FsOptions::for_this_process() };
    let filesystem = match Fs::new(Arc::clone(&vault), options) {
        Ok(filesystem) => Arc::new(filesystem),
        Err(error) => {
            // Opening made a journal; the vault goes back to rest.
            if let Err(error) = vault.seal() {
                log::error!("after a failed start: {error}");
            }
            return Err(Failure::new(
                ExitCode::Integrity,
                format!("the top directory of the vault cannot be read: {error}; restore it from a backup"),
            ));
        }
    };
    let session = match fuse::serve(Arc::clone(&filesystem), request, move |result| {
        // The receiver is gone only when the process is about to be.
        let _ = sender.send(Event::Ended(result));
    }) {
        Ok(session) => session,
        Err(error) => {
            if let Err(error) = filesystem.shutdown() {
                log::error!("after a failed mount: {error}");
            }
            return Err(error.into());
        }
    };
    log::info!("mounted");
    let ticker = Ticker::start(&vault);
    let end = if ready() { wait(&session, &events) } else { leave(&session, &events) };
    ticker.stop();
    let sealed = filesystem.shutdown();
    match (end, sealed) {
        (Ok(()), Ok(())) => {
            log::info!("sealed");
            Ok(())
        }
        (end, Err(error)) => {
            let mut failure = seal_failure(&error);
            if let Err(end) = end {
                failure.message = format!("{}; before that: {end}", failure.message);
            }
            Err(failure)
        }
        (Err(end), Ok(())) => Err(end),
    }
}

fn seal_failure(error: &impl std::fmt::Display) -> Failure {
    Failure::new(
        ExitCode::BackingIo,
        format!(
            "the vault could not be sealed: {error}; see to the filesystem under it (is it full?), then mount the vault \
             again and seal it; do not copy it before"
        ),
    )
}

/// Until the mount ends, or a signal asks for the end.
fn wait(session: &MountedSession, events: &Receiver<Event>) -> Result<()> {
    match events.recv() {
        Ok(Event::Ended(result)) => session_end(session, result),
        Ok(Event::Signal(signal)) => {
            log::info!("signal {signal}: sealing");
            leave(session, events)
        }
        Err(_) => Ok(()),
    }
}

fn session_end(session: &MountedSession, result: io::Result<()>) -> Result<()> {
    result.map_err(|error| {
        // The mount may still stand, with nobody behind it.
        let _ = session.unmount(Unmount::Lazily);
        Failure::other(format!("the connection to the kernel broke: {error}; the mount was taken down"))
    })
}

/// Takes the mount down, as gently as its users let us.
fn leave(session: &MountedSession, events: &Receiver<Event>) -> Result<()> {
    if let Some(end) = leave_when_idle(session, events) {
        return end;
    }
    log::warn!("the mount is still in use: detaching it; open files work for {} more seconds", LAST_ORDERS.as_secs());
    let held = hold_and_write_back(session);
    if let Err(error) = session.unmount(Unmount::Lazily) {
        log::error!("{error}");
    }
    let deadline = Instant::now() + LAST_ORDERS;
    if let Some(result) = last_orders(session, events, deadline) {
        return session_end(session, result);
    }
    if let Some(held) = held {
        within(WRITE_BACK_LIMIT, move || held.write_back());
    }
    // Not every user can be seen; and now nothing of ours keeps the session from ending by itself.
    let remaining = deadline.saturating_duration_since(Instant::now());
    if let Some(result) = ended_within(events, remaining.max(CUT_LIMIT)) {
        return session_end(session, result);
    }
    log::warn!("files are still open: cutting the connection");
    if session.abort()
        && let Some(result) = ended_within(events, CUT_LIMIT)
    {
        return session_end(session, result);
    }
    // The end of this process cuts it as well; what comes until then finds the vault sealed.
    Ok(())
}

/// Waits for the users to go, until the deadline or another signal.
fn last_orders(session: &MountedSession, events: &Receiver<Event>, deadline: Instant) -> Option<io::Result<()>> {
    while Instant::now() < deadline && !other_users(session).is_empty() {
        match events.recv_timeout(RETRY) {
            Ok(Event::Ended(result)) => return Some(result),
            Ok(Event::Signal(_)) => return None,
            Err(_) => {}
        }
    }
    None
}

/// Tries plain unmounting until it works or the patience is used up.
fn leave_when_idle(session: &MountedSession, events: &Receiver<Event>) -> Option<Result<()>> {
    let deadline = Instant::now() + PATIENCE;
    let mut named = false;
    loop {
        match session.unmount(Unmount::IfIdle) {
            // The end is reported when the last other place where it is mounted is gone, too.
            Ok(()) => return ended_within(events, PATIENCE).map(|result| session_end(session, result)),
            Err(FuseError::Busy { .. }) => {
                if !named {
                    name_users(session);
                    named = true;
                }
            }
            // Unmounted by someone else meanwhile, or covered by another mount.
            Err(FuseError::NotMounted { .. }) => {
                return ended_within(events, Duration::ZERO).map(|result| session_end(session, result));
            }
            Err(error) => {
                log::error!("{error}");
                return None;
            }
        }
        match events.recv_timeout(RETRY) {
            Ok(Event::Ended(result)) => return Some(session_end(session, result)),
            Ok(Event::Signal(_)) => return None,
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => return None,
        }
    }
}

fn ended_within(events: &Receiver<Event>, limit: Duration) -> Option<io::Result<()>> {
    let deadline = Instant::now() + limit;
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Ended(result)) => return Some(result),
            Ok(Event::Signal(_)) => {}
            Err(_) => return None,
        }
    }
}

fn name_users(session: &MountedSession) {
    let users: Vec<String> = other_users(session).iter().map(ToString::to_string).collect();
    log::warn!("the mount is in use by {}; trying again", users.join(", "));
}

fn other_users(session: &MountedSession) -> Vec<Process> {
    let mut users = session.device().map(fuse::processes_using).unwrap_or_default();
    users.retain(|process| process.pid != std::process::id());
    users
}

fn hold_and_write_back(session: &MountedSession) -> Option<Held> {
    let session = session.clone();
    within(WRITE_BACK_LIMIT, move || {
        let held = session.hold()?;
        held.write_back()?;
        Ok(held)
    })
}

/// In a thread of its own: such work waits for requests that the session's threads answer, and must not
/// keep the end from coming if one of them is stuck.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Option<T> {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(work());
    });
    match done.recv_timeout(limit) {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(error)) => log::error!("what the kernel holds could not be written back: {error}"),
        Err(_) => log::error!("what the kernel holds was not written back within {} seconds", limit.as_secs()),
    }
    None
}

/// SIGINT, SIGTERM and SIGHUP become events. Registered before anything is mounted, so that none of them
/// ends the process halfway.
fn watch_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Failure::other(format!("signals cannot be handled: {error}")))?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if events.send(Event::Signal(signal)).is_err() {
                    break;
                }
            }
        })
        .map(drop)
        .map_err(|error| Failure::other(format!("a thread could not be started: {error}")))
}

/// Work beside the requests: calls `tick` of the vault every second, and looks after what a crash left.
struct Ticker {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Ticker {
    fn start(vault: &Arc<Vault<PosixStorage>>) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let (ticking, seen) = (Arc::clone(vault), Arc::clone(&stopping));
        threads.extend(spawn("ticker", move || tick(&ticking, &seen)));
        if vault.has_leftovers_to_settle() {
            let settling = Arc::clone(vault);
            threads.extend(spawn("leftovers", move || settle(&settling)));
        }
        Self { stopping, threads }
    }

    /// Returns when the work that is under way has ended.
    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.thread().unpark();
            // A panic in it was logged.
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| log::error!("no background work: {error}"))
        .ok()
}

fn settle(vault: &Vault<PosixStorage>) {
    if let Err(error) = vault.settle_leftovers() {
        log::error!("what a crash left half-made could not all be looked at: {error}");
    }
}

fn tick(vault: &Vault<PosixStorage>, stopping: &AtomicBool) {
    let mut last_error = None;
    loop {
        thread::park_timeout(TICK);
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let error = match catch_unwind(AssertUnwindSafe(|| vault.tick())) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("stopped by a bug in sero".to_owned()),
        };
        // The same error each second is said once.
        if error != last_error
            && let Some(error) = &error
        {
            log::error!("background work failed: {error}");
        }
        last_error = error;
    }
}

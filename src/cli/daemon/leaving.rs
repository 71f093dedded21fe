//! The end of a mount that is asked for, gently as long as it may be (see the daemon's documentation).

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::watch::Reason;
use super::{Event, Mounted, session_end};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Result};
use crate::fuse::{self, FuseError, Held, MountedSession, Process, Unmount};

/// How long a signal waits for the mount to fall idle.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long files that are open go on working after the mount was detached.
const LAST_ORDERS: Duration = Duration::from_secs(5);
/// How long the kernel may write nothing of its dirty pages at such an end, while there are some.
const WRITE_BACK_LIMIT: Duration = Duration::from_secs(30);
/// How often a busy mount is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How long the session may take to notice that its connection was cut.
const CUT_LIMIT: Duration = Duration::from_secs(2);

/// Takes the mount down, as gently as its users let us.
pub(super) fn leave(mount: &Mounted, reason: Reason) -> Result<()> {
    let (session, events) = (&mount.session, &mount.events);
    if let Some(end) = leave_when_idle(mount, reason) {
        return end;
    }
    log::warn!("the mount is still in use: detaching it; open files work for {} more seconds", LAST_ORDERS.as_secs());
    let held = match hold_and_write_back(mount, reason) {
        Written::Ended(result) => return session_end(session, result),
        written => written,
    };
    if let Err(error) = session.unmount(Unmount::Lazily) {
        log::error!("{error}");
    }
    let deadline = match last_orders(session, events, Instant::now() + LAST_ORDERS) {
        LastOrders::Ended(result) => return session_end(session, result),
        LastOrders::Over { deadline } => deadline,
    };
    let is_stuck = match held {
        Written::Done(held) => match within(mount, reason, move || held.write_back()) {
            Written::Ended(result) => return session_end(session, result),
            written => matches!(written, Written::Stuck),
        },
        written => matches!(written, Written::Stuck),
    };
    // Not every user can be seen; and now nothing of ours keeps the session from ending by itself.
    let remaining = deadline.saturating_duration_since(Instant::now());
    if let Some(result) = ended_within(events, remaining.max(CUT_LIMIT)) {
        return session_end(session, result);
    }
    log::warn!("files are still open: cutting the connection");
    // Cut by us, it may go on standing where it was bound to.
    if session.abort()
        && let Some(result @ Err(_)) = ended_within(events, CUT_LIMIT)
    {
        session_end(session, result)?;
    }
    // The end of this process cuts it as well; what comes until then finds the vault sealed.
    if !is_stuck {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::WritesLost,
        "the vault is sealed and whole, but the kernel had more to write to it (the log says why it did not): programs that had \
         files open lost what they wrote last",
    ))
}

/// How the waiting for the last users ended.
enum LastOrders {
    Ended(io::Result<()>),
    /// Nothing is waited for any longer than this.
    Over {
        deadline: Instant,
    },
}

/// Waits for the users to go, until the deadline or another signal, which sets the deadline to now.
fn last_orders(session: &MountedSession, events: &Receiver<Event>, deadline: Instant) -> LastOrders {
    while Instant::now() < deadline && !other_users(session).is_empty() {
        match events.recv_timeout(RETRY) {
            Ok(Event::Ended(result)) => return LastOrders::Ended(result),
            Ok(Event::Signal(_)) => return LastOrders::Over { deadline: Instant::now() },
            Ok(Event::Logind(_)) | Err(_) => {}
        }
    }
    LastOrders::Over { deadline }
}

/// Tries plain unmounting until it works or the patience is used up.
fn leave_when_idle(mount: &Mounted, reason: Reason) -> Option<Result<()>> {
    let (session, events) = (&mount.session, &mount.events);
    let deadline = Instant::now() + PATIENCE;
    let mut named = false;
    loop {
        match session.unmount(Unmount::IfIdle) {
            // The end is reported when the last other place where it is mounted is gone, too.
            Ok(()) => return ended_within(events, PATIENCE).map(|result| session_end(session, result)),
            Err(FuseError::Busy { .. }) => {
                let users = users(session);
                if mount.watch.is_busy(reason, users.clone()) && !named {
                    log::warn!("the mount is in use by {}; trying again", listed(&users));
                    named = true;
                }
            }
            // Unmounted by someone else meanwhile, or covered by another mount.
            Err(FuseError::NotMounted { .. }) => {
                return ended_within(events, CUT_LIMIT).map(|result| session_end(session, result));
            }
            Err(error) => {
                log::error!("{error}");
                return None;
            }
        }
        match events.recv_timeout(RETRY) {
            Ok(Event::Ended(result)) => return Some(session_end(session, result)),
            Ok(Event::Signal(_)) => return None,
            Ok(Event::Logind(_)) => {}
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
            Ok(Event::Signal(_) | Event::Logind(_)) => {}
            Err(_) => return None,
        }
    }
}

/// Who uses the mount, as `PID (program)`, as far as this process can see.
pub(super) fn users(session: &MountedSession) -> Vec<String> {
    other_users(session).iter().map(ToString::to_string).collect()
}

pub(super) fn listed(users: &[String]) -> String {
    if users.is_empty() { "something that cannot be seen".to_owned() } else { users.join(", ") }
}

fn other_users(session: &MountedSession) -> Vec<Process> {
    let mut users = session.device().map(fuse::processes_using).unwrap_or_default();
    users.retain(|process| process.pid != std::process::id());
    users
}

fn hold_and_write_back(mount: &Mounted, reason: Reason) -> Written<Held> {
    let session = mount.session.clone();
    within(mount, reason, move || {
        let held = session.hold()?;
        held.write_back()?;
        Ok(held)
    })
}

/// What became of writing back.
enum Written<T> {
    Done(T),
    /// It could not be tried: nothing is known of what there is to write.
    Failed,
    /// There was something to write, and it was not waited for any longer.
    Stuck,
    /// The session ended meanwhile.
    Ended(io::Result<()>),
}

/// In a thread of its own: such work waits for requests that the session's threads answer, and must not keep the end from
/// coming if one of them is stuck. As long as something is written it is waited for, however much there is, unless there is
/// another signal.
fn within<T: Send + 'static>(
    mount: &Mounted,
    reason: Reason,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Written<T> {
    // The first one asks for the end, and the next not to wait for it.
    let mut is_asked = reason == Reason::Signal;
    let (sender, done) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(work());
    });
    let written = || mount.session.activity().count().bytes_written;
    let (mut before, mut since, mut is_said) = (written(), Instant::now(), false);
    loop {
        match done.recv_timeout(RETRY) {
            Ok(Ok(value)) => return Written::Done(value),
            Ok(Err(error)) => {
                log::error!("what the kernel holds could not be written back: {error}");
                return Written::Failed;
            }
            Err(_) => {}
        }
        match mount.events.try_recv() {
            Ok(Event::Ended(result)) => return Written::Ended(result),
            Ok(Event::Signal(_)) if !std::mem::replace(&mut is_asked, true) => {}
            Ok(Event::Signal(_)) => {
                log::error!("the kernel is not done with writing back, and a signal says not to wait for it");
                return Written::Stuck;
            }
            Ok(Event::Logind(_)) | Err(_) => {}
        }
        if written() != before {
            (before, since) = (written(), Instant::now());
            if !is_said {
                is_said = true;
                log::warn!("the kernel is still writing what programs wrote to its cache");
            }
        } else if since.elapsed() > WRITE_BACK_LIMIT {
            let seconds = WRITE_BACK_LIMIT.as_secs();
            log::error!("the kernel wrote nothing back for {seconds} seconds, and is not done");
            return Written::Stuck;
        }
    }
}

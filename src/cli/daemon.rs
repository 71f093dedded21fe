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
//! Before the machine sleeps and when a session is locked, if that was asked for, it is taken down as soon as nobody uses it
//! ([`logind`]).
//!
//! In every case everything written is committed and the vault sealed before the process ends.

mod leaving;
pub(super) mod logind;
mod rotation;
mod service;
mod ticker;
mod verification;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::control::Server;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::{mountpoint, notify, seal, time};
use crate::fuse::{self, Fs, FsOptions, FuseError, Lost, MountRequest, MountedSession, Unmount};
use crate::vault::{PosixStorage, Vault};
use leaving::{leave, users};
use logind::{Cause, News};
use rotation::Rotation;
use service::Service;
use ticker::Ticker;
use verification::Verifications;
pub(super) use watch::Limits;
use watch::{Due, Reason, Watch};

/// How often is looked whether something is due.
const LOOK: Duration = Duration::from_secs(1);

/// What the main thread waits for.
enum Event {
    /// The last of the mount is gone.
    Ended(io::Result<()>),
    Signal(i32),
    Logind(News),
}

/// Makes this process one that keeps secrets: no core dump, no debugger of the same user. Before any secret is read.
pub(super) fn keep_secrets() {
    // Best effort, each: neither is worth not working.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, nothing);
}

/// Makes this process a daemon: no inherited umask or working directory, as many and as large files as it may have.
pub(super) fn harden() {
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    // A limit on file sizes is for what is written by whom it was set for; at the hard one there is an error, and no end.
    let size = rustix::process::getrlimit(Resource::Fsize);
    let _ = rustix::process::setrlimit(Resource::Fsize, Rlimit { current: size.maximum, ..size });
    // The handler does nothing: what matters is that there is one.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    rustix::process::umask(rustix::fs::Mode::empty());
    let _ = std::env::set_current_dir("/");
}

/// What is served, and how long.
pub(super) struct Serving {
    pub(super) request: MountRequest,
    pub(super) vault_id: String,
    /// Where the configuration lies, if that is apart from the vault.
    pub(super) config: Option<PathBuf>,
    pub(super) limits: Limits,
    /// Also sealed when logind says so.
    pub(super) seal_on: Vec<Cause>,
    /// Started as a service, in the foreground: the service manager is told how it goes.
    pub(super) is_service: bool,
    /// Errors are logged with plain paths.
    pub(super) log_names: bool,
}

/// Mounts an open vault and serves it until the end. `ready` is called when the mount answers; if it
/// returns false, nobody is there any more who wanted the mount, and it is taken down.
pub(super) fn serve(vault: Arc<Vault<PosixStorage>>, serving: &Serving, ready: impl FnOnce() -> bool) -> Result<()> {
    let request = &serving.request;
    let (sender, events) = mpsc::channel();
    watch_signals(sender.clone())?;
    let heard = sender.clone();
    // The receiver is gone only when the process is about to be.
    let listening = logind::listen(&serving.seal_on, move |news| drop(heard.send(Event::Logind(news))));
    if let Err(failure) = listening {
        give_up(&vault);
        return Err(failure);
    }
    let options = FsOptions { log_names: serving.log_names, ..FsOptions::for_this_process() };
    let filesystem = match Fs::new(Arc::clone(&vault), options) {
        Ok(filesystem) => Arc::new(filesystem),
        Err(error) => {
            give_up(&vault);
            return Err(Failure::new(
                ExitCode::Integrity,
                format!("the top directory of the vault cannot be read: {error}; restore it from a backup"),
            ));
        }
    };
    let begin = || {
        // Another may have been mounted there while the passphrase was asked for.
        mountpoint::check(&request.mountpoint, &request.source, request.options.nonempty)?;
        // The receiver is gone only when the process is about to be.
        let end = move |result| drop(sender.send(Event::Ended(result)));
        fuse::serve(Arc::clone(&filesystem), request, end).map_err(Failure::from)
    };
    let session = match begin() {
        Ok(session) => session,
        Err(failure) => {
            if let Err(error) = filesystem.shutdown() {
                log::error!("after a failed mount: {error}");
            }
            return Err(failure);
        }
    };
    log::info!("mounted");
    let watch = Arc::new(Watch::start(serving.limits, &serving.seal_on));
    let ticker = Ticker::start(&vault);
    let rotation = Rotation::start(&vault, PathBuf::from(&request.source), serving.config.clone());
    let mount = Mounted { filesystem, session, events, watch, rotation, is_service: serving.is_service };
    // Until the process ends, so that it can be asked while it seals.
    let mut control = mount.answer_questions(&serving.vault_id);
    let end = if ready() {
        mount.tell_service(|| notify::ready(&mount.place()));
        mount.wait(&mut control)
    } else {
        leave(&mount, Reason::Signal)
    };
    mount.tell_service(notify::stopping);
    mount.watch.is_sealing();
    mount.rotation.stop();
    ticker.stop();
    let sealed = mount.filesystem.shutdown();
    match (end, sealed) {
        (Ok(()), Ok(())) => {
            log::info!("sealed");
            match mount.filesystem.lost() {
                Lost { files: 0, .. } => Ok(()),
                lost => Err(seal::writes_lost("the vault", lost)),
            }
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

/// Opening made a journal; the vault goes back to rest.
fn give_up(vault: &Vault<PosixStorage>) {
    if let Err(error) = vault.seal() {
        log::error!("after a failed start: {error}");
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

/// A mount that answers.
struct Mounted {
    filesystem: Arc<Fs<PosixStorage>>,
    session: MountedSession,
    events: Receiver<Event>,
    watch: Arc<Watch>,
    rotation: Arc<Rotation>,
    is_service: bool,
}

impl Mounted {
    /// For `systemctl status`, and for those who wait for it.
    fn tell_service(&self, tell: impl FnOnce()) {
        if self.is_service {
            tell();
        }
    }

    /// Listens on the control socket. A mount without one works, too.
    fn answer_questions(&self, vault_id: &str) -> Option<Server> {
        let service = Service {
            filesystem: Arc::clone(&self.filesystem),
            session: self.session.clone(),
            watch: Arc::clone(&self.watch),
            vault_id: vault_id.to_owned(),
            verifications: Verifications::default(),
            rotation: Arc::clone(&self.rotation),
        };
        let device = self.session.device().ok_or_else(|| io::Error::other("the mount's device is not known"));
        match device.and_then(|device| Server::start(device, Arc::new(service))) {
            Ok(server) => {
                log::debug!("control socket: {}", server.path().display());
                Some(server)
            }
            Err(error) => {
                log::warn!("there is no control socket ({error}): `sero status` cannot ask this mount");
                None
            }
        }
    }

    /// Until the mount ends, or something asks for its end.
    fn wait(&self, control: &mut Option<Server>) -> Result<()> {
        loop {
            control.iter_mut().for_each(Server::keep);
            match self.events.recv_timeout(LOOK) {
                Ok(Event::Ended(result)) => return session_end(&self.session, result),
                Ok(Event::Signal(signal)) => {
                    log::info!("signal {signal}: sealing");
                    return leave(self, Reason::Signal);
                }
                Ok(Event::Logind(news)) => self.hear(news),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            match self.due() {
                Some(Due::SealIfUnused(reason)) => self.seal_if_unused(reason),
                Some(Due::Stay) => {
                    log::info!("the mount is used again: it stays");
                    self.tell_service(|| notify::status(&self.place()));
                }
                Some(Due::Announce) => self.announce(),
                Some(Due::End(reason)) => {
                    log::info!("the session is over ({}): sealing", reason.name());
                    return leave(self, reason);
                }
                None => {}
            }
        }
    }

    fn hear(&self, news: News) {
        let reason = Reason::from(news.cause);
        if news.begins {
            self.watch.demand(reason);
        } else if self.watch.withdraw(reason) {
            log::warn!("{} is over, and the mount was in use all the time: it stays", reason.name());
            self.tell_service(|| notify::status(&self.place()));
        }
    }

    fn place(&self) -> String {
        format!("{} is mounted on {}", self.session.source().display(), self.session.mountpoint().display())
    }

    fn due(&self) -> Option<Due> {
        let requests = self.session.activity().count().requests;
        self.watch.look(requests, is_in_use(&self.filesystem.usage(), &self.rotation))
    }

    /// Unmounts, if nobody uses it; the end then comes as an event.
    fn seal_if_unused(&self, reason: Reason) {
        match self.session.unmount(Unmount::IfIdle) {
            Ok(()) => log::info!("{}: sealing", reason.name()),
            Err(FuseError::Busy { .. }) => {
                let users = users(&self.session);
                if self.watch.is_busy(reason, users.clone()) {
                    let busy = format!("{}: to be sealed, and in use by {}", reason.name(), leaving::listed(&users));
                    log::warn!("{busy}; trying again");
                    self.tell_service(|| notify::status(&busy));
                }
            }
            // Unmounted by someone else meanwhile, or covered by another mount.
            Err(error) => log::debug!("{error}"),
        }
    }

    fn announce(&self) {
        let remaining = self.watch.remaining().unwrap_or_default();
        let end = format!("the session ends in {}: save what is open", time::span(remaining.as_secs()));
        log::warn!("{end}");
        self.tell_service(|| notify::status(&end));
    }
}

/// Whether something is open, or under way, that no limit for idleness ends.
fn is_in_use(usage: &fuse::Usage, rotation: &Rotation) -> bool {
    usage.handles() > 0 || rotation.is_running()
}

fn session_end(session: &MountedSession, result: io::Result<()>) -> Result<()> {
    if let Err(error) = result {
        // The mount may still stand, with nobody behind it.
        let _ = session.unmount(Unmount::Lazily);
        return Err(Failure::other(format!("the connection to the kernel broke: {error}; the mount was taken down")));
    }
    if !session.clear_away() {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::WritesLost,
        "the connection to the kernel was cut (by `umount -f` of the mount in use, or by `abort`), and the mount was taken \
         down: what programs had written and not synced may not be in the vault",
    ))
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

//! `sero rotate VAULT`: a new project key, and everything in the vault sealed anew under it.
//!
//! The new version is put into the configuration first. A mounted vault is then rotated by the process behind the
//! mount, which gets the keys over its control socket; this command watches. A vault at rest is rotated here.

mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Context;
use super::control::{self, Endpoint, Request, Response, Unreachable};
use super::daemon;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::findings::shown;
use super::opening::Opening;
use super::progress::{Progress, Unit};
use super::unlocking::UnlockArguments;
use super::words::count;
use crate::vault::rotate::{Phase, RotationControl, RotationEnd, RotationProblem, RotationProgress, configuration};
use crate::vault::{Configuration, Mode, UnlockedKeys};
pub(super) use wire::{KeysText, RotationFacts, RotationState};

/// A daemon makes a control socket again that was removed, within a second.
const SOCKET_COMES_BACK: Duration = Duration::from_secs(3);
/// How often is looked how far it is.
const LOOK: Duration = Duration::from_millis(250);
const MIB: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero rotate ~/papers.sero                 a new key, and everything sealed anew under it
  sero rotate --rate 50 ~/papers.sero       at most 50 MiB a second
  sero rotate --status ~/papers.sero        how far it is, or that none is under way
  sero rotate ~/papers.sero                 again, after it was interrupted: goes on from there")]
pub(super) struct RotateArguments {
    /// The vault, or where it is mounted
    #[arg(value_name = "VAULT")]
    vault: PathBuf,

    /// Keep the old key in the configuration: for old copies of the vault
    #[arg(long)]
    keep_old: bool,

    /// Show how far a rotation is, and change nothing
    #[arg(long, conflicts_with_all = ["keep_old", "rate"])]
    status: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Seal at most so many MiB of content a second
    #[arg(long, value_name = "MIB/S", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    rate: Option<u64>,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &RotateArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let endpoint = opening.mounts().pop().map(|mount| Endpoint::of(&mount));
    let facts = match &endpoint {
        Some(endpoint) => ask(endpoint, &Request::RotationStatus)?,
        None => RotationFacts::of_configuration(opening.configuration()),
    };
    if arguments.status {
        return show(&facts.with(opening.configuration()), arguments, context);
    }
    if facts.state == RotationState::Running {
        return Err(crate::vault::VaultError::RotationRunning.into());
    }
    let put_aside = opening.put_aside()?;
    if put_aside > 0 {
        let what = count(put_aside as u64, "entry", "entries");
        let begun = opening.configuration().rotation;
        let then = if begun.map_or(arguments.keep_old, |rotation| rotation.keep_old) {
            "it opens with the old key, which is kept"
        } else {
            "without the old key nothing opens it"
        };
        context.note(&format!("private/lost ({what}) is not brought under the new key: {then}"));
    }
    let rotated = match endpoint {
        Some(endpoint) => online(arguments, context, &opening, &endpoint),
        None => offline(arguments, context, opening),
    };
    rotated.map_err(|failure| if failure.is_full { no_room(&failure.message) } else { failure })
}

fn no_room(what: &str) -> Failure {
    Failure::new(ExitCode::RotationNoRoom, format!("{what}; nothing is lost, and the same command goes on then"))
}

fn ask(endpoint: &Endpoint, request: &Request) -> Result<RotationFacts> {
    match control::ask(endpoint, request)? {
        Response::Rotation(facts) => Ok(facts),
        _ => Err(other_answer()),
    }
}

/// Of a daemon that has answered before: what has ended since can be gone on with.
fn ask_again(endpoint: &Endpoint, opening: &Opening) -> Result<RotationFacts> {
    let is_mounted = || opening.mounts().iter().any(|mount| mount.device == endpoint.device);
    let deadline = Instant::now() + SOCKET_COMES_BACK;
    loop {
        return match control::exchange(endpoint, &Request::RotationStatus) {
            Ok(Response::Rotation(facts)) => Ok(facts),
            Ok(_) => Err(other_answer()),
            // In the middle of the question, or too many ask: the next time there is more to tell.
            Err(Unreachable::Ended) => {
                thread::sleep(LOOK);
                continue;
            }
            // As it ends, its socket may be there a little longer.
            Err(Unreachable::Dead | Unreachable::NoSocket) if !is_mounted() => Err(interrupted("")),
            Err(Unreachable::Dead) => Err(interrupted("`sero seal` cleans up what the killed process left, and then ")),
            Err(Unreachable::NoSocket) if Instant::now() < deadline => {
                thread::sleep(LOOK);
                continue;
            }
            Err(error) => Err(error.into()),
        };
    }
}

fn interrupted(first: &str) -> Failure {
    Failure::new(
        ExitCode::RotationRefused,
        format!("the rotation was interrupted, and nothing is lost; {first}the same command goes on with it"),
    )
}

fn other_answer() -> Failure {
    Failure::other("the daemon gave another answer than asked for; seal and mount again with this sero")
}

/// As the rotation was begun, whatever is said now.
fn keeps_old(keys: &UnlockedKeys) -> bool {
    keys.configuration().rotation.is_some_and(|rotation| rotation.keep_old)
}

/// The keys with the version to rotate to, which is a new one unless an earlier rotation is gone on with. `check`: that the vault is
/// still what it was before a passphrase was typed.
fn keys(
    arguments: &RotateArguments,
    context: &Context,
    opening: &Opening,
    check: impl FnOnce() -> Result<()>,
) -> Result<UnlockedKeys> {
    let (root, _) = arguments.unlock.unlock_root(opening, context)?;
    check()?;
    // Before it is changed: it may be another vault's, which opens with the same secret.
    opening.check_newest(root.unlocked())?;
    if let Some(rotation) = root.unlocked().configuration().rotation {
        if arguments.keep_old && !rotation.keep_old {
            return Err(Failure::new(
                ExitCode::RotationRefused,
                "the rotation that is gone on with was begun without --keep-old; leave the option out",
            ));
        }
        context.note("an earlier rotation was not finished: going on with it");
        return Ok(root.into());
    }
    configuration::start(&opening.place(), &root, arguments.keep_old).map_err(|error| opening.about(error))
}

fn online(arguments: &RotateArguments, context: &Context, opening: &Opening, endpoint: &Endpoint) -> Result<()> {
    let Response::Status(status) = control::ask(endpoint, &Request::Status)? else { return Err(other_answer()) };
    if status.read_only {
        return Err(crate::vault::VaultError::ReadOnly.into());
    }
    if status.config != opening.detached().map(|path| path.display().to_string()) {
        let here = status.config.as_deref().unwrap_or("the one in it");
        return Err(Failure::new(
            ExitCode::RotationRefused,
            format!("the vault is mounted with another configuration ({here}); rotate with that one, or seal it first"),
        ));
    }
    let check = || match control::exchange(endpoint, &Request::Status) {
        // The endpoint goes by a number, which may be another mount's by now.
        Ok(Response::Status(now)) if (&now.vault_id, now.pid) == (&status.vault_id, status.pid) => Ok(()),
        Err(error) if opening.mounts().iter().any(|mount| mount.device == endpoint.device) => Err(error.into()),
        _ => Err(Failure::new(
            ExitCode::RotationRefused,
            "the vault was sealed while the passphrase was asked for; nothing was changed; run this again",
        )),
    };
    let keys = keys(arguments, context, opening, check)?;
    let keep_old = keeps_old(&keys);
    let request = Request::Rotate {
        keys: KeysText::of(&keys),
        bytes_per_second: arguments.rate.unwrap_or(0).saturating_mul(MIB),
    };
    drop(keys);
    ask(endpoint, &request)?;
    drop(request);
    context.note("the mounted vault is rotated in the background; Ctrl-C ends only this report of it");
    let watch = Watch::new(context);
    loop {
        thread::sleep(LOOK);
        let facts = ask_again(endpoint, opening)?;
        watch.show(&facts.progress());
        if facts.state != RotationState::Running {
            drop(watch);
            return end(&facts, keep_old, arguments, context);
        }
    }
}

fn offline(arguments: &RotateArguments, context: &Context, opening: Opening) -> Result<()> {
    opening.check_free(Mode::ReadWrite)?;
    let keys = keys(arguments, context, &opening, || opening.check_free(Mode::ReadWrite))?;
    let keep_old = keeps_old(&keys);
    let path = opening.path().to_owned();
    let again = Opening::with_configuration(&path, opening.detached())?;
    // It works from "/", too: after everything that was given by a relative path.
    daemon::harden();
    // From here on a signal brings the vault to rest.
    let asked_to_stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let _ = signal_hook::flag::register(signal, Arc::clone(&asked_to_stop));
    }
    let vault = opening.open(keys, Mode::ReadWrite)?;
    let control = Arc::new(RotationControl::new());
    control.set_rate(arguments.rate.unwrap_or(0).saturating_mul(MIB));
    let ended = thread::scope(|scope| {
        let work = scope.spawn(|| vault.rotate(&control, |active| configuration::finish(&again.place(), active)));
        let watch = Watch::new(context);
        while !work.is_finished() {
            if asked_to_stop.load(Ordering::Relaxed) {
                control.stop();
            }
            let _ = vault.tick();
            watch.show(&control.progress());
            thread::park_timeout(LOOK);
        }
        work.join()
    });
    // Whatever came of it, what was written is brought to rest.
    let sealed = vault.seal();
    let about = |error: crate::vault::VaultError| Failure::from(error).about(path.display());
    let ended = ended.map_err(|_| Failure::other("stopped by a bug in sero; what was in the vault still is"))?;
    let facts = RotationFacts::ended(ended.map_err(about)?, control.progress());
    sealed.map_err(about)?;
    end(&facts, keep_old, arguments, context)
}

/// What there is to say at the end, and the exit code.
fn end(facts: &RotationFacts, keep_old: bool, arguments: &RotateArguments, context: &Context) -> Result<()> {
    if arguments.json {
        show(facts, arguments, context)?;
    }
    match facts.state {
        RotationState::Done => {
            if !arguments.json {
                let kept = if keep_old { "the old one is kept" } else { "the old one is gone" };
                context.say(&format!("everything is under the new key, and {kept}"));
            }
            Ok(())
        }
        RotationState::None | RotationState::Running | RotationState::Stopped => Err(interrupted("")),
        RotationState::Damaged => Err(Failure::new(
            ExitCode::Integrity,
            format!(
                "these do not open, so the old key stays: {}; restore them from a backup or remove them, and run this again",
                facts.problems.join(", ")
            ),
        )),
        RotationState::Full => Err(no_room(&format!("{}; make room where the vault lies", facts.problems.join(", ")))),
        RotationState::Failed => Err(Failure::new(
            ExitCode::BackingIo,
            format!(
                "{}; nothing is lost: see to the filesystem under the vault, and run this again",
                facts.problems.join(", ")
            ),
        )),
    }
}

fn show(facts: &RotationFacts, arguments: &RotateArguments, context: &Context) -> Result<()> {
    if arguments.json {
        return context.print_json(&json!(facts));
    }
    let progress = facts.progress();
    context.print(&match facts.state {
        RotationState::None | RotationState::Done => "no rotation is under way".to_owned(),
        RotationState::Running if progress.phase == Phase::Content => format!(
            "rotating: {} of {} MiB of content",
            progress.bytes_done / MIB,
            progress.bytes_total.max(progress.bytes_done) / MIB
        ),
        RotationState::Running => format!(
            "rotating: {}, {} of {} entries",
            progress.phase.name(),
            progress.entries_done,
            progress.entries_total
        ),
        RotationState::Stopped => {
            "a rotation is unfinished, and rests; `sero rotate VAULT` or a mount goes on with it".to_owned()
        }
        RotationState::Damaged | RotationState::Failed | RotationState::Full => {
            format!("a rotation is unfinished: {}", facts.problems.join(", "))
        }
    });
    Ok(())
}

/// As verify's findings: by the plain path, where that opens.
fn problem(problem: &RotationProblem) -> String {
    match &problem.plain {
        Some(plain) => {
            format!(
                "/{}: {} ({})",
                shown(plain),
                shown(problem.error.reason.as_bytes()),
                shown(problem.error.path.as_bytes())
            )
        }
        None => problem.error.to_string(),
    }
}

/// One line of progress for each phase.
struct Watch<'a> {
    context: &'a Context,
    shown: std::cell::RefCell<Option<(Phase, Progress, u64)>>,
}

impl<'a> Watch<'a> {
    const fn new(context: &'a Context) -> Self {
        Self { context, shown: std::cell::RefCell::new(None) }
    }

    fn show(&self, progress: &RotationProgress) {
        let mut shown = self.shown.borrow_mut();
        let (verb, unit, total, done) = match progress.phase {
            Phase::Idle | Phase::Done | Phase::Counting => return,
            Phase::Names => ("renaming", Unit::Items, progress.entries_total, progress.entries_done),
            Phase::Content => ("sealing anew", Unit::Bytes, progress.bytes_total, progress.bytes_done),
            Phase::Verifying => ("verifying", Unit::Items, progress.entries_total, progress.entries_done),
        };
        if shown.as_ref().is_none_or(|(phase, ..)| *phase != progress.phase) {
            *shown = Some((progress.phase, Progress::start(self.context, verb, unit), 0));
        }
        if let Some((_, line, before)) = shown.as_mut() {
            line.set_total(total.max(done));
            line.advance(done.saturating_sub(*before));
            *before = done;
        }
    }
}

impl RotationFacts {
    /// Of a vault that nobody rotates.
    fn of_configuration(configuration: &Configuration) -> Self {
        let state = if configuration.rotation.is_some() { RotationState::Stopped } else { RotationState::None };
        Self::at(state, RotationControl::new().progress(), Vec::new())
    }

    pub(super) fn ended(end: RotationEnd, progress: RotationProgress) -> Self {
        match end {
            RotationEnd::Done => Self::at(RotationState::Done, progress, Vec::new()),
            RotationEnd::Stopped => Self::at(RotationState::Stopped, progress, Vec::new()),
            RotationEnd::Damaged(problems) => {
                let problems = problems.iter().map(problem).collect();
                Self::at(RotationState::Damaged, progress, problems)
            }
        }
    }

    /// A daemon that was not told of it yet does not know that a rotation has begun.
    fn with(mut self, configuration: &Configuration) -> Self {
        if self.state == RotationState::None && configuration.rotation.is_some() {
            self.state = RotationState::Stopped;
        }
        self
    }
}

//! `sero mount VAULT MOUNTPOINT`.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::background::{self, Order};
use super::daemon::Limits;
use super::daemon::logind::{self, Cause};
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::logging::Destination;
use super::opening::{Opening, POLL};
use super::unlocking::UnlockArguments;
use super::{Context, daemon, mountpoint, paths, time};
use crate::fuse::{self, MountOptions, MountRequest, Unmount};
use crate::vault::{Mode, PosixStorage, Vault};

/// How long a session that was unmounted may take to seal before a new mount is refused.
pub(super) const ENDING: Duration = Duration::from_secs(60);
/// The same for a process that is about to end, or that somebody else's mount keeps: nobody can tell.
const LEAVING: Duration = Duration::from_secs(3);

// Options of fstab and of the command line come together: the last counts, as of those that have no value.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  sero mount ~/papers.sero ~/papers                 ask for the passphrase, go to the background
  sero mount -o allow_other /srv/vault /srv/data    as root, for all users of the machine
  sero mount --read-only --foreground V M           look at it, seal with Ctrl-C
  sero mount --idle 10m --max-session 8h V M        sealed by itself after ten minutes without use
  sero mount --seal-on suspend,lock V M             sealed before sleep, and with the screen's lock
  pass show papers | sero mount --password-file - ~/papers.sero ~/papers

Options for -o, as in mount(8):
  ro rw  allow_other  nonempty  nosuid suid nodev dev  noexec exec
  noatime relatime strictatime nodiratime lazytime  sync dirsync
  no_io_uring (requests come through /dev/fuse alone)
and, as fstab has no other place for them:
  passfile=FILE  keyfile=FILE  config=FILE  idle=TIME  max_session=TIME
  seal_on=suspend  seal_on=lock"
)]
pub(super) struct MountArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// An empty directory, where the files appear
    mountpoint: PathBuf,

    /// Mount options, separated by commas; can be repeated
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,

    /// Refuse all changes; a vault can be mounted read-only more than once
    #[arg(long, visible_alias = "ro")]
    read_only: bool,

    /// Seal it after so long without an access and without an open file (90s, 10m, 8h; 0: never)
    #[arg(long, value_name = "TIME", value_parser = time::parse_span)]
    idle: Option<Duration>,

    /// Seal it after so long in any case; announced before in the log and in `sero status`
    #[arg(long, value_name = "TIME", value_parser = time::parse_span)]
    max_session: Option<Duration>,

    /// Seal it before the machine sleeps, or when the session is locked, as logind says
    #[arg(long, value_name = "WHEN", value_enum, value_delimiter = ',')]
    seal_on: Vec<Cause>,

    /// Stay in the foreground; Ctrl-C seals
    #[arg(long, short)]
    foreground: bool,

    /// Append the daemon's log to FILE instead of the system's log
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Log errors with the plain paths that they are about; without it the log has none
    #[arg(long)]
    log_names: bool,

    #[command(flatten)]
    unlock: UnlockArguments,
}

impl MountArguments {
    /// Where this process logs: the daemon in the background has its own place.
    pub(super) fn log_destination(&self) -> Destination<'_> {
        match &self.log {
            Some(file) if self.foreground => Destination::File(file),
            _ => Destination::Terminal,
        }
    }
}

pub(super) fn run(arguments: &MountArguments, context: &Context) -> Result<()> {
    // Everything that can be wrong without a passphrase is found before one is asked for.
    let options = options(&arguments.options, arguments.read_only)?;
    let opening = Opening::find(&arguments.vault, context)?;
    let vault = opening.path();
    offer_cleanup(&arguments.mountpoint, context)?;
    let mountpoint = mountpoint::check(&arguments.mountpoint, vault, options.nonempty)?;
    fuse::check_available(&options)?;
    logind::check(&arguments.seal_on)?;
    wait_until_free(&opening, mode(&options))?;
    let log = arguments.log.as_deref().map(paths::absolute).transpose()?;

    let keys = arguments.unlock.unlock(&opening, context)?;
    let order = Order {
        vault: vault.into(),
        mountpoint: mountpoint.clone().into(),
        options: arguments.options.clone(),
        read_only: arguments.read_only,
        config: opening.detached().map(Into::into),
        log: log.map(Into::into),
        verbosity: context.verbosity,
        limits: Limits { idle: span(arguments.idle), session: span(arguments.max_session) },
        seal_on: arguments.seal_on.clone(),
        in_foreground: arguments.foreground,
        log_names: arguments.log_names,
    };
    let hint = format!(
        "{} is mounted on {}; `sero seal {}` seals it",
        vault.display(),
        mountpoint.display(),
        mountpoint.display()
    );
    if arguments.foreground {
        serve(
            &order,
            |opening| opening.open(keys, mode(&options)),
            || {
                context.say(&format!("{hint}, and so does Ctrl-C"));
                true
            },
        )
    } else {
        background::start(&order, keys)?;
        context.say(&hint);
        Ok(())
    }
}

/// `umount` returns before the daemon has sealed: a mount right after it waits for that, and for nothing else.
fn wait_until_free(opening: &Opening, mode: Mode) -> Result<()> {
    let mut expected = (Duration::ZERO, Instant::now());
    loop {
        match opening.check_free(mode) {
            Err(failure) if failure.code == ExitCode::AlreadyMounted => {
                let patience = patience(opening);
                // It has come a step further.
                if patience != expected.0 {
                    expected = (patience, Instant::now());
                }
                if expected.1.elapsed() >= patience {
                    return Err(failure);
                }
                thread::sleep(POLL);
            }
            outcome => return outcome,
        }
    }
}

/// How long the end of the session that has the vault is worth waiting for: not at all while it is mounted.
fn patience(opening: &Opening) -> Duration {
    if !opening.mounts().is_empty() {
        return Duration::ZERO;
    }
    let Ok(Some(holder)) = opening.holder() else { return LEAVING };
    match (&holder.host, holder.pid) {
        (Some(_), Some(_)) if opening.is_ending(&holder) => ENDING,
        (Some(_), Some(_)) => Duration::ZERO,
        // It has not signed the lock yet, or not any more, or it is a reader.
        _ => LEAVING,
    }
}

/// In the daemon: with the keys as they came through the pipe.
pub(super) fn serve_exposed(order: &Order, exposed: &[u8], ready: impl FnOnce() -> bool) -> Result<()> {
    let options = options(&order.options, order.read_only)?;
    serve(
        order,
        |opening| {
            let keys = opening.unlock_exposed(exposed)?;
            opening.open(keys, mode(&options))
        },
        ready,
    )
}

/// Opens the vault and serves it in this process until the mount ends.
fn serve(
    order: &Order,
    open: impl FnOnce(Opening) -> Result<Arc<Vault<PosixStorage>>>,
    ready: impl FnOnce() -> bool,
) -> Result<()> {
    daemon::harden();
    let options = options(&order.options, order.read_only)?;
    let path = PathBuf::from(&order.vault);
    let config = order.config.as_ref().map(PathBuf::from);
    let opening = Opening::with_configuration(&path, config.as_deref())?;
    let vault_id = opening.configuration().vault_id.to_string();
    let vault = open(opening)?;
    let request = MountRequest { source: path.clone(), mountpoint: PathBuf::from(&order.mountpoint), options };
    let serving = daemon::Serving {
        request,
        vault_id,
        config,
        limits: order.limits,
        seal_on: order.seal_on.clone(),
        is_service: order.in_foreground,
        log_names: order.log_names,
    };
    daemon::serve(vault, &serving, ready).map_err(|failure| failure.about(path.display()))
}

/// Nothing, and so no limit, for 0.
fn span(given: Option<Duration>) -> Option<Duration> {
    given.filter(|span| !span.is_zero())
}

/// A mount whose daemon has died is in the way: on a terminal its removal is offered, elsewhere it is an error.
fn offer_cleanup(mountpoint: &Path, context: &Context) -> Result<()> {
    if !fuse::looks_dead(mountpoint) || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    let Some(place) = paths::canonical_parent(mountpoint) else { return Ok(()) };
    let mut terminal = io::stderr().lock();
    let _ = write!(terminal, "{} holds a mount whose process has died. Clean it up? [y/N] ", mountpoint.display());
    let _ = terminal.flush();
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    // Somebody else may have cleaned it up, and mounted, while this was asked.
    if matches!(answer.trim(), "y" | "Y" | "yes") && fuse::looks_dead(mountpoint) {
        fuse::unmount(&place, Unmount::Lazily)?;
        context.note(&format!("{} is clean", mountpoint.display()));
    }
    Ok(())
}

fn options(lists: &[String], read_only: bool) -> Result<MountOptions> {
    let mut options = MountOptions::default();
    for list in lists {
        options.apply(list)?;
    }
    if read_only && lists.iter().flat_map(|list| list.split(',')).any(|option| option == "rw") {
        return Err(Failure::new(
            ExitCode::Usage,
            "--read-only and the option rw contradict each other; give one of them",
        ));
    }
    options.read_only |= read_only;
    Ok(options)
}

fn mode(options: &MountOptions) -> Mode {
    if options.read_only { Mode::ReadOnly } else { Mode::ReadWrite }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_and_unknown_options_are_usage_errors() {
        let code = |lists: &[&str], read_only| {
            let lists: Vec<String> = lists.iter().map(ToString::to_string).collect();
            options(&lists, read_only).map(|options| options.read_only).map_err(|failure| failure.code)
        };
        assert_eq!(code(&["allow_other", "ro"], false), Ok(true));
        assert_eq!(code(&[], true), Ok(true));
        assert_eq!(code(&["rw"], true), Err(ExitCode::Usage));
        assert_eq!(code(&["colour=red"], false), Err(ExitCode::Usage));
    }
}

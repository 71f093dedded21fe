//! `sero status`: what is mounted, and how it is. The daemons say it, over their control sockets.

mod facts;
mod text;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::json;

use super::Context;
use super::control::{self, Endpoint, Request, Response};
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::words::count;
use super::{paths, seal};
use crate::fuse::mountinfo::{self, Mount};
pub(super) use facts::{Busy, Degraded, Errors, Journal, LastError, Memory, Operations, Session, State, Status};

/// How often `--watch` looks.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero status                          every mount of yours; as root, everyone's
  sero status ~/papers                 one, by its mountpoint or by its vault
  sero status --watch                  again every second, until Ctrl-C
  sero status --json | jq '.[].open_files'")]
pub(super) struct StatusArguments {
    /// Where a vault is mounted, or the vault itself; without it, all of them
    #[arg(value_name = "MOUNTPOINT|VAULT")]
    target: Option<PathBuf>,

    /// Print JSON: a list of objects, one a mount; with --watch, one list a line
    #[arg(long)]
    json: bool,

    /// Show it again every second
    #[arg(long, short)]
    watch: bool,
}

pub(super) fn run(arguments: &StatusArguments, context: &Context) -> Result<()> {
    loop {
        let found = look(arguments.target.as_deref())?;
        show(&found, arguments, context)?;
        let found = found.mounts;
        if !arguments.watch || !context.is_heard() {
            // What could not be asked is shown, and makes the exit code.
            return found.into_iter().find_map(|mount| mount.status.err()).map_or(Ok(()), Err);
        }
        thread::sleep(INTERVAL);
    }
}

/// A mount, and what its daemon says.
struct Found {
    mountpoint: String,
    vault: String,
    status: Result<Status>,
}

impl Found {
    /// Whether it answered, or has not ended meanwhile.
    fn is_there(&self, mount: &Mount) -> bool {
        let is_it = |other: &Mount| other.id == mount.id;
        self.status.is_ok() || mountinfo::read().is_ok_and(|mounts| mounts.iter().any(is_it))
    }
}

/// What there is to show.
struct Look {
    mounts: Vec<Found>,
    /// Mounts of other users, whom this one may not ask.
    others: u64,
}

/// All mounts that this user may ask, or that of the target.
fn look(target: Option<&Path>) -> Result<Look> {
    let mounts = mountinfo::read().map_err(|error| Failure::other(format!("/proc/self/mountinfo: {error}")))?;
    if let Some(target) = target
        && let Some(mount) = seal::find(&mounts, target)
    {
        return Ok(Look { mounts: vec![ask_mount(&mount)], others: 0 });
    }
    let mut vaults: Vec<Mount> = mounts.into_iter().filter(Mount::is_vault).collect();
    // A mount that is bound to several places is one mount: the first place is the original.
    let mut seen = Vec::new();
    vaults.retain(|mount| {
        !seen.contains(&mount.device) && {
            seen.push(mount.device);
            true
        }
    });
    let detached = control::endpoints().into_iter().filter(|endpoint| !seen.contains(&endpoint.device));
    // Dead ones among them are leftovers without a mount: the next daemon with that number replaces them.
    let detached = detached.filter_map(|endpoint| ask(&endpoint).ok()).map(|status| Found {
        mountpoint: status.mountpoint.clone(),
        vault: status.vault.clone(),
        status: Ok(status),
    });
    match target {
        None => {
            let all = vaults.len();
            vaults.retain(is_ours);
            let others = all.saturating_sub(vaults.len()) as u64;
            let asked = vaults.iter().filter_map(|mount| Some(ask_mount(mount)).filter(|found| found.is_there(mount)));
            Ok(Look { mounts: asked.chain(detached).collect(), others })
        }
        Some(target) => {
            let wanted = paths::canonical_parent(target).unwrap_or_else(|| target.to_owned());
            let is_wanted = |found: &Found| wanted == Path::new(&found.vault) || wanted == Path::new(&found.mountpoint);
            let found = detached.into_iter().find(is_wanted).ok_or_else(|| seal::not_mounted(target))?;
            Ok(Look { mounts: vec![found], others: 0 })
        }
    }
}

/// Whether this user mounted it, or is root.
fn is_ours(mount: &Mount) -> bool {
    let me = geteuid();
    me.is_root() || mount.user_id().is_none_or(|user| user == me.as_raw())
}

fn ask_mount(mount: &Mount) -> Found {
    let mountpoint = mount.mountpoint.display().to_string();
    let status = ask(&Endpoint::of(mount)).map_err(|failure| failure.about(&mountpoint));
    Found { mountpoint, vault: Path::new(&mount.source).display().to_string(), status }
}

fn ask(endpoint: &Endpoint) -> Result<Status> {
    match control::ask(endpoint, &Request::Status)? {
        Response::Status(status) => Ok(*status),
        Response::Failed { code, message } => Err(Failure::new(code, message)),
        Response::Verification(_) | Response::Rotation(_) => {
            Err(Failure::other("the daemon answered another question; ask again"))
        }
    }
}

fn show(look: &Look, arguments: &StatusArguments, context: &Context) -> Result<()> {
    let found = &look.mounts;
    if arguments.json {
        let list = found.iter().map(as_json).collect::<Result<Vec<_>>>()?;
        let text = if arguments.watch { serde_json::to_string(&list) } else { serde_json::to_string_pretty(&list) };
        context.print(&text.map_err(|error| Failure::other(error.to_string()))?);
        return Ok(());
    }
    if arguments.watch && context.is_on_terminal() {
        // Home, and what was below is cleared.
        context.print("\x1b[H\x1b[2J");
    }
    match (found.is_empty(), look.others) {
        (true, 0) => context.print("nothing is mounted"),
        (true, _) => context.print("nothing of yours is mounted"),
        (false, _) => {}
    }
    for (index, mount) in found.iter().enumerate() {
        if index > 0 {
            context.print("");
        }
        match &mount.status {
            Ok(status) => context.print(&text::report(status)),
            Err(failure) => context.print(&text::silent(mount, failure)),
        }
    }
    if look.others > 0 {
        context.note(&format!(
            "{} not shown; ask as root",
            count(look.others, "mount of another user is", "mounts of other users are")
        ));
    }
    Ok(())
}

fn as_json(found: &Found) -> Result<serde_json::Value> {
    match &found.status {
        Ok(status) => serde_json::to_value(status).map_err(|error| Failure::other(error.to_string())),
        Err(failure) => Ok(json!({
            "mountpoint": found.mountpoint,
            "vault": found.vault,
            "state": if failure.code == ExitCode::DaemonUnreachable { State::Unreachable } else { State::Unknown },
            "problem": failure.message,
        })),
    }
}

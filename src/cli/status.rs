//! `sero status`: what is mounted, and how it is. The daemons say it, over their control sockets.

mod facts;
mod text;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::Context;
use super::control::{self, Endpoint, Request, Response};
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::{paths, seal};
use crate::fuse::mountinfo::{self, Mount};
pub(super) use facts::{Busy, Degraded, Errors, Journal, LastError, Memory, Operations, Session, State, Status};

/// How often `--watch` looks.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero status                          every mount of yours; as root, of everyone
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
        if !arguments.watch {
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

/// All mounts, or that of the target.
fn look(target: Option<&Path>) -> Result<Vec<Found>> {
    let mounts = mountinfo::read().map_err(|error| Failure::other(format!("/proc/self/mountinfo: {error}")))?;
    if let Some(target) = target
        && let Some(mount) = seal::find(&mounts, target)
    {
        return Ok(vec![ask_mount(&mount)]);
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
        None => Ok(vaults.iter().map(ask_mount).chain(detached).collect()),
        Some(target) => {
            let wanted = paths::canonical_parent(target).unwrap_or_else(|| target.to_owned());
            let is_wanted = |found: &Found| wanted == Path::new(&found.vault) || wanted == Path::new(&found.mountpoint);
            detached.into_iter().find(is_wanted).map(|found| vec![found]).ok_or_else(|| seal::not_mounted(target))
        }
    }
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

fn show(found: &[Found], arguments: &StatusArguments, context: &Context) -> Result<()> {
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
    if found.is_empty() {
        context.print("nothing is mounted");
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

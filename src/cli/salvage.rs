//! `sero salvage VAULT DEST`: what still opens of a vault, copied into an ordinary directory.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::findings::{self, put_path};
use super::opening::Opening;
use super::paths;
use super::progress::{Progress, Unit};
use super::unlocking::UnlockArguments;
use super::words::count;
use crate::vault::{Mode, SalvageEvent, SalvageSummary};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero salvage ~/papers.sero ~/rescued
  sero salvage --config ~/papers.sero/sero.json.bak ~/papers.sero ~/rescued   without sero.json
  sero salvage --json ~/papers.sero ~/rescued > losses.json

DEST is plain text on its disk. Exit code 0: everything is there. 21: each line says what is not.
The vault is not changed.")]
pub(super) struct SalvageArguments {
    /// The vault, also one that does not mount any more
    vault: PathBuf,

    /// Where to: a directory that does not exist, or is empty
    #[arg(value_name = "DEST")]
    destination: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &SalvageArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let shown = arguments.destination.display();
    let destination = paths::canonical_parent(&arguments.destination).ok_or_else(|| {
        Failure::new(ExitCode::BackingIo, format!("{shown}: there is no directory to make it in; make that first"))
    })?;
    opening.check_outside(&destination, &shown)?;
    opening.check_free(Mode::ReadOnly)?;
    let path = opening.path().to_owned();
    let keys = arguments.unlock.unlock(&opening, context)?;
    super::daemon::harden();
    let vault = opening.open_tolerant(keys)?;
    let progress = Progress::start(context, "copied", Unit::Bytes);
    let mut losses: Vec<Value> = Vec::new();
    let outcome = vault.salvage(&destination, &mut |event| match event {
        SalvageEvent::Copied(bytes) => progress.advance(bytes),
        SalvageEvent::Lost { finding, path } if arguments.json => {
            let mut object = findings::object(&finding);
            put_path(&mut object, "destination", path.as_os_str().as_bytes());
            losses.push(object);
        }
        SalvageEvent::Lost { finding, .. } => progress.suspend(|| context.print(&findings::line(&finding))),
    });
    drop(progress);
    let summary = outcome.map_err(|error| Failure::from(error).about(shown))?;
    if arguments.json {
        context.print_json(&report(&summary, losses))?;
    } else {
        context.say(&said(&summary));
    }
    if summary.losses == 0 {
        return Ok(());
    }
    let message = format!("{}: {}; everything else is there", path.display(), count(summary.losses, "loss", "losses"));
    Err(Failure::new(ExitCode::DamageFound, message))
}

/// The names of the fields are an interface (docs/cli.md).
fn report(summary: &SalvageSummary, losses: Vec<Value>) -> Value {
    json!({
        "directories": summary.directories,
        "files": summary.files,
        "symlinks": summary.symlinks,
        "others": summary.others,
        "bytes": summary.bytes,
        "losses": losses,
    })
}

fn said(summary: &SalvageSummary) -> String {
    format!(
        "copied {}, {}, {}, {}, {}",
        count(summary.files, "file", "files"),
        count(summary.directories, "directory", "directories"),
        count(summary.symlinks, "link", "links"),
        count(summary.others, "other", "others"),
        BinaryBytes(summary.bytes)
    )
}

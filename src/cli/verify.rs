//! `sero verify VAULT [PATH...]`: everything against its tags, changing nothing. A vault that is mounted is verified by
//! its daemon, which alone knows what is on its way to the backing.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::findings::{self, Reporter};
use super::opening::Opening;
use super::unlocking::UnlockArguments;
use super::words::count;
use crate::vault::{Mode, VaultError, VerifyOptions, VerifySummary};

mod mounted;

pub(super) use mounted::Verification;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero verify ~/papers.sero                     everything
  sero verify ~/papers                          the same by its mountpoint, while it is in use
  sero verify ~/papers.sero tax/2024 notes.txt  these alone: paths from the top of the vault
  sero verify --json ~/papers.sero | jq '.findings[].path'

Exit code 0: everything is as sero wrote it. 21: damage was found; each line says where. Nothing
is changed.")]
pub(super) struct VerifyArguments {
    /// The vault, or where it is mounted
    vault: PathBuf,

    /// What to check, as paths from the top of the vault; without any: everything, the vault's own files too
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Threads to work with [default: one for each core]
    #[arg(long, short, value_name = "N", default_value_t = 0, hide_default_value = true)]
    jobs: usize,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &VerifyArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let path = opening.path().to_owned();
    let options = options(&arguments.paths, arguments.jobs);
    let about = |failure: Failure| failure.about(path.display());
    let mount = if opening.holder()?.is_some() { opening.mounts().pop() } else { None };
    let (summary, findings, taken) = if let Some(mount) = mount {
        let reporter = Reporter::start(context, "checked", arguments.json);
        let started = Instant::now();
        let summary = mounted::verify(&mount, options, &reporter)?;
        (summary, reporter.into_findings(), started.elapsed())
    } else {
        // Mounted on another machine, or where this process cannot see it; or it was, a moment ago.
        opening.check_free(Mode::ReadOnly)?;
        let keys = arguments.unlock.unlock(&opening, context)?;
        super::daemon::harden();
        let vault = opening.open_tolerant(keys)?;
        let reporter = Reporter::start(context, "checked", arguments.json);
        let started = Instant::now();
        let summary = vault.verify(&options, &reporter).map_err(|error| about(refused(error)))?;
        (summary, reporter.into_findings(), started.elapsed())
    };
    let findings: Vec<Value> = findings.iter().map(findings::object).collect();
    if arguments.json {
        context.print_json(&report(&summary, findings, taken))?;
    } else {
        context.say(&said(&summary, taken));
    }
    verdict(&summary).map_err(about)
}

fn options(paths: &[OsString], jobs: usize) -> VerifyOptions {
    VerifyOptions { paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(), jobs }
}

/// A path that is not there is no fault of the backing.
pub(super) fn refused(error: VaultError) -> Failure {
    match &error {
        VaultError::Io { source, .. } if source.kind() == ErrorKind::NotFound && source.raw_os_error().is_none() => {
            Failure::other(format!("{source}; `sero ls` lists what there is"))
        }
        _ => error.into(),
    }
}

/// The names of the fields are an interface (docs/cli.md).
fn report(summary: &VerifySummary, findings: Vec<Value>, taken: Duration) -> Value {
    json!({
        "whole": summary.is_whole(),
        "directories": summary.directories,
        "files": summary.files,
        "symlinks": summary.symlinks,
        "others": summary.others,
        "bytes": summary.bytes,
        "seconds": taken.as_secs_f64(),
        "damaged": summary.damaged,
        "unreadable": summary.unreadable,
        "crash": summary.crash,
        "leftovers": summary.leftovers,
        "findings": findings,
    })
}

/// The same in a sentence.
fn said(summary: &VerifySummary, taken: Duration) -> String {
    let seconds = taken.as_secs_f64().max(0.001);
    let mut text = format!(
        "{}, {}, {}; {} in {seconds:.1} s, {}/s",
        count(summary.files, "file", "files"),
        count(summary.directories, "directory", "directories"),
        count(summary.symlinks, "link", "links"),
        BinaryBytes(summary.bytes),
        BinaryBytes((summary.bytes as f64 / seconds) as u64)
    );
    if summary.is_whole() {
        text.push_str(": nothing is damaged");
    }
    text
}

/// Damage is an exit code of its own.
fn verdict(summary: &VerifySummary) -> Result<()> {
    if summary.is_whole() {
        return Ok(());
    }
    let mut parts = Vec::new();
    if summary.damaged > 0 {
        parts.push(count(summary.damaged, "finding of damage", "findings of damage"));
    }
    if summary.unreadable > 0 {
        parts.push(count(summary.unreadable, "thing that could not be read", "things that could not be read"));
    }
    Err(Failure::new(
        ExitCode::DamageFound,
        format!("{}; `sero repair` shows what can be done, `sero salvage` copies out what opens", parts.join(", ")),
    ))
}

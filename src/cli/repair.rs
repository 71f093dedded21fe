//! `sero repair VAULT`: what verify names, mended with the least loss; first shown, then asked for.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::findings::{self, Reporter, put_path, shown};
use super::opening::Opening;
use super::unlocking::UnlockArguments;
use super::words::count;
use crate::vault::repair::{self, Repair, RepairPlan, RepairStep, apply};
use crate::vault::{Mode, PosixStorage, Vault, VaultError, VerifyOptions};

/// One round can uncover what another needs: the second name of a file that was put aside.
const ROUNDS_MAX: usize = 16;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero repair --dry-run ~/papers.sero    what would be done
  sero repair ~/papers.sero              the same, then it asks
  sero repair --holes --yes V            for scripts: pages that do not open become holes

Copy the vault before, if there is room. Nothing that cannot be read is deleted: what has content
but no name goes to lost+found in the vault, what has a name but no content to private/lost.")]
pub(super) struct RepairArguments {
    /// The vault; it must not be mounted
    vault: PathBuf,

    /// Make holes of pages that do not open: they read as zeros from then on
    #[arg(long)]
    holes: bool,

    /// Show what would be done, and do nothing
    #[arg(long, short = 'n', conflicts_with = "yes")]
    dry_run: bool,

    /// Do it without asking
    #[arg(long, short)]
    yes: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &RepairArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    opening.check_free(Mode::ReadWrite)?;
    let path = opening.path().to_owned();
    let about = |error: VaultError| Failure::from(error).about(path.display());
    let storage = || PosixStorage::open(&path).map_err(|error| VaultError::io("open the vault's directory", error));
    let unlocked = arguments.unlock.unlock(&opening, context)?;
    // Where it cannot be read, the files tell.
    let opens_top = opening.opens_top(&unlocked);
    let keys = opening.live(unlocked);
    super::daemon::harden();
    let mounts = opening.mounts();
    drop(opening);
    let look = || -> Result<RepairPlan> {
        let vault = Vault::open_tolerant(storage().map_err(about)?, keys.clone()).map_err(about)?;
        let reporter = Reporter::start(context, "checked", true);
        let summary = vault.verify(&VerifyOptions::default(), &reporter).map_err(about)?;
        let findings = reporter.into_findings();
        if repair::is_foreign(&vault, &summary, &findings, opens_top) {
            return Err(about(VaultError::ForeignConfiguration));
        }
        Ok(RepairPlan::of(&vault, &findings, arguments.holes))
    };

    let mut plan = look()?;
    let mut done: Vec<Value> = Vec::new();
    if !arguments.json {
        plan.steps.iter().for_each(|step| context.print(&line(step)));
        plan.left.iter().for_each(|finding| context.print(&format!("left as it is: {}", findings::line(finding))));
    }
    let planned: Vec<Value> = plan.steps.iter().map(object).collect();
    let mut failed = 0_u64;
    if let Some(mount) = mounts.first().filter(|_| plan.replaces_lock()) {
        // Who has it mounted holds the lock that is not there any more.
        let message = format!("the vault is mounted on {0}; `sero seal {0}` first", mount.mountpoint.display());
        return Err(Failure::new(ExitCode::AlreadyMounted, message).about(path.display()));
    }
    if !plan.steps.is_empty() && !arguments.dry_run && consent(arguments)? {
        // While it was asked, the vault may have been mounted and changed.
        if !arguments.yes && look()?.steps != plan.steps {
            let message = "the vault is not what it was when this was shown; run this again";
            return Err(Failure::new(ExitCode::DamageFound, message).about(path.display()));
        }
        for _ in 0..ROUNDS_MAX {
            let before = plan.steps.clone();
            failed = 0;
            apply(&|| Ok((storage()?, keys.clone())), &plan, &mut |step, outcome| match outcome {
                Ok(()) => done.push(object(step)),
                Err(error) => {
                    failed = failed.saturating_add(1);
                    log::error!("{}: {}", line(step), Failure::from(error));
                }
            })
            .map_err(about)?;
            // What was not shown because the journal could not be read is not what was agreed to.
            let is_agreed = arguments.yes || !plan.is_partial;
            plan = look()?;
            if plan.steps.is_empty() || plan.steps == before || !is_agreed {
                break;
            }
        }
    }
    if arguments.json {
        let left: Vec<Value> = plan.left.iter().map(findings::object).collect();
        context.print_json(&json!({ "planned": planned, "done": done, "left": left }))?;
    } else if planned.is_empty() && plan.left.is_empty() {
        context.say(&format!("{}: there is nothing to repair", path.display()));
    } else if !done.is_empty() {
        context.say(&format!("{}: {} done", path.display(), count(done.len() as u64, "repair", "repairs")));
    }
    if plan.steps.is_empty() && plan.left.is_empty() && failed == 0 {
        return Ok(());
    }
    Err(Failure::new(ExitCode::DamageFound, remaining(&plan, arguments)).about(path.display()))
}

/// What is still to be mended, and how.
fn remaining(plan: &RepairPlan, arguments: &RepairArguments) -> String {
    let (mut open, mut advice) = (Vec::new(), Vec::new());
    if !plan.steps.is_empty() || plan.left.is_empty() {
        open.push(count(plan.steps.len() as u64, "repair to do", "repairs to do"));
    }
    if !plan.left.is_empty() {
        open.push(format!(
            "{} as {}",
            count(plan.left.len() as u64, "finding left", "findings left"),
            if plan.left.len() == 1 { "it is" } else { "they are" }
        ));
    }
    if !plan.steps.is_empty() {
        advice.push(match (arguments.dry_run, arguments.yes) {
            (true, _) => "give --yes instead of --dry-run to do it",
            (_, true) => "run this again",
            _ => "give --yes to do it",
        });
    }
    if !plan.left.is_empty() {
        advice.push(if arguments.holes {
            "restore what is left from a backup"
        } else {
            "see --holes for what is left, or restore it from a backup"
        });
    }
    if advice.is_empty() {
        advice.push("run this again");
    }
    format!("{}; {}", open.join(", "), advice.join("; "))
}

/// What was shown is to be done.
fn consent(arguments: &RepairArguments) -> Result<bool> {
    if arguments.yes {
        return Ok(true);
    }
    if arguments.json || !io::stdin().is_terminal() {
        return Err(Failure::new(
            ExitCode::Usage,
            "there is no terminal to ask on; look at it with --dry-run, then give --yes",
        ));
    }
    let mut out = io::stderr().lock();
    let _ = write!(out, "Do this? [y/N] ");
    let _ = out.flush();
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::other(format!("standard input: {error}; give --yes")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn what(repair: &Repair) -> String {
    match repair {
        Repair::Remove => "remove".to_owned(),
        Repair::PutAside => "put aside in private/lost".to_owned(),
        Repair::ToLostFound => "move to lost+found".to_owned(),
        Repair::NewIv => "move all entries to lost+found, and begin the directory anew".to_owned(),
        Repair::Length { keep_bytes: None } => "give it the length that its header says".to_owned(),
        Repair::Length { keep_bytes: Some(bytes) } => {
            format!("keep the {} there", count(*bytes, "byte that is", "bytes that are"))
        }
        Repair::Holes(extents) => {
            let bytes = extents.iter().fold(0_u64, |sum, extent| sum.saturating_add(extent.len_bytes));
            format!("make holes of {}", count(bytes, "byte", "bytes"))
        }
        Repair::DropXattrs => "put its extended attributes aside in private/lost".to_owned(),
        Repair::Replay { keep_copy: false } => "replay the journal, as the next mount would".to_owned(),
        Repair::Replay { keep_copy: true } => "replay what can be, and keep a copy in private/lost".to_owned(),
        Repair::MakePrivate => "make it anew".to_owned(),
    }
}

fn line(step: &RepairStep) -> String {
    let place = match &step.plain {
        Some(plain) => format!("/{}", shown(plain)),
        None => shown(step.backing.as_bytes()),
    };
    format!("{place}: {} ({})", what(&step.repair), shown(step.reason.as_bytes()))
}

fn object(step: &RepairStep) -> Value {
    let mut object = json!({ "repair": what(&step.repair), "reason": step.reason, "path": null });
    put_path(&mut object, "backing", step.backing.as_bytes());
    if let Some(plain) = &step.plain {
        put_path(&mut object, "path", &[b"/", plain.as_slice()].concat());
    }
    object
}

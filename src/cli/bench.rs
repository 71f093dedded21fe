//! `sero bench`: what this machine does. The cryptography, the key derivation, and a short session on a real mount beside
//! the same work on the directory under it. For comparisons with other filesystems there is `scripts/bench.sh`.

mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Context;
use super::failure::{Failure, Result};
use super::progress::{Progress, Unit};
use crate::vault::{RFC9106_SECOND, VaultError, calibrate, measure};

/// Each measurement of the cryptography takes so long.
const PRIMITIVE: Duration = Duration::from_millis(500);
/// What `sero create` aims at.
const KDF_TARGET: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero bench                      in the current directory
  sero bench --json /srv | jq .   where vaults are to be
  sero bench --no-mount           the cryptography alone

It makes a directory of its own there, of up to 300 MB, and removes it at the end; Ctrl-C ends it
after the current step. Other work on the machine shows in the figures: take the best of several
runs.")]
pub(super) struct BenchArguments {
    /// The directory whose filesystem is measured
    #[arg(default_value = ".")]
    directory: PathBuf,

    /// Leave the mount out
    #[arg(long)]
    no_mount: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &BenchArguments, context: &Context) -> Result<()> {
    let steps = if arguments.no_mount { 3 } else { 3 + 2 * session::STEPS };
    // What is made is removed at the end, also at an early one.
    let asked_to_stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let _ = signal_hook::flag::register(signal, Arc::clone(&asked_to_stop));
    }
    // First, as it may not be possible.
    let scratch = if arguments.no_mount { None } else { Some(session::Scratch::make(&arguments.directory)?) };
    let progress = Progress::start(context, "measuring", Unit::Items);
    progress.set_total(steps);
    let step = || {
        progress.advance(1);
        if asked_to_stop.load(Ordering::Relaxed) {
            return Err(Failure::other("stopped; what it made is removed"));
        }
        Ok(())
    };

    let (sealed, opened) = measure::pages_per_core(PRIMITIVE).map_err(Failure::from)?;
    step()?;
    let names = measure::names_per_core(PRIMITIVE);
    step()?;
    let calibrated = calibrate(KDF_TARGET);
    let derivation =
        |params| measure::key_derivation(params).map_err(|error| Failure::from(VaultError::KdfRefused(error)));
    let (least, usual) = (derivation(&RFC9106_SECOND)?, derivation(&calibrated)?);
    step()?;
    let mount = scratch.as_ref().map(|scratch| measure_mount(scratch, &step)).transpose()?;
    drop(progress);

    let facts = json!({
        "pages_sealed_bytes_per_second": sealed.round(),
        "pages_opened_bytes_per_second": opened.round(),
        "names_per_second": names.round(),
        "kdf": [
            { "memory_kib": RFC9106_SECOND.memory_kib, "passes": RFC9106_SECOND.passes, "lanes": RFC9106_SECOND.lanes,
              "seconds": least.as_secs_f64() },
            { "memory_kib": calibrated.memory_kib, "passes": calibrated.passes, "lanes": calibrated.lanes,
              "seconds": usual.as_secs_f64() },
        ],
        "mount": mount.as_ref().map(|(disk, vault)| json!({ "disk": disk, "vault": vault })),
    });
    if arguments.json {
        return context.print_json(&facts);
    }
    let mut lines = vec![
        format!("pages, AES-256-GCM, one core   {} sealed, {} opened", rate(sealed), rate(opened)),
        format!("names, AES-256-SIV, one core   {names:.0}/s"),
        format!("Argon2id, {:>27}", of(&RFC9106_SECOND, least)),
        format!("Argon2id, {:>27}, as `sero create` would choose", of(&calibrated, usual)),
    ];
    if let Some((disk, vault)) = &mount {
        lines.push(String::new());
        lines.push(format!("{:<31}{:>14}{:>14}", "", "directory", "vault in it"));
        for (name, unit, disk, vault) in session::rows(disk, vault) {
            let shown = |value: f64| match unit {
                session::Rate::Bytes => rate(value),
                session::Rate::Calls => format!("{value:.0}/s"),
            };
            lines.push(format!("{name:<31}{:>14}{:>14}", shown(disk), shown(vault)));
        }
    }
    context.print(&lines.join("\n"));
    Ok(())
}

/// The same session twice: in the directory, and in a vault mounted there.
fn measure_mount(
    scratch: &session::Scratch,
    step: &dyn Fn() -> Result<()>,
) -> Result<(session::Figures, session::Figures)> {
    let disk = session::measure(&scratch.plain(), step, &|| Ok(()))?;
    let vault = scratch.mount()?;
    let figures = session::measure(&vault.mountpoint(), step, &|| vault.remount())?;
    vault.end()?;
    Ok((disk, figures))
}

fn rate(bytes_per_second: f64) -> String {
    format!("{:.0} MB/s", bytes_per_second / 1e6)
}

fn of(params: &crate::vault::KdfParams, time: Duration) -> String {
    format!(
        "{} MiB, {} passes, {} lanes: {:.2} s",
        params.memory_kib / 1024,
        params.passes,
        params.lanes,
        time.as_secs_f64()
    )
}

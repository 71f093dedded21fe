//! `sero key export-config VAULT FILE`.

use std::path::PathBuf;

use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Result};
use crate::cli::opening::{Detached, Opening};
use crate::cli::unlocking::UnlockArguments;
use crate::vault::{Mode, VaultError};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero key export-config ~/papers.sero /media/usb/papers.json           a copy, for safety
  sero key export-config ~/papers.sero /media/usb/papers.json --detach  and none left in the vault
  sero mount --config /media/usb/papers.json ~/papers.sero ~/papers

A copy opens with the secrets of its time, also after they were changed: keep it as you keep a
key.")]
pub(in crate::cli) struct ExportArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// The file to write; it must not exist
    file: PathBuf,

    /// Remove the configuration from the vault afterwards: every command then needs --config FILE
    #[arg(long)]
    detach: bool,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &ExportArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let vault = opening.path().display();
    if arguments.detach {
        if opening.detached().is_some() {
            return Err(Failure::new(
                ExitCode::Usage,
                format!("{vault}: its configuration lies apart already; leave out --detach"),
            ));
        }
        opening.check_free(Mode::ReadWrite)?;
    }
    let target = Detached::at(&arguments.file)?;
    let shown = target.path().display();
    opening.check_outside(target.path(), &shown)?;
    let about = |error| match error {
        VaultError::ConfigurationExists => Failure::from(error).about(shown.to_string()),
        error => opening.about(error),
    };
    if arguments.detach {
        // What is moved is all that there will be: so it is known to be good.
        let keys = arguments.unlock.unlock(&opening, context)?;
        // While a passphrase was typed, it may have been mounted; and nobody mounts it until the configuration is there.
        opening.check_free(Mode::ReadWrite)?;
        let moved = opening.alone(|| opening.place().move_to(&target.place(), keys.vouching()))?;
        moved.map_err(about)?;
        context.say(&format!("{vault}: its configuration is {shown} now; without that file nobody can open it"));
    } else {
        target.place().copy_from(&opening.place()).map_err(about)?;
        context.say(&format!("{vault}: its configuration is copied to {shown}"));
    }
    Ok(())
}

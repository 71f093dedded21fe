//! `sero key check VAULT`.

use std::path::PathBuf;

use serde_json::json;

use super::named;
use crate::cli::Context;
use crate::cli::failure::{Failure, Result};
use crate::cli::opening::Opening;
use crate::cli::unlocking::UnlockArguments;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero key check ~/papers.sero                             does the passphrase still open it?
  sero key check ~/papers.sero --recovery-file paper.txt
  sero key check ~/papers.sero --key-command 'age -d -i ~/.age/key ~/papers.key'

Only the configuration is read, and authenticated; no file of the vault is opened.")]
pub(in crate::cli) struct CheckArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &CheckArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let (keys, _) = arguments.unlock.unlock_root(&opening, context)?;
    let slot = keys.unlocked().configuration().keyslot(keys.slot());
    let slot = slot.ok_or_else(|| Failure::other("the keyslot that opened is gone"))?;
    if arguments.json {
        return context
            .print_json(&json!({ "slot": slot.id, "key_id": slot.key_id, "kind": slot.kind, "label": slot.label }));
    }
    context.say(&format!("{}: {} opens, and the configuration is authentic", opening.path().display(), named(slot)));
    Ok(())
}

//! `sero key remove VAULT`.

use std::path::PathBuf;

use serde_json::json;

use super::slot;
use crate::cli::Context;
use crate::cli::failure::Result;
use crate::cli::opening::Opening;
use crate::cli::unlocking::UnlockArguments;
use crate::vault::{KeyslotId, Removal, remove_keyslots};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero key list ~/papers.sero
  sero key remove ~/papers.sero --slot 2                   with any secret that opens the vault
  sero key remove ~/papers.sero --others                   everything but what is given now

The last keyslot cannot be removed. Whoever kept the removed secret and an old copy of the
configuration can still open the keys of that time. If every keyslot that stays opens with what is
given (--others sees to that), the root key is renewed; `sero rotate` afterwards shuts them out
for good.")]
pub(in crate::cli) struct RemoveArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// The keyslot to remove
    #[arg(long, value_name = "N", required_unless_present = "others")]
    slot: Option<u32>,

    /// Remove every keyslot that does not open with what is given
    #[arg(long, conflicts_with = "slot")]
    others: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &RemoveArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let removal = match arguments.slot {
        Some(id) => Removal::One(slot(&opening, KeyslotId(id))?.id),
        None => Removal::Others,
    };
    let (keys, given) = arguments.unlock.unlock_root(&opening, context)?;
    let removed =
        remove_keyslots(&opening.place(), &keys, &given.secrets(), removal).map_err(|error| opening.about(error))?;
    if arguments.json {
        return context.print_json(&json!({ "removed": removed.slots, "root_key_renewed": removed.root_key_renewed }));
    }
    let ids: Vec<String> = removed.slots.iter().map(|id| id.0.to_string()).collect();
    let what = match ids.as_slice() {
        [] => "there is no other keyslot".to_owned(),
        [id] => format!("keyslot {id} is removed"),
        ids => format!("keyslots {} are removed", ids.join(", ")),
    };
    let root = if removed.root_key_renewed { "; the root key is renewed" } else { "" };
    context.say(&format!("{}: {what}{root}", opening.path().display()));
    Ok(())
}

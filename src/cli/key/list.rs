//! `sero key list VAULT`.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::failure::Result;
use crate::cli::opening::Opening;
use crate::cli::{Context, keyslots};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero key list ~/papers.sero
  sero key list --json ~/papers.sero | jq '.keyslots[].kind'

Nothing of it is authenticated: `sero key check` does that, with a secret.")]
pub(in crate::cli) struct ListArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ListArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let configuration = opening.configuration();
    let facts = keyslots::facts(configuration);
    // Left by a crash between the two files of a removal, or put there by somebody.
    let backup = opening.place().read_backup();
    let only_in_backup: Vec<String> = backup
        .iter()
        .flat_map(|backup| &backup.keyslots)
        .filter(|old| configuration.keyslots.iter().all(|slot| slot.key_id != old.key_id))
        .map(|old| old.key_id.to_string())
        .collect();
    if arguments.json {
        return context.print_json(&json!({
            "path": opening.path().display().to_string(),
            "config": opening.detached().map(|path| path.display().to_string()),
            "vault_id": configuration.vault_id,
            "keyslots": facts,
            "only_in_backup": only_in_backup,
        }));
    }
    for slot in &facts {
        context.print(&format!("{:>3}  {}", keyslots::shown(&slot["id"]), keyslots::text(slot)));
    }
    if !only_in_backup.is_empty() {
        context.note(&format!(
            "the backup of the configuration still has keyslots that were removed (key {}); delete it, or change a key",
            only_in_backup.join(", ")
        ));
    }
    Ok(())
}

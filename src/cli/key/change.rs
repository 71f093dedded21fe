//! `sero key change VAULT`.

use std::path::PathBuf;

use super::{known, named, show, slot};
use crate::cli::Context;
use crate::cli::failure::Result;
use crate::cli::kdf::{self, KdfArguments};
use crate::cli::new_secret::NewSecretArguments;
use crate::cli::opening::Opening;
use crate::cli::policy;
use crate::cli::unlocking::UnlockArguments;
use crate::vault::{self, KeyslotId, NewKeyslot, change_keyslot};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero key change ~/papers.sero                            a new passphrase for the old one
  sero key change ~/papers.sero --kdf-memory 1024 --kdf-passes 4
  sero key change ~/papers.sero --password-file old --new-password-file new --new-keyfile k
  sero key change ~/papers.sero --slot 3 --new-recovery    a lost paper, replaced

No file is written again. A copy of the old configuration still opens with the old secret: see
docs/threat-model.md.")]
pub(in crate::cli) struct ChangeArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// The keyslot to change; the one that opens, if not given
    #[arg(long, value_name = "N")]
    slot: Option<u32>,

    /// Name it anew (readable without a secret)
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Say something new that reminds of the passphrase (readable without a secret); empty: nothing
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    unlock: UnlockArguments,

    #[command(flatten)]
    new: NewSecretArguments,

    #[command(flatten)]
    kdf: KdfArguments,
}

pub(super) fn run(arguments: &ChangeArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let asked = arguments.kdf.asked()?;
    vault::check_texts(arguments.label.as_deref().unwrap_or_default(), arguments.hint.as_deref())
        .map_err(|error| opening.about(error))?;
    if let Some(id) = arguments.slot {
        slot(&opening, KeyslotId(id))?;
    }
    let (keys, secrets) = arguments.unlock.unlock_root(&opening, context)?;
    let old = slot(&opening, arguments.slot.map_or(keys.slot(), KeyslotId))?;
    let hint = arguments.hint.as_deref().or(opening.configuration().hint.as_deref());
    // Whoever gives a new hint must not write the passphrase that stays into it.
    policy::check_hint(hint, secrets.passphrase.as_ref().filter(|_| old.id != keys.slot()))?;
    let what = format!("{} of {}", named(old), opening.path().display());
    let label = arguments.label.as_deref().unwrap_or(&old.label);
    let given = arguments.new.obtain(&what, arguments.unlock.limit(), hint, &known(&opening, Some(label)))?;
    let new = NewKeyslot {
        secrets: given.secrets(),
        kdf: kdf::chosen(asked, given.passphrase.is_some()),
        label,
        role: &old.role,
    };
    // A recovery key that nobody has read must not take the place of a secret that somebody has.
    let is_shown = given.recovery.is_some();
    if is_shown {
        show(old.id, &new, &given, arguments.json, context)?;
    }
    let hint = arguments.hint.as_deref();
    let renewed = change_keyslot(&opening.place(), &keys, &secrets.secrets(), old.id, &new, hint).map_err(|error| {
        let failure = opening.about(error);
        let is_as_before = || opening.place().read().ok()?.keyslot(old.id).map(|slot| slot.key_id == old.key_id);
        match is_shown.then(is_as_before) {
            None => failure,
            Some(Some(true)) => failure.about("the recovery key above opens nothing, and the old secret still does"),
            // It failed when it was done, nearly.
            Some(_) => {
                failure.about("keep the recovery key above and the old secret until `sero key check` says which opens")
            }
        }
    })?;
    if arguments.json {
        return if is_shown { Ok(()) } else { show(old.id, &new, &given, true, context) };
    }
    let root = if renewed { "; the root key is renewed" } else { "" };
    context.say(&format!("{}: keyslot {} opens with the new secret alone{root}", opening.path().display(), old.id.0));
    Ok(())
}

//! `sero key add VAULT`.

use std::path::PathBuf;

use super::{known, show};
use crate::cli::Context;
use crate::cli::failure::Result;
use crate::cli::kdf::{self, KdfArguments};
use crate::cli::new_secret::NewSecretArguments;
use crate::cli::opening::Opening;
use crate::cli::unlocking::UnlockArguments;
use crate::vault::{self, FIRST_ROLE, NewKeyslot, add_keyslot};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero key add ~/papers.sero --label anna                  a second passphrase
  sero key add ~/papers.sero --new-recovery --label paper  a key to be written down
  sero key add ~/papers.sero --new-keyfile /media/usb/key
  sero key add ~/papers.sero --new-password-file f --new-keyfile k   both are needed
  sero key add /srv/vault --password-file f --new-key-command 'systemd-creds cat sero'")]
pub(in crate::cli) struct AddArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// Name the keyslot (readable without a secret)
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

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

pub(super) fn run(arguments: &AddArguments, context: &Context) -> Result<()> {
    let opening = Opening::find(&arguments.vault, context)?;
    let asked = arguments.kdf.asked()?;
    let label = arguments.label.as_deref();
    vault::check_texts(label.unwrap_or_default(), None).map_err(|error| opening.about(error))?;
    let (keys, _) = arguments.unlock.unlock_root(&opening, context)?;
    let hint = keys.unlocked().configuration().hint.as_deref();
    let what = opening.path().display().to_string();
    let given = arguments.new.obtain(&what, arguments.unlock.limit(), hint, &known(&opening, label))?;
    let new = NewKeyslot {
        secrets: given.secrets(),
        kdf: kdf::chosen(asked, given.passphrase.is_some()),
        label: label.unwrap_or_default(),
        role: FIRST_ROLE,
    };
    let id = add_keyslot(&opening.place(), &keys, &new).map_err(|error| opening.about(error))?;
    if !arguments.json {
        context.say(&format!("{what}: keyslot {} is added", id.0));
    }
    show(id, &new, &given, arguments.json, context)
        .map_err(|failure| failure.about(format!("{what}: keyslot {} is added, and of no use: remove it", id.0)))
}

//! `sero key`: the ways into a vault. One file a subcommand.

mod add;
mod change;
mod check;
mod export_config;
mod list;
mod remove;

use clap::Subcommand;
use serde_json::json;

use super::Context;
use super::failure::Result;
use super::new_secret::recovery_text;
use super::opening::Opening;
use super::unlocking::Given;
use crate::vault::{Keyslot, KeyslotId, NewKeyslot, recovery_key};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero key list ~/papers.sero
  sero key add ~/papers.sero --new-recovery --label paper
  sero key change ~/papers.sero
  sero key remove ~/papers.sero --slot 2")]
pub(super) struct KeyArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the keyslots, without a secret
    List(list::ListArguments),
    /// Add a keyslot; nobody else's secret is needed
    Add(add::AddArguments),
    /// Remove a keyslot
    Remove(remove::RemoveArguments),
    /// Replace the secret of a keyslot
    Change(change::ChangeArguments),
    /// Test a secret, without opening any data
    Check(check::CheckArguments),
    /// Copy the configuration to a file apart from the vault, or move it there
    ExportConfig(export_config::ExportArguments),
}

pub(super) fn run(arguments: &KeyArguments, context: &Context) -> Result<()> {
    match &arguments.command {
        Command::List(arguments) => list::run(arguments, context),
        Command::Add(arguments) => add::run(arguments, context),
        Command::Remove(arguments) => remove::run(arguments, context),
        Command::Change(arguments) => change::run(arguments, context),
        Command::Check(arguments) => check::run(arguments, context),
        Command::ExportConfig(arguments) => export_config::run(arguments, context),
    }
}

/// What became of a new secret; a recovery key is shown this once.
///
/// # Errors
/// If a recovery key did not get to whoever is to read it.
fn show(id: KeyslotId, new: &NewKeyslot<'_>, given: &Given, as_json: bool, context: &Context) -> Result<()> {
    if as_json {
        let shown = given.recovery.as_ref().map(recovery_key::encode);
        let shown = shown.as_ref().map(|text| text.as_str());
        let value = json!({ "slot": id, "kind": new.kind().ok(), "recovery_key": shown });
        return if shown.is_some() { context.hand_over_json(&value) } else { context.print_json(&value) };
    }
    given.recovery.as_ref().map_or(Ok(()), |key| context.hand_over(&recovery_text(key)))
}

/// For messages: `keyslot 2 (keyfile, "usb")`.
fn named(slot: &Keyslot) -> String {
    let label = match super::terminal::shown(&slot.label) {
        label if label.is_empty() => label,
        label => format!(", \"{label}\""),
    };
    format!("keyslot {} ({}{label})", slot.id.0, slot.kind.name())
}

/// The keyslot of this number, as the configuration had it when the vault was found.
fn slot(opening: &Opening, id: KeyslotId) -> Result<&Keyslot> {
    opening.configuration().keyslot(id).ok_or_else(|| opening.about(crate::vault::VaultError::NoKeyslot { id: id.0 }))
}

/// What a guesser would try first: the words of the vault's name, and the label.
fn known<'a>(opening: &'a Opening, label: Option<&'a str>) -> Vec<&'a str> {
    let name = opening.path().file_stem().and_then(|name| name.to_str());
    name.into_iter().chain(label).collect()
}

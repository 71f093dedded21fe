//! What a new keyslot takes: the same in `sero key add` and `sero key change`.

use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::failure::{Failure, Result};
use super::unlocking::Given;
use super::{key_sources, passphrase, policy};
use crate::vault::{Passphrase, RawKey, VaultError, recovery_key};

/// What the new keyslot takes. Without any of these, sero asks for a new passphrase on the terminal, twice.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "The new secret")]
pub(super) struct NewSecretArguments {
    /// Read the new passphrase from the first line of FILE; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_command", conflicts_with_all = OTHERS)]
    new_password_file: Option<PathBuf>,

    /// Read the new passphrase from the first line that the shell command CMD prints
    #[arg(long, value_name = "CMD", conflicts_with_all = OTHERS)]
    new_password_command: Option<String>,

    /// Take the content of FILE as the key; with a new passphrase, both are needed
    #[arg(long, value_name = "FILE", conflicts_with_all = OTHERS)]
    new_keyfile: Option<PathBuf>,

    /// Make a recovery key, and show it this once
    #[arg(long, conflicts_with_all = ["new_key_command", "new_key_env"])]
    new_recovery: bool,

    /// Take the 32 bytes, plain or in base64, that the shell command CMD prints
    #[arg(long, value_name = "CMD", conflicts_with = "new_key_env")]
    new_key_command: Option<String>,

    /// Take the 32 bytes that the environment variable NAME holds in base64
    #[arg(long, value_name = "NAME")]
    new_key_env: Option<String>,

    /// Take a new passphrase even if it is short or easy to guess
    #[arg(long)]
    allow_weak: bool,
}

/// What goes with neither a passphrase nor a keyfile.
const OTHERS: [&str; 3] = ["new_recovery", "new_key_command", "new_key_env"];

impl NewSecretArguments {
    /// What the options say, or a passphrase from the terminal. `known` is what a guesser would try first.
    pub(super) fn obtain(&self, what: &str, limit: Duration, hint: Option<&str>, known: &[&str]) -> Result<Given> {
        let mut given = Given::default();
        if self.new_recovery {
            given.recovery = Some(new_recovery_key()?);
        } else if let Some(command) = &self.new_key_command {
            given.command = Some(key_sources::command(command, limit)?);
        } else if let Some(name) = &self.new_key_env {
            given.environment = Some(key_sources::environment(name)?);
        } else {
            given.keyfile = self.new_keyfile.as_deref().map(key_sources::keyfile).transpose()?;
            let check = |passphrase: &Passphrase| policy::check_passphrase(passphrase, known, self.allow_weak);
            given.passphrase = match (&self.new_password_file, &self.new_password_command) {
                (Some(path), _) => Some(passphrase::from_path(path)?),
                (None, Some(command)) => Some(passphrase::from_command(command, limit)?),
                (None, None) if given.keyfile.is_some() => None,
                (None, None) => Some(passphrase::ask_new(&format!("New passphrase for {what}: "), check)?),
            };
            given.passphrase.as_ref().map(check).transpose()?;
        }
        policy::check_hint(hint, given.passphrase.as_ref())?;
        Ok(given)
    }
}

pub(super) fn new_recovery_key() -> Result<RawKey> {
    RawKey::generate().map_err(|error| Failure::from(VaultError::io("get random bytes for the recovery key", error)))
}

/// What is said of a new recovery key, this once.
pub(super) fn recovery_text(key: &RawKey) -> Zeroizing<String> {
    let key = recovery_key::encode(key);
    let indented = key.lines().map(|line| ["  ", line].concat()).collect::<Vec<_>>().join("\n");
    Zeroizing::new(format!(
        "The recovery key, shown this once. Write it down, and keep it where you would keep the passphrase:\n\n{indented}\n"
    ))
}

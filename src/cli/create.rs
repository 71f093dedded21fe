//! `sero create VAULT`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::kdf::{self, KdfArguments};
use super::new_secret::{new_recovery_key, recovery_text};
use super::opening::Detached;
use super::policy;
use super::unlocking::UnlockArguments;
use crate::vault::{self, FIRST_ROLE, NewKeyslot, Secrets, VaultError};

/// A new vault is a directory with this in it.
const CONFIGURATION: &str = "sero.json";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero create ~/papers.sero                               ask for the passphrase, twice
  pwgen -s 24 1 | tee pass | sero create --password-file - /srv/vault
  sero create --new-recovery ~/papers.sero                and show a recovery key, for paper
  sero create --config /media/usb/papers.json ~/papers.sero   keep the keyslots apart
  sero create --kdf-memory 1024 --kdf-passes 4 V          make guessing dearer

There is no way to the files without a secret that opens a keyslot: keep it where it is safe.
Unless --kdf-* say otherwise, turning the passphrase into the key takes about a second on this
machine.")]
pub(super) struct CreateArguments {
    /// The directory to make; it may exist if it is empty
    vault: PathBuf,

    /// Name the first keyslot (readable without the passphrase)
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Say something that reminds of the passphrase (readable without it, too)
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,

    /// Make a recovery key besides, and show it this once
    #[arg(long)]
    new_recovery: bool,

    /// Take a passphrase even if it is short or easy to guess
    #[arg(long)]
    allow_weak: bool,

    #[command(flatten)]
    kdf: KdfArguments,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &CreateArguments, context: &Context) -> Result<()> {
    let shown = arguments.vault.display();
    let about = |error: VaultError| Failure::from(error).about(shown.to_string());
    let asked = arguments.kdf.asked()?;
    check_target(&arguments.vault)?;
    let detached = context.config.as_deref().map(Detached::at).transpose()?;
    if let Some(detached) = &detached
        && detached.path().exists()
    {
        return Err(Failure::from(VaultError::ConfigurationExists).about(detached.path().display()));
    }
    let label = arguments.label.as_deref().unwrap_or_default();
    let name = arguments.vault.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let given = arguments.unlock.first(&arguments.vault, |passphrase| {
        policy::check_passphrase(passphrase, &[name, label], arguments.allow_weak)
    })?;
    policy::check_hint(arguments.hint.as_deref(), given.passphrase.as_ref())?;
    let kdf = kdf::chosen(asked, given.passphrase.is_some());
    let mut slots = vec![NewKeyslot { secrets: given.secrets(), kdf, label, role: FIRST_ROLE }];
    let recovery = arguments.new_recovery.then(new_recovery_key).transpose()?;
    if let Some(key) = &recovery {
        let secrets = Secrets { recovery: Some(key), ..Secrets::default() };
        slots.push(NewKeyslot { secrets, kdf, label: "", role: FIRST_ROLE });
    }
    let place = detached.as_ref().map(Detached::place);
    vault::create_with(&arguments.vault, place.as_ref(), arguments.hint.as_deref(), &slots).map_err(about)?;
    if let Some(key) = &recovery {
        context.hand_over(&recovery_text(key)).map_err(|failure| {
            failure.about(format!("{shown} is made, and keyslot 2 is of no use: remove it, and add another"))
        })?;
    }
    context.say(&format!("{shown} is made; `sero mount {shown} MOUNTPOINT` mounts it"));
    Ok(())
}

/// Before a passphrase is asked for; creating checks again.
fn check_target(path: &Path) -> Result<()> {
    let shown = path.display();
    match fs::read_dir(path) {
        Ok(mut entries) => {
            if path.join(CONFIGURATION).exists() {
                Err(Failure::from(VaultError::VaultExists).about(shown))
            } else if entries.next().is_some() {
                Err(Failure::from(VaultError::TargetNotEmpty).about(shown))
            } else {
                Ok(())
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            if parent.is_dir() {
                Ok(())
            } else {
                Err(Failure::new(
                    ExitCode::BackingIo,
                    format!("{shown}: there is no directory {}; make it first", parent.display()),
                ))
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(Failure::new(
            ExitCode::TargetExists,
            format!("{shown}: this is not a directory; choose a new name or an empty directory"),
        )),
        Err(error) => {
            Err(Failure::new(ExitCode::BackingIo, format!("{shown}: {error}; choose a directory that you may write")))
        }
    }
}

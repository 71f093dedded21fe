//! `sero create VAULT`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::opening::Detached;
use super::passphrase::unavailable;
use super::unlocking::UnlockArguments;
use crate::vault::{self, FIRST_ROLE, KdfParams, NewKeyslot, RFC9106_SECOND, VaultError};

/// What opening a vault may cost on this machine; a guess at a passphrase costs as much.
const KDF_TARGET: Duration = Duration::from_secs(1);

/// A new vault is a directory with this in it.
const CONFIGURATION: &str = "sero.json";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero create ~/papers.sero                               ask for the passphrase, twice
  pwgen -s 24 1 | tee pass | sero create --password-file - /srv/vault
  sero create --kdf-memory 1024 --kdf-passes 4 V          make guessing dearer

There is no way to the files without the passphrase: write it down where it is safe.
Unless --kdf-* say otherwise, turning the passphrase into the key takes about a second on this machine.")]
pub(super) struct CreateArguments {
    /// The directory to make; it may exist if it is empty
    vault: PathBuf,

    /// Name the first keyslot (readable without the passphrase)
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Say something that reminds of the passphrase (readable without it, too)
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,

    /// Memory of Argon2id in MiB (RFC 9106)
    #[arg(long, value_name = "MIB")]
    kdf_memory: Option<u32>,

    /// Passes of Argon2id over its memory
    #[arg(long, value_name = "N")]
    kdf_passes: Option<u32>,

    /// Lanes of Argon2id
    #[arg(long, value_name = "N")]
    kdf_lanes: Option<u32>,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &CreateArguments, context: &Context) -> Result<()> {
    let shown = arguments.vault.display();
    let about = |error: VaultError| Failure::from(error).about(shown.to_string());
    let kdf = arguments.kdf()?;
    check_target(&arguments.vault)?;
    let detached = context.config.as_deref().map(Detached::at).transpose()?;
    if let Some(detached) = &detached
        && detached.path().exists()
    {
        return Err(Failure::from(VaultError::ConfigurationExists).about(detached.path().display()));
    }
    let given = arguments.unlock.first(&arguments.vault)?;
    if given.passphrase.as_ref().is_some_and(|passphrase| passphrase.is_empty()) {
        return Err(unavailable("the passphrase is empty; choose one"));
    }
    let kdf = match kdf {
        Some(kdf) => kdf,
        None if given.passphrase.is_some() => vault::calibrate(KDF_TARGET),
        None => RFC9106_SECOND,
    };
    let label = arguments.label.as_deref().unwrap_or_default();
    let slot = NewKeyslot { secrets: given.secrets(), kdf, label, role: FIRST_ROLE };
    let place = detached.as_ref().map(Detached::place);
    vault::create_with(&arguments.vault, place.as_ref(), arguments.hint.as_deref(), &[slot]).map_err(about)?;
    context.say(&format!("{shown} is made; `sero mount {shown} MOUNTPOINT` mounts it"));
    Ok(())
}

impl CreateArguments {
    /// What was asked for; of what was not, RFC 9106's second recommended option. None: to be calibrated.
    fn kdf(&self) -> Result<Option<KdfParams>> {
        if self.kdf_memory.is_none() && self.kdf_passes.is_none() && self.kdf_lanes.is_none() {
            return Ok(None);
        }
        let memory_kib = match self.kdf_memory {
            // What does not fit is beyond any bound.
            Some(mib) => mib.saturating_mul(1024),
            None => RFC9106_SECOND.memory_kib,
        };
        let params = KdfParams {
            memory_kib,
            passes: self.kdf_passes.unwrap_or(RFC9106_SECOND.passes),
            lanes: self.kdf_lanes.unwrap_or(RFC9106_SECOND.lanes),
        };
        params.validate().map_err(|error| Failure::from(VaultError::KdfRefused(error)))?;
        Ok(Some(params))
    }
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

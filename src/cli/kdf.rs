//! What guessing a passphrase costs: `--kdf-*`, or a second on this machine.

use std::time::Duration;

use super::failure::{Failure, Result};
use crate::vault::{self, KdfParams, RFC9106_SECOND, VaultError};

/// What opening a vault may cost on this machine; a guess at a passphrase costs as much.
const TARGET: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Cost of guessing a passphrase")]
pub(super) struct KdfArguments {
    /// Memory of Argon2id in MiB (RFC 9106)
    #[arg(long, value_name = "MIB")]
    kdf_memory: Option<u32>,

    /// Passes of Argon2id over its memory
    #[arg(long, value_name = "N")]
    kdf_passes: Option<u32>,

    /// Lanes of Argon2id
    #[arg(long, value_name = "N")]
    kdf_lanes: Option<u32>,
}

impl KdfArguments {
    /// What was asked for; of what was not, RFC 9106's second recommended option. None: to be calibrated.
    pub(super) fn asked(&self) -> Result<Option<KdfParams>> {
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

/// What was asked for, or what takes a second here. Without a passphrase there is nothing to guess.
pub(super) fn chosen(asked: Option<KdfParams>, has_passphrase: bool) -> KdfParams {
    match asked {
        Some(params) => params,
        None if has_passphrase => vault::calibrate(TARGET),
        None => RFC9106_SECOND,
    }
}

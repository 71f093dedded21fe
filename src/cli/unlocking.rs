//! What unlocks a vault, in every command the same options.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Context;
use super::attempts::Attempt;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::opening::Opening;
use super::{key_sources, passphrase};
use crate::vault::{KeyslotKind, Passphrase, RawKey, RootKeys, Secrets, UnlockedKeys, wipe_stack};

/// How a vault is unlocked. Without any of these, sero asks for the passphrase on the terminal.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Unlocking")]
pub(super) struct UnlockArguments {
    /// Read the passphrase from the first line of FILE; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "password_command")]
    password_file: Option<PathBuf>,

    /// Read the passphrase from the first line that the shell command CMD prints
    #[arg(long, value_name = "CMD")]
    password_command: Option<String>,

    /// Take the content of FILE as the key, or together with a passphrase
    #[arg(long, value_name = "FILE")]
    keyfile: Option<PathBuf>,

    /// Read a recovery key from FILE; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_file", "password_command", "keyfile"])]
    recovery_file: Option<PathBuf>,

    /// Take the 32 bytes, plain or in base64, that the shell command CMD prints
    #[arg(long, value_name = "CMD")]
    key_command: Option<String>,

    /// Take the 32 bytes that the environment variable NAME holds in base64
    #[arg(long, value_name = "NAME")]
    key_env: Option<String>,

    /// Seconds that a command has to give a passphrase or a key
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    command_timeout: u64,
}

/// What was given, until it has opened the vault.
#[derive(Default)]
pub(super) struct Given {
    pub(super) passphrase: Option<Passphrase>,
    pub(super) keyfile: Option<RawKey>,
    pub(super) recovery: Option<RawKey>,
    pub(super) command: Option<RawKey>,
    pub(super) environment: Option<RawKey>,
}

impl Given {
    pub(super) fn secrets(&self) -> Secrets<'_> {
        Secrets {
            passphrase: self.passphrase.as_ref(),
            keyfile: self.keyfile.as_ref(),
            recovery: self.recovery.as_ref(),
            command: self.command.as_ref(),
            environment: self.environment.as_ref(),
        }
    }

    fn is_nothing(&self) -> bool {
        let Self { passphrase, keyfile, recovery, command, environment } = self;
        passphrase.is_none() && keyfile.is_none() && recovery.is_none() && command.is_none() && environment.is_none()
    }
}

impl UnlockArguments {
    /// The vault's keys.
    pub(super) fn unlock(&self, opening: &Opening, context: &Context) -> Result<UnlockedKeys> {
        let keys = self.unlock_root(opening, context).map(|(keys, _)| keys.into());
        // The root key and what was given are gone now, and what was left of them on the way.
        wipe_stack();
        keys
    }

    /// The vault's keys with the root key, and what opened it.
    pub(super) fn unlock_root(&self, opening: &Opening, context: &Context) -> Result<(RootKeys, Given)> {
        let given = self.obtain(opening)?;
        let attempt = Attempt::begin(&opening.configuration().vault_id.to_string(), context);
        let result = opening.unlock(&given.secrets());
        attempt.end(&result);
        wipe_stack();
        Ok((result.map_err(|error| opening.about(error))?, given))
    }

    /// How long a command has to give a passphrase or a key.
    pub(super) const fn limit(&self) -> Duration {
        Duration::from_secs(self.command_timeout)
    }

    /// What the options say, and the passphrase from the terminal where one is needed besides.
    fn obtain(&self, opening: &Opening) -> Result<Given> {
        let mut given = self.given()?;
        let slots = &opening.configuration().keyslots;
        let has = |kind| slots.iter().any(|slot| slot.kind == kind);
        let only_with_passphrase = given.keyfile.is_some()
            && given.passphrase.is_none()
            && has(KeyslotKind::PassphraseKeyfile)
            && !has(KeyslotKind::Keyfile);
        if given.is_nothing() && !has(KeyslotKind::Passphrase) {
            return Err(Failure::new(
                ExitCode::PassphraseUnavailable,
                format!(
                    "{}: this vault has no keyslot of a passphrase alone; give --keyfile, --recovery-file, --key-command or \
                     --key-env (`sero key list` shows its keyslots)",
                    opening.path().display()
                ),
            ));
        }
        if given.is_nothing() || only_with_passphrase {
            given.passphrase = Some(passphrase::ask(&format!("Passphrase of {}: ", opening.path().display()))?);
        }
        Ok(given)
    }

    /// What the options say.
    pub(super) fn given(&self) -> Result<Given> {
        let limit = self.limit();
        let passphrase = match (&self.password_file, &self.password_command) {
            (Some(path), _) => Some(passphrase::from_path(path)?),
            (None, Some(command)) => Some(passphrase::from_command(command, limit)?),
            (None, None) => None,
        };
        let keyfile = |path: &PathBuf| key_sources::keyfile(path);
        Ok(Given {
            passphrase,
            keyfile: self.keyfile.as_ref().map(keyfile).transpose()?,
            recovery: self.recovery_file.as_deref().map(key_sources::recovery_file).transpose()?,
            command: self.key_command.as_ref().map(|command| key_sources::command(command, limit)).transpose()?,
            environment: self.key_env.as_ref().map(|name| key_sources::environment(name)).transpose()?,
        })
    }

    /// What makes the first keyslot of a new vault: a passphrase that stands this check, asked for twice, unless something
    /// else is given.
    pub(super) fn first(&self, vault: &Path, check: impl Fn(&Passphrase) -> Result<()>) -> Result<Given> {
        let mut given = self.given()?;
        let one = |given: bool| usize::from(given);
        let kinds = one(given.passphrase.is_some() || given.keyfile.is_some())
            + one(given.recovery.is_some())
            + one(given.command.is_some())
            + one(given.environment.is_some());
        if kinds > 1 {
            return Err(Failure::new(
                ExitCode::Usage,
                "a keyslot is opened by a passphrase, a keyfile, both, a command or an environment variable; give one of these",
            ));
        }
        if given.recovery.is_some() {
            return Err(Failure::new(
                ExitCode::Usage,
                "sero makes recovery keys itself; give --new-recovery to get one",
            ));
        }
        if given.is_nothing() {
            given.passphrase = Some(passphrase::ask_new(&format!("New passphrase for {}: ", vault.display()), &check)?);
        }
        given.passphrase.as_ref().map(check).transpose()?;
        Ok(given)
    }
}

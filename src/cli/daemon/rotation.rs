//! The rotation of a mounted vault: a thread beside the requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::ticker::spawn;
use crate::cli::failure::{Failure, Result};
use crate::cli::opening::Opening;
use crate::cli::rotate::{RotationFacts, RotationState};
use crate::vault::rotate::{RotationControl, configuration};
use crate::vault::{PosixStorage, UnlockedKeys, Vault, VaultError};

/// What is known of the rotation of one mount.
pub(super) struct Rotation {
    vault: Arc<Vault<PosixStorage>>,
    /// The vault's directory, and its configuration if that lies elsewhere.
    path: PathBuf,
    config: Option<PathBuf>,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    control: Arc<RotationControl>,
    thread: Option<JoinHandle<()>>,
    /// It was begun, and how it ended may not be known yet.
    begun: bool,
    ending: bool,
    /// How the last run ended; shared with its thread.
    ended: Arc<Mutex<Option<RotationFacts>>>,
}

impl Rotation {
    /// Goes on with a rotation that an earlier session left unfinished.
    pub(super) fn start(vault: &Arc<Vault<PosixStorage>>, path: PathBuf, config: Option<PathBuf>) -> Arc<Self> {
        let this = Arc::new(Self { vault: Arc::clone(vault), path, config, work: Mutex::default() });
        if vault.is_rotating() && !vault.is_read_only() {
            log::info!("a rotation of the key was not finished: going on with it");
            if let Err(error) = this.run(0) {
                log::error!("{error}");
            }
        }
        this
    }

    /// Where the vault's configuration lies, if that is apart from the vault.
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Takes the keys of the new version, and begins.
    pub(super) fn begin(&self, exposed: &[u8], bytes_per_second: u64) -> Result<RotationFacts> {
        if self.is_running() {
            return Err(VaultError::RotationRunning.into());
        }
        let opening = Opening::with_configuration(&self.path, self.config.as_deref())?;
        let keys: UnlockedKeys = opening.unlock_exposed(exposed)?;
        if keys.configuration().rotation.is_none() {
            return Err(Failure::other("no rotation was begun; use `sero rotate VAULT`"));
        }
        self.vault.begin_rotation(keys.into())?;
        self.run(bytes_per_second)?;
        Ok(self.facts())
    }

    fn run(&self, bytes_per_second: u64) -> Result<()> {
        let mut work = self.work.lock();
        if work.ending || work.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Err(VaultError::RotationRunning.into());
        }
        let control = Arc::new(RotationControl::new());
        control.set_rate(bytes_per_second);
        let ended = Arc::new(Mutex::new(None));
        let (vault, path, config) = (Arc::clone(&self.vault), self.path.clone(), self.config.clone());
        let (its_control, its_ended) = (Arc::clone(&control), Arc::clone(&ended));
        let thread = spawn("rotation", move || {
            let rotate = || {
                vault.rotate(&its_control, |active| {
                    let opening = Opening::with_configuration(&path, config.as_deref()).map_err(|failure| {
                        VaultError::io("read the configuration", std::io::Error::other(failure.message))
                    })?;
                    configuration::finish(&opening.place(), active)
                })
            };
            let facts = match catch_unwind(AssertUnwindSafe(rotate)) {
                Ok(Ok(end)) => RotationFacts::ended(end, its_control.progress()),
                Ok(Err(error)) => {
                    log::error!("the rotation of the key stopped: {error}");
                    let state = if error.is_full() { RotationState::Full } else { RotationState::Failed };
                    RotationFacts::at(state, its_control.progress(), vec![error.to_string()])
                }
                Err(_) => {
                    let problems = vec!["stopped by a bug in sero; see the log".to_owned()];
                    RotationFacts::at(RotationState::Failed, its_control.progress(), problems)
                }
            };
            *its_ended.lock() = Some(facts);
        });
        if thread.is_none() {
            return Err(Failure::other("a thread could not be started; run this again"));
        }
        work.thread = thread;
        work.begun = true;
        work.control = control;
        work.ended = ended;
        Ok(())
    }

    pub(super) fn is_running(&self) -> bool {
        self.facts().state == RotationState::Running
    }

    pub(super) fn facts(&self) -> RotationFacts {
        let work = self.work.lock();
        if let Some(facts) = work.ended.lock().clone() {
            return facts;
        }
        let state = if work.begun { RotationState::Running } else { RotationState::None };
        RotationFacts::at(state, work.control.progress(), Vec::new())
    }

    /// For `sero status`: null if there is none.
    pub(super) fn as_json(&self) -> Option<serde_json::Value> {
        let facts = self.facts();
        if facts.state == RotationState::None { None } else { serde_json::to_value(facts).ok() }
    }

    /// Before the vault is sealed: the next mount goes on.
    pub(super) fn stop(&self) {
        let thread = {
            let mut work = self.work.lock();
            work.ending = true;
            work.control.stop();
            work.thread.take()
        };
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

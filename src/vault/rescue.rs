//! Opening a vault that is damaged: for looking at it, and for getting out what still opens.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::core::VaultCore;
use super::directory::{Directory, PRIVATE, Tree};
use super::error::{Result, VaultError};
use super::journal::SEGMENT_NAMES;
use super::keyring::{KeyRing, LiveKeys};
use super::lock::{self, VaultLock};
use super::verify::{Finding, FindingKind, Severity};
use super::windows::Windows;
use super::{Vault, recovery};
use crate::storage::Storage;

impl<S: Storage> Vault<S> {
    /// Opens the vault read-only, whatever state its own files are in; only the tree must be there. A journal is
    /// replayed in memory, as far as it can be. What was wrong is reported by [`Vault::verify`], and by
    /// [`Vault::tolerated`]. Refuses a vault that is mounted for writing.
    pub fn open_tolerant(storage: S, keys: impl Into<LiveKeys>) -> Result<Arc<Self>> {
        let keys = KeyRing::new(keys.into());
        let mut tolerated = Vec::new();
        let mut tolerate = |kind, backing: &str, error: VaultError| {
            let (severity, backing, reason) = match error {
                // It says itself which of the vault's own files it is about.
                VaultError::Integrity(error) if error.path.starts_with(PRIVATE) => {
                    (Severity::Damage, error.path, error.reason)
                }
                VaultError::Integrity(error) => (Severity::Damage, backing.to_owned(), error.reason),
                other => (Severity::Unreadable, backing.to_owned(), other.to_string()),
            };
            tolerated.push(Finding::own(severity, kind, backing, reason));
        };
        let tree = match Tree::open(&storage) {
            Ok(tree) => tree,
            Err(error) => {
                let tree = Tree::open_without_private(&storage)?;
                tolerate(FindingKind::Private, PRIVATE, error);
                tree
            }
        };
        let lock = if tree.has_private() {
            match VaultLock::shared(&storage, tree.private()) {
                Ok(lock) => lock,
                Err(error @ VaultError::AlreadyMounted { .. }) => return Err(error),
                Err(error) => {
                    tolerate(FindingKind::Private, lock::PATH, error);
                    VaultLock::none()
                }
            }
        } else {
            VaultLock::none()
        };
        let windows = Windows::load(&storage, tree.private(), &keys).unwrap_or_else(|error| {
            tolerate(FindingKind::State, "private/state", error);
            Windows::default()
        });
        let core = Arc::new(VaultCore::new(storage, keys, tree, true, windows));
        let root = Directory::root(&core)?;
        let mut misses_journal = false;
        let recovery = recovery::recover(&core, &root).unwrap_or_else(|error| {
            misses_journal = true;
            let kind = if is_no_segment(&error) { FindingKind::Private } else { FindingKind::Journal };
            tolerate(kind, PRIVATE, error);
            core.journaled.lock().clear();
            core.set_journal(None);
            None
        });
        Ok(Arc::new(Self { core, root, ticks: AtomicU32::new(0), recovery, tolerated, misses_journal, lock }))
    }

    /// What [`open_tolerant`](Self::open_tolerant) found wrong with the vault's own files.
    pub fn tolerated(&self) -> &[Finding] {
        &self.tolerated
    }
}

/// Whether something else is in the place of a segment of the journal.
fn is_no_segment(error: &VaultError) -> bool {
    let VaultError::Integrity(error) = error else { return false };
    SEGMENT_NAMES.iter().any(|name| error.path == format!("{PRIVATE}/{name}"))
}

//! Going through the tree: counting, new names, and the last look.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{BATCH, Run};
use crate::format::geometry;
use crate::storage::{FileKind, Storage, Target};
use crate::vault::Vault;
use crate::vault::directory::Directory;
use crate::vault::error::{Result, VaultError};

impl<S: Storage> Vault<S> {
    /// What there is to do.
    pub(super) fn count(&self, run: &mut Run<'_>) -> Result<()> {
        let (mut entries, mut bytes) = (0_u64, 0_u64);
        let mut pending = vec![self.root.clone()];
        while let Some(directory) = pending.pop() {
            let counted = self.count_in(&directory, &mut pending);
            if let Ok((of_entries, of_bytes)) = &counted {
                entries = entries.saturating_add(*of_entries);
                bytes = bytes.saturating_add(*of_bytes);
            }
            run.note(&directory, None, counted.map(drop))?;
            run.control.entries_total.store(entries, Ordering::Relaxed);
            run.control.bytes_total.store(bytes, Ordering::Relaxed);
            run.control.step(0, 0)?;
        }
        // What does not open is met again where it matters.
        run.problems.clear();
        Ok(())
    }

    fn count_in(&self, directory: &Arc<Directory<S>>, pending: &mut Vec<Arc<Directory<S>>>) -> Result<(u64, u64)> {
        let (mut entries, mut bytes) = (0_u64, 0_u64);
        let handle = directory.handle()?;
        for entry in directory.sealed_entries()? {
            entries = entries.saturating_add(1);
            if let Ok(stat) = self.core.storage.stat(Target::Entry(&*handle, &entry))
                && stat.kind() == FileKind::Regular
            {
                bytes = bytes.saturating_add(geometry::plain_len(stat.size_bytes).unwrap_or(0));
            }
        }
        pending.extend(directory.child_directories()?);
        Ok((entries, bytes))
    }

    /// New IVs and sealed names for these directories and all below.
    pub(super) fn rekey_names(&self, run: &mut Run<'_>, mut queue: Vec<Arc<Directory<S>>>) -> Result<()> {
        while !queue.is_empty() {
            let batch = queue.split_off(queue.len().saturating_sub(BATCH));
            let mut begun = Vec::new();
            for directory in &batch {
                match directory.begin_rekey() {
                    Ok(true) => begun.push(directory.clone()),
                    Ok(false) => {}
                    Err(error) => run.note(directory, None, Err(error))?,
                }
            }
            if !begun.is_empty() {
                // A name must not be under an IV that a crash takes back.
                self.sync_names()?;
                for directory in &begun {
                    let renamed = directory.rename_to_newest(&mut |entries| run.control.step(entries, 0));
                    let bad = renamed.and_then(|renamed| match renamed.bad {
                        Some(bad) => Err(VaultError::Integrity(bad)),
                        None => Ok(()),
                    });
                    run.note(directory, None, bad)?;
                }
                // Nor may the older IV go before the last name under it is gone for good.
                self.sync_names()?;
                for directory in &begun {
                    let ended = directory.end_rekey();
                    run.note(directory, None, ended.map(drop))?;
                }
            }
            for directory in &batch {
                match directory.child_directories() {
                    Ok(children) => queue.extend(children),
                    Err(error) => run.note(directory, None, Err(error))?,
                }
            }
            run.control.step(0, 0)?;
        }
        Ok(())
    }

    /// The last look: everything that is found in the tree opens under the active version alone.
    pub(super) fn verify_rotated(&self, run: &mut Run<'_>) -> Result<()> {
        self.verify_below(run, vec![self.root.clone()])
    }

    pub(super) fn verify_below(&self, run: &mut Run<'_>, top: Vec<Arc<Directory<S>>>) -> Result<()> {
        run.each_below(top, |run, directory| self.verify_directory(run, directory))
    }

    pub(super) fn verify_directory(&self, run: &mut Run<'_>, directory: &Arc<Directory<S>>) -> Result<()> {
        if !directory.is_rekeyed()? {
            return Err(VaultError::integrity(directory.backing_path(), "its names are not under the new key"));
        }
        self.verify_directory_table(directory)?;
        for name in run.names_in(directory)? {
            let outcome = self.verify_entry(directory, &name);
            run.note(directory, Some(&name), outcome)?;
            run.control.step(1, 0)?;
        }
        Ok(())
    }
}

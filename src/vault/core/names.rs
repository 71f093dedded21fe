//! What the directories ask before a name changes, and tell afterwards: that the journal finds every file.

use std::ffi::OsStr;
use std::sync::Arc;

use parking_lot::RwLockWriteGuard;

use super::VaultCore;
use super::table::Claim;
use crate::format::record::{Operation, TEXT_MAX};
use crate::storage::{FileKind, RenameMode, Stat, Storage};
use crate::vault::directory::{Directory, Location, RenamePlan};
use crate::vault::error::Result;
use crate::vault::file::VaultFile;
use crate::vault::switches;

/// More renamed inodes than this are made durable all at once.
const RENAMED_MAX: usize = 1 << 16;

/// Keeps an inode's number from every other file: the inode is open, or whoever makes a file with that number waits.
pub(crate) type HeldNumber<'a, S> = std::result::Result<Claim<'a, S>, Arc<VaultFile<S>>>;

/// Held from the intent of a rename until everybody has been told of it.
pub(crate) struct Renaming<'a, S: Storage> {
    _naming: RwLockWriteGuard<'a, ()>,
    /// Of the file that is replaced.
    _number: Option<HeldNumber<'a, S>>,
}

impl<S: Storage> VaultCore<S> {
    /// Before a rename: the source is durable if it replaces something, and what the journal holds for anything that
    /// moves can still be found. Nobody names a file in the journal until the guard is dropped, after the rename.
    pub fn journal_rename(self: &Arc<Self>, plan: &RenamePlan<'_, S>) -> Result<Renaming<'_, S>> {
        self.ensure_writable()?;
        let unsettled = {
            let renamed = self.renamed.lock();
            renamed.files.len() + renamed.directories.len()
        };
        if unsettled >= RENAMED_MAX {
            self.settle_names()?;
        }
        let replaces = plan.replaced.is_some() && plan.mode != RenameMode::Exchange;
        if replaces && plan.source.kind() == FileKind::Regular && self.is_half_durable(plan.source.ino) {
            let location = Location { directory: plan.from.clone(), entry: plan.from_entry.to_owned() };
            if !switches::holds("rename.source-is-durable", false) {
                self.open_file(location, &plan.source)?.sync()?;
            }
        }
        if let Some(replaced) = plan.replaced.filter(|other| replaces && other.ino != plan.source.ino) {
            self.before_unlink(plan.to, plan.to_entry, &replaced)?;
        }
        // Before the lock of names, which whoever is opening the file may need, and with no other held.
        let number = plan.replaced.filter(|_| replaces).and_then(|replaced| self.hold_number(&replaced));
        let from = Location { directory: plan.from.clone(), entry: plan.from_entry.to_owned() };
        let to = Location { directory: plan.to.clone(), entry: plan.to_entry.to_owned() };
        let text = || [from.backing_path().as_bytes(), &[0], to.backing_path().as_bytes()].concat();
        // A record for each piece of it.
        let _admission = self.admit((text().len() / TEXT_MAX) as u32 + 8)?;
        let gate = self.change_gate()?;
        let naming = self.naming.write();
        if self.journal_concerns(plan) {
            let text = text();
            let exchange = plan.mode == RenameMode::Exchange;
            if !switches::holds("rename.intent-is-recorded", false) {
                let appended = self.append_text(&text, Operation::Rename { exchange })?;
                drop(gate);
                self.sync_journal(appended.lsn)?;
            }
        }
        Ok(Renaming { _naming: naming, _number: number })
    }

    /// Whether a crash may show less of a file than was written, although nobody writes to it any more.
    fn is_half_durable(&self, ino: u64) -> bool {
        self.is_volatile(ino) || self.file(ino).is_some_and(|file| file.has_pending())
    }

    /// Before the journal speaks of a file by its name: what could give it another name after a crash is made
    /// durable.
    pub fn settle_name(&self, ino: u64, location: &Location<S>) -> Result<()> {
        let (itself, above) = {
            let renamed = self.renamed.lock();
            let above = !renamed.directories.is_empty()
                && location.directory.chain().any(|directory| renamed.directories.contains_key(&directory.ino()));
            (renamed.files.contains_key(&ino), above)
        };
        if switches::holds("rename.name-is-durable", !itself && !above) {
            return Ok(());
        }
        if above {
            return self.settle_names();
        }
        let before = self.renamed.lock().files.get(&ino).copied();
        // Another of its names may be the one that is not durable, and the one that it is opened by next.
        let is_only_name = location.stat().is_ok_and(|stat| stat.ino == ino && stat.nlink < 2);
        if !switches::holds("rename.all-names-are-durable", is_only_name) {
            return self.settle_names();
        }
        location.directory.sync()?;
        let mut renamed = self.renamed.lock();
        // A change of name during the sync is not covered by it.
        if renamed.files.get(&ino).copied() == before {
            renamed.files.remove(&ino);
        }
        Ok(())
    }

    /// Makes every name durable. What is renamed meanwhile stays listed, and so does everything until it is done.
    pub fn settle_names(&self) -> Result<()> {
        self.settle_names_by(|| self.sync_backing())
    }

    /// Runs a sync of the whole backing that is made anyway, and takes note of the names that it makes durable.
    pub fn settle_names_by(&self, sync_all: impl FnOnce() -> Result<()>) -> Result<()> {
        let (files, directories) = {
            let renamed = self.renamed.lock();
            (renamed.files.clone(), renamed.directories.clone())
        };
        sync_all()?;
        let mut renamed = self.renamed.lock();
        renamed.files.retain(|ino, change| files.get(ino) != Some(change));
        renamed.directories.retain(|ino, change| directories.get(ino) != Some(change));
        Ok(())
    }

    fn note_renamed(&self, stat: &Stat) {
        let mut renamed = self.renamed.lock();
        renamed.changes = renamed.changes.saturating_add(1);
        let change = renamed.changes;
        match stat.kind() {
            FileKind::Regular => renamed.files.insert(stat.ino, change),
            FileKind::Directory => renamed.directories.insert(stat.ino, change),
            _ => None,
        };
    }

    /// Whether the journal holds something for what a rename moves.
    fn journal_concerns(&self, plan: &RenamePlan<'_, S>) -> bool {
        let moved = [Some(plan.source), plan.replaced.filter(|_| plan.mode == RenameMode::Exchange)];
        let journaled: Vec<_> = self.journaled.lock().values().cloned().collect();
        if journaled.is_empty() {
            return false;
        }
        moved.into_iter().flatten().any(|stat| {
            if stat.kind() == FileKind::Directory {
                journaled.iter().any(|file| file.location().directory.is_within(stat.ino))
            } else {
                journaled.iter().any(|file| file.ino() == stat.ino)
            }
        })
    }

    /// After a rename.
    pub fn renamed(&self, plan: &RenamePlan<'_, S>) {
        let exchange = plan.mode == RenameMode::Exchange;
        self.note_renamed(&plan.source);
        if let Some(replaced) = plan.replaced.filter(|_| exchange) {
            self.note_renamed(&replaced);
        }
        let (from, to) = ((plan.from, plan.from_entry), (plan.to, plan.to_entry));
        if let Some(file) = self.files.find_renamed(plan.source.ino) {
            file.name_moved(from, to);
        }
        let Some(replaced) = plan.replaced else { return };
        if exchange {
            if let Some(file) = self.files.find_renamed(replaced.ino) {
                file.name_moved(to, from);
            }
        } else if replaced.ino != plan.source.ino {
            self.unlinked(plan.to, plan.to_entry, &replaced);
        }
    }

    /// To be held while an inode's name goes, until everybody has been told: what is said of its number is said of this
    /// file, and of none that is made at once and gets the number next.
    pub fn hold_number(&self, stat: &Stat) -> Option<HeldNumber<'_, S>> {
        (stat.kind() == FileKind::Regular).then(|| self.files.claim(stat.ino))
    }

    /// Before a name other than a directory's goes: a file with other names is brought home first if the journal
    /// knows it by this one.
    pub fn before_unlink(self: &Arc<Self>, directory: &Arc<Directory<S>>, entry: &OsStr, stat: &Stat) -> Result<()> {
        self.ensure_writable()?;
        if stat.kind() != FileKind::Regular || stat.nlink < 2 {
            return Ok(());
        }
        let Some(file) = self.file(stat.ino).filter(|file| file.is_known_as(directory, entry)) else { return Ok(()) };
        if file.is_volatile() {
            file.sync()
        } else if self.journaled.lock().values().any(|journaled| journaled.ino() == stat.ino) {
            self.checkpoint(false)
        } else {
            Ok(())
        }
    }

    /// After a name went, while its number is held.
    pub fn unlinked(&self, directory: &Arc<Directory<S>>, entry: &OsStr, stat: &Stat) {
        let file = self.files.find_renamed(stat.ino);
        if stat.kind() == FileKind::Regular && stat.nlink <= 1 {
            self.volatile_unlinked(stat.ino, file.is_some());
            match &file {
                // It is forgotten with the last who has it open.
                Some(file) => file.set_unlinked(),
                None => self.forget_volatile(stat.ino),
            }
            // What could not be completed for want of space need not be any more.
            let uncompleted = self.uncommitted.lock().remove(&stat.ino);
            drop(uncompleted);
        }
        if stat.nlink > 1 {
            self.note_renamed(stat);
        }
        if let Some(file) = file {
            file.name_went(directory, entry);
        }
    }

    /// Before an inode gets a name. Returns the file if it is the first: it is to be synced by that name, too.
    pub fn before_link(&self, stat: &Stat) -> Result<Option<Arc<VaultFile<S>>>> {
        if stat.nlink > 0 {
            return Ok(None);
        }
        match self.file(stat.ino).filter(|file| file.is_unnamed()) {
            Some(file) if !switches::holds("link.first-name-is-of-a-durable-file", false) => {
                file.sync_before_first_name()?;
                Ok(Some(file))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// After a file got another name: it is known by that one from here on.
    pub fn linked(&self, to: &Location<S>, stat: &Stat) {
        self.note_renamed(stat);
        if let Some(file) = self.files.find_renamed(stat.ino) {
            file.got_name(to.clone());
        }
    }
}

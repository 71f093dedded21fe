//! The files in memory, and what is known of the durability of those that are not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::table::Found;
use super::{VaultCore, Volatile};
use crate::format::geometry::{self, HEADER_LEN};
use crate::format::header::Header;
use crate::format::record::FileId;
use crate::storage::{Access, Stat, Storage, Target, read_into};
use crate::vault::directory::{Directory, Location};
use crate::vault::error::{Result, VaultError};
use crate::vault::file::{Base, Keys, VaultFile};
use crate::vault::windows::CrashWindow;

impl<S: Storage> VaultCore<S> {
    /// The file of a backing inode, if it is in memory.
    pub fn file(&self, ino: u64) -> Option<Arc<VaultFile<S>>> {
        match self.files.find(ino) {
            Found::Open(file) => Some(file),
            Found::Nothing | Found::Busy => None,
        }
    }

    /// All files in memory.
    pub fn all_files(&self) -> Vec<Arc<VaultFile<S>>> {
        self.files.all()
    }

    /// How many files are in memory.
    pub fn file_count(&self) -> usize {
        self.files.count()
    }

    /// A file that recovery has opened, before anybody else can.
    pub fn enter_recovered(&self, file: &Arc<VaultFile<S>>) {
        self.files.insert(file);
        file.follow_versions();
    }

    /// A file that is dropped has written what it had to.
    pub fn file_left(&self, ino: u64, file: *const VaultFile<S>) {
        self.files.leave(ino, file);
    }

    /// A file that was just made at `location`, or without a name.
    pub fn create_file(
        self: &Arc<Self>,
        location: Location<S>,
        file: S::File,
        stat: Stat,
    ) -> Result<Arc<VaultFile<S>>> {
        let mut claim = match self.files.claim(stat.ino) {
            Ok(claim) => claim,
            // Whoever was looking for what a crash left has made it one that is empty.
            Err(found) => return Ok(found),
        };
        // In one step for the background sync: it knows of the inode and has the file, or neither.
        let mut volatile = self.volatile.lock();
        self.synced.lock().remove(&stat.ino);
        let made = Arc::new(VaultFile::new_empty(self, location, Arc::new(file), &stat));
        // The one that stands in its header: an epoch that ends meanwhile must know all that were born in it.
        let epoch = made.birth().epoch;
        while let Err(again) = claim.enter(&made) {
            made.lost_its_name();
            claim = again;
        }
        if made.is_unnamed() {
            // No epoch waits for it: it is durable before it has a name.
            volatile.remove(&stat.ino);
        } else {
            volatile.insert(stat.ino, Volatile { born: epoch, written: epoch });
        }
        drop(volatile);
        // A rotation changes the versions first, and then the files that are listed.
        made.follow_versions();
        Ok(made)
    }

    /// The file at `location`: the one in memory, or opened from the backing.
    pub fn open_file(self: &Arc<Self>, location: Location<S>, stat: &Stat) -> Result<Arc<VaultFile<S>>> {
        let file = self.open_once(stat.ino, || Ok((location.open_backing(stat)?, location.clone())))?;
        self.seen_at(&file, &location);
        Ok(file)
    }

    /// A file of whose names none is known has been found by one.
    fn seen_at(&self, file: &VaultFile<S>, location: &Location<S>) {
        if !file.is_lost() {
            return;
        }
        // Nobody renames it between the look and the note.
        let _naming = self.naming.read();
        if location.stat().is_ok_and(|stat| stat.ino == file.ino()) {
            file.moved(location.clone());
        }
    }

    /// The file in memory, or else opened. One thread opens it, and what that reads is the newest: nobody else has the
    /// file meanwhile, or changes what a crash left of it.
    fn open_once(
        self: &Arc<Self>,
        ino: u64,
        open: impl Fn() -> Result<(S::File, Location<S>)>,
    ) -> Result<Arc<VaultFile<S>>> {
        loop {
            let claim = match self.files.claim(ino) {
                Ok(claim) => claim,
                Err(file) => return Ok(file),
            };
            let (file, location) = open()?;
            let stat = self.storage.stat(Target::File(&file)).map_err(|e| VaultError::io("open a file", e))?;
            if stat.ino != ino {
                // The name is another file's since it was looked at.
                return Err(VaultError::errno("open a file", libc::ENOENT));
            }
            let opened = Arc::new(VaultFile::open(self, location, file, &stat)?);
            match (stat.nlink, opened.location().is_nameless()) {
                (0, _) => opened.set_unlinked(),
                (_, true) => opened.lost_its_name(),
                (_, false) => {}
            }
            match claim.enter(&opened) {
                Ok(()) => {
                    opened.follow_versions();
                    return Ok(opened);
                }
                // In this order: as long as it is there, nobody else reads its home.
                Err(claim) => {
                    drop(opened);
                    drop(claim);
                }
            }
        }
    }

    /// The file behind a pin, which may have no name any more.
    pub fn open_pinned(self: &Arc<Self>, pin: &S::Pin, stat: &Stat) -> Result<Arc<VaultFile<S>>> {
        let file = self.open_once(stat.ino, || {
            let access = if self.is_read_only() { Access::Read } else { Access::ReadWrite };
            let file = self.storage.open_pinned(pin, access).map_err(|e| VaultError::io("open a file", e))?;
            Ok((file, Location::nameless(Directory::root(self)?)))
        })?;
        file.set_pinned();
        Ok(file)
    }

    /// Whether all of a file is under this version of the project key or a later one.
    pub fn is_file_under(&self, location: &Location<S>, stat: &Stat, version: u32) -> Result<bool> {
        if let Some(file) = self.file(stat.ino) {
            return Ok(file.is_under(version));
        }
        let file = location.open_backing(stat)?;
        let mut header = [0; HEADER_LEN];
        let read = read_into(&self.storage, &file, &mut header, 0).map_err(|e| VaultError::io("read a file", e))?;
        let Ok(salt) = Header::salt(&header) else { return Ok(false) };
        Ok(read == HEADER_LEN && Keys::found(self, salt).is_under(&header, version))
    }

    /// The plain size of a regular file, from its backing attributes or from memory.
    pub fn plain_size(self: &Arc<Self>, location: &Location<S>, stat: &Stat) -> Result<u64> {
        if let Some(file) = self.file(stat.ino) {
            self.seen_at(&file, location);
            return Ok(file.len_bytes());
        }
        if self.windows.read().covers(stat).is_some() && !self.is_volatile(stat.ino) {
            // It may be what a crash left of a file: look before anyone relies on its length.
            match self.open_file(location.clone(), stat) {
                Ok(file) => return Ok(file.len_bytes()),
                // Damaged, and not by the crash.
                Err(VaultError::Integrity(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match geometry::plain_len(stat.size_bytes) {
            Some(size) => Ok(size),
            // Shown with what content it could have; opening it gives the error.
            None => Ok(stat.size_bytes.saturating_sub(HEADER_LEN as u64)),
        }
    }

    /// The crash window in which a file was made, if what lies in it has not been looked at in this session.
    pub fn window_of(&self, stat: &Stat, base: Base) -> Option<CrashWindow> {
        if base == (Base::Durable { synced: false }) { self.windows.read().covers(stat) } else { None }
    }

    /// Whether a session that did not end cleanly may have left directories without their IV.
    pub fn crash_window_open(&self) -> bool {
        !self.windows.read().is_empty()
    }

    pub fn open_windows(&self) -> Vec<CrashWindow> {
        self.windows.read().list().to_vec()
    }

    pub fn base_of(&self, ino: u64) -> Base {
        if self.is_volatile(ino) { Base::Volatile } else { Base::Durable { synced: self.synced.lock().contains(&ino) } }
    }

    pub fn is_volatile(&self, ino: u64) -> bool {
        self.volatile.lock().contains_key(&ino)
    }

    pub fn remember_volatile(&self, ino: u64) {
        let epoch = self.epoch.lock().current;
        self.volatile.lock().insert(ino, Volatile { born: epoch, written: epoch });
    }

    /// A volatile file was changed.
    pub fn remember_written(&self, ino: u64) {
        let epoch = self.epoch.lock().current;
        if let Some(volatile) = self.volatile.lock().get_mut(&ino) {
            volatile.written = epoch;
        }
    }

    /// The last name of a volatile file went; `is_open`: somebody may have written to it and not committed that.
    pub fn volatile_unlinked(&self, ino: u64, is_open: bool) {
        let current = self.epoch.lock().current;
        let late = |volatile: &&Volatile| volatile.born < current && (is_open || volatile.written > volatile.born);
        if let Some(born) = self.volatile.lock().get(&ino).filter(late).map(|volatile| volatile.born) {
            self.first_late_unlink.fetch_min(born, Ordering::AcqRel);
        }
    }

    /// What [`first_late_unlink`](Self::first_late_unlink) says is of the time from here on.
    pub fn watch_late_unlinks(&self) {
        self.first_late_unlink.store(u32::MAX, Ordering::Release);
    }

    pub fn first_late_unlink(&self) -> u32 {
        self.first_late_unlink.load(Ordering::Acquire)
    }

    pub fn forget_volatile(&self, ino: u64) {
        self.volatile.lock().remove(&ino);
    }

    /// Inodes made in epochs up to `epoch` that are not known to be durable. Open files without a name do not count:
    /// nothing of them has to survive.
    pub fn volatile_until(&self, epoch: u32) -> Vec<u64> {
        let until = |volatile: &Volatile| volatile.born <= epoch;
        let mut inodes: Vec<u64> =
            self.volatile.lock().iter().filter(|(_, volatile)| until(volatile)).map(|(ino, _)| *ino).collect();
        // With nothing locked: whoever lets a file go last writes what is left of it.
        inodes.retain(|ino| self.file(*ino).is_none_or(|file| !file.is_unlinked()));
        inodes
    }

    pub fn is_synced(&self, ino: u64) -> bool {
        self.synced.lock().contains(&ino)
    }

    /// A background sync has covered this inode, unless it was written again since the sync began.
    pub fn settle_volatile(&self, ino: u64, epoch: u32) {
        // Let go after the lock: whoever lets a file go last writes what is left of it.
        let found;
        let mut volatile = self.volatile.lock();
        let untouched = volatile.get(&ino).is_some_and(|volatile| volatile.written <= epoch);
        found = self.files.find(ino);
        let is_settled = match &found {
            Found::Nothing => true,
            // As what it was opened, and whether more is written to it, is not known yet.
            Found::Busy => false,
            Found::Open(file) => !file.is_volatile(),
        };
        if untouched && is_settled {
            volatile.remove(&ino);
            self.remember_synced(ino);
        }
    }

    /// Whether files are left that were made up to this epoch and may not be durable.
    pub fn has_volatile_until(&self, epoch: u32) -> bool {
        self.volatile_until(epoch).into_iter().any(|ino| self.file(ino).is_none_or(|file| file.is_volatile()))
    }

    pub fn remember_synced(&self, ino: u64) {
        let mut synced = self.synced.lock();
        if synced.len() >= 1 << 16 {
            synced.clear();
        }
        synced.insert(ino);
    }

    pub fn remember_journaled(&self, id: FileId, file: &VaultFile<S>) {
        if let Some(file) = self.file(file.ino()) {
            self.journaled.lock().insert(id, file);
        }
    }

    pub fn forget_journaled(&self, ino: u64) {
        self.journaled.lock().retain(|_, file| file.ino() != ino);
    }

    pub fn remember_uncommitted(&self, ino: u64) {
        if let Some(file) = self.file(ino) {
            let before = self.uncommitted.lock().insert(ino, file);
            drop(before);
        }
    }

    /// What was removed meanwhile is let go first: its space may be what the others need.
    pub fn take_uncommitted(&self) -> Vec<Arc<VaultFile<S>>> {
        let taken = std::mem::take(&mut *self.uncommitted.lock());
        taken.into_values().filter(|file| !file.is_unlinked()).collect()
    }
}

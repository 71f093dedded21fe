//! A directory's IV: loaded once, checked against a name, made where a crash left none.

use std::sync::atomic::Ordering;

use super::{Directory, aside, listing, settle, widened};
use crate::format::directory_iv::{self, DirectoryIv};
use crate::format::names::{self, EntryForm};
use crate::storage::{Storage, Target};
use crate::vault::error::{IntegrityError, Result, VaultError};

/// Names that are tried before an IV is taken to be another directory's.
const NAMES_TRIED: usize = 64;

impl<S: Storage> Directory<S> {
    /// The IV, by which at least one of the directory's names opens. None: it has no IV, and no names.
    pub(super) fn iv(&self) -> Result<Option<DirectoryIv>> {
        let Some(iv) = self.unchecked_iv()? else { return Ok(None) };
        if !self.checked.load(Ordering::Acquire) {
            let _loading = self.loading.lock();
            if !self.checked.load(Ordering::Acquire) {
                self.check(&iv)?;
                self.iv_fits();
            }
        }
        Ok(Some(iv))
    }

    /// The IV as it was read: enough for a listing, which opens the names itself.
    pub(super) fn unchecked_iv(&self) -> Result<Option<DirectoryIv>> {
        if let Some(iv) = self.iv.get() {
            return Ok(Some(*iv));
        }
        let _loading = self.loading.lock();
        if let Some(iv) = self.iv.get() {
            return Ok(Some(*iv));
        }
        Ok(self.load()?.map(|iv| *self.iv.get_or_init(|| iv)))
    }

    /// The IV for a name that is about to be made: a new one if the directory has none.
    pub(super) fn iv_for_new_name(&self) -> Result<DirectoryIv> {
        if let Some(iv) = self.iv()? {
            return Ok(iv);
        }
        let handle = self.handle()?;
        self.place_iv(&handle)
    }

    /// Gives a directory without names its IV.
    pub(super) fn place_iv(&self, handle: &S::Dir) -> Result<DirectoryIv> {
        let _loading = self.loading.lock();
        if let Some(iv) = self.iv.get() {
            return Ok(*iv);
        }
        let iv = DirectoryIv::random();
        let target = iv.encode(&self.core.keys);
        let place = || self.core.storage.make_symlink(handle, directory_iv::ENTRY.as_ref(), &target);
        widened(&self.core, Target::Dir(handle), 0o300, place)
            .map_err(|e| VaultError::io("make a directory's IV", e))?;
        self.mark_unsettled(settle::DEPENDED_ON)?;
        self.iv_fits();
        Ok(*self.iv.get_or_init(|| iv))
    }

    /// One of the names opened with the IV (or there is none yet).
    pub(super) fn iv_fits(&self) {
        self.checked.store(true, Ordering::Release);
    }

    fn load(&self) -> Result<Option<DirectoryIv>> {
        let handle = self.handle()?;
        let read = || self.core.storage.read_symlink(&handle, directory_iv::ENTRY.as_ref());
        match widened(&self.core, Target::Dir(&*handle), 0o100, read) {
            Ok(target) => match DirectoryIv::decode(&self.core.keys, &target) {
                Ok(iv) => Ok(Some(iv)),
                Err(refused) => Err(self.damaged(&refused.to_string())),
            },
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let listed = self.open_anew()?;
                if listing::has_names(&self.core.storage, &listed)? && !aside::put_all(self, &handle, &listed)? {
                    return Err(self.damaged("the directory's IV is missing"));
                }
                Ok(None)
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Err(self.damaged("the directory's IV is not a symbolic link"))
            }
            Err(error) => Err(VaultError::io("read a directory's IV", error)),
        }
    }

    /// An IV of this vault that was put in place of the directory's own opens none of its names.
    fn check(&self, iv: &DirectoryIv) -> Result<()> {
        let listed = self.open_anew()?;
        let mut names = Vec::new();
        self.core
            .storage
            .read_dir(&listed, 0, &mut |entry| {
                if matches!(EntryForm::of(entry.name), EntryForm::Short | EntryForm::Long) {
                    names.push(entry.name.to_owned());
                }
                names.len() < NAMES_TRIED
            })
            .map_err(|e| VaultError::io("read a directory", e))?;
        let opens = names.iter().any(|entry| match EntryForm::of(entry) {
            EntryForm::Long => self
                .core
                .storage
                .read_symlink(&listed, &names::sidecar_of(entry))
                .is_ok_and(|target| names::open_long(self.core.keys.names(), iv, entry, &target).is_ok()),
            _ => names::open(self.core.keys.names(), iv, entry).is_ok(),
        });
        if opens || names.is_empty() {
            return Ok(());
        }
        Err(self.damaged("none of the directory's names opens with its IV: it was replaced, or all of them were"))
    }

    /// An integrity error of the IV, logged the first time that it is met.
    fn damaged(&self, reason: &str) -> VaultError {
        let path = format!("{}/{}", self.backing_path(), directory_iv::ENTRY);
        if self.reported.swap(true, Ordering::Relaxed) {
            VaultError::Integrity(IntegrityError { path, page: None, reason: reason.to_owned() })
        } else {
            VaultError::integrity(path, reason)
        }
    }
}

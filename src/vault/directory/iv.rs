//! A directory's IV: loaded once, checked against a name, made where a crash left none.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Directory, aside, listing, settle, widened};
use crate::format::directory_iv::{self, DirectoryIv, DirectoryIvError};
use crate::format::names::{self, EntryForm, NameError, SealedName, SealedNameError};
use crate::storage::{RenameMode, Storage, Target};
use crate::vault::error::{IntegrityError, Result, VaultError};
use crate::vault::keyring::{KeyRing, VersionKeys};

/// The link's name in the private folder, before it is moved to where it belongs.
const IV_TEMPORARY: &str = "iv.new";

/// An IV and the version of the keys that it was made under, which seal its names.
#[derive(Clone)]
pub(crate) struct KeyedIv {
    pub iv: DirectoryIv,
    pub keys: Arc<VersionKeys>,
}

/// The IV of a directory; two while a rotation renames what is in it.
pub(crate) struct Ivs {
    /// For new names.
    pub newest: KeyedIv,
    /// Names that have not been renamed yet are under this one.
    pub older: Option<KeyedIv>,
}

impl KeyedIv {
    /// The record, as it stands in the link's target.
    pub fn encode(&self) -> Vec<u8> {
        self.iv.encode(&self.keys)
    }

    pub fn seal(&self, name: &[u8]) -> std::result::Result<SealedName, NameError> {
        names::seal(self.keys.names(), &self.iv, name)
    }

    pub fn open(&self, entry: &OsStr) -> std::result::Result<Vec<u8>, SealedNameError> {
        names::open(self.keys.names(), &self.iv, entry)
    }

    pub fn open_long(&self, entry: &OsStr, target: &[u8]) -> std::result::Result<Vec<u8>, SealedNameError> {
        names::open_long(self.keys.names(), &self.iv, entry, target)
    }
}

impl Ivs {
    /// From the link's target. Two records are accepted only while a rotation is under way: the active version's first.
    fn decode(ring: &KeyRing, target: &[u8]) -> std::result::Result<Self, DirectoryIvError> {
        let live = ring.live();
        match (directory_iv::split(target), live.older) {
            ((newest, None), older) => {
                let under = |keys: Arc<VersionKeys>| {
                    DirectoryIv::decode(&keys, newest).map(|iv| Self { newest: KeyedIv { iv, keys }, older: None })
                };
                match (under(live.active), older) {
                    (Err(DirectoryIvError::Refused), Some(older)) => under(older),
                    (outcome, _) => outcome,
                }
            }
            ((_, Some(_)), None) => Err(DirectoryIvError::SecondRecord),
            ((newest, Some(older)), Some(older_keys)) => {
                let newest = KeyedIv { iv: DirectoryIv::decode(&live.active, newest)?, keys: live.active };
                let older = KeyedIv { iv: DirectoryIv::decode(&older_keys, older)?, keys: older_keys };
                Ok(Self { newest, older: Some(older) })
            }
        }
    }

    pub fn open(&self, entry: &OsStr) -> std::result::Result<Vec<u8>, SealedNameError> {
        self.either(|iv| iv.open(entry))
    }

    pub fn open_long(&self, entry: &OsStr, target: &[u8]) -> std::result::Result<Vec<u8>, SealedNameError> {
        self.either(|iv| iv.open_long(entry, target))
    }

    fn either<T>(
        &self,
        open: impl Fn(&KeyedIv) -> std::result::Result<T, SealedNameError>,
    ) -> std::result::Result<T, SealedNameError> {
        match (open(&self.newest), &self.older) {
            (Err(_), Some(older)) => open(older),
            (outcome, _) => outcome,
        }
    }
}

impl<S: Storage> Directory<S> {
    /// It is not on the backing any more.
    pub(super) fn forget_iv(&self) {
        *self.iv.write() = None;
        self.checked.store(false, Ordering::Release);
    }

    /// The IV, by which at least one of the directory's names opens. None: it has no IV, and no names.
    pub(super) fn iv(&self) -> Result<Option<Arc<Ivs>>> {
        let Some(ivs) = self.unchecked_iv()? else { return Ok(None) };
        if !self.checked.load(Ordering::Acquire) {
            let _loading = self.loading.lock();
            if !self.checked.load(Ordering::Acquire) {
                self.check(&ivs)?;
                self.iv_fits();
            }
        }
        Ok(Some(ivs))
    }

    /// The IV as it was read: enough for a listing, which opens the names itself.
    pub(super) fn unchecked_iv(&self) -> Result<Option<Arc<Ivs>>> {
        if let Some(ivs) = self.known_iv() {
            return Ok(Some(ivs));
        }
        let _loading = self.loading.lock();
        if let Some(ivs) = self.known_iv() {
            return Ok(Some(ivs));
        }
        Ok(self.load()?.map(|ivs| self.remember_iv(ivs)))
    }

    fn known_iv(&self) -> Option<Arc<Ivs>> {
        self.iv.read().clone()
    }

    fn remember_iv(&self, ivs: Ivs) -> Arc<Ivs> {
        let ivs = Arc::new(ivs);
        *self.iv.write() = Some(ivs.clone());
        ivs
    }

    /// The IV for a name that is about to be made: a new one if the directory has none.
    pub(super) fn iv_for_new_name(&self) -> Result<Arc<Ivs>> {
        if let Some(ivs) = self.iv()? {
            return Ok(ivs);
        }
        let handle = self.handle()?;
        self.place_iv(&handle)
    }

    /// Gives a directory without names its IV.
    pub(super) fn place_iv(&self, handle: &S::Dir) -> Result<Arc<Ivs>> {
        let _loading = self.loading.lock();
        if let Some(ivs) = self.known_iv() {
            return Ok(ivs);
        }
        let new = KeyedIv { iv: DirectoryIv::random(), keys: self.core.keys.active() };
        let target = new.encode();
        let place = || self.core.storage.make_symlink(handle, directory_iv::ENTRY.as_ref(), &target);
        widened(&self.core, Target::Dir(handle), 0o300, place)
            .map_err(|e| VaultError::io("make a directory's IV", e))?;
        self.mark_unsettled(settle::DEPENDED_ON)?;
        self.iv_fits();
        Ok(self.remember_iv(Ivs { newest: new, older: None }))
    }

    /// Gives a directory another IV, in the place of one that does not open, in one step. What names it has do not open by it.
    pub(crate) fn begin_anew(&self) -> Result<()> {
        let _names = self.names.write();
        let new = KeyedIv { iv: DirectoryIv::random(), keys: self.core.keys.active() };
        self.replace_iv(Ivs { newest: new, older: None })?;
        self.iv_fits();
        Ok(())
    }

    /// Puts other IVs in the place of the directory's own, in one step. The caller holds [`Self::names`] alone.
    pub(super) fn replace_iv(&self, ivs: Ivs) -> Result<()> {
        let _loading = self.loading.lock();
        let io = |e| VaultError::io("replace a directory's IV", e);
        let storage = &self.core.storage;
        let private = self.core.tree.private();
        let handle = self.handle()?;
        let target = match &ivs.older {
            Some(older) => directory_iv::join(&ivs.newest.encode(), &older.encode()),
            None => ivs.newest.encode(),
        };
        match storage.unlink(private, IV_TEMPORARY.as_ref()) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(io(error)),
            _ => {}
        }
        storage.make_symlink(private, IV_TEMPORARY.as_ref(), &target).map_err(io)?;
        let entry = OsStr::new(directory_iv::ENTRY);
        let place = || storage.rename(private, IV_TEMPORARY.as_ref(), &handle, entry, RenameMode::Replace);
        widened(&self.core, Target::Dir(&*handle), 0o300, place).map_err(io)?;
        self.remember_iv(ivs);
        Ok(())
    }

    /// One of the names opened with the IV (or there is none yet).
    pub(super) fn iv_fits(&self) {
        self.checked.store(true, Ordering::Release);
    }

    fn load(&self) -> Result<Option<Ivs>> {
        let handle = self.handle()?;
        let read = || self.core.storage.read_symlink(&handle, directory_iv::ENTRY.as_ref());
        match widened(&self.core, Target::Dir(&*handle), 0o100, read) {
            Ok(target) => match Ivs::decode(&self.core.keys, &target) {
                Ok(ivs) => Ok(Some(ivs)),
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

    /// An IV of this vault that was put in place of the directory's own opens none of its names. Names that do not
    /// open are looked past, however many somebody put there: one that does is enough.
    fn check(&self, ivs: &Ivs) -> Result<()> {
        let listed = self.open_anew()?;
        let sidecars = self.open_anew()?;
        let (mut names, mut opens) = (false, false);
        self.core
            .storage
            .read_dir(&listed, 0, &mut |entry| {
                opens = match EntryForm::of(entry.name) {
                    EntryForm::Short => ivs.open(entry.name).is_ok(),
                    EntryForm::Long => {
                        let target = self.core.storage.read_symlink(&sidecars, &names::sidecar_of(entry.name));
                        target.is_ok_and(|target| ivs.open_long(entry.name, &target).is_ok())
                    }
                    EntryForm::Sidecar | EntryForm::DirectoryIv | EntryForm::Foreign | EntryForm::Unknown => {
                        return true;
                    }
                };
                names = true;
                !opens
            })
            .map_err(|e| VaultError::io("read a directory", e))?;
        if opens || !names {
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

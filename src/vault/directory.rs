//! Directories of the tree: plain names above, sealed names below.
//!
//! A [`Directory`] is its parent, the sealed name of its entry there, and its IV. It holds no descriptor for good:
//! open handles live in a bounded cache ([`Tree`]), and an evicted one is opened again through the chain of
//! parents. There is one `Directory` for each backing directory, as long as anyone holds it, so that a rename moves
//! it for everyone, and after its removal everyone is told that it is gone.
//!
//! # What a crash may leave, and how it is met
//!
//! | left behind | because | met by |
//! |---|---|---|
//! | an empty directory without "=iv" | the crash came between `mkdir` and `symlink` | a new IV, with the first name |
//! | a sidecar without its entry | it is made before the entry, and removed after it | ignored; replaced, or removed with the directory |
//! | pieces of a long symlink target without the link | the same | ignored; `sero verify` lists them |
//! | a name that does not open, its "=iv" or sidecar gone | the backing kept the later of two changes alone | [`aside`]: never with what was durable |
//!
//! The last needs a backing that does not keep the order of changes in one directory (btrfs does so where a
//! file was fsynced). What is durable is protected from it: before a file becomes durable, or a durable one
//! gets a name, the directories that its name depends on are synced, if they changed since they last were
//! ([`Location::settle`]).
//!
//! # Order
//!
//! Changes of the names in one directory are the caller's to serialise. Everything else may run at the same time.
//! Locks: [`Tree::moves`] is held while handles are opened through parents (shared), and while a directory is
//! renamed or removed (alone); nothing of the vault above is called while it is held.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::core::VaultCore;
use super::error::{Result, VaultError};
use super::file::VaultFile;
use crate::format::names::{self, NameError, SealedName};
use crate::storage::{FileKind, RenameMode, Stat, Storage, Target};
pub(crate) use iv::Ivs;

mod aside;
mod inspect;
mod iv;
pub(crate) mod links;
mod listing;
mod location;
mod make;
mod rekey;
mod remove;
mod rename;
mod settle;
mod tree;

#[cfg(test)]
mod tests;

pub(crate) use inspect::{Inspected, InspectedName};
pub use listing::{ListEntry, Listing};
pub(crate) use location::Location;
pub use make::NewInode;
pub(crate) use tree::Tree;

/// The folder of the vault's own files.
pub(crate) const PRIVATE: &str = "private";
/// The folder of the encrypted tree.
pub(crate) const TREE: &str = "tree";

/// A directory of the tree. See the module's documentation.
pub struct Directory<S: Storage> {
    this: Weak<Self>,
    core: Arc<VaultCore<S>>,
    /// Of the backing directory.
    ino: u64,
    place: RwLock<Place<S>>,
    handle: tree::Slot<S>,
    iv: RwLock<Option<Arc<Ivs>>>,
    /// One of the directory's names has been opened with the IV.
    checked: AtomicBool,
    loading: Mutex<()>,
    /// What was wrong with the IV has been logged.
    reported: AtomicBool,
    unsettled: AtomicU8,
    /// Held shared from looking for a name until it was used, alone while a rotation changes sealed names. Before any
    /// other lock.
    pub(crate) names: RwLock<()>,
    /// Those that are open for listing, which a rotation must not disturb.
    listings: Mutex<Vec<listing::OpenListing<S>>>,
}

/// Where a directory is.
enum Place<S: Storage> {
    /// The tree's top.
    Top,
    Below {
        parent: Arc<Directory<S>>,
        entry: OsString,
    },
    /// Removed.
    Gone,
}

/// A rename, as the journal sees it. The stats are the backing's; `replaced` is the other side of an exchange.
pub(crate) struct RenamePlan<'a, S: Storage> {
    pub from: &'a Arc<Directory<S>>,
    pub from_entry: &'a OsStr,
    pub to: &'a Arc<Directory<S>>,
    pub to_entry: &'a OsStr,
    pub mode: RenameMode,
    pub source: Stat,
    pub replaced: Option<Stat>,
}

/// An inode held so that it can be reached after its last name is gone.
pub struct Pin<S: Storage> {
    pub(super) pin: S::Pin,
    /// The plain length of a symbolic link's target.
    pub(super) target_len: Option<u64>,
}

impl<S: Storage> Directory<S> {
    /// The top of the tree. There should be one, kept by the vault.
    pub(crate) fn root(core: &Arc<VaultCore<S>>) -> Result<Arc<Self>> {
        let handle = tree::open_top(&core.storage)?;
        let stat =
            core.storage.stat(Target::Dir(&handle)).map_err(|e| VaultError::io("read the tree's attributes", e))?;
        let root = Self::new(core, stat.ino, Place::Top);
        root.handle.keep(Arc::new(handle));
        Ok(core.tree.enter(root))
    }

    fn new(core: &Arc<VaultCore<S>>, ino: u64, place: Place<S>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            core: core.clone(),
            ino,
            place: RwLock::new(place),
            handle: tree::Slot::default(),
            iv: RwLock::new(None),
            checked: AtomicBool::new(false),
            loading: Mutex::new(()),
            reported: AtomicBool::new(false),
            unsettled: AtomicU8::new(0),
            names: RwLock::new(()),
            listings: Mutex::default(),
        })
    }

    /// The attributes of what has this name: plain sizes, newest times.
    pub fn lookup(&self, name: &[u8]) -> Result<Stat> {
        let _names = self.names.read();
        present_at(&self.locate(name)?)
    }

    /// The same of an entry of a listing, without sealing its name again: under one IV, a name has one sealed form.
    pub fn lookup_listed(&self, listed: &ListEntry<'_>) -> Result<Stat> {
        let _names = self.names.read();
        names::validate(listed.name)?;
        match present_at(&Location { directory: self.arc()?, entry: listed.entry.to_owned() }) {
            // A rotation may have sealed it anew.
            Err(error) if error.is_errno(libc::ENOENT) => present_at(&self.locate(listed.name)?),
            outcome => outcome,
        }
    }

    /// The backing's attributes of the directory itself.
    pub fn stat_self(&self) -> Result<Stat> {
        let handle = self.handle()?;
        self.core.storage.stat(Target::Dir(&*handle)).map_err(|e| VaultError::io("read a directory's attributes", e))
    }

    /// The directory of this name in this one.
    pub fn open_child(&self, name: &[u8]) -> Result<Arc<Self>> {
        let _names = self.names.read();
        self.open_entry(&self.locate(name)?.entry)
    }

    /// The directory of this sealed name.
    pub(crate) fn open_entry(&self, entry: &OsStr) -> Result<Arc<Self>> {
        let parent = self.handle()?;
        // A directory that is renamed meanwhile would be entered at its old place.
        let _moves = self.core.tree.moves.read();
        self.ensure_there()?;
        let stat = self
            .core
            .storage
            .stat(Target::Entry(&*parent, entry))
            .map_err(|e| VaultError::io("read a directory's attributes", e))?;
        if stat.kind() != FileKind::Directory {
            return Err(VaultError::errno("open a directory", libc::ENOTDIR));
        }
        if let Some(known) = self.core.tree.find(stat.ino) {
            return Ok(known);
        }
        let place = Place::Below { parent: self.arc()?, entry: entry.to_owned() };
        Ok(self.core.tree.enter(Self::new(&self.core, stat.ino, place)))
    }

    /// The regular file of this name.
    pub fn open_file(&self, name: &[u8]) -> Result<Arc<VaultFile<S>>> {
        let _names = self.names.read();
        let location = self.locate(name)?;
        let stat = location.stat()?;
        match stat.kind() {
            FileKind::Regular => self.core.open_file(location, &stat),
            FileKind::Directory => Err(VaultError::errno("open a file", libc::EISDIR)),
            FileKind::Symlink => Err(VaultError::errno("open a file", libc::ELOOP)),
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Unknown => {
                Err(VaultError::errno("open a file", libc::EINVAL))
            }
        }
    }

    /// The target of the symbolic link of this name.
    pub fn read_symlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        let _names = self.names.read();
        self.locate(name)?.open_symlink()
    }

    /// Holds what has this name, an inode of this kind.
    pub fn pin(&self, name: &[u8], kind: FileKind) -> Result<Pin<S>> {
        let _names = self.names.read();
        let location = self.locate(name)?;
        let pin = location.pin()?;
        let target_len = match kind {
            FileKind::Symlink => {
                let stat =
                    self.core.storage.stat(Target::Pin(&pin)).map_err(|e| VaultError::io("read attributes", e))?;
                Some(links::target_len(&self.core, &location, stat.size_bytes)?)
            }
            _ => None,
        };
        Ok(Pin { pin, target_len })
    }

    /// Whether there is no name in it.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(!listing::has_names(&self.core.storage, &self.open_anew()?)?)
    }

    /// Of the backing directory.
    pub(crate) const fn ino(&self) -> u64 {
        self.ino
    }

    /// Whether this is the directory of this backing inode, or below it.
    pub(crate) fn is_within(&self, ino: u64) -> bool {
        self.chain().any(|directory| directory.ino == ino)
    }

    /// The path below the vault, for reports and for the journal: "tree/..." in sealed names.
    pub(crate) fn backing_path(&self) -> String {
        self.backing_entries().iter().map(|entry| entry.to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    /// The parts of the path below the vault, as they are in the backing.
    pub(crate) fn backing_entries(&self) -> Vec<OsString> {
        let mut entries: Vec<OsString> = Vec::new();
        for directory in self.chain() {
            match &*directory.place.read() {
                Place::Top => entries.push(TREE.into()),
                Place::Below { entry, .. } => entries.push(entry.clone()),
                Place::Gone => entries.push("(removed)".into()),
            }
        }
        entries.reverse();
        entries
    }

    // --- names ---

    /// Where this name is, or would be if the directory had an IV: ENOENT if it has none, as it is empty then. The
    /// caller holds [`Self::names`].
    pub(crate) fn locate(&self, name: &[u8]) -> Result<Location<S>> {
        names::validate(name)?;
        match self.iv()? {
            Some(ivs) => Ok(Location { directory: self.arc()?, entry: self.seal_name(&ivs, name)?.entry }),
            None => Err(VaultError::errno("look up a name", libc::ENOENT)),
        }
    }

    /// The sealed form of a name: the one under which it is there, else the newest.
    fn seal_name(&self, ivs: &Ivs, name: &[u8]) -> Result<SealedName> {
        let sealed = ivs.newest.seal(name)?;
        let Some(older) = &ivs.older else { return Ok(sealed) };
        if self.has_entry(&sealed.entry)? {
            return Ok(sealed);
        }
        let under_older = older.seal(name)?;
        Ok(if self.has_entry(&under_older.entry)? { under_older } else { sealed })
    }

    fn has_entry(&self, entry: &OsStr) -> Result<bool> {
        let handle = self.handle()?;
        match self.core.storage.stat(Target::Entry(&*handle, entry)) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(VaultError::io("look up a name", error)),
        }
    }

    // --- handles ---

    /// An open handle: the cached one, or a new one through the parents.
    pub(crate) fn handle(&self) -> Result<Arc<S::Dir>> {
        if let Some(handle) = self.handle.get() {
            self.ensure_there()?;
            return Ok(handle);
        }
        let _moves = self.core.tree.moves.read();
        self.open_chain()
    }

    /// A handle of the caller's own: for listing, as a handle has one position.
    fn open_anew(&self) -> Result<S::Dir> {
        let _moves = self.core.tree.moves.read();
        let place = match &*self.place.read() {
            Place::Top => None,
            Place::Below { parent, entry } => Some((parent.clone(), entry.clone())),
            Place::Gone => return Err(gone()),
        };
        match place {
            None => tree::open_top(&self.core.storage),
            Some((parent, entry)) => open_below(&self.core, &*parent.open_chain()?, &entry),
        }
    }

    /// As [`handle`](Self::handle), with [`Tree::moves`] held by the caller. A loop, as paths can be deep.
    fn open_chain(&self) -> Result<Arc<S::Dir>> {
        let mut closed: Vec<(Arc<Self>, OsString)> = Vec::new();
        let mut at = self.arc()?;
        let mut handle = loop {
            if let Some(handle) = at.handle.get() {
                break handle;
            }
            let (parent, entry) = match &*at.place.read() {
                Place::Below { parent, entry } => (parent.clone(), entry.clone()),
                Place::Top => {
                    let handle = Arc::new(tree::open_top(&self.core.storage)?);
                    at.handle.keep(handle.clone());
                    break handle;
                }
                Place::Gone => return Err(gone()),
            };
            closed.push((at, entry));
            at = parent;
        };
        for (directory, entry) in closed.into_iter().rev() {
            handle = Arc::new(open_below(&self.core, &handle, &entry)?);
            self.core.tree.keep_open(&directory, handle.clone());
        }
        Ok(handle)
    }

    fn ensure_there(&self) -> Result<()> {
        match &*self.place.read() {
            Place::Top | Place::Below { .. } => Ok(()),
            Place::Gone => Err(gone()),
        }
    }

    /// This directory and those above it, upwards.
    pub(crate) fn chain(&self) -> impl Iterator<Item = Arc<Self>> + use<S> {
        std::iter::successors(self.this.upgrade(), |directory| match &*directory.place.read() {
            Place::Below { parent, .. } => Some(parent.clone()),
            Place::Top | Place::Gone => None,
        })
    }

    fn arc(&self) -> Result<Arc<Self>> {
        self.this.upgrade().ok_or(VaultError::Internal("a directory was used while it was dropped"))
    }
}

impl<S: Storage> Drop for Directory<S> {
    fn drop(&mut self) {
        self.core.tree.leave(self);
        // Parents one by one: a chain as deep as the path would otherwise be dropped by recursion.
        let mut next = std::mem::replace(self.place.get_mut(), Place::Gone);
        while let Place::Below { parent, .. } = next {
            let Some(mut last) = Arc::into_inner(parent) else { break };
            next = std::mem::replace(last.place.get_mut(), Place::Gone);
        }
    }
}

impl From<NameError> for VaultError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Invalid => Self::InvalidName,
            NameError::TooLong => Self::NameTooLong,
        }
    }
}

/// The attributes of what is there, as the vault shows them.
fn present_at<S: Storage>(location: &Location<S>) -> Result<Stat> {
    let mut stat = location.stat()?;
    location.present(&mut stat)?;
    Ok(stat)
}

fn open_below<S: Storage>(core: &VaultCore<S>, parent: &S::Dir, entry: &OsStr) -> Result<S::Dir> {
    widened(core, Target::Entry(parent, entry), 0o700, || core.storage.open_dir(parent, entry))
        .map_err(|e| VaultError::io("open a directory", e))
}

/// Does what an ordinary user may be refused on an inode of its own by that inode's permissions: on EACCES the
/// owner's bits are set for a moment. Whether the caller of the vault may do it was decided above.
pub(crate) fn widened<S: Storage, T>(
    core: &VaultCore<S>,
    target: Target<'_, S>,
    bits: u32,
    work: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    let refused = match work() {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) && !core.is_read_only() => error,
        other => return other,
    };
    let _alone = core.widening.write();
    let Ok(stat) = core.storage.stat(target) else { return Err(refused) };
    if stat.mode & bits == bits {
        // Somebody may have allowed it since.
        return work();
    }
    if core.storage.set_mode(target, stat.mode & 0o7777 | bits).is_err() {
        return Err(refused);
    }
    let outcome = work();
    let restored = core.storage.set_mode(target, stat.mode & 0o7777);
    outcome.and_then(|done| restored.map(|()| done))
}

fn gone() -> VaultError {
    VaultError::errno("use a directory that was removed", libc::ENOENT)
}

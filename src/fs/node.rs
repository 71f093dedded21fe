//! [`Node`]: an inode that the kernel (or an open handle) knows, and what is remembered about it.
//!
//! Locks, in the order in which a thread may take them:
//!
//! 1. `Node::xattrs`: reading, changing and writing back the attribute table of one inode;
//! 2. `Node::content`: shared by writes, exclusive for changes of the size that look at it first;
//! 3. `Folder::names`: shared by whatever relies on a name staying where it is, exclusive for changes of
//!    names. Several at a time are taken only by [`lock_names`], all exclusively, by ascending inode number;
//!    a thread that holds one takes no other;
//! 4. `Node::state` of one node, then `Folder::children` of one directory: held for a few instructions, never
//!    across a call of the vault. A shard of the table is locked under none of these, and takes none of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockWriteGuard};

use super::error::{FsError, Result};
use super::types::{Attr, InodeNo, SharedName};
use super::xattrs::Knowledge;
use crate::vault::{Directory, FileKind, Pin, PosixStorage, SetTime, Storage, Timestamp, VaultFile};

/// How many names of one inode are remembered. More are found again by asking the vault.
const NAMES_KEPT: usize = 8;

/// An inode that something refers to.
pub(super) struct Node<S: Storage> {
    pub ino: InodeNo,
    pub kind: FileKind,
    pub generation: u32,
    /// How often the kernel was given this node, less what it gave back.
    /// Changed under the lock of the table's shard alone, as is `holds`.
    pub lookups: AtomicU64,
    /// Handles that are open, and nodes that have a name in this directory.
    pub holds: AtomicU32,
    /// What directories have more.
    folder: Option<Box<Folder<S>>>,
    pub content: RwLock<()>,
    pub xattrs: Mutex<Knowledge>,
    /// The content was changed since it was last committed: with the next commit, the backing's attributes change.
    pub uncommitted: AtomicBool,
    /// Counts changes of this inode's entries, from 1.
    name_changes: AtomicU32,
    /// The last of these changes that is durable, with all directories above.
    names_durable: AtomicU32,
    state: Mutex<State<S>>,
}

/// What changes about a node.
pub(super) struct State<S: Storage> {
    /// The last known attributes. Permissions, owner, link count and a file's size are always right;
    /// the rest only if `fresh`.
    pub attr: Seen,
    pub fresh: bool,
    /// Counts changes, so that what was read before one is not remembered after it.
    pub version: u32,
    /// A name that the inode has: nearly all have one for ever. Others are in `rare`, and there only if there is this.
    name: Option<Name<S>>,
    rare: Option<Box<Rare<S>>>,
}

/// [`Attr`] without what the node says itself.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub perm: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size_bytes: u64,
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub provisional: bool,
}

impl From<Attr> for Seen {
    fn from(attr: Attr) -> Self {
        let Attr { ino: _, kind: _, perm, nlink, uid, gid, rdev, size_bytes, blocks, atime, mtime, ctime, provisional } =
            attr;
        Self { perm, nlink, uid, gid, rdev, size_bytes, blocks, atime, mtime, ctime, provisional }
    }
}

impl Seen {
    /// The attributes of this node.
    pub fn of<S: Storage>(self, node: &Node<S>) -> Attr {
        let Self { perm, nlink, uid, gid, rdev, size_bytes, blocks, atime, mtime, ctime, provisional } = self;
        let (ino, kind) = (node.ino, node.kind);
        Attr { ino, kind, perm, nlink, uid, gid, rdev, size_bytes, blocks, atime, mtime, ctime, provisional }
    }
}

/// What the kernel holds by the million: docs/performance.md says how much that is.
const _: () = assert!(size_of::<Node<PosixStorage>>() <= 168 && size_of::<Timestamp>() == 12);

/// What few of the nodes in memory have, of which there can be a million.
struct Rare<S: Storage> {
    other_names: Vec<Name<S>>,
    /// What still reaches the inode when it has no known name.
    anchor: Option<Anchor<S>>,
    /// The file, while handles are open, and their number.
    open: Option<(Arc<VaultFile<S>>, usize)>,
    /// Where a symbolic link led that has no name any more.
    last_target: Option<Arc<[u8]>>,
    /// There was a name that is not remembered.
    has_more_names: bool,
}

/// What a directory has more than other nodes.
pub(super) struct Folder<S: Storage> {
    /// Opened at the first use: then the directory's IV is loaded.
    directory: OnceLock<Arc<Directory<S>>>,
    pub names: RwLock<()>,
    /// Nodes by their name in this directory, as far as they are known.
    children: Mutex<HashMap<SharedName, Weak<Node<S>>>>,
    /// Counts changes of the directory.
    changes: AtomicU64,
    /// The last change that is durable. Changes start at 1: nothing is known of what was before.
    synced: AtomicU64,
    removed: AtomicBool,
}

/// An entry of a directory. The directory stays in the table as long as a node has a name in it.
pub(super) struct Name<S: Storage> {
    pub parent: Arc<Node<S>>,
    pub name: SharedName,
}

impl<S: Storage> Name<S> {
    pub fn new(parent: &Arc<Node<S>>, name: &[u8]) -> Self {
        Self { parent: parent.clone(), name: name.into() }
    }

    fn is(&self, parent: &Arc<Node<S>>, name: &[u8]) -> bool {
        Arc::ptr_eq(&self.parent, parent) && *self.name == *name
    }
}

impl<S: Storage> Clone for Name<S> {
    fn clone(&self) -> Self {
        Self { parent: self.parent.clone(), name: self.name.clone() }
    }
}

/// An inode held without a name.
pub(super) enum Anchor<S: Storage> {
    File(Arc<VaultFile<S>>),
    Pin(Arc<Pin<S>>),
}

impl<S: Storage> Clone for Anchor<S> {
    fn clone(&self) -> Self {
        match self {
            Self::File(file) => Self::File(file.clone()),
            Self::Pin(pin) => Self::Pin(pin.clone()),
        }
    }
}

impl<S: Storage> Node<S> {
    /// A node that is known to the kernel once.
    pub fn new(attr: Attr, generation: u32, knowledge: Knowledge, directory: Option<Arc<Directory<S>>>) -> Self {
        let folder = (attr.kind == FileKind::Directory).then(|| {
            Box::new(Folder {
                directory: directory.map(OnceLock::from).unwrap_or_default(),
                names: RwLock::new(()),
                children: Mutex::new(HashMap::new()),
                changes: AtomicU64::new(1),
                synced: AtomicU64::new(0),
                removed: AtomicBool::new(false),
            })
        });
        Self {
            ino: attr.ino,
            kind: attr.kind,
            generation,
            lookups: AtomicU64::new(1),
            holds: AtomicU32::new(0),
            folder,
            content: RwLock::new(()),
            xattrs: Mutex::new(knowledge),
            uncommitted: AtomicBool::new(false),
            name_changes: AtomicU32::new(1),
            names_durable: AtomicU32::new(0),
            state: Mutex::new(State {
                attr: attr.into(),
                fresh: !attr.provisional,
                version: 0,
                name: None,
                rare: None,
            }),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock()
    }

    /// What a directory has more; an error for anything else.
    pub fn folder(&self) -> Result<&Folder<S>> {
        self.folder.as_deref().ok_or(FsError::NotDirectory)
    }

    /// The attributes as last seen (see [`State::attr`]).
    pub fn last_attr(&self) -> Attr {
        self.state().attr.of(self)
    }

    /// Something changed beneath: the attributes are to be asked for again.
    pub fn touch(&self) {
        let mut state = self.state();
        state.version = state.version.wrapping_add(1);
        state.fresh = false;
        drop(state);
        if let Some(folder) = &self.folder {
            folder.changes.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// One of the names, if any is known.
    pub fn any_name(&self) -> Option<Name<S>> {
        self.state().name.clone()
    }

    /// One of its entries was changed.
    pub fn names_changed(&self) {
        self.name_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The last change of its entries, if it is not known to be durable.
    pub fn unsynced_names(&self) -> Option<u32> {
        let last = self.name_changes.load(Ordering::Acquire);
        (self.names_durable.load(Ordering::Acquire) < last).then_some(last)
    }

    /// Its entries as of this change are durable, and all directories above.
    pub fn names_synced(&self, change: u32) {
        self.names_durable.fetch_max(change, Ordering::AcqRel);
    }

    /// Whether [`all_names`](Self::all_names) may not be all.
    pub fn has_more_names(&self) -> bool {
        self.state().rare.as_ref().is_some_and(|rare| rare.has_more_names)
    }

    pub fn all_names(&self) -> Vec<Name<S>> {
        self.state().names().cloned().collect()
    }

    /// Whether the inode still has this name. Stays true while the directory's names are locked.
    pub fn is_at(&self, name: &Name<S>) -> bool {
        self.state().names().any(|known| known.is(&name.parent, &name.name))
    }

    /// Whether the inode has a known name other than this one.
    pub fn has_other_name(&self, parent: &Arc<Node<S>>, name: &[u8]) -> bool {
        self.state().names().any(|known| !known.is(parent, name))
    }

    /// Remembers a name of this inode; false if nothing changed. The caller counts it as a hold of the parent.
    pub fn add_name(self: &Arc<Self>, parent: &Arc<Node<S>>, name: &[u8]) -> bool {
        let Some(folder) = &parent.folder else { return false };
        let mut state = self.state();
        if state.names().any(|known| known.is(parent, name)) {
            return false;
        }
        if state.names().count() >= NAMES_KEPT {
            state.rare().has_more_names = true;
            return false;
        }
        let name = Name::new(parent, name);
        folder.children.lock().insert(name.name.clone(), Arc::downgrade(self));
        match state.name {
            None => state.name = Some(name),
            Some(_) => state.rare().other_names.push(name),
        }
        // Not needed any more; what it holds is closed after the lock is gone.
        let anchor = state.take_anchor();
        drop(state);
        drop(anchor);
        true
    }

    /// Forgets a name of this inode; true if it was known. The caller gives the hold of the parent back.
    pub fn remove_name(self: &Arc<Self>, parent: &Arc<Node<S>>, name: &[u8]) -> bool {
        let mut state = self.state();
        if !state.remove_name(parent, name) {
            return false;
        }
        self.leave(parent, name);
        true
    }

    /// Forgets all names, as the node goes.
    pub fn take_names(self: &Arc<Self>) -> Vec<Name<S>> {
        let names = self.state().take_names();
        for name in &names {
            self.leave(&name.parent, &name.name);
        }
        names
    }

    fn leave(self: &Arc<Self>, parent: &Node<S>, name: &[u8]) {
        let Some(folder) = &parent.folder else { return };
        let mut children = folder.children.lock();
        if children.get(name).is_some_and(|child| std::ptr::eq(child.as_ptr(), Arc::as_ptr(self))) {
            children.remove(name);
        }
    }

    /// The node of a name in this directory, if it is known.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Node<S>>> {
        self.folder.as_ref()?.children.lock().get(name)?.upgrade()
    }

    /// Notes that content was written up to `end_bytes`. `content` is held shared or exclusively.
    pub fn wrote(&self, end_bytes: u64, modified: Option<Timestamp>) {
        let mut state = self.state();
        state.version = state.version.wrapping_add(1);
        state.fresh = false;
        state.attr.size_bytes = state.attr.size_bytes.max(end_bytes);
        if let Some(now) = modified {
            state.attr.mtime = now;
            state.attr.ctime = now;
        }
        drop(state);
        self.uncommitted.store(true, Ordering::Release);
    }

    /// Notes a new size. `content` is held exclusively.
    pub fn resized(&self, size_bytes: u64) {
        let mut state = self.state();
        state.version = state.version.wrapping_add(1);
        state.fresh = false;
        state.attr.size_bytes = size_bytes;
        drop(state);
        self.uncommitted.store(true, Ordering::Release);
    }

    /// A regular file without a name, as far as is known.
    pub fn is_removed_file(&self) -> bool {
        let state = self.state();
        self.kind == FileKind::Regular && state.attr.nlink == 0 && state.name.is_none()
    }

    /// Sets times in memory alone, of an inode that is gone with the last reference to it.
    pub fn set_last_times(&self, (atime, mtime): (SetTime, SetTime), now: Timestamp) -> Attr {
        let mut state = self.state();
        let set = |time: &mut Timestamp, to| match to {
            SetTime::Keep => {}
            SetTime::Now => *time = now,
            SetTime::To(given) => *time = given,
        };
        set(&mut state.attr.atime, atime);
        set(&mut state.attr.mtime, mtime);
        state.attr.ctime = now;
        // What is known is all that there will be; another answer would undo these.
        state.version = state.version.wrapping_add(1);
        state.fresh = true;
        state.attr.of(self)
    }

    /// Notes that one handle more is open on `file`, and returns the file that all of them use.
    pub fn opened(&self, file: Arc<VaultFile<S>>) -> Arc<VaultFile<S>> {
        let mut state = self.state();
        let (file, handles) = state.rare().open.get_or_insert((file, 0));
        *handles = handles.saturating_add(1);
        file.clone()
    }

    /// Notes that a handle was closed; returns the file if that was the last one.
    pub fn closed(&self) -> Option<Arc<VaultFile<S>>> {
        let mut state = self.state();
        let (_, handles) = state.rare.as_mut()?.open.as_mut()?;
        *handles = handles.saturating_sub(1);
        if *handles > 0 {
            return None;
        }
        state.take_open()
    }
}

impl<S: Storage> State<S> {
    fn names(&self) -> impl Iterator<Item = &Name<S>> {
        self.name.iter().chain(self.rare.iter().flat_map(|rare| &rare.other_names))
    }

    fn remove_name(&mut self, parent: &Arc<Node<S>>, name: &[u8]) -> bool {
        let others = self.rare.as_mut().map(|rare| &mut rare.other_names);
        if self.name.as_ref().is_some_and(|known| known.is(parent, name)) {
            self.name = others.and_then(Vec::pop);
            self.shrink();
            return true;
        }
        let Some(others) = others else { return false };
        let Some(at) = others.iter().position(|known| known.is(parent, name)) else { return false };
        others.swap_remove(at);
        self.shrink();
        true
    }

    fn take_names(&mut self) -> Vec<Name<S>> {
        let mut names: Vec<_> = self.name.take().into_iter().collect();
        if let Some(rare) = &mut self.rare {
            names.append(&mut rare.other_names);
        }
        self.shrink();
        names
    }

    /// What reaches the inode when it has no known name.
    pub fn anchor(&self) -> Option<&Anchor<S>> {
        self.rare.as_ref()?.anchor.as_ref()
    }

    pub fn set_anchor(&mut self, anchor: Anchor<S>) {
        self.rare().anchor = Some(anchor);
    }

    pub fn take_anchor(&mut self) -> Option<Anchor<S>> {
        let anchor = self.rare.as_mut()?.anchor.take();
        self.shrink();
        anchor
    }

    /// The file, while handles are open.
    pub fn open(&self) -> Option<&Arc<VaultFile<S>>> {
        self.rare.as_ref()?.open.as_ref().map(|(file, _)| file)
    }

    pub fn take_open(&mut self) -> Option<Arc<VaultFile<S>>> {
        let open = self.rare.as_mut()?.open.take();
        self.shrink();
        open.map(|(file, _)| file)
    }

    /// Where a symbolic link led that has no name any more.
    pub fn last_target(&self) -> Option<&Arc<[u8]>> {
        self.rare.as_ref()?.last_target.as_ref()
    }

    pub fn set_last_target(&mut self, target: Arc<[u8]>) {
        self.rare().last_target = Some(target);
    }

    fn rare(&mut self) -> &mut Rare<S> {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                other_names: Vec::new(),
                anchor: None,
                open: None,
                last_target: None,
                has_more_names: false,
            })
        })
    }

    /// Lets go of what is empty.
    fn shrink(&mut self) {
        let is_empty = |rare: &Rare<S>| {
            let Rare { other_names, anchor, open, last_target, has_more_names } = rare;
            other_names.is_empty() && anchor.is_none() && open.is_none() && last_target.is_none() && !has_more_names
        };
        if self.rare.as_deref().is_some_and(is_empty) {
            self.rare = None;
        }
    }
}

impl<S: Storage> Folder<S> {
    /// The vault's directory, if it was opened.
    pub fn opened(&self) -> Option<&Arc<Directory<S>>> {
        self.directory.get()
    }

    /// Remembers the vault's directory, and returns the one that is remembered.
    pub fn set_opened(&self, directory: Arc<Directory<S>>) -> &Arc<Directory<S>> {
        self.directory.get_or_init(|| directory)
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub fn set_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    pub fn last_change(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The number of the last change, if it is not known to be durable.
    pub fn unsynced_change(&self) -> Option<u64> {
        let last = self.last_change();
        (self.synced.load(Ordering::Acquire) < last).then_some(last)
    }

    /// Everything up to this change is durable.
    pub fn synced(&self, change: u64) {
        self.synced.fetch_max(change, Ordering::AcqRel);
    }
}

/// Locks the names of up to three directories; None and whatever is no directory is left out.
pub(super) fn lock_names<S: Storage>(nodes: [Option<&Arc<Node<S>>>; 3]) -> [Option<RwLockWriteGuard<'_, ()>>; 3] {
    let mut wanted = nodes.map(|node| node.filter(|node| node.folder.is_some()));
    // By number; by address where a number was used twice. Left-out ones first.
    wanted.sort_unstable_by_key(|node| node.map(|node| (node.ino, Arc::as_ptr(node) as usize)));
    let mut previous: Option<&Arc<Node<S>>> = None;
    wanted.map(|node| {
        let node = node?;
        if previous.is_some_and(|previous| Arc::ptr_eq(previous, node)) {
            return None;
        }
        previous = Some(node);
        node.folder.as_ref().map(|folder| folder.names.write())
    })
}

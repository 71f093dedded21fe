//! A regular file of the vault: plain bytes above, a home file and the journal below.
//!
//! One [`VaultFile`] stands for one backing inode, however many handles are open. Its state is in one of two
//! conditions ([`Base`]):
//!
//! - *Volatile*: made in this session and not yet durable. Nothing of it has been promised, so everything goes
//!   straight home and nothing is journaled. A sync of any kind, at the latest the background one, ends this.
//! - *Durable*: the home holds a committed state that was synced. Every change of what that state (or the
//!   journal) refers to is appended to the journal and reaches the home with the next checkpoint. Only
//!   pages to which nothing refers are written straight home, and recorded once the home is synced.
//!
//! Order of locks: `VaultCore::gate` (shared), then one file's state, then its `syncing`, then the journal's own. Under
//! `keys_used` none is taken.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::core::VaultCore;
use super::directory::{Directory, Location};
use super::error::{Result, VaultError};
use super::tree::TagTree;
use crate::crypto::entropy;
use crate::format::geometry::{BlockIndex, PageIndex};
use crate::format::header::{Birth, Salt, Seal};
use crate::format::record::{FileId, Lsn, SegmentSeq};
use crate::storage::{SetTime, Stat, Storage, Target, Timestamp};

pub(crate) mod check;
mod durability;
mod home;
mod journaling;
pub(crate) mod open;
mod put;
mod read;
pub(crate) mod replay;
mod reseal;
mod resize;
mod sealing;
mod write;

pub(crate) use durability::Applied;
pub(crate) use home::Keys;
use home::{Home, Overlay};

/// Clean nodes that one file keeps in memory: 16 MiB, of 2 GiB of content.
const NODES_KEPT: usize = 4096;

/// See the module's documentation.
pub struct VaultFile<S: Storage> {
    core: Arc<VaultCore<S>>,
    ino: u64,
    location: RwLock<Location<S>>,
    /// Another name that it has, if one was made while it was in memory.
    other_name: Mutex<Option<Location<S>>>,
    /// The last name is gone, or there was none yet.
    unlinked: AtomicBool,
    /// It was made without a name and has not got one yet.
    unnamed: AtomicBool,
    /// The name under which the file is known is gone, and another that it has is not known.
    lost: AtomicBool,
    /// It was opened by a pin, and so can be again, without a name.
    pinned: AtomicBool,
    volatile: AtomicBool,
    /// The keys that were sealed with last.
    keys_used: Mutex<Weak<Keys>>,
    /// Held while the home is synced.
    syncing: Mutex<()>,
    /// The home, for what needs nothing of the state.
    backing: Arc<S::File>,
    state: RwLock<State<S>>,
}

/// What the home is a base for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Volatile,
    /// `synced`: the home was synced in this session before its first change.
    Durable {
        synced: bool,
    },
}

enum Body {
    /// The content is one message; None: no header has been written yet, the file is new and empty.
    Blob {
        seal: Option<Seal>,
        sealed: Option<Box<[u8]>>,
    },
    Paged(TagTree),
}

struct State<S: Storage> {
    home: Home<S>,
    body: Body,
    size: u64,
    /// Of the header that the home holds, or will hold when the segments before this one are applied.
    seq: u64,
    birth: Birth,
    /// As in the header: all of the file is under this key version or a later one.
    under: u32,
    base: Base,
    /// Volatile: what is in memory has not all been written home.
    stale: bool,
    /// The modification time, where the backing's own does not say it.
    mtime: Option<Timestamp>,
    /// A volatile file's home was written since it was last given that time.
    mtime_due: bool,
    /// The home file's length.
    home_len: u64,
    /// Bytes of the home for which somebody asked for space, which stays reserved behind its end.
    asked_for: Vec<Range<u64>>,
    journal: Journaled,
}

/// A durable file's part in the journal.
#[derive(Default)]
struct Journaled {
    id: Option<FileId>,
    /// The salt of the header that `State::seq` speaks of.
    base_salt: Salt,
    /// Of the blob that was journaled last: the number of its header.
    blob_seq: u64,
    /// The segment in which the file was last named.
    named_in: Option<SegmentSeq>,
    /// The segment in which it was last recorded that the home may be longer than it should.
    extending_in: Option<SegmentSeq>,
    /// The last segment in which pages were dropped: until it is retired, a hole is not a fresh page.
    dropped_in: Option<SegmentSeq>,
    /// The record that made everything in the home before it count for nothing.
    superseded_at: Option<Lsn>,
    /// The last record about this file.
    last: Lsn,
    /// Something was recorded since the last checkpoint; of a volatile file: changed since it was last committed.
    touched: bool,
    /// A checkpoint that is not over has the file's state: after a crash, recovery brings that home.
    in_checkpoint: bool,
    /// The plain size as of the last record.
    size: u64,
    /// The plain size in the header that was sealed last.
    header_size: u64,
    /// The length that the last checkpoint which took the file's state gives its home, however long that is until then.
    taken_len: u64,
    /// Fresh pages that are home and not recorded.
    pending: BTreeSet<PageIndex>,
    /// Bytes of the home up to which space is reserved for pages in the journal.
    reserved: u64,
    /// Space may have been reserved behind the end of the home for such pages, which the next checkpoint gives back.
    reserved_behind: bool,
    /// Nodes for which it was, since pages below them were written straight home.
    reserved_nodes: BTreeSet<BlockIndex>,
    /// Ranges of pages that became holes, whose space the next checkpoint gives back.
    punched: Vec<(PageIndex, PageIndex)>,
    /// The same, of a checkpoint that is not over.
    giving_back: Vec<(PageIndex, PageIndex)>,
}

impl Journaled {
    /// Whether a crash now would have recovery bring the state of a durable file home.
    fn is_replayed(&self) -> bool {
        self.touched || self.in_checkpoint
    }

    /// Space was reserved for these pages: no checkpoint gives it back.
    fn keep_space(&mut self, first: PageIndex, end: PageIndex) {
        for ranges in [&mut self.punched, &mut self.giving_back] {
            let outside = |(from, to): &_| [(*from, first.min(*to)), (end.max(*from), *to)];
            *ranges = ranges.iter().flat_map(outside).filter(|(from, to)| from < to).collect();
        }
    }
}

impl<S: Storage> VaultFile<S> {
    /// A file that was just made, with a name or (`stat` says so) without one: empty, volatile, its header not yet written.
    pub(crate) fn new_empty(core: &Arc<VaultCore<S>>, location: Location<S>, file: Arc<S::File>, stat: &Stat) -> Self {
        let keys = Keys::new(core, entropy::array());
        let under = keys.version().0;
        let home = Home::new(file, keys, Overlay::default(), location.backing_path());
        let state = State {
            home,
            body: Body::Blob { seal: None, sealed: None },
            size: 0,
            seq: 0,
            birth: core.birth(),
            under,
            base: Base::Volatile,
            stale: true,
            // As whoever made it is told.
            mtime: Some(stat.mtime),
            mtime_due: false,
            home_len: stat.size_bytes,
            asked_for: Vec::new(),
            journal: Journaled::default(),
        };
        let mut made = Self::with_state(core, location, stat.ino, state);
        if stat.nlink == 0 {
            made.unnamed = AtomicBool::new(true);
            made.unlinked = AtomicBool::new(true);
            made.lost = AtomicBool::new(true);
        }
        made
    }

    /// The backing's inode number.
    pub const fn ino(&self) -> u64 {
        self.ino
    }

    /// When it was made.
    pub(crate) fn birth(&self) -> Birth {
        self.state.read().birth
    }

    /// The plain size.
    pub fn len_bytes(&self) -> u64 {
        self.state.read().size
    }

    /// The modification time, if it is newer than the backing's own.
    pub fn mtime(&self) -> Option<Timestamp> {
        self.state.read().mtime
    }

    /// Whether the space that the backing has for the file is going to change by itself: with the next checkpoint.
    pub(crate) fn space_is_due(&self) -> bool {
        let state = self.state.read();
        state.base != Base::Volatile && (state.journal.is_replayed() || state.home_len != state.wanted_home_len())
    }

    /// Whether the next checkpoint will give back some of the space that the backing has for the file.
    pub(crate) fn gives_space_back(&self) -> bool {
        let state = self.state.read();
        let shorter = state.home_len > state.wanted_home_len();
        state.base != Base::Volatile && (shorter || !state.journal.punched.is_empty())
    }

    /// The backing's attributes with the plain size and the newest modification time.
    pub fn stat(&self) -> Result<Stat> {
        let state = self.state.read();
        let mut stat = self
            .core
            .storage
            .stat(Target::File(&*state.home.file))
            .map_err(|e| VaultError::io("read a file's attributes", e))?;
        stat.size_bytes = state.size;
        if let Some(mtime) = state.mtime {
            stat.mtime = mtime;
        }
        Ok(stat)
    }

    /// The backing's open file, for attribute calls.
    pub(crate) fn with_backing<T>(&self, call: impl FnOnce(&S::File) -> T) -> T {
        call(&self.backing)
    }

    /// Says where the file is now (after a rename).
    pub(crate) fn moved(&self, location: Location<S>) {
        *self.location.write() = location;
        self.lost.store(false, Ordering::Release);
    }

    /// Whether this is the name under which the file is known.
    pub(crate) fn is_known_as(&self, directory: &Arc<Directory<S>>, entry: &OsStr) -> bool {
        self.location.read().is(directory, entry)
    }

    /// One of its names went away, and there may be others.
    pub(crate) fn name_went(&self, directory: &Arc<Directory<S>>, entry: &OsStr) {
        let mut other_name = self.other_name.lock();
        if self.is_known_as(directory, entry) {
            match other_name.take() {
                Some(other) => self.moved(other),
                None => self.lost.store(true, Ordering::Release),
            }
        } else if other_name.as_ref().is_some_and(|other| other.is(directory, entry)) {
            *other_name = None;
        }
    }

    /// One of its names is another now. The journal may speak of it by the name under which it is known: that one is
    /// followed, and no other takes its place.
    pub(crate) fn name_moved(&self, from: (&Arc<Directory<S>>, &OsStr), to: (&Arc<Directory<S>>, &OsStr)) {
        let location = Location { directory: to.0.clone(), entry: to.1.to_owned() };
        if self.is_lost() || self.is_known_as(from.0, from.1) {
            self.moved(location);
        } else {
            *self.other_name.lock() = Some(location);
        }
    }

    /// What it was known by may not be its name any more.
    pub(crate) fn lost_its_name(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// It got another name.
    pub(crate) fn got_name(&self, location: Location<S>) {
        if self.is_lost() {
            self.moved(location);
        } else {
            *self.other_name.lock() = Some(location);
        }
        if self.is_unnamed() {
            // In this order: at no moment does it seem to have lost its last name.
            self.unlinked.store(false, Ordering::Release);
            self.unnamed.store(false, Ordering::Release);
        }
    }

    /// Whether it was made without a name and has not got one yet.
    pub fn is_unnamed(&self) -> bool {
        self.unnamed.load(Ordering::Acquire)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Where the file is, by one of its names.
    pub(crate) fn location(&self) -> Location<S> {
        self.location.read().clone()
    }

    /// There is no name: nothing of the file needs to survive.
    pub(crate) fn set_unlinked(&self) {
        self.unlinked.store(true, Ordering::Release);
    }

    pub(crate) fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    pub(crate) fn set_pinned(&self) {
        self.pinned.store(true, Ordering::Release);
    }

    /// Whether nothing of it is needed once nobody has it open: it can't be opened again.
    pub(crate) fn ends_with_its_users(&self) -> bool {
        self.is_unlinked() && !self.pinned.load(Ordering::Acquire)
    }

    pub(crate) fn is_volatile(&self) -> bool {
        self.volatile.load(Ordering::Acquire)
    }

    /// Sets the times. They outlive the writes of a later checkpoint.
    pub fn set_times(&self, atime: SetTime, mtime: SetTime) -> Result<()> {
        self.core.ensure_writable()?;
        // A background sync may make it durable meanwhile: what is recorded then needs room.
        match self.set_times_if(self.is_volatile(), atime, mtime)? {
            Some(()) => Ok(()),
            None => self.set_times_if(false, atime, mtime).map(drop),
        }
    }

    /// None: it was taken for volatile, and is not.
    fn set_times_if(&self, is_volatile: bool, atime: SetTime, mtime: SetTime) -> Result<Option<()>> {
        let _admission = if is_volatile { None } else { Some(self.core.admit(8)?) };
        let _gate = self.core.change_gate()?;
        let mut state = self.state.write();
        if is_volatile && state.base != Base::Volatile {
            return Ok(None);
        }
        let mtime = match mtime {
            SetTime::Now => SetTime::To(self.core.storage.now()),
            other => other,
        };
        match self.core.storage.set_times(Target::File(&*state.home.file), atime, mtime) {
            // A file of another user's that was written to: the kernel keeps the time of that, and who may set it is the
            // kernel's to say.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && state.mtime.is_some() => {}
            outcome => outcome.map_err(|e| VaultError::io("set a file's times", e))?,
        }
        let mut journaled = false;
        if let SetTime::To(time) = mtime {
            state.mtime = Some(time);
            state.mtime_due = false;
            // Also where a checkpoint that is not over has all of it: after a crash, that would bring its own time home.
            if state.base != Base::Volatile && state.journal.is_replayed() {
                self.record_length(&mut state)?;
                journaled = true;
            }
        }
        // The journal speaks of the modification time alone. (The kernel's cache sets that before each of its syncs.)
        if !journaled || atime != SetTime::Keep {
            self.core.attributes_changed(self.ino)?;
        }
        Ok(Some(()))
    }
}

impl<S: Storage> Drop for VaultFile<S> {
    fn drop(&mut self) {
        // Also where a panic ends it: nobody waits for a file for ever.
        let _leaving = Leaving { core: self.core.clone(), ino: self.ino, file: std::ptr::from_ref(self) };
        let ends = self.ends_with_its_users();
        let state = self.state.get_mut();
        // Whoever had it open commits; this is for those who could not.
        match state.base {
            Base::Durable { .. } => {}
            Base::Volatile if ends => self.core.forget_volatile(self.ino),
            Base::Volatile => {
                if (state.stale || state.mtime_due) && !self.core.is_read_only() {
                    let _ = state.commit_home(&self.core);
                    // A background sync that began before does not cover it.
                    self.core.remember_written(self.ino);
                }
            }
        }
    }
}

/// A file on its way out of the table.
struct Leaving<S: Storage> {
    core: Arc<VaultCore<S>>,
    ino: u64,
    file: *const VaultFile<S>,
}

impl<S: Storage> Drop for Leaving<S> {
    fn drop(&mut self) {
        self.core.file_left(self.ino, self.file);
    }
}

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
//! Order of locks: `VaultCore::gate` (shared), then one file's state, then the journal's own.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use super::core::{Scratch, VaultCore};
use super::directory::{Directory, Location};
use super::error::{Result, VaultError};
use super::tree::TagTree;
use crate::crypto::entropy;
use crate::format::geometry::{
    BLOB_MAX, BlockIndex, HEADER_LEN, PAGE_BYTES, PAGE_LEN, PageIndex, home_len, page_block, page_count, plain_len,
};
use crate::format::header::{Birth, Header, Salt, Seal};
use crate::format::record::{FileId, Lsn, SegmentSeq};
use crate::format::seals::Sealed;
use crate::storage::{SetTime, Stat, Storage, Target, Timestamp, read_into};

mod durability;
mod home;
mod journaling;
pub(crate) mod replay;
mod resize;
mod write;

pub(crate) use durability::Applied;
use home::{Home, Keys};

/// Clean nodes that one file keeps in memory (2 MiB of tags cover 256 MiB of content).
const NODES_KEPT: usize = 4096;

/// See the module's documentation.
pub struct VaultFile<S: Storage> {
    core: Arc<VaultCore<S>>,
    ino: u64,
    location: RwLock<Location<S>>,
    /// Another name that it has, if one was made while it was in memory.
    other_name: Mutex<Option<Location<S>>>,
    /// The last name is gone.
    unlinked: AtomicBool,
    /// The name under which the file is known is gone, and another that it has is not known.
    lost: AtomicBool,
    volatile: AtomicBool,
    state: RwLock<State<S>>,
}

/// What the home is a base for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Volatile,
    /// `synced`: the home was synced in this session before its first change.
    Durable { synced: bool },
}

enum Body {
    /// The content is one message; None: no header has been written yet, the file is new and empty.
    Blob { seal: Option<Seal>, sealed: Option<Box<[u8]>> },
    Paged(TagTree),
}

struct State<S: Storage> {
    home: Home<S>,
    body: Body,
    size: u64,
    /// Of the header that the home holds, or will hold when the segments before this one are applied.
    seq: u64,
    birth: Birth,
    base: Base,
    /// Volatile: what is in memory has not all been written home.
    stale: bool,
    /// The modification time, where the backing's own does not say it.
    mtime: Option<Timestamp>,
    /// The home file's length.
    home_len: u64,
    journal: Journaled,
}

/// A durable file's part in the journal.
#[derive(Default)]
struct Journaled {
    id: Option<FileId>,
    /// The salt of the header that `State::seq` speaks of.
    base_salt: Salt,
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
    /// Something was recorded since the last checkpoint.
    touched: bool,
    /// The plain size as of the last record.
    size: u64,
    /// The plain size in the header that was sealed last.
    header_size: u64,
    /// Fresh pages that are home and not recorded.
    pending: BTreeSet<PageIndex>,
    /// Bytes of the home up to which space is reserved for pages in the journal.
    reserved: u64,
    /// Ranges of pages that became holes, whose space the next checkpoint gives back.
    punched: Vec<(PageIndex, PageIndex)>,
}

impl<S: Storage> VaultFile<S> {
    /// A file that was just made: empty, volatile, its header not yet written.
    pub(crate) fn new_empty(core: &Arc<VaultCore<S>>, location: Location<S>, file: S::File, stat: &Stat) -> Self {
        let home = Home {
            file,
            keys: Keys::new(core, entropy::array()),
            overlay: HashMap::new(),
            path: location.backing_path(),
        };
        let state = State {
            home,
            body: Body::Blob { seal: None, sealed: None },
            size: 0,
            seq: 0,
            birth: core.birth(),
            base: Base::Volatile,
            stale: true,
            mtime: None,
            home_len: stat.size_bytes,
            journal: Journaled::default(),
        };
        Self::with_state(core, location, stat.ino, state)
    }

    /// A file that is there. Its header, and the root of a paged file, are verified.
    pub(crate) fn open(core: &Arc<VaultCore<S>>, location: Location<S>, file: S::File, stat: &Stat) -> Result<Self> {
        let base = core.base_of(stat.ino);
        let window = core.window_of(stat, base);
        match (Self::read_state(core, &location, file, stat.size_bytes, base), window) {
            (Ok(state), Some(window)) if window.may_have_cost(state.birth) => {
                let birth = state.birth;
                Self::settle(core, location, state.home.file, stat, birth)
            }
            (Ok(state), _) => Ok(Self::with_state(core, location, stat.ino, state)),
            (Err((VaultError::Integrity(_), file)), Some(window)) => {
                let birth = Birth { session: window.session, epoch: window.durable_epoch };
                Self::settle(core, location, file, stat, birth)
            }
            (Err((error, _)), _) => Err(error),
        }
    }

    fn with_state(core: &Arc<VaultCore<S>>, location: Location<S>, ino: u64, state: State<S>) -> Self {
        Self {
            core: core.clone(),
            ino,
            location: RwLock::new(location),
            other_name: Mutex::new(None),
            unlinked: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            volatile: AtomicBool::new(state.base == Base::Volatile),
            state: RwLock::new(state),
        }
    }

    /// Reads and verifies what stands at the start of a home. An error gives the file back.
    fn read_state(
        core: &Arc<VaultCore<S>>,
        location: &Location<S>,
        file: S::File,
        length: u64,
        base: Base,
    ) -> std::result::Result<State<S>, (VaultError, S::File)> {
        let wanted = if length <= BLOB_MAX + HEADER_LEN as u64 { length } else { PAGE_BYTES };
        let mut start = vec![0; wanted as usize];
        match read_into(&core.storage, &file, &mut start, 0) {
            Ok(read) if read == start.len() => {}
            Ok(_) => return Err((VaultError::Internal("a file became shorter while it was opened"), file)),
            Err(error) => return Err((VaultError::io("read a file", error), file)),
        }
        let salt = Header::salt(&start).unwrap_or_default();
        let home = Home { file, keys: Keys::new(core, salt), overlay: HashMap::new(), path: location.backing_path() };
        let header = match Header::open(&start, home.keys.header()) {
            Ok(header) => header,
            Err(error) => return Err((home.integrity(None, &error.to_string()), home.file)),
        };
        if plain_len(length) != Some(header.size) {
            let reason = format!("the file's length does not fit its header ({length} bytes)");
            return Err((home.integrity(None, &reason), home.file));
        }
        match Self::state_from(home, header, &start, length, base) {
            Ok(state) => Ok(state),
            Err((error, home)) => Err((error, home.file)),
        }
    }

    /// The state that a verified header and the bytes at the start of the home stand for.
    fn state_from(
        home: Home<S>,
        header: Header,
        start: &[u8],
        length: u64,
        base: Base,
    ) -> std::result::Result<State<S>, (VaultError, Home<S>)> {
        let body = if header.size <= BLOB_MAX {
            Body::Blob { seal: Some(header.body), sealed: start.get(HEADER_LEN..).map(Box::from) }
        } else {
            match home.open_root(&header, start) {
                Ok(tree) => Body::Paged(tree),
                Err(error) => return Err((error, home)),
            }
        };
        let salt = home.keys.salt;
        Ok(State {
            home,
            body,
            size: header.size,
            seq: header.seq,
            birth: header.birth,
            base,
            stale: false,
            mtime: None,
            home_len: length,
            journal: Journaled { size: header.size, header_size: header.size, base_salt: salt, ..Journaled::default() },
        })
    }

    /// A file of a session that did not end cleanly, made too late to be durable: what verifies from its
    /// start is kept, the rest is cut off, and it is said.
    fn settle(
        core: &Arc<VaultCore<S>>,
        location: Location<S>,
        file: S::File,
        stat: &Stat,
        birth: Birth,
    ) -> Result<Self> {
        let path = location.backing_path();
        let mut this = Self::new_empty(core, location, file, stat);
        let state = this.state.get_mut();
        state.birth = birth;
        let (kept, whole) = Self::verified_prefix(core, state, stat.size_bytes);
        if !whole {
            log::warn!("{path}: made shortly before a crash and never synced: {kept} bytes of it are left");
        }
        if core.is_read_only() {
            state.base = Base::Durable { synced: true };
        } else {
            core.remember_volatile(stat.ino);
        }
        this.volatile = AtomicBool::new(!core.is_read_only());
        if !core.is_read_only() {
            this.commit()?;
        }
        Ok(this)
    }

    /// Takes over what the home holds, as far as it verifies; returns the number of bytes, and whether that is all.
    fn verified_prefix(core: &Arc<VaultCore<S>>, state: &mut State<S>, length: u64) -> (u64, bool) {
        let mut start = vec![0; length.min(BLOB_MAX + HEADER_LEN as u64) as usize];
        if !matches!(read_into(&core.storage, &state.home.file, &mut start, 0), Ok(read) if read == start.len()) {
            return (0, false);
        }
        let Ok(salt) = Header::salt(&start) else { return (0, false) };
        let keys = Keys::new(core, salt);
        let Ok(header) = Header::open(&start, keys.header()) else { return (0, false) };
        state.home.keys = keys;
        state.seq = header.seq;
        if header.size <= BLOB_MAX {
            let mut plain = Zeroizing::new(vec![0; header.size as usize]);
            let sealed = start.get(HEADER_LEN..HEADER_LEN + plain.len());
            if sealed.is_some_and(|sealed| state.home.open_into(Sealed::Blob, &header.body, sealed, &mut plain)) {
                state.body = Body::Blob { seal: Some(header.body), sealed: None };
                state.size = header.size;
                state.stale = false;
                let _ = state.set_home_len(core, home_len(header.size));
                return (header.size, true);
            }
            return (0, false);
        }
        let Some(Ok(mut tree)) = start.get(..PAGE_LEN).map(|block| state.home.open_root(&header, block)) else {
            return (0, false);
        };
        let mut verified = 0;
        let mut page_bytes = Zeroizing::new([0; PAGE_LEN]);
        for page in (0..page_count(header.size)).map(PageIndex) {
            let reader = state.home.reader(core);
            let Ok(seal) = tree.seal(page, &reader) else { break };
            let len = page.len_in(header.size);
            if let (Some(seal), Some(out)) = (seal, page_bytes.get_mut(..len))
                && reader.page(page, &seal, out).is_err()
            {
                break;
            }
            tree.evict(NODES_KEPT);
            verified = page.offset_bytes() + len as u64;
        }
        let whole = verified == header.size;
        let kept = if whole { verified } else { verified - verified % PAGE_BYTES };
        if !whole && kept <= BLOB_MAX {
            // Too short for a tree now: copy it into a blob.
            let mut plain = Zeroizing::new(vec![0; kept as usize]);
            let reader = state.home.reader(core);
            for (chunk, page) in plain.chunks_mut(PAGE_LEN).zip((0..).map(PageIndex)) {
                if let Ok(Some(seal)) = tree.seal(page, &reader) {
                    let _ = reader.page(page, &seal, chunk);
                }
            }
            let stored = !core.is_read_only() && state.store_blob_home(core, &plain).is_ok();
            return (if stored { kept } else { 0 }, false);
        }
        if !whole {
            let reader = state.home.reader(core);
            let _ = tree.clear(PageIndex(page_count(kept)), PageIndex(page_count(header.size)), &reader);
        }
        state.body = Body::Paged(tree);
        state.size = kept;
        state.stale = !whole;
        if !core.is_read_only() {
            let _ = state.set_home_len(core, home_len(kept));
        }
        (kept, whole)
    }

    /// The backing's inode number.
    pub const fn ino(&self) -> u64 {
        self.ino
    }

    /// The plain size.
    pub fn len_bytes(&self) -> u64 {
        self.state.read().size
    }

    /// The modification time, if it is newer than the backing's own.
    pub fn mtime(&self) -> Option<Timestamp> {
        self.state.read().mtime
    }

    /// The backing's attributes with the plain size and the newest modification time.
    pub fn stat(&self) -> Result<Stat> {
        let state = self.state.read();
        let mut stat = self
            .core
            .storage
            .stat(Target::File(&state.home.file))
            .map_err(|e| VaultError::io("read a file's attributes", e))?;
        stat.size_bytes = state.size;
        if let Some(mtime) = state.mtime {
            stat.mtime = mtime;
        }
        Ok(stat)
    }

    /// The backing's open file, for attribute calls.
    pub(crate) fn with_backing<T>(&self, call: impl FnOnce(&S::File) -> T) -> T {
        call(&self.state.read().home.file)
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

    /// It got another name.
    pub(crate) fn got_name(&self, location: Location<S>) {
        if self.is_lost() {
            self.moved(location);
        } else {
            *self.other_name.lock() = Some(location);
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Where the file is, by one of its names.
    pub(crate) fn location(&self) -> Location<S> {
        self.location.read().clone()
    }

    /// The last name is gone: nothing of the file needs to survive.
    pub(crate) fn set_unlinked(&self) {
        self.unlinked.store(true, Ordering::Release);
    }

    pub(crate) fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    pub(crate) fn is_volatile(&self) -> bool {
        self.volatile.load(Ordering::Acquire)
    }

    /// Reads from `offset_bytes` into `out`; returns the number of bytes, fewer only at the end of the file.
    /// A page that does not verify is an error, whatever else was read.
    pub fn read(&self, offset_bytes: u64, out: &mut [u8]) -> Result<usize> {
        loop {
            let state = self.state.read();
            let len = state.size.saturating_sub(offset_bytes).min(out.len() as u64) as usize;
            let Some(out) = out.get_mut(..len).filter(|out| !out.is_empty()) else { return Ok(0) };
            match &state.body {
                Body::Blob { .. } => {
                    let plain = state.read_blob(&self.core)?;
                    let at = offset_bytes as usize;
                    let range = plain.get(at..at + len).ok_or(VaultError::Internal("a blob is shorter than it is"))?;
                    out.copy_from_slice(range);
                    return Ok(len);
                }
                Body::Paged(tree) => {
                    if state.read_pages(&self.core, tree, offset_bytes, out)? {
                        return Ok(len);
                    }
                }
            }
            drop(state);
            self.load_nodes(offset_bytes, len)?;
        }
    }

    /// Loads the nodes that reading a range needs.
    fn load_nodes(&self, offset_bytes: u64, len: usize) -> Result<()> {
        let mut state = self.state.write();
        let State { home, body: Body::Paged(tree), .. } = &mut *state else { return Ok(()) };
        tree.evict(NODES_KEPT);
        let reader = home.reader(&self.core);
        let end = offset_bytes.saturating_add(len as u64);
        let mut page = PageIndex::of(offset_bytes);
        while page.offset_bytes() < end {
            tree.seal(page, &reader)?;
            page = PageIndex(page.0 + 1);
        }
        Ok(())
    }

    /// The first offset from `offset_bytes` on that holds data; None if only a hole follows.
    pub fn next_data(&self, offset_bytes: u64) -> Result<Option<u64>> {
        self.next(offset_bytes, true)
    }

    /// The first offset from `offset_bytes` on that is a hole; the end of the file counts as one.
    pub fn next_hole(&self, offset_bytes: u64) -> Result<u64> {
        Ok(self.next(offset_bytes, false)?.unwrap_or(self.len_bytes()))
    }

    fn next(&self, offset_bytes: u64, content: bool) -> Result<Option<u64>> {
        let mut state = self.state.write();
        let State { home, body, size, .. } = &mut *state;
        if offset_bytes >= *size {
            return Ok(None);
        }
        match body {
            Body::Blob { .. } => Ok(content.then_some(offset_bytes)),
            Body::Paged(tree) => {
                tree.evict(NODES_KEPT);
                let end = PageIndex(page_count(*size));
                let found = tree.next(PageIndex::of(offset_bytes), end, content, &home.reader(&self.core))?;
                Ok(found.map(|page| page.offset_bytes().max(offset_bytes)))
            }
        }
    }

    /// Sets the times. They outlive the writes of a later checkpoint.
    pub fn set_times(&self, atime: SetTime, mtime: SetTime) -> Result<()> {
        self.core.ensure_writable()?;
        let _gate = self.core.gate.read();
        let mut state = self.state.write();
        let mtime = match mtime {
            SetTime::Now => SetTime::To(self.core.storage.now()),
            other => other,
        };
        self.core
            .storage
            .set_times(Target::File(&state.home.file), atime, mtime)
            .map_err(|e| VaultError::io("set a file's times", e))?;
        if let SetTime::To(time) = mtime {
            state.mtime = Some(time);
            if state.journal.touched {
                self.record_length(&mut state)?;
            }
        }
        Ok(())
    }
}

impl<S: Storage> Drop for VaultFile<S> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        // Whoever had it open commits; this is for those who could not.
        if state.base == Base::Volatile && state.stale && !*self.unlinked.get_mut() && !self.core.is_read_only() {
            let _ = state.commit_home(&self.core);
        }
    }
}

impl<S: Storage> State<S> {
    /// The whole content of a blob.
    fn read_blob(&self, core: &VaultCore<S>) -> Result<Zeroizing<Vec<u8>>> {
        let Body::Blob { seal, sealed } = &self.body else {
            return Err(VaultError::Internal("a paged file was read as a blob"));
        };
        let mut plain = Zeroizing::new(vec![0; self.size as usize]);
        let Some(seal) = seal else { return Ok(plain) };
        let opened = match sealed {
            Some(sealed) => self.home.open_into(Sealed::Blob, seal, sealed, &mut plain),
            None => {
                let mut start = vec![0; HEADER_LEN + plain.len()];
                let reader = self.home.reader(core);
                let mut whole = true;
                if self.home.overlay.contains_key(&BlockIndex::ROOT) {
                    for (index, chunk) in start.chunks_mut(PAGE_LEN).enumerate() {
                        whole &= reader.block(BlockIndex(index as u64), chunk)?;
                    }
                } else {
                    let read = read_into(&core.storage, &self.home.file, &mut start, 0)
                        .map_err(|e| VaultError::io("read a file", e))?;
                    whole = read == start.len();
                }
                whole
                    && start
                        .get(HEADER_LEN..)
                        .is_some_and(|sealed| self.home.open_into(Sealed::Blob, seal, sealed, &mut plain))
            }
        };
        if !opened {
            return Err(self.home.integrity(Some(PageIndex(0)), "the content does not verify"));
        }
        Ok(plain)
    }

    /// Reads pages whose nodes are in memory; false if one is not. `out` lies within the file.
    fn read_pages(&self, core: &VaultCore<S>, tree: &TagTree, offset_bytes: u64, out: &mut [u8]) -> Result<bool> {
        let first = PageIndex::of(offset_bytes);
        let count = page_count(offset_bytes % PAGE_BYTES + out.len() as u64) as usize;
        let mut seals = Vec::with_capacity(count);
        for page in (first.0..first.0 + count as u64).map(PageIndex) {
            let Some(seal) = tree.cached_seal(page)? else { return Ok(false) };
            seals.push(seal);
        }
        let mut scratch = core.scratch(0);
        let mut at = 0;
        while at < count {
            let page = PageIndex(first.0 + at as u64);
            match seals.get(at).copied().flatten() {
                None => {
                    with_range(page, offset_bytes, out, |range, _| range.fill(0));
                    at += 1;
                }
                Some(_) => {
                    let run = self.home_run(page, seals.get(at..).unwrap_or_default());
                    self.read_run(core, page, seals.get(at..at + run).unwrap_or_default(), offset_bytes, out, &mut scratch)?;
                    at += run;
                }
            }
        }
        Ok(true)
    }

    /// How many pages from `page` on can be read together: all at home and none a hole, or one in the journal.
    fn home_run(&self, page: PageIndex, seals: &[Option<Seal>]) -> usize {
        let in_journal = |at: usize| self.home.overlay.contains_key(&page_block(PageIndex(page.0 + at as u64)));
        if self.home.overlay.is_empty() {
            return seals.iter().take_while(|seal| seal.is_some()).count().max(1);
        }
        if in_journal(0) {
            return 1;
        }
        seals.iter().enumerate().take_while(|(at, seal)| seal.is_some() && !in_journal(*at)).count().max(1)
    }

    /// Reads a run of pages with one read of the home and opens them; nodes in between are read and ignored.
    fn read_run(
        &self,
        core: &VaultCore<S>,
        first: PageIndex,
        seals: &[Option<Seal>],
        offset_bytes: u64,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let reader = self.home.reader(core);
        let last = PageIndex(first.0 + seals.len() as u64 - 1);
        let start = page_block(first).offset_bytes();
        let end = page_block(last).offset_bytes() + last.len_in(self.size) as u64;
        let extent_len = (end - start) as usize;
        scratch.set_len(extent_len);
        let extent: &mut [u8] = &mut *scratch;
        let mut have = extent.len();
        if seals.len() == 1 {
            if !reader.block(page_block(first), extent)? {
                return Err(self.home.integrity(Some(first), "the file ends before this page"));
            }
        } else {
            have = read_into(&core.storage, &self.home.file, extent, start)
                .map_err(|e| VaultError::io("read a file", e))?;
        }
        for (at, seal) in seals.iter().enumerate() {
            let page = PageIndex(first.0 + at as u64);
            let Some(seal) = seal else { continue };
            let block = page_block(page);
            let from = (block.offset_bytes() - start) as usize;
            let page_len = page.len_in(self.size);
            let sealed = extent
                .get(from..from + page_len)
                .filter(|_| from + page_len <= have)
                .ok_or_else(|| self.home.integrity(Some(page), "the file ends before this page"))?;
            let mut verified = true;
            with_range(page, offset_bytes, out, |range, within| {
                verified = if range.len() == page_len {
                    self.home.open_into(Sealed::Page(block), seal, sealed, range)
                } else {
                    let mut plain = Zeroizing::new([0; PAGE_LEN]);
                    let plain = plain.get_mut(..page_len).unwrap_or_default();
                    let opened = self.home.open_into(Sealed::Page(block), seal, sealed, plain);
                    if let Some(part) = plain.get(within..within + range.len()) {
                        range.copy_from_slice(part);
                    }
                    opened
                };
            });
            if !verified {
                return Err(self.home.integrity(Some(page), "the page does not verify"));
            }
        }
        Ok(())
    }
}

/// Calls `use_range` with the part of `out` (which starts at `offset_bytes` of the file) that `page` fills, and
/// where in the page that part begins.
fn with_range(page: PageIndex, offset_bytes: u64, out: &mut [u8], use_range: impl FnOnce(&mut [u8], usize)) {
    let page_start = page.offset_bytes();
    let (at, within) = if page_start >= offset_bytes {
        ((page_start - offset_bytes) as usize, 0)
    } else {
        (0, (offset_bytes - page_start) as usize)
    };
    let len = (PAGE_LEN - within).min(out.len().saturating_sub(at));
    if let Some(range) = out.get_mut(at..at + len) {
        use_range(range, within);
    }
}

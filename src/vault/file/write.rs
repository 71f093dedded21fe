//! Writing: pages go home or into the journal.

use std::io::IoSlice;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::home::Keys;
use super::sealing::Change;
use super::{Base, Body, State, VaultFile};
use crate::crypto::entropy;
use crate::format::geometry::{BLOB_MAX, HEADER_LEN, PAGE_BYTES, PageIndex, SIZE_MAX, home_len, page_count};
use crate::format::header::{Header, Seal};
use crate::format::seals::Sealed;
use crate::storage::{Storage, Target, Timestamp};
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};
use crate::vault::switches;
use crate::vault::tree::TagTree;

/// Pages of a durable file that are journaled in one record.
pub(super) const CHUNK_PAGES: u64 = 64;
/// Journal blocks that one step may take: the pages, a tail page, descriptors, nodes that become dirty.
pub(super) const STEP_BLOCKS: u32 = CHUNK_PAGES as u32 + 32;
/// Fresh pages that are written together go straight home from this many on.
const BULK_PAGES: usize = 16;
/// Dirty nodes of a volatile file that are kept before they are written home.
const VOLATILE_NODES: usize = 256;

/// What a write does to the modification time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Modified {
    Now,
    /// Whoever cached the data tells it.
    AsBefore,
}

impl<S: Storage> VaultFile<S> {
    /// Writes `data` at `offset_bytes`; a gap behind the old end reads as zeros.
    pub fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.core.with_room(|| self.write_at(offset_bytes, data, Modified::Now))
    }

    /// The same, but the modification time stays: it is told by [`Self::set_times`].
    pub fn write_back(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.core.with_room(|| self.write_at(offset_bytes, data, Modified::AsBefore))
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8], modified: Modified) -> Result<()> {
        self.core.ensure_writable()?;
        let end = offset_bytes.checked_add(data.len() as u64).filter(|end| *end <= SIZE_MAX);
        end.ok_or(VaultError::TooLarge)?;
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            let from = offset_bytes + at as u64;
            // Of a size that what is sealed is still in the CPU's cache when it is written.
            let chunk_end = (from / PAGE_BYTES + CHUNK_PAGES) * PAGE_BYTES;
            let chunk = rest.get(..(chunk_end - from).min(rest.len() as u64) as usize).unwrap_or(rest);
            let change = self.seal_ahead(from, chunk)?;
            if self.is_volatile() {
                let mut state = self.state.write();
                if state.base == Base::Volatile {
                    self.expect_keys(&state);
                    self.core.ensure_writable()?;
                    state.journal.touched = true;
                    let mtime = state.modified(&self.core, modified)?;
                    state.changed_at(mtime);
                    state.write_volatile(&self.core, change)?;
                    state.evict_nodes();
                    at += chunk.len();
                }
                continue;
            }
            let _admission = self.core.admit(STEP_BLOCKS)?;
            let _gate = self.core.change_gate()?;
            let mut state = self.state.write();
            self.expect_keys(&state);
            let mtime = state.modified(&self.core, modified)?;
            at += self.write_durable(&mut state, change, mtime)?;
            state.evict_nodes();
        }
        Ok(())
    }

    /// Writes some of what is to be written, at least one byte; returns how many.
    fn write_durable(&self, state: &mut State<S>, change: Change<'_>, mtime: Timestamp) -> Result<usize> {
        let (from, data, end) = (change.from, change.data, change.end());
        let new_size = state.size.max(end);
        state.check_len(&self.core, new_size)?;
        self.begin_change(state)?;
        if let Body::Blob { .. } = state.body {
            let mut plain = state.read_blob(&self.core)?;
            if new_size <= BLOB_MAX {
                resize_plain(&mut plain, new_size as usize);
                if let Some(range) = plain.get_mut(from as usize..end as usize) {
                    range.copy_from_slice(data);
                }
                // Before the record, which holds it.
                state.mtime = Some(mtime);
                self.journal_blob(state, &plain)?;
                return Ok(data.len());
            }
            let mut tree = TagTree::empty();
            let (pages, images) = state.seal_range(&self.core, &mut tree, new_size, change, Some(&plain))?;
            state.mtime = Some(mtime);
            self.journal_conversion(state, tree, &pages, &images, new_size)?;
            return Ok(data.len());
        }
        // The old last page, if it becomes longer, is rewritten first and through the journal, so that whole
        // fresh pages behind it can go straight home.
        let tail_end = state.size.next_multiple_of(PAGE_BYTES);
        if !state.size.is_multiple_of(PAGE_BYTES) && from < tail_end && end > tail_end + BULK_PAGES as u64 * PAGE_BYTES
        {
            let first = (tail_end - from) as usize;
            let head = data.get(..first).unwrap_or(data);
            self.write_pages_durable(state, Change::new(from, head), mtime)?;
            return Ok(head.len());
        }
        self.write_pages_durable(state, change, mtime)?;
        Ok(data.len())
    }

    fn write_pages_durable(&self, state: &mut State<S>, change: Change<'_>, mtime: Timestamp) -> Result<()> {
        let new_size = state.size.max(change.end());
        let body = std::mem::replace(&mut state.body, Body::Paged(TagTree::empty()));
        let Body::Paged(mut tree) = body else {
            state.body = body;
            return Err(VaultError::Internal("a blob was written as pages"));
        };
        let sealed = state.seal_range(&self.core, &mut tree, new_size, change, None);
        let home = match &sealed {
            Ok((pages, _)) => self.may_go_home(state, &mut tree, pages),
            Err(_) => Ok(false),
        };
        let holes = match (&sealed, &home) {
            (Ok((pages, _)), Ok(false)) => holes_among(&tree, pages),
            _ => Vec::new(),
        };
        state.body = Body::Paged(tree);
        let ((pages, images), home) = (sealed?, home?);
        self.reserve_holes(state, &holes)?;
        state.mtime = Some(mtime);
        if home {
            self.write_fresh_home(state, &pages, &images, new_size)
        } else {
            self.journal_pages(state, &pages, &images, new_size)
        }
    }

    /// Whether all these pages may be written straight home: nothing that could be replayed, and nothing
    /// committed, refers to any of them.
    fn may_go_home(&self, state: &mut State<S>, tree: &mut TagTree, pages: &[(PageIndex, Seal)]) -> Result<bool> {
        let bulk = pages.len() >= BULK_PAGES;
        let mut all_pending = true;
        for (page, _) in pages {
            if state.journal.pending.contains(page) {
                continue;
            }
            all_pending = false;
            let hole = tree.seal(*page, &state.home.reader(&self.core))?.is_none();
            if !switches::holds("file.journal-not-home", bulk && hole) {
                return Ok(false);
            }
        }
        if all_pending || switches::holds("file.dropped-is-not-fresh", state.journal.dropped_in.is_none()) {
            return Ok(true);
        }
        // A hole may be a page that was dropped: something that could be replayed may refer to its old place.
        // Unless all that the home held has been superseded, durably, and no checkpoint still writes to it.
        match state.journal.superseded_at {
            Some(lsn) if self.core.journal()?.other_is_free() => {
                if !switches::holds("file.superseded-is-synced", false) {
                    self.core.sync_journal(lsn)?;
                }
                state.journal.dropped_in = None;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// Those of the pages that are holes. Their nodes are in memory.
fn holes_among(tree: &TagTree, pages: &[(PageIndex, Seal)]) -> Vec<PageIndex> {
    pages.iter().map(|(page, _)| *page).filter(|page| matches!(tree.cached_seal(*page), Ok(Some(None)))).collect()
}

impl<S: Storage> State<S> {
    fn write_volatile(&mut self, core: &VaultCore<S>, change: Change<'_>) -> Result<()> {
        let (from, data, end) = (change.from, change.data, change.end());
        let new_size = self.size.max(end);
        if let Body::Blob { .. } = self.body {
            // The usual case: a new file is written from its start.
            let mut plain = if self.size == 0 { Zeroizing::new(Vec::new()) } else { self.read_blob(core)? };
            if new_size <= BLOB_MAX {
                if from == 0 && end == new_size {
                    return self.store_blob_home(core, data);
                }
                resize_plain(&mut plain, new_size as usize);
                if let Some(range) = plain.get_mut(from as usize..end as usize) {
                    range.copy_from_slice(data);
                }
                return self.store_blob_home(core, &plain);
            }
            let mut tree = TagTree::empty();
            let (pages, images) = self.seal_range(core, &mut tree, new_size, change, Some(&plain))?;
            if from > STEP_BLOCKS as u64 * PAGE_BYTES {
                for block in tree.new_nodes_over(PageIndex::of(from))? {
                    core.reserve(&self.home.file, block.offset_bytes(), PAGE_BYTES)?;
                }
            }
            self.put_over_blob(core, &pages, &images, new_size, &plain)?;
            self.body = Body::Paged(tree);
            self.under = self.home.keys.version().0;
            return self.enter(core, &pages, new_size);
        }
        let body = std::mem::replace(&mut self.body, Body::Paged(TagTree::empty()));
        let Body::Paged(mut tree) = body else {
            self.body = body;
            return Err(VaultError::Internal("a blob was written as pages"));
        };
        let sealed = self.seal_range(core, &mut tree, new_size, change, None).and_then(|(pages, images)| {
            // What begins in the midst of what a node covers, as the kernel sends several writes at once.
            if let Some((first, _)) = pages.first() {
                for block in tree.new_nodes_over(*first)? {
                    core.reserve(&self.home.file, block.offset_bytes(), PAGE_BYTES)?;
                }
            }
            Ok((pages, images))
        });
        let put = sealed.map(|(mut pages, images)| {
            let present = |page: PageIndex| matches!(tree.cached_seal(page), Ok(Some(Some(_))));
            let (written, outcome) = self.put_home(core, &pages, &images, new_size, present);
            for (page, _) in pages.split_off(written) {
                let _ = tree.rewrite_over(page);
            }
            (pages, outcome)
        });
        self.body = Body::Paged(tree);
        let (pages, outcome) = put?;
        let reached = if outcome.is_ok() { new_size } else { self.size.max(end_of(&pages).min(new_size)) };
        self.enter(core, &pages, reached)?;
        if outcome.is_err() {
            // On a full disk what was begun behind the end has the room that the nodes of the rest need.
            self.set_home_len(core, home_len(self.size).min(self.home_len))?;
        }
        outcome
    }

    /// Enters pages that are home into the tree of a volatile file.
    fn enter(&mut self, core: &VaultCore<S>, pages: &[(PageIndex, Seal)], new_size: u64) -> Result<()> {
        self.stale = true;
        self.set_seals(core, pages)?;
        self.size = new_size;
        if let Body::Paged(tree) = &self.body
            && tree.dirty_nodes() > VOLATILE_NODES
        {
            self.write_nodes_home(core)?;
        }
        Ok(())
    }

    /// Enters seals into the tree, whose nodes are loaded; returns how many nodes became dirty.
    pub(super) fn set_seals(&mut self, core: &VaultCore<S>, pages: &[(PageIndex, Seal)]) -> Result<usize> {
        let Self { home, body: Body::Paged(tree), .. } = self else {
            return Err(VaultError::Internal("a blob has no tree"));
        };
        let reader = home.reader(core);
        let mut dirtied = 0;
        for (page, seal) in pages {
            dirtied += tree.set(*page, Some(*seal), &reader)?;
        }
        Ok(dirtied)
    }

    /// Seals a blob: header and message, as they stand in the home; and the header's number.
    pub(super) fn seal_blob(&self, core: &VaultCore<S>, plain: &[u8]) -> Result<(Vec<u8>, Seal, u64)> {
        let mut bytes = vec![0; HEADER_LEN + plain.len()];
        let (head, body) = bytes.split_at_mut_checked(HEADER_LEN).unwrap_or_default();
        let seal = self.home.keys.seal_into(core, Sealed::Blob, plain, body)?;
        let header = Header {
            size: plain.len() as u64,
            seq: self.next_seq(),
            birth: self.birth,
            body: seal,
            under: self.home.keys.version().0,
        };
        head.copy_from_slice(&header.seal(&self.home.keys.salt, self.home.keys.header())?);
        Ok((bytes, seal, header.seq))
    }

    /// Stores the whole content of a volatile file as a blob.
    pub(super) fn store_blob_home(&mut self, core: &VaultCore<S>, plain: &[u8]) -> Result<()> {
        let before = self.renew_keys(core);
        let sealed =
            self.reserve_blob(core, (HEADER_LEN + plain.len()) as u64).and_then(|()| self.seal_blob(core, plain));
        if let (Err(_), Some(before)) = (&sealed, before) {
            self.home.keys = before;
        }
        let (bytes, seal, seq) = sealed?;
        let len = bytes.len() as u64;
        if let Err(error) = self.write_home(core, &[IoSlice::new(&bytes)], 0) {
            if self.size == 0 && matches!(self.body, Body::Blob { .. }) {
                // Nothing was there, and nothing is.
                self.body = Body::Blob { seal: None, sealed: None };
                self.stale = true;
            } else {
                // The home may have half of it, and nothing of what it had: it is in memory until a commit succeeds.
                self.keep_blob(seal, &bytes, plain.len() as u64);
            }
            return Err(error);
        }
        self.seq = seq;
        self.size = plain.len() as u64;
        self.under = self.home.keys.version().0;
        if let Err(error) = self.set_home_len(core, len) {
            // With another length it would not open.
            self.keep_blob(seal, &bytes, plain.len() as u64);
            return Err(error);
        }
        self.body = Body::Blob { seal: Some(seal), sealed: None };
        self.stale = false;
        Ok(())
    }

    /// Another salt, and with it other keys, for content that is about to be sealed anew as a whole, if the keys have
    /// sealed as many headers as they may. How many they sealed in other sessions nobody has counted, so the first
    /// blob of a session always gets one. Returns the keys before.
    pub(super) fn renew_keys(&mut self, core: &VaultCore<S>) -> Option<Arc<Keys>> {
        let renew = !self.home.keys.may_seal_header(core.seal_limit());
        renew.then(|| std::mem::replace(&mut self.home.keys, Keys::new(core, entropy::array())))
    }

    /// Space first: a full disk must not cost what is there.
    fn reserve_blob(&self, core: &VaultCore<S>, len: u64) -> Result<()> {
        let from = match &self.body {
            // Where the blob goes there may be holes.
            Body::Paged(tree) => {
                let is_content = |page| matches!(tree.cached_seal(PageIndex(page)), Ok(Some(Some(_))));
                if (0..page_count(len).saturating_sub(1)).all(is_content) { self.home_len } else { 0 }
            }
            Body::Blob { .. } if self.size == 0 && self.stale => return Ok(()),
            Body::Blob { .. } => self.home_len,
        };
        if page_count(len) > page_count(from) { core.reserve(&self.home.file, from, len - from) } else { Ok(()) }
    }

    /// The content is this blob, as it was sealed, and not home.
    pub(super) fn keep_blob(&mut self, seal: Seal, bytes: &[u8], size: u64) {
        self.body = Body::Blob { seal: Some(seal), sealed: bytes.get(HEADER_LEN..).map(Box::from) };
        self.size = size;
        self.stale = true;
    }

    /// Writes the dirty nodes of a volatile file home.
    pub(super) fn write_nodes_home(&mut self, core: &VaultCore<S>) -> Result<()> {
        let Self { home, body: Body::Paged(tree), home_len, .. } = self else { return Ok(()) };
        let written = tree.seal_nodes(|block, entries| {
            let seal = home.seal_in_place(core, Sealed::Node(block), entries)?;
            core.storage
                .write_at(&home.file, &[IoSlice::new(entries)], block.offset_bytes())
                .map_err(|e| core.write_failed("write a file", e))?;
            *home_len = (*home_len).max(block.offset_bytes() + PAGE_BYTES);
            Ok(seal)
        });
        if written.is_err() {
            self.measure_home(core);
        }
        written
    }

    /// Writes what a volatile file has only in memory home: nodes, then header and root, then the length.
    pub(super) fn commit_home(&mut self, core: &VaultCore<S>) -> Result<()> {
        if !self.stale {
            return self.settle_mtime(core);
        }
        self.mtime_due = true;
        if let Body::Blob { .. } = self.body {
            let plain = self.read_blob(core)?;
            self.store_blob_home(core, &plain)?;
        } else {
            self.write_nodes_home(core)?;
            self.seq = self.next_seq();
            let header = self.header();
            let block = match &self.body {
                Body::Paged(tree) => self.home.seal_root(core, &header, tree)?,
                Body::Blob { .. } => return Ok(()),
            };
            self.write_home(core, &[IoSlice::new(block.as_slice())], 0)?;
            self.set_home_len(core, home_len(self.size))?;
            if let Body::Paged(tree) = &mut self.body {
                tree.root_sealed();
            }
            self.stale = false;
        }
        self.settle_mtime(core)
    }

    /// The number of the next header: raised by a random step, so that no two states of a file have the same one, also
    /// where a copy of the vault goes on by itself. By it a journal is told from that of another time.
    pub(super) fn next_seq(&self) -> u64 {
        let step = u64::from(u32::from_le_bytes(entropy::array()));
        self.seq.saturating_add(1).saturating_add(step)
    }

    /// The header of the state in memory; the body's seal is filled in when the root is sealed.
    pub(super) fn header(&self) -> Header {
        let body = Seal { nonce: [0; 12], tag: [0; 16], session: 0 };
        Header { size: self.size, seq: self.seq, birth: self.birth, body, under: self.under }
    }

    /// What the modification time is after a write.
    fn modified(&self, core: &VaultCore<S>, modified: Modified) -> Result<Timestamp> {
        match (modified, self.mtime) {
            (Modified::Now, _) => Ok(core.storage.now()),
            (Modified::AsBefore, Some(mtime)) => Ok(mtime),
            (Modified::AsBefore, None) => {
                let stat = core.storage.stat(Target::File(&*self.home.file));
                Ok(stat.map_err(|e| VaultError::io("read a file's times", e))?.mtime)
            }
        }
    }

    /// A volatile file is changed: whatever the writes to its home do to the time, this is it.
    pub(super) fn changed_at(&mut self, mtime: Timestamp) {
        self.mtime = Some(mtime);
        self.mtime_due = true;
    }

    /// Gives a volatile file's home the modification time back that sero's own writes have moved.
    pub(super) fn settle_mtime(&mut self, core: &VaultCore<S>) -> Result<()> {
        if self.mtime_due
            && let Some(time) = self.mtime
        {
            core.set_mtime(&self.home.file, time)?;
        }
        self.mtime_due = false;
        Ok(())
    }
}

/// Where whole pages end that were written in order.
pub(super) fn end_of(pages: &[(PageIndex, Seal)]) -> u64 {
    pages.last().map_or(0, |(page, _)| page.offset_bytes() + PAGE_BYTES)
}

/// Makes `plain` `len` bytes long without leaving a copy of it behind in freed memory.
pub(super) fn resize_plain(plain: &mut Zeroizing<Vec<u8>>, len: usize) {
    if plain.capacity() < len {
        let mut larger = Zeroizing::new(Vec::with_capacity(len));
        larger.extend_from_slice(plain);
        *plain = larger;
    }
    plain.resize(len, 0);
}

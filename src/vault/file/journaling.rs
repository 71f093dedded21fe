//! A durable file's changes in the journal.

use std::collections::BTreeSet;

use super::{Base, Body, State, VaultFile};
use crate::crypto::entropy;
use crate::format::geometry::{
    BlockIndex, PAGE_BYTES, PAGE_LEN, PageIndex, Path, SIZE_MAX, home_len, page_block, page_count,
};
use crate::format::header::Seal;
use crate::format::record::{FileId, Lsn, Operation, PageSeal, Placement, TEXT_MAX, Time};
use crate::storage::{Storage, Target, Timestamp};
use crate::vault::error::{Result, VaultError};
use crate::vault::journal::{Appended, Location};
use crate::vault::tree::TagTree;
use crate::vault::{recovery, switches};

/// A path that is longer would take more records than a step has room for.
const NAME_TEXT_MAX: usize = 3 * TEXT_MAX;
/// Page entries that fit into one record beside the rest.
const SEALS_PER_RECORD: usize = 80;

pub(super) fn time_of(time: Option<Timestamp>) -> Option<Time> {
    time.map(|time| (time.seconds, time.nanoseconds))
}

impl<S: Storage> VaultFile<S> {
    /// Before the first change of a durable file, and before its first change in a journal segment.
    pub(super) fn begin_change(&self, state: &mut State<S>) -> Result<()> {
        self.sync_base(state)?;
        let current = self.core.journal()?.current();
        if state.journal.named_in != Some(current) {
            let id = *state.journal.id.get_or_insert_with(|| self.core.next_file_id());
            let _naming = self.core.naming.read();
            let location = self.location();
            let path = location.backing_path();
            let is_deep = path.len() > NAME_TEXT_MAX;
            let path = if self.is_lost() || is_deep {
                // It has names, and which is not known, or not said: recovery looks for it, by any that is durable.
                self.core.settle_names()?;
                String::new()
            } else {
                if !self.is_unlinked() {
                    self.core.settle_name(self.ino, &location)?;
                }
                path
            };
            let operation = Operation::File { file: id, salt: state.journal.base_salt, seq: state.seq };
            let links = self.core.storage.stat(Target::File(&*state.home.file)).map(|stat| stat.nlink);
            let has_other_names = links.map_err(|e| VaultError::io("look at a file", e))? > 1;
            self.core.append_text(&recovery::places::text(&path, self.ino, has_other_names), operation)?;
            state.journal.named_in = Some(current);
            state.journal.touched = true;
            self.core.remember_journaled(id, self);
        }
        Ok(())
    }

    /// The journal speaks only of a base that is durable.
    pub(super) fn sync_base(&self, state: &mut State<S>) -> Result<()> {
        if state.base == (Base::Durable { synced: false }) {
            if !self.core.is_synced(self.ino) {
                self.location().settle()?;
                let attributes = self.core.changed_attributes(self.ino);
                self.sync_home_by(|home| {
                    switches::barrier("file.base-is-synced", || self.core.storage.sync_file(home))
                })?;
                self.core.attributes_synced(&attributes);
                // Not only here: opened again, it must not be taken for a new file, which is written in place.
                self.core.forget_volatile(self.ino);
                self.core.remember_synced(self.ino);
            }
            state.base = Base::Durable { synced: true };
        }
        Ok(())
    }

    pub(super) fn file_id(&self, state: &State<S>) -> Result<FileId> {
        state.journal.id.ok_or(VaultError::Internal("a file was journaled before it was named"))
    }

    fn append(&self, state: &mut State<S>, items: &[(Operation, &[u8])]) -> Result<Appended> {
        let appended = self.core.append(items)?;
        state.journal.last = appended.lsn;
        Ok(appended)
    }

    /// Records the size as it was last recorded, with the newest modification time.
    pub(super) fn record_length(&self, state: &mut State<S>) -> Result<()> {
        self.begin_change(state)?;
        let operation =
            Operation::Length { file: self.file_id(state)?, size: state.journal.size, mtime: time_of(state.mtime) };
        self.append(state, &[(operation, &[])])?;
        Ok(())
    }

    /// Appends pages with their images and the new size, in one record, and enters them.
    pub(super) fn journal_pages(
        &self,
        state: &mut State<S>,
        pages: &[(PageIndex, Seal)],
        images: &[u8],
        new_size: u64,
    ) -> Result<()> {
        // What is pending must be recorded first where this record's size would already speak of it, or where
        // it is about one of its pages.
        let pending = &state.journal.pending;
        if !pending.is_empty()
            && (new_size > state.journal.size || pages.iter().any(|(page, _)| pending.contains(page)))
        {
            self.record_pending(state)?;
        }
        self.reserve_pages(state, pages)?;
        let recorded = if new_size > state.size { new_size } else { state.journal.size };
        let id = self.file_id(state)?;
        let mut items = pages_operations(id, pages, images);
        items.push((Operation::Length { file: id, size: recorded, mtime: time_of(state.mtime) }, &[]));
        let appended = self.append(state, &items)?;
        state.overlay_pages(pages, appended.first_image);
        self.enter_journaled(state, pages)?;
        state.size = state.size.max(new_size);
        state.journal.size = recorded;
        Ok(())
    }

    /// As [`Self::journal_pages`], for a file whose whole content stood in a blob before.
    pub(super) fn journal_conversion(
        &self,
        state: &mut State<S>,
        tree: TagTree,
        pages: &[(PageIndex, Seal)],
        images: &[u8],
        new_size: u64,
    ) -> Result<()> {
        self.reserve_pages(state, pages)?;
        let id = self.file_id(state)?;
        let reset = Operation::Reset {
            file: id,
            salt: state.home.keys.salt,
            birth_session: state.birth.session,
            birth_epoch: state.birth.epoch,
        };
        let mut items: Vec<(Operation, &[u8])> = vec![(reset, &[])];
        items.extend(pages_operations(id, pages, images));
        items.push((Operation::Length { file: id, size: new_size, mtime: time_of(state.mtime) }, &[]));
        let appended = self.append(state, &items)?;
        // The blob was where the first pages are to be: a checkpoint may be about to write it there.
        state.journal.dropped_in = Some(appended.first_image.segment);
        self.drop_body(state, Body::Paged(tree));
        state.under = state.home.keys.version().0;
        state.home.overlay.clear();
        state.overlay_pages(pages, appended.first_image);
        self.enter_journaled(state, pages)?;
        state.size = new_size;
        state.journal.size = new_size;
        state.supersede(appended.lsn);
        Ok(())
    }

    /// Appends the whole content as a blob.
    pub(super) fn journal_blob(&self, state: &mut State<S>, plain: &[u8]) -> Result<()> {
        let before = state.renew_keys(&self.core);
        let outcome = self.append_blob(state, plain);
        if let (Err(_), Some(before)) = (&outcome, before) {
            state.home.keys = before;
        }
        outcome
    }

    fn append_blob(&self, state: &mut State<S>, plain: &[u8]) -> Result<()> {
        let (bytes, seal, seq) = state.seal_blob(&self.core, plain)?;
        self.reserve_home(state, 0, bytes.len() as u64)?;
        let count = bytes.len().div_ceil(PAGE_LEN);
        let mut images = vec![0; count * PAGE_LEN];
        if let Some((head, rest)) = images.split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(&bytes);
            entropy::fill(rest);
        }
        let operation = Operation::Blob {
            file: self.file_id(state)?,
            images: count as u8,
            home_len: bytes.len() as u32,
            mtime: time_of(state.mtime),
        };
        let appended = self.append(state, &[(operation, &images)])?;
        if let Body::Paged(_) = state.body {
            state.journal.dropped_in = Some(appended.first_image.segment);
        }
        self.drop_body(state, Body::Blob { seal: Some(seal), sealed: None });
        state.journal.blob_seq = seq;
        state.home.overlay.clear();
        for index in 0..count as u32 {
            let at = Location { block: appended.first_image.block + index, ..appended.first_image };
            state.home.overlay.insert(BlockIndex(u64::from(index)), at);
        }
        state.under = state.home.keys.version().0;
        state.size = plain.len() as u64;
        state.journal.size = state.size;
        self.forget_pending(state);
        state.supersede(appended.lsn);
        Ok(())
    }

    /// Puts another body in the place of the old one, whose dirty nodes no checkpoint needs to seal any more.
    fn drop_body(&self, state: &mut State<S>, body: Body) {
        if let Body::Paged(tree) = &state.body {
            self.core.nodes_settled(tree.dirty_nodes());
        }
        if let Body::Paged(tree) = &body {
            self.core.nodes_dirtied(tree.dirty_nodes());
        }
        state.body = body;
    }

    fn enter_journaled(&self, state: &mut State<S>, pages: &[(PageIndex, Seal)]) -> Result<()> {
        let dirtied = state.set_seals(&self.core, pages)?;
        self.core.nodes_dirtied(dirtied);
        Ok(())
    }

    /// Reserves space in the home for pages that are in the journal, so that a full disk is the writer's error and
    /// not the checkpoint's; and for the nodes above those that are behind the home's end.
    fn reserve_pages(&self, state: &mut State<S>, pages: &[(PageIndex, Seal)]) -> Result<()> {
        let block_end = |page: PageIndex| page_block(page).offset_bytes() + PAGE_BYTES;
        if pages.last().is_none_or(|(last, _)| block_end(*last) <= state.reserved_len()) {
            return Ok(());
        }
        // The old last page, which became longer, and behind a hole those that were written.
        for run in pages.chunk_by(|(a, _), (b, _)| a.0 + 1 == b.0) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { continue };
            // With the nodes that stand right before it.
            let mut start = page_block(*first);
            for node in nodes_over(*first).into_iter().rev() {
                if node.0 + 1 == start.0 {
                    start = node;
                } else if node.offset_bytes() >= state.reserved_len() {
                    self.reserve_node(state, node)?;
                }
            }
            self.reserve_home(state, start.offset_bytes(), block_end(*last))?;
        }
        Ok(())
    }

    /// Reserves space for a node, once.
    fn reserve_node(&self, state: &mut State<S>, block: BlockIndex) -> Result<()> {
        if !state.journal.reserved_nodes.contains(&block) {
            state.journal.reserved_behind |= block.offset_bytes() >= state.reserved_len();
            self.core.reserve(&state.home.file, block.offset_bytes(), PAGE_BYTES)?;
            state.journal.reserved_nodes.insert(block);
        }
        Ok(())
    }

    /// Reserves from `start`, which is no more than one record before `end`.
    fn reserve_home(&self, state: &mut State<S>, start: u64, end: u64) -> Result<()> {
        let there = state.reserved_len();
        let from = there.max(start);
        if end <= from {
            return Ok(());
        }
        state.journal.reserved_behind = true;
        if start > there.next_multiple_of(PAGE_BYTES) {
            // A hole lies before it, which is not reserved.
            return self.core.reserve(&state.home.file, from, end - from);
        }
        // A little ahead, for those who append: one call for sixteen pages.
        let ahead = (end - from).next_multiple_of(16 * PAGE_BYTES);
        let wanted = if state.size > 64 * PAGE_BYTES { ahead } else { end - from };
        let reserved = self.core.reserve(&state.home.file, from, wanted);
        if reserved.is_err() {
            self.core.reserve(&state.home.file, from, end - from)?;
            state.journal.reserved = end;
        } else {
            state.journal.reserved = from + wanted;
        }
        Ok(())
    }

    /// As [`Self::reserve_home`], for pages between others that a hole of the home stands for, and the nodes above them.
    pub(super) fn reserve_holes(&self, state: &State<S>, pages: &[PageIndex]) -> Result<()> {
        let mut blocks: BTreeSet<BlockIndex> = pages.iter().map(|page| page_block(*page)).collect();
        blocks.extend(pages.iter().flat_map(|page| nodes_over(*page)));
        for block in blocks {
            let from = block.offset_bytes();
            if from < state.home_len {
                self.core.reserve(&state.home.file, from, PAGE_BYTES.min(state.home_len - from))?;
            }
        }
        Ok(())
    }

    /// Reserves space for the nodes above pages that go straight home: the checkpoint that writes these has it then.
    fn reserve_nodes(&self, state: &mut State<S>, pages: &[(PageIndex, Seal)]) -> Result<()> {
        pages.iter().flat_map(|(page, _)| nodes_over(*page)).try_for_each(|node| self.reserve_node(state, node))
    }

    /// Writes fresh pages straight home; they are recorded when the home is synced.
    pub(super) fn write_fresh_home(
        &self,
        state: &mut State<S>,
        pages: &[(PageIndex, Seal)],
        images: &[u8],
        new_size: u64,
    ) -> Result<()> {
        let end = pages.last().map_or(0, |(page, _)| page_block(*page).offset_bytes() + page.len_in(new_size) as u64);
        // Not what the home has now: a checkpoint that is under way may make it shorter, as far as the journal does not say.
        if end > state.home_len.min(state.journal.taken_len) {
            self.record_extending(state)?;
        }
        self.reserve_nodes(state, pages)?;
        let pending = std::mem::take(&mut state.journal.pending);
        let (written, put) = state.put_home(&self.core, pages, images, new_size, |page| pending.contains(&page));
        state.journal.pending = pending;
        // Also of a write that failed half-way: what is home in part must be known.
        let pages = pages.get(..written).unwrap_or(pages);
        let reached = super::write::end_of(pages).min(new_size);
        let new_size = if put.is_ok() { new_size } else { state.size.max(reached) };
        self.enter_journaled(state, pages)?;
        for (page, _) in pages {
            // It may have been in the journal, and dropped: the home is newer now.
            state.home.overlay.remove(&page_block(*page));
            if state.journal.pending.insert(*page) {
                self.core.pages_pending(1);
            }
        }
        state.size = state.size.max(new_size);
        put?;
        if state.journal.pending.len() as u64 * PAGE_LEN as u64 >= super::durability::PENDING_MAX {
            self.record_pending(state)?;
        }
        Ok(())
    }

    /// Makes it durable that the home may be longer than the size says, before it is.
    fn record_extending(&self, state: &mut State<S>) -> Result<()> {
        let current = self.core.journal()?.current();
        if state.journal.extending_in != Some(current) {
            let operation = Operation::Extending { file: self.file_id(state)? };
            let appended = self.append(state, &[(operation, &[])])?;
            if !switches::holds("file.extending-is-recorded", false) {
                self.core.sync_journal(appended.lsn)?;
            }
            state.journal.extending_in = Some(current);
        }
        Ok(())
    }

    /// Syncs the home and records the pages that were written straight to it, then the size.
    pub(super) fn record_pending(&self, state: &mut State<S>) -> Result<()> {
        if state.journal.pending.is_empty() {
            return Ok(());
        }
        self.begin_change(state)?;
        self.sync_home_by(|home| {
            switches::barrier("file.home-synced-before-record", || self.core.storage.sync_data(home))
        })?;
        let id = self.file_id(state)?;
        let mut seals = Vec::new();
        if let Body::Paged(tree) = &state.body {
            for page in &state.journal.pending {
                // A page that is not in memory as content was dropped since.
                if let Some(Some(seal)) = tree.cached_seal(*page)? {
                    seals.push((*page, seal));
                }
            }
        }
        // The old last page, sealed at its new length, counts only together with the new size.
        let tail = PageIndex::of(state.journal.size);
        let (last, others): (Vec<_>, Vec<_>) = seals.into_iter().partition(|(page, _)| *page == tail);
        for chunk in others.chunks(SEALS_PER_RECORD) {
            self.append(state, &home_operations(id, chunk))?;
        }
        let mut items = home_operations(id, &last);
        items.push((Operation::Length { file: id, size: state.size, mtime: time_of(state.mtime) }, &[]));
        self.append(state, &items)?;
        state.journal.size = state.size;
        self.forget_pending(state);
        Ok(())
    }

    pub(super) fn forget_pending(&self, state: &mut State<S>) {
        self.core.pages_recorded(state.journal.pending.len());
        state.journal.pending.clear();
    }

    /// Records that the file became shorter or got holes: `tail` is the last page, sealed anew, if it is content.
    pub(super) fn journal_cut(
        &self,
        state: &mut State<S>,
        tail: &[(PageIndex, Seal)],
        images: &[u8],
        new_size: u64,
    ) -> Result<()> {
        self.record_pending(state)?;
        // To the end of the tree: a node that is left without pages behind the end would have no place.
        let cut = (PageIndex(page_count(new_size)), PageIndex(SIZE_MAX / PAGE_BYTES));
        if new_size < state.size {
            self.load_borders(state, cut.0, cut.1)?;
        }
        let id = self.file_id(state)?;
        let mut items = pages_operations(id, tail, images);
        items.push((Operation::Length { file: id, size: new_size, mtime: time_of(state.mtime) }, &[]));
        let appended = self.append(state, &items)?;
        if new_size < state.size {
            self.drop_pages(state, cut.0, cut.1)?;
        }
        state.overlay_pages(tail, appended.first_image);
        self.enter_journaled(state, tail)?;
        state.size = new_size;
        state.journal.size = new_size;
        state.cut_reserved();
        Ok(())
    }

    /// Records that pages are holes now.
    pub(super) fn journal_punch(&self, state: &mut State<S>, first: PageIndex, end: PageIndex) -> Result<()> {
        self.record_pending(state)?;
        self.load_borders(state, first, end)?;
        let file = self.file_id(state)?;
        let punch = Operation::Punch { file, first: first.0, count: end.0 - first.0 };
        let length = Operation::Length { file, size: state.journal.size, mtime: time_of(state.mtime) };
        self.append(state, &[(punch, &[]), (length, &[])])?;
        self.drop_pages(state, first, end)?;
        state.journal.punched.push((first, end));
        Ok(())
    }

    /// What cannot be done to the tree must not be in the journal: a node that does not verify is met before the record.
    fn load_borders(&self, state: &mut State<S>, first: PageIndex, end: PageIndex) -> Result<()> {
        let State { home, body: Body::Paged(tree), .. } = state else { return Ok(()) };
        tree.load_borders(first, end, &home.reader(&self.core))
    }

    /// Makes pages holes in memory. Their places in the home stay taken until a checkpoint has retired what refers
    /// to them.
    fn drop_pages(&self, state: &mut State<S>, first: PageIndex, end: PageIndex) -> Result<()> {
        let State { home, body: Body::Paged(tree), .. } = state else { return Ok(()) };
        let before = tree.dirty_nodes();
        tree.clear(first, end, &home.reader(&self.core))?;
        let after = tree.dirty_nodes();
        self.core.nodes_dirtied(after.saturating_sub(before));
        self.core.nodes_settled(before.saturating_sub(after));
        let (from, to) = (page_block(first), page_block(end));
        home.overlay.retain(|block, _| *block < from || *block >= to || is_node(*block));
        state.journal.dropped_in = Some(self.core.journal()?.current());
        state.journal.superseded_at = None;
        Ok(())
    }
}

/// The blocks of the nodes over a page, but for the root; those above first.
pub(super) fn nodes_over(page: PageIndex) -> Vec<BlockIndex> {
    let path = Path::to(page);
    let steps = path.iter().flat_map(|path| path.steps());
    steps.map(|(node, _)| node.block).filter(|block| *block != BlockIndex::ROOT).collect()
}

pub(super) fn is_node(block: BlockIndex) -> bool {
    matches!(crate::format::geometry::at_block(block), Some(crate::format::geometry::Child::Node(_)))
}

impl<S: Storage> State<S> {
    /// Notes where the newest images of these pages are.
    pub(super) fn overlay_pages(&mut self, pages: &[(PageIndex, Seal)], first: Location) {
        for ((page, _), index) in pages.iter().zip(0_u32..) {
            let at = Location { block: first.block + index, ..first };
            self.home.overlay.insert(page_block(*page), at);
        }
    }

    /// A record has made everything in the home count for nothing; so nothing of it is given back page by page.
    fn supersede(&mut self, lsn: Lsn) {
        self.journal.superseded_at = Some(lsn);
        self.journal.punched.clear();
        self.journal.giving_back.clear();
        self.cut_reserved();
    }

    /// As far as the home has space, or it is reserved, without a gap.
    fn reserved_len(&self) -> u64 {
        self.home_len.min(self.journal.taken_len).max(self.journal.reserved)
    }

    /// What is behind the end waits for nothing.
    fn cut_reserved(&mut self) {
        self.journal.reserved = self.journal.reserved.min(self.wanted_home_len());
    }

    /// The home's length in the state in memory.
    pub(super) fn wanted_home_len(&self) -> u64 {
        home_len(self.size)
    }
}

/// One operation for each run of pages sealed in one session, with the images of each.
fn pages_operations<'a>(id: FileId, pages: &[(PageIndex, Seal)], images: &'a [u8]) -> Vec<(Operation, &'a [u8])> {
    let mut items = Vec::new();
    let mut rest = images;
    for run in same_session(pages) {
        let (mine, others) = rest.split_at_checked(run.len() * PAGE_LEN).unwrap_or((rest, &[]));
        rest = others;
        items.push((pages_operation(id, run, Placement::Journal), mine));
    }
    items
}

/// One operation for each run of pages that are home already.
fn home_operations<'a>(id: FileId, pages: &[(PageIndex, Seal)]) -> Vec<(Operation, &'a [u8])> {
    same_session(pages).map(|run| (pages_operation(id, run, Placement::Home), [].as_slice())).collect()
}

fn same_session(pages: &[(PageIndex, Seal)]) -> impl Iterator<Item = &[(PageIndex, Seal)]> {
    pages.chunk_by(|(_, a), (_, b)| a.session == b.session)
}

fn pages_operation(file: FileId, pages: &[(PageIndex, Seal)], placement: Placement) -> Operation {
    let session = pages.first().map_or(0, |(_, seal)| seal.session);
    let seals = pages.iter().map(|(page, seal)| PageSeal { page: page.0, nonce: seal.nonce, tag: seal.tag }).collect();
    Operation::Pages { file, session, placement, seals }
}

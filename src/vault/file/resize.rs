//! Truncating, punching holes, reserving space.

use zeroize::Zeroizing;

use super::home::Keys;
use super::journaling::nodes_over;
use super::sealing::Change;
use super::write::{STEP_BLOCKS, resize_plain};
use super::{Base, Body, State, VaultFile};
use crate::crypto::entropy;
use crate::format::geometry::{
    BLOB_MAX, BlockIndex, PAGE_BYTES, PAGE_LEN, PageIndex, SIZE_MAX, home_len, page_block, page_count,
};
use crate::format::header::Seal;
use crate::format::seals::Sealed;
use crate::storage::Storage;
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};
use crate::vault::tree::TagTree;

#[cfg(test)]
mod tests;

impl<S: Storage> VaultFile<S> {
    /// Sets the plain size; what is added reads as zeros.
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.core.ensure_writable()?;
        if size > SIZE_MAX {
            return Err(VaultError::TooLarge);
        }
        loop {
            if self.is_volatile() {
                let mut state = self.state.write();
                if state.base == Base::Volatile {
                    self.core.ensure_writable()?;
                    state.check_len(&self.core, size)?;
                    state.journal.touched = true;
                    state.changed_at(self.core.storage.now());
                    return state.truncate_volatile(&self.core, size);
                }
                continue;
            }
            let _admission = self.core.admit(STEP_BLOCKS)?;
            let _gate = self.core.change_gate()?;
            let mut state = self.state.write();
            state.check_len(&self.core, size)?;
            self.begin_change(&mut state)?;
            state.mtime = Some(self.core.storage.now());
            return self.truncate_durable(&mut state, size);
        }
    }

    fn truncate_durable(&self, state: &mut State<S>, size: u64) -> Result<()> {
        if size == state.size {
            return self.record_length(state);
        }
        if size < state.size {
            // Nor does anything stay reserved behind the end.
            state.asked_for.clear();
            state.journal.reserved_behind = true;
        }
        if size <= BLOB_MAX {
            let plain = state.read_start(&self.core, size as usize)?;
            if size == 0 || matches!(state.body, Body::Paged(_)) {
                // It starts anew: nothing of the old keys stays in use.
                let before = std::mem::replace(&mut state.home.keys, Keys::new(&self.core, entropy::array()));
                let outcome = self.journal_blob(state, &plain);
                if outcome.is_err() {
                    state.home.keys = before;
                }
                return outcome;
            }
            return self.journal_blob(state, &plain);
        }
        if let Body::Blob { .. } = state.body {
            let plain = state.read_blob(&self.core)?;
            let mut tree = TagTree::empty();
            let (pages, images) =
                state.seal_range(&self.core, &mut tree, size, Change::of_length(size), Some(&plain))?;
            return self.journal_conversion(state, tree, &pages, &images, size);
        }
        if size < state.size {
            let (tail, image) = state.seal_cut_tail(&self.core, size)?;
            return self.journal_cut(state, &tail, &image, size);
        }
        let (pages, images) =
            state.with_tree(|state, tree| state.seal_range(&self.core, tree, size, Change::of_length(size), None))?;
        self.journal_pages(state, &pages, &images, size)
    }

    /// Makes a range within the file read as zeros and gives its space back where it covers whole pages.
    pub fn punch_hole(&self, offset_bytes: u64, len_bytes: u64) -> Result<()> {
        self.core.ensure_writable()?;
        let size = self.len_bytes();
        let end = offset_bytes.saturating_add(len_bytes).min(size);
        if offset_bytes >= end {
            return Ok(());
        }
        let first_whole = offset_bytes.next_multiple_of(PAGE_BYTES);
        let end_whole = if end == size { end.next_multiple_of(PAGE_BYTES) } else { end - end % PAGE_BYTES };
        if size <= BLOB_MAX || first_whole >= end_whole {
            return self.write_zeros(offset_bytes, end);
        }
        self.write_zeros(offset_bytes, first_whole.min(end))?;
        self.punch_pages(PageIndex::of(first_whole), PageIndex::of(end_whole))?;
        if end_whole < end { self.write_zeros(end_whole, end) } else { Ok(()) }
    }

    /// Writes zeros over the content in a range of one page or of a blob; a hole stays one.
    fn write_zeros(&self, from: u64, end: u64) -> Result<()> {
        if from >= end {
            return Ok(());
        }
        match self.next_data(from)? {
            Some(data) if data < end => self.write(from, &vec![0; (end - from) as usize]),
            _ => Ok(()),
        }
    }

    /// Makes whole pages holes, whether they open or not. What a node covers is dropped unread, if all of it is.
    pub(crate) fn make_holes(&self, offset_bytes: u64, len_bytes: u64) -> Result<()> {
        let end_bytes = offset_bytes.saturating_add(len_bytes);
        // Behind the end of the file nothing is to be kept either.
        let end = if end_bytes >= self.len_bytes() { SIZE_MAX } else { end_bytes };
        self.core.ensure_writable()?;
        self.punch_pages(PageIndex::of(offset_bytes), PageIndex::of(end))
    }

    fn punch_pages(&self, first: PageIndex, end: PageIndex) -> Result<()> {
        loop {
            if self.is_volatile() {
                let mut state = self.state.write();
                if state.base == Base::Volatile {
                    self.core.ensure_writable()?;
                    state.journal.touched = true;
                    state.changed_at(self.core.storage.now());
                    return state.punch_volatile(&self.core, first, end);
                }
                continue;
            }
            let _admission = self.core.admit(STEP_BLOCKS)?;
            let _gate = self.core.change_gate()?;
            let mut state = self.state.write();
            if matches!(state.body, Body::Blob { .. }) {
                // It was truncated meanwhile.
                return Ok(());
            }
            self.begin_change(&mut state)?;
            state.mtime = Some(self.core.storage.now());
            return self.journal_punch(&mut state, first, end);
        }
    }

    /// An error if the backing takes no file of this plain size.
    pub fn check_len(&self, size: u64) -> Result<()> {
        self.state.read().check_len(&self.core, size)
    }

    /// Reserves space for later writes to a range; the size stays. A backing that can't is no error.
    pub fn reserve(&self, offset_bytes: u64, len_bytes: u64) -> Result<()> {
        self.core.ensure_writable()?;
        let end = offset_bytes.checked_add(len_bytes).filter(|end| *end <= SIZE_MAX).ok_or(VaultError::TooLarge)?;
        if end <= offset_bytes {
            return Ok(());
        }
        self.core.with_room(|| self.state.write().reserve(&self.core, offset_bytes, end))
    }
}

impl<S: Storage> State<S> {
    /// Lends the tree out together with the rest of the state.
    pub(super) fn with_tree<T>(&mut self, call: impl FnOnce(&mut Self, &mut TagTree) -> Result<T>) -> Result<T> {
        let body = std::mem::replace(&mut self.body, Body::Blob { seal: None, sealed: None });
        let Body::Paged(mut tree) = body else {
            self.body = body;
            return Err(VaultError::Internal("a blob has no tree"));
        };
        let outcome = call(self, &mut tree);
        self.body = Body::Paged(tree);
        outcome
    }

    /// The first `len` bytes of the content, zeros behind its end.
    fn read_start(&mut self, core: &VaultCore<S>, len: usize) -> Result<Zeroizing<Vec<u8>>> {
        if let Body::Blob { .. } = self.body {
            let mut plain = if len == 0 { Zeroizing::new(Vec::new()) } else { self.read_blob(core)? };
            resize_plain(&mut plain, len);
            return Ok(plain);
        }
        let mut plain = Zeroizing::new(vec![0; len]);
        self.with_tree(|state, tree| {
            let mut page_bytes = Zeroizing::new([0; PAGE_LEN]);
            for (chunk, page) in plain.chunks_mut(PAGE_LEN).zip((0..).map(PageIndex)) {
                let seal = tree.seal(page, &state.home.reader(core))?;
                page_bytes.fill(0);
                state.old_page(core, page, seal, None, &mut page_bytes)?;
                if let Some(start) = page_bytes.get(..chunk.len()) {
                    chunk.copy_from_slice(start);
                }
            }
            Ok(())
        })?;
        Ok(plain)
    }

    /// The page that becomes the last one of a shorter file, cut and sealed anew; none if it is whole or a hole.
    fn seal_cut_tail(&mut self, core: &VaultCore<S>, size: u64) -> Result<(Vec<(PageIndex, Seal)>, Vec<u8>)> {
        if size.is_multiple_of(PAGE_BYTES) {
            return Ok((Vec::new(), Vec::new()));
        }
        let page = PageIndex::of(size);
        self.with_tree(|state, tree| {
            let Some(seal) = tree.seal(page, &state.home.reader(core))? else {
                return Ok((Vec::new(), Vec::new()));
            };
            let mut plain = Zeroizing::new([0; PAGE_LEN]);
            state.old_page(core, page, Some(seal), None, &mut plain)?;
            let len = page.len_in(size);
            let mut image = vec![0; PAGE_LEN];
            let (sealed, rest) = image.split_at_mut_checked(len).unwrap_or_default();
            let what = Sealed::Page(page_block(page));
            let seal = state.home.keys.seal_into(core, what, plain.get(..len).unwrap_or_default(), sealed)?;
            entropy::fill(rest);
            Ok((vec![(page, seal)], image))
        })
    }

    /// Reserves space for a range that is not empty. A range within the file ends with its last page: behind it may lie holes
    /// that nobody spoke of.
    fn reserve(&mut self, core: &VaultCore<S>, offset_bytes: u64, end: u64) -> Result<()> {
        let size = end.max(self.size);
        let is_blob = size <= BLOB_MAX;
        let (first, last) = (PageIndex::of(offset_bytes), PageIndex::of(end - 1));
        let from = if is_blob { 0 } else { page_block(first).offset_bytes() };
        let to = if is_blob || end == size { home_len(size) } else { page_block(last).offset_bytes() + PAGE_BYTES };
        if is_blob && page_count(to) <= page_count(self.home_len) {
            return Ok(());
        }
        // The nodes over the first page stand before it, all others in between.
        let nodes = [BlockIndex::ROOT].into_iter().chain(nodes_over(first)).filter(|_| !is_blob);
        for node in nodes {
            core.reserve(&self.home.file, node.offset_bytes(), PAGE_BYTES)?;
        }
        core.reserve(&self.home.file, from, to - from)?;
        // What touches is one.
        let (mut start, mut stop) = (from, to);
        self.asked_for.retain(|known| {
            let joins = from <= known.end && known.start <= to;
            if joins {
                (start, stop) = (start.min(known.start), stop.max(known.end));
            }
            !joins
        });
        self.asked_for.push(start..stop);
        self.journal.keep_space(first, PageIndex(page_count(end)));
        Ok(())
    }

    fn truncate_volatile(&mut self, core: &VaultCore<S>, size: u64) -> Result<()> {
        if size == self.size {
            // It counts as a change all the same: the time is set with the next commit.
            return Ok(());
        }
        if size < self.size {
            self.asked_for.clear();
        }
        if size <= BLOB_MAX {
            let plain = self.read_start(core, size as usize)?;
            if size == 0 || matches!(self.body, Body::Paged(_)) {
                let before = std::mem::replace(&mut self.home.keys, Keys::new(core, entropy::array()));
                let outcome = self.store_blob_home(core, &plain);
                if outcome.is_err() && !self.is_blob_of(plain.len()) {
                    self.home.keys = before;
                }
                return outcome;
            }
            return self.store_blob_home(core, &plain);
        }
        // Longer first, before anything says that it is: a backing may not take it.
        let pages = if let Body::Blob { .. } = self.body {
            let plain = self.read_blob(core)?;
            let mut tree = TagTree::empty();
            let (pages, images) = self.seal_range(core, &mut tree, size, Change::of_length(size), Some(&plain))?;
            self.put_over_blob(core, &pages, &images, size, &plain)?;
            self.body = Body::Paged(tree);
            self.under = self.home.keys.version().0;
            pages
        } else if size < self.size {
            let (tail, image) = self.seal_cut_tail(core, size)?;
            self.put_home(core, &tail, &image, size, |_| true).1?;
            let end = PageIndex(SIZE_MAX / PAGE_BYTES);
            let Self { home, body: Body::Paged(tree), .. } = self else {
                return Err(VaultError::Internal("a blob has no tree"));
            };
            tree.clear(PageIndex(page_count(size)), end, &home.reader(core))?;
            tail
        } else {
            let (pages, images) =
                self.with_tree(|state, tree| state.seal_range(core, tree, size, Change::of_length(size), None))?;
            self.set_home_len(core, home_len(size))?;
            // From here on a commit has a length to set back.
            self.stale = true;
            self.put_home(core, &pages, &images, size, |_| true).1?;
            pages
        };
        self.stale = true;
        self.set_seals(core, &pages)?;
        self.size = size;
        self.set_home_len(core, home_len(size))
    }

    /// Whether a blob of this length was stored before something else failed.
    fn is_blob_of(&self, len: usize) -> bool {
        matches!(self.body, Body::Blob { .. }) && self.size == len as u64
    }

    fn punch_volatile(&mut self, core: &VaultCore<S>, first: PageIndex, end: PageIndex) -> Result<()> {
        let Self { home, body: Body::Paged(tree), .. } = self else { return Ok(()) };
        tree.clear(first, end, &home.reader(core))?;
        self.stale = true;
        self.punch_where_holes::<()>(core, first, end, &[]);
        Ok(())
    }

    /// Gives the space of those of these pages back that are holes in memory, and of the nodes that had no others. (A node
    /// that has may be there in a state that a crash goes back to.) But not of what a checkpoint has an image of, whose `images`
    /// are in the order of their blocks: from there a crash takes newer steps again, one by one, which may need a node before
    /// they drop it. That it cannot be done is nobody's error.
    pub(super) fn punch_where_holes<T>(
        &mut self,
        core: &VaultCore<S>,
        first: PageIndex,
        end: PageIndex,
        images: &[(BlockIndex, T)],
    ) {
        let Self { home, body: Body::Paged(tree), home_len, .. } = self else { return };
        let mut runs = Vec::new();
        if let Err(error) = tree.add_unused(first, end, &home.reader(core), &mut runs) {
            log::warn!("{}: not all space of its holes is given back: {error}", home.path);
        }
        for run in runs {
            let inside = images.partition_point(|(block, _)| *block < run.start);
            let kept = images.iter().skip(inside).map(|(block, _)| *block).take_while(|block| *block < run.end);
            let mut start = run.start;
            for block in kept.chain([run.end]) {
                let (from, to) = (start.offset_bytes(), block.offset_bytes().min(*home_len));
                start = BlockIndex(block.0.saturating_add(1));
                if from < to && core.storage.punch_hole(&home.file, from, to - from).is_err() {
                    return;
                }
            }
        }
    }
}

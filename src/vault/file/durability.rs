//! Commit, sync, and a file's part in a checkpoint.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::journaling::{nodes_over, time_of};
use super::write::STEP_BLOCKS;
use super::{Base, Body, State, VaultFile};
use crate::format::geometry::{BlockIndex, Child, PAGE_BYTES, PAGE_LEN, PageIndex, at_block, page_count};
use crate::format::header::Seal;
use crate::format::record::{Lsn, Operation, SegmentSeq};
use crate::format::seals::Sealed;
use crate::storage::Storage;
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};
use crate::vault::journal::Location;
use crate::vault::switches;
use crate::vault::tree::add_run;

/// Fresh pages that are home and not recorded, in bytes, before the writer itself syncs and records them.
pub(super) const PENDING_MAX: u64 = 64 << 20;
/// Blocks of the journal that a checkpoint reads at once.
const WINDOW_BLOCKS: u32 = 256;
/// It reads on over so many between two images: descriptors, and images that newer ones have replaced.
const GAP_BLOCKS: u32 = 4;

/// What a checkpoint has to bring home for one file: the state as of the end of a segment.
pub(crate) struct Applied<S: Storage> {
    pub file: Arc<VaultFile<S>>,
    blocks: Vec<(BlockIndex, Location)>,
    home_len: u64,
    segment: SegmentSeq,
}

impl<S: Storage> VaultFile<S> {
    /// At close: what is only in memory reaches the backing, unsynced. The background sync makes it durable.
    pub fn commit(&self) -> Result<()> {
        if self.core.is_read_only() { Ok(()) } else { self.complete().map(|_| ()) }
    }

    /// The same, also of a vault that takes no more changes. True if there was something to complete.
    pub(crate) fn complete(&self) -> Result<bool> {
        if !self.is_volatile() || self.ends_with_its_users() {
            return Ok(false);
        }
        let is_changed = Cell::new(false);
        let outcome = self.core.with_room(|| {
            let mut state = self.state.write();
            if state.base != Base::Volatile {
                return Ok(is_changed.get());
            }
            let outcome = state.commit_home(&self.core);
            if std::mem::take(&mut state.journal.touched) {
                is_changed.set(true);
                // A background sync that began before does not cover it.
                self.core.remember_written(self.ino);
            }
            outcome.map(|()| is_changed.get())
        });
        if outcome.is_err() {
            // It is not lost with the handle: tried again in the background, and when the vault is sealed.
            self.core.remember_uncommitted(self.ino);
        }
        outcome
    }

    /// `fsync(2)`: when it returns, the content, the size and the name survive a power cut.
    pub fn sync(&self) -> Result<()> {
        self.core.ensure_writable()?;
        // What never gets a name is not missed. One that just gets its first is durable already, and must stay it.
        let is_needed = !self.is_unlinked() || (self.is_unnamed() && !self.is_volatile());
        if is_needed { self.become_synced() } else { Ok(()) }
    }

    /// Before a file that was made without a name gets its first: a crash shows it whole or not at all. What was synced
    /// while it had none is there then, and so is no file under its name that was born before the last durable epoch and
    /// is not.
    pub(crate) fn sync_before_first_name(&self) -> Result<()> {
        self.core.ensure_writable()?;
        self.become_synced()
    }

    /// After it got its first name: btrfs keeps nothing of the sync of a file that has none, and of one whose directory is
    /// synced no more than that it is there.
    pub(crate) fn sync_after_first_name(&self) -> Result<()> {
        self.sync_home()
    }

    fn become_synced(&self) -> Result<()> {
        if self.is_volatile() {
            if !self.is_unnamed() {
                self.location().settle()?;
            }
            let mut state = self.state.write();
            if state.base == Base::Volatile {
                state.commit_home(&self.core)?;
                let attributes = self.core.changed_attributes(self.ino);
                self.sync_home_by(|home| {
                    switches::barrier("file.sync-new-home", || self.core.storage.sync_file(home))
                })?;
                self.core.attributes_synced(&attributes);
                self.become_durable(&mut state, true);
                return Ok(());
            }
        }
        let last = self.recorded(|state| {
            // A background sync may have begun with it, and not be over.
            self.sync_base(state)?;
            self.sync_attributes()
        })?;
        self.core.sync_journal(last)?;
        if self.is_lost() {
            // Recovery could not find it by the name that the journal has.
            self.core.checkpoint(false)?;
        }
        Ok(())
    }

    pub(super) fn become_durable(&self, state: &mut State<S>, synced: bool) {
        state.base = Base::Durable { synced };
        state.journal.touched = false;
        state.journal.size = state.size;
        state.journal.header_size = state.size;
        state.journal.taken_len = state.wanted_home_len();
        state.journal.base_salt = state.home.keys.salt;
        self.volatile.store(false, Ordering::Release);
        if synced {
            self.core.forget_volatile(self.ino);
            self.core.remember_synced(self.ino);
        }
    }

    /// Background durability: writes what is in memory home and treats the file as durable from here on; the
    /// caller syncs the whole backing. A change before that syncs the home first.
    pub(crate) fn settle_in_background(&self) -> Result<()> {
        if self.is_unlinked() {
            return Ok(());
        }
        let mut state = self.state.write();
        if state.base == Base::Volatile {
            state.commit_home(&self.core)?;
            self.become_durable(&mut state, false);
        }
        Ok(())
    }

    /// Records what was written straight home, so that the next journal sync covers it.
    pub(crate) fn record_in_background(&self) -> Result<()> {
        if self.is_volatile() { Ok(()) } else { self.recorded(|_| Ok(())).map(|_| ()) }
    }

    /// Does what comes before, and records what was written straight home; returns the last record. What is in the journal
    /// already needs no room there, which a full disk may not give.
    fn recorded(&self, before: impl Fn(&mut State<S>) -> Result<()>) -> Result<Lsn> {
        let mut admission = None;
        loop {
            if admission.is_none() && !self.state.read().journal.pending.is_empty() {
                admission = Some(self.core.admit(STEP_BLOCKS)?);
            }
            let _gate = self.core.change_gate()?;
            let mut state = self.state.write();
            if admission.is_none() && !state.journal.pending.is_empty() {
                continue;
            }
            before(&mut state)?;
            self.record_pending(&mut state)?;
            return Ok(state.journal.last);
        }
    }

    /// Whether pages of it are home that nothing durable speaks of.
    pub(crate) fn has_pending(&self) -> bool {
        !self.state.read().journal.pending.is_empty()
    }

    /// Dirty nodes and header into the journal, so that a checkpoint can bring the file's state as it is now
    /// home. The caller holds the gate alone. None: nothing of it is in the journal.
    pub(crate) fn seal_for_checkpoint(self: &Arc<Self>) -> Result<Option<Applied<S>>> {
        let mut state = self.state.write();
        if !state.journal.touched && state.home.overlay.is_empty() {
            return Ok(None);
        }
        self.record_pending(&mut state)?;
        if state.journal.touched {
            self.seal_header(&mut state)?;
        }
        state.journal.base_salt = state.home.keys.salt;
        let mut blocks: Vec<_> = state.home.overlay.iter().map(|(block, at)| (*block, *at)).collect();
        blocks.sort_unstable_by_key(|(block, _)| *block);
        let home_len = state.wanted_home_len();
        state.journal.taken_len = home_len;
        Ok(Some(Applied { file: self.clone(), blocks, home_len, segment: self.core.journal()?.current() }))
    }

    fn seal_header(&self, state: &mut State<S>) -> Result<()> {
        let id = self.file_id(state)?;
        let current = self.core.journal()?.current();
        let core = &self.core;
        let State { home, body, size, journal, .. } = &mut *state;
        let Body::Paged(tree) = body else {
            // A blob's images are whole files, header and all.
            if home.overlay.get(&BlockIndex::ROOT).is_some_and(|at| at.segment == current) {
                state.seq = journal.blob_seq;
            }
            return Ok(());
        };
        if !tree.is_dirty() && journal.header_size == *size {
            return Ok(());
        }
        let mut placed = Vec::with_capacity(tree.dirty_nodes());
        let sealed = tree.seal_nodes(|block, entries| {
            let seal: Seal = home.seal_in_place(core, Sealed::Node(block), entries)?;
            let operation = Operation::Node { file: id, block: block.0 };
            let appended = core.append(&[(operation, entries.as_slice())])?;
            placed.push((block, appended.first_image));
            Ok(seal)
        });
        core.nodes_settled(placed.len());
        home.overlay.extend(placed);
        sealed?;
        state.seq = state.next_seq();
        let header = state.header();
        let Body::Paged(tree) = &mut state.body else { return Ok(()) };
        let block = state.home.seal_root(core, &header, tree)?;
        let operation = Operation::Root { file: id, mtime: time_of(state.mtime) };
        let appended = core.append(&[(operation, block.as_slice())])?;
        tree.root_sealed();
        state.home.overlay.insert(BlockIndex::ROOT, appended.first_image);
        state.journal.header_size = state.size;
        Ok(())
    }

    /// The checkpoint that took the file's state has its end mark: what is changed from here on is for the next.
    pub(crate) fn taken_by_checkpoint(&self) {
        let mut state = self.state.write();
        state.journal.touched = false;
        state.journal.in_checkpoint = true;
        state.journal.giving_back = std::mem::take(&mut state.journal.punched);
    }

    /// The segment that held these images is retired: the home is their place now. If nothing of the file is in the
    /// journal any more, it leaves the list of those that have something there.
    pub(crate) fn retired(&self, segment: SegmentSeq) {
        let mut state = self.state.write();
        state.home.overlay.retain(|_, at| at.segment > segment);
        state.evict_nodes();
        state.journal.in_checkpoint = false;
        state.journal.giving_back.clear();
        if state.journal.dropped_in.is_some_and(|dropped| dropped <= segment) {
            state.journal.dropped_in = None;
        }
        state.journal.reserved = 0;
        state.journal.reserved_nodes.clear();
        if state.home.overlay.is_empty() && !state.journal.touched && state.journal.pending.is_empty() {
            // As long as the state is held: whoever changes the file next puts it on the list again.
            self.core.forget_journaled(self.ino);
        }
    }

    /// Forgets what the journal holds of a file whose last name is gone and that nobody has open.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.write();
        self.forget_pending(&mut state);
        if let Body::Paged(tree) = &state.body {
            self.core.nodes_settled(tree.dirty_nodes());
        }
    }

    /// Makes the attributes durable, if they were changed.
    fn sync_attributes(&self) -> Result<()> {
        let changed = self.core.changed_attributes(self.ino);
        if switches::holds("file.attributes-are-synced", changed.is_empty()) {
            return Ok(());
        }
        self.sync_home()?;
        self.core.attributes_synced(&changed);
        Ok(())
    }

    /// Syncs the home. The state need not be locked: who writes meanwhile waits only to sync the home, too.
    pub(crate) fn sync_home(&self) -> Result<()> {
        self.sync_home_by(|home| self.core.storage.sync_file(home))
    }

    /// Syncs the home in the way that is given, one thread after the other.
    pub(super) fn sync_home_by(&self, sync: impl FnOnce(&S::File) -> io::Result<()>) -> Result<()> {
        self.core.sync_alone(&self.syncing, "sync a file", || sync(&self.backing))
    }
}

impl<S: Storage> Applied<S> {
    /// Writes the images home, unsynced, and sets length and time. Reads go on meanwhile: until the segment is
    /// retired they take the images from the journal.
    pub fn bring_home(&self, core: &VaultCore<S>) -> Result<()> {
        let mut reached = 0;
        let written = self.write_images(core, &mut reached);
        let mut state = self.file.state.write();
        state.home_len = state.home_len.max(reached);
        written?;
        // Pages that were appended since, straight to the home, stay; the journal knows of them. So they do where the file
        // was cut after that: what says so may not be durable, and the next checkpoint will know.
        let extended = state.journal.extending_in.is_some_and(|segment| segment > self.segment);
        let appended = if extended { state.home_len } else { 0 };
        let len = self.home_len.max(appended);
        // Also where the length is right: what was reserved beyond it for pages in the journal goes, unless some wait for it
        // that came since. What somebody asked for stays, also if that was before the file was opened.
        let is_wanted = self.is_followed(&state) || state.asked_for.iter().any(|range| range.end > len);
        if state.home_len != len || (!is_wanted && state.journal.reserved_behind) {
            core.storage.set_len(&state.home.file, len).map_err(|e| core.write_failed("set a file's length", e))?;
            state.home_len = len;
            state.journal.reserved_behind = is_wanted;
            for wanted in self.wanted_behind(&state, len) {
                match core.reserve(&state.home.file, wanted.start, wanted.end - wanted.start) {
                    // Somebody else took it at once. Their own checkpoint waits for room.
                    Err(error) if error.is_out_of_space() => break,
                    outcome => outcome?,
                }
            }
        }
        for (first, end) in state.journal.giving_back.clone() {
            let end = end.min(PageIndex(page_count(state.size)));
            state.punch_where_holes(core, first, end, &self.blocks);
        }
        // The newest: a time that was set since then would otherwise be undone.
        if let Some(mtime) = state.mtime {
            core.set_mtime(&state.home.file, mtime)?;
        }
        Ok(())
    }

    /// Whether a newer segment has something of the file.
    fn is_followed(&self, state: &State<S>) -> bool {
        state.journal.named_in.is_some_and(|segment| segment > self.segment)
    }

    /// What lies behind a home that was cut to this length, and is waited for: what is in a newer segment, and what somebody
    /// asked for.
    fn wanted_behind(&self, state: &State<S>, len: u64) -> Vec<Range<u64>> {
        let mut wanted = Vec::new();
        if self.is_followed(state) {
            wanted.push(len..state.journal.reserved);
            let mut runs = Vec::new();
            let newer = state.home.overlay.iter().filter(|(_, at)| at.segment > self.segment).map(|(block, _)| *block);
            let mut blocks: BTreeSet<BlockIndex> = state.journal.reserved_nodes.clone();
            for block in newer {
                if let Some(Child::Page(page)) = at_block(block) {
                    blocks.extend(nodes_over(page));
                }
                blocks.insert(block);
            }
            blocks.into_iter().for_each(|block| add_run(&mut runs, block..BlockIndex(block.0 + 1)));
            wanted.extend(runs.into_iter().map(|run| run.start.offset_bytes()..run.end.offset_bytes()));
        }
        wanted.extend(state.asked_for.iter().cloned());
        wanted
            .into_iter()
            .map(|range| range.start.max(len)..range.end)
            .filter(|range| range.start < range.end)
            .collect()
    }

    /// Writes the images home, a window of the journal at once; the file's state is not locked. `reached`: where the last
    /// of them ends, also of those before an error.
    fn write_images(&self, core: &VaultCore<S>, reached: &mut u64) -> Result<()> {
        let is_content = |(block, _): &&(BlockIndex, Location)| block.offset_bytes() < self.home_len;
        let mut images: Vec<_> = self.blocks.iter().filter(is_content).copied().collect();
        images.sort_unstable_by_key(|(_, at)| (at.segment, at.block));
        let mut window = core.scratch(0);
        let mut rest = images.as_mut_slice();
        while let Some((_, first)) = rest.first().copied() {
            let mut last = first;
            let follows = |(_, at): &&(BlockIndex, Location)| {
                let is_near = at.block <= last.block.saturating_add(1 + GAP_BLOCKS);
                let follows = is_near && at.segment == first.segment && at.block - first.block < WINDOW_BLOCKS;
                if follows {
                    last = *at;
                }
                follows
            };
            let count = rest.iter().take_while(follows).count();
            let (near, behind) = rest.split_at_mut(count);
            window.set_len((last.block - first.block + 1) as usize * PAGE_LEN);
            self.read_window(core, near, first, &mut window)?;
            near.sort_unstable_by_key(|(block, _)| *block);
            for run in near.chunk_by(|(before, _), (block, _)| before.0 + 1 == block.0) {
                *reached = self.write_run(core, run, first, &window)?.max(*reached);
            }
            rest = behind;
        }
        Ok(())
    }

    /// Reads the journal from `first` on, as far as the window goes, with all of these images.
    fn read_window(
        &self,
        core: &VaultCore<S>,
        images: &[(BlockIndex, Location)],
        first: Location,
        window: &mut [u8],
    ) -> Result<()> {
        if core.read_journal(first, window).is_ok() {
            return Ok(());
        }
        // One by one: a bad sector between them costs none of them.
        for (_, at) in images {
            core.read_journal(*at, window.get_mut(in_window(first, *at)).ok_or(OUTSIDE)?)?;
        }
        Ok(())
    }

    /// Writes images home that follow each other there, out of what was read from `first` on. Returns where they end.
    fn write_run(
        &self,
        core: &VaultCore<S>,
        run: &[(BlockIndex, Location)],
        first: Location,
        window: &[u8],
    ) -> Result<u64> {
        let start = run.first().map_or(0, |(block, _)| block.offset_bytes());
        let mut end = start;
        let mut parts = Vec::with_capacity(run.len());
        for (block, at) in run {
            let len = PAGE_BYTES.min(self.home_len - block.offset_bytes());
            let image = window.get(in_window(first, *at)).and_then(|image| image.get(..len as usize));
            parts.push(IoSlice::new(image.ok_or(OUTSIDE)?));
            end += len;
        }
        let written = core.storage.write_at(&self.file.backing, &parts, start);
        written.map_err(|e| core.write_failed("write a file", e))?;
        Ok(end)
    }
}

const OUTSIDE: VaultError = VaultError::Internal("an image is not in what was read");

/// Where an image stands in what was read of its segment from `first` on, in bytes.
const fn in_window(first: Location, at: Location) -> Range<usize> {
    let from = (at.block - first.block) as usize * PAGE_LEN;
    from..from + PAGE_LEN
}

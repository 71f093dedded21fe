//! A rotation's part in a file: everything that is under the older version of the project key is sealed anew under the
//! active one, by way of the journal, as if it were overwritten with what it holds.
//!
//! The salt of a paged file stays, so that for a while its pages are under two keys: those of the same salt under
//! either version. A page opens under one of them alone, which tells what is left to do, also after a crash. When all
//! of the file is done its header says so (`under`).

use zeroize::Zeroizing;

use super::home::Keys;
use super::write::{CHUNK_PAGES, STEP_BLOCKS};
use super::{Base, Body, State, VaultFile};
use crate::crypto::entropy;
use crate::format::geometry::{PAGE_LEN, PageIndex, page_block, page_count};
use crate::format::header::Seal;
use crate::format::seals::Sealed;
use crate::storage::{Storage, Target};
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};

/// Nodes that become dirty in one step beside those of its pages.
const NODES_PER_STEP: usize = 16;

impl<S: Storage> VaultFile<S> {
    /// Whether all of it, as it is in memory, is under this version or a later one.
    pub(crate) fn is_under(&self, version: u32) -> bool {
        self.state.read().under >= version
    }

    /// Derives the keys again from the live versions.
    pub(crate) fn renew_versions(&self) {
        let mut state = self.state.write();
        let keys = state.home.keys.renewed(&self.core);
        state.home.keys = keys;
    }

    /// As [`Self::renew_versions`], if they are not those of the active version.
    pub(crate) fn follow_versions(&self) {
        if self.state.read().home.keys.version() != self.core.keys.active().version {
            self.renew_versions();
        }
    }

    /// Seals all of it under the active version. `step` is told how many bytes were done, with nothing locked; its error
    /// ends the work.
    pub(crate) fn reseal(&self, step: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let version = self.core.keys.active().version.0;
        let mut page = PageIndex(0);
        loop {
            if self.is_under(version) {
                return Ok(());
            }
            self.make_based()?;
            let before = page;
            let done = {
                let _admission = self.core.admit(STEP_BLOCKS)?;
                let _gate = self.core.change_gate()?;
                let mut state = self.state.write();
                if state.under >= version {
                    return Ok(());
                }
                let done = self.reseal_step(&mut state, &mut page);
                // To reserve space changes the backing's.
                state.mtime_due = true;
                state.settle_mtime(&self.core)?;
                done?
            };
            if done {
                return step(self.len_bytes().saturating_sub(before.offset_bytes()));
            }
            step(page.offset_bytes().saturating_sub(before.offset_bytes()))?;
        }
    }

    /// What is only in memory is written and durable first, so that there is one way to go.
    fn make_based(&self) -> Result<()> {
        if !self.is_volatile() {
            return Ok(());
        }
        if self.is_unlinked() {
            let mut state = self.state.write();
            if state.base == Base::Volatile {
                state.commit_home(&self.core)?;
                self.become_durable(&mut state, false);
            }
            return Ok(());
        }
        self.sync()
    }

    /// One step: a blob as a whole, or some pages from `page` on, which is moved on. True: nothing is left.
    fn reseal_step(&self, state: &mut State<S>, page: &mut PageIndex) -> Result<bool> {
        self.begin_change(state)?;
        state.evict_nodes();
        if state.mtime.is_none() {
            // The content stays, and so does the time of its last change.
            let stat = self
                .core
                .storage
                .stat(Target::File(&*state.home.file))
                .map_err(|e| VaultError::io("read a file's attributes", e))?;
            state.mtime = Some(stat.mtime);
        }
        if let Body::Blob { .. } = state.body {
            let plain = state.read_blob(&self.core)?;
            self.journal_blob(state, &plain)?;
            return Ok(true);
        }
        let end = PageIndex(page_count(state.size));
        let (pages, images, next) = state.with_tree(|state, tree| {
            let reader = state.home.reader(&self.core);
            let first = tree.next(*page, end, true, &reader)?.unwrap_or(end);
            let stop = PageIndex(first.0.saturating_add(CHUNK_PAGES).min(end.0));
            let dirty = tree.dirty_nodes();
            let touched = tree.touch(*page, stop, NODES_PER_STEP, &reader);
            self.core.nodes_dirtied(tree.dirty_nodes().saturating_sub(dirty));
            let next = touched?;
            let mut wanted = Vec::new();
            for at in (first.0..next.0).map(PageIndex) {
                if let Some(seal) = tree.seal(at, &reader)? {
                    wanted.push((at, seal));
                }
            }
            let (pages, images) = state.reseal_pages(&self.core, &wanted)?;
            Ok((pages, images, next))
        })?;
        if !pages.is_empty() {
            let size = state.size;
            self.journal_pages(state, &pages, &images, size)?;
        }
        *page = next;
        if next < end {
            return Ok(false);
        }
        state.under = state.home.keys.version().0;
        Ok(true)
    }
}

impl<S: Storage> State<S> {
    /// Those of the pages that are under the older version, sealed anew, with their images.
    fn reseal_pages(
        &self,
        core: &VaultCore<S>,
        wanted: &[(PageIndex, Seal)],
    ) -> Result<(Vec<(PageIndex, Seal)>, Vec<u8>)> {
        let reader = self.home.reader(core);
        let mut pages = Vec::new();
        let mut images = Vec::new();
        let mut sealed = [0; PAGE_LEN];
        let mut plain = Zeroizing::new([0; PAGE_LEN]);
        for (page, seal) in wanted {
            let block = page_block(*page);
            let what = Sealed::Page(block);
            let len = page.len_in(self.size);
            let (Some(sealed), Some(plain)) = (sealed.get_mut(..len), plain.get_mut(..len)) else { continue };
            if !reader.block(block, sealed)? {
                return Err(self.home.integrity(Some(*page), "the file ends before this page"));
            }
            if self.home.keys.open_active(what, seal, sealed, plain) {
                continue;
            }
            if !self.home.open_into(what, seal, sealed, plain) {
                return Err(self.home.integrity(Some(*page), "the page does not verify"));
            }
            let filled = images.len();
            images.resize(filled + PAGE_LEN, 0);
            let image = images.get_mut(filled..).unwrap_or_default();
            let (body, rest) = image.split_at_mut_checked(len).unwrap_or_default();
            pages.push((*page, self.home.keys.seal_into(core, what, plain, body)?));
            entropy::fill(rest);
        }
        Ok((pages, images))
    }
}

impl Keys {
    /// Whether this is a header of these keys that says that all of the file is under their version or a later one.
    pub fn is_under(&self, home: &[u8], version: u32) -> bool {
        self.open_header_active(home).is_ok_and(|header| header.under >= version)
    }
}

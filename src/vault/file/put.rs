//! Writing sealed images home: in runs, so that a full disk costs nothing of what was there.

use std::io::IoSlice;

use zeroize::Zeroizing;

use super::{Base, State};
use crate::crypto::entropy;
use crate::format::geometry::{BlockIndex, PAGE_LEN, PageIndex, home_len, page_block};
use crate::format::header::Seal;
use crate::format::seals::Sealed;
use crate::storage::{Storage, Target, read_into};
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};

impl<S: Storage> State<S> {
    /// Writes the pages home that take the place of a volatile file's blob, `plain`, and sets its length: what takes more
    /// space first, so that a full disk leaves the blob as it was. So does a backing that takes no file of that length.
    pub(super) fn put_over_blob(
        &mut self,
        core: &VaultCore<S>,
        pages: &[(PageIndex, Seal)],
        images: &[u8],
        new_size: u64,
        plain: &[u8],
    ) -> Result<()> {
        let before = self.home_len;
        let over = pages.partition_point(|(page, _)| page_block(*page).offset_bytes() < before);
        let (over, behind) = pages.split_at_checked(over).unwrap_or_default();
        if let Some((last, _)) = over.last() {
            let end = page_block(*last).offset_bytes() + last.len_in(new_size) as u64;
            if end > before {
                core.reserve(&self.home.file, before, end - before)?;
            }
        }
        if before < PAGE_LEN as u64 && behind.first().is_some_and(|(first, _)| first.0 > 0) {
            // The root's, which a commit writes.
            core.reserve(&self.home.file, 0, PAGE_LEN as u64)?;
        }
        let (over_images, images) = images.split_at_checked(over.len() * PAGE_LEN).unwrap_or_default();
        let put = self.put_home(core, behind, images, new_size, |_| false).1;
        if put.is_err() {
            if self.set_home_len(core, before).is_err() {
                // Told by the next commit.
                self.stale = true;
            }
            return put;
        }
        let put = self.put_home(core, over, over_images, new_size, |_| true).1;
        let put = put.and_then(|()| self.set_home_len(core, home_len(new_size)));
        if put.is_err() && self.store_blob_home(core, plain).is_err() {
            let (bytes, seal, _) = self.seal_blob(core, plain)?;
            self.keep_blob(seal, &bytes, plain.len() as u64);
        }
        put
    }

    /// Writes images home. Runs that replace content (`present`) are apart from runs that need space, so that a
    /// full disk cannot damage what was there. Returns how many of the pages were written, also on an error: those
    /// must be entered into the tree.
    pub(super) fn put_home(
        &mut self,
        core: &VaultCore<S>,
        pages: &[(PageIndex, Seal)],
        images: &[u8],
        new_size: u64,
        present: impl Fn(PageIndex) -> bool,
    ) -> (usize, Result<()>) {
        // Nodes of a volatile file are written again before it is committed, so a run goes on over their blocks, and
        // takes their space: a commit needs none.
        let over_nodes = self.base == Base::Volatile;
        let mut filler = [0; PAGE_LEN];
        let crosses_nodes = pages.first().zip(pages.last()).is_some_and(|((first, _), (last, _))| {
            let between = page_block(*last).0.abs_diff(page_block(*first).0) != last.0.abs_diff(first.0);
            between || first.0 == 0 || nodes_before(*first) > 0
        });
        if over_nodes && crosses_nodes {
            entropy::fill(&mut filler);
        }
        let mut at = 0;
        while let Some((first, _)) = pages.get(at) {
            let old = present(*first);
            let from_start = over_nodes && self.home_len == 0 && first.0 == 0;
            // A run that begins behind nodes takes theirs, too; what is there already has it.
            let before = if over_nodes && !old { nodes_before(*first) } else { 0 };
            let start = if from_start { BlockIndex::ROOT } else { BlockIndex(page_block(*first).0 - before) };
            let mut parts = Vec::with_capacity(8);
            (0..if from_start { 1 } else { before }).for_each(|_| parts.push(IoSlice::new(&filler)));
            let mut run = at;
            let mut count = 1;
            while let Some((next, _)) = pages.get(at + count) {
                let before = PageIndex(next.0.wrapping_sub(1));
                let follows = pages.get(at + count - 1).is_some_and(|(page, _)| *page == before);
                let nodes = nodes_before(*next);
                if !follows || present(*next) != old || (nodes > 0 && !over_nodes) {
                    break;
                }
                if nodes > 0 {
                    parts.push(IoSlice::new(images.get(run * PAGE_LEN..(at + count) * PAGE_LEN).unwrap_or_default()));
                    run = at + count;
                    (0..nodes).for_each(|_| parts.push(IoSlice::new(&filler)));
                }
                count += 1;
            }
            let last = pages.get(at + count - 1).map_or(*first, |(page, _)| *page);
            let end = (at + count - 1) * PAGE_LEN + last.len_in(new_size);
            let Some(rest) = images.get(run * PAGE_LEN..end) else {
                return (at, Err(VaultError::Internal("fewer images than pages")));
            };
            parts.push(IoSlice::new(rest));
            if let Err(error) = self.write_home(core, &parts, start.offset_bytes()) {
                // Some of it may be there: where new blocks take the place of old ones, a full disk ends a run in its midst.
                let run = pages.get(at..at + count).unwrap_or_default();
                return (at + self.arrived(core, run, new_size), Err(error));
            }
            at += count;
        }
        (at, Ok(()))
    }

    /// How many of these pages, from the first on, the home holds as they were just sealed.
    fn arrived(&self, core: &VaultCore<S>, pages: &[(PageIndex, Seal)], new_size: u64) -> usize {
        let mut sealed = [0; PAGE_LEN];
        let mut plain = Zeroizing::new([0; PAGE_LEN]);
        let is_home = |(page, seal): &&(PageIndex, Seal)| {
            let len = page.len_in(new_size);
            let (Some(sealed), Some(plain)) = (sealed.get_mut(..len), plain.get_mut(..len)) else { return false };
            let block = page_block(*page);
            let read = read_into(&core.storage, &self.home.file, sealed, block.offset_bytes());
            matches!(read, Ok(read) if read == len) && self.home.open_into(Sealed::Page(block), seal, sealed, plain)
        };
        pages.iter().take_while(is_home).count()
    }

    /// Writes to the home file and keeps its length in mind.
    pub(super) fn write_home(&mut self, core: &VaultCore<S>, parts: &[IoSlice<'_>], offset_bytes: u64) -> Result<()> {
        if let Err(error) = core.storage.write_at(&self.home.file, parts, offset_bytes) {
            self.measure_home(core);
            return Err(core.write_failed("write a file", error));
        }
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.home_len = self.home_len.max(offset_bytes + len as u64);
        Ok(())
    }

    /// After a failed write, which may have made the home longer all the same.
    pub(super) fn measure_home(&mut self, core: &VaultCore<S>) {
        if let Ok(stat) = core.storage.stat(Target::File(&*self.home.file)) {
            self.home_len = stat.size_bytes;
        }
    }

    /// Before the journal has it: a length that the backing does not take no checkpoint could bring home, nor any recovery.
    pub(super) fn check_len(&self, core: &VaultCore<S>, size: u64) -> Result<()> {
        let len = home_len(size);
        if len <= self.home_len || core.storage.fits(&self.home.file, len) { Ok(()) } else { Err(VaultError::TooLarge) }
    }

    pub(super) fn set_home_len(&mut self, core: &VaultCore<S>, len: u64) -> Result<()> {
        if self.home_len != len {
            core.storage.set_len(&self.home.file, len).map_err(|e| core.write_failed("set a file's length", e))?;
            self.home_len = len;
        }
        Ok(())
    }
}

/// How many nodes stand between a page and the one before it.
fn nodes_before(page: PageIndex) -> u64 {
    page.0.checked_sub(1).map_or(0, |before| page_block(page).0.saturating_sub(page_block(PageIndex(before)).0 + 1))
}

//! Reading, and telling data from holes.

use std::ops::Range;

use zeroize::Zeroizing;

use super::{Body, NODES_KEPT, State, VaultFile};
use crate::format::geometry::{BlockIndex, HEADER_LEN, PAGE_BYTES, PAGE_LEN, PageIndex, page_block, page_count};
use crate::format::header::Seal;
use crate::format::seals::Sealed;
use crate::storage::{Storage, read_into};
use crate::vault::core::{Scratch, VaultCore};
use crate::vault::error::{Result, VaultError};
use crate::vault::tree::{Missing, NodeSource, TagTree};

impl<S: Storage> VaultFile<S> {
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

    /// Loads the nodes that reading a range needs, while others read.
    fn load_nodes(&self, offset_bytes: u64, len: usize) -> Result<()> {
        let pages = PageIndex::of(offset_bytes).0..page_count(offset_bytes.saturating_add(len as u64));
        let mut made_room = false;
        while let Some((missing, entries)) = self.load_missing(pages.clone())? {
            let mut state = self.state.write();
            // Once: what is loaded for this range stays until it is read.
            if !std::mem::replace(&mut made_room, true) {
                state.evict_nodes();
            }
            if let Body::Paged(tree) = &mut state.body {
                tree.take_over(&missing, entries)?;
            }
        }
        Ok(())
    }

    /// Reads the first node over these pages that is not in memory.
    fn load_missing(&self, pages: Range<u64>) -> Result<Option<(Missing, Box<[u8; PAGE_LEN]>)>> {
        let state = self.state.read();
        let Body::Paged(tree) = &state.body else { return Ok(None) };
        for page in pages.map(PageIndex) {
            if let Some(missing) = tree.missing(page)? {
                let mut entries = Box::new([0; PAGE_LEN]);
                state.home.reader(&self.core).load_node(missing.block, &missing.seal, &mut entries)?;
                return Ok(Some((missing, entries)));
            }
        }
        Ok(None)
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
        state.evict_nodes();
        let State { home, body, size, .. } = &mut *state;
        if offset_bytes >= *size {
            return Ok(None);
        }
        match body {
            Body::Blob { .. } => Ok(content.then_some(offset_bytes)),
            Body::Paged(tree) => {
                let end = PageIndex(page_count(*size));
                let found = tree.next(PageIndex::of(offset_bytes), end, content, &home.reader(&self.core))?;
                Ok(found.map(|page| page.offset_bytes().max(offset_bytes)))
            }
        }
    }
}

impl<S: Storage> State<S> {
    /// Lets nodes go that can be read again, if there are many.
    pub(super) fn evict_nodes(&mut self) {
        if let Body::Paged(tree) = &mut self.body {
            tree.evict(NODES_KEPT);
        }
    }

    /// The whole content of a blob.
    pub(super) fn read_blob(&self, core: &VaultCore<S>) -> Result<Zeroizing<Vec<u8>>> {
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
                    self.read_run(
                        core,
                        page,
                        seals.get(at..at + run).unwrap_or_default(),
                        offset_bytes,
                        out,
                        &mut scratch,
                    )?;
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

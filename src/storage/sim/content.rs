//! The bytes of a file: sparse, in pages of 4 KiB that clones share.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The unit of allocation and of the page cache.
pub(super) const PAGE_BYTES: u64 = 4096;
/// What a disk writes entirely or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Sectors in a page.
pub(super) const SECTORS: u64 = PAGE_BYTES / SECTOR_BYTES;

pub(super) type Page = [u8; PAGE_BYTES as usize];
pub(super) type Sector = [u8; SECTOR_BYTES as usize];

/// A state of a file's content. No page lies wholly beyond `len_bytes`, and all is zero beyond it.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) len_bytes: u64,
    pages: Arc<BTreeMap<u64, Arc<Page>>>,
    /// Allocated, but not written: disjoint from `pages`, and may lie beyond the end.
    reserved: Arc<BTreeSet<u64>>,
}

impl Content {
    /// Space taken.
    pub(super) fn allocated_pages(&self) -> u64 {
        (self.pages.len() + self.reserved.len()) as u64
    }

    pub(super) fn has_space_for(&self, page: u64) -> bool {
        self.pages.contains_key(&page) || self.reserved.contains(&page)
    }

    pub(super) fn page(&self, index: u64) -> Option<&Arc<Page>> {
        self.pages.get(&index)
    }

    pub(super) fn set_page(&mut self, index: u64, page: Arc<Page>) {
        if self.reserved.contains(&index) {
            Arc::make_mut(&mut self.reserved).remove(&index);
        }
        Arc::make_mut(&mut self.pages).insert(index, page);
    }

    pub(super) fn reserve(&mut self, page: u64) {
        if !self.has_space_for(page) {
            Arc::make_mut(&mut self.reserved).insert(page);
        }
    }

    /// Fills the front of `buffer` with what is there; returns how much that is.
    pub(super) fn read(&self, buffer: &mut [u8], offset_bytes: u64) -> usize {
        let available = self.len_bytes.saturating_sub(offset_bytes);
        let count = buffer.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        let mut rest = &mut buffer[..count];
        let mut offset = offset_bytes;
        while !rest.is_empty() {
            let (index, within) = (offset / PAGE_BYTES, (offset % PAGE_BYTES) as usize);
            let len = rest.len().min(PAGE_BYTES as usize - within);
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(len);
            match self.pages.get(&index) {
                Some(page) => head.copy_from_slice(&page[within..within + len]),
                None => head.fill(0),
            }
            rest = tail;
            offset += len as u64;
        }
        count
    }

    /// Changes the length; what is cut off is gone, and what is added reads as zeros.
    pub(super) fn set_len(&mut self, len_bytes: u64) {
        // Also where it does not change: what was reserved beyond it goes, as on ext4.
        if len_bytes <= self.len_bytes {
            self.zero(len_bytes..u64::MAX);
        }
        self.len_bytes = len_bytes;
    }

    /// Makes a range read as zeros, and gives back the space of the pages wholly in it.
    pub(super) fn zero(&mut self, range: Range<u64>) {
        let first_whole = range.start.div_ceil(PAGE_BYTES);
        let end_whole = if range.end == u64::MAX { u64::MAX } else { range.end / PAGE_BYTES };
        if first_whole < end_whole {
            if self.pages.range(first_whole..end_whole).next().is_some() {
                Arc::make_mut(&mut self.pages).retain(|index, _| !(first_whole..end_whole).contains(index));
            }
            if self.reserved.range(first_whole..end_whole).next().is_some() {
                Arc::make_mut(&mut self.reserved).retain(|index| !(first_whole..end_whole).contains(index));
            }
        }
        for index in [range.start / PAGE_BYTES, range.end / PAGE_BYTES] {
            let (start, end) = overlap(&range, index, PAGE_BYTES);
            let has_data = |page: &Arc<Page>| page.get(start..end).is_some_and(|bytes| bytes.iter().any(|&b| b != 0));
            // What is zero already stays shared.
            if self.pages.get(&index).is_some_and(has_data)
                && let Some(page) = Arc::make_mut(&mut self.pages).get_mut(&index)
            {
                Arc::make_mut(page)[start..end].fill(0);
            }
        }
    }
}

/// The part of unit `index` (of `unit_bytes`) that lies in `range`, relative to the unit; empty if none.
pub(super) fn overlap(range: &Range<u64>, index: u64, unit_bytes: u64) -> (usize, usize) {
    let unit_start = index.saturating_mul(unit_bytes);
    let start = range.start.saturating_sub(unit_start).min(unit_bytes);
    let end = range.end.saturating_sub(unit_start).min(unit_bytes);
    (start as usize, end as usize)
}

//! Sealing what is written. Whole pages are sealed before the write's turn, so that those who write one file at the same
//! time wait for each other for little more than putting images away.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::home::Keys;
use super::{State, VaultFile};
use crate::crypto::entropy;
use crate::format::geometry::{BLOB_MAX, PAGE_BYTES, PAGE_LEN, PageIndex, page_block, page_count};
use crate::format::header::Seal;
use crate::format::seals::Sealed;
use crate::storage::Storage;
use crate::vault::core::{Scratch, VaultCore};
use crate::vault::error::Result;
use crate::vault::tree::TagTree;

/// Bytes that a file gets, and where.
pub(super) struct Change<'a> {
    pub from: u64,
    pub data: &'a [u8],
    ahead: Option<Ahead>,
}

/// The pages of a change, the whole ones sealed.
struct Ahead {
    keys: Arc<Keys>,
    first: PageIndex,
    /// None: of a page that is not whole. Its image says nothing.
    seals: Vec<Option<Seal>>,
    images: Scratch,
}

impl<'a> Change<'a> {
    pub const fn new(from: u64, data: &'a [u8]) -> Self {
        Self { from, data, ahead: None }
    }

    /// The file becomes longer, or shorter, up to this byte.
    pub const fn of_length(size: u64) -> Self {
        Self::new(size, &[])
    }

    /// Behind the last byte.
    pub const fn end(&self) -> u64 {
        self.from + self.data.len() as u64
    }
}

impl Ahead {
    /// Whether these are the keys that the file seals with by now, and the pages that the change affects.
    fn is_of(&self, keys: &Arc<Keys>, pages: &[PageIndex]) -> bool {
        Arc::ptr_eq(&self.keys, keys) && pages.first() == Some(&self.first) && pages.len() == self.seals.len()
    }
}

impl<S: Storage> VaultFile<S> {
    /// Seals the whole pages of what is to be written, with the keys that were used last, while others hold the state.
    /// Whether those are the right ones, and the pages, is seen when it is this write's turn: [`State::seal_range`].
    pub(super) fn seal_ahead<'a>(&self, from: u64, data: &'a [u8]) -> Result<Change<'a>> {
        let mut change = Change::new(from, data);
        let end = change.end();
        // What may become a blob is not sealed in pages.
        if end <= BLOB_MAX || end / PAGE_BYTES <= from.div_ceil(PAGE_BYTES) {
            return Ok(change);
        }
        let Some(keys) = self.keys_used.lock().upgrade() else { return Ok(change) };
        let first = PageIndex::of(from);
        let count = (page_count(end) - first.0) as usize;
        let mut images = self.core.scratch(count * PAGE_LEN);
        let mut seals = Vec::with_capacity(count);
        for (page, image) in (first.0..).map(PageIndex).zip(images.chunks_exact_mut(PAGE_LEN)) {
            let start = page.offset_bytes().checked_sub(from).map(|start| start as usize);
            let whole = start.and_then(|start| data.get(start..start + PAGE_LEN));
            let what = Sealed::Page(page_block(page));
            seals.push(whole.map(|whole| keys.seal_into(&self.core, what, whole, image)).transpose()?);
        }
        change.ahead = Some(Ahead { keys, first, seals, images });
        Ok(change)
    }

    /// Keeps the keys of the file in mind for [`Self::seal_ahead`], but not alive.
    pub(super) fn expect_keys(&self, state: &State<S>) {
        let mut used = self.keys_used.lock();
        if used.as_ptr() != Arc::as_ptr(&state.home.keys) {
            *used = Arc::downgrade(&state.home.keys);
        }
    }
}

impl<S: Storage> State<S> {
    /// Seals the pages that a change affects, for a file of `new_size`: the pages it covers, the old last page if that
    /// becomes longer, and all of `blob` if the content was one. The images are one block each. `tree` has the nodes of
    /// all these pages afterwards.
    pub(super) fn seal_range(
        &self,
        core: &VaultCore<S>,
        tree: &mut TagTree,
        new_size: u64,
        change: Change<'_>,
        blob: Option<&[u8]>,
    ) -> Result<(Vec<(PageIndex, Seal)>, Scratch)> {
        let Change { from, data, ahead } = change;
        let mut pages: Vec<PageIndex> = Vec::new();
        let first = PageIndex::of(from).0;
        let end = page_count(from + data.len() as u64);
        match blob {
            // Without data the file only becomes longer, and all of the content is what was there.
            Some(blob) => {
                let before = |page: &PageIndex| page.0 < first || data.is_empty();
                pages.extend((0..page_count(blob.len() as u64)).map(PageIndex).filter(before));
            }
            None if !self.size.is_multiple_of(PAGE_BYTES) && new_size > self.size => {
                let tail = PageIndex::of(self.size);
                let before = tail.0 < first || data.is_empty();
                if before && tree.seal(tail, &self.home.reader(core))?.is_some() {
                    pages.push(tail);
                }
            }
            None => {}
        }
        if !data.is_empty() {
            pages.extend((first..end).map(PageIndex));
            if let Some(blob) = blob {
                pages.extend((end..page_count(blob.len() as u64)).map(PageIndex));
            }
        }
        let mut seals = Vec::with_capacity(pages.len());
        let ahead = ahead.filter(|ahead| ahead.is_of(&self.home.keys, &pages));
        let (mut images, sealed_ahead) = match ahead {
            Some(ahead) => (ahead.images, ahead.seals),
            None => (core.scratch(pages.len() * PAGE_LEN), vec![None; pages.len()]),
        };
        for ((page, image), sealed_ahead) in pages.into_iter().zip(images.chunks_exact_mut(PAGE_LEN)).zip(sealed_ahead)
        {
            let len = page.len_in(new_size);
            let what = Sealed::Page(page_block(page));
            let (sealed, rest) = image.split_at_mut_checked(len).unwrap_or_default();
            let old_seal = tree.seal(page, &self.home.reader(core))?;
            if let Some(seal) = sealed_ahead {
                seals.push((page, seal));
                continue;
            }
            let start = page.offset_bytes();
            let whole = (start >= from).then(|| (start - from) as usize).and_then(|at| data.get(at..at + len));
            let seal = if let Some(whole) = whole {
                self.home.keys.seal_into(core, what, whole, sealed)?
            } else {
                let mut plain = Zeroizing::new([0; PAGE_LEN]);
                self.old_page(core, page, old_seal, blob, &mut plain)?;
                let overlap_start = start.max(from);
                let overlap_end = (start + len as u64).min(from + data.len() as u64);
                if overlap_start < overlap_end {
                    let source = data.get((overlap_start - from) as usize..(overlap_end - from) as usize);
                    let target = plain.get_mut((overlap_start - start) as usize..(overlap_end - start) as usize);
                    if let (Some(source), Some(target)) = (source, target) {
                        target.copy_from_slice(source);
                    }
                }
                self.home.keys.seal_into(core, what, plain.get(..len).unwrap_or_default(), sealed)?
            };
            // A block in the journal is whole; what is behind a short page says nothing.
            entropy::fill(rest);
            seals.push((page, seal));
        }
        Ok((seals, images))
    }

    /// The old content of a page, zeros behind it.
    pub(super) fn old_page(
        &self,
        core: &VaultCore<S>,
        page: PageIndex,
        seal: Option<Seal>,
        blob: Option<&[u8]>,
        out: &mut [u8; PAGE_LEN],
    ) -> Result<()> {
        let start = page.offset_bytes();
        if let Some(blob) = blob {
            let part = blob.get((start as usize).min(blob.len())..).unwrap_or_default();
            let part = part.get(..part.len().min(PAGE_LEN)).unwrap_or_default();
            if let Some(target) = out.get_mut(..part.len()) {
                target.copy_from_slice(part);
            }
            return Ok(());
        }
        let len = page.len_in(self.size);
        match (seal, out.get_mut(..len)) {
            (Some(seal), Some(target)) if len > 0 => self.home.reader(core).page(page, &seal, target),
            _ => Ok(()),
        }
    }
}

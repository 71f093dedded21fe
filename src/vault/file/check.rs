//! Checking a file's content against its tags: every page and node that is in the backing, none of them kept.
//!
//! One step reads a node and the 128 pages it covers with a single read, and opens them in place. The file is held
//! shared for one step at a time, so that others go on working with it; each step sees one consistent state, the newest
//! one: memory, then journal, then home.

use zeroize::Zeroizing;

use super::{Base, Body, State, VaultFile};
use crate::format::geometry::{
    BlockIndex, Child, ENTRY_LEN, HEADER_LEN, NODE_ENTRIES, Node, PAGE_LEN, PageIndex, Path, home_len, page_block,
    page_count,
};
use crate::format::header::Seal;
use crate::format::seals::Sealed;
use crate::storage::{Storage, Target, read_into};
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};
use crate::vault::tree::{ROOT_LEN, TagTree};

/// What does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Blob,
    Node,
    Page,
    /// The home ends before.
    Missing,
}

/// A range of plain pages that cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadPages {
    pub part: Part,
    pub first: PageIndex,
    pub count: u64,
    /// Of the node, or of the first page.
    pub block: BlockIndex,
    pub reason: String,
    /// The backing refused to read it; the bytes may be right.
    pub is_unreadable: bool,
}

/// What checks content: buffers that are used again from file to file.
pub(crate) struct Checker {
    /// A node and the pages below it.
    extent: Zeroizing<Vec<u8>>,
    /// Nodes above the pages, verified, with the block and the seal that they opened with.
    above: Vec<Option<Loaded>>,
}

/// A verified node.
struct Loaded {
    block: BlockIndex,
    seal: Seal,
    entries: Box<[u8; PAGE_LEN]>,
}

/// What the entries of the step's pages are read from.
enum Leaf {
    Root,
    /// At this block, opened by this seal; None: in memory alone.
    Node(Node, Option<Seal>),
}

impl Checker {
    pub fn new() -> Self {
        Self { extent: Zeroizing::new(vec![0; (1 + NODE_ENTRIES) * PAGE_LEN]), above: Vec::new() }
    }

    /// Checks the pages from `first` up to `end`, or to the end of the file. `progress` is told of every step how many
    /// bytes of content it covered, and stops the check by returning false.
    pub fn check<S: Storage>(
        &mut self,
        file: &VaultFile<S>,
        first: PageIndex,
        end: PageIndex,
        bad: &mut dyn FnMut(BadPages),
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.above.clear();
        let mut found = Merged { last: None, bad };
        let mut page = first;
        loop {
            let state = file.state.read();
            let stop = end.min(PageIndex(page_count(state.size)));
            if page >= stop {
                break;
            }
            let next = match &state.body {
                Body::Blob { .. } => {
                    check_blob(&state, &file.core, &mut found)?;
                    stop
                }
                Body::Paged(tree) => {
                    self.step(Source { core: &file.core, state: &state, tree, first }, page, stop, &mut found)?
                }
            };
            let covered = next.offset_bytes().min(state.size).saturating_sub(page.offset_bytes());
            drop(state);
            page = next;
            if !progress(covered) {
                break;
            }
        }
        found.flush();
        Ok(())
    }

    /// Checks one leaf's pages; returns where to go on.
    fn step<S: Storage>(
        &mut self,
        source: Source<'_, S>,
        page: PageIndex,
        stop: PageIndex,
        found: &mut Merged<'_>,
    ) -> Result<PageIndex> {
        let path = Path::to(page).ok_or(VaultError::TooLarge)?;
        let mut leaf = Leaf::Root;
        for (depth, (node, index)) in path.steps().iter().enumerate() {
            let Child::Node(below) = node.child(*index) else { break };
            let below_end = PageIndex(below.first_page.0.saturating_add(below.page_span())).min(stop);
            let seal = match self.entries(&source, &leaf, depth) {
                Some(entries) => entry(entries, *index)?,
                None => return Err(BROKEN),
            };
            leaf = if source.tree.unsealed_node(below.block).is_some() {
                Leaf::Node(below, None)
            } else if let Some(seal) = seal {
                Leaf::Node(below, Some(seal))
            } else {
                return Ok(below_end);
            };
            if below.height > 1
                && let Leaf::Node(node, Some(seal)) = &leaf
                && let Some(reason) = self.load_above(&source, node, seal, depth)?
            {
                found.node(&source, node, stop, reason);
                return Ok(below_end);
            }
        }
        self.check_leaf(&source, &leaf, page, stop, found)
    }

    /// The entries of a node on the way down, which was loaded as the `depth`-th.
    fn entries<'a, S: Storage>(&'a self, source: &Source<'a, S>, node: &Leaf, depth: usize) -> Option<&'a [u8]> {
        match node {
            Leaf::Root => Some(source.tree.root().as_slice()),
            Leaf::Node(node, None) => source.tree.unsealed_node(node.block).map(<[u8; PAGE_LEN]>::as_slice),
            Leaf::Node(..) => self.above.get(depth.checked_sub(1)?)?.as_ref().map(|loaded| loaded.entries.as_slice()),
        }
    }

    /// Reads and opens a node above the leaves, unless it is the one that was. Some: why it does not open.
    fn load_above<S: Storage>(
        &mut self,
        source: &Source<'_, S>,
        node: &Node,
        seal: &Seal,
        depth: usize,
    ) -> Result<Option<Failed>> {
        if let Some(Some(loaded)) = self.above.get(depth)
            && loaded.block == node.block
            && loaded.seal == *seal
        {
            return Ok(None);
        }
        let mut entries = Box::new([0; PAGE_LEN]);
        if let Some(failed) = source.read_block(node.block, entries.as_mut_slice()) {
            return Ok(Some(failed));
        }
        if !source.state.home.open_in_place(Sealed::Node(node.block), seal, entries.as_mut_slice()) {
            return Ok(Some(Failed::refused(format!("the node at block {} does not verify", node.block.0))));
        }
        // A node in memory alone has no place here; its slot stays as it is.
        if self.above.len() <= depth {
            self.above.resize_with(depth + 1, || None);
        }
        if let Some(slot) = self.above.get_mut(depth) {
            *slot = Some(Loaded { block: node.block, seal: *seal, entries });
        }
        Ok(None)
    }

    fn check_leaf<S: Storage>(
        &mut self,
        source: &Source<'_, S>,
        leaf: &Leaf,
        page: PageIndex,
        stop: PageIndex,
        found: &mut Merged<'_>,
    ) -> Result<PageIndex> {
        let (leaf_first, leaf_end) = match leaf {
            Leaf::Root => (PageIndex(0), PageIndex(crate::format::geometry::DIRECT_PAGES)),
            Leaf::Node(node, _) => (node.first_page, PageIndex(node.first_page.0.saturating_add(node.page_span()))),
        };
        let next = leaf_end.min(stop);
        let last = PageIndex(next.0.saturating_sub(1));
        // The node itself stands right before its pages.
        let start = match leaf {
            Leaf::Node(node, Some(_)) => node.block,
            Leaf::Node(_, None) | Leaf::Root => page_block(page),
        };
        let end_bytes = page_block(last).offset_bytes().saturating_add(last.len_in(source.state.size) as u64);
        let extent_len = end_bytes.saturating_sub(start.offset_bytes()) as usize;
        let Self { extent, .. } = self;
        let extent = extent.get_mut(..extent_len).ok_or(BROKEN)?;
        let read = source.read_extent(start, extent);
        let (head, pages) = match leaf {
            Leaf::Node(_, Some(_)) => extent.split_at_mut_checked(PAGE_LEN.min(extent_len)).ok_or(BROKEN)?,
            Leaf::Node(_, None) | Leaf::Root => extent.split_at_mut_checked(0).ok_or(BROKEN)?,
        };
        let entries: &[u8] = match leaf {
            Leaf::Root => source.tree.root().as_slice(),
            Leaf::Node(node, None) => source.tree.unsealed_node(node.block).ok_or(BROKEN)?.as_slice(),
            Leaf::Node(node, Some(seal)) => {
                let failed = match read.failed(start) {
                    Some(failed) => Some(failed),
                    None if head.len() == PAGE_LEN
                        && source.state.home.open_in_place(Sealed::Node(node.block), seal, head) =>
                    {
                        None
                    }
                    None => Some(Failed::refused(format!("the node at block {} does not verify", node.block.0))),
                };
                if let Some(failed) = failed {
                    found.node(source, node, stop, failed);
                    return Ok(next);
                }
                head
            }
        };
        let first_block = match leaf {
            Leaf::Node(node, Some(_)) => BlockIndex(node.block.0.saturating_add(1)),
            Leaf::Node(_, None) | Leaf::Root => start,
        };
        for page in (page.0..next.0).map(PageIndex) {
            let index = page.0.saturating_sub(leaf_first.0) as usize;
            let Some(seal) = entry(entries, index)? else { continue };
            let block = page_block(page);
            if let Some(failed) = read.failed(block) {
                found.page(page, block, failed);
                continue;
            }
            let from = block.0.saturating_sub(first_block.0) as usize * PAGE_LEN;
            let sealed = pages.get_mut(from..from.saturating_add(page.len_in(source.state.size))).ok_or(BROKEN)?;
            if !source.state.home.open_in_place(Sealed::Page(block), &seal, sealed) {
                found.page(page, block, Failed::refused("the page does not verify".to_owned()));
            }
        }
        Ok(next)
    }
}

/// The file, as it is held for one step.
struct Source<'a, S: Storage> {
    core: &'a VaultCore<S>,
    state: &'a State<S>,
    tree: &'a TagTree,
    /// Where the check began: what lies before is somebody else's to report.
    first: PageIndex,
}

/// Why something could not be read or opened.
#[derive(Clone, Debug)]
struct Failed {
    reason: String,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Refused,
    Missing,
    Unreadable,
}

impl Failed {
    const fn refused(reason: String) -> Self {
        Self { reason, why: Why::Refused }
    }

    fn missing() -> Self {
        Self { reason: "the file ends before".to_owned(), why: Why::Missing }
    }

    fn unreadable(error: &impl std::fmt::Display) -> Self {
        Self { reason: format!("it could not be read: {error}"), why: Why::Unreadable }
    }

    fn part(&self, otherwise: Part) -> Part {
        if self.why == Why::Missing { Part::Missing } else { otherwise }
    }
}

/// What came of reading an extent.
struct Extent {
    /// Blocks from here on are not there, unless the journal has them.
    end: BlockIndex,
    from_journal: Vec<BlockIndex>,
    unreadable: Vec<(BlockIndex, Failed)>,
}

impl Extent {
    /// Why this block is not in the buffer.
    fn failed(&self, block: BlockIndex) -> Option<Failed> {
        if let Some((_, failed)) = self.unreadable.iter().find(|(bad, _)| *bad == block) {
            return Some(failed.clone());
        }
        if block < self.end || self.from_journal.contains(&block) {
            return None;
        }
        Some(Failed::missing())
    }
}

impl<S: Storage> Source<'_, S> {
    /// Reads blocks from the home, those in the journal from there.
    fn read_extent(&self, start: BlockIndex, extent: &mut [u8]) -> Extent {
        let home = &self.state.home;
        let blocks = |extent: &[u8]| (start.0..).map(BlockIndex).take(extent.len().div_ceil(PAGE_LEN));
        let mut result = Extent { end: start, from_journal: Vec::new(), unreadable: Vec::new() };
        match read_into(&self.core.storage, &home.file, extent, start.offset_bytes()) {
            // A last block that is cut counts as missing.
            Ok(read) if read == extent.len() => result.end = BlockIndex(u64::MAX),
            Ok(read) => result.end = BlockIndex(start.0.saturating_add((read / PAGE_LEN) as u64)),
            Err(_) => {
                // One by one, so that one bad sector costs one page.
                result.end = BlockIndex(u64::MAX);
                for (block, chunk) in blocks(extent).collect::<Vec<_>>().into_iter().zip(extent.chunks_mut(PAGE_LEN)) {
                    if home.overlay.contains_key(&block) {
                        continue;
                    }
                    if let Some(failed) = self.read_block(block, chunk) {
                        result.unreadable.push((block, failed));
                    }
                }
            }
        }
        if !home.overlay.is_empty() {
            for (block, chunk) in (start.0..).map(BlockIndex).zip(extent.chunks_mut(PAGE_LEN)) {
                if let Some(at) = home.overlay.get(&block) {
                    match self.core.read_journal(*at, chunk) {
                        Ok(()) => result.from_journal.push(block),
                        Err(error) => result.unreadable.push((block, Failed::unreadable(&error))),
                    }
                }
            }
        }
        result
    }

    /// One block. Some: why not.
    fn read_block(&self, block: BlockIndex, out: &mut [u8]) -> Option<Failed> {
        match self.state.home.reader(self.core).block(block, out) {
            Ok(true) => None,
            Ok(false) => Some(Failed::missing()),
            Err(VaultError::Io { source, .. }) => Some(Failed::unreadable(&source)),
            Err(error) => Some(Failed::unreadable(&error)),
        }
    }
}

/// Bad pages that follow each other, for the same reason, are one finding.
struct Merged<'a> {
    last: Option<BadPages>,
    bad: &'a mut dyn FnMut(BadPages),
}

impl Merged<'_> {
    fn page(&mut self, page: PageIndex, block: BlockIndex, failed: Failed) {
        let part = failed.part(Part::Page);
        if let Some(last) = &mut self.last
            && last.part == part
            && last.first.0.saturating_add(last.count) == page.0
            && last.reason == failed.reason
        {
            last.count = last.count.saturating_add(1);
            return;
        }
        self.flush();
        let is_unreadable = failed.why == Why::Unreadable;
        self.last = Some(BadPages { part, first: page, count: 1, block, reason: failed.reason, is_unreadable });
    }

    /// A node, and with it every page below.
    fn node<S: Storage>(&mut self, source: &Source<'_, S>, node: &Node, stop: PageIndex, failed: Failed) {
        self.flush();
        // The one who began before it has met it, too.
        if node.first_page >= source.first {
            let end = PageIndex(page_count(source.state.size)).max(stop);
            let count = node.page_span().min(end.0.saturating_sub(node.first_page.0));
            (self.bad)(BadPages {
                part: failed.part(Part::Node),
                first: node.first_page,
                count,
                block: node.block,
                is_unreadable: failed.why == Why::Unreadable,
                reason: failed.reason,
            });
        }
    }

    fn flush(&mut self) {
        if let Some(last) = self.last.take() {
            (self.bad)(last);
        }
    }
}

fn check_blob<S: Storage>(state: &State<S>, core: &VaultCore<S>, found: &mut Merged<'_>) -> Result<()> {
    let bad = |reason: String, is_unreadable| BadPages {
        part: Part::Blob,
        first: PageIndex(0),
        count: page_count(state.size),
        block: BlockIndex::ROOT,
        reason,
        is_unreadable,
    };
    match state.read_blob(core) {
        Ok(_) => {}
        Err(VaultError::Integrity(error)) => (found.bad)(bad(error.reason, false)),
        Err(VaultError::Io { source, .. }) => (found.bad)(bad(format!("it could not be read: {source}"), true)),
        Err(error) => return Err(error),
    }
    Ok(())
}

impl<S: Storage> VaultFile<S> {
    /// What the home holds at its start, of a file that has been in memory for a while: header, root or blob, and the
    /// length. Some: what is wrong with it. What is on its way to the home is not looked at.
    pub(crate) fn check_start(&self) -> Result<Option<String>> {
        let state = self.state.read();
        let is_settled = !state.stale && !state.journal.touched && state.home.overlay.is_empty();
        if !is_settled || !state.journal.pending.is_empty() || state.journal.extending_in.is_some() {
            return Ok(None);
        }
        if matches!(&state.body, Body::Blob { seal: None, .. })
            || (state.base == Base::Volatile && state.home_len != home_len(state.size))
        {
            return Ok(None);
        }
        let io = |e| VaultError::io("read a file", e);
        let length = self.core.storage.stat(Target::File(&*state.home.file)).map_err(io)?.size_bytes;
        if length != home_len(state.size) {
            return Ok(Some(format!("the file's length does not fit its header ({length} bytes)")));
        }
        let wanted = match &state.body {
            Body::Blob { .. } => length,
            Body::Paged(_) => PAGE_LEN as u64,
        };
        let mut start = vec![0; wanted as usize];
        let read = read_into(&self.core.storage, &state.home.file, &mut start, 0).map_err(io)?;
        start.truncate(read);
        let header = match state.home.keys.open_header(&start) {
            Ok(header) if header.size == state.size && header.seq == state.seq => header,
            Ok(_) => return Ok(Some("the header is not the newest one".to_owned())),
            Err(error) => return Ok(Some(error.to_string())),
        };
        match &state.body {
            Body::Blob { .. } => {
                let sealed = start.get_mut(HEADER_LEN..).unwrap_or_default();
                let opens = state.home.open_in_place(Sealed::Blob, &header.body, sealed);
                Ok((!opens).then(|| "the content does not verify".to_owned()))
            }
            Body::Paged(tree) => {
                let root: &mut [u8; ROOT_LEN] =
                    match start.get_mut(HEADER_LEN..PAGE_LEN).and_then(|root| root.try_into().ok()) {
                        Some(root) => root,
                        None => return Ok(Some("the file is shorter than its root".to_owned())),
                    };
                let opens = state.home.open_in_place(Sealed::Node(BlockIndex::ROOT), &header.body, root);
                Ok((!opens || root != tree.root())
                    .then(|| "the root of the file's tag tree does not verify".to_owned()))
            }
        }
    }
}

/// The entry at an index; None is a hole.
fn entry(entries: &[u8], index: usize) -> Result<Option<Seal>> {
    entries.get(index * ENTRY_LEN..).and_then(<[u8]>::first_chunk).map(Seal::decode).ok_or(BROKEN)
}

/// The geometry and the buffers disagree, which no input can bring about.
const BROKEN: VaultError = VaultError::Internal("a file's geometry does not fit its check");

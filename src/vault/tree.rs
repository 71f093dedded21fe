//! The tag tree of a paged file, as far as it is in memory.
//!
//! Nodes are loaded when they are needed, verified by the entry above them, and kept: clean ones can be
//! evicted at any time, dirty ones (and with them all nodes above) stay until they are sealed. Nodes hold
//! nonces and tags only, nothing secret.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::error::{Result, VaultError};
use crate::format::geometry::{
    BlockIndex, Child, ENTRY_LEN, Node, PAGE_LEN, PageIndex, Path, ROOT_ENTRIES, Slot, at_block, page_block, parent_of,
};
use crate::format::header::Seal;

/// Bytes of the root's entries.
pub(crate) const ROOT_LEN: usize = ROOT_ENTRIES * ENTRY_LEN;

/// Where nodes come from.
pub(crate) trait NodeSource {
    /// Reads the node at `block` and opens it with `seal` into `out`.
    fn load_node(&self, block: BlockIndex, seal: &Seal, out: &mut [u8; PAGE_LEN]) -> Result<()>;
}

struct Cached {
    entries: Box<[u8; PAGE_LEN]>,
    dirty: bool,
}

/// A node that is not in memory.
pub(crate) struct Missing {
    above: Slot,
    pub block: BlockIndex,
    pub seal: Seal,
}

/// See the module's documentation.
pub(crate) struct TagTree {
    root: Box<[u8; ROOT_LEN]>,
    root_dirty: bool,
    nodes: FxHashMap<BlockIndex, Cached>,
    dirty_nodes: usize,
}

/// Why an index is missing: the geometry and the tree disagree, which no input can bring about.
const BROKEN: VaultError = VaultError::Internal("the tag tree does not fit its geometry");

impl TagTree {
    /// A tree of holes.
    pub fn empty() -> Self {
        Self { root: Box::new([0; ROOT_LEN]), root_dirty: true, nodes: FxHashMap::default(), dirty_nodes: 0 }
    }

    /// A tree with this verified root.
    pub fn with_root(root: &[u8; ROOT_LEN]) -> Self {
        Self { root: Box::new(*root), root_dirty: false, nodes: FxHashMap::default(), dirty_nodes: 0 }
    }

    /// The root's entries.
    pub fn root(&self) -> &[u8; ROOT_LEN] {
        &self.root
    }

    /// Nodes below the root that have changed since they were sealed.
    pub const fn dirty_nodes(&self) -> usize {
        self.dirty_nodes
    }

    /// Whether anything has changed since the root was sealed.
    pub const fn is_dirty(&self) -> bool {
        self.root_dirty
    }

    fn entries(&self, block: BlockIndex) -> Option<&[u8]> {
        if block == BlockIndex::ROOT {
            return Some(self.root.as_slice());
        }
        self.nodes.get(&block).map(|node| node.entries.as_slice())
    }

    fn seal_at(&self, block: BlockIndex, index: usize) -> Result<Option<Option<Seal>>> {
        let Some(entries) = self.entries(block) else { return Ok(None) };
        let entry = entries.get(index * ENTRY_LEN..).and_then(<[u8]>::first_chunk).ok_or(BROKEN)?;
        Ok(Some(Seal::decode(entry)))
    }

    /// The entries of a node that is in memory alone: nothing in the home or the journal stands for it yet.
    pub fn unsealed_node(&self, block: BlockIndex) -> Option<&[u8; PAGE_LEN]> {
        self.nodes.get(&block).filter(|node| node.dirty).map(|node| &*node.entries)
    }

    /// What opens `page`, if that is known without loading a node: `Some(None)` is a hole.
    pub fn cached_seal(&self, page: PageIndex) -> Result<Option<Option<Seal>>> {
        let path = Path::to(page).ok_or(VaultError::TooLarge)?;
        let (leaf, index) = path.leaf();
        if let Some(seal) = self.seal_at(leaf.block, index)? {
            return Ok(Some(seal));
        }
        for (node, index) in path.steps() {
            match (self.seal_at(node.block, *index)?, node.child(*index)) {
                (None, _) => return Ok(None),
                (Some(seal), Child::Page(_)) => return Ok(Some(seal)),
                // A new node has no seal yet: it is in memory alone.
                (Some(None), Child::Node(below)) if !self.nodes.contains_key(&below.block) => return Ok(Some(None)),
                (Some(_), Child::Node(_)) => {}
            }
        }
        Err(BROKEN)
    }

    /// What opens `page`; None is a hole.
    pub fn seal(&mut self, page: PageIndex, source: &impl NodeSource) -> Result<Option<Seal>> {
        let path = Path::to(page).ok_or(VaultError::TooLarge)?;
        let (leaf, index) = path.leaf();
        if let Some(seal) = self.seal_at(leaf.block, index)? {
            return Ok(seal);
        }
        for (node, index) in path.steps() {
            let seal = self.seal_at(node.block, *index)?.ok_or(BROKEN)?;
            match (node.child(*index), seal) {
                (Child::Page(_), seal) => return Ok(seal),
                (Child::Node(below), Some(seal)) => self.load(below.block, &seal, source)?,
                (Child::Node(below), None) if !self.nodes.contains_key(&below.block) => return Ok(None),
                (Child::Node(_), None) => {}
            }
        }
        Err(BROKEN)
    }

    fn load(&mut self, block: BlockIndex, seal: &Seal, source: &impl NodeSource) -> Result<()> {
        if self.nodes.contains_key(&block) {
            return Ok(());
        }
        let mut entries = Box::new([0; PAGE_LEN]);
        source.load_node(block, seal, &mut entries)?;
        self.nodes.insert(block, Cached { entries, dirty: false });
        Ok(())
    }

    /// The first node on the way to `page` that has to be loaded.
    pub fn missing(&self, page: PageIndex) -> Result<Option<Missing>> {
        let path = Path::to(page).ok_or(VaultError::TooLarge)?;
        for (node, index) in path.steps() {
            let Child::Node(below) = node.child(*index) else { break };
            if self.nodes.contains_key(&below.block) {
                continue;
            }
            let above = Slot { node: node.block, index: *index };
            let seal = self.seal_at(node.block, *index)?.ok_or(BROKEN)?;
            return Ok(seal.map(|seal| Missing { above, block: below.block, seal }));
        }
        Ok(None)
    }

    /// Takes a node over that was missing and has been loaded since, if it still is what stands there.
    pub fn take_over(&mut self, missing: &Missing, entries: Box<[u8; PAGE_LEN]>) -> Result<()> {
        let seal = self.seal_at(missing.above.node, missing.above.index)?;
        if seal == Some(Some(missing.seal)) && !self.nodes.contains_key(&missing.block) {
            self.nodes.insert(missing.block, Cached { entries, dirty: false });
        }
        Ok(())
    }

    /// Sets what opens `page`. Returns how many nodes became dirty.
    pub fn set(&mut self, page: PageIndex, seal: Option<Seal>, source: &impl NodeSource) -> Result<usize> {
        let path = Path::to(page).ok_or(VaultError::TooLarge)?;
        let bytes = seal.map_or(Seal::HOLE_BYTES, |seal| seal.encode());
        let (leaf, index) = path.leaf();
        // What is above a dirty node is dirty.
        if self.root_dirty && (leaf.is_root() || self.nodes.get(&leaf.block).is_some_and(|node| node.dirty)) {
            self.write_entry(leaf.block, index, &bytes)?;
            return Ok(0);
        }
        // Load first, change then: an unreadable node leaves everything as it was.
        for (node, index) in path.steps() {
            if let Child::Node(below) = node.child(*index) {
                match self.seal_at(node.block, *index)?.ok_or(BROKEN)? {
                    Some(seal) => self.load(below.block, &seal, source)?,
                    None if self.nodes.contains_key(&below.block) => {}
                    None if seal.is_none() => return Ok(0),
                    None => {
                        self.nodes.insert(below.block, Cached { entries: Box::new([0; PAGE_LEN]), dirty: false });
                    }
                }
            }
        }
        let before = self.dirty_nodes;
        for (node, _) in path.steps() {
            self.mark_dirty(node.block)?;
        }
        self.write_entry(leaf.block, index, &bytes)?;
        Ok(self.dirty_nodes - before)
    }

    fn mark_dirty(&mut self, block: BlockIndex) -> Result<()> {
        if block == BlockIndex::ROOT {
            self.root_dirty = true;
            return Ok(());
        }
        let node = self.nodes.get_mut(&block).ok_or(BROKEN)?;
        if !node.dirty {
            node.dirty = true;
            self.dirty_nodes += 1;
        }
        Ok(())
    }

    fn write_entry(&mut self, block: BlockIndex, index: usize, bytes: &[u8; ENTRY_LEN]) -> Result<()> {
        let entries = if block == BlockIndex::ROOT {
            self.root.as_mut_slice()
        } else {
            self.nodes.get_mut(&block).ok_or(BROKEN)?.entries.as_mut_slice()
        };
        *entries.get_mut(index * ENTRY_LEN..).and_then(<[u8]>::first_chunk_mut).ok_or(BROKEN)? = *bytes;
        Ok(())
    }

    /// Makes the pages from `first` up to, not including, `end` holes; whole subtrees are dropped unread.
    pub fn clear(&mut self, first: PageIndex, end: PageIndex, source: &impl NodeSource) -> Result<()> {
        if first < end { self.clear_below(Node::ROOT, first, end, source) } else { Ok(()) }
    }

    /// Loads the nodes that lie over a border of these pages, so that [`clear`](Self::clear) of them cannot fail any more.
    pub fn load_borders(&mut self, first: PageIndex, end: PageIndex, source: &impl NodeSource) -> Result<()> {
        for border in [first.0, end.0].into_iter().filter(|_| first < end) {
            let mut node = Node::ROOT;
            // Down to the lowest node that has pages on both sides.
            while let Some((index, below)) = (0..node.entries()).find_map(|index| match node.child(index) {
                Child::Node(below) => {
                    let below_end = below.first_page.0.saturating_add(below.page_span());
                    (below.first_page.0 < border && border < below_end).then_some((index, below))
                }
                Child::Page(_) => None,
            }) {
                match self.seal_at(node.block, index)?.ok_or(BROKEN)? {
                    Some(seal) => self.load(below.block, &seal, source)?,
                    None if self.nodes.contains_key(&below.block) => {}
                    None => break,
                }
                node = below;
            }
        }
        Ok(())
    }

    fn clear_below(&mut self, node: Node, first: PageIndex, end: PageIndex, source: &impl NodeSource) -> Result<()> {
        for index in 0..node.entries() {
            match node.child(index) {
                Child::Page(page) if first <= page && page < end => {
                    if self.seal_at(node.block, index)?.ok_or(BROKEN)?.is_some() {
                        self.mark_path_dirty(node)?;
                        self.write_entry(node.block, index, &Seal::HOLE_BYTES)?;
                    }
                }
                Child::Page(_) => {}
                Child::Node(below) => {
                    let below_end = below.first_page.0.saturating_add(below.page_span());
                    if below_end <= first.0 || end <= below.first_page {
                        continue;
                    }
                    let seal = self.seal_at(node.block, index)?.ok_or(BROKEN)?;
                    if seal.is_none() && !self.nodes.contains_key(&below.block) {
                        continue;
                    }
                    if first <= below.first_page && below_end <= end.0 {
                        self.mark_path_dirty(node)?;
                        self.write_entry(node.block, index, &Seal::HOLE_BYTES)?;
                        self.drop_subtree(below);
                    } else {
                        if let Some(seal) = seal {
                            self.load(below.block, &seal, source)?;
                        }
                        self.clear_below(below, first, end, source)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks the root and the nodes above the pages from `first` up to `end` to be sealed anew, nodes of holes too.
    /// Returns where it stopped: `end`, or earlier when about `limit` nodes more are dirty.
    pub fn touch(
        &mut self,
        first: PageIndex,
        end: PageIndex,
        limit: usize,
        source: &impl NodeSource,
    ) -> Result<PageIndex> {
        self.root_dirty = true;
        let most = self.dirty_nodes.saturating_add(limit);
        self.touch_below(Node::ROOT, first, end, most, source)
    }

    fn touch_below(
        &mut self,
        node: Node,
        first: PageIndex,
        end: PageIndex,
        most: usize,
        source: &impl NodeSource,
    ) -> Result<PageIndex> {
        for index in node.slot_of(first).unwrap_or(0)..node.entries() {
            let Child::Node(below) = node.child(index) else { continue };
            if below.first_page >= end {
                break;
            }
            let below_end = below.first_page.0.saturating_add(below.page_span());
            if below_end <= first.0 {
                continue;
            }
            match self.seal_at(node.block, index)?.ok_or(BROKEN)? {
                Some(seal) => self.load(below.block, &seal, source)?,
                None if self.nodes.contains_key(&below.block) => {}
                None => continue,
            }
            if self.dirty_nodes >= most {
                return Ok(below.first_page.max(first));
            }
            self.mark_path_dirty(below)?;
            let reached = self.touch_below(below, first.max(below.first_page), end, most, source)?;
            if reached < end && reached.0 < below_end {
                return Ok(reached);
            }
        }
        Ok(end)
    }

    /// The nodes over a page that hold nothing yet, and do not stand right before it.
    pub fn new_nodes_over(&self, page: PageIndex) -> Result<Vec<BlockIndex>> {
        let path = Path::to(page).ok_or(VaultError::TooLarge)?;
        let mut new = Vec::new();
        for (node, index) in path.steps() {
            let Child::Node(below) = node.child(*index) else { continue };
            let is_new = match self.entries(below.block) {
                Some(entries) => *entries == [0; PAGE_LEN],
                None => self.seal_at(node.block, *index)?.is_none_or(|seal| seal.is_none()),
            };
            if is_new && below.first_page != page {
                new.push(below.block);
            }
        }
        Ok(new)
    }

    /// The blocks of the nodes over a page may have been written over: those that hold something are to be written again.
    /// (One without content has no place that anybody looks at, and on a full disk none at all.)
    pub fn rewrite_over(&mut self, page: PageIndex) -> Result<()> {
        let path = Path::to(page).ok_or(VaultError::TooLarge)?;
        let holds_something =
            |(node, _): &&(Node, usize)| self.entries(node.block).is_some_and(|entries| *entries != [0; PAGE_LEN]);
        match path.steps().iter().rev().find(holds_something) {
            Some((node, _)) => self.mark_path_dirty(*node),
            None => Ok(()),
        }
    }

    fn mark_path_dirty(&mut self, node: Node) -> Result<()> {
        let mut at = node;
        loop {
            self.mark_dirty(at.block)?;
            let Some(slot) = parent_of(at) else { return Ok(()) };
            let Some(Child::Node(above)) = at_block(slot.node) else { return Err(BROKEN) };
            at = above;
        }
    }

    fn drop_subtree(&mut self, top: Node) {
        let end = top.block.0.saturating_add(top.block_span());
        let dirty_nodes = &mut self.dirty_nodes;
        self.nodes.retain(|block, node| {
            let inside = top.block.0 <= block.0 && block.0 < end;
            if inside && node.dirty {
                *dirty_nodes -= 1;
            }
            !inside
        });
    }

    /// The first page from `page` on, below `end`, that is content (`content`) or a hole.
    pub fn next(
        &mut self,
        page: PageIndex,
        end: PageIndex,
        content: bool,
        source: &impl NodeSource,
    ) -> Result<Option<PageIndex>> {
        self.next_below(Node::ROOT, page, end, content, source)
    }

    fn next_below(
        &mut self,
        node: Node,
        from: PageIndex,
        end: PageIndex,
        content: bool,
        source: &impl NodeSource,
    ) -> Result<Option<PageIndex>> {
        for index in node.slot_of(from).unwrap_or(0)..node.entries() {
            let seal = self.seal_at(node.block, index)?.ok_or(BROKEN)?;
            match node.child(index) {
                Child::Page(page) if page >= end => return Ok(None),
                Child::Page(page) if page >= from && seal.is_some() == content => return Ok(Some(page)),
                Child::Page(_) => {}
                Child::Node(below) if below.first_page >= end => return Ok(None),
                Child::Node(below) => {
                    let was_there = self.nodes.contains_key(&below.block);
                    if let Some(seal) = seal {
                        self.load(below.block, &seal, source)?;
                    } else if !was_there {
                        if content {
                            continue;
                        }
                        return Ok(Some(from.max(below.first_page)));
                    }
                    if let Some(page) = self.next_below(below, from, end, content, source)? {
                        return Ok(Some(page));
                    }
                    // A file of terabytes may be passed on the way.
                    if !was_there {
                        self.nodes.remove(&below.block);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Adds the runs of blocks that stand for the pages from `first` up to `end` and to which nothing leads: holes, and the
    /// nodes above them that have no other pages. Subtrees that are not there are passed as a whole.
    pub fn add_unused(
        &mut self,
        first: PageIndex,
        end: PageIndex,
        source: &impl NodeSource,
        runs: &mut Vec<Range<BlockIndex>>,
    ) -> Result<()> {
        self.add_unused_below(Node::ROOT, false, first, end, source, runs)
    }

    fn add_unused_below(
        &mut self,
        node: Node,
        is_hole: bool,
        first: PageIndex,
        end: PageIndex,
        source: &impl NodeSource,
        runs: &mut Vec<Range<BlockIndex>>,
    ) -> Result<()> {
        for index in node.slot_of(first).unwrap_or(0)..node.entries() {
            let seal = if is_hole { None } else { self.seal_at(node.block, index)?.ok_or(BROKEN)? };
            match node.child(index) {
                Child::Page(page) if page >= end => break,
                Child::Node(below) if below.first_page >= end => break,
                Child::Page(page) if page >= first && seal.is_none() => {
                    let block = page_block(page);
                    add_run(runs, block..BlockIndex(block.0.saturating_add(1)));
                }
                Child::Page(_) => {}
                Child::Node(below) => {
                    let below_end = below.first_page.0.saturating_add(below.page_span());
                    let is_hole = seal.is_none() && !self.nodes.contains_key(&below.block);
                    if is_hole && first <= below.first_page && below_end <= end.0 {
                        add_run(runs, below.block..BlockIndex(below.block.0.saturating_add(below.block_span())));
                        continue;
                    }
                    if let Some(seal) = seal {
                        self.load(below.block, &seal, source)?;
                    }
                    self.add_unused_below(below, is_hole, first, end, source, runs)?;
                }
            }
        }
        Ok(())
    }

    /// Seals every dirty node below the root, children before parents. `seal` seals the entries it is given
    /// (in place, they are a copy) and puts the result where it belongs.
    pub fn seal_nodes(&mut self, mut seal: impl FnMut(BlockIndex, &mut [u8; PAGE_LEN]) -> Result<Seal>) -> Result<()> {
        let mut dirty: Vec<Node> = Vec::with_capacity(self.dirty_nodes);
        for (block, node) in &self.nodes {
            if node.dirty {
                let Some(Child::Node(node)) = at_block(*block) else { return Err(BROKEN) };
                dirty.push(node);
            }
        }
        dirty.sort_unstable_by_key(|node| (node.height, node.block));
        for node in dirty {
            let cached = self.nodes.get_mut(&node.block).ok_or(BROKEN)?;
            let mut copy = *cached.entries;
            let sealed = seal(node.block, &mut copy)?;
            cached.dirty = false;
            self.dirty_nodes -= 1;
            let slot = parent_of(node).ok_or(BROKEN)?;
            self.write_entry(slot.node, slot.index, &sealed.encode())?;
        }
        Ok(())
    }

    /// The root is sealed as it is.
    pub const fn root_sealed(&mut self) {
        self.root_dirty = false;
    }

    /// Lets clean nodes go if more than `limit` of them are in memory.
    pub fn evict(&mut self, limit: usize) {
        if self.nodes.len() > limit.saturating_add(self.dirty_nodes) {
            self.nodes.retain(|_, node| node.dirty);
        }
    }
}

/// Adds a run that lies behind the others; what touches is one.
pub(super) fn add_run(runs: &mut Vec<Range<BlockIndex>>, run: Range<BlockIndex>) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes without an entry.
    struct Empty;

    impl NodeSource for Empty {
        fn load_node(&self, _: BlockIndex, _: &Seal, out: &mut [u8; PAGE_LEN]) -> Result<()> {
            out.fill(0);
            Ok(())
        }
    }

    fn seal(number: u8) -> Seal {
        Seal { nonce: [number; 12], tag: [number; 16], session: 1 }
    }

    #[test]
    fn a_node_is_taken_over_only_as_long_as_it_is_what_stands_there() {
        let page = PageIndex(200);
        let mut tree = TagTree::empty();
        let sealed = |tree: &mut TagTree, number: u8| {
            tree.set(page, Some(seal(number)), &Empty).unwrap();
            tree.seal_nodes(|_, _| Ok(seal(100 + number))).unwrap();
            tree.evict(0);
            tree.missing(page).unwrap().unwrap()
        };
        let before = sealed(&mut tree, 1);
        let after = sealed(&mut tree, 2);
        assert_eq!((before.seal, after.seal), (seal(101), seal(102)));
        tree.take_over(&before, Box::new([0; PAGE_LEN])).unwrap();
        assert_eq!(tree.missing(page).unwrap().unwrap().seal, seal(102));
        tree.take_over(&after, Box::new([0; PAGE_LEN])).unwrap();
        assert!(tree.missing(page).unwrap().is_none());
        assert_eq!(tree.cached_seal(page).unwrap(), Some(None));
    }

    #[test]
    fn over_a_hole_nothing_is_missing() {
        let tree = TagTree::empty();
        assert!(tree.missing(PageIndex(0)).unwrap().is_none());
        assert!(tree.missing(PageIndex(1 << 30)).unwrap().is_none());
    }
}

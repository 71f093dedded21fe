//! Where a file's pages and nodes stand in its home file: pure arithmetic, in one place.
//!
//! A home file counts in blocks of 4 KiB. A *blob* (plain size up to [`BLOB_MAX`]) is the header and one
//! AEAD message. A larger file is *paged*: block 0 holds the header and the root node; the root names
//! pages 0..119 at blocks 1..120, then one subtree each of heights 1 to 5, as ext2's indirect blocks do,
//! so that no height ever changes. A subtree's blocks lie together in pre-order: the node, then what it
//! covers. So the block of a page is a function of its index alone, a page is never moved, and a long
//! run of pages is one extent of the home file with a node at every 129th block.
//!
//! The home file ends where its last page ends: the plain size and the home's length determine each
//! other ([`home_len`], [`plain_len`]), and `stat` opens nothing.

/// The AEAD unit and the block of the home file, in bytes.
pub const PAGE_LEN: usize = 4096;
/// [`PAGE_LEN`] as an offset.
pub const PAGE_BYTES: u64 = 4096;
/// The header at the start of every home file, in bytes.
pub const HEADER_LEN: usize = 128;
/// One entry of a node: nonce, tag, session.
pub const ENTRY_LEN: usize = 32;
/// Entries of a node below the root.
pub const NODE_ENTRIES: usize = 128;
/// Entries of the root, which shares its block with the header.
pub const ROOT_ENTRIES: usize = 124;
/// Root entries that name data pages.
pub const DIRECT_PAGES: u64 = 119;
/// Heights of the subtrees under the root.
pub const MAX_HEIGHT: u32 = 5;
/// The largest plain size that is stored as a blob: the home then fills four blocks.
pub const BLOB_MAX: u64 = 4 * PAGE_BYTES - HEADER_LEN as u64;
/// The largest plain size (about 128 TiB).
pub const SIZE_MAX: u64 = first_page(MAX_HEIGHT + 1) * PAGE_BYTES;

const _: () = assert!(PAGE_LEN == NODE_ENTRIES * ENTRY_LEN);
const _: () = assert!(PAGE_LEN == HEADER_LEN + ROOT_ENTRIES * ENTRY_LEN);
const _: () = assert!(ROOT_ENTRIES as u64 == DIRECT_PAGES + MAX_HEIGHT as u64);

/// The index of a 4 KiB page in the plain file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

/// The index of a 4 KiB block in the home file. It names a node as well as a page: no two share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// The block of the header and the root.
    pub const ROOT: Self = Self(0);

    /// Where the block starts in the home file.
    pub const fn offset_bytes(self) -> u64 {
        self.0.saturating_mul(PAGE_BYTES)
    }
}

impl PageIndex {
    /// The page that holds the byte at `offset_bytes`.
    pub const fn of(offset_bytes: u64) -> Self {
        Self(offset_bytes / PAGE_BYTES)
    }

    /// Where the page starts in the plain file.
    pub const fn offset_bytes(self) -> u64 {
        self.0.saturating_mul(PAGE_BYTES)
    }

    /// How many bytes of this page a file of `size` holds: 4096, or fewer in the last page, or none.
    pub const fn len_in(self, size: u64) -> usize {
        let rest = size.saturating_sub(self.offset_bytes());
        if rest < PAGE_BYTES { rest as usize } else { PAGE_LEN }
    }
}

/// The number of pages of a plain file of `size` bytes.
pub const fn page_count(size: u64) -> u64 {
    size.div_ceil(PAGE_BYTES)
}

/// Pages under a subtree of `height`: 128^height.
const fn pages_under(height: u32) -> u64 {
    1_u64.wrapping_shl(height.saturating_mul(7))
}

/// Blocks of a subtree of `height`, its nodes included; height 0 is a page. The sum of 128^level up to `height`.
const fn blocks_of(height: u32) -> u64 {
    pages_under(height.saturating_add(1)).saturating_sub(1) / 127
}

/// The first page under the root's subtree of `height` (1..=5; 6 gives the total): those before have the sum of
/// 128^level, from 1 up to the one below.
const fn first_page(height: u32) -> u64 {
    DIRECT_PAGES.saturating_add(blocks_of(height.saturating_sub(1))).saturating_sub(1)
}

/// The block of the root's subtree of `height`: its top node. Those before have the sum of [`blocks_of`] from 1 up to the
/// one below, of which each is (128^(level + 1) - 1) / 127.
const fn first_block(height: u32) -> u64 {
    let powers = 128_u64.saturating_mul(blocks_of(height.saturating_sub(1)).saturating_sub(1));
    let before = powers.saturating_sub(height.saturating_sub(1) as u64) / 127;
    1_u64.saturating_add(DIRECT_PAGES).saturating_add(before)
}

/// A slot of a node: the node's block and the entry in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub node: BlockIndex,
    pub index: usize,
}

/// A node of the tree and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub block: BlockIndex,
    /// 1 for a node whose entries are pages; the root has [`MAX_HEIGHT`] + 1.
    pub height: u32,
    /// The first page below it.
    pub first_page: PageIndex,
}

/// What an entry of a node names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    Page(PageIndex),
    Node(Node),
}

impl Node {
    /// The root.
    pub const ROOT: Self = Self { block: BlockIndex::ROOT, height: MAX_HEIGHT + 1, first_page: PageIndex(0) };

    /// Whether this is the root.
    pub const fn is_root(&self) -> bool {
        self.block.0 == 0
    }

    /// The number of entries.
    pub const fn entries(&self) -> usize {
        if self.is_root() { ROOT_ENTRIES } else { NODE_ENTRIES }
    }

    /// The number of pages below it.
    pub const fn page_span(&self) -> u64 {
        if self.is_root() { first_page(MAX_HEIGHT + 1) } else { pages_under(self.height) }
    }

    /// The number of blocks of its subtree, itself included.
    pub const fn block_span(&self) -> u64 {
        if self.is_root() { first_block(MAX_HEIGHT + 1) } else { blocks_of(self.height) }
    }

    /// What entry `index` names.
    pub const fn child(&self, index: usize) -> Child {
        let slot = index as u64;
        if self.is_root() {
            if slot < DIRECT_PAGES {
                return Child::Page(PageIndex(slot));
            }
            let height = slot.saturating_sub(DIRECT_PAGES).saturating_add(1) as u32;
            return Child::Node(Self {
                block: BlockIndex(first_block(height)),
                height,
                first_page: PageIndex(first_page(height)),
            });
        }
        if self.height <= 1 {
            return Child::Page(PageIndex(self.first_page.0.saturating_add(slot)));
        }
        let height = self.height.saturating_sub(1);
        let before = slot.saturating_mul(blocks_of(height));
        Child::Node(Self {
            block: BlockIndex(self.block.0.saturating_add(1).saturating_add(before)),
            height,
            first_page: PageIndex(self.first_page.0.saturating_add(slot.saturating_mul(pages_under(height)))),
        })
    }

    /// The entry under which `page` lies; None if it lies elsewhere.
    pub const fn slot_of(&self, page: PageIndex) -> Option<usize> {
        if self.is_root() {
            if page.0 < DIRECT_PAGES {
                return Some(page.0 as usize);
            }
            let mut height = 1;
            while height <= MAX_HEIGHT {
                if page.0 < first_page(height.saturating_add(1)) {
                    return Some((DIRECT_PAGES as usize).saturating_add(height as usize).saturating_sub(1));
                }
                height = height.saturating_add(1);
            }
            return None;
        }
        let Some(within) = page.0.checked_sub(self.first_page.0) else { return None };
        if within >= pages_under(self.height) {
            return None;
        }
        match within.checked_div(pages_under(self.height.saturating_sub(1))) {
            Some(slot) => Some(slot as usize),
            None => None,
        }
    }
}

/// The nodes from the root down to the one whose entry names `page`; at most six, the root first.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    nodes: [(Node, usize); MAX_HEIGHT as usize + 1],
    len: usize,
}

impl Path {
    /// The way to `page`; None beyond [`SIZE_MAX`].
    pub fn to(page: PageIndex) -> Option<Self> {
        let mut path = Self { nodes: [(Node::ROOT, 0); MAX_HEIGHT as usize + 1], len: 0 };
        let mut node = Node::ROOT;
        loop {
            let index = node.slot_of(page)?;
            *path.nodes.get_mut(path.len)? = (node, index);
            path.len = path.len.saturating_add(1);
            match node.child(index) {
                Child::Page(_) => return Some(path),
                Child::Node(below) => node = below,
            }
        }
    }

    /// Each node with the entry that leads on.
    pub fn steps(&self) -> &[(Node, usize)] {
        self.nodes.get(..self.len).unwrap_or_default()
    }

    /// The node whose entry names the page, and that entry.
    pub fn leaf(&self) -> (Node, usize) {
        self.steps().last().copied().unwrap_or((Node::ROOT, 0))
    }
}

/// The block at which `page` stands. Beyond [`SIZE_MAX`] the answer has no meaning.
pub const fn page_block(page: PageIndex) -> BlockIndex {
    if page.0 < DIRECT_PAGES {
        return BlockIndex(page.0.saturating_add(1));
    }
    let mut height = 1;
    while height < MAX_HEIGHT && page.0 >= first_page(height.saturating_add(1)) {
        height = height.saturating_add(1);
    }
    let mut block = first_block(height);
    let mut rest = page.0.saturating_sub(first_page(height));
    while height > 0 {
        height = height.saturating_sub(1);
        // A power of 128: shifting is dividing.
        let bits = height.saturating_mul(7);
        let slot = rest.wrapping_shr(bits);
        rest = rest.saturating_sub(slot.wrapping_shl(bits));
        block = block.saturating_add(1).saturating_add(slot.saturating_mul(blocks_of(height)));
    }
    BlockIndex(block)
}

/// What stands at a block of a paged home; None beyond the last subtree.
pub fn at_block(block: BlockIndex) -> Option<Child> {
    let mut node = Node::ROOT;
    while node.block != block {
        if !node.is_root() && node.height == 0 {
            return None;
        }
        let mut found = None;
        if node.is_root() {
            if block.0 <= DIRECT_PAGES {
                return Some(Child::Page(PageIndex(block.0.saturating_sub(1))));
            }
            for height in 1..=MAX_HEIGHT {
                if block.0 < first_block(height.saturating_add(1)) {
                    found = Some(DIRECT_PAGES.saturating_add(u64::from(height)).saturating_sub(1));
                    break;
                }
            }
        } else {
            let into = block.0.checked_sub(node.block.0)?.checked_sub(1)?;
            found = into.checked_div(blocks_of(node.height.checked_sub(1)?));
        }
        match node.child(usize::try_from(found?).ok()?) {
            Child::Page(page) => return Some(Child::Page(page)),
            Child::Node(below) => node = below,
        }
    }
    Some(Child::Node(node))
}

/// The node above a node, and the entry in it.
pub fn parent_of(node: Node) -> Option<Slot> {
    if node.is_root() {
        return None;
    }
    let path = Path::to(node.first_page)?;
    let mut above = None;
    for (step, index) in path.steps() {
        if step.block == node.block {
            return above;
        }
        above = Some(Slot { node: step.block, index: *index });
    }
    None
}

/// The length of the home file of a plain file of `size` bytes.
pub const fn home_len(size: u64) -> u64 {
    if size <= BLOB_MAX {
        return size.saturating_add(HEADER_LEN as u64);
    }
    let last = PageIndex::of(size.saturating_sub(1));
    page_block(last).offset_bytes().saturating_add(last.len_in(size) as u64)
}

/// The plain size of a home file of `home_len` bytes; None if no file has this length.
pub fn plain_len(home_len: u64) -> Option<u64> {
    if home_len < HEADER_LEN as u64 {
        return None;
    }
    if home_len <= BLOB_MAX.saturating_add(HEADER_LEN as u64) {
        return home_len.checked_sub(HEADER_LEN as u64);
    }
    let end = home_len.checked_sub(1)?;
    match at_block(BlockIndex(end / PAGE_BYTES))? {
        Child::Node(_) => None,
        Child::Page(page) => {
            let size = page.offset_bytes().checked_add(end % PAGE_BYTES)?.checked_add(1)?;
            (size > BLOB_MAX).then_some(size)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interesting_pages() -> Vec<u64> {
        let mut pages: Vec<u64> = (0..40_000).collect();
        for height in 1..=MAX_HEIGHT + 1 {
            let edge = first_page(height);
            pages.extend(edge.saturating_sub(300)..edge);
            if height <= MAX_HEIGHT {
                pages.extend(edge..edge + 300);
            }
        }
        pages
    }

    #[test]
    fn what_is_computed_at_once_is_the_sum() {
        let (mut page, mut block) = (DIRECT_PAGES, 1 + DIRECT_PAGES);
        for height in 1..=MAX_HEIGHT + 1 {
            assert_eq!((first_page(height), first_block(height)), (page, block), "{height}");
            assert_eq!(pages_under(height), 128_u64.pow(height));
            assert_eq!(blocks_of(height), (0..=height).map(|level| 128_u64.pow(level)).sum::<u64>());
            page += pages_under(height);
            block += blocks_of(height);
        }
    }

    #[test]
    fn a_page_stands_where_its_path_says_and_back() {
        for page in interesting_pages().into_iter().map(PageIndex) {
            let block = page_block(page);
            let path = Path::to(page).expect("within the largest size");
            let (leaf, index) = path.leaf();
            assert_eq!(leaf.child(index), Child::Page(page));
            assert_eq!(at_block(block), Some(Child::Page(page)), "{page:?}");
            for (node, _) in path.steps() {
                assert_eq!(at_block(node.block), Some(Child::Node(*node)));
                if let Some(slot) = parent_of(*node) {
                    let Some(Child::Node(above)) = at_block(slot.node) else { panic!("{slot:?}") };
                    assert_eq!(above.child(slot.index), Child::Node(*node));
                }
            }
        }
    }

    #[test]
    fn blocks_are_used_once_and_in_order() {
        let mut expected = 1;
        for page in (0..40_000).map(PageIndex) {
            let block = page_block(page).0;
            while expected < block {
                assert!(matches!(at_block(BlockIndex(expected)), Some(Child::Node(_))), "{expected}");
                expected += 1;
            }
            assert_eq!(expected, block);
            expected += 1;
        }
    }

    #[test]
    fn plain_size_and_home_length_determine_each_other() {
        let mut sizes: Vec<u64> = (0..70_000).collect();
        for page in interesting_pages() {
            sizes.extend([page * 4096, page * 4096 + 1, page * 4096 + 4095]);
        }
        let mut previous = None;
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes.into_iter().filter(|size| *size <= SIZE_MAX) {
            let home = home_len(size);
            assert_eq!(plain_len(home), Some(size));
            assert!(previous < Some(home), "the home grows with the file");
            previous = Some(home);
        }
        let valid = (0..200_000).filter(|len| plain_len(*len).is_some_and(|size| home_len(size) != *len)).count();
        assert_eq!(valid, 0, "no two home lengths stand for one size");
    }

    #[test]
    fn lengths_that_no_file_has_are_refused() {
        for len in (0..128).chain(16_385..20_353) {
            assert_eq!(plain_len(len), None, "{len}");
        }
        assert_eq!(plain_len(20_353), Some(BLOB_MAX + 1));
        // the last block is a node
        assert_eq!(plain_len(120 * 4096 + 1), None);
        assert_eq!(plain_len(u64::MAX), None);
    }
}

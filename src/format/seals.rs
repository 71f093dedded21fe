//! What a page, a node or a blob is bound to when it is sealed: the associated data, in one place.
//!
//! Everything of a file is sealed under that file's own page key of a session, so the associated data only
//! says what it is and where it stands: `kind u8 || block u64`, little-endian.

use super::geometry::BlockIndex;

/// Bytes of associated data.
pub const AAD_LEN: usize = 9;

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// A page of content at this block.
    Page(BlockIndex),
    /// A node of the tag tree at this block; the root's is 0.
    Node(BlockIndex),
    /// The whole content of a blob.
    Blob,
}

impl Sealed {
    /// The associated data.
    pub const fn aad(self) -> [u8; AAD_LEN] {
        let (kind, block) = match self {
            Self::Page(block) => (1, block.0),
            Self::Node(block) => (2, block.0),
            Self::Blob => (3, 0),
        };
        let [a, b, c, d, e, f, g, h] = block.to_le_bytes();
        [kind, a, b, c, d, e, f, g, h]
    }
}

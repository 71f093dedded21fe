//! A request as it was read from the kernel, and its fields. A field that is not there makes the request one that is
//! not understood; nothing is looked at before its length is.

use super::abi::{IN_HEADER_LEN, WRITE_CACHE, opcode};

/// Reads and writes from this size on are large.
const LARGE_BYTES: u32 = 32 << 10;

/// Who asks what about which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    /// The node that it is about.
    pub node: u64,
    /// The caller.
    pub uid: u32,
    pub gid: u32,
    /// 0: the kernel itself, or a process of another namespace.
    pub pid: u32,
}

impl Request {
    /// Takes a request apart into its head and its body; None if it is cut.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, Fields<'_>)> {
        let (head, rest) = bytes.split_at_checked(IN_HEADER_LEN)?;
        let mut head = Fields(head);
        let len = head.u32()? as usize;
        let request = Self {
            opcode: head.u32()?,
            unique: head.u64()?,
            node: head.u64()?,
            uid: head.u32()?,
            gid: head.u32()?,
            pid: head.u32()?,
        };
        // Extensions, in units of eight bytes, stand behind the body. None is asked for.
        let extensions = usize::from(head.u16()?) * 8;
        let body_len = len.checked_sub(IN_HEADER_LEN)?.checked_sub(extensions)?;
        Some((request, Fields(rest.get(..body_len)?)))
    }

    /// Whether it reads or writes so much that this takes longer than to have another thread do something meanwhile.
    pub(super) fn is_large(&self, mut fields: Fields<'_>) -> bool {
        let is_transfer = matches!(self.opcode, opcode::READ | opcode::WRITE);
        is_transfer && fields.skip(16).and_then(|()| fields.u32()).is_some_and(|len| len >= LARGE_BYTES)
    }

    /// Whether it writes back what is in the kernel's cache.
    pub(super) fn is_from_cache(&self, mut fields: Fields<'_>) -> bool {
        let flags = fields.skip(20).and_then(|()| fields.u32());
        self.opcode == opcode::WRITE && flags.is_some_and(|flags| flags & WRITE_CACHE != 0)
    }
}

/// The fields of a request that have not been read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    pub fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_ne_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_ne_bytes)
    }

    /// A field that nobody needs.
    pub fn skip(&mut self, len: usize) -> Option<()> {
        self.0 = self.0.get(len..)?;
        Some(())
    }

    /// A name: everything up to a zero byte, which must be there.
    pub fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let name = self.0.get(..end)?;
        self.0 = self.0.get(end.checked_add(1)?..)?;
        Some(name)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as the kernel would write it.
    fn request(len: u32, extensions: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(len.to_ne_bytes());
        bytes.extend(3_u32.to_ne_bytes());
        bytes.extend(77_u64.to_ne_bytes());
        bytes.extend(5_u64.to_ne_bytes());
        for id in [1000_u32, 100, 4321] {
            bytes.extend(id.to_ne_bytes());
        }
        bytes.extend(extensions.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_request_is_taken_apart() {
        let bytes = request(40 + 8 + 3, 0, b"\x01\0\0\0\x02\0\0\0ab\0");
        let (head, mut fields) = Request::parse(&bytes).unwrap();
        assert_eq!(head, Request { opcode: 3, unique: 77, node: 5, uid: 1000, gid: 100, pid: 4321 });
        assert_eq!(fields.u32(), Some(u32::from_ne_bytes([1, 0, 0, 0])));
        assert!(fields.skip(4).is_some());
        assert_eq!(fields.name(), Some(&b"ab"[..]));
        assert_eq!((fields.u32(), fields.name(), fields.bytes(1)), (None, None, None));
    }

    #[test]
    fn extensions_are_no_part_of_the_body() {
        let bytes = request(40 + 3 + 8, 1, b"ab\0xxxxxxxx");
        let (_, mut fields) = Request::parse(&bytes).unwrap();
        assert_eq!(fields.name(), Some(&b"ab"[..]));
        assert_eq!(fields.bytes(1), None);
    }

    #[test]
    fn what_is_cut_is_refused() {
        let whole = request(40 + 4, 0, b"abc\0");
        for len in 0..whole.len() {
            assert!(Request::parse(&whole[..len]).is_none(), "{len}");
        }
        assert!(Request::parse(&whole).is_some());
        assert!(Request::parse(&request(39, 0, b"")).is_none(), "shorter than its header");
        assert!(Request::parse(&request(44, 1, b"abcd")).is_none(), "an extension longer than the body");
        let unended = request(43, 0, b"abc");
        assert_eq!(Request::parse(&unended).unwrap().1.name(), None);
    }
}

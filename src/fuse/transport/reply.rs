//! The answers. Each goes the way that its request came; one that is dropped unsent says EIO, so that no caller waits for
//! ever.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::abi::{NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, OUT_HEADER_LEN};
use super::uring::Slot;
use crate::fs::{Attr, Entry, FileKind, Space, Timestamp};

/// What `stat(2)` shows as the preferred size of reads and writes.
const BLOCK_SIZE: u32 = 4096;
/// Lengths of what the kernel expects after the header.
const ATTR_LEN: usize = 88;
const ENTRY_LEN: usize = 40 + ATTR_LEN;
const STATX_LEN: usize = 256;
const DIRENT_LEN: usize = 24;

thread_local! {
    /// The plaintext of the read that this thread is answering; wiped when the thread ends.
    static BUFFER: RefCell<Zeroizing<Vec<u8>>> = RefCell::default();
}

/// The way to the kernel, for notifications and for answers to what was read from it.
pub(crate) type Device = Arc<OwnedFd>;

/// Where an answer goes; any thread may send it.
#[derive(Clone)]
pub(super) enum Channel {
    /// One write to the device.
    Device(Device),
    /// To the thread that has the request in its ring.
    Ring(Arc<Slot>),
}

impl Channel {
    /// Nobody waits for an answer to this request. A ring gives its place back with one all the same.
    pub fn expects_none(&self, unique: u64) {
        if let Self::Ring(slot) = self {
            slot.put(0, unique, &[]);
        }
    }
}

/// One request's answer.
pub(crate) struct Reply {
    channel: Channel,
    unique: u64,
    sent: bool,
}

impl Reply {
    pub(super) fn new(channel: &Channel, unique: u64) -> Self {
        Self { channel: channel.clone(), unique, sent: false }
    }

    /// Asks to answer later, from another thread, perhaps after what the kernel then asks for the same mount. False: too many
    /// wait for such answers, and this one has to be given at once.
    pub fn defer(&self) -> bool {
        match &self.channel {
            Channel::Device(_) => true,
            Channel::Ring(slot) => slot.defer(),
        }
    }

    /// Success, with nothing to say.
    pub fn ok(self) {
        self.send(0, &[]);
    }

    /// An errno.
    pub fn error(self, errno: i32) {
        self.send(errno, &[]);
    }

    /// Bytes: of a file, of a link's target, of an attribute.
    pub fn data(self, bytes: &[u8]) {
        self.send(0, bytes);
    }

    /// Up to `len_bytes` of a file, which `read` puts where they are sent from; it returns how many, or an errno.
    pub fn fill(mut self, len_bytes: usize, read: impl FnOnce(&mut [u8]) -> Result<usize, i32>) {
        if let Channel::Ring(slot) = &self.channel
            && let Some(mut room) = slot.lend()
        {
            let (code, len) = match read(room.first_mut(len_bytes)) {
                Ok(read) => (0, read),
                Err(errno) => (errno.saturating_neg(), 0),
            };
            self.sent = true;
            slot.put_lent(room, code, self.unique, len);
            return;
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(len_bytes, 0);
            match read(buffer) {
                Ok(read) => self.data(buffer.get(..read).unwrap_or_default()),
                Err(errno) => self.error(errno),
            }
        });
    }

    /// What a name stands for.
    pub fn entry(self, entry: &Entry, name_kept: Duration, attr_kept: Duration) {
        let mut out = Out::<ENTRY_LEN>::new();
        out.entry(entry, name_kept, attr_kept);
        self.data(out.bytes());
    }

    /// There is no such name, and the kernel may remember that.
    pub fn absent(self, kept: Duration) {
        let mut out = Out::<ENTRY_LEN>::new();
        out.u64(0).u64(0).u64(kept.as_secs());
        // All of it, zeros included.
        self.data(&out.bytes);
    }

    /// Attributes.
    pub fn attr(self, attr: &Attr, kept: Duration) {
        let mut out = Out::<{ 16 + ATTR_LEN }>::new();
        out.u64(kept.as_secs()).u32(kept.subsec_nanos()).u32(0).attr(attr);
        self.data(out.bytes());
    }

    /// Attributes, with the time of creation if it is known.
    pub fn statx(self, attr: &Attr, birth: Option<Timestamp>, kept: Duration) {
        let mut out = Out::<{ 32 + STATX_LEN }>::new();
        out.u64(kept.as_secs()).u32(kept.subsec_nanos()).u32(0).u64(0).u64(0).statx(attr, birth);
        self.data(&out.bytes);
    }

    /// A file that was made and opened.
    pub fn created(self, entry: &Entry, name_kept: Duration, attr_kept: Duration, handle: u64, flags: u32) {
        let mut out = Out::<{ ENTRY_LEN + 16 }>::new();
        out.entry(entry, name_kept, attr_kept);
        out.u64(handle).u32(flags).u32(0);
        self.data(out.bytes());
    }

    /// A file or directory that was opened.
    pub fn opened(self, handle: u64, flags: u32) {
        let mut out = Out::<16>::new();
        out.u64(handle).u32(flags).u32(0);
        self.data(out.bytes());
    }

    /// So many bytes were written.
    pub fn written(self, len_bytes: u32) {
        let mut out = Out::<8>::new();
        out.u32(len_bytes).u32(0);
        self.data(out.bytes());
    }

    /// The length of an extended attribute, or of the list of them.
    pub fn xattr_len(self, len_bytes: u32) {
        self.written(len_bytes);
    }

    /// An offset that was looked for.
    pub fn offset(self, offset_bytes: u64) {
        let mut out = Out::<8>::new();
        out.u64(offset_bytes);
        self.data(out.bytes());
    }

    /// Space and numbers of files.
    pub fn space(self, space: &Space) {
        let mut out = Out::<80>::new();
        out.u64(space.blocks).u64(space.blocks_free).u64(space.blocks_available);
        out.u64(space.files).u64(space.files_free);
        out.u32(space.block_size).u32(space.name_max).u32(space.block_size);
        self.data(&out.bytes);
    }

    fn send(mut self, errno: i32, data: &[u8]) {
        self.sent = true;
        send(&self.channel, errno.saturating_neg(), self.unique, data);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            send(&self.channel, -libc::EIO, self.unique, &[]);
        }
    }
}

fn send(channel: &Channel, code: i32, unique: u64, data: &[u8]) {
    match channel {
        Channel::Device(device) => {
            if let Err(error) = write(device, code, unique, data) {
                // ENOENT: the caller was killed, or the mount is gone.
                log::debug!("an answer was not taken: {error}");
            }
        }
        Channel::Ring(slot) => slot.put(code, unique, data),
    }
}

/// What an answer begins with.
pub(super) fn header(code: i32, unique: u64, data_len: usize) -> [u8; OUT_HEADER_LEN] {
    let len = OUT_HEADER_LEN.saturating_add(data_len);
    let mut head = Out::<OUT_HEADER_LEN>::new();
    head.u32(u32::try_from(len).unwrap_or(u32::MAX)).u32(code.cast_unsigned()).u64(unique);
    head.bytes
}

fn write(device: &Device, code: i32, unique: u64, data: &[u8]) -> io::Result<()> {
    let head = header(code, unique, data.len());
    loop {
        // One call is one answer: the device takes all of it or nothing.
        match rustix::io::writev(&**device, &[IoSlice::new(&head), IoSlice::new(data)]) {
            Err(Errno::INTR) => {}
            outcome => return Ok(outcome.map(|_| ())?),
        }
    }
}

/// Has the kernel write back, and then drop, what it has cached of an inode. Must not be called by a thread that the
/// mount needs to be served: it waits for the writes.
pub(crate) fn invalidate(device: Option<&Device>, node: u64) {
    let mut out = Out::<24>::new();
    // From the start; negative is "to the end".
    out.u64(node).u64(0).u64((-1_i64).cast_unsigned());
    notify(device, NOTIFY_INVAL_INODE, out.bytes());
}

/// Has the kernel forget what a name stands for, and with it the inode if nobody uses that: it asks for it anew. Must not
/// be called by a thread that the mount needs to be served: it waits for changes of the directory.
pub(crate) fn invalidate_name(device: Option<&Device>, parent: u64, name: &[u8]) {
    let mut out = Out::<16>::new();
    out.u64(parent).u32(u32::try_from(name.len()).unwrap_or(u32::MAX)).u32(0);
    notify(device, NOTIFY_INVAL_ENTRY, &[out.bytes(), name, &[0]].concat());
}

fn notify(device: Option<&Device>, code: i32, bytes: &[u8]) {
    if let Some(device) = device
        && let Err(error) = write(device, code, 0, bytes)
    {
        // Unmounted, removed or forgotten meanwhile.
        log::debug!("the kernel did not take a notification: {error}");
    }
}

/// A listing, as long as the kernel has room for it.
pub(crate) struct List {
    bytes: Vec<u8>,
    room: usize,
}

impl List {
    pub(super) fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), room }
    }

    /// Adds an entry; false if there was no room for it.
    pub fn add(&mut self, ino: u64, next_cookie: u64, kind: FileKind, name: &[u8]) -> bool {
        self.add_after(&[], ino, next_cookie, type_bits(kind), name)
    }

    /// Adds an entry with its attributes.
    pub fn add_plus(
        &mut self,
        entry: &Entry,
        name_kept: Duration,
        attr_kept: Duration,
        next_cookie: u64,
        name: &[u8],
    ) -> bool {
        let mut out = Out::<ENTRY_LEN>::new();
        out.entry(entry, name_kept, attr_kept);
        self.add_after(out.bytes(), entry.attr.ino.0, next_cookie, type_bits(entry.attr.kind), name)
    }

    fn add_after(&mut self, before: &[u8], ino: u64, next_cookie: u64, kind: u32, name: &[u8]) -> bool {
        let Some(name_len) = DIRENT_LEN.checked_add(name.len()) else { return false };
        let len = before.len().saturating_add(name_len.next_multiple_of(8));
        let end = self.bytes.len().saturating_add(len);
        if end > self.room {
            return false;
        }
        if self.bytes.is_empty() {
            self.bytes.reserve_exact(self.room);
        }
        let mut out = Out::<DIRENT_LEN>::new();
        // The type as in `d_type`.
        let kind = kind.checked_shr(12).unwrap_or(0);
        out.u64(ino).u64(next_cookie).u32(u32::try_from(name.len()).unwrap_or(u32::MAX)).u32(kind);
        self.bytes.extend_from_slice(before);
        self.bytes.extend_from_slice(out.bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The type, as in `st_mode`.
fn type_bits(kind: FileKind) -> u32 {
    match kind {
        // The vault finds out what the backing did not say; a plain file is the harmless guess.
        FileKind::Regular | FileKind::Unknown => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

/// An answer of fixed length, written field by field.
struct Out<const LEN: usize> {
    bytes: [u8; LEN],
    at: usize,
}

impl<const LEN: usize> Out<LEN> {
    const fn new() -> Self {
        Self { bytes: [0; LEN], at: 0 }
    }

    fn put(&mut self, field: &[u8]) -> &mut Self {
        let end = self.at.saturating_add(field.len());
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(field);
        }
        debug_assert!(end <= LEN, "an answer has more fields than room");
        self.at = end;
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_ne_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_ne_bytes())
    }

    fn entry(&mut self, entry: &Entry, name_kept: Duration, attr_kept: Duration) {
        self.u64(entry.attr.ino.0).u64(entry.generation.into()).u64(name_kept.as_secs()).u64(attr_kept.as_secs());
        self.u32(name_kept.subsec_nanos()).u32(attr_kept.subsec_nanos()).attr(&entry.attr);
    }

    fn attr(&mut self, attr: &Attr) {
        let seconds = |time: Timestamp| time.seconds.cast_unsigned();
        self.u64(attr.ino.0).u64(attr.size_bytes).u64(attr.blocks);
        self.u64(seconds(attr.atime)).u64(seconds(attr.mtime)).u64(seconds(attr.ctime));
        self.u32(attr.atime.nanoseconds).u32(attr.mtime.nanoseconds).u32(attr.ctime.nanoseconds);
        self.u32(type_bits(attr.kind) | u32::from(attr.perm))
            .u32(attr.nlink)
            .u32(attr.uid)
            .u32(attr.gid)
            .u32(attr.rdev);
        self.u32(BLOCK_SIZE).u32(0);
    }

    fn statx(&mut self, attr: &Attr, birth: Option<Timestamp>) {
        let more = birth.map_or(0, |_| libc::STATX_BTIME);
        self.u32(libc::STATX_BASIC_STATS | more).u32(BLOCK_SIZE).u64(0);
        self.u32(attr.nlink).u32(attr.uid).u32(attr.gid);
        // 16 bits of the mode, and 16 to spare.
        let mode = (type_bits(attr.kind) | u32::from(attr.perm)) as u16;
        self.put(&mode.to_ne_bytes()).put(&[0; 2]);
        self.u64(attr.ino.0).u64(attr.size_bytes).u64(attr.blocks).u64(0);
        for time in [attr.atime, birth.unwrap_or_default(), attr.ctime, attr.mtime] {
            self.u64(time.seconds.cast_unsigned()).u32(time.nanoseconds).u32(0);
        }
        let (major, minor) = (attr.rdev >> 8 & 0xfff, attr.rdev & 0xff | attr.rdev >> 12 & 0xf_ff00);
        // What follows is to spare.
        self.u32(major).u32(minor);
    }

    /// All of it: every field was written.
    fn bytes(&self) -> &[u8] {
        debug_assert_eq!(self.at, LEN, "an answer has fewer fields than the kernel expects");
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::InodeNo;

    fn attr() -> Attr {
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        Attr {
            ino: InodeNo(7),
            kind: FileKind::Directory,
            perm: 0o1755,
            nlink: 2,
            uid: 3,
            gid: 4,
            rdev: 5,
            size_bytes: 6,
            blocks: 8,
            atime: time(-2, 500_000_000),
            mtime: time(9, 1),
            ctime: time(10, 2),
            provisional: false,
        }
    }

    /// What a device would get: a pipe's end takes what is written to it.
    fn answered(answer: impl FnOnce(Reply)) -> (i32, u64, Vec<u8>) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        answer(Reply::new(&Channel::Device(Arc::new(writer)), 99));
        let mut bytes = vec![0; 4096];
        let len = rustix::io::read(&reader, &mut bytes).unwrap();
        bytes.truncate(len);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(0) as usize, len);
        (word(4).cast_signed(), u64::from_ne_bytes(bytes[8..16].try_into().unwrap()), bytes.split_off(16))
    }

    #[test]
    fn attributes_stand_where_the_kernel_looks_for_them() {
        let (code, unique, body) = answered(|reply| reply.attr(&attr(), Duration::new(12, 13)));
        assert_eq!((code, unique, body.len()), (0, 99, 104));
        let long = |at: usize| u64::from_ne_bytes(body[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap());
        assert_eq!([long(0), long(16), long(24), long(32)], [12, 7, 6, 8]);
        assert_eq!((word(8), long(40).cast_signed(), long(48), long(56)), (13, -2, 9, 10));
        assert_eq!([word(64), word(68), word(72)], [500_000_000, 1, 2]);
        assert_eq!([word(76), word(80), word(84), word(88), word(92)], [libc::S_IFDIR | 0o1755, 2, 3, 4, 5]);
    }

    #[test]
    fn the_time_of_creation_is_told_where_it_is_known() {
        let (_, _, body) = answered(|reply| {
            reply.statx(&attr(), Some(Timestamp { seconds: 11, nanoseconds: 3 }), Duration::new(12, 13))
        });
        assert_eq!(body.len(), 288);
        let long = |at: usize| u64::from_ne_bytes(body[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap());
        assert_eq!((long(0), word(8), word(32), word(36)), (12, 13, 0xfff, 4096));
        assert_eq!([word(48), word(52), word(56), word(60)], [2, 3, 4, libc::S_IFDIR | 0o1755]);
        assert_eq!([long(64), long(72), long(80)], [7, 6, 8]);
        let times = [96, 112, 128, 144].map(|at| (long(at).cast_signed(), word(at + 8)));
        assert_eq!(times, [(-2, 500_000_000), (11, 3), (10, 2), (9, 1)]);
        assert_eq!((word(160), word(164)), (0, 5));
        let (_, _, body) = answered(|reply| reply.statx(&attr(), None, Duration::ZERO));
        assert_eq!(u32::from_ne_bytes(body[32..36].try_into().unwrap()), 0x7ff);
    }

    #[test]
    fn every_answer_has_its_length() {
        let entry = Entry { attr: attr(), generation: 1 };
        let kept = Duration::from_secs(1);
        assert_eq!(answered(|reply| reply.entry(&entry, kept, kept)).2.len(), 128);
        assert_eq!(answered(|reply| reply.absent(kept)).2.len(), 128);
        assert_eq!(answered(|reply| reply.created(&entry, kept, kept, 1, 2)).2.len(), 144);
        assert_eq!(answered(|reply| reply.opened(1, 2)).2.len(), 16);
        assert_eq!(answered(|reply| reply.written(1)).2.len(), 8);
        assert_eq!(answered(|reply| reply.offset(1)).2.len(), 8);
        assert_eq!(answered(Reply::ok), (0, 99, vec![]));
        assert_eq!(answered(|reply| reply.error(libc::ENOENT)), (-libc::ENOENT, 99, vec![]));
        assert_eq!(answered(|reply| reply.data(b"abc")), (0, 99, b"abc".to_vec()));
    }

    #[test]
    fn who_is_not_answered_gets_an_error() {
        assert_eq!(answered(drop), (-libc::EIO, 99, vec![]));
    }

    #[test]
    fn a_listing_ends_where_its_room_does() {
        let mut list = List::new(24 + 8 + 24 + 16);
        assert!(list.add(5, 1, FileKind::Regular, b"12345678"));
        assert!(list.add(6, 2, FileKind::Directory, b"123456789"));
        assert!(!list.add(7, 3, FileKind::Regular, b"x"));
        assert_eq!(list.bytes().len(), 72);
        let word = |at: usize| u32::from_ne_bytes(list.bytes()[at..at + 4].try_into().unwrap());
        assert_eq!([word(16), word(20), word(32 + 16), word(32 + 20)], [8, 8, 9, 4]);
        assert_eq!(&list.bytes()[56..72], b"123456789\0\0\0\0\0\0\0");
        let mut plus = List::new(128 + 32);
        assert!(plus.add_plus(&Entry { attr: attr(), generation: 1 }, Duration::ZERO, Duration::ZERO, 1, b"a"));
        assert_eq!(plus.bytes().len(), 160);
    }
}

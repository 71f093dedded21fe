//! [`Ring`]: an io_uring with one entry in one of a connection's queues. One call hands the answer to a request over and
//! brings the next request. The structures are those of `include/uapi/linux/fuse.h` (`fuse_uring_req_header`,
//! `fuse_uring_cmd_req`) and io_uring(7).
//!
//! # Unsafe code
//!
//! io_uring shares memory with the kernel, and no library offers it for FUSE. Three things are shared:
//!
//! - *Words and completions*, mapped from the ring. Words are atomics; their places come from the kernel, and are checked
//!   once, in [`Ring::new`]. Nothing in them is used as a pointer.
//! - *The submission*, one, mapped from the ring. The kernel reads it inside `io_uring_enter`; it is written only while
//!   none is under way.
//! - *The entry's [`Region`]*: the request's and the answer's bytes. The kernel writes and reads it only while the entry is
//!   its own: from the submission to the completion, that is, inside [`Ring::next`], which has the ring to itself (`&mut`) and
//!   refuses while a [`Room`] is lent. Outside of it the bytes are ours: [`Ring::request`] borrows the ring, a `Room` is the part
//!   that no request lies in. A region that the kernel may still write to is never unmapped.

#![allow(unsafe_code)]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use memmap2::{MmapMut, MmapOptions, MmapRaw};
use rustix::io::Errno;
use rustix::io_uring::{
    IORING_OFF_SQES, IoringEnterFlags, IoringOp, IoringRegisterOp, IoringSetupFlags, io_uring_cqe, io_uring_enter,
    io_uring_params, io_uring_register, io_uring_setup,
};
use zeroize::Zeroize;

use super::super::abi::{IN_HEADER_LEN, OUT_HEADER_LEN};
use super::super::reply::Device;

/// `fuse_uring_cmd`: the first submission of an entry, and each one after it.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// `fuse_uring_req_header`: the header of the request, or of its answer; what the operation has of fixed length; and what
/// lies in the payload.
const HEADERS_LEN: usize = 288;
const OPERATION_AT: usize = 128;
const OPERATION_MAX: usize = 128;
const COMMIT_ID_AT: usize = 256 + 8;
const PAYLOAD_LEN_AT: usize = 256 + 16;

/// Where the payload begins. What stands before it is put together from the headers, so that a request is one run of
/// bytes, as it is when it is read from the device.
const PAYLOAD_AT: usize = 4096;
const _: () = assert!(HEADERS_LEN + IN_HEADER_LEN + OPERATION_MAX <= PAYLOAD_AT);

/// A submission of 128 bytes, as far as FUSE's commands have it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Submission {
    opcode: u8,
    flags: u8,
    priority: u16,
    descriptor: i32,
    command: u32,
    padding: u32,
    /// Of two `iovec`: headers, payload.
    address: u64,
    len: u32,
    command_flags: u32,
    user_data: u64,
    unused: u64,
    /// From here on `fuse_uring_cmd_req`.
    request_flags: u64,
    commit_id: u64,
    queue: u16,
    padding_16: [u16; 3],
    padding_64: [u64; 7],
}
const _: () = assert!(size_of::<Submission>() == 128 && offset_of!(Submission, request_flags) == 48);

/// What an entry shares with the kernel: headers, then the payload.
struct Region {
    map: MmapRaw,
    /// So much of the payload was ever used.
    used_len: AtomicUsize,
}

impl Region {
    fn new(payload_len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(PAYLOAD_AT.saturating_add(payload_len))?.into();
        Ok(Self { map, used_len: AtomicUsize::new(0) })
    }

    /// The longest payload that it has room for.
    fn payload_max(&self) -> usize {
        self.map.len().saturating_sub(PAYLOAD_AT)
    }

    fn used(&self, payload_len: usize) {
        self.used_len.fetch_max(payload_len, Ordering::Relaxed);
    }

    /// Its first bytes. While a [`Room`] is lent, `len` is at most [`PAYLOAD_AT`].
    fn first(&self, len: usize) -> &[u8] {
        let len = len.min(self.map.len());
        // SAFETY: They are mapped. The kernel writes to them only where the ring is borrowed mutably, and whoever has a room
        // only behind them.
        unsafe { slice::from_raw_parts(self.map.as_ptr(), len) }
    }

    fn all_mut(&mut self) -> &mut [u8] {
        // SAFETY: They are mapped, and nobody else has the region.
        unsafe { slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.map.len()) }
    }

    /// A field of the headers.
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.first(HEADERS_LEN).get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    fn set(&mut self, at: usize, bytes: &[u8]) -> bool {
        let place = at.checked_add(bytes.len()).and_then(|end| self.all_mut().get_mut(at..end));
        place.map(|place| place.copy_from_slice(bytes)).is_some()
    }
}

/// The payload, lent to whoever answers.
pub(in super::super) struct Room {
    region: Arc<Region>,
}

impl Room {
    /// Its first bytes, so many as there are. They hold what was in the payload before.
    pub fn first_mut(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(self.region.payload_max());
        self.region.used(len);
        let payload = self.region.map.as_mut_ptr().wrapping_add(PAYLOAD_AT);
        // SAFETY: The payload has that many bytes, and nobody else uses them: there is one room at a time, only where no request
        // lies in the payload (`Ring::lend`), and the kernel does not have the entry before this one is dropped (`Ring::next`).
        unsafe { slice::from_raw_parts_mut(payload, len) }
    }
}

/// Where the words stand in the ring's mapping, in bytes.
#[derive(Clone, Copy)]
struct Places {
    submitted_head: usize,
    submitted_tail: usize,
    completed_head: usize,
    completed_tail: usize,
    completed_mask: usize,
    completions: usize,
}

/// See the module's documentation.
pub(super) struct Ring {
    ring: OwnedFd,
    words: MmapRaw,
    submissions: MmapRaw,
    places: Places,
    device: Device,
    queue: u16,
    region: Arc<Region>,
    /// The request in hand.
    commit_id: Option<u64>,
    kernel_has_it: bool,
}

impl Ring {
    /// A ring for an entry in a queue, of answers and requests up to `payload_len` bytes. It is for one thread, which has
    /// to [`enable`](Self::enable) it.
    pub fn new(device: &Device, queue: u16, payload_len: usize) -> io::Result<Self> {
        let mut parameters = io_uring_params::default();
        parameters.flags = IoringSetupFlags::SQE128
            | IoringSetupFlags::NO_SQARRAY
            | IoringSetupFlags::R_DISABLED
            | IoringSetupFlags::SINGLE_ISSUER
            | IoringSetupFlags::DEFER_TASKRUN;
        // SAFETY: No flag has the kernel take an address from the parameters.
        let ring = unsafe { io_uring_setup(1, &mut parameters) }?;
        let (submitted, completed) = (&parameters.sq_off, &parameters.cq_off);
        let places = Places {
            submitted_head: submitted.head as usize,
            submitted_tail: submitted.tail as usize,
            completed_head: completed.head as usize,
            completed_tail: completed.tail as usize,
            completed_mask: completed.ring_mask as usize,
            completions: completed.cqes as usize,
        };
        let words_len = places.completions + parameters.cq_entries as usize * size_of::<io_uring_cqe>();
        let words = MmapOptions::new().len(words_len).map_raw(ring.as_raw_fd())?;
        let fits = |at: usize| at.is_multiple_of(4) && at.saturating_add(4) <= words_len;
        let Places { submitted_head, submitted_tail, completed_head, completed_tail, completed_mask, completions } =
            places;
        let words_at = [submitted_head, submitted_tail, completed_head, completed_tail, completed_mask, completions];
        if !words_at.into_iter().all(fits) {
            return Err(io::Error::other("the kernel's ring is not laid out as expected"));
        }
        let submissions =
            MmapOptions::new().offset(IORING_OFF_SQES).len(size_of::<Submission>()).map_raw(ring.as_raw_fd())?;
        let region = Arc::new(Region::new(payload_len)?);
        let device = Device::clone(device);
        Ok(Self { ring, words, submissions, places, device, queue, region, commit_id: None, kernel_has_it: false })
    }

    /// Makes it the calling thread's.
    pub fn enable(&mut self) -> io::Result<()> {
        // SAFETY: This operation takes no address.
        unsafe { io_uring_register(&self.ring, IoringRegisterOp::RegisterEnableRings, ptr::null(), 0) }?;
        Ok(())
    }

    /// Hands the answer over, or, before the first request, the entry; then waits for a request. False: there will be
    /// none, the connection has ended.
    pub fn next(&mut self) -> io::Result<bool> {
        let Some(region) = Arc::get_mut(&mut self.region) else {
            return Err(io::Error::other("an answer is still being written"));
        };
        let start = region.map.as_mut_ptr();
        let buffers = [
            libc::iovec { iov_base: start.cast(), iov_len: HEADERS_LEN },
            libc::iovec { iov_base: start.wrapping_add(PAYLOAD_AT).cast(), iov_len: region.payload_max() },
        ];
        let submission = Submission {
            opcode: IoringOp::UringCmd as u8,
            descriptor: self.device.as_raw_fd(),
            command: if self.commit_id.is_some() { COMMIT_AND_FETCH } else { REGISTER },
            address: buffers.as_ptr() as u64,
            len: 2,
            commit_id: self.commit_id.unwrap_or(0),
            queue: self.queue,
            ..Submission::default()
        };
        // SAFETY: The mapping has room for one, page-aligned; the kernel has read the one before, which was completed.
        unsafe { self.submissions.as_mut_ptr().cast::<Submission>().write(submission) };
        let tail = self.word(self.places.submitted_tail);
        tail.store(tail.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        self.kernel_has_it = true;
        let result = loop {
            let pending = self.word(self.places.submitted_tail).load(Ordering::Relaxed);
            let pending = pending.wrapping_sub(self.word(self.places.submitted_head).load(Ordering::Acquire));
            // SAFETY: What is submitted has addresses of `buffers`, which the kernel reads in here, and of the region, which
            // lives on, and is not touched before the completion.
            match unsafe { io_uring_enter(&self.ring, pending, 1, IoringEnterFlags::GETEVENTS) } {
                Ok(_) | Err(Errno::INTR | Errno::AGAIN | Errno::BUSY) => {}
                Err(errno) => return Err(errno.into()),
            }
            if let Some(result) = self.completed() {
                break result;
            }
        };
        self.kernel_has_it = false;
        match result.saturating_neg() {
            ..=0 => {}
            // ENOENT: the request has ended with the connection.
            libc::ENOTCONN | libc::ECONNABORTED | libc::ENODEV | libc::ECANCELED | libc::ENOENT => return Ok(false),
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        self.commit_id = Some(u64::from_ne_bytes(self.region.field(COMMIT_ID_AT)));
        self.region.used(self.payload_len().min(self.region.payload_max()));
        self.assemble()?;
        Ok(true)
    }

    /// Puts the head of the request before its payload.
    fn assemble(&mut self) -> io::Result<()> {
        let cut = || io::Error::other("the kernel sent a request that is cut");
        let operation_len = self.operation_len().ok_or_else(cut)?;
        let region = Arc::get_mut(&mut self.region).ok_or_else(cut)?;
        let operation_at = PAYLOAD_AT.checked_sub(operation_len).ok_or_else(cut)?;
        let head_at = operation_at.checked_sub(IN_HEADER_LEN).ok_or_else(cut)?;
        let bytes = region.all_mut();
        bytes.copy_within(OPERATION_AT..OPERATION_AT.saturating_add(operation_len), operation_at);
        bytes.copy_within(..IN_HEADER_LEN, head_at);
        Ok(())
    }

    /// That of the request.
    fn payload_len(&self) -> usize {
        u32::from_ne_bytes(self.region.field(PAYLOAD_LEN_AT)) as usize
    }

    /// So much of the request stands in the headers, after its own.
    fn operation_len(&self) -> Option<usize> {
        let whole_len = u32::from_ne_bytes(self.region.field(0)) as usize;
        let len = whole_len.checked_sub(IN_HEADER_LEN)?.checked_sub(self.payload_len())?;
        (len <= OPERATION_MAX && self.payload_len() <= self.region.payload_max()).then_some(len)
    }

    /// The request in hand, as it would be read from the device; empty if there is none.
    pub fn request(&self) -> &[u8] {
        let range = || {
            self.commit_id?;
            let start = PAYLOAD_AT.checked_sub(self.operation_len()?)?.checked_sub(IN_HEADER_LEN)?;
            Some(start..PAYLOAD_AT.checked_add(self.payload_len())?)
        };
        range().and_then(|range| self.region.first(range.end).get(range)).unwrap_or_default()
    }

    /// The payload, for the answer, unless part of the request lies in it.
    pub fn lend(&mut self) -> Option<Room> {
        let is_free = self.payload_len() == 0 && Arc::strong_count(&self.region) == 1;
        is_free.then(|| Room { region: Arc::clone(&self.region) })
    }

    /// The answer: its header, and what of it was not put into the [`Room`]; `len` is that of both. False: it is too long,
    /// or part of it is still being written.
    pub fn answer(&mut self, header: &[u8; OUT_HEADER_LEN], aside: &[u8], len: usize) -> bool {
        let (Some(region), Ok(len)) = (Arc::get_mut(&mut self.region), u32::try_from(len)) else { return false };
        region.used(aside.len());
        region.set(PAYLOAD_AT, aside) && region.set(0, header) && region.set(PAYLOAD_LEN_AT, &len.to_ne_bytes())
    }

    /// What became of the submission, once it is known.
    fn completed(&self) -> Option<i32> {
        let head = self.word(self.places.completed_head);
        let at = head.load(Ordering::Relaxed);
        if at == self.word(self.places.completed_tail).load(Ordering::Acquire) {
            return None;
        }
        let index = (at & self.word(self.places.completed_mask).load(Ordering::Relaxed)) as usize;
        let place = index.checked_mul(size_of::<io_uring_cqe>())?.checked_add(self.places.completions)?;
        let place = place.checked_add(offset_of!(io_uring_cqe, res))?;
        if place.checked_add(4)? > self.words.len() {
            return None;
        }
        // SAFETY: It lies in the mapping; the kernel wrote it before it moved the tail, and writes no other there before
        // the head is moved.
        let result = unsafe { self.words.as_mut_ptr().wrapping_add(place).cast::<i32>().read() };
        head.store(at.wrapping_add(1), Ordering::Release);
        Some(result)
    }

    /// A word that is shared with the kernel.
    fn word(&self, place: usize) -> &AtomicU32 {
        // SAFETY: `Ring::new` found each place to be aligned and in the mapping, which lives as long as the ring, and is
        // shared memory that both sides use by atomic operations only.
        unsafe { AtomicU32::from_ptr(self.words.as_mut_ptr().wrapping_add(place).cast()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.kernel_has_it {
            // It may write there until the ring is gone, which nobody is told of.
            std::mem::forget(Arc::clone(&self.region));
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Held what was read and written, in the clear.
        let used_len = PAYLOAD_AT.saturating_add(*self.used_len.get_mut());
        if let Some(used) = self.all_mut().get_mut(..used_len) {
            used.zeroize();
        }
    }
}

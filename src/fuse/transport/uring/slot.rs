//! [`Slot`]: where the answer to the request of one ring is put, by whichever thread gives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use zeroize::Zeroizing;

use super::super::reply;
use super::ring::{Ring, Room};

/// The threads of a queue that do not wait for another thread's answer. One must be left: what another thread does for its
/// answer can take requests in this very queue, which the kernel has answered in their order.
pub(super) struct Free(AtomicUsize);

impl Free {
    pub fn new(threads: usize) -> Self {
        Self(AtomicUsize::new(threads))
    }

    /// Whether a thread may wait; if so, it is not free until [`give_back`](Self::give_back).
    fn take(&self) -> bool {
        let less = |free: usize| free.checked_sub(1).filter(|left| *left > 0);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// There is a thread less; false: that was the last one.
    pub fn lose(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) > 1
    }
}

/// See the module's documentation.
pub(in super::super) struct Slot {
    state: Mutex<State>,
    answered: Condvar,
    free: Arc<Free>,
}

#[derive(Default)]
struct State {
    /// Its thread may wait for another's answer.
    deferred: bool,
    /// For the answer's data, where none of the request's stands there.
    room: Option<Room>,
    /// For data otherwise. Names and attributes in the clear, and as short as those.
    aside: Zeroizing<Vec<u8>>,
    answer: Option<Answer>,
}

struct Answer {
    code: i32,
    unique: u64,
    len: usize,
}

impl Slot {
    pub(super) fn new(free: Arc<Free>) -> Self {
        Self { state: Mutex::default(), answered: Condvar::new(), free }
    }

    /// Asks for the answer to be given later, by another thread; false: too many are already.
    pub(in super::super) fn defer(&self) -> bool {
        let mut state = self.state.lock();
        state.deferred = state.deferred || self.free.take();
        state.deferred
    }

    /// Makes ready for the answer to the ring's request.
    pub(super) fn open(&self, ring: &mut Ring) {
        let mut state = self.state.lock();
        state.answer = None;
        state.aside.clear();
        state.room = ring.lend();
    }

    /// Where to put data, instead of having [`put`](Self::put) copy it; what is put there goes with
    /// [`put_lent`](Self::put_lent).
    pub(in super::super) fn lend(&self) -> Option<Room> {
        self.state.lock().room.take()
    }

    /// The answer to a request: 0 and the first `len` bytes of the room, or a negative errno.
    pub(in super::super) fn put_lent(&self, room: Room, code: i32, unique: u64, len: usize) {
        // The ring has it again.
        drop(room);
        self.state.lock().answer = Some(Answer { code, unique, len });
        self.answered.notify_one();
    }

    /// The answer to a request: 0 and data, or a negative errno.
    pub(in super::super) fn put(&self, code: i32, unique: u64, data: &[u8]) {
        let mut state = self.state.lock();
        let fits = match state.room.take() {
            _ if data.is_empty() => true,
            Some(mut room) => {
                let place = room.first_mut(data.len());
                let fits = place.len() == data.len();
                if fits {
                    place.copy_from_slice(data);
                }
                fits
            }
            None => {
                state.aside.extend_from_slice(data);
                true
            }
        };
        let (code, len) = if fits { (code, data.len()) } else { (-libc::EIO, 0) };
        state.answer = Some(Answer { code, unique, len });
        self.answered.notify_one();
    }

    /// Waits for the answer, and gives it to the ring.
    pub(super) fn hand_over(&self, ring: &mut Ring) {
        let mut state = self.state.lock();
        let answer = loop {
            match state.answer.take() {
                Some(answer) => break answer,
                None => self.answered.wait(&mut state),
            }
        };
        if std::mem::take(&mut state.deferred) {
            self.free.give_back();
        }
        let Answer { code, unique, len } = answer;
        if !ring.answer(&reply::header(code, unique, len), &state.aside, len) {
            log::error!("an answer of {len} bytes is too long for the kernel");
            ring.answer(&reply::header(-libc::EIO, unique, 0), &[], 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::abi::IN_HEADER_LEN;
    use super::super::super::dispatch::dispatch;
    use super::super::super::reply::Channel;
    use super::super::super::request::Request;
    use super::*;
    use crate::fs::tests::{Mounted, mounted};
    use crate::fuse::adapter::Adapter;

    /// Without an answer the kernel would not get the entry back, and a caller might wait for ever.
    #[test]
    fn every_request_is_answered() {
        let Mounted { fs, backing: _backing } = mounted();
        let adapter = Adapter::new(Arc::new(fs), Arc::default(), None).unwrap();
        for (opcode, body_len) in (0..64_u32).flat_map(|opcode| [0, 3, 8, 120].map(|body_len| (opcode, body_len))) {
            let len = IN_HEADER_LEN as u32 + body_len;
            let mut bytes = [len.to_ne_bytes(), opcode.to_ne_bytes()].concat();
            bytes.extend_from_slice(&[7_u64.to_ne_bytes(), 1_u64.to_ne_bytes()].concat());
            bytes.resize(len as usize, 0);
            let slot = Arc::new(Slot::new(Arc::new(Free::new(2))));
            let (request, fields) = Request::parse(&bytes).unwrap();
            dispatch(&adapter, &request, fields, &Channel::Ring(Arc::clone(&slot)));
            let answer = slot.state.lock().answer.take();
            assert!(answer.is_some_and(|answer| answer.unique == 7), "operation {opcode}, {body_len} bytes");
        }
    }

    #[test]
    fn one_thread_of_a_queue_does_not_wait() {
        let free = Arc::new(Free::new(3));
        let slots: Vec<_> = (0..3).map(|_| Slot::new(Arc::clone(&free))).collect();
        let deferred: Vec<_> = slots.iter().map(Slot::defer).collect();
        assert_eq!(deferred, [true, true, false]);
        assert!(slots[0].defer(), "it is already");
        free.give_back();
        assert!(slots[2].defer());
        free.give_back();
        assert!(free.lose() && !Slot::new(Arc::clone(&free)).defer());
        assert!(!free.lose());
    }
}

//! Who reads the device. One thread at a time does, and does the work of what it read: for a request that takes
//! microseconds, waking another thread would cost more than the work. Before it begins something long it leaves the seat
//! to another; should it be held up unexpectedly, the watch takes the seat from it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long a thread may work on one request before another reads on.
const PATIENCE: Duration = Duration::from_millis(1);
/// So many looks, and the watch sleeps until it is called again.
const LOOKS: u32 = 10;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Seat {
    state: Mutex<State>,
    vacant: Condvar,
    /// The turn of who sits; read without the lock by who does.
    turn: AtomicU64,
    /// The request that the reader works on; 0: it reads.
    working: AtomicU64,
    watching: AtomicBool,
    called: Condvar,
}

#[derive(Default)]
struct State {
    taken: bool,
    ended: bool,
}

/// A turn on the seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn(u64);

impl Seat {
    /// Waits for the seat; None: there is nothing to read any more.
    pub fn take(&self) -> Option<Turn> {
        let mut state = self.state.lock();
        while state.taken && !state.ended {
            self.vacant.wait(&mut state);
        }
        if state.ended {
            return None;
        }
        state.taken = true;
        Some(Turn(self.turn.fetch_add(1, Ordering::AcqRel).wrapping_add(1)))
    }

    /// Gives the seat up, if this turn still has it.
    pub fn leave(&self, turn: Turn) {
        let mut state = self.state.lock();
        if self.has(turn) {
            self.vacate(&mut state);
        }
    }

    fn vacate(&self, state: &mut State) {
        state.taken = false;
        self.turn.fetch_add(1, Ordering::AcqRel);
        self.vacant.notify_one();
    }

    /// Whether this turn has not been ended.
    pub fn has(&self, turn: Turn) -> bool {
        self.turn.load(Ordering::Acquire) == turn.0
    }

    /// The reader begins to work on a request (by its number), and will be back at once.
    pub fn begin(&self, request: u64) {
        self.working.store(request, Ordering::Release);
        // Either this sees that nobody watches, or the watch sees what is begun.
        fence(Ordering::SeqCst);
        if !self.watching.load(Ordering::Relaxed) {
            let _state = self.state.lock();
            self.watching.store(true, Ordering::Relaxed);
            self.called.notify_one();
        }
    }

    /// It is back.
    pub fn done(&self, request: u64) {
        // Unless the watch took the seat: then the next reader's work stands there.
        let _ = self.working.compare_exchange(request, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Nobody waits for the seat any more.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        self.vacant.notify_all();
        self.called.notify_all();
    }

    /// Takes the seat from a reader that does not come back; returns at the end.
    pub fn watch(&self) {
        let mut state = self.state.lock();
        let (mut last, mut looks) = (0, 0);
        while !state.ended {
            if self.watching.load(Ordering::Relaxed) {
                self.called.wait_for(&mut state, PATIENCE);
            } else {
                looks = 0;
                self.called.wait(&mut state);
                continue;
            }
            let working = self.working.load(Ordering::Acquire);
            if working != 0 && working == last && state.taken {
                // Its work goes on; it will find that the seat is not its own any more.
                self.done(working);
                self.vacate(&mut state);
            }
            last = working;
            looks += 1;
            if looks >= LOOKS && working == 0 {
                // Called again with the next request.
                self.watching.store(false, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                if self.working.load(Ordering::Acquire) != 0 {
                    self.watching.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn watched(test: impl FnOnce(&Arc<Seat>)) {
        let seat = Arc::new(Seat::default());
        let watch = thread::spawn({
            let seat = seat.clone();
            move || seat.watch()
        });
        test(&seat);
        seat.end();
        watch.join().unwrap();
        assert_eq!(seat.take(), None);
    }

    #[test]
    fn one_has_the_seat_until_it_leaves() {
        watched(|seat| {
            let turn = seat.take().unwrap();
            assert!(seat.has(turn));
            let next = thread::spawn({
                let seat = seat.clone();
                move || seat.take()
            });
            seat.leave(turn);
            assert!(!seat.has(turn));
            let next = next.join().unwrap().unwrap();
            assert!(seat.has(next));
            // Too late: it is another's.
            seat.leave(turn);
            assert!(seat.has(next));
        });
    }

    #[test]
    fn who_is_held_up_loses_it() {
        watched(|seat| {
            let turn = seat.take().unwrap();
            seat.begin(7);
            // Returns once the watch has taken the seat away.
            let next = seat.take().unwrap();
            assert!(!seat.has(turn) && seat.has(next));
            seat.done(7);
            assert!(seat.has(next));
        });
    }

    #[test]
    fn who_reads_keeps_it() {
        watched(|seat| {
            let turn = seat.take().unwrap();
            for request in 1..200 {
                seat.begin(request);
                seat.done(request);
            }
            // Longer than the watch looks for, and than it stays awake.
            thread::sleep(PATIENCE * (LOOKS + 20));
            assert!(seat.has(turn));
        });
    }
}

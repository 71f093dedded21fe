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
    /// The request that the reader works on; 0: it reads. Who sets it back to 0 has the seat: the reader, which comes back, or
    /// the watch, which gives it to another. So only who has the seat reads, and only its work stands here.
    working: AtomicU64,
    watching: AtomicBool,
    called: Condvar,
}

#[derive(Default)]
struct State {
    taken: bool,
    ended: bool,
}

impl Seat {
    /// Waits for the seat; false: there is nothing to read any more.
    pub fn take(&self) -> bool {
        let mut state = self.state.lock();
        while state.taken && !state.ended {
            self.vacant.wait(&mut state);
        }
        state.taken = !state.ended;
        state.taken
    }

    /// The reader gives the seat up.
    pub fn leave(&self) {
        self.vacate(&mut self.state.lock());
    }

    fn vacate(&self, state: &mut State) {
        state.taken = false;
        self.vacant.notify_one();
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

    /// It is back, and reads on; false: the watch took the seat from it. No two requests have the same number.
    pub fn done(&self, request: u64) -> bool {
        self.working.compare_exchange(request, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
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
            // Unless it is back after all. Its work goes on; when it is done it finds that the seat is not its own any more.
            if working != 0 && working == last && self.done(working) {
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
        assert!(!seat.take());
    }

    #[test]
    fn one_has_the_seat_until_it_leaves() {
        watched(|seat| {
            assert!(seat.take());
            let next = thread::spawn({
                let seat = seat.clone();
                move || seat.take()
            });
            seat.leave();
            assert!(next.join().unwrap());
        });
    }

    #[test]
    fn who_is_held_up_loses_it() {
        watched(|seat| {
            assert!(seat.take());
            seat.begin(7);
            // Returns once the watch has taken the seat away.
            assert!(seat.take());
            assert!(!seat.done(7));
            // The next one's work is its own.
            seat.begin(9);
            assert!(!seat.done(7) && seat.working.load(Ordering::Relaxed) != 7);
        });
    }

    #[test]
    fn who_reads_keeps_it() {
        watched(|seat| {
            assert!(seat.take());
            for request in 1..200 {
                seat.begin(request);
                if !seat.done(request) {
                    assert!(seat.take());
                }
            }
            // Longer than the watch looks for, and than it stays awake.
            thread::sleep(PATIENCE * (LOOKS + 20));
            assert!(seat.state.lock().taken);
        });
    }

    /// Work that takes about as long as the watch waits: whoever of the two is first, one has the seat.
    #[test]
    fn nobody_reads_without_it() {
        let (reads, numbers) = (AtomicBool::new(false), AtomicU64::new(1));
        watched(|seat| {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut sits = false;
                        for _ in 0..100 {
                            assert!(sits || seat.take());
                            assert!(!reads.swap(true, Ordering::SeqCst), "two read");
                            thread::sleep(PATIENCE / 4);
                            reads.store(false, Ordering::SeqCst);
                            let number = numbers.fetch_add(1, Ordering::Relaxed);
                            seat.begin(number);
                            thread::sleep(PATIENCE * 3 / 2);
                            sits = seat.done(number);
                        }
                        if sits {
                            seat.leave();
                        }
                    });
                }
            });
        });
    }
}

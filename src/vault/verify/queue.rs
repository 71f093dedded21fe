//! A few threads that work tasks off, the newest first, and may add more.

use std::num::NonZeroUsize;
use std::thread;

use parking_lot::{Condvar, Mutex};

/// More threads than this only wait for each other.
const JOBS_MAX: usize = 256;

/// Tasks that wait, and how many are being worked on.
pub(in super::super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: Vec<T>,
    busy: usize,
}

impl<T> Queue<T> {
    /// Adds a task.
    pub fn push(&self, task: T) {
        self.state.lock().waiting.push(task);
        self.changed.notify_one();
    }

    /// The next task; None when all is done.
    fn next(&self, is_stopped: &dyn Fn() -> bool) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if is_stopped() {
                state.waiting.clear();
            }
            if let Some(task) = state.waiting.pop() {
                state.busy = state.busy.saturating_add(1);
                return Some(task);
            }
            if state.busy == 0 {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    fn done(&self) {
        let mut state = self.state.lock();
        state.busy = state.busy.saturating_sub(1);
        if state.busy == 0 {
            self.changed.notify_all();
        }
    }
}

/// Says that a task is over, however it ends.
struct Busy<'a, T>(&'a Queue<T>);

impl<T> Drop for Busy<'_, T> {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// How many threads to use if so many were asked for; 0 is one for each core.
pub(in super::super) fn jobs(asked: usize) -> usize {
    match asked {
        0 => thread::available_parallelism().map_or(1, NonZeroUsize::get).min(JOBS_MAX),
        asked => asked.min(JOBS_MAX),
    }
}

/// Works `tasks` off, and what they add, on `jobs` threads, each with a worker of its own.
pub(in super::super) fn run<T: Send, W>(
    jobs: usize,
    tasks: Vec<T>,
    is_stopped: impl Fn() -> bool + Sync,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, T, &Queue<T>) + Sync,
) {
    let queue = Queue { state: Mutex::new(State { waiting: tasks, busy: 0 }), changed: Condvar::new() };
    let one = || {
        let mut worker = worker();
        while let Some(task) = queue.next(&is_stopped) {
            let _busy = Busy(&queue);
            work(&mut worker, task, &queue);
        }
    };
    thread::scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(one);
        }
        one();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn every_task_is_done_once_whoever_adds_it() {
        for jobs in [1, 2, 7] {
            let sum = AtomicU64::new(0);
            run(
                jobs,
                vec![10_u64, 20],
                || false,
                || (),
                |(), task, queue| {
                    sum.fetch_add(task, Ordering::Relaxed);
                    (0..task.min(5)).filter(|_| task > 1).for_each(|_| queue.push(1));
                },
            );
            assert_eq!(sum.into_inner(), 10 + 20 + 2 * 5, "{jobs} threads");
        }
    }

    #[test]
    fn a_stop_leaves_the_rest() {
        let done = AtomicU64::new(0);
        run(
            1,
            vec![(); 100],
            || done.load(Ordering::Relaxed) >= 3,
            || (),
            |(), (), _| {
                done.fetch_add(1, Ordering::Relaxed);
            },
        );
        assert_eq!(done.into_inner(), 3);
    }
}

//! [`Courtesy`]: threads that answer make room for whom they answer.
//!
//! Whom an answer wakes, Linux puts on another CPU if one is idle, although this one is about to be. To wake an idle CPU
//! takes as long as all the rest of a small request, in a virtual machine. With one exception: where nothing but
//! `SCHED_IDLE` (sched(7)) runs, the caller stays (`sched_idle_cpu` in Linux's `select_idle_sibling`). So threads that
//! answer one request after the other are given that policy.
//!
//! It leaves them next to nothing of a CPU on which somebody else computes. So a thread of its own looks at the others every few
//! milliseconds. Who got nowhere has its share back; if it wanted the CPU, for a while, which doubles each time. And where all
//! CPUs have something to run, nobody is put on another: there all of them have their share.
//!
//! A thread begins with its maker's policy. So threads that answer make none.

use std::fs;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::process::Pid;
use rustix::thread::gettid;

use super::policy::Policy;

/// Between two looks. A thread is kept from its CPU for no more than two of them.
const LOOK: Duration = Duration::from_millis(5);
/// Requests between two looks from which on a thread is courteous.
const BUSY: u32 = 8;
/// So many looks in vain, and the watch sleeps until it is called.
const LOOKS: u32 = 10;
/// For how long a thread that was kept from its CPU is not courteous; twice as long each time.
const WAIT: Duration = Duration::from_millis(16);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Without that for so long, it begins anew.
const GOOD: Duration = Duration::from_millis(250);

/// See the module's documentation.
pub(in super::super) struct Courtesy {
    state: Mutex<State>,
    watches: AtomicBool,
    called: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that have not ended: after that, a thread's number may be another's.
    threads: Vec<Thread>,
    ended: bool,
}

impl Courtesy {
    pub fn new() -> Arc<Self> {
        // As if somebody watched: nobody is called who may never be there.
        Arc::new(Self { state: Mutex::default(), watches: AtomicBool::new(true), called: Condvar::new() })
    }

    /// Watches until [`end`](Self::end).
    pub fn watch(&self) {
        if let Err(error) = can_return() {
            log::debug!("threads that answer keep their policy: {error}");
            return;
        }
        let mut crowd = Crowd::new(thread::available_parallelism().map_or(1, NonZero::get));
        let mut looks = 0;
        let mut state = self.state.lock();
        while !state.ended {
            let (now, is_crowded) = (Instant::now(), crowd.look());
            let mut is_busy = false;
            for thread in &mut state.threads {
                is_busy |= thread.look(now, is_crowded);
            }
            looks = if is_busy { 0 } else { looks + 1 };
            if looks < LOOKS {
                self.called.wait_for(&mut state, LOOK);
            } else {
                looks = 0;
                self.watches.store(false, Ordering::Relaxed);
                self.called.wait(&mut state);
                self.watches.store(true, Ordering::Relaxed);
            }
        }
        for thread in &mut state.threads {
            thread.become_of(Policy::Normal);
        }
    }

    /// Has the watch end.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.called.notify_one();
    }

    fn call(&self) {
        // If this comes too early, the next request calls.
        if !self.watches.load(Ordering::Relaxed) {
            let _state = self.state.lock();
            self.called.notify_one();
        }
    }
}

/// Whether a thread can leave `SCHED_IDLE` again, for which it takes CAP_SYS_NICE: the calling thread tries.
fn can_return() -> io::Result<()> {
    let stat = fs::read_to_string("/proc/thread-self/stat")?;
    if field(&stat, POLICY) != Some("0") {
        return Err(io::Error::other("somebody has set it"));
    }
    Policy::Idle.apply(gettid())?;
    Policy::Normal.apply(gettid())
}

/// Fields of `/proc/TID/stat`, proc_pid_stat(5), behind the name, which may hold anything.
const STATE: usize = 0;
const POLICY: usize = 41 - 3;

fn field(stat: &str, index: usize) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').nth(index)
}

/// Whether all CPUs have something to run.
struct Crowd {
    cpus: usize,
    /// Threads that want a CPU, the watch left out: the average, in parts of [`Self::ONE`].
    others: usize,
}

impl Crowd {
    const ONE: usize = 1024;
    /// The average is about one of the last so many looks.
    const SPAN: usize = 8;

    fn new(cpus: usize) -> Self {
        Self { cpus, others: 0 }
    }

    fn look(&mut self) -> bool {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let running = load.split([' ', '/']).nth(3).and_then(|field| field.parse::<usize>().ok());
        self.counts(running.unwrap_or(0).saturating_sub(1))
    }

    fn counts(&mut self, others: usize) -> bool {
        let sum = self.others.saturating_mul(Self::SPAN - 1).saturating_add(others.saturating_mul(Self::ONE));
        self.others = sum / Self::SPAN;
        // If not, some CPU is idle for a quarter of the time.
        self.others > self.cpus.saturating_mul(Self::ONE).saturating_sub(Self::ONE / 4)
    }
}

/// What the watch knows of a thread.
struct Thread {
    id: Pid,
    diary: Arc<Diary>,
    seen: u32,
    policy: Policy,
    /// When it may be courteous again, and how long it waits the next time.
    again: Instant,
    wait: Duration,
}

/// What a thread tells.
#[derive(Default)]
struct Diary {
    /// Requests that came to it.
    came: AtomicU32,
    /// It works for nobody who waits.
    streams: AtomicBool,
}

impl Thread {
    fn new(id: Pid, diary: Arc<Diary>) -> Self {
        Self { id, diary, seen: 0, policy: Policy::Normal, again: Instant::now(), wait: WAIT }
    }

    /// Whether it had something to do.
    fn look(&mut self, now: Instant, is_crowded: bool) -> bool {
        let came = self.diary.came.load(Ordering::Relaxed);
        let fresh = came.wrapping_sub(self.seen);
        self.seen = came;
        let streams = self.diary.streams.load(Ordering::Relaxed);
        match self.policy {
            Policy::Normal if fresh >= BUSY && !streams && !is_crowded && now >= self.again => {
                self.become_of(Policy::Idle);
            }
            Policy::Idle if streams || is_crowded => self.become_of(Policy::Normal),
            Policy::Idle if fresh == 0 => {
                self.become_of(Policy::Normal);
                if self.wants_a_cpu() {
                    self.again = now + self.wait;
                    self.wait = self.wait.saturating_mul(2).min(LONGEST_WAIT);
                }
            }
            Policy::Idle if now >= self.again + GOOD => self.wait = WAIT,
            _ => {}
        }
        fresh > 0
    }

    fn become_of(&mut self, policy: Policy) {
        match policy.apply(self.id) {
            Ok(()) => self.policy = policy,
            Err(error) => log::debug!("a thread that answers is not made {policy:?}: {error}"),
        }
    }

    fn wants_a_cpu(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", self.id.as_raw_nonzero()));
        stat.is_ok_and(|stat| field(&stat, STATE) == Some("R"))
    }
}

/// What a thread has as long as it is watched.
pub(super) struct Watched {
    diary: Arc<Diary>,
    courtesy: Arc<Courtesy>,
}

impl Watched {
    /// The calling thread is watched from now on.
    pub fn new(courtesy: &Arc<Courtesy>) -> Self {
        let diary = Arc::<Diary>::default();
        courtesy.state.lock().threads.push(Thread::new(gettid(), Arc::clone(&diary)));
        Self { diary, courtesy: Arc::clone(courtesy) }
    }

    /// A request came.
    pub fn came(&self) {
        let before = self.diary.came.fetch_add(1, Ordering::Relaxed);
        if before.is_multiple_of(BUSY) {
            self.courtesy.call();
        }
    }

    /// Whether it works for nobody who waits, from now on.
    pub fn streams(&self, streams: bool) {
        self.diary.streams.store(streams, Ordering::Relaxed);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.courtesy.state.lock().threads.retain(|thread| !Arc::ptr_eq(&thread.diary, &self.diary));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// As Linux has it.
    fn policy_of(thread: Pid) -> String {
        let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_nonzero())).unwrap();
        field(&stat, POLICY).unwrap().to_owned()
    }

    const NORMAL: &str = "0";
    const IDLE: &str = "5";

    fn busy(thread: &Thread) {
        thread.diary.came.fetch_add(BUSY, Ordering::Relaxed);
    }

    /// With a thread that sleeps, or spins, meanwhile.
    fn with_thread(spins: bool, test: impl FnOnce(Thread)) {
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let other = scope.spawn({
                let ended = &ended;
                move || {
                    tell.send(gettid()).unwrap();
                    while !ended.load(Ordering::Relaxed) {
                        if spins { std::hint::spin_loop() } else { thread::park() }
                    }
                }
            });
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let thread = Thread::new(told.recv().unwrap(), Arc::default());
                while thread.wants_a_cpu() != spins {
                    thread::yield_now();
                }
                test(thread);
            }));
            ended.store(true, Ordering::Relaxed);
            other.thread().unpark();
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        });
    }

    #[test]
    fn who_is_busy_is_courteous_until_it_is_calm() {
        with_thread(false, |mut thread| {
            let now = Instant::now();
            assert!(!thread.look(now, false));
            thread.diary.came.fetch_add(BUSY - 1, Ordering::Relaxed);
            assert!(thread.look(now, false));
            assert_eq!(policy_of(thread.id), NORMAL);
            busy(&thread);
            assert!(thread.look(now, false));
            assert_eq!(policy_of(thread.id), IDLE);
            thread.diary.came.fetch_add(1, Ordering::Relaxed);
            assert!(thread.look(now, false));
            assert_eq!(policy_of(thread.id), IDLE);
            // It sleeps: nobody kept it from anything.
            assert!(!thread.look(now, false));
            assert_eq!(policy_of(thread.id), NORMAL);
            busy(&thread);
            assert!(thread.look(now, false));
            assert_eq!(policy_of(thread.id), IDLE);
        });
    }

    #[test]
    fn who_streams_is_not_nor_anybody_in_a_crowd() {
        with_thread(false, |mut thread| {
            let now = Instant::now();
            for becomes_so in [false, true] {
                for streams in [false, true] {
                    thread.diary.streams.store(false, Ordering::Relaxed);
                    if becomes_so {
                        busy(&thread);
                        thread.look(now, false);
                        assert_eq!(policy_of(thread.id), IDLE);
                    }
                    thread.diary.streams.store(streams, Ordering::Relaxed);
                    busy(&thread);
                    thread.look(now, !streams);
                    assert_eq!(policy_of(thread.id), NORMAL);
                }
            }
        });
    }

    #[test]
    fn who_was_kept_from_its_cpu_has_its_share_for_longer_each_time() {
        with_thread(true, |mut thread| {
            let mut now = Instant::now();
            let mut kept = |thread: &mut Thread| {
                busy(thread);
                thread.look(now, false);
                assert_eq!(policy_of(thread.id), IDLE);
                thread.look(now, false);
                assert_eq!(policy_of(thread.id), NORMAL);
                let before = now;
                loop {
                    now += Duration::from_millis(1);
                    busy(thread);
                    thread.look(now, false);
                    if policy_of(thread.id) == IDLE {
                        return now - before;
                    }
                }
            };
            assert_eq!(kept(&mut thread), WAIT);
            thread.become_of(Policy::Normal);
            assert_eq!(kept(&mut thread), WAIT * 2);
            for _ in 0..10 {
                thread.become_of(Policy::Normal);
                kept(&mut thread);
            }
            thread.become_of(Policy::Normal);
            assert_eq!(kept(&mut thread), LONGEST_WAIT);
            busy(&thread);
            now += GOOD;
            thread.look(now, false);
            assert_eq!(thread.wait, WAIT);
        });
    }

    #[test]
    fn the_end_gives_everybody_its_share() {
        let courtesy = Courtesy::new();
        let watched = Watched::new(&courtesy);
        let me = gettid();
        thread::scope(|scope| {
            // It is made first: it would begin with its maker's policy.
            let (tell, told) = mpsc::channel::<()>();
            let watch = scope.spawn({
                let courtesy = &courtesy;
                move || told.recv().map(|()| courtesy.watch()).unwrap()
            });
            {
                let mut state = courtesy.state.lock();
                busy(&state.threads[0]);
                state.threads[0].look(Instant::now(), false);
            }
            assert_eq!(policy_of(me), IDLE);
            courtesy.end();
            tell.send(()).unwrap();
            watch.join().unwrap();
        });
        assert_eq!(policy_of(me), NORMAL);
        drop(watched);
        assert!(courtesy.state.lock().threads.is_empty());
    }

    #[test]
    fn a_policy_that_somebody_set_stays() {
        thread::spawn(|| {
            assert!(can_return().is_ok());
            assert_eq!(policy_of(gettid()), NORMAL);
            Policy::Idle.apply(gettid()).unwrap();
            assert!(can_return().is_err());
            assert_eq!(policy_of(gettid()), IDLE);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_crowd_is_one_thread_for_each_cpu_on_the_average() {
        let mut crowd = Crowd::new(2);
        // A caller and who answers it, by turns.
        assert!((0..100).all(|_| !crowd.counts(1)));
        assert!((0..100).all(|look| !crowd.counts(1 + look % 2)));
        // And somebody else computes.
        assert!((0..100).any(|_| crowd.counts(2)));
        assert!((0..100).all(|_| crowd.counts(2)));
        assert!((0..100).any(|_| !crowd.counts(1)));
    }
}

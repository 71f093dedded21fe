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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::process::Pid;
use rustix::thread::gettid;

use super::policy::{Policy, keep_io_priority};

/// Between two looks. Who gets nowhere on its CPU does so for no more than two of them.
const LOOK: Duration = Duration::from_millis(5);
/// Requests between two looks from which on a thread is courteous.
const BUSY: u32 = 8;
/// It ceases to be with less than so many.
const CALM: u32 = 2;
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
    pub fn new() -> Self {
        // As if somebody watched: nobody is called who may never be there.
        Self { state: Mutex::default(), watches: AtomicBool::new(true), called: Condvar::new() }
    }

    /// Watches until [`end`](Self::end). `cpus`: how many there are.
    pub fn watch(&self, cpus: usize) {
        if let Err(error) = can_return() {
            log::debug!("threads that answer keep their policy: {error}");
            return;
        }
        let mut crowd = Crowd::new(cpus);
        self.watch_unless(|| crowd.look());
    }

    fn watch_unless(&self, mut is_crowded: impl FnMut() -> bool) {
        let mut looks = 0;
        loop {
            // With nothing locked: the file may be that of a filesystem.
            let is_crowded = is_crowded();
            let mut state = self.state.lock();
            if state.ended {
                state.threads.iter_mut().for_each(|thread| thread.become_of(Policy::Normal));
                return;
            }
            let now = Instant::now();
            looks += 1;
            for thread in &mut state.threads {
                if thread.look(now, is_crowded) {
                    looks = 0;
                }
            }
            if looks >= LOOKS {
                looks = 0;
                self.watches.store(false, Ordering::Relaxed);
                self.called.wait(&mut state);
                self.watches.store(true, Ordering::Relaxed);
                // What came meanwhile came over a long time.
                state.threads.iter_mut().for_each(Thread::forget);
            }
            if !state.ended {
                self.called.wait_for(&mut state, LOOK);
            }
        }
    }

    /// Has the watch end.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.called.notify_one();
    }

    fn call(&self) {
        // Whoever has the lock is the watch, which is awake then, or calls it. And a thread that may be `SCHED_IDLE` does not
        // wait for it, nor keep it from the watch for long.
        if !self.watches.load(Ordering::Relaxed)
            && let Some(_state) = self.state.try_lock()
            && !self.watches.load(Ordering::Relaxed)
        {
            self.called.notify_one();
        }
    }
}

/// Whether a thread can leave `SCHED_IDLE` again, for which it takes CAP_SYS_NICE or an RLIMIT_NICE of 20: the calling
/// thread tries. And whether it can be seen what another waits for.
fn can_return() -> io::Result<()> {
    let me = gettid();
    state_of(me)?;
    if Policy::of(me) != Some(Policy::Normal) {
        return Err(io::Error::other("somebody has set it"));
    }
    Policy::Idle.apply(me)?;
    Policy::Normal.apply(me)
}

/// The state of a thread of this process, proc_pid_stat(5); "R": it works, or would if it had a CPU.
fn state_of(thread: Pid) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_nonzero()))?;
    // Behind the name, which may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').next());
    state.map(str::to_owned).ok_or_else(|| io::Error::other("a thread has no state"))
}

/// Whether all CPUs have something to run.
struct Crowd {
    cpus: usize,
    /// Threads that want a CPU, the watch left out: the average, in parts of [`Self::ONE`].
    others: usize,
    is_crowded: bool,
}

impl Crowd {
    const ONE: usize = 1024;
    /// The average is about one of the last so many looks.
    const SPAN: usize = 8;

    fn new(cpus: usize) -> Self {
        Self { cpus, others: 0, is_crowded: false }
    }

    /// Where it cannot be told, they do not.
    fn look(&mut self) -> bool {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let running = load.split([' ', '/']).nth(3).and_then(|field| field.parse::<usize>().ok());
        self.counts(running.unwrap_or(0).saturating_sub(1))
    }

    fn counts(&mut self, others: usize) -> bool {
        let sum = self.others.saturating_mul(Self::SPAN - 1).saturating_add(others.saturating_mul(Self::ONE));
        self.others = sum / Self::SPAN;
        // A CPU that is idle for a quarter of the time, or half of it to begin with, is one to be put on.
        let idle = if self.is_crowded { Self::ONE / 2 } else { Self::ONE / 4 };
        self.is_crowded = self.others > self.cpus.saturating_mul(Self::ONE).saturating_sub(idle);
        self.is_crowded
    }
}

/// What the watch knows of a thread.
struct Thread {
    id: Pid,
    diary: Arc<Diary>,
    seen: u32,
    /// What it was made; None: somebody else has set its policy, and it is left alone.
    policy: Option<Policy>,
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
        Self { id, diary, seen: 0, policy: Some(Policy::Normal), again: Instant::now(), wait: WAIT }
    }

    /// Has nothing that came before count.
    fn forget(&mut self) {
        self.seen = self.diary.came.load(Ordering::Relaxed);
    }

    /// Whether there is a reason to look again.
    fn look(&mut self, now: Instant, is_crowded: bool) -> bool {
        let before = self.seen;
        self.forget();
        let fresh = self.seen.wrapping_sub(before);
        let streams = self.diary.streams.load(Ordering::Relaxed);
        match self.policy {
            Some(Policy::Normal) if fresh >= BUSY && !streams && !is_crowded && now >= self.again => {
                self.become_of(Policy::Idle);
            }
            Some(Policy::Idle) if streams || is_crowded => self.become_of(Policy::Normal),
            Some(Policy::Idle) if fresh < CALM => {
                self.become_of(Policy::Normal);
                if state_of(self.id).is_ok_and(|state| state == "R") {
                    self.again = now + self.wait;
                    self.wait = self.wait.saturating_mul(2).min(LONGEST_WAIT);
                }
            }
            Some(Policy::Idle) if now >= self.again + GOOD => self.wait = WAIT,
            _ => {}
        }
        fresh >= BUSY || self.policy == Some(Policy::Idle)
    }

    fn become_of(&mut self, policy: Policy) {
        if self.policy.is_none_or(|current| current == policy) {
            return;
        }
        if Policy::of(self.id) != self.policy {
            self.policy = None;
            return;
        }
        match policy.apply(self.id) {
            Ok(()) => self.policy = Some(policy),
            Err(error) => log::debug!("a thread that answers is not made {policy:?}: {error}"),
        }
    }
}

/// What a thread has as long as it is watched.
pub(super) struct Watched<'a> {
    diary: Arc<Diary>,
    courtesy: &'a Courtesy,
}

impl<'a> Watched<'a> {
    /// The calling thread is watched from now on.
    pub fn new(courtesy: &'a Courtesy) -> io::Result<Self> {
        keep_io_priority()?;
        let diary = Arc::<Diary>::default();
        courtesy.state.lock().threads.push(Thread::new(gettid(), Arc::clone(&diary)));
        Ok(Self { diary, courtesy })
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

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut state = self.courtesy.state.lock();
        let mine = state.threads.iter().position(|thread| Arc::ptr_eq(&thread.diary, &self.diary));
        if let Some(mine) = mine {
            state.threads.swap_remove(mine).become_of(Policy::Normal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const NORMAL: Option<Policy> = Some(Policy::Normal);
    const IDLE: Option<Policy> = Some(Policy::Idle);

    fn busy(thread: &Thread) {
        thread.diary.came.fetch_add(BUSY, Ordering::Relaxed);
    }

    /// With a thread that sleeps, or spins, meanwhile.
    fn with_thread(spins: bool, test: impl FnOnce(Thread)) {
        can_return().expect("these tests change policies of the scheduler: run them as root");
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
                while (state_of(thread.id).unwrap() == "R") != spins {
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
            assert!(!thread.look(now, false));
            assert_eq!(Policy::of(thread.id), NORMAL);
            busy(&thread);
            assert!(thread.look(now, false));
            assert_eq!(Policy::of(thread.id), IDLE);
            thread.diary.came.fetch_add(CALM, Ordering::Relaxed);
            assert!(thread.look(now, false));
            assert_eq!(Policy::of(thread.id), IDLE);
            // It sleeps: nobody kept it from anything.
            assert!(!thread.look(now, false));
            assert_eq!(Policy::of(thread.id), NORMAL);
            busy(&thread);
            assert!(thread.look(now, false));
            assert_eq!(Policy::of(thread.id), IDLE);
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
                        assert_eq!(Policy::of(thread.id), IDLE);
                    }
                    thread.diary.streams.store(streams, Ordering::Relaxed);
                    busy(&thread);
                    thread.look(now, !streams);
                    assert_eq!(Policy::of(thread.id), NORMAL);
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
                assert_eq!(Policy::of(thread.id), IDLE);
                thread.look(now, false);
                assert_eq!(Policy::of(thread.id), NORMAL);
                let before = now;
                loop {
                    now += Duration::from_millis(1);
                    busy(thread);
                    thread.look(now, false);
                    if Policy::of(thread.id) == IDLE {
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

    /// Waits for what another thread does.
    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_watch_sleeps_is_called_and_ends() {
        can_return().expect("these tests change policies of the scheduler: run them as root");
        let courtesy = Courtesy::new();
        thread::scope(|scope| {
            let watch = scope.spawn({
                let courtesy = &courtesy;
                move || courtesy.watch_unless(|| false)
            });
            let (tell, told) = mpsc::channel();
            let (end, ended) = mpsc::channel::<()>();
            let answers = scope.spawn({
                let courtesy = &courtesy;
                move || {
                    let watched = Watched::new(courtesy).unwrap();
                    tell.send(gettid()).unwrap();
                    // Until the other end is dropped.
                    while let Err(mpsc::TryRecvError::Empty) = ended.try_recv() {
                        watched.came();
                        thread::sleep(Duration::from_micros(50));
                    }
                    drop(watched);
                    assert_eq!(Policy::of(gettid()), NORMAL);
                }
            });
            let answering = told.recv().unwrap();
            until("it is courteous", || Policy::of(answering) == IDLE);
            drop(end);
            answers.join().unwrap();
            assert!(courtesy.state.lock().threads.is_empty());
            until("the watch sleeps", || !courtesy.watches.load(Ordering::Relaxed));
            // From here on this thread is watched.
            let watched = Watched::new(&courtesy).unwrap();
            until("it is called, and this thread is courteous", || {
                (0..BUSY).for_each(|_| watched.came());
                Policy::of(gettid()) == IDLE
            });
            courtesy.end();
            watch.join().unwrap();
            assert_eq!(Policy::of(gettid()), NORMAL);
        });
    }

    #[test]
    fn a_policy_that_somebody_set_stays() {
        thread::spawn(|| {
            can_return().expect("these tests change policies of the scheduler: run them as root");
            assert_eq!(Policy::of(gettid()), NORMAL);
            let mut thread = Thread::new(gettid(), Arc::default());
            Policy::Idle.apply(gettid()).unwrap();
            assert!(can_return().is_err());
            thread.become_of(Policy::Idle);
            thread.become_of(Policy::Normal);
            assert_eq!(Policy::of(gettid()), IDLE);
            // Nor does the watch stay awake for it.
            busy(&thread);
            thread.look(Instant::now(), false);
            assert_eq!(Policy::of(gettid()), IDLE);
            assert!(!thread.look(Instant::now(), false));
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

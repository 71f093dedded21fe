//! [`Background`]: a thread for what has to wait, beside those that answer the kernel.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::transport::Device;

/// Work, with the way to the kernel; `None` before there is one.
type Job = Box<dyn FnOnce(Option<&Device>) + Send>;

/// A thread that does one job after another. It ends when nobody has this any more.
#[derive(Clone)]
pub(super) struct Background {
    jobs: Sender<(Instant, Job)>,
}

impl Background {
    /// Starts the thread; `device` is where the session puts its way to the kernel once it has one.
    pub fn start(name: &str, device: Arc<OnceLock<Device>>) -> io::Result<Self> {
        let (jobs, come) = mpsc::channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || work(&come, &device))?;
        Ok(Self { jobs })
    }

    /// Does it after what came before.
    pub fn run(&self, job: impl FnOnce(Option<&Device>) + Send + 'static) {
        self.run_after(Duration::ZERO, job);
    }

    /// Does it when this long has passed, and others meanwhile.
    pub fn run_after(&self, pause: Duration, job: impl FnOnce(Option<&Device>) + Send + 'static) {
        if self.jobs.send((Instant::now() + pause, Box::new(job))).is_err() {
            log::error!("a thread for notifications is gone");
        }
    }
}

fn work(jobs: &Receiver<(Instant, Job)>, device: &OnceLock<Device>) {
    // By the moment that each is due at, and then as they came.
    let mut waiting = BTreeMap::new();
    let mut came = 0u64;
    loop {
        let due = waiting.first_key_value().map(|(&(due, _), _)| due);
        let next = match due.map(|due: Instant| due.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => jobs.try_recv().map_err(|_| RecvTimeoutError::Timeout),
            Some(pause) => jobs.recv_timeout(pause),
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok((due, job)) => {
                came = came.wrapping_add(1);
                waiting.insert((due, came), job);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((_, job)) = waiting.pop_first() {
                    job(device.get());
                }
            }
            // What is left waits for a mount that has ended.
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_lets_others_pass() {
        let background = Background::start("test", Arc::default()).unwrap();
        let (done, order) = mpsc::channel();
        let job = |name: &'static str| {
            let done = done.clone();
            move |device: Option<&Device>| done.send((name, device.is_some(), thread::current().id())).unwrap()
        };
        background.run_after(Duration::from_millis(50), job("later"));
        background.run(job("first"));
        background.run(job("second"));
        let all: Vec<_> = order.iter().take(3).collect();
        assert_eq!(all.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), ["first", "second", "later"]);
        assert!(all.iter().all(|(_, has_device, thread)| !has_device && *thread != thread::current().id()));
    }

    #[test]
    fn what_is_due_is_done_before_the_thread_ends() {
        let background = Background::start("test", Arc::default()).unwrap();
        let (done, all) = mpsc::channel();
        for _ in 0..100 {
            let done = done.clone();
            background.run(move |_| done.send(()).unwrap());
        }
        drop((background, done));
        assert_eq!(all.iter().count(), 100);
    }
}

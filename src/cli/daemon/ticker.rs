//! Work beside the requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::vault::{PosixStorage, Vault};

/// How often the vault does what is due.
const TICK: Duration = Duration::from_secs(1);

/// Calls `tick` of the vault every second, and looks after what a crash left.
pub(super) struct Ticker {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Ticker {
    pub(super) fn start(vault: &Arc<Vault<PosixStorage>>) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let (ticking, seen) = (Arc::clone(vault), Arc::clone(&stopping));
        threads.extend(spawn("ticker", move || tick(&ticking, &seen)));
        if vault.has_leftovers_to_settle() {
            let settling = Arc::clone(vault);
            threads.extend(spawn("leftovers", move || settle(&settling)));
        }
        Self { stopping, threads }
    }

    /// Returns when the work that is under way has ended.
    pub(super) fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.thread().unpark();
            // A panic in it was logged.
            let _ = thread.join();
        }
    }
}

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| log::error!("no background work: {error}"))
        .ok()
}

fn settle(vault: &Vault<PosixStorage>) {
    if let Err(error) = vault.settle_leftovers() {
        log::error!("what a crash left half-made could not all be looked at: {error}");
    }
}

fn tick(vault: &Vault<PosixStorage>, stopping: &AtomicBool) {
    let mut last_error = None;
    loop {
        thread::park_timeout(TICK);
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let error = match catch_unwind(AssertUnwindSafe(|| vault.tick())) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("stopped by a bug in sero".to_owned()),
        };
        // The same error each second is said once.
        if error != last_error
            && let Some(error) = &error
        {
            log::error!("background work failed: {error}");
        }
        last_error = error;
    }
}

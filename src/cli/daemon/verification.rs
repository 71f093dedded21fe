//! A verify of the mounted vault, in the daemon: started by one request, asked about by others.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cli::control::Response;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::verify::{Verification, refused};
use crate::vault::{Finding, PosixStorage, Vault, VaultError, VerifyObserver, VerifyOptions, VerifySummary};

/// Nobody has asked for so long: whoever wanted to know is gone.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// Findings of one answer, in bytes of their paths and reasons: a line has a limit.
const ANSWER_BYTES: usize = 16 * 1024;
/// Of a path, or a reason, so much is told: all of a path that a program could give.
const TOLD_BYTES: usize = 8 * 1024;
/// Findings are kept until this many bytes, and counted from there on.
const KEPT_BYTES: usize = 64 << 20;

/// One at a time.
#[derive(Default)]
pub(super) struct Verifications {
    current: Mutex<Option<Arc<Running>>>,
    started: AtomicU64,
}

struct Running {
    /// Tells it from those before and after it.
    number: u64,
    checked: AtomicU64,
    /// 0: not known yet.
    total: AtomicU64,
    findings: Mutex<Vec<Finding>>,
    kept_bytes: AtomicUsize,
    ended: Mutex<Option<Result<VerifySummary, Failure>>>,
    is_stopped: AtomicBool,
    /// Whoever asked knows the end.
    is_told: AtomicBool,
    asked: Mutex<Instant>,
}

impl Verifications {
    /// Begins, unless one is under way.
    pub(super) fn start(&self, vault: &Arc<Vault<PosixStorage>>, options: VerifyOptions) -> Response {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|running| running.is_wanted()) {
            return Response::failed(Failure::new(
                ExitCode::Busy,
                "this vault is being verified already; wait until that is over",
            ));
        }
        let running = Arc::new(Running {
            number: self.started.fetch_add(1, Ordering::Relaxed),
            checked: AtomicU64::new(0),
            total: AtomicU64::new(0),
            findings: Mutex::default(),
            kept_bytes: AtomicUsize::new(0),
            ended: Mutex::new(None),
            is_stopped: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            asked: Mutex::new(Instant::now()),
        });
        let (vault, work) = (Arc::clone(vault), Arc::clone(&running));
        let verify = move || {
            let verify = AssertUnwindSafe(|| {
                vault.verify(&options, &*work).map_err(|error| match error {
                    VaultError::Interrupted => {
                        Failure::other("given up, as nobody asked how far it is; start it again")
                    }
                    error => refused(error),
                })
            });
            let outcome =
                catch_unwind(verify).unwrap_or_else(|_| Err(Failure::other("stopped by a bug in sero; see the log")));
            *work.ended.lock() = Some(outcome);
        };
        if let Err(error) = thread::Builder::new().name("verify".to_owned()).spawn(verify) {
            return Response::failed(Failure::other(format!("a thread could not be started: {error}; try again")));
        }
        let number = running.number;
        if let Some(before) = current.replace(running) {
            before.is_stopped.store(true, Ordering::Relaxed);
        }
        Response::Verification(Box::new(Verification { number, ..Verification::default() }))
    }

    /// How far this one is; the findings from the `from`-th on, as many as fit an answer.
    pub(super) fn progress(&self, number: u64, from: usize) -> Response {
        let Some(running) = self.current.lock().clone().filter(|running| running.number == number) else {
            return Response::failed(Failure::other("another verify was started since; start this one again"));
        };
        *running.asked.lock() = Instant::now();
        // In this order: after the end nothing more is found.
        let ended = running.ended.lock().clone();
        let summary = match ended {
            Some(Err(failure)) => {
                running.is_told.store(true, Ordering::Relaxed);
                return Response::failed(failure);
            }
            Some(Ok(summary)) => Some(summary),
            None => None,
        };
        let findings = running.findings.lock();
        let mut len = 0_usize;
        let answered: Vec<Finding> = findings
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(|finding| {
                let before = len;
                len = before.saturating_add(len_of(finding));
                before < ANSWER_BYTES
            })
            .cloned()
            .collect();
        let is_last = from.saturating_add(answered.len()) >= findings.len();
        running.is_told.store(summary.is_some() && is_last, Ordering::Relaxed);
        Response::Verification(Box::new(Verification {
            number,
            checked: running.checked.load(Ordering::Relaxed),
            total: Some(running.total.load(Ordering::Relaxed)).filter(|total| *total > 0),
            findings: answered,
            summary: summary.filter(|_| is_last),
        }))
    }
}

/// What a finding takes, about.
fn len_of(finding: &Finding) -> usize {
    let plain_len = finding.plain.as_ref().map_or(0, Vec::len);
    finding.backing.len().saturating_add(finding.reason.len()).saturating_add(plain_len).saturating_add(128)
}

/// A path or a reason, or its beginning.
fn told(mut text: Vec<u8>) -> Vec<u8> {
    if text.len() > TOLD_BYTES {
        text.truncate(TOLD_BYTES);
        text.extend("...".as_bytes());
    }
    text
}

impl Running {
    fn is_wanted(&self) -> bool {
        !self.is_told.load(Ordering::Relaxed) && self.asked.lock().elapsed() < ABANDONED_AFTER
    }
}

impl VerifyObserver for Running {
    fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn checked(&self, bytes: u64) {
        self.checked.fetch_add(bytes, Ordering::Relaxed);
    }

    fn found(&self, mut finding: Finding) {
        finding.backing = OsString::from_vec(told(finding.backing.into_vec()));
        finding.plain = finding.plain.map(told);
        finding.reason = String::from_utf8_lossy(&told(finding.reason.into_bytes())).into_owned();
        let len = len_of(&finding);
        if self.kept_bytes.fetch_add(len, Ordering::Relaxed) < KEPT_BYTES {
            self.findings.lock().push(finding);
        }
    }

    fn is_cancelled(&self) -> bool {
        if self.asked.lock().elapsed() >= ABANDONED_AFTER {
            // Whoever comes back later must not take a part for the whole.
            self.is_stopped.store(true, Ordering::Relaxed);
        }
        self.is_stopped.load(Ordering::Relaxed)
    }
}

//! [`Watch`]: how long a mount was idle and how long it stands, and what is due because of that.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::logind::Cause;
use crate::cli::status::{Busy, Session};
use crate::cli::time;

/// A mount that is in use when it should be sealed is tried again so often.
const RETRY: Duration = Duration::from_secs(5);
/// The same when the machine is about to sleep.
const RETRY_BEFORE_SLEEP: Duration = Duration::from_millis(500);
/// The end of the session is announced so long before, or when nine tenths of it are over if that is later.
const NOTICE: Duration = Duration::from_secs(5 * 60);

/// When a mount is sealed by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Limits {
    /// After so long without an access and without an open file.
    pub(in crate::cli) idle: Option<Duration>,
    /// After so long in any case.
    pub(in crate::cli) session: Option<Duration>,
}

/// Why a mount ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Idle,
    MaxSession,
    Signal,
    Suspend,
    Lock,
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Suspend => Self::Suspend,
            Cause::Lock => Self::Lock,
        }
    }
}

impl Reason {
    /// As status says it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::MaxSession => "max-session",
            Self::Signal => "signal",
            Self::Suspend => "suspend",
            Self::Lock => "lock",
        }
    }
}

/// What a look found to be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Seal it if nobody uses it.
    SealIfUnused(Reason),
    /// It was to be sealed, and is used again.
    Stay,
    /// Announce the end of the session.
    Announce,
    /// End it.
    End(Reason),
}

/// See the module's documentation. Times are those of the boot clock, which goes on while the machine sleeps.
pub(super) struct Watch {
    limits: Limits,
    /// As status says it.
    seal_on: Vec<String>,
    since: SystemTime,
    started: Duration,
    seen: Mutex<Seen>,
}

struct Seen {
    /// The count of requests at the last look.
    requests: u64,
    /// When it was used last.
    active: Duration,
    /// Used since the last look, by no request of the kernel.
    used: bool,
    announced: bool,
    tried: Option<Duration>,
    /// What it is to be sealed for now, whoever accesses it meanwhile.
    demanded: Vec<Reason>,
    ending: Option<Busy>,
    sealing: bool,
}

impl Watch {
    pub(super) fn start(limits: Limits, seal_on: &[Cause]) -> Self {
        let seal_on = seal_on.iter().map(|cause| Reason::from(*cause).name().to_owned()).collect();
        Self { seal_on, ..Self::start_at(limits, boot_clock()) }
    }

    fn start_at(limits: Limits, now: Duration) -> Self {
        let seen = Seen {
            requests: 0,
            active: now,
            used: false,
            announced: false,
            tried: None,
            demanded: Vec::new(),
            ending: None,
            sealing: false,
        };
        Self { limits, seal_on: Vec::new(), since: SystemTime::now(), started: now, seen: Mutex::new(seen) }
    }

    /// To be called about once a second, with the count of requests so far and whether it is in use: anything is open, say.
    pub(super) fn look(&self, requests: u64, in_use: bool) -> Option<Due> {
        self.look_at(boot_clock(), requests, in_use)
    }

    fn look_at(&self, now: Duration, requests: u64, in_use: bool) -> Option<Due> {
        let mut seen = self.seen.lock();
        if std::mem::take(&mut seen.used) || in_use || requests != seen.requests {
            seen.requests = requests;
            seen.active = now;
            if seen.demanded.is_empty() {
                seen.tried = None;
                if seen.ending.take().is_some() {
                    return Some(Due::Stay);
                }
            }
        }
        if let Some(limit) = self.limits.session {
            let passed = now.saturating_sub(self.started);
            // Never without a warning, however short the session is.
            if !seen.announced && passed >= notice(limit) {
                seen.announced = true;
                return Some(Due::Announce);
            }
            if passed >= limit {
                return Some(Due::End(Reason::MaxSession));
            }
        }
        if let Some(reason) = seen.demanded.last().copied() {
            // Before sleep there are seconds, and no more.
            let pause = if reason == Reason::Suspend { RETRY_BEFORE_SLEEP } else { RETRY };
            let is_due = seen.tried.is_none_or(|tried| now.saturating_sub(tried) >= pause);
            return is_due.then(|| {
                seen.tried = Some(now);
                Due::SealIfUnused(reason)
            });
        }
        if let Some(limit) = self.limits.idle
            && now.saturating_sub(seen.active) >= limit
            && seen.tried.is_none_or(|tried| now.saturating_sub(tried) >= RETRY)
        {
            seen.tried = Some(now);
            return Some(Due::SealIfUnused(Reason::Idle));
        }
        None
    }

    /// Somebody waits for what the daemon does with it: that is an access, too.
    pub(super) fn is_used(&self) {
        self.seen.lock().used = true;
    }

    /// It is to be sealed as soon as nobody uses it.
    pub(super) fn demand(&self, reason: Reason) {
        let mut seen = self.seen.lock();
        seen.demanded.retain(|other| *other != reason);
        seen.demanded.push(reason);
        seen.tried = None;
    }

    /// The reason is over. True if it was not sealed for it, and stays now.
    pub(super) fn withdraw(&self, reason: Reason) -> bool {
        let mut seen = self.seen.lock();
        let was_demanded = seen.demanded.contains(&reason);
        seen.demanded.retain(|other| *other != reason);
        if was_demanded && seen.demanded.is_empty() {
            seen.tried = None;
            seen.ending = None;
        }
        was_demanded && seen.demanded.is_empty()
    }

    /// It should end and is in use. True if that is news: the reason or the users are others than before.
    pub(super) fn is_busy(&self, reason: Reason, users: Vec<String>) -> bool {
        let mut seen = self.seen.lock();
        let known = seen.ending.as_ref().filter(|known| known.reason == reason.name());
        let is_news = known.is_none_or(|known| known.users != users);
        let since = known.map_or_else(|| time::unix(SystemTime::now()), |known| known.since);
        seen.ending = Some(Busy { reason: reason.name().to_owned(), since, users });
        is_news
    }

    /// The mount is gone, and what is left is being written.
    pub(super) fn is_sealing(&self) {
        self.seen.lock().sealing = true;
    }

    pub(super) fn sealing(&self) -> bool {
        self.seen.lock().sealing
    }

    /// When it was mounted.
    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    /// What status says, given what is going on now.
    pub(super) fn session(&self, requests: u64, in_use: bool) -> Session {
        let now = boot_clock();
        let seen = self.seen.lock();
        let is_active = seen.used || in_use || requests != seen.requests;
        let idle = if is_active { Duration::ZERO } else { now.saturating_sub(seen.active) };
        let passed = now.saturating_sub(self.started);
        Session {
            idle_seconds: idle.as_secs(),
            idle_limit: self.limits.idle.map(|limit| limit.as_secs()),
            seconds: passed.as_secs(),
            limit: self.limits.session.map(|limit| limit.as_secs()),
            ends_soon: self.limits.session.is_some_and(|limit| passed >= notice(limit)),
            seal_on: self.seal_on.clone(),
            ending: seen.ending.clone(),
        }
    }

    /// How long the session has left.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let passed = boot_clock().saturating_sub(self.started);
        self.limits.session.map(|limit| limit.saturating_sub(passed))
    }
}

fn notice(limit: Duration) -> Duration {
    limit.saturating_sub(NOTICE.min(limit / 10))
}

fn boot_clock() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000_000 + seconds)
    }

    fn watch(idle: Option<u64>, session: Option<u64>) -> Watch {
        let limits = Limits { idle: idle.map(Duration::from_secs), session: session.map(Duration::from_secs) };
        Watch::start_at(limits, at(0))
    }

    #[test]
    fn idle_is_no_access_and_nothing_open() {
        let watch = watch(Some(60), None);
        assert_eq!(watch.look_at(at(59), 0, false), None);
        assert_eq!(watch.look_at(at(59), 1, false), None, "an access");
        assert_eq!(watch.look_at(at(100), 1, true), None, "an open file");
        assert_eq!(watch.look_at(at(159), 1, false), None);
        assert_eq!(watch.look_at(at(160), 1, false), Some(Due::SealIfUnused(Reason::Idle)));
        watch.is_used();
        assert_eq!(watch.look_at(at(161), 1, false), None, "a verify");
        assert_eq!(watch.look_at(at(221), 1, false), Some(Due::SealIfUnused(Reason::Idle)));
    }

    #[test]
    fn a_busy_mount_is_tried_again_and_an_access_begins_anew() {
        let watch = watch(Some(60), None);
        let due = Some(Due::SealIfUnused(Reason::Idle));
        assert_eq!(watch.look_at(at(60), 0, false), due);
        let users = || vec!["7 (bash)".to_owned()];
        assert!(watch.is_busy(Reason::Idle, users()));
        assert!(!watch.is_busy(Reason::Idle, users()), "said once");
        assert_eq!(watch.session(0, false).ending.unwrap().users, users());
        assert_eq!(watch.look_at(at(61), 0, false), None);
        assert_eq!(watch.look_at(at(65), 0, false), due);
        assert_eq!(watch.look_at(at(70), 1, false), Some(Due::Stay));
        assert_eq!(watch.session(1, false).ending, None);
        assert_eq!(watch.look_at(at(129), 1, false), None);
        assert_eq!(watch.look_at(at(130), 1, false), due);
    }

    #[test]
    fn a_session_ends_however_busy_it_is_and_is_announced_once() {
        let watch = watch(None, Some(3600));
        assert_eq!(watch.look_at(at(3299), 1, true), None);
        assert_eq!(watch.look_at(at(3300), 2, true), Some(Due::Announce));
        assert_eq!(watch.look_at(at(3301), 3, true), None);
        assert_eq!(watch.look_at(at(3600), 4, true), Some(Due::End(Reason::MaxSession)));
        assert_eq!(notice(Duration::from_secs(10)), Duration::from_secs(9));
        assert_eq!(notice(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn what_is_demanded_is_tried_until_it_is_withdrawn_whoever_accesses_it() {
        let watch = watch(None, None);
        watch.demand(Reason::Lock);
        assert_eq!(watch.look_at(at(0), 0, true), Some(Due::SealIfUnused(Reason::Lock)));
        assert!(watch.is_busy(Reason::Lock, Vec::new()));
        assert_eq!(watch.look_at(at(1), 5, true), None, "an access does not end it");
        assert_eq!(watch.look_at(at(5), 6, true), Some(Due::SealIfUnused(Reason::Lock)));
        // The machine is to sleep meanwhile, and wakes up again.
        watch.demand(Reason::Suspend);
        assert_eq!(watch.look_at(at(5), 6, true), Some(Due::SealIfUnused(Reason::Suspend)));
        assert_eq!(watch.look_at(at(6), 6, true), Some(Due::SealIfUnused(Reason::Suspend)));
        assert!(!watch.withdraw(Reason::Suspend), "it is locked still");
        assert_eq!(watch.look_at(at(11), 7, true), Some(Due::SealIfUnused(Reason::Lock)));
        assert!(watch.withdraw(Reason::Lock));
        assert!(!watch.withdraw(Reason::Lock), "it is over");
        assert_eq!(watch.session(7, false).ending, None);
        assert_eq!(watch.look_at(at(20), 7, false), None);
    }

    #[test]
    fn without_limits_nothing_is_ever_due() {
        let watch = watch(None, None);
        assert_eq!(watch.look_at(at(u64::from(u32::MAX)), 0, false), None);
    }
}

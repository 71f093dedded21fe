//! Where the crash suite can take a barrier or an invariant away, to see that it notices.
//!
//! Without the feature `simulation` both functions are what they wrap. With it, a test names one switch for
//! its thread (`take_out`); the list of all is `ALL`.

/// Every barrier and every invariant's condition that the mutation check takes out in turn.
#[cfg(any(test, feature = "simulation"))]
pub const ALL: &[&str] = &[
    "journal.sync",
    "journal.sync-previous-segment",
    "journal.chain",
    "journal.images-verify",
    "journal.lsn-continues",
    "journal.missing-segment-is-said",
    "file.base-is-synced",
    "file.home-synced-before-record",
    "file.extending-is-recorded",
    "file.journal-not-home",
    "file.dropped-is-not-fresh",
    "file.superseded-is-synced",
    "file.sync-new-home",
    "file.attributes-are-synced",
    "checkpoint.journal-synced-before-homes",
    "checkpoint.homes-synced-before-retirement",
    "checkpoint.retirement-synced-before-reuse",
    "checkpoint.images-stand-for-home",
    "recovery.stale-base-refused",
    "recovery.cache-is-synced",
    "recovery.retirement-synced-before-removal",
    "rename.source-is-durable",
    "rename.intent-is-recorded",
    "rename.name-is-durable",
    "rename.all-names-are-durable",
    "link.first-name-is-of-a-durable-file",
    "tick.epoch-synced",
    "seal.everything-synced",
];

#[cfg(any(test, feature = "simulation"))]
mod active {
    use std::cell::Cell;

    thread_local! {
        static OUT: Cell<Option<&'static str>> = const { Cell::new(None) };
        static MET: Cell<bool> = const { Cell::new(false) };
    }

    /// Takes one switch out on this thread (None: all are in).
    pub fn take_out(name: Option<&'static str>) {
        OUT.set(name);
        MET.set(false);
    }

    /// Whether the switch that is out was come across.
    pub fn was_met() -> bool {
        MET.get()
    }

    pub(super) fn is_out(name: &str) -> bool {
        let out = OUT.get() == Some(name);
        if out {
            MET.set(true);
        }
        out
    }
}

#[cfg(any(test, feature = "simulation"))]
pub use active::{take_out, was_met};

#[cfg(any(test, feature = "simulation"))]
fn is_out(name: &str) -> bool {
    active::is_out(name)
}

#[cfg(not(any(test, feature = "simulation")))]
const fn is_out(_name: &str) -> bool {
    false
}

/// Runs a sync, unless the named barrier is taken out.
pub(crate) fn barrier<T: Default, E>(name: &'static str, sync: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    if is_out(name) { Ok(T::default()) } else { sync() }
}

/// `condition`, or true if the named invariant is taken out: "it is safe to go on".
pub(crate) fn holds(name: &'static str, condition: bool) -> bool {
    is_out(name) || condition
}

//! [`Room`]: whether the backing is nearly full, so that what is written should reach it before `write(2)` returns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::types::Ownership;
use crate::vault::SpaceInfo;

/// Less room than this is little.
const MARGIN_BYTES: u64 = 16 << 20;
/// How long an answer of the backing is believed, unless much was written since.
const BELIEVED: Duration = Duration::from_millis(100);
/// How long a refusal counts, whatever the backing says about its space: a quota may be the reason, which it does not show.
const REMEMBERED: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Room {
    is_little: AtomicBool,
    /// Since the backing was asked.
    written_bytes: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    asked: Option<Instant>,
    refused: Option<Instant>,
}

impl Room {
    /// Something was written.
    pub fn written(&self, len_bytes: usize) {
        self.written_bytes.fetch_add(len_bytes as u64, Ordering::Relaxed);
    }

    /// The backing was full.
    #[cold]
    pub fn refused(&self) {
        self.seen.lock().refused = Some(Instant::now());
        self.is_little.store(true, Ordering::Relaxed);
    }

    /// Whether there is little room; `space` asks the backing, if it is time.
    pub fn is_little(&self, ownership: Ownership, space: impl FnOnce() -> Option<SpaceInfo>) -> bool {
        let mut seen = self.seen.lock();
        let much = self.written_bytes.load(Ordering::Relaxed) >= MARGIN_BYTES / 4;
        if !much && seen.asked.is_some_and(|asked| asked.elapsed() < BELIEVED) {
            return self.is_little.load(Ordering::Relaxed);
        }
        self.written_bytes.store(0, Ordering::Relaxed);
        seen.asked = Some(Instant::now());
        let refused = seen.refused.is_some_and(|refused| refused.elapsed() < REMEMBERED);
        let is_little = refused || space().is_some_and(|space| free_bytes(&space, ownership) < MARGIN_BYTES);
        self.is_little.store(is_little, Ordering::Relaxed);
        is_little
    }
}

fn free_bytes(space: &SpaceInfo, ownership: Ownership) -> u64 {
    let blocks = match ownership {
        // Root may use what is kept for it.
        Ownership::Caller => space.blocks_free,
        Ownership::Daemon => space.blocks_available,
    };
    blocks.saturating_mul(space.block_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64, available: u64) -> Option<SpaceInfo> {
        Some(SpaceInfo {
            block_size: 4096,
            blocks: 1 << 20,
            blocks_free: free,
            blocks_available: available,
            files: 0,
            files_free: 0,
        })
    }

    #[test]
    fn the_backing_is_asked_when_it_is_time() {
        let room = Room::default();
        let margin = MARGIN_BYTES / 4096;
        assert!(!room.is_little(Ownership::Caller, || space(margin, 0)));
        assert!(!room.is_little(Ownership::Caller, || unreachable!("it was asked just now")));
        room.written(MARGIN_BYTES as usize / 4);
        assert!(room.is_little(Ownership::Daemon, || space(margin, 0)));
        room.written(MARGIN_BYTES as usize);
        assert!(!room.is_little(Ownership::Caller, || space(margin, 0)));
        room.refused();
        assert!(room.is_little(Ownership::Caller, || None));
        room.written(MARGIN_BYTES as usize);
        assert!(room.is_little(Ownership::Caller, || space(margin, margin)), "a quota, perhaps");
    }
}

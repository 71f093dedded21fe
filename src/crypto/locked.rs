//! Locked memory for raw keys: never swapped, in no core dump, not handed to forked children.
//!
//! A chunk of pages is mapped for keys alone and divided into slots of [`SLOT_LEN`] bytes. A slot that is given back is
//! zero; a chunk is never given back. Every raw key that the daemon keeps lies here, one slot for each open file included.
//!
//! `RLIMIT_MEMLOCK` may refuse: then the keys lie in memory that may be swapped, and the log says so once.

use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;
use zeroize::Zeroize;

/// Room for the longest raw key.
pub(super) const SLOT_LEN: usize = 64;

/// Small, as an ordinary user may lock little.
const CHUNK_BYTES: usize = 16 * 1024;

static FREE: Mutex<Vec<&'static mut [u8]>> = Mutex::new(Vec::new());
static IS_UNLOCKED: AtomicBool = AtomicBool::new(false);

/// A slot, all zero.
pub(super) fn take() -> &'static mut [u8] {
    let mut free = FREE.lock();
    if free.is_empty() {
        free.extend(new_chunk().chunks_exact_mut(SLOT_LEN));
    }
    free.pop().expect("a chunk has slots")
}

/// Wipes a slot, and gives it back.
pub(super) fn give_back(slot: &'static mut [u8]) {
    slot.zeroize();
    FREE.lock().push(slot);
}

fn new_chunk() -> &'static mut [u8] {
    let locked = MmapMut::map_anon(CHUNK_BYTES).map(|chunk| {
        // Neither is worth not working: cores are off, and nothing forks without exec.
        let _ = chunk.advise(Advice::DontDump);
        let _ = chunk.advise(Advice::DontFork);
        (chunk.lock(), chunk)
    });
    let refused = match locked {
        Ok((Ok(()), chunk)) => return kept(chunk),
        Ok((Err(error), chunk)) => (error, Some(chunk)),
        Err(error) => (error, None),
    };
    if !IS_UNLOCKED.swap(true, Ordering::Relaxed) {
        log::warn!(
            "keys cannot be locked in memory ({}): they may be swapped; raise the limit (`ulimit -l`), or use encrypted swap",
            refused.0
        );
    }
    match refused.1 {
        Some(chunk) => kept(chunk),
        None => vec![0; CHUNK_BYTES].leak(),
    }
}

/// It stays mapped for ever.
fn kept(chunk: MmapMut) -> &'static mut [u8] {
    let chunk: &'static mut MmapMut = Box::leak(Box::new(chunk));
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_empty() {
        let mut slots: Vec<_> = (0..1000).map(|_| take()).collect();
        for slot in &mut slots {
            assert_eq!(**slot, [0; SLOT_LEN]);
            slot.fill(7);
        }
        slots.into_iter().for_each(give_back);
        let mut slots: Vec<_> = (0..1000).map(|_| take()).collect();
        assert!(slots.iter().all(|slot| **slot == [0; SLOT_LEN]));
        slots.drain(..).for_each(give_back);
    }

    /// "key material in locked pages excluded from core dumps"
    #[test]
    fn the_pages_are_locked_and_not_dumped() {
        let slot = take();
        let address = slot.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_ours = false;
        let mut flags = None;
        for line in maps.lines() {
            if let Some(range) = line.split(' ').next().filter(|range| range.contains('-')) {
                let bound = |text: &str| usize::from_str_radix(text, 16).unwrap();
                let (start, end) = range.split_once('-').unwrap();
                is_ours = (bound(start)..bound(end)).contains(&address);
            } else if is_ours && let Some(found) = line.strip_prefix("VmFlags:") {
                flags = Some(found.to_owned());
            }
        }
        let flags = flags.unwrap();
        let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
        assert!(has("dd") && has("dc"), "{flags}");
        assert!(has("lo") || IS_UNLOCKED.load(Ordering::Relaxed), "{flags}");
        give_back(slot);
    }
}

//! INIT: what the daemon asks of the kernel. Each capability is taken if the kernel has it; none is a
//! condition, except that ACLs and the umask go together.

use super::transport::{Agreement, init};

/// The largest write, and with it the largest read.
const MAX_WRITE_BYTES: u32 = 1 << 20;

/// Requests that nobody waits for (readahead, writeback) that may be under way at a time.
const MAX_BACKGROUND: u16 = 64;

/// Taken on every mount.
const WANTED: [u64; 7] = [
    // open(O_TRUNC) is one request.
    init::ATOMIC_O_TRUNC,
    // The daemon clears set-user-id bits and capabilities itself: no GETXATTR before each write.
    init::HANDLE_KILLPRIV_V2,
    // Lists with attributes where a listing is followed by stat, as the kernel sees it.
    init::DO_READDIRPLUS,
    init::READDIRPLUS_AUTO,
    init::PARALLEL_DIROPS,
    init::CACHE_SYMLINKS,
    // Files that are written through can be mapped all the same.
    init::DIRECT_IO_ALLOW_MMAP,
];

/// A default ACL replaces the umask, so that the daemon has to apply it: the two only together.
const ACCESS_CONTROL_LISTS: u64 = init::POSIX_ACL | init::DONT_MASK;

// Never asked for: SETXATTR_EXT (nothing needs what it adds), POSIX_LOCKS and FLOCK_LOCKS (the kernel's own locks are
// right on one machine), EXPORT_SUPPORT ("." and ".." by number are not kept), ASYNC_DIO (Linux drops its cached pages
// before an asynchronous direct write but not after it: who reads through the cache meanwhile would go on seeing the old
// content).

/// Answers the kernel's offer.
pub(super) fn settle(agreement: &mut Agreement, io_uring: bool) {
    for wanted in WANTED {
        want(agreement, wanted);
    }
    want(agreement, ACCESS_CONTROL_LISTS);
    // Small writes are gathered by the kernel; size and modification time are the kernel's meanwhile.
    want(agreement, init::WRITEBACK_CACHE);
    if io_uring {
        want(agreement, init::OVER_IO_URING);
    }
    // Without MAX_PAGES the kernel keeps to 128 KiB.
    agreement.max_write_bytes = if agreement.offered & init::MAX_PAGES != 0 { MAX_WRITE_BYTES } else { 128 << 10 };
    agreement.max_readahead_bytes = MAX_WRITE_BYTES;
    agreement.max_background = MAX_BACKGROUND;
}

/// All of `capability`, or nothing of it.
fn want(agreement: &mut Agreement, capability: u64) {
    if agreement.offered & capability == capability {
        agreement.taken |= capability;
    } else {
        log::debug!("the kernel does not offer {:#x}", capability & !agreement.offered);
    }
}

//! INIT: what the daemon asks of the kernel. Each capability is taken if the kernel has it; none is a
//! condition, except that ACLs and the umask go together.

use fuser::{InitFlags, KernelConfig};

use super::adapter::Caching;

/// The largest write, and with it the largest read.
const MAX_WRITE_BYTES: u32 = 1 << 20;

/// Requests that nobody waits for (readahead, writeback) that may be under way at a time.
const MAX_BACKGROUND: u16 = 64;

/// Taken on every mount.
const WANTED: [InitFlags; 6] = [
    // open(O_TRUNC) is one request.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // The daemon clears set-user-id bits and capabilities itself: no GETXATTR before each write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Lists with attributes where a listing is followed by stat, as the kernel sees it.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
];

/// A default ACL replaces the umask, so that the daemon has to apply it: the two only together.
const ACCESS_CONTROL_LISTS: InitFlags = InitFlags::FUSE_POSIX_ACL.union(InitFlags::FUSE_DONT_MASK);

// Never asked for: SETXATTR_EXT (fuser 0.18 panics on the longer request), POSIX_LOCKS and FLOCK_LOCKS
// (the kernel's own locks are right on one machine), EXPORT_SUPPORT ("." and ".." by number are not kept),
// CREATE_SUPP_GROUP (fuser drops the extension), ASYNC_DIO (Linux drops its cached pages before an asynchronous direct
// write but not after it: who reads through the cache meanwhile would go on seeing the old content).

/// Answers the kernel's offer.
pub(super) fn settle(config: &mut KernelConfig, caching: Caching) {
    for wanted in WANTED {
        want(config, wanted);
    }
    want(config, ACCESS_CONTROL_LISTS);
    match caching {
        // Small writes are gathered by the kernel; size and modification time are the kernel's meanwhile.
        Caching::Exclusive => want(config, InitFlags::FUSE_WRITEBACK_CACHE),
        // What a writer beside us changed is read again.
        Caching::Shared => want(config, InitFlags::FUSE_AUTO_INVAL_DATA),
    }
    // Where a limit is lower, it says so and the limit is taken.
    if let Err(limit) = config.set_max_write(MAX_WRITE_BYTES) {
        let _ = config.set_max_write(limit);
    }
    if let Err(limit) = config.set_max_readahead(MAX_WRITE_BYTES) {
        let _ = config.set_max_readahead(limit);
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
    let _ = config.set_time_granularity(std::time::Duration::from_nanos(1));
}

fn want(config: &mut KernelConfig, capability: InitFlags) {
    if config.add_capabilities(capability).is_err() {
        log::debug!("the kernel does not offer {capability:?}");
    }
}

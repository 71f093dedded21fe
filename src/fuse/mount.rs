//! Making and ending the mount itself.

use std::ffi::CString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{getegid, geteuid};

use super::error::FuseError;
use super::fusermount;
use super::mountinfo::{self, DeviceNumber, FILESYSTEM_TYPE};
use super::options::MountOptions;

const DEVICE: &str = "/dev/fuse";
/// How long the kernel may take to find out that a daemon is gone.
const GOING: Duration = Duration::from_secs(2);
const GOING_POLL: Duration = Duration::from_millis(5);

/// What is to be mounted, where and how. Both paths are absolute and canonical.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// The vault; shown as the mount's source.
    pub source: PathBuf,
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// How.
    pub options: MountOptions,
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Not while it is in use.
    IfIdle,
    /// Take it out of the tree of directories now; it ends when its last user does.
    Lazily,
}

/// Whether this process could mount at all, asked before a passphrase is.
pub fn check_available(options: &MountOptions) -> Result<(), FuseError> {
    // fusermount3, too, opens it with the rights of its caller.
    drop(open_device()?);
    if geteuid().is_root() {
        return Ok(());
    }
    if !fusermount::is_installed() {
        return Err(FuseError::NoFusermount);
    }
    if options.allow_other && !fusermount::allows_allow_other() {
        return Err(FuseError::AllowOtherForbidden);
    }
    Ok(())
}

/// Mounts: as root by mount(2), as an ordinary user through fusermount3. Returns the opened `/dev/fuse`.
pub(super) fn mount(request: &MountRequest) -> Result<OwnedFd, FuseError> {
    if geteuid().is_root() { mount_as_root(request) } else { fusermount::mount(request) }
}

fn mount_as_root(request: &MountRequest) -> Result<OwnedFd, FuseError> {
    let device = open_device()?;
    let options = &request.options;
    // The permission checks of default_permissions are the kernel's own, ACLs included.
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        geteuid().as_raw(),
        getegid().as_raw()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let refused = |source| FuseError::Mount { mountpoint: request.mountpoint.clone(), source };
    let data = CString::new(data).map_err(|error| refused(error.into()))?;
    rustix::mount::mount(&request.source, &request.mountpoint, FILESYSTEM_TYPE, options.flags(), data.as_c_str())
        .map_err(|errno| refused(errno.into()))?;
    Ok(device.into())
}

fn open_device() -> Result<File, FuseError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|source| FuseError::NoDevice { source })
}

/// Unmounts a vault: as root directly, as an ordinary user through fusermount3.
pub fn unmount(mountpoint: &Path, how: Unmount) -> Result<(), FuseError> {
    if !geteuid().is_root() {
        return fusermount::unmount(mountpoint, how == Unmount::Lazily);
    }
    let flags = match how {
        Unmount::IfIdle => UnmountFlags::NOFOLLOW,
        Unmount::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    let mountpoint = mountpoint.to_owned();
    match rustix::mount::unmount(&mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(FuseError::Busy { mountpoint }),
        Err(Errno::INVAL | Errno::NOENT) => Err(FuseError::NotMounted { mountpoint }),
        Err(errno) => Err(FuseError::Unmount { mountpoint, message: errno.to_string() }),
    }
}

/// Has another process take a mount out of the tree of directories, and does not wait for it: with a daemon that does
/// not answer, that process may have to wait for dirty pages, and cannot be interrupted.
pub fn begin_detaching(mountpoint: &Path) -> Result<(), FuseError> {
    if !geteuid().is_root() {
        return fusermount::begin_detaching(mountpoint);
    }
    // -i: not by way of a helper, which may be us.
    begin(Command::new("umount").args(["-i", "-l", "--"]).arg(mountpoint), mountpoint)
}

pub(super) fn begin(command: &mut Command, mountpoint: &Path) -> Result<(), FuseError> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop).map_err(|error| {
        FuseError::Unmount {
            mountpoint: mountpoint.to_owned(),
            message: format!("umount could not be started: {error}"),
        }
    })
}

/// What is at a mountpoint, as far as the kernel remembers; else ENOTCONN if it is a mount whose daemon is gone.
pub fn look(mountpoint: &Path) -> io::Result<Metadata> {
    unless_going(|| fs::metadata(mountpoint))
}

/// The kernel finds the end of a daemon out within a few milliseconds, in which it cancels requests.
fn unless_going<T>(look: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + GOING;
    loop {
        match look() {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::ECONNABORTED))
                    && Instant::now() < deadline =>
            {
                thread::sleep(GOING_POLL);
            }
            outcome => return outcome,
        }
    }
}

/// Whether there is a mount whose daemon is gone, as far as can be seen without asking it: it may be stopped.
pub fn looks_dead(mountpoint: &Path) -> bool {
    look(mountpoint).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

/// Whether there is a mount whose daemon is gone. It is asked, whatever the kernel remembers: one that is stopped is waited for.
pub fn is_dead(mountpoint: &Path) -> bool {
    let ask = || Ok(rustix::fs::statx(CWD, mountpoint, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)?);
    unless_going(ask).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

/// The device number of the vault that is uppermost at this path.
pub(super) fn device_at(mountpoint: &Path) -> Option<DeviceNumber> {
    let mounts = mountinfo::read().ok()?;
    mountinfo::at(&mounts, mountpoint).filter(mountinfo::Mount::is_vault).map(|mount| mount.device)
}

/// Dirty pages of the mount from which on the kernel writes back while programs write: three quarters of it. Without, it would
/// begin when the file is closed or synced, and leave this process, that encrypts, waiting until then.
const DIRTY_MAX_BYTES: u32 = 256 << 20;

/// Lets the kernel read further ahead and keep more dirty pages than it grants a stranger's FUSE mount: by default 128 KiB and
/// one per cent of the memory. Only root may; without it the mount is slower, no less right.
pub(super) fn tune(device: DeviceNumber) {
    let folder = PathBuf::from(format!("/sys/class/bdi/{device}"));
    let set = |name: &str, value: &str| {
        fs::write(folder.join(name), value)
            .inspect_err(|error| log::debug!("{name} of the mount was not set: {error}"))
            .is_ok()
    };
    set("read_ahead_kb", "1024");
    // Not before Linux 6.3, nor where this is more than all mounts together may have.
    if !set("max_bytes", &DIRTY_MAX_BYTES.to_string()) {
        set("strict_limit", "0");
        set("max_ratio", "100");
    }
}

//! [`serve`]: mounts, answers the kernel until the mount ends, and says so.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::geteuid;

use super::activity::Activity;
use super::adapter::Adapter;
use super::error::FuseError;
use super::io_uring;
use super::mount::{self, MountRequest, Unmount};
use super::mountinfo::{self, DeviceNumber, Mount};
use super::negotiate;
use super::transport::Session;
use super::users;
use super::write_back::Mountpoint;
use crate::fs::{Fs, Storage};

/// How long is waited for requests that were sent.
const WRITTEN_LIMIT: Duration = Duration::from_secs(10);
const WRITTEN_POLL: Duration = Duration::from_millis(20);
/// How long `umount -f` may take to unmount after it has cut the connection.
const FORCED_LIMIT: Duration = Duration::from_millis(500);

/// A vault that is mounted and answers. Dropping it changes nothing; the mount ends by an unmount, from
/// here or from outside.
#[derive(Clone, Debug)]
pub struct MountedSession {
    request: MountRequest,
    device: Option<DeviceNumber>,
    activity: Arc<Activity>,
}

/// Mounts the filesystem. When this returns, the mount answers. `ended` is called once, from another
/// thread, when the last of the mount is gone: after an unmount by anyone, or with an error if the kernel's
/// side broke. Files may then still be uncommitted: sealing is the caller's.
pub fn serve<S: Storage>(
    filesystem: Arc<Fs<S>>,
    request: &MountRequest,
    ended: impl FnOnce(io::Result<()>) + Send + 'static,
) -> Result<MountedSession, FuseError> {
    let offered = request.options.io_uring.then(io_uring::offer).flatten();
    let connection = mount::mount(request)?;
    let device = mount::device_at(&request.mountpoint);
    let activity = Arc::<Activity>::default();
    // Others may not open what they have no path to.
    let path = request.mountpoint.clone();
    let place = device.filter(|_| geteuid().is_root()).map(|device| Mountpoint { path, device });
    let session = Adapter::new(filesystem, Arc::clone(&activity), place)
        .and_then(|adapter| start(adapter, offered.is_some(), device, connection, ended));
    drop(offered);
    if let Err(source) = session {
        // Nothing answers there: out of the way with it.
        if let Err(error) = mount::unmount(&request.mountpoint, Unmount::Lazily) {
            log::error!("after a failed start: {error}");
        }
        return Err(FuseError::Session { source });
    }
    if let Some(device) = device {
        mount::tune(device);
    }
    Ok(MountedSession { request: request.clone(), device, activity })
}

fn start<S: Storage>(
    adapter: Adapter<S>,
    io_uring: bool,
    number: Option<DeviceNumber>,
    connection: std::os::fd::OwnedFd,
    ended: impl FnOnce(io::Result<()>) + Send + 'static,
) -> io::Result<()> {
    let (device, when_agreed) = (adapter.device(), adapter.when_agreed());
    // INIT is answered in here.
    let session = Session::begin(adapter, connection, |agreement| {
        negotiate::settle(agreement, io_uring);
        when_agreed(agreement);
    })?;
    // Set once only, here.
    let _ = device.set(session.device());
    thread::Builder::new().name("session".to_owned()).spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| session.run(|| abort_or_exit(number))));
        ended(outcome.unwrap_or_else(|_| Err(io::Error::other("the session stopped by a bug in sero"))));
    })?;
    Ok(())
}

impl MountedSession {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.request.mountpoint
    }

    /// The vault.
    pub fn source(&self) -> &Path {
        &self.request.source
    }

    /// `st_dev` of everything in it, if the kernel said.
    pub fn device(&self) -> Option<DeviceNumber> {
        self.device
    }

    /// What was asked of it so far.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Unmounts, unless something else stands at the mountpoint by now.
    pub fn unmount(&self, how: Unmount) -> Result<(), FuseError> {
        if self.device.is_some() && mount::device_at(self.mountpoint()) != self.device {
            return Err(FuseError::NotMounted { mountpoint: self.mountpoint().to_owned() });
        }
        mount::unmount(self.mountpoint(), how)
    }

    /// Keeps the mount from ending, to write back what the kernel holds also after it was detached. Must not
    /// be called by a thread that serves the mount: those answer.
    pub fn hold(&self) -> io::Result<Held> {
        let Some(device) = self.device else {
            return File::open(self.mountpoint()).map(|root| Held { root, device: None });
        };
        // Unmounted here, it may live on elsewhere: bound to another place, or in another namespace. And another filesystem may
        // stand here by now, which is not to be waited for.
        let places = std::iter::once(self.mountpoint().to_owned()).chain(users::places_of(device));
        let root = places.filter(|place| users::is_on(place, device)).find_map(|place| File::open(place).ok());
        root.map(|root| Held { root, device: Some(device) }).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// After the session has ended: takes down what still stands of the mount, here or where it was bound to. No unmount leaves
    /// that; the connection was cut (`umount -f` of a mount in use, the kernel's `abort`). True if so, and writes may be lost.
    pub fn clear_away(&self) -> bool {
        let places = || -> Vec<_> {
            let mounts = mountinfo::read().unwrap_or_default().into_iter();
            // Only a mount of this vault: the number may be another's by now.
            let ours = |mount: &Mount| {
                Some(mount.device) == self.device && mount.is_vault() && mount.source == self.request.source.as_os_str()
            };
            // And of this session: the next one may have begun, with the same number. Not behind a writer, who still has the lock.
            let ends = |place: &PathBuf| !self.request.options.read_only || mount::is_dead(place);
            mounts.filter(ours).map(|mount| mount.mountpoint).filter(ends).collect()
        };
        let deadline = Instant::now() + FORCED_LIMIT;
        while !places().is_empty() && Instant::now() < deadline {
            thread::sleep(WRITTEN_POLL);
        }
        let left = places();
        for place in &left {
            if mount::device_at(place) == self.device
                && let Err(error) = mount::unmount(place, Unmount::Lazily)
            {
                log::error!("{error}");
            }
        }
        !left.is_empty() && !self.request.options.read_only
    }

    /// Cuts the connection: whoever still uses the mount gets ENOTCONN, and the session ends. False if the
    /// kernel does not let us; the end of this process does the same.
    pub fn abort(&self) -> bool {
        abort(self.device)
    }
}

fn abort(connection: Option<DeviceNumber>) -> bool {
    let Some(device) = connection else { return false };
    let control = format!("/sys/fs/fuse/connections/{}/abort", device.minor);
    match fs::write(control, "1") {
        Ok(()) => true,
        Err(error) => {
            log::debug!("the connection was not aborted: {error}");
            false
        }
    }
}

/// For when a request cannot be answered any more: better no mount than one that hangs.
fn abort_or_exit(connection: Option<DeviceNumber>) {
    if !abort(connection) {
        log::error!("the connection cannot be cut but by the end of this process");
        std::process::exit(1);
    }
}

/// A mount that is held: while this lives, the session does not end by itself.
#[derive(Debug)]
pub struct Held {
    root: File,
    device: Option<DeviceNumber>,
}

impl Held {
    /// Has the kernel write all of its dirty pages to the vault. Must not be called by a thread that serves
    /// the mount.
    pub fn write_back(&self) -> io::Result<()> {
        match self.device {
            Some(device) => write_back(&self.root, device, WRITTEN_LIMIT),
            None => Ok(rustix::fs::syncfs(&self.root)?),
        }
    }
}

/// Has the kernel write all dirty pages of the mount with this directory to the vault. Must not be called by a thread that
/// serves the mount. `limit`: how long to wait at most for requests that were sent, others' reads among them.
pub fn write_back(root: &File, device: DeviceNumber, limit: Duration) -> io::Result<()> {
    rustix::fs::syncfs(root)?;
    // Most kernels do not wait for the requests that this made, and count them. Others' requests are counted, too.
    let waiting = format!("/sys/fs/fuse/connections/{}/waiting", device.minor);
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline && fs::read_to_string(&waiting).is_ok_and(|count| count.trim() != "0") {
        thread::sleep(WRITTEN_POLL);
    }
    Ok(())
}

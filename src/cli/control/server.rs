//! The daemon's side of the control socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::geteuid;

use super::super::exit_code::ExitCode;
use super::super::failure::Failure;
use super::{Request, Response, place, wire};
use crate::fuse::DeviceNumber;

/// More callers at once are turned away: it is people and scripts who ask.
const CONNECTIONS_MAX: usize = 16;
/// After an error of accept(2) (no descriptors left, say).
const PAUSE: Duration = Duration::from_millis(100);

/// Answers requests, from several threads at once.
pub(in super::super) trait Handler: Send + Sync + 'static {
    /// Answers one request, soon: what takes long is started, and asked about later.
    fn handle(&self, request: Request) -> Response;
}

/// A listening control socket; gone when this is dropped.
pub(in super::super) struct Server {
    device: DeviceNumber,
    handler: Arc<dyn Handler>,
    listener: Arc<UnixListener>,
    path: PathBuf,
    /// The socket's own inode: what stands at the path later may be another daemon's.
    inode: (u64, u64),
    stopping: Arc<AtomicBool>,
    /// It is gone and cannot be made again, which was said.
    is_missed: bool,
}

impl Server {
    /// Listens for a mount's requests, in the first directory that can be used.
    pub(in super::super) fn start(device: DeviceNumber, handler: Arc<dyn Handler>) -> io::Result<Self> {
        let mut last = io::Error::other("there is no place for it");
        for folder in place::candidates(geteuid().as_raw()) {
            match bind(&folder, device) {
                Ok((listener, path)) => return Self::listen(device, listener, path, handler),
                Err(error) => {
                    log::debug!("no control socket in {}: {error}", folder.display());
                    last = io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
                }
            }
        }
        Err(last)
    }

    fn listen(
        device: DeviceNumber,
        listener: UnixListener,
        path: PathBuf,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(&path)?;
        let (listener, stopping) = (Arc::new(listener), Arc::new(AtomicBool::new(false)));
        let server = Self {
            device,
            handler: Arc::clone(&handler),
            listener: Arc::clone(&listener),
            path,
            inode: (metadata.dev(), metadata.ino()),
            stopping: Arc::clone(&stopping),
            is_missed: false,
        };
        thread::Builder::new().name("control".to_owned()).spawn(move || accept(&listener, &handler, &stopping))?;
        Ok(server)
    }

    /// Makes the socket again if somebody removed it: a daemon outlives the last logout, its `$XDG_RUNTIME_DIR` does not.
    pub(in super::super) fn keep(&mut self) {
        if self.is_there() {
            return;
        }
        match Self::start(self.device, Arc::clone(&self.handler)) {
            Ok(server) => {
                log::info!("the control socket was removed; it is made again");
                *self = server;
            }
            Err(error) if !self.is_missed => {
                log::warn!("the control socket was removed, and cannot be made again ({error})");
                self.is_missed = true;
            }
            Err(_) => {}
        }
    }

    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode)
    }

    /// Where it listens.
    pub(in super::super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes the thread, which sees that it is over.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The kernel gave the device number to this mount: a socket of that name is a dead daemon's. Anything else in
/// the way is not ours to remove.
fn bind(folder: &Path, device: DeviceNumber) -> io::Result<(UnixListener, PathBuf)> {
    place::prepare(folder)?;
    let path = folder.join(place::name(device));
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(&path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is in the way")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(&path)?;
    // Nobody else could enter the directory meanwhile.
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok((listener, path))
}

fn accept(listener: &UnixListener, handler: &Arc<dyn Handler>, stopping: &AtomicBool) {
    let connections = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else {
            thread::sleep(PAUSE);
            continue;
        };
        let place = Place::take(&connections);
        let handler = Arc::clone(handler);
        let serve = move || {
            let Some(_place) = place else { return };
            // A caller that goes away, or says nonsense, is its own trouble.
            if let Err(error) = converse(&stream, handler.as_ref()) {
                log::debug!("control socket: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("control".to_owned()).spawn(serve) {
            log::error!("a thread could not be started: {error}");
        }
    }
}

/// One of the [`CONNECTIONS_MAX`].
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(connections: &Arc<AtomicUsize>) -> Option<Self> {
        let before = connections.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(connections));
        (before < CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse(stream: &UnixStream, handler: &dyn Handler) -> io::Result<()> {
    let peer = wire::peer(stream)?;
    if !wire::is_trusted(peer, geteuid().as_raw()) {
        log::warn!("user {peer} was turned away from the control socket");
        return Ok(());
    }
    wire::limit_times(stream)?;
    let mut reader = wire::WipedReader::new(stream);
    let mut writer = stream;
    loop {
        let response = match wire::receive(&mut reader) {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => answer(handler, request),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let message = format!(
                    "the daemon (sero {}) does not know this request; seal and mount again with this sero",
                    env!("CARGO_PKG_VERSION")
                );
                // What follows a line that is not understood is not to be trusted either.
                return wire::send(&mut writer, &Response::Failed { code: ExitCode::Other, message });
            }
            Err(error) => return Err(error),
        };
        wire::send(&mut writer, &response)?;
    }
}

fn answer(handler: &dyn Handler, request: Request) -> Response {
    catch_unwind(AssertUnwindSafe(|| handler.handle(request)))
        .unwrap_or_else(|_| Response::failed(Failure::other("a bug in sero stopped the request; see the log")))
}

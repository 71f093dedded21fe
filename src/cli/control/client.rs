//! The asking side of the control socket.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use rustix::process::geteuid;

use super::super::exit_code::ExitCode;
use super::super::failure::{Failure, Result};
use super::super::terminal;
use super::{Request, Response, place, wire};
use crate::fuse::DeviceNumber;
use crate::fuse::mountinfo::Mount;

/// A daemon that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Endpoint {
    /// The mount it serves.
    pub(in super::super) device: DeviceNumber,
    /// As whom it runs.
    user: u32,
    /// Where its socket may be.
    paths: Vec<PathBuf>,
}

impl Endpoint {
    /// The daemon behind a mount.
    pub(in super::super) fn of(mount: &Mount) -> Self {
        let user = mount.user_id().unwrap_or_else(|| geteuid().as_raw());
        let name = place::name(mount.device);
        let paths = place::candidates(user).into_iter().map(|folder| folder.join(&name)).collect();
        Self { device: mount.device, user, paths }
    }

    /// Removes the socket of a daemon that has died. One that is answered on stays.
    pub(in super::super) fn remove_leftover(&self) {
        for path in &self.paths {
            if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Every daemon that has a socket where this process may look. Also those whose mount was detached, or is in another
/// mount namespace; and dead ones.
pub(in super::super) fn endpoints() -> Vec<Endpoint> {
    let of_user = |user| {
        place::sockets(user).into_iter().filter_map(move |path| {
            let device = place::device(&path)?;
            Some(Endpoint { device, user, paths: vec![path] })
        })
    };
    place::users().into_iter().flat_map(of_user).collect()
}

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Unreachable {
    /// There is no socket.
    #[error("it has no control socket that this user can reach; look into its log, or ask as the user who mounted it")]
    NoSocket,
    /// A socket and nobody behind it.
    #[error("its process has died; `sero seal` cleans up what it left")]
    Dead,
    /// Stopped, or stuck.
    #[error("its process does not answer; look into its log, or end it: what was written is not lost")]
    Silent,
    /// It has ended meanwhile, or is asked by too many at once.
    #[error("it ended before it answered, or is asked by too many at once; ask again")]
    Ended,
    /// Somebody else's.
    #[error("this user may not ask it; ask as the user who mounted it, or as root")]
    Denied,
    /// Something else went wrong, or it was answered with something that is no response.
    #[error("its control socket failed: {0}; seal and mount again")]
    Failed(io::Error),
}

impl From<Unreachable> for Failure {
    fn from(error: Unreachable) -> Self {
        Self::new(ExitCode::DaemonUnreachable, error.to_string())
    }
}

/// Asks one thing. What the daemon refused is an error already.
pub(in super::super) fn ask(endpoint: &Endpoint, request: &Request) -> Result<Response> {
    match exchange(endpoint, request)? {
        // It may be anybody's who can mount something.
        Response::Failed { code, message } => Err(Failure::new(code, terminal::shown(&message))),
        response => Ok(response),
    }
}

/// As [`ask`], with what kept it from being asked, and with what the daemon refused as its response.
pub(in super::super) fn exchange(endpoint: &Endpoint, request: &Request) -> Result<Response, Unreachable> {
    let stream = connect(endpoint)?;
    wire::limit_times(&stream).map_err(Unreachable::Failed)?;
    let mut writer = &stream;
    wire::send(&mut writer, request).map_err(turned_away)?;
    let answer = Until { stream: &stream, deadline: Instant::now() + wire::LINE_TIME_LIMIT };
    match wire::receive(&mut wire::WipedReader::new(answer)).map_err(turned_away)? {
        Some(response) => Ok(response),
        None => Err(Unreachable::Ended),
    }
}

/// Whoever is at the other end may send a byte now and then, for ever.
struct Until<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(out)
    }
}

fn connect(endpoint: &Endpoint) -> Result<UnixStream, Unreachable> {
    let mut last = Unreachable::NoSocket;
    for path in &endpoint.paths {
        let folder = path.parent().unwrap_or(path);
        // A place that others can write to is none.
        if place::check(folder, endpoint.user).is_err() {
            continue;
        }
        match UnixStream::connect(path) {
            Ok(stream) => {
                let peer = wire::peer(&stream).map_err(Unreachable::Failed)?;
                // A stranger at that place would tell us anything.
                return if wire::is_trusted(peer, endpoint.user) { Ok(stream) } else { Err(Unreachable::Denied) };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => last = unreachable(error),
        }
    }
    Err(last)
}

/// An error of a connection that there was.
fn turned_away(error: io::Error) -> Unreachable {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Unreachable::Ended,
        _ => unreachable(error),
    }
}

fn unreachable(error: io::Error) -> Unreachable {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Unreachable::Dead
        }
        // The read timeout of a socket is EAGAIN.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Unreachable::Silent,
        io::ErrorKind::PermissionDenied => Unreachable::Denied,
        _ => Unreachable::Failed(error),
    }
}

//! What the daemon answers on its control socket.

use std::fs;
use std::sync::Arc;

use super::rotation::Rotation;
use super::verification::Verifications;
use super::watch::Watch;
use crate::cli::control::{Handler, Request, Response};
use crate::cli::failure::Failure;
use crate::cli::rotate::RotationState;
use crate::cli::status::{Degraded, Errors, Journal, LastError, Memory, Operations, State, Status};
use crate::cli::time;
use crate::fuse::{ActivityCount, Fs, Lost, MountedSession};
use crate::vault::{PosixStorage, VerifyOptions};

/// A mount, as those see it who ask about it.
pub(super) struct Service {
    pub(super) filesystem: Arc<Fs<PosixStorage>>,
    pub(super) session: MountedSession,
    pub(super) watch: Arc<Watch>,
    pub(super) vault_id: String,
    pub(super) verifications: Verifications,
    pub(super) rotation: Arc<Rotation>,
}

impl Handler for Service {
    fn handle(&self, request: Request) -> Response {
        match request {
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Verify { paths, jobs } => {
                self.verifications.start(self.filesystem.vault(), VerifyOptions { paths, jobs })
            }
            Request::VerifyProgress { number, from } => {
                self.watch.is_used();
                self.verifications.progress(number, from)
            }
            Request::Rotate { keys, bytes_per_second } => {
                let begun = match keys.exposed() {
                    Some(exposed) => self.rotation.begin(&exposed, bytes_per_second),
                    None => Err(Failure::other("the request has no keys")),
                };
                begun.map_or_else(Response::failed, Response::Rotation)
            }
            Request::RotationStatus => {
                let facts = self.rotation.facts();
                // Whoever waits for its end hears of it before the mount may be idle.
                if facts.state != RotationState::None {
                    self.watch.is_used();
                }
                Response::Rotation(facts)
            }
        }
    }
}

impl Service {
    fn status(&self) -> Status {
        let vault = self.filesystem.vault();
        let usage = self.filesystem.usage();
        let figures = vault.figures();
        let activity = self.session.activity();
        let ActivityCount { requests, reads, writes, bytes_read, bytes_written } = activity.count();
        let session = self.watch.session(requests, super::is_in_use(&usage, &self.rotation));
        let state = match (self.watch.sealing(), &session.ending) {
            (true, _) => State::Sealing,
            (false, Some(_)) => State::Ending,
            (false, None) => State::Mounted,
        };
        Status {
            state,
            mountpoint: self.session.mountpoint().display().to_string(),
            vault: self.session.source().display().to_string(),
            vault_id: self.vault_id.clone(),
            config: self.rotation.config().map(|path| path.display().to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            since: time::unix(self.watch.since()),
            // Sealing makes it so, too.
            read_only: vault.is_read_only() && state != State::Sealing,
            degraded: vault.degraded().map(|degraded| Degraded {
                reason: degraded.to_string(),
                errno: degraded.errno,
                since: u64::try_from(degraded.since).unwrap_or(0),
            }),
            session,
            open_files: usage.files as u64,
            open_directories: usage.directories as u64,
            operations: Operations { total: requests, reads, writes, bytes_read, bytes_written },
            errors: self.errors(),
            journal: figures.journal.map(|journal| Journal {
                used_bytes: journal.used_bytes,
                capacity_bytes: journal.capacity_bytes,
                files: journal.files as u64,
            }),
            memory: Memory {
                inodes: usage.nodes as u64,
                files: figures.files as u64,
                directories: figures.open_directories as u64,
                directories_max: figures.open_directories_max as u64,
                dirty_bytes: figures.dirty_bytes,
                resident_bytes: resident_bytes().unwrap_or(0),
            },
            rotation: self.rotation.as_json(),
        }
    }

    fn errors(&self) -> Errors {
        let errors = self.session.activity().errors();
        let last = errors.last.map(|(when, message)| LastError { when: time::unix(when), message });
        let Lost { files: lost_files, bytes: lost_bytes } = self.filesystem.lost();
        Errors { integrity: errors.integrity, backing: errors.backing, lost_bytes, lost_files, last }
    }
}

/// The second field of `/proc/self/statm`, in pages (proc_pid_statm(5)).
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_memory() {
        assert!(super::resident_bytes().is_some_and(|bytes| bytes > 0));
    }
}

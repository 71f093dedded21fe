//! A status for people.

use super::Found;
use super::facts::{Session, State, Status};
use crate::cli::failure::Failure;
use crate::cli::terminal::shown;
use crate::cli::time;
use crate::cli::words::count;

/// Names stand in a column of this width.
const NAMES: usize = 11;

struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push(format!("{name:<NAMES$} {value}"));
    }
}

pub(super) fn report(status: &Status) -> String {
    let mut lines = Lines(Vec::new());
    lines.add("mountpoint", shown(&status.mountpoint));
    lines.add("vault", shown(&status.vault));
    lines.add("state", state(status));
    lines.add(
        "since",
        format!(
            "{} ({}), by user {}, process {}",
            time::utc(status.since),
            time::span(status.session.seconds),
            status.uid,
            status.pid
        ),
    );
    lines.add("session", session(&status.session));
    lines.add(
        "open",
        format!(
            "{}, {}",
            count(status.open_files, "file", "files"),
            count(status.open_directories, "directory", "directories")
        ),
    );
    let operations = &status.operations;
    lines.add(
        "requests",
        format!(
            "{}; {} read in {}, {} written in {}",
            operations.total,
            bytes(operations.bytes_read),
            operations.reads,
            bytes(operations.bytes_written),
            operations.writes
        ),
    );
    if let Some(journal) = &status.journal {
        let fill = format!("{} of {}", bytes(journal.used_bytes), bytes(journal.capacity_bytes));
        lines.add("journal", format!("{fill}, {}", count(journal.files, "file", "files")));
    }
    let memory = &status.memory;
    lines.add(
        "memory",
        format!(
            "{}; {}, {} of {} directories open, {} to be written",
            bytes(memory.resident_bytes),
            count(memory.inodes, "inode", "inodes"),
            memory.directories,
            memory.directories_max,
            bytes(memory.dirty_bytes)
        ),
    );
    lines.add("errors", errors(status));
    if let Some(rotation) = &status.rotation {
        lines.add("rotation", rotation);
    }
    lines.0.join("\n")
}

/// A mount whose daemon did not say anything.
pub(super) fn silent(found: &Found, failure: &Failure) -> String {
    let mut lines = Lines(Vec::new());
    lines.add("mountpoint", shown(&found.mountpoint));
    lines.add("vault", shown(&found.vault));
    lines.add("state", format!("unknown: {}", shown(&failure.message)));
    lines.0.join("\n")
}

fn state(status: &Status) -> String {
    let state = match status.state {
        State::Mounted | State::Unreachable | State::Unknown => "mounted",
        State::Ending => "ending",
        State::Sealing => "unmounted, being sealed",
    };
    let access = match (&status.degraded, status.read_only) {
        (Some(degraded), _) => {
            format!("READ-ONLY since {}: {}", time::utc(degraded.since), shown(&degraded.reason))
        }
        (None, true) => "read-only".to_owned(),
        (None, false) => "for reading and writing".to_owned(),
    };
    format!("{state}, {access}")
}

fn session(session: &Session) -> String {
    let limit = |limit: Option<u64>| {
        limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {}", time::span(limit)))
    };
    let mut text = format!(
        "idle for {} ({}); {} long ({})",
        time::span(session.idle_seconds),
        limit(session.idle_limit),
        time::span(session.seconds),
        limit(session.limit)
    );
    if !session.seal_on.is_empty() {
        let causes: Vec<String> = session.seal_on.iter().map(|cause| shown(cause)).collect();
        text.push_str(&format!("; sealed on {}", causes.join(" and ")));
    }
    if session.ends_soon {
        text.push_str("; it ENDS SOON, save what is open");
    }
    if let Some(ending) = &session.ending {
        let by = match ending.users.is_empty() {
            true => "something that cannot be seen".to_owned(),
            false => ending.users.iter().map(|user| shown(user)).collect::<Vec<_>>().join(", "),
        };
        text.push_str(&format!("; to be sealed ({}), in use by {by}", shown(&ending.reason)));
    }
    text
}

fn errors(status: &Status) -> String {
    let errors = &status.errors;
    if errors.integrity == 0 && errors.backing == 0 {
        return "none".to_owned();
    }
    let mut text = format!("{} of integrity, {} of the backing", errors.integrity, errors.backing);
    if errors.lost_files > 0 {
        let files = count(errors.lost_files, "file", "files");
        text.push_str(&format!("; {} of {files} were written and DID NOT FIT", bytes(errors.lost_bytes)));
    }
    if let Some(last) = &errors.last {
        text.push_str(&format!("; last, at {}: {}", time::utc(last.when), shown(&last.message)));
    }
    text
}

/// In binary units, with one decimal.
fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut scaled = number as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::facts::{Busy, Degraded, Errors, LastError};

    #[test]
    fn numbers_are_readable() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn what_matters_is_said() {
        let mut status = Status { state: State::Mounted, mountpoint: "/mnt".to_owned(), ..Status::default() };
        assert!(report(&status).contains("mounted, for reading and writing"));
        assert!(report(&status).contains("errors      none"));
        status.degraded = Some(Degraded { reason: "could not sync".to_owned(), ..Degraded::default() });
        status.session.ends_soon = true;
        status.session.ending = Some(Busy { reason: "idle".to_owned(), since: 0, users: vec!["7 (bash)".to_owned()] });
        let last = Some(LastError { when: 0, message: "tree/x\u{1b}[2J".to_owned() });
        status.errors = Errors { integrity: 2, backing: 1, lost_bytes: 4096, lost_files: 1, last };
        let text = report(&status);
        for part in [
            "READ-ONLY since 1970-01-01 00:00:00 UTC: could not sync",
            "ENDS SOON",
            "(idle), in use by 7 (bash)",
            "2 of integrity",
            "4.0 KiB of 1 file were written and DID NOT FIT",
            "\\u{1b}",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}

//! Where the log goes: the terminal, a file, or for a daemon the system's log (the journal).
//!
//! What is logged never holds a plain name, a path inside the vault, or content.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter};

use super::failure::{Failure, Result};

/// Where the records of a command go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination<'a> {
    /// Standard error.
    Terminal,
    /// Standard error, of a command that reports what is wrong with the vault itself: the vault's own lines only if
    /// more is asked for.
    Report,
    /// A file, appended to; readable by its owner alone.
    File(&'a Path),
    /// The system's log, or nothing where there is none.
    System,
}

/// Sets the log up, once. `verbosity`: -1 errors, 0 warnings, 1 information, 2 details.
pub(super) fn start(destination: Destination<'_>, verbosity: i8) -> Result<()> {
    let mut builder = Builder::new();
    builder.filter_level(level(verbosity, destination));
    // RUST_LOG narrows or widens it, as everywhere.
    builder.parse_default_env();
    match destination {
        Destination::Terminal | Destination::Report => {
            if matches!(destination, Destination::Report) && verbosity < 1 {
                builder.filter_module("sero::vault", LevelFilter::Off);
            }
            if is_journal() {
                // The journal takes the priority from the line's beginning (sd-daemon(3)), and knows who we are.
                builder.format(|out, record| writeln!(out, "<{}>{}", severity(record.level()), record.args()));
            } else {
                builder.format(|out, record| writeln!(out, "sero: {}{}", prefix(record.level()), record.args()));
            }
        }
        Destination::File(path) => {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|error| {
                Failure::other(format!(
                    "the log {} cannot be opened: {error}; give a file that you may write",
                    path.display()
                ))
            })?;
            builder.target(Target::Pipe(Box::new(file)));
        }
        Destination::System => match SystemLog::connect(Path::new("/dev/log")) {
            Ok(system) => {
                builder.format(|out, record| {
                    // One write is one datagram; the priority stands first (RFC 3164), facility daemon.
                    writeln!(
                        out,
                        "<{}>sero[{}]: {}",
                        3 * 8 + severity(record.level()),
                        std::process::id(),
                        record.args()
                    )
                });
                builder.target(Target::Pipe(Box::new(system)));
            }
            Err(_) => {
                builder.filter_level(LevelFilter::Off);
                builder.target(Target::Pipe(Box::new(io::sink())));
            }
        },
    }
    // A second start, as in tests, changes nothing.
    let _ = builder.try_init();
    Ok(())
}

/// Whether standard error is the journal's: systemd says in the environment which file that is.
fn is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stat| stream.to_str() == Some(format!("{}:{}", stat.st_dev, stat.st_ino).as_str()))
}

/// A daemon also says when it mounted and sealed.
fn level(verbosity: i8, destination: Destination<'_>) -> LevelFilter {
    let usual = match destination {
        Destination::Terminal | Destination::Report => 0,
        Destination::File(_) | Destination::System => 1,
    };
    match verbosity.saturating_add(usual) {
        i8::MIN..=-1 => LevelFilter::Error,
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    }
}

/// As syslog(3) numbers them.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// `/dev/log`, one datagram a record.
struct SystemLog {
    place: PathBuf,
    socket: UnixDatagram,
}

impl SystemLog {
    fn connect(place: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(place)?;
        // A log that does not drain must not stop the filesystem.
        socket.set_nonblocking(true)?;
        Ok(Self { place: place.to_owned(), socket })
    }
}

impl Write for SystemLog {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let line = record.trim_ascii_end();
        if let Err(error) = self.socket.send(line)
            && error.kind() != io::ErrorKind::WouldBlock
            // A log that was started anew has made its socket anew.
            && let Ok(again) = Self::connect(&self.place)
        {
            *self = again;
            let _ = self.socket.send(line);
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Panics go to the log with their place alone: the message might quote a name.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        log::error!("a bug in sero: panic at {place}; please report it");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_log_that_was_started_anew_gets_every_line() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("log");
        let mut received = [0; 64];
        let listen = || UnixDatagram::bind(&place).unwrap();
        let mut receive = |log: &UnixDatagram| {
            log.set_nonblocking(true).unwrap();
            let len = log.recv(&mut received).unwrap();
            String::from_utf8_lossy(&received[..len]).into_owned()
        };
        let before = listen();
        let mut log = SystemLog::connect(&place).unwrap();
        log.write_all(b"one\n").unwrap();
        assert_eq!(receive(&before), "one");
        drop(before);
        std::fs::remove_file(&place).unwrap();
        log.write_all(b"nobody hears this\n").unwrap();
        let after = listen();
        log.write_all(b"two\n").unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!((receive(&after), receive(&after)), ("two".to_owned(), "three".to_owned()));
    }
}

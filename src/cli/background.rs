//! From the command on the terminal to the daemon in the background.
//!
//! `sero mount` checks everything, asks for the passphrase and derives the key. Then it starts itself again
//! as `sero serve` (hidden), in a session of its own. Between the two:
//!
//! | pipe | what |
//! |---|---|
//! | the child's standard input | the [`Order`], one line of JSON, then the exposed keys, to the end |
//! | the child's standard output | one [`Report`], one line of JSON, when the mount answers or has failed |
//!
//! No secret is ever in an argument or in the environment. If the parent is gone before the report (the user
//! pressed Ctrl-C), the child takes the mount down again.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::daemon::Limits;
use super::daemon::logind::Cause;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::logging::{self, Destination};
use crate::vault::UnlockedKeys;

/// The hidden subcommand.
pub(super) const SUBCOMMAND: &str = "serve";

/// Two paths and the options, even when every byte is a number in JSON.
const ORDER_LEN_MAX_BYTES: usize = 256 * 1024;
/// Far more than the keys of one vault.
const KEYS_LEN_MAX_BYTES: u64 = 64 * 1024;

/// What the daemon inherits of the environment, in which the key of `--key-env` stands, and often other secrets.
const ENVIRONMENT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "NOTIFY_SOCKET",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    // Where the bus is that logind is asked on.
    "DBUS_SYSTEM_BUS_ADDRESS",
];

/// What is to be mounted. The paths are absolute: the daemon works from "/".
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) vault: OsString,
    pub(super) mountpoint: OsString,
    /// As given with `-o`.
    pub(super) options: Vec<String>,
    pub(super) read_only: bool,
    /// The configuration, if it lies apart from the vault.
    pub(super) config: Option<OsString>,
    pub(super) log: Option<OsString>,
    pub(super) verbosity: i8,
    pub(super) limits: Limits,
    pub(super) seal_on: Vec<Cause>,
    pub(super) in_foreground: bool,
    pub(super) log_names: bool,
}

/// What the daemon says once.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Ready,
    Failed { code: ExitCode, message: String },
}

/// Starts the daemon and waits until the mount answers.
pub(super) fn start(order: &Order, keys: UnlockedKeys) -> Result<()> {
    let lost = |error: &dyn std::fmt::Display| {
        Failure::other(format!("the background process could not be started: {error}; try --foreground"))
    };
    // A lock or a pipe of the caller's must not live as long as the mount.
    close_fds::set_fds_cloexec(3, &[]);
    // Works also when the program's file was replaced meanwhile.
    let mut daemon = Command::new("/proc/self/exe");
    daemon.env_clear().envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    let mut child = daemon
        .arg0("sero")
        .arg(SUBCOMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| lost(&error))?;
    // A child that died before it read everything has a report, or says by its death what happened.
    if let Some(pipe) = child.stdin.take()
        && let Err(error) = send(pipe, order, &keys)
    {
        log::debug!("the order was not taken: {error}");
    }
    match receive(&mut child) {
        Some(Report::Ready) => Ok(()),
        Some(Report::Failed { code, message }) => {
            let _ = child.wait();
            Err(Failure::new(code, message))
        }
        None => {
            let status = child.wait().map_err(|error| lost(&error))?;
            Err(Failure::other(format!(
                "the background process died before the mount answered ({status}); try --foreground to see why"
            )))
        }
    }
}

fn send(mut pipe: impl Write, order: &Order, keys: &UnlockedKeys) -> io::Result<()> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    pipe.write_all(&line)?;
    pipe.write_all(&keys.expose())
}

fn receive(child: &mut Child) -> Option<Report> {
    let mut line = String::new();
    BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// The daemon's side: takes the order from standard input and serves until the mount ends.
pub(super) fn run() -> Result<()> {
    // Away from the terminal and its signals, and by its own name in `ps`.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"sero");
    let mut reporter = Reporter::new()?;
    let result = serve(&mut reporter);
    if let Err(failure) = &result {
        log::error!("{failure}");
        reporter.send(&Report::Failed { code: failure.code, message: failure.message.clone() });
    }
    result
}

fn serve(reporter: &mut Reporter) -> Result<()> {
    let (order, keys) = take_order().map_err(|error| {
        Failure::new(ExitCode::Usage, format!("`sero {SUBCOMMAND}` is started by `sero mount` alone ({error})"))
    })?;
    let log = order.log.clone().map(PathBuf::from);
    let destination = log.as_deref().map_or(Destination::System, Destination::File);
    logging::start(destination, order.verbosity)?;
    logging::log_panics();
    super::mount::serve_exposed(&order, &keys, || reporter.send(&Report::Ready))
}

fn take_order() -> io::Result<(Order, Zeroizing<Vec<u8>>)> {
    // The pipe itself, unbuffered: no buffer keeps a copy of the keys.
    let mut pipe = File::from(rustix::stdio::stdin().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(null()?)?;
    let mut line = Vec::new();
    let mut byte = [0_u8];
    while pipe.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend_from_slice(&byte);
        if line.len() > ORDER_LEN_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the order is too long"));
        }
    }
    let order = serde_json::from_slice(&line)?;
    // Its full length at once: a growing vector would leave copies behind.
    let mut keys = Zeroizing::new(Vec::with_capacity(KEYS_LEN_MAX_BYTES as usize));
    pipe.take(KEYS_LEN_MAX_BYTES).read_to_end(&mut keys)?;
    Ok((order, keys))
}

/// The pipe to the parent, until the one report was sent.
struct Reporter(Option<File>);

impl Reporter {
    /// Takes standard output over; what is printed by accident afterwards goes nowhere.
    fn new() -> Result<Self> {
        let taken = || -> io::Result<File> {
            let pipe = rustix::stdio::stdout().try_clone_to_owned()?;
            rustix::stdio::dup2_stdout(null()?)?;
            Ok(File::from(pipe))
        };
        taken()
            .map(|pipe| Self(Some(pipe)))
            .map_err(|error| Failure::other(format!("standard output cannot be used: {error}")))
    }

    /// False if the parent is gone.
    fn send(&mut self, report: &Report) -> bool {
        let Some(mut pipe) = self.0.take() else { return false };
        let Ok(mut line) = serde_json::to_vec(report) else { return false };
        line.push(b'\n');
        pipe.write_all(&line).is_ok()
    }
}

fn null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

//! `sero import SOURCE VAULT`: copies a tree into a vault that is not mounted, and compares every file with its source
//! afterwards, through the decryption that a later reader will use.
//!
//! A file appears under its name when it is whole. An import that was stopped, by Ctrl-C or by a crash, goes on when
//! it is called again: what is there with the source's size, and its time or content, is not copied twice, but compared
//! like the rest.

mod compare;
mod copy;
mod source;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::compare::Comparison;
use self::copy::Copier;
use self::source::Node;
use super::failure::{Failure, Result};
use super::opening::Opening;
use super::progress::{Progress, Unit};
use super::unlocking::UnlockArguments;
use super::words::count;
use super::{Context, ExitCode, daemon, terminal};
use crate::vault::{Directory, FileKind, Mode, NewInode, PosixStorage, Vault, VaultError};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero import ~/papers ~/papers.sero                  all that is in ~/papers, to the vault's top
  sero import --into 2024/tax ~/tax ~/papers.sero     to a directory in it, which is made
  gocryptfs old plain && sero import plain new.sero   from another one: docs/migrating.md

The vault must not be mounted. Ownership is kept by root alone; permissions, times, links,
extended attributes and holes are kept in any case. Stopped with Ctrl-C, the same command goes on
later.")]
pub(super) struct ImportArguments {
    /// The directory whose content is copied
    source: PathBuf,

    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// Where in the vault: a path from its top; directories that are missing are made
    #[arg(long, value_name = "PATH", default_value = "/")]
    into: PathBuf,

    /// Replace what is there under the same name and differs, instead of leaving it and saying so
    #[arg(long)]
    replace: bool,

    /// Do not read everything again at the end to compare it with the source
    #[arg(long)]
    no_compare: bool,

    #[command(flatten)]
    unlock: UnlockArguments,
}

/// A directory of the open vault.
type Place = Arc<Directory<PosixStorage>>;

pub(super) fn run(arguments: &ImportArguments, context: &Context) -> Result<()> {
    let shown = arguments.source.display();
    let (source, path) = std::fs::canonicalize(&arguments.source)
        .and_then(|path| Ok((Node::open(rustix::fs::CWD, &path)?, path)))
        .map_err(|error| Failure::other(format!("{shown}: {error}; give a directory that you may read")))?;
    if source.kind() != FileKind::Directory {
        return Err(Failure::new(ExitCode::Usage, format!("{shown} is not a directory; give the one that holds it")));
    }
    let into = source::components(&arguments.into)?;
    let opening = Opening::find(&arguments.vault, context)?;
    if opening.path().starts_with(&path) || path.starts_with(opening.path()) {
        return Err(Failure::new(ExitCode::Usage, format!("{shown} holds the vault, or lies in it; choose another")));
    }
    opening.check_free(Mode::ReadWrite)?;
    let vault_path = opening.path().to_owned();
    let about = |error: VaultError| Failure::from(error).about(vault_path.display());

    let keys = arguments.unlock.unlock(&opening, context)?;
    daemon::harden();
    let mut work = Work::new(context)?;
    let vault = opening.open(keys, Mode::ReadWrite)?;
    let outcome = import(arguments, &source, &path, &into, &vault, &mut work);
    // In any case: what is in it is whole.
    vault.seal().map_err(about)?;
    let tally = outcome.map_err(about)?;
    tally.report(arguments, context)
}

fn import(
    arguments: &ImportArguments,
    source: &Node,
    path: &Path,
    into: &[Vec<u8>],
    vault: &Arc<Vault<PosixStorage>>,
    work: &mut Work,
) -> Result<Tally, VaultError> {
    let mut tally = Tally::default();
    let top = descend(vault, into)?;
    work.progress.set_total(source::len_bytes(path));
    let mut copier = Copier::new(vault, work, arguments.replace, &mut tally);
    copier.directory(path, source, &top)?;
    let files = copier.files;
    if tally.stopped || arguments.no_compare {
        return Ok(tally);
    }
    // From the disk's state on, not from what this process remembers.
    vault.sync()?;
    work.progress = Progress::start(&work.context, "comparing", Unit::Bytes);
    work.progress.set_total(tally.len);
    Comparison::new(work, &mut tally).all(&files);
    Ok(tally)
}

/// The directory at this path, made where it is missing.
fn descend(vault: &Arc<Vault<PosixStorage>>, path: &[Vec<u8>]) -> Result<Place, VaultError> {
    let mut place = vault.root();
    for name in path {
        place = match place.lookup(name) {
            Ok(stat) if stat.kind() == FileKind::Directory => place.open_child(name)?,
            Ok(_) => return Err(VaultError::Io { context: "open the place in the vault", source: not_a_directory() }),
            Err(error) if is_missing(&error) => {
                place.make_dir(name, &NewInode { mode: 0o700, uid: None, gid: None })?.1
            }
            Err(error) => return Err(error),
        };
    }
    Ok(place)
}

fn not_a_directory() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::ENOTDIR)
}

/// Whether a name is not there.
fn is_missing(error: &VaultError) -> bool {
    matches!(error, VaultError::Io { source, .. } if source.raw_os_error() == Some(libc::ENOENT))
}

/// What an import has done.
#[derive(Debug, Default)]
struct Tally {
    /// Names of regular files that were brought.
    files: u64,
    bytes: u64,
    /// Of all these, whether they were copied now or before.
    len: u64,
    /// Names of regular files that were there already.
    there: u64,
    compared: u64,
    problems: u64,
    stopped: bool,
}

impl Tally {
    fn report(&self, arguments: &ImportArguments, context: &Context) -> Result<()> {
        let vault = arguments.vault.display();
        let mut done = format!(
            "{} and {} copied to {vault}",
            count(self.files, "file", "files"),
            count(self.bytes, "byte", "bytes")
        );
        if self.there > 0 {
            done.push_str(&format!(", {} there already", count(self.there, "file was", "files were")));
        }
        if self.stopped {
            return Err(Failure::other(format!("stopped: {done}; the same command goes on from here")));
        }
        if self.problems > 0 {
            return Err(Failure::other(format!(
                "{done}; {} above; mend that and give the same command again",
                count(self.problems, "problem, see", "problems, see")
            )));
        }
        if !arguments.no_compare {
            done.push_str(&format!(", {} compared with the source: equal", self.compared));
        }
        context.say(&done);
        Ok(())
    }
}

/// What goes beside the work: problems are said, signals are heard, the vault does what is due.
struct Work {
    context: Context,
    progress: Progress,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn new(context: &Context) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop))
                .map_err(|error| Failure::other(format!("signals cannot be handled: {error}")))?;
        }
        Ok(Self { context: context.clone(), progress: Progress::start(context, "copying", Unit::Bytes), stop })
    }

    fn is_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One file that is left out; the others go on.
    fn problem(&self, tally: &mut Tally, path: &Path, what: &dyn std::fmt::Display) {
        tally.problems += 1;
        self.progress.suspend(|| {
            let path = terminal::shown(&path.to_string_lossy());
            let _ = writeln!(std::io::stderr().lock(), "sero: {path}: {what}");
        });
    }
}

/// Calls the vault once a second.
struct Ticker {
    last: Instant,
}

impl Ticker {
    const EVERY: Duration = Duration::from_secs(1);

    fn start() -> Self {
        Self { last: Instant::now() }
    }

    fn tick(&mut self, vault: &Vault<PosixStorage>) -> Result<(), VaultError> {
        if self.last.elapsed() < Self::EVERY {
            return Ok(());
        }
        self.last = Instant::now();
        vault.tick()
    }
}

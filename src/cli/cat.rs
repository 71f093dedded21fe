//! `sero cat VAULT PATH...`: the content of files, to standard output, without a mount.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::findings::shown;
use super::opening::Opening;
use super::plain::{self, Found, Stopped};
use super::unlocking::UnlockArguments;
use crate::vault::{FileKind, Mode, PosixStorage, Vault, VaultError};

/// Read and written at a time.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero cat ~/papers.sero notes.txt
  sero cat ~/papers.sero photos/2024.tar | tar t

The vault is opened for reading alone, and not mounted; while it is mounted, use cat(1) there. A
page that does not verify ends the output there, and the exit code is 8.")]
pub(super) struct CatArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// Files, as paths from the top of the vault; symbolic links are followed
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &CatArguments, context: &Context) -> Result<()> {
    let vault = open(&arguments.vault, &arguments.unlock, context)?;
    let mut out = io::stdout().lock();
    for path in &arguments.paths {
        match copy(&vault, path, &mut out) {
            Ok(()) => {}
            // Whoever reads has enough.
            Err(Stopped::Output(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(Stopped::Output(error)) => {
                return Err(Failure::other(format!("standard output: {error}; see to where it goes")));
            }
            Err(Stopped::Vault(error)) => return Err(about(error, path)),
        }
    }
    match out.flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::other(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

/// The vault, for reading alone.
pub(super) fn open(
    path: &Path,
    unlock: &UnlockArguments,
    context: &Context,
) -> Result<std::sync::Arc<Vault<PosixStorage>>> {
    let opening = Opening::find(path, context)?;
    opening.check_free(Mode::ReadOnly)?;
    let keys = unlock.unlock(&opening, context)?;
    super::daemon::harden();
    opening.open(keys, Mode::ReadOnly)
}

/// With the plain path in front.
pub(super) fn about(error: VaultError, path: &Path) -> Failure {
    use std::os::unix::ffi::OsStrExt;
    let name = shown(path.as_os_str().as_bytes());
    if let VaultError::Io { source, .. } = &error {
        let what = match source.raw_os_error() {
            Some(libc::ENOENT) => Some("there is no such file in the vault"),
            Some(libc::ENOTDIR) => Some("something on the way is no directory"),
            Some(libc::ELOOP) => Some("too many symbolic links"),
            Some(libc::EISDIR) => Some("this is a directory; `sero ls` lists it"),
            _ => None,
        };
        if let Some(what) = what {
            return Failure::new(ExitCode::Other, format!("{name}: {what}"));
        }
    }
    Failure::from(error).about(name)
}

fn copy(vault: &Vault<PosixStorage>, path: &Path, out: &mut impl Write) -> Result<(), Stopped> {
    let (directory, name) = match plain::find(vault, path, true)? {
        Found::Directory(_) => return Err(Stopped::Vault(plain::errno(libc::EISDIR))),
        Found::Other(directory, name, stat) if stat.kind() == FileKind::Regular => (directory, name),
        Found::Other(..) => return Err(Stopped::Vault(VaultError::NotSupported { what: "a device, FIFO or socket" })),
    };
    let file = directory.open_file(&name)?;
    let mut chunk = Zeroizing::new(vec![0; CHUNK_BYTES]);
    let mut offset_bytes = 0;
    loop {
        let read = match file.read(offset_bytes, &mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) => return last_pages(&file, offset_bytes, error, out),
        };
        out.write_all(chunk.get(..read).unwrap_or_default()).map_err(Stopped::Output)?;
        offset_bytes = offset_bytes.saturating_add(read as u64);
    }
}

/// What verifies before the page that does not.
fn last_pages(
    file: &crate::vault::VaultFile<PosixStorage>,
    mut offset_bytes: u64,
    error: VaultError,
    out: &mut impl Write,
) -> Result<(), Stopped> {
    let mut page = Zeroizing::new([0; 4096]);
    while let Ok(read) = file.read(offset_bytes, page.as_mut_slice()) {
        if read == 0 {
            break;
        }
        out.write_all(page.get(..read).unwrap_or_default()).map_err(Stopped::Output)?;
        offset_bytes = offset_bytes.saturating_add(read as u64);
    }
    Err(Stopped::Vault(error))
}

//! Paths of the command line.

use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};

/// The canonical path of an existing vault's directory; by it the vault is known as a mount's source.
pub(super) fn vault(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let failed = |code, what: &str| Failure::new(code, format!("{shown}: {what}"));
    let canonical = fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            failed(ExitCode::NotAVault, "there is no such directory; `sero create` makes a vault")
        }
        io::ErrorKind::PermissionDenied => {
            failed(ExitCode::BackingIo, "access is denied; use the vault as the user whose it is, or as root")
        }
        _ => failed(ExitCode::BackingIo, &format!("cannot be opened: {error}; check the filesystem it is on")),
    })?;
    if canonical.is_dir() {
        Ok(canonical)
    } else {
        Err(failed(ExitCode::NotAVault, "this is not a directory; a vault is the directory that `sero create` made"))
    }
}

/// Absolute, without asking the filesystem.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    path::absolute(path).map_err(|error| Failure::other(format!("{}: {error}", path.display())))
}

/// Canonical as far as this can be found without touching the path's last component, which may be a
/// mountpoint that nobody answers for.
pub(super) fn canonical_parent(path: &Path) -> Option<PathBuf> {
    let absolute = path::absolute(path).ok()?;
    let parent = fs::canonicalize(absolute.parent()?).ok()?;
    Some(parent.join(absolute.file_name()?))
}

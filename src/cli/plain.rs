//! Paths in a vault that is open in this process, without a mount: for `cat` and `ls`.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::vault::{Directory, FileKind, PosixStorage, Stat, Vault, VaultError};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// Why an output ended early.
pub(super) enum Stopped {
    Vault(VaultError),
    Output(io::Error),
}

impl From<VaultError> for Stopped {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// What a path leads to.
pub(super) enum Found {
    Directory(Arc<Directory<PosixStorage>>),
    /// Anything else: where it is, its name there, its attributes.
    Other(Arc<Directory<PosixStorage>>, Vec<u8>, Box<Stat>),
}

/// Follows a path from the top of the vault, as the kernel would below a mountpoint: symbolic links on the way, and the
/// last one too if `follow`; an absolute target begins at the top of the vault.
pub(super) fn find(vault: &Vault<PosixStorage>, path: &Path, follow: bool) -> Result<Found, VaultError> {
    let mut pending: Vec<Vec<u8>> = names(path.as_os_str().as_bytes());
    let mut above = vec![vault.root()];
    let mut links = 0_usize;
    while let Some(name) = pending.pop() {
        let here = above.last().cloned().unwrap_or_else(|| vault.root());
        if name == b".." {
            if above.len() > 1 {
                above.pop();
            }
            continue;
        }
        let stat = here.lookup(&name)?;
        match stat.kind() {
            FileKind::Directory => above.push(here.open_child(&name)?),
            FileKind::Symlink if follow || !pending.is_empty() => {
                links = links.saturating_add(1);
                if links > LINKS_MAX {
                    return Err(errno(libc::ELOOP));
                }
                let target = here.read_symlink(&name)?;
                if target.starts_with(b"/") {
                    above.truncate(1);
                }
                pending.extend(names(&target));
            }
            _ if pending.is_empty() => return Ok(Found::Other(here, name, Box::new(stat))),
            _ => return Err(errno(libc::ENOTDIR)),
        }
    }
    Ok(Found::Directory(above.pop().unwrap_or_else(|| vault.root())))
}

/// The names of a path, the last one first.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

pub(super) fn errno(errno: i32) -> VaultError {
    VaultError::io("follow the path", std::io::Error::from_raw_os_error(errno))
}

//! Where a file of the journal is: by its path, or by its inode if it had no name that was known.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use crate::storage::{FileKind, Storage};
use crate::vault::directory::{Directory, Location};
use crate::vault::error::{Result, VaultError};

/// What the journal names a file by: path, NUL, inode number. The inode tells it from another that has taken its
/// name; the path is empty if the name that was known is gone and others are left.
pub(crate) fn text(path: &str, ino: u64) -> Vec<u8> {
    [path.as_bytes(), b"\0", ino.to_string().as_bytes()].concat()
}

pub(super) fn parse(text: &[u8]) -> (&[u8], Option<u64>) {
    let mut halves = text.splitn(2, |byte| *byte == 0);
    let path = halves.next().unwrap_or_default();
    let ino = halves.next().and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
    (path, ino)
}

/// The place at a path, or of an inode if the path is empty.
pub(super) fn find<S: Storage>(root: &Arc<Directory<S>>, path: &[u8], ino: Option<u64>) -> Result<Option<Location<S>>> {
    match ino {
        Some(ino) if path.is_empty() => Ok(search(root, ino)),
        _ => locate(root, path),
    }
}

/// Looks through the whole tree. What cannot be listed is left out.
fn search<S: Storage>(root: &Arc<Directory<S>>, ino: u64) -> Option<Location<S>> {
    let mut pending = vec![root.clone()];
    while let Some(directory) = pending.pop() {
        let mut below = Vec::new();
        let mut found = None;
        let _ = directory.list(0, &mut |entry| {
            match entry.kind {
                FileKind::Directory => below.push(entry.name.to_vec()),
                _ if entry.ino == ino => found = Some(entry.name.to_vec()),
                _ => {}
            }
            found.is_none()
        });
        if let Some(location) = found.and_then(|name| directory.locate(&name).ok()) {
            return Some(location);
        }
        pending.extend(below.iter().filter_map(|name| directory.open_child(name).ok()));
    }
    None
}

/// The place at a path of the backing, if its directories are there.
fn locate<S: Storage>(root: &Arc<Directory<S>>, path: &[u8]) -> Result<Option<Location<S>>> {
    let mut names: Vec<OsString> =
        path.split(|byte| *byte == b'/').skip(1).map(|name| OsString::from_vec(name.to_vec())).collect();
    let Some(entry) = names.pop() else { return Ok(None) };
    let mut directory = root.clone();
    for name in names {
        match directory.open_entry(&name) {
            Ok(below) => directory = below,
            Err(VaultError::Io { source, .. })
                if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Location { directory, entry }))
}

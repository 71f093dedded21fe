//! Where a file of the journal is: by its path, or, if it had no name that was known, by its header.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use crate::format::geometry::HEADER_LEN;
use crate::format::header::{Header, Salt};
use crate::storage::{FileKind, Storage, read_into};
use crate::vault::core::VaultCore;
use crate::vault::directory::{Directory, Location};
use crate::vault::error::{Result, VaultError};
use crate::vault::file::replay::Plan;

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

/// Where files are that the journal has no name for.
pub(super) struct Nameless<S: Storage> {
    by_salt: HashMap<Salt, Location<S>>,
    by_ino: HashMap<u64, Location<S>>,
}

impl<S: Storage> Nameless<S> {
    /// By what stands at the start of its header; by its inode, which is another in a copy of the vault, only where no
    /// header is found that could be it: then it was torn.
    pub fn of(&self, plan: &Plan) -> Option<Location<S>> {
        let by_salt = plan.identities.iter().rev().find_map(|(salt, _)| self.by_salt.get(salt));
        by_salt.or_else(|| plan.ino.and_then(|ino| self.by_ino.get(&ino))).cloned()
    }
}

/// Looks for files through the whole tree, for all of them at once. What cannot be listed or read is left out.
pub(super) fn search<'a, S: Storage>(
    core: &VaultCore<S>,
    root: &Arc<Directory<S>>,
    plans: impl Iterator<Item = &'a Plan>,
) -> Nameless<S> {
    let mut found = Nameless { by_salt: HashMap::new(), by_ino: HashMap::new() };
    let (mut salts, mut inodes) = (HashSet::new(), HashSet::new());
    for plan in plans {
        salts.extend(plan.identities.iter().map(|(salt, _)| *salt));
        inodes.extend(plan.ino);
    }
    let mut pending = if salts.is_empty() { Vec::new() } else { vec![root.clone()] };
    while let Some(directory) = pending.pop() {
        let (mut below, mut files) = (Vec::new(), Vec::new());
        let _ = directory.list(0, &mut |entry| {
            match entry.kind {
                FileKind::Directory => below.push(entry.name.to_vec()),
                FileKind::Regular | FileKind::Unknown => files.push((entry.name.to_vec(), entry.ino)),
                _ => {}
            }
            true
        });
        for (name, ino) in files {
            let Ok(location) = directory.locate(&name) else { continue };
            if let Some(salt) = read_salt(core, &location).filter(|salt| salts.contains(salt)) {
                found.by_salt.insert(salt, location.clone());
            }
            if inodes.contains(&ino) {
                found.by_ino.insert(ino, location);
            }
        }
        pending.extend(below.iter().filter_map(|name| directory.open_child(name).ok()));
    }
    found
}

fn read_salt<S: Storage>(core: &VaultCore<S>, location: &Location<S>) -> Option<Salt> {
    let file = location.open_backing(&location.stat().ok()?).ok()?;
    let mut start = [0; HEADER_LEN];
    let read = read_into(&core.storage, &file, &mut start, 0).ok()?;
    Header::salt(start.get(..read)?).ok()
}

/// The place at a path of the backing, if its directories are there.
pub(super) fn locate<S: Storage>(root: &Arc<Directory<S>>, path: &[u8]) -> Result<Option<Location<S>>> {
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

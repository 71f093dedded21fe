//! Where a file of the journal is: by its path, or, if it had no name that was known, by its header.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use crate::format::geometry::HEADER_LEN;
use crate::format::header::{Header, Salt};
use crate::storage::{FileKind, Stat, Storage, read_into};
use crate::vault::core::VaultCore;
use crate::vault::directory::{Directory, Location};
use crate::vault::error::{Result, VaultError};
use crate::vault::file::replay::Plan;

/// What the journal names a file by: path, NUL, inode number, and NUL and "+" if it has other names, too. The inode tells
/// it from another that has taken its name; the path is empty if the name that was known is gone and others are left, or if it is
/// longer than some kilobytes.
pub(crate) fn text(path: &str, ino: u64, has_other_names: bool) -> Vec<u8> {
    let others: &[u8] = if has_other_names { b"\0+" } else { b"" };
    [path.as_bytes(), b"\0", ino.to_string().as_bytes(), others].concat()
}

/// What [`text`] says.
pub(super) struct Named<'a> {
    pub path: Option<&'a [u8]>,
    pub ino: Option<u64>,
    pub has_other_names: bool,
}

pub(super) fn parse(text: &[u8]) -> Named<'_> {
    let mut parts = text.splitn(3, |byte| *byte == 0);
    let path = parts.next().filter(|path| !path.is_empty());
    let ino = parts.next().and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
    let has_other_names = path.is_none() || parts.next() == Some(b"+");
    Named { path, ino, has_other_names }
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

/// Looks for files through the whole tree, for all of them at once. What does not verify is passed over; what cannot be
/// read is an error, as it could be one of them.
pub(super) fn search<'a, S: Storage>(
    core: &VaultCore<S>,
    root: &Arc<Directory<S>>,
    plans: impl Iterator<Item = &'a Plan>,
) -> Result<Nameless<S>> {
    let mut found = Nameless { by_salt: HashMap::new(), by_ino: HashMap::new() };
    let (mut salts, mut inodes) = (HashSet::new(), HashSet::new());
    for plan in plans {
        salts.extend(plan.identities.iter().map(|(salt, _)| *salt));
        inodes.extend(plan.ino);
    }
    let mut pending = if salts.is_empty() { Vec::new() } else { vec![root.clone()] };
    while let Some(directory) = pending.pop() {
        let (mut below, mut files) = (Vec::new(), Vec::new());
        let listed = directory.list(0, &mut |entry| {
            match entry.kind {
                FileKind::Directory => below.push(entry.name.to_vec()),
                FileKind::Regular | FileKind::Unknown => files.push((entry.name.to_vec(), entry.ino)),
                _ => {}
            }
            true
        });
        readable(listed)?;
        for (name, ino) in files {
            let Some(location) = readable(directory.locate(&name))? else { continue };
            if let Some(salt) = read_salt(core, &location)?.filter(|salt| salts.contains(salt)) {
                found.by_salt.insert(salt, location.clone());
            }
            if inodes.contains(&ino) {
                found.by_ino.insert(ino, location);
            }
        }
        for name in below {
            pending.extend(readable(directory.open_child(&name))?);
        }
    }
    Ok(found)
}

fn read_salt<S: Storage>(core: &VaultCore<S>, location: &Location<S>) -> Result<Option<Salt>> {
    let Some(stat) = stat(location)?.filter(|stat| stat.kind() == FileKind::Regular) else { return Ok(None) };
    let Some(file) = readable(location.open_backing(&stat))? else { return Ok(None) };
    let mut start = [0; HEADER_LEN];
    let read = read_into(&core.storage, &file, &mut start, 0).map_err(|e| VaultError::io("read a file", e))?;
    Ok(start.get(..read).and_then(|start| Header::salt(start).ok()))
}

/// The attributes of what is at a place, if anything is.
pub(super) fn stat<S: Storage>(location: &Location<S>) -> Result<Option<Stat>> {
    there(location.stat())
}

/// None: it is not there, or does not verify.
fn readable<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(VaultError::Integrity(_)) => Ok(None),
        outcome => there(outcome),
    }
}

/// None: it is not there. Any other error may go away, and what it hides with it: so it ends the recovery, which the
/// next mount begins anew.
fn there<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(VaultError::Io { source, .. })
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The place at a path of the backing, if its directories are there.
pub(super) fn locate<S: Storage>(root: &Arc<Directory<S>>, path: &[u8]) -> Result<Option<Location<S>>> {
    let mut names: Vec<OsString> =
        path.split(|byte| *byte == b'/').skip(1).map(|name| OsString::from_vec(name.to_vec())).collect();
    let Some(entry) = names.pop() else { return Ok(None) };
    let mut directory = root.clone();
    for name in names {
        let Some(below) = there(directory.open_entry(&name))? else { return Ok(None) };
        directory = below;
    }
    Ok(Some(Location { directory, entry }))
}

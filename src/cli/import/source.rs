//! The tree that is imported, as the kernel shows it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Result};
use crate::vault::{FileKind, Timestamp, XattrTable};

/// An entry of a source directory.
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) metadata: Metadata,
}

/// The entries of a directory in the order of their names, so that two runs go the same way.
pub(super) fn entries(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = fs::read_dir(directory)?
        .map(|entry| {
            let entry = entry?;
            Ok(Entry { name: entry.file_name(), metadata: entry.metadata()? })
        })
        .collect::<io::Result<Vec<Entry>>>()?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The length of all regular files below, for the progress: what cannot be read counts nothing.
pub(super) fn len_bytes(directory: &Path) -> u64 {
    let mut len: u64 = 0;
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in entries(&directory).unwrap_or_default() {
            match kind(&entry.metadata) {
                FileKind::Directory => pending.push(directory.join(&entry.name)),
                FileKind::Regular => len = len.saturating_add(entry.metadata.len()),
                _ => {}
            }
        }
    }
    len
}

pub(super) fn kind(metadata: &Metadata) -> FileKind {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => FileKind::Regular,
        () if kind.is_dir() => FileKind::Directory,
        () if kind.is_symlink() => FileKind::Symlink,
        () if kind.is_fifo() => FileKind::Fifo,
        () if kind.is_socket() => FileKind::Socket,
        () if kind.is_char_device() => FileKind::CharDevice,
        () if kind.is_block_device() => FileKind::BlockDevice,
        () => FileKind::Unknown,
    }
}

pub(super) fn accessed(metadata: &Metadata) -> Timestamp {
    Timestamp { seconds: metadata.atime(), nanoseconds: u32::try_from(metadata.atime_nsec()).unwrap_or(0) }
}

pub(super) fn modified(metadata: &Metadata) -> Timestamp {
    Timestamp { seconds: metadata.mtime(), nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) }
}

/// Extended attributes: those that the vault seals, and the access control lists, which it keeps as they are.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) table: XattrTable,
    pub(super) access: Option<Vec<u8>>,
    pub(super) default: Option<Vec<u8>>,
}

/// Of the file itself, also if it is a symbolic link. What the filesystem does not offer, there is none of.
pub(super) fn attributes(path: &Path) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    let mut list = vec![0; 1 << 16];
    let used = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(used) => used,
        Err(rustix::io::Errno::NOTSUP) => return Ok(attributes),
        Err(error) => return Err(error.into()),
    };
    for name in list[..used].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; 1 << 16];
        let len = match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(len) => len,
            // Gone since, or not for this user.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::PERM) => continue,
            Err(error) => return Err(error.into()),
        };
        value.truncate(len);
        match name.as_bytes() {
            b"system.posix_acl_access" => attributes.access = Some(value),
            b"system.posix_acl_default" => attributes.default = Some(value),
            // The label of the source's filesystem says nothing about the vault's files.
            b"security.selinux" => {}
            name if [&b"user."[..], b"trusted.", b"security."].iter().any(|prefix| name.starts_with(prefix)) => {
                attributes.table.insert(name, &value);
            }
            _ => {}
        }
    }
    Ok(attributes)
}

/// The names that a path inside the vault consists of. The top is none.
pub(super) fn components(path: &Path) -> Result<Vec<Vec<u8>>> {
    path.components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .map(|component| match component {
            Component::Normal(name) => Ok(name.to_owned().into_vec()),
            _ => Err(Failure::new(
                ExitCode::Usage,
                format!("{}: a path inside the vault has no `..`; write it from the vault's top", path.display()),
            )),
        })
        .collect()
}

//! The tree that is imported. What is looked at is held open from then on, and reached through that alone: whatever
//! takes its name later, a symbolic link to elsewhere for one, is not met. (What is compared in the end is opened once more.)

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Result};
use crate::vault::{FileKind, Timestamp, XattrTable};

/// A file, directory or anything else of the source.
pub(super) struct Node {
    /// `O_PATH`: a FIFO does not wait for its other end, and a device notices nothing.
    handle: File,
    pub(super) metadata: Metadata,
}

impl Node {
    /// What has this name in the directory; itself if it is a symbolic link.
    pub(super) fn open(directory: impl AsFd, name: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
        Ok(Self { metadata: handle.metadata()?, handle })
    }

    /// What has this name in this directory. None: nothing any more.
    pub(super) fn child(&self, name: &OsStr) -> io::Result<Option<Self>> {
        match Self::open(&self.handle, Path::new(name)) {
            Ok(child) => Ok(Some(child)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn kind(&self) -> FileKind {
        FileKind::from_mode(self.metadata.mode())
    }

    /// The names in the directory in their order, so that two runs go the same way.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = fs::read_dir(self.path())?;
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<OsString>>>()?;
        names.sort();
        Ok(names)
    }

    /// The content of the regular file.
    pub(super) fn file(&self) -> io::Result<File> {
        File::open(self.path())
    }

    /// The target of the symbolic link.
    pub(super) fn target(&self) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.handle, "", Vec::new())?.into_bytes())
    }

    /// What the filesystem does not offer, there is none of.
    pub(super) fn attributes(&self) -> io::Result<Attributes> {
        let path = self.path();
        let mut attributes = Attributes::default();
        let mut list = vec![0; 1 << 16];
        let used = match rustix::fs::listxattr(&path, &mut list[..]) {
            Ok(used) => used,
            Err(rustix::io::Errno::NOTSUP) => return Ok(attributes),
            Err(error) => return Err(error.into()),
        };
        for name in list[..used].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = OsStr::from_bytes(name);
            let mut value = vec![0; 1 << 16];
            let len = match rustix::fs::getxattr(&path, name, &mut value[..]) {
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

    /// Leads to the node itself, also if that is a symbolic link.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd()).into()
    }
}

/// The length of all regular files below, for the progress: what cannot be read counts nothing.
pub(super) fn len_bytes(directory: &Path) -> u64 {
    let mut len: u64 = 0;
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                Ok(metadata) if metadata.is_file() => len = len.saturating_add(metadata.len()),
                _ => {}
            }
        }
    }
    len
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

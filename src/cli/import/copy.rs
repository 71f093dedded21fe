//! The first half of an import: making in the vault what the source has.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::SeekFrom;

use super::source::{self, Entry};
use super::{Place, Tally, Ticker, Work, is_missing};
use crate::vault::{
    AclKind, FileKind, NewInode, NodeRef, PosixStorage, RenameMode, SetTime, Stat, Vault, VaultError, VaultFile,
};

/// A file is written under this name until it is whole. One at a time, so one name will do.
const UNFINISHED: &[u8] = b".sero-import";
const CHUNK_BYTES: usize = 1 << 20;

/// Why one file was left out.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("{0}")]
    Source(#[from] io::Error),
    #[error("{0}")]
    Vault(#[from] VaultError),
    #[error("something else has this name in the vault; `--replace` replaces it")]
    Differs,
    #[error("a directory in the vault has this name; move it away")]
    IsDirectory,
    #[error("it changed while it was copied")]
    Changed,
}

pub(super) struct Copier<'a> {
    vault: &'a Arc<Vault<PosixStorage>>,
    work: &'a Work,
    replace: bool,
    /// Root keeps owners; others own what they make.
    keeps_owners: bool,
    tally: &'a mut Tally,
    ticker: Ticker,
    /// Files with several names, by the source's device and inode: where the first one went.
    links: HashMap<(u64, u64), (Place, Vec<u8>)>,
    buffer: Vec<u8>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        vault: &'a Arc<Vault<PosixStorage>>,
        work: &'a Work,
        replace: bool,
        tally: &'a mut Tally,
    ) -> Self {
        Self {
            vault,
            work,
            replace,
            keeps_owners: rustix::process::geteuid().is_root(),
            tally,
            ticker: Ticker::start(),
            links: HashMap::new(),
            buffer: vec![0; CHUNK_BYTES],
        }
    }

    /// Copies what is in the directory. Fails only if the vault does; what cannot be copied is said and left out.
    pub(super) fn directory(&mut self, path: &Path, place: &Place) -> Result<(), VaultError> {
        let entries = match source::entries(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.work.problem(self.tally, path, &error);
                return Ok(());
            }
        };
        if let Err(error) = place.unlink(UNFINISHED)
            && !is_missing(&error)
        {
            return Err(error);
        }
        for entry in entries {
            if self.work.is_to_stop() {
                self.tally.stopped = true;
                return Ok(());
            }
            self.ticker.tick(self.vault)?;
            let below = path.join(&entry.name);
            match self.entry(&below, &entry, place) {
                Ok(()) => {}
                Err(CopyError::Vault(error)) if is_fatal(&error, self.vault) => return Err(error),
                Err(error) => self.work.problem(self.tally, &below, &error),
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, entry: &Entry, place: &Place) -> Result<(), CopyError> {
        let (name, metadata) = (entry.name.as_bytes(), &entry.metadata);
        let kind = source::kind(metadata);
        let there = match place.lookup(name) {
            Ok(stat) => Some(stat),
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(error.into()),
        };
        if kind == FileKind::Directory {
            return self.subdirectory(path, name, metadata, place, there);
        }
        if let Some(stat) = &there {
            if self.is_copied(path, name, metadata, place, stat)? {
                self.remember(metadata, place, name);
                if kind == FileKind::Regular {
                    self.tally.there += 1;
                    self.tally.len += metadata.len();
                    self.work.progress.advance(metadata.len());
                }
                return Ok(());
            }
            if stat.kind() == FileKind::Directory {
                return Err(CopyError::IsDirectory);
            }
            // What a crash cut short has the source's time, and not its length.
            let is_rest = kind == FileKind::Regular && stat.kind() == kind && stat.mtime == source::modified(metadata);
            if !self.replace && !is_rest {
                return Err(CopyError::Differs);
            }
        }
        if metadata.nlink() > 1
            && let Some((first, first_name)) = self.links.get(&(metadata.dev(), metadata.ino()))
        {
            if there.is_some() {
                place.unlink(name)?;
            }
            first.link(first_name, place, name)?;
            return Ok(());
        }
        self.make(path, kind, metadata, place)?;
        place.rename(UNFINISHED, place, name, RenameMode::Replace)?;
        self.remember(metadata, place, name);
        Ok(())
    }

    fn subdirectory(
        &mut self,
        path: &Path,
        name: &[u8],
        metadata: &Metadata,
        place: &Place,
        there: Option<Stat>,
    ) -> Result<(), CopyError> {
        let below = match there {
            Some(stat) if stat.kind() == FileKind::Directory => place.open_child(name)?,
            Some(_) => return Err(CopyError::Differs),
            None => place.make_dir(name, &NewInode { mode: 0o700, uid: None, gid: None })?.1,
        };
        self.directory(path, &below)?;
        self.dress(path, metadata, NodeRef::Directory(&below), FileKind::Directory)
    }

    /// Whether an earlier import brought it here.
    fn is_copied(
        &self,
        path: &Path,
        name: &[u8],
        metadata: &Metadata,
        place: &Place,
        there: &Stat,
    ) -> Result<bool, CopyError> {
        let kind = source::kind(metadata);
        if there.kind() != kind {
            return Ok(false);
        }
        Ok(match kind {
            FileKind::Regular => there.size_bytes == metadata.len() && there.mtime == source::modified(metadata),
            FileKind::Symlink => place.read_symlink(name)? == fs::read_link(path)?.as_os_str().as_bytes(),
            FileKind::CharDevice | FileKind::BlockDevice => there.rdev == metadata.rdev(),
            FileKind::Fifo | FileKind::Socket | FileKind::Directory | FileKind::Unknown => true,
        })
    }

    /// Makes it, whole and dressed, under the name [`UNFINISHED`].
    fn make(&mut self, path: &Path, kind: FileKind, metadata: &Metadata, place: &Place) -> Result<(), CopyError> {
        let inode = |mode| NewInode { mode, uid: None, gid: None };
        match kind {
            FileKind::Regular => {
                let (_, file) = place.make_file(UNFINISHED, &inode(0o600))?;
                let copied = self.content(path, metadata, &file).and_then(|()| {
                    self.dress(path, metadata, NodeRef::File(&file), kind)?;
                    Ok(file.commit()?)
                });
                if copied.is_err() {
                    // A half file has no place there.
                    let _ = place.unlink(UNFINISHED);
                }
                copied?;
                self.tally.files += 1;
                self.tally.len += metadata.len();
            }
            FileKind::Symlink => {
                let target = fs::read_link(path)?;
                place.make_symlink(UNFINISHED, target.as_os_str().as_bytes(), &inode(0o777))?;
                self.dress(path, metadata, NodeRef::Entry(place, UNFINISHED), kind)?;
            }
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                place.make_node(UNFINISHED, &inode(metadata.mode()), metadata.rdev())?;
                self.dress(path, metadata, NodeRef::Entry(place, UNFINISHED), kind)?;
            }
            FileKind::Directory | FileKind::Unknown => {
                return Err(io::Error::other("it is of a kind that cannot be copied").into());
            }
        }
        Ok(())
    }

    fn content(&mut self, path: &Path, metadata: &Metadata, to: &VaultFile<PosixStorage>) -> Result<(), CopyError> {
        let from = File::open(path)?;
        let len = metadata.len();
        let mut at = 0;
        // Holes stay holes. Where the filesystem cannot tell, all is data.
        while let Some((start, end)) = data_from(&from, at, len)? {
            at = start;
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buffer.len());
                let Some(chunk) = self.buffer.get_mut(..wanted) else { break };
                from.read_exact_at(chunk, at).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => CopyError::Changed,
                    _ => error.into(),
                })?;
                to.write(at, chunk)?;
                at += wanted as u64;
                self.tally.bytes += wanted as u64;
                self.work.progress.advance(wanted as u64);
                self.ticker.tick(self.vault)?;
            }
        }
        if to.len_bytes() < len {
            to.truncate(len)?;
        }
        let now = from.metadata()?;
        if now.len() != len || source::modified(&now) != source::modified(metadata) {
            return Err(CopyError::Changed);
        }
        Ok(())
    }

    /// Owner before mode, which the change of an owner may narrow; times last, which everything else changes.
    fn dress(
        &self,
        path: &Path,
        metadata: &Metadata,
        node: NodeRef<'_, PosixStorage>,
        kind: FileKind,
    ) -> Result<(), CopyError> {
        let attributes = source::attributes(path)?;
        if self.keeps_owners {
            self.vault.set_owner(node, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        if kind != FileKind::Symlink {
            self.vault.set_mode(node, metadata.mode() & 0o7777)?;
        }
        if !attributes.table.is_empty() {
            self.vault.set_xattrs(node, kind, &attributes.table)?;
        }
        if let Some(list) = &attributes.access {
            self.vault.set_acl(node, AclKind::Access, list)?;
        }
        if let Some(list) = &attributes.default {
            self.vault.set_acl(node, AclKind::Default, list)?;
        }
        let (accessed, modified) = (source::accessed(metadata), source::modified(metadata));
        Ok(self.vault.set_times(node, SetTime::To(accessed), SetTime::To(modified))?)
    }

    fn remember(&mut self, metadata: &Metadata, place: &Place, name: &[u8]) {
        if metadata.nlink() > 1 && !metadata.is_dir() {
            self.links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| (Arc::clone(place), name.to_vec()));
        }
    }
}

/// The next run of data at or after `at`, up to `len`. None: holes up to the end.
fn data_from(file: &File, at: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= len {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => return Ok(Some((at, len))),
        Err(error) => return Err(error.into()),
    };
    if start >= len {
        return Ok(None);
    }
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(len))))
}

/// An error that the next file would get, too.
fn is_fatal(error: &VaultError, vault: &Vault<PosixStorage>) -> bool {
    vault.is_read_only() || matches!(error, VaultError::NoSpace { .. }) || error.is_full() || error.is_errno(libc::EIO)
}

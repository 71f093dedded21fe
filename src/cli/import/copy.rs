//! The first half of an import: making in the vault what the source has.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::SeekFrom;

use super::compare::is_beginning;
use super::source::{self, Node};
use super::{Place, Tally, Ticker, Work, is_missing};
use crate::vault::{
    AclKind, FileKind, NewInode, NodeRef, PosixStorage, RenameMode, SetTime, Stat, Vault, VaultError, VaultFile,
};

/// What is being brought is called this, and 16 hexadecimal digits of the import's own, until it is whole.
const UNFINISHED: &str = ".sero-import-";
/// The permissions of a directory that is being filled, by which the next import knows it: nobody else gives these.
const UNFINISHED_DIRECTORY: u32 = 0o1700;
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
    #[error("something of another kind has this name in the vault; move it away")]
    InTheWay,
    #[error("its attributes cannot be kept in the vault: {0}")]
    Attributes(VaultError),
    #[error("it changed during the import")]
    Changed,
}

/// A regular file that is in the vault by now under the source's name.
pub(super) struct Imported {
    /// In the source.
    pub(super) path: PathBuf,
    pub(super) place: Place,
}

/// What has a name in the vault that something in the source has, too.
enum Found {
    /// An earlier import brought it here, or somebody else the same.
    Same,
    /// Nothing, or no more than the source's beginning.
    Beginning,
    Other,
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
    pub(super) files: Vec<Imported>,
    unfinished: Vec<u8>,
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
            files: Vec::new(),
            unfinished: format!("{UNFINISHED}{:016x}", rand::random::<u64>()).into_bytes(),
            buffer: vec![0; CHUNK_BYTES],
        }
    }

    /// Copies what is in the directory. Fails only if the vault does; what cannot be copied is said and left out.
    pub(super) fn directory(&mut self, path: &Path, source: &Node, place: &Place) -> Result<(), VaultError> {
        let names = match source.names() {
            Ok(names) => names,
            Err(error) => {
                self.work.problem(self.tally, path, &error);
                return Ok(());
            }
        };
        remove_leftovers(place);
        for name in names {
            if self.work.is_to_stop() {
                self.tally.stopped = true;
                return Ok(());
            }
            self.ticker.tick(self.vault)?;
            let below = path.join(&name);
            let outcome = match source.child(&name) {
                Ok(Some(child)) => self.entry(&below, name.as_bytes(), &child, place),
                // Gone since, as temporary files go.
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            match outcome {
                Ok(()) => {}
                Err(CopyError::Vault(error)) if is_fatal(&error, self.vault) => return Err(error),
                Err(error) => self.work.problem(self.tally, &below, &error),
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &[u8], source: &Node, place: &Place) -> Result<(), CopyError> {
        let metadata = &source.metadata;
        let there = match place.lookup(name) {
            Ok(stat) => Some(stat),
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(error.into()),
        };
        if source.kind() == FileKind::Directory {
            return self.subdirectory(path, name, source, place, there);
        }
        let found = there.as_ref().map_or(Ok(Found::Beginning), |stat| self.compare(source, place, name, stat))?;
        match found {
            Found::Same => {}
            Found::Other if there.is_some_and(|stat| stat.kind() == FileKind::Directory) => {
                return Err(CopyError::InTheWay);
            }
            Found::Other if !self.replace => return Err(CopyError::Differs),
            Found::Beginning | Found::Other => self.bring(source, place, name)?,
        }
        if metadata.nlink() > 1 {
            self.links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| (Arc::clone(place), name.to_vec()));
        }
        if source.kind() == FileKind::Regular {
            match found {
                Found::Same => {
                    self.tally.there += 1;
                    self.work.progress.advance(metadata.len());
                }
                Found::Beginning | Found::Other => self.tally.files += 1,
            }
            self.tally.len += metadata.len();
            self.files.push(Imported { path: path.to_owned(), place: Arc::clone(place) });
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        path: &Path,
        name: &[u8],
        source: &Node,
        place: &Place,
        there: Option<Stat>,
    ) -> Result<(), CopyError> {
        let below = match there {
            Some(stat) if stat.kind() == FileKind::Directory => place.open_child(name)?,
            Some(_) => return Err(CopyError::InTheWay),
            None => place.make_dir(name, &NewInode { mode: UNFINISHED_DIRECTORY, uid: None, gid: None })?.1,
        };
        self.directory(path, source, &below)?;
        if self.tally.stopped {
            return Ok(());
        }
        let node = NodeRef::Directory(&below);
        match there {
            // The setgid bit is inherited.
            Some(stat) if !self.replace && stat.mode & 0o5777 != UNFINISHED_DIRECTORY => {
                let modified = source::modified(&source.metadata);
                // If it was as in the source, from an import that had left something out, so it shall be.
                if stat.mtime == modified {
                    self.vault.set_times(node, SetTime::Keep, SetTime::To(modified))?;
                }
                Ok(())
            }
            _ => self.dress(source, node),
        }
    }

    /// What is in the vault under the name of something that is not a directory.
    fn compare(&self, source: &Node, place: &Place, name: &[u8], there: &Stat) -> Result<Found, CopyError> {
        if there.kind() != source.kind() {
            return Ok(Found::Other);
        }
        let metadata = &source.metadata;
        let is_same = match source.kind() {
            FileKind::Regular => {
                let is_as_long = there.size_bytes == metadata.len();
                let is_as_old = there.mtime == source::modified(metadata);
                if is_as_long == is_as_old {
                    // What is there with size and time is compared at the end, like the rest.
                    is_as_long
                } else {
                    // The vault's backing may keep times less exactly. And a power cut leaves the beginning of a file.
                    let ours = place.open_file(name).map_err(CopyError::from);
                    return match ours.and_then(|ours| is_beginning(&ours, &mut source.file()?, |_| ())) {
                        Ok(true) if is_as_long => Ok(Found::Same),
                        Ok(true) => Ok(Found::Beginning),
                        // What is damaged is not the same.
                        Ok(false) | Err(CopyError::Vault(VaultError::Integrity(_))) => Ok(Found::Other),
                        Err(error) => Err(error),
                    };
                }
            }
            FileKind::Symlink => place.read_symlink(name)? == source.target()?,
            FileKind::CharDevice | FileKind::BlockDevice => there.rdev == metadata.rdev(),
            FileKind::Fifo | FileKind::Socket | FileKind::Directory | FileKind::Unknown => true,
        };
        Ok(if is_same { Found::Same } else { Found::Other })
    }

    /// Puts it under its name when it is whole.
    fn bring(&mut self, source: &Node, place: &Place, name: &[u8]) -> Result<(), CopyError> {
        let brought = self.make(source, place).and_then(|()| {
            place.rename(&self.unfinished, place, name, RenameMode::Replace)?;
            Ok(())
        });
        if brought.is_err() {
            let _ = place.unlink(&self.unfinished);
        }
        brought
    }

    /// Makes it, whole and dressed, under the import's own name. May leave something by halves if it fails.
    fn make(&mut self, source: &Node, place: &Place) -> Result<(), CopyError> {
        let metadata = &source.metadata;
        let inode = |mode| NewInode { mode, uid: None, gid: None };
        if metadata.nlink() > 1
            && let Some((first, first_name)) = self.links.get(&(metadata.dev(), metadata.ino()))
        {
            first.link(first_name, place, &self.unfinished)?;
            return Ok(());
        }
        match source.kind() {
            FileKind::Regular => {
                let (_, file) = place.make_file(&self.unfinished, &inode(0o600))?;
                self.content(source, &file)?;
                self.dress(source, NodeRef::File(&file))?;
                Ok(file.commit()?)
            }
            FileKind::Symlink => {
                place.make_symlink(&self.unfinished, &source.target()?, &inode(0o777))?;
                self.dress(source, NodeRef::Entry(place, &self.unfinished))
            }
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                place.make_node(&self.unfinished, &inode(metadata.mode()), metadata.rdev())?;
                self.dress(source, NodeRef::Entry(place, &self.unfinished))
            }
            FileKind::Directory | FileKind::Unknown => {
                Err(io::Error::other("it is of a kind that cannot be copied").into())
            }
        }
    }

    fn content(&mut self, source: &Node, to: &VaultFile<PosixStorage>) -> Result<(), CopyError> {
        let from = source.file()?;
        let len = source.metadata.len();
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
        if now.len() != len || source::modified(&now) != source::modified(&source.metadata) {
            return Err(CopyError::Changed);
        }
        Ok(())
    }

    /// Owner before everything that its change may take away; then what may not fit; then the times, which everything else
    /// but the mode changes. A directory that could not be dressed is still unfinished by its mode, which is the last.
    fn dress(&self, source: &Node, node: NodeRef<'_, PosixStorage>) -> Result<(), CopyError> {
        let (metadata, kind) = (&source.metadata, source.kind());
        let attributes = source.attributes()?;
        if self.keeps_owners {
            self.vault.set_owner(node, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        // No room for these is no full disk: the next file has less of them.
        if !attributes.table.is_empty() {
            self.vault.set_xattrs(node, kind, &attributes.table).map_err(CopyError::Attributes)?;
        }
        for (which, list) in [(AclKind::Access, &attributes.access), (AclKind::Default, &attributes.default)] {
            if let Some(list) = list {
                self.vault.set_acl(node, which, list).map_err(CopyError::Attributes)?;
            }
        }
        let (accessed, modified) = (source::accessed(metadata), source::modified(metadata));
        self.vault.set_times(node, SetTime::To(accessed), SetTime::To(modified))?;
        if kind != FileKind::Symlink {
            self.vault.set_mode(node, metadata.mode() & 0o7777)?;
        }
        Ok(())
    }
}

/// What an import that was killed left. What cannot be removed is in nobody's way.
fn remove_leftovers(place: &Place) {
    let mut left = Vec::new();
    let _ = place.list(0, &mut |entry| {
        let digits = entry.name.strip_prefix(UNFINISHED.as_bytes());
        if digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit)) {
            left.push(entry.name.to_vec());
        }
        true
    });
    for name in left {
        if place.lookup(&name).is_ok_and(|stat| stat.kind() == FileKind::Regular) {
            let _ = place.unlink(&name);
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

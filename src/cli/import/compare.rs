//! The second half of an import: every regular file that is in the vault by now is read again, from the source and from
//! the vault, where every page is decrypted and its tag checked.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::copy::{CopyError, Imported};
use super::source::Node;
use super::{Place, Tally, Work};
use crate::vault::{FileKind, PosixStorage, VaultFile};

const CHUNK_BYTES: u64 = 1 << 20;

pub(super) struct Comparison<'a> {
    work: &'a Work,
    tally: &'a mut Tally,
    /// Files with several names that are equal: the source's device and inode, and the vault's inode.
    seen: HashSet<(u64, u64, u64)>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(work: &'a Work, tally: &'a mut Tally) -> Self {
        Self { work, tally, seen: HashSet::new() }
    }

    pub(super) fn all(&mut self, files: &[Imported]) {
        for Imported { path, place } in files {
            if self.work.is_to_stop() {
                self.tally.stopped = true;
                return;
            }
            match self.is_equal(path, place) {
                Ok(true) => self.tally.compared += 1,
                Ok(false) => self.work.problem(
                    self.tally,
                    path,
                    &"the file in the vault differs from it; remove it there, and import again",
                ),
                Err(error) => self.work.problem(self.tally, path, &error),
            }
        }
    }

    fn is_equal(&mut self, path: &Path, place: &Place) -> Result<bool, CopyError> {
        let source = Node::open(rustix::fs::CWD, path)?;
        if source.kind() != FileKind::Regular {
            return Err(CopyError::Changed);
        }
        let ours = place.open_file(path.file_name().unwrap_or_default().as_bytes())?;
        let both = (source.metadata.dev(), source.metadata.ino(), ours.ino());
        if self.seen.contains(&both) {
            self.work.progress.advance(source.metadata.len());
            return Ok(true);
        }
        let mut theirs = source.file()?;
        let is_beginning = is_beginning(&ours, &mut theirs, |read| self.work.progress.advance(read))?;
        let is_equal = is_beginning && theirs.read(&mut [0])? == 0;
        if is_equal && source.metadata.nlink() > 1 {
            self.seen.insert(both);
        }
        Ok(is_equal)
    }
}

/// Whether a file of the source begins with all that a file of the vault has. It is read as far as that goes.
pub(super) fn is_beginning(
    ours: &VaultFile<PosixStorage>,
    theirs: &mut File,
    mut progress: impl FnMut(u64),
) -> Result<bool, CopyError> {
    // Not more than there is to read: most files are small.
    let len = usize::try_from(ours.len_bytes().clamp(1, CHUNK_BYTES)).unwrap_or(1);
    let (mut our_chunk, mut their_chunk) = (vec![0; len], vec![0; len]);
    let mut at = 0_u64;
    loop {
        let read = ours.read(at, &mut our_chunk)?;
        if read == 0 {
            return Ok(true);
        }
        let wanted = their_chunk.get_mut(..read).unwrap_or_default();
        match theirs.read_exact(wanted) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if our_chunk.get(..read) != Some(&*wanted) {
            return Ok(false);
        }
        at += read as u64;
        progress(read as u64);
    }
}

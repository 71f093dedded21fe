//! The second half of an import: every regular file of the source is read again, and from the vault, where every page
//! is decrypted and its tag checked.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::copy::CopyError;
use super::source;
use super::{Place, Tally, Work};
use crate::vault::{FileKind, VaultError};

const CHUNK_BYTES: usize = 1 << 20;

pub(super) struct Comparison<'a> {
    work: &'a Work,
    tally: &'a mut Tally,
    /// Files with several names are compared once.
    seen: HashSet<(u64, u64)>,
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(work: &'a Work, tally: &'a mut Tally) -> Self {
        Self { work, tally, seen: HashSet::new(), ours: vec![0; CHUNK_BYTES], theirs: vec![0; CHUNK_BYTES] }
    }

    pub(super) fn directory(&mut self, path: &Path, place: &Place) -> Result<(), VaultError> {
        // What could not be read was said by the copier.
        for entry in source::entries(path).unwrap_or_default() {
            if self.work.is_to_stop() {
                self.tally.stopped = true;
                return Ok(());
            }
            let below = path.join(&entry.name);
            let name = entry.name.as_bytes();
            match source::kind(&entry.metadata) {
                FileKind::Directory => {
                    if let Ok(place) = place.open_child(name) {
                        self.directory(&below, &place)?;
                    }
                }
                // What is said to be missing or different needs no second look.
                FileKind::Regular if self.tally.named.contains(&below) => {}
                FileKind::Regular => {
                    let several = entry.metadata.nlink() > 1;
                    if several && !self.seen.insert((entry.metadata.dev(), entry.metadata.ino())) {
                        continue;
                    }
                    match self.is_equal(&below, name, place) {
                        Ok(true) => self.tally.compared += 1,
                        Ok(false) => self.work.problem(
                            self.tally,
                            &below,
                            &"the file in the vault differs from it; remove it there, and import again",
                        ),
                        Err(error) => self.work.problem(self.tally, &below, &error),
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_equal(&mut self, path: &Path, name: &[u8], place: &Place) -> Result<bool, CopyError> {
        let mut theirs = File::open(path)?;
        let ours = place.open_file(name)?;
        if ours.len_bytes() != theirs.metadata()?.len() {
            return Ok(false);
        }
        let mut at = 0_u64;
        loop {
            let read = ours.read(at, &mut self.ours)?;
            let wanted = self.theirs.get_mut(..read).unwrap_or_default();
            match theirs.read_exact(wanted) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if self.ours.get(..read) != self.theirs.get(..read) {
                return Ok(false);
            }
            if read == 0 {
                return Ok(true);
            }
            at += read as u64;
            self.work.progress.advance(read as u64);
        }
    }
}

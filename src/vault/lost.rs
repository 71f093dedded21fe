//! The folder `private/lost`: what cannot be read or used any more, and is not deleted.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::directory::PRIVATE;
use super::error::{Result, VaultError};
use super::journal::{SEGMENT_MAX, SEGMENT_NAMES};
use crate::crypto::entropy;
use crate::format::geometry::PAGE_BYTES;
use crate::storage::{Access, RenameMode, Storage, Target, read_into, write_from};

/// Its name in the private folder.
pub(crate) const LOST: &str = "lost";
/// Of an entry's own name so much is kept behind the number: all of a sealed one.
const NAME_BYTES_MAX: usize = 238;
/// A copy that is not whole yet.
const UNFINISHED: &str = "copy.new";

/// Opens the folder, and makes it where it is not there yet.
pub(crate) fn folder<S: Storage>(storage: &S, private: &S::Dir) -> Result<S::Dir> {
    let made = ignoring(libc::EEXIST, storage.make_dir(private, LOST.as_ref(), 0o700));
    made.and_then(|()| storage.open_dir(private, LOST.as_ref()))
        .map_err(|e| VaultError::io("open the folder of what is put aside", e))
}

/// How many entries the folder of the vault in `storage` has. A rotation does not bring them over.
pub fn count_put_aside<S: Storage>(storage: &S) -> Result<usize> {
    let mut count = 0;
    let listed = storage
        .open_root()
        .and_then(|top| storage.open_dir(&top, PRIVATE.as_ref()))
        .and_then(|private| storage.open_dir(&private, LOST.as_ref()))
        .and_then(|lost| {
            storage.read_dir(&lost, 0, &mut |_| {
                count += 1;
                true
            })
        });
    ignoring(libc::ENOENT, listed).map_err(|e| VaultError::io("look into private/lost", e))?;
    Ok(count)
}

/// A name in the folder: equal sealed names of two directories do not occur, but may be copied.
pub(crate) fn name_for(entry: &OsStr) -> OsString {
    let mut name = HEXLOWER.encode(&entropy::array::<8>()).into_bytes();
    name.push(b'-');
    name.extend(entry.as_bytes().iter().take(NAME_BYTES_MAX));
    OsString::from_vec(name)
}

/// Whether an entry of the folder is the copy of a journal.
pub(crate) fn is_journal(entry: &OsStr) -> bool {
    let of = |segment: &str| entry.to_str().is_some_and(|name| name.strip_suffix(segment).is_some());
    SEGMENT_NAMES.into_iter().any(of)
}

/// Keeps a durable copy of the journal as it is: what of it cannot be replayed is not thrown away with the rest. Bytes that
/// were kept already, by a recovery that did not come to its end, are not kept again.
pub(crate) fn keep_journal<S: Storage>(storage: &S, private: &S::Dir) -> Result<()> {
    let lost = folder(storage, private)?;
    SEGMENT_NAMES
        .into_iter()
        .try_for_each(|name| keep(storage, private, &lost, name))
        .and_then(|()| storage.sync_dir(&lost))
        .and_then(|()| storage.sync_dir(private))
        .map_err(|e| VaultError::io("keep a copy of the damaged journal in private/lost", e))
}

fn keep<S: Storage>(storage: &S, private: &S::Dir, lost: &S::Dir, name: &str) -> io::Result<()> {
    let file = match storage.open_file(private, name.as_ref(), Access::Read) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        opened => opened?,
    };
    let mut hash = Sha256::new();
    let mut is_empty = true;
    each_piece(storage, &file, |_, piece| {
        is_empty = false;
        hash.update(piece);
        Ok(())
    })?;
    if is_empty {
        return Ok(());
    }
    // Named by its content.
    let hash = HEXLOWER.encode(&hash.finalize());
    let kept = format!("{}-{name}", hash.get(..16).unwrap_or_default());
    match storage.stat(Target::Entry(lost, kept.as_ref())) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        found => return found.map(|_| ()),
    }
    // Of one that a crash cut short.
    ignoring(libc::ENOENT, storage.unlink(lost, UNFINISHED.as_ref()))?;
    let copy = storage.create_file(lost, UNFINISHED.as_ref(), 0o600)?;
    let copied = each_piece(storage, &file, |at, piece| write_from(storage, &copy, piece, at))
        .and_then(|()| storage.sync_file(&copy));
    if let Err(error) = copied {
        // The disk may be full.
        let _ = storage.unlink(lost, UNFINISHED.as_ref());
        return Err(error);
    }
    storage.rename(lost, UNFINISHED.as_ref(), lost, kept.as_ref(), RenameMode::NoReplace)
}

/// Calls with each piece of a segment and its place: as much of it as a recovery looks at, whatever length it was given.
fn each_piece<S: Storage>(
    storage: &S,
    file: &S::File,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0_u64;
    while at < u64::from(SEGMENT_MAX) * PAGE_BYTES {
        let read = read_into(storage, file, &mut buffer, at)?;
        if read == 0 {
            break;
        }
        each(at, buffer.get(..read).unwrap_or_default())?;
        at = at.saturating_add(read as u64);
    }
    Ok(())
}

/// An outcome, in which this error is none.
pub(crate) fn ignoring(errno: i32, outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        other => other,
    }
}

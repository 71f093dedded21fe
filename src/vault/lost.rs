//! The folder `private/lost`: what cannot be read or used any more, and is not deleted.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::directory::PRIVATE;
use super::error::{Result, VaultError, is_full};
use super::journal::{ROOM_TO_MOUNT_BYTES, SEGMENT_MAX, SEGMENT_NAMES};
use crate::crypto::entropy;
use crate::format::geometry::{PAGE_BYTES, PAGE_LEN};
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

/// The segment that a recovery goes on in: it alone has changed when the recovery did not come to its end.
pub(crate) struct Resumed {
    pub slot: usize,
    /// Where it goes on: no record that counts is in this block, and what a crash leaves of the first there may be anything.
    pub end_block: u32,
    /// The copies that were made of it, by earlier recoveries that say so in it.
    pub copies: Vec<OsString>,
}

/// A segment of which there is no copy yet.
struct Missing<S: Storage> {
    file: S::File,
    copy: OsString,
    len_bytes: u64,
}

/// Keeps a durable copy of the journal as it is: what of it cannot be replayed is not thrown away with the rest. What was
/// kept already, by a recovery that did not come to its end, is not kept again. Returns the name of the copy of the
/// segment that is `resumed`, where that does not say it yet.
pub(crate) fn keep_journal<S: Storage>(
    storage: &S,
    private: &S::Dir,
    resumed: Option<&Resumed>,
) -> Result<Option<OsString>> {
    let lost = folder(storage, private).map_err(|error| or_no_room_for_copies(storage, private, error))?;
    let mut missing = Vec::new();
    let mut unsaid = None;
    for (slot, name) in SEGMENT_NAMES.into_iter().enumerate() {
        let file = match storage.open_file(private, name.as_ref(), Access::Read) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            opened => opened.map_err(not_kept)?,
        };
        let resumed = resumed.filter(|resumed| resumed.slot == slot);
        if is_any_there(storage, &lost, resumed).map_err(not_kept)? {
            continue;
        }
        let end_block = resumed.map(|resumed| resumed.end_block);
        let Some((hash, len_bytes)) = hash_of(storage, &file, end_block).map_err(not_kept)? else { continue };
        let copy = OsString::from(format!("{hash}-{name}"));
        if resumed.is_some() {
            unsaid = Some(copy.clone());
        }
        if !is_there(storage, &lost, &copy).map_err(not_kept)? {
            missing.push(Missing { file, copy, len_bytes });
        }
    }
    let mut needed_bytes =
        missing.iter().map(|segment| segment.len_bytes).fold(ROOM_TO_MOUNT_BYTES, u64::saturating_add);
    for segment in missing {
        copy(storage, &lost, &segment).map_err(|error| match is_full(&error) {
            true => VaultError::NoRoomForCopy { needed_bytes, source: error },
            false => not_kept(error),
        })?;
        needed_bytes = needed_bytes.saturating_sub(segment.len_bytes);
    }
    storage.sync_dir(&lost).and_then(|()| storage.sync_dir(private)).map_err(not_kept)?;
    Ok(unsaid)
}

/// An error of what comes before the copies: where there is no room even for that, all of it is asked for at once.
pub(crate) fn or_no_room_for_copies<S: Storage>(storage: &S, private: &S::Dir, error: VaultError) -> VaultError {
    match error {
        VaultError::Io { source, .. } if is_full(&source) => {
            let sizes = SEGMENT_NAMES.iter().filter_map(|name| {
                let stat = storage.stat(Target::Entry(private, name.as_ref())).ok()?;
                Some(stat.size_bytes.min(u64::from(SEGMENT_MAX) * PAGE_BYTES))
            });
            VaultError::NoRoomForCopy { needed_bytes: sizes.fold(ROOM_TO_MOUNT_BYTES, u64::saturating_add), source }
        }
        other => other,
    }
}

fn not_kept(error: io::Error) -> VaultError {
    VaultError::io("keep a copy of the damaged journal in private/lost", error)
}

fn is_any_there<S: Storage>(storage: &S, lost: &S::Dir, resumed: Option<&Resumed>) -> io::Result<bool> {
    for copy in resumed.map_or(&[][..], |resumed| &resumed.copies) {
        if is_there(storage, lost, copy)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_there<S: Storage>(storage: &S, lost: &S::Dir, copy: &OsStr) -> io::Result<bool> {
    match storage.stat(Target::Entry(lost, copy)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        found => found.map(|_| true),
    }
}

/// What a copy is named by: the content, without the block that a recovery writes first; and the length. None of an empty file.
fn hash_of<S: Storage>(storage: &S, file: &S::File, end_block: Option<u32>) -> io::Result<Option<(String, u64)>> {
    let mut hash = Sha256::new();
    let mut len_bytes = 0_u64;
    each_piece(storage, file, |at, piece| {
        len_bytes = at.saturating_add(piece.len() as u64);
        for (block, content) in (at / PAGE_BYTES..).zip(piece.chunks(PAGE_LEN)) {
            if end_block.is_none_or(|end| block != u64::from(end)) {
                hash.update(content);
            }
        }
        Ok(())
    })?;
    let hash = HEXLOWER.encode(&hash.finalize());
    Ok((len_bytes > 0).then(|| (hash.get(..16).unwrap_or_default().to_owned(), len_bytes)))
}

fn copy<S: Storage>(storage: &S, lost: &S::Dir, segment: &Missing<S>) -> io::Result<()> {
    // Of one that a crash cut short.
    ignoring(libc::ENOENT, storage.unlink(lost, UNFINISHED.as_ref()))?;
    let copy = storage.create_file(lost, UNFINISHED.as_ref(), 0o600)?;
    let copied = each_piece(storage, &segment.file, |at, piece| write_from(storage, &copy, piece, at))
        .and_then(|()| storage.sync_file(&copy));
    if let Err(error) = copied {
        // The disk may be full.
        let _ = storage.unlink(lost, UNFINISHED.as_ref());
        return Err(error);
    }
    storage.rename(lost, UNFINISHED.as_ref(), lost, &segment.copy, RenameMode::NoReplace)
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

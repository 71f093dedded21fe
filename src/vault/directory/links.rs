//! Long targets of symbolic links: their pieces in private/links.
//!
//! The pieces are made and synced before the link, and removed after it is gone for good.

use std::borrow::Cow;

use super::{Location, PRIVATE};
use crate::format::symlink::{self, BackingTarget, LinkId, PIECE_MAX, PIECES_MAX};
use crate::storage::{Storage, Target};
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};

const LINKS: &str = "links";

/// The sealed target's whole text.
pub(crate) fn whole_text<'a, S: Storage>(
    core: &VaultCore<S>,
    location: &Location<S>,
    backing_target: &'a [u8],
) -> Result<Cow<'a, [u8]>> {
    let id = match parse(location, backing_target)? {
        BackingTarget::Inline(text) => return Ok(Cow::Borrowed(text)),
        BackingTarget::Pieces(id) => id,
    };
    let Some(folder) = open_folder(core)? else { return Ok(Cow::Owned(Vec::new())) };
    let mut text = Vec::new();
    for index in 0..PIECES_MAX {
        match core.storage.read_symlink(&folder, id.piece_name(index).as_ref()) {
            Ok(piece) => text.extend(piece),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let reason = "a piece of the symbolic link's target is not a symbolic link";
                return Err(VaultError::integrity(location.backing_path(), reason));
            }
            Err(error) => return Err(VaultError::io("read a symbolic link's target", error)),
        }
    }
    Ok(Cow::Owned(text))
}

/// The plain length of the target. Of a damaged one, a length that it could have: reading it gives the error,
/// and it can still be looked up and removed.
pub(super) fn target_len<S: Storage>(core: &VaultCore<S>, location: &Location<S>, backing_len: u64) -> Result<u64> {
    let mut text_len = backing_len;
    if symlink::is_reference_len(backing_len)
        && let Ok(BackingTarget::Pieces(id)) = symlink::parse(&location.read_symlink()?)
        && let Some(folder) = open_folder(core)?
    {
        text_len = 0;
        for index in 0..PIECES_MAX {
            let name = id.piece_name(index);
            match core.storage.stat(Target::Entry(&folder, name.as_ref())) {
                Ok(piece) => text_len = text_len.saturating_add(piece.size_bytes.min(PIECE_MAX as u64)),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                Err(error) => return Err(VaultError::io("read a symbolic link's target", error)),
            }
        }
    }
    Ok(symlink::plain_len(text_len).unwrap_or(text_len))
}

/// Stores the pieces, durably: the link must never be there without them.
pub(crate) fn place<S: Storage>(core: &VaultCore<S>, id: &LinkId, pieces: &[Vec<u8>]) -> Result<()> {
    let io = |e| VaultError::io("store a symbolic link's target", e);
    let folder = make_folder(core)?;
    for (index, piece) in pieces.iter().enumerate() {
        if let Err(error) = core.storage.make_symlink(&folder, id.piece_name(index).as_ref(), piece) {
            remove(core, id);
            return Err(io(error));
        }
    }
    core.storage.sync_dir(&folder).map_err(|e| core.sync_failed("sync a symbolic link's target", e))
}

/// Removes the pieces. That some stay is no error: nothing refers to them.
pub(crate) fn remove<S: Storage>(core: &VaultCore<S>, id: &LinkId) {
    let Ok(Some(folder)) = open_folder(core) else { return };
    for index in 0..PIECES_MAX {
        if core.storage.unlink(&folder, id.piece_name(index).as_ref()).is_err() {
            return;
        }
    }
}

/// What a backing link that is about to go refers to.
pub(super) fn referred_to<S: Storage>(location: &Location<S>, backing_len: u64) -> Option<LinkId> {
    if !symlink::is_reference_len(backing_len) {
        return None;
    }
    match symlink::parse(&location.read_symlink().ok()?).ok()? {
        BackingTarget::Pieces(id) => Some(id),
        BackingTarget::Inline(_) => None,
    }
}

/// The pieces that a backing target refers to.
pub(crate) fn reference_of(backing_target: &[u8]) -> Option<LinkId> {
    match symlink::parse(backing_target).ok()? {
        BackingTarget::Pieces(id) => Some(id),
        BackingTarget::Inline(_) => None,
    }
}

/// Removes the pieces of every target whose whole text `is_readable` does not accept.
pub(crate) fn remove_unreadable<S: Storage>(core: &VaultCore<S>, is_readable: impl Fn(&[u8]) -> bool) -> Result<()> {
    let Some(folder) = open_folder(core)? else { return Ok(()) };
    let io = |e| VaultError::io("look through the targets of symbolic links", e);
    let mut firsts: Vec<Vec<u8>> = Vec::new();
    core.storage
        .read_dir(&folder, 0, &mut |entry| {
            firsts.extend(entry.name.as_encoded_bytes().strip_suffix(b".0").map(<[u8]>::to_vec));
            true
        })
        .map_err(io)?;
    for first in firsts {
        let reference = [b"=", first.as_slice()].concat();
        let Some(id) = reference_of(&reference) else { continue };
        if !is_readable(&read_pieces(core, &folder, &id)?) {
            remove(core, &id);
        }
    }
    Ok(())
}

fn read_pieces<S: Storage>(core: &VaultCore<S>, folder: &S::Dir, id: &LinkId) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for index in 0..PIECES_MAX {
        match core.storage.read_symlink(folder, id.piece_name(index).as_ref()) {
            Ok(piece) => text.extend(piece),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) => return Err(VaultError::io("read a symbolic link's target", error)),
        }
    }
    Ok(text)
}

fn parse<'a, S: Storage>(location: &Location<S>, backing_target: &'a [u8]) -> Result<BackingTarget<'a>> {
    symlink::parse(backing_target).map_err(|refused| VaultError::integrity(location.backing_path(), refused))
}

fn open_folder<S: Storage>(core: &VaultCore<S>) -> Result<Option<S::Dir>> {
    match core.storage.open_dir(core.tree.private(), LINKS.as_ref()) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
            Err(VaultError::integrity(format!("{PRIVATE}/{LINKS}"), "it is not a directory"))
        }
        Err(error) => Err(VaultError::io("open the folder of symbolic links' targets", error)),
    }
}

fn make_folder<S: Storage>(core: &VaultCore<S>) -> Result<S::Dir> {
    if let Some(folder) = open_folder(core)? {
        return Ok(folder);
    }
    let io = |e| VaultError::io("make the folder of symbolic links' targets", e);
    match core.storage.make_dir(core.tree.private(), LINKS.as_ref(), 0o700) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(io(error)),
        _ => {}
    }
    core.storage
        .sync_dir(core.tree.private())
        .map_err(|e| core.sync_failed("sync the folder of symbolic links' targets", e))?;
    core.storage.open_dir(core.tree.private(), LINKS.as_ref()).map_err(io)
}

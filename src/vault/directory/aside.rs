//! What a crash left unreadable and nobody was promised: put aside, so that the directory works again.
//!
//! A backing that keeps the later of two changes alone (of what was not synced) can leave an entry whose
//! sidecar, or whose directory's IV, is gone: its name is lost. It goes to the folder private/lost, whole, under
//! its sealed name. Only in a crash window, and only what last changed in it: otherwise a missing IV or sidecar
//! is somebody's work, and an integrity error.

use std::ffi::{OsStr, OsString};

use log::warn;

use super::{Directory, Location};
use crate::format::names::EntryForm;
use crate::storage::{RenameMode, Stat, Storage, Target};
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};
use crate::vault::lost::{self, LOST};

/// Puts everything that is listed in a directory without IV aside. False: no crash explains it.
pub(super) fn put_all<S: Storage>(directory: &Directory<S>, handle: &S::Dir, listed: &S::Dir) -> Result<bool> {
    let core = &directory.core;
    let stat =
        core.storage.stat(Target::Dir(handle)).map_err(|e| VaultError::io("read a directory's attributes", e))?;
    if !is_explained(core, &stat) {
        return Ok(false);
    }
    let mut entries: Vec<OsString> = Vec::new();
    core.storage
        .read_dir(listed, 0, &mut |entry| {
            if matches!(EntryForm::of(entry.name), EntryForm::Short | EntryForm::Long) {
                entries.push(entry.name.to_owned());
            }
            true
        })
        .map_err(|e| VaultError::io("read a directory", e))?;
    for entry in entries {
        put(core, handle, &entry, &directory.backing_path())?;
    }
    Ok(true)
}

/// Puts an entry without its sidecar aside. False: no crash explains it.
pub(super) fn put_one<S: Storage>(location: &Location<S>, stat: &Stat) -> Result<bool> {
    let core = &location.directory.core;
    if !is_explained(core, stat) {
        return Ok(false);
    }
    let handle = location.directory.handle()?;
    put(core, &handle, &location.entry, &location.directory.backing_path())?;
    Ok(true)
}

/// Whether the inode last changed in a crash window, and may be moved.
fn is_explained<S: Storage>(core: &VaultCore<S>, stat: &Stat) -> bool {
    let changed = Stat { btime: None, ..*stat };
    !core.is_read_only() && core.windows.read().covers(&changed).is_some()
}

fn put<S: Storage>(core: &VaultCore<S>, handle: &S::Dir, entry: &OsStr, path: &str) -> Result<()> {
    let lost = lost::folder(&core.storage, core.tree.private())?;
    let name = lost::name_for(entry);
    core.storage
        .rename(handle, entry, &lost, &name, RenameMode::NoReplace)
        .map_err(|e| VaultError::io("put aside what a crash left unreadable", e))?;
    warn!(
        "{path}/{}: its name was lost in a crash before it was synced; it is now private/{LOST}/{}",
        entry.display(),
        name.display()
    );
    Ok(())
}

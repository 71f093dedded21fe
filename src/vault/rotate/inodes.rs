//! What a rotation does to inodes: extended attributes, symbolic links, files.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::Run;
use crate::format::symlink::{self, SealedTarget};
use crate::format::xattrs::Table;
use crate::storage::{FileKind, RenameMode, SetTime, Stat, Storage, Target, XattrMode};
use crate::vault::Vault;
use crate::vault::attributes::{is_absent, table_attribute};
use crate::vault::directory::{Directory, Location, links, widened};
use crate::vault::error::{Result, VaultError};

/// Where new symbolic links are made, in the private folder.
pub(in crate::vault) const FOLDER: &str = "rotation";
const NEW_LINK: &str = "link";

impl<S: Storage> Vault<S> {
    /// All inodes in these directories and all below, and these themselves.
    pub(super) fn reseal_inodes(&self, run: &mut Run<'_>, top: Vec<Arc<Directory<S>>>) -> Result<()> {
        run.each_below(top, |run, directory| {
            let outcome = self.reseal_directory_table(directory);
            run.note(directory, None, outcome)?;
            self.reseal_entries(run, directory)
        })
    }

    /// All inodes in one directory that are not directories.
    pub(super) fn reseal_entries(&self, run: &mut Run<'_>, directory: &Arc<Directory<S>>) -> Result<()> {
        for name in run.names_in(directory)? {
            let outcome = self.reseal_entry(run, directory, &name);
            run.note(directory, Some(&name), outcome)?;
            run.control.step(1, 0)?;
        }
        Ok(())
    }

    fn reseal_entry(&self, run: &mut Run<'_>, directory: &Arc<Directory<S>>, name: &[u8]) -> Result<()> {
        let version = self.core.keys.active().version.0;
        let (kind, file) = {
            let _names = directory.names.read();
            let location = directory.locate(name)?;
            let stat = location.stat()?;
            let kind = stat.kind();
            self.reseal_table(&location, kind)?;
            let done = kind == FileKind::Regular && self.core.is_file_under(&location, &stat, version)?;
            let file =
                if kind == FileKind::Regular && !done { Some(self.core.open_file(location, &stat)?) } else { None };
            (kind, file)
        };
        if let Some(file) = file {
            return file.reseal(&mut |bytes| run.control.step(0, bytes));
        }
        if kind == FileKind::Symlink { self.reseal_symlink(directory, name) } else { Ok(()) }
    }

    /// Everything that is in memory: also what has no name, which somebody has open, and may yet give one.
    pub(super) fn reseal_open_files(&self, run: &mut Run<'_>) -> Result<()> {
        for file in self.core.all_files() {
            let outcome = file.reseal(&mut |bytes| run.control.step(0, bytes));
            run.note_by(outcome, |_| None)?;
            if file.is_unlinked() {
                let _alone = self.core.xattrs.write();
                let outcome = file.with_backing(|home| {
                    let path = || file.location().backing_path();
                    self.reseal_table_of(Target::File(home), FileKind::Regular, &path)
                });
                run.note_by(outcome, |_| None)?;
            }
        }
        Ok(())
    }

    // --- extended attributes ---

    fn reseal_table(&self, location: &Location<S>, kind: FileKind) -> Result<()> {
        let directory = location.directory.handle()?;
        let _alone = self.core.xattrs.write();
        self.reseal_table_of(Target::Entry(&*directory, &location.entry), kind, &|| location.backing_path())
    }

    fn reseal_directory_table(&self, directory: &Directory<S>) -> Result<()> {
        let handle = directory.handle()?;
        let _alone = self.core.xattrs.write();
        self.reseal_table_of(Target::Dir(&*handle), FileKind::Directory, &|| directory.backing_path())
    }

    /// Nobody else changes tables meanwhile: the caller holds `xattrs` alone.
    fn reseal_table_of(&self, target: Target<'_, S>, kind: FileKind, path: &dyn Fn() -> String) -> Result<()> {
        let Some(sealed) = self.sealed_table(target, kind)? else { return Ok(()) };
        let live = self.core.keys.live();
        if Table::open(live.active.xattr(), &sealed).is_ok() {
            return Ok(());
        }
        let older = live.older.unwrap_or(live.active.clone());
        let table = Table::open(older.xattr(), &sealed).map_err(|refused| VaultError::integrity(path(), refused))?;
        let sealed = table
            .seal(live.active.xattr())
            .map_err(|_| VaultError::Internal("a table of extended attributes does not fit its own room"))?;
        let attribute = OsStr::new(table_attribute(kind));
        let set = || self.core.storage.set_xattr(target, attribute, &sealed, XattrMode::Any);
        widened(&self.core, target, 0o600, set).map_err(|e| VaultError::io("set extended attributes", e))
    }

    fn sealed_table(&self, target: Target<'_, S>, kind: FileKind) -> Result<Option<Vec<u8>>> {
        let attribute = OsStr::new(table_attribute(kind));
        match widened(&self.core, target, 0o400, || self.core.storage.xattr(target, attribute)) {
            Ok(sealed) => Ok(Some(sealed)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(VaultError::io("read extended attributes", error)),
        }
    }

    fn verify_table(&self, target: Target<'_, S>, kind: FileKind, path: &dyn Fn() -> String) -> Result<()> {
        let Some(sealed) = self.sealed_table(target, kind)? else { return Ok(()) };
        Table::open(self.core.keys.active().xattr(), &sealed)
            .map(drop)
            .map_err(|refused| VaultError::integrity(path(), refused))
    }

    pub(super) fn verify_directory_table(&self, directory: &Directory<S>) -> Result<()> {
        let handle = directory.handle()?;
        self.verify_table(Target::Dir(&*handle), FileKind::Directory, &|| directory.backing_path())
    }

    // --- symbolic links ---

    /// A link's target cannot be changed: another link takes its place, with the same owner, times and attributes. All
    /// names of one inode get one new inode, which is kept, under the old one's number, until the end.
    fn reseal_symlink(&self, directory: &Arc<Directory<S>>, name: &[u8]) -> Result<()> {
        let _names = directory.names.write();
        let location = directory.locate(name)?;
        let stat = location.stat()?;
        let backing_target = location.read_symlink()?;
        let text = links::whole_text(&self.core, &location, &backing_target)?;
        let live = self.core.keys.live();
        if symlink::open(live.active.symlink(), &text).is_ok() {
            return Ok(());
        }
        let older = live.older.unwrap_or(live.active.clone());
        let target = symlink::open(older.symlink(), &text)
            .map_err(|refused| VaultError::integrity(location.backing_path(), refused))?;
        let storage = &self.core.storage;
        let io = |e| VaultError::io("seal a symbolic link anew", e);
        let folder = self.link_folder()?;
        let handle = directory.handle()?;
        let kept = OsString::from(stat.ino.to_string());
        // The last name of a link that had several finds what was kept for it.
        let mut is_kept = self.is_kept(&folder, &kept, &location, &target)?;
        if !is_kept {
            self.make_link(&folder, &target, &handle, &location, &stat)?;
            if stat.nlink > 1 {
                storage.rename(&folder, NEW_LINK.as_ref(), &folder, &kept, RenameMode::NoReplace).map_err(io)?;
                is_kept = true;
            }
        }
        if is_kept {
            remove_if_there(storage, &folder, NEW_LINK.as_ref()).map_err(io)?;
            storage.link(Target::Entry(&folder, &kept), &folder, NEW_LINK.as_ref()).map_err(io)?;
        }
        directory.keeping_times(|| {
            storage.rename(&folder, NEW_LINK.as_ref(), &handle, &location.entry, RenameMode::Replace).map_err(io)
        })?;
        if stat.nlink <= 1
            && let Some(id) = links::reference_of(&backing_target)
        {
            // The link must be gone for good before its target is.
            storage.sync_dir(&handle).map_err(|e| self.core.sync_failed("sync a directory", e))?;
            links::remove(&self.core, &id);
        }
        Ok(())
    }

    /// Whether the new link of an inode is there already. In a copy of the vault inodes have other numbers: what is there under
    /// one may be of another link, and goes.
    fn is_kept(&self, folder: &S::Dir, kept: &OsStr, location: &Location<S>, target: &[u8]) -> Result<bool> {
        let storage = &self.core.storage;
        let io = |e| VaultError::io("seal a symbolic link anew", e);
        let backing_target = match storage.read_symlink(folder, kept) {
            Ok(backing_target) => backing_target,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
            Err(error) => return Err(io(error)),
        };
        let is_right = links::whole_text(&self.core, location, &backing_target).is_ok_and(|text| {
            symlink::open(self.core.keys.active().symlink(), &text).is_ok_and(|open| *open == *target)
        });
        if !is_right {
            storage.unlink(folder, kept).map_err(io)?;
        }
        Ok(is_right)
    }

    /// A new link with the attributes of the one at `location`, in the folder for it.
    fn make_link(
        &self,
        folder: &S::Dir,
        target: &[u8],
        directory: &S::Dir,
        location: &Location<S>,
        stat: &Stat,
    ) -> Result<()> {
        let storage = &self.core.storage;
        let io = |e| VaultError::io("seal a symbolic link anew", e);
        let name = OsStr::new(NEW_LINK);
        remove_if_there(storage, folder, name).map_err(io)?;
        let sealed = symlink::seal(self.core.keys.active().symlink(), target)
            .map_err(|_| VaultError::Internal("a symbolic link's target cannot be sealed again"))?;
        let backing_target = match sealed {
            SealedTarget::Inline(text) => text,
            SealedTarget::Pieces(id, pieces) => {
                links::place(&self.core, &id, &pieces)?;
                id.reference()
            }
        };
        storage.make_symlink(folder, name, &backing_target).map_err(io)?;
        let made = storage.stat(Target::Entry(folder, name)).map_err(io)?;
        if (made.uid, made.gid) != (stat.uid, stat.gid) {
            storage.set_owner(Target::Entry(folder, name), Some(stat.uid), Some(stat.gid)).map_err(io)?;
        }
        if let Some(table) = self.sealed_table(Target::Entry(directory, &location.entry), FileKind::Symlink)? {
            let attribute = OsStr::new(table_attribute(FileKind::Symlink));
            storage.set_xattr(Target::Entry(folder, name), attribute, &table, XattrMode::Any).map_err(io)?;
        }
        let (atime, mtime) = (SetTime::To(stat.atime), SetTime::To(stat.mtime));
        storage.set_times(Target::Entry(folder, name), atime, mtime).map_err(io)
    }

    fn link_folder(&self) -> Result<S::Dir> {
        let storage = &self.core.storage;
        let io = |e| VaultError::io("make the folder of new symbolic links", e);
        let private = self.core.tree.private();
        match storage.open_dir(private, FOLDER.as_ref()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                storage.make_dir(private, FOLDER.as_ref(), 0o700).map_err(io)?;
                storage.open_dir(private, FOLDER.as_ref()).map_err(io)
            }
            opened => opened.map_err(io),
        }
    }

    /// Every name has its new inode: durable, and without the names that only the rotation needed.
    pub(super) fn settle_links(&self) -> Result<()> {
        let storage = &self.core.storage;
        let io = |e| VaultError::io("remove the folder of new symbolic links", e);
        let private = self.core.tree.private();
        let folder = match storage.open_dir(private, FOLDER.as_ref()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            opened => opened.map_err(io)?,
        };
        self.sync()?;
        let mut names: Vec<OsString> = Vec::new();
        storage
            .read_dir(&folder, 0, &mut |entry| {
                names.push(entry.name.to_owned());
                true
            })
            .map_err(io)?;
        for name in names {
            storage.unlink(&folder, &name).map_err(io)?;
        }
        drop(folder);
        storage.remove_dir(private, FOLDER.as_ref()).map_err(io)
    }

    /// Removes pieces of targets that the older version opens: no link refers to them any more.
    pub(super) fn clear_old_pieces(&self) -> Result<()> {
        links::remove_unreadable(&self.core, |text| symlink::open(self.core.keys.active().symlink(), text).is_ok())
    }

    // --- the last look ---

    pub(super) fn verify_entry(&self, directory: &Arc<Directory<S>>, name: &[u8]) -> Result<()> {
        let _names = directory.names.read();
        let location = directory.locate(name)?;
        let handle = directory.handle()?;
        let target = Target::Entry(&*handle, &location.entry);
        let path = || location.backing_path();
        let stat = location.stat()?;
        match stat.kind() {
            FileKind::Directory => return Ok(()),
            FileKind::Regular => {
                if !self.core.is_file_under(&location, &stat, self.core.keys.active().version.0)? {
                    return Err(VaultError::integrity(path(), "the file is not under the new key"));
                }
            }
            FileKind::Symlink => {
                let backing_target = location.read_symlink()?;
                let text = links::whole_text(&self.core, &location, &backing_target)?;
                symlink::open(self.core.keys.active().symlink(), &text)
                    .map_err(|refused| VaultError::integrity(path(), refused))?;
            }
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Unknown => {}
        }
        self.verify_table(target, stat.kind(), &path)
    }
}

fn remove_if_there<S: Storage>(storage: &S, folder: &S::Dir, name: &OsStr) -> std::io::Result<()> {
    match storage.unlink(folder, name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

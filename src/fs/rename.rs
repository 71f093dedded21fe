//! rename, with `RENAME_NOREPLACE`, `RENAME_EXCHANGE` and `RENAME_WHITEOUT`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Fs;
use super::error::{FsError, Result};
use super::node::{Node, lock_names};
use super::removal::same_node;
use super::types::InodeNo;
use crate::vault::{Directory, FileKind, NewInode, RenameMode, Storage, Timestamp, VaultError};

/// One side of a rename that exists.
struct Side<S: Storage> {
    ino: InodeNo,
    kind: FileKind,
    node: Option<Arc<Node<S>>>,
}

/// An entry that a rename is from or to; its directory's names are locked exclusively.
struct Entry<'a, S: Storage> {
    parent: &'a Arc<Node<S>>,
    directory: &'a Arc<Directory<S>>,
    name: &'a [u8],
}

impl<S: Storage> Fs<S> {
    /// Renames an entry. `flags` are those of `renameat2(2)`.
    pub fn rename(&self, parent: InodeNo, name: &[u8], new_parent: InodeNo, new_name: &[u8], flags: u32) -> Result<()> {
        let (mode, whiteout) = parse_flags(flags)?;
        self.check_writable()?;
        let from_parent = self.directory_node(parent)?;
        let to_parent = self.directory_node(new_parent)?;
        loop {
            let target = to_parent.child(new_name);
            // Nothing may be made in a directory that is replaced meanwhile.
            let replaced = target.as_ref().filter(|_| mode == RenameMode::Replace);
            let _names = lock_names([Some(&from_parent), Some(&to_parent), replaced]);
            if !same_node(target.as_ref(), to_parent.child(new_name).as_ref()) {
                continue;
            }
            let from = Entry { parent: &from_parent, directory: self.directory(&from_parent)?, name };
            let to = Entry { parent: &to_parent, directory: self.directory(&to_parent)?, name: new_name };
            return self.rename_locked(&from, &to, mode, whiteout);
        }
    }

    fn rename_locked(&self, from: &Entry<'_, S>, to: &Entry<'_, S>, mode: RenameMode, whiteout: bool) -> Result<()> {
        let source = self.side(from)?;
        let target = match self.side(to) {
            Ok(target) => Some(target),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        match (&target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(FsError::Exists),
            (None, RenameMode::Exchange) => return Err(FsError::NotFound),
            // Two names of one inode: rename(2) leaves both.
            (Some(target), RenameMode::Replace | RenameMode::Exchange) if target.ino == source.ino => return Ok(()),
            (Some(_) | None, _) => {}
        }
        let outcome = match (mode, whiteout) {
            (RenameMode::Exchange, _) => self.exchange(from, to, &source, target.as_ref()),
            (RenameMode::Replace | RenameMode::NoReplace, false) => {
                self.replace(from, to, &source, target.as_ref(), || {
                    Ok(from.directory.rename(from.name, to.directory, to.name, mode)?)
                })
            }
            (RenameMode::Replace | RenameMode::NoReplace, true) => {
                let exists = target.is_some();
                self.replace(from, to, &source, target.as_ref(), || {
                    self.rename_leaving_whiteout(from, to, source.kind, exists)
                })
            }
        };
        from.parent.touch();
        to.parent.touch();
        outcome
    }

    /// What is at an entry.
    fn side(&self, entry: &Entry<'_, S>) -> Result<Side<S>> {
        if let Some(node) = entry.parent.child(entry.name) {
            return Ok(Side { ino: node.ino, kind: node.kind, node: Some(node) });
        }
        let stat = entry.directory.lookup(entry.name)?;
        let ino = self.table.number(stat.ino);
        let node = self.table.find(ino).filter(|node| node.kind == stat.kind());
        Ok(Side { ino, kind: stat.kind(), node })
    }

    fn replace(
        &self,
        from: &Entry<'_, S>,
        to: &Entry<'_, S>,
        source: &Side<S>,
        target: Option<&Side<S>>,
        rename: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if let Some(target) = target {
            // The backing has an entry more in a directory that is empty here, and would say so.
            match (source.kind == FileKind::Directory, target.kind == FileKind::Directory) {
                (true, false) => return Err(FsError::NotDirectory),
                (false, true) => return Err(FsError::IsDirectory),
                (true, true) | (false, false) => {}
            }
        }
        let replaced = target.and_then(|target| target.node.as_ref());
        let farewell = replaced.map(|node| self.farewell(node, to.parent, to.name));
        rename()?;
        if let Some(farewell) = farewell {
            self.bid(farewell, to.parent, to.name);
        }
        self.moved(source, from, to);
        Ok(())
    }

    fn exchange(
        &self,
        from: &Entry<'_, S>,
        to: &Entry<'_, S>,
        source: &Side<S>,
        target: Option<&Side<S>>,
    ) -> Result<()> {
        from.directory.rename(from.name, to.directory, to.name, RenameMode::Exchange)?;
        // Both get the other's name before either loses its own: neither is ever without.
        if let Some(node) = target.and_then(|target| target.node.as_ref()) {
            self.name_node(node, from.parent, from.name);
        }
        self.moved(source, from, to);
        if let Some(target) = target {
            self.moved(target, to, from);
        }
        Ok(())
    }

    /// Notes that an inode has another name now.
    fn moved(&self, side: &Side<S>, from: &Entry<'_, S>, to: &Entry<'_, S>) {
        let Some(node) = &side.node else { return };
        // The new name first: a node without a name and references would go.
        self.name_node(node, to.parent, to.name);
        self.unname_node(node, from.parent, from.name);
        node.names_changed();
        node.touch();
    }

    /// A rename that leaves a whiteout (a character device 0:0) where the entry was: overlayfs takes it for "gone".
    ///
    /// Onto a free name it is one step: the whiteout is made at the new name and the two are exchanged; after a
    /// crash before that, a whiteout hides what was not there. Onto a name in use, the two are exchanged, and
    /// then the whiteout takes the place of what is to go: no crash loses an entry, and what fails is undone.
    fn rename_leaving_whiteout(
        &self,
        from: &Entry<'_, S>,
        to: &Entry<'_, S>,
        kind: FileKind,
        target_exists: bool,
    ) -> Result<()> {
        let whiteout = NewInode { mode: libc::S_IFCHR, uid: None, gid: None };
        if !target_exists {
            to.directory.make_node(to.name, &whiteout, 0).map_err(no_whiteouts)?;
            let exchanged = from.directory.rename(from.name, to.directory, to.name, RenameMode::Exchange);
            if exchanged.is_err() {
                // What is reported is why the rename failed.
                let _ = to.directory.unlink(to.name);
            }
            return Ok(exchanged?);
        }
        if kind == FileKind::Regular {
            // As a rename over another file does; what does not open is nothing that somebody is writing.
            match from.directory.open_file(from.name) {
                Err(VaultError::Integrity(_)) => {}
                file => file?.sync()?,
            }
        }
        let aside = self.unused_name();
        from.directory.make_node(&aside, &whiteout, 0).map_err(no_whiteouts)?;
        let put_whiteout = || from.directory.rename(&aside, from.directory, from.name, RenameMode::Replace);
        let rename = |mode| from.directory.rename(from.name, to.directory, to.name, mode);
        let renamed = if kind == FileKind::Directory {
            // Nothing but another directory takes the place of one, if that is empty.
            rename(RenameMode::Replace).and_then(|()| {
                put_whiteout().inspect_err(|_| {
                    // What is reported is why the rename failed.
                    let _ = to.directory.rename(to.name, from.directory, from.name, RenameMode::NoReplace);
                })
            })
        } else {
            rename(RenameMode::Exchange).and_then(|()| {
                put_whiteout().inspect_err(|_| {
                    let _ = rename(RenameMode::Exchange);
                })
            })
        };
        if renamed.is_err() {
            let _ = from.directory.unlink(&aside);
        }
        Ok(renamed?)
    }

    fn unused_name(&self) -> Vec<u8> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Timestamp { seconds, nanoseconds } = self.now();
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        format!(".sero-whiteout.{seconds:x}.{nanoseconds:x}.{count:x}").into_bytes()
    }
}

/// Where devices cannot be made, the flag is one that the filesystem does not know.
fn no_whiteouts(error: VaultError) -> FsError {
    match FsError::from(error) {
        error if matches!(error.errno(), libc::EPERM | libc::EOPNOTSUPP) => FsError::Invalid,
        error => error,
    }
}

fn parse_flags(flags: u32) -> Result<(RenameMode, bool)> {
    const NO_REPLACE: u32 = libc::RENAME_NOREPLACE;
    const EXCHANGE: u32 = libc::RENAME_EXCHANGE;
    const WHITEOUT: u32 = libc::RENAME_WHITEOUT;
    let whiteout = flags & WHITEOUT != 0;
    match flags & !WHITEOUT {
        0 => Ok((RenameMode::Replace, whiteout)),
        NO_REPLACE => Ok((RenameMode::NoReplace, whiteout)),
        EXCHANGE if !whiteout => Ok((RenameMode::Exchange, false)),
        _ => Err(FsError::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_renameat2() {
        assert!(matches!(parse_flags(0), Ok((RenameMode::Replace, false))));
        assert!(matches!(parse_flags(1), Ok((RenameMode::NoReplace, false))));
        assert!(matches!(parse_flags(2), Ok((RenameMode::Exchange, false))));
        assert!(matches!(parse_flags(4), Ok((RenameMode::Replace, true))));
        assert!(matches!(parse_flags(5), Ok((RenameMode::NoReplace, true))));
        for refused in [3, 6, 7, 8, u32::MAX] {
            assert!(matches!(parse_flags(refused), Err(FsError::Invalid)));
        }
    }
}

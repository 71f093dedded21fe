//! unlink and rmdir. What the kernel still knows of a removed inode keeps working until it forgets it.

use std::sync::Arc;

use super::Fs;
use super::error::Result;
use super::node::{Anchor, Node, lock_names};
use super::types::InodeNo;
use crate::vault::{Directory, FileKind, Storage, VaultError};

/// What is kept of an inode that is about to lose a name.
pub(super) struct Farewell<S: Storage> {
    node: Arc<Node<S>>,
    anchor: Option<Anchor<S>>,
    target: Option<Arc<[u8]>>,
}

impl<S: Storage> Fs<S> {
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: InodeNo, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let parent = self.directory_node(parent)?;
        let _names = parent.folder()?.names.write();
        let directory = self.directory(&parent)?;
        let Some(node) = self.known(&parent, name)? else {
            let unlinked = directory.unlink(name);
            parent.touch();
            return Ok(unlinked?);
        };
        let (unlinked, farewell) = if node.kind == FileKind::Regular && self.needs_hold(&node, &parent, name) {
            // Held and removed in one go.
            match directory.unlink_held(name) {
                Ok(pin) => {
                    let anchor = pin.map(|pin| Anchor::Pin(Arc::new(pin)));
                    (Ok(()), Farewell { node, anchor, target: None })
                }
                Err(error) => (Err(error), Farewell { node, anchor: None, target: None }),
            }
        } else {
            let farewell = self.farewell(&node, &parent, name);
            (directory.unlink(name), farewell)
        };
        parent.touch();
        unlinked?;
        self.bid(farewell, &parent, name);
        Ok(())
    }

    /// Whether nothing reaches an inode but this name.
    fn needs_hold(&self, node: &Arc<Node<S>>, parent: &Arc<Node<S>>, name: &[u8]) -> bool {
        !node.has_other_name(parent, name) && node.state().anchor().is_none() && self.live_file(node).is_none()
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: InodeNo, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let parent = self.directory_node(parent)?;
        loop {
            let victim = parent.child(name);
            // Nothing may be made in it meanwhile.
            let _names = lock_names([Some(&parent), victim.as_ref(), None]);
            if !same_node(victim.as_ref(), parent.child(name).as_ref()) {
                continue;
            }
            let directory = self.directory(&parent)?;
            let farewell = victim.as_ref().map(|node| self.farewell(node, &parent, name));
            let removed = directory.remove_dir(name);
            parent.touch();
            removed?;
            if let Some(farewell) = farewell {
                self.bid(farewell, &parent, name);
            }
            return Ok(());
        }
    }

    /// The node of an entry, if the inode has one. The directory's names are locked.
    pub(super) fn known(&self, parent: &Arc<Node<S>>, name: &[u8]) -> Result<Option<Arc<Node<S>>>> {
        if let Some(node) = parent.child(name) {
            return Ok(Some(node));
        }
        let stat = self.directory(parent)?.lookup(name)?;
        let node = self.table.find(self.table.number(stat.ino));
        Ok(node.filter(|node| node.kind == stat.kind()))
    }

    /// Makes sure that an inode can be reached after this name of it is gone: by another name, by its open file,
    /// or by a pin. The number of a held inode is not used again.
    pub(super) fn farewell(&self, node: &Arc<Node<S>>, parent: &Arc<Node<S>>, name: &[u8]) -> Farewell<S> {
        let node = node.clone();
        if node.has_other_name(parent, name) || node.state().anchor().is_some() {
            return Farewell { node, anchor: None, target: None };
        }
        let Ok(directory) = self.directory(parent) else {
            return Farewell { node, anchor: None, target: None };
        };
        let anchor = match self.live_file(&node) {
            Some(file) => Some(Anchor::File(file)),
            None => pin(directory, name, node.kind),
        };
        let target = match node.kind {
            // A removed link can only be read by who held it open without following it.
            FileKind::Symlink => directory.read_symlink(name).ok().map(Arc::from),
            _ => None,
        };
        Farewell { node, anchor, target }
    }

    /// Notes that the name is gone.
    pub(super) fn bid(&self, farewell: Farewell<S>, parent: &Arc<Node<S>>, name: &[u8]) {
        let Farewell { node, anchor, target } = farewell;
        {
            let mut state = node.state();
            state.attr.nlink = match node.kind {
                FileKind::Directory => 0,
                _ => state.attr.nlink.saturating_sub(1),
            };
            state.attr.ctime = self.now();
            if let Some(anchor) = anchor {
                state.set_anchor(anchor);
            }
            if let Some(target) = target {
                state.set_last_target(target);
            }
        }
        if let Ok(folder) = node.folder() {
            folder.set_removed();
        }
        if node.last_attr().nlink == 0 {
            self.losses.removed(node.ino);
        }
        node.touch();
        self.unname_node(&node, parent, name);
    }
}

fn pin<S: Storage>(directory: &Arc<Directory<S>>, name: &[u8], kind: FileKind) -> Option<Anchor<S>> {
    match directory.pin(name, kind) {
        Ok(pin) => Some(Anchor::Pin(Arc::new(pin))),
        Err(error) => {
            // The removal goes on, and says what is wrong if the entry is.
            let errno = super::error::vault_errno(&error);
            if !matches!(error, VaultError::Io { .. }) || errno != libc::ENOENT {
                log::debug!("an inode that is about to be removed could not be held: errno {errno}");
            }
            None
        }
    }
}

pub(super) fn same_node<S: Storage>(one: Option<&Arc<Node<S>>>, other: Option<&Arc<Node<S>>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

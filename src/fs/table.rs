//! [`Table`]: the nodes that the kernel knows, by number.
//!
//! A node stays as long as the kernel has references to it (it counts what it was given and says how many it
//! forgets), a handle is open, or a node in the table has a name in it. Every count is changed under the lock of
//! the node's shard: a reference given out and the last one coming back at the same time cannot cross.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;

use super::error::{FsError, Result};
use super::node::Node;
use super::types::{Attr, InodeNo};
use crate::vault::{FileKind, Stat, Storage, Timestamp};

pub(super) struct Table<S: Storage> {
    nodes: DashMap<InodeNo, Arc<Node<S>>>,
    /// The root's number at the backing.
    root_ino: u64,
    /// Counts nodes that went, so that attributes read before that are not trusted after it.
    removals: AtomicU64,
    /// For inodes that do not say when they were made.
    next_generation: AtomicU64,
}

impl<S: Storage> Table<S> {
    pub fn new(root_ino: u64) -> Self {
        Self { nodes: DashMap::new(), root_ino, removals: AtomicU64::new(0), next_generation: AtomicU64::new(1) }
    }

    /// The number that the backing's inode has here. One to one: the root of the mount has to be 1, and what
    /// has that number at the backing gets the root's instead.
    pub fn number(&self, backing_ino: u64) -> InodeNo {
        let root = InodeNo::ROOT.0;
        InodeNo(match backing_ino {
            ino if ino == self.root_ino => root,
            ino if ino == root => self.root_ino,
            ino => ino,
        })
    }

    /// The number that the inode has at the backing.
    pub fn backing_number(&self, ino: InodeNo) -> u64 {
        // The exchange of two numbers is its own inverse.
        self.number(ino.0).0
    }

    /// A number for this inode that another one, which had the same inode number before, did not have. From the
    /// time of creation, so that it is the same in every mount.
    pub fn generation(&self, btime: Option<Timestamp>) -> u64 {
        // The kernel keeps 32 bits of it.
        const KEPT_BITS: u64 = (1 << 31) - 1;
        let generation = match btime {
            Some(time) => (time.seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(time.nanoseconds.into()),
            None => self.next_generation.fetch_add(1, Ordering::Relaxed),
        };
        ((generation ^ (generation >> 31)) & KEPT_BITS).max(1)
    }

    pub fn get(&self, ino: InodeNo) -> Result<Arc<Node<S>>> {
        self.find(ino).ok_or(FsError::UnknownInode)
    }

    pub fn find(&self, ino: InodeNo) -> Option<Arc<Node<S>>> {
        self.nodes.get(&ino).map(|node| node.value().clone())
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Finds or makes the node of an inode and counts one reference of the kernel. True if it was made, from
    /// `make`. An inode that was just `created` cannot have a node: one of that number is a dead one's. So it may be of a
    /// symbolic link, which a rotation replaces, and whose node stays.
    pub fn enter(
        &self,
        attr: &Attr,
        generation: u64,
        created: bool,
        make: impl FnOnce() -> Node<S>,
    ) -> (Arc<Node<S>>, bool) {
        let (node, replaced) = match self.nodes.entry(attr.ino) {
            Slot::Occupied(mut slot) => {
                let known = slot.get();
                let before = known.lookups.load(Ordering::Relaxed);
                let is_replaced = attr.kind == FileKind::Symlink && known.generation != generation;
                if known.kind == attr.kind && !created && !is_replaced {
                    known.lookups.store(before.saturating_add(1), Ordering::Relaxed);
                    return (known.clone(), false);
                }
                let node = Arc::new(make());
                // What the kernel forgets of the old one comes under the same number.
                node.lookups.store(before.saturating_add(1), Ordering::Relaxed);
                let replaced = slot.insert(node.clone());
                (node, Some(replaced))
            }
            Slot::Vacant(slot) => {
                let node = Arc::new(make());
                slot.insert(node.clone());
                (node, None)
            }
        };
        if let Some(replaced) = replaced {
            for name in replaced.take_names() {
                self.release(&name.parent);
            }
        }
        (node, true)
    }

    /// Whether the node is the one of its number.
    pub fn contains(&self, node: &Arc<Node<S>>) -> bool {
        self.nodes.get(&node.ino).is_some_and(|current| Arc::ptr_eq(&current, node))
    }

    /// Counts one reference more to a node that is known; false if it has gone from the table meanwhile.
    pub fn count_lookup(&self, node: &Arc<Node<S>>) -> bool {
        self.count(node, &node.lookups)
    }

    /// Keeps the node in the table until [`Table::release`].
    pub fn hold(&self, node: &Arc<Node<S>>) -> bool {
        self.count(node, &node.holds)
    }

    fn count(&self, node: &Arc<Node<S>>, counter: &AtomicU64) -> bool {
        match self.nodes.get(&node.ino) {
            Some(current) if Arc::ptr_eq(&current, node) => {
                counter.fetch_add(1, Ordering::Relaxed);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The kernel gives `count` references back.
    pub fn forget(&self, ino: InodeNo, count: u64) {
        self.drop_counted(ino, |node| subtract(&node.lookups, count));
    }

    /// Gives a hold back.
    pub fn release(&self, node: &Arc<Node<S>>) {
        self.drop_counted(node.ino, |current| {
            if Arc::ptr_eq(current, node) {
                subtract(&current.holds, 1);
            }
        });
    }

    /// Lowers a count, and takes the node out if nothing refers to it any more; then the directories that
    /// only it kept.
    fn drop_counted(&self, ino: InodeNo, lower: impl FnOnce(&Arc<Node<S>>)) {
        let mut going = self.lower(ino, lower);
        let mut directories = Vec::new();
        loop {
            if let Some(node) = going.take() {
                directories.extend(node.take_names().into_iter().map(|name| name.parent));
            }
            let Some(parent) = directories.pop() else { return };
            going = self.lower(parent.ino, |current| {
                if Arc::ptr_eq(current, &parent) {
                    subtract(&current.holds, 1);
                }
            });
        }
    }

    fn lower(&self, ino: InodeNo, lower: impl FnOnce(&Arc<Node<S>>)) -> Option<Arc<Node<S>>> {
        let (_, node) = self.nodes.remove_if(&ino, |_, node| {
            lower(node);
            node.lookups.load(Ordering::Relaxed) == 0
                && node.holds.load(Ordering::Relaxed) == 0
                && node.ino != InodeNo::ROOT
        })?;
        self.removals.fetch_add(1, Ordering::AcqRel);
        Some(node)
    }

    /// Closes what keeps inodes alive that have no name any more. The filesystem is about to end.
    pub fn let_go_of_the_nameless(&self) {
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.value().clone()).collect();
        for node in nodes.iter().filter(|node| node.last_attr().nlink == 0) {
            let (anchor, open) = {
                let mut state = node.state();
                (state.take_anchor(), state.take_open())
            };
            drop((anchor, open));
        }
    }

    /// Lets go of everything, as the filesystem goes: names and directories refer to each other.
    pub fn clear(&self) {
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.value().clone()).collect();
        self.nodes.clear();
        for node in nodes {
            node.take_names();
        }
    }
}

/// The backing's numbers must be usable as ours: 0 means "no such file" to the kernel.
pub(super) fn check_number(stat: &Stat) -> Result<()> {
    if stat.ino == 0 { Err(FsError::NotSupported) } else { Ok(()) }
}

fn subtract(counter: &AtomicU64, count: u64) {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before.saturating_sub(count), Ordering::Relaxed);
}

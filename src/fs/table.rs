//! [`Table`]: the nodes that the kernel knows, by number.
//!
//! A node stays as long as the kernel has references to it (it counts what it was given and says how many it
//! forgets), a handle is open, or a node in the table has a name in it. Every count is changed under the lock of
//! the node's shard, raised under a shared one and lowered under the exclusive one: a reference given out and the
//! last one coming back at the same time cannot cross.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::error::{FsError, Result};
use super::node::Node;
use super::types::{Attr, InodeNo};
use crate::vault::{FileKind, Stat, Storage, Timestamp};

/// How many parts of the table can be changed at once: a power of two.
const SHARDS: usize = 16;

pub(super) struct Table<S: Storage> {
    shards: [Shard<S>; SHARDS],
    /// The root's number at the backing.
    root_ino: u64,
    /// Counts nodes that went, so that attributes read before that are not trusted after it.
    removals: AtomicU64,
    /// For inodes that do not say when they were made.
    next_generation: AtomicU64,
}

/// A set, as a map would keep each number twice, and there can be a million nodes; it looks at all of them when it grows. Apart from
/// the next one in the CPUs' caches.
#[repr(align(128))]
struct Shard<S: Storage>(RwLock<HashSet<ByNumber<S>>>);

/// A node, equal and hashed by its number.
struct ByNumber<S: Storage>(Arc<Node<S>>);

impl<S: Storage> Borrow<InodeNo> for ByNumber<S> {
    fn borrow(&self) -> &InodeNo {
        &self.0.ino
    }
}

impl<S: Storage> Hash for ByNumber<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.ino.hash(state);
    }
}

impl<S: Storage> PartialEq for ByNumber<S> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ino == other.0.ino
    }
}

impl<S: Storage> Eq for ByNumber<S> {}

impl<S: Storage> Table<S> {
    pub fn new(root_ino: u64) -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard(RwLock::default())),
            root_ino,
            removals: AtomicU64::new(0),
            next_generation: AtomicU64::new(1),
        }
    }

    /// Numbers that follow each other are in different ones.
    fn shard(&self, ino: InodeNo) -> &RwLock<HashSet<ByNumber<S>>> {
        let [first, ..] = &self.shards;
        &self.shards.get(ino.0 as usize % SHARDS).unwrap_or(first).0
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
    pub fn generation(&self, btime: Option<Timestamp>) -> u32 {
        // The kernel keeps 32 bits of it, with a sign.
        const KEPT_BITS: u64 = (1 << 31) - 1;
        let generation = match btime {
            Some(time) => (time.seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(time.nanoseconds.into()),
            None => self.next_generation.fetch_add(1, Ordering::Relaxed),
        };
        (((generation ^ (generation >> 31)) & KEPT_BITS) as u32).max(1)
    }

    pub fn get(&self, ino: InodeNo) -> Result<Arc<Node<S>>> {
        self.find(ino).ok_or(FsError::UnknownInode)
    }

    pub fn find(&self, ino: InodeNo) -> Option<Arc<Node<S>>> {
        self.shard(ino).read().get(&ino).map(|node| node.0.clone())
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.read().len()).sum()
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
        generation: u32,
        created: bool,
        make: impl FnOnce() -> Node<S>,
    ) -> (Arc<Node<S>>, bool) {
        let (node, replaced) = {
            let mut nodes = self.shard(attr.ino).write();
            let mut before = 0;
            if let Some(ByNumber(known)) = nodes.get(&attr.ino) {
                before = known.lookups.load(Ordering::Relaxed);
                let is_replaced = attr.kind == FileKind::Symlink && known.generation != generation;
                if known.kind == attr.kind && !created && !is_replaced {
                    known.lookups.store(before.saturating_add(1), Ordering::Relaxed);
                    return (known.clone(), false);
                }
            }
            let node = Arc::new(make());
            // What the kernel forgets of one that is replaced comes under the same number.
            node.lookups.store(before.saturating_add(1), Ordering::Relaxed);
            let replaced = nodes.replace(ByNumber(node.clone()));
            (node, replaced)
        };
        if let Some(ByNumber(replaced)) = replaced {
            for name in replaced.take_names() {
                self.release(&name.parent);
            }
        }
        (node, true)
    }

    /// Whether the node is the one of its number.
    pub fn contains(&self, node: &Arc<Node<S>>) -> bool {
        self.shard(node.ino).read().get(&node.ino).is_some_and(|current| Arc::ptr_eq(&current.0, node))
    }

    /// Counts one reference more to a node that is known; false if it has gone from the table meanwhile.
    pub fn count_lookup(&self, node: &Arc<Node<S>>) -> bool {
        self.if_known(node, || {
            node.lookups.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Keeps the node in the table until [`Table::release`].
    pub fn hold(&self, node: &Arc<Node<S>>) -> bool {
        self.if_known(node, || {
            node.holds.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Raises a count, beside others who do.
    fn if_known(&self, node: &Arc<Node<S>>, raise: impl FnOnce()) -> bool {
        let nodes = self.shard(node.ino).read();
        let is_known = nodes.get(&node.ino).is_some_and(|current| Arc::ptr_eq(&current.0, node));
        if is_known {
            raise();
        }
        is_known
    }

    /// The kernel gives `count` references back.
    pub fn forget(&self, ino: InodeNo, count: u64) {
        self.drop_counted(ino, |node| {
            let before = node.lookups.load(Ordering::Relaxed);
            node.lookups.store(before.saturating_sub(count), Ordering::Relaxed);
        });
    }

    /// Gives a hold back.
    pub fn release(&self, node: &Arc<Node<S>>) {
        self.drop_counted(node.ino, |current| {
            if Arc::ptr_eq(current, node) {
                drop_hold(current);
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
                    drop_hold(current);
                }
            });
        }
    }

    fn lower(&self, ino: InodeNo, lower: impl FnOnce(&Arc<Node<S>>)) -> Option<Arc<Node<S>>> {
        let mut nodes = self.shard(ino).write();
        let ByNumber(node) = nodes.get(&ino)?;
        lower(node);
        let is_unused = node.lookups.load(Ordering::Relaxed) == 0 && node.holds.load(Ordering::Relaxed) == 0;
        if !is_unused || ino == InodeNo::ROOT {
            return None;
        }
        let ByNumber(node) = nodes.take(&ino)?;
        self.removals.fetch_add(1, Ordering::AcqRel);
        Some(node)
    }

    fn all(&self) -> Vec<Arc<Node<S>>> {
        let nodes = |shard: &Shard<S>| shard.0.read().iter().map(|node| node.0.clone()).collect::<Vec<_>>();
        self.shards.iter().flat_map(nodes).collect()
    }

    /// Closes what keeps inodes alive that have no name any more. The filesystem is about to end.
    pub fn let_go_of_the_nameless(&self) {
        for node in self.all().iter().filter(|node| node.last_attr().nlink == 0) {
            let (anchor, open) = {
                let mut state = node.state();
                (state.take_anchor(), state.take_open())
            };
            drop((anchor, open));
        }
    }

    /// Lets go of everything, as the filesystem goes: names and directories refer to each other.
    pub fn clear(&self) {
        let nodes = self.all();
        for shard in &self.shards {
            shard.0.write().clear();
        }
        for node in nodes {
            node.take_names();
        }
    }
}

/// The backing's numbers must be usable as ours: 0 means "no such file" to the kernel.
pub(super) fn check_number(stat: &Stat) -> Result<()> {
    if stat.ino == 0 { Err(FsError::NotSupported) } else { Ok(()) }
}

/// Nobody else changes it: the shard is locked for writing.
fn drop_hold<S: Storage>(node: &Node<S>) {
    let before = node.holds.load(Ordering::Relaxed);
    node.holds.store(before.saturating_sub(1), Ordering::Relaxed);
}

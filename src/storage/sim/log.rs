//! The order of metadata changes, and which of them are durable.
//!
//! What a sync guarantees depends on the policy that a crash is made with, which is known only then.
//! So each change says for every kind of guarantee whether it holds.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::sync::Arc;

use super::crash::{CrashPolicy, MetadataOrder};
use super::tree::{Change, Id, Op, Tree};

/// The changes since `base`, in order.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// What is on the disk under every policy.
    pub(super) base: Tree,
    entries: VecDeque<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    change: Arc<Change>,
    /// A bit for each [`Guarantee`].
    durable_in: u8,
}

/// One reading of what a sync of an inode makes durable.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Guarantee {
    /// Everything before it in the order too.
    ordered: bool,
    /// The entry under which it was created too.
    keeps_entry: bool,
}

impl Guarantee {
    const ALL: [Self; 4] = [
        Self { ordered: false, keeps_entry: false },
        Self { ordered: false, keeps_entry: true },
        Self { ordered: true, keeps_entry: false },
        Self { ordered: true, keeps_entry: true },
    ];

    fn of(policy: &CrashPolicy) -> Self {
        let ordered = policy.metadata == MetadataOrder::OrderedPrefix;
        Self { ordered, keeps_entry: policy.sync_keeps_entry }
    }

    fn bit(self) -> u8 {
        1 << (u8::from(self.ordered) * 2 + u8::from(self.keeps_entry))
    }
}

const ALL_GUARANTEES: u8 = 0b1111;

impl Log {
    pub(super) fn new(base: Tree) -> Self {
        Self { base, entries: VecDeque::new() }
    }

    pub(super) fn push(&mut self, change: Change) {
        self.entries.push_back(Entry { change: Arc::new(change), durable_in: 0 });
    }

    /// The last change is durable at once, whatever the policy.
    pub(super) fn settle_last(&mut self) {
        if let Some(entry) = self.entries.back_mut() {
            entry.durable_in = ALL_GUARANTEES;
        }
        self.compact();
    }

    /// A sync of this inode, a file or a directory.
    pub(super) fn sync(&mut self, id: Id) {
        for guarantee in Guarantee::ALL {
            match guarantee.ordered {
                true => {
                    let concerned = |entry: &Entry| concerns(&entry.change.op, id, guarantee);
                    let end = self.entries.iter().rposition(concerned).map_or(0, |last| last + 1);
                    self.entries.iter_mut().take(end).for_each(|entry| entry.durable_in |= guarantee.bit());
                }
                false => self.sync_with_needs(id, guarantee),
            }
        }
        self.compact();
    }

    /// A sync of everything; `now` is the tree with all changes.
    pub(super) fn sync_all(&mut self, now: &Tree) {
        self.base = now.clone();
        self.entries.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The changes since the base, each with whether it is durable under the policy.
    pub(super) fn changes(
        &self,
        policy: &CrashPolicy,
    ) -> impl DoubleEndedIterator<Item = (&Change, bool)> + ExactSizeIterator {
        let bit = Guarantee::of(policy).bit();
        self.entries.iter().map(move |entry| (&*entry.change, entry.durable_in & bit != 0))
    }

    /// True if a crash may bring this inode (back) into being.
    pub(super) fn may_show(&self, id: Id) -> bool {
        // What was made without a name is seen once it was given one.
        let shows = |entry: &Entry| match entry.change.op {
            Op::Create { id: shown, .. } | Op::Link { id: shown, .. } => shown == id,
            _ => false,
        };
        self.base.get(id).is_ok_and(|inode| inode.nlink > 0) || self.entries.iter().any(shows)
    }

    /// Unordered: the changes that concern the inode, and of those before them only the ones without
    /// which they could not be.
    fn sync_with_needs(&mut self, id: Id, guarantee: Guarantee) {
        let mut needs = Needs::default();
        for entry in self.entries.iter_mut().rev() {
            let op = &entry.change.op;
            let is_durable = entry.durable_in & guarantee.bit() != 0;
            // What is durable already had its needs made durable with it.
            if !is_durable && (concerns(op, id, guarantee) || needs.include(op)) {
                entry.durable_in |= guarantee.bit();
                needs.add(op, guarantee);
            }
        }
    }

    /// Moves what is durable under every policy to the base.
    fn compact(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.durable_in == ALL_GUARANTEES) {
            let Some(entry) = self.entries.pop_front() else { return };
            // One that does not fit is a change of an inode that lost its last name in the base.
            if let Ok(Some(orphan)) = self.base.apply(&entry.change) {
                self.base.remove(orphan);
            }
        }
    }
}

/// True if a sync of the inode has to make the change durable.
fn concerns(op: &Op, id: Id, guarantee: Guarantee) -> bool {
    match op {
        Op::Create { parent, id: created, .. } => *parent == id || guarantee.keeps_entry && *created == id,
        Op::CreateUnnamed { id: created, .. } => *created == id,
        // Names belong to directories: sync those. (ext4 and xfs keep more; nobody promises it.)
        Op::Link { parent, .. } | Op::Unlink { parent, .. } | Op::RemoveDir { parent, .. } => *parent == id,
        Op::Rename { from, to, .. } => from.0 == id || to.0 == id,
        Op::SetMode { id: changed, .. }
        | Op::SetOwner { id: changed, .. }
        | Op::SetTimes { id: changed, .. }
        | Op::SetXattr { id: changed, .. } => *changed == id,
    }
}

/// What changes that are made durable need from those before them.
#[derive(Default)]
struct Needs {
    /// Names in the state that they found.
    names: BTreeSet<(Id, Arc<OsStr>)>,
    created: BTreeSet<Id>,
    /// Inodes that got a name from what held them: they had one of those that they got before.
    linked: BTreeSet<Id>,
    /// Directories that they found empty.
    emptied: BTreeSet<Id>,
    /// Which directory is in which: a directory does not move into itself.
    shape: bool,
}

impl Needs {
    fn add(&mut self, op: &Op, guarantee: Guarantee) {
        let mut name = |parent: &Id, name: &Arc<OsStr>| {
            self.names.insert((*parent, name.clone()));
            // A file that can be found after its sync needs the directories above it.
            if guarantee.keeps_entry {
                self.created.insert(*parent);
            }
        };
        match op {
            Op::Create { parent, name: of, .. } | Op::Unlink { parent, name: of, .. } => name(parent, of),
            Op::Link { parent, name: of, id, source } => {
                name(parent, of);
                match source {
                    Some(source) => name(&source.0, &source.1),
                    None => drop(self.linked.insert(*id)),
                }
            }
            Op::RemoveDir { parent, name: of, id } => {
                name(parent, of);
                self.emptied.insert(*id);
            }
            Op::Rename { from, to, found, .. } => {
                name(&from.0, &from.1);
                name(&to.0, &to.1);
                self.emptied.extend(found.target);
                self.shape |= found.moves_dir;
            }
            Op::CreateUnnamed { .. }
            | Op::SetMode { .. }
            | Op::SetOwner { .. }
            | Op::SetTimes { .. }
            | Op::SetXattr { .. } => {}
        }
    }

    fn include(&self, op: &Op) -> bool {
        let name = |parent: &Id, name: &Arc<OsStr>| {
            self.emptied.contains(parent) || self.names.contains(&(*parent, name.clone()))
        };
        match op {
            Op::Create { parent, name: of, id, .. } => {
                name(parent, of) || self.created.contains(id) || self.linked.contains(id)
            }
            Op::CreateUnnamed { id, .. } => self.created.contains(id) || self.linked.contains(id),
            Op::Link { parent, name: of, id, .. } | Op::Unlink { parent, name: of, id } => {
                name(parent, of) || self.linked.contains(id)
            }
            Op::RemoveDir { parent, name: of, .. } => name(parent, of),
            Op::Rename { from, to, id, found, .. } => {
                name(&from.0, &from.1)
                    || name(&to.0, &to.1)
                    || self.shape && found.moves_dir
                    || self.linked.contains(id)
                    || found.target.is_some_and(|target| self.linked.contains(&target))
            }
            Op::SetMode { .. } | Op::SetOwner { .. } | Op::SetTimes { .. } | Op::SetXattr { .. } => false,
        }
    }
}

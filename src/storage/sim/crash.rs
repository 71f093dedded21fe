//! What a power cut leaves: one of many disks.
//!
//! A crash state is made by asking a [`Chooser`] at every point where the medium has a choice: how far
//! the metadata log got (or which of its changes did), and for every file its length and the content
//! of each sector. The answers can be random, or walk through all combinations, and are recorded, so
//! that one crash state can be made again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::content::{SECTOR_BYTES, Sector};
use super::disk::Disk;
use super::random::{Random, mix};
use super::tree::{Body, Id};

/// What the medium may do to what was not synced, and how much a sync is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPolicy {
    /// Which unsynced changes of names, modes, owners, times and attributes are there.
    pub metadata: MetadataOrder,
    /// A sync of a file or directory keeps the entry under which it was created as well, and those of
    /// the directories above, as ext4, xfs and btrfs do. Without it the caller must sync the parent,
    /// as POSIX has it.
    pub sync_keeps_entry: bool,
    /// A file grows into newly allocated blocks only after their data is written (ext4's
    /// `data=ordered`, xfs). Without it, what was never written reads as zeros below the new length.
    pub ordered_data: bool,
    /// A sector whose write was under way may hold anything.
    pub garbage: bool,
}

/// Which unsynced metadata changes a crash keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataOrder {
    /// Those up to some moment (a journaling filesystem). A sync of an inode also keeps all changes
    /// before the last one that concerns it.
    OrderedPrefix,
    /// Any of them that still fit, in their order. A sync keeps the changes that concern the inode,
    /// and what those need.
    AnySubset,
}

impl CrashPolicy {
    /// ext4 with `data=ordered`, or xfs, on a disk that writes sectors whole.
    pub const JOURNALED: Self =
        Self { metadata: MetadataOrder::OrderedPrefix, sync_keeps_entry: true, ordered_data: true, garbage: false };
    /// A journaling filesystem on a disk that tears sectors, its data not ordered (`data=writeback`).
    pub const JOURNALED_TORN: Self = Self { ordered_data: false, garbage: true, ..Self::JOURNALED };
    /// No order among metadata at all; a sync still keeps its file where it can be found.
    pub const UNORDERED: Self = Self { metadata: MetadataOrder::AnySubset, ..Self::JOURNALED_TORN };
    /// Nothing but what POSIX promises: names are kept by syncs of their directories only.
    pub const POSIX: Self = Self { sync_keeps_entry: false, ..Self::UNORDERED };
    /// From the kindest to the harshest.
    pub const ALL: [Self; 4] = [Self::JOURNALED, Self::JOURNALED_TORN, Self::UNORDERED, Self::POSIX];
}

/// Answers the medium's questions, oldest state first: 0 is what was durable, the last is the newest.
pub(super) struct Chooser {
    source: Source,
    /// Number chosen and number of alternatives, for each real choice.
    record: Vec<(u32, u32)>,
}

enum Source {
    /// The recorded numbers, then 0.
    Path(Vec<u32>),
    Newest,
    Random {
        random: Random,
        /// Of 256, how often the newest is taken.
        newest_of_256: u64,
        /// Pages tend to be written whole.
        whole_pages: bool,
        last_page: Option<(u64, usize, usize)>,
    },
}

impl Chooser {
    pub(super) fn path(path: Vec<u32>) -> Self {
        Self { source: Source::Path(path), record: Vec::new() }
    }

    fn newest() -> Self {
        Self { source: Source::Newest, record: Vec::new() }
    }

    pub(super) fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        // Even chances everywhere would never show the states that matter most: all but one sector.
        let newest_of_256 = match random.below(5) {
            0 => 8,
            1 => 64,
            2 => 128,
            3 => 192,
            _ => 248,
        };
        let whole_pages = random.below(2) == 0;
        let source = Source::Random { random, newest_of_256, whole_pages, last_page: None };
        Self { source, record: Vec::new() }
    }

    /// A number below `count`, which is not 0.
    pub(super) fn choose(&mut self, count: usize) -> usize {
        if count <= 1 {
            return 0;
        }
        let chosen = match &mut self.source {
            Source::Path(path) => path.get(self.record.len()).map_or(0, |&chosen| (chosen as usize).min(count - 1)),
            Source::Newest => count - 1,
            Source::Random { random, newest_of_256, .. } => match random.below(256) < *newest_of_256 {
                true => count - 1,
                false => random.below(count as u64 - 1) as usize,
            },
        };
        self.record.push((chosen as u32, count as u32));
        chosen
    }

    /// A choice for a sector of this page of the file that is being decided.
    pub(super) fn choose_in_page(&mut self, page: u64, count: usize) -> usize {
        if count <= 1 {
            return 0;
        }
        if let Source::Random { random, whole_pages: true, last_page: Some((last, last_count, chosen)), .. } =
            &mut self.source
            && (*last, *last_count) == (page, count)
            && random.below(16) != 0
        {
            let chosen = *chosen;
            self.record.push((chosen as u32, count as u32));
            return chosen;
        }
        let chosen = self.choose(count);
        if let Source::Random { last_page, .. } = &mut self.source {
            *last_page = Some((page, count, chosen));
        }
        chosen
    }

    /// True if the last real choice was the newest of its alternatives, or there was none.
    pub(super) fn last_was_newest(&self) -> bool {
        self.record.last().is_none_or(|(chosen, count)| chosen + 1 == *count)
    }

    /// A torn sector: the same for the same choices before it.
    pub(super) fn garbage(&self, sector: u64) -> Sector {
        let mut random = Random::new(mix(sector ^ (self.record.len() as u64) << 32));
        let mut bytes = [0; SECTOR_BYTES as usize];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()));
        bytes
    }

    pub(super) fn choices(&self) -> Vec<u32> {
        self.record.iter().map(|(chosen, _)| *chosen).collect()
    }

    /// The path of the next combination, if this was not the last.
    fn next_path(&self) -> Option<Vec<u32>> {
        let last = self.record.iter().rposition(|(chosen, count)| chosen + 1 < *count)?;
        let mut path: Vec<u32> = self.record[..=last].iter().map(|(chosen, _)| *chosen).collect();
        path[last] += 1;
        Some(path)
    }

    /// How many combinations there are, if every path branches as this one did.
    fn combinations(&self) -> f64 {
        self.record.iter().map(|(_, count)| f64::from(*count)).product()
    }
}

/// The disk after a power cut.
pub(super) fn crash(disk: &Disk, policy: &CrashPolicy, chooser: &mut Chooser) -> Disk {
    let mut tree = disk.log.base.clone();
    let durable_end = disk.log.changes(policy).rposition(|(_, durable)| durable).map_or(0, |last| last + 1);
    let end = match policy.metadata {
        MetadataOrder::OrderedPrefix => durable_end + chooser.choose(disk.log.len() - durable_end + 1),
        MetadataOrder::AnySubset => disk.log.len(),
    };
    for (change, durable) in disk.log.changes(policy).take(end) {
        let kept = durable || policy.metadata == MetadataOrder::OrderedPrefix || chooser.choose(2) == 1;
        // A change that does not fit is lost with what it needed.
        if kept && let Ok(Some(orphan)) = tree.apply(change) {
            tree.remove(orphan);
        }
    }
    // What was made without a name, and did not get one.
    let nameless: Vec<Id> = tree.orphans().collect();
    nameless.into_iter().for_each(|id| tree.remove(id));
    let mut files = BTreeMap::new();
    let regular: Vec<Id> =
        tree.iter().filter(|(_, inode)| matches!(inode.body, Body::Regular)).map(|(id, _)| id).collect();
    for id in regular {
        let Some(file) = disk.files.get(&id) else { continue };
        let (file, mtime) = match file.is_settled() {
            true => (file.clone(), file.mtime()),
            false => {
                let (file, mtime) = file.crash(policy, chooser);
                (Arc::new(file), mtime)
            }
        };
        files.insert(id, file);
        if let Ok(inode) = tree.get(id)
            && inode.mtime_seq < mtime.seq
            && let Ok(inode) = tree.get_mut(id)
        {
            (inode.mtime, inode.ctime, inode.mtime_seq) = (mtime.mtime, inode.ctime.max(mtime.mtime), mtime.seq);
        }
    }
    // A lost unlink and a kept creation may share a number.
    let mut seen = BTreeSet::new();
    let repeated: Vec<Id> = tree.iter().filter(|(_, inode)| !seen.insert(inode.ino)).map(|(id, _)| id).collect();
    for id in repeated {
        let free = tree.free_ino();
        if let Ok(inode) = tree.get_mut(id) {
            inode.ino = free;
        }
    }
    Disk::settled(tree, files, disk)
}

/// The crash states of a disk: all of them if they are few, a random choice otherwise.
///
/// Random ones begin with the two ends: nothing of what is not durable, and all of it.
pub struct CrashStates {
    disk: Disk,
    policy: CrashPolicy,
    plan: Plan,
}

enum Plan {
    Exhaustive { next: Option<Vec<u32>> },
    Random { count: u64, limit: u64, random: Random },
}

impl CrashStates {
    pub(super) fn new(disk: Disk, policy: CrashPolicy, limit: u64, seed: u64) -> Self {
        let plan = match is_at_most(&disk, &policy, limit) {
            true => Plan::Exhaustive { next: Some(Vec::new()) },
            false => Plan::Random { count: 0, limit, random: Random::new(seed) },
        };
        Self { disk, policy, plan }
    }

    /// True if these are all the crash states that there are.
    pub fn is_exhaustive(&self) -> bool {
        matches!(self.plan, Plan::Exhaustive { .. })
    }

    /// The next crash state, and the choices that made it.
    pub(super) fn next_disk(&mut self) -> Option<(Disk, Vec<u32>)> {
        match &mut self.plan {
            Plan::Exhaustive { next } => {
                let mut chooser = Chooser::path(next.take()?);
                let disk = crash(&self.disk, &self.policy, &mut chooser);
                *next = chooser.next_path();
                Some((disk, chooser.choices()))
            }
            Plan::Random { count, limit, random } => {
                if count == limit {
                    return None;
                }
                let mut chooser = match count {
                    0 => Chooser::path(Vec::new()),
                    1 => Chooser::newest(),
                    _ => Chooser::random(random.next()),
                };
                *count += 1;
                Some((crash(&self.disk, &self.policy, &mut chooser), chooser.choices()))
            }
        }
    }
}

/// True if there are at most `limit` crash states.
fn is_at_most(disk: &Disk, policy: &CrashPolicy, limit: u64) -> bool {
    // Far too many shows at once; only near the limit they are counted.
    let mut newest = Chooser::newest();
    crash(disk, policy, &mut newest);
    if newest.combinations() > limit as f64 {
        return false;
    }
    let mut path = Some(Vec::new());
    for _ in 0..limit {
        let Some(next) = path else { return true };
        let mut chooser = Chooser::path(next);
        crash(disk, policy, &mut chooser);
        path = chooser.next_path();
    }
    path.is_none()
}

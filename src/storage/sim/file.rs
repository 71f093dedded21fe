//! A file's data between two syncs: what is durable, and every version since.
//!
//! What a power cut may leave:
//!
//! - each sector as it was at the last sync, or as any write since left it;
//! - the length at the last sync, or any since; within an appending write, also each page boundary
//!   that it crossed (write-back moves the length page by page);
//! - truncations and punched holes are metadata: a length from after one implies it, and then no byte
//!   of before shows in its range; a length from before one rules out what was written after it to the
//!   pages that it freed. Under [`MetadataOrder::AnySubset`], each may be lost although later lengths
//!   are kept, and holes come and go on their own.
//!
//! A failed sync marks pages clean, as Linux does: the versions since stay possible, and later syncs
//! that succeed do not write them. Only a new write of the sector heals it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::content::{Content, PAGE_BYTES, Page, SECTOR_BYTES, SECTORS, Sector, overlap};
use super::crash::{Chooser, CrashPolicy, MetadataOrder};
use crate::storage::Timestamp;

/// One regular file.
#[derive(Clone, Debug)]
pub(super) struct FileData {
    /// What a process sees.
    pub(super) now: Content,
    durable: Content,
    /// Lengths and zeroed ranges, in order. The first is the durable state, and the last is now.
    points: Vec<Point>,
    /// Per page, what each write since the sync made of it.
    versions: BTreeMap<u64, Vec<Version>>,
    /// The modification time now; that of `points` is what was durable then.
    mtime: MtimeChange,
    /// The file cannot be read back without its inode being written too: fdatasync must.
    needs_inode: bool,
}

/// A modification time, and the change that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MtimeChange {
    pub(super) seq: u64,
    pub(super) mtime: Timestamp,
}

/// A moment that the inode may be at after a crash.
#[derive(Clone, Debug)]
struct Point {
    seq: u64,
    mtime: MtimeChange,
    len_bytes: u64,
    /// The truncation or hole that made this point.
    zeroed: Option<Range<u64>>,
}

#[derive(Clone, Debug)]
struct Version {
    seq: u64,
    /// Sectors that the write touched, as bits.
    touched: u8,
    page: Arc<Page>,
    /// A sync that should have written it failed.
    lost: bool,
}

impl FileData {
    /// An empty file.
    pub(super) fn new(seq: u64, mtime: Timestamp) -> Self {
        Self::settled(Content::default(), seq, MtimeChange { seq, mtime })
    }

    fn settled(content: Content, seq: u64, mtime: MtimeChange) -> Self {
        Self {
            points: vec![Point { seq, mtime, len_bytes: content.len_bytes, zeroed: None }],
            now: content.clone(),
            durable: content,
            versions: BTreeMap::new(),
            mtime,
            needs_inode: false,
        }
    }

    /// This content, all of it durable.
    pub(super) fn settled_now(&self) -> Self {
        let seq = self.points.last().map_or(0, |last| last.seq);
        Self::settled(self.now.clone(), seq, self.mtime)
    }

    pub(super) fn mtime(&self) -> MtimeChange {
        self.mtime
    }

    /// True if `fdatasync` has to write the inode.
    pub(super) fn needs_inode(&self) -> bool {
        self.needs_inode
    }

    pub(super) fn write(&mut self, seq: u64, time: Timestamp, bytes: &[u8], offset_bytes: u64) {
        if bytes.is_empty() {
            return;
        }
        self.mtime = MtimeChange { seq, mtime: time };
        let end = offset_bytes + bytes.len() as u64;
        let range = offset_bytes..end;
        let old_len = self.now.len_bytes;
        for index in offset_bytes / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            let mut page = match self.now.page(index) {
                Some(page) => **page,
                None => [0; PAGE_BYTES as usize],
            };
            let (start, stop) = overlap(&range, index, PAGE_BYTES);
            let source = (index * PAGE_BYTES + start as u64 - offset_bytes) as usize;
            page[start..stop].copy_from_slice(&bytes[source..source + stop - start]);
            let page = Arc::new(page);
            self.needs_inode |= self.now.page(index).is_none();
            self.now.set_page(index, page.clone());
            let touched = (start / SECTOR_BYTES as usize..stop.div_ceil(SECTOR_BYTES as usize))
                .fold(0, |bits, sector| bits | 1 << sector);
            self.versions.entry(index).or_default().push(Version { seq, touched, page, lost: false });
        }
        if end > old_len {
            let mut boundary = (old_len.max(offset_bytes) / PAGE_BYTES + 1) * PAGE_BYTES;
            while boundary < end {
                self.push_point(seq, boundary, None);
                boundary += PAGE_BYTES;
            }
            self.now.len_bytes = end;
        }
        self.push_point(seq, self.now.len_bytes, None);
    }

    pub(super) fn set_len(&mut self, seq: u64, time: Timestamp, len_bytes: u64) {
        let zeroed = (len_bytes < self.now.len_bytes).then_some(len_bytes..u64::MAX);
        self.now.set_len(len_bytes);
        self.mtime = MtimeChange { seq, mtime: time };
        self.push_point(seq, len_bytes, zeroed);
    }

    pub(super) fn punch(&mut self, seq: u64, time: Timestamp, range: Range<u64>) {
        self.now.zero(range.clone());
        self.mtime = MtimeChange { seq, mtime: time };
        self.push_point(seq, self.now.len_bytes, Some(range));
    }

    pub(super) fn reserve(&mut self, pages: Range<u64>) {
        pages.for_each(|page| self.now.reserve(page));
        self.needs_inode = true;
    }

    fn push_point(&mut self, seq: u64, len_bytes: u64, zeroed: Option<Range<u64>>) {
        let same_len = self.points.last().is_some_and(|last| last.len_bytes == len_bytes);
        if same_len && zeroed.is_none() {
            return;
        }
        self.needs_inode = true;
        self.points.push(Point { seq, mtime: self.mtime, len_bytes, zeroed });
    }

    /// Everything is on the disk, but for what an earlier sync lost; the times only if the inode is.
    pub(super) fn sync(&mut self, with_inode: bool) {
        let mtime = match self.points.first() {
            Some(durable) if !with_inode => durable.mtime,
            _ => self.mtime,
        };
        let seq = self.points.last().map_or(0, |last| last.seq);
        let before = std::mem::replace(&mut self.durable, self.now.clone());
        let versions = std::mem::take(&mut self.versions);
        for (index, versions) in versions {
            if !versions.iter().any(|version| version.lost) || index * PAGE_BYTES >= self.now.len_bytes {
                continue;
            }
            // A sector is lost while the last write to it is.
            let lost_sectors = versions
                .iter()
                .fold(0, |bits, version| if version.lost { bits | version.touched } else { bits & !version.touched });
            let mut page = self.now.page(index).map_or([0; PAGE_BYTES as usize], |page| **page);
            for sector in (0..SECTORS).filter(|sector| lost_sectors & (1 << sector) != 0) {
                let within = sector_range(sector);
                match before.page(index) {
                    Some(old) => page[within.clone()].copy_from_slice(&old[within]),
                    None => page[within].fill(0),
                }
            }
            let still_lost: Vec<Version> = versions
                .into_iter()
                .map(|version| Version { touched: version.touched & lost_sectors, ..version })
                .filter(|version| version.lost && version.touched != 0)
                .collect();
            if !still_lost.is_empty() {
                self.durable.set_page(index, Arc::new(page));
                self.versions.insert(index, still_lost);
            }
        }
        // Also cuts what lost pages have beyond the end.
        self.durable.zero(self.now.len_bytes..u64::MAX);
        self.points = vec![Point { seq, mtime, len_bytes: self.now.len_bytes, zeroed: None }];
        self.needs_inode = false;
    }

    /// A sync failed: the pages are clean now, whatever reached the disk.
    pub(super) fn lose_unsynced(&mut self) {
        self.versions.values_mut().flatten().for_each(|version| version.lost = true);
    }

    /// Nothing of this file is at stake.
    pub(super) fn is_settled(&self) -> bool {
        self.versions.is_empty() && !self.needs_inode && self.points.len() == 1 && self.points[0].mtime == self.mtime
    }

    /// The file after a power cut, and its modification time.
    pub(super) fn crash(&self, policy: &CrashPolicy, chooser: &mut Chooser) -> (Self, MtimeChange) {
        let chosen = chooser.choose(self.points.len());
        let point = &self.points[chosen];
        let zeroed: Vec<(u64, Range<u64>)> = match policy.metadata {
            MetadataOrder::OrderedPrefix => zeroings(&self.points[..=chosen]).collect(),
            // A truncation is one with its length; a hole is on its own.
            MetadataOrder::AnySubset => zeroings(&self.points)
                .filter(|(seq, range)| (range.end < u64::MAX || *seq <= point.seq) && chooser.choose(2) == 1)
                .collect(),
        };
        let smallest = self.points[..=chosen].iter().map(|point| point.len_bytes).min();
        let fresh_from = smallest.unwrap_or(0).next_multiple_of(PAGE_BYTES);

        let mut content = self.durable.clone();
        zeroed.iter().for_each(|(_, range)| content.zero(range.clone()));
        content.set_len(point.len_bytes);
        let moment = Moment { point, zeroed, later: &self.points[chosen + 1..], fresh_from, policy };
        for (&index, versions) in &self.versions {
            if index * PAGE_BYTES >= point.len_bytes {
                break;
            }
            let mut page = [0; PAGE_BYTES as usize];
            for sector in (0..SECTORS).take_while(|sector| index * PAGE_BYTES + sector * SECTOR_BYTES < point.len_bytes)
            {
                let candidates = self.sector_candidates(index, sector, versions, &moment, chooser);
                let choice = chooser.choose_in_page(index, candidates.len());
                page[sector_range(sector)].copy_from_slice(&candidates[choice]);
            }
            if content.page(index).is_some() || page.iter().any(|&byte| byte != 0) {
                content.set_page(index, Arc::new(page));
            }
        }
        content.zero(point.len_bytes..u64::MAX);
        // Times travel with an inode that is written some time: no choice of its own, or every
        // overwrite would have twice as many crash states.
        let is_latest = chosen + 1 == self.points.len() && chooser.last_was_newest();
        let mtime = if is_latest { self.mtime } else { point.mtime };
        (Self::settled(content, point.seq, mtime), mtime)
    }

    /// What the sector may be, oldest first, without repetitions.
    fn sector_candidates(
        &self,
        index: u64,
        sector: u64,
        versions: &[Version],
        moment: &Moment<'_>,
        chooser: &Chooser,
    ) -> Vec<Sector> {
        let number = index * SECTORS + sector;
        let written = || {
            let touching = versions.iter().filter(move |version| version.touched & (1 << sector) != 0);
            touching.filter(|version| moment.may_show(version, index))
        };
        let waits = moment.policy.ordered_data && number * SECTOR_BYTES >= moment.fresh_from;
        let needed_seq = match waits {
            true => written().filter(|version| !version.lost && version.seq <= moment.point.seq).map(|v| v.seq).max(),
            false => None,
        };
        let durable = needed_seq.is_none().then(|| (0, self.durable.page(index)));
        let versions = written().filter(|version| needed_seq.is_none_or(|needed| version.seq >= needed));
        let versions = versions.map(|version| (version.seq, Some(&version.page)));
        let mut candidates: Vec<Sector> = Vec::new();
        let mut count = 0;
        for (seq, page) in durable.into_iter().chain(versions) {
            let mut bytes = [0; SECTOR_BYTES as usize];
            if let Some(page) = page {
                bytes.copy_from_slice(&page[sector_range(sector)]);
            }
            for (_, range) in moment.zeroed.iter().filter(|(zeroed_seq, _)| *zeroed_seq > seq) {
                let (start, end) = overlap(range, number, SECTOR_BYTES);
                if start < end {
                    bytes[start..end].fill(0);
                }
            }
            if !candidates.contains(&bytes) {
                candidates.push(bytes);
            }
            count += 1;
        }
        // Counted with repetitions: also a write of the same bytes is a write that may go wrong.
        if moment.policy.garbage && count > 1 {
            candidates.insert(1, chooser.garbage(number));
        }
        candidates
    }
}

/// What is chosen already when a file's sectors are.
struct Moment<'a> {
    point: &'a Point,
    /// Truncations and holes that happened.
    zeroed: Vec<(u64, Range<u64>)>,
    /// Points that were not reached.
    later: &'a [Point],
    /// Blocks from here on were allocated since the sync: with ordered data, the length waits for them.
    fresh_from: u64,
    policy: &'a CrashPolicy,
}

impl Moment<'_> {
    /// False for a write to a page that was freed between this moment and the write: a filesystem does
    /// not use a block again before the freeing of it is durable.
    fn may_show(&self, version: &Version, index: u64) -> bool {
        let page = index * PAGE_BYTES..(index + 1) * PAGE_BYTES;
        self.policy.metadata == MetadataOrder::AnySubset
            || !zeroings(self.later)
                .any(|(seq, range)| seq < version.seq && range.start <= page.start && range.end >= page.end)
    }
}

fn zeroings(points: &[Point]) -> impl Iterator<Item = (u64, Range<u64>)> {
    points.iter().filter_map(|point| point.zeroed.clone().map(|range| (point.seq, range)))
}

fn sector_range(sector: u64) -> Range<usize> {
    let start = (sector * SECTOR_BYTES) as usize;
    start..start + SECTOR_BYTES as usize
}

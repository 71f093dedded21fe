//! Recovery: the journal of a session that did not end cleanly, read, checked and replayed.
//!
//! The segments are read in the order of their use, each from its first record on, until a record is not whole or
//! not the next of the chain. What was read is folded into one [`Plan`] a file; each file is put into memory as
//! it stood after the last good record, and an ordinary checkpoint brings that home. So recovery does nothing
//! twice that cannot be done twice, and a crash inside it leaves a journal that says the same, or more exactly.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use log::warn;

use super::core::{VaultCore, time};
use super::directory::{Directory, Location};
use super::error::{Result, VaultError};
use super::file::replay::{Plan, PlanBase, Refused, Step};
use super::file::{Keys, VaultFile};
use super::journal::{self, Journal, Resume, SEGMENT_MAX, SEGMENT_NAMES, SegmentKey, Slot, remove_segments};
use super::lost;
use super::switches;
use super::windows::CrashWindow;
use crate::format::geometry::{BlockIndex, HEADER_LEN, PAGE_BYTES, PAGE_LEN, PageIndex, page_block};
use crate::format::header::{Birth, Header};
use crate::format::record::{FileId, Operation, Placement};
use crate::storage::{FileKind, Storage, Target, Timestamp, read_into};
use segments::{Segment, read_segments};

mod copies;
pub(crate) mod places;
mod segments;
#[cfg(test)]
mod tests;

/// What a recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that were replayed.
    pub records: u64,
    /// Files whose changes were brought home.
    pub files: usize,
    /// Files that the journal speaks of and that are gone: unlinked before the crash.
    pub gone: usize,
    /// Files that are not in the state that the journal was written for; their part was left out.
    pub stale: Vec<String>,
    /// What shows that the journal itself was damaged after it was written.
    pub damage: Vec<String>,
    /// Segments of the journal that open.
    pub segments: usize,
    /// A copy of the journal was kept in `private/lost`, as not all of it could be replayed.
    pub copy_kept: bool,
}

impl Recovery {
    /// Not all of the journal was replayed, as far as can be told.
    const fn left_something_out(&self) -> bool {
        !self.stale.is_empty() || !self.damage.is_empty()
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the vault was not sealed: replayed {} records of {} files", self.records, self.files)?;
        if self.gone > 0 {
            write!(out, ", {} files were gone", self.gone)?;
        }
        if !self.stale.is_empty() {
            write!(out, "; {} files are not in the state that the journal was written for", self.stale.len())?;
        }
        if !self.damage.is_empty() {
            write!(out, "; the journal is damaged, synced changes may be lost: {}", self.damage.join("; "))?;
        }
        if self.copy_kept {
            write!(out, "; a copy of the journal is kept in private/lost")?;
        }
        Ok(())
    }
}

/// Whether there is a journal: a session did not end cleanly (or runs).
pub(crate) fn journal_exists<S: Storage>(storage: &S, private: &S::Dir) -> Result<bool> {
    for name in SEGMENT_NAMES {
        match storage.stat(Target::Entry(private, name.as_ref())) {
            Ok(_) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(VaultError::io("look for the journal", error)),
        }
    }
    Ok(false)
}

/// Whether the vault in `storage` was sealed: no journal is left. A mounted vault is not.
pub fn is_sealed<S: Storage>(storage: &S) -> Result<bool> {
    let top = storage.open_root().map_err(|e| VaultError::io("open the vault's directory", e))?;
    let private = storage
        .open_dir(&top, super::directory::PRIVATE.as_ref())
        .map_err(|e| VaultError::io("open the vault's private folder", e))?;
    Ok(!journal_exists(storage, &private)?)
}

/// Replays the journal that a crashed session left. Read-write: brings it home and removes it. Read-only: only in
/// memory. None if there is no journal.
pub(crate) fn recover<S: Storage>(core: &Arc<VaultCore<S>>, root: &Arc<Directory<S>>) -> Result<Option<Recovery>> {
    if !journal_exists(&core.storage, core.tree.private())? {
        return Ok(None);
    }
    let mut report = Recovery::default();
    let segments = read_segments(core, &mut report)?;
    report.segments = segments.len();
    let resumed = segments.last().map(copies::resumed);
    if !segments.is_empty() {
        remember_window(core, &segments).map_err(|error| {
            if report.damage.is_empty() {
                error
            } else {
                lost::or_no_room_for_copies(&core.storage, core.tree.private(), error)
            }
        })?;
        let plans = fold(core, &segments, &mut report)?;
        core.set_journal(Some(resume(segments)?));
        replay(core, root, plans, &mut report)?;
    }
    if report.left_something_out() && !core.is_read_only() {
        // Before anything is changed.
        let unsaid = lost::keep_journal(&core.storage, core.tree.private(), resumed.as_ref())?;
        if let (Some(resumed), Some(copy)) = (&resumed, unsaid) {
            copies::say(core, resumed.slot, &copy)?;
        }
        report.copy_kept = true;
    }
    for problem in report.stale.iter().chain(&report.damage) {
        warn!("{problem}");
    }
    Ok(Some(report))
}

/// After [`recover`]: brings what it put into memory home and removes the journal.
pub(crate) fn finish<S: Storage>(core: &Arc<VaultCore<S>>) -> Result<()> {
    // If the process alone ended, the kernel may still have what it did not sync: files, and names. This session takes
    // what it finds for durable, so it must be.
    switches::barrier("recovery.cache-is-synced", || core.sync_backing())?;
    let mut active = 0;
    if let Ok(journal) = core.journal() {
        core.apply_recovered()?;
        active = journal.active_slot();
    }
    core.set_journal(None);
    remove_segments(&core.storage, core.tree.private(), active)
}

/// Keeps what the crash may have cost, before anything is changed.
fn remember_window<S: Storage>(core: &Arc<VaultCore<S>>, segments: &[Segment<S>]) -> Result<()> {
    let Some(newest) = segments.last() else { return Ok(()) };
    let mut window = CrashWindow {
        session: newest.header.session,
        durable_epoch: newest.header.durable_epoch,
        start: time(newest.header.window_start),
        // When the crash was cannot be told: the clock may have been set back since. What is made from now on is known.
        end: Timestamp { seconds: i64::MAX, nanoseconds: 0 },
    };
    for (_, record) in segments.iter().flat_map(|segment| &segment.records) {
        for operation in &record.operations {
            if let Operation::Epoch { durable, window_start } = operation {
                window.durable_epoch = *durable;
                window.start = time(*window_start);
            }
        }
    }
    let mut windows = core.windows.write();
    windows.add(window);
    if core.is_read_only() { Ok(()) } else { windows.store(&core.storage, core.tree.private(), &core.keys.active()) }
}

/// A file of the journal: where it may be, and what is to become of it.
#[derive(Default)]
struct Folded {
    /// The path at each naming, followed through the renames recorded since: any prefix of them may have happened.
    paths: Vec<Vec<u8>>,
    /// It may be found by a name that the journal does not know, where it is at none of the paths.
    has_other_names: bool,
    plan: Plan,
}

type Images = Vec<(FileId, BlockIndex, journal::Location)>;

fn fold<S: Storage>(
    core: &VaultCore<S>,
    segments: &[Segment<S>],
    report: &mut Recovery,
) -> Result<BTreeMap<FileId, Folded>> {
    let mut files: BTreeMap<FileId, Folded> = BTreeMap::new();
    for segment in segments {
        let mut text = Vec::new();
        // Images of a checkpoint count from its end mark on.
        let mut stash: Images = Vec::new();
        for (block, record) in &segment.records {
            report.records += 1;
            let mut image = block.saturating_add(1);
            for operation in &record.operations {
                let at = journal::Location { segment: segment.header.seq, block: image };
                image = image.saturating_add(u32::try_from(operation.images()).unwrap_or(u32::MAX));
                match operation {
                    Operation::Text(piece) => text.extend_from_slice(piece),
                    Operation::File { file, salt, seq } => {
                        let place = std::mem::take(&mut text);
                        let folded = files.entry(*file).or_default();
                        let named = places::parse(&place);
                        folded.has_other_names |= named.has_other_names;
                        folded.paths.extend(named.path.map(<[u8]>::to_vec));
                        folded.plan.ino = named.ino;
                        folded.plan.identities.push((*salt, *seq));
                    }
                    Operation::Rename { exchange } => follow_rename(&mut files, &std::mem::take(&mut text), *exchange),
                    Operation::CheckpointEnd => {
                        if switches::holds("checkpoint.images-stand-for-home", false) {
                            stash.clear();
                        }
                        end_checkpoint(core, segment, &mut files, std::mem::take(&mut stash))?;
                    }
                    Operation::Node { file, block } => stash.push((*file, BlockIndex(*block), at)),
                    Operation::Root { file, mtime } => {
                        stash.push((*file, BlockIndex::ROOT, at));
                        if let (Some(folded), Some(mtime)) = (files.get_mut(file), mtime) {
                            folded.plan.mtime = Some(time(*mtime));
                        }
                    }
                    Operation::Retired { .. } | Operation::Epoch { .. } => {}
                    Operation::Pages { file, .. }
                    | Operation::Length { file, .. }
                    | Operation::Blob { file, .. }
                    | Operation::Reset { file, .. }
                    | Operation::Punch { file, .. }
                    | Operation::Extending { file } => {
                        if matches!(operation, Operation::Blob { .. } | Operation::Reset { .. }) {
                            // Of a checkpoint that was given up: they are of what the file was before.
                            stash.retain(|(of, _, _)| of != file);
                        }
                        if let Some(folded) = files.get_mut(file) {
                            step(core, segment, &mut folded.plan, operation, at)?;
                        }
                    }
                }
            }
        }
    }
    Ok(files)
}

/// One operation on one file.
fn step<S: Storage>(
    core: &VaultCore<S>,
    segment: &Segment<S>,
    plan: &mut Plan,
    operation: &Operation,
    at: journal::Location,
) -> Result<()> {
    match operation {
        Operation::Pages { session, placement, seals, .. } => {
            for (seal, index) in seals.iter().zip(0_u32..) {
                let block = page_block(PageIndex(seal.page));
                match placement {
                    Placement::Journal => {
                        plan.overlay.insert(block, journal::Location { block: at.block.saturating_add(index), ..at });
                    }
                    Placement::Home => {
                        plan.overlay.remove(&block);
                    }
                }
            }
            plan.steps.push(Step::Seals { session: *session, seals: seals.clone() });
        }
        Operation::Length { size, mtime, .. } => {
            plan.mtime = mtime.map(time).or(plan.mtime);
            plan.drop_pages(size.div_ceil(PAGE_BYTES), u64::MAX >> 20);
            plan.steps.push(Step::Length(*size));
        }
        Operation::Blob { images, mtime, .. } => {
            plan.mtime = mtime.map(time).or(plan.mtime);
            plan.overlay.clear();
            plan.steps.clear();
            plan.base = PlanBase::Overlay;
            for index in 0..u32::from(*images) {
                let image = journal::Location { block: at.block.saturating_add(index), ..at };
                plan.overlay.insert(BlockIndex(u64::from(index)), image);
            }
            remember_identity(core, segment, plan, at)?;
        }
        Operation::Reset { salt, birth_session, birth_epoch, .. } => {
            if plan.base == PlanBase::Overlay {
                plan.header_before = plan.overlay.get(&BlockIndex::ROOT).copied();
            }
            plan.overlay.clear();
            plan.steps.clear();
            plan.base = PlanBase::Home;
            let birth = Birth { session: *birth_session, epoch: *birth_epoch };
            plan.steps.push(Step::Reset { salt: *salt, birth });
        }
        Operation::Punch { first, count, .. } => {
            plan.drop_pages(*first, first.saturating_add(*count));
            plan.steps.push(Step::Punch { first: *first, count: *count });
        }
        Operation::Extending { .. } => plan.extending = true,
        _ => {}
    }
    Ok(())
}

/// The header in an image of block 0 is one that the home may hold when the checkpoint was under way.
fn remember_identity<S: Storage>(
    core: &VaultCore<S>,
    segment: &Segment<S>,
    plan: &mut Plan,
    at: journal::Location,
) -> Result<()> {
    let mut start = vec![0; PAGE_LEN];
    let read = read_into(&core.storage, &segment.file, &mut start, u64::from(at.block) * PAGE_BYTES)
        .map_err(|e| VaultError::io("read the journal", e))?;
    if read == PAGE_LEN
        && let Ok(salt) = Header::salt(&start)
        && let Ok(header) = Keys::found(core, salt).open_header(&start)
    {
        plan.identities.push((salt, header.seq));
    }
    Ok(())
}

fn end_checkpoint<S: Storage>(
    core: &VaultCore<S>,
    segment: &Segment<S>,
    files: &mut BTreeMap<FileId, Folded>,
    images: Images,
) -> Result<()> {
    for (file, block, at) in images {
        let Some(folded) = files.get_mut(&file) else { continue };
        folded.plan.overlay.insert(block, at);
        if block == BlockIndex::ROOT {
            folded.plan.base = PlanBase::Overlay;
            folded.plan.steps.clear();
            remember_identity(core, segment, &mut folded.plan, at)?;
        }
    }
    Ok(())
}

fn follow_rename(files: &mut BTreeMap<FileId, Folded>, text: &[u8], exchange: bool) {
    let mut halves = text.splitn(2, |byte| *byte == 0);
    let (Some(from), Some(to)) = (halves.next(), halves.next()) else { return };
    for folded in files.values_mut() {
        // Every path so far: a rename may have been refused after its intent was recorded.
        for at in 0..folded.paths.len() {
            let Some(path) = folded.paths.get(at) else { break };
            let moved = moved_path(path, from, to);
            let moved = moved.or_else(|| if exchange { moved_path(path, to, from) } else { None });
            if let Some(moved) = moved.filter(|moved| !folded.paths.contains(moved)) {
                folded.paths.push(moved);
            }
        }
    }
}

/// `path` with `from` at its front replaced by `to`.
fn moved_path(path: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(from)?;
    (rest.is_empty() || rest.starts_with(b"/")).then(|| [to, rest].concat())
}

/// The journal as it is, to read images from and to append the last checkpoint to.
fn resume<S: Storage>(mut segments: Vec<Segment<S>>) -> Result<Journal<S>> {
    let newest = segments.pop().ok_or(VaultError::Internal("an empty journal was resumed"))?;
    let mut slots: [Option<Slot<S>>; 2] = [None, None];
    for segment in segments.iter().chain([&newest]) {
        // Beyond its preallocated end a segment may grow: recovery has the disk to itself.
        if let Some(slot) = slots.get_mut(segment.slot) {
            *slot = Some(Slot { file: segment.file.clone(), capacity: SEGMENT_MAX });
        }
    }
    let next_lsn = newest.next_lsn();
    let at = Resume {
        key: SegmentKey { id: newest.id, key: newest.key },
        active: newest.slot,
        seq: newest.header.seq,
        next_block: newest.end_block,
        next_lsn,
        chain: newest.chain,
    };
    Ok(Journal::resume(slots, at))
}

fn replay<S: Storage>(
    core: &Arc<VaultCore<S>>,
    root: &Arc<Directory<S>>,
    files: BTreeMap<FileId, Folded>,
    report: &mut Recovery,
) -> Result<()> {
    let mut elsewhere = Vec::new();
    for (id, Folded { paths, has_other_names, plan }) in files {
        core.file_ids_used(id.0.saturating_add(1));
        // The last rename is the most likely to have happened; the header says which file it is.
        let places = paths.iter().rev().map(|path| places::locate(root, path));
        if let Some(plan) = replay_at(core, id, plan, places, report)? {
            elsewhere.push((id, plan, has_other_names));
        }
    }
    let (elsewhere, gone): (Vec<_>, Vec<_>) =
        elsewhere.into_iter().partition(|(_, _, has_other_names)| *has_other_names);
    report.gone += gone.len();
    let found = places::search(core, root, elsewhere.iter().map(|(_, plan, _)| plan))?;
    for (id, plan, _) in elsewhere {
        let place = found.of(&plan);
        if replay_at(core, id, plan, std::iter::once(Ok(place)), report)?.is_some() {
            report.gone += 1;
        }
    }
    Ok(())
}

/// Replays a file's part at the first of these places where it is. Gives the plan back if it is at none.
fn replay_at<S: Storage>(
    core: &Arc<VaultCore<S>>,
    id: FileId,
    plan: Plan,
    places: impl Iterator<Item = Result<Option<Location<S>>>>,
    report: &mut Recovery,
) -> Result<Option<Plan>> {
    let mut stale = None;
    for place in places {
        let Some(location) = place? else { continue };
        let Some(stat) = places::stat(&location)?.filter(|stat| stat.kind() == FileKind::Regular) else { continue };
        match plan.fits(core, &location, &stat)? {
            Fit::Other => {}
            Fit::Stale => stale = Some(location.backing_path()),
            Fit::This => {
                match VaultFile::replayed(core, id, location, &stat, plan) {
                    Ok(file) => {
                        let file = Arc::new(file);
                        core.enter_recovered(&file);
                        core.journaled.lock().insert(id, file);
                        report.files += 1;
                    }
                    Err(Refused::Stale(reason)) => report.stale.push(reason),
                    Err(Refused::Failed(error)) => return Err(error),
                }
                return Ok(None);
            }
        }
    }
    if let Some(path) = stale {
        report.stale.push(path);
        return Ok(None);
    }
    Ok(Some(plan))
}

/// What the file at a place is to a plan.
enum Fit {
    /// The file that it is about, in a state that it speaks of.
    This,
    /// The file that it is about, in another state.
    Stale,
    /// Another file, which took the name.
    Other,
}

impl Plan {
    /// Whether the file at a place is the one that this is about: an early look at its header.
    fn fits<S: Storage>(
        &self,
        core: &VaultCore<S>,
        location: &Location<S>,
        stat: &crate::storage::Stat,
    ) -> Result<Fit> {
        let file = location.open_backing(stat)?;
        let mut start = [0; HEADER_LEN];
        let read = read_into(&core.storage, &file, &mut start, 0).map_err(|e| VaultError::io("read a file", e))?;
        let salt = Header::salt(&start).unwrap_or_default();
        let fit = match Keys::found(core, salt).open_header(&start) {
            Ok(header) if self.identities.contains(&(salt, header.seq)) => Fit::This,
            Ok(_) if self.identities.iter().any(|(known, _)| *known == salt) => Fit::Stale,
            // Just made, under the name of one that is gone: it never had a header.
            Err(_) if read < HEADER_LEN => Fit::Other,
            // The same, or its header was taken away: what the journal has of it is kept, and not put there.
            Err(_) if start.iter().all(|byte| *byte == 0) => {
                if self.ino == Some(stat.ino) && core.windows.read().covers(stat).is_none() {
                    Fit::Stale
                } else {
                    Fit::Other
                }
            }
            // A header that does not open tells of its file by its salt alone, which a torn one may have lost. Then the inode
            // does, which is another in a copy of the vault: the name may be another's by now.
            Err(_)
                if self.ino.is_some_and(|ino| ino != stat.ino)
                    && !self.identities.iter().any(|(known, _)| *known == salt) =>
            {
                Fit::Other
            }
            // Torn, while a checkpoint replaced it.
            Err(_) if self.rewrites_header() => Fit::This,
            Err(_) if core.windows.read().covers(stat).is_some() => Fit::Other,
            Err(_) => Fit::Stale,
            Ok(_) => Fit::Other,
        };
        let refused = matches!(fit, Fit::Stale) && !switches::holds("recovery.stale-base-refused", false);
        Ok(if matches!(fit, Fit::Stale) && !refused { Fit::This } else { fit })
    }
}

//! The segments of a crashed journal: which of them count, and how far. What shows that they were damaged is reported.

use std::sync::Arc;

use super::Recovery;
use crate::crypto::aead::{AeadKey, Tag};
use crate::format::geometry::{PAGE_BYTES, PAGE_LEN};
use crate::format::record::{JournalId, Lsn, Operation, Record, SegmentHeader, SegmentSeq};
use crate::storage::{Access, Storage, Target, read_into};
use crate::vault::core::VaultCore;
use crate::vault::error::{Result, VaultError};
use crate::vault::journal::{FIRST_CAPACITY, SEGMENT_MAX, SEGMENT_NAMES};
use crate::vault::switches;

pub(super) struct Segment<S: Storage> {
    pub slot: usize,
    pub file: Arc<S::File>,
    blocks: u32,
    pub id: JournalId,
    pub key: AeadKey,
    pub header: SegmentHeader,
    header_tag: Tag,
    pub records: Vec<(u32, Record)>,
    /// Behind the last good record.
    pub end_block: u32,
    pub chain: Tag,
}

impl<S: Storage> Segment<S> {
    pub fn next_lsn(&self) -> Lsn {
        self.records.last().map_or(self.header.first_lsn, |(_, record)| record.lsn.next())
    }
}

/// The segments that count, the older one first.
pub(super) fn read_segments<S: Storage>(core: &VaultCore<S>, report: &mut Recovery) -> Result<Vec<Segment<S>>> {
    let mut segments: Vec<Segment<S>> = Vec::new();
    for (slot, name) in SEGMENT_NAMES.into_iter().enumerate() {
        let file = match core.storage.open_file(core.tree.private(), name.as_ref(), access(core)) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(VaultError::own_file(&format!("private/{name}"), "read the journal", error)),
        };
        // A segment whose first block does not open was being made, or used again, when the session ended:
        // nothing in it was ever synced. Or it is not of this vault.
        if let Some(segment) = open_segment(core, slot, file, report)? {
            segments.push(segment);
        }
    }
    segments.sort_by_key(|segment| segment.header.seq);
    if let [older, newer] = segments.as_slice()
        && older.header.session != newer.header.session
    {
        report.damage.push("the two segments are of different sessions; the later one is left out".to_owned());
        segments.truncate(1);
    }
    if let [older, newer] = segments.as_slice()
        && newer.header.seq.0 > older.header.seq.0.saturating_add(1)
    {
        // The header of the one between was durable before the newer was begun: this file was put back since.
        report.damage.push(format!("{}: it is of an earlier use of the journal, and left out", name_of(older.slot)));
        segments.remove(0);
    }
    for segment in &mut segments {
        scan(core, segment)?;
    }
    // One that is retired may be in use again already: nothing follows from what is left of it.
    drop_retired(&mut segments);
    if let [older, newer] = segments.as_slice()
        && !switches::holds(
            "journal.lsn-continues",
            older.next_lsn() == newer.header.first_lsn && older.chain == newer.header.previous,
        )
    {
        // The older segment was not synced to its end, and so nothing in this one was.
        if newer.records.iter().any(|(_, record)| record.synced_through >= older.next_lsn()) {
            let name = name_of(older.slot);
            report.damage.push(format!("{name}: records that were synced are missing from its end"));
        }
        segments.truncate(1);
    }
    if let Some(missing) = segments.first().and_then(missing_before) {
        report.damage.push(missing);
    }
    for segment in &segments {
        look_for_damage(core, segment, report)?;
    }
    Ok(segments)
}

/// A segment is not used again nor removed before its retirement is recorded in the next one, and synced. So where neither
/// it nor that record is, it was taken away or damaged. That its header was durable before this segment was begun follows
/// from the same: this one's header went over the segment two before, once that one's retirement was synced in the one
/// between, and the header of that with it. The first one's was synced when the journal was made.
fn missing_before<S: Storage>(oldest: &Segment<S>) -> Option<String> {
    let before = SegmentSeq(oldest.header.seq.0.checked_sub(1).filter(|seq| *seq > 0)?);
    let mut operations = oldest.records.iter().flat_map(|(_, record)| &record.operations);
    let is_home = operations.any(|operation| *operation == Operation::Retired { seq: before });
    if switches::holds("journal.missing-segment-is-said", is_home) {
        return None;
    }
    let (name, other) = (name_of(oldest.slot), name_of(1 - oldest.slot.min(1)));
    Some(format!("{other}: the segment before {name} is missing, or does not open; what changed in it is not replayed"))
}

fn name_of(slot: usize) -> &'static str {
    SEGMENT_NAMES.get(slot).copied().unwrap_or("journal")
}

fn access<S: Storage>(core: &VaultCore<S>) -> Access {
    if core.is_read_only() { Access::Read } else { Access::ReadWrite }
}

fn open_segment<S: Storage>(
    core: &VaultCore<S>,
    slot: usize,
    file: S::File,
    report: &mut Recovery,
) -> Result<Option<Segment<S>>> {
    let failed = |e| VaultError::io("read the journal", e);
    let mut block = vec![0; PAGE_LEN];
    if read_into(&core.storage, &file, &mut block, 0).map_err(failed)? < PAGE_LEN {
        return Ok(None);
    }
    let Ok(id) = SegmentHeader::journal_id(&block) else { return Ok(None) };
    let opened = core.keys.open(|keys| {
        let key = keys.journal(&id);
        SegmentHeader::open(&block, &key).map(|(header, tag)| (header, tag, key))
    });
    let Ok((header, header_tag, key)) = opened else { return Ok(None) };
    let length = core.storage.stat(Target::File(&file)).map_err(failed)?.size_bytes;
    if length < u64::from(FIRST_CAPACITY) * PAGE_BYTES {
        // Its header was written when all of it was there, synced.
        report.damage.push(format!("{}: it was cut", name_of(slot)));
    }
    Ok(Some(Segment {
        slot,
        file: Arc::new(file),
        // Whatever length somebody gave it: no more than it can have is looked through.
        blocks: u32::try_from(length / PAGE_BYTES).unwrap_or(u32::MAX).min(SEGMENT_MAX),
        id,
        key,
        header,
        header_tag,
        records: Vec::new(),
        end_block: 1,
        chain: header_tag,
    }))
}

/// Reads records as long as each is whole and the next of the chain.
fn scan<S: Storage>(core: &VaultCore<S>, segment: &mut Segment<S>) -> Result<()> {
    let mut lsn = segment.header.first_lsn;
    segment.chain = segment.header_tag;
    while segment.end_block < segment.blocks {
        let Some((record, tag)) = read_record(core, segment, segment.end_block)? else { break };
        let next = record.lsn == lsn && record.segment == segment.header.seq;
        if !next || !switches::holds("journal.chain", record.previous == segment.chain) {
            break;
        }
        let images = u32::from(record.images);
        if !switches::holds("journal.images-verify", images_verify(core, segment, &record)?) {
            break;
        }
        lsn = lsn.next();
        let at = segment.end_block;
        segment.end_block = at.saturating_add(1).saturating_add(images);
        segment.chain = tag;
        segment.records.push((at, record));
    }
    Ok(())
}

/// A later record that knew the one that is not whole to be durable proves that it was damaged since.
fn look_for_damage<S: Storage>(core: &VaultCore<S>, segment: &Segment<S>, report: &mut Recovery) -> Result<()> {
    let lsn = segment.next_lsn();
    for block in segment.end_block..segment.blocks {
        if let Some((record, _)) = read_record(core, segment, block)?
            && record.segment == segment.header.seq
            && record.lsn >= lsn
            && record.synced_through >= lsn
        {
            report.damage.push(format!(
                "{}: the record at block {} does not verify, and was synced",
                name_of(segment.slot),
                segment.end_block
            ));
            break;
        }
    }
    Ok(())
}

fn read_record<S: Storage>(core: &VaultCore<S>, segment: &Segment<S>, block: u32) -> Result<Option<(Record, Tag)>> {
    let mut descriptor = vec![0; PAGE_LEN];
    let read = read_into(&core.storage, &segment.file, &mut descriptor, u64::from(block) * PAGE_BYTES)
        .map_err(|e| VaultError::io("read the journal", e))?;
    if read < PAGE_LEN {
        return Ok(None);
    }
    Ok(Record::open(&descriptor, u64::from(block), &segment.key).ok())
}

fn images_verify<S: Storage>(core: &VaultCore<S>, segment: &Segment<S>, record: &Record) -> Result<bool> {
    let mut images = vec![0; usize::from(record.images) * PAGE_LEN];
    let offset_bytes = u64::from(segment.end_block).saturating_add(1) * PAGE_BYTES;
    let read = read_into(&core.storage, &segment.file, &mut images, offset_bytes)
        .map_err(|e| VaultError::io("read the journal", e))?;
    Ok(read == images.len() && record.images_verify(&images, &segment.key))
}

/// Leaves out a segment whose retirement a later one records.
fn drop_retired<S: Storage>(segments: &mut Vec<Segment<S>>) {
    let retired: Vec<SegmentSeq> = segments
        .iter()
        .flat_map(|segment| &segment.records)
        .flat_map(|(_, record)| &record.operations)
        .filter_map(|operation| match operation {
            Operation::Retired { seq } => Some(*seq),
            _ => None,
        })
        .collect();
    segments.retain(|segment| !retired.contains(&segment.header.seq));
}

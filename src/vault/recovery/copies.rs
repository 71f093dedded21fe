//! What a segment says of the copies that were made of it.
//!
//! A recovery that does not come to its end leaves the segment it went on in longer than it was copied: by its content
//! it is another, and would be copied again each time. So before anything else is appended to it, it is said in it what
//! its copy is called: as a Rename of `private/journal.N` to `private/lost/NAME`. Both are outside the tree, so for a
//! replay nothing follows. A segment that was put back since, with more in it than the copy has, does not say so.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use super::segments::Segment;
use crate::format::record::Operation;
use crate::storage::Storage;
use crate::vault::core::VaultCore;
use crate::vault::directory::PRIVATE;
use crate::vault::error::Result;
use crate::vault::journal::SEGMENT_NAMES;
use crate::vault::lost::{LOST, Resumed};

/// The segment in which the recovery goes on.
pub(super) fn resumed<S: Storage>(segment: &Segment<S>) -> Resumed {
    let said = text_before_name(segment.slot);
    let mut copies = Vec::new();
    let mut text = Vec::new();
    for operation in segment.records.iter().flat_map(|(_, record)| &record.operations) {
        match operation {
            Operation::Text(piece) => text.extend_from_slice(piece),
            Operation::File { .. } => text.clear(),
            Operation::Rename { .. } => {
                let text = std::mem::take(&mut text);
                copies.extend(text.strip_prefix(said.as_slice()).map(|copy| OsString::from_vec(copy.to_vec())));
            }
            _ => {}
        }
    }
    Resumed { slot: segment.slot, end_block: segment.end_block, copies }
}

/// Says it, durably.
pub(super) fn say<S: Storage>(core: &Arc<VaultCore<S>>, slot: usize, copy: &OsStr) -> Result<()> {
    let text = [text_before_name(slot).as_slice(), copy.as_bytes()].concat();
    let appended = core.append_text(&text, Operation::Rename { exchange: false })?;
    core.sync_journal(appended.lsn)
}

fn text_before_name(slot: usize) -> Vec<u8> {
    let segment = SEGMENT_NAMES.get(slot).copied().unwrap_or(SEGMENT_NAMES[0]);
    format!("{PRIVATE}/{segment}\0{PRIVATE}/{LOST}/").into_bytes()
}

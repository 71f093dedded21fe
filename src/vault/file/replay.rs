//! A file as the journal of a crashed session leaves it.

use std::sync::Arc;

use super::home::{Home, Keys, Overlay};
use super::{Base, Body, Journaled, State, VaultFile};
use crate::format::geometry::{
    BLOB_MAX, BlockIndex, HEADER_LEN, PAGE_LEN, PageIndex, SIZE_MAX, page_block, page_count,
};
use crate::format::header::{Birth, Header, Salt, Seal};
use crate::format::record::{FileId, PageSeal};
use crate::storage::{Stat, Storage, Timestamp, read_into};
use crate::vault::core::VaultCore;
use crate::vault::directory::Location;
use crate::vault::error::{Result, VaultError};
use crate::vault::journal;
use crate::vault::switches;
use crate::vault::tree::TagTree;

/// What the operations of a journal come to for one file.
#[derive(Default)]
pub(crate) struct Plan {
    /// Headers that the home may hold: what the journal was begun on, or what it was to become.
    pub identities: Vec<(Salt, u64)>,
    /// The inode of the home, when it was named last.
    pub ino: Option<u64>,
    /// Blocks whose newest image is in the journal.
    pub overlay: Overlay,
    pub base: PlanBase,
    /// The image of a header that a checkpoint may have been writing to the home, of a file that began anew after that.
    pub header_before: Option<journal::Location>,
    pub steps: Vec<Step>,
    pub mtime: Option<Timestamp>,
    /// The home may be longer than its header says.
    pub extending: bool,
}

/// Where the state begins that the steps change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PlanBase {
    /// What the home holds.
    #[default]
    Home,
    /// Block 0 in the overlay: a blob, or a header and root that a checkpoint sealed.
    Overlay,
}

/// One change of the state.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Seals { session: u32, seals: Vec<PageSeal> },
    Length(u64),
    Reset { salt: Salt, birth: Birth },
    Punch { first: u64, count: u64 },
}

impl Plan {
    /// Whether a checkpoint may have torn the home's header, which this does again.
    pub fn rewrites_header(&self) -> bool {
        self.base == PlanBase::Overlay || self.header_before.is_some()
    }

    /// Takes pages off the overlay that were dropped.
    pub fn drop_pages(&mut self, first: u64, end: u64) {
        let (from, to) = (page_block(PageIndex(first)), page_block(PageIndex(end.max(first))));
        self.overlay.retain(|block, _| *block < from || *block >= to || super::journaling::is_node(*block));
    }
}

/// Why a file's part of a journal is not replayed.
pub(crate) enum Refused {
    /// The file is not the one, or not in the state, that the journal speaks of.
    Stale(String),
    Failed(VaultError),
}

impl From<VaultError> for Refused {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Integrity(error) => Self::Stale(error.to_string()),
            other => Self::Failed(other),
        }
    }
}

impl<S: Storage> VaultFile<S> {
    /// The file at `location` in the state that `plan` says, ready for a checkpoint.
    pub(crate) fn replayed(
        core: &Arc<VaultCore<S>>,
        id: FileId,
        location: Location<S>,
        stat: &Stat,
        plan: Plan,
    ) -> std::result::Result<Self, Refused> {
        let file = location.open_backing(stat)?;
        let mut first = vec![0; stat.size_bytes.min(BLOB_MAX + HEADER_LEN as u64) as usize];
        let read = read_into(&core.storage, &file, &mut first, 0).map_err(|e| VaultError::io("read a file", e))?;
        first.truncate(read);
        let mut salt = Header::salt(&first).unwrap_or_default();
        let rewrites_header = plan.rewrites_header();
        let mut home = Home::new(Arc::new(file), Keys::found(core, salt), plan.overlay, location.backing_path());
        let mut at_home = home.keys.open_header(&first).ok();
        let known = match &at_home {
            Some(header) => plan.identities.contains(&(salt, header.seq)),
            // A header that was torn while a checkpoint replaced it, which the journal does again.
            None => rewrites_header,
        };
        if !switches::holds("recovery.stale-base-refused", known) {
            return Err(Refused::Stale(format!("{}: not in the state that the journal was written for", home.path)));
        }
        let begins_anew = plan.base == PlanBase::Home && matches!(plan.steps.first(), Some(Step::Reset { .. }));
        if at_home.is_none()
            && let Some(at) = plan.header_before.filter(|_| begins_anew)
        {
            let mut image = vec![0; PAGE_LEN];
            core.read_journal(at, &mut image)?;
            salt = Header::salt(&image).map_err(|e| home.integrity(None, &e.to_string()))?;
            home.keys = Keys::found(core, salt);
            at_home = home.keys.open_header(&image).ok();
        }
        let mut state = if plan.base == PlanBase::Overlay {
            let start = overlay_start(core, &home)?;
            let salt = Header::salt(&start).map_err(|e| home.integrity(None, &e.to_string()))?;
            home.keys = Keys::found(core, salt);
            let header = home.keys.open_header(&start).map_err(|e| home.integrity(None, &e.to_string()))?;
            let len = HEADER_LEN + header.size as usize;
            let start = if header.size <= BLOB_MAX { start.get(..len).unwrap_or(&start) } else { &start };
            let base = Base::Durable { synced: false };
            Self::state_from(home, header, start, stat.size_bytes, base).map_err(|(error, _)| error)?
        } else {
            let header = at_home.ok_or_else(|| home.integrity(None, "the header does not verify"))?;
            let fits =
                plan.extending || begins_anew || crate::format::geometry::home_len(header.size) == stat.size_bytes;
            if !fits {
                return Err(home.integrity(None, "the file's length does not fit its header").into());
            }
            let base = Base::Durable { synced: false };
            if begins_anew {
                State {
                    home,
                    body: Body::Paged(TagTree::empty()),
                    size: 0,
                    seq: header.seq,
                    birth: header.birth,
                    under: 0,
                    base,
                    stale: false,
                    mtime: None,
                    mtime_due: false,
                    home_len: stat.size_bytes,
                    asked_for: Vec::new(),
                    journal: Journaled { base_salt: salt, ..Journaled::default() },
                }
            } else {
                Self::state_from(home, header, &first, stat.size_bytes, base).map_err(|(error, _)| error)?
            }
        };
        // Where the journal says nothing of the time, nothing has changed it, nor does what is done from here on.
        state.mtime = plan.mtime.or(Some(stat.mtime));
        state.journal.id = Some(id);
        state.journal.touched = true;
        state.journal.reserved_behind = true;
        for step in plan.steps {
            state.replay(core, step)?;
        }
        state.finish_replay(core)?;
        Ok(Self::with_state(core, location, stat.ino, state))
    }
}

fn overlay_start<S: Storage>(core: &VaultCore<S>, home: &Home<S>) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    for block in (0..4).map(BlockIndex) {
        let Some(at) = home.overlay.get(&block) else { break };
        let filled = start.len();
        start.resize(filled + PAGE_LEN, 0);
        core.read_journal(*at, start.get_mut(filled..).unwrap_or_default())?;
    }
    Ok(start)
}

impl<S: Storage> State<S> {
    fn replay(&mut self, core: &VaultCore<S>, step: Step) -> Result<()> {
        match step {
            Step::Seals { session, seals } => {
                if matches!(self.body, Body::Blob { .. }) {
                    return Err(self.home.integrity(None, "the journal has pages for a file that has none"));
                }
                let seals: Vec<_> = seals
                    .iter()
                    .map(|seal| (PageIndex(seal.page), Seal { nonce: seal.nonce, tag: seal.tag, session }))
                    .collect();
                let dirtied = self.set_seals(core, &seals)?;
                core.nodes_dirtied(dirtied);
            }
            Step::Length(size) if size == self.size => {}
            Step::Length(size) => {
                if size <= BLOB_MAX || size > SIZE_MAX || matches!(self.body, Body::Blob { .. }) {
                    return Err(self.home.integrity(None, "the journal has a size that the file cannot have"));
                }
                if size < self.size {
                    self.clear_pages(core, page_count(size), SIZE_MAX / PAGE_LEN as u64)?;
                }
                self.size = size;
            }
            Step::Reset { salt, birth } => {
                if let Body::Paged(tree) = &self.body {
                    core.nodes_settled(tree.dirty_nodes());
                }
                self.home.keys = Keys::found(core, salt);
                // Which version sealed what follows is not said.
                self.under = 0;
                self.birth = birth;
                self.body = Body::Paged(TagTree::empty());
                self.size = 0;
            }
            Step::Punch { first, count } => self.clear_pages(core, first, first.saturating_add(count))?,
        }
        Ok(())
    }

    fn clear_pages(&mut self, core: &VaultCore<S>, first: u64, end: u64) -> Result<()> {
        let Self { home, body: Body::Paged(tree), .. } = self else { return Ok(()) };
        let before = tree.dirty_nodes();
        tree.clear(PageIndex(first), PageIndex(end), &home.reader(core))?;
        core.nodes_dirtied(tree.dirty_nodes().saturating_sub(before));
        core.nodes_settled(before.saturating_sub(tree.dirty_nodes()));
        Ok(())
    }

    /// Pages whose size never came are no part of the file.
    fn finish_replay(&mut self, core: &VaultCore<S>) -> Result<()> {
        if let Body::Paged(_) = self.body {
            self.clear_pages(core, page_count(self.size), SIZE_MAX / PAGE_LEN as u64)?;
            if self.size <= BLOB_MAX {
                return Err(self.home.integrity(None, "the journal leaves the file without a size"));
            }
        }
        self.journal.size = self.size;
        Ok(())
    }
}

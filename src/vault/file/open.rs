//! Opening a file: what is verified before anything of it is used, and what a crash may have left.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use super::home::{Home, Keys, Overlay};
use super::{Base, Body, Journaled, NODES_KEPT, State, VaultFile};
use crate::format::geometry::{
    BLOB_MAX, HEADER_LEN, PAGE_BYTES, PAGE_LEN, PageIndex, SIZE_MAX, home_len, page_count, plain_len,
};
use crate::format::header::{Birth, Header};
use crate::format::seals::Sealed;
use crate::storage::{Stat, Storage, read_into};
use crate::vault::core::VaultCore;
use crate::vault::directory::Location;
use crate::vault::error::{Result, VaultError};

/// Why nothing of a file can be read.
pub(crate) enum StartError {
    /// The header does not open, so that there is no key.
    Header(String),
    /// The root does not open, so that there is no tag.
    Root(String),
    Failed(VaultError),
}

impl<S: Storage> VaultFile<S> {
    /// A file that is there. Its header, and the root of a paged file, are verified.
    pub(crate) fn open(core: &Arc<VaultCore<S>>, location: Location<S>, file: S::File, stat: &Stat) -> Result<Self> {
        let base = core.base_of(stat.ino);
        let window = core.window_of(stat, base);
        let file = Arc::new(file);
        match (Self::read_state(core, &location, file, stat.size_bytes, base, window.is_some()), window) {
            (Ok(state), Some(_)) if core.windows.read().may_have_cost(stat, state.birth) => {
                let birth = state.birth;
                Self::settle(core, location, state.home.file, stat, birth)
            }
            (Ok(mut state), _) => {
                state.home.quiet = false;
                Ok(Self::with_state(core, location, stat.ino, state))
            }
            // What it says itself that was durable, no crash has cost.
            (Err((VaultError::Integrity(_), file)), Some(_)) if Self::was_durable(core, &file, stat)? => {
                let opened = Self::read_state(core, &location, file, stat.size_bytes, base, false);
                opened.map(|state| Self::with_state(core, location, stat.ino, state)).map_err(|(error, _)| error)
            }
            (Err((VaultError::Integrity(_), file)), Some(window)) => {
                // Not durable, still: another crash before it is must find it in the same window.
                let birth = Birth { session: window.session, epoch: window.durable_epoch.saturating_add(1) };
                Self::settle(core, location, file, stat, birth)
            }
            (Err((error, _)), _) => Err(error),
        }
    }

    /// Whether a header opens that says that the file was durable before each crash that its inode could be of.
    fn was_durable(core: &VaultCore<S>, file: &S::File, stat: &Stat) -> Result<bool> {
        let mut start = [0; HEADER_LEN];
        let read = read_into(&core.storage, file, &mut start, 0).map_err(|e| VaultError::io("read a file", e))?;
        let start = start.get(..read).unwrap_or_default();
        let header = Header::salt(start).ok().and_then(|salt| Keys::found(core, salt).open_header(start).ok());
        Ok(header.is_some_and(|header| !core.windows.read().may_have_cost(stat, header.birth)))
    }

    pub(super) fn with_state(core: &Arc<VaultCore<S>>, location: Location<S>, ino: u64, state: State<S>) -> Self {
        Self {
            core: core.clone(),
            ino,
            location: RwLock::new(location),
            other_name: Mutex::new(None),
            unlinked: AtomicBool::new(false),
            unnamed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
            volatile: AtomicBool::new(state.base == Base::Volatile),
            keys_used: Mutex::default(),
            syncing: Mutex::default(),
            backing: state.home.file.clone(),
            state: RwLock::new(state),
        }
    }

    /// Reads and verifies what stands at the start of a home. An error gives the file back.
    fn read_state(
        core: &Arc<VaultCore<S>>,
        location: &Location<S>,
        file: Arc<S::File>,
        length: u64,
        base: Base,
        quiet: bool,
    ) -> std::result::Result<State<S>, (VaultError, Arc<S::File>)> {
        let wanted = if length <= BLOB_MAX + HEADER_LEN as u64 { length } else { PAGE_BYTES };
        let mut start = vec![0; wanted as usize];
        match read_into(&core.storage, &file, &mut start, 0) {
            Ok(read) if read == start.len() => {}
            Ok(_) => return Err((VaultError::Internal("a file became shorter while it was opened"), file)),
            Err(error) => return Err((VaultError::io("read a file", error), file)),
        }
        let salt = Header::salt(&start).unwrap_or_default();
        let mut home = Home::new(file, Keys::found(core, salt), Overlay::default(), location.backing_path());
        home.quiet = quiet;
        let header = match home.keys.open_header(&start) {
            Ok(header) => header,
            Err(error) => return Err((home.integrity(None, &error.to_string()), home.file)),
        };
        if plain_len(length) != Some(header.size) {
            let reason = format!("the file's length does not fit its header ({length} bytes)");
            return Err((home.integrity(None, &reason), home.file));
        }
        match Self::state_from(home, header, &start, length, base) {
            Ok(state) => Ok(state),
            Err((error, home)) => Err((error, home.file)),
        }
    }

    #[expect(clippy::result_large_err, reason = "the home goes back to who opened it")]
    /// The state that a verified header and the bytes at the start of the home stand for.
    pub(super) fn state_from(
        home: Home<S>,
        header: Header,
        start: &[u8],
        length: u64,
        base: Base,
    ) -> std::result::Result<State<S>, (VaultError, Home<S>)> {
        let body = if header.size <= BLOB_MAX {
            Body::Blob { seal: Some(header.body), sealed: start.get(HEADER_LEN..).map(Box::from) }
        } else {
            match home.open_root(&header, start) {
                Ok(tree) => Body::Paged(tree),
                Err(error) => return Err((error, home)),
            }
        };
        let salt = home.keys.salt;
        Ok(State {
            home,
            body,
            size: header.size,
            seq: header.seq,
            birth: header.birth,
            under: header.under,
            base,
            stale: false,
            mtime: None,
            mtime_due: false,
            home_len: length,
            asked_for: Vec::new(),
            journal: Journaled {
                size: header.size,
                header_size: header.size,
                taken_len: home_len(header.size),
                base_salt: salt,
                blob_seq: header.seq,
                ..Journaled::default()
            },
        })
    }

    /// A file whose length need not fit its header: for verify and salvage. Header and root must open, or it is an
    /// integrity error; what the home does not hold of the rest is missed when it is read.
    pub(crate) fn open_cut(
        core: &Arc<VaultCore<S>>,
        location: Location<S>,
        file: S::File,
        stat: &Stat,
    ) -> Result<Self, StartError> {
        let mut start = vec![0; stat.size_bytes.min(BLOB_MAX + HEADER_LEN as u64) as usize];
        let read = read_into(&core.storage, &file, &mut start, 0)
            .map_err(|e| StartError::Failed(VaultError::io("read a file", e)))?;
        start.truncate(read);
        let salt = Header::salt(&start).unwrap_or_default();
        let home = Home::new(Arc::new(file), Keys::found(core, salt), Overlay::default(), location.backing_path());
        let header = home.keys.open_header(&start).map_err(|error| StartError::Header(error.to_string()))?;
        if header.size <= BLOB_MAX {
            start.truncate(home_len(header.size) as usize);
        }
        let base = Base::Durable { synced: false };
        let state =
            Self::state_from(home, header, &start, stat.size_bytes, base).map_err(|(error, _)| match error {
                VaultError::Integrity(error) => StartError::Root(error.reason),
                other => StartError::Failed(other),
            })?;
        Ok(Self::with_state(core, location, stat.ino, state))
    }

    /// A file of a session that did not end cleanly, made too late to be durable: what verifies from its
    /// start is kept, the rest is cut off, and it is said.
    fn settle(
        core: &Arc<VaultCore<S>>,
        location: Location<S>,
        file: Arc<S::File>,
        stat: &Stat,
        birth: Birth,
    ) -> Result<Self> {
        let path = location.backing_path();
        let mut this = Self::new_empty(core, location, file, stat);
        let state = this.state.get_mut();
        state.birth = birth;
        state.home.quiet = true;
        // Nothing of it is written when it goes because it could not be looked at.
        state.base = Base::Durable { synced: false };
        let (kept, whole) = Self::verified_prefix(core, state, stat.size_bytes)?;
        state.home.quiet = false;
        if !whole {
            log::warn!("{path}: made shortly before a crash and never synced: {kept} bytes of it are left");
        }
        if whole && stat.size_bytes == home_len(state.size) {
            // All of it is there, so recovery has synced it: it may have been promised, and is not written in place.
            state.journal = Journaled {
                size: state.size,
                header_size: state.size,
                taken_len: home_len(state.size),
                base_salt: state.home.keys.salt,
                ..Journaled::default()
            };
            this.volatile = AtomicBool::new(false);
            return Ok(this);
        }
        if core.is_read_only() {
            state.base = Base::Durable { synced: true };
        } else {
            state.base = Base::Volatile;
            core.remember_volatile(stat.ino);
        }
        this.volatile = AtomicBool::new(!core.is_read_only());
        if !core.is_read_only() {
            // Opened again, it is in question still.
            this.commit().inspect_err(|_| core.forget_volatile(stat.ino))?;
        }
        Ok(this)
    }

    /// Takes over what the home holds, as far as it verifies; returns the number of bytes, and whether that is all. What
    /// cannot be read now may verify another time: that is an error, and nothing is cut off.
    fn verified_prefix(core: &Arc<VaultCore<S>>, state: &mut State<S>, length: u64) -> Result<(u64, bool)> {
        let nothing = Ok((0, false));
        let mut start = vec![0; length.min(BLOB_MAX + HEADER_LEN as u64) as usize];
        let read =
            read_into(&core.storage, &state.home.file, &mut start, 0).map_err(|e| VaultError::io("read a file", e))?;
        if read < start.len() {
            return nothing;
        }
        let Ok(salt) = Header::salt(&start) else { return nothing };
        let keys = Keys::found(core, salt);
        let Ok(header) = keys.open_header(&start) else { return nothing };
        state.home.keys = keys;
        state.seq = header.seq;
        state.under = header.under;
        if header.size <= BLOB_MAX {
            let mut plain = Zeroizing::new(vec![0; header.size as usize]);
            let sealed = start.get(HEADER_LEN..HEADER_LEN + plain.len());
            if sealed.is_some_and(|sealed| state.home.open_into(Sealed::Blob, &header.body, sealed, &mut plain)) {
                state.body = Body::Blob { seal: Some(header.body), sealed: None };
                state.size = header.size;
                state.stale = false;
                if !core.is_read_only() {
                    state.set_home_len(core, home_len(header.size))?;
                }
                return Ok((header.size, true));
            }
            return nothing;
        }
        let Some(Ok(mut tree)) = start.get(..PAGE_LEN).map(|block| state.home.open_root(&header, block)) else {
            return nothing;
        };
        let mut verified = 0;
        let mut page_bytes = Zeroizing::new([0; PAGE_LEN]);
        let (mut page, end) = (PageIndex(0), PageIndex(page_count(header.size)));
        while page < end {
            let reader = state.home.reader(core);
            // Past holes at once: a file may be one of terabytes.
            let Some(next) = if_verified(tree.next(page, end, true, &reader))? else { break };
            let Some(next) = next else {
                // Holes to the end, if the home has it: it is not made longer to fit, which the backing may not take.
                if length >= home_len(header.size) {
                    verified = header.size;
                }
                break;
            };
            page = next;
            verified = page.offset_bytes();
            let Some(seal) = if_verified(tree.seal(page, &reader))? else { break };
            let len = page.len_in(header.size);
            if let (Some(seal), Some(out)) = (seal, page_bytes.get_mut(..len))
                && if_verified(reader.page(page, &seal, out))?.is_none()
            {
                break;
            }
            tree.evict(NODES_KEPT);
            verified = page.offset_bytes() + len as u64;
            page = PageIndex(page.0 + 1);
        }
        let whole = verified == header.size;
        let kept = if whole { verified } else { verified - verified % PAGE_BYTES };
        if !whole && kept <= BLOB_MAX {
            // Too short for a tree now: copy it into a blob.
            let mut plain = Zeroizing::new(vec![0; kept as usize]);
            let reader = state.home.reader(core);
            for (chunk, page) in plain.chunks_mut(PAGE_LEN).zip((0..).map(PageIndex)) {
                if let Some(seal) = tree.seal(page, &reader)? {
                    reader.page(page, &seal, chunk)?;
                }
            }
            if core.is_read_only() {
                return nothing;
            }
            state.store_blob_home(core, &plain)?;
            return Ok((kept, false));
        }
        if !whole {
            let reader = state.home.reader(core);
            tree.clear(PageIndex(page_count(kept)), PageIndex(SIZE_MAX / PAGE_BYTES), &reader)?;
        }
        state.body = Body::Paged(tree);
        state.size = kept;
        state.stale = !whole;
        if !core.is_read_only() {
            state.set_home_len(core, home_len(kept))?;
        }
        Ok((kept, whole))
    }
}

/// None: it was read, and does not verify.
fn if_verified<T>(looked: Result<T>) -> Result<Option<T>> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(VaultError::Integrity(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

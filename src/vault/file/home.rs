//! A file's home and what of it is in the journal for now: reading, sealing and opening single blocks.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use super::super::core::VaultCore;
use super::super::error::{IntegrityError, Result, VaultError};
use super::super::journal;
use super::super::tree::{NodeSource, ROOT_LEN, TagTree};
use crate::crypto::aead::{AeadKey, Nonce};
use crate::crypto::entropy;
use crate::crypto::keys::{FileKeys, VaultKeys};
use crate::format::configuration::KeyVersion;
use crate::format::geometry::{BlockIndex, HEADER_LEN, PAGE_LEN, PageIndex, page_block};
use crate::format::header::{Header, HeaderError, Salt, Seal};
use crate::format::seals::Sealed;
use crate::storage::{Storage, read_into};

/// What was logged of one file is kept in mind up to this many pages.
const REPORTED_MAX: usize = 4096;

/// The keys of a file: under the active version of the project key, which seals, and under the older one while a
/// rotation is under way, which opens what it has not reached.
pub(crate) struct Keys {
    pub salt: Salt,
    version: KeyVersion,
    active: Derived,
    older: Option<Derived>,
    /// Headers of blobs that were sealed with these keys.
    headers: AtomicU64,
}

/// The keys under one version, the page keys of its sessions made when they are first needed.
struct Derived {
    file: FileKeys,
    pages: RwLock<Vec<(u32, Arc<AeadKey>)>>,
}

impl Keys {
    /// Of a salt that is new.
    pub fn new<S: Storage>(core: &VaultCore<S>, salt: Salt) -> Arc<Self> {
        Self::with_headers(core, salt, 0)
    }

    /// Of a salt that a file has: how many headers were sealed with it is not known.
    pub fn found<S: Storage>(core: &VaultCore<S>, salt: Salt) -> Arc<Self> {
        Self::with_headers(core, salt, u64::MAX / 2)
    }

    fn with_headers<S: Storage>(core: &VaultCore<S>, salt: Salt, headers: u64) -> Arc<Self> {
        let live = core.keys.live();
        Arc::new(Self {
            salt,
            version: live.active.version,
            active: Derived::new(&live.active, &salt),
            older: live.older.map(|older| Derived::new(&older, &salt)),
            headers: AtomicU64::new(headers),
        })
    }

    /// The version under which these keys seal.
    pub const fn version(&self) -> KeyVersion {
        self.version
    }

    pub fn header(&self) -> &AeadKey {
        self.active.file.header()
    }

    /// Opens the header of a home.
    pub fn open_header(&self, home: &[u8]) -> std::result::Result<Header, HeaderError> {
        match (Header::open(home, self.header()), &self.older) {
            (Err(HeaderError::Unauthentic), Some(older)) => Header::open(home, older.file.header()),
            (outcome, _) => outcome,
        }
    }

    /// As [`Self::open_header`], under the active version alone.
    pub fn open_header_active(&self, home: &[u8]) -> std::result::Result<Header, HeaderError> {
        Header::open(home, self.header())
    }

    /// The same keys under the versions that are live now.
    pub fn renewed<S: Storage>(&self, core: &VaultCore<S>) -> Arc<Self> {
        Self::with_headers(core, self.salt, self.headers.load(Ordering::Relaxed))
    }

    /// Counts a header that is about to be sealed; false if these keys have sealed enough of them.
    pub fn may_seal_header(&self, limit: u64) -> bool {
        self.headers.fetch_add(1, Ordering::Relaxed) < limit
    }

    /// The page key of a session that seals.
    pub fn page(&self, session: u32) -> Arc<AeadKey> {
        self.active.page(session)
    }

    /// Seals `plain` for what stands at a block into `out`, under the page key of the running session.
    pub fn seal_into<S: Storage>(
        &self,
        core: &VaultCore<S>,
        what: Sealed,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<Seal> {
        let session = core.sealing_session(1);
        let nonce: Nonce = entropy::array();
        let tag = self.page(session).seal_into(&nonce, &what.aad(), plain, out)?;
        Ok(Seal { nonce, tag, session })
    }

    /// Opens under the active version alone.
    pub fn open_active(&self, what: Sealed, seal: &Seal, sealed: &[u8], out: &mut [u8]) -> bool {
        self.active.open(what, seal, sealed, out)
    }

    fn open_in_place(&self, what: Sealed, seal: &Seal, bytes: &mut [u8]) -> bool {
        if self.older.is_none() {
            return self.active.page(seal.session).open(&seal.nonce, &what.aad(), &seal.tag, bytes).is_ok();
        }
        // A key that does not open leaves nothing for the next one to try.
        let sealed = bytes.to_vec();
        self.open(what, seal, &sealed, bytes)
    }

    fn open(&self, what: Sealed, seal: &Seal, sealed: &[u8], out: &mut [u8]) -> bool {
        self.active.open(what, seal, sealed, out)
            || self.older.as_ref().is_some_and(|older| older.open(what, seal, sealed, out))
    }
}

impl Derived {
    fn new(keys: &VaultKeys, salt: &Salt) -> Self {
        Self { file: keys.file(salt), pages: RwLock::new(Vec::new()) }
    }

    fn open(&self, what: Sealed, seal: &Seal, sealed: &[u8], out: &mut [u8]) -> bool {
        self.page(seal.session).open_into(&seal.nonce, &what.aad(), &seal.tag, sealed, out).is_ok()
    }

    fn page(&self, session: u32) -> Arc<AeadKey> {
        if let Some((_, key)) = self.pages.read().iter().find(|(known, _)| *known == session) {
            return key.clone();
        }
        let key = Arc::new(self.file.page(session));
        let mut pages = self.pages.write();
        // A file that was changed in very many sessions does not keep all their keys.
        if pages.len() >= 64 {
            pages.clear();
        }
        pages.push((session, key.clone()));
        key
    }
}

/// Where in the journal the newest image of a block is, of those that have one there.
pub(crate) type Overlay = FxHashMap<BlockIndex, journal::Location>;

/// A home file, its keys, and the blocks of it whose newest image is in the journal.
pub(crate) struct Home<S: Storage> {
    pub file: Arc<S::File>,
    pub keys: Arc<Keys>,
    pub overlay: Overlay,
    /// For messages: the home's path in the backing when it was opened.
    pub path: String,
    /// What a crash may have left is being looked at: what does not verify is no news, and who looks says what is left.
    pub quiet: bool,
    /// Pages and reasons that were logged.
    reported: Mutex<HashSet<(Option<u64>, String)>>,
}

/// A home together with the vault that it belongs to: what reads need.
pub(crate) struct HomeReader<'a, S: Storage> {
    pub core: &'a VaultCore<S>,
    pub home: &'a Home<S>,
}

impl<S: Storage> Home<S> {
    pub fn new(file: Arc<S::File>, keys: Arc<Keys>, overlay: Overlay, path: String) -> Self {
        Self { file, keys, overlay, path, quiet: false, reported: Mutex::default() }
    }

    pub const fn reader<'a>(&'a self, core: &'a VaultCore<S>) -> HomeReader<'a, S> {
        HomeReader { core, home: self }
    }

    /// What does not verify: said in the log the first time that it is met. The kernel asks again for a page that it
    /// did not get.
    pub fn integrity(&self, page: Option<PageIndex>, reason: &str) -> VaultError {
        let page = page.map(|page| page.0);
        let mut reported = self.reported.lock();
        if reported.len() >= REPORTED_MAX {
            reported.clear();
        }
        VaultError::Integrity(if !self.quiet && reported.insert((page, reason.to_owned())) {
            IntegrityError::report(&self.path, page, reason)
        } else {
            IntegrityError { path: self.path.clone(), page, reason: reason.to_owned() }
        })
    }

    /// As [`Keys::seal_into`], in place.
    pub fn seal_in_place(&self, core: &VaultCore<S>, what: Sealed, bytes: &mut [u8]) -> Result<Seal> {
        let session = core.sealing_session(1);
        let nonce: Nonce = entropy::array();
        let tag = self.keys.page(session).seal(&nonce, &what.aad(), bytes)?;
        Ok(Seal { nonce, tag, session })
    }

    /// Opens what stands at a block.
    pub fn open_into(&self, what: Sealed, seal: &Seal, sealed: &[u8], out: &mut [u8]) -> bool {
        self.keys.open(what, seal, sealed, out)
    }

    /// Opens what stands at a block, in place.
    pub fn open_in_place(&self, what: Sealed, seal: &Seal, bytes: &mut [u8]) -> bool {
        self.keys.open_in_place(what, seal, bytes)
    }

    /// Block 0 of a paged file: header and root, the root sealed afresh.
    pub fn seal_root(&self, core: &VaultCore<S>, header: &Header, tree: &TagTree) -> Result<Box<[u8; PAGE_LEN]>> {
        let mut block = Box::new([0; PAGE_LEN]);
        let mut root = *tree.root();
        let body = self.seal_in_place(core, Sealed::Node(BlockIndex::ROOT), &mut root)?;
        let header = Header { body, ..*header }.seal(&self.keys.salt, self.keys.header())?;
        if let Some((head, rest)) = block.split_at_mut_checked(HEADER_LEN) {
            head.copy_from_slice(&header);
            rest.copy_from_slice(&root);
        }
        Ok(block)
    }

    /// Opens the root in block 0.
    pub fn open_root(&self, header: &Header, block: &[u8]) -> Result<TagTree> {
        let mut root = [0; ROOT_LEN];
        let sealed =
            block.get(HEADER_LEN..PAGE_LEN).ok_or_else(|| self.integrity(None, "the file is shorter than its root"))?;
        if !self.open_into(Sealed::Node(BlockIndex::ROOT), &header.body, sealed, &mut root) {
            return Err(self.integrity(None, "the root of the file's tag tree does not verify"));
        }
        Ok(TagTree::with_root(&root))
    }
}

impl<S: Storage> HomeReader<'_, S> {
    /// The newest image of a block, from the journal or from the home file; `out` is the block or its beginning.
    /// False if the home ends before.
    pub fn block(&self, block: BlockIndex, out: &mut [u8]) -> Result<bool> {
        if let Some(location) = self.home.overlay.get(&block) {
            self.core.read_journal(*location, out)?;
            return Ok(true);
        }
        let read = read_into(&self.core.storage, &self.home.file, out, block.offset_bytes())
            .map_err(|e| VaultError::io("read a file", e))?;
        Ok(read == out.len())
    }

    /// Reads and opens one page; its length is `out`'s.
    pub fn page(&self, page: PageIndex, seal: &Seal, out: &mut [u8]) -> Result<()> {
        let block = page_block(page);
        let mut sealed = [0; PAGE_LEN];
        let sealed = sealed.get_mut(..out.len()).ok_or(VaultError::Internal("a page is longer than a block"))?;
        if !self.block(block, sealed)? {
            return Err(self.home.integrity(Some(page), "the file ends before this page"));
        }
        if !self.home.open_into(Sealed::Page(block), seal, sealed, out) {
            return Err(self.home.integrity(Some(page), "the page does not verify"));
        }
        Ok(())
    }
}

impl<S: Storage> NodeSource for HomeReader<'_, S> {
    fn load_node(&self, block: BlockIndex, seal: &Seal, out: &mut [u8; PAGE_LEN]) -> Result<()> {
        let mut sealed = [0; PAGE_LEN];
        if !self.block(block, &mut sealed)? {
            return Err(self.home.integrity(None, &format!("the file ends before the node at block {}", block.0)));
        }
        if !self.home.open_into(Sealed::Node(block), seal, &sealed, out) {
            return Err(self.home.integrity(None, &format!("the node at block {} does not verify", block.0)));
        }
        Ok(())
    }
}

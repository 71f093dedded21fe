//! Repair: what verify names, mended with the least loss.
//!
//! A [`RepairPlan`] is made of findings alone and can be looked at; [`apply`] carries it out, in steps that can each be
//! done again: a crash between any two leaves a vault that the same repair goes on with.
//!
//! 1. The vault's own files, so that it can be opened: a state that does not open is put aside.
//! 2. In an ordinary session (which replays a journal, and keeps a copy of a damaged one): lengths, holes. These go through
//!    the engine and its journal.
//! 3. With the vault sealed and locked: names, by renames and removals in the backing.
//!
//! Nothing that cannot be read is deleted. What has content but no name goes to `lost+found`, in plain view; what has a
//! name but no content, to `private/lost`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::attributes::table_attribute;
use super::directory::{Directory, Location, NewInode, PRIVATE, TREE};
use super::error::{Result, VaultError, is_of_another_kind};
use super::file::VaultFile;
use super::file::check::{BadPages, Checker, Part};
use super::file::open::StartError;
use super::keyring::LiveKeys;
use super::lock::{self, VaultLock};
use super::lost::{self, ignoring};
use super::verify::{Extent, Finding, FindingKind, Severity, VerifySummary};
use super::{Mode, Vault};
use crate::crypto::entropy;
use crate::format::geometry::{BLOB_MAX, PAGE_BYTES, PageIndex, home_len, page_count};
use crate::format::names::{EntryForm, sidecar_of};
use crate::storage::{FileKind, RenameMode, SetTime, Storage, Target, write_from};

/// In plain view, at the top.
const LOST_FOUND: &[u8] = b"lost+found";

/// What is done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Removed: nothing refers to it.
    Remove,
    /// To `private/lost`, as it is: nothing of it can be read.
    PutAside,
    /// To `lost+found` in plain view, under a generated name.
    ToLostFound,
    /// A new IV; every entry goes to `lost+found`.
    NewIv,
    /// The length that the header says; with a number, the content is cut there, as the rest is gone.
    Length { keep_bytes: Option<u64> },
    /// These pages become holes, which read as zeros.
    Holes(Vec<Extent>),
    /// The sealed table is kept in `private/lost` and taken off the inode.
    DropXattrs,
    /// The journal is replayed, as far as it can be; a copy of a damaged one is kept in `private/lost`.
    Replay { keep_copy: bool },
    /// The folder is made anew.
    MakePrivate,
}

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairStep {
    pub repair: Repair,
    pub backing: OsString,
    pub plain: Option<Vec<u8>>,
    /// Of the finding.
    pub reason: String,
}

/// What a repair would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairPlan {
    pub steps: Vec<RepairStep>,
    /// Damage that stays: pages without the consent to make holes of them, and what the backing does not read.
    pub left: Vec<Finding>,
    /// The journal could not be replayed: what is left of the tree's damage has to be looked at again when it can.
    pub is_partial: bool,
}

impl RepairPlan {
    /// Whether something else is in the place of the lock, so that it is not known whether anybody has the vault.
    pub fn replaces_lock(&self) -> bool {
        self.steps.iter().any(|step| step.backing == lock::PATH || step.repair == Repair::MakePrivate)
    }

    /// From what verify found in a vault. `holes`: pages that do not open become holes.
    pub fn of<S: Storage>(vault: &Vault<S>, findings: &[Finding], holes: bool) -> Self {
        if !vault.misses_journal {
            return Self::of_findings(findings, holes);
        }
        // The journal may have what the tree lacks. It is to be replayed before anything there is taken for damaged.
        let (in_tree, own): (Vec<_>, Vec<_>) =
            findings.iter().cloned().partition(|finding| is_in_tree(&finding.backing));
        let mut plan = Self::of_findings(&own, holes);
        plan.left.extend(in_tree.into_iter().filter(|finding| finding.severity.is_damage()));
        plan.is_partial = true;
        plan
    }

    fn of_findings(findings: &[Finding], holes: bool) -> Self {
        let mut plan = Self::default();
        let of_kind = |kinds: &[FindingKind]| -> BTreeSet<OsString> {
            let damaged = findings.iter().filter(|finding| finding.severity == Severity::Damage);
            damaged.filter(|finding| kinds.contains(&finding.kind)).map(|finding| finding.backing.clone()).collect()
        };
        use FindingKind as K;
        // Nothing of their content can be read.
        let empty = of_kind(&[K::Header, K::Root, K::Blob, K::Symlink]);
        let without_iv: BTreeSet<OsString> = of_kind(&[K::DirectoryIv]).iter().map(|iv| parent(iv)).collect();
        let mut lengths: BTreeSet<OsString> = BTreeSet::new();
        let mut pages: Vec<&Finding> = Vec::new();
        for finding in findings {
            let mut step = |repair| {
                plan.steps.push(RepairStep {
                    repair,
                    backing: finding.backing.clone(),
                    plain: finding.plain.clone(),
                    reason: finding.reason.clone(),
                });
            };
            match (finding.severity, finding.kind) {
                (Severity::Leftover, K::Sidecar | K::Temporary) => step(Repair::Remove),
                // A link that was put aside, or a rotation that goes on later, may still need it.
                (Severity::Leftover, K::LinkPiece) => step(Repair::PutAside),
                (Severity::Leftover, _) => {}
                (Severity::Crash, K::Journal) => step(Repair::Replay { keep_copy: false }),
                // The session of the second step settles them.
                (Severity::Crash, _) => {}
                (_, K::Private) if finding.backing.as_bytes() == PRIVATE.as_bytes() => step(Repair::MakePrivate),
                (Severity::Unreadable, _) => plan.left.push(finding.clone()),
                (_, K::Private) => step(Repair::PutAside),
                (_, K::Journal) => step(Repair::Replay { keep_copy: true }),
                (_, K::State | K::ConfigurationBackup) => step(Repair::PutAside),
                (_, K::DirectoryIv) => step(Repair::NewIv),
                (_, K::Name) if EntryForm::of(&entry_of(&finding.backing)) == EntryForm::Unknown => {
                    step(Repair::PutAside);
                }
                (_, K::Name) if without_iv.contains(&parent(&finding.backing)) => {}
                (_, K::Name) if empty.contains(&finding.backing) => {}
                (_, K::Name) => step(Repair::ToLostFound),
                (_, K::Header | K::Root | K::Blob | K::Symlink) => step(Repair::PutAside),
                (_, K::Length) if empty.contains(&finding.backing) => {}
                (_, K::Length) => {
                    if lengths.insert(finding.backing.clone()) {
                        let missing = findings
                            .iter()
                            .filter(|other| other.kind == K::Missing && other.backing == finding.backing);
                        let keep_bytes = missing.filter_map(|other| Some(other.extent?.offset_bytes)).min();
                        step(if keep_bytes == Some(0) { Repair::PutAside } else { Repair::Length { keep_bytes } });
                    }
                }
                // The length is what is mended.
                (_, K::Missing) => {}
                (_, K::Xattrs) => step(Repair::DropXattrs),
                (_, K::Page | K::Node) if holes => pages.push(finding),
                (_, _) => plan.left.push(finding.clone()),
            }
        }
        let files: BTreeSet<&OsString> = pages.iter().map(|finding| &finding.backing).collect();
        for backing in files {
            let mine: Vec<&&Finding> = pages.iter().filter(|finding| finding.backing == *backing).collect();
            let Some(first) = mine.first() else { continue };
            plan.steps.push(RepairStep {
                repair: Repair::Holes(mine.iter().filter_map(|finding| finding.extent).collect()),
                backing: backing.clone(),
                plain: first.plain.clone(),
                reason: first.reason.clone(),
            });
        }
        plan
    }
}

/// Whether the keys are not this vault's, or from before its key was rotated, as far as what verify found tells: what they do
/// not open is not damaged then, and must not be put aside. `opens_top`: they open the newest IV of the top directory, or it is
/// not there.
pub fn is_foreign<S: Storage>(
    vault: &Vault<S>,
    summary: &VerifySummary,
    findings: &[Finding],
    opens_top: bool,
) -> bool {
    let of_kind =
        |kind| findings.iter().filter(move |finding| finding.kind == kind && finding.severity == Severity::Damage);
    let opens_state = of_kind(FindingKind::State).next().is_none();
    // A journal that does not open would be thrown away.
    if vault.recovery().is_some_and(|recovery| recovery.segments == 0) && !(opens_top && opens_state) {
        return true;
    }
    let files: BTreeSet<&OsString> = of_kind(FindingKind::Header).map(|finding| &finding.backing).collect();
    let opens_a_file = (files.len() as u64) < summary.files;
    // Of a vault whose key was rotated, or is being, the state is always there, under the newest version.
    !opens_top && (!opens_state || (summary.files > 0 && !opens_a_file))
}

/// Carries out a plan. `open` gives the backing and the keys, each time anew. `told` hears of each step, and what came of
/// it: one that fails does not keep the others from being done. Refuses a vault that is mounted.
///
/// # Errors
/// If the vault cannot be opened or sealed.
pub fn apply<S: Storage>(
    open: &dyn Fn() -> Result<(S, LiveKeys)>,
    plan: &RepairPlan,
    told: &mut dyn FnMut(&RepairStep, Result<()>),
) -> Result<()> {
    own_files(&open()?.0, plan, told)?;
    let (storage, keys) = open()?;
    let vault = Vault::open(storage, keys, Mode::ReadWrite)?;
    vault.settle_leftovers()?;
    for step in &plan.steps {
        match &step.repair {
            Repair::Length { keep_bytes } => told(step, mend_length(&vault, &step.backing, *keep_bytes)),
            Repair::Holes(extents) => told(step, make_holes(&vault, &step.backing, extents)),
            Repair::Replay { .. } => told(step, Ok(())),
            _ => {}
        }
    }
    let mut plan = plan.clone();
    plan.steps.retain(|step| {
        let is_aside = step.repair == Repair::PutAside && is_in_tree(&step.backing);
        !(is_aside && opens_now(&vault, &step.backing))
    });
    let moves = Moves::of(&vault, &plan)?;
    vault.seal()?;
    drop(vault);
    names(&open()?.0, &plan, &moves, told)
}

/// Step 1.
fn own_files<S: Storage>(storage: &S, plan: &RepairPlan, told: &mut dyn FnMut(&RepairStep, Result<()>)) -> Result<()> {
    let io = |e| VaultError::io("repair the vault's own files", e);
    let top = storage.open_root().map_err(io)?;
    for step in plan.steps.iter().filter(|step| step.repair == Repair::MakePrivate) {
        told(step, make_private(storage, &top).map_err(io));
    }
    let private = storage.open_dir(&top, PRIVATE.as_ref()).map_err(io)?;
    let asides = || plan.steps.iter().filter(|step| step.repair == Repair::PutAside && !is_in_tree(&step.backing));
    // What nobody can lock nobody has locked, as far as can be seen.
    for step in asides().filter(|step| step.backing == lock::PATH) {
        told(step, put_aside(storage, &step.backing));
    }
    let _lock = VaultLock::exclusive(storage, &private)?;
    // Before anything is put there.
    let lost = joined(PRIVATE.as_ref(), lost::LOST.as_ref());
    for step in asides().filter(|step| step.backing == lost) {
        let beside = lost::name_for(lost::LOST.as_ref());
        let moved = storage.rename(&private, lost::LOST.as_ref(), &private, &beside, RenameMode::NoReplace);
        told(step, moved.map_err(io));
    }
    for step in asides().filter(|step| step.backing != lock::PATH && step.backing != lost) {
        told(step, put_aside(storage, &step.backing));
    }
    storage.sync_all().map_err(io)
}

/// Something else may be in its place: that stays beside it.
fn make_private<S: Storage>(storage: &S, top: &S::Dir) -> std::io::Result<()> {
    match storage.open_dir(top, PRIVATE.as_ref()) {
        Err(error) if is_of_another_kind(&error) => {
            let aside = lost::name_for(PRIVATE.as_ref());
            storage.rename(top, PRIVATE.as_ref(), top, &aside, RenameMode::NoReplace)?;
        }
        _ => {}
    }
    ignoring(libc::EEXIST, storage.make_dir(top, PRIVATE.as_ref(), 0o700))
}

/// Whether what nothing could be read of can be read by now: with a journal, or from a backing that had failed.
fn opens_now<S: Storage>(vault: &Vault<S>, backing: &OsStr) -> bool {
    if EntryForm::of(&entry_of(backing)) == EntryForm::Unknown {
        return false;
    }
    let look = || -> Result<()> {
        let location = location_at(vault, backing)?;
        let stat = location.stat()?;
        if stat.kind() == FileKind::Symlink {
            return location.open_symlink().map(drop);
        }
        let file = vault.core.open_file(location, &stat)?;
        // All of a blob; of a paged file the root is enough.
        if file.len_bytes() <= BLOB_MAX {
            file.read(0, &mut Zeroizing::new(vec![0; BLOB_MAX as usize]))?;
        }
        Ok(())
    };
    look().is_ok()
}

/// Step 2: the home gets the length that its header says, then the content the one that is there.
fn mend_length<S: Storage>(vault: &Vault<S>, backing: &OsStr, keep_bytes: Option<u64>) -> Result<()> {
    let location = location_at(vault, backing)?;
    let stat = location.stat()?;
    let core = &vault.core;
    let file = location.open_backing(&stat)?;
    let size = match VaultFile::open_cut(core, location.clone(), file, &stat) {
        Ok(file) => file.len_bytes(),
        Err(StartError::Header(reason) | StartError::Root(reason)) => {
            return Err(VaultError::integrity(location.backing_path(), reason));
        }
        Err(StartError::Failed(error)) => return Err(error),
    };
    let io = |e| VaultError::io("set a file's length", e);
    let home = location.open_backing(&stat)?;
    core.storage.set_len(&home, home_len(size)).map_err(io)?;
    core.storage.sync_file(&home).map_err(io)?;
    core.storage.set_times(Target::File(&home), SetTime::Keep, SetTime::To(stat.mtime)).map_err(io)?;
    // With the journal it may be whole by now.
    let Some(keep_bytes) = keep_bytes.filter(|_| stat.size_bytes < home_len(size)) else { return Ok(()) };
    let file = core.open_file(location.clone(), &location.stat()?)?;
    file.truncate(keep_bytes.min(size))?;
    file.set_times(SetTime::Keep, SetTime::To(stat.mtime))?;
    file.sync()
}

fn make_holes<S: Storage>(vault: &Vault<S>, backing: &OsStr, extents: &[Extent]) -> Result<()> {
    let location = location_at(vault, backing)?;
    let stat = location.stat()?;
    let file = vault.core.open_file(location, &stat)?;
    // Only what does not open now either.
    let (mut checker, mut bad) = (Checker::new(), Vec::<BadPages>::new());
    for extent in extents {
        let first = PageIndex::of(extent.offset_bytes);
        let end = PageIndex(page_count(extent.offset_bytes.saturating_add(extent.len_bytes)));
        checker.check(&file, first, end, &mut |pages| bad.push(pages), &mut |_| true)?;
    }
    bad.retain(|pages| !pages.is_unreadable && matches!(pages.part, Part::Node | Part::Page));
    // Nodes first: what a damaged node covers is dropped unread.
    bad.sort_by_key(|pages| std::cmp::Reverse(pages.count));
    for pages in bad {
        file.make_holes(pages.first.offset_bytes(), pages.count.saturating_mul(PAGE_BYTES))?;
    }
    file.set_times(SetTime::Keep, SetTime::To(stat.mtime))?;
    file.sync()
}

/// Where entries go in `lost+found`, in sealed names; found out while the vault is open, done when it is sealed.
#[derive(Default)]
struct Moves {
    /// The folder, below the vault.
    folder: OsString,
    /// From a backing path to an entry of the folder.
    entries: Vec<(OsString, OsString)>,
}

impl Moves {
    fn of<S: Storage>(vault: &Vault<S>, plan: &RepairPlan) -> Result<Self> {
        let mut from: Vec<(OsString, String)> = Vec::new();
        for step in &plan.steps {
            // Entries of one directory are told by the number in front.
            let group = HEXLOWER.encode(&entropy::array::<4>());
            match step.repair {
                Repair::ToLostFound => from.push((step.backing.clone(), group)),
                Repair::NewIv => {
                    for entry in names_in(vault, &parent(&step.backing))? {
                        from.push((joined(&parent(&step.backing), &entry), group.clone()));
                    }
                }
                _ => {}
            }
        }
        for step in plan.steps.iter().filter(|step| is_iv_of_the_top(step)) {
            // `lost+found` is named by it, so it cannot wait for the names to be gone. What is left of them does not open by
            // the new one, and is found by the next round.
            keep_iv(&vault.core.storage, &step.backing)?;
            vault.root().begin_anew()?;
        }
        if from.is_empty() {
            return Ok(Self::default());
        }
        let folder = lost_found(vault)?;
        let mut moves = Self { folder: path_of(&folder), entries: Vec::new() };
        for (number, (backing, group)) in from.into_iter().enumerate() {
            let name = format!("{group}-{number:04}");
            moves.entries.push((backing, folder.locate(name.as_bytes())?.entry));
        }
        Ok(moves)
    }
}

fn is_iv_of_the_top(step: &RepairStep) -> bool {
    step.repair == Repair::NewIv && parent(&step.backing) == TREE
}

/// Keeps what an IV was in `private/lost`. Where it is no link it is put there itself: it cannot be replaced in one step.
fn keep_iv<S: Storage>(storage: &S, backing: &OsStr) -> Result<()> {
    let io = |e| VaultError::io("keep what a directory's IV was", e);
    let (handle, entry) = open_parent(storage, backing)?;
    match storage.read_symlink(&handle, &entry) {
        Ok(target) => {
            let lost = lost_folder(storage)?;
            storage.make_symlink(&lost, &lost::name_for(&entry), &target).map_err(io)
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => put_one_aside(storage, backing),
        Err(error) => ignoring(libc::ENOENT, Err(error)).map_err(io),
    }
}

fn lost_found<S: Storage>(vault: &Vault<S>) -> Result<Arc<Directory<S>>> {
    let root = vault.root();
    let mut name = LOST_FOUND.to_vec();
    loop {
        match root.open_child(&name) {
            Ok(folder) => {
                // Its IV must be there, and open, before something is named by it.
                match folder.inspect_iv() {
                    Ok(Some(_)) => return Ok(folder),
                    Ok(None) | Err(VaultError::Integrity(_)) => name.extend(b".1"),
                    Err(error) => return Err(error),
                }
            }
            Err(error) if error.is_errno(libc::ENOENT) => {
                return Ok(root.make_dir(&name, &NewInode { mode: 0o700, uid: None, gid: None })?.1);
            }
            Err(error) if error.is_errno(libc::ENOTDIR) => name.extend(b".1"),
            Err(error) => return Err(error),
        }
    }
}

/// The entries of a backing directory that could be names.
fn names_in<S: Storage>(vault: &Vault<S>, directory: &OsStr) -> Result<Vec<OsString>> {
    let storage = &vault.core.storage;
    let handle = open_path(storage, directory)?;
    let mut names = Vec::new();
    storage
        .read_dir(&handle, 0, &mut |entry| {
            if matches!(EntryForm::of(entry.name), EntryForm::Short | EntryForm::Long) {
                names.push(entry.name.to_owned());
            }
            true
        })
        .map_err(|e| VaultError::io("read a directory", e))?;
    Ok(names)
}

/// Step 3, deeper paths first: what is moved takes along what is below it, and is not found by its old path then.
fn names<S: Storage>(
    storage: &S,
    plan: &RepairPlan,
    moves: &Moves,
    told: &mut dyn FnMut(&RepairStep, Result<()>),
) -> Result<()> {
    let io = |e| VaultError::io("repair names", e);
    let private = open_path(storage, PRIVATE.as_ref())?;
    let _lock = VaultLock::exclusive(storage, &private)?;
    let mut steps: Vec<&RepairStep> = plan.steps.iter().collect();
    let depth = |path: &OsStr| path.as_bytes().iter().filter(|byte| **byte == b'/').count();
    steps.sort_by_key(|step| (std::cmp::Reverse(depth(&step.backing)), step.repair != Repair::DropXattrs));
    for step in steps {
        let outcome = match &step.repair {
            Repair::Remove => remove(storage, &step.backing),
            Repair::PutAside if is_in_tree(&step.backing) => put_aside(storage, &step.backing),
            Repair::DropXattrs => drop_xattrs(storage, &step.backing),
            Repair::ToLostFound => move_named(storage, moves, |from| from == step.backing),
            Repair::NewIv if is_iv_of_the_top(step) => move_named(storage, moves, |from| parent(from) == TREE),
            Repair::NewIv => {
                let directory = parent(&step.backing);
                move_named(storage, moves, |from| parent(from) == directory)
                    .and_then(|()| put_aside(storage, &step.backing))
            }
            _ => continue,
        };
        told(step, outcome);
    }
    storage.sync_all().map_err(io)
}

fn move_named<S: Storage>(storage: &S, moves: &Moves, is_meant: impl Fn(&OsStr) -> bool) -> Result<()> {
    let io = |e| VaultError::io("move an entry to lost+found", e);
    for (from, to) in moves.entries.iter().filter(|(from, _)| is_meant(from)) {
        let (handle, entry) = open_parent(storage, from)?;
        let folder = open_path(storage, &moves.folder)?;
        // Gone already: put aside, as its content does not open either.
        ignoring(libc::ENOENT, storage.rename(&handle, &entry, &folder, to, RenameMode::NoReplace)).map_err(io)?;
        put_sidecar_aside(storage, from)?;
    }
    Ok(())
}

fn remove<S: Storage>(storage: &S, backing: &OsStr) -> Result<()> {
    let (handle, entry) = open_parent(storage, backing)?;
    ignoring(libc::ENOENT, storage.unlink(&handle, &entry)).map_err(|e| VaultError::io("remove a leftover", e))
}

fn put_sidecar_aside<S: Storage>(storage: &S, backing: &OsStr) -> Result<()> {
    let entry = entry_of(backing);
    if EntryForm::of(&entry) == EntryForm::Long {
        return put_one_aside(storage, &joined(&parent(backing), &sidecar_of(&entry)));
    }
    Ok(())
}

/// With its sidecar, if it has one.
fn put_aside<S: Storage>(storage: &S, backing: &OsStr) -> Result<()> {
    put_one_aside(storage, backing)?;
    put_sidecar_aside(storage, backing)
}

fn put_one_aside<S: Storage>(storage: &S, backing: &OsStr) -> Result<()> {
    let (handle, entry) = open_parent(storage, backing)?;
    let lost = lost_folder(storage)?;
    let moved = storage.rename(&handle, &entry, &lost, &lost::name_for(&entry), RenameMode::NoReplace);
    ignoring(libc::ENOENT, moved).map_err(|e| VaultError::io("put something aside", e))
}

/// The sealed table goes to a file of its own before it is taken off.
fn drop_xattrs<S: Storage>(storage: &S, backing: &OsStr) -> Result<()> {
    let io = |e| VaultError::io("put extended attributes aside", e);
    let (handle, entry) = open_parent(storage, backing)?;
    let target = Target::Entry(&handle, entry.as_os_str());
    let attribute = OsStr::new(table_attribute(storage.stat(target).map_err(io)?.kind()));
    let value = storage.xattr(target, attribute).map_err(io)?;
    let lost = lost_folder(storage)?;
    let file = storage.create_file(&lost, &lost::name_for("xattrs".as_ref()), 0o600).map_err(io)?;
    write_from(storage, &file, &value, 0).and_then(|()| storage.sync_file(&file)).map_err(io)?;
    storage.remove_xattr(target, attribute).map_err(io)
}

fn lost_folder<S: Storage>(storage: &S) -> Result<S::Dir> {
    lost::folder(storage, &open_path(storage, PRIVATE.as_ref())?)
}

// --- paths of the backing ---

fn is_in_tree(backing: &OsStr) -> bool {
    backing.as_bytes().starts_with(TREE.as_bytes())
}

fn parent(backing: &OsStr) -> OsString {
    let bytes = backing.as_bytes();
    let end = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    OsString::from_vec(bytes.get(..end).unwrap_or_default().to_vec())
}

fn entry_of(backing: &OsStr) -> OsString {
    let name = backing.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    OsString::from_vec(name.to_vec())
}

fn joined(folder: &OsStr, entry: &OsStr) -> OsString {
    [folder, entry].join(OsStr::new("/"))
}

fn path_of<S: Storage>(directory: &Directory<S>) -> OsString {
    directory.backing_entries().join(OsStr::new("/"))
}

/// A folder of the backing, from its top; no link is followed.
fn open_path<S: Storage>(storage: &S, path: &OsStr) -> Result<S::Dir> {
    let io = |e| VaultError::io("open a folder of the vault", e);
    let mut handle = storage.open_root().map_err(io)?;
    for name in path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        handle = storage.open_dir(&handle, OsStr::from_bytes(name)).map_err(io)?;
    }
    Ok(handle)
}

fn open_parent<S: Storage>(storage: &S, backing: &OsStr) -> Result<(S::Dir, OsString)> {
    Ok((open_path(storage, &parent(backing))?, entry_of(backing)))
}

/// The place of a backing path in the open vault.
fn location_at<S: Storage>(vault: &Vault<S>, backing: &OsStr) -> Result<Location<S>> {
    let mut directory = vault.root();
    let folders = parent(backing);
    for name in folders.as_bytes().split(|byte| *byte == b'/').skip(1) {
        directory = directory.open_entry(OsStr::from_bytes(name))?;
    }
    directory.entry(&entry_of(backing))
}

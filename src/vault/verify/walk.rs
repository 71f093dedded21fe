//! Directory by directory, entry by entry: names, attributes, links, files.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::queue::Queue;
use super::{Extent, Finding, FindingKind, Severity, Shared, joined, kind_of, reason_of, severity_of};
use crate::format::directory_iv;
use crate::format::geometry::{DIRECT_PAGES, NODE_ENTRIES, PAGE_BYTES, PageIndex, home_len, page_count, plain_len};
use crate::format::names::{self, EntryForm};
use crate::format::symlink;
use crate::storage::{FileKind, Stat, Storage, Target};
use crate::vault::attributes::read_table;
use crate::vault::directory::{Directory, Inspected, InspectedName, Ivs, Location};
use crate::vault::error::{Result, VaultError};
use crate::vault::file::VaultFile;
use crate::vault::file::check::{BadPages, Checker, Part};
use crate::vault::file::open::StartError;

/// Smaller files are checked by the thread that listed them.
const INLINE_MAX_BYTES: u64 = 256 * 1024;
/// Larger files are cut into ranges of about this length.
const RANGE_PAGES: u64 = 128 * NODE_ENTRIES as u64;
/// A file that was changed while it was opened is looked at again.
const LIVE_ATTEMPTS: usize = 4;
const LIVE_PAUSE: Duration = Duration::from_millis(50);

/// A plain path from the top, without a slash in front.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain(Arc<Vec<u8>>);

impl Plain {
    pub fn of(path: &[u8]) -> Self {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        Self(Arc::new(names.collect::<Vec<_>>().join(&b'/')))
    }

    fn join(&self, name: &[u8]) -> Self {
        if self.0.is_empty() {
            return Self(Arc::new(name.to_vec()));
        }
        Self(Arc::new([self.0.as_slice(), b"/", name].concat()))
    }

    fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

/// What is to be done.
pub(super) enum Task<S: Storage> {
    Directory {
        directory: Arc<Directory<S>>,
        plain: Option<Plain>,
    },
    /// The entries of a directory after a cookie.
    Rest(Box<Rest<S>>),
    /// Anything but a directory.
    Entry {
        location: Location<S>,
        plain: Option<Plain>,
        stat: Stat,
    },
    /// A part of a large file.
    Range {
        subject: Arc<Subject<S>>,
        first: PageIndex,
        end: PageIndex,
    },
}

pub(super) struct Rest<S: Storage> {
    directory: Arc<Directory<S>>,
    plain: Option<Plain>,
    handle: S::Dir,
    iv: Option<Arc<Ivs>>,
    cookie: u64,
    /// Names so far that opened, and that did not.
    opened: u64,
    bad: u64,
}

/// A file whose content is being checked.
pub(super) struct Subject<S: Storage> {
    file: Arc<VaultFile<S>>,
    location: Location<S>,
    plain: Option<Plain>,
}

/// What each thread has of its own.
pub(super) struct Worker(Checker);

impl Worker {
    pub fn new() -> Self {
        Self(Checker::new())
    }
}

/// See the module's documentation.
pub(super) struct Walk<'a, S: Storage> {
    pub shared: &'a Shared<'a, S>,
}

impl<S: Storage> Walk<'_, S> {
    /// Where a plain path begins. What does not open on the way is a finding; what is not there, an error.
    pub fn task_at(&self, path: &[u8]) -> Result<Option<Task<S>>> {
        let vault = self.shared.vault;
        let found = vault.parent_at(path).and_then(|parent| {
            let Some((parent, name)) = parent else {
                return Ok(Task::Directory { directory: vault.root(), plain: Some(Plain::default()) });
            };
            let location = parent.locate(&name)?;
            let stat = location.stat()?;
            let plain = Some(Plain::of(path));
            if stat.kind() == FileKind::Directory {
                return Ok(Task::Directory { directory: parent.open_child(&name)?, plain });
            }
            Ok(Task::Entry { location, plain, stat })
        });
        match found {
            Ok(task) => Ok(Some(task)),
            Err(VaultError::Integrity(error)) => {
                self.shared.found(Finding {
                    severity: Severity::Damage,
                    kind: FindingKind::DirectoryIv,
                    backing: error.path.into(),
                    plain: None,
                    extent: None,
                    reason: error.reason,
                });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub fn run(&self, worker: &mut Worker, task: Task<S>, queue: &Queue<Task<S>>) {
        match task {
            Task::Directory { directory, plain } => self.directory(worker, directory, plain, queue),
            Task::Rest(rest) => self.rest(worker, *rest, queue),
            Task::Entry { location, plain, stat } => self.entry(worker, location, plain, &stat, queue),
            Task::Range { subject, first, end } => self.content(worker, &subject, first, end),
        }
    }

    fn directory(
        &self,
        worker: &mut Worker,
        directory: Arc<Directory<S>>,
        plain: Option<Plain>,
        queue: &Queue<Task<S>>,
    ) {
        self.shared.counters.directories.fetch_add(1, Ordering::Relaxed);
        let report = |kind, entry: Option<&str>, severity, reason| {
            let mut backing = directory.backing_entries();
            backing.extend(entry.map(OsString::from));
            self.report(severity, kind, joined(&backing), plain.as_ref(), None, reason);
        };
        let handle = match directory.open_to_inspect() {
            Ok(handle) => handle,
            // Removed meanwhile.
            Err(error) if self.shared.is_live && error.is_errno(libc::ENOENT) => return,
            Err(error) => return report(FindingKind::Directory, None, severity_of(&error), reason_of(error)),
        };
        let core = &self.shared.vault.core;
        let table = read_table(core, Target::Dir(&handle), FileKind::Directory, || directory.backing_path());
        if let Err(error) = table {
            report(FindingKind::Xattrs, None, severity_of(&error), reason_of(error));
        }
        let iv = match directory.inspect_iv() {
            Ok(iv) => iv,
            Err(error) if self.shared.is_live && error.is_errno(libc::ENOENT) => return,
            Err(error) => {
                let stat = core.storage.stat(Target::Dir(&handle));
                let severity = if stat.is_ok_and(|stat| self.is_of_crash(&stat)) && reason_is_missing(&error) {
                    Severity::Crash
                } else {
                    severity_of(&error)
                };
                report(FindingKind::DirectoryIv, Some(directory_iv::ENTRY), severity, reason_of(error));
                None
            }
        };
        self.rest(worker, Rest { directory, plain, handle, iv, cookie: 0, opened: 0, bad: 0 }, queue);
    }

    fn rest(&self, worker: &mut Worker, mut rest: Rest<S>, queue: &Queue<Task<S>>) {
        let inspected = rest.directory.inspect(&rest.handle, rest.iv.as_deref(), rest.cookie);
        let (entries, next) = match inspected {
            Ok(inspected) => inspected,
            Err(error) => {
                let backing = joined(&rest.directory.backing_entries());
                let (severity, reason) = (severity_of(&error), reason_of(error));
                return self.report(severity, FindingKind::Directory, backing, rest.plain.as_ref(), None, reason);
            }
        };
        for inspected in &entries {
            match inspected.name {
                InspectedName::Opens(_) => rest.opened = rest.opened.saturating_add(1),
                // What no version of sero would name so says nothing about the IV.
                InspectedName::Bad(_) if inspected.form != EntryForm::Unknown => rest.bad = rest.bad.saturating_add(1),
                // It may open by the IV.
                InspectedName::Unreadable(_) => rest.opened = rest.opened.saturating_add(1),
                InspectedName::Bad(_) | InspectedName::Special => {}
            }
        }
        let Rest { directory, plain, iv, opened, bad, .. } = &rest;
        let (directory, plain, has_iv) = (directory.clone(), plain.clone(), iv.is_some());
        if next.is_none() && has_iv && *opened == 0 && *bad > 0 {
            let mut backing = directory.backing_entries();
            backing.push(directory_iv::ENTRY.into());
            let reason = "none of the directory's names opens with its IV: it was replaced, or all of them were";
            self.report(
                Severity::Damage,
                FindingKind::DirectoryIv,
                joined(&backing),
                plain.as_ref(),
                None,
                reason.into(),
            );
        }
        for inspected in entries {
            self.inspected(worker, &directory, &rest.handle, plain.as_ref(), has_iv, inspected, queue);
        }
        if let Some(cookie) = next {
            queue.push(Task::Rest(Box::new(Rest { cookie, ..rest })));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, in the loop above")]
    fn inspected(
        &self,
        worker: &mut Worker,
        directory: &Arc<Directory<S>>,
        handle: &S::Dir,
        plain: Option<&Plain>,
        has_iv: bool,
        inspected: Inspected,
        queue: &Queue<Task<S>>,
    ) {
        let Inspected { entry, form, kind, name } = inspected;
        let Ok(location) = directory.entry(&entry) else { return };
        match form {
            EntryForm::DirectoryIv => return,
            EntryForm::Foreign => {
                let reason = "left by the filesystem under the vault".to_owned();
                return self.about(&location, None, Severity::Leftover, FindingKind::Foreign, reason);
            }
            EntryForm::Sidecar => return self.sidecar(&location, handle, &entry),
            EntryForm::Short | EntryForm::Long | EntryForm::Unknown => {}
        }
        let storage = &self.shared.vault.core.storage;
        let stat = match storage.stat(Target::Entry(handle, &entry)) {
            Ok(stat) => stat,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) && self.shared.is_live => return,
            Err(error) => {
                let reason = VaultError::io("read attributes", error).to_string();
                return self.about(&location, None, Severity::Unreadable, FindingKind::File, reason);
            }
        };
        let plain = match name {
            InspectedName::Opens(name) => plain.map(|plain| plain.join(&name)),
            InspectedName::Special => None,
            InspectedName::Unreadable(reason) => {
                self.about(&location, None, Severity::Unreadable, FindingKind::Name, reason);
                None
            }
            InspectedName::Bad(reason) => {
                if has_iv || form == EntryForm::Unknown {
                    let is_crash = form == EntryForm::Long
                        && self.is_of_crash(&stat)
                        && storage
                            .stat(Target::Entry(handle, &names::sidecar_of(&entry)))
                            .is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT));
                    let severity = if is_crash { Severity::Crash } else { Severity::Damage };
                    self.about(&location, None, severity, FindingKind::Name, reason);
                }
                if form == EntryForm::Unknown {
                    return;
                }
                None
            }
        };
        match kind_of(kind, &stat) {
            FileKind::Directory => match directory.open_entry(&entry) {
                Ok(directory) => queue.push(Task::Directory { directory, plain }),
                Err(error) if self.shared.is_live && error.is_errno(libc::ENOENT) => {}
                Err(error) => {
                    let (severity, reason) = (severity_of(&error), reason_of(error));
                    self.about(&location, plain.as_ref(), severity, FindingKind::Directory, reason);
                }
            },
            FileKind::Regular if stat.size_bytes > INLINE_MAX_BYTES => {
                queue.push(Task::Entry { location, plain, stat });
            }
            _ => self.entry(worker, location, plain, &stat, queue),
        }
    }

    /// A sidecar that names nothing.
    fn sidecar(&self, location: &Location<S>, handle: &S::Dir, sidecar: &OsStr) {
        let Some(entry) = names::entry_of_sidecar(sidecar) else { return };
        let is_gone = |error: std::io::Error| error.raw_os_error() == Some(libc::ENOENT);
        // While others work, it may be about to get its entry.
        if !self.shared.is_live && self.shared.vault.core.storage.stat(Target::Entry(handle, entry)).is_err_and(is_gone)
        {
            let reason = "the name of an entry that is not there".to_owned();
            self.about(location, None, Severity::Leftover, FindingKind::Sidecar, reason);
        }
    }

    fn entry(
        &self,
        worker: &mut Worker,
        location: Location<S>,
        plain: Option<Plain>,
        stat: &Stat,
        queue: &Queue<Task<S>>,
    ) {
        let kind = stat.kind();
        if stat.nlink > 1 && !self.shared.seen.lock().insert(stat.ino) {
            return;
        }
        let table = location.with_dir(|dir| {
            read_table(&self.shared.vault.core, Target::Entry(dir, &location.entry), kind, || location.backing_path())
        });
        if let Err(error) = table.and_then(|table| table)
            && !(self.shared.is_live && error.is_errno(libc::ENOENT))
        {
            let (severity, reason) = (severity_of(&error), reason_of(error));
            self.about(&location, plain.as_ref(), severity, FindingKind::Xattrs, reason);
        }
        let counters = &self.shared.counters;
        match kind {
            FileKind::Regular => {
                counters.files.fetch_add(1, Ordering::Relaxed);
                self.file(worker, location, plain, stat, queue);
            }
            FileKind::Symlink => {
                counters.symlinks.fetch_add(1, Ordering::Relaxed);
                if symlink::is_reference_len(stat.size_bytes)
                    && let Some(id) = location.link_id()
                {
                    self.shared.link_ids.lock().insert(id.reference());
                }
                match location.open_symlink() {
                    Ok(_) => {}
                    Err(error) if self.shared.is_live && error.is_errno(libc::ENOENT) => {}
                    Err(error) => {
                        let (severity, reason) = (severity_of(&error), reason_of(error));
                        self.about(&location, plain.as_ref(), severity, FindingKind::Symlink, reason);
                    }
                }
            }
            _ => {
                counters.others.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn file(
        &self,
        worker: &mut Worker,
        location: Location<S>,
        plain: Option<Plain>,
        stat: &Stat,
        queue: &Queue<Task<S>>,
    ) {
        let about = |severity, kind, reason| self.about(&location, plain.as_ref(), severity, kind, reason);
        let missed = plain_len(stat.size_bytes).unwrap_or(stat.size_bytes);
        let file = match self.open(&location, stat) {
            Ok(Some(file)) => file,
            // Removed meanwhile.
            Ok(None) => return,
            Err(VaultError::Integrity(_)) => match self.open_cut(&location, stat) {
                Ok(file) => {
                    about(Severity::Damage, FindingKind::Length, length_reason(stat.size_bytes, file.len_bytes()));
                    Arc::new(file)
                }
                Err(refused) => {
                    self.shared.observer.checked(missed);
                    return match refused {
                        StartError::Header(reason) => about(Severity::Damage, FindingKind::Header, reason),
                        StartError::Root(reason) => about(Severity::Damage, FindingKind::Root, reason),
                        StartError::Failed(failed) => about(severity_of(&failed), FindingKind::File, reason_of(failed)),
                    };
                }
            },
            Err(error) => {
                self.shared.observer.checked(missed);
                return about(Severity::Unreadable, FindingKind::File, error.to_string());
            }
        };
        self.shared.counters.bytes.fetch_add(file.len_bytes(), Ordering::Relaxed);
        let end = PageIndex(page_count(file.len_bytes()));
        let subject = Arc::new(Subject { file, location, plain });
        if end.0 <= RANGE_PAGES.saturating_mul(2) {
            return self.content(worker, &subject, PageIndex(0), end);
        }
        let mut first = PageIndex(0);
        while first < end {
            // At the beginning of a leaf, which only the first range has another place for.
            let next = (first.0.saturating_sub(DIRECT_PAGES)).saturating_add(RANGE_PAGES).saturating_add(DIRECT_PAGES);
            let next = PageIndex(next);
            // The last one takes what has been appended meanwhile.
            let stop = if next < end { next } else { PageIndex(u64::MAX) };
            queue.push(Task::Range { subject: subject.clone(), first, end: stop });
            first = next;
        }
    }

    /// The engine's own opening. None: it is gone meanwhile.
    fn open(&self, location: &Location<S>, stat: &Stat) -> Result<Option<Arc<VaultFile<S>>>> {
        let core = &self.shared.vault.core;
        let mut stat = *stat;
        let mut attempt = 1;
        loop {
            let was_open = core.file(stat.ino).is_some();
            let outcome = core.open_file(location.clone(), &stat).and_then(|file| {
                let wrong = if was_open { file.check_start()? } else { None };
                match wrong {
                    Some(reason) => Err(VaultError::integrity(location.backing_path(), reason)),
                    None => Ok(file),
                }
            });
            match outcome {
                Ok(file) => {
                    if !self.shared.is_live && file.len_bytes() < plain_len(stat.size_bytes).unwrap_or(0) {
                        self.left_by_crash(location, &stat, file.len_bytes());
                    }
                    return Ok(Some(file));
                }
                Err(error) if self.shared.is_live && error.is_errno(libc::ENOENT) => return Ok(None),
                // It may have been changed between the look at its length and the look at its header.
                Err(VaultError::Integrity(_)) if self.shared.is_live && attempt < LIVE_ATTEMPTS => {
                    attempt = attempt.saturating_add(1);
                    std::thread::sleep(LIVE_PAUSE);
                    match location.stat() {
                        Ok(again) if again.ino == stat.ino => stat = again,
                        Ok(_) => return Ok(None),
                        Err(error) if error.is_errno(libc::ENOENT) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn left_by_crash(&self, location: &Location<S>, stat: &Stat, len_bytes: u64) {
        if self.shared.vault.core.windows.read().covers(stat).is_some() {
            let reason = format!("made shortly before a crash and never synced: {len_bytes} bytes of it are left");
            self.about(location, None, Severity::Crash, FindingKind::File, reason);
        }
    }

    fn open_cut(&self, location: &Location<S>, stat: &Stat) -> Result<VaultFile<S>, StartError> {
        let file = location.open_backing(stat).map_err(StartError::Failed)?;
        VaultFile::open_cut(&self.shared.vault.core, location.clone(), file, stat)
    }

    fn content(&self, worker: &mut Worker, subject: &Subject<S>, first: PageIndex, end: PageIndex) {
        let observer = self.shared.observer;
        let size = subject.file.len_bytes();
        let mut bad = |bad: BadPages| {
            let kind = match bad.part {
                Part::Blob => FindingKind::Blob,
                Part::Node => FindingKind::Node,
                Part::Page => FindingKind::Page,
                Part::Missing => FindingKind::Missing,
            };
            let severity = if bad.is_unreadable { Severity::Unreadable } else { Severity::Damage };
            let offset_bytes = bad.first.offset_bytes();
            let len_bytes = bad.count.saturating_mul(PAGE_BYTES).min(size.saturating_sub(offset_bytes));
            let reason = match bad.part {
                Part::Page => format!("{}, at byte {} of the backing file", bad.reason, bad.block.offset_bytes()),
                Part::Blob | Part::Node | Part::Missing => bad.reason,
            };
            let backing = subject.location.backing_os_path();
            let extent = Extent { offset_bytes, len_bytes };
            self.report(severity, kind, backing, subject.plain.as_ref(), Some(extent), reason);
        };
        let mut progress = |bytes| {
            observer.checked(bytes);
            !observer.is_cancelled()
        };
        if let Err(error) = worker.0.check(&subject.file, first, end, &mut bad, &mut progress) {
            let reason = error.to_string();
            self.about(&subject.location, subject.plain.as_ref(), Severity::Unreadable, FindingKind::File, reason);
        }
    }

    /// Whether the inode last changed shortly before a crash.
    fn is_of_crash(&self, stat: &Stat) -> bool {
        let changed = Stat { btime: None, ..*stat };
        self.shared.vault.core.windows.read().covers(&changed).is_some()
    }

    fn about(
        &self,
        location: &Location<S>,
        plain: Option<&Plain>,
        severity: Severity,
        kind: FindingKind,
        reason: String,
    ) {
        self.report(severity, kind, location.backing_os_path(), plain, None, reason);
    }

    fn report(
        &self,
        severity: Severity,
        kind: FindingKind,
        backing: OsString,
        plain: Option<&Plain>,
        extent: Option<Extent>,
        reason: String,
    ) {
        self.shared.found(Finding { severity, kind, backing, plain: plain.map(Plain::to_vec), extent, reason });
    }
}

fn length_reason(length: u64, size: u64) -> String {
    let wanted = home_len(size);
    if length < wanted {
        format!("cut: the backing file has {length} bytes, and its header says {wanted}")
    } else {
        format!("extended: the backing file has {length} bytes, and its header says {wanted}")
    }
}

/// A crash can lose an IV, and does not edit one.
fn reason_is_missing(error: &VaultError) -> bool {
    matches!(error, VaultError::Integrity(error) if error.reason.ends_with("is missing"))
}

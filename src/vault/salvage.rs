//! Salvage: everything that still opens, copied out of a vault into an ordinary directory.
//!
//! Nothing in the vault changes, and nothing at the destination is overwritten. Pages that do not open stay holes;
//! entries whose names do not open go to a folder of their own, under generated names. Each loss is a [`Finding`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::Vault;
use super::attributes::{XattrTable, read_table};
use super::directory::{Directory, Inspected, InspectedName, Location};
use super::error::{Result, VaultError};
use super::file::VaultFile;
use super::file::open::StartError;
use super::verify::{Extent, Finding, FindingKind, Severity, joined, reason_of, severity_of};
use crate::format::geometry::{PAGE_BYTES, PAGE_LEN};
use crate::format::names::EntryForm;
use crate::storage::{FileKind, Stat, Storage, Target, Timestamp};

/// Read and written at a time: whole pages.
const CHUNK_LEN: usize = 256 * PAGE_LEN;
/// Where entries without a name go, at the top of the destination.
const LOST: &str = "lost+found";
/// The same, if the vault has something of that name.
const LOST_ELSE: &str = "lost+found.salvaged";
const ACCESS_ACL: &str = "system.posix_acl_access";
const ACLS: [&str; 2] = [ACCESS_ACL, "system.posix_acl_default"];

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SalvageSummary {
    pub directories: u64,
    pub files: u64,
    pub symlinks: u64,
    pub others: u64,
    /// Plain bytes that were read and verified.
    pub bytes: u64,
    /// Findings: what is missing at the destination, or is there under another name.
    pub losses: u64,
}

/// What happens on the way.
#[derive(Debug)]
pub enum SalvageEvent {
    Copied(u64),
    /// `path`: where it would be at the destination, or is.
    Lost {
        finding: Finding,
        path: PathBuf,
    },
}

impl<S: Storage> Vault<S> {
    /// Copies everything that opens to `destination`, which must not exist or be an empty directory.
    ///
    /// # Errors
    /// Of the destination alone: what does not open in the vault is told to `observer`.
    pub fn salvage(&self, destination: &Path, observer: &mut dyn FnMut(SalvageEvent)) -> Result<SalvageSummary> {
        match fs::DirBuilder::new().mode(0o700).create(destination) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_empty = fs::read_dir(destination).map_err(written)?.next().is_none();
                if !is_empty {
                    return Err(VaultError::TargetNotEmpty);
                }
            }
            other => other.map_err(written)?,
        }
        let lost = if self.root().lookup(LOST.as_bytes()).is_ok() { LOST_ELSE } else { LOST };
        let mut salvage = Salvage {
            vault: self,
            observer,
            summary: SalvageSummary::default(),
            lost: destination.join(lost),
            generated: 0,
            copied: HashMap::new(),
            folders: Vec::new(),
            pending: vec![(self.root(), destination.to_owned(), Some(Vec::new()))],
            buffer: Zeroizing::new(vec![0; CHUNK_LEN]),
            is_root: rustix::process::geteuid().is_root(),
        };
        for finding in self.tolerated() {
            salvage.lose(finding.clone(), destination);
        }
        while let Some((directory, path, plain)) = salvage.pending.pop() {
            salvage.directory(&directory, &path, plain.as_deref())?;
        }
        // From below, as an entry that is made changes the times above, and a mode may forbid it.
        while let Some((path, kept)) = salvage.folders.pop() {
            let folder = File::open(&path).map_err(written);
            if let Err(error) = folder.and_then(|folder| salvage.attributes(&folder, &path, &kept)) {
                salvage.go_on_after(FindingKind::Directory, OsStr::new(""), error, &path)?;
            }
        }
        Ok(salvage.summary)
    }
}

struct Salvage<'a, S: Storage> {
    vault: &'a Vault<S>,
    observer: &'a mut dyn FnMut(SalvageEvent),
    summary: SalvageSummary,
    lost: PathBuf,
    generated: u64,
    /// Inodes with several names, and where the first of them is.
    copied: HashMap<u64, PathBuf>,
    /// Directories, whose attributes are set last.
    folders: Vec<(PathBuf, Kept)>,
    pending: Vec<(Arc<Directory<S>>, PathBuf, Option<Vec<u8>>)>,
    buffer: Zeroizing<Vec<u8>>,
    is_root: bool,
}

/// What is kept of an inode besides its content.
struct Kept {
    stat: Stat,
    xattrs: XattrTable,
    acls: Vec<(&'static str, Vec<u8>)>,
}

impl<S: Storage> Salvage<'_, S> {
    fn directory(&mut self, directory: &Arc<Directory<S>>, path: &Path, plain: Option<&[u8]>) -> Result<()> {
        self.summary.directories = self.summary.directories.saturating_add(1);
        let backing = joined(&directory.backing_entries());
        let lost = |kind, error: VaultError| Finding {
            severity: severity_of(&error),
            kind,
            backing: backing.clone(),
            plain: plain.map(<[u8]>::to_vec),
            extent: None,
            reason: reason_of(error),
        };
        let handle = match directory.open_to_inspect() {
            Ok(handle) => handle,
            Err(error) => {
                self.lose(lost(FindingKind::Directory, error), path);
                return Ok(());
            }
        };
        let storage = &self.vault.core.storage;
        if let Ok(stat) = storage.stat(Target::Dir(&handle)) {
            let kept = self.kept(Target::Dir(&handle), stat, path, plain, &backing);
            self.folders.push((path.to_owned(), kept));
        }
        let ivs = directory.inspect_iv().unwrap_or_else(|error| {
            self.lose(lost(FindingKind::DirectoryIv, error), path);
            None
        });
        let mut cookie = 0;
        loop {
            let (entries, next) = match directory.inspect(&handle, ivs.as_deref(), cookie) {
                Ok(inspected) => inspected,
                Err(error) => {
                    self.lose(lost(FindingKind::Directory, error), path);
                    return Ok(());
                }
            };
            for inspected in entries {
                let backing = directory.entry(&inspected.entry)?.backing_os_path();
                if let Err(error) = self.entry(directory, &handle, path, plain, inspected) {
                    self.go_on_after(FindingKind::File, &backing, error, path)?;
                }
            }
            match next {
                Some(next) => cookie = next,
                None => return Ok(()),
            }
        }
    }

    fn entry(
        &mut self,
        directory: &Arc<Directory<S>>,
        handle: &S::Dir,
        folder: &Path,
        above: Option<&[u8]>,
        inspected: Inspected,
    ) -> Result<()> {
        let Inspected { entry, form, name, .. } = inspected;
        let location = directory.entry(&entry)?;
        let backing = location.backing_os_path();
        let (path, plain) = match name {
            InspectedName::Special => return Ok(()),
            InspectedName::Opens(name) => {
                let path = folder.join(OsStr::from_bytes(&name));
                let plain = above.map(|above| match above {
                    b"" => name.clone(),
                    above => [above, b"/", &name].concat(),
                });
                (path, plain)
            }
            InspectedName::Unreadable(reason) => {
                let path = self.generated_path()?;
                self.lose(Finding::own(Severity::Unreadable, FindingKind::Name, backing.clone(), reason), &path);
                (path, None)
            }
            InspectedName::Bad(reason) => {
                let finding = Finding::own(Severity::Damage, FindingKind::Name, backing.clone(), reason);
                if form == EntryForm::Unknown {
                    self.lose(finding, folder);
                    return Ok(());
                }
                let path = self.generated_path()?;
                self.lose(finding, &path);
                (path, None)
            }
        };
        let stat = match self.vault.core.storage.stat(Target::Entry(handle, &entry)) {
            Ok(stat) => stat,
            Err(error) => {
                let error = VaultError::io("read attributes", error);
                self.lose_as(FindingKind::File, &backing, plain.as_deref(), error, &path);
                return Ok(());
            }
        };
        let target = Target::Entry(handle, entry.as_os_str());
        if stat.kind() == FileKind::Directory {
            match directory.open_entry(&entry) {
                Ok(below) => {
                    fs::DirBuilder::new().mode(0o700).create(&path).map_err(written)?;
                    self.pending.push((below, path, plain));
                }
                Err(error) => self.lose_as(FindingKind::Directory, &backing, plain.as_deref(), error, &path),
            }
            return Ok(());
        }
        // Not every filesystem has hard links, or so many of them: then it is another inode there.
        if stat.nlink > 1
            && let Some(first) = self.copied.get(&stat.ino)
            && fs::hard_link(first, &path).is_ok()
        {
            return Ok(());
        }
        let made = match stat.kind() {
            FileKind::Regular => self.file(&location, target, stat, plain.as_deref(), &path)?,
            FileKind::Symlink => match location.open_symlink() {
                Ok(text) => {
                    std::os::unix::fs::symlink(OsStr::from_bytes(&text), &path).map_err(written)?;
                    self.summary.symlinks = self.summary.symlinks.saturating_add(1);
                    self.of_link(target, stat, plain.as_deref(), &backing, &path);
                    true
                }
                Err(error) => {
                    self.lose_as(FindingKind::Symlink, &backing, plain.as_deref(), error, &path);
                    false
                }
            },
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                self.node(target, stat, plain.as_deref(), &backing, &path)
            }
            FileKind::Directory | FileKind::Unknown => false,
        };
        if made && stat.nlink > 1 {
            self.copied.insert(stat.ino, path);
        }
        Ok(())
    }

    /// What the destination does not take is missed there, and the rest is copied; where it takes nothing any more, that
    /// is the end.
    fn go_on_after(&mut self, kind: FindingKind, backing: &OsStr, error: VaultError, path: &Path) -> Result<()> {
        match &error {
            VaultError::Io { source, .. } if !is_for_good(source) => {
                self.lose(Finding::own(Severity::Unreadable, kind, backing, error.to_string()), path);
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn file(
        &mut self,
        location: &Location<S>,
        target: Target<'_, S>,
        stat: Stat,
        plain: Option<&[u8]>,
        path: &Path,
    ) -> Result<bool> {
        let backing = location.backing_os_path();
        let file = match self.vault.core.open_file(location.clone(), &stat) {
            Ok(file) => file,
            Err(error) => {
                let reason = reason_of(error);
                match self.open_cut(location, &stat) {
                    Ok(file) => {
                        let error = VaultError::integrity("", reason);
                        self.lose_as(FindingKind::Length, &backing, plain, error, path);
                        Arc::new(file)
                    }
                    Err(StartError::Header(reason) | StartError::Root(reason)) => {
                        let error = VaultError::integrity("", reason);
                        self.lose_as(FindingKind::Header, &backing, plain, error, path);
                        return Ok(false);
                    }
                    Err(StartError::Failed(error)) => {
                        self.lose_as(FindingKind::File, &backing, plain, error, path);
                        return Ok(false);
                    }
                }
            }
        };
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(written)?;
        let lost = self.content(&file, &out)?;
        for (extent, reason) in lost {
            let finding = Finding {
                severity: Severity::Damage,
                kind: FindingKind::Page,
                backing: backing.clone(),
                plain: plain.map(<[u8]>::to_vec),
                extent: Some(extent),
                reason,
            };
            self.lose(finding, path);
        }
        out.set_len(file.len_bytes()).map_err(written)?;
        let stat = file.stat().unwrap_or(stat);
        let kept = self.kept(target, stat, path, plain, &backing);
        if let Err(error) = self.attributes(&out, path, &kept) {
            self.go_on_after(FindingKind::Xattrs, &backing, error, path)?;
        }
        self.summary.files = self.summary.files.saturating_add(1);
        Ok(true)
    }

    fn open_cut(&self, location: &Location<S>, stat: &Stat) -> Result<VaultFile<S>, StartError> {
        let file = location.open_backing(stat).map_err(StartError::Failed)?;
        VaultFile::open_cut(&self.vault.core, location.clone(), file, stat)
    }

    /// Copies what verifies. Blocks of zeros become holes, as does what does not verify, which is returned.
    fn content(&mut self, file: &VaultFile<S>, out: &File) -> Result<Vec<(Extent, String)>> {
        let size = file.len_bytes();
        let mut lost: Vec<(Extent, String)> = Vec::new();
        let mut at = 0;
        while at < size {
            match file.next_data(at) {
                Ok(Some(data)) => at = data - data % PAGE_BYTES,
                Ok(None) => break,
                // Something on the way to it does not open: page by page, below.
                Err(_) => {}
            }
            let read = match file.read(at, &mut self.buffer) {
                Ok(read) => read,
                Err(_) => self.pages(file, at, size, &mut lost),
            };
            if read == 0 {
                break;
            }
            for (chunk, offset_bytes) in
                self.buffer.get(..read).unwrap_or_default().chunks(PAGE_LEN).zip((at..).step_by(PAGE_LEN))
            {
                if chunk.iter().any(|byte| *byte != 0) {
                    out.write_all_at(chunk, offset_bytes).map_err(written)?;
                }
            }
            at = at.saturating_add(read as u64);
            self.summary.bytes = self.summary.bytes.saturating_add(read as u64);
            (self.observer)(SalvageEvent::Copied(read as u64));
        }
        Ok(lost)
    }

    /// Fills the buffer page by page, zeros where one does not open.
    fn pages(&mut self, file: &VaultFile<S>, from: u64, size: u64, lost: &mut Vec<(Extent, String)>) -> usize {
        let mut filled = 0_usize;
        for (page, offset_bytes) in self.buffer.chunks_mut(PAGE_LEN).zip((from..size).step_by(PAGE_LEN)) {
            let len = usize::try_from(size.saturating_sub(offset_bytes)).unwrap_or(PAGE_LEN).min(PAGE_LEN);
            let Some(page) = page.get_mut(..len) else { break };
            if let Err(error) = file.read(offset_bytes, page) {
                page.fill(0);
                let reason = reason_of(error);
                match lost.last_mut() {
                    Some((last, why))
                        if last.offset_bytes.saturating_add(last.len_bytes) == offset_bytes && *why == reason =>
                    {
                        last.len_bytes = last.len_bytes.saturating_add(len as u64);
                    }
                    _ => lost.push((Extent { offset_bytes, len_bytes: len as u64 }, reason)),
                }
            }
            filled = filled.saturating_add(len);
        }
        filled
    }

    fn node(&mut self, target: Target<'_, S>, stat: Stat, plain: Option<&[u8]>, backing: &OsStr, path: &Path) -> bool {
        let kind = rustix::fs::FileType::from_raw_mode(stat.mode);
        match rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), stat.rdev) {
            Ok(()) => {
                self.summary.others = self.summary.others.saturating_add(1);
                self.of_link(target, stat, plain, backing, path);
                true
            }
            Err(error) => {
                let error = VaultError::io("make a device, FIFO or socket", error.into());
                self.lose_as(FindingKind::File, backing, plain, error, path);
                false
            }
        }
    }

    /// What is kept of an inode that is not opened: a symbolic link, or what [`Self::node`] makes.
    fn of_link(&mut self, target: Target<'_, S>, stat: Stat, plain: Option<&[u8]>, backing: &OsStr, path: &Path) {
        if self.is_root {
            let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
            let _ = rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        }
        let kept = self.kept(target, stat, path, plain, backing);
        let set = |name: &OsStr, value: &[u8]| rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
        let is_link = stat.kind() == FileKind::Symlink;
        let change_mode = |mode| if is_link { Ok(()) } else { rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()) };
        let refused = match rustix::fs::lstat(path) {
            Ok(made) => put_attributes(&kept, &made, set, change_mode).unwrap_or_else(Some),
            Err(error) => Some(error),
        };
        let _ = rustix::fs::utimensat(CWD, path, &times(&kept.stat), AtFlags::SYMLINK_NOFOLLOW);
        self.lose_attribute(refused, path);
    }

    fn kept(&mut self, target: Target<'_, S>, stat: Stat, path: &Path, plain: Option<&[u8]>, backing: &OsStr) -> Kept {
        let core = &self.vault.core;
        let table = read_table(core, target, stat.kind(), || backing.to_string_lossy().into_owned());
        let acl = |name: &'static str| Some((name, core.storage.xattr(target, OsStr::new(name)).ok()?));
        let acls = ACLS.into_iter().filter_map(acl).collect();
        let xattrs = table.unwrap_or_else(|error| {
            self.lose_as(FindingKind::Xattrs, backing, plain, error, path);
            XattrTable::default()
        });
        Kept { stat, xattrs, acls }
    }

    /// Owner, attributes, permissions, and the times last. What this user or this filesystem cannot keep is a loss
    /// of its own.
    fn attributes(&mut self, made: &File, path: &Path, kept: &Kept) -> Result<()> {
        let stat = &kept.stat;
        if self.is_root {
            rustix::fs::fchown(made, Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)))
                .map_err(|error| written(error.into()))?;
        }
        let set = |name: &OsStr, value: &[u8]| rustix::fs::fsetxattr(made, name, value, XattrFlags::empty());
        let refused = rustix::fs::fstat(made)
            .and_then(|there| put_attributes(kept, &there, set, |mode| rustix::fs::fchmod(made, mode)))
            .map_err(|error| written(error.into()))?;
        rustix::fs::futimens(made, &times(&kept.stat)).map_err(|error| written(error.into()))?;
        self.lose_attribute(refused, path);
        Ok(())
    }

    fn lose_attribute(&mut self, refused: Option<Errno>, path: &Path) {
        if let Some(error) = refused {
            let reason = format!("an extended attribute could not be set at the destination: {error}");
            let finding = Finding::own(Severity::Unreadable, FindingKind::Xattrs, path.as_os_str().to_owned(), reason);
            self.lose(finding, path);
        }
    }

    /// A new name in the folder of what has none.
    fn generated_path(&mut self) -> Result<PathBuf> {
        if self.generated == 0 {
            fs::DirBuilder::new().mode(0o700).create(&self.lost).map_err(written)?;
        }
        self.generated = self.generated.saturating_add(1);
        Ok(self.lost.join(format!("{:06}", self.generated)))
    }

    fn lose_as(&mut self, kind: FindingKind, backing: &OsStr, plain: Option<&[u8]>, error: VaultError, path: &Path) {
        let severity = severity_of(&error);
        let finding = Finding {
            severity,
            kind,
            backing: backing.to_owned(),
            plain: plain.map(<[u8]>::to_vec),
            extent: None,
            reason: reason_of(error),
        };
        self.lose(finding, path);
    }

    fn lose(&mut self, finding: Finding, path: &Path) {
        self.summary.losses = self.summary.losses.saturating_add(1);
        (self.observer)(SalvageEvent::Lost { finding, path: path.to_owned() });
    }
}

/// Attributes, permissions and ACLs, in the order in which each can be set: what may not be written to takes no attribute, and a
/// mode that is set behind an ACL would change it. The last that was refused.
fn put_attributes(
    kept: &Kept,
    made: &rustix::fs::Stat,
    set: impl Fn(&OsStr, &[u8]) -> rustix::io::Result<()>,
    change_mode: impl Fn(Mode) -> rustix::io::Result<()>,
) -> rustix::io::Result<Option<Errno>> {
    let Kept { stat, xattrs, acls } = kept;
    let plain = xattrs.names().filter_map(|name| Some((OsStr::from_bytes(name), xattrs.get(name)?)));
    let refused = plain.filter_map(|(name, value)| set(name, value).err()).last();
    // As whom it runs is no promise about anybody else.
    let is_same_owner = (made.st_uid, made.st_gid) == (stat.uid, stat.gid);
    let bits = if is_same_owner { 0o7777 } else { 0o1777 };
    change_mode(Mode::from_raw_mode(stat.mode & bits))?;
    let mut refused_acl = None;
    for (name, value) in acls {
        let Err(error) = set(OsStr::new(name), value) else { continue };
        refused_acl = Some(error);
        if *name == ACCESS_ACL {
            // The group's bits are the ACL's mask: without it they would be the group's own.
            change_mode(Mode::from_raw_mode(stat.mode & bits & !0o070))?;
        }
    }
    Ok(refused.or(refused_acl))
}

/// Whether nothing else can be written either.
fn is_for_good(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::EIO | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
    )
}

fn written(error: io::Error) -> VaultError {
    VaultError::io("write to the destination", error)
}

fn times(stat: &Stat) -> Timestamps {
    let spec = |time: Timestamp| Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: spec(stat.atime), last_modification: spec(stat.mtime) }
}

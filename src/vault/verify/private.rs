//! The vault's own files: what stands beside the tree.

use std::ffi::{OsStr, OsString};
use std::io;

use super::{Finding, FindingKind, Severity, Shared, joined};
use crate::format::configuration::{Configuration, ENTRY, FILE_MAX};
use crate::storage::{Access, FileKind, Storage, Target, read_into};
use crate::vault::directory::{PRIVATE, TREE};
use crate::vault::error::is_of_another_kind;
use crate::vault::journal::SEGMENT_NAMES;
use crate::vault::lock;
use crate::vault::lost::{self, LOST};
use crate::vault::place::{BACKUP_SUFFIX, TEMPORARY_SUFFIX};
use crate::vault::rotate;

/// Files that a crash left while another was being replaced.
fn is_temporary(name: &str) -> bool {
    let name = name.strip_suffix(TEMPORARY_SUFFIX);
    name.is_some_and(|name| name == ENTRY || is_backup(name))
}

fn is_backup(name: &str) -> bool {
    name.strip_suffix(BACKUP_SUFFIX) == Some(ENTRY)
}

/// The same, in the private folder.
pub(in super::super) const PRIVATE_TEMPORARIES: [&str; 2] = ["state.new", "iv.new"];
pub(in super::super) const LINKS: &str = "links";

/// Reports what is wrong with the vault's own files, and what is left over among them.
pub(super) fn check<S: Storage>(shared: &Shared<'_, S>) {
    for finding in &shared.vault.tolerated {
        shared.found(finding.clone());
    }
    if let Some(recovery) = shared.vault.recovery().filter(|_| !shared.is_live) {
        let reason = format!(
            "the vault was not sealed: {} records of its journal, about {} files, are replayed by the next mount",
            recovery.records, recovery.files
        );
        shared.found(Finding::own(Severity::Crash, FindingKind::Journal, joined(&[PRIVATE.into()]), reason));
        for problem in recovery.stale.iter().chain(&recovery.damage) {
            let backing = match problem.split_once(':') {
                Some((name, _)) if SEGMENT_NAMES.contains(&name) => joined(&[PRIVATE.into(), name.into()]),
                Some((path, _)) if path.starts_with(TREE) => path.into(),
                _ => PRIVATE.into(),
            };
            shared.found(Finding::own(Severity::Damage, FindingKind::Journal, backing, problem.clone()));
        }
    }
    let core = &shared.vault.core;
    let listed = core.storage.open_root().and_then(|top| {
        list(shared, &top, |name, kind| vault_entry(shared, &top, name, kind))?;
        let private = core.tree.private();
        if core.tree.has_private() {
            list(shared, private, |name, kind| private_entry(shared, private, name, kind))?;
        }
        Ok(())
    });
    if let Err(error) = listed {
        let reason = format!("could not read a folder of the vault: {error}");
        shared.found(Finding::own(Severity::Unreadable, FindingKind::Private, PRIVATE, reason));
    }
}

/// Calls with each entry.
fn list<S: Storage>(
    shared: &Shared<'_, S>,
    folder: &S::Dir,
    mut each: impl FnMut(&OsStr, FileKind) -> io::Result<()>,
) -> io::Result<()> {
    let mut entries: Vec<(OsString, FileKind)> = Vec::new();
    let storage = &shared.vault.core.storage;
    // A handle of its own, which has its own position.
    let listed = storage.open_dir(folder, OsStr::new("."))?;
    storage.read_dir(&listed, 0, &mut |entry| {
        entries.push((entry.name.to_owned(), entry.kind));
        true
    })?;
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries.iter().try_for_each(|(name, kind)| each(name, *kind))
}

fn vault_entry<S: Storage>(shared: &Shared<'_, S>, top: &S::Dir, name: &OsStr, _kind: FileKind) -> io::Result<()> {
    let text = name.to_str().unwrap_or_default();
    if [PRIVATE, TREE, ENTRY].contains(&text) {
        return Ok(());
    }
    if is_backup(text) {
        if let Some(reason) = wrong_with_backup(shared, top, name)? {
            shared.found(Finding::own(Severity::Damage, FindingKind::ConfigurationBackup, name, reason));
        }
    } else if is_temporary(text) {
        leftover(shared, FindingKind::Temporary, name.into(), "left of a change of the configuration");
    } else {
        leftover(shared, FindingKind::Foreign, name.into(), "not one of the vault's files");
    }
    Ok(())
}

fn wrong_with_backup<S: Storage>(shared: &Shared<'_, S>, top: &S::Dir, name: &OsStr) -> io::Result<Option<String>> {
    let storage = &shared.vault.core.storage;
    let stat = storage.stat(Target::Entry(top, name))?;
    let len = usize::try_from(stat.size_bytes).unwrap_or(usize::MAX);
    if stat.kind() != FileKind::Regular || len > FILE_MAX {
        return Ok(Some("it is not a configuration".to_owned()));
    }
    let file = storage.open_file(top, name, Access::Read)?;
    let mut bytes = vec![0; len];
    let read = read_into(storage, &file, &mut bytes, 0)?;
    bytes.truncate(read);
    // Whether it is authentic depends on keys that may be gone by now: an older project key was active then.
    Ok(Configuration::parse(&bytes).err().map(|error| error.to_string()))
}

fn private_entry<S: Storage>(shared: &Shared<'_, S>, private: &S::Dir, name: &OsStr, kind: FileKind) -> io::Result<()> {
    let text = name.to_str().unwrap_or_default();
    let path = |below: &OsStr| joined(&[PRIVATE.into(), name.into(), below.into()]);
    if text == LINKS {
        // A link that could not be read may refer to any of them.
        let is_known = !shared.is_live && !shared.has_unread();
        let Some(folder) = folder(shared, private, name)? else { return Ok(()) };
        let ids = shared.link_ids.lock();
        return list(shared, &folder, |piece, _| {
            let id = piece.to_str().and_then(|piece| piece.rsplit_once('.')).map(|(id, _)| format!("={id}"));
            if is_known && id.is_none_or(|id| !ids.contains(id.as_bytes())) {
                leftover(shared, FindingKind::LinkPiece, path(piece), "a piece of no symbolic link's target");
            }
            Ok(())
        });
    }
    if text == LOST {
        let Some(folder) = folder(shared, private, name)? else { return Ok(()) };
        return list(shared, &folder, |entry, _| {
            let reason = if lost::is_journal(entry) {
                "a copy of a journal of which not all could be replayed"
            } else {
                "put aside: it lost its name, or does not open"
            };
            leftover(shared, FindingKind::Lost, path(entry), reason);
            Ok(())
        });
    }
    let known = [lock::ENTRY, "state", rotate::FOLDER].contains(&text) || SEGMENT_NAMES.contains(&text);
    let own = joined(&[PRIVATE.into(), name.into()]);
    if PRIVATE_TEMPORARIES.contains(&text) {
        if kind == FileKind::Directory {
            shared.found(Finding::own(
                Severity::Damage,
                FindingKind::Private,
                own,
                "it is a folder, of which there is none".to_owned(),
            ));
        } else if !shared.is_live {
            leftover(shared, FindingKind::Temporary, own, "left of a change that did not come to its end");
        }
    } else if !known {
        leftover(shared, FindingKind::Foreign, own, "not one of the vault's files");
    }
    Ok(())
}

/// One of the private folder's own folders; None: something else is in its place, which is reported.
fn folder<S: Storage>(shared: &Shared<'_, S>, private: &S::Dir, name: &OsStr) -> io::Result<Option<S::Dir>> {
    match shared.vault.core.storage.open_dir(private, name) {
        Err(error) if is_of_another_kind(&error) => {
            let own = joined(&[PRIVATE.into(), name.into()]);
            let reason = "there is no folder there, but something else".to_owned();
            shared.found(Finding::own(Severity::Damage, FindingKind::Private, own, reason));
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

fn leftover<S: Storage>(shared: &Shared<'_, S>, kind: FindingKind, backing: OsString, reason: &str) {
    shared.found(Finding::own(Severity::Leftover, kind, backing, reason.to_owned()));
}

//! Whether a disk that a crash left holds what was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use sero::storage::{FileKind, SimDisk, SimStorage};
use sero::vault::{Directory, Vault, VaultError};

use super::budget::count_state;
use super::model::{Candidate, DirNo, FileNo, Model, Node, ROOT};
use super::world::{File, PLAIN, PLAIN_DIR, Prepared, read_all, rotate};

/// What ended the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    PowerCut,
    /// The process alone: what the kernel had, it still has.
    Kill,
}

/// Why a state is not one of those that may be.
pub type Violation = String;

/// What was found.
pub enum Found {
    File { bytes: Vec<u8>, file: File },
    Dir(FoundDir),
}

pub struct FoundDir {
    pub names: BTreeMap<String, Found>,
    directory: Arc<Directory<SimStorage>>,
}

fn failed(what: impl fmt::Display) -> impl FnOnce(VaultError) -> Violation {
    move |error| format!("{what}: {error}")
}

/// Opens the vault on a disk after a crash, checks everything, changes it, seals it, and opens it again.
pub fn survives(prepared: &Prepared, disk: &SimDisk, model: &Model, end: End) -> Result<(), Violation> {
    count_state();
    match catch_unwind(AssertUnwindSafe(|| survives_or_panics(prepared, disk, model, end))) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

fn survives_or_panics(prepared: &Prepared, disk: &SimDisk, model: &Model, end: End) -> Result<(), Violation> {
    let vault = prepared.open(disk).map_err(failed("the vault does not open"))?;
    if let Some(recovery) = vault.recovery()
        && (!recovery.stale.is_empty() || !recovery.damage.is_empty())
    {
        return Err(format!("a crash was taken for damage: {recovery:?}"));
    }
    let mut found = look(&vault)?;
    explain(model, &found, end)?;
    change(&mut found)?;
    if vault.has_leftovers_to_settle() {
        vault.settle_leftovers().map_err(failed("what is left of a crash is not settled"))?;
    }
    let expected = flatten(found);
    vault.seal().map_err(failed("the vault does not seal"))?;
    drop(vault);
    let vault = prepared.open(disk).map_err(failed("the vault does not open again"))?;
    if vault.recovery().is_some() {
        return Err("a sealed vault was recovered".into());
    }
    let again = flatten(look(&vault)?);
    if let Some(difference) = difference(&expected, &again) {
        return Err(format!("after sealing: {difference}"));
    }
    if vault.is_rotating() {
        // A rotation was cut: it comes to its end, and all is as it was.
        rotate(disk, &vault).map_err(failed("the rotation does not end"))?;
        let rotated = flatten(look(&vault)?);
        if let Some(difference) = difference(&expected, &rotated) {
            return Err(format!("after the rotation: {difference}"));
        }
        vault.seal().map_err(failed("the rotated vault does not seal"))?;
    }
    Ok(())
}

/// Reads everything.
pub fn look(vault: &Arc<Vault<SimStorage>>) -> Result<FoundDir, Violation> {
    look_into(&vault.root(), "")
}

fn look_into(directory: &Arc<Directory<SimStorage>>, path: &str) -> Result<FoundDir, Violation> {
    let mut listed = Vec::new();
    directory
        .list(0, &mut |entry| {
            listed.push((entry.name.to_vec(), entry.kind));
            true
        })
        .map_err(failed(format!("/{path} does not list")))?;
    let mut names = BTreeMap::new();
    for (name, kind) in listed {
        let text = String::from_utf8_lossy(&name).into_owned();
        let shown = format!("{path}/{text}");
        let stat = directory.lookup(&name).map_err(failed(format!("{shown} cannot be looked up")))?;
        let found = match kind {
            FileKind::Directory => {
                let below = directory.open_child(&name).map_err(failed(format!("{shown} does not open")))?;
                Found::Dir(look_into(&below, &shown)?)
            }
            _ => {
                let file = directory.open_file(&name).map_err(failed(format!("{shown} does not open")))?;
                let bytes = read_all(&file).map_err(failed(format!("{shown} cannot be read")))?;
                if stat.size_bytes != bytes.len() as u64 {
                    return Err(format!("{shown}: stat says {} bytes, and it has {}", stat.size_bytes, bytes.len()));
                }
                Found::File { bytes, file }
            }
        };
        names.insert(text, found);
    }
    Ok(FoundDir { names, directory: directory.clone() })
}

/// Whether the model explains everything that was found, and nothing is missing.
pub fn explain(model: &Model, found: &FoundDir, end: End) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    explain_dir(model, ROOT, found, end, "", &mut seen)?;
    for (number, file) in model.files.iter().enumerate() {
        if file.must_exist && !seen.contains(&Seen::File(number)) {
            return Err(format!("file {number} was durable and is nowhere"));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    File(FileNo),
    Dir(DirNo),
}

fn explain_dir(
    model: &Model,
    dir: DirNo,
    found: &FoundDir,
    end: End,
    path: &str,
    seen: &mut BTreeSet<Seen>,
) -> Result<(), Violation> {
    let slots = &model.dirs[dir].slots;
    for name in found.names.keys() {
        if !slots.contains_key(name) {
            return Err(format!("{path}/{name} was never made"));
        }
    }
    for (name, slot) in slots {
        let shown = format!("{path}/{name}");
        let candidates: Vec<Candidate> = match end {
            End::PowerCut => slot.allowed.clone(),
            End::Kill => slot
                .shown
                .iter()
                .map(|node| Candidate {
                    node: *node,
                    since: slot.allowed.iter().filter(|allowed| allowed.node == *node).filter_map(|a| a.since).max(),
                })
                .collect(),
        };
        let Some(found) = found.names.get(name) else {
            if candidates.iter().any(|candidate| candidate.node.is_none()) {
                continue;
            }
            return Err(format!("{shown} is missing: {candidates:?}"));
        };
        let mut reasons = Vec::new();
        let mut explained = false;
        for candidate in &candidates {
            let mut seen_below = BTreeSet::new();
            let outcome = match (candidate.node, found) {
                (Some(Node::File(file)), Found::File { bytes, .. }) => {
                    seen_below.insert(Seen::File(file));
                    let known = &model.files[file];
                    let exact = end == End::Kill && known.durable.is_none() && known.committed;
                    if exact && **known.now() != *bytes {
                        Err(format!("it was closed, and {} of {} bytes are left", bytes.len(), known.now().len()))
                    } else {
                        known.explains(bytes, candidate.since)
                    }
                }
                (Some(Node::Dir(below)), Found::Dir(found)) => {
                    seen_below.insert(Seen::Dir(below));
                    explain_dir(model, below, found, end, &shown, &mut seen_below)
                }
                (None, _) => continue,
                _ => Err("it is of another kind".to_owned()),
            };
            match outcome {
                // Two may look alike: each of them may be here.
                Ok(()) => {
                    seen.extend(seen_below);
                    explained = true;
                }
                Err(reason) => reasons.push(format!("as {:?}: {reason}", candidate.node)),
            }
        }
        if !explained {
            return Err(format!("{shown}: {}", reasons.join("; ")));
        }
    }
    Ok(())
}

/// Makes and changes things everywhere; what is found is as it is afterwards.
fn change(found: &mut FoundDir) -> Result<(), Violation> {
    let directory = found.directory.clone();
    for (name, found) in &mut found.names {
        match found {
            Found::Dir(below) => change(below)?,
            Found::File { bytes, file } => {
                let refused = |error: VaultError| format!("{name} takes no changes: {error}");
                let len = bytes.len();
                file.write(len as u64, b"appended").map_err(refused)?;
                bytes.extend(b"appended");
                if len > 0 {
                    let at = len / 2;
                    file.write(at as u64, b"+").map_err(refused)?;
                    bytes[at] = b'+';
                }
                file.sync().map_err(refused)?;
            }
        }
    }
    let refused = |error: VaultError| format!("a directory takes no new name: {error}");
    let (_, file) = directory.make_file(b"made after the crash", &PLAIN).map_err(refused)?;
    file.write(0, b"new").map_err(refused)?;
    file.commit().map_err(refused)?;
    found.names.insert("made after the crash".into(), Found::File { bytes: b"new".to_vec(), file });
    let (_, below) = directory.make_dir(b"made after the crash, too", &PLAIN_DIR).map_err(refused)?;
    let below = FoundDir { names: BTreeMap::new(), directory: below };
    found.names.insert("made after the crash, too".into(), Found::Dir(below));
    Ok(())
}

/// Content by path; directories have none.
fn flatten(found: FoundDir) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut flat = BTreeMap::new();
    collect(found, "", &mut flat);
    flat
}

fn collect(found: FoundDir, path: &str, flat: &mut BTreeMap<String, Option<Vec<u8>>>) {
    for (name, found) in found.names {
        let path = format!("{path}/{name}");
        match found {
            Found::Dir(below) => {
                flat.insert(path.clone(), None);
                collect(below, &path, flat);
            }
            Found::File { bytes, file } => {
                // A file with two names was changed under both: what it holds now counts.
                let has_others = file.stat().is_ok_and(|stat| stat.nlink > 1);
                let now = has_others.then(|| read_all(&file).ok()).flatten();
                flat.insert(path, Some(now.unwrap_or(bytes)));
            }
        }
    }
}

fn difference(
    expected: &BTreeMap<String, Option<Vec<u8>>>,
    found: &BTreeMap<String, Option<Vec<u8>>>,
) -> Option<String> {
    for (path, content) in expected {
        match found.get(path) {
            None => return Some(format!("{path} is gone")),
            Some(other) if other != content => return Some(format!("{path} has other content")),
            Some(_) => {}
        }
    }
    found.keys().find(|path| !expected.contains_key(*path)).map(|path| format!("{path} is new"))
}

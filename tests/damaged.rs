//! One damaged vault for each rule of docs/format.md's "A reader must reject": `tests/damaged/RULE` says how `base.tar`
//! (or, for rules of the journal, `crashed.tar`) is edited, byte by byte. This version and the independent reader of the
//! format must both notice each, and go on with the rest.
//!
//! `cargo test --test damaged -- --ignored make` makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER;
use rustix::fs::XattrFlags;
use serde_json::Value;
use sero::crypto::Passphrase;
use sero::vault::unlock::unlock;
use sero::vault::{
    Directory, FileKind, Finding, Mode, NodeRef, PosixStorage, Vault, VaultError, VerifyObserver, VerifyOptions,
};
use tempfile::TempDir;

#[path = "damaged/make.rs"]
mod make;
#[path = "cli/spawning.rs"]
mod spawning;

type Opened = Arc<Vault<PosixStorage>>;
type Folder = Arc<Directory<PosixStorage>>;

/// Who must notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Nobody opens the vault.
    Vault,
    /// What is at this path, or below it, is an error; the rest is as before.
    Entry,
    /// The vault is recovered, and it is said.
    Journal,
}

/// A file of `tests/damaged`.
struct Case {
    rule: String,
    scope: Scope,
    path: String,
    /// What the independent reader calls it, if not by its own name.
    says: String,
    edits: Vec<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged")
}

fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

fn parse(rule: &str, text: &str) -> Case {
    let mut case =
        Case { rule: rule.into(), scope: Scope::Vault, path: String::new(), says: rule.into(), edits: Vec::new() };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("vault", "") => case.scope = Scope::Vault,
            ("journal", "") => case.scope = Scope::Journal,
            ("entry", path) => (case.scope, case.path) = (Scope::Entry, path.into()),
            ("says", rule) => case.says = rule.into(),
            _ => case.edits.push(line.into()),
        }
    }
    case
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none() {
            let rule = path.file_name().unwrap().to_str().unwrap();
            cases.push(parse(rule, &fs::read_to_string(&path).unwrap()));
        }
    }
    cases.sort_by(|a, b| a.rule.cmp(&b.rule));
    cases
}

/// Does to a vault what the lines say.
fn edit(vault: &Path, lines: &[String]) {
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let (verb, path, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
        let path = vault.join(path);
        let bytes = || HEXLOWER.decode(rest.as_bytes()).unwrap();
        match verb {
            "text" => fs::write(&path, rest).unwrap(),
            "bytes" => fs::write(&path, bytes()).unwrap(),
            "put" => {
                let (offset, hex) = rest.split_once(' ').unwrap();
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all_at(&HEXLOWER.decode(hex.as_bytes()).unwrap(), offset.parse().unwrap()).unwrap();
            }
            "length" => {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(rest.parse().unwrap()).unwrap();
            }
            "link" => {
                let _ = fs::remove_file(&path);
                symlink(rest, &path).unwrap();
            }
            "remove" => fs::remove_file(&path).unwrap(),
            "rename" => fs::rename(&path, vault.join(rest)).unwrap(),
            "xattr" => rustix::fs::setxattr(&path, "user.sero", &bytes(), XattrFlags::empty()).unwrap(),
            other => panic!("{other}: {line}"),
        }
    }
}

fn unpacked(name: &str) -> (TempDir, PathBuf) {
    let scratch = TempDir::new().unwrap();
    let archive = folder().join(format!("{name}.tar"));
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(scratch.path());
    assert!(spawning::status(tar.arg("--xattrs").arg("--xattrs-include=user.*")).success());
    let vault = scratch.path().join(name);
    (scratch, vault)
}

fn open(vault: &Path, mode: Mode) -> Result<Opened, VaultError> {
    let storage = PosixStorage::open(vault).unwrap();
    let keys = unlock(&storage, &passphrase())?;
    spawning::all_started();
    Vault::open(storage, keys, mode)
}

/// Every path, with what is there, or what is wrong with it.
type Manifest = BTreeMap<String, Result<Vec<u8>, String>>;

fn manifest(vault: &Opened) -> Manifest {
    let mut found = Manifest::new();
    walk(vault, &vault.root(), "", &mut found);
    found
}

fn walk(vault: &Opened, folder: &Folder, at: &str, found: &mut Manifest) {
    let mut names = Vec::new();
    let listed = folder.list(0, &mut |entry| {
        names.push((entry.name.to_vec(), entry.kind));
        true
    });
    found.insert(format!("{at}/"), listed.map(|()| Vec::new()).map_err(|error| error.to_string()));
    for (name, kind) in names {
        let path = format!("{at}/{}", String::from_utf8_lossy(&name));
        let node = NodeRef::Entry(folder, &name);
        let content = vault.xattrs(node, kind).and_then(|_| match kind {
            FileKind::Regular => {
                let file = folder.open_file(&name)?;
                let mut content = vec![0; file.len_bytes() as usize];
                file.read(0, &mut content).map(|_| content)
            }
            FileKind::Symlink => folder.read_symlink(&name),
            _ => Ok(Vec::new()),
        });
        found.insert(path.clone(), content.map_err(|error| error.to_string()));
        if kind == FileKind::Directory {
            match folder.open_child(&name) {
                Ok(below) => walk(vault, &below, &path, found),
                Err(error) => drop(found.insert(path, Err(error.to_string()))),
            }
        }
    }
}

#[derive(Default)]
struct Findings(Mutex<Vec<Finding>>);

impl VerifyObserver for Findings {
    fn found(&self, finding: Finding) {
        self.0.lock().unwrap().push(finding);
    }
}

/// Whether a path is the damaged one, or in it. The names of a directory that do not open are the directory's.
fn is_at(path: &str, damaged: &str) -> bool {
    path == damaged || path.strip_prefix(damaged).is_some_and(|rest| rest.starts_with('/'))
}

#[test]
fn every_rule_has_a_damaged_vault() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")).unwrap();
    let (_, section) = text.split_once("## A reader must reject").unwrap();
    let (section, _) = section.split_once("\n# ").unwrap();
    let rules: BTreeSet<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(rule, _)| rule.to_owned()))
        .collect();
    let known: BTreeSet<String> = cases().into_iter().map(|case| case.rule).collect();
    assert!(rules.len() > 50);
    assert_eq!(rules.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "rules without a damaged vault");
    assert_eq!(known.difference(&rules).collect::<Vec<_>>(), Vec::<&String>::new(), "damaged vaults without a rule");
}

#[test]
fn this_version_rejects_each() {
    let (_scratch, base) = unpacked("base");
    let whole = manifest(&open(&base, Mode::ReadOnly).unwrap());
    assert!(whole.values().all(Result::is_ok));
    for case in cases() {
        let rule = &case.rule;
        let (_scratch, vault) = unpacked(if case.scope == Scope::Journal { "crashed" } else { "base" });
        edit(&vault, &case.edits);
        let opened = open(&vault, Mode::ReadOnly);
        match case.scope {
            Scope::Vault => assert!(opened.is_err(), "{rule}: it opens"),
            Scope::Entry => {
                let opened = opened.unwrap_or_else(|error| panic!("{rule}: {error}"));
                let findings = Findings::default();
                let summary = opened.verify(&VerifyOptions::default(), &findings).unwrap();
                let listed = findings.0.into_inner().unwrap();
                assert!(!summary.is_whole() && !listed.is_empty(), "{rule}: verify finds nothing");
                for finding in &listed {
                    let plain = finding.plain.as_deref().map(|path| format!("/{}", String::from_utf8_lossy(path)));
                    assert!(plain.is_none_or(|path| is_at(&path, &case.path)), "{rule}: {finding:?}");
                }
                let found = manifest(&opened);
                let damaged: Vec<_> = found.iter().filter(|(_, content)| content.is_err()).collect();
                assert!(!damaged.is_empty(), "{rule}: nothing is noticed");
                for (path, content) in damaged {
                    assert!(is_at(path, &case.path), "{rule}: {path}: {content:?}");
                    assert!(content.as_ref().unwrap_err().starts_with("integrity: "), "{rule}: {path}: {content:?}");
                }
                for (path, content) in whole.iter().filter(|(path, _)| !is_at(path, &case.path)) {
                    assert_eq!(found.get(path), Some(content), "{rule}: {path}");
                }
            }
            Scope::Journal => {
                let opened = opened.unwrap_or_else(|error| panic!("{rule}: {error}"));
                let recovery = opened.recovery().unwrap();
                let said = recovery.stale.len() + recovery.damage.len();
                assert!(said > 0, "{rule}: nothing is said: {recovery}");
                let summary = opened.verify(&VerifyOptions::default(), &Findings::default()).unwrap();
                assert!(summary.damaged > 0, "{rule}: verify finds nothing");
                let found = manifest(&opened);
                assert!(found.iter().all(|(path, content)| content.is_ok() || path == "/tree"), "{rule}");
            }
        }
    }
}

#[test]
fn the_independent_reader_rejects_each_by_its_name() {
    let (_scratch, base) = unpacked("base");
    let (code, _, whole) = independent(&base);
    assert_eq!(code, Some(0));
    for case in cases().into_iter().filter(|case| case.scope != Scope::Journal && case.rule != "state-edited") {
        let rule = &case.rule;
        let (_scratch, vault) = unpacked("base");
        edit(&vault, &case.edits);
        let (code, said, found) = independent(&vault);
        if case.scope == Scope::Vault {
            assert_eq!((code, said.split([':', '\n']).next()), (Some(3), Some(case.says.as_str())), "{rule}: {said}");
            continue;
        }
        assert_eq!(code, Some(1), "{rule}: {said}");
        let errors: Vec<_> = found.values().filter(|entry| entry.get("error").is_some()).collect();
        assert!(!errors.is_empty(), "{rule}");
        for entry in errors {
            assert!(is_at(entry["path"].as_str().unwrap(), &case.path), "{rule}: {entry}");
            assert_eq!(entry["error"], case.says.as_str(), "{rule}: {entry}");
        }
        for (path, entry) in whole.iter().filter(|(path, _)| !is_at(path, &case.path)) {
            assert_eq!(found.get(path), Some(entry), "{rule}: {path}");
        }
    }
}

/// Exit code, what it complains of, and its manifest by paths.
fn independent(vault: &Path) -> (Option<i32>, String, BTreeMap<String, Value>) {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/sero_reader.py");
    let mut python = Command::new("python3");
    let python = python.arg(reader).arg(vault).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawning::start(python).unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let manifest: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let by_path = manifest.into_iter().map(|entry| (entry["path"].as_str().unwrap().to_owned(), entry)).collect();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), by_path)
}

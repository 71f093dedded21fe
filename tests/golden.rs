//! Old vaults are test data: `tests/golden/v1` holds one of format 1, made once, that every later version must read,
//! byte for byte, one that was not sealed, whose journal every later version must replay, and two around a rotation of the key. An
//! independent reader of the format, `tests/reader/sero_reader.py`, must read the same of them, and of what this version writes.
//!
//! `cargo test --test golden -- --ignored make` made them. They are not made again: a change that needs that is a new
//! format, with golden vaults of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use sero::crypto::{KdfParams, Passphrase};
use sero::vault::create::{CreateOptions, create};
use sero::vault::{
    Directory, FileKind, Mode, NewInode, NodeRef, PosixStorage, RenameMode, SetTime, Timestamp, Vault, VaultError,
    VaultFile, XattrTable, unlock,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

#[path = "golden/keys.rs"]
mod keys;
#[path = "golden/rotation.rs"]
mod rotation;
#[path = "cli/spawning.rs"]
mod spawning;

type Opened = Arc<Vault<PosixStorage>>;
type Folder = Arc<Directory<PosixStorage>>;

const PAGE: u64 = 4096;

#[test]
fn the_golden_vault_reads_as_ever() {
    let unpacked = unpack("vault");
    assert_eq!(manifest_of(&open(&unpacked.vault, Mode::ReadOnly)), unpacked.manifest);
}

#[test]
fn an_independent_reader_agrees_about_the_golden_vault() {
    let unpacked = unpack("vault");
    let read = independent_reader(&unpacked.vault);
    assert_eq!(said(&read), unpacked.manifest);
    assert_eq!(read.status.code(), Some(0));
}

#[test]
fn the_golden_vault_can_be_changed_and_the_independent_reader_follows() {
    let unpacked = unpack("vault");
    let vault = open(&unpacked.vault, Mode::ReadWrite);
    for name in ["blob max", "just paged", "holes"] {
        let file = vault.root().open_file(name.as_bytes()).unwrap();
        file.write(file.len_bytes() / 2, b"changed by a later version").unwrap();
        file.sync().unwrap();
    }
    seal(vault);
    let expected = manifest_of(&open(&unpacked.vault, Mode::ReadOnly));
    assert_ne!(expected, unpacked.manifest);
    assert_eq!(said(&independent_reader(&unpacked.vault)), expected);
}

#[test]
fn an_independent_reader_reads_what_this_version_writes() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("vault");
    let content = make(&path);
    let vault = open(&path, Mode::ReadOnly);
    let manifest = manifest_of(&vault);
    drop(vault);
    assert_content(&manifest, &content);
    assert_eq!(said(&independent_reader(&path)), manifest);
}

#[test]
fn a_vault_of_a_newer_format_is_refused_as_such() {
    let unpacked = unpack("vault");
    let path = unpacked.vault.join("sero.json");
    let mut configuration: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    configuration["format"] = json!(2);
    // Whatever else it changed.
    configuration["sections"] = json!([]);
    configuration.as_object_mut().unwrap().remove("cipher");
    fs::write(&path, serde_json::to_vec(&configuration).unwrap()).unwrap();
    let refused = unlock::unlock(&PosixStorage::open(&unpacked.vault).unwrap(), &passphrase()).err();
    assert!(matches!(refused, Some(VaultError::UnsupportedFormat { found: 2, supported: 1 })), "{refused:?}");
    let read = independent_reader(&unpacked.vault);
    assert_eq!(read.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&read.stderr).starts_with("configuration-newer-format"));
}

#[test]
fn both_refuse_damage_in_the_same_entries() {
    let unpacked = unpack("vault");
    let mut damaged = 0;
    for path in files_below(&unpacked.vault.join("tree")) {
        let mut home = fs::read(&path).unwrap();
        if let Some(last) = home.last_mut().filter(|_| fs::symlink_metadata(&path).unwrap().is_file()) {
            *last ^= 1;
            let _ = fs::remove_file(&path);
            fs::write(&path, home).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 10);
    let errors = |manifest: &[Value]| -> Vec<String> {
        let bad = manifest.iter().filter(|entry| entry.get("error").is_some());
        bad.map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    let here = errors(&manifest_of(&open(&unpacked.vault, Mode::ReadOnly)));
    let read = independent_reader(&unpacked.vault);
    assert_eq!(read.status.code(), Some(1));
    assert_eq!(errors(&said(&read)), here);
    // The last block of one home belongs to a hole: nothing is kept there, and nothing is noticed.
    assert_eq!(here.len(), damaged - 1);
    assert!(!here.contains(&"/only a hole".to_owned()));
}

#[test]
fn a_vault_that_was_not_sealed_is_recovered() {
    let unpacked = unpack("crashed");
    let refused = independent_reader(&unpacked.vault);
    assert_eq!(String::from_utf8_lossy(&refused.stderr).split(':').next(), Some("not-sealed"));
    // First in memory, then for good.
    assert_eq!(manifest_of(&open(&unpacked.vault, Mode::ReadOnly)), unpacked.manifest);
    let vault = open(&unpacked.vault, Mode::ReadWrite);
    let recovery = vault.recovery().unwrap();
    assert!(recovery.files >= 5 && recovery.stale.is_empty() && recovery.damage.is_empty(), "{recovery}");
    vault.settle_leftovers().unwrap();
    seal(vault);
    assert_eq!(said(&independent_reader(&unpacked.vault)), unpacked.manifest);
}

#[test]
#[ignore = "makes a part of tests/golden/v1 anew, which stays as it is"]
fn make_the_golden_vault() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("vault");
    let content = make(&path);
    let vault = open(&path, Mode::ReadOnly);
    let manifest = manifest_of(&vault);
    drop(vault);
    assert_content(&manifest, &content);
    assert_eq!(said(&independent_reader(&path)), manifest);
    pack(scratch.path(), "vault", &manifest);
}

#[test]
#[ignore = "makes a part of tests/golden/v1 anew, which stays as it is"]
fn make_the_golden_crashed_vault() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("mounted");
    let mut maker = Maker::new(&path);
    let root = maker.vault.root();
    for name in ["pages", "blob", "anew", "punched", "grown", "renamed", "cut"] {
        maker.whole(&root, format!("/{name}").as_bytes(), 20_000);
    }
    maker.whole(&root, b"/small", 500);
    seal(maker.vault);
    maker.vault = open(&path, Mode::ReadWrite);
    maker.crashed_session();
    let manifest = manifest_of(&maker.vault);
    assert_content(&manifest, &maker.content);
    // As a kill -9 would leave it now.
    let mut copy = Command::new("cp");
    assert!(spawning::status(copy.arg("-a").arg(&path).arg(scratch.path().join("crashed"))).success());
    for segment in ["journal.0", "journal.1"] {
        // What is behind the records is random, and counts for nothing; zeros are smaller.
        let segment =
            fs::File::options().write(true).open(scratch.path().join("crashed/private").join(segment)).unwrap();
        let len = segment.metadata().unwrap().len();
        segment.set_len(48 * PAGE).unwrap();
        segment.set_len(len).unwrap();
    }
    pack(scratch.path(), "crashed", &manifest);
}

/// Puts a vault and what it holds into tests/golden/v1.
fn pack(scratch: &Path, name: &str, manifest: &[Value]) {
    // It says who held it.
    fs::write(scratch.join(name).join("private/lock"), "").unwrap();
    // Unsealed, it has no attributes; and names of sparse files in the other format have a process id in them.
    let format: &[&str] = match name {
        "crashed" => &["--format=gnu", "--sparse"],
        _ => &[
            "--format=pax",
            "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
            "--xattrs",
            "--xattrs-include=user.*",
        ],
    };
    let made = Command::new("tar")
        .args(["--create", "--sort=name", "--numeric-owner", "--owner=0", "--group=0"])
        .args(format)
        .arg("--file")
        .arg(golden(&format!("{name}.tar")))
        .arg("--directory")
        .arg(scratch)
        .arg(name)
        .status()
        .unwrap();
    assert!(made.success());
    let text = serde_json::to_string_pretty(&manifest).unwrap() + "\n";
    fs::write(golden(&format!("{name}.json")), text).unwrap();
}

// --- what is in it ---

/// Makes the vault in two sessions; returns what the files hold, by their paths.
fn make(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut maker = Maker::new(path);
    let root = maker.vault.root();
    maker.sizes(&root);
    maker.names(&root);
    maker.links(&root);
    maker.attributes(&root);
    seal(maker.vault);
    maker.vault = open(path, Mode::ReadWrite);
    maker.second_session();
    seal(maker.vault);
    maker.content
}

struct Maker {
    vault: Opened,
    content: BTreeMap<String, Vec<u8>>,
}

impl Maker {
    fn new(path: &Path) -> Self {
        let options = CreateOptions {
            kdf: KdfParams { memory_kib: 8, passes: 1, lanes: 1 },
            label: "golden".into(),
            hint: Some("four common words".into()),
        };
        create(path, &options, &passphrase()).unwrap();
        keys::add_every_kind(path);
        Self { vault: open(path, Mode::ReadWrite), content: BTreeMap::new() }
    }

    /// A file at `path` of `size` bytes with content in these ranges, the rest holes.
    fn file(&mut self, folder: &Folder, path: &[u8], size: u64, ranges: &[(u64, u64)]) {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
        let (_, file) = folder.make_file(name, &private(0o600)).unwrap();
        let mut content = vec![0; size as usize];
        for (start, end) in ranges {
            let bytes = noise(path, *start, *end);
            file.write(*start, &bytes).unwrap();
            content[*start as usize..*end as usize].copy_from_slice(&bytes);
        }
        file.truncate(size).unwrap();
        file.commit().unwrap();
        self.stamp(&file);
        self.content.insert(shown(path), content);
    }

    fn whole(&mut self, folder: &Folder, path: &[u8], size: u64) {
        self.file(folder, path, size, &[(0, size)]);
    }

    fn stamp(&self, file: &VaultFile<PosixStorage>) {
        let time = Timestamp { seconds: 1_600_000_000 + file.len_bytes() as i64 % 1000, nanoseconds: 0 };
        self.vault.set_times(NodeRef::File(file), SetTime::Keep, SetTime::To(time)).unwrap();
    }

    fn sizes(&mut self, root: &Folder) {
        self.whole(root, b"/empty", 0);
        self.whole(root, b"/one byte", 1);
        self.whole(root, b"/one block", 4096 - 128);
        self.whole(root, b"/blob max", 4 * PAGE - 128);
        self.whole(root, b"/just paged", 4 * PAGE - 127);
        let (direct, last) = (119 * PAGE, 600 * 1024);
        let around_the_first_node = (direct - PAGE, direct + PAGE);
        let ranges = [(0, PAGE), (3 * PAGE + 5, 5 * PAGE - 5), around_the_first_node, (last - 100, last)];
        self.file(root, b"/holes", last, &ranges);
        self.file(root, b"/only a hole", 5 * PAGE + 17, &[]);
        // Page 247 is the first under the subtree of height 2.
        self.file(root, b"/two levels", 248 * PAGE + 100, &[(246 * PAGE, 248 * PAGE + 50)]);
    }

    fn names(&mut self, root: &Folder) {
        let (_, folder) = root.make_dir(b"names", &private(0o700)).unwrap();
        for len in [1, 15, 16, 17, 160, 161, 255] {
            self.whole(&folder, &[b"/names/", &vec![b'n'; len][..]].concat(), len as u64);
        }
        for name in
            [&b"=iv"[..], b".hidden", b"-rf", b"with space", b"new\nline", b"back\\slash", b"latin1 \xe4\xf6\xfc"]
        {
            self.whole(&folder, &[b"/names/", name].concat(), 10);
        }
        self.whole(&folder, "/names/größe \u{1f512}".as_bytes(), 11);
        let (_, below) = folder.make_dir(&[b'd'; 200], &private(0o700)).unwrap();
        self.whole(&below, &[&b"/names/"[..], &[b'd'; 200], b"/inside"].concat(), 20);
        let mut deep = root.clone();
        for name in ["a", "b", "c", "d", "e"] {
            (_, deep) = deep.make_dir(name.as_bytes(), &private(0o700)).unwrap();
        }
        self.whole(&deep, b"/a/b/c/d/e/deep", 30);
        root.make_dir(b"empty folder", &private(0o700)).unwrap();
    }

    fn links(&mut self, root: &Folder) {
        let (_, folder) = root.make_dir(b"links", &private(0o700)).unwrap();
        // 722 bytes is the longest that fits into one backing link.
        for len in [1, 722, 723, 4095] {
            folder.make_symlink(format!("to {len}").as_bytes(), &vec![b't'; len], &private(0o777)).unwrap();
        }
        folder.make_symlink(b"relative", b"../empty", &private(0o777)).unwrap();
        folder.make_symlink(b"bytes", b"/\xff\\\n", &private(0o777)).unwrap();
        self.whole(root, b"/hard link", 5000);
        root.link(b"hard link", &folder, &[b'h'; 170]).unwrap();
        let same = self.content["/hard link"].clone();
        self.content.insert(format!("/links/{}", "h".repeat(170)), same);
        folder.make_node(b"fifo", &private(0o600 | libc::S_IFIFO), 0).unwrap();
    }

    fn attributes(&mut self, root: &Folder) {
        self.whole(root, b"/attributes", 100);
        let mut table = XattrTable::default();
        table.insert(b"user.comment", b"golden");
        table.insert(b"user.empty", b"");
        table.insert(b"user.large", &noise(b"xattr", 0, 1000));
        let file = root.open_file(b"attributes").unwrap();
        self.vault.set_xattrs(NodeRef::File(&file), FileKind::Regular, &table).unwrap();
        self.vault.set_mode(NodeRef::File(&file), 0o4755).unwrap();
        self.stamp(&file);
        let folder = root.open_child(b"empty folder").unwrap();
        self.vault.set_xattrs(NodeRef::Directory(&folder), FileKind::Directory, &table).unwrap();
        self.vault.set_mode(NodeRef::Directory(&folder), 0o1777).unwrap();
        for (path, size) in [("/changed", 60_000), ("/cut", 60_000), ("/punched", 70_000), ("/grown", 10_000)] {
            self.whole(root, path.as_bytes(), size);
        }
        self.whole(root, b"/started anew", 30_000);
    }

    /// Changes of durable files: pages under another session's key, holes, a cut, a new salt.
    fn second_session(&mut self) {
        self.change("/changed", |file, content| {
            let bytes = noise(b"second session", 0, 10_000);
            file.write(30_000, &bytes).unwrap();
            content[30_000..40_000].copy_from_slice(&bytes);
        });
        self.change("/cut", |file, content| {
            file.truncate(30_001).unwrap();
            content.truncate(30_001);
        });
        self.change("/punched", |file, content| {
            file.punch_hole(10 * PAGE, 4 * PAGE).unwrap();
            content[10 * PAGE as usize..14 * PAGE as usize].fill(0);
        });
        self.change("/grown", |file, content| {
            let bytes = noise(b"grown", 0, 30_000);
            file.write(10_000, &bytes).unwrap();
            content.extend(bytes);
        });
        self.change("/started anew", |file, content| {
            file.truncate(0).unwrap();
            *content = noise(b"anew", 0, 20_000);
            file.write(0, content).unwrap();
        });
    }

    /// Nearly every operation that a journal has, synced and not brought home.
    fn crashed_session(&mut self) {
        let root = self.vault.root();
        self.change("/cut", |file, content| {
            file.truncate(17_000).unwrap();
            content.truncate(17_000);
        });
        self.vault.checkpoint().unwrap();
        self.change("/pages", |file, content| {
            let bytes = noise(b"pages", 0, 3000);
            file.write(6000, &bytes).unwrap();
            content[6000..9000].copy_from_slice(&bytes);
        });
        self.change("/blob", |file, content| {
            file.truncate(300).unwrap();
            content.truncate(300);
        });
        self.change("/small", |file, content| {
            let bytes = noise(b"small", 0, 40_000);
            file.write(500, &bytes).unwrap();
            content.extend(bytes);
        });
        self.change("/anew", |file, content| {
            file.truncate(0).unwrap();
            *content = noise(b"anew", 0, 20_000);
            file.write(0, content).unwrap();
        });
        self.change("/punched", |file, content| {
            file.punch_hole(PAGE, 2 * PAGE).unwrap();
            content[PAGE as usize..3 * PAGE as usize].fill(0);
        });
        // Enough at once to go straight home; the first page of it is the end of what was there.
        self.change("/grown", |file, content| {
            let bytes = noise(b"grown", 0, 120_000);
            file.write(20_000, &bytes).unwrap();
            content.extend(bytes);
        });
        self.change("/renamed", |file, content| {
            file.write(10, b"before its rename").unwrap();
            content[10..27].copy_from_slice(b"before its rename");
        });
        root.rename(b"renamed", &root, &[b'r'; 180], RenameMode::NoReplace).unwrap();
        let content = self.content.remove("/renamed").unwrap();
        let renamed = format!("/{}", "r".repeat(180));
        self.content.insert(renamed.clone(), content);
        self.change(&renamed, |file, content| {
            file.write(19_000, b"after it").unwrap();
            content[19_000..19_008].copy_from_slice(b"after it");
        });
        self.whole(&root, b"/made in the session", 3000);
        root.open_file(b"made in the session").unwrap().sync().unwrap();
        self.whole(&root, b"/synced in the background", 4000);
        for _ in 0..3 {
            self.vault.tick().unwrap();
        }
    }

    fn change(&mut self, path: &str, change: impl FnOnce(&VaultFile<PosixStorage>, &mut Vec<u8>)) {
        let file = self.vault.root().open_file(&path.as_bytes()[1..]).unwrap();
        change(&file, self.content.get_mut(path).unwrap());
        self.stamp(&file);
        file.sync().unwrap();
    }
}

fn private(mode: u32) -> NewInode {
    NewInode { mode, uid: None, gid: None }
}

/// Bytes that differ from file to file and from page to page: a hash for each 32 of them.
fn noise(seed: &[u8], start: u64, end: u64) -> Vec<u8> {
    let chunks = (start / 32..end.div_ceil(32)).flat_map(|chunk| {
        let digest: [u8; 32] = Sha256::new().chain_update(seed).chain_update(chunk.to_le_bytes()).finalize().into();
        digest
    });
    chunks.skip((start % 32) as usize).take((end - start) as usize).collect()
}

fn assert_content(manifest: &[Value], content: &BTreeMap<String, Vec<u8>>) {
    let files: Vec<_> = manifest.iter().filter(|entry| entry["type"] == "file").collect();
    assert_eq!(files.len(), content.len());
    for entry in files {
        let bytes = &content[entry["path"].as_str().unwrap()];
        assert_eq!(entry["size"], bytes.len(), "{entry}");
        assert_eq!(entry["sha256"], hash(bytes), "{entry}");
    }
}

// --- what this version reads ---

fn manifest_of(vault: &Opened) -> Vec<Value> {
    let mut manifest = Vec::new();
    list(vault, &vault.root(), &mut Vec::new(), &mut manifest);
    manifest.sort_by(|a, b| a["path"].as_str().cmp(&b["path"].as_str()));
    manifest
}

fn list(vault: &Opened, folder: &Folder, path: &mut Vec<u8>, manifest: &mut Vec<Value>) {
    let mut found = Vec::new();
    folder
        .list(0, &mut |entry| {
            found.push((entry.name.to_vec(), entry.kind));
            true
        })
        .unwrap();
    for (name, kind) in found {
        let len = path.len();
        path.push(b'/');
        path.extend(&name);
        manifest.push(describe(vault, folder, &name, kind, &shown(path)));
        if kind == FileKind::Directory {
            list(vault, &folder.open_child(&name).unwrap(), path, manifest);
        }
        path.truncate(len);
    }
}

fn describe(vault: &Opened, folder: &Folder, name: &[u8], kind: FileKind, path: &str) -> Value {
    let node = NodeRef::Entry(folder, name);
    let stat = vault.stat(node).unwrap();
    assert_eq!(stat.kind(), kind);
    let mut entry = json!({ "path": path, "type": match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        other => panic!("{path} is {other:?}"),
    } });
    if kind != FileKind::Symlink {
        entry["mode"] = format!("{:04o}", stat.mode & 0o7777).into();
    }
    if kind != FileKind::Directory {
        entry["links"] = stat.nlink.into();
    }
    let table = vault.xattrs(node, kind).unwrap();
    for name in table.names() {
        entry["xattrs"][shown(name)] = BASE64.encode(table.get(name).unwrap()).into();
    }
    match kind {
        FileKind::Regular => match content_of(folder, name) {
            Ok((content, holes)) => {
                assert_eq!(stat.size_bytes, content.len() as u64, "{path}");
                entry["size"] = content.len().into();
                entry["sha256"] = hash(&content).into();
                entry["mtime"] = stat.mtime.seconds.into();
                if !holes.is_empty() {
                    entry["holes"] = json!(holes);
                }
            }
            Err(VaultError::Integrity(error)) => entry["error"] = error.reason.into(),
            Err(error) => panic!("{path}: {error}"),
        },
        FileKind::Symlink => {
            let target = folder.read_symlink(name).unwrap();
            assert_eq!(stat.size_bytes, target.len() as u64, "{path}");
            entry["target"] = shown(&target).into();
        }
        _ => {}
    }
    entry
}

fn content_of(folder: &Folder, name: &[u8]) -> Result<(Vec<u8>, Vec<[u64; 2]>), VaultError> {
    let file = folder.open_file(name)?;
    let mut content = vec![0; file.len_bytes() as usize];
    assert_eq!(file.read(0, &mut content)?, content.len());
    let mut holes = Vec::new();
    let mut at = 0;
    while at < file.len_bytes() {
        let hole = file.next_hole(at)?;
        if hole >= file.len_bytes() {
            break;
        }
        at = file.next_data(hole)?.unwrap_or(file.len_bytes());
        holes.push([hole, at]);
    }
    Ok((content, holes))
}

fn open(path: &Path, mode: Mode) -> Opened {
    let storage = PosixStorage::open(path).unwrap();
    let keys = unlock::unlock(&storage, &passphrase()).unwrap();
    spawning::all_started();
    Vault::open(storage, keys, mode).unwrap()
}

fn seal(vault: Opened) {
    vault.seal().unwrap();
}

// --- files ---

struct Unpacked {
    _scratch: TempDir,
    vault: PathBuf,
    manifest: Vec<Value>,
}

fn unpack(name: &str) -> Unpacked {
    let scratch = TempDir::new().unwrap();
    let mut tar = Command::new("tar");
    let tar = tar
        .args(["--extract", "--preserve-permissions", "--no-same-owner", "--xattrs", "--xattrs-include=user.*"])
        .arg("--file")
        .arg(golden(&format!("{name}.tar")))
        .arg("--directory")
        .arg(scratch.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let unpacked = spawning::start(tar).unwrap().wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&unpacked.stderr);
    assert!(unpacked.status.success() && complaint.is_empty(), "GNU tar on a filesystem with attributes: {complaint}");
    let manifest = serde_json::from_slice(&fs::read(golden(&format!("{name}.json"))).unwrap()).unwrap();
    Unpacked { vault: scratch.path().join(name), manifest, _scratch: scratch }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

fn passphrase_bytes() -> Vec<u8> {
    let mut bytes = fs::read(golden("passphrase")).unwrap();
    bytes.pop_if(|last| *last == b'\n');
    bytes
}

fn passphrase() -> Passphrase {
    Passphrase::new(passphrase_bytes())
}

/// Runs the reader in Python. That Python or a module is missing fails the test: nothing else holds the format
/// against its specification.
fn independent_reader(vault: &Path) -> Output {
    reader(&[], vault, &passphrase_bytes())
}

fn reader(options: &[&str], vault: &Path, passphrase: &[u8]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/sero_reader.py");
    let mut python = Command::new("python3");
    let python =
        python.arg(script).args(options).arg(vault).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut reader = spawning::start(python).expect("python3 is needed: scripts/test.sh installs it");
    reader.stdin.take().unwrap().write_all(passphrase).unwrap();
    let output = reader.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{complaint}");
    output
}

fn said(read: &Output) -> Vec<Value> {
    let complaint = String::from_utf8_lossy(&read.stderr);
    assert_ne!(read.status.code(), Some(3), "{complaint}");
    serde_json::from_slice(&read.stdout).unwrap()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

fn hash(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// As the reader shows bytes: what is not UTF-8 as \xHH, backslashes doubled.
fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text += &chunk.valid().replace('\\', "\\\\");
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

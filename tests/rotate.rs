//! Rotation of the project key: everything comes under the new version, nothing is lost, and the old key opens nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use sero::crypto::{KdfParams, Passphrase, ProjectKey, VaultKeys};
use sero::format::configuration::KeyVersion;
use sero::fs::{Fs, FsOptions, InodeNo};
use sero::vault::create::{CreateOptions, create};
use sero::vault::rotate::{Phase, RotationControl, RotationEnd, configuration};
use sero::vault::{
    ConfigurationPlace, Directory, FileKind, Finding, LiveKeys, Mode, NewInode, NodeRef, PosixStorage, RenameMode,
    RootKeys, Secrets, SetTime, Severity, Timestamp, UnlockedKeys, Vault, VaultError, VerifyObserver, VerifyOptions,
    VersionKeys, XattrTable, unlock_root,
};
use tempfile::TempDir;

#[path = "rotate/limits.rs"]
mod limits;
#[path = "rotate/old_configuration.rs"]
mod old_configuration;
#[path = "rotate/old_key.rs"]
mod old_key;
#[path = "rotate/online.rs"]
mod online;
#[path = "cli/spawning.rs"]
mod spawning;

type Dir = Directory<PosixStorage>;
type Opened = Arc<Vault<PosixStorage>>;

const FILE: NewInode = NewInode { mode: 0o644, uid: None, gid: None };
const DIR: NewInode = NewInode { mode: 0o755, uid: None, gid: None };
const LINK: NewInode = NewInode { mode: 0o777, uid: None, gid: None };

fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

/// A vault in a temporary directory.
struct TestVault {
    backing: TempDir,
}

impl TestVault {
    fn new() -> Self {
        let backing = tempfile::tempdir().unwrap();
        let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let options = CreateOptions { kdf, label: String::new(), hint: None };
        create(backing.path(), &options, &passphrase()).unwrap();
        Self { backing }
    }

    fn path(&self) -> &Path {
        self.backing.path()
    }

    fn storage(&self) -> PosixStorage {
        spawning::all_started();
        PosixStorage::open(self.path()).unwrap()
    }

    fn unlock(&self) -> RootKeys {
        let storage = self.storage();
        let passphrase = passphrase();
        let secrets = Secrets { passphrase: Some(&passphrase), ..Secrets::default() };
        unlock_root(&ConfigurationPlace::inside(&storage), &secrets).unwrap()
    }

    fn open(&self, mode: Mode) -> Opened {
        Vault::open(self.storage(), UnlockedKeys::from(self.unlock()), mode).unwrap()
    }

    /// As the command does: the new version stands in the configuration before anything is under it.
    fn begin(&self, keep_old: bool) -> UnlockedKeys {
        let storage = self.storage();
        configuration::start(&ConfigurationPlace::inside(&storage), &self.unlock(), keep_old).unwrap()
    }

    fn finish(&self) -> impl FnOnce(&VersionKeys) -> Result<(), VaultError> {
        let storage = self.storage();
        move |keys| configuration::finish(&ConfigurationPlace::inside(&storage), keys)
    }

    /// The whole of an offline rotation.
    fn rotate(&self, keep_old: bool) {
        self.begin(keep_old);
        let vault = self.open(Mode::ReadWrite);
        let control = RotationControl::new();
        assert_eq!(vault.rotate(&control, self.finish()).unwrap(), RotationEnd::Done);
        assert_eq!(control.progress().phase, Phase::Done);
        assert!(!vault.is_rotating());
        vault.seal().unwrap();
    }
}

/// What is seen of an inode, whatever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: FileKind,
    mode: u32,
    owner: (u32, u32),
    nlink: u32,
    mtime: Timestamp,
    size: u64,
    content: Vec<u8>,
    holes: Vec<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Everything in the tree, by path.
fn look(vault: &Opened) -> BTreeMap<Vec<u8>, Seen> {
    let mut seen = BTreeMap::new();
    look_into(vault, &vault.root(), b"", &mut seen);
    seen
}

/// Compares without printing what is too long to be read.
fn same(now: &BTreeMap<Vec<u8>, Seen>, before: &BTreeMap<Vec<u8>, Seen>, when: &str) {
    let paths = |seen: &BTreeMap<Vec<u8>, Seen>| seen.keys().cloned().collect::<Vec<_>>();
    assert!(paths(now) == paths(before), "{when}: other names");
    for (path, before) in before {
        let now = &now[path];
        let path = String::from_utf8_lossy(path);
        assert!(now.content == before.content, "{when}: {path} has another content");
        // While names of a symbolic link move to its new inode, each has a count of its own.
        let counted = when == "at the end" || before.kind != FileKind::Symlink;
        let nlink = |seen: &Seen| if counted { seen.nlink } else { 0 };
        let without_content = |seen: &Seen| Seen { content: Vec::new(), nlink: nlink(seen), ..seen.clone() };
        assert_eq!(without_content(now), without_content(before), "{when}: {path}");
    }
}

fn look_into(vault: &Opened, directory: &Arc<Dir>, path: &[u8], seen: &mut BTreeMap<Vec<u8>, Seen>) {
    let mut names = Vec::new();
    directory
        .list(0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })
        .unwrap();
    for name in names {
        let path = [path, b"/", &name].concat();
        let stat = directory.lookup(&name).unwrap();
        let kind = stat.kind();
        let mut content = Vec::new();
        let mut holes = Vec::new();
        match kind {
            FileKind::Regular => {
                let file = directory.open_file(&name).unwrap();
                content = vec![0; file.len_bytes() as usize];
                assert_eq!(file.read(0, &mut content).unwrap(), content.len());
                let mut at = 0;
                while at < file.len_bytes() {
                    let hole = file.next_hole(at).unwrap();
                    let data = file.next_data(hole).unwrap().unwrap_or(file.len_bytes());
                    holes.extend([hole, data]);
                    at = data.max(hole + 1);
                }
            }
            FileKind::Symlink => content = directory.read_symlink(&name).unwrap(),
            FileKind::Directory => look_into(vault, &directory.open_child(&name).unwrap(), &path, seen),
            _ => {}
        }
        let table = vault.xattrs(NodeRef::Entry(directory, &name), kind).unwrap();
        let xattrs = table.names().map(|name| (name.to_vec(), table.get(name).unwrap().to_vec())).collect();
        let links = if kind == FileKind::Directory { 0 } else { stat.nlink };
        let size = if kind == FileKind::Directory { 0 } else { stat.size_bytes };
        seen.insert(
            path,
            Seen {
                kind,
                mode: stat.mode,
                owner: (stat.uid, stat.gid),
                nlink: links,
                mtime: stat.mtime,
                size,
                content,
                holes,
                xattrs,
            },
        );
    }
}

fn write(directory: &Arc<Dir>, name: &[u8], at: u64, bytes: &[u8]) {
    let file = match directory.open_file(name) {
        Ok(file) => file,
        Err(_) => directory.make_file(name, &FILE).unwrap().1,
    };
    file.write(at, bytes).unwrap();
    file.commit().unwrap();
}

/// Bytes that are not the same twice.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn table(attributes: &[(&str, &[u8])]) -> XattrTable {
    let mut table = XattrTable::default();
    for (name, value) in attributes {
        table.insert(name.as_bytes(), value);
    }
    table
}

/// One of everything that a vault can hold.
fn fill(vault: &Opened) {
    let root = vault.root();
    let long = [b'n'; 255];
    write(&root, b"empty", 0, b"");
    write(&root, b"small", 0, b"a few bytes");
    write(&root, b"blob", 0, &bytes(16_256, 1));
    write(&root, b"paged", 0, &bytes(16_257, 2));
    write(&root, b"leaf", 0, &bytes(140 * 4096 + 5, 3));
    write(&root, b"deep", 0, &bytes(260 * 4096, 4));
    write(&root, b"sparse", 900 * 4096, &bytes(5000, 5));
    write(&root, b"punched", 0, &bytes(400 * 4096, 6));
    root.open_file(b"punched").unwrap().punch_hole(130 * 4096, 250 * 4096).unwrap();
    let (_, all_hole) = root.make_file(b"all hole", &FILE).unwrap();
    all_hole.truncate(1 << 20).unwrap();
    all_hole.commit().unwrap();
    write(&root, &long, 0, b"under a long name");
    root.make_symlink(b"link", b"small", &LINK).unwrap();
    root.make_symlink(b"long link", &[b't'; 4095], &LINK).unwrap();
    root.make_symlink(b"twice a", b"the same inode", &LINK).unwrap();
    root.link(b"twice a", &root, b"twice b").unwrap();
    root.make_symlink(b"long twice a", &[b'u'; 3000], &LINK).unwrap();
    root.link(b"long twice a", &root, b"long twice b").unwrap();
    root.make_node(b"fifo", &NewInode { mode: 0o010_600, ..FILE }, 0).unwrap();
    let (_, below) = root.make_dir(b"below", &DIR).unwrap();
    let (_, further) = below.make_dir(&long, &DIR).unwrap();
    write(&further, b"at the bottom", 0, &bytes(50_000, 7));
    root.link(b"paged", &further, b"another name").unwrap();
    for number in 0..200 {
        write(&below, format!("one of many {number}").as_bytes(), 0, &bytes(number * 7, number as u64));
    }
    root.make_dir(b"nothing in it", &DIR).unwrap();
    for (name, kind) in [(b"small".as_slice(), FileKind::Regular), (b"below", FileKind::Directory)] {
        let node = NodeRef::Entry(&root, name);
        vault.set_xattrs(node, kind, &table(&[("user.comment", b"what it is"), ("user.other", &[7; 900])])).unwrap();
    }
    vault.sync().unwrap();
    let old = SetTime::To(Timestamp { seconds: 1_000_000_000, nanoseconds: 5 });
    for name in [b"leaf".as_slice(), b"blob", b"below", b"twice a"] {
        match root.open_file(name) {
            Ok(file) => file.set_times(SetTime::Keep, old).unwrap(),
            Err(_) => vault.set_times(NodeRef::Entry(&root, name), SetTime::Keep, old).unwrap(),
        }
    }
}

fn filled() -> (TestVault, BTreeMap<Vec<u8>, Seen>) {
    let test = TestVault::new();
    let vault = test.open(Mode::ReadWrite);
    fill(&vault);
    vault.seal().unwrap();
    drop(vault);
    let before = look(&test.open(Mode::ReadOnly));
    (test, before)
}

#[test]
fn everything_comes_under_the_new_key_and_looks_as_before() {
    let (test, before) = filled();
    let old = test.unlock();
    test.rotate(false);
    let after = test.unlock();
    assert_eq!(after.unlocked().configuration().active_key, KeyVersion(2));
    assert_eq!(after.unlocked().configuration().project_keys.len(), 1);
    assert_eq!(after.unlocked().configuration().rotation, None);
    same(&look(&test.open(Mode::ReadOnly)), &before, "at the end");
    old_key::opens_nothing(&test, old.unlocked());
    // And once more.
    test.rotate(false);
    assert_eq!(test.unlock().unlocked().configuration().active_key, KeyVersion(3));
    same(&look(&test.open(Mode::ReadOnly)), &before, "at the end");
    // It takes changes as before.
    let vault = test.open(Mode::ReadWrite);
    write(&vault.root(), b"later", 0, &bytes(30_000, 9));
    vault.seal().unwrap();
}

#[test]
fn the_old_key_is_kept_if_that_is_asked_for_and_opens_nothing_all_the_same() {
    let (test, before) = filled();
    let old = test.unlock();
    test.rotate(true);
    let configuration = test.unlock().unlocked().configuration().clone();
    assert_eq!(configuration.project_keys.iter().map(|key| key.version.0).collect::<Vec<_>>(), [1, 2]);
    same(&look(&test.open(Mode::ReadOnly)), &before, "at the end");
    old_key::opens_nothing(&test, old.unlocked());
}

#[test]
fn the_backup_of_the_configuration_does_not_keep_the_old_key() {
    let (test, _) = filled();
    let wrapped = |name: &str| fs::read_to_string(test.path().join(name)).unwrap();
    let configuration: serde_json::Value = serde_json::from_str(&wrapped("sero.json")).unwrap();
    let old = configuration["project_keys"][0]["wrapped"].as_str().unwrap().to_owned();
    test.rotate(false);
    for name in ["sero.json", "sero.json.bak"] {
        assert!(!wrapped(name).contains(&old), "{name} has the old key");
    }
}

#[test]
fn a_rotation_that_was_stopped_anywhere_goes_on() {
    let (test, before) = filled();
    let old = test.unlock();
    test.begin(false);
    let mut stops = 0_u64;
    loop {
        let vault = test.open(Mode::ReadWrite);
        let control = Arc::new(RotationControl::new());
        let watch = AtomicBool::new(true);
        let end = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                // A little further each time.
                while watch.load(Ordering::Relaxed) {
                    let progress = control.progress();
                    let work = progress.phase as u64 * 1000 + progress.entries_done + progress.bytes_done / 4096;
                    if work > 1000 + stops * 400 {
                        control.stop();
                    }
                    thread::yield_now();
                }
            });
            let end = vault.rotate(&control, test.finish()).unwrap();
            watch.store(false, Ordering::Relaxed);
            watcher.join().unwrap();
            end
        });
        if end == RotationEnd::Done {
            vault.seal().unwrap();
            break;
        }
        assert_eq!(end, RotationEnd::Stopped);
        stops += 1;
        // Half of it is under either key; without a word, and without sealing, as after a kill.
        if stops.is_multiple_of(2) {
            same(&look(&vault), &before, &format!("after {stops} stops"));
        }
        drop(vault);
        if stops.is_multiple_of(3) {
            same(&look(&test.open(Mode::ReadOnly)), &before, &format!("read-only after {stops} stops"));
        }
    }
    println!("stopped {stops} times");
    assert!(stops > 3);
    same(&look(&test.open(Mode::ReadOnly)), &before, "at the end");
    old_key::opens_nothing(&test, old.unlocked());
}

#[test]
fn what_does_not_open_keeps_the_old_key() {
    let (test, before) = filled();
    // A page of a file is damaged.
    let backing = entries(&test.path().join("tree"))
        .into_iter()
        .find(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == 142 * 4096 + 5));
    let backing = backing.expect("the file of 140 pages and two nodes");
    let ino = fs::metadata(&backing).unwrap().ino();
    let mut content = fs::read(&backing).unwrap();
    let whole = content.clone();
    content[60 * 4096] ^= 1;
    fs::write(&backing, &content).unwrap();
    test.begin(false);
    let vault = test.open(Mode::ReadWrite);
    let RotationEnd::Damaged(problems) = vault.rotate(&RotationControl::new(), |_| panic!("not finished")).unwrap()
    else {
        panic!("the damage was not seen")
    };
    let found: Vec<_> = problems.iter().map(|problem| problem.plain.as_deref()).collect();
    assert_eq!(found, [Some(b"leaf".as_slice())]);
    assert!(vault.is_rotating());
    vault.seal().unwrap();
    drop(vault);
    let configuration = test.unlock().unlocked().configuration().clone();
    assert_eq!(configuration.project_keys.len(), 2);
    assert!(matches!(
        configuration::start(&ConfigurationPlace::inside(&test.storage()), &test.unlock(), false),
        Err(VaultError::RotationUnfinished)
    ));
    // That page restored from a backup, it goes on.
    let backing = entry_of_inode(&test.path().join("tree"), ino);
    let mut content = fs::read(&backing).unwrap();
    content[60 * 4096..61 * 4096].copy_from_slice(&whole[60 * 4096..61 * 4096]);
    fs::write(&backing, &content).unwrap();
    let vault = test.open(Mode::ReadWrite);
    assert_eq!(vault.rotate(&RotationControl::new(), test.finish()).unwrap(), RotationEnd::Done);
    vault.seal().unwrap();
    drop(vault);
    // The test itself changed the time of that home.
    let mut after = look(&test.open(Mode::ReadOnly));
    let leaf = after.get_mut(b"/leaf".as_slice()).unwrap();
    leaf.mtime = before[b"/leaf".as_slice()].mtime;
    same(&after, &before, "at the end");
}

/// Everything below a directory of the backing.
fn entries(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![below.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

fn entry_of_inode(below: &Path, ino: u64) -> PathBuf {
    let is_it = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == ino);
    entries(below).into_iter().find(is_it).expect("the inode has a name")
}

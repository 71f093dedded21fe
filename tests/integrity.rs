//! Verify, repair and salvage, as a library: each kind of damage is found and named with its place, nothing else is;
//! what repair does leaves a vault that verifies; what salvage copies is what verified.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sero::crypto::{KdfParams, Passphrase, VaultKeys};
use sero::vault::create::{CreateOptions, create};
use sero::vault::repair::RepairPlan;
use sero::vault::unlock::unlock;
use sero::vault::{
    Directory, Finding, Mode, NewInode, NodeRef, PosixStorage, Severity, Vault, VerifyObserver, VerifyOptions,
    VerifySummary,
};
use tempfile::TempDir;

#[path = "integrity/kept.rs"]
mod kept;
#[path = "integrity/repair.rs"]
mod repair;
#[path = "integrity/salvage.rs"]
mod salvage;
#[path = "cli/spawning.rs"]
mod spawning;
#[path = "integrity/verify.rs"]
mod verify;

pub type Dir = Directory<PosixStorage>;

pub const FILE: NewInode = NewInode { mode: 0o644, uid: None, gid: None };
pub const DIR: NewInode = NewInode { mode: 0o755, uid: None, gid: None };

pub fn passphrase() -> Passphrase {
    Passphrase::new(b"a passphrase".to_vec())
}

/// Bytes that differ from page to page.
pub fn pattern(seed: u8, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|index| (index.wrapping_mul(31) ^ (index >> 9)) as u8 ^ seed).collect()
}

/// A vault in a temporary directory, at rest.
pub struct Sample {
    pub folder: TempDir,
    pub vault: PathBuf,
}

impl Sample {
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = folder.path().join("vault");
        let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        create(&vault, &CreateOptions { kdf, label: String::new(), hint: None }, &passphrase()).unwrap();
        Self { folder, vault }
    }

    /// One of everything.
    pub fn full() -> Self {
        let sample = Self::empty();
        sample.with(|vault| {
            let top = vault.root();
            put(&top, b"empty", &[]);
            put(&top, b"small", &pattern(1, 100));
            put(&top, b"blob", &pattern(2, 16256));
            put(&top, b"medium", &pattern(3, 300_000));
            put(&top, b"large", &pattern(4, 3_000_000));
            let sparse = put(&top, b"sparse", &pattern(5, 10_000));
            sparse.truncate(40_000_000).unwrap();
            sparse.write(30_000_000, &pattern(6, 20_000)).unwrap();
            top.make_symlink(b"link", b"small", &FILE).unwrap();
            top.make_symlink(b"longlink", &[b'x'; 3000], &FILE).unwrap();
            top.make_node(b"fifo", &NewInode { mode: libc::S_IFIFO | 0o644, uid: None, gid: None }, 0).unwrap();
            top.make_dir(b"hollow", &DIR).unwrap();
            let deep = top.make_dir(b"deep", &DIR).unwrap().1;
            let deeper = deep.make_dir(&[b'd'; 200], &DIR).unwrap().1;
            put(&deeper, &[b'n'; 255], &pattern(7, 5000));
            put(&deeper, b"inner", &pattern(8, 50_000));
            put(&deep, b"one", &pattern(9, 10));
            put(&deep, b"two", &pattern(10, 20));
            put(&top, b"shared", &pattern(11, 20_000));
            top.link(b"shared", &deep, b"hard").unwrap();
            let node = NodeRef::Entry(&top, b"small");
            let mut table = vault.xattrs(node, sero::vault::FileKind::Regular).unwrap();
            table.insert(b"user.comment", b"a comment");
            vault.set_xattrs(node, sero::vault::FileKind::Regular, &table).unwrap();
        });
        sample
    }

    pub fn storage(&self) -> PosixStorage {
        spawning::all_started();
        PosixStorage::open(&self.vault).unwrap()
    }

    pub fn keys(&self) -> VaultKeys {
        unlock(&self.storage(), &passphrase()).unwrap().into()
    }

    /// Opens it for reading and writing, and seals it afterwards.
    pub fn with<T>(&self, work: impl FnOnce(&Arc<Vault<PosixStorage>>) -> T) -> T {
        let vault = Vault::open(self.storage(), self.keys(), Mode::ReadWrite).unwrap();
        let outcome = work(&vault);
        vault.seal().unwrap();
        outcome
    }

    /// As it is, without changing it.
    pub fn tolerant(&self) -> Arc<Vault<PosixStorage>> {
        Vault::open_tolerant(self.storage(), self.keys()).unwrap()
    }

    pub fn verify(&self) -> (VerifySummary, Vec<Finding>) {
        self.verify_paths(&[])
    }

    pub fn verify_paths(&self, paths: &[&[u8]]) -> (VerifySummary, Vec<Finding>) {
        verify_open(&self.tolerant(), paths)
    }

    /// What a repair would do.
    pub fn plan(&self, holes: bool) -> RepairPlan {
        let vault = self.tolerant();
        RepairPlan::of(&vault, &verify_open(&vault, &[]).1, holes)
    }

    /// The backing path of a plain one.
    pub fn backing(&self, plain: &str) -> PathBuf {
        let vault = Vault::open(self.storage(), self.keys(), Mode::ReadOnly).unwrap();
        let mut directory = vault.root();
        let mut backing = self.vault.join("tree");
        for name in plain.split('/').filter(|name| !name.is_empty()) {
            let stat = directory.lookup(name.as_bytes()).unwrap();
            backing = fs::read_dir(&backing)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| fs::symlink_metadata(path).unwrap().ino() == stat.ino)
                .unwrap();
            if backing.is_dir() && !backing.is_symlink() {
                directory = directory.open_child(name.as_bytes()).unwrap();
            }
        }
        backing
    }

    /// Everything that can be read, by plain path: what a mount would show.
    pub fn content(&self, plain: &str) -> Vec<u8> {
        let vault = Vault::open(self.storage(), self.keys(), Mode::ReadOnly).unwrap();
        read(&vault, plain)
    }
}

pub fn read(vault: &Arc<Vault<PosixStorage>>, plain: &str) -> Vec<u8> {
    let (directory, name) = match plain.rsplit_once('/') {
        Some((parents, name)) => {
            (parents.split('/').fold(vault.root(), |at, name| at.open_child(name.as_bytes()).unwrap()), name)
        }
        None => (vault.root(), plain),
    };
    let file = directory.open_file(name.as_bytes()).unwrap();
    let mut bytes = vec![0; file.len_bytes() as usize];
    assert_eq!(file.read(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

pub fn put(directory: &Arc<Dir>, name: &[u8], content: &[u8]) -> Arc<sero::vault::VaultFile<PosixStorage>> {
    let (_, file) = directory.make_file(name, &FILE).unwrap();
    file.write(0, content).unwrap();
    file.commit().unwrap();
    file
}

pub fn verify_open(vault: &Vault<PosixStorage>, paths: &[&[u8]]) -> (VerifySummary, Vec<Finding>) {
    #[derive(Default)]
    struct Kept(Mutex<Vec<Finding>>, std::sync::atomic::AtomicU64);
    impl VerifyObserver for Kept {
        fn found(&self, finding: Finding) {
            self.0.lock().push(finding);
        }
        fn checked(&self, bytes: u64) {
            self.1.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let kept = Kept::default();
    let options = VerifyOptions { paths: paths.iter().map(|path| path.to_vec()).collect(), jobs: 3 };
    let summary = vault.verify(&options, &kept).unwrap();
    let findings = kept.0.into_inner();
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    assert_eq!(summary.damaged, count(Severity::Damage));
    assert_eq!(summary.leftovers, count(Severity::Leftover));
    (summary, findings)
}

/// Changes bytes of a backing file.
pub fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// Edits the target of a backing symbolic link.
pub fn retarget(path: &Path, edit: impl FnOnce(String) -> String) {
    let target = fs::read_link(path).unwrap().into_os_string().into_string().unwrap();
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink(edit(target), path).unwrap();
}

/// With another character in the middle.
pub fn edited(text: String) -> String {
    let at = text.len() / 2;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

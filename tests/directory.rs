//! Directories of a vault on a real filesystem: names of every length, every operation on them, what a crash may
//! leave behind, and what an attacker may do to the backing's names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sero::crypto::{KdfParams, Passphrase, VaultKeys};
use sero::vault::create::{CreateOptions, create};
use sero::vault::unlock::unlock;
use sero::vault::{Directory, Mode, NewInode, PosixStorage, Vault, VaultError};
use tempfile::TempDir;

#[path = "directory/attributes.rs"]
mod attributes;
#[path = "directory/crash.rs"]
mod crash;
#[path = "directory/names.rs"]
mod names;
#[path = "directory/rename.rs"]
mod rename;
#[path = "directory/symlinks.rs"]
mod symlinks;
#[path = "directory/tamper.rs"]
mod tamper;

type Dir = Directory<PosixStorage>;

const FILE: NewInode = NewInode { mode: 0o644, uid: None, gid: None };
const DIR: NewInode = NewInode { mode: 0o755, uid: None, gid: None };

/// A vault in a temporary directory.
struct TestVault {
    vault: Option<Arc<Vault<PosixStorage>>>,
    backing: TempDir,
}

impl TestVault {
    fn new() -> Self {
        let backing = tempfile::tempdir().unwrap();
        let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let options = CreateOptions { kdf, label: String::new(), hint: None };
        create(backing.path(), &options, &passphrase()).unwrap();
        let mut this = Self { vault: None, backing };
        this.open(Mode::ReadWrite);
        this
    }

    fn open(&mut self, mode: Mode) {
        let storage = PosixStorage::open(self.backing.path()).unwrap();
        let keys: VaultKeys = unlock(&storage, &passphrase()).unwrap().into();
        self.vault = Some(Vault::open(storage, keys, mode).unwrap());
    }

    /// Seals and opens again: nothing is remembered.
    fn reopen(&mut self) {
        self.close();
        self.open(Mode::ReadWrite);
    }

    fn close(&mut self) {
        if let Some(vault) = self.vault.take() {
            vault.seal().unwrap();
        }
    }

    /// With the vault at rest, changes its backing.
    fn at_rest(&mut self, change: impl FnOnce(&Path)) {
        self.close();
        change(&self.backing.path().join("tree"));
        self.open(Mode::ReadWrite);
    }

    fn vault(&self) -> &Arc<Vault<PosixStorage>> {
        self.vault.as_ref().unwrap()
    }

    fn root(&self) -> Arc<Dir> {
        self.vault().root()
    }

    fn tree(&self) -> PathBuf {
        self.backing.path().join("tree")
    }

    /// The backing directory of a plain path. Directories are told from each other by their inode.
    fn backing_of(&self, path: &[&str]) -> PathBuf {
        let mut directory = self.root();
        let mut backing = self.tree();
        for name in path {
            let ino = directory.lookup(name.as_bytes()).unwrap().ino;
            backing = entry_of_inode(&backing, ino);
            directory = directory.open_child(name.as_bytes()).unwrap();
        }
        backing
    }

    /// The backing entry of a plain name in a plain path.
    fn entry(&self, path: &[&str], name: &[u8]) -> PathBuf {
        let mut directory = self.root();
        for name in path {
            directory = directory.open_child(name.as_bytes()).unwrap();
        }
        entry_of_inode(&self.backing_of(path), directory.lookup(name).unwrap().ino)
    }
}

fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

fn entry_of_inode(backing: &Path, ino: u64) -> PathBuf {
    use std::os::unix::fs::DirEntryExt;
    fs::read_dir(backing).unwrap().map(Result::unwrap).find(|entry| entry.ino() == ino).unwrap().path()
}

/// The backing's names, sorted.
fn backing_names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The plain names, sorted, and how the listing ended.
fn list(directory: &Dir) -> (Vec<Vec<u8>>, Result<(), VaultError>) {
    let mut names = Vec::new();
    let listing = directory.open_listing();
    let outcome = listing.and_then(|listing| {
        listing.next(0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })
    });
    names.sort();
    (names, outcome)
}

fn names_in(directory: &Dir) -> Vec<Vec<u8>> {
    let (names, outcome) = list(directory);
    outcome.unwrap();
    names
}

fn touch(directory: &Dir, name: &[u8]) -> u64 {
    let (stat, file) = directory.make_file(name, &FILE).unwrap();
    file.commit().unwrap();
    stat.ino
}

fn subdir(directory: &Dir, name: &[u8]) -> Arc<Dir> {
    directory.make_dir(name, &DIR).unwrap().1
}

fn long(first: u8) -> Vec<u8> {
    vec![first; 200]
}

#[track_caller]
fn assert_errno<T>(outcome: Result<T, VaultError>, errno: i32) {
    match outcome {
        Err(VaultError::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(errno)),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it succeeded"),
    }
}

#[track_caller]
fn assert_integrity<T>(outcome: Result<T, VaultError>) {
    match outcome {
        Err(VaultError::Integrity(error)) => assert!(error.path.starts_with("tree"), "{error}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it succeeded"),
    }
}

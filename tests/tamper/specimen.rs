//! A vault with files of every shape, in two versions, and a log that can be read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Once};

use crate::harness::spawning;
use log::{Level, LevelFilter, Log, Metadata, Record};
use sero::crypto::{KdfParams, Passphrase};
use sero::format::geometry::page_count;
use sero::vault::create::{CreateOptions, create};
use sero::vault::unlock::unlock;
use sero::vault::{Directory, Mode, NewInode, PosixStorage, Vault, VaultError, VaultFile};
use tempfile::TempDir;

pub type Opened = Arc<Vault<PosixStorage>>;
pub type Folder = Arc<Directory<PosixStorage>>;
pub type File = Arc<VaultFile<PosixStorage>>;

pub const PLAIN: NewInode = NewInode { mode: 0o644, uid: None, gid: None };
pub const PLAIN_DIR: NewInode = NewInode { mode: 0o755, uid: None, gid: None };
pub const PAGE: usize = 4096;

/// A plain file: what it holds, and which of its pages are content.
#[derive(Clone)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub pages: BTreeSet<u64>,
}

/// A file in two versions. Old and new have the same size.
pub struct Victim {
    pub name: Vec<u8>,
    pub home: PathBuf,
    /// Plain content and home of each version.
    pub old: (Content, Vec<u8>),
    pub new: (Content, Vec<u8>),
}

/// See the module's documentation. At rest.
pub struct Specimen {
    _scratch: TempDir,
    pub vault: PathBuf,
    pub victims: Vec<Victim>,
}

/// Name, size, and the runs of pages that are content; the rest are holes.
type Shape = (&'static [u8], usize, &'static [(u64, u64)]);

/// Every way in which a file can stand in its home: blobs, the root alone, one and two levels of nodes, holes.
pub const SHAPES: &[Shape] = &[
    (b"empty", 0, &[]),
    (b"one byte", 1, &[(0, 1)]),
    (b"blob", 5000, &[(0, 2)]),
    (b"largest blob", 16_256, &[(0, 4)]),
    (b"smallest tree", 16_257, &[(0, 4)]),
    (b"tree", 21 * PAGE + 1234, &[(0, 22)]),
    (b"full last page", 119 * PAGE, &[(0, 119)]),
    (b"one level", 130 * PAGE + 1, &[(0, 131)]),
    (b"two levels", 380 * PAGE + 77, &[(0, 3), (115, 130), (244, 252), (374, 381)]),
    (b"holes", 250 * PAGE + 10, &[(3, 4), (119, 120), (246, 248)]),
    (b"only a hole", 40 * PAGE, &[]),
    (b"a name of two hundred bytes", 3000, &[(0, 1)]),
];

pub fn name_of(shape: &Shape) -> Vec<u8> {
    if shape.0.starts_with(b"a name") { vec![b'n'; 200] } else { shape.0.to_vec() }
}

pub fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

pub fn new_vault(path: &Path) {
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    create(path, &CreateOptions { kdf, label: "tamper".into(), hint: None }, &passphrase()).unwrap();
}

pub fn try_open(path: &Path, mode: Mode) -> Result<Opened, VaultError> {
    let storage = PosixStorage::open(path).unwrap();
    let keys = unlock(&storage, &passphrase())?;
    spawning::all_started();
    Vault::open(storage, keys, mode)
}

pub fn open(path: &Path, mode: Mode) -> Opened {
    try_open(path, mode).unwrap()
}

pub fn seal(vault: Opened) {
    vault.seal().unwrap();
}

/// Copies a tree with everything that a vault needs of it.
pub fn copy(from: &Path, to: &Path) {
    assert!(spawning::status(Command::new("cp").arg("-a").arg(from).arg(to)).success());
}

impl Specimen {
    pub fn new() -> Self {
        let scratch = TempDir::new().unwrap();
        let path = scratch.path().join("vault");
        new_vault(&path);
        let vault = open(&path, Mode::ReadWrite);
        let mut victims = Vec::new();
        for shape in SHAPES {
            let name = name_of(shape);
            let (stat, file) = vault.root().make_file(&name, &PLAIN).unwrap();
            let mut content = Content { bytes: vec![0; shape.1], pages: BTreeSet::new() };
            for (first, end) in shape.2 {
                write_pages(&file, &mut content, (*first..*end).collect::<Vec<_>>().as_slice(), 1);
            }
            file.truncate(shape.1 as u64).unwrap();
            file.commit().unwrap();
            let home = entry_of_inode(&path.join("tree"), stat.ino);
            victims.push(Victim { name, home, old: (content.clone(), Vec::new()), new: (content, Vec::new()) });
        }
        vault.root().link(b"tree", &vault.root(), b"second name").unwrap();
        seal(vault);
        for victim in &mut victims {
            victim.old.1 = fs::read(&victim.home).unwrap();
        }
        // The next version: some pages are new, and everything that leads to them.
        let vault = open(&path, Mode::ReadWrite);
        for victim in &mut victims {
            let file = vault.root().open_file(&victim.name).unwrap();
            let content = &mut victim.new.0;
            let changed: Vec<u64> = content.pages.iter().copied().filter(|page| page % 4 != 1).collect();
            write_pages(&file, content, &changed, 2);
        }
        seal(vault);
        for victim in &mut victims {
            victim.new.1 = fs::read(&victim.home).unwrap();
            assert_eq!(victim.new.1.len(), victim.old.1.len());
        }
        Self { _scratch: scratch, vault: path, victims }
    }

    pub fn victim(&self, name: &[u8]) -> &Victim {
        self.victims.iter().find(|victim| victim.name == name).unwrap()
    }

    /// The path of a home below the vault, as messages name it.
    pub fn shown(&self, victim: &Victim) -> String {
        victim.home.strip_prefix(&self.vault).unwrap().to_str().unwrap().to_owned()
    }

    /// Puts the newest version of a home back.
    pub fn restore(&self, victim: &Victim) {
        let _ = fs::remove_file(&victim.home).or_else(|_| fs::remove_dir(&victim.home));
        fs::write(&victim.home, &victim.new.1).unwrap();
    }
}

/// Writes whole pages (the last as far as the file goes) that tell place and version.
pub fn write_pages(file: &File, content: &mut Content, pages: &[u64], version: u8) {
    for page in pages {
        let start = *page as usize * PAGE;
        let end = content.bytes.len().min(start + PAGE);
        for (at, byte) in content.bytes[start..end].iter_mut().enumerate() {
            *byte = (at as u8).wrapping_mul(31) ^ (*page as u8) ^ version.wrapping_mul(0x55);
        }
        file.write(start as u64, &content.bytes[start..end]).unwrap();
        content.pages.insert(*page);
    }
    assert!(content.pages.iter().all(|page| *page < page_count(content.bytes.len() as u64)));
}

/// The entry that an inode has in a backing directory.
pub fn entry_of_inode(directory: &Path, ino: u64) -> PathBuf {
    let mut entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| fs::symlink_metadata(path).unwrap().ino() == ino).unwrap()
}

// --- the log ---

struct Captured;

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

impl Log for Captured {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        LINES.with_borrow_mut(|lines| lines.push((record.level(), record.args().to_string())));
    }

    fn flush(&self) {}
}

/// What is logged by this thread while `work` runs, at this level and above.
pub fn logged<T>(level: Level, work: impl FnOnce() -> T) -> (T, Vec<String>) {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        log::set_logger(&Captured).unwrap();
        log::set_max_level(LevelFilter::Info);
    });
    LINES.take();
    let outcome = work();
    (outcome, LINES.take().into_iter().filter(|(at, _)| *at <= level).map(|(_, line)| line).collect())
}

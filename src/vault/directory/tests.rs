//! What only shows from inside: handles, marks, crash windows; and crashes of the simulated disk.

use std::collections::BTreeSet;

use super::*;
use crate::crypto::{KdfParams, Passphrase, VaultKeys};
use crate::storage::{CrashPolicy, Fault, PosixStorage, RenameMode, SimDisk, SimStorage, Timestamp};
use crate::vault::create::{CreateOptions, create_on};
use crate::vault::unlock::unlock;
use crate::vault::windows::CrashWindow;
use crate::vault::{Mode, Vault};

const FILE: NewInode = NewInode { mode: 0o644, uid: None, gid: None };
const DIR: NewInode = NewInode { mode: 0o755, uid: None, gid: None };

fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

fn create_vault<S: Storage>(storage: &S) {
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    create_on(storage, &CreateOptions { kdf, label: String::new(), hint: None }, &passphrase()).unwrap();
}

fn open<S: Storage>(storage: S) -> Result<Arc<Vault<S>>> {
    let keys: VaultKeys = unlock(&storage, &passphrase())?.into();
    Vault::open(storage, keys, Mode::ReadWrite)
}

fn on_disk() -> (tempfile::TempDir, Arc<Vault<PosixStorage>>) {
    let backing = tempfile::tempdir().unwrap();
    let storage = PosixStorage::open(backing.path()).unwrap();
    create_vault(&storage);
    let vault = open(storage).unwrap();
    (backing, vault)
}

fn touch<S: Storage>(directory: &Directory<S>, name: &[u8]) {
    directory.make_file(name, &FILE).unwrap().1.commit().unwrap();
}

fn names_in<S: Storage>(directory: &Directory<S>) -> Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    directory.list(0, &mut |entry| names.insert(entry.name.to_vec()))?;
    Ok(names)
}

fn is_unsettled<S: Storage>(directory: &Directory<S>) -> bool {
    directory.is_marked(u8::MAX)
}

#[test]
fn a_bounded_number_of_directories_is_open() {
    let (_backing, vault) = on_disk();
    let dirs: Vec<_> =
        (0..1200).map(|index| vault.root().make_dir(format!("{index}").as_bytes(), &DIR).unwrap().1).collect();
    assert_eq!(vault.core.tree.open_directories().0, 1024);
    assert_eq!(dirs.iter().filter(|dir| dir.handle.get().is_some()).count(), 1024);
    drop(dirs);
    vault.core.tree.release();
    assert_eq!(vault.core.tree.open_directories().0, 0);
}

#[test]
fn without_unnamed_files_in_the_backing_there_are_none() {
    let disk = SimDisk::new(3);
    create_vault(&disk.storage());
    let vault = open(disk.storage()).unwrap();
    disk.inject(Fault::NoUnnamed);
    let refused = vault.root().make_unnamed(&FILE).map(|_| ()).unwrap_err();
    assert!(refused.is_errno(libc::EOPNOTSUPP), "{refused}");
    disk.clear_faults();
    assert!(vault.root().make_unnamed(&FILE).is_ok());
}

/// The backing may give the number of a removed inode to the next one at once: ext4 does.
#[test]
fn what_is_said_of_a_removed_file_is_said_of_no_other() {
    let (_backing, vault) = on_disk();
    std::thread::scope(|scope| {
        for worker in 0..3_u8 {
            let vault = &vault;
            scope.spawn(move || {
                let top = vault.root().make_dir(&[b'w', b'0' + worker], &DIR).unwrap().1;
                for round in 0..2000_u32 {
                    for name in [b"a", b"b"] {
                        let made = top.make_file(name, &FILE).unwrap().1;
                        std::thread::yield_now();
                        let is_known = !made.is_unlinked() && vault.core.is_volatile(made.ino());
                        assert!(is_known, "worker {worker}, round {round}");
                    }
                    if round.is_multiple_of(2) {
                        top.rename(b"a", &top, b"b", RenameMode::Replace).unwrap();
                    } else {
                        top.unlink(b"a").unwrap();
                    }
                    top.unlink(b"b").unwrap();
                }
            });
        }
    });
    assert_eq!(vault.core.file_count(), 0, "nobody has one, and none keeps its place");
}

/// Each keeps its space in memory as long as it is open, and no longer.
#[test]
fn nothing_is_remembered_of_files_that_never_got_a_name() {
    let disk = SimDisk::new(4);
    create_vault(&disk.storage());
    let vault = open(disk.storage()).unwrap();
    let before = disk.used_bytes();
    for size in [10, 90_000] {
        let (stat, file) = vault.root().make_unnamed(&FILE).unwrap();
        assert_eq!(stat.nlink, 0);
        file.write(0, &vec![7; size]).unwrap();
        file.sync().unwrap();
        // No epoch waits for it, and nothing of it is journaled.
        vault.sync().unwrap();
        assert!(!vault.core.is_volatile(stat.ino) && vault.core.journaled.lock().is_empty());
        drop(file);
        assert_eq!(disk.used_bytes(), before);
        assert_eq!(vault.core.file_count(), 0);
    }
}

#[test]
fn a_file_that_becomes_durable_settles_what_is_above_it_and_nothing_else() {
    let (_backing, vault) = on_disk();
    let root = vault.root();
    let a = root.make_dir(b"a", &DIR).unwrap().1;
    let b = a.make_dir(b"b", &DIR).unwrap().1;
    let other = root.make_dir(b"other", &DIR).unwrap().1;
    assert!(is_unsettled(&a) && is_unsettled(&b) && is_unsettled(&other));
    let (_, file) = b.make_file(b"file", &FILE).unwrap();
    file.sync().unwrap();
    assert!(!is_unsettled(&a) && !is_unsettled(&b) && is_unsettled(&other));
    // A long name depends on its sidecar.
    let (_, file) = b.make_file(&[b'n'; 200], &FILE).unwrap();
    assert!(is_unsettled(&b));
    file.sync().unwrap();
    assert!(!is_unsettled(&b));
    // A durable file does not move to where its name may be lost, a volatile one may.
    touch(&a, b"volatile");
    a.rename(b"volatile", &other, b"x", RenameMode::Replace).unwrap();
    assert!(is_unsettled(&other));
    b.rename(b"file", &other, b"file", RenameMode::Replace).unwrap();
    assert!(!other.is_marked(settle::DEPENDED_ON) && b.is_marked(settle::MOVED_OUT));
    vault.sync().unwrap();
    vault.core.tree.settle_all(&vault.core).unwrap();
    assert!(!is_unsettled(&b) && vault.core.tree.unsettled.lock().is_empty());
}

#[test]
fn nothing_holds_the_keys_when_the_vault_is_dropped() {
    let (_backing, vault) = on_disk();
    vault.root().make_dir(b"dir", &DIR).unwrap();
    let core = Arc::downgrade(&vault.core);
    vault.seal().unwrap();
    drop(vault);
    assert_eq!(core.strong_count(), 0);
}

/// Opens a crash window around now, as after a crash.
fn after_a_crash<S: Storage>(vault: &Vault<S>) {
    let now = vault.core.storage.now();
    let at = |seconds| Timestamp { seconds: now.seconds + seconds, nanoseconds: 0 };
    let window = CrashWindow { session: 1, durable_epoch: 0, start: at(-60), end: at(60) };
    vault.core.windows.write().add(window);
}

#[test]
fn what_a_crash_made_unreadable_is_put_aside() {
    let (backing, vault) = on_disk();
    let dir = vault.root().make_dir(b"dir", &DIR).unwrap().1;
    touch(&dir, b"lost");
    touch(&vault.root(), &[b'n'; 200]);
    let path = backing.path().join(dir.backing_path());
    drop(dir);
    vault.seal().unwrap();
    drop(vault);
    std::fs::remove_file(path.join("=iv")).unwrap();
    let tree = backing.path().join("tree");
    let sidecars = || std::fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().path());
    std::fs::remove_file(sidecars().find(|path| path.extension().is_some_and(|end| end == "n")).unwrap()).unwrap();

    let vault = open(PosixStorage::open(backing.path()).unwrap()).unwrap();
    let dir = vault.root().open_child(b"dir").unwrap();
    // No crash explains it.
    assert!(matches!(dir.lookup(b"lost"), Err(VaultError::Integrity(_))));
    assert!(matches!(names_in(&vault.root()), Err(VaultError::Integrity(_))));
    after_a_crash(&vault);
    assert!(dir.lookup(b"lost").unwrap_err().is_errno(libc::ENOENT));
    assert_eq!(names_in(&dir).unwrap(), BTreeSet::new());
    touch(&dir, b"new");
    assert_eq!(names_in(&vault.root()).unwrap(), BTreeSet::from([b"dir".to_vec()]));
    assert_eq!(std::fs::read_dir(backing.path().join("private/lost")).unwrap().count(), 2);
}

/// One way to use directories, step by step.
type Workload = fn(&Vault<SimStorage>, &mut Promised) -> Result<()>;

type Path = Vec<Vec<u8>>;

fn path(names: &[&[u8]]) -> Path {
    names.iter().map(|name| name.to_vec()).collect()
}

/// What survives any crash from here on.
#[derive(Default)]
struct Promised(Vec<Promise>);

/// A file that is found at one of these paths.
struct Promise {
    at: Vec<Path>,
    /// By a sync of the file alone, which is enough on real filesystems. Else the directories were synced, too.
    by_file_alone: bool,
}

impl Promised {
    fn file_synced(&mut self, at: &[&[u8]]) {
        self.0.push(Promise { at: vec![path(at)], by_file_alone: true });
    }

    fn path_synced(&mut self, at: &[&[u8]]) {
        self.removing(at);
        self.0.push(Promise { at: vec![path(at)], by_file_alone: false });
    }

    fn moving(&mut self, from: &[&[u8]], to: &[&[u8]]) {
        self.0.iter_mut().filter(|promise| promise.at == [path(from)]).for_each(|promise| promise.at.push(path(to)));
    }

    fn removing(&mut self, at: &[&[u8]]) {
        self.0.retain(|promise| !promise.at.contains(&path(at)));
    }

    fn broken(&self, policy: &CrashPolicy, found: &BTreeSet<Path>) -> Vec<String> {
        self.0
            .iter()
            .filter(|promise| !promise.by_file_alone || policy.sync_keeps_entry)
            .filter(|promise| !promise.at.iter().any(|at| found.contains(at)))
            .map(|promise| promise.at.iter().map(|at| format!("{} ", at.join(&b'/').escape_ascii())).collect())
            .collect()
    }
}

const LONG: &[u8] = &[b'n'; 200];
const LONGER: &[u8] = &[b'm'; 250];

/// A durable file. Its name is durable, too, on all filesystems but the strictest.
fn synced_file<S: Storage>(directory: &Directory<S>, name: &[u8]) -> Result<()> {
    let (_, file) = directory.make_file(name, &FILE)?;
    file.write(0, b"content")?;
    file.sync()
}

/// Syncs the entries on the way to a directory, too, as a careful program does.
fn sync_path(vault: &Vault<SimStorage>, names: &[&[u8]]) -> Result<()> {
    let mut directory = vault.root();
    directory.sync()?;
    for name in names {
        directory = directory.open_child(name)?;
        directory.sync()?;
    }
    Ok(())
}

fn make_and_sync(vault: &Vault<SimStorage>, promised: &mut Promised) -> Result<()> {
    let a = vault.root().make_dir(b"a", &DIR)?.1;
    let b = a.make_dir(LONG, &DIR)?.1;
    a.make_file(b"volatile", &FILE)?.1.commit()?;
    synced_file(&b, LONGER)?;
    promised.file_synced(&[b"a", LONG, LONGER]);
    sync_path(vault, &[b"a", LONG])?;
    promised.path_synced(&[b"a", LONG, LONGER]);
    b.make_symlink(b"link", &[b't'; 2000], &FILE)?;
    b.sync()?;
    promised.path_synced(&[b"a", LONG, b"link"]);
    promised.removing(&[b"a", LONG, b"link"]);
    b.unlink(b"link")?;
    a.unlink(b"volatile")
}

fn move_and_remove(vault: &Vault<SimStorage>, promised: &mut Promised) -> Result<()> {
    let a = vault.root().make_dir(b"a", &DIR)?.1;
    synced_file(&a, LONG)?;
    promised.file_synced(&[b"a", LONG]);
    synced_file(&a, b"short")?;
    promised.file_synced(&[b"a", b"short"]);
    let b = vault.root().make_dir(b"b", &DIR)?.1;
    promised.moving(&[b"a", LONG], &[b"b", LONGER]);
    a.rename(LONG, &b, LONGER, RenameMode::Replace)?;
    promised.moving(&[b"a", b"short"], &[b"b", b"other"]);
    a.rename(b"short", &b, b"other", RenameMode::Replace)?;
    vault.root().remove_dir(b"a")?;
    sync_path(vault, &[b"b"])?;
    promised.path_synced(&[b"b", LONGER]);
    promised.path_synced(&[b"b", b"other"]);
    b.make_dir(b"empty", &DIR)?;
    vault.root().make_dir(b"c", &DIR)?;
    vault.root().rename(b"c", &b, b"empty", RenameMode::Replace)
}

/// How a disk may lose power, and how many of the states that it may leave are looked at for each step.
const CRASHES: [(CrashPolicy, u64); 3] =
    [(CrashPolicy::JOURNALED_TORN, 4), (CrashPolicy::UNORDERED, 20), (CrashPolicy::POSIX, 8)];

/// Every step is cut; what is left opens, lists without an error, has what was promised, and can be changed.
fn crash_everywhere(workload: Workload) {
    let made = SimDisk::new(1);
    create_vault(&made.storage());
    made.settle();
    let snapshot = made.snapshot();

    let disk = snapshot.to_disk();
    let vault = open(disk.storage()).unwrap();
    let first = disk.steps() + 1;
    workload(&vault, &mut Promised::default()).unwrap();
    let last = disk.steps();
    assert!(last > first);
    for step in first..=last {
        let disk = snapshot.to_disk();
        disk.set_crash_at(step);
        let vault = open(disk.storage()).unwrap();
        let mut promised = Promised::default();
        assert!(workload(&vault, &mut promised).is_err());
        for (policy, states) in CRASHES {
            for after in disk.crashes(policy, states, step) {
                let context = || format!("step {step}, {policy:?}, choices {:?}", after.choices());
                let vault = open(after.storage()).unwrap_or_else(|error| panic!("{}: {error}", context()));
                let found = walk(&vault.root(), &[]).unwrap_or_else(|error| panic!("{}: {error}", context()));
                let broken = promised.broken(&policy, &found);
                assert!(broken.is_empty(), "{}: {broken:?} are missing", context());
                vault.settle_leftovers().unwrap_or_else(|error| panic!("{}: {error}", context()));
                assert_eq!(walk(&vault.root(), &[]).unwrap(), found, "{}", context());
            }
        }
    }
}

/// All paths; makes a name in every directory, and takes it away.
fn walk<S: Storage>(directory: &Arc<Directory<S>>, path: &[Vec<u8>]) -> Result<BTreeSet<Path>> {
    let mut found = BTreeSet::new();
    for name in names_in(directory)? {
        let below = [path, std::slice::from_ref(&name)].concat();
        match directory.lookup(&name)?.kind() {
            FileKind::Directory => found.extend(walk(&directory.open_child(&name)?, &below)?),
            FileKind::Symlink => assert_eq!(directory.read_symlink(&name)?, [b't'; 2000]),
            _ => drop(directory.open_file(&name)?),
        }
        found.insert(below);
    }
    directory
        .make_file(LONG, &FILE)
        .map(drop)
        .or_else(|error| if error.is_errno(libc::EEXIST) { Ok(()) } else { Err(error) })?;
    if !found.contains(&[path, &[LONG.to_vec()]].concat()) {
        directory.unlink(LONG)?;
    }
    Ok(found)
}

#[test]
fn every_directory_works_after_any_crash_while_names_are_made() {
    crash_everywhere(make_and_sync);
}

#[test]
fn every_directory_works_after_any_crash_while_names_move() {
    crash_everywhere(move_and_remove);
}

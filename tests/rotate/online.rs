//! Rotation while the vault is in use.

use super::*;

/// A listing of a directory, part of which was read.
struct HalfListing {
    listing: sero::vault::Listing<PosixStorage>,
    names: Vec<Vec<u8>>,
    cookie: u64,
}

impl HalfListing {
    fn begin(directory: &Dir, count: usize) -> Self {
        let mut this = Self { listing: directory.open_listing().unwrap(), names: Vec::new(), cookie: 0 };
        this.read(count);
        this
    }

    fn read(&mut self, most: usize) {
        let Self { listing, names, cookie } = self;
        listing
            .next(*cookie, &mut |entry| {
                if names.len() == most {
                    return false;
                }
                names.push(entry.name.to_vec());
                *cookie = entry.next_cookie;
                true
            })
            .unwrap();
    }

    /// Reads the rest; all names that were listed.
    fn go_on(mut self) -> Vec<Vec<u8>> {
        self.read(usize::MAX);
        self.names.sort();
        self.names
    }
}

/// Four users of the vault beside the rotation: each knows what it wrote, and reads it back.
#[test]
fn reads_and_writes_go_on_meanwhile() {
    let (test, before) = filled();
    let old = test.unlock();
    let vault = test.open(Mode::ReadWrite);
    let unlinked = vault.root().make_file(b"soon without a name", &FILE).unwrap().1;
    unlinked.write(0, &bytes(300_000, 77)).unwrap();
    vault.root().unlink(b"soon without a name").unwrap();
    let half_listed = vault.root().open_child(b"below").unwrap();
    let half = HalfListing::begin(&half_listed, 50);

    let keys = test.begin(false);
    vault.begin_rotation(keys.into()).unwrap();
    let control = RotationControl::new();
    let going = AtomicBool::new(true);
    let work = AtomicU64::new(0);
    thread::scope(|scope| {
        for user in 0..4_u64 {
            let (vault, going, work) = (&vault, &going, &work);
            scope.spawn(move || use_vault(vault, user, going, work));
        }
        let ticker = scope.spawn(|| {
            while going.load(Ordering::Relaxed) {
                vault.tick().unwrap();
                thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        while work.load(Ordering::Relaxed) < 50 {
            thread::yield_now();
        }
        let end = vault.rotate(&control, test.finish()).unwrap();
        going.store(false, Ordering::Relaxed);
        ticker.join().unwrap();
        assert_eq!(end, RotationEnd::Done);
    });
    println!("{} steps of work meanwhile", work.load(Ordering::Relaxed));

    // The listing that was half-way goes on, every name once.
    assert_eq!(half.go_on().len(), 201, "200 files and a directory");
    // So does the file without a name.
    let mut content = vec![0; 300_000];
    unlinked.read(0, &mut content).unwrap();
    assert_eq!(content, bytes(300_000, 77));
    drop((unlinked, half_listed));

    for user in 0..4 {
        check_user(&vault, user);
        for name in ["mine", "moved"] {
            let _ = remove(&vault.root(), format!("{name} {user}").as_bytes());
        }
    }
    vault.seal().unwrap();
    drop(vault);
    let mut after = look(&test.open(Mode::ReadOnly));
    // The user's last directories and files are theirs.
    after.retain(|path, _| before.contains_key(path));
    for (path, seen) in &before {
        let now = &after[path];
        // The directories that the users worked in have other times now, and they did touch "small".
        if path != b"/below" {
            assert_eq!(now, seen, "{}", String::from_utf8_lossy(path));
        }
    }
    old_key::opens_nothing(&test, old.unlocked());
}

/// Files that have no name yet come under the new key too, with their attributes, whenever they get one.
#[test]
fn files_get_their_first_name_after_a_rotation() {
    let (test, _) = filled();
    let old = test.unlock();
    let vault = test.open(Mode::ReadWrite);
    let root = vault.root();
    let attributes = table(&[("user.comment", b"set under the old key")]);
    let sizes = [0_usize, 5000, 700_000];
    let make = |size: usize| {
        let (_, file) = root.make_unnamed(&FILE).unwrap();
        file.write(0, &bytes(size, size as u64)).unwrap();
        vault.set_xattrs(NodeRef::File(&file), FileKind::Regular, &attributes).unwrap();
        file
    };
    let name = |file: &Arc<_>, name: String| vault.link(NodeRef::File(file), &root, name.as_bytes()).unwrap();
    let (early, late) = (sizes.map(make), sizes.map(make));
    vault.begin_rotation(test.begin(false).into()).unwrap();
    for (file, size) in early.iter().zip(sizes) {
        name(file, format!("before the end {size}"));
    }
    drop(early);
    assert_eq!(vault.rotate(&RotationControl::new(), test.finish()).unwrap(), RotationEnd::Done);
    for (file, size) in late.iter().zip(sizes) {
        name(file, format!("after the end {size}"));
    }
    drop(late);
    drop(root);
    vault.seal().unwrap();
    drop(vault);
    let seen = look(&test.open(Mode::ReadOnly));
    for (when, size) in ["before", "after"].into_iter().flat_map(|when| sizes.map(|size| (when, size))) {
        let found = &seen[format!("/{when} the end {size}").as_bytes()];
        assert!(found.content == bytes(size, size as u64), "{when}, {size}");
        assert_eq!(found.xattrs, [(b"user.comment".to_vec(), b"set under the old key".to_vec())]);
    }
    old_key::opens_nothing(&test, old.unlocked());
}

/// Files, directories, links and names that come, change, move between old and new directories, and go.
fn use_vault(vault: &Opened, user: u64, going: &AtomicBool, work: &AtomicU64) {
    let root = vault.root();
    let below = root.open_child(b"below").unwrap();
    let mine = format!("mine {user}").into_bytes();
    let moved = format!("moved {user}").into_bytes();
    let (_, directory) = root.make_dir(&mine, &DIR).unwrap();
    write(&directory, b"file", 0, &bytes(200_000, user));
    let mut content = bytes(200_000, user);
    let mut round = 0;
    while going.load(Ordering::Relaxed) || round < 3 {
        round += 1;
        let at = (round * 7919) % 190_000;
        let part = bytes(5000, user * 1000 + round);
        write(&directory, b"file", at, &part);
        content[at as usize..at as usize + 5000].copy_from_slice(&part);
        let file = directory.open_file(b"file").unwrap();
        if round % 7 == 0 {
            file.sync().unwrap();
        }
        let mut found = vec![0; content.len()];
        file.read(0, &mut found).unwrap();
        assert!(found == content, "user {user} reads what it wrote, round {round}");
        // There and back, from the top into the crowd.
        let name = format!("there and back {user}").into_bytes();
        directory.rename(b"file", &below, &name, RenameMode::NoReplace).unwrap();
        root.rename(&mine, &below, &moved, RenameMode::NoReplace).unwrap();
        assert!(root.lookup(&mine).is_err());
        below.rename(&name, &directory, b"file", RenameMode::NoReplace).unwrap();
        below.rename(&moved, &root, &mine, RenameMode::NoReplace).unwrap();
        assert!(matches!(root.make_dir(&mine, &DIR), Err(error) if is_there(&error)), "a name is there once");
        let link = format!("link {user}").into_bytes();
        root.make_symlink(&link, b"somewhere", &LINK).unwrap();
        assert_eq!(root.read_symlink(&link).unwrap(), b"somewhere");
        root.unlink(&link).unwrap();
        // Nobody changes these; they read as ever.
        let mut small = [0; 11];
        root.open_file(b"small").unwrap().read(0, &mut small).unwrap();
        assert_eq!(&small, b"a few bytes");
        assert_eq!(below.lookup(b"one of many 7").unwrap().size_bytes, 49);
        work.fetch_add(1, Ordering::Relaxed);
    }
    let mut found = vec![0; content.len()];
    directory.open_file(b"file").unwrap().read(0, &mut found).unwrap();
    assert!(found == content);
}

fn is_there(error: &VaultError) -> bool {
    matches!(error, VaultError::Io { source, .. } if source.raw_os_error() == Some(libc::EEXIST))
}

fn check_user(vault: &Opened, user: u64) {
    let directory = vault.root().open_child(format!("mine {user}").as_bytes()).unwrap();
    let file = directory.open_file(b"file").unwrap();
    let mut content = vec![0; 200_000];
    assert_eq!(file.read(0, &mut content).unwrap(), 200_000);
}

fn remove(root: &Arc<Dir>, name: &[u8]) -> Result<(), VaultError> {
    root.open_child(name)?.unlink(b"file")?;
    root.remove_dir(name)
}

#[test]
fn two_rotations_at_once_are_refused() {
    let (test, _) = filled();
    let vault = test.open(Mode::ReadWrite);
    let keys = test.begin(false);
    vault.begin_rotation(keys.into()).unwrap();
    let place_storage = test.storage();
    let place = ConfigurationPlace::inside(&place_storage);
    assert!(matches!(configuration::start(&place, &test.unlock(), false), Err(VaultError::RotationUnfinished)));
    let control = RotationControl::new();
    control.set_rate(1000);
    thread::scope(|scope| {
        let first = scope.spawn(|| vault.rotate(&control, |_| panic!("too slow to finish")));
        while control.progress().phase != Phase::Content {
            thread::yield_now();
        }
        let second = vault.rotate(&RotationControl::new(), |_| panic!("never"));
        assert!(matches!(second, Err(VaultError::RotationRunning)));
        control.stop();
        assert_eq!(first.join().unwrap().unwrap(), RotationEnd::Stopped);
    });
    // Keys that are not the next version of this vault's are refused.
    let other = TestVault::new();
    let foreign: LiveKeys = UnlockedKeys::from(other.unlock()).into();
    assert!(vault.begin_rotation(foreign).is_err());
    let key = ProjectKey::generate().unwrap();
    let id = test.unlock().unlocked().configuration().vault_id.0;
    assert!(vault.begin_rotation(LiveKeys::derive(&id, (KeyVersion(3), &key), None)).is_err());
    vault.seal().unwrap();
}

/// Names that are renamed while they are looked at would be missed, or taken for damage.
#[test]
fn a_rotation_and_a_verify_wait_for_each_other() {
    let (test, _) = filled();
    let vault = test.open(Mode::ReadWrite);
    vault.begin_rotation(test.begin(false).into()).unwrap();
    let control = RotationControl::new();
    let watcher = Watcher::default();
    thread::scope(|scope| {
        let verify = scope.spawn(|| vault.verify(&VerifyOptions::default(), &watcher));
        while !watcher.is_waiting.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        // Somebody looks at names: the rotation waits, and can be stopped meanwhile.
        control.stop();
        assert_eq!(vault.rotate(&control, |_| panic!("stopped")).unwrap(), RotationEnd::Stopped);
        assert_eq!(control.progress().phase, Phase::Idle);
        watcher.may_go_on.store(true, Ordering::Relaxed);
        assert!(verify.join().unwrap().unwrap().is_whole());
        assert_eq!(watcher.found.load(Ordering::Relaxed), 0);
    });
    let slow = RotationControl::new();
    slow.set_rate(1000);
    thread::scope(|scope| {
        let rotation = scope.spawn(|| vault.rotate(&slow, |_| panic!("too slow to finish")));
        while slow.progress().phase != Phase::Content {
            thread::yield_now();
        }
        let refused = vault.verify(&VerifyOptions::default(), &watcher);
        assert!(matches!(refused, Err(VaultError::RotationRunning)), "{refused:?}");
        slow.stop();
        assert_eq!(rotation.join().unwrap().unwrap(), RotationEnd::Stopped);
    });
    // Half-way through a rotation that stands still, everything opens under one key or the other.
    assert!(vault.verify(&VerifyOptions::default(), &watcher).unwrap().is_whole());
    assert_eq!(watcher.found.load(Ordering::Relaxed), 0);
    vault.seal().unwrap();
}

/// Keeps a verify waiting at its first step.
#[derive(Default)]
struct Watcher {
    is_waiting: AtomicBool,
    may_go_on: AtomicBool,
    found: AtomicU64,
}

impl VerifyObserver for Watcher {
    fn found(&self, finding: Finding) {
        // The folder of a rotation that stands still, `private/rotation`, may be there, and is one.
        if finding.severity != Severity::Leftover {
            eprintln!("{finding:?}");
            self.found.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.is_waiting.store(true, Ordering::Relaxed);
        while !self.may_go_on.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        false
    }
}

/// Wherever it was: entries that are not for the user, such as the IV, may come next.
#[test]
fn a_listing_that_is_half_way_anywhere_goes_on() {
    let (test, _) = filled();
    let vault = test.open(Mode::ReadWrite);
    let below = vault.root().open_child(b"below").unwrap();
    let halves: Vec<_> = (1..201).map(|count| (count, HalfListing::begin(&below, count))).collect();
    vault.begin_rotation(test.begin(false).into()).unwrap();
    assert_eq!(vault.rotate(&RotationControl::new(), test.finish()).unwrap(), RotationEnd::Done);
    for (count, half) in halves {
        assert_eq!(half.go_on().len(), 201, "after {count}");
    }
    drop(below);
    vault.seal().unwrap();
}

/// It replaces each link, and the inode number of one that went is soon another's.
#[test]
fn a_symbolic_link_shows_its_own_target_whichever_number_it_gets() {
    const LINKS: usize = 300;
    let name = |number: usize| format!("link {number}").into_bytes();
    let target = |number: usize| format!("target of {number}").into_bytes();
    let test = TestVault::new();
    let vault = test.open(Mode::ReadWrite);
    for number in 0..LINKS {
        vault.root().make_symlink(&name(number), &target(number), &LINK).unwrap();
    }
    vault.seal().unwrap();
    drop(vault);
    let vault = test.open(Mode::ReadWrite);
    let fs = Fs::new(vault.clone(), FsOptions::for_this_process()).unwrap();
    let look_up = |number| fs.lookup(InodeNo::ROOT, &name(number)).unwrap().attr.ino;
    for number in (1..LINKS).step_by(2) {
        look_up(number);
    }
    vault.begin_rotation(test.begin(false).into()).unwrap();
    assert_eq!(vault.rotate(&RotationControl::new(), test.finish()).unwrap(), RotationEnd::Done);
    for _ in 0..2 {
        for number in 0..LINKS {
            let shown = fs.readlink(look_up(number)).unwrap();
            assert!(shown == target(number), "{number}: {}", shown.escape_ascii());
        }
    }
    drop(fs);
    vault.seal().unwrap();
}

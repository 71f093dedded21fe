use super::*;

/// A small program: a file written, synced, renamed.
fn program(storage: &SimStorage) -> io::Result<()> {
    let root = storage.open_root()?;
    let file = storage.create_file(&root, name("tmp"), 0o600)?;
    write_from(storage, &file, &[b'x'; 700], 0)?;
    storage.sync_file(&file)?;
    storage.rename(&root, name("tmp"), &root, name("file"), RenameMode::NoReplace)?;
    storage.sync_dir(&root)
}

#[test]
fn steps_are_counted_and_the_crash_comes_in_one() {
    let disk = SimDisk::new(0);
    disk.record_steps();
    program(&disk.storage()).unwrap();
    assert_eq!(disk.steps(), 5);
    let steps: Vec<String> = disk.recorded_steps().iter().map(ToString::to_string).collect();
    let expected = ["1 create_file tmp", "2 write_at tmp 0+700", "3 sync_file tmp", "4 rename tmp file NoReplace"];
    assert_eq!(steps[..4], expected);
    assert_eq!(steps[4], "5 sync_dir ");

    for step in 1..=5 {
        let disk = SimDisk::new(0);
        disk.set_crash_at(step);
        let storage = disk.storage();
        let error = program(&storage).unwrap_err();
        assert!(is_crash(&error));
        assert_eq!(error.raw_os_error(), None);
        assert!(disk.has_crashed());
        assert_eq!(disk.steps(), step);
        // Nothing works any more.
        assert!(is_crash(&storage.open_root().err().unwrap()));
        assert!(is_crash(&storage.sync_all().unwrap_err()));
        assert_eq!(disk.steps(), step);

        // With the journal of a real filesystem, the program is right.
        let states = outcomes(&disk, CrashPolicy::JOURNALED, listing);
        let expected = match step {
            1 => set(["", "tmp:0"]),
            2 | 3 => set(["", "tmp:0", "tmp:700"]),
            4 | 5 => set(["tmp:700", "file:700"]),
            _ => unreachable!(),
        };
        assert_eq!(states, expected, "{step}");
    }
    let disk = SimDisk::new(0);
    disk.set_crash_at(6);
    program(&disk.storage()).unwrap();
    assert!(!disk.has_crashed());
}

#[test]
fn a_crashed_disk_starts_again_from_step_one() {
    let disk = SimDisk::new(0);
    disk.set_crash_at(5);
    let _ = program(&disk.storage());
    let after = disk.crash(&CrashPolicy::JOURNALED, 1);
    assert_eq!((after.steps(), after.has_crashed()), (0, false));
    after.set_crash_at(1);
    let storage = after.storage();
    let root = storage.open_root().unwrap();
    assert!(is_crash(&storage.make_dir(&root, name("d"), 0o700).unwrap_err()));
    // What was durable before stays so.
    assert!(outcomes(&after, CrashPolicy::POSIX, listing).iter().all(|state| state.contains(":700")));
}

#[test]
fn a_kill_loses_nothing_but_makes_nothing_durable() {
    let (disk, storage, root) = fresh();
    let file = durable_file(&disk, &[b'a'; 512]);
    write(&disk, &file, &[b'b'; 512], 0);
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    assert!(storage.try_lock(&file, true).unwrap());
    let after = disk.kill();
    assert_eq!((listing(&after), sectors(&after)), ("d/ file:512".to_owned(), "b".to_owned()));
    assert_eq!(outcomes(&after, ORDERED, sectors), set(["a", "b"]));
    assert_eq!(outcomes(&after, ORDERED, listing), set(["file:512", "d/ file:512"]));
    // The lock went with the process; the disks are apart.
    let storage = after.storage();
    let file = storage.open_file(&storage.open_root().unwrap(), name("file"), Access::ReadWrite).unwrap();
    assert!(storage.try_lock(&file, true).unwrap());
    after.raw_remove("file").unwrap();
    assert_eq!(listing(&disk), "d/ file:512");
}

#[test]
fn a_kill_inside_a_write_leaves_a_prefix() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 1000]);
    disk.set_crash_at(disk.steps() + 1);
    assert!(is_crash(&write_from(&storage, &file, &[b'b'; 1000], 0).unwrap_err()));
    let mut lengths = BTreeSet::new();
    for seed in 0..200 {
        let bytes = disk.kill_inside(seed).raw_read("file").unwrap();
        let written = bytes.iter().take_while(|&&byte| byte == b'b').count();
        assert!(bytes[written..].iter().all(|&byte| byte == b'a'));
        lengths.insert(written);
    }
    assert!(lengths.len() > 100);
    assert_eq!(disk.kill().raw_read("file").unwrap(), [b'b'; 1000]);
}

#[test]
fn open_files_and_pins_outlive_their_names_until_they_are_closed() {
    let (disk, storage, root) = fresh();
    let file = durable_file(&disk, &[b'a'; 4096]);
    let pin = storage.pin(&root, name("file")).unwrap();
    storage.unlink(&root, name("file")).unwrap();
    assert_eq!(storage.stat(Target::Pin(&pin)).unwrap().nlink, 0);
    drop(file);
    let file = storage.open_pinned(&pin, Access::ReadWrite).unwrap();
    drop(pin);
    let mut bytes = [0; 4];
    assert_eq!(read_into(&storage, &file, &mut bytes, 0).unwrap(), 4);
    assert_eq!(bytes, *b"aaaa");
    storage.set_xattr(Target::File(&file), name("user.a"), b"1", XattrMode::Any).unwrap();
    storage.sync_file(&file).unwrap();
    storage.sync_dir(&root).unwrap();
    assert_eq!(disk.used_bytes(), 4096);
    assert_eq!((disk.kill().used_bytes(), disk.crash(&ORDERED, 1).used_bytes()), (0, 0));
    drop(file);
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn removed_directories_take_no_entries() {
    let (_disk, storage, root) = fresh();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    let dir = storage.open_dir(&root, name("d")).unwrap();
    storage.remove_dir(&root, name("d")).unwrap();
    assert_errno(storage.create_file(&dir, name("f"), 0o600), libc::ENOENT);
    assert_errno(storage.open_dir(&root, name("d")), libc::ENOENT);
}

#[test]
fn read_dir_cookies_are_stable() {
    let (_disk, storage, root) = fresh();
    for i in 0..100 {
        storage.create_file(&root, name(&format!("{i}")), 0o600).unwrap();
    }
    let mut seen = Vec::new();
    let mut cookie = 0;
    loop {
        let before = seen.len();
        storage
            .read_dir(&root, cookie, &mut |entry| {
                seen.push(entry.name.to_owned());
                cookie = entry.next_cookie;
                // The storage can be used meanwhile.
                storage.unlink(&root, entry.name).unwrap();
                seen.len() % 7 != 0
            })
            .unwrap();
        if seen.len() == before {
            break;
        }
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 100);
}

#[test]
fn thousands_of_crash_states() {
    let (disk, storage, root) = fresh();
    let journal = durable_file(&disk, &vec![1; 1 << 20]);
    for i in 0..100 {
        let file = storage.create_file(&root, name(&format!("{i}")), 0o600).unwrap();
        write(&disk, &file, &[2; 8192], 0);
        if i < 90 {
            storage.sync_file(&file).unwrap();
        }
    }
    write(&disk, &journal, &[3; 65536], 8192);
    let start = std::time::Instant::now();
    assert_eq!(disk.crashes(CrashPolicy::UNORDERED, 2000, 1).count(), 2000);
    eprintln!("2000 crash states in {:?}", start.elapsed());
}

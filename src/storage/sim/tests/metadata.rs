use super::*;

fn touch(storage: &SimStorage, at: &SimDir, entry: &str) -> SimFile {
    storage.create_file(at, name(entry), 0o600).unwrap()
}

#[test]
fn an_ordered_log_keeps_any_prefix() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("a"), 0o700).unwrap();
    storage.make_symlink(&root, name("b"), b"t").unwrap();
    storage.rename(&root, name("a"), &root, name("c"), RenameMode::Replace).unwrap();
    storage.unlink(&root, name("b")).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, listing), set(["", "a/", "a/ b@", "b@ c/", "c/"]));
}

#[test]
fn without_order_any_subset_that_fits_is_kept() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("a"), 0o700).unwrap();
    storage.make_symlink(&root, name("b"), b"t").unwrap();
    storage.rename(&root, name("a"), &root, name("c"), RenameMode::Replace).unwrap();
    storage.unlink(&root, name("b")).unwrap();
    assert_eq!(outcomes(&disk, SUBSET, listing), set(["", "a/", "a/ b@", "b@", "b@ c/", "c/"]));
}

#[test]
fn a_rename_over_a_name_replaces_it_or_does_not() {
    let (disk, storage, root) = fresh();
    let old = touch(&storage, &root, "name");
    write(&disk, &old, b"old", 0);
    let new = touch(&storage, &root, "tmp");
    write(&disk, &new, b"new!", 0);
    disk.settle();
    storage.rename(&root, name("tmp"), &root, name("name"), RenameMode::Replace).unwrap();
    for policy in [ORDERED, SUBSET] {
        assert_eq!(outcomes(&disk, policy, listing), set(["name:3 tmp:4", "name:4"]));
    }
}

#[test]
fn sync_dir_keeps_its_entries_and_with_order_all_before() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    disk.settle();
    let dir = storage.open_dir(&root, name("d")).unwrap();
    storage.make_dir(&root, name("elsewhere"), 0o700).unwrap();
    storage.make_symlink(&dir, name("in"), b"t").unwrap();
    storage.make_symlink(&dir, name("gone"), b"t").unwrap();
    storage.unlink(&dir, name("gone")).unwrap();
    storage.make_dir(&root, name("later"), 0o700).unwrap();
    storage.sync_dir(&dir).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, listing), set(["d/ d/in@ elsewhere/", "d/ d/in@ elsewhere/ later/"]));
    assert_eq!(
        outcomes(&disk, SUBSET, listing),
        set(["d/ d/in@", "d/ d/in@ elsewhere/", "d/ d/in@ later/", "d/ d/in@ elsewhere/ later/"])
    );
}

#[test]
fn a_synced_rename_brings_what_it_needs() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("from"), 0o700).unwrap();
    storage.make_dir(&root, name("to"), 0o700).unwrap();
    disk.settle();
    let from = storage.open_dir(&root, name("from")).unwrap();
    let to = storage.open_dir(&root, name("to")).unwrap();
    storage.make_symlink(&from, name("x"), b"t").unwrap();
    storage.make_symlink(&from, name("other"), b"t").unwrap();
    storage.rename(&from, name("x"), &to, name("y"), RenameMode::NoReplace).unwrap();
    storage.sync_dir(&to).unwrap();
    let expected = set(["from/ to/ to/y@", "from/ from/other@ to/ to/y@"]);
    assert_eq!(outcomes(&disk, SUBSET, listing), expected);
}

#[test]
fn a_synced_rmdir_brings_the_emptying() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    let dir = storage.open_dir(&root, name("d")).unwrap();
    storage.make_symlink(&dir, name("x"), b"t").unwrap();
    disk.settle();
    storage.unlink(&dir, name("x")).unwrap();
    storage.remove_dir(&root, name("d")).unwrap();
    storage.sync_dir(&root).unwrap();
    assert_eq!(outcomes(&disk, SUBSET, listing), set([""]));
}

#[test]
fn sync_file_keeps_the_entry_only_if_the_policy_says_so() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    let dir = storage.open_dir(&root, name("d")).unwrap();
    let file = touch(&storage, &dir, "f");
    write(&disk, &file, b"123", 0);
    storage.sync_file(&file).unwrap();
    for policy in [ORDERED, SUBSET] {
        assert_eq!(outcomes(&disk, policy, listing), set(["", "d/", "d/ d/f:3"]));
        let keeping = CrashPolicy { sync_keeps_entry: true, ..policy };
        assert_eq!(outcomes(&disk, keeping, listing), set(["d/ d/f:3"]));
    }
}

#[test]
fn sync_file_does_not_keep_a_later_rename() {
    let (disk, storage, root) = fresh();
    let file = touch(&storage, &root, "tmp");
    storage.rename(&root, name("tmp"), &root, name("final"), RenameMode::Replace).unwrap();
    storage.sync_file(&file).unwrap();
    for policy in [CrashPolicy::JOURNALED, CrashPolicy::UNORDERED] {
        assert_eq!(outcomes(&disk, policy, listing), set(["tmp:0", "final:0"]));
    }
    storage.sync_dir(&root).unwrap();
    assert_eq!(outcomes(&disk, CrashPolicy::POSIX, listing), set(["final:0"]));
}

#[test]
fn fdatasync_keeps_a_new_file_but_no_attributes() {
    let (disk, storage, root) = fresh();
    let file = touch(&storage, &root, "f");
    write(&disk, &file, &[1; 512], 0);
    storage.sync_data(&file).unwrap();
    let policy = CrashPolicy { sync_keeps_entry: true, ..ORDERED };
    assert_eq!(outcomes(&disk, policy, listing), set(["f:512"]));
    storage.set_mode(Target::File(&file), 0o640).unwrap();
    write(&disk, &file, &[2; 512], 0);
    storage.sync_data(&file).unwrap();
    let modes = |disk: &SimDisk| (disk.raw_stat("f").unwrap().mode & 0o777, disk.raw_read("f").unwrap()[0]);
    assert_eq!(outcomes(&disk, policy, modes), [(0o600, 2), (0o640, 2)].into());
    // A change of the length brings the inode along.
    write(&disk, &file, &[3; 512], 512);
    storage.sync_data(&file).unwrap();
    assert_eq!(outcomes(&disk, policy, modes), [(0o640, 2)].into());
}

#[test]
fn attributes_are_kept_by_a_sync_of_their_inode() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    disk.settle();
    let dir = storage.open_dir(&root, name("d")).unwrap();
    storage.set_mode(Target::Dir(&dir), 0o711).unwrap();
    storage.set_owner(Target::Dir(&dir), Some(5), None).unwrap();
    storage.set_xattr(Target::Dir(&dir), name("user.a"), b"1", XattrMode::Any).unwrap();
    let when = Timestamp { seconds: -5, nanoseconds: 7 };
    storage.set_times(Target::Dir(&dir), SetTime::To(when), SetTime::To(when)).unwrap();
    let look = |disk: &SimDisk| {
        let stat = disk.raw_stat("d").unwrap();
        (stat.mode & 0o777, stat.uid, disk.raw_xattr("d", "user.a").ok(), stat.mtime == when)
    };
    assert_eq!(outcomes(&disk, SUBSET, look).len(), 16);
    assert_eq!(outcomes(&disk, ORDERED, look).len(), 5);
    storage.sync_dir(&root).unwrap();
    assert_eq!(outcomes(&disk, SUBSET, look).len(), 16);
    storage.sync_dir(&dir).unwrap();
    let all = (0o711, 5, Some(b"1".to_vec()), true);
    assert_eq!(outcomes(&disk, CrashPolicy::POSIX, look), [all].into());
}

#[test]
fn sync_all_keeps_everything() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    let dir = storage.open_dir(&root, name("d")).unwrap();
    let file = touch(&storage, &dir, "f");
    write(&disk, &file, &[7; 5000], 0);
    storage.make_symlink(&dir, name("l"), b"target").unwrap();
    storage.sync_all().unwrap();
    for policy in CrashPolicy::ALL {
        assert_eq!(outcomes(&disk, policy, listing), set(["d/ d/f:5000 d/l@"]));
        let state = disk.crash(&policy, 3);
        assert_eq!(state.raw_read("d/f").unwrap(), [7; 5000]);
        assert_eq!(state.raw_read("d/l").unwrap(), b"target");
    }
}

#[test]
fn links_survive_while_a_name_does() {
    let (disk, storage, root) = fresh();
    let file = touch(&storage, &root, "a");
    write(&disk, &file, b"x", 0);
    disk.settle();
    storage.link(Target::Entry(&root, name("a")), &root, name("b")).unwrap();
    storage.unlink(&root, name("a")).unwrap();
    let look = |disk: &SimDisk| {
        let nlink = disk.raw_list().first().map(|entry| disk.raw_stat(&entry.path).unwrap().nlink);
        (listing(disk), nlink.unwrap_or(0))
    };
    let state = |text: &str, nlink| (text.to_owned(), nlink);
    assert_eq!(outcomes(&disk, ORDERED, look), [state("a:1", 1), state("a:1 b:1", 2), state("b:1", 1)].into());
    // Lost link, kept unlink: no name is left.
    let subsets = [state("a:1", 1), state("a:1 b:1", 2), state("b:1", 1), state("", 0)];
    assert_eq!(outcomes(&disk, SUBSET, look), subsets.into());
}

#[test]
fn unlinked_files_come_back_with_their_durable_content() {
    let (disk, storage, root) = fresh();
    let file = durable_file(&disk, &[b'a'; 512]);
    write(&disk, &file, &[b'b'; 512], 0);
    storage.unlink(&root, name("file")).unwrap();
    drop(file);
    let look = |disk: &SimDisk| disk.raw_read("file").map(|bytes| bytes[0]).unwrap_or(b'?');
    assert_eq!(outcomes(&disk, ORDERED, look), [b'a', b'b', b'?'].into());
    storage.sync_dir(&root).unwrap();
    assert_eq!(outcomes(&disk, SUBSET, look), [b'?'].into());
}

#[test]
fn inode_numbers_are_used_again_but_never_twice_at_once() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("a"), 0o700).unwrap();
    let ino = disk.raw_stat("a").unwrap().ino;
    disk.settle();
    storage.remove_dir(&root, name("a")).unwrap();
    storage.make_dir(&root, name("b"), 0o700).unwrap();
    assert_eq!(disk.raw_stat("b").unwrap().ino, ino);
    let distinct = |disk: &SimDisk| {
        let inos = disk.raw_list().into_iter().map(|entry| disk.raw_stat(entry.path).unwrap().ino);
        let inos: Vec<u64> = inos.collect();
        inos.iter().collect::<BTreeSet<_>>().len() == inos.len()
    };
    assert_eq!(outcomes(&disk, SUBSET, distinct), [true].into());
}

#[test]
fn what_a_failed_call_did_not_do_is_in_no_crash_state() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    assert_errno(storage.make_dir(&root, name("d"), 0o711), libc::EEXIST);
    assert_errno(storage.rename(&root, name("d"), &root, name("d"), RenameMode::NoReplace), libc::EEXIST);
    assert_errno(storage.unlink(&root, name("d")), libc::EISDIR);
    assert_eq!(disk.steps(), 4);
    assert_eq!(disk.crashes(SUBSET, 10, 0).count(), 2);
}

#[test]
fn random_crash_states_are_among_the_exhaustive_ones() {
    let (disk, storage, root) = fresh();
    for entry in ["a", "b", "c"] {
        let file = touch(&storage, &root, entry);
        write(&disk, &file, &[1; 600], 0);
    }
    storage.rename(&root, name("a"), &root, name("b"), RenameMode::Replace).unwrap();
    for policy in CrashPolicy::ALL {
        let states = disk.crashes(policy, 1 << 20, 1);
        assert!(states.is_exhaustive());
        let look = |disk: &SimDisk| {
            let entries = disk.raw_list().into_iter();
            entries.map(|entry| (disk.raw_read(&entry.path).unwrap(), entry.path)).collect::<Vec<_>>()
        };
        let all: BTreeSet<_> = states.map(|disk| look(&disk)).collect();
        for seed in 0..500 {
            let state = disk.crash(&policy, seed);
            assert!(all.contains(&look(&state)));
            // The choices make the same disk again, and so does the seed.
            assert_eq!(look(&state), look(&disk.crash_again(&policy, state.choices())));
            assert_eq!(look(&state), look(&disk.crash(&policy, seed)));
        }
        let few = disk.crashes(policy, 5, 1);
        assert!(!few.is_exhaustive());
        let few: Vec<_> = few.map(|disk| look(&disk)).collect();
        assert_eq!(few.len(), 5);
        assert_eq!(few[0], []);
        assert_eq!(few[1], look(&disk.kill()));
    }
}

/// What is made without a name is there after a crash only once it was given one.
#[test]
fn a_file_without_a_name_is_gone_until_it_is_linked() {
    for policy in [ORDERED, SUBSET] {
        let (disk, storage, root) = fresh();
        let file = storage.create_unnamed(&root, 0o640).unwrap();
        write(&disk, &file, &[b'x'; 512], 0);
        storage.sync_file(&file).unwrap();
        assert_eq!(storage.stat(Target::File(&file)).unwrap().nlink, 0);
        assert_eq!(outcomes(&disk, policy, listing), set([""]));
        // A sync of everything keeps it for the name that it may yet get.
        disk.settle();
        assert_eq!(outcomes(&disk, policy, listing), set([""]));
        storage.link(Target::File(&file), &root, name("file")).unwrap();
        assert_eq!(outcomes(&disk, policy, listing), set(["", "file:512"]));
        storage.link(Target::File(&file), &root, name("other")).unwrap();
        storage.sync_dir(&root).unwrap();
        assert_eq!(outcomes(&disk, policy, listing), set(["file:512 other:512"]));
        storage.unlink(&root, name("file")).unwrap();
        storage.unlink(&root, name("other")).unwrap();
        // It had a name, and has none any more.
        assert_errno(storage.link(Target::File(&file), &root, name("file")), libc::ENOENT);
        drop(file);
        assert_eq!(disk.used_bytes(), 0);
        assert!(outcomes(&disk, policy, listing).contains(""));
    }
    // The last handle of one that never got a name takes it along.
    let (disk, storage, root) = fresh();
    let file = storage.create_unnamed(&root, 0o640).unwrap();
    write(&disk, &file, &[b'x'; 512], 0);
    assert_eq!(listing(&disk.kill()), "");
    drop(file);
    disk.settle();
    assert_eq!((disk.used_bytes(), listing(&disk)), (0, String::new()));
}

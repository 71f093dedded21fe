use super::*;

/// One sector of this letter.
fn sector(letter: u8) -> Vec<u8> {
    vec![letter; 512]
}

#[test]
fn a_write_in_place_tears_between_sectors() {
    let (disk, ..) = fresh();
    let file = durable_file(&disk, &[b'a'; 1536]);
    write(&disk, &file, &[b'b'; 1024], 512);
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["aaa", "aab", "aba", "abb"]));
    disk.storage().sync_data(&file).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["abb"]));
}

#[test]
fn a_sector_is_never_half_of_a_call() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &sector(b'a'));
    storage.write_at(&file, &[IoSlice::new(&[b'b'; 128]), IoSlice::new(&[b'c'; 384])], 0).unwrap();
    let whole = [vec![b'b'; 128], vec![b'c'; 384]].concat();
    let look = |disk: &SimDisk| disk.raw_read("file").unwrap();
    assert_eq!(outcomes(&disk, ORDERED, look), [sector(b'a'), whole].into());
}

#[test]
fn intermediate_versions_are_possible() {
    let (disk, ..) = fresh();
    let file = durable_file(&disk, &sector(b'a'));
    for letter in [b'b', b'c', b'b'] {
        write(&disk, &file, &sector(letter), 0);
    }
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["a", "b", "c"]));
}

#[test]
fn an_unsynced_sector_may_be_garbage_if_the_policy_says_so() {
    let (disk, ..) = fresh();
    let file = durable_file(&disk, &[b'a'; 1024]);
    write(&disk, &file, &sector(b'b'), 0);
    let torn = CrashPolicy { garbage: true, ..ORDERED };
    let all = outcomes(&disk, torn, |disk| disk.raw_read("file").unwrap());
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|bytes| bytes[512..] == sector(b'a')));
    // Also one that was written with what it held.
    disk.storage().sync_data(&file).unwrap();
    write(&disk, &file, &sector(b'b'), 0);
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["ba"]));
    assert_eq!(outcomes(&disk, torn, |disk| disk.raw_read("file").unwrap()).len(), 2);
}

#[test]
fn an_unsynced_length_is_any_since_the_sync_and_new_space_reads_as_zeros() {
    let (disk, ..) = fresh();
    let file = durable_file(&disk, &sector(b'a'));
    write(&disk, &file, &sector(b'b'), 512);
    write(&disk, &file, &sector(b'c'), 1024);
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["a", "a-", "ab", "a--", "ab-", "a-c", "abc"]));
}

#[test]
fn a_long_append_grows_page_by_page() {
    let (disk, ..) = fresh();
    let file = durable_file(&disk, b"");
    write(&disk, &file, &[1; 9000], 100);
    let look = |disk: &SimDisk| disk.raw_read("file").unwrap().len();
    let states: BTreeSet<usize> = (0..300).map(|seed| look(&disk.crash(&ORDERED, seed))).collect();
    assert_eq!(states, [0, 4096, 8192, 9100].into());
}

#[test]
fn ordered_data_lets_the_length_wait_for_new_blocks() {
    let ordered = CrashPolicy { ordered_data: true, ..ORDERED };
    let (disk, ..) = fresh();
    let file = durable_file(&disk, b"");
    write(&disk, &file, &[b'b'; 1024], 0);
    assert_eq!(outcomes(&disk, ordered, sectors), set(["", "bb"]));
    // Rewritten since: the length needs the data of its own time.
    write(&disk, &file, &sector(b'c'), 0);
    assert_eq!(outcomes(&disk, ordered, sectors), set(["", "bb", "cb"]));
    // In a block that is allocated already, there is nothing to wait for.
    disk.settle();
    write(&disk, &file, &sector(b'd'), 1024);
    assert_eq!(outcomes(&disk, ordered, sectors), set(["cb", "cb-", "cbd"]));
}

#[test]
fn a_truncation_is_there_or_not() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 1024]);
    storage.set_len(&file, 600).unwrap();
    let look = |disk: &SimDisk| {
        let bytes = disk.raw_read("file").unwrap();
        (bytes.len(), bytes.iter().all(|&byte| byte == b'a'))
    };
    for policy in [ORDERED, SUBSET] {
        assert_eq!(outcomes(&disk, policy, look), [(600, true), (1024, true)].into());
    }
}

#[test]
fn cut_and_grown_again_shows_nothing_of_before_unless_the_cut_was_lost() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 1024]);
    storage.set_len(&file, 512).unwrap();
    storage.set_len(&file, 1024).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["aa", "a", "a-"]));
    // Within a sector too.
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 512]);
    storage.set_len(&file, 100).unwrap();
    storage.set_len(&file, 512).unwrap();
    let count = |disk: &SimDisk| disk.raw_read("file").unwrap().iter().filter(|&&byte| byte == b'a').count();
    assert_eq!(outcomes(&disk, ORDERED, count), [512, 100].into());
}

#[test]
fn freed_blocks_are_not_used_before_the_cut_is_durable() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 1024]);
    storage.set_len(&file, 0).unwrap();
    write(&disk, &file, &[b'b'; 1024], 0);
    // Never "ab" or "ba": that takes the old length with the new data.
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["aa", "", "--", "b-", "-b", "bb"]));
    // Without order, the cut may be lost and the rest not.
    let harsh = outcomes(&disk, SUBSET, sectors);
    assert!(harsh.contains("ab") && harsh.contains("ba"));
}

#[test]
fn a_hole_is_there_or_not_and_later_writes_are_free() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 1024]);
    storage.punch_hole(&file, 0, 512).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["aa", "-a"]));
    write(&disk, &file, &sector(b'b'), 0);
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["aa", "ba", "-a"]));
    storage.sync_file(&file).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["ba"]));
}

#[test]
fn reserved_space_takes_no_data_and_keeps_the_length() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, b"abc");
    storage.allocate(&file, 0, 40960).unwrap();
    let stat = storage.stat(Target::File(&file)).unwrap();
    assert_eq!((stat.size_bytes, stat.blocks), (3, 80));
    assert_eq!(disk.crash(&ORDERED, 0).raw_stat("file").unwrap().blocks, 8);
    storage.sync_data(&file).unwrap();
    assert_eq!(disk.crash(&ORDERED, 0).raw_stat("file").unwrap().blocks, 80);
    assert_eq!(disk.raw_read("file").unwrap(), b"abc");
    storage.set_len(&file, 0).unwrap();
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn the_data_of_one_file_does_not_wait_for_another() {
    let (disk, storage, root) = fresh();
    let first = durable_file(&disk, &sector(b'a'));
    let second = storage.create_file(&root, name("second"), 0o600).unwrap();
    write(&disk, &first, &sector(b'b'), 0);
    write(&disk, &second, &sector(b'c'), 0);
    storage.sync_file(&second).unwrap();
    assert_eq!(outcomes(&disk, CrashPolicy::JOURNALED, sectors), set(["a", "b"]));
}

#[test]
fn renamed_before_synced_may_be_empty() {
    // The error that every program makes once.
    let (disk, storage, root) = fresh();
    durable_file(&disk, b"old");
    let new = storage.create_file(&root, name("new"), 0o600).unwrap();
    write(&disk, &new, b"new", 0);
    storage.rename(&root, name("new"), &root, name("file"), RenameMode::Replace).unwrap();
    let look = |disk: &SimDisk| String::from_utf8(disk.raw_read("file").unwrap()).unwrap();
    assert_eq!(outcomes(&disk, CrashPolicy::JOURNALED, look), set(["old", "", "new"]));
}

#[test]
fn times_of_writes_come_with_the_inode() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &sector(b'a'));
    let before = disk.raw_stat("file").unwrap().mtime;
    disk.advance(Duration::from_millis(1500));
    write(&disk, &file, &sector(b'b'), 0);
    let after = Timestamp { seconds: before.seconds + 1, nanoseconds: 500_000_000 };
    assert_eq!((disk.raw_stat("file").unwrap().mtime, storage.now()), (after, after));
    let mtime = |disk: &SimDisk| disk.raw_stat("file").unwrap().mtime;
    assert_eq!(outcomes(&disk, ORDERED, mtime), [before, after].into());
    // fdatasync has no need of it.
    storage.sync_data(&file).unwrap();
    write(&disk, &file, &sector(b'c'), 0);
    assert!(outcomes(&disk, ORDERED, mtime).contains(&before));
    storage.sync_file(&file).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, mtime), [after].into());
    // A time that was set stays, whatever the data does.
    let set_to = Timestamp { seconds: 5, nanoseconds: 5 };
    storage.set_times(Target::File(&file), SetTime::Keep, SetTime::To(set_to)).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, mtime), [after, set_to].into());
    storage.sync_file(&file).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, mtime), [set_to].into());
}

#[test]
fn long_files_are_sparse_and_cheap() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, b"");
    storage.set_len(&file, 1 << 40).unwrap();
    write(&disk, &file, b"end", 1 << 40);
    storage.sync_file(&file).unwrap();
    assert_eq!(disk.used_bytes(), 4096);
    assert_eq!(disk.crash(&ORDERED, 1).raw_stat("file").unwrap().size_bytes, (1 << 40) + 3);
    assert_errno(storage.set_len(&file, 1 << 44), libc::EFBIG);
    assert!(storage.fits(&file, 1 << 40) && !storage.fits(&file, 1 << 44));
    assert_errno(write_from(&storage, &file, b"xx", u64::MAX - 1), libc::EINVAL);
}

use super::*;

#[test]
fn a_full_disk_takes_what_fits_and_freed_space_is_usable_again() {
    let (disk, storage, root) = fresh();
    disk.set_capacity(Some(4 * 4096));
    let first = storage.create_file(&root, name("first"), 0o600).unwrap();
    write(&disk, &first, &[1; 3 * 4096], 0);
    let second = storage.create_file(&root, name("second"), 0o600).unwrap();
    assert_errno(write_from(&storage, &second, &[2; 8192], 100), libc::ENOSPC);
    assert_eq!(storage.stat(Target::File(&second)).unwrap().size_bytes, 4096);
    assert_eq!(storage.space().unwrap().blocks_available, 0);
    assert_errno(storage.create_file(&root, name("third"), 0o600), libc::ENOSPC);
    // What is there can be overwritten; holes below the end cost space.
    write(&disk, &first, &[3; 4096], 0);
    storage.set_len(&second, 1 << 20).unwrap();
    assert_errno(write_from(&storage, &second, b"x", 8192), libc::ENOSPC);
    assert_errno(storage.allocate(&second, 8192, 1), libc::ENOSPC);

    storage.punch_hole(&first, 0, 4096).unwrap();
    write(&disk, &second, b"x", 8192);
    storage.set_len(&second, 0).unwrap();
    storage.allocate(&second, 0, 8192).unwrap();
    assert_errno(write_from(&storage, &second, &[4; 8193], 0), libc::ENOSPC);
    storage.unlink(&root, name("first")).unwrap();
    assert_eq!(disk.used_bytes(), 4 * 4096);
    drop(first);
    assert_eq!(disk.used_bytes(), 2 * 4096);
    disk.set_capacity(None);
    write(&disk, &second, &[5; 1 << 20], 0);
}

#[test]
fn no_space_after_some_bytes() {
    let (disk, storage, root) = fresh();
    let file = durable_file(&disk, b"");
    disk.inject(Fault::NoSpace { after_bytes: 1000 });
    write(&disk, &file, &[1; 600], 0);
    assert_errno(write_from(&storage, &file, &[2; 600], 600), libc::ENOSPC);
    assert_eq!(storage.stat(Target::File(&file)).unwrap().size_bytes, 1000);
    assert_errno(write_from(&storage, &file, b"x", 0), libc::ENOSPC);
    assert_errno(storage.make_dir(&root, name("d"), 0o700), libc::ENOSPC);
    assert_errno(storage.set_xattr(Target::File(&file), name("user.a"), b"", XattrMode::Any), libc::ENOSPC);
    storage.rename(&root, name("file"), &root, name("moved"), RenameMode::Replace).unwrap();
    disk.clear_faults();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
}

#[test]
fn the_nth_read_or_write_fails() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 512]);
    disk.inject(Fault::WriteError { nth: 2 });
    disk.inject(Fault::ReadError { nth: 1 });
    write(&disk, &file, b"b", 0);
    assert_errno(write_from(&storage, &file, b"c", 0), libc::EIO);
    write(&disk, &file, b"d", 1);
    assert_errno(read_into(&storage, &file, &mut [0; 4], 0), libc::EIO);
    let mut bytes = [0; 4];
    read_into(&storage, &file, &mut bytes, 0).unwrap();
    assert_eq!(bytes, *b"bdaa");
}

#[test]
fn a_short_write_leaves_a_prefix() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 1000]);
    disk.inject(Fault::ShortWrite { nth: 1 });
    assert_errno(write_from(&storage, &file, &[b'b'; 1000], 0), libc::EIO);
    let bytes = disk.raw_read("file").unwrap();
    let written = bytes.iter().take_while(|&&byte| byte == b'b').count();
    assert!(written < 1000 && bytes[written..].iter().all(|&byte| byte == b'a'));
}

#[test]
fn what_a_failed_sync_lost_no_later_sync_writes() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 1024]);
    write(&disk, &file, &[b'b'; 1024], 0);
    disk.inject(Fault::SyncError { nth: 1 });
    assert_errno(storage.sync_file(&file), libc::EIO);
    // It seems to be there, and the next sync seems to work.
    assert_eq!(sectors(&disk), "bb");
    storage.sync_file(&file).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["aa", "ab", "ba", "bb"]));
    // Only a sector that is written again is safe.
    write(&disk, &file, &[b'c'; 512], 512);
    storage.sync_data(&file).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["ac", "bc"]));
    write(&disk, &file, &[b'd'; 1024], 0);
    storage.sync_all().unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["dd"]));
}

#[test]
fn a_failed_sync_loses_growth_too() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, b"");
    write(&disk, &file, &[b'b'; 512], 0);
    disk.inject(Fault::SyncError { nth: 1 });
    assert_errno(storage.sync_all(), libc::EIO);
    write(&disk, &file, &[b'c'; 512], 512);
    storage.sync_file(&file).unwrap();
    for policy in CrashPolicy::ALL.into_iter().filter(|policy| !policy.garbage) {
        assert_eq!(outcomes(&disk, policy, sectors), set(["-c", "bc"]));
    }
    storage.set_len(&file, 0).unwrap();
    storage.sync_file(&file).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set([""]));
}

#[test]
fn a_failed_sync_makes_no_name_durable() {
    let (disk, storage, root) = fresh();
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    disk.inject(Fault::SyncError { nth: 1 });
    assert_errno(storage.sync_dir(&root), libc::EIO);
    assert_eq!(outcomes(&disk, ORDERED, listing), set(["", "d/"]));
}

#[test]
fn a_skipped_sync_is_a_missing_barrier() {
    let (disk, storage, _) = fresh();
    let file = durable_file(&disk, &[b'a'; 512]);
    disk.inject(Fault::SyncSkipped { nth: 2 });
    for letter in *b"bc" {
        write(&disk, &file, &[letter; 512], 0);
        storage.sync_data(&file).unwrap();
    }
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["b", "c"]));
    storage.sync_data(&file).unwrap();
    assert_eq!(outcomes(&disk, ORDERED, sectors), set(["c"]));
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let prefix = |seed| {
        let disk = SimDisk::new(seed);
        let file = durable_file(&disk, b"");
        disk.inject(Fault::ShortWrite { nth: 1 });
        let _ = write_from(&disk.storage(), &file, &[1; 100_000], 0);
        disk.raw_read("file").unwrap().len()
    };
    assert_eq!(prefix(7), prefix(7));
    assert_ne!(prefix(7), prefix(8));
}

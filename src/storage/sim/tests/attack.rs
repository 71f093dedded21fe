use super::*;
use crate::storage::FileKind;

#[test]
fn an_attacker_sees_and_changes_everything_at_once() {
    let disk = SimDisk::new(1);
    disk.raw_make_dir("d").unwrap();
    disk.raw_write("d/f", b"content").unwrap();
    disk.raw_write("d/f", b"other").unwrap();
    disk.raw_write_at("d/f", 5, b"!").unwrap();
    disk.raw_set_len("d/f", 7).unwrap();
    disk.raw_symlink("d/l", b"first").unwrap();
    disk.raw_symlink("d/l", b"second").unwrap();
    disk.raw_link("d/f", "g").unwrap();
    disk.raw_set_xattr("g", "user.a", Some(b"v")).unwrap();
    assert_eq!(listing(&disk), "d/ d/f:7 d/l@ g:7");
    assert_eq!(disk.raw_read("g").unwrap(), b"other!\0");
    assert_eq!(disk.raw_read("d/l").unwrap(), b"second");
    assert_eq!(disk.raw_xattr("d/f", "user.a").unwrap(), b"v");
    assert_eq!(disk.raw_list()[2].kind, FileKind::Symlink);
    assert_eq!(disk.steps(), 0);
    for policy in CrashPolicy::ALL {
        assert_eq!(outcomes(&disk, policy, listing), set(["d/ d/f:7 d/l@ g:7"]));
    }
    disk.raw_rename("d/l", "g", RenameMode::Exchange).unwrap();
    disk.raw_set_xattr("d/f", "user.a", None).unwrap();
    disk.raw_remove("d").unwrap();
    assert_eq!(listing(&disk), "g@");
    assert_eq!(outcomes(&disk, SUBSET, listing), set(["g@"]));
    assert_eq!(disk.used_bytes(), 0);
    assert_errno(disk.raw_read("../x"), libc::EINVAL);
    assert_errno(disk.raw_remove("missing"), libc::ENOENT);
}

#[test]
fn an_attack_on_a_disk_in_use_leaves_the_unsynced_alone() {
    let (disk, storage, root) = fresh();
    let file = durable_file(&disk, &[b'a'; 512]);
    disk.raw_write("other", b"x").unwrap();
    write(&disk, &file, &[b'b'; 512], 0);
    storage.make_dir(&root, name("d"), 0o700).unwrap();
    disk.raw_write("other", b"yy").unwrap();
    assert_eq!(outcomes(&disk, SUBSET, listing), set(["file:512 other:2", "d/ file:512 other:2"]));
    assert_eq!(outcomes(&disk, SUBSET, sectors), set(["a", "b"]));
    // A process that has the file open sees it change.
    disk.raw_write("file", &[b'z'; 512]).unwrap();
    let mut bytes = [0; 1];
    read_into(&storage, &file, &mut bytes, 0).unwrap();
    assert_eq!(bytes, *b"z");
    assert_eq!(outcomes(&disk, SUBSET, sectors), set(["z"]));
}

#[test]
fn an_old_state_can_be_put_back() {
    let (disk, storage, root) = fresh();
    let file = durable_file(&disk, &[b'a'; 512]);
    let old = disk.snapshot();
    write(&disk, &file, &[b'b'; 512], 0);
    let newer = storage.create_file(&root, name("newer"), 0o600).unwrap();
    disk.restore(&old);
    assert_eq!((listing(&disk), sectors(&disk)), ("file:512".to_owned(), "a".to_owned()));
    assert_errno(storage.stat(Target::File(&newer)), libc::ESTALE);
    assert_errno(write_from(&storage, &newer, b"x", 0), libc::ESTALE);
    write(&disk, &file, &[b'c'; 512], 0);
    // The snapshot is a value: as often as one likes.
    assert_eq!(sectors(&old.to_disk()), "a");
    disk.restore(&old);
    assert_eq!(sectors(&disk), "a");
}

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::{read_into, write_from};
use super::*;

fn backing() -> (TempDir, PosixStorage, PosixDir) {
    let folder = tempfile::tempdir().unwrap();
    let storage = PosixStorage::open(folder.path()).unwrap();
    let root = storage.open_root().unwrap();
    (folder, storage, root)
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

#[track_caller]
fn assert_errno<T>(outcome: io::Result<T>, errno: i32) {
    match outcome {
        Ok(_) => panic!("succeeded instead of {}", io::Error::from_raw_os_error(errno)),
        Err(error) => assert_eq!(error.raw_os_error(), Some(errno), "{error}"),
    }
}

fn names_in(storage: &PosixStorage, dir: &PosixDir) -> Vec<String> {
    let mut names = Vec::new();
    storage
        .read_dir(dir, 0, &mut |entry| {
            names.push(entry.name.to_str().unwrap().to_owned());
            true
        })
        .unwrap();
    names.sort();
    names
}

#[test]
fn names_are_single_components() {
    let (folder, storage, root) = backing();
    storage.make_dir(&root, name("sub"), 0o755).unwrap();
    std::fs::write(folder.path().join("sub/file"), b"x").unwrap();
    for bad in ["..", "sub/file", "/etc/passwd", "sub/", "a\0b"] {
        assert_errno(storage.open_file(&root, name(bad), Access::Read), libc::EINVAL);
        assert_errno(storage.open_dir(&root, name(bad)), libc::EINVAL);
        assert_errno(storage.create_file(&root, name(bad), 0o600), libc::EINVAL);
        assert_errno(storage.stat(Target::Entry(&root, name(bad))), libc::EINVAL);
        assert_errno(storage.xattr(Target::Entry(&root, name(bad)), name("user.a")), libc::EINVAL);
        assert_errno(storage.set_mode(Target::Entry(&root, name(bad)), 0o600), libc::EINVAL);
        assert_errno(storage.rename(&root, name("sub"), &root, name(bad), RenameMode::Replace), libc::EINVAL);
        assert_errno(storage.unlink(&root, name(bad)), libc::EINVAL);
    }
    assert_errno(storage.stat(Target::Entry(&root, name(""))), libc::ENOENT);
    assert_errno(storage.stat(Target::Entry(&root, name("."))), libc::EINVAL);
    let long = "n".repeat(256);
    assert_errno(storage.create_file(&root, name(&long), 0o600), libc::ENAMETOOLONG);
    assert_errno(storage.xattr(Target::Entry(&root, name(&long)), name("user.a")), libc::ENAMETOOLONG);
    let longest = "n".repeat(255);
    storage.create_file(&root, name(&longest), 0o600).unwrap();
    assert_errno(storage.xattr(Target::Entry(&root, name(&longest)), name("user.a")), libc::ENODATA);
    // "." opens the same directory again.
    let again = storage.open_dir(&root, name(".")).unwrap();
    assert_eq!(storage.stat(Target::Dir(&again)).unwrap(), storage.stat(Target::Dir(&root)).unwrap());
}

#[test]
fn symlinks_are_never_followed() {
    let (folder, storage, root) = backing();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, b"secret").unwrap();
    std::fs::set_permissions(&victim, PermissionsExt::from_mode(0o640)).unwrap();
    let before = std::fs::metadata(&victim).unwrap();
    symlink(&victim, folder.path().join("file")).unwrap();
    symlink(outside.path(), folder.path().join("dir")).unwrap();
    let link = Target::Entry(&root, name("file"));

    assert_errno(storage.open_file(&root, name("file"), Access::Read), libc::ELOOP);
    assert_errno(storage.open_file(&root, name("file"), Access::ReadWrite), libc::ELOOP);
    assert_errno(storage.open_dir(&root, name("dir")), libc::ENOTDIR);
    assert_errno(storage.create_file(&root, name("file"), 0o600), libc::EEXIST);
    assert_errno(storage.set_mode(link, 0o777), libc::EOPNOTSUPP);
    assert_errno(storage.set_xattr(link, name("user.a"), b"1", XattrMode::Any), libc::EPERM);
    storage.set_times(link, SetTime::Now, SetTime::To(Timestamp { seconds: 7, nanoseconds: 8 })).unwrap();
    assert_eq!(storage.stat(link).unwrap().kind(), FileKind::Symlink);
    assert_eq!(storage.stat(link).unwrap().mtime, Timestamp { seconds: 7, nanoseconds: 8 });
    storage.link(link, &root, name("second")).unwrap();
    assert_eq!(storage.stat(Target::Entry(&root, name("second"))).unwrap().kind(), FileKind::Symlink);

    let pin = storage.pin(&root, name("file")).unwrap();
    assert_errno(storage.open_pinned(&pin, Access::Read), libc::ELOOP);
    assert_errno(storage.set_mode(Target::Pin(&pin), 0o777), libc::EOPNOTSUPP);
    assert_errno(storage.set_xattr(Target::Pin(&pin), name("user.a"), b"1", XattrMode::Any), libc::EPERM);
    let later = Timestamp { seconds: 9, nanoseconds: 10 };
    storage.set_times(Target::Pin(&pin), SetTime::Keep, SetTime::To(later)).unwrap();
    assert_eq!(storage.stat(link).unwrap().mtime, later);
    if rustix::process::geteuid().is_root() {
        storage.set_owner(link, Some(12), Some(34)).unwrap();
        storage.set_owner(Target::Pin(&pin), None, Some(35)).unwrap();
        let stat = storage.stat(link).unwrap();
        assert_eq!((stat.uid, stat.gid), (12, 35));
        storage.set_xattr(link, name("trusted.sero"), b"t", XattrMode::Any).unwrap();
        assert_eq!(storage.xattr(Target::Pin(&pin), name("trusted.sero")).unwrap(), b"t");
        storage.remove_xattr(Target::Pin(&pin), name("trusted.sero")).unwrap();
        assert_errno(storage.xattr(link, name("trusted.sero")), libc::ENODATA);
    }

    let after = std::fs::metadata(&victim).unwrap();
    assert_eq!(after.mode(), before.mode());
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    assert_eq!(std::fs::read(&victim).unwrap(), b"secret");
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let (_folder, storage, root) = backing();
    storage.make_node(&root, name("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    storage.make_node(&root, name("socket"), libc::S_IFSOCK | 0o600, 0).unwrap();
    storage.make_dir(&root, name("dir"), 0o700).unwrap();
    let start = Instant::now();
    for access in [Access::Read, Access::ReadWrite] {
        assert_errno(storage.open_file(&root, name("fifo"), access), libc::ENXIO);
        assert_errno(storage.open_file(&root, name("socket"), access), libc::ENXIO);
        assert_errno(storage.open_file(&root, name("dir"), access), libc::EISDIR);
        let pin = storage.pin(&root, name("fifo")).unwrap();
        assert_errno(storage.open_pinned(&pin, access), libc::ENXIO);
    }
    assert_errno(storage.open_dir(&root, name("fifo")), libc::ENOTDIR);
    assert!(start.elapsed() < Duration::from_secs(5));
    storage.set_mode(Target::Entry(&root, name("fifo")), 0o640).unwrap();
    assert_eq!(storage.stat(Target::Entry(&root, name("fifo"))).unwrap().mode, libc::S_IFIFO | 0o640);
}

#[test]
fn device_numbers_keep_their_encoding() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (_folder, storage, root) = backing();
    let rdev = sys::makedev(259, 0x12345);
    storage.make_node(&root, name("disk"), libc::S_IFBLK | 0o600, rdev).unwrap();
    let stat = storage.stat(Target::Entry(&root, name("disk"))).unwrap();
    assert_eq!((stat.kind(), stat.rdev), (FileKind::BlockDevice, rdev));
}

#[test]
fn times_before_1970_keep_their_nanoseconds() {
    let (_folder, storage, root) = backing();
    let file = storage.create_file(&root, name("old"), 0o600).unwrap();
    let atime = Timestamp { seconds: -1, nanoseconds: 999_999_999 };
    let mtime = Timestamp { seconds: -86_400 * 365 * 30, nanoseconds: 1 };
    storage.set_times(Target::File(&file), SetTime::To(atime), SetTime::To(mtime)).unwrap();
    let stat = storage.stat(Target::Entry(&root, name("old"))).unwrap();
    assert_eq!((stat.atime, stat.mtime), (atime, mtime));
    assert!(stat.btime.is_none_or(|btime| btime.seconds > 0));

    storage.set_times(Target::Entry(&root, name("old")), SetTime::Keep, SetTime::Now).unwrap();
    let stat = storage.stat(Target::File(&file)).unwrap();
    assert_eq!(stat.atime, atime);
    // Linux stamps inodes on a finer clock since 6.13: a moment ahead of the coarse one.
    assert!((stat.mtime.seconds - storage.now().seconds).abs() <= 1);

    let invalid = SetTime::To(Timestamp { seconds: 0, nanoseconds: u32::MAX });
    assert_errno(storage.set_times(Target::File(&file), invalid, SetTime::Keep), libc::EINVAL);
}

#[test]
fn xattr_values_of_any_length() {
    let (_folder, storage, root) = backing();
    let file = storage.create_file(&root, name("file"), 0o600).unwrap();
    let pin = storage.pin(&root, name("file")).unwrap();
    let targets: [Target<'_, PosixStorage>; 3] =
        [Target::Entry(&root, name("file")), Target::File(&file), Target::Pin(&pin)];
    let key = name("user.sero");
    for target in targets {
        assert_errno(storage.xattr(target, key), libc::ENODATA);
        assert_errno(storage.set_xattr(target, key, b"", XattrMode::Replace), libc::ENODATA);
        for len in [0, 1, XATTR_PROBE_BYTES - 1, XATTR_PROBE_BYTES, XATTR_PROBE_BYTES + 1, 3000] {
            let value = vec![7; len];
            storage.set_xattr(target, key, &value, XattrMode::Any).unwrap();
            for reader in targets {
                assert_eq!(storage.xattr(reader, key).unwrap(), value, "{len}");
            }
        }
        assert_errno(storage.set_xattr(target, key, b"", XattrMode::Create), libc::EEXIST);
        storage.remove_xattr(target, key).unwrap();
        assert_errno(storage.remove_xattr(target, key), libc::ENODATA);
    }
    storage.set_xattr(Target::Dir(&root), key, b"dir", XattrMode::Create).unwrap();
    assert_eq!(storage.xattr(Target::Dir(&root), key).unwrap(), b"dir");
}

#[test]
fn the_longest_xattr_value_where_the_filesystem_takes_it() {
    // tmpfs takes 64 KiB, ext4 does not.
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let storage = PosixStorage::open(folder.path()).unwrap();
    let root = storage.open_root().unwrap();
    let value = vec![1; XATTR_MAX_BYTES];
    match storage.set_xattr(Target::Dir(&root), name("user.long"), &value, XattrMode::Any) {
        Ok(()) => assert_eq!(storage.xattr(Target::Dir(&root), name("user.long")).unwrap(), value),
        Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSPC)), "{error}"),
    }
}

#[test]
fn pins_outlive_names() {
    let (_folder, storage, root) = backing();
    let file = storage.create_file(&root, name("file"), 0o640).unwrap();
    write_from(&storage, &file, b"content", 0).unwrap();
    drop(file);
    let pin = storage.pin(&root, name("file")).unwrap();
    storage.unlink(&root, name("file")).unwrap();
    assert_eq!(storage.stat(Target::Pin(&pin)).unwrap().nlink, 0);
    storage.set_mode(Target::Pin(&pin), 0o600).unwrap();
    storage.set_owner(Target::Pin(&pin), None, None).unwrap();
    storage.set_xattr(Target::Pin(&pin), name("user.a"), b"1", XattrMode::Any).unwrap();
    let when = Timestamp { seconds: 5, nanoseconds: 6 };
    storage.set_times(Target::Pin(&pin), SetTime::To(when), SetTime::To(when)).unwrap();
    let file = storage.open_pinned(&pin, Access::ReadWrite).unwrap();
    let mut content = [0; 16];
    assert_eq!(read_into(&storage, &file, &mut content, 0).unwrap(), 7);
    assert_eq!(&content[..7], b"content");
    let stat = storage.stat(Target::File(&file)).unwrap();
    assert_eq!((stat.mode & 0o7777, stat.mtime), (0o600, when));
    assert_eq!(storage.xattr(Target::File(&file), name("user.a")).unwrap(), b"1");
}

#[test]
fn all_buffers_are_written_and_read() {
    let (_folder, storage, root) = backing();
    let file = storage.create_file(&root, name("file"), 0o600).unwrap();
    // More buffers than one call takes, empty ones among them, the last 1024 all empty.
    let lengths: Vec<usize> = (0..5000).map(|i| if i < 3900 { i % 7 } else { 0 }).collect();
    let total: usize = lengths.iter().sum();
    let content: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
    let mut rest = &content[..];
    let mut slices = Vec::new();
    for &len in &lengths {
        let (head, tail) = rest.split_at(len);
        slices.push(IoSlice::new(head));
        rest = tail;
    }
    storage.write_at(&file, &slices, 3).unwrap();
    assert_eq!(storage.stat(Target::File(&file)).unwrap().size_bytes, 3 + total as u64);

    let mut read = vec![0; total + 10];
    let mut rest = &mut read[..];
    let mut slices = Vec::new();
    for len in lengths.iter().copied().chain([10]) {
        let (head, tail) = rest.split_at_mut(len);
        slices.push(IoSliceMut::new(head));
        rest = tail;
    }
    assert_eq!(storage.read_at(&file, &mut slices, 3).unwrap(), total);
    assert_eq!(&read[..total], &content);
    assert_eq!(storage.read_at(&file, &mut [], 0).unwrap(), 0);
    storage.write_at(&file, &[], 0).unwrap();
    assert_errno(write_from(&storage, &file, b"12", u64::MAX - 1), libc::EINVAL);
}

#[test]
fn read_dir_goes_on_from_cookies_while_entries_go() {
    let (_folder, storage, root) = backing();
    let count = 2000;
    for i in 0..count {
        storage.create_file(&root, name(&format!("entry-{i:05}-{}", "x".repeat(40))), 0o600).unwrap();
    }
    let lister = storage.open_dir(&root, name(".")).unwrap();
    let mut seen = Vec::new();
    let mut cookie = 0;
    loop {
        let mut batch = Vec::new();
        storage
            .read_dir(&lister, cookie, &mut |entry| {
                assert_eq!(entry.kind, FileKind::Regular);
                batch.push(entry.name.to_owned());
                cookie = entry.next_cookie;
                batch.len() < 37
            })
            .unwrap();
        if batch.is_empty() {
            break;
        }
        for entry in &batch {
            storage.unlink(&root, entry).unwrap();
        }
        seen.extend(batch);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count);
    assert!(names_in(&storage, &root).is_empty());
    storage.make_dir(&root, name("dir"), 0o700).unwrap();
    assert_eq!(names_in(&storage, &root), ["dir"]);
}

#[test]
fn rename_modes() {
    let (_folder, storage, root) = backing();
    storage.make_dir(&root, name("dir"), 0o700).unwrap();
    let dir = storage.open_dir(&root, name("dir")).unwrap();
    let put = |at: &PosixDir, entry: &str, content: &[u8]| {
        let file = storage.create_file(at, name(entry), 0o600).unwrap();
        write_from(&storage, &file, content, 0).unwrap();
    };
    let get = |at: &PosixDir, entry: &str| {
        let file = storage.open_file(at, name(entry), Access::Read).unwrap();
        let mut content = [0; 1];
        read_into(&storage, &file, &mut content, 0).unwrap();
        content[0]
    };
    put(&root, "a", b"a");
    put(&dir, "b", b"b");
    assert_errno(storage.rename(&root, name("a"), &dir, name("b"), RenameMode::NoReplace), libc::EEXIST);
    assert_errno(storage.rename(&root, name("a"), &dir, name("c"), RenameMode::Exchange), libc::ENOENT);
    storage.rename(&root, name("a"), &dir, name("b"), RenameMode::Exchange).unwrap();
    assert_eq!((get(&root, "a"), get(&dir, "b")), (b'b', b'a'));
    storage.rename(&root, name("a"), &dir, name("b"), RenameMode::Replace).unwrap();
    assert_eq!((names_in(&storage, &root), get(&dir, "b")), (vec!["dir".to_owned()], b'b'));
    storage.rename(&dir, name("b"), &root, name("new"), RenameMode::NoReplace).unwrap();
    assert_eq!(get(&root, "new"), b'b');
    assert_errno(storage.rename(&root, name("dir"), &dir, name("in"), RenameMode::NoReplace), libc::EINVAL);
    assert!(names_in(&storage, &dir).is_empty());
}

#[test]
fn no_replace_without_kernel_support() {
    let (folder, storage, root) = backing();
    let rename = |from: &str, to: &str| {
        no_replace::rename((root.0.as_fd(), name(from)), (root.0.as_fd(), name(to)), Errno::INVAL)
    };
    std::fs::write(folder.path().join("file"), b"file").unwrap();
    std::fs::write(folder.path().join("other"), b"other").unwrap();
    symlink("nowhere", folder.path().join("link")).unwrap();
    storage.make_dir(&root, name("dir"), 0o700).unwrap();
    std::fs::write(folder.path().join("dir/inside"), b"").unwrap();
    for from in ["file", "link", "dir"] {
        assert_errno(rename(from, "other"), libc::EEXIST);
    }
    assert_errno(rename("missing", "x"), libc::ENOENT);
    rename("file", "file2").unwrap();
    rename("link", "link2").unwrap();
    rename("dir", "dir2").unwrap();
    assert_eq!(names_in(&storage, &root), ["dir2", "file2", "link2", "other"]);
    assert_eq!(std::fs::read(folder.path().join("file2")).unwrap(), b"file");
    assert!(folder.path().join("dir2/inside").exists());
    // Into itself: refused, and nothing is left behind.
    let dir = storage.open_dir(&root, name("dir2")).unwrap();
    let outcome = no_replace::rename((root.0.as_fd(), name("dir2")), (dir.0.as_fd(), name("sub")), Errno::INVAL);
    assert_errno(outcome, libc::EINVAL);
    assert_eq!(names_in(&storage, &dir), ["inside"]);
}

#[test]
fn locks_belong_to_handles() {
    let (_folder, storage, root) = backing();
    let first = storage.create_file(&root, name("lock"), 0o600).unwrap();
    let second = storage.open_file(&root, name("lock"), Access::ReadWrite).unwrap();
    assert!(storage.try_lock(&first, false).unwrap());
    assert!(storage.try_lock(&second, false).unwrap());
    assert!(!storage.try_lock(&second, true).unwrap());
    drop(first);
    assert!(storage.try_lock(&second, true).unwrap());
    let third = storage.open_file(&root, name("lock"), Access::Read).unwrap();
    assert!(!storage.try_lock(&third, false).unwrap());
    drop(second);
    assert_errno(storage.try_lock(&third, true), libc::EBADF);
    assert!(storage.try_lock(&third, false).unwrap());
}

#[test]
fn a_lock_can_be_looked_at_without_being_taken() {
    let (_folder, storage, root) = backing();
    let file = storage.create_file(&root, name("lock"), 0o600).unwrap();
    let looker = storage.open_file(&root, name("lock"), Access::Read).unwrap();
    for (held, could) in [(None, [true, true]), (Some(false), [true, false]), (Some(true), [false, false])] {
        if let Some(exclusive) = held {
            assert!(storage.try_lock(&file, exclusive).unwrap());
        }
        for (exclusive, could) in [false, true].into_iter().zip(could) {
            assert_eq!(storage.could_lock(&looker, exclusive).unwrap(), could, "{held:?} {exclusive}");
            // A handle's own is not in its way.
            assert!(storage.could_lock(&file, exclusive).unwrap());
        }
    }
}

#[test]
fn what_fits_can_be_a_length() {
    let (_folder, storage, root) = backing();
    let file = storage.create_file(&root, name("file"), 0o600).unwrap();
    for len in (30..63).flat_map(|bits| [(1_u64 << bits) - 4096, (1 << bits) - 1, 1 << bits]) {
        let fits = storage.fits(&file, len);
        assert_eq!(storage.stat(Target::File(&file)).unwrap().size_bytes, 0);
        let outcome = storage.set_len(&file, len);
        assert_eq!(fits, outcome.is_ok(), "{len}: {outcome:?}");
        storage.set_len(&file, 0).unwrap();
    }
    assert!(!storage.fits(&file, u64::MAX));
}

#[test]
fn space_is_reserved_and_given_back() {
    let (_folder, storage, root) = backing();
    let file = storage.create_file(&root, name("file"), 0o600).unwrap();
    write_from(&storage, &file, &[1; 16384], 0).unwrap();
    storage.allocate(&file, 16384, 65536).unwrap();
    storage.allocate(&file, 0, 0).unwrap();
    let stat = storage.stat(Target::File(&file)).unwrap();
    assert_eq!(stat.size_bytes, 16384);
    assert!(stat.blocks >= (16384 + 65536) / 512);
    storage.punch_hole(&file, 4096, 4096).unwrap();
    let mut content = [9; 16384];
    assert_eq!(read_into(&storage, &file, &mut content, 0).unwrap(), 16384);
    assert!(content[4096..8192].iter().all(|&byte| byte == 0));
    assert!(content[8192..].iter().all(|&byte| byte == 1));
    storage.set_len(&file, 10).unwrap();
    assert_eq!(read_into(&storage, &file, &mut content, 0).unwrap(), 10);
    let space = storage.space().unwrap();
    assert!(space.block_size > 0 && space.blocks >= space.blocks_free);
}

#[test]
fn syncs_and_access() {
    let (_folder, storage, root) = backing();
    let file = storage.create_file(&root, name("file"), 0o600).unwrap();
    write_from(&storage, &file, b"x", 0).unwrap();
    storage.sync_data(&file).unwrap();
    storage.sync_file(&file).unwrap();
    storage.sync_dir(&root).unwrap();
    storage.sync_all().unwrap();
    let reader = storage.open_file(&root, name("file"), Access::Read).unwrap();
    assert_errno(write_from(&storage, &reader, b"y", 0), libc::EBADF);
    assert_errno(storage.open_file(&root, name("missing"), Access::Read), libc::ENOENT);
    assert!(!sys::fcntl_getfl(&file.0).unwrap().contains(OFlags::NONBLOCK));
    assert!(!sys::fcntl_getfl(&reader.0).unwrap().contains(OFlags::NONBLOCK));
    for fd in [&file.0, &reader.0, &root.0] {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn a_file_without_a_name_gets_as_many_as_it_is_given() {
    let (folder, storage, root) = backing();
    storage.make_dir(&root, name("sub"), 0o755).unwrap();
    let sub = storage.open_dir(&root, name("sub")).unwrap();
    let file = storage.create_unnamed(&sub, 0o640).unwrap();
    write_from(&storage, &file, b"content", 0).unwrap();
    let stat = storage.stat(Target::File(&file)).unwrap();
    assert_eq!((stat.nlink, stat.kind(), stat.mode & 0o137), (0, FileKind::Regular, 0o000));
    assert!(names_in(&storage, &sub).is_empty());
    storage.link(Target::File(&file), &root, name("one")).unwrap();
    storage.link(Target::File(&file), &sub, name("two")).unwrap();
    assert_errno(storage.link(Target::File(&file), &root, name("one")), libc::EEXIST);
    assert_eq!(std::fs::read(folder.path().join("one")).unwrap(), b"content");
    assert_eq!(std::fs::metadata(folder.path().join("sub/two")).unwrap().nlink(), 2);
    storage.unlink(&root, name("one")).unwrap();
    storage.unlink(&sub, name("two")).unwrap();
    assert_errno(storage.link(Target::File(&file), &root, name("one")), libc::ENOENT);
}

/// Inode numbers tell files of one filesystem apart, and no others.
#[test]
fn a_directory_of_another_filesystem_is_refused() {
    let storage = PosixStorage::open(Path::new("/")).unwrap();
    let root = storage.open_root().unwrap();
    let error = storage.open_dir(&root, OsStr::new("proc")).map(drop).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
}

//! Names: every length, listing, removal, hard links.

use super::*;

#[test]
fn every_length_works_and_leaves_nothing_behind() {
    let mut test = TestVault::new();
    let name = |len: usize| vec![b'n'; len];
    for len in 1..=255 {
        touch(&test.root(), &name(len));
    }
    assert_eq!(test.root().lookup(&name(255)).unwrap().size_bytes, 0);
    assert!(matches!(test.root().lookup(&name(256)), Err(VaultError::NameTooLong)));
    assert!(matches!(test.root().make_file(&name(256), &FILE), Err(VaultError::NameTooLong)));
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert!(matches!(test.root().make_file(bad, &FILE), Err(VaultError::InvalidName)), "{bad:?}");
        assert!(matches!(test.root().lookup(bad), Err(VaultError::InvalidName)), "{bad:?}");
    }
    test.reopen();
    let mut expected: Vec<_> = (1..=255).map(name).collect();
    expected.sort();
    assert_eq!(names_in(&test.root()), expected);
    for entry in backing_names(&test.tree()) {
        assert!(entry.len() <= 255 && !entry.contains("nnnnnnnn"), "{entry}");
    }
    for len in 1..=255 {
        assert_errno(test.root().make_file(&name(len), &FILE), libc::EEXIST);
        test.root().unlink(&name(len)).unwrap();
        assert_errno(test.root().lookup(&name(len)), libc::ENOENT);
    }
    assert!(test.root().is_empty().unwrap());
    assert_eq!(backing_names(&test.tree()), ["=iv"]);
}

#[test]
fn names_of_any_bytes_work() {
    let mut test = TestVault::new();
    let names: Vec<Vec<u8>> =
        [&b"\xff\xfe"[..], b"...", b" ", b"\n", "\u{e4}".as_bytes(), b"=iv", b".nfs1", b"=", b"CON"]
            .iter()
            .map(|name| name.to_vec())
            .chain((1..=255_u8).filter(|&byte| byte != b'/' && byte != b'.').map(|byte| vec![byte]))
            .collect();
    for name in &names {
        match test.root().make_file(name, &FILE) {
            Ok((_, file)) => file.commit().unwrap(),
            Err(error) => assert!(error.to_string().contains("exists"), "{error}"),
        }
    }
    test.reopen();
    let mut expected = names.clone();
    expected.sort();
    expected.dedup();
    assert_eq!(names_in(&test.root()), expected);
}

#[test]
fn equal_names_in_two_directories_differ_in_the_backing() {
    let test = TestVault::new();
    for name in [&b"a"[..], b"b"] {
        touch(&subdir(&test.root(), name), b"same");
    }
    let entry = |name| test.entry(&[name], b"same").file_name().unwrap().to_owned();
    assert_ne!(entry("a"), entry("b"));
}

#[test]
fn a_listing_stops_and_goes_on() {
    let test = TestVault::new();
    let expected: Vec<Vec<u8>> = (0..1500).map(|index| format!("{index:04}").into_bytes()).collect();
    for name in &expected {
        touch(&test.root(), name);
    }
    for step in [1, 7, 600, 5000] {
        let listing = test.root().open_listing().unwrap();
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let before = names.len();
            listing
                .next(cookie, &mut |entry| {
                    if names.len() - before == step {
                        return false;
                    }
                    cookie = entry.next_cookie;
                    names.push(entry.name.to_vec());
                    // The sink may use the directory.
                    assert_eq!(test.root().lookup(entry.name).unwrap().ino, entry.ino);
                    true
                })
                .unwrap();
            if names.len() == before {
                break;
            }
        }
        names.sort();
        assert_eq!(names, expected, "by {step}");
    }
}

#[test]
fn a_listing_survives_removals_and_starts_again() {
    let test = TestVault::new();
    for index in 0..100 {
        touch(&test.root(), format!("{index}").as_bytes());
    }
    let listing = test.root().open_listing().unwrap();
    let mut seen = 0;
    listing
        .next(0, &mut |entry| {
            test.root().unlink(entry.name).unwrap();
            seen += 1;
            true
        })
        .unwrap();
    assert_eq!(seen, 100);
    touch(&test.root(), b"new");
    let mut again = Vec::new();
    listing
        .next(0, &mut |entry| {
            again.push(entry.name.to_vec());
            true
        })
        .unwrap();
    assert_eq!(again, [b"new"]);
    // A cookie that the listing did not give last is looked for in the backing.
    test.root()
        .list(0, &mut |entry| test.root().list(entry.next_cookie, &mut |_| panic!("nothing follows")).is_ok())
        .unwrap();
}

#[test]
fn hard_links_are_one_inode() {
    let test = TestVault::new();
    let other = subdir(&test.root(), b"other");
    let ino = touch(&test.root(), b"one");
    let stat = test.root().link(b"one", &other, &long(b'l')).unwrap();
    assert_eq!((stat.ino, stat.nlink, stat.size_bytes), (ino, 2, 0));
    assert_errno(test.root().link(b"one", &other, &long(b'l')), libc::EEXIST);
    assert_errno(test.root().link(b"other", &test.root(), b"no"), libc::EPERM);
    test.root().unlink(b"one").unwrap();
    assert_eq!(other.lookup(&long(b'l')).unwrap().nlink, 1);
    other.unlink(&long(b'l')).unwrap();
    assert_eq!(backing_names(&test.backing_of(&["other"])), ["=iv"]);
}

#[test]
fn unlink_and_remove_dir_refuse_the_wrong_kind() {
    let test = TestVault::new();
    touch(&test.root(), b"file");
    let dir = subdir(&test.root(), b"dir");
    assert_errno(test.root().unlink(b"dir"), libc::EISDIR);
    assert_errno(test.root().remove_dir(b"file"), libc::ENOTDIR);
    assert_errno(test.root().open_child(b"file"), libc::ENOTDIR);
    assert_errno(test.root().open_file(b"dir"), libc::EISDIR);
    touch(&dir, b"x");
    assert_errno(test.root().remove_dir(b"dir"), libc::ENOTEMPTY);
    assert_eq!(names_in(&dir), [b"x"]);
    dir.unlink(b"x").unwrap();
    test.root().remove_dir(b"dir").unwrap();
    assert_eq!(names_in(&test.root()), [b"file"]);
}

#[test]
fn a_removed_directory_is_gone_for_everyone_and_its_name_is_free() {
    let test = TestVault::new();
    let dir = subdir(&test.root(), b"dir");
    let below = subdir(&dir, b"below");
    assert!(Arc::ptr_eq(&dir, &test.root().open_child(b"dir").unwrap()));
    dir.remove_dir(b"below").unwrap();
    test.root().remove_dir(b"dir").unwrap();
    for gone in [&dir, &below] {
        assert_errno(gone.stat_self(), libc::ENOENT);
        assert_errno(gone.lookup(b"x"), libc::ENOENT);
        assert_errno(gone.make_file(b"x", &FILE), libc::ENOENT);
        assert_errno(gone.open_listing().map(drop), libc::ENOENT);
    }
    let new = subdir(&test.root(), b"dir");
    touch(&new, b"x");
    assert_errno(dir.lookup(b"x"), libc::ENOENT);
}

#[test]
fn nothing_changes_in_a_read_only_vault() {
    let mut test = TestVault::new();
    touch(&subdir(&test.root(), b"dir"), b"file");
    test.close();
    test.open(Mode::ReadOnly);
    let root = test.root();
    let dir = root.open_child(b"dir").unwrap();
    assert_eq!(names_in(&dir), [b"file"]);
    assert!(matches!(root.make_file(b"x", &FILE), Err(VaultError::ReadOnly)));
    assert!(matches!(root.make_dir(b"x", &DIR), Err(VaultError::ReadOnly)));
    assert!(matches!(root.make_symlink(b"x", b"y", &FILE), Err(VaultError::ReadOnly)));
    assert!(matches!(dir.unlink(b"file"), Err(VaultError::ReadOnly)));
    assert!(matches!(root.remove_dir(b"dir"), Err(VaultError::ReadOnly)));
    assert!(matches!(dir.link(b"file", &root, b"x"), Err(VaultError::ReadOnly)));
    assert!(matches!(dir.rename(b"file", &root, b"x", sero::vault::RenameMode::Replace), Err(VaultError::ReadOnly)));
}

/// "the process limit of 20,000 fds is never in danger"
#[test]
fn more_directories_than_are_kept_open() {
    let test = TestVault::new();
    let dirs: Vec<_> = (0..1500).map(|index| subdir(&test.root(), format!("{index}").as_bytes())).collect();
    for (index, dir) in dirs.iter().enumerate() {
        touch(dir, format!("in {index}").as_bytes());
    }
    let backing = test.backing.path();
    let open = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|target| target.starts_with(backing)))
        .count();
    assert!(open < 1100, "{open} descriptors are open");
    for (index, dir) in dirs.iter().enumerate() {
        assert_eq!(names_in(dir), [format!("in {index}").into_bytes()]);
    }
}

#[test]
fn a_very_deep_path_is_walked_and_dropped() {
    let mut test = TestVault::new();
    let mut dir = test.root();
    for _ in 0..3000 {
        dir = subdir(&dir, b"d");
    }
    touch(&dir, b"bottom");
    drop(dir);
    test.reopen();
    let mut dir = test.root();
    for _ in 0..3000 {
        dir = dir.open_child(b"d").unwrap();
    }
    assert_eq!(names_in(&dir), [b"bottom"]);
    // The bottom alone keeps the whole chain, which goes at once.
    drop(dir);
    // Whatever removes the temporary directory may recurse: it is flattened before.
    test.close();
    let mut path = test.tree();
    for index in 0..3000 {
        let below = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
        path = test.backing.path().join(format!("flat{index}"));
        fs::rename(below, &path).unwrap();
    }
}

//! What an attacker does to names is noticed when they are looked at, and costs what was touched alone.

use std::os::unix::fs::symlink;

use super::*;

/// Directories "one" and "two", each with files "a", "b", "c" and a long name.
fn two_directories() -> TestVault {
    let mut test = TestVault::new();
    for name in [&b"one"[..], b"two"] {
        let dir = subdir(&test.root(), name);
        for name in [&b"a"[..], b"b", b"c", &long(b'l')] {
            touch(&dir, name);
        }
    }
    test.reopen();
    test
}

fn one(test: &TestVault) -> Arc<Dir> {
    test.root().open_child(b"one").unwrap()
}

#[test]
fn a_swapped_iv_is_noticed() {
    let mut test = two_directories();
    let (a, b) = (test.backing_of(&["one"]).join("=iv"), test.backing_of(&["two"]).join("=iv"));
    test.at_rest(|tree| {
        let aside = tree.join("aside");
        fs::rename(&a, &aside).unwrap();
        fs::rename(&b, &a).unwrap();
        fs::rename(&aside, &b).unwrap();
    });
    assert_integrity(one(&test).lookup(b"a"));
    assert_integrity(one(&test).make_file(b"new", &FILE));
    assert_integrity(test.root().open_child(b"two").unwrap().lookup(b"a"));
    let (names, outcome) = list(&one(&test));
    assert!(names.is_empty());
    assert_integrity(outcome);
    // A listing alone, before anything else was asked, notices it as well.
    test.reopen();
    assert_integrity(list(&one(&test)).1);
    assert_eq!(names_in(&test.root()), [b"one", b"two"]);
}

#[test]
fn an_edited_iv_is_noticed() {
    type Edit = fn(&Path);
    let edits: [Edit; 4] = [
        |path| {
            let target = fs::read_link(path).unwrap().into_os_string().into_string().unwrap();
            let first = if target.starts_with('A') { 'B' } else { 'A' };
            fs::remove_file(path).unwrap();
            symlink(format!("{first}{}", &target[1..]), path).unwrap();
        },
        |path| {
            fs::remove_file(path).unwrap();
            symlink("nonsense", path).unwrap();
        },
        |path| {
            fs::remove_file(path).unwrap();
            fs::write(path, b"a file").unwrap();
        },
        // Of a directory with names, and no crash explains it.
        |path| fs::remove_file(path).unwrap(),
    ];
    for edit in edits {
        let mut test = two_directories();
        let iv = test.backing_of(&["one"]).join("=iv");
        test.at_rest(|_| edit(&iv));
        assert_integrity(one(&test).lookup(b"a"));
        assert_integrity(list(&one(&test)).1);
        assert_eq!(names_in(&test.root().open_child(b"two").unwrap()).len(), 4);
    }
}

#[test]
fn an_edited_name_is_noticed_and_costs_itself_alone() {
    let mut test = two_directories();
    let entry = test.entry(&["one"], b"b");
    test.at_rest(|_| {
        let name = entry.file_name().unwrap().to_str().unwrap();
        let first = if name.starts_with('A') { 'B' } else { 'A' };
        fs::rename(&entry, entry.with_file_name(format!("{first}{}", &name[1..]))).unwrap();
    });
    let (names, outcome) = list(&one(&test));
    assert_eq!(names, [b"a".to_vec(), b"c".to_vec(), long(b'l')]);
    assert_integrity(outcome);
    one(&test).lookup(b"a").unwrap();
    assert_errno(one(&test).lookup(b"b"), libc::ENOENT);
    assert_errno(test.root().remove_dir(b"one"), libc::ENOTEMPTY);
}

#[test]
fn the_error_comes_once_at_the_end_however_the_listing_is_cut() {
    let mut test = two_directories();
    let backing = test.backing_of(&["one"]);
    test.at_rest(|_| fs::write(backing.join("=junk"), b"").unwrap());
    let listing = one(&test).open_listing().unwrap();
    let (mut cookie, mut names) = (0, 0);
    let outcome = loop {
        let mut given = 0;
        let outcome = listing.next(cookie, &mut |entry| {
            given += 1;
            if given == 2 {
                return false;
            }
            cookie = entry.next_cookie;
            names += 1;
            true
        });
        if outcome.is_err() || given == 0 {
            break outcome;
        }
    };
    assert_eq!(names, 4);
    assert_integrity(outcome);
}

#[test]
fn a_name_moved_to_another_directory_is_noticed() {
    for name in [b"a".to_vec(), long(b'l')] {
        let mut test = two_directories();
        let entry = test.entry(&["one"], &name);
        let to = test.backing_of(&["two"]);
        test.at_rest(|_| {
            let file_name = entry.file_name().unwrap().to_str().unwrap().to_owned();
            fs::rename(&entry, to.join(&file_name)).unwrap();
            if file_name.starts_with('=') {
                let sidecar = format!("{file_name}.n");
                fs::rename(entry.with_file_name(&sidecar), to.join(&sidecar)).unwrap();
            }
        });
        assert_errno(one(&test).lookup(&name), libc::ENOENT);
        let (names, outcome) = list(&test.root().open_child(b"two").unwrap());
        assert_eq!(names.len(), 4);
        assert_integrity(outcome);
    }
}

#[test]
fn what_is_not_a_name_of_sero_is_noticed() {
    for junk in ["README", "=x", "=iv.n", "Thumbs.db", &"A".repeat(43), &format!("={}", "A".repeat(43))] {
        let mut test = two_directories();
        let backing = test.backing_of(&["one"]);
        test.at_rest(|_| fs::write(backing.join(junk), b"").unwrap());
        let (names, outcome) = list(&one(&test));
        assert_eq!(names.len(), 4, "{junk}");
        assert_integrity(outcome);
        one(&test).lookup(b"a").unwrap();
    }
}

#[test]
fn a_damaged_sidecar_is_noticed() {
    type Edit = fn(&Path);
    let edits: [Edit; 3] = [
        |sidecar| fs::remove_file(sidecar).unwrap(),
        |sidecar| {
            fs::remove_file(sidecar).unwrap();
            fs::write(sidecar, b"").unwrap();
        },
        |sidecar| {
            let target = fs::read_link(sidecar).unwrap().into_os_string().into_string().unwrap();
            let first = if target.starts_with('A') { 'B' } else { 'A' };
            fs::remove_file(sidecar).unwrap();
            symlink(format!("{first}{}", &target[1..]), sidecar).unwrap();
        },
    ];
    for edit in edits {
        let mut test = two_directories();
        let entry = test.entry(&["one"], &long(b'l'));
        test.at_rest(|_| edit(&entry.with_file_name(format!("{}.n", entry.file_name().unwrap().to_str().unwrap()))));
        let (names, outcome) = list(&one(&test));
        assert_eq!(names, [b"a", b"b", b"c"]);
        assert_integrity(outcome);
        // Whoever knows the name still reaches the file.
        one(&test).lookup(&long(b'l')).unwrap();
    }
}

#[test]
fn swapped_sidecars_are_noticed() {
    let mut test = two_directories();
    touch(&one(&test), &long(b'm'));
    let sidecar = |name: u8| {
        let entry = test.entry(&["one"], &long(name));
        entry.with_file_name(format!("{}.n", entry.file_name().unwrap().to_str().unwrap()))
    };
    let (l, m) = (sidecar(b'l'), sidecar(b'm'));
    test.at_rest(|tree| {
        let aside = tree.join("aside");
        fs::rename(&l, &aside).unwrap();
        fs::rename(&m, &l).unwrap();
        fs::rename(&aside, &m).unwrap();
    });
    let (names, outcome) = list(&one(&test));
    assert_eq!(names, [b"a", b"b", b"c"]);
    assert_integrity(outcome);
}

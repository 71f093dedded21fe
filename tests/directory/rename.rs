//! Renaming, in all its modes.

use super::*;
use sero::vault::RenameMode::{Exchange, NoReplace, Replace};

#[test]
fn names_of_all_lengths_rename_to_all_lengths() {
    let test = TestVault::new();
    let (a, b) = (subdir(&test.root(), b"a"), subdir(&test.root(), b"b"));
    let lens = [1, 16, 160, 161, 200, 255];
    for from_len in lens {
        for to_len in lens {
            let (from, to) = (vec![b'f'; from_len], vec![b't'; to_len]);
            let ino = touch(&a, &from);
            a.rename(&from, &b, &to, Replace).unwrap();
            assert_errno(a.lookup(&from), libc::ENOENT);
            assert_eq!(b.lookup(&to).unwrap().ino, ino);
            assert_eq!((names_in(&a), names_in(&b)), (vec![], vec![to.clone()]));
            // Within a directory, and over something.
            touch(&b, &from);
            b.rename(&to, &b, &from, Replace).unwrap();
            assert_eq!(b.lookup(&from).unwrap().ino, ino);
            b.unlink(&from).unwrap();
            assert_eq!(backing_names(&test.backing_of(&["a"])), ["=iv"]);
            assert_eq!(backing_names(&test.backing_of(&["b"])), ["=iv"]);
        }
    }
}

#[test]
fn an_exchange_swaps_files_directories_and_long_names() {
    let mut test = TestVault::new();
    let (a, b) = (subdir(&test.root(), b"a"), subdir(&test.root(), b"b"));
    let file = touch(&a, &long(b'f'));
    let dir = subdir(&b, b"dir");
    touch(&dir, b"inside");
    a.rename(&long(b'f'), &b, b"dir", Exchange).unwrap();
    assert_eq!(b.lookup(b"dir").unwrap().ino, file);
    let moved = a.open_child(&long(b'f')).unwrap();
    assert!(Arc::ptr_eq(&moved, &dir));
    touch(&dir, b"later");
    assert_errno(a.rename(&long(b'f'), &b, b"missing", Exchange), libc::ENOENT);
    drop((a, b, dir, moved));
    test.reopen();
    let a = test.root().open_child(b"a").unwrap();
    assert_eq!(names_in(&a), [long(b'f')]);
    assert_eq!(names_in(&a.open_child(&long(b'f')).unwrap()), [b"inside".to_vec(), b"later".to_vec()]);
}

#[test]
fn no_replace_refuses_what_exists() {
    let test = TestVault::new();
    let root = test.root();
    let (one, two) = (touch(&root, b"one"), touch(&root, &long(b't')));
    assert_errno(root.rename(b"one", &root, &long(b't'), NoReplace), libc::EEXIST);
    assert_eq!((root.lookup(b"one").unwrap().ino, root.lookup(&long(b't')).unwrap().ino), (one, two));
    root.rename(b"one", &root, b"three", NoReplace).unwrap();
    assert_eq!(names_in(&root), [b"three".to_vec(), long(b't')]);
}

#[test]
fn a_directory_replaces_an_empty_one_alone() {
    let mut test = TestVault::new();
    let root = test.root();
    let (source, empty, full) = (subdir(&root, b"source"), subdir(&root, b"empty"), subdir(&root, b"full"));
    touch(&source, b"inside");
    touch(&full, b"kept");
    touch(&root, b"file");
    assert_errno(root.rename(b"source", &root, b"full", Replace), libc::ENOTEMPTY);
    assert_eq!(names_in(&full), [b"kept"]);
    assert_errno(root.rename(b"source", &root, b"file", Replace), libc::ENOTDIR);
    assert_errno(root.rename(b"file", &root, b"empty", Replace), libc::EISDIR);
    // What the backing refuses leaves the empty directory as it was.
    assert_errno(root.rename(b"source", &source, b"below", Replace), libc::EINVAL);
    root.rename(b"source", &root, b"empty", Replace).unwrap();
    assert_errno(empty.lookup(b"inside"), libc::ENOENT);
    assert!(Arc::ptr_eq(&source, &root.open_child(b"empty").unwrap()));
    assert_eq!(names_in(&source), [b"inside"]);
    drop((root, source, empty, full));
    test.reopen();
    let root = test.root();
    assert_eq!(names_in(&root), [b"empty".to_vec(), b"file".to_vec(), b"full".to_vec()]);
    assert_eq!(names_in(&root.open_child(b"empty").unwrap()), [b"inside"]);
    assert_eq!(names_in(&root.open_child(b"full").unwrap()), [b"kept"]);
}

#[test]
fn an_empty_directory_that_was_not_replaced_still_works() {
    let mut test = TestVault::new();
    let root = test.root();
    let source = subdir(&root, b"source");
    let middle = subdir(&source, b"middle");
    let empty = subdir(&middle, b"empty");
    // Not empty for the backing (its own litter), though it is for the vault.
    fs::write(test.backing_of(&["source", "middle", "empty"]).join(".nfs0001"), b"").unwrap();
    subdir(&root, b"other");
    assert_errno(root.rename(b"other", &middle, b"empty", Replace), libc::ENOTEMPTY);
    assert_errno(middle.remove_dir(b"empty"), libc::ENOTEMPTY);
    touch(&empty, b"new");
    drop((root, source, middle, empty));
    test.reopen();
    let empty =
        ["source", "middle", "empty"].iter().fold(test.root(), |dir, name| dir.open_child(name.as_bytes()).unwrap());
    assert_eq!(names_in(&empty), [b"new"]);
}

#[test]
fn directories_in_memory_follow_renames_above_them() {
    let test = TestVault::new();
    let root = test.root();
    let (a, b) = (subdir(&root, b"a"), subdir(&root, b"b"));
    let bottom = subdir(&subdir(&a, b"middle"), b"bottom");
    touch(&bottom, b"x");
    // Enough others that the handles of all of these are closed.
    let others: Vec<_> = (0..1200).map(|index| subdir(&root, format!("{index}").as_bytes())).collect();
    root.rename(b"a", &b, &long(b'm'), Replace).unwrap();
    for other in &others {
        touch(other, b"x");
    }
    assert_eq!(names_in(&bottom), [b"x"]);
    b.rename(&long(b'm'), &root, b"back", Replace).unwrap();
    for other in &others {
        other.unlink(b"x").unwrap();
    }
    touch(&bottom, b"y");
    assert_eq!(names_in(&bottom), [b"x", b"y"]);
    assert_eq!(names_in(&root.open_child(b"back").unwrap()), [b"middle"]);
}

#[test]
fn a_directory_does_not_move_into_itself() {
    let test = TestVault::new();
    let root = test.root();
    let a = subdir(&root, b"a");
    let b = subdir(&a, b"b");
    assert_errno(root.rename(b"a", &b, b"x", Replace), libc::EINVAL);
    assert_errno(root.rename(b"a", &a, b"b", Exchange), libc::EINVAL);
    assert_errno(a.rename(b"b", &root, b"a", Exchange), libc::EINVAL);
    assert_errno(a.rename(b"b", &root, b"a", Replace), libc::ENOTEMPTY);
    assert_eq!(names_in(&a), [b"b"]);
}

#[test]
fn two_names_of_one_inode_both_stay() {
    let test = TestVault::new();
    let root = test.root();
    touch(&root, b"one");
    root.link(b"one", &root, &long(b't')).unwrap();
    root.rename(&long(b't'), &root, b"one", Replace).unwrap();
    root.rename(b"one", &root, &long(b't'), Exchange).unwrap();
    root.rename(b"one", &root, b"one", Replace).unwrap();
    assert_eq!(names_in(&root), [b"one".to_vec(), long(b't')]);
}

#[test]
fn a_refused_rename_takes_its_sidecar_back() {
    let test = TestVault::new();
    let root = test.root();
    let a = subdir(&root, b"a");
    assert_errno(root.rename(b"a", &a, &long(b't'), Replace), libc::EINVAL);
    assert_errno(root.rename(b"missing", &a, &long(b't'), Replace), libc::ENOENT);
    assert_eq!(backing_names(&test.backing_of(&["a"])), ["=iv"]);
}

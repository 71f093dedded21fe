//! What a crash may leave of a directory, made by hand.

use super::*;

#[test]
fn an_orphaned_sidecar_is_ignored_replaced_and_removed() {
    let mut test = TestVault::new();
    let dir = subdir(&test.root(), b"dir");
    touch(&dir, &long(b'o'));
    touch(&dir, &long(b'k'));
    drop(dir);
    let orphan = test.entry(&["dir"], &long(b'o'));
    test.at_rest(|_| fs::remove_file(&orphan).unwrap());
    let dir = test.root().open_child(b"dir").unwrap();
    assert_eq!(names_in(&dir), [long(b'k')]);
    assert_errno(dir.lookup(&long(b'o')), libc::ENOENT);
    touch(&dir, &long(b'o'));
    assert_eq!(names_in(&dir), [long(b'k'), long(b'o')]);
    drop(dir);
    test.at_rest(|_| fs::remove_file(&orphan).unwrap());
    let dir = test.root().open_child(b"dir").unwrap();
    dir.unlink(&long(b'k')).unwrap();
    assert!(dir.is_empty().unwrap());
    test.root().remove_dir(b"dir").unwrap();
    assert_eq!(backing_names(&test.tree()), ["=iv"]);
}

#[test]
fn an_empty_directory_without_iv_is_empty_and_heals_with_its_first_name() {
    let mut test = TestVault::new();
    subdir(&test.root(), b"dir");
    subdir(&test.root(), b"gone");
    subdir(&test.root(), b"replaced");
    let ivs = ["dir", "gone", "replaced"].map(|name| test.backing_of(&[name]).join("=iv"));
    test.at_rest(|_| ivs.iter().for_each(|iv| fs::remove_file(iv).unwrap()));
    test.close();
    test.open(Mode::ReadOnly);
    let dir = test.root().open_child(b"dir").unwrap();
    assert!(names_in(&dir).is_empty() && dir.is_empty().unwrap());
    assert_errno(dir.lookup(b"x"), libc::ENOENT);
    drop(dir);
    test.close();
    test.open(Mode::ReadWrite);
    let dir = test.root().open_child(b"dir").unwrap();
    assert!(names_in(&dir).is_empty());
    assert_errno(dir.unlink(b"x"), libc::ENOENT);
    touch(&dir, b"x");
    drop(dir);
    test.root().remove_dir(b"gone").unwrap();
    test.root().rename(b"dir", &test.root(), b"replaced", sero::vault::RenameMode::Replace).unwrap();
    test.reopen();
    assert_eq!(names_in(&test.root()), [b"replaced"]);
    assert_eq!(names_in(&test.root().open_child(b"replaced").unwrap()), [b"x"]);
}

#[test]
fn the_tree_itself_heals() {
    let mut test = TestVault::new();
    test.at_rest(|tree| fs::remove_file(tree.join("=iv")).unwrap());
    assert!(names_in(&test.root()).is_empty());
    touch(&test.root(), b"x");
    test.reopen();
    assert_eq!(names_in(&test.root()), [b"x"]);
}

#[test]
fn what_the_filesystem_below_leaves_is_not_shown() {
    let mut test = TestVault::new();
    touch(&test.root(), b"x");
    test.at_rest(|tree| {
        fs::write(tree.join(".nfs000000000001"), b"").unwrap();
        fs::write(tree.join(".fuse_hidden0001"), b"").unwrap();
    });
    assert_eq!(names_in(&test.root()), [b"x"]);
}

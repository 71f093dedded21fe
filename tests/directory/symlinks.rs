//! Symbolic links: targets of all lengths, and their pieces.

use super::*;
use sero::vault::FileKind;

fn pieces(test: &TestVault) -> usize {
    fs::read_dir(test.backing.path().join("private/links")).map_or(0, Iterator::count)
}

#[test]
fn targets_of_all_lengths_round_trip() {
    let mut test = TestVault::new();
    let lens = [1, 2, 17, 100, 700, 721, 722, 723, 1471, 1472, 1473, 4000, 4094, 4095];
    for len in lens {
        let stat = test.root().make_symlink(format!("{len}").as_bytes(), &vec![b't'; len], &FILE).unwrap();
        assert_eq!(stat.size_bytes, len as u64);
    }
    test.reopen();
    for len in lens {
        let name = format!("{len}").into_bytes();
        assert_eq!(test.root().read_symlink(&name).unwrap(), vec![b't'; len]);
        assert_eq!(test.root().lookup(&name).unwrap().size_bytes, len as u64);
        let pin = test.root().pin(&name, FileKind::Symlink).unwrap();
        assert_eq!(test.vault().stat(sero::vault::NodeRef::Pinned(&pin)).unwrap().size_bytes, len as u64);
    }
    assert!(pieces(&test) > 0);
    for len in lens {
        test.root().unlink(format!("{len}").as_bytes()).unwrap();
    }
    assert_eq!((pieces(&test), backing_names(&test.tree())), (0, vec!["=iv".to_owned()]));
}

#[test]
fn targets_that_no_link_has_are_refused() {
    let test = TestVault::new();
    assert!(matches!(test.root().make_symlink(b"l", &[b't'; 4096], &FILE), Err(VaultError::NameTooLong)));
    assert_errno(test.root().make_symlink(b"l", b"", &FILE), libc::ENOENT);
    touch(&test.root(), b"file");
    assert_errno(test.root().read_symlink(b"file"), libc::EINVAL);
    assert_errno(test.root().make_symlink(b"file", &[b't'; 4000], &FILE), libc::EEXIST);
    assert_eq!(pieces(&test), 0);
}

#[test]
fn pieces_stay_as_long_as_a_name_does() {
    let test = TestVault::new();
    let root = test.root();
    root.make_symlink(b"one", &[b't'; 4000], &FILE).unwrap();
    root.link(b"one", &root, b"two").unwrap();
    root.unlink(b"one").unwrap();
    assert_eq!(root.read_symlink(b"two").unwrap(), [b't'; 4000]);
    // Replaced by another, they go.
    root.make_symlink(b"short", b"t", &FILE).unwrap();
    root.rename(b"short", &root, b"two", sero::vault::RenameMode::Replace).unwrap();
    assert_eq!((root.read_symlink(b"two").unwrap(), pieces(&test)), (b"t".to_vec(), 0));
}

#[test]
fn an_edited_target_is_noticed_and_can_be_removed() {
    let mut test = TestVault::new();
    for name in [&b"short"[..], b"long", b"cut", b"junk", b"empty"] {
        let len = if name == b"long" || name == b"cut" { 3000 } else { 10 };
        test.root().make_symlink(name, &vec![b't'; len], &FILE).unwrap();
    }
    let [short, long, cut, junk, empty] =
        ["short", "long", "cut", "junk", "empty"].map(|name| test.entry(&[], name.as_bytes()));
    let links = test.backing.path().join("private/links");
    test.at_rest(|_| {
        let relink = |path: &Path, target: &str| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        };
        let target = |path: &Path| fs::read_link(path).unwrap().into_os_string().into_string().unwrap();
        let edited = |text: &str| format!("{}{}", if text.starts_with('A') { 'B' } else { 'A' }, &text[1..]);
        relink(&short, &edited(&target(&short)));
        relink(&junk, "/etc/passwd");
        relink(&empty, "A");
        let piece = |path: &Path, index| links.join(format!("{}.{index}", &target(path)[1..]));
        relink(&piece(&long, 1), &edited(&target(&piece(&long, 1))));
        fs::remove_file(piece(&cut, 2)).unwrap();
    });
    for name in ["short", "long", "cut", "junk", "empty"] {
        assert_integrity(test.root().read_symlink(name.as_bytes()));
        test.root().lookup(name.as_bytes()).unwrap();
        test.root().unlink(name.as_bytes()).unwrap();
    }
}

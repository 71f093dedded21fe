//! Attributes of new inodes and of old ones, however they are reached.

use super::*;
use sero::vault::{AclKind, FileKind, NodeRef, SetTime, Timestamp, XattrTable};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_new_directory_has_the_mode_that_was_asked_for() {
    let test = TestVault::new();
    for mode in [0o755, 0o700, 0o500, 0o555, 0o000, 0o077, 0o1755, 0o377] {
        let name = format!("{mode:o}").into_bytes();
        let (stat, dir) = test.root().make_dir(&name, &NewInode { mode, uid: None, gid: None }).unwrap();
        assert_eq!(stat.mode & 0o7777, mode & !umask(), "{mode:o}");
        assert_eq!(test.root().lookup(&name).unwrap(), stat);
        if is_root() {
            touch(&dir, b"x");
            dir.unlink(b"x").unwrap();
        }
        drop(dir);
        test.root().remove_dir(&name).unwrap();
    }
}

/// Reading it means setting it, which other threads would notice.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}

#[test]
fn owners_and_set_id_bits_are_those_that_were_asked_for() {
    if !is_root() {
        return;
    }
    let test = TestVault::new();
    let root = test.root();
    let owned = |mode| NewInode { mode, uid: Some(1234), gid: Some(5678) };
    let stats = [
        root.make_file(b"file", &owned(0o6755)).unwrap().0,
        root.make_dir(b"dir", &owned(0o750)).unwrap().0,
        root.make_symlink(b"link", b"target", &owned(0o777)).unwrap(),
        root.make_node(b"fifo", &owned(libc::S_IFIFO | 0o2640), 0).unwrap(),
    ];
    for (stat, name) in stats.iter().zip([&b"file"[..], b"dir", b"link", b"fifo"]) {
        let found = root.lookup(name).unwrap();
        assert_eq!((stat.uid, stat.gid), (1234, 5678));
        assert_eq!((found.uid, found.gid, found.mode, found.size_bytes), (1234, 5678, stat.mode, stat.size_bytes));
    }
    assert_eq!(stats.map(|stat| stat.mode & 0o7777), [0o6755, 0o750, 0o777, 0o2640]);

    let setgid = subdir(&root, b"setgid");
    test.vault().set_owner(NodeRef::Directory(&setgid), None, Some(4321)).unwrap();
    test.vault().set_mode(NodeRef::Directory(&setgid), 0o2775).unwrap();
    let (stat, _) = setgid.make_dir(b"below", &NewInode { mode: 0o755, uid: Some(1), gid: None }).unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode & 0o7777), (1, 4321, 0o2755));
    assert_eq!(setgid.make_file(b"file", &FILE).unwrap().0.gid, 4321);
}

#[test]
fn kinds_are_checked_and_kept() {
    let test = TestVault::new();
    let node = |mode| NewInode { mode, uid: None, gid: None };
    let stat = test.root().make_node(b"socket", &node(libc::S_IFSOCK | 0o600), 0).unwrap();
    assert_eq!((stat.kind(), stat.size_bytes), (FileKind::Socket, 0));
    assert_errno(test.root().make_node(b"x", &node(libc::S_IFREG | 0o600), 0), libc::EINVAL);
    assert_errno(test.root().open_file(b"socket"), libc::EINVAL);
    let mut kinds = Vec::new();
    test.root()
        .list(0, &mut |entry| {
            kinds.push(entry.kind);
            true
        })
        .unwrap();
    assert_eq!(kinds, [FileKind::Socket]);
}

#[test]
fn attributes_are_set_through_every_reference() {
    let mut test = TestVault::new();
    let root = test.root();
    let (_, file) = root.make_file(b"file", &FILE).unwrap();
    let dir = subdir(&root, b"dir");
    root.make_symlink(b"link", b"target", &FILE).unwrap();
    let pin = root.pin(b"file", FileKind::Regular).unwrap();
    let time = Timestamp { seconds: -5, nanoseconds: 7 };
    for (index, node) in
        [NodeRef::Entry(&root, b"file"), NodeRef::File(&file), NodeRef::Pinned(&pin), NodeRef::Directory(&dir)]
            .into_iter()
            .enumerate()
    {
        let mode = 0o600 + u32::try_from(index).unwrap();
        test.vault().set_mode(node, mode).unwrap();
        test.vault().set_times(node, SetTime::To(time), SetTime::Keep).unwrap();
        let stat = test.vault().stat(node).unwrap();
        assert_eq!((stat.mode & 0o7777, stat.atime), (mode, time));
        let kind = stat.kind();
        let mut table = test.vault().xattrs(node, kind).unwrap();
        table.insert(format!("user.{index}").as_bytes(), b"value");
        test.vault().set_xattrs(node, kind, &table).unwrap();
        assert_eq!(test.vault().xattrs(node, kind).unwrap(), table);
    }
    test.vault().set_times(NodeRef::Entry(&root, b"link"), SetTime::Keep, SetTime::To(time)).unwrap();
    assert_eq!(root.lookup(b"link").unwrap().mtime, time);
    // A pinned inode outlives its name.
    file.commit().unwrap();
    drop(file);
    root.unlink(b"file").unwrap();
    assert_eq!(test.vault().stat(NodeRef::Pinned(&pin)).unwrap().nlink, 0);
    assert_eq!(test.vault().xattrs(NodeRef::Pinned(&pin), FileKind::Regular).unwrap().names().count(), 3);
    test.vault().open_pinned(&pin).unwrap();
    drop((root, dir, pin));
    test.close();
}

#[test]
fn extended_attributes_are_sealed_and_edits_are_noticed() {
    let mut test = TestVault::new();
    let root = test.root();
    touch(&root, b"file");
    let node = NodeRef::Entry(&root, b"file");
    let mut table = XattrTable::default();
    table.insert(b"user.secret-name", b"secret value");
    test.vault().set_xattrs(node, FileKind::Regular, &table).unwrap();
    let entry = test.entry(&[], b"file");
    let mut buffer = vec![0; 4096];
    let len = rustix::fs::lgetxattr(&entry, "user.sero", &mut buffer[..]).unwrap();
    buffer.truncate(len);
    assert!(!buffer.windows(6).any(|window| window == b"secret"));
    buffer[20] ^= 1;
    rustix::fs::lsetxattr(&entry, "user.sero", &buffer, rustix::fs::XattrFlags::empty()).unwrap();
    assert_integrity(test.vault().xattrs(node, FileKind::Regular));
    // Removing the last one removes the backing's.
    test.vault().set_xattrs(node, FileKind::Regular, &XattrTable::default()).unwrap();
    test.vault().set_xattrs(node, FileKind::Regular, &XattrTable::default()).unwrap();
    assert!(rustix::fs::lgetxattr(&entry, "user.sero", &mut [0_u8; 0][..]).is_err());
    table.insert(b"user.large", &vec![0; 65536]);
    assert!(matches!(test.vault().set_xattrs(node, FileKind::Regular, &table), Err(VaultError::NoSpace { .. })));
    drop(root);
    test.close();
}

/// rwx for the owner, r-x for user 1, r-x for the group, and a mask.
fn acl(mask: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 5, 1), (4, 5, u32::MAX), (16, mask, u32::MAX), (32, 0, u32::MAX)]
    {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn default_acls_are_inherited_as_the_backing_computes_them() {
    let test = TestVault::new();
    let dir = subdir(&test.root(), b"dir");
    let node = NodeRef::Directory(&dir);
    assert_eq!(test.vault().acl(node, AclKind::Default).unwrap(), None);
    test.vault().remove_acl(node, AclKind::Default).unwrap();
    if test.vault().set_acl(node, AclKind::Default, &acl(7)).is_err() {
        // This filesystem has none.
        return;
    }
    assert_eq!(test.vault().acl(node, AclKind::Default).unwrap(), Some(acl(7)));
    // The owner's missing bits must not disturb what the others get.
    for mode in [0o770, 0o070, 0o570] {
        let (stat, below) =
            dir.make_dir(format!("{mode:o}").as_bytes(), &NewInode { mode, uid: None, gid: None }).unwrap();
        assert_eq!(stat.mode & 0o7777, mode, "{mode:o}");
        assert_eq!(test.vault().acl(NodeRef::Directory(&below), AclKind::Default).unwrap(), Some(acl(7)));
        let access = test.vault().acl(NodeRef::Directory(&below), AclKind::Access).unwrap().unwrap();
        assert_eq!(access[4 + 8 * 3 + 2], 7, "the mask");
    }
    let (stat, _) = dir.make_file(b"file", &NewInode { mode: 0o640, uid: None, gid: None }).unwrap();
    assert_eq!(stat.mode & 0o777, 0o640);
}

//! What the model of `tests/fs_model.rs` has no notion of: inodes without names, owners, bits, ACLs, times, limits.

use std::sync::Arc;

use super::*;
use crate::vault::{CreateOptions, KdfParams, Mode, Passphrase, PosixStorage, create, unlock};

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const USER: Caller = Caller { uid: 1000, gid: 1000, pid: 0 };
const TOP: InodeNo = InodeNo::ROOT;

pub(crate) struct Mounted {
    pub fs: Fs<PosixStorage>,
    pub backing: tempfile::TempDir,
}

impl std::ops::Deref for Mounted {
    type Target = Fs<PosixStorage>;

    fn deref(&self) -> &Self::Target {
        &self.fs
    }
}

/// The filesystem of a new vault.
pub(crate) fn mounted() -> Mounted {
    // As the daemon does: the caller's umask is what counts.
    rustix::process::umask(rustix::fs::Mode::empty());
    let backing = tempfile::tempdir().unwrap();
    let passphrase = Passphrase::new(b"test".to_vec());
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    create(backing.path(), &CreateOptions { kdf, label: "test".into(), hint: None }, &passphrase).unwrap();
    let storage = PosixStorage::open(backing.path()).unwrap();
    let keys = unlock(&storage, &passphrase).unwrap();
    let vault = Vault::open(storage, keys, Mode::ReadWrite).unwrap();
    Mounted { fs: Fs::new(vault, FsOptions::for_this_process()).unwrap(), backing }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn errno<T>(outcome: Result<T>) -> std::result::Result<T, i32> {
    outcome.map_err(|error| error.errno())
}

impl Mounted {
    fn file(&self, name: &str, mode: u32, content: &[u8]) -> InodeNo {
        let (entry, handle) = self.create(&ROOT, TOP, name.as_bytes(), mode, 0, libc::O_RDWR).unwrap();
        self.write(&ROOT, handle, 0, content, false).unwrap();
        self.release(handle).unwrap();
        entry.attr.ino
    }

    fn content(&self, ino: InodeNo) -> Vec<u8> {
        let handle = self.open(&ROOT, ino, libc::O_RDONLY).unwrap();
        let mut content = vec![0; 1 << 20];
        let read = self.read(handle, 0, &mut content).unwrap();
        content.truncate(read);
        self.release(handle).unwrap();
        content
    }

    fn set(&self, ino: InodeNo, change: SetAttr) -> Result<Attr> {
        self.setattr(&ROOT, ino, None, change)
    }

    fn names(&self, directory: InodeNo) -> Vec<Vec<u8>> {
        let handle = self.opendir(directory).unwrap();
        let mut names = Vec::new();
        self.readdir(handle, 0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })
        .unwrap();
        self.releasedir(handle).unwrap();
        names
    }
}

fn perm(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

#[test]
fn a_file_without_a_name_lives_until_it_is_forgotten() {
    let fs = mounted();
    let ino = fs.file("a", 0o644, b"content");
    fs.unlink(TOP, b"a").unwrap();
    let time = Timestamp { seconds: -5, nanoseconds: 7 };
    assert_eq!(fs.getattr(ino, None).unwrap().nlink, 0);
    assert_eq!(fs.set(ino, perm(0o600)).unwrap().perm, 0o600);
    let times = SetAttr { atime: SetTime::To(time), mtime: SetTime::To(time), ..SetAttr::default() };
    assert_eq!(fs.set(ino, times).unwrap().mtime, time);
    fs.setxattr(&ROOT, ino, b"user.a", b"1", 0).unwrap();
    assert_eq!(fs.getxattr(ino, b"user.a").unwrap(), b"1");
    assert_eq!(fs.content(ino), b"content");
    assert_eq!(errno(fs.link(ino, TOP, b"b")), Err(libc::ENOENT));

    // A new file of that name is another one.
    let (other, handle) = fs.create(&ROOT, TOP, b"a", 0o644, 0, libc::O_RDWR).unwrap();
    fs.release(handle).unwrap();
    assert_ne!(other.attr.ino, ino);
    fs.forget(ino, 1);
    assert_eq!(errno(fs.getattr(ino, None)), Err(libc::ESTALE));
}

#[test]
fn a_file_made_without_a_name_gets_one() {
    let fs = mounted();
    let (entry, handle) = fs.create_unnamed(&ROOT, TOP, 0o666, 0o022).unwrap();
    let ino = entry.attr.ino;
    assert_eq!((entry.attr.nlink, entry.attr.perm, fs.names(TOP).len()), (0, 0o644, 2));
    fs.write(&ROOT, handle, 0, b"content", false).unwrap();
    fs.fsync(handle, false).unwrap();
    // The kernel knows it longer than it is open.
    fs.release(handle).unwrap();
    assert_eq!(fs.content(ino), b"content");
    let time = Timestamp { seconds: 5, nanoseconds: 7 };
    let times = SetAttr { mtime: SetTime::To(time), ..SetAttr::default() };
    fs.set(ino, times).unwrap();
    assert_eq!(fs.link(ino, TOP, b"a").unwrap().attr.nlink, 1);
    assert_eq!(errno(fs.link(ino, TOP, b"a")), Err(libc::EEXIST));
    assert_eq!(fs.link(ino, TOP, b"b").unwrap().attr.nlink, 2);
    let found = fs.lookup(TOP, b"a").unwrap().attr;
    assert_eq!((found.ino, found.mtime, found.size_bytes), (ino, time, 7));
    // Two links, a look, and where it was made.
    fs.forget(ino, 4);
    assert_eq!(fs.content(fs.lookup(TOP, b"b").unwrap().attr.ino), b"content");

    let (gone, handle) = fs.create_unnamed(&ROOT, TOP, 0o600, 0).unwrap();
    fs.release(handle).unwrap();
    fs.forget(gone.attr.ino, 1);
    assert_eq!(errno(fs.link(gone.attr.ino, TOP, b"c")), Err(libc::ESTALE));
    fs.forget(ino, 1);
    assert_eq!((fs.usage().nodes, fs.usage().handles()), (1, 0));
}

#[test]
fn what_a_file_without_a_name_lost_is_missed_once_it_has_one() {
    let fs = mounted();
    let fails_to_write_back = |handle| {
        assert_eq!(errno(fs.write_back(&ROOT, handle, i64::MAX as u64, b"content", false)), Err(libc::EFBIG));
    };
    let (_, handle) = fs.create_unnamed(&ROOT, TOP, 0o600, 0).unwrap();
    fails_to_write_back(handle);
    assert_eq!(fs.lost().files, 1);
    fs.release(handle).unwrap();
    assert_eq!(fs.lost().files, 0, "it is gone");

    let (entry, handle) = fs.create_unnamed(&ROOT, TOP, 0o600, 0).unwrap();
    fails_to_write_back(handle);
    fs.link(entry.attr.ino, TOP, b"a").unwrap();
    fs.release(handle).unwrap();
    assert_eq!(fs.lost().files, 1);
}

#[test]
fn an_open_file_that_is_replaced_keeps_its_content() {
    let fs = mounted();
    let (old, handle) = fs.create(&ROOT, TOP, b"old", 0o644, 0, libc::O_RDWR).unwrap();
    fs.write(&ROOT, handle, 0, b"old content", false).unwrap();
    fs.file("new", 0o644, b"new content");
    fs.rename(TOP, b"new", TOP, b"old", 0).unwrap();
    fs.write(&ROOT, handle, 0, b"OLD", false).unwrap();
    assert_eq!(fs.content(old.attr.ino), b"OLD content");
    assert_eq!(fs.getattr(old.attr.ino, Some(handle)).unwrap().nlink, 0);
    assert_eq!(fs.content(fs.lookup(TOP, b"old").unwrap().attr.ino), b"new content");
    fs.fsync(handle, false).unwrap();
    fs.release(handle).unwrap();
}

#[test]
fn an_inode_is_reached_by_a_name_that_was_never_looked_up() {
    let fs = mounted();
    let ino = fs.file("a", 0o644, b"content");
    fs.link(ino, TOP, b"b").unwrap();
    fs.forget(ino, 2);
    // The kernel knows it as "a" alone, and removes that.
    assert_eq!(fs.lookup(TOP, b"a").unwrap().attr.nlink, 2);
    fs.unlink(TOP, b"a").unwrap();
    assert_eq!(fs.set(ino, perm(0o640)).unwrap().nlink, 1);
    assert_eq!(fs.content(ino), b"content");
    assert_eq!(fs.lookup(TOP, b"b").unwrap().attr.perm, 0o640);
    assert_eq!(fs.link(ino, TOP, b"c").unwrap().attr.nlink, 2);
}

#[test]
fn a_removed_symlink_still_says_where_it_led() {
    let fs = mounted();
    let target = [b'x'; 2000];
    let link = fs.symlink(&ROOT, TOP, b"link", &target).unwrap();
    assert_eq!((link.attr.size_bytes, link.attr.perm), (2000, 0o777));
    fs.unlink(TOP, b"link").unwrap();
    assert_eq!(fs.readlink(link.attr.ino).unwrap(), target);
    assert_eq!(fs.getattr(link.attr.ino, None).unwrap().size_bytes, 2000);
}

#[test]
fn a_removed_directory_is_empty_and_takes_nothing() {
    let fs = mounted();
    let ino = fs.mkdir(&ROOT, TOP, b"d", 0o755, 0).unwrap().attr.ino;
    let handle = fs.opendir(ino).unwrap();
    fs.rmdir(TOP, b"d").unwrap();
    let mut listed = 0;
    fs.readdirplus(handle, 0, &mut |_| {
        listed += 1;
        true
    })
    .unwrap();
    assert_eq!(listed, 0);
    assert_eq!(errno(fs.mkdir(&ROOT, ino, b"x", 0o755, 0)), Err(libc::ENOENT));
    assert_eq!(errno(fs.lookup(ino, b"x")), Err(libc::ENOENT));
    assert_eq!(fs.set(ino, perm(0o700)).unwrap().nlink, 0);
    fs.fsyncdir(handle).unwrap();
    fs.releasedir(handle).unwrap();
    fs.forget(ino, 1);
    assert_eq!(fs.usage(), Usage { nodes: 1, files: 0, directories: 0 });
}

/// The names that calls of so many entries give, how many there were at each error, and whether there was an end.
fn listed_by(fs: &Mounted, with_attributes: bool, at_once: usize) -> (Vec<Vec<u8>>, Vec<(usize, i32)>, bool) {
    let handle = fs.opendir(TOP).unwrap();
    let (mut names, mut errors, mut offset) = (Vec::new(), Vec::new(), 0);
    let ended = loop {
        let mut taken: Vec<(Vec<u8>, u64)> = Vec::new();
        let mut take = |name: &[u8], next_cookie| {
            let takes = taken.len() < at_once;
            if takes {
                taken.push((name.to_vec(), next_cookie));
            }
            takes
        };
        let outcome = match with_attributes {
            true => fs.readdirplus(handle, offset, &mut |item| take(item.name, item.next_cookie)),
            false => fs.readdir(handle, offset, &mut |item| take(item.name, item.next_cookie)),
        };
        match (outcome, taken.last()) {
            // The kernel shows the caller either entries or an error.
            (Err(error), None) if errors.last() != Some(&(names.len(), error.errno())) => {
                errors.push((names.len(), error.errno()));
            }
            (Err(_), None) => break false,
            (Err(error), Some(_)) => panic!("{error}, and there were entries"),
            (Ok(()), None) => break true,
            (Ok(()), Some((_, last))) => offset = *last,
        }
        names.extend(taken.into_iter().map(|(name, _)| name));
    };
    fs.releasedir(handle).unwrap();
    names.sort();
    (names, errors, ended)
}

#[test]
fn an_error_in_mid_listing_belongs_to_the_next_call() {
    let fs = mounted();
    let mut expected = vec![b".".to_vec(), b"..".to_vec()];
    for number in 0..20 {
        expected.push(format!("file {number}").into_bytes());
        fs.file(&format!("file {number}"), 0o644, b"x");
    }
    expected.sort();
    let link = fs.symlink(&ROOT, TOP, b"link", &[b'x'; 2000]).unwrap();
    fs.forget(link.attr.ino, 1);
    let mut last = Vec::new();
    let handle = fs.opendir(TOP).unwrap();
    fs.readdir(handle, 0, &mut |item| {
        last = item.name.to_vec();
        true
    })
    .unwrap();
    fs.releasedir(handle).unwrap();
    // Its target cannot be looked for: the others are given, each once, and the error by itself. Where nothing comes
    // after it (the order is the backing's), that is also what the listing ends with.
    let (links, away) = (fs.backing.path().join("private/links"), fs.backing.path().join("away"));
    std::fs::rename(&links, &away).unwrap();
    std::fs::write(&links, "in the way").unwrap();
    for at_once in [1, 3, 1000] {
        let (names, errors, ended) = listed_by(&fs, true, at_once);
        let errors: Vec<_> = errors.into_iter().map(|(_, errno)| errno).collect();
        assert_eq!((names, errors, ended), (expected.clone(), vec![libc::EIO], last != b"link"), "{at_once}");
    }
    std::fs::remove_file(&links).unwrap();
    std::fs::rename(&away, &links).unwrap();
    expected.push(b"link".to_vec());
    expected.sort();
    for (with_attributes, at_once) in [(false, 1), (false, 1000), (true, 3), (true, 1000)] {
        assert_eq!(listed_by(&fs, with_attributes, at_once), (expected.clone(), vec![], true));
    }
    // What does not open is said at the end, and as often as that is asked for.
    std::fs::write(fs.backing.path().join("tree/no sealed name"), "x").unwrap();
    for (with_attributes, at_once) in [(false, 1), (false, 1000), (true, 3), (true, 1000)] {
        let found = listed_by(&fs, with_attributes, at_once);
        assert_eq!(found, (expected.clone(), vec![(expected.len(), libc::EIO)], false), "{with_attributes}, {at_once}");
    }
}

#[test]
fn what_is_below_a_moved_directory_moves_with_it() {
    let fs = mounted();
    let a = fs.mkdir(&ROOT, TOP, b"a", 0o755, 0).unwrap().attr.ino;
    let b = fs.mkdir(&ROOT, TOP, b"b", 0o755, 0).unwrap().attr.ino;
    let below = fs.mkdir(&ROOT, a, b"below", 0o755, 0).unwrap().attr.ino;
    let (file, handle) = fs.create(&ROOT, below, b"file", 0o644, 0, libc::O_RDWR).unwrap();
    fs.rename(TOP, b"a", b, b"moved", 0).unwrap();
    fs.write(&ROOT, handle, 0, b"x", false).unwrap();
    fs.fsync(handle, false).unwrap();
    fs.release(handle).unwrap();
    fs.mkdir(&ROOT, below, b"more", 0o755, 0).unwrap();
    fs.set(file.attr.ino, perm(0o600)).unwrap();
    assert_eq!(fs.lookup(b, b"moved").unwrap().attr.ino, a);
    assert_eq!(errno(fs.lookup(TOP, b"a")), Err(libc::ENOENT));
    assert_eq!(errno(fs.rename(TOP, b"b", below, b"x", 0)), Err(libc::EINVAL));
    // The directory above is forgotten first: it stays as long as something in it is known.
    fs.forget(b, 1);
    assert_eq!(fs.lookup(below, b"file").unwrap().attr.perm, 0o600);
}

#[test]
fn a_change_of_content_takes_privileges_from_others_than_root() {
    let fs = mounted();
    let ino = fs.file("program", 0o755, b"x");
    let handle = fs.open(&ROOT, ino, libc::O_RDWR).unwrap();
    let as_user = fs.open(&USER, ino, libc::O_RDWR).unwrap();
    let privileged = || assert_eq!(fs.set(ino, perm(0o6755)).unwrap().perm, 0o6755);
    let now = || fs.getattr(ino, None).unwrap().perm;
    let truncate =
        |caller| fs.setattr(caller, ino, None, SetAttr { size: Some(1), ..SetAttr::default() }).unwrap().perm;

    privileged();
    fs.write(&USER, handle, 0, b"y", false).unwrap();
    assert_eq!(now(), 0o6755, "the kernel says when");
    fs.write(&USER, handle, 0, b"y", true).unwrap();
    assert_eq!(now(), 0o755);
    privileged();
    assert_eq!((truncate(&ROOT), truncate(&USER)), (0o6755, 0o755));
    privileged();
    fs.fallocate(handle, 0, 10, 0).unwrap();
    assert_eq!(now(), 0o6755);
    fs.fallocate(as_user, 0, 20, 0).unwrap();
    assert_eq!(now(), 0o755);
    privileged();
    // Where no file is so long, it is refused, and nothing changed.
    if errno(fs.fallocate(as_user, MAX_FILE_LEN - 1, 1, 0)) == Err(libc::EFBIG) {
        assert_eq!(now(), 0o6755);
        let longer = SetAttr { size: Some(MAX_FILE_LEN), ..SetAttr::default() };
        assert_eq!(errno(fs.setattr(&USER, ino, None, longer)), Err(libc::EFBIG));
        assert_eq!(now(), 0o6755);
    }
    privileged();
    let again = fs.open(&USER, ino, libc::O_RDWR | libc::O_TRUNC).unwrap();
    assert_eq!((now(), fs.getattr(ino, None).unwrap().size_bytes), (0o755, 0));
    privileged();
    fs.set(ino, SetAttr { uid: Some(rustix::process::geteuid().as_raw()), ..SetAttr::default() }).unwrap();
    assert_eq!(now(), 0o755);
    // Owner first, then permissions: asked for together, they stay.
    let both = SetAttr { uid: Some(rustix::process::geteuid().as_raw()), ..perm(0o4711) };
    assert_eq!(fs.set(ino, both).unwrap().perm, 0o4711);
    for handle in [handle, as_user, again] {
        fs.release(handle).unwrap();
    }
}

#[test]
fn a_change_of_content_takes_capabilities_away() {
    let fs = mounted();
    let ino = fs.file("program", 0o755, b"x");
    let set = || fs.setxattr(&ROOT, ino, b"security.capability", b"all", 0).unwrap();
    let has = || fs.getxattr(ino, b"security.capability").is_ok();
    fs.setxattr(&ROOT, ino, b"user.kept", b"", 0).unwrap();
    set();
    assert!(has());
    let handle = fs.open(&ROOT, ino, libc::O_RDWR).unwrap();
    fs.write(&USER, handle, 0, b"y", true).unwrap();
    assert!(!has());
    set();
    fs.set(ino, SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    assert!(!has());
    assert_eq!(fs.listxattr(&ROOT, ino).unwrap(), b"user.kept\0");
    fs.release(handle).unwrap();
}

#[test]
fn owners_of_new_inodes() {
    if !is_root() {
        return;
    }
    let fs = mounted();
    let of = |entry: Entry| (entry.attr.uid, entry.attr.gid, entry.attr.perm);
    assert_eq!(of(fs.mkdir(&USER, TOP, b"own", 0o777, 0o022).unwrap()), (1000, 1000, 0o755));
    let shared = fs.mkdir(&ROOT, TOP, b"shared", 0o755, 0).unwrap().attr.ino;
    fs.set(shared, SetAttr { gid: Some(7), ..perm(0o2775) }).unwrap();
    assert_eq!(of(fs.mkdir(&USER, shared, b"d", 0o777, 0o027).unwrap()), (1000, 7, 0o2750));
    assert_eq!(of(fs.mknod(&USER, shared, b"f", libc::S_IFREG | 0o666, 0o002, 0).unwrap()), (1000, 7, 0o664));
    assert_eq!(of(fs.symlink(&USER, shared, b"l", b"x").unwrap()), (1000, 7, 0o777));
    let (program, handle) = fs.create(&USER, shared, b"p", 0o4755, 0, libc::O_RDWR).unwrap();
    assert_eq!(of(program), (1000, 7, 0o4755));
    fs.release(handle).unwrap();
    let device = fs.mknod(&ROOT, TOP, b"null", libc::S_IFCHR | 0o666, 0, 0x103).unwrap();
    assert_eq!((device.attr.kind, device.attr.rdev), (FileKind::CharDevice, 0x103));
}

/// An ACL in the kernel's form: owner, user 1000, group, mask, others.
fn acl(owner: u16, user: u16, group: u16, mask: u16, others: u16) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, perm, id) in
        [(1, owner, nobody), (2, user, 1000), (4, group, nobody), (0x10, mask, nobody), (0x20, others, nobody)]
    {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn a_default_acl_takes_the_place_of_the_umask() {
    let fs = mounted();
    let directory = fs.mkdir(&ROOT, TOP, b"d", 0o755, 0).unwrap().attr.ino;
    match errno(fs.setxattr(&ROOT, directory, b"system.posix_acl_default", &acl(7, 7, 5, 7, 0), 0)) {
        Err(libc::EOPNOTSUPP) => return,
        outcome => outcome.unwrap(),
    }
    let (made, handle) = fs.create(&ROOT, directory, b"f", 0o666, 0o077, libc::O_RDWR).unwrap();
    fs.release(handle).unwrap();
    assert_eq!(made.attr.perm, 0o660);
    assert!(fs.getxattr(made.attr.ino, b"system.posix_acl_access").is_ok());
    let below = fs.mkdir(&ROOT, directory, b"below", 0o777, 0o077).unwrap().attr;
    assert_eq!(below.perm, 0o770);
    assert_eq!(fs.listxattr(&USER, below.ino).unwrap(), b"system.posix_acl_access\0system.posix_acl_default\0");
    // Without it, the umask counts again.
    fs.removexattr(directory, b"system.posix_acl_default").unwrap();
    fs.removexattr(directory, b"system.posix_acl_default").unwrap();
    assert_eq!(fs.mkdir(&ROOT, directory, b"plain", 0o777, 0o077).unwrap().attr.perm, 0o700);
}

#[test]
fn an_access_acl_changes_the_permissions() {
    let fs = mounted();
    let ino = fs.file("f", 0o2755, b"");
    let value = acl(7, 6, 5, 6, 4);
    match errno(fs.setxattr(&ROOT, ino, b"system.posix_acl_access", &value, 0)) {
        Err(libc::EOPNOTSUPP) => return,
        outcome => outcome.unwrap(),
    }
    assert_eq!(fs.getattr(ino, None).unwrap().perm, 0o2764);
    assert_eq!(fs.getxattr(ino, b"system.posix_acl_access").unwrap(), value);
    // Who is not in the group may not have the file run as it.
    fs.setxattr(&USER, ino, b"system.posix_acl_access", &value, 0).unwrap();
    assert_eq!(fs.getattr(ino, None).unwrap().perm & 0o7000, 0);
    assert!(fs.setxattr(&ROOT, ino, b"system.posix_acl_access", b"junk", 0).is_err());
}

#[test]
fn attributes_have_linux_limits() {
    let fs = mounted();
    let ino = fs.file("f", 0o644, b"");
    let long = [b"user.".as_slice(), &[b'n'; 251]].concat();
    assert_eq!(errno(fs.setxattr(&ROOT, ino, &long, b"", 0)), Err(libc::ERANGE));
    assert_eq!(errno(fs.setxattr(&ROOT, ino, b"user.a", &vec![0; 65_537], 0)), Err(libc::E2BIG));
    assert_eq!(errno(fs.setxattr(&ROOT, ino, b"user.a", b"", 4)), Err(libc::EINVAL));
    assert_eq!(errno(fs.getxattr(ino, b"user.a")), Err(libc::ENODATA));
    assert_eq!(errno(fs.getxattr(ino, b"other.a")), Err(libc::EOPNOTSUPP));
    let link = fs.symlink(&ROOT, TOP, b"l", b"x").unwrap().attr.ino;
    assert_eq!(errno(fs.setxattr(&ROOT, link, b"user.a", b"", 0)), Err(libc::EPERM));
    assert_eq!(errno(fs.getxattr(link, b"system.posix_acl_access")), Err(libc::ENODATA));
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let fs = mounted();
    let ino = fs.file("f", 0o644, b"content");
    let (early, late) =
        (Timestamp { seconds: -1, nanoseconds: 999_999_999 }, Timestamp { seconds: 1 << 31, nanoseconds: 1 });
    let set = |atime, mtime| fs.set(ino, SetAttr { atime, mtime, ..SetAttr::default() }).unwrap();
    set(SetTime::To(early), SetTime::To(late));
    let kept = set(SetTime::Keep, SetTime::To(early));
    assert_eq!((kept.atime, kept.mtime), (early, early));
    fs.forget(ino, 1);
    let found = fs.lookup(TOP, b"f").unwrap().attr;
    assert_eq!((found.atime, found.mtime), (early, early));
    let now = set(SetTime::Now, SetTime::Keep);
    assert!(now.atime.seconds > 1_600_000_000 && now.mtime == early);

    // While it is open, too; and they outlive the close.
    let handle = fs.open(&ROOT, ino, libc::O_RDWR).unwrap();
    fs.write(&ROOT, handle, 0, b"x", false).unwrap();
    assert_ne!(fs.getattr(ino, None).unwrap().mtime, early);
    set(SetTime::To(late), SetTime::To(early));
    fs.release(handle).unwrap();
    let closed = fs.getattr(ino, None).unwrap();
    assert_eq!((closed.atime, closed.mtime, closed.size_bytes), (late, early, 7));
}

#[test]
fn changes_in_a_directory_show_in_its_attributes() {
    let fs = mounted();
    let directory = fs.mkdir(&ROOT, TOP, b"d", 0o755, 0).unwrap().attr;
    let old = Timestamp { seconds: 1, nanoseconds: 0 };
    let age = || fs.set(directory.ino, SetAttr { mtime: SetTime::To(old), ..SetAttr::default() }).unwrap();
    let is_new = || fs.getattr(directory.ino, None).unwrap().mtime != old;
    age();
    fs.mkdir(&ROOT, directory.ino, b"a", 0o755, 0).unwrap();
    assert!(is_new());
    assert_eq!(fs.getattr(directory.ino, None).unwrap().nlink, directory.nlink.max(2) + u32::from(directory.nlink > 1));
    age();
    fs.rename(directory.ino, b"a", TOP, b"b", 0).unwrap();
    assert!(is_new());
    age();
    fs.rename(TOP, b"b", directory.ino, b"a", 0).unwrap();
    assert!(is_new());
    age();
    fs.rmdir(directory.ino, b"a").unwrap();
    assert!(is_new());
    assert_eq!(fs.getattr(directory.ino, None).unwrap().nlink, directory.nlink);
}

#[test]
fn a_rename_can_leave_a_whiteout() {
    if !is_root() {
        return;
    }
    let fs = mounted();
    let a = fs.file("a", 0o644, b"a");
    let b = fs.file("b", 0o644, b"b");
    let is_whiteout = |name: &[u8]| {
        let attr = fs.lookup(TOP, name).unwrap().attr;
        (attr.kind, attr.rdev, attr.perm) == (FileKind::CharDevice, 0, 0)
    };
    fs.rename(TOP, b"a", TOP, b"free", libc::RENAME_WHITEOUT).unwrap();
    assert!(is_whiteout(b"a"));
    assert_eq!(fs.lookup(TOP, b"free").unwrap().attr.ino, a);
    fs.rename(TOP, b"free", TOP, b"b", libc::RENAME_WHITEOUT).unwrap();
    assert!(is_whiteout(b"free"));
    assert_eq!(fs.lookup(TOP, b"b").unwrap().attr.ino, a);
    assert_eq!(fs.getattr(b, None).unwrap().nlink, 0);
    assert_eq!(fs.names(TOP).len(), 2 + 3);
    let refused = fs.rename(TOP, b"b", TOP, b"a", libc::RENAME_WHITEOUT | libc::RENAME_EXCHANGE);
    assert_eq!(errno(refused), Err(libc::EINVAL));
}

#[test]
fn offsets_and_holes() {
    let fs = mounted();
    let (entry, handle) = fs.create(&ROOT, TOP, b"f", 0o644, 0, libc::O_RDWR).unwrap();
    let limit = MAX_FILE_LEN;
    assert_eq!(errno(fs.write(&ROOT, handle, limit, b"x", false)), Err(libc::EFBIG));
    assert_eq!(errno(fs.write(&ROOT, handle, u64::MAX, b"x", false)), Err(libc::EFBIG));
    assert_eq!(
        errno(fs.set(entry.attr.ino, SetAttr { size: Some(limit + 1), ..SetAttr::default() })),
        Err(libc::EFBIG)
    );
    assert_eq!(errno(fs.fallocate(handle, u64::MAX, 1, 0)), Err(libc::EINVAL));
    assert_eq!(errno(fs.fallocate(handle, limit, 1, 0)), Err(libc::EFBIG));
    assert_eq!(errno(fs.lseek(handle, 0, libc::SEEK_DATA)), Err(libc::ENXIO));
    fs.write(&ROOT, handle, 1 << 20, b"data", false).unwrap();
    assert_eq!(errno(fs.lseek(handle, 0, libc::SEEK_DATA)), Ok(1 << 20));
    assert_eq!(errno(fs.lseek(handle, 0, libc::SEEK_HOLE)), Ok(0));
    assert_eq!(errno(fs.lseek(handle, 1 << 20, libc::SEEK_HOLE)), Ok((1 << 20) + 4));
    assert_eq!(errno(fs.lseek(handle, (1 << 20) + 4, libc::SEEK_HOLE)), Err(libc::ENXIO));
    assert_eq!(errno(fs.lseek(handle, 0, libc::SEEK_SET)), Err(libc::EINVAL));
    assert!(fs.getattr(entry.attr.ino, None).unwrap().blocks > 0);
    fs.release(handle).unwrap();
    assert_eq!(errno(fs.write(&ROOT, handle, 0, b"x", false)), Err(libc::EBADF));
}

#[test]
fn names_are_refused_as_elsewhere() {
    let fs = mounted();
    assert_eq!(errno(fs.lookup(TOP, &[b'n'; 256])), Err(libc::ENAMETOOLONG));
    assert_eq!(errno(fs.mkdir(&ROOT, TOP, &[b'n'; 256], 0o755, 0)), Err(libc::ENAMETOOLONG));
    let file = fs.file("f", 0o644, b"");
    assert_eq!(errno(fs.lookup(file, b"x")), Err(libc::ENOTDIR));
    assert_eq!(errno(fs.readlink(file)), Err(libc::EINVAL));
    assert_eq!(errno(fs.link(TOP, TOP, b"x")), Err(libc::EPERM));
    assert_eq!(errno(fs.open(&ROOT, TOP, libc::O_RDONLY)), Err(libc::EISDIR));
    assert_eq!(errno(fs.lookup(InodeNo(u64::MAX), b"x")), Err(libc::ESTALE));
}

#[test]
fn the_number_of_the_root_is_1_and_numbers_stay_one_to_one() {
    let table = Table::<PosixStorage>::new(77);
    assert_eq!(table.number(77), InodeNo::ROOT);
    assert_eq!(table.number(1), InodeNo(77));
    for ino in [1, 2, 77, u64::MAX] {
        assert_eq!(table.backing_number(table.number(ino)), ino);
    }
}

#[test]
fn generations_tell_inodes_apart_and_fit_the_kernel() {
    let table = Table::<PosixStorage>::new(77);
    let at = |seconds, nanoseconds| table.generation(Some(Timestamp { seconds, nanoseconds }));
    assert_eq!(at(1_700_000_000, 5), at(1_700_000_000, 5));
    assert_ne!(at(1_700_000_000, 5), at(1_700_000_000, 4_000_005));
    assert_ne!(table.generation(None), table.generation(None));
    for generation in [at(0, 0), at(-1, 999_999_999), at(i64::MAX, 0), at(i64::MIN, 0)] {
        assert!((1..1 << 31).contains(&generation));
    }
}

#[test]
fn what_is_forgotten_while_it_is_open_stays() {
    let fs = mounted();
    let (entry, handle) = fs.create(&ROOT, TOP, b"f", 0o644, 0, libc::O_RDWR).unwrap();
    fs.forget(entry.attr.ino, u64::MAX);
    assert_eq!(fs.usage(), Usage { nodes: 2, files: 1, directories: 0 });
    fs.write(&ROOT, handle, 0, b"x", false).unwrap();
    assert_eq!(fs.lookup(TOP, b"f").unwrap().attr.size_bytes, 1);
    fs.release(handle).unwrap();
    fs.forget(entry.attr.ino, 1);
    assert_eq!(fs.usage(), Usage { nodes: 1, files: 0, directories: 0 });
}

#[test]
fn after_the_shutdown_nothing_changes() {
    let fs = Arc::new(mounted());
    let (entry, handle) = fs.create(&ROOT, TOP, b"f", 0o644, 0, libc::O_RDWR).unwrap();
    fs.write(&ROOT, handle, 0, b"x", false).unwrap();
    fs.shutdown().unwrap();
    assert_eq!(errno(fs.write(&ROOT, handle, 0, b"y", false)), Err(libc::EROFS));
    assert_eq!(errno(fs.set(entry.attr.ino, perm(0o600))), Err(libc::EROFS));
    assert_eq!(errno(fs.unlink(TOP, b"f")), Err(libc::EROFS));
    assert_eq!(errno(fs.open(&ROOT, entry.attr.ino, libc::O_RDWR)), Err(libc::EROFS));
    assert_eq!(errno(fs.setxattr(&ROOT, entry.attr.ino, b"user.a", b"", 0)), Err(libc::EROFS));
    assert_eq!(fs.content(entry.attr.ino), b"x");
    fs.release(handle).unwrap();
}

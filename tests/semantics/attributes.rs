//! Attributes: owners, permissions, privileges, extended attributes, access lists, space.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FallocateFlags, StatxFlags, XattrFlags};
use rustix::io::Errno;

use crate::harness::{Fixture, NOBODY, Outcome, eventually, run, shell_as};
use crate::{for_all, needs_mount, new_file};

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// As a user with supplementary groups.
#[track_caller]
fn with_groups(uid: u32, groups: &str, directory: &Path, script: &str) -> Outcome {
    let uid = uid.to_string();
    run(Command::new("setpriv")
        .args(["--reuid", &uid, "--regid", &uid, "--groups", groups, "--", "sh", "-c", script])
        .current_dir(directory))
}

/// > Set-user-id and set-group-id bits and `security.capability` go when the content or the owner changes, unless root writes.
#[test]
fn privileges_go_with_a_change() {
    needs_mount!();
    let fixture = for_all();
    let path = fixture.mountpoint.join("program");
    fs::write(&path, "x").unwrap();
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let changes = [
        "echo y >>program",
        "echo y >program",
        "truncate -s 5 program",
        "dd if=/dev/zero of=program bs=1 count=1 seek=3 conv=notrunc status=none",
        "fallocate -l 100 program",
    ];
    for script in changes {
        set_mode(&path, 0o6755);
        rustix::fs::setxattr(&path, "security.capability", &capability, XattrFlags::empty()).unwrap();
        shell_as(NOBODY, &fixture.mountpoint, script).ok();
        assert_eq!(mode(&path), 0o755, "{script}");
        let mut value = [0; 32];
        assert_eq!(rustix::fs::getxattr(&path, "security.capability", &mut value), Err(Errno::NODATA), "{script}");
    }
    // Root's own write leaves the bits; a change of the owner takes them from root's files, too.
    set_mode(&path, 0o6755);
    shell_as(0, &fixture.mountpoint, "echo y >>program").ok();
    assert_eq!(mode(&path), 0o6755);
    chown(&path, Some(0), Some(0)).unwrap();
    assert_eq!(mode(&path), 0o755);
    // Owner and permissions in one go, as tar and cp set them: what was asked for last is what is there.
    run(Command::new("install").args(["-o", "65534", "-g", "65534", "-m", "6711"]).arg("/bin/true").arg(&path)).ok();
    assert_eq!((mode(&path), fs::metadata(&path).unwrap().uid()), (0o6711, NOBODY));
}

/// > Supplementary groups count: for access, and for keeping the set-group-id bit.
#[test]
fn supplementary_groups() {
    needs_mount!();
    let fixture = for_all();
    let top = &fixture.mountpoint;
    let file = top.join("file");
    fs::write(&file, "x").unwrap();
    chown(&file, Some(0), Some(4242)).unwrap();
    set_mode(&file, 0o660);
    with_groups(NOBODY, "4242,4243", top, "cat file && echo y >>file").ok();
    assert_ne!(with_groups(NOBODY, "4243", top, "cat file").code, Some(0));
    let folder = top.join("folder");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(0), Some(4242)).unwrap();
    set_mode(&folder, 0o2770);
    with_groups(NOBODY, "4242", &folder, "echo x >made && mkdir below && chmod 2755 made").ok();
    assert_eq!(mode(folder.join("made")), 0o2755);
    assert_eq!(fs::metadata(folder.join("made")).unwrap().gid(), 4242);
    assert_eq!(fs::metadata(folder.join("below")).unwrap().gid(), 4242);
    // A change of the group to one of the own, and to none of them.
    with_groups(NOBODY, "4242,4243", &folder, "chgrp 4243 made").ok();
    assert_ne!(with_groups(NOBODY, "4242", &folder, "chgrp 4244 made").code, Some(0));
}

/// POSIX's binary form of an access list: for the owner, one user, the group, the mask, and others.
fn acl(owner: u16, user: u16, group: u16, mask: u16, others: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let undefined = u32::MAX;
    let entries = [
        (1_u16, owner, undefined),
        (2, user, NOBODY),
        (4, group, undefined),
        (16, mask, undefined),
        (32, others, undefined),
    ];
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// > A directory's default access list takes the place of the umask, and is inherited; an access list and the group bits agree.
#[test]
fn default_access_lists() {
    needs_mount!();
    let fixture = for_all();
    let folder = fixture.mountpoint.join("folder");
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o777);
    let make = "umask 077; echo x >file; mkdir below; mkfifo pipe";
    shell_as(NOBODY, &folder, make).ok();
    assert_eq!(
        [mode(folder.join("file")), mode(folder.join("below")), mode(folder.join("pipe"))],
        [0o600, 0o700, 0o600]
    );
    shell_as(NOBODY, &folder, "rm file pipe; rmdir below").ok();
    rustix::fs::setxattr(&folder, "system.posix_acl_default", &acl(7, 6, 5, 7, 0), XattrFlags::empty()).unwrap();
    shell_as(NOBODY, &folder, make).ok();
    assert_eq!(
        [mode(folder.join("file")), mode(folder.join("below")), mode(folder.join("pipe"))],
        [0o660, 0o770, 0o660]
    );
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(folder.join("below"), "system.posix_acl_default", &mut value).unwrap();
    assert_eq!(&value[..len], acl(7, 6, 5, 7, 0));
    // Sealed and mounted, it is still so.
    fixture.seal().ok();
    fixture.mount(&["-o", "allow_other"]).ok();
    let file = folder.join("roots");
    fs::write(&file, "x").unwrap();
    set_mode(&file, 0o600);
    rustix::fs::setxattr(&file, "system.posix_acl_access", &acl(6, 4, 0, 4, 0), XattrFlags::empty()).unwrap();
    assert_eq!(mode(&file), 0o640);
    shell_as(NOBODY, &folder, "cat roots").ok();
    assert_ne!(shell_as(NOBODY, &folder, "echo x >>roots").code, Some(0));
    set_mode(&file, 0o600);
    assert_ne!(shell_as(NOBODY, &folder, "cat roots").code, Some(0));
}

/// > Extended attributes of `user.`, `trusted.` and `security.` are kept, with Linux's rules for who sees and sets them.
#[test]
fn extended_attributes() {
    needs_mount!();
    let fixture = for_all();
    let path = fixture.mountpoint.join("file");
    fs::write(&path, "x").unwrap();
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    for name in ["user.one", "trusted.two", "security.three", "user.\u{fc}n\u{ef}code \u{1}"] {
        set(name, name.as_bytes(), XattrFlags::CREATE).unwrap();
        assert_eq!(set(name, b"x", XattrFlags::CREATE), Err(Errno::EXIST));
    }
    assert_eq!(set("user.none", b"x", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(set("system.unknown", b"x", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
    set("user.large", &[7; 2000], XattrFlags::empty()).unwrap();
    let mut value = [0; 4096];
    assert_eq!(rustix::fs::getxattr(&path, "user.large", &mut value[..10]), Err(Errno::RANGE));
    rustix::fs::removexattr(&path, "user.large").unwrap();
    // "trusted." is for root alone, in listings too.
    let list = "python3 -c 'import os; print(*sorted(map(ascii, os.listxattr(\"file\"))))'";
    let as_root = shell_as(0, &fixture.mountpoint, list).ok().stdout;
    let as_other = shell_as(NOBODY, &fixture.mountpoint, list).ok().stdout;
    assert!(as_root.contains("trusted.two") && as_root.contains("user.one"), "{as_root}");
    assert!(!as_other.contains("trusted") && as_other.contains("user.one"), "{as_other}");
    // Links and devices have none of "user.".
    std::os::unix::fs::symlink("file", fixture.mountpoint.join("link")).unwrap();
    let link = fixture.mountpoint.join("link");
    assert_eq!(rustix::fs::lsetxattr(&link, "user.x", b"x", XattrFlags::empty()), Err(Errno::PERM));
    rustix::fs::lsetxattr(&link, "trusted.x", b"x", XattrFlags::empty()).unwrap();
    fixture.seal().ok();
    fixture.mount(&["-o", "allow_other"]).ok();
    assert_eq!(shell_as(0, &fixture.mountpoint, list).ok().stdout, as_root);
    assert_eq!(rustix::fs::lgetxattr(&link, "trusted.x", &mut value), Ok(1));
}

/// > `statfs` shows the space and the inodes of the filesystem under the vault, a name length of 255, and the type FUSE.
#[test]
fn space_is_that_of_the_backing() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let here = rustix::fs::statvfs(&fixture.mountpoint).unwrap();
    let below = rustix::fs::statvfs(&fixture.vault).unwrap();
    assert_eq!((here.f_namemax, here.f_frsize), (255, below.f_frsize));
    assert_eq!((here.f_blocks, here.f_files), (below.f_blocks, below.f_files));
    assert!(here.f_bavail.abs_diff(below.f_bavail) < below.f_blocks / 50 + 1);
    assert_eq!(rustix::fs::statfs(&fixture.mountpoint).unwrap().f_type, 0x6573_5546);
}

/// > Sizes are those of the plain content; `st_blocks` is what the filesystem under the vault has allocated, so that `du` tells the truth.
#[test]
fn sizes() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    for len in [0_u64, 1, 100, 4096, 16_000, 16_385, 1 << 20] {
        let file = new_file(fixture.mountpoint.join(format!("{len}")));
        file.write_all_at(&vec![7; len as usize], 0).unwrap();
        file.sync_all().unwrap();
    }
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    for len in [0_u64, 1, 100, 4096, 16_000, 16_385, 1 << 20] {
        let metadata = fs::metadata(fixture.mountpoint.join(format!("{len}"))).unwrap();
        assert_eq!(metadata.len(), len);
        let allocated = metadata.blocks() * 512;
        assert!(allocated >= len && allocated <= len + len / 32 + 16_384, "{len}: {allocated}");
    }
    // What is cut off or punched out is given back by the next checkpoint, while nobody does anything to the file.
    let path = fixture.mountpoint.join("cut");
    fs::write(&path, vec![7; 4 << 20]).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let blocks = || fs::metadata(&path).unwrap().blocks();
    file.sync_all().unwrap();
    assert!(blocks() >= (4 << 20) / 512, "{} blocks", blocks());
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 0, 1 << 20).unwrap();
    file.set_len(2 << 20).unwrap();
    blocks();
    eventually("the space is given back", || blocks() <= (5 << 18) / 512);
    fs::write(&path, "").unwrap();
    blocks();
    eventually("the space of what was emptied is given back", || blocks() <= 64);
}

/// > Each user has their own files and rights: owner, permissions, sticky and set-group-id directories are the kernel's to check.
#[test]
fn users() {
    needs_mount!();
    let fixture = for_all();
    let top = &fixture.mountpoint;
    set_mode(top, 0o1777);
    shell_as(NOBODY, top, "umask 027; echo mine >mine; mkdir folder; chmod 700 folder").ok();
    fs::write(top.join("roots"), "x").unwrap();
    set_mode(top.join("roots"), 0o600);
    for script in
        ["cat roots", "rm -f roots", "mv roots stolen", "chmod 777 roots", "chown 65534 roots", "touch -d 2001-01-01 ."]
    {
        assert_ne!(shell_as(NOBODY, top, script).code, Some(0), "{script}");
    }
    assert_ne!(shell_as(1, top, "cat mine").code, Some(0));
    assert_ne!(shell_as(1, top, "ls folder").code, Some(0));
    assert_eq!(fs::metadata(top.join("mine")).unwrap().uid(), NOBODY);
}

/// > `statx` gives the time of creation (`stx_btime`), where the filesystem under the vault and the kernel (Linux 6.6) have it; nothing changes it.
#[test]
fn the_time_of_creation() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let creation = |path: &Path| {
        let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::ALL).unwrap();
        assert_eq!(stat.stx_mask & StatxFlags::BASIC_STATS.bits(), StatxFlags::BASIC_STATS.bits());
        (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
    };
    let release = rustix::system::uname().release().to_str().unwrap().to_owned();
    let numbers: Vec<u32> = release.split(|other: char| !other.is_ascii_digit()).flat_map(str::parse).take(2).collect();
    let is_known = creation(&fixture.vault).is_some() && numbers >= vec![6, 6];
    let (file, folder) = (fixture.mountpoint.join("file"), fixture.mountpoint.join("folder"));
    fs::write(&file, "x").unwrap();
    fs::create_dir(&folder).unwrap();
    let before = (creation(&file), creation(&folder));
    assert_eq!((before.0.is_some(), before.1.is_some()), (is_known, is_known), "Linux {release}");
    assert!(before.0 <= before.1);
    set_mode(&file, 0o640);
    fs::write(&file, vec![1; 100_000]).unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let moved = folder.join("moved");
    fs::rename(&file, &moved).unwrap();
    assert_eq!((creation(&moved), creation(&folder)), before);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    assert_eq!((creation(&moved), creation(&folder)), before);
    let metadata = fs::metadata(&moved).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o7777, metadata.mtime()), (100_000, 0o640, 0));
}

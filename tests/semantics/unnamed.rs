//! Files that are made without a name (`O_TMPFILE`).

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::harness::{self, Fixture, NOBODY, eventually, pattern, run, sero, shell_as};
use crate::{Disk, for_all, needs_mount};

fn unnamed(folder: &Path, flags: OFlags) -> Result<File, Errno> {
    rustix::fs::open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::from_bits_retain(0o640))
        .map(File::from)
}

fn link(file: &File, to: impl AsRef<Path>) -> Result<(), Errno> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, source.as_str(), CWD, to.as_ref(), AtFlags::SYMLINK_FOLLOW)
}

fn links(file: &File) -> u64 {
    file.metadata().unwrap().nlink()
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// > `O_TMPFILE` makes a file without a name; `linkat` gives it one, or several, unless it was opened with `O_EXCL`.
#[test]
fn files_without_a_name() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    fs::create_dir(at("folder")).unwrap();
    let long = "n".repeat(255);
    for (number, content) in [pattern(0), pattern(3000), pattern(700_000)].iter().enumerate() {
        let names = [format!("one {number}"), format!("folder/two {number}"), format!("{number}{}", &long[1..])];
        let file = unnamed(&at("folder"), OFlags::empty()).unwrap();
        assert_eq!(links(&file), 0);
        file.write_all_at(content, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), content.len() as u64);
        for (at_once, name) in (1..).zip(&names) {
            link(&file, at(name)).unwrap();
            assert_eq!(links(&file), at_once);
            assert_eq!(fs::metadata(at(name)).unwrap().ino(), file.metadata().unwrap().ino());
        }
        assert_eq!(link(&file, at(&names[0])), Err(Errno::EXIST));
        // What is written after it got its names, too.
        file.write_all_at(b"later", 0).unwrap();
        drop(file);
        let mut expected = content.clone();
        expected.resize(expected.len().max(5), 0);
        expected[..5].copy_from_slice(b"later");
        for _ in 0..2 {
            assert!(names.iter().all(|name| fs::read(at(name)).unwrap() == expected), "{number}");
            fixture.seal().ok();
            fixture.mount(&[]).ok();
        }
    }
    // As with every file: what had names and lost them gets none.
    let file = unnamed(&fixture.mountpoint, OFlags::empty()).unwrap();
    link(&file, at("gone")).unwrap();
    fs::remove_file(at("gone")).unwrap();
    assert_eq!((links(&file), link(&file, at("again"))), (0, Err(Errno::NOENT)));
    let kept = unnamed(&fixture.mountpoint, OFlags::EXCL).unwrap();
    kept.write_all_at(b"content", 0).unwrap();
    assert_eq!((links(&kept), link(&kept, at("kept"))), (0, Err(Errno::NOENT)));
    assert!(!at("again").exists() && !at("kept").exists());
}

/// > Mode, owner, group and access list of a file without a name are those that a file with one would get in that directory.
#[test]
fn what_a_file_without_a_name_inherits() {
    needs_mount!();
    let fixture = for_all();
    let folder = fixture.mountpoint.join("folder");
    fs::create_dir(&folder).unwrap();
    // The default access list takes the place of the umask.
    let acl = {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in
            [(1_u16, 7_u16, u32::MAX), (2, 6, NOBODY), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]
        {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(rights.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    };
    let set_mode =
        |mode: u32| fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    let script = "
import os
def look(fd):
    stat = os.fstat(fd)
    acl = [os.getxattr(fd, name) for name in os.listxattr(fd) if name.startswith('system.')]
    return oct(stat.st_mode), stat.st_uid, stat.st_gid, acl
for umask in 0o022, 0o077:
    os.umask(umask)
    for mode in 0o666, 0o600, 0o777:
        named = look(os.open('named', os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
        os.unlink('named')
        fd = os.open('.', os.O_TMPFILE | os.O_RDWR, mode)
        assert look(fd) == named, (look(fd), named)
        # With a directory, Python asks linkat(2) to follow; by itself link(2), which does not.
        os.link('/proc/self/fd/%d' % fd, 'linked', src_dir_fd=os.open('.', os.O_RDONLY), follow_symlinks=True)
        assert look(os.open('linked', os.O_RDONLY)) == named
        os.unlink('linked')
        print(named)
";
    fs::write(fixture.folder.path().join("script"), script).unwrap();
    let look = || {
        let command = format!("python3 '{}'", fixture.folder.path().join("script").display());
        shell_as(NOBODY, &folder, &command).ok().stdout
    };
    set_mode(0o777);
    let plain = look();
    assert!(plain.contains("0o100644', 65534, 65534, []") && plain.contains("0o100600"), "{plain}");
    rustix::fs::chown(&folder, None, Some(rustix::fs::Gid::from_raw(1234))).unwrap();
    set_mode(0o2777);
    let of_the_group = look();
    assert!(of_the_group.contains("0o100644', 65534, 1234, []"), "{of_the_group}");
    rustix::fs::setxattr(&folder, "system.posix_acl_default", &acl, XattrFlags::empty()).unwrap();
    let with_acl = look();
    assert!(with_acl.contains("0o100660', 65534, 1234, [b'"), "{with_acl}");
}

/// > What is set on a file before it has a name is on it afterwards: mode, owner, times, attributes, length and holes.
#[test]
fn attributes_from_before_the_name() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    let file = unnamed(&fixture.mountpoint, OFlags::empty()).unwrap();
    file.write_all_at(&pattern(50_000), 0).unwrap();
    file.set_len(3 << 20).unwrap();
    rustix::fs::fchmod(&file, Mode::from_bits_retain(0o4711)).unwrap();
    rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(12)), None).unwrap();
    rustix::fs::fchmod(&file, Mode::from_bits_retain(0o4711)).unwrap();
    rustix::fs::fsetxattr(&file, "user.colour", b"red", XattrFlags::CREATE).unwrap();
    let time = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
    let times = rustix::fs::Timestamps { last_access: time(-5, 7), last_modification: time(1_234_567_890, 9) };
    rustix::fs::futimens(&file, &times).unwrap();
    link(&file, at("file")).unwrap();
    drop(file);
    for _ in 0..2 {
        let found = fs::metadata(at("file")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.len()), (0o4711, 12, 3 << 20));
        assert_eq!((found.atime(), found.atime_nsec(), found.mtime(), found.mtime_nsec()), (-5, 7, 1_234_567_890, 9));
        let mut value = [0; 10];
        let len = rustix::fs::getxattr(at("file"), "user.colour", &mut value).unwrap();
        assert_eq!(&value[..len], b"red");
        assert!(found.blocks() < 1024, "the hole takes {} blocks", found.blocks());
        fixture.seal().ok();
        fixture.mount(&["-o", "noatime"]).ok();
    }
    let content = fs::read(at("file")).unwrap();
    assert!(content[..50_000] == pattern(50_000) && content[50_000..].iter().all(|byte| *byte == 0));
}

/// > What never gets a name is gone with its last descriptor, its space too, and leaves nothing in the vault, also where the daemon is killed.
#[test]
fn what_never_gets_a_name() {
    needs_mount!();
    let disk = Disk::of("64m");
    let fixture = Fixture::with_vault_in(&disk.path());
    fixture.mount(&[]).ok();
    let free = || rustix::fs::statvfs(disk.path()).unwrap().f_bfree;
    let entries = || walk(&fixture.vault.join("tree"));
    let (free_before, entries_before) = (free(), entries());
    for killed in [false, true] {
        let file = unnamed(&fixture.mountpoint, OFlags::empty()).unwrap();
        file.write_all_at(&pattern(24 << 20), 0).unwrap();
        file.sync_all().unwrap();
        assert!(free_before - free() >= (24 << 20) / 4096);
        assert_eq!(entries(), entries_before);
        assert!(listed(&fixture.mountpoint).is_empty());
        if killed {
            fixture.signal(Signal::KILL);
            eventually("dead", || fs::metadata(&fixture.mountpoint).is_err());
            drop(file);
            run(sero().arg("seal").arg(&fixture.mountpoint)).ok();
            fixture.mount(&[]).ok();
        } else {
            drop(file);
        }
        eventually("the space is back", || free_before - free() < (8 << 20) / 4096);
        assert_eq!(entries(), entries_before);
    }
    fixture.seal().ok();
    harness::run(sero().arg("verify").arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault)).ok();
}

/// How many names there are in the tree of a vault.
fn walk(folder: &Path) -> usize {
    listed(folder).iter().map(|path| 1 + if path.is_dir() { walk(path) } else { 0 }).sum()
}

/// > What was synced of a file before it got its first name is in it after a crash, if the name is; `fsync` makes the name durable, as of every file.
#[test]
fn a_crash_after_the_first_name() {
    needs_mount!();
    for synced in [false, true] {
        let fixture = Fixture::mounted(&[]);
        let at = |name: &str| fixture.mountpoint.join(name);
        let content = pattern(300_000);
        let file = unnamed(&fixture.mountpoint, OFlags::empty()).unwrap();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        link(&file, at("file")).unwrap();
        if synced {
            file.write_all_at(b"later", 299_000).unwrap();
            file.sync_all().unwrap();
        }
        fixture.signal(Signal::KILL);
        eventually("dead", || fs::metadata(&fixture.mountpoint).is_err());
        drop(file);
        run(sero().arg("seal").arg(&fixture.mountpoint)).ok();
        fixture.mount(&[]).ok();
        let found = fs::read(at("file")).unwrap();
        assert!(found[..299_000] == content[..299_000] && found.len() == content.len());
        assert!(if synced { found[299_000..].starts_with(b"later") } else { found == content });
        fixture.seal().ok();
    }
}

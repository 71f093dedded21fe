//! Names: rename, links, listings, numbers of inodes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::harness::Fixture;
use crate::{needs_mount, new_file};

/// > `rename` replaces its target in one step, also when the target is open, and its flags NOREPLACE, EXCHANGE and WHITEOUT work.
#[test]
fn renames() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    fs::write(at("new"), "new").unwrap();
    let old = new_file(at("target"));
    old.write_all_at(b"old", 0).unwrap();
    fs::rename(at("new"), at("target")).unwrap();
    let mut bytes = [0; 3];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes, old.metadata().unwrap().nlink()), (b"old", 0));
    assert_eq!(fs::read(at("target")).unwrap(), b"new");

    let rename = |from: &str, to: &str, flags| rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags);
    fs::create_dir(at("folder")).unwrap();
    assert_eq!(rename("target", "folder", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("target", "free", RenameFlags::NOREPLACE).unwrap();
    rename("free", "folder", RenameFlags::EXCHANGE).unwrap();
    assert!(at("free").is_dir() && at("folder").is_file());
    rename("folder", "moved", RenameFlags::WHITEOUT).unwrap();
    let whiteout = fs::symlink_metadata(at("folder")).unwrap();
    assert_eq!((whiteout.mode() & libc::S_IFMT, whiteout.rdev()), (libc::S_IFCHR, 0));
    assert_eq!(fs::read(at("moved")).unwrap(), b"new");

    assert_eq!(rename("free", "free/below", RenameFlags::empty()), Err(Errno::INVAL));
    assert_eq!(rename("free", "moved", RenameFlags::empty()), Err(Errno::NOTDIR));
    assert_eq!(rename("moved", "free", RenameFlags::empty()), Err(Errno::ISDIR));
    fs::write(at("free/inside"), "x").unwrap();
    fs::create_dir(at("other")).unwrap();
    assert_eq!(rename("other", "free", RenameFlags::empty()), Err(Errno::NOTEMPTY));
}

/// > Hard links are one inode: number, content, attributes and `st_nlink` are the same by every name.
#[test]
fn hard_links() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    fs::write(at("one"), "x").unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::hard_link(at("one"), at("folder/two")).unwrap();
    for _ in 0..2 {
        fs::write(at("folder/two"), "written by the second name").unwrap();
        assert_eq!(fs::read(at("one")).unwrap(), b"written by the second name");
        let of = |name: &str| {
            let metadata = fs::metadata(at(name)).unwrap();
            (metadata.ino(), metadata.nlink(), metadata.mode(), metadata.mtime_nsec(), metadata.len())
        };
        assert_eq!(of("one"), of("folder/two"));
        assert_eq!(of("one").1, 2);
        fixture.seal().ok();
        fixture.mount(&[]).ok();
    }
    fs::remove_file(at("one")).unwrap();
    assert_eq!(fs::metadata(at("folder/two")).unwrap().nlink(), 1);
    // A link to a link, not to where it leads.
    symlink("nowhere", at("link")).unwrap();
    fs::hard_link(at("link"), at("second link")).unwrap();
    assert_eq!(fs::read_link(at("second link")).unwrap(), Path::new("nowhere"));
    assert_eq!(fs::hard_link(at("folder"), at("no")).unwrap_err().raw_os_error(), Some(libc::EPERM));
}

/// > An open file whose name is gone gets another by `linkat` as long as the inode has one, also one that was never looked up.
#[test]
fn a_file_is_linked_by_its_descriptor() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    fs::write(at("one"), "content").unwrap();
    fs::hard_link(at("one"), at("other")).unwrap();
    // Sealed and mounted: only the name that is looked up is known.
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let link = |file: &File, to: &str| {
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, source.as_str(), CWD, at(to), AtFlags::SYMLINK_FOLLOW)
    };
    let file = File::open(at("one")).unwrap();
    fs::remove_file(at("one")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 1);
    link(&file, "third").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 2);
    assert_eq!(fs::read(at("third")).unwrap(), b"content");
    fs::remove_file(at("other")).unwrap();
    fs::remove_file(at("third")).unwrap();
    // As on ext4: what has no name at all gets none.
    assert_eq!(link(&file, "fourth"), Err(Errno::NOENT));
}

/// > `st_nlink` of a directory is 2 and one for each directory in it, where the filesystem under the vault counts so.
#[test]
fn links_of_directories() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let count = |folder: &Path| {
        let links = || fs::metadata(folder).unwrap().nlink();
        let mut seen = Vec::new();
        fs::create_dir(folder).unwrap();
        seen.push(links());
        fs::create_dir(folder.join("a")).unwrap();
        fs::create_dir(folder.join("b")).unwrap();
        seen.push(links());
        fs::write(folder.join("file"), "x").unwrap();
        symlink("a", folder.join("link")).unwrap();
        fs::remove_dir(folder.join("b")).unwrap();
        seen.push(links());
        seen
    };
    let below = count(&fixture.folder.path().join("plain"));
    assert_eq!(count(&fixture.mountpoint.join("folder")), below);
}

/// > A listing that goes on while entries are removed and added shows each of the others exactly once.
#[test]
fn listings_are_stable() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let folder = fixture.mountpoint.join("folder");
    fs::create_dir(&folder).unwrap();
    let name = |index: usize| format!("entry {index} {}", "x".repeat(index % 200));
    for index in 0..2000 {
        File::create_new(folder.join(name(index))).unwrap();
    }
    // By hand: a buffer at a time, with changes between.
    let directory =
        rustix::fs::open(&folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut seen = Vec::new();
    let mut buffer = Vec::with_capacity(2048);
    let mut round = 0;
    loop {
        let mut listing = rustix::fs::RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut found = 0;
        while let Some(entry) = listing.next() {
            seen.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
            found += 1;
            if listing.is_buffer_empty() {
                break;
            }
        }
        if found == 0 {
            break;
        }
        // What was seen goes, every second of them; what was not seen stays; new ones come.
        for name in seen.iter().rev().take(found).filter(|name| name.starts_with("entry")).step_by(2) {
            fs::remove_file(folder.join(name)).unwrap();
        }
        File::create_new(folder.join(format!("new {round}"))).unwrap();
        round += 1;
    }
    assert!(round > 10, "it took {round} buffers only");
    let entries: Vec<_> = seen.iter().filter(|name| name.starts_with("entry")).collect();
    assert_eq!(entries.len(), 2000);
    assert_eq!(entries.iter().collect::<BTreeSet<_>>().len(), 2000);
    assert_eq!(seen.iter().filter(|name| matches!(name.as_str(), "." | "..")).count(), 2);
}

/// > A new file is new in every respect, also where the filesystem under the vault gives it the inode number of one that was removed.
#[test]
fn inode_numbers_that_are_used_again() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    for round in 0..100 {
        let first = new_file(at("first"));
        first.write_all_at(b"what was here before", 0).unwrap();
        rustix::fs::fsetxattr(&first, "user.before", b"x", rustix::fs::XattrFlags::empty()).unwrap();
        rustix::fs::fchmod(&first, Mode::from_bits_retain(0o4711)).unwrap();
        // Every second one is still held, by a handle that is none for reading.
        let held = (round % 2 == 0).then(|| {
            let held = rustix::fs::open(at("first"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            (rustix::fs::fstat(&held).unwrap().st_ino, held)
        });
        drop(first);
        fs::remove_file(at("first")).unwrap();
        fs::write(at("second"), "").unwrap();
        let second = fs::metadata(at("second")).unwrap();
        assert_eq!((second.len(), second.mode() & 0o7777 & !0o022, second.nlink()), (0, 0o644, 1), "round {round}");
        let mut names = [0; 64];
        assert_eq!(rustix::fs::listxattr(at("second"), &mut names), Ok(0));
        if let Some((ino, held)) = held {
            assert_ne!(second.ino(), ino);
            let stat = rustix::fs::fstat(&held).unwrap();
            assert_eq!((stat.st_ino, stat.st_nlink, stat.st_mode & 0o7777), (ino, 0, 0o4711));
        }
        // Of another kind, too.
        fs::remove_file(at("second")).unwrap();
        fs::create_dir(at("third")).unwrap();
        assert!(fs::metadata(at("third")).unwrap().is_dir());
        fs::remove_dir(at("third")).unwrap();
    }
}

/// > Names are any bytes but "/" and zero, 1 to 255 of them, and are told apart byte by byte.
#[test]
fn names_of_every_length() {
    needs_mount!();
    use std::os::unix::ffi::OsStringExt;
    let fixture = Fixture::mounted(&[]);
    let at = |name: &OsString| fixture.mountpoint.join(name);
    let mut expected = BTreeSet::new();
    for len in 1..=255_usize {
        let bytes: Vec<u8> =
            (0..len).map(|at| [b'n', 0xff, 0xc3, b'\n', b' ', b'\\', b'=', 1][(at + len) % 8]).collect();
        let name = OsString::from_vec(bytes);
        match len % 3 {
            0 => fs::create_dir(at(&name)).unwrap(),
            1 => fs::write(at(&name), format!("{len}")).unwrap(),
            _ => symlink(format!("{len}"), at(&name)).unwrap(),
        }
        expected.insert(name);
    }
    for name in ["case", "CASE", "\u{e9}", "e\u{301}"] {
        fs::write(fixture.mountpoint.join(name), name).unwrap();
        expected.insert(name.into());
    }
    let too_long = OsString::from_vec(vec![b'x'; 256]);
    assert_eq!(fs::write(at(&too_long), "x").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    for _ in 0..2 {
        let listed: BTreeSet<_> =
            fs::read_dir(&fixture.mountpoint).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(listed, expected);
        for name in &expected {
            fs::symlink_metadata(at(name)).unwrap();
        }
        fixture.seal().ok();
        fixture.mount(&[]).ok();
    }
    for name in &expected {
        let path = at(name);
        if fs::symlink_metadata(&path).unwrap().is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
            .unwrap();
    }
    assert_eq!(fs::read_dir(&fixture.mountpoint).unwrap().count(), 0);
}

/// > Paths are as long as the kernel takes them (PATH_MAX), and trees deeper than any path can be walked by descriptors.
#[test]
fn the_deepest_paths() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    // 200 directories with names of 251 bytes: ten times PATH_MAX, and each of them sealed to a long name.
    let name = |depth: usize| format!("{depth:03}{}", "d".repeat(248));
    let enter = |at: &rustix::fd::OwnedFd, name: &str| {
        rustix::fs::openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    };
    let top = || {
        rustix::fs::open(&fixture.mountpoint, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .unwrap()
    };
    let mut at = top();
    for depth in 0..200 {
        rustix::fs::mkdirat(&at, name(depth), Mode::from_bits_retain(0o755)).unwrap();
        at = enter(&at, &name(depth)).unwrap();
    }
    let bottom = rustix::fs::openat(
        &at,
        "bottom",
        OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::from_bits_retain(0o600),
    )
    .unwrap();
    rustix::io::write(&bottom, b"deep").unwrap();
    drop((at, bottom));
    // A path of PATH_MAX less its zero byte, below the mountpoint.
    let mut folder = fixture.mountpoint.clone();
    while folder.as_os_str().len() + 200 < 4095 {
        folder.push("p".repeat(100));
    }
    fs::create_dir_all(&folder).unwrap();
    let rest = 4095 - folder.as_os_str().len() - 1;
    let longest: PathBuf = folder.join("l".repeat(rest));
    fs::write(&longest, "long").unwrap();
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    assert_eq!(fs::read(&longest).unwrap(), b"long");
    let mut at = top();
    for depth in 0..200 {
        at = enter(&at, &name(depth)).unwrap();
    }
    let bottom = rustix::fs::openat(&at, "bottom", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&bottom, &mut bytes), Ok(4));
}

/// > A directory that was removed while it is open, or someone's working directory, is empty and takes nothing.
#[test]
fn removed_directories() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("folder");
    fs::create_dir(&path).unwrap();
    let folder = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    fs::remove_dir(&path).unwrap();
    assert_eq!(
        rustix::fs::openat(&folder, "x", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).err(),
        Some(Errno::NOENT)
    );
    assert_eq!(rustix::fs::mkdirat(&folder, "x", Mode::empty()), Err(Errno::NOENT));
    let names = rustix::fs::Dir::read_from(&folder).unwrap().count();
    assert!(names <= 2, "{names} entries");
    assert_eq!(rustix::fs::fstat(&folder).unwrap().st_nlink, 0);
    // The name is free.
    fs::write(&path, "x").unwrap();
}

/// > FIFOs, sockets and devices are kept with type and number, work as such, and cost no content.
#[test]
fn special_files() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_bits_retain(0o640), device).unwrap();
    };
    make("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("block", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(259, 1_000_000));
    make("fifo", rustix::fs::FileType::Fifo, 0);
    let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    std::os::unix::net::UnixStream::connect(at("socket")).unwrap();
    fs::write(at("null"), "gone").unwrap();
    let (read, write) = (at("fifo"), at("fifo"));
    let reader = std::thread::spawn(move || fs::read(read).unwrap());
    fs::write(write, "through").unwrap();
    assert_eq!(reader.join().unwrap(), b"through");
    drop(socket);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let of = |name: &str| {
        let metadata = fs::symlink_metadata(at(name)).unwrap();
        (metadata.mode(), metadata.rdev(), metadata.len())
    };
    assert_eq!(of("null"), (libc::S_IFCHR | 0o640, rustix::fs::makedev(1, 3), 0));
    assert_eq!(of("block"), (libc::S_IFBLK | 0o640, rustix::fs::makedev(259, 1_000_000), 0));
    assert_eq!(of("fifo"), (libc::S_IFIFO | 0o640, 0, 0));
    assert_eq!(of("socket").0 & libc::S_IFMT, libc::S_IFSOCK);
    assert_eq!(fs::read(at("null")).unwrap(), b"");
}

/// > Overlayfs takes directories of a mounted vault as lower and as upper layer: whiteouts, copies upwards, and opaque directories work.
#[test]
fn layers_of_overlayfs() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    for folder in ["lower/folder", "upper", "work"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::write(at("lower/file"), "below").unwrap();
    fs::write(at("lower/changed"), "below").unwrap();
    fs::write(at("lower/folder/inside"), "below").unwrap();
    let merged = fixture.folder.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("lower").display(),
        at("upper").display(),
        at("work").display()
    );
    let mount = || {
        let layers = std::ffi::CString::new(layers.as_str()).unwrap();
        rustix::mount::mount("overlay", &merged, "overlay", rustix::mount::MountFlags::empty(), layers.as_c_str())
    };
    match mount() {
        Err(Errno::NODEV) => return eprintln!("skipped: this kernel has no overlayfs"),
        outcome => outcome.unwrap(),
    }
    for round in 0..2 {
        let outcome = std::panic::catch_unwind(|| {
            if round == 0 {
                assert_eq!(fs::read(merged.join("file")).unwrap(), b"below");
                fs::write(merged.join("changed"), "above").unwrap();
                fs::remove_file(merged.join("file")).unwrap();
                fs::remove_dir_all(merged.join("folder")).unwrap();
                fs::create_dir(merged.join("folder")).unwrap();
                fs::write(merged.join("folder/new"), "above").unwrap();
            }
            assert!(!merged.join("file").exists());
            assert_eq!(fs::read(merged.join("changed")).unwrap(), b"above");
            assert_eq!(fs::read(at("lower/changed")).unwrap(), b"below");
            let inside: Vec<_> = fs::read_dir(merged.join("folder")).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(inside, ["new"]);
        });
        rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty()).unwrap();
        outcome.unwrap();
        if round == 0 {
            // The layers are what they were after the vault was sealed.
            fixture.seal().ok();
            fixture.mount(&[]).ok();
            mount().unwrap();
        }
    }
}

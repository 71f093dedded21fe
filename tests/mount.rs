//! The whole of it: a vault mounted by the kernel, used with ordinary calls by several users, and found again.
//!
//! Skipped, and said so, where this process may not mount.

#[path = "cli/harness.rs"]
mod harness;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use harness::{Fixture, NOBODY, can_mount, eventually, pattern, run, sero, shell_as, users_can_mount};
use rustix::fs::{AtFlags, RenameFlags, Timespec, Timestamps};

// --- work in it, and find it again ---

#[test]
fn what_is_written_is_there_after_sealing_and_mounting_again() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let top = &fixture.mountpoint;
    let sizes = [0, 1, 4095, 4096, 4097, 16_384, 70_000, 3_000_000];
    for size in sizes {
        fs::write(top.join(format!("file-{size}")), pattern(size)).unwrap();
    }
    fs::create_dir_all(top.join("a/b/c")).unwrap();
    let long = OsStr::from_bytes(&[b'x'; 255]);
    fs::write(top.join("a/b").join(long), "long name").unwrap();
    symlink("a/b/c", top.join("link")).unwrap();
    fs::hard_link(top.join("file-1"), top.join("second-name")).unwrap();
    fs::rename(top.join("a/b/c"), top.join("a/moved")).unwrap();
    fs::remove_file(top.join("file-0")).unwrap();

    for round in 0..2 {
        if round == 1 {
            fixture.seal().ok();
            assert_eq!(fixture.info()["sealed"], true);
            assert_eq!(fs::read_dir(top).unwrap().count(), 0, "the mountpoint is empty again");
            fixture.mount(&[]).ok();
        }
        for size in &sizes[1..] {
            assert_eq!(
                fs::read(top.join(format!("file-{size}"))).unwrap(),
                pattern(*size),
                "{size} bytes, round {round}"
            );
        }
        assert_eq!(fs::read(top.join("a/b").join(long)).unwrap(), b"long name");
        assert_eq!(fs::read_link(top.join("link")).unwrap(), Path::new("a/b/c"));
        assert_eq!(fs::metadata(top.join("second-name")).unwrap().nlink(), 2);
        assert!(top.join("a/moved").is_dir());
        assert!(!top.join("file-0").exists());
        let mut names: Vec<_> = fs::read_dir(top.join("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["b", "moved"]);
    }
    fixture.seal().ok();
}

#[test]
fn overwrites_appends_truncations_and_holes() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    let mut expected = pattern(100_000);
    fs::write(&path, &expected).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"overwritten", 50_000).unwrap();
    expected[50_000..50_011].copy_from_slice(b"overwritten");
    file.set_len(80_000).unwrap();
    expected.truncate(80_000);
    file.set_len(90_000).unwrap();
    expected.resize(90_000, 0);
    let mut append = OpenOptions::new().append(true).open(&path).unwrap();
    append.write_all(b"tail").unwrap();
    expected.extend_from_slice(b"tail");
    drop((file, append));
    assert_eq!(fs::read(&path).unwrap(), expected);

    let sparse = File::create_new(fixture.mountpoint.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 20 << 30).unwrap();
    sparse.sync_all().unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), (20 << 30) + 3);
    drop(sparse);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    assert_eq!(fs::read(&path).unwrap(), expected);
    let sparse = File::open(fixture.mountpoint.join("sparse")).unwrap();
    let mut bytes = [1; 6];
    sparse.read_exact_at(&mut bytes, (20 << 30) - 3).unwrap();
    assert_eq!(&bytes, b"\0\0\0end");
}

#[test]
fn data_that_is_not_yet_written_back_is_no_hole() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let mut file = File::create_new(fixture.mountpoint.join("file")).unwrap();
    file.write_all_at(b"data", 1 << 20).unwrap();
    // Still in the kernel's cache. A copy that trusts SEEK_DATA must not lose it.
    let found = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!(found <= 1 << 20, "data was found at {found} only");
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(1 << 20)).unwrap(), (1 << 20) + 4);
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    let mut bytes = Vec::new();
    let _ = file.read_to_end(&mut bytes);
}

/// The kernel writes a file back for such a question, and keeps its pages.
#[test]
fn a_question_for_data_and_holes_leaves_the_cache_alone() {
    can_mount();
    for options in [vec![], vec!["-o", "no_io_uring"]] {
        let fixture = Fixture::mounted(&options);
        let reads = || {
            let asked = run(sero().args(["status", "--json"]).arg(&fixture.mountpoint)).ok();
            let status: serde_json::Value = serde_json::from_str(&asked.stdout).unwrap();
            status[0]["operations"]["reads"].as_u64().unwrap()
        };
        let (len, gap) = (1 << 20, 1 << 16);
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(fixture.mountpoint.join("file")).unwrap();
        file.write_all_at(&pattern(len), gap).unwrap();
        assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)), Ok(gap));
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, gap).unwrap();
        assert!(bytes == pattern(len) && reads() == 0, "{} reads", reads());
        drop(file);
        fixture.seal().ok();
        fixture.mount(&options).ok();
        assert_eq!(fs::read(fixture.mountpoint.join("file")).unwrap()[gap as usize..], bytes);
    }
}

/// Reads another file into a mapping of this one, past the cache, while somebody asks for data and holes.
const READER: &str = "
import mmap, os, sys, threading
mapped, source = sys.argv[1:]
content = os.urandom(4 << 20)
with open(source, 'wb') as file:
    file.write(content)
    os.fsync(file.fileno())
direct = os.open(source, os.O_RDONLY | os.O_DIRECT)
file = os.open(mapped, os.O_RDWR | os.O_CREAT)
os.ftruncate(file, len(content))
mapping = mmap.mmap(file, len(content))
done = False
def ask():
    while not done:
        os.lseek(file, 0, os.SEEK_HOLE)
asking = threading.Thread(target=ask)
asking.start()
lost = 0
for _ in range(20):
    mapping[:] = bytes(len(content))
    with memoryview(mapping) as view:
        os.preadv(direct, [view], 0)
    lost += mapping[:] != content
done = True
asking.join()
print(f'{lost} lost')
";

#[test]
fn a_question_for_holes_takes_nothing_from_who_reads_into_a_mapping() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    // On a disk, if there is one: a device writes into the pages.
    let source = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", READER]).arg(fixture.mountpoint.join("mapped")).arg(source.path());
    assert_eq!(run(&mut python).ok().stdout, "0 lost\n");
    fixture.seal().ok();
}

#[test]
fn unlinked_and_replaced_files_live_as_long_as_they_are_open() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let top = &fixture.mountpoint;
    let open = |name: &str| OpenOptions::new().read(true).write(true).create_new(true).open(top.join(name)).unwrap();
    let (unlinked, replaced) = (open("unlinked"), open("replaced"));
    fs::remove_file(top.join("unlinked")).unwrap();
    fs::write(top.join("new"), "new").unwrap();
    fs::rename(top.join("new"), top.join("replaced")).unwrap();
    for file in [unlinked, replaced] {
        file.write_all_at(b"still here", 0).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        file.sync_all().unwrap();
        let mut bytes = [0; 10];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"still here");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
    assert_eq!(fs::read(top.join("replaced")).unwrap(), b"new");
    assert_eq!(fs::read_dir(top).unwrap().count(), 1);
}

#[test]
fn renames_with_flags() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let top = File::open(&fixture.mountpoint).unwrap();
    for name in ["a", "b"] {
        fs::write(fixture.mountpoint.join(name), name).unwrap();
    }
    let rename = |flags| rustix::fs::renameat_with(&top, "a", &top, "b", flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(fixture.mountpoint.join("a")).unwrap(), b"b");
    assert_eq!(fs::read(fixture.mountpoint.join("b")).unwrap(), b"a");
}

#[test]
fn times_to_the_nanosecond_on_both_sides_of_1970() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, "x").unwrap();
    for (seconds, nanoseconds) in [(1_700_000_000, 123_456_789), (0, 1), (-1, 999_999_999), (-86_401, 500_000_000)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty()).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (seconds, nanoseconds));
        assert_eq!((metadata.atime(), metadata.atime_nsec()), (seconds, nanoseconds));
    }
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-86_401, 500_000_000));
}

#[test]
fn extended_attributes() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, "x").unwrap();
    let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty());
    set("user.colour", b"green").unwrap();
    set("user.empty", b"").unwrap();
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let mut value = [0; 64];
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value[..4]), Err(rustix::io::Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value), Ok(5));
    assert_eq!(&value[..5], b"green");
    assert_eq!(rustix::fs::getxattr(&path, "user.empty", &mut value), Ok(0));
    assert_eq!(rustix::fs::getxattr(&path, "user.none", &mut value), Err(rustix::io::Errno::NODATA));
    let mut names = [0; 256];
    let len = rustix::fs::listxattr(&path, &mut names).unwrap();
    assert!(names[..len].split(|byte| *byte == 0).any(|name| name == b"user.colour"));
}

#[test]
fn a_directory_of_thousands_is_listed_whole_while_it_is_emptied() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let folder = fixture.mountpoint.join("many");
    fs::create_dir(&folder).unwrap();
    for index in 0..3000 {
        File::create_new(folder.join(format!("entry {index} with a name of some length"))).unwrap();
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3000);
    // Removing while listing neither skips nor repeats.
    for entry in fs::read_dir(&folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::remove_dir(&folder).unwrap();
}

#[test]
fn a_listing_with_an_entry_that_does_not_open_is_given_whole_and_then_fails() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    for number in 0..500 {
        File::create_new(fixture.mountpoint.join(format!("file {number}"))).unwrap();
    }
    fixture.seal().ok();
    fs::write(fixture.vault.join("tree/no sealed name"), "x").unwrap();
    fixture.mount(&[]).ok();
    // The second time the kernel might have kept the listing.
    for _ in 0..2 {
        let directory = File::open(&fixture.mountpoint).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut entries = rustix::fs::RawDir::new(&directory, &mut buffer);
        let mut names = Vec::new();
        let error = loop {
            match entries.next() {
                Some(Ok(entry)) => names.push(entry.file_name().to_str().unwrap().to_owned()),
                Some(Err(errno)) => break Some(errno),
                None => break None,
            }
        };
        names.sort();
        names.dedup();
        assert_eq!((names.len(), error), (502, Some(rustix::io::Errno::IO)));
    }
}

#[test]
fn many_threads_at_a_time() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let top = &fixture.mountpoint;
    std::thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                let folder = top.join(format!("worker-{worker}"));
                fs::create_dir(&folder).unwrap();
                for index in 0..50 {
                    let path = folder.join(format!("file-{index}"));
                    fs::write(&path, pattern(index * 997)).unwrap();
                    if index % 7 == 0 {
                        File::open(&path).unwrap().sync_all().unwrap();
                    }
                    fs::rename(&path, folder.join(format!("renamed-{index}"))).unwrap();
                }
                for index in 0..50 {
                    assert_eq!(fs::read(folder.join(format!("renamed-{index}"))).unwrap(), pattern(index * 997));
                }
            });
        }
    });
    fixture.seal().ok();
}

#[test]
fn plaintext_is_nowhere_in_the_vault() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let secret = "the quick brown fox is a secret";
    fs::create_dir(fixture.mountpoint.join("secret-directory")).unwrap();
    fs::write(fixture.mountpoint.join("secret-directory/secret-name"), secret.repeat(1000)).unwrap();
    fixture.seal().ok();
    let found = run(Command::new("grep").args(["-r", "-l", "-a", "-e", "secret", "--"]).arg(&fixture.vault));
    assert_eq!(found.code, Some(1), "{found:?}");
    let names = run(Command::new("find").arg(&fixture.vault)).ok().stdout;
    assert!(!names.contains("secret"), "{names}");
}

// --- who may do what ---

#[test]
fn other_users_have_their_own_files_and_rights() {
    can_mount();
    let fixture = Fixture::mounted(&["-o", "allow_other"]);
    let top = &fixture.mountpoint;
    fs::set_permissions(top, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(top.join("roots"), "secret").unwrap();
    fs::set_permissions(top.join("roots"), fs::Permissions::from_mode(0o600)).unwrap();
    shell_as(NOBODY, top, "umask 027; echo mine > theirs; mkdir folder; ln -s theirs link").ok();
    for (name, mode) in [("theirs", 0o640), ("folder", 0o750)] {
        let metadata = fs::metadata(top.join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (NOBODY, NOBODY, mode), "{name}");
    }
    let refused = |uid, script: &str| assert_ne!(shell_as(uid, top, script).code, Some(0), "{script}");
    refused(NOBODY, "cat roots");
    refused(NOBODY, "chown 0 theirs");
    refused(1, "cat theirs");
    // Sticky: what is another's stays.
    refused(1, "rm -f theirs");
    refused(1, "mv theirs stolen");
    shell_as(NOBODY, top, "mv theirs kept && rm link").ok();
    fixture.seal().ok();
    fixture.mount(&["-o", "allow_other"]).ok();
    assert_eq!(fs::metadata(top.join("kept")).unwrap().uid(), NOBODY);
    assert_eq!(fs::metadata(top).unwrap().mode() & 0o7777, 0o1777);
}

/// A new vault's top directory is its owner's alone.
fn let_others_in(fixture: &Fixture) {
    assert_eq!(fs::metadata(&fixture.mountpoint).unwrap().mode() & 0o7777, 0o700);
    fs::set_permissions(&fixture.mountpoint, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_setgid_directory_passes_its_group_on() {
    can_mount();
    let fixture = Fixture::mounted(&["-o", "allow_other"]);
    let_others_in(&fixture);
    let folder = fixture.mountpoint.join("shared");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, None, Some(100)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o2777)).unwrap();
    shell_as(NOBODY, &folder, "echo x > file; mkdir below").ok();
    assert_eq!(fs::metadata(folder.join("file")).unwrap().gid(), 100);
    let below = fs::metadata(folder.join("below")).unwrap();
    assert_eq!((below.gid(), below.mode() & 0o2000), (100, 0o2000));
}

#[test]
fn a_write_takes_the_set_user_id_bit_away() {
    can_mount();
    let fixture = Fixture::mounted(&["-o", "allow_other"]);
    let_others_in(&fixture);
    let path = fixture.mountpoint.join("program");
    fs::write(&path, "x").unwrap();
    std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    for script in ["echo y >> program", "echo y > program", "truncate -s 0 program"] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
        shell_as(NOBODY, &fixture.mountpoint, script).ok();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755, "{script}");
    }
}

#[test]
fn without_allow_other_nobody_else_enters() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::set_permissions(&fixture.mountpoint, fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = shell_as(NOBODY, Path::new("/"), &format!("ls {}", fixture.mountpoint.display()));
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn root_mounts_honour_devices_and_set_user_id_unless_told_not_to() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let mount = &fixture.mounts()[0];
    assert!(!mount.options.contains("nosuid") && !mount.options.contains("nodev"), "{mount:?}");
    assert_eq!((mount.filesystem_type.as_str(), mount.source.as_os_str()), ("fuse.sero", fixture.vault.as_os_str()));
    fixture.seal().ok();
    fixture.mount(&["-o", "nosuid,nodev,noexec,noatime"]).ok();
    let mount = &fixture.mounts()[0];
    assert!(["nosuid", "nodev", "noexec", "noatime"].iter().all(|option| mount.options.contains(option)), "{mount:?}");
}

#[test]
fn an_ordinary_user_mounts_through_fusermount() {
    can_mount();
    users_can_mount();
    use std::os::unix::process::CommandExt;
    let fixture = Fixture::new();
    run(Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(fixture.folder.path())).ok();
    let as_user = |mut command: Command| run(command.uid(NOBODY).gid(NOBODY));
    as_user(fixture.mount_command(&[])).ok();
    shell_as(NOBODY, &fixture.mountpoint, "echo mine > file && mkdir folder && mv file folder && cat folder/file").ok();
    let mount = &fixture.mounts()[0];
    assert!(mount.options.contains("nosuid") && mount.user_id() == Some(NOBODY), "{mount:?}");
    let mut seal = sero();
    seal.arg("seal").arg(&fixture.vault);
    as_user(seal).ok();
    assert!(fixture.mounts().is_empty());
    as_user(fixture.mount_command(&[])).ok();
    shell_as(NOBODY, &fixture.mountpoint, "test \"$(cat folder/file)\" = mine").ok();
    as_user({
        let mut command = Command::new("fusermount3");
        command.arg("-u").arg(&fixture.mountpoint);
        command
    })
    .ok();
    eventually("sealed", || fixture.info()["sealed"] == true);
}

#[test]
fn direct_io_and_locks_work() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, pattern(8192)).unwrap();
    let direct = rustix::fs::open(
        &path,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map(File::from)
    .unwrap();
    let mut bytes = vec![0; 4096];
    direct.read_exact_at(&mut bytes, 4096).unwrap();
    assert_eq!(bytes, pattern(8192)[4096..]);
    direct.write_all_at(&[7; 4096], 0).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..4096], [7; 4096]);
    let other = File::open(&path).unwrap();
    direct.lock().unwrap();
    assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
    direct.unlock().unwrap();
    other.try_lock().unwrap();
}

#[test]
fn errors_are_those_of_a_filesystem() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let top = &fixture.mountpoint;
    fs::create_dir_all(top.join("folder/full")).unwrap();
    fs::write(top.join("file"), "x").unwrap();
    let errno = |result: io::Result<()>| result.unwrap_err().raw_os_error();
    use rustix::io::Errno;
    let cases = [
        (fs::remove_dir(top.join("folder")), Errno::NOTEMPTY),
        (fs::remove_dir(top.join("file")), Errno::NOTDIR),
        (fs::remove_file(top.join("folder")), Errno::ISDIR),
        (fs::create_dir(top.join("file")), Errno::EXIST),
        (fs::write(top.join("file/below"), "x"), Errno::NOTDIR),
        (fs::write(top.join("x".repeat(256)), "x"), Errno::NAMETOOLONG),
        (fs::rename(top.join("folder"), top.join("folder/full/inside")), Errno::INVAL),
        (fs::hard_link(top.join("folder"), top.join("second")), Errno::PERM),
        (fs::read(top.join("none")).map(drop), Errno::NOENT),
    ];
    for (index, (result, expected)) in cases.into_iter().enumerate() {
        assert_eq!(errno(result), Some(expected.raw_os_error()), "case {index}");
    }
}

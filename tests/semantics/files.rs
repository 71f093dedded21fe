//! Open files: content, holes, space, times, locks.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;

use rustix::fs::{FallocateFlags, FlockOperation, Gid, Mode, SeekFrom, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::harness::{Fixture, eventually, pattern, run};
use crate::{Disk, needs_mount, new_file, python};

/// > A file that is removed or replaced while it is open stays whole for who has it open: content, `fchmod`, `fchown`, `futimens`, `fsetxattr`, `fsync`, truncation, and a second open through `/proc`.
#[test]
fn unlinked_files() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    // Small and large; committed before, and never.
    for (len, reopened) in [(10, false), (10, true), (300_000, false), (300_000, true)] {
        let mut file = new_file(at("file"));
        file.write_all_at(&pattern(len), 0).unwrap();
        if reopened {
            drop(file);
            file = OpenOptions::new().read(true).write(true).open(at("file")).unwrap();
        }
        if len == 10 {
            fs::remove_file(at("file")).unwrap();
        } else {
            fs::write(at("new"), "new").unwrap();
            fs::rename(at("new"), at("file")).unwrap();
            fs::remove_file(at("file")).unwrap();
        }
        rustix::fs::fchmod(&file, Mode::from_bits_retain(0o751)).unwrap();
        rustix::fs::fchown(&file, Some(Uid::from_raw(12)), Some(Gid::from_raw(34))).unwrap();
        let time = Timespec { tv_sec: -7, tv_nsec: 123_456_789 };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }).unwrap();
        rustix::fs::fsetxattr(&file, "user.late", b"value", XattrFlags::empty()).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (0, 0o751));
        assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-7, 123_456_789));
        let mut value = [0; 16];
        assert_eq!(rustix::fs::fgetxattr(&file, "user.late", &mut value), Ok(5));

        let through_proc = format!("/proc/self/fd/{}", file.as_raw_fd());
        let again = OpenOptions::new().read(true).write(true).open(&through_proc).unwrap();
        assert_eq!(again.metadata().unwrap().len(), len as u64);
        again.write_all_at(b"second", 3).unwrap();
        file.set_len(5_000).unwrap();
        file.write_all_at(b"end", 9_000).unwrap();
        file.sync_all().unwrap();
        let mut expected = pattern(len);
        expected[3..9].copy_from_slice(b"second");
        expected.resize(5_000, 0);
        expected.resize(9_000, 0);
        expected.extend_from_slice(b"end");
        let mut found = Vec::new();
        (&again).read_to_end(&mut found).unwrap();
        assert!(found == expected, "{len} bytes, reopened: {reopened}");
        assert!(!at("file").exists());
    }
}

/// > Appends of several processes at once all land at the end, none over another.
#[test]
fn appends() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("log");
    let children: Vec<_> = (0..4)
        .map(|worker| {
            let script = format!("for i in $(seq 200); do echo worker {worker} line $i; done >>\"$1\"");
            Command::new("sh").args(["-c", &script, "sh"]).arg(&path).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(crate::harness::end_of(&mut child).success());
    }
    let text = fs::read_to_string(&path).unwrap();
    for worker in 0..4 {
        let prefix = format!("worker {worker} line ");
        let lines: Vec<usize> =
            text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(|number| number.parse().unwrap()).collect();
        assert_eq!(lines, (1..=200).collect::<Vec<_>>(), "worker {worker}");
    }
    assert_eq!(text.lines().count(), 800);
}

/// > Whatever was never written reads as zeros: holes, what a truncation or an append leaves between, reserved space.
#[test]
fn zeros() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let file = new_file(fixture.mountpoint.join("file"));
    let mut expected = pattern(50_000);
    file.write_all_at(&expected, 0).unwrap();
    file.set_len(10_001).unwrap();
    expected.truncate(10_001);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 9_000, 60_000).unwrap();
    expected.resize(69_000, 0);
    file.write_all_at(b"x", 100_000).unwrap();
    expected.resize(100_000, 0);
    expected.push(b'x');
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 5, 5_000).unwrap();
    expected[5..5_005].fill(0);
    rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 9_500, 200_000).unwrap();
    expected.resize(209_500, 0);
    expected[9_500..].fill(0);
    let path = fixture.mountpoint.join("file");
    assert!(fs::read(&path).unwrap() == expected);
    drop(file);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    assert!(fs::read(&path).unwrap() == expected);
}

/// > `fallocate` reserves, keeps the size if asked, punches holes and zeroes ranges; punching gives space back.
#[test]
fn space_is_reserved_and_given_back() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    let file = new_file(&path);
    let blocks = || file.metadata().unwrap().blocks();
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 4 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert!(blocks() >= (4 << 20) / 512, "{} blocks are reserved", blocks());
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 4 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 << 20);
    file.write_all_at(&pattern(4 << 20), 0).unwrap();
    file.sync_all().unwrap();
    let full = blocks();
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1 << 20, 3 << 20).unwrap();
    // What is reserved behind the end stays when the punched is given back.
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 4 << 20, 4 << 20).unwrap();
    file.sync_all().unwrap();
    let reserved = blocks();
    eventually("the punched space is given back", || blocks() < reserved - (2 << 20) / 512);
    assert!(blocks() >= (5 << 20) / 512, "{} blocks", blocks());
    // Also when it was asked for before the file was opened.
    drop(file);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"in place", 3_000_000).unwrap();
    file.sync_all().unwrap();
    drop(file);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let kept = fs::metadata(&path).unwrap().blocks();
    assert!(kept >= (5 << 20) / 512, "{kept} blocks");
    // But not when the file is cut.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((4 << 20) - 1).unwrap();
    file.set_len(4 << 20).unwrap();
    drop(file);
    // What the journal still holds goes home.
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let left = fs::metadata(&path).unwrap();
    assert_eq!(left.len(), 4 << 20);
    assert!(left.blocks() < full / 2, "{} of {full} blocks are left", left.blocks());
}

/// > `SEEK_DATA` and `SEEK_HOLE` know holes to the page (4 KiB) in files of more than 16 KiB, and never call data a hole, written back or not.
#[test]
fn holes_are_found() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    let file = new_file(&path);
    for at in [1_u64 << 20, 5 << 20, 40 << 20] {
        file.write_all_at(&pattern(8192), at).unwrap();
    }
    file.set_len(50 << 20).unwrap();
    let extents = |file: &File| {
        let mut found = Vec::new();
        let mut at = 0;
        while let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) {
            at = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap();
            found.push((data, at));
        }
        found
    };
    let expected: Vec<_> = [1_u64 << 20, 5 << 20, 40 << 20].map(|at| (at, at + 8192)).into();
    assert_eq!(extents(&file), expected);
    file.sync_all().unwrap();
    assert_eq!(extents(&file), expected);
    drop(file);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let file = File::open(&path).unwrap();
    assert_eq!(extents(&file), expected);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(45 << 20)), Err(Errno::NXIO));
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(50 << 20)), Err(Errno::NXIO));
}

/// > `O_DIRECT` reads and writes, at any offset and length, and sees what others wrote through the cache.
#[test]
fn direct_io() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, pattern(20_000)).unwrap();
    let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut found = vec![0; 20_000];
    direct.read_exact_at(&mut found, 0).unwrap();
    assert!(found == pattern(20_000));
    direct.write_all_at(b"direct", 4_095).unwrap();
    assert_eq!(&fs::read(&path).unwrap()[4_095..4_101], b"direct");
    let cached = OpenOptions::new().write(true).open(&path).unwrap();
    cached.write_all_at(b"cached", 8_191).unwrap();
    direct.read_exact_at(&mut found[..6], 8_191).unwrap();
    assert_eq!(&found[..6], b"cached");
}

/// > Files can be mapped, shared and private; what is written through a shared mapping is in the file, also after sealing.
#[test]
fn mappings() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join("file"), pattern(100_000)).unwrap();
    let script = "
import mmap, os
file = os.open('file', os.O_RDWR)
shared = mmap.mmap(file, 100000)
private = mmap.mmap(file, 100000, flags=mmap.MAP_PRIVATE)
shared[50000:50006] = b'shared'
private[10:17] = b'private'
assert os.pread(file, 6, 50000) == b'shared'
assert os.pread(file, 7, 10) != b'private'
os.pwrite(file, b'written', 70000)
assert shared[70000:70007] == b'written'
shared.flush()
os.close(file)
os.unlink('file')
os.symlink('x', 'link')
assert shared[50000:50006] == b'shared'
file = os.open('second', os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 5000)
mapped = mmap.mmap(file, 5000)
os.close(file)
mapped[4990:5000] = b'last bytes'
mapped.close()
";
    python(&fixture.mountpoint, script);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let second = fs::read(fixture.mountpoint.join("second")).unwrap();
    assert_eq!((second.len(), &second[4_990..]), (5_000, b"last bytes".as_slice()));
}

/// > `flock` and POSIX record locks hold between all processes on the mount, and end with their owner.
#[test]
fn locks() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    let file = new_file(&path);
    let other = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(rustix::fs::flock(&other, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    drop(file);
    // A program that another test just starts may have a copy for a moment.
    eventually("free", || rustix::fs::flock(&other, FlockOperation::NonBlockingLockShared).is_ok());

    // Record locks are a process's: three of them.
    let script = "
import fcntl, os, sys, subprocess, time
file = open('file', 'r+')
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 50)
other = '''
import fcntl, sys
file = open(\"file\", \"r+\")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 50, 0)
try:
    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 10, 140)
except OSError:
    sys.exit(7)
'''
assert subprocess.run([sys.executable, '-c', other]).returncode == 7
fcntl.lockf(file, fcntl.LOCK_UN, 100, 50)
assert subprocess.run([sys.executable, '-c', other]).returncode == 0
";
    python(&fixture.mountpoint, script);
}

/// > Times are kept to the nanosecond, before 1970 too; a write, a read and a change of attributes move them as POSIX says.
#[test]
fn times() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    let file = new_file(&path);
    let time = Timespec { tv_sec: -100_000, tv_nsec: 999_999_999 };
    let set = || rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }).unwrap();
    let is_old = |seconds: i64, nanoseconds: i64| (seconds, nanoseconds) == (time.tv_sec, time.tv_nsec);
    let metadata = || fs::metadata(&path).unwrap();
    set();
    let before = metadata();
    assert!(is_old(before.mtime(), before.mtime_nsec()) && is_old(before.atime(), before.atime_nsec()));
    assert!(before.ctime() > 0);
    // A change of the mode is no change of the content.
    std::thread::sleep(std::time::Duration::from_millis(20));
    rustix::fs::fchmod(&file, Mode::from_bits_retain(0o600)).unwrap();
    let after = metadata();
    assert!(is_old(after.mtime(), after.mtime_nsec()));
    assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
    (&file).write_all(b"x").unwrap();
    assert!(metadata().mtime() > 0);
    set();
    file.set_len(0).unwrap();
    assert!(metadata().mtime() > 0);
    // UTIME_OMIT and UTIME_NOW.
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    set();
    rustix::fs::futimens(&file, &Timestamps { last_access: omit, last_modification: now }).unwrap();
    let metadata = metadata();
    assert!(is_old(metadata.atime(), metadata.atime_nsec()) && metadata.mtime() > 0);
    // What is made in a directory, and removed, is a change of it.
    let folder = fixture.mountpoint.join("folder");
    fs::create_dir(&folder).unwrap();
    for change in [0, 1] {
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &folder,
            &Timestamps { last_access: time, last_modification: time },
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
        match change {
            0 => fs::write(folder.join("file"), "x").unwrap(),
            _ => fs::remove_file(folder.join("file")).unwrap(),
        }
        assert!(fs::metadata(&folder).unwrap().mtime() > 0);
    }
}

/// > An error of the filesystem under the vault reaches the call that it concerns, at the latest `close` or `fsync`; what was there before is not touched by it.
#[test]
fn a_full_disk() {
    needs_mount!();
    let disk = Disk::of("24m");
    let fixture = Fixture::with_vault_in(&disk.path());
    fixture.mount(&[]).ok();
    let at = |name: &str| fixture.mountpoint.join(name);
    fs::write(at("before"), pattern(1 << 20)).unwrap();
    File::open(at("before")).unwrap().sync_all().unwrap();
    let mut full = new_file(at("full"));
    // Durable, and from there on by way of the journal.
    full.write_all(&pattern(100_000)).unwrap();
    full.sync_all().unwrap();
    let failed = (0..64).find_map(|_| full.write_all(&pattern(1 << 20)).err()).or_else(|| full.sync_all().err());
    let error = failed.expect("64 MiB do not fit on a disk of 24 MiB");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    // An overwrite of what is there may need room, too; then it says so, and the old bytes stay.
    let before = OpenOptions::new().read(true).write(true).open(at("before")).unwrap();
    let mut expected = pattern(1 << 20);
    if before.write_all_at(b"after", 5_000).is_ok() && before.sync_all().is_ok() {
        expected[5_000..5_005].copy_from_slice(b"after");
    }
    drop((full, before));
    fs::remove_file(at("full")).unwrap();
    // There may be room already, or not yet: it can be sealed.
    let _ = fs::write(at("at once"), pattern(1 << 20));
    fixture.seal().ok();
    assert_eq!(fixture.info()["sealed"], true);
    fixture.mount(&[]).ok();
    // With room again, all goes on.
    fs::write(at("room"), pattern(1 << 20)).unwrap();
    File::open(at("room")).unwrap().sync_all().unwrap();
    let found = fs::read(at("before")).unwrap();
    assert!(found == expected || found == pattern(1 << 20));
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    assert!(fs::read(at("room")).unwrap() == pattern(1 << 20));
    assert!(fs::read(at("before")).unwrap().len() == 1 << 20);
    fixture.seal().ok();
}

/// > Space that was removed, cut off or punched out is there for what is written next, and `df` shows it within half a minute.
#[test]
fn space_that_was_given_up() {
    needs_mount!();
    let disk = Disk::of("64m");
    let fixture = Fixture::with_vault_in(&disk.path());
    fixture.mount(&[]).ok();
    let at = |name: &str| fixture.mountpoint.join(name);
    for how in ["removed", "emptied", "cut", "punched"] {
        fs::write(at("old"), pattern(24 << 20)).unwrap();
        let old = OpenOptions::new().read(true).write(true).open(at("old")).unwrap();
        old.sync_all().unwrap();
        // So that the journal knows of it.
        old.write_all_at(b"later", 0).unwrap();
        old.sync_all().unwrap();
        // Nearly all of the disk, beside the room of the journal.
        let taken = disk.path().join("taken");
        let free = rustix::fs::statvfs(disk.path()).unwrap();
        let filler = free.f_bavail * free.f_frsize - (6 << 20);
        rustix::fs::fallocate(File::create(&taken).unwrap(), FallocateFlags::empty(), 0, filler).unwrap();
        match how {
            "removed" => fs::remove_file(at("old")).unwrap(),
            "emptied" => old.set_len(0).unwrap(),
            "cut" => old.set_len(1 << 20).unwrap(),
            _ => rustix::fs::fallocate(&old, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1 << 20, 23 << 20)
                .unwrap(),
        }
        drop(old);
        let mut new = new_file(at("new"));
        new.write_all(&pattern(20 << 20))
            .and_then(|()| new.sync_all())
            .unwrap_or_else(|error| panic!("{how}: {error}"));
        assert!(fs::read(at("new")).unwrap() == pattern(20 << 20), "{how}");
        drop(new);
        for name in [at("new"), at("old"), taken] {
            let _ = fs::remove_file(name);
        }
        eventually("df shows what is free", || {
            let free = rustix::fs::statvfs(&fixture.mountpoint).unwrap();
            free.f_bavail * free.f_frsize > 40 << 20
        });
    }
    fixture.seal().ok();
}

/// > While the filesystem under the vault is nearly full (less than 16 MiB), what is opened for writing is written through: `write` says what does not fit, no file is made that has no room, and what was accepted is there.
#[test]
fn a_nearly_full_disk() {
    needs_mount!();
    let disk = Disk::of("24m");
    let fixture = Fixture::with_vault_in(&disk.path());
    fs::write(disk.path().join("taken"), vec![1; 16 << 20]).unwrap();
    fixture.mount(&[]).ok();
    let shell = |script: &str| run(Command::new("sh").args(["-c", script]).current_dir(&fixture.mountpoint));
    shell("echo x >old; head -c 100000 /dev/zero >large").ok();
    // A shell's builtins look at write(2) alone.
    let filled = shell("i=0; while echo $i >n$i; do i=$((i+1)); [ $i -lt 20000 ] || exit 0; done; echo $i; exit 7");
    assert_eq!(filled.code, Some(7), "{filled:#?}");
    let accepted: usize = filled.stdout.trim().parse().unwrap();
    assert_ne!(shell("printf %300000s >>old").code, Some(0));
    let none = |path: &std::path::Path| fs::symlink_metadata(path).unwrap_err().kind() == std::io::ErrorKind::NotFound;
    let node = fixture.mountpoint.join("node");
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        rustix::fs::FileType::RegularFile,
        Mode::from_bits_retain(0o600),
        0,
    );
    assert_eq!(made, Err(rustix::io::Errno::NOSPC));
    assert_eq!(File::create(fixture.mountpoint.join("made")).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert!(none(&node) && none(&fixture.mountpoint.join("made")));
    // What is written through can be mapped all the same.
    let map = "
import mmap
with open('large', 'r+b') as file:
    with mmap.mmap(file.fileno(), 100000) as mapping:
        mapping[5000:5004] = b'here'
        mapping.flush()
    assert open('large', 'rb').read()[4999:5005] == b'\\0here\\0'
";
    python(&fixture.mountpoint, map);
    // Nothing that was accepted is missing.
    fixture.seal().ok();
    fs::remove_file(disk.path().join("taken")).unwrap();
    fixture.mount(&[]).ok();
    for i in 0..accepted {
        assert_eq!(fs::read_to_string(fixture.mountpoint.join(format!("n{i}"))).unwrap(), format!("{i}\n"));
    }
    assert_eq!(fs::read(fixture.mountpoint.join("large")).unwrap().len(), 100_000);
    fixture.seal().ok();
}

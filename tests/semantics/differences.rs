//! What is not as on ext4: each difference is one that a program can see, and says so with an error of its own.

use std::fs::{self, File};
use std::process::Command;

use rustix::fs::{CWD, FallocateFlags, Mode, XattrFlags};
use rustix::io::Errno;

use crate::harness::{Fixture, eventually, pattern, run};
use crate::{Disk, needs_mount, new_file, python};

/// > `fallocate` does not collapse or insert ranges (EOPNOTSUPP).
#[test]
fn no_moved_ranges() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, pattern(65_536)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE, FallocateFlags::UNSHARE_RANGE] {
        assert_eq!(rustix::fs::fallocate(&file, mode, 4096, 4096), Err(Errno::OPNOTSUPP), "{mode:?}");
    }
    assert!(fs::read(&path).unwrap() == pattern(65_536));
}

/// > Files do not share blocks: `FICLONE` gives EOPNOTSUPP, `cp --reflink=auto` and `copy_file_range` copy.
#[test]
fn no_shared_blocks() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    fs::write(at("from"), pattern(300_000)).unwrap();
    let clone = rustix::fs::ioctl_ficlone(new_file(at("to")), File::open(at("from")).unwrap());
    assert_eq!(clone, Err(Errno::OPNOTSUPP));
    let copied = rustix::fs::copy_file_range(
        File::open(at("from")).unwrap(),
        None,
        fs::OpenOptions::new().write(true).open(at("to")).unwrap(),
        None,
        300_000,
    );
    assert_eq!(copied, Ok(300_000));
    assert!(fs::read(at("to")).unwrap() == pattern(300_000));
    run(Command::new("cp").arg("--reflink=auto").arg(at("from")).arg(at("copy"))).ok();
    assert!(fs::read(at("copy")).unwrap() == pattern(300_000));
}

/// > File flags (`chattr`, `lsattr`) and projects are not kept: their ioctls give ENOTTY.
#[test]
fn no_file_flags() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let file = new_file(fixture.mountpoint.join("file"));
    assert_eq!(rustix::fs::ioctl_getflags(&file).err(), Some(Errno::NOTTY));
    assert_eq!(rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::IMMUTABLE), Err(Errno::NOTTY));
}

/// > There is no map of extents (FIEMAP), and no swap file; holes are found with `SEEK_HOLE`.
#[test]
fn no_map_of_extents() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let script = "
import array, errno, fcntl
file = open('file', 'wb')
file.write(bytes(1 << 20))
file.flush()
try:
    fcntl.ioctl(file, 0xc020660b, array.array('B', bytes(64)))
    raise SystemExit('allowed')
except OSError as error:
    assert error.errno in (errno.EOPNOTSUPP, errno.ENOTTY), error
";
    python(&fixture.mountpoint, script);
    let path = fixture.mountpoint.join("file");
    run(Command::new("chmod").arg("600").arg(&path)).ok();
    run(Command::new("mkswap").arg("-q").arg(&path)).ok();
    assert_ne!(run(Command::new("swapon").arg(&path)).code, Some(0));
}

/// > A file without a label of SELinux (`security.selinux`) says EOPNOTSUPP instead of ENODATA: `ls -l` then asks once, not for each file.
#[test]
fn labels() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, "x").unwrap();
    let mut value = [0; 100];
    assert_eq!(rustix::fs::getxattr(&path, "security.selinux", &mut value), Err(Errno::OPNOTSUPP));
    assert_eq!(rustix::fs::getxattr(&path, "security.other", &mut value), Err(Errno::NODATA));
    assert_eq!(rustix::fs::removexattr(&path, "security.selinux"), Err(Errno::NODATA));
    // One that somebody set is kept.
    rustix::fs::setxattr(&path, "security.selinux", b"label", XattrFlags::CREATE).unwrap();
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    assert_eq!(rustix::fs::getxattr(&path, "security.selinux", &mut value), Ok(5));
    assert_eq!(&value[..5], b"label");
}

/// > All extended attributes of a file together are limited by what the filesystem under the vault takes in one (on ext4 about 3 KiB): beyond it ENOSPC.
#[test]
fn attributes_are_limited_together() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, "x").unwrap();
    let plain = fixture.folder.path().join("plain");
    fs::write(&plain, "x").unwrap();
    // What the filesystem here takes in one attribute.
    let one = (0..=16)
        .rev()
        .map(|power| 1 << power)
        .find(|&len: &usize| rustix::fs::setxattr(&plain, "user.sero", &vec![0; len], XattrFlags::empty()).is_ok());
    let limit = one.unwrap();
    let mut total = 0;
    let refused = loop {
        match rustix::fs::setxattr(&path, format!("user.{total}"), &[7; 200], XattrFlags::empty()) {
            Ok(()) => total += 200,
            Err(errno) => break errno,
        }
        assert!(total <= 2 * limit, "{total} bytes where one attribute has {limit} at most");
    };
    assert!(matches!(refused, Errno::NOSPC | Errno::TOOBIG), "{refused}");
    assert!(total >= limit / 2, "{total} bytes where one attribute may have {limit}");
    // What was there before is still there.
    let mut value = [0; 256];
    assert_eq!(rustix::fs::getxattr(&path, "user.0", &mut value), Ok(200));
}

/// > File handles (`open_by_handle_at`) are good while the kernel remembers the inode, then ESTALE: not for an NFS server.
#[test]
fn no_lasting_file_handles() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    let script = "
import ctypes, errno, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
handle = ctypes.create_string_buffer(b'\\x80\\0\\0\\0', 8 + 128)
mount = ctypes.c_int()
assert libc.name_to_handle_at(-100, b'file', handle, ctypes.byref(mount), 0) == 0, os.strerror(ctypes.get_errno())
folder = os.open('.', os.O_RDONLY)
keep = os.open('file', os.O_PATH)
file = libc.open_by_handle_at(folder, handle, os.O_RDONLY)
assert file >= 0 and os.read(file, 10) == b'x', os.strerror(ctypes.get_errno())
os.close(file)
os.close(keep)
# The kernel holds the inode until the daemon has answered that the file is closed.
for attempt in range(1000):
    subprocess.run(['mount', '-i', '-o', 'remount', os.getcwd()], check=True)
    file = libc.open_by_handle_at(folder, handle, os.O_RDONLY)
    if file < 0: break
    os.close(file)
assert file < 0
assert ctypes.get_errno() == errno.ESTALE, os.strerror(ctypes.get_errno())
";
    python(&fixture.mountpoint, script);
}

/// > What is beyond the largest file that the filesystem under the vault takes is refused at `fsync` or `close`, not at `write`; by `truncate` and `fallocate` at once, as there.
#[test]
fn too_large_is_said_late() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let file = new_file(fixture.mountpoint.join("file"));
    let outcome =
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", i64::MAX as u64 - 1).and_then(|()| file.sync_all());
    assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EFBIG));
    drop(file);
    let len = 100 << 40;
    let scratch = tempfile::tempfile_in(fixture.mountpoint.parent().unwrap()).unwrap();
    let Err(refused) = scratch.set_len(len) else { return };
    // A new file, and a durable one, of which no journal says so for ever.
    for is_durable in [false, true] {
        let file = new_file(fixture.mountpoint.join(format!("{is_durable}")));
        std::os::unix::fs::FileExt::write_all_at(&file, b"content", 0).unwrap();
        if is_durable {
            file.sync_all().unwrap();
        }
        assert_eq!(file.set_len(len).unwrap_err().raw_os_error(), refused.raw_os_error());
        for flags in [FallocateFlags::empty(), FallocateFlags::ZERO_RANGE] {
            assert_eq!(rustix::fs::fallocate(&file, flags, len, 10), Err(Errno::FBIG));
        }
        file.sync_all().unwrap();
    }
    // Only what was written is missed.
    fixture.seal().fails(24, "1 file(s)");
}

/// > `st_ctime` may move on when the daemon brings content home, seconds after a change or at the seal; `st_mtime` stays what it was, to the nanosecond.
#[test]
fn the_time_of_change_may_move_on() {
    needs_mount!();
    use std::io::Write;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::time::Duration;
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    let pause = || std::thread::sleep(Duration::from_millis(15));
    let mut names = Vec::new();
    // Faster than the kernel's clock ticks, and with pauses in between: it tells times of the latter alone.
    for round in 0..100 {
        let made =
            ["empty", "small", "appended", "again", "large", "held", "node"].map(|kind| format!("{kind}{round}"));
        let [empty, small, appended, again, large, held, node] = made.each_ref().map(|name| at(name));
        new_file(&empty);
        fs::write(&small, "x").unwrap();
        fs::write(&appended, "x").unwrap();
        fs::OpenOptions::new().append(true).open(&appended).unwrap().write_all(b"y").unwrap();
        fs::write(&again, "x").unwrap();
        fs::write(&again, "y").unwrap();
        fs::write(&large, pattern(100_000)).unwrap();
        let mut file = new_file(&held);
        file.write_all(&pattern(20_000)).unwrap();
        if round % 10 == 0 {
            pause();
        }
        drop(file);
        rustix::fs::mknodat(CWD, &node, rustix::fs::FileType::RegularFile, Mode::from_bits_retain(0o600), 0).unwrap();
        names.extend(made);
    }
    // What is durable goes by way of the journal.
    for (name, synced) in [("small0", true), ("large0", true), ("large1", false), ("small1", false)] {
        let file = fs::OpenOptions::new().write(true).open(at(name)).unwrap();
        file.sync_all().unwrap();
        pause();
        file.write_all_at(b"later", 10).unwrap();
        if synced {
            file.sync_all().unwrap();
        }
    }
    let times = |name: &String| {
        let metadata = fs::metadata(at(name)).unwrap();
        ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()))
    };
    let before: Vec<_> = names.iter().map(times).collect();
    pause();
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    for (name, before) in names.iter().zip(before) {
        let after = times(name);
        assert_eq!(after.0, before.0, "the time of modification of {name} moved");
        assert!(after.1 >= before.1, "the time of change of {name} went back");
    }
}

/// > While the filesystem under the vault is nearly full, `st_mtime` of a file that is written in place moves when all who have it open have closed it.
#[test]
fn times_on_a_nearly_full_disk() {
    needs_mount!();
    use std::os::unix::fs::{FileExt, MetadataExt};
    let disk = Disk::of("24m");
    let fixture = Fixture::with_vault_in(&disk.path());
    fs::write(disk.path().join("taken"), vec![1; 16 << 20]).unwrap();
    fixture.mount(&[]).ok();
    let path = fixture.mountpoint.join("file");
    fs::write(&path, pattern(100_000)).unwrap();
    let time = || fs::metadata(&path).map(|metadata| (metadata.mtime(), metadata.mtime_nsec())).unwrap();
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    let write = || {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let opened = std::time::SystemTime::now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        file.write_all_at(b"later", 50_000).unwrap();
        opened
    };
    let opened = write();
    eventually("a new time of modification", || modified() > opened);
    // Another program that has it open keeps the kernel from forgetting the time.
    let reader = fs::File::open(&path).unwrap();
    let opened = write();
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        modified();
    }
    drop(reader);
    eventually("a new time of modification after the reader closed", || modified() > opened);
    let after = time();
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    assert_eq!(time(), after);
    fixture.seal().ok();
}

/// > As an ordinary user's mount, all files are that user's: `chown` to others, devices and set-user-id programs are refused or without effect.
#[test]
fn an_ordinary_users_mount() {
    needs_mount!();
    crate::harness::users_can_mount();
    use std::os::unix::process::CommandExt;
    let fixture = Fixture::new();
    run(Command::new("chown").args(["-R", "65534:65534"]).arg(fixture.folder.path())).ok();
    let as_user = |mut command: Command| run(command.uid(crate::harness::NOBODY).gid(crate::harness::NOBODY));
    as_user(fixture.mount_command(&[])).ok();
    let shell = |script: &str| crate::harness::shell_as(crate::harness::NOBODY, &fixture.mountpoint, script);
    shell("echo x >file; mkdir folder; ln file folder/second").ok();
    assert_ne!(shell("chown 1 file").code, Some(0));
    assert_ne!(shell("mknod null c 1 3").code, Some(0));
    let options = &fixture.mounts()[0].options;
    assert!(options.contains("nosuid") && options.contains("nodev"), "{options}");
    let mut command = crate::harness::sero();
    command.arg("seal").arg(&fixture.mountpoint);
    as_user(command).ok();
}

/// > Access times follow the filesystem under the vault and its options, not those of the mount (`noatime`, `strictatime`); a read that the kernel answers from memory moves none, and a write may move it.
#[test]
fn access_times_are_the_backings() {
    needs_mount!();
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, "x").unwrap();
    // Old, so that "relatime" renews it.
    run(Command::new("touch").args(["-a", "-d", "2001-01-01"]).arg(&path)).ok();
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let before = fs::metadata(&path).unwrap().atime();
    assert_eq!(fs::read(&path).unwrap(), b"x");
    let after = fs::metadata(&path).unwrap().atime();
    let plain = fixture.folder.path().join("plain");
    fs::write(&plain, "x").unwrap();
    run(Command::new("touch").args(["-a", "-d", "2001-01-01"]).arg(&plain)).ok();
    fs::read(&plain).unwrap();
    let renews = fs::metadata(&plain).unwrap().atime() != before;
    assert_eq!(after != before, renews);
    // Directories and symbolic links as well.
    for (name, make, look) in
        [("folder", "mkdir folder; touch folder/x", "ls folder"), ("link", "ln -s target link", "readlink link")]
    {
        let moves = |top: &std::path::Path| {
            let shell = |script: &str| run(Command::new("sh").args(["-c", script]).current_dir(top)).ok();
            shell(&format!("{make}; touch -h -a -d 2001-01-01 {name}"));
            let atime = || fs::symlink_metadata(top.join(name)).unwrap().atime();
            let before = atime();
            shell(look);
            atime() != before
        };
        assert_eq!(moves(&fixture.mountpoint), moves(fixture.folder.path()), "{name}");
    }
}

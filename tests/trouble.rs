//! What goes wrong around a mount: a full disk, a backing that goes away or fails, a daemon that is stopped or killed. A
//! clear error, nothing lost that was promised, and nothing that hangs for ever.

#[path = "cli/harness.rs"]
mod harness;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::{Fixture, can_mount, end_of, eventually, pattern, run, sero};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

/// A disk of its own: ext4 on a loop device, its image in memory, where there may be less than the disk pretends to have.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn of(size: &str) -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=128m", "memory"]).arg(disk.folder.path())).ok();
        fs::create_dir(disk.path()).unwrap();
        run(Command::new("truncate").args(["-s", size]).arg(disk.image())).ok();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "nodiscard"]).arg(disk.image())).ok();
        disk.attach();
        disk
    }

    fn attach(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.path())).ok();
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn path(&self) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap().join("disk")
    }

    /// Nobody uses the image any more.
    fn is_free(&self) -> bool {
        run(Command::new("losetup").arg("-j").arg(self.image())).stdout.is_empty()
    }

    /// With a vault on it.
    fn vault(&self) -> Fixture {
        Fixture::with_vault_in(&self.path())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
        let _ = rustix::mount::unmount(self.folder.path(), UnmountFlags::DETACH);
    }
}

/// Runs in the background; whoever hangs with it is not this test. The shell enters the directory by itself: even that may wait.
fn background(script: &str, folder: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("cd \"$1\" && {{ {script}; }}"), "sh"]).arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

// --- a full disk ---

#[test]
fn no_vault_is_made_on_a_full_disk() {
    can_mount();
    let disk = Disk::of("8m");
    let filler = run(Command::new("dd")
        .args(["if=/dev/zero", "bs=4096"])
        .arg(format!("of={}", disk.path().join("full").display())));
    assert_ne!(filler.code, Some(0));
    let mut fixture = Fixture::empty();
    fixture.vault = disk.path().join("vault");
    run(&mut fixture.create_command()).fails(9, "No space left on device");
    assert!(!fixture.vault.join("sero.json").exists());
    // With room it works, without a manual step.
    fs::remove_file(disk.path().join("full")).unwrap();
    run(&mut fixture.create_command()).ok();
}

#[test]
fn a_full_disk_refuses_a_mount_for_writing_and_allows_one_for_reading() {
    can_mount();
    let disk = Disk::of("24m");
    let fixture = disk.vault();
    fixture.mount(&[]).ok();
    fs::write(fixture.mountpoint.join("file"), pattern(100_000)).unwrap();
    fixture.seal().ok();
    run(Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", disk.path().join("full").display())));
    fixture.mount(&[]).fails(9, "No space left on device");
    assert_eq!(fixture.info()["sealed"], true);
    fixture.mount(&["--read-only"]).ok();
    assert!(fs::read(fixture.mountpoint.join("file")).unwrap() == pattern(100_000));
    fixture.seal().ok();
    fs::remove_file(disk.path().join("full")).unwrap();
    fixture.mount(&[]).ok();
    assert!(fs::read(fixture.mountpoint.join("file")).unwrap() == pattern(100_000));
    fixture.seal().ok();
}

#[test]
fn what_did_not_fit_is_logged_counted_and_said_when_the_vault_is_sealed() {
    can_mount();
    let disk = Disk::of("64m");
    let fixture = disk.vault();
    // To make room with: a full disk refuses a mount for writing.
    let fillers = ["one", "two"].map(|name| disk.path().join(name));
    fillers.iter().for_each(|filler| fs::write(filler, pattern(8 << 20)).unwrap());
    fixture.mount(&[]).ok();
    let lost = || {
        let status = run(sero().args(["status", "--json"]).arg(&fixture.mountpoint)).ok();
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        let errors = status[0]["errors"].clone();
        (errors["lost_files"].as_u64().unwrap(), errors["lost_bytes"].as_u64().unwrap())
    };
    // Opened while there is room; and whoever writes does not look at what close(2) says.
    let write = |name: &str| {
        let path = fixture.mountpoint.join(name);
        run(Command::new("sh").args(["-c", "head -c 100000000 /dev/zero >\"$1\"; true", "sh"]).arg(path)).ok();
    };
    write("removed");
    let (files, bytes) = lost();
    assert!(files == 1 && bytes > 0, "{bytes} bytes of {files} files");
    assert!(fixture.log().contains("did not reach the vault: "), "{}", fixture.log());
    assert!(!fixture.log().contains("removed"), "a plain name in the log: {}", fixture.log());
    fs::remove_file(fixture.mountpoint.join("removed")).unwrap();
    assert_eq!(lost(), (0, 0));
    fixture.seal().ok();
    // Another session, which has not met a full disk, and caches.
    fs::remove_file(&fillers[0]).unwrap();
    fixture.mount(&[]).ok();
    write("kept");
    fixture.seal().fails(24, "bytes that programs wrote to 1 file(s) are not in it");
    assert_eq!(fixture.info()["sealed"], true);
    let mut verify = sero();
    verify.arg("verify").arg(&fixture.vault).arg("--password-file").arg(&fixture.passphrase);
    run(&mut verify).ok();
    // Said once: in the next session nothing was lost.
    fs::remove_file(&fillers[1]).unwrap();
    fixture.mount(&[]).ok();
    assert_eq!(lost(), (0, 0));
    fs::remove_file(fixture.mountpoint.join("kept")).unwrap();
    fixture.seal().ok();
}

// --- a backing that goes away ---

#[test]
fn the_vaults_directory_is_renamed_while_it_is_mounted() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, pattern(50_000)).unwrap();
    let moved = fixture.vault.with_file_name("moved");
    fs::rename(&fixture.vault, &moved).unwrap();
    fs::write(fixture.mountpoint.join("second"), "x").unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    // All of it goes where the vault is now; that it is done cannot be seen from here.
    fixture.seal().fails(9, "find it");
    fs::rename(&moved, &fixture.vault).unwrap();
    eventually("sealed", || fixture.info()["sealed"] == true && fixture.info()["mounted"] == false);
    fixture.mount(&[]).ok();
    assert!(fs::read(&path).unwrap() == pattern(50_000));
    assert_eq!(fs::read(fixture.mountpoint.join("second")).unwrap(), b"x");
}

#[test]
fn the_vaults_directory_is_removed_while_it_is_mounted() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::create_dir(fixture.mountpoint.join("folder")).unwrap();
    let open = File::options().read(true).write(true).create_new(true).open(fixture.mountpoint.join("file")).unwrap();
    open.write_all_at(&pattern(50_000), 0).unwrap();
    open.sync_all().unwrap();
    fs::remove_dir_all(&fixture.vault).unwrap();
    // Whoever asks gets an answer, an error or not; nothing hangs and nothing panics.
    let script = "ls -l; cat file >/dev/null; echo x >new; mkdir new-folder; mv file folder/; sync -f .; touch file; rm -r folder; true";
    assert!(end_of(&mut background(script, &fixture.mountpoint)).success());
    // What is open is not gone: it can be saved.
    let mut bytes = vec![0; 50_000];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == pattern(50_000));
    drop(open);
    fixture.seal().fails(9, "find it");
    eventually("the mount is gone", || fixture.mounts().is_empty());
    assert!(!fixture.log().contains("panicked"), "{}", fixture.log());
    fixture.mount(&[]).fails(4, "there is no such directory");
}

#[test]
fn the_filesystem_under_the_vault_is_detached_while_it_is_mounted() {
    can_mount();
    let disk = Disk::of("64m");
    let fixture = disk.vault();
    fixture.mount(&[]).ok();
    fs::write(fixture.mountpoint.join("before"), pattern(50_000)).unwrap();
    rustix::mount::unmount(disk.path(), UnmountFlags::DETACH).unwrap();
    // Detached, not gone: the daemon holds it, and all works on.
    fs::write(fixture.mountpoint.join("after"), pattern(50_000)).unwrap();
    File::open(fixture.mountpoint.join("after")).unwrap().sync_all().unwrap();
    fixture.seal().fails(9, "find it");
    eventually("let go of", || disk.is_free());
    disk.attach();
    assert_eq!(fixture.info()["sealed"], true);
    fixture.mount(&[]).ok();
    for name in ["before", "after"] {
        assert!(fs::read(fixture.mountpoint.join(name)).unwrap() == pattern(50_000), "{name}");
    }
    fixture.seal().ok();
}

#[test]
fn the_disk_under_the_vault_fails_while_it_is_mounted() {
    can_mount();
    let disk = Disk::of("64m");
    let fixture = disk.vault();
    fixture.mount(&[]).ok();
    let path = fixture.mountpoint.join("file");
    fs::write(&path, pattern(200_000)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    // No block that was not written before can be: as on a thin volume that has run out, an I/O error.
    let image = fs::read(disk.image()).unwrap();
    let filler = disk.folder.path().join("filler");
    let filled = run(Command::new("dd").args(["if=/dev/zero", "bs=65536"]).arg(format!("of={}", filler.display())));
    assert_ne!(filled.code, Some(0));
    let new = File::create_new(fixture.mountpoint.join("large")).unwrap();
    let written = (0..20_u64).try_for_each(|at| new.write_all_at(&pattern(1 << 20), at << 20));
    let outcome = written.and_then(|()| new.sync_all());
    assert!(outcome.is_err(), "a sync that reached no disk was reported as done");
    drop(new);
    // From here on the vault takes no more changes, and says so.
    eventually("read-only", || {
        let refused = fs::write(fixture.mountpoint.join("new"), "x").err().and_then(|error| error.raw_os_error());
        matches!(refused, Some(libc::EROFS | libc::EIO))
    });
    assert!(end_of(&mut background("ls -lR; cat file; rm file; true", &fixture.mountpoint)).success());
    drop(file);
    fixture.seal().fails(9, "; ");
    eventually("the mount is gone", || fixture.mounts().is_empty());
    assert!(!fixture.log().contains("panicked"), "{}", fixture.log());
    // The disk comes back as it was when it failed: what was synced is there.
    rustix::mount::unmount(disk.path(), UnmountFlags::DETACH).unwrap();
    eventually("let go of", || disk.is_free());
    fs::remove_file(filler).unwrap();
    fs::write(disk.image(), image).unwrap();
    disk.attach();
    fixture.mount(&[]).ok();
    assert!(fs::read(&path).unwrap() == pattern(200_000));
    fixture.seal().ok();
}

// --- a daemon that is stopped or killed ---

#[test]
fn a_stopped_daemon_is_waited_for_and_its_mount_can_be_detached() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, pattern(50_000)).unwrap();
    let daemon = fixture.daemon();
    rustix::process::kill_process(daemon, Signal::STOP).unwrap();
    let mut waiting = background("cat file; echo x >new; ls", &fixture.mountpoint);
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiting.try_wait().unwrap().is_none(), "nobody answers yet");
    // Out of the tree at once, whatever the daemon does; the exit code does not wait for it either.
    run(sero().args(["seal", "--lazy"]).arg(&fixture.mountpoint)).ok();
    assert!(fixture.mounts().is_empty());
    rustix::process::kill_process(daemon, Signal::CONT).unwrap();
    assert!(end_of(&mut waiting).success());
    eventually("sealed", || fixture.info()["sealed"] == true && fixture.info()["mounted"] == false);
    fixture.mount(&[]).ok();
    assert!(fs::read(&path).unwrap() == pattern(50_000));
    assert_eq!(fs::read(fixture.mountpoint.join("new")).unwrap(), b"x\n");
}

#[test]
fn who_waits_for_a_daemon_that_is_killed_gets_an_error() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    fs::write(&path, pattern(50_000)).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let daemon = fixture.daemon();
    rustix::process::kill_process(daemon, Signal::STOP).unwrap();
    let mut waiting: Vec<_> = ["cat other", "echo x >new", "ls", "mkdir x", "stat absent"]
        .map(|script| background(script, &fixture.mountpoint))
        .into();
    std::thread::sleep(Duration::from_millis(300));
    // As the kernel does when memory is out.
    rustix::process::kill_process(daemon, Signal::KILL).unwrap();
    for child in &mut waiting {
        assert!(!end_of(child).success());
    }
    run(sero().args(["seal", "--lazy"]).arg(&fixture.mountpoint)).ok();
    assert!(fixture.mounts().is_empty());
    fixture.mount(&[]).ok();
    assert!(fs::read(&path).unwrap() == pattern(50_000));
    fixture.seal().ok();
}

#[test]
fn an_unmount_and_a_mount_right_after_it() {
    can_mount();
    let fixture = Fixture::new();
    for round in 0..8_u8 {
        fixture.mount(&[]).ok();
        fs::write(fixture.mountpoint.join(format!("{round}")), pattern(300_000)).unwrap();
        // umount(8) returns before the daemon has sealed: the next mount waits for that.
        run(Command::new("umount").arg(&fixture.mountpoint)).ok();
    }
    fixture.mount(&[]).ok();
    for round in 0..8_u8 {
        assert!(fs::read(fixture.mountpoint.join(format!("{round}"))).unwrap() == pattern(300_000));
    }
}

#[test]
fn where_there_is_no_room_for_a_journal_it_is_said_how_much_it_takes() {
    can_mount();
    let disk = Disk::of("16m");
    let fixture = disk.vault();
    let filler = disk.path().join("filler");
    let mut child = Command::new("sh")
        .args(["-c", "cat /dev/zero >\"$1\" 2>/dev/null || true", "sh"])
        .arg(&filler)
        .spawn()
        .unwrap();
    assert!(end_of(&mut child).success());
    fixture
        .mount(&[])
        .fails(9, "No space left on device (os error 28); make room where the vault lies, 4 MiB at least");
    assert!(fixture.mounts().is_empty());
    // What it says is enough.
    OpenOptions::new()
        .write(true)
        .open(&filler)
        .unwrap()
        .set_len(fs::metadata(&filler).unwrap().len() - (5 << 20))
        .unwrap();
    fixture.mount(&[]).ok();
    fixture.seal().ok();
}

/// A filesystem in memory, which is full to the byte when it is full.
struct Memory(tempfile::TempDir);

impl Memory {
    fn of(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "memory"]).arg(folder.path()))
            .ok();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        fs::canonicalize(self.0.path()).unwrap()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_rotation_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    can_mount();
    for mounted in [true, false] {
        let disk = Memory::of("24m");
        let mut fixture = Fixture::empty();
        fixture.vault = disk.path().join("vault");
        run(&mut fixture.create_command()).ok();
        fixture.mount(&[]).ok();
        let content = |number: usize| pattern(30_000 + 1000 * number);
        for number in 0..20 {
            let folder = fixture.mountpoint.join(format!("{} {number}", "folder with a long name ".repeat(9)));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), content(number)).unwrap();
            std::os::unix::fs::symlink("somewhere ".repeat(200), folder.join("link")).unwrap();
        }
        if !mounted {
            fixture.seal().ok();
        }
        let filler = disk.path().join("filler");
        let fill = "sync -f \"${1%/*}\"; cat /dev/zero >\"$1\" 2>/dev/null || true";
        let mut child = Command::new("sh").args(["-c", fill, "sh"]).arg(&filler).spawn().unwrap();
        assert!(end_of(&mut child).success());
        let rotate = || run(sero().arg("rotate").arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault));
        let state = || run(sero().args(["rotate", "--status"]).arg(&fixture.vault)).ok().stdout;
        // The new key has no place: nothing has changed.
        rotate().fails(23, "No space left on device");
        assert!(state().contains("no rotation is under way"), "{}", state());
        // With a little more room each time, it comes as far as it can.
        let file = OpenOptions::new().write(true).open(&filler).unwrap();
        let mut failures = 1;
        loop {
            let len = file.metadata().unwrap().len();
            assert!(len > 1 << 20, "it never has enough");
            file.set_len(len.saturating_sub(if mounted { 8 << 10 } else { 256 << 10 })).unwrap();
            file.sync_all().unwrap();
            let outcome = rotate();
            if outcome.code == Some(0) {
                break;
            }
            outcome.fails(23, "nothing is lost");
            failures += 1;
        }
        println!("mounted: {mounted}, failures: {failures}");
        assert!(state().contains("no rotation is under way"), "{}", state());
        if !mounted {
            fixture.mount(&[]).ok();
        }
        for number in 0..20 {
            let folder = fixture.mountpoint.join(format!("{} {number}", "folder with a long name ".repeat(9)));
            assert!(fs::read(folder.join("file")).unwrap() == content(number), "{number}");
            assert_eq!(fs::read_link(folder.join("link")).unwrap(), Path::new(&"somewhere ".repeat(200)));
        }
        fixture.seal().ok();
        run(sero().arg("verify").arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault)).ok();
    }
}

/// docs/performance.md: "It does not grow with the size of files"
#[test]
fn what_a_file_takes_of_memory_does_not_grow_with_what_is_written_to_it() {
    const MIB: u64 = 1 << 20;
    can_mount();
    let disk = Memory::of("1g");
    let mut fixture = Fixture::empty();
    fixture.vault = disk.path().join("vault");
    run(&mut fixture.create_command()).ok();
    fixture.mount(&[]).ok();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", fixture.daemon())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    let file = fs::File::create(fixture.mountpoint.join("file")).unwrap();
    // Each page has a node of its own: in all 78 MiB of them. Synced in between: also what goes through the journal. And of the
    // holes between, 10 GiB, nothing is reserved.
    for page in 0..20_000_u64 {
        file.write_all_at(&[1; 4096], page * MIB / 2).unwrap();
        if page.is_multiple_of(2000) {
            file.sync_data().unwrap();
        }
    }
    file.sync_all().unwrap();
    eventually("tags that leave memory", || resident() < 64 * MIB);
    drop(file);
    fixture.seal().ok();
}

/// "After `kill -9`, a power cut, a full disk (exit code 23), a seal or a stop (22), the same command goes on with it"
#[test]
fn whoever_watches_a_rotation_is_told_that_its_daemon_ended() {
    can_mount();
    for is_killed in [false, true] {
        let fixture = Fixture::mounted(&[]);
        fs::write(fixture.mountpoint.join("file"), pattern(30 << 20)).unwrap();
        let mut command = rotate(&fixture);
        let watching = std::thread::spawn(move || run(&mut command));
        eventually("rotating", || state(&fixture)["phase"] == "content");
        let with = if is_killed {
            fixture.signal(Signal::KILL);
            "`sero seal` cleans up what the killed process left, and then the same command goes on with it"
        } else {
            fixture.seal().ok();
            "the rotation was interrupted, and nothing is lost; the same command goes on with it"
        };
        watching.join().unwrap().fails(22, with);
        if is_killed {
            fixture.seal().ok();
        }
        // Now without a limit on how fast.
        run(sero().args(["rotate", "--password-file"]).arg(&fixture.passphrase).arg(&fixture.vault)).ok();
    }
}

/// Also at rest: whatever ends it, what was written is brought to rest.
#[test]
fn a_rotation_at_rest_is_stopped_by_every_signal() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join("file"), pattern(30 << 20)).unwrap();
    fixture.seal().ok();
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        let mut rotating = rotate(&fixture).stderr(Stdio::null()).spawn().unwrap();
        eventually("open", || {
            assert_eq!(rotating.try_wait().unwrap(), None, "it ended by itself");
            fixture.info()["holder"]["pid"] == rotating.id()
        });
        kill_process(Pid::from_child(&rotating), signal).unwrap();
        assert_eq!(end_of(&mut rotating).code(), Some(22), "{signal:?}");
        assert_eq!(fixture.info()["sealed"], true, "{signal:?}");
    }
}

/// So slowly that there is time for something to happen.
fn rotate(fixture: &Fixture) -> Command {
    let mut command = sero();
    command.args(["rotate", "--rate", "1", "--password-file"]).arg(&fixture.passphrase).arg(&fixture.vault);
    command
}

fn state(fixture: &Fixture) -> serde_json::Value {
    let outcome = run(sero().args(["rotate", "--status", "--json"]).arg(&fixture.vault)).ok();
    serde_json::from_str(&outcome.stdout).unwrap()
}

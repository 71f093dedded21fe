//! Mounts as processes and users see them: one at a time, every way to the end, and a daemon that keeps secrets.
//!
//! Skipped, and said so, where this process may not mount.

#[path = "cli/harness.rs"]
mod harness;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Fixture, can_mount, end_of, eventually, pattern, run, sero};
use rustix::process::Signal;

// --- one at a time ---

#[test]
fn a_second_mount_is_refused_and_names_the_first() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let info = fixture.info();
    assert_eq!(info["mounted"], true);
    assert_eq!(info["sealed"], false);
    assert_eq!(info["mountpoints"][0], fixture.mountpoint.to_str().unwrap());
    let pid = fixture.daemon().as_raw_nonzero();

    fixture.mount(&[]).fails(7, "has the vault");
    let other = fixture.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut command = sero();
    command.arg("mount").arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault).arg(&other);
    run(&mut command).fails(6, &pid.to_string());
}

/// The mountpoint is looked at before the passphrase is asked for, and it may take long to come.
#[test]
fn what_was_mounted_there_meanwhile_is_not_covered() {
    can_mount();
    let (first, second) = (Fixture::new(), Fixture::new());
    let (asked, go) = (first.folder.path().join("asked"), first.folder.path().join("go"));
    let command = format!(
        "touch {}; until [ -e {} ]; do sleep 0.05; done; cat {}",
        asked.display(),
        go.display(),
        first.passphrase.display()
    );
    let mut slow = sero();
    slow.args(["mount", "--password-command", &command]).args([&first.vault, &first.mountpoint]);
    let slow = std::thread::spawn(move || run(&mut slow));
    eventually("asked", || asked.exists());
    let mut quick = sero();
    quick.args(["mount", "--password-file"]).args([&second.passphrase, &second.vault, &first.mountpoint]);
    run(&mut quick).ok();
    fs::write(go, "").unwrap();
    slow.join().unwrap().fails(7, "has the vault");
    assert_eq!((first.mounts().len(), second.mounts().len()), (0, 1));
    assert_eq!(first.info()["sealed"], true);
}

#[test]
fn a_read_only_mount_changes_nothing() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join("file"), pattern(50_000)).unwrap();
    fixture.seal().ok();
    fixture.mount(&["--read-only"]).ok();
    assert_eq!(fs::read(fixture.mountpoint.join("file")).unwrap(), pattern(50_000));
    for error in [
        fs::write(fixture.mountpoint.join("new"), "x").unwrap_err(),
        fs::remove_file(fixture.mountpoint.join("file")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    }
    fixture.seal().ok();
    assert_eq!(fixture.info()["sealed"], true);
}

// --- every way to the end ---

#[test]
fn a_busy_mount_is_not_sealed_and_says_by_whom() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let mut user = Command::new("sleep").arg("1000").current_dir(&fixture.mountpoint).spawn().unwrap();
    fixture.seal().fails(10, &format!("{} (sleep)", user.id()));
    assert_eq!(fixture.mounts().len(), 1, "it stays as it is");
    let lazily = run(sero().args(["seal", "--lazy"]).arg(&fixture.vault)).ok();
    assert!(lazily.stdout.contains("is detached"), "{lazily:?}");
    assert!(fixture.mounts().is_empty());
    assert_eq!(fixture.info()["sealed"], false, "it has a user still");
    user.kill().unwrap();
    user.wait().unwrap();
    eventually("sealed", || fixture.info()["sealed"] == true);
}

#[test]
fn an_open_file_is_a_use_too() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let file = File::create_new(fixture.mountpoint.join("file")).unwrap();
    fixture.seal().fails(10, &std::process::id().to_string());
    drop(file);
    fixture.seal().ok();
}

#[test]
fn umount_from_outside_seals() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    rustix::mount::unmount(&fixture.mountpoint, rustix::mount::UnmountFlags::empty()).unwrap();
    eventually("sealed", || fixture.info()["sealed"] == true && fixture.info()["mounted"] == false);
    fixture.mount(&[]).ok();
    assert_eq!(fs::read(fixture.mountpoint.join("file")).unwrap(), b"x");
}

#[test]
fn signals_seal() {
    can_mount();
    let fixture = Fixture::new();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        fixture.mount(&[]).ok();
        fs::write(fixture.mountpoint.join("file"), "x").unwrap();
        fixture.signal(signal);
        eventually("sealed", || fixture.info()["sealed"] == true && fixture.info()["mounted"] == false);
        assert!(fixture.mounts().is_empty());
    }
}

#[test]
fn a_signal_ends_a_busy_mount_too_and_nothing_is_lost() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    let mut open = File::create_new(&path).unwrap();
    // In the kernel's cache alone, and never flushed.
    open.write_all(&pattern(200_000)).unwrap();
    fixture.signal(Signal::TERM);
    eventually("detached", || fixture.mounts().is_empty());
    eventually("sealed", || fixture.info()["sealed"] == true && fixture.info()["mounted"] == false);
    assert!(open.write_all(b"x").and_then(|()| open.sync_all()).is_err(), "the connection is cut");
    drop(open);
    fixture.mount(&[]).ok();
    assert_eq!(fs::read(&path).unwrap(), pattern(200_000));
}

#[test]
fn the_foreground_ends_with_a_signal_and_exit_code_0() {
    can_mount();
    let fixture = Fixture::new();
    let mut child =
        fixture.mount_command(&["--foreground"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    eventually("mounted", || !fixture.mounts().is_empty());
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    assert_eq!(fixture.daemon(), pid);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(end_of(&mut child).code(), Some(0));
    assert_eq!(fixture.info()["sealed"], true);
}

#[test]
fn after_a_kill_what_was_synced_is_there_and_the_dead_mount_is_cleaned_up() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("synced");
    fs::write(&path, pattern(100_000)).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    fs::write(&path, pattern(100_000)).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"overwritten", 5000).unwrap();
    file.sync_data().unwrap();
    drop(file);
    fixture.signal(Signal::KILL);
    eventually(
        "dead",
        || matches!(fs::metadata(&fixture.mountpoint), Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error())),
    );
    fixture.mount(&[]).fails(7, "sero seal");
    // Also asked by the mountpoint, where nobody answers.
    for place in [&fixture.vault, &fixture.mountpoint] {
        let info = run(sero().arg("info").arg(place)).ok().stdout;
        let state =
            format!("not sealed cleanly: the process of its mount on {} has died", fixture.mountpoint.display());
        assert!(info.contains(&state), "{info}");
    }
    let cleaned = fixture.seal().ok();
    assert!(cleaned.stdout.contains("the next mount repairs it"), "{cleaned:?}");
    run(sero().arg("seal").arg(&fixture.vault)).fails(11, "was not sealed cleanly");

    fixture.mount(&[]).ok();
    let mut expected = pattern(100_000);
    expected[5000..5011].copy_from_slice(b"overwritten");
    assert_eq!(fs::read(&path).unwrap(), expected);
    fixture.seal().ok();
}

#[test]
fn a_mount_that_is_bound_elsewhere_is_sealed_with_the_last() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let other = fixture.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    rustix::mount::mount_bind(&fixture.mountpoint, &other).unwrap();
    fixture.seal().fails(10, other.to_str().unwrap());
    fs::write(other.join("file"), "x").unwrap();
    run(sero().arg("seal").arg(&fixture.vault)).ok();
    assert_eq!(fixture.info()["sealed"], true);
}

// --- a daemon that keeps secrets ---

#[test]
fn the_daemon_shows_nothing_to_others() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let process = format!("/proc/{}", fixture.daemon().as_raw_nonzero());
    let arguments = fs::read(format!("{process}/cmdline")).unwrap();
    assert_eq!(arguments, b"sero\0serve\0");
    let environment = fs::read(format!("{process}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains(harness::PASSPHRASE));
    assert_eq!(fs::read_link(format!("{process}/cwd")).unwrap(), Path::new("/"));
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    assert!(status.lines().any(|line| line.starts_with("Umask:\t0000")), "{status}");
}

#[test]
fn the_log_has_no_names() {
    can_mount();
    let fixture = Fixture::mounted(&["-vv"]);
    let name = "a-telling-name";
    fs::write(fixture.mountpoint.join(name), "telling content").unwrap();
    assert!(fs::read_dir(fixture.mountpoint.join(name)).is_err());
    assert!(File::open(fixture.mountpoint.join("a-telling-absence")).is_err());
    fixture.seal().ok();
    let log = fixture.log();
    assert!(log.contains("mounted") && log.contains("sealed"), "{log}");
    assert!(!log.contains("telling"), "{log}");
}

#[test]
fn names_are_logged_only_when_that_is_asked_for() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::create_dir(fixture.mountpoint.join("folder")).unwrap();
    fs::write(fixture.mountpoint.join("folder/telling"), pattern(2_000_000)).unwrap();
    fixture.seal().ok();
    let homes = run(Command::new("find").arg(fixture.vault.join("tree")).args(["-type", "f", "-size", "+40k"])).stdout;
    let home = homes.lines().next().unwrap();
    let mut bytes = fs::read(home).unwrap();
    // Pages, and the tags over them.
    bytes[8_000..].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(home, bytes).unwrap();
    for (options, is_named) in [(vec![], false), (vec!["--log-names"], true)] {
        fixture.mount(&options).ok();
        let file =
            fs::OpenOptions::new().read(true).write(true).open(fixture.mountpoint.join("folder/telling")).unwrap();
        // Answered by another thread than the one that the question came to.
        assert!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).is_err());
        drop(file);
        assert!(fs::read(fixture.mountpoint.join("folder/telling")).is_err());
        fixture.seal().ok();
        let log = fixture.log();
        assert!(log.contains("tree/"), "{log}");
        for operation in ["read", "lseek"] {
            assert_eq!(
                log.contains(&format!("{operation} of \"folder/telling\" failed")),
                is_named,
                "{operation}: {log}"
            );
        }
    }
}

#[test]
fn a_parent_that_is_gone_takes_the_mount_with_it() {
    can_mount();
    for pause_ms in [0, 10, 30] {
        let fixture = Fixture::new();
        let mut parent = fixture.mount_command(&[]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause_ms));
        let _ = parent.kill();
        if parent.wait().unwrap().success() {
            // It was quicker than we.
            fixture.seal().ok();
            continue;
        }
        // The daemon may be about to mount, and then seals by itself.
        let quiet = || fixture.mounts().is_empty() && fixture.info()["mounted"] == false;
        let started = Instant::now();
        eventually("nothing is left", || {
            // Or it was killed in the instant behind the report to it.
            if pause_ms == 30 && started.elapsed() > Duration::from_secs(5) && !quiet() {
                fixture.seal();
            }
            quiet()
        });
        eventually("it can be mounted again", || fixture.mount(&[]).code == Some(0));
    }
}

#[test]
fn a_mount_that_cannot_be_leaves_the_vault_sealed() {
    can_mount();
    let fixture = Fixture::new();
    let log = fixture.folder.path().join("no/such/log");
    let mut command = sero();
    command.arg("mount").arg("--password-file").arg(&fixture.passphrase).arg("--log").arg(&log);
    run(command.arg(&fixture.vault).arg(&fixture.mountpoint)).fails(1, "cannot be opened");
    assert!(fixture.mounts().is_empty());
    assert_eq!(fixture.info()["sealed"], true);
}

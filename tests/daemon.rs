//! The process behind a mount, where things go wrong around it: stopped, killed, inherited from, in the way.

#[path = "cli/harness.rs"]
mod harness;
#[path = "cli/terminal.rs"]
mod terminal;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use harness::spawning::start;
use harness::{Fixture, can_mount, eventually, pattern, run, sero, shell_in_namespace};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use terminal::on_a_terminal;

fn socket(fixture: &Fixture) -> PathBuf {
    let device = fixture.mounts()[0].device;
    PathBuf::from(format!("/run/sero/{}-{}.sock", device.major, device.minor))
}

fn is_dead(fixture: &Fixture) -> bool {
    fs::metadata(&fixture.mountpoint).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

fn is_sealed(fixture: &Fixture) -> bool {
    let info = fixture.info();
    info["sealed"] == true && info["mounted"] == false
}

/// Lets a stopped process go on, also when the test fails.
struct Stopped(Pid);

impl Stopped {
    fn stop(fixture: &Fixture) -> Self {
        let pid = fixture.daemon();
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn what_the_caller_had_open_is_not_kept_open() {
    can_mount();
    let fixture = Fixture::new();
    let held = fixture.folder.path().join("held");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("exec 9>\"$1\"; shift; \"$@\"").arg("sh").arg(&held);
    let mount = fixture.mount_command(&[]);
    shell.arg(mount.get_program()).args(mount.get_args());
    run(&mut shell).ok();
    let open = fs::read_dir(format!("/proc/{}/fd", fixture.daemon().as_raw_nonzero())).unwrap();
    let targets: Vec<PathBuf> = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(targets.iter().any(|target| target.starts_with(&fixture.vault)), "{targets:?}");
    assert!(!targets.contains(&fs::canonicalize(&held).unwrap()), "{targets:?}");
}

#[test]
fn a_sealed_vault_says_nothing_of_whose_it_was() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let lock = fixture.vault.join("private/lock");
    assert!(fs::read_to_string(&lock).unwrap().contains("pid"));
    fixture.seal().ok();
    assert_eq!(fs::read(&lock).unwrap(), b"");
}

#[test]
fn a_daemon_that_is_stopped_can_be_detached_and_seals_when_it_goes_on() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    let mut file = File::create_new(&path).unwrap();
    // Dirty pages, which nobody will take.
    file.write_all(&pattern(300_000)).unwrap();
    let stopped = Stopped::stop(&fixture);
    // close(2) may wait for the daemon.
    let closing = std::thread::spawn(move || drop(file));
    fixture.seal().fails(16, "--lazy detaches it");
    assert_eq!(fixture.mounts().len(), 1);
    let lazily = run(sero().args(["seal", "--lazy"]).arg(&fixture.mountpoint)).ok();
    assert!(lazily.stdout.contains("does not answer"), "{lazily:?}");
    assert!(fixture.mounts().is_empty());
    drop(stopped);
    closing.join().unwrap();
    eventually("sealed", || is_sealed(&fixture));
    fixture.mount(&[]).ok();
    assert_eq!(fs::read(&path).unwrap(), pattern(300_000));
}

#[test]
fn a_daemon_that_was_killed_leaves_nothing_after_seal_also_in_use() {
    can_mount();
    for lazily in [false, true] {
        let fixture = Fixture::mounted(&[]);
        let socket = socket(&fixture);
        let mut user = Command::new("sleep").arg("1000").current_dir(&fixture.mountpoint).spawn().unwrap();
        fixture.signal(Signal::KILL);
        eventually("dead", || is_dead(&fixture));
        assert!(socket.exists());
        let mut command = sero();
        command.arg("seal").args(lazily.then_some("--lazy")).arg(&fixture.mountpoint);
        let cleaned = run(&mut command).ok();
        assert!(cleaned.stdout.contains("the next mount repairs it"), "{cleaned:?}");
        assert!(fixture.mounts().is_empty() && !socket.exists());
        user.kill().unwrap();
        user.wait().unwrap();
        fixture.mount(&[]).ok();
        fixture.seal().ok();
    }
}

/// `umount -f` says that the mount is in use, and has cut the connection all the same.
#[test]
fn a_connection_that_is_cut_is_no_unmount() {
    can_mount();
    // Where it belongs, /sys/fs/fuse/connections, it may not be mounted.
    let abort = "mkdir \"$1.control\"; mount -t fusectl none \"$1.control\"
        echo 1 >\"$1.control/$(stat -c %Ld \"$1\")/abort\"; umount \"$1.control\"";
    for (options, script, code) in [
        (vec![], "umount -i -f \"$1\"", 24),
        (vec![], abort, 24),
        (vec!["-o", "no_io_uring"], abort, 24),
        (vec!["--read-only"], abort, 0),
    ] {
        let fixture = Fixture::mounted(&[]);
        File::create_new(fixture.mountpoint.join("file")).unwrap();
        fixture.seal().ok();
        let mut mount = fixture.mount_command(&[vec!["--foreground"], options.clone()].concat());
        let mut daemon = mount.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("mounted", || fixture.mountpoint.join("file").exists());
        let file = File::options().read(true).write(code != 0).open(fixture.mountpoint.join("file")).unwrap();
        if code != 0 {
            (&file).write_all(&pattern(100_000)).unwrap();
        }
        run(Command::new("sh").args(["-c", script, "sh"]).arg(&fixture.mountpoint));
        assert_eq!(harness::end_of(&mut daemon).code(), Some(code), "{options:?} {script}");
        drop(file);
        let said = std::io::read_to_string(daemon.stderr.take().unwrap()).unwrap();
        assert_eq!(said.contains("not synced may not be in the vault"), code != 0, "{said}");
        assert!(fixture.mounts().is_empty() && is_sealed(&fixture));
    }
}

/// The daemon sealed, and could not take down what it does not see.
#[test]
fn a_mount_that_is_left_of_a_sealed_vault_is_cleaned_up_and_the_vault_called_sealed() {
    can_mount();
    let fixture = Fixture::mounted(&["--read-only"]);
    let status: serde_json::Value = {
        let asked = run(sero().args(["status", "--json"]).arg(&fixture.mountpoint)).ok();
        serde_json::from_str(&asked.stdout).unwrap()
    };
    let pid = i32::try_from(status[0]["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    eventually("dead", || is_dead(&fixture));
    let said = fixture.seal().ok().stdout;
    assert!(said.contains("its process had ended") && said.contains("is sealed"), "{said}");
    assert!(fixture.mounts().is_empty());
}

#[test]
fn something_in_the_way_of_the_socket_is_no_reason_not_to_mount() {
    can_mount();
    let fixture = Fixture::new();
    let script = "
        mount -t tmpfs none /run
        echo in the way >/run/sero
        \"$@\"
        \"$SERO\" status \"$MOUNTPOINT\"
        \"$SERO\" seal \"$MOUNTPOINT\"
        cat /run/sero";
    let mount = fixture.mount_command(&[]);
    let mut command = shell_in_namespace(script);
    command.arg(mount.get_program()).args(mount.get_args());
    command.env("MOUNTPOINT", &fixture.mountpoint).env("SERO", env!("CARGO_BIN_EXE_sero"));
    // In /tmp there is room still, and `sero status` finds it there.
    let said = run(&mut command).ok().stdout;
    assert!(said.contains("mounted, for reading and writing") && said.contains("in the way"), "{said}");
    assert_eq!(fixture.info()["sealed"], true);
}

/// "If the socket is removed (logind removes `$XDG_RUNTIME_DIR` with the last logout), it is made again."
#[test]
fn a_socket_that_was_removed_is_made_again() {
    can_mount();
    let fixture = Fixture::new();
    let script = "
        mount -t tmpfs none /run
        \"$@\"
        trap '\"$SERO\" seal \"$MOUNTPOINT\"' EXIT
        rm -r /run/sero
        tries=600
        until \"$SERO\" status \"$MOUNTPOINT\"; do tries=$((tries - 1)); [ $tries != 0 ]; sleep 0.1; done
        stat -c 'mode %a' /run/sero /run/sero/*.sock";
    let mount = fixture.mount_command(&[]);
    let mut command = shell_in_namespace(script);
    command.arg(mount.get_program()).args(mount.get_args());
    command.env("MOUNTPOINT", &fixture.mountpoint).env("SERO", env!("CARGO_BIN_EXE_sero"));
    let outcome = run(&mut command).ok();
    assert!(outcome.stdout.contains("mode 700\nmode 600\n"), "{outcome:?}");
    assert!(!outcome.stderr.contains("not known"), "{outcome:?}");
}

/// "If the daemon could not be asked whether all fitted, a warning says so: then its log knows."
#[test]
fn without_any_place_for_a_socket_it_is_mounted_and_says_so() {
    can_mount();
    let fixture = Fixture::new();
    let script = "
        mount -t tmpfs none /run
        echo in the way >/run/sero
        mkdir -p -m 700 /tmp/sero-0
        mount -t tmpfs -o mode=755 none /tmp/sero-0
        \"$@\"
        \"$SERO\" status \"$MOUNTPOINT\" || echo \"code $?\"
        \"$SERO\" seal \"$MOUNTPOINT\"";
    let mount = fixture.mount_command(&[]);
    let mut command = shell_in_namespace(script);
    command.arg(mount.get_program()).args(mount.get_args());
    command.env("MOUNTPOINT", &fixture.mountpoint).env("SERO", env!("CARGO_BIN_EXE_sero"));
    let outcome = run(&mut command).ok();
    assert!(outcome.stdout.contains("code 16") && outcome.stderr.contains("no control socket"), "{outcome:?}");
    assert!(outcome.stderr.contains("whether everything that was written is in"), "{outcome:?}");
    assert!(fixture.log().contains("there is no control socket"), "{}", fixture.log());
    assert_eq!(fixture.info()["sealed"], true);
}

// --- on a terminal ---

#[test]
fn a_dead_mount_in_the_way_is_offered_to_be_cleaned_up() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fixture.signal(Signal::KILL);
    eventually("dead", || is_dead(&fixture));
    // Without a terminal it is an error that says what to do.
    fixture.mount(&[]).fails(7, "`sero seal");
    let arguments = ["mount", fixture.vault.to_str().unwrap(), fixture.mountpoint.to_str().unwrap()];
    let declined = on_a_terminal(&arguments, &[("Clean it up?", "n")]);
    assert_eq!((declined.code, fixture.mounts().len()), (Some(7), 1), "{declined:?}");
    on_a_terminal(&arguments, &[("Clean it up?", "y"), ("Passphrase", harness::PASSPHRASE)]).ok();
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    fixture.seal().ok();
}

/// `umount` returns before its daemon has sealed.
#[test]
fn a_seal_behind_an_unmount_waits_for_the_daemon() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    run(Command::new("sync").arg("-f").arg(&fixture.mountpoint)).ok();
    let stopped = Stopped::stop(&fixture);
    unmount(&fixture.mountpoint, UnmountFlags::DETACH).unwrap();
    let mut seal = sero();
    seal.arg("seal").arg(&fixture.vault).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sealing = start(&mut seal).unwrap();
    let mut said = BufReader::new(sealing.stderr.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    assert!(first.contains("waiting until process"), "{first}");
    drop(stopped);
    let sealed = sealing.wait_with_output().unwrap();
    assert!(sealed.status.success() && String::from_utf8_lossy(&sealed.stdout).contains("is sealed"), "{sealed:?}");
    assert!(is_sealed(&fixture));
}

#[test]
fn what_stands_on_a_mount_is_not_unmounted_in_its_place() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&fixture.mountpoint)).ok();
    fs::write(fixture.mountpoint.join("other"), "not ours").unwrap();
    let before = fs::read(fixture.mountpoint.join("other"));
    let refused = [
        run(sero().arg("seal").arg(&fixture.mountpoint)),
        run(sero().arg("seal").arg(&fixture.vault)),
        run(sero().args(["seal", "--lazy"]).arg(&fixture.vault)),
    ];
    let after = fs::read(fixture.mountpoint.join("other"));
    unmount(&fixture.mountpoint, UnmountFlags::DETACH).unwrap();
    for refused in refused {
        refused.fails(10, "is covered by another mount (tmpfs)");
    }
    assert_eq!(after.unwrap(), before.unwrap());
    fixture.seal().ok();
}

/// The kernel gives its number out again at once.
#[test]
fn a_session_that_ends_leaves_the_next_mount_alone() {
    can_mount();
    let fixture = Fixture::mounted(&["--read-only"]);
    let device = fixture.mounts()[0].device;
    let status = run(sero().args(["status", "--json"]).arg(&fixture.mountpoint)).ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let first = Pid::from_raw(i32::try_from(status[0]["pid"].as_i64().unwrap()).unwrap()).unwrap();
    kill_process(first, Signal::STOP).unwrap();
    let stopped = Stopped(first);
    unmount(&fixture.mountpoint, UnmountFlags::DETACH).unwrap();
    let next = fixture.mount(&["--read-only"]);
    let is_reused = fixture.mounts().first().is_some_and(|mount| mount.device == device);
    drop(stopped);
    next.ok();
    let process = PathBuf::from(format!("/proc/{}", first.as_raw_nonzero()));
    eventually("the first has ended", || !process.exists());
    assert_eq!(fixture.mounts().len(), 1, "with the same number: {is_reused}");
    fs::read_dir(&fixture.mountpoint).unwrap();
    fixture.seal().ok();
}

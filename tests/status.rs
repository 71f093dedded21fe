//! `sero status` against real daemons: what it shows, whom it asks, and what it says of those that do not answer.
//!
//! Skipped, and said so, where this process may not mount.

#[path = "cli/harness.rs"]
mod harness;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{Fixture, NOBODY, can_mount, eventually, pattern, run, sero};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The one object that `sero status --json TARGET` prints.
#[track_caller]
fn status(target: &Path) -> Value {
    let outcome = run(sero().args(["status", "--json"]).arg(target)).ok();
    let mut list: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0)
}

/// Where the daemon of the fixture's mount listens.
fn socket(fixture: &Fixture) -> PathBuf {
    let device = fixture.mounts()[0].device;
    PathBuf::from(format!("/run/sero/{}-{}.sock", device.major, device.minor))
}

#[test]
fn what_is_mounted_is_shown_with_its_figures() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let before = status(&fixture.mountpoint);
    assert_eq!(before["state"], "mounted");
    assert_eq!(before["mountpoint"], fixture.mountpoint.to_str().unwrap());
    assert_eq!(before["vault"], fixture.vault.to_str().unwrap());
    assert_eq!(before["vault_id"], fixture.info()["vault_id"]);
    assert_eq!(before["pid"], fixture.daemon().as_raw_nonzero().get());
    assert_eq!(before["uid"], 0);
    assert_eq!(before["read_only"], false);
    for absent in ["degraded", "rotation"] {
        assert_eq!(before[absent], Value::Null);
    }
    assert_eq!(before["errors"], json!({"integrity": 0, "backing": 0, "last": null, "lost_bytes": 0, "lost_files": 0}));
    assert_eq!(before["session"]["idle_limit"], Value::Null);

    fs::write(fixture.mountpoint.join("file"), pattern(100_000)).unwrap();
    let file = File::open(fixture.mountpoint.join("file")).unwrap();
    file.sync_all().unwrap();
    let listing = fs::read_dir(&fixture.mountpoint).unwrap();
    let during = status(&fixture.vault);
    assert_eq!(during["open_files"], 1);
    assert_eq!(during["open_directories"], 1);
    assert_eq!(during["operations"]["bytes_written"], 100_000);
    assert!(during["operations"]["total"].as_u64() > before["operations"]["total"].as_u64());
    assert!(during["journal"]["capacity_bytes"].as_u64() > Some(0));
    assert!(during["memory"]["inodes"].as_u64() >= Some(2));
    drop((file, listing));
    eventually("nothing is open", || status(&fixture.mountpoint)["open_files"] == 0);

    let text = run(sero().arg("status").arg(&fixture.mountpoint)).ok().stdout;
    for part in
        [fixture.vault.to_str().unwrap(), "mounted, for reading and writing", "errors      none", "97.7 KiB written"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn two_vaults_at_once_and_a_read_only_one() {
    can_mount();
    let (one, two) = (Fixture::mounted(&[]), Fixture::mounted(&["--read-only"]));
    assert_eq!(status(&one.vault)["read_only"], false);
    let other = status(&two.vault);
    assert_eq!(other["read_only"], true);
    assert_eq!(other["degraded"], Value::Null);
    assert_eq!(other["journal"], Value::Null);
    let all = run(sero().args(["status", "--json"])).stdout;
    let all: Vec<Value> = serde_json::from_str(&all).unwrap();
    for fixture in [&one, &two] {
        assert!(all.iter().any(|mount| mount["mountpoint"] == fixture.mountpoint.to_str().unwrap()), "{all:?}");
    }
}

#[test]
fn errors_are_counted_and_the_last_is_told_without_names() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join("telling-name"), pattern(50_000)).unwrap();
    fixture.seal().ok();
    let home = fs::read_dir(fixture.vault.join("tree"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 40_000))
        .unwrap();
    let mut bytes = fs::read(&home).unwrap();
    bytes[30_000] ^= 1;
    fs::write(&home, bytes).unwrap();
    fixture.mount(&[]).ok();
    assert!(fs::read(fixture.mountpoint.join("telling-name")).is_err());
    let errors = status(&fixture.mountpoint)["errors"].clone();
    assert!(errors["integrity"].as_u64() >= Some(1), "{errors}");
    let message = errors["last"]["message"].as_str().unwrap();
    assert!(message.contains("tree/") && !message.contains("telling"), "{message}");
}

#[test]
fn a_detached_mount_is_found_by_its_vault() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let file = File::create_new(fixture.mountpoint.join("file")).unwrap();
    run(sero().args(["seal", "--lazy"]).arg(&fixture.mountpoint)).ok();
    assert_eq!(status(&fixture.vault)["open_files"], 1);
    drop(file);
    eventually("sealed", || fixture.info()["mounted"] == false);
    run(sero().arg("status").arg(&fixture.vault)).fails(11, "it is sealed already");
}

#[test]
fn nothing_of_sero_there() {
    can_mount();
    let fixture = Fixture::new();
    run(sero().arg("status").arg(&fixture.vault)).fails(11, "it is sealed already");
    run(sero().arg("status").arg(&fixture.mountpoint)).fails(11, "neither a vault nor where one is mounted");
}

// --- the socket ---

#[test]
fn the_socket_is_its_owners_and_goes_with_the_mount() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let socket = socket(&fixture);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o700, 0o600));
    let mut stranger = sero();
    stranger.arg("status").arg(&fixture.mountpoint).uid(STRANGER).gid(STRANGER);
    run(&mut stranger).fails(16, "may not ask it");
    // Among all mounts, another user's is left out, which is no failure.
    let mut stranger = sero();
    let listed = run(stranger.args(["status", "--json"]).uid(STRANGER).gid(STRANGER)).ok();
    assert!(!listed.stdout.contains(fixture.mountpoint.to_str().unwrap()), "{listed:?}");
    let mut stranger = sero();
    let said = run(stranger.arg("status").uid(STRANGER).gid(STRANGER)).ok();
    assert!(said.stderr.contains("not shown; ask as root"), "{said:?}");
    fixture.seal().ok();
    eventually("removed", || !socket.exists());
}

/// A stranger who reached the socket all the same, by another name and with permissions widened, is turned away by
/// the daemon.
#[test]
fn the_daemon_looks_who_asks() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let socket = socket(&fixture);
    let elsewhere = tempfile::tempdir_in(socket.parent().unwrap().parent().unwrap()).unwrap();
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let link = elsewhere.path().join("link");
    fs::hard_link(&socket, &link).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let answer_to = |uid: u32| {
        let script = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{\"request\": \"status\"}\\n')
print(s.makefile().readline())";
        let mut command = Command::new("python3");
        run(command.arg("-c").arg(script).arg(&link).uid(uid).gid(uid)).stdout
    };
    assert!(answer_to(0).contains("mountpoint"));
    assert_eq!(answer_to(NOBODY).trim(), "");
    eventually("logged", || fixture.log().contains("was turned away from the control socket"));
}

#[test]
fn nonsense_and_endless_lines_are_refused_and_the_daemon_lives() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let converse = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(socket(&fixture)).unwrap();
        // It may have hung up before it read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(converse(b"nonsense\n").contains("failed"));
    assert!(converse(b"{\"request\": \"from-the-future\"}\n").contains("does not know this request"));
    converse(&vec![b'x'; 1 << 20]);
    assert_eq!(converse(b"{\"request\":"), "");
    assert_eq!(converse(b"{\"request\":\"status\"}\n{\"request\":\"status\"}\n").lines().count(), 2);
    assert_eq!(status(&fixture.mountpoint)["state"], "mounted");
}

#[test]
fn a_dead_daemon_and_a_stopped_one() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let daemon = fixture.daemon();
    fixture.signal(Signal::STOP);
    run(sero().arg("status").arg(&fixture.mountpoint)).fails(16, "does not answer");
    rustix::process::kill_process(daemon, Signal::KILL).unwrap();
    eventually("dead", || {
        fs::metadata(&fixture.mountpoint).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    let leftover = socket(&fixture);
    assert!(fs::symlink_metadata(&leftover).unwrap().file_type().is_socket());
    run(sero().arg("status").arg(&fixture.vault)).fails(16, "has died");
    let listed = run(sero().args(["status", "--json"]).arg(&fixture.vault)).fails(16, "sero seal");
    assert!(listed.stdout.contains("unreachable"), "{listed:?}");
    fixture.seal().ok();
    // The leftover is in nobody's way.
    fixture.mount(&[]).ok();
    assert_eq!(status(&fixture.mountpoint)["state"], "mounted");
}

// --- watching ---

#[test]
fn watching_goes_on_until_the_mount_ends() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let mut command = sero();
    command.args(["status", "--watch", "--json"]).arg(&fixture.mountpoint);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let list: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(list[0]["state"], "mounted");
    }
    fixture.seal().ok();
    assert_eq!(harness::end_of(&mut watch).code(), Some(11));
}

#[test]
fn watching_ends_when_nobody_reads_it() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let script = r#"{ timeout 60 "$1" status --watch --json "$2"; echo "code $?" >&2; } | head -n 1"#;
    let mut shell = Command::new("sh");
    let outcome = run(shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_sero")]).arg(&fixture.mountpoint));
    assert!(outcome.stdout.contains("mounted") && outcome.stderr == "code 0\n", "{outcome:?}");
}

/// Nobody else's: an ordinary user who has mounted nothing.
const STRANGER: u32 = 65_000;

/// Mounts what looks like a vault's mount, as any user can, and answers nothing.
const PRETENDER: &str = r#"
import array, os, socket, subprocess, sys
ours, theirs = socket.socketpair()
environment = dict(os.environ, _FUSE_COMMFD=str(theirs.fileno()))
command = ["fusermount3", "-o", "subtype=sero,fsname=" + sys.argv[1], "--", sys.argv[2]]
helper = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
theirs.close()
message = ours.recvmsg(1, socket.CMSG_SPACE(4))
device = array.array("i", message[1][0][2])[0]
print("mounted", flush=True)
sys.stdin.read()
os.close(device)
subprocess.run(["fusermount3", "-u", "-z", "--", sys.argv[2]], check=False)
"#;

/// It would be given the keys of a rotation, and say that the vault is sealed.
#[test]
fn a_mount_that_another_user_calls_the_vaults_is_not_believed() {
    can_mount();
    harness::users_can_mount();
    let fixture = Fixture::new();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut pretender = Command::new("python3")
        .args(["-c", PRETENDER])
        .args([&fixture.vault, folder.path()])
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(pretender.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "mounted\n");
    let sealed = run(sero().arg("seal").arg(&fixture.vault));
    let rotated = run(sero().arg("rotate").arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault));
    let verified = run(sero().arg("verify").arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault));
    drop(pretender.stdin.take());
    pretender.wait().unwrap();
    sealed.fails(11, "it is sealed already");
    rotated.ok();
    verified.ok();
}

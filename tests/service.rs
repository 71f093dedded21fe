//! sero as a service of systemd: the unit's own command, with a socket that listens as systemd would.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use harness::{Fixture, LIMIT, can_mount, end_of, eventually, run};
use rustix::process::{Pid, Signal, kill_process};

/// The unit of a user's manager, and the system's.
const KINDS: [&str; 2] = ["user", "system"];

fn unit(kind: &str) -> String {
    let path = format!("{}/scripts/systemd/{kind}/sero@.service", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(path).unwrap()
}

/// The value of a setting of a unit.
#[track_caller]
fn setting(kind: &str, name: &str) -> String {
    let prefix = format!("{name}=");
    let unit = unit(kind);
    unit.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {name}")).to_owned()
}

/// A service manager, as far as the daemon can tell.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: String,
}

impl Manager {
    fn new(fixture: &Fixture) -> Self {
        let path = fixture.folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket, path, heard: String::new() }
    }

    /// Starts the unit's command with what systemd would put in its environment.
    fn start(&self, fixture: &Fixture, options: &str) -> Child {
        let credentials = fixture.folder.path().join("credentials");
        if !credentials.exists() {
            fs::create_dir(&credentials).unwrap();
            fs::copy(&fixture.passphrase, credentials.join("passphrase")).unwrap();
        }
        let variables = [
            ("${CREDENTIALS_DIRECTORY}", credentials.to_str().unwrap()),
            ("${OPTIONS}", options),
            ("${VAULT}", fixture.vault.to_str().unwrap()),
            ("${MOUNTPOINT}", fixture.mountpoint.to_str().unwrap()),
        ];
        let line = setting("user", "ExecStart");
        assert_eq!(line, setting("system", "ExecStart"));
        let mut words = line
            .split(' ')
            .map(|word| variables.iter().fold(word.to_owned(), |word, (name, value)| word.replace(name, value)));
        assert_eq!(words.next().unwrap(), "/usr/bin/sero");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sero"));
        command.args(words).env("NOTIFY_SOCKET", &self.path).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Listens until something is said.
    #[track_caller]
    fn hear(&mut self, what: &str) {
        let mut message = [0; 4096];
        while !self.heard.contains(what) {
            let len = self.socket.recv(&mut message).unwrap_or_else(|error| panic!("{what}: {error}: {}", self.heard));
            self.heard.push_str(std::str::from_utf8(&message[..len]).unwrap());
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn the_units_command_mounts_says_ready_and_seals_at_the_end() {
    can_mount();
    let fixture = Fixture::new();
    let mut manager = Manager::new(&fixture);
    let mut daemon = manager.start(&fixture, "defaults");
    manager.hear("READY=1");
    // Ready means that the mount answers.
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    manager.hear(&format!("STATUS={} is mounted on {}", fixture.vault.display(), fixture.mountpoint.display()));
    assert!(!manager.heard.contains("STOPPING"));
    signal(&daemon, Signal::TERM);
    manager.hear("STOPPING=1");
    assert_eq!(end_of(&mut daemon).code(), Some(0));
    assert_eq!(fixture.info()["sealed"], true);
    let mut log = String::new();
    daemon.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("mounted") && log.contains("sealed"), "{log}");
}

#[test]
fn a_service_that_seals_itself_ends_well() {
    can_mount();
    let fixture = Fixture::new();
    let mut manager = Manager::new(&fixture);
    let mut daemon = manager.start(&fixture, "idle=3s");
    manager.hear("READY=1");
    let mut user = Command::new("sleep").arg("1000").current_dir(&fixture.mountpoint).spawn().unwrap();
    manager.hear(&format!("STATUS=idle: to be sealed, and in use by {} (sleep)", user.id()));
    user.kill().unwrap();
    user.wait().unwrap();
    manager.hear("STOPPING=1");
    assert_eq!(end_of(&mut daemon).code(), Some(0));
    assert_eq!(fixture.info()["sealed"], true);
}

/// Under systemd standard error is the journal's, and the environment says so: then lines have priorities.
#[test]
fn lines_for_the_journal_have_priorities() {
    can_mount();
    let fixture = Fixture::new();
    let journal = fixture.folder.path().join("journal");
    let run_with = |stream: Option<String>| {
        let stderr = fs::File::create(&journal).unwrap();
        let mut command = fixture.mount_command(&["--foreground", "--verbose"]);
        // The log is to go to standard error.
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let log = words.iter().position(|word| word == "--log").unwrap();
        command = harness::sero();
        command.args(&words[..log]).args(&words[log + 2..]);
        if let Some(stream) = stream {
            command.env("JOURNAL_STREAM", stream);
        }
        let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        eventually("mounted", || !fixture.mounts().is_empty());
        signal(&daemon, Signal::TERM);
        assert_eq!(end_of(&mut daemon).code(), Some(0));
        fs::read_to_string(&journal).unwrap()
    };
    let plain = run_with(Some("1:1".to_owned()));
    assert!(plain.contains("sero: sealed") && !plain.contains("<6>"), "{plain}");
    let metadata = fs::metadata(&journal).unwrap();
    let marked = run_with(Some(format!("{}:{}", metadata.dev(), metadata.ino())));
    assert!(marked.contains("<6>sealed"), "{marked}");
}

#[test]
fn a_service_that_cannot_mount_is_never_ready() {
    can_mount();
    let fixture = Fixture::new();
    let manager = Manager::new(&fixture);
    fs::remove_dir(&fixture.mountpoint).unwrap();
    let mut daemon = manager.start(&fixture, "defaults");
    assert_eq!(end_of(&mut daemon).code(), Some(7));
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0; 64]).is_err(), "nothing was said");
}

#[test]
fn a_daemon_in_the_background_is_no_service() {
    can_mount();
    let fixture = Fixture::new();
    let manager = Manager::new(&fixture);
    run(fixture.mount_command(&[]).env("NOTIFY_SOCKET", &manager.path)).ok();
    fixture.seal().ok();
    eventually("ended", || fixture.info()["mounted"] == false);
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0; 64]).is_err(), "somebody else's socket is left alone");
}

#[test]
fn the_units_are_such_that_systemd_understands() {
    for kind in KINDS {
        for (name, value) in [("Type", "notify"), ("NotifyAccess", "main"), ("KillMode", "mixed")] {
            assert_eq!(setting(kind, name), value);
        }
        assert!(setting(kind, "LoadCredential").starts_with("passphrase:%E/sero/%i."));
        // The check itself needs the program where the unit says it is.
        let fixture = Fixture::empty();
        let copy = fixture.folder.path().join("sero@.service");
        fs::write(&copy, unit(kind).replace("/usr/bin/sero", env!("CARGO_BIN_EXE_sero"))).unwrap();
        let checked = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy));
        assert!(!checked.stderr.contains("sero@"), "{checked:?}");
    }
}

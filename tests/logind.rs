//! Sealing before the machine sleeps and with a session's lock: a bus of its own, with a logind that does what it is told.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::future::poll_fn;
use std::io::{PipeReader, Read, pipe};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use harness::{Fixture, NOBODY, can_mount, eventually, run, sero, users_can_mount};
use serde_json::Value;
use zbus::export::futures_core::Stream;
use zbus::message::Type;
use zbus::{Connection, Fd, MessageStream, ObjectPath, Structure, Variant};

const NAME: &str = "org.freedesktop.login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SESSION: &str = "org.freedesktop.login1.Session";
const ROOTS: &str = "/org/freedesktop/login1/session/root";
const NOBODYS: &str = "/org/freedesktop/login1/session/nobody";

/// A bus that every user may use; gone when it is dropped.
struct Bus {
    daemon: Child,
    folder: tempfile::TempDir,
}

impl Bus {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { daemon: Self::daemon(&folder), folder }
    }

    fn daemon(folder: &tempfile::TempDir) -> Child {
        let (configuration, socket) = (folder.path().join("configuration"), folder.path().join("socket"));
        let text = format!(
            "<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth>
             <policy context='default'><allow user='*'/><allow own='*'/><allow send_destination='*'/>
             <allow send_type='signal'/><allow send_type='method_return'/><allow send_type='error'/>
             <allow receive_type='method_call'/><allow receive_type='method_return'/>
             <allow receive_type='error'/><allow receive_type='signal'/></policy></busconfig>",
            socket.display()
        );
        fs::write(&configuration, text).unwrap();
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg("--config-file").arg(&configuration).stdin(Stdio::null()).stderr(Stdio::null());
        let daemon = command.spawn().expect("dbus-daemon: install the package dbus (scripts/test.sh does)");
        eventually("the bus listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        daemon
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.folder.path().join("socket").display())
    }

    fn connect(&self) -> Connection {
        let address = self.address();
        zbus::block_on(async { zbus::connection::Builder::address(address.as_str()).build().await }).unwrap()
    }

    fn stop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }

    fn start_again(&mut self) {
        self.daemon = Self::daemon(&self.folder);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Someone who holds a delay lock.
struct Delay {
    what: (String, String),
    /// Their name on the bus.
    holder: String,
    /// At its end when they let go.
    pipe: PipeReader,
}

/// Answers what sero asks of logind.
struct Logind {
    connection: Connection,
    delays: Arc<Mutex<Vec<Delay>>>,
}

impl Logind {
    fn on(bus: &Bus) -> Self {
        let connection = bus.connect();
        let delays: Arc<Mutex<Vec<Delay>>> = Arc::default();
        // Before it has the name: what is asked without anybody who listens is dropped.
        let messages = MessageStream::from(&connection);
        zbus::block_on(connection.request_name(NAME)).unwrap();
        let (serving, taken) = (connection.clone(), Arc::clone(&delays));
        thread::spawn(move || zbus::block_on(serve(serving, messages, &taken)));
        Self { connection, delays }
    }

    fn emit<B: serde::Serialize + zbus::DynamicType>(&self, path: &str, interface: &str, member: &str, body: &B) {
        zbus::block_on(self.connection.emit_signal(None::<&str>, path, interface, member, body)).unwrap();
    }

    fn prepare_for_sleep(&self, begins: bool) {
        self.emit("/org/freedesktop/login1", MANAGER, "PrepareForSleep", &begins);
    }

    fn session(&self, path: &str, member: &str) {
        self.emit(path, SESSION, member, &());
    }

    fn delays(&self) -> usize {
        self.delays.lock().unwrap().len()
    }
}

async fn serve(connection: Connection, mut messages: MessageStream, delays: &Mutex<Vec<Delay>>) {
    while let Some(Ok(message)) = poll_fn(|context| Pin::new(&mut messages).poll_next(context)).await {
        let header = message.header();
        if header.message_type() != Type::MethodCall {
            continue;
        }
        let replied = match header.member().map(|member| member.as_str()) {
            Some("Inhibit") => {
                let (what, _who, _why, mode): (String, String, String, String) = message.body().deserialize().unwrap();
                let (reader, writer) = pipe().unwrap();
                let holder = header.sender().unwrap().to_string();
                // First, so that it is there when the one who asked goes on.
                delays.lock().unwrap().push(Delay { what: (what, mode), holder, pipe: reader });
                connection.reply(&header, &Fd::from(writer.as_fd())).await
            }
            Some("Get") => {
                let path = header.path().unwrap();
                let user = if path.as_str() == NOBODYS { NOBODY } else { 0 };
                let user = Structure::from((user, ObjectPath::try_from("/org/freedesktop/login1/user/x").unwrap()));
                connection.reply(&header, &Variant::from(user)).await
            }
            Some("Ping") => connection.reply(&header, &()).await,
            other => panic!("sero asks for {other:?}"),
        };
        // Whoever asked may be gone.
        let _ = replied;
    }
}

/// A vault that is mounted with these options, by a daemon that asks this bus.
fn mounted(bus: &Bus, options: &[&str]) -> Fixture {
    let fixture = Fixture::new();
    run(fixture.mount_command(options).env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())).ok();
    fixture
}

fn is_sealed(fixture: &Fixture) -> bool {
    let info = fixture.info();
    info["sealed"] == true && info["mounted"] == false
}

fn session(fixture: &Fixture) -> Value {
    let outcome = run(sero().args(["status", "--json"]).arg(&fixture.vault)).ok();
    let list: Value = serde_json::from_str(&outcome.stdout).unwrap();
    list[0]["session"].clone()
}

/// Somebody whose directory is in the mount, until this is dropped.
struct User(Child);

impl User {
    fn of(fixture: &Fixture) -> Self {
        Self(Command::new("sleep").arg("1000").current_dir(&fixture.mountpoint).spawn().unwrap())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_ending_for(fixture: &Fixture, reason: &str) -> bool {
    session(fixture)["ending"]["reason"] == reason
}

#[test]
fn a_vault_is_at_rest_before_the_machine_sleeps() {
    can_mount();
    let bus = Bus::start();
    let logind = Logind::on(&bus);
    let fixture = mounted(&bus, &["--seal-on", "suspend"]);
    assert_eq!(session(&fixture)["seal_on"], serde_json::json!(["suspend"]));
    // The command looks first whether logind answers, and lets go again; the daemon holds on.
    let delay = {
        let mut delays = logind.delays.lock().unwrap();
        assert!(delays.iter().all(|delay| delay.what == ("sleep".to_owned(), "delay".to_owned())));
        delays.pop().unwrap()
    };
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    logind.prepare_for_sleep(true);
    let mut pipe = delay.pipe;
    // Until then logind waits.
    assert_eq!(pipe.read(&mut [0]).unwrap(), 0);
    assert_eq!(fixture.info()["sealed"], true, "{}", fixture.log());
    assert!(fixture.log().contains("suspend: sealing"), "{}", fixture.log());
}

#[test]
fn one_that_is_in_use_is_tried_again_until_the_machine_is_awake_and_says_so() {
    can_mount();
    let bus = Bus::start();
    let logind = Logind::on(&bus);
    let fixture = mounted(&bus, &["--seal-on", "suspend"]);
    let before = logind.delays();
    let user = User::of(&fixture);
    logind.prepare_for_sleep(true);
    eventually("busy", || is_ending_for(&fixture, "suspend"));
    let text = run(sero().arg("status").arg(&fixture.mountpoint)).ok().stdout;
    assert!(text.contains("sealed on suspend; to be sealed (suspend), in use by"), "{text}");
    logind.prepare_for_sleep(false);
    eventually("awake", || session(&fixture)["ending"] == Value::Null);
    eventually("the next sleep is delayed, too", || logind.delays() == before + 1);
    assert!(fixture.log().contains("suspend is over"), "{}", fixture.log());
    drop(user);
    logind.prepare_for_sleep(true);
    eventually("sealed", || is_sealed(&fixture));
}

#[test]
fn a_vault_is_sealed_with_the_lock_of_a_session_by_request_or_by_hint() {
    can_mount();
    let bus = Bus::start();
    let logind = Logind::on(&bus);
    let hint = |is_locked: bool| {
        let changed = std::collections::HashMap::from([("LockedHint", Variant::from(is_locked))]);
        logind.emit(
            ROOTS,
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            &(SESSION, changed, Vec::<&str>::new()),
        );
    };
    let fixture = mounted(&bus, &["-o", "seal_on=lock"]);
    assert_eq!(logind.delays(), 0, "sleep is nothing to it");
    let user = User::of(&fixture);
    logind.prepare_for_sleep(true);
    logind.session(ROOTS, "Lock");
    eventually("busy", || is_ending_for(&fixture, "lock"));
    logind.session(ROOTS, "Unlock");
    eventually("stays", || session(&fixture)["ending"] == Value::Null);
    hint(true);
    eventually("busy", || is_ending_for(&fixture, "lock"));
    hint(false);
    eventually("stays", || session(&fixture)["ending"] == Value::Null);
    hint(true);
    drop(user);
    eventually("sealed", || is_sealed(&fixture));
    assert!(!fixture.log().contains("suspend"), "{}", fixture.log());
}

/// Only one's own session counts, and only what logind says.
#[test]
fn others_cannot_have_it_sealed() {
    users_can_mount();
    let bus = Bus::start();
    let logind = Logind::on(&bus);
    let fixture = Fixture::empty();
    run(Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(fixture.folder.path())).ok();
    let as_nobody = |command: &mut Command| {
        use std::os::unix::process::CommandExt;
        run(command.uid(NOBODY).gid(NOBODY).env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())).ok();
    };
    let mut create = fixture.create_command();
    as_nobody(create.env("XDG_STATE_HOME", fixture.folder.path()));
    let mut mount = fixture.mount_command(&["--seal-on", "suspend,lock"]);
    as_nobody(mount.env("XDG_STATE_HOME", fixture.folder.path()).env_remove("XDG_RUNTIME_DIR"));
    let held = fs::File::create(fixture.mountpoint.join("file"));
    assert!(held.is_err(), "not even root enters");
    let user = {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("sh");
        command.args(["-c", "cd \"$1\" && exec sleep 1000", "sh"]).arg(&fixture.mountpoint).uid(NOBODY).gid(NOBODY);
        User(command.spawn().unwrap())
    };
    let cwd = PathBuf::from(format!("/proc/{}/cwd", user.0.id()));
    eventually("inside", || fs::read_link(&cwd).is_ok_and(|path| path == fixture.mountpoint));

    logind.session(ROOTS, "Lock");
    let stranger = bus.connect();
    let daemon = logind.delays.lock().unwrap().last().unwrap().holder.clone();
    zbus::block_on(async {
        stranger.emit_signal(Some(daemon.as_str()), NOBODYS, SESSION, "Lock", &()).await.unwrap();
        // When this is answered, that has arrived.
        let bus = Some("org.freedesktop.DBus");
        stranger.call_method(bus, "/org/freedesktop/DBus", bus, "GetId", &()).await.unwrap();
    });
    // What comes later is heard; when it is over, nothing else is left.
    logind.prepare_for_sleep(true);
    eventually("busy", || is_ending_for(&fixture, "suspend"));
    logind.prepare_for_sleep(false);
    eventually("awake", || fixture.log().contains("suspend is over"));
    assert_eq!(session(&fixture)["ending"], Value::Null);
    logind.session(NOBODYS, "Lock");
    eventually("busy", || is_ending_for(&fixture, "lock"));
    drop(user);
    eventually("sealed", || is_sealed(&fixture));
}

#[test]
fn without_logind_it_is_not_mounted_as_if_it_were_sealed_by_itself() {
    can_mount();
    let fixture = Fixture::new();
    let mount = |address: &str| {
        // Before the passphrase is asked for: there is no terminal.
        let mut command = sero();
        command.args(["mount", "--seal-on", "lock"]).arg(&fixture.vault).arg(&fixture.mountpoint);
        run(command.env("DBUS_SYSTEM_BUS_ADDRESS", address)).fails(1, "logind cannot be asked");
    };
    mount("unix:path=/nowhere/socket");
    let bus = Bus::start();
    mount(&bus.address());
    run(sero().args(["mount", "--seal-on", "midnight"]).arg(&fixture.vault).arg(&fixture.mountpoint))
        .fails(2, "suspend");
}

#[test]
fn after_the_bus_was_lost_it_is_heard_again() {
    can_mount();
    let mut bus = Bus::start();
    let first = Logind::on(&bus);
    let fixture = mounted(&bus, &["--seal-on", "lock"]);
    drop(first);
    bus.stop();
    eventually("said", || fixture.log().contains("the connection to logind is lost"));
    bus.start_again();
    let logind = Logind::on(&bus);
    eventually("heard", || fixture.log().contains("logind is heard again"));
    logind.session(ROOTS, "Lock");
    eventually("sealed", || is_sealed(&fixture));
}

//! Runs the real program in a temporary directory, with a time limit, and leaves nothing behind.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sero::fuse::mountinfo::{self, Mount};
use tempfile::TempDir;

#[path = "spawning.rs"]
pub mod spawning;

/// Nothing here takes nearly as long, unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(240);

pub const PASSPHRASE: &str = "correct horse battery staple";

/// An ordinary user that every system has.
pub const NOBODY: u32 = 65534;

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Ended with this exit code, and one sentence that says so.
    #[track_caller]
    pub fn fails(self, code: i32, with: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.stderr.contains(with), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }
}

/// The program under test.
pub fn sero() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sero"));
    command.env_remove("RUST_LOG");
    // Where wrong tries are counted: not beside the user's own.
    command.env("XDG_STATE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/state"));
    command
}

/// Runs to the end, or panics at the time limit.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawning::start(command).unwrap();
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let code = end_of(&mut child).code();
    Outcome { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for the end, or kills it at the time limit and panics.
#[track_caller]
pub fn end_of(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the program hangs");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: waited in vain");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a shell script as an ordinary user, in a directory.
#[track_caller]
pub fn shell_as(uid: u32, directory: &Path, script: &str) -> Outcome {
    run(Command::new("sh").arg("-c").arg(script).current_dir(directory).uid(uid).gid(uid))
}

/// A shell in a mount namespace of its own, without the vaults that are mounted elsewhere: a copy there would keep them from
/// ending, and whoever seals them waiting. The script's own arguments begin with `$1`.
pub fn shell_in_namespace(script: &str) -> Command {
    let alone = "findmnt -rnt fuse.sero -o TARGET | while read -r place; do umount -i -l \"$place\" || true; done";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", &format!("{alone}\n{script}"), "sh"]);
    command
}

/// This test mounts. Where that is not possible it fails: what is skipped shows nothing.
#[track_caller]
pub fn can_mount() {
    let is_root = rustix::process::geteuid().is_root();
    let has_device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    assert!(
        is_root && has_device,
        "this test mounts: run it as root, where there is a /dev/fuse (scripts/test.sh does)"
    );
}

/// This test mounts as an ordinary user.
#[track_caller]
pub fn users_can_mount() {
    let installed = ["/usr/bin/fusermount3", "/bin/fusermount3"].iter().any(|path| Path::new(path).exists());
    let opens = run(Command::new("sh").args(["-c", "exec 3<>/dev/fuse"]).uid(NOBODY).gid(NOBODY)).code == Some(0);
    assert!(
        installed && opens,
        "this test mounts as an ordinary user: install fuse3, and `chmod 666 /dev/fuse` (scripts/test.sh does both)"
    );
}

/// Bytes that differ from page to page.
pub fn pattern(len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|index| (index.wrapping_mul(31) ^ (index >> 9)) as u8).collect()
}

/// A vault in a temporary directory, and a place to mount it on. Unmounted when dropped.
pub struct Fixture {
    pub folder: TempDir,
    pub vault: PathBuf,
    pub mountpoint: PathBuf,
    pub passphrase: PathBuf,
    pub log: PathBuf,
}

impl Fixture {
    /// Directories and a passphrase file, no vault yet.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users pass through.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        let fixture = Self {
            vault: base.join("vault"),
            mountpoint: base.join("mount"),
            passphrase: base.join("passphrase"),
            log: base.join("log"),
            folder,
        };
        fs::create_dir(&fixture.mountpoint).unwrap();
        fs::write(&fixture.passphrase, format!("{PASSPHRASE}\n")).unwrap();
        fs::set_permissions(&fixture.passphrase, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fixture
    }

    /// With a vault.
    #[track_caller]
    pub fn new() -> Self {
        let fixture = Self::empty();
        run(&mut fixture.create_command()).ok();
        fixture
    }

    /// With a vault in this directory.
    pub fn with_vault_in(directory: &Path) -> Self {
        let mut fixture = Self::empty();
        fixture.vault = directory.join("vault");
        run(&mut fixture.create_command()).ok();
        fixture
    }

    /// With a vault that is mounted.
    #[track_caller]
    pub fn mounted(options: &[&str]) -> Self {
        let fixture = Self::new();
        fixture.mount(options).ok();
        fixture
    }

    /// Cheap key derivation: these tests are not about guessing.
    pub fn create_command(&self) -> Command {
        let mut command = sero();
        command
            .args(["create", "--kdf-memory", "1", "--kdf-passes", "1", "--kdf-lanes", "1", "--password-file"])
            .arg(&self.passphrase)
            .arg(&self.vault);
        command
    }

    pub fn mount_command(&self, options: &[&str]) -> Command {
        let mut command = sero();
        command
            .arg("mount")
            .args(options)
            .arg("--password-file")
            .arg(&self.passphrase)
            .arg("--log")
            .arg(&self.log)
            .arg(&self.vault)
            .arg(&self.mountpoint);
        command
    }

    #[track_caller]
    pub fn mount(&self, options: &[&str]) -> Outcome {
        run(&mut self.mount_command(options))
    }

    #[track_caller]
    pub fn seal(&self) -> Outcome {
        run(sero().arg("seal").arg(&self.mountpoint))
    }

    #[track_caller]
    pub fn info(&self) -> serde_json::Value {
        let outcome = run(sero().args(["info", "--json"]).arg(&self.vault)).ok();
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    /// The process that serves the mount.
    #[track_caller]
    pub fn daemon(&self) -> rustix::process::Pid {
        let pid = self.info()["holder"]["pid"].as_i64().expect("a holder");
        rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    #[track_caller]
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.daemon(), signal).unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The mounts of this vault that are left.
    pub fn mounts(&self) -> Vec<Mount> {
        let mounts = mountinfo::read().unwrap();
        mounts.into_iter().filter(|mount| mount.is_vault() && mount.source == self.vault.as_os_str()).collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
        for mount in self.mounts() {
            // With its connection cut, the daemon seals and ends by itself. While it stands: then its number may be another's.
            let _ = fs::write(format!("/sys/fs/fuse/connections/{}/abort", mount.device.minor), "1");
            let _ = rustix::mount::unmount(&mount.mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.vault.join("sero.json").exists()
            && run(sero().args(["info", "--json"]).arg(&self.vault)).stdout.contains("\"mounted\": true")
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

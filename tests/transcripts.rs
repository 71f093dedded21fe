//! Sessions with every command, as they look on a terminal: `tests/transcripts/*.md`, compared word by word.
//!
//! What stands after `$ ` is run by a shell, in a fresh directory for each file; what it says (standard output and
//! standard error, as they come) must be what stands below, and then the exit code if it is not 0. Parts that differ from run to run are
//! redacted, each by a pattern of its own. `SNAPSHOTS=overwrite cargo test --test transcripts` writes what is said now.

#[path = "cli/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::{PASSPHRASE, can_mount, run, sero};
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process};
use sero::fuse::mountinfo::{self, Mount};
use snapbox::{Assert, Data, Redactions};

/// One test for each file. A file that is not listed is found by `every_transcript_is_run`.
macro_rules! transcripts {
    ($($name:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { transcript(stringify!($name)); })*
    };
}

transcripts!(
    bench,
    cat,
    completions,
    create,
    import,
    info,
    key,
    ls,
    man,
    mount,
    repair,
    rotate,
    salvage,
    seal,
    status,
    usage,
    verify,
);

#[test]
fn every_transcript_is_run() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned());
    let files: BTreeSet<String> = files.map(|name| name.into_string().unwrap()).collect();
    let listed: BTreeSet<String> = NAMES.iter().map(ToString::to_string).chain(["README".to_owned()]).collect();
    assert_eq!(files, listed);
}

/// Success and failure of each.
#[test]
fn every_command_has_a_transcript_with_success_and_failure() {
    let help = run(sero().arg("--help")).ok().stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // The description of one goes on in a line without a name.
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() >= 15, "{help}");
    for command in commands {
        let text = fs::read_to_string(file(command)).unwrap_or_else(|error| panic!("{command}: {error}"));
        let codes = codes_of(&text, &format!("sero {command}"));
        assert!(codes.contains(&None) && codes.iter().any(Option::is_some), "{command}: {codes:?}");
    }
}

/// How the commands ended that are so.
fn codes_of(text: &str, command: &str) -> Vec<Option<u8>> {
    let mut codes = Vec::new();
    let mut is_it = false;
    for line in text.lines() {
        if let Some(code) = line.strip_prefix("[exit code ").and_then(|rest| rest.strip_suffix(']')) {
            if is_it && let Some(last) = codes.last_mut() {
                *last = Some(code.parse().unwrap());
            }
        } else if let Some(line) = line.strip_prefix("$ ") {
            is_it = line.contains(command);
            codes.extend(is_it.then_some(None));
        }
    }
    codes
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

fn file(name: &str) -> PathBuf {
    folder().join(format!("{name}.md"))
}

fn transcript(name: &str) {
    can_mount();
    let written = fs::read_to_string(file(name)).unwrap();
    let place = Place::new();
    let mut said = String::new();
    let mut is_session = false;
    let mut commands = 0;
    for line in written.lines() {
        if line.starts_with("```") {
            is_session = line == "```console";
        } else if is_session {
            let Some(command) = line.strip_prefix("$ ") else { continue };
            said.push_str(&format!("{line}\n{}", place.run(command)));
            commands += 1;
            continue;
        }
        said.push_str(&format!("{line}\n"));
    }
    assert!(commands > 1, "{name}: there is nothing in it");
    let assert = Assert::new().action_env("SNAPSHOTS").normalize_paths(false).redact_with(redactions(&place.path));
    assert.eq(said, Data::read_from(&file(name), None));
}

/// What differs from run to run.
fn redactions(place: &Path) -> Redactions {
    let mut redactions = Redactions::new();
    redactions.insert("[DIR]", place.to_owned()).unwrap();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for (name, pattern) in [
        ("[TIME]", r"\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"),
        ("[UNIX]", r#""(created|mtime|since|started|when)": (?<redacted>\d{10})\b"#),
        ("[VAULTID]", r"\b[0-9a-f]{32}\b"),
        ("[KEYID]", r"\b[0-9a-f]{16}\b"),
        ("[SEALED]", r"\btree/(?<redacted>[A-Za-z0-9_/-]{20,})"),
        ("[SPEED]", r" in (?<redacted>\d+\.\d s, [0-9.]+ [KMG]?i?B/s)"),
        ("[SPAN]", r"\((?<redacted>\d+ s)\), by user"),
        ("[SPAN]", r"idle for (?<redacted>\d+ s)"),
        ("[SPAN]", r"; (?<redacted>\d+ s) long"),
        ("[PROCESS]", r"\bprocess (?<redacted>\d+)\b"),
        ("[PROCESS]", r"\bby (?<redacted>\d+) \("),
        ("[RECOVERY]", r"(?m)^  (?<redacted>[0-9A-Z]{4}(-[0-9A-Z]{4}){3})$"),
    ] {
        redactions.insert(name, Regex::new(pattern).unwrap()).unwrap();
    }
    redactions
        .insert("[HOST]", Regex::new(&format!("on host (?<redacted>{})", regex::escape(&host))).unwrap())
        .unwrap();
    redactions
}

/// A directory where a transcript happens. Nothing is left of it, however it ends.
struct Place {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users pass through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        for (name, passphrase) in [("pw", PASSPHRASE), ("other", "seven purple ladders at noon")] {
            fs::write(path.join(name), format!("{passphrase}\n")).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::create_dir(path.join("papers")).unwrap();
        Self { path, _folder: folder }
    }

    /// What a command says, and its exit code.
    fn run(&self, command: &str) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_sero"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec 2>&1\n{command}")]).current_dir(&self.path).env_clear();
        shell.env("PATH", format!("{}:{path}", program.parent().unwrap().display()));
        shell
            .env("HOME", &self.path)
            .env("XDG_STATE_HOME", self.path.join("state"))
            .env("TERM", "dumb")
            .env("LC_ALL", "C");
        shell.env("CHEAP", "--kdf-memory 8 --kdf-passes 1 --kdf-lanes 1");
        let outcome = run(&mut shell);
        // What is printed only if it takes long, as on a busy machine.
        let is_patience = |line: &&str| {
            let about = [
                "waiting until everything",
                "checked ",
                "copied ",
                "copying ",
                "comparing ",
                "renaming ",
                "sealing anew ",
            ];
            !line.strip_prefix("sero: ").is_some_and(|line| about.iter().any(|start| line.starts_with(start)))
        };
        let mut said: String = outcome.stdout.lines().filter(is_patience).map(|line| format!("{line}\n")).collect();
        let _ = fs::remove_dir_all(self.path.join("state"));
        match outcome.code {
            Some(0) => {}
            Some(code) => said.push_str(&format!("[exit code {code}]\n")),
            None => said.push_str("[killed]\n"),
        }
        said
    }

    fn mounts(&self) -> Vec<Mount> {
        let mut mounts = mountinfo::read().unwrap_or_default();
        mounts.retain(|mount| mount.mountpoint.starts_with(&self.path));
        mounts
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for mount in self.mounts().into_iter().rev() {
            for process in sero::fuse::processes_using(mount.device) {
                if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw)
                    && process.pid != std::process::id()
                {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            if mount.is_vault() {
                // With its connection cut, the daemon seals and ends by itself. While it stands: then its number may be another's.
                let _ = fs::write(format!("/sys/fs/fuse/connections/{}/abort", mount.device.minor), "1");
            }
            let _ = rustix::mount::unmount(&mount.mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let in_use = || {
            let vaults = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut vaults = vaults.filter(|path| path.join("sero.json").exists());
            vaults.any(|vault| run(sero().args(["info", "--json"]).arg(vault)).stdout.contains("\"mounted\": true"))
        };
        while in_use() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

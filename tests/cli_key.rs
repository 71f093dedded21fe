//! `sero key`, keyslots of every kind, the configuration apart from the vault, what is asked of passphrases, and wrong
//! tries. The exit codes are those of docs/cli.md.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use data_encoding::BASE64;
use harness::{Fixture, Outcome, PASSPHRASE, can_mount, run, sero};
use serde_json::{Value, json};

const CHEAP: [&str; 6] = ["--kdf-memory", "1", "--kdf-passes", "1", "--kdf-lanes", "1"];

/// A vault, and what the tests need beside it.
struct Keys {
    fixture: Fixture,
}

impl Keys {
    fn new() -> Self {
        Self { fixture: Fixture::new() }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.fixture.folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// `sero key SUBCOMMAND VAULT ARGUMENTS...`
    fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = sero();
        command.args(["key", subcommand]).arg(&self.fixture.vault).args(arguments);
        command
    }

    fn key(&self, subcommand: &str, arguments: &[&str]) -> Outcome {
        run(&mut self.command(subcommand, arguments))
    }

    /// With the first passphrase.
    fn as_owner(&self, subcommand: &str, arguments: &[&str]) -> Outcome {
        run(self.command(subcommand, arguments).arg("--password-file").arg(&self.fixture.passphrase))
    }

    /// Which keyslot opens with this.
    #[track_caller]
    fn opens(&self, arguments: &[&str]) -> Value {
        let said = run(self.command("check", &["--json"]).args(arguments)).ok();
        serde_json::from_str::<Value>(&said.stdout).unwrap()["slot"].clone()
    }

    fn kinds(&self) -> Vec<String> {
        let listed: Value = serde_json::from_str(&self.key("list", &["--json"]).ok().stdout).unwrap();
        let slots = listed["keyslots"].as_array().unwrap();
        slots.iter().map(|slot| slot["kind"].as_str().unwrap().to_owned()).collect()
    }

    fn configuration(&self) -> Vec<u8> {
        fs::read(self.fixture.vault.join("sero.json")).unwrap()
    }

    /// Refused with this code and message, and nothing is changed.
    #[track_caller]
    fn refuses(&self, subcommand: &str, arguments: &[&str], code: i32, with: &str) {
        let before = self.configuration();
        self.as_owner(subcommand, arguments).fails(code, with);
        assert_eq!(self.configuration(), before);
        assert!(!self.fixture.vault.join("sero.json.bak").exists());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A recovery key as it was shown.
fn recovery_key(outcome: &Outcome) -> String {
    let lines: Vec<&str> = outcome.stdout.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(lines.len(), 4, "{outcome:?}");
    lines.join("\n")
}

// --- all kinds ---

/// "a vault with 8 slots of all kinds"
#[test]
fn a_vault_with_eight_slots_of_all_kinds() {
    let keys = Keys::new();
    let second = keys.file("second", b"another passphrase of ours\n");
    let third = keys.file("third", b"the third passphrase here\n");
    let (keyfile, other) =
        (keys.file("keyfile", &[7; 100]), keys.file("other", b"just some text of more than 32 bytes"));
    let command = format!("echo {}", BASE64.encode(&(1..33).collect::<Vec<u8>>()));
    let variable = BASE64.encode(&(33..65).collect::<Vec<u8>>());
    let cheap = |more: &[&str]| [&CHEAP[..], more].concat().iter().map(ToString::to_string).collect::<Vec<String>>();
    let add = |more: &[&str]| {
        let all = cheap(more);
        let arguments: Vec<&str> = all.iter().map(String::as_str).collect();
        run(keys
            .command("add", &arguments)
            .env("SERO_TEST_KEY", &variable)
            .arg("--password-file")
            .arg(&keys.fixture.passphrase))
        .ok()
    };
    add(&["--new-password-file", text(&second), "--label", "anna"]);
    add(&["--new-keyfile", text(&keyfile)]);
    add(&["--new-keyfile", text(&other), "--new-password-file", text(&third)]);
    let paper = keys.file("paper", recovery_key(&add(&["--new-recovery"])).to_lowercase().as_bytes());
    add(&["--new-key-command", &command]);
    add(&["--new-key-env", "SERO_TEST_KEY"]);
    let in_json: Value = serde_json::from_str(&add(&["--new-recovery", "--json"]).stdout).unwrap();
    let second_paper = keys.file("paper 2", in_json["recovery_key"].as_str().unwrap().as_bytes());
    assert_eq!(
        keys.kinds(),
        ["passphrase", "passphrase", "keyfile", "passphrase-keyfile", "recovery", "command", "environment", "recovery"]
    );

    assert_eq!(keys.opens(&["--password-file", text(&keys.fixture.passphrase)]), 1);
    assert_eq!(keys.opens(&["--password-command", "echo another passphrase of ours"]), 2);
    assert_eq!(keys.opens(&["--keyfile", text(&keyfile)]), 3);
    assert_eq!(keys.opens(&["--keyfile", text(&other), "--password-file", text(&third)]), 4);
    assert_eq!(keys.opens(&["--recovery-file", text(&paper)]), 5);
    assert_eq!(keys.opens(&["--key-command", &command]), 6);
    let outcome = run(keys.command("check", &["--json", "--key-env", "SERO_TEST_KEY"]).env("SERO_TEST_KEY", &variable));
    assert!(outcome.ok().stdout.contains("\"slot\": 7"));
    assert_eq!(keys.opens(&["--recovery-file", text(&second_paper)]), 8);

    // Each part alone of what takes two opens nothing.
    keys.key("check", &["--password-file", text(&third)]).fails(3, "wrong passphrase");
    keys.key("check", &["--keyfile", text(&other)]).fails(3, "wrong keyfile");

    let listed = keys.key("list", &[]).ok().stdout;
    assert_eq!(listed.lines().count(), 8);
    assert!(listed.contains("  2  passphrase \"anna\", owner, argon2id with 1024 KiB"), "{listed}");
    assert_eq!(keys.fixture.info()["keyslots"].as_array().unwrap().len(), 8);
}

#[test]
fn a_vault_can_do_without_a_passphrase() {
    let fixture = Fixture::empty();
    let keyfile = fixture.folder.path().join("keyfile");
    fs::write(&keyfile, [3; 64]).unwrap();
    run(sero().args(["create", "--keyfile"]).arg(&keyfile).arg("--new-recovery").arg(&fixture.vault)).ok();
    let keys = Keys { fixture };
    assert_eq!(keys.kinds(), ["keyfile", "recovery"]);
    assert_eq!(keys.opens(&["--keyfile", text(&keyfile)]), 1);
    keys.key("check", &[]).fails(13, "no keyslot of a passphrase alone");
    keys.key("check", &["--password-file", text(&keys.fixture.passphrase)]).fails(3, "it has: keyfile, recovery");
    run(sero().args(["create", "--keyfile"]).arg(&keyfile).args(["--key-command", "true"]).arg("v"))
        .fails(18, "printed");
}

#[test]
fn a_mount_with_a_key_of_the_environment_does_not_hand_it_on() {
    can_mount();
    let keys = Keys::new();
    let variable = BASE64.encode(&(1..33).collect::<Vec<u8>>());
    let add = ["--new-key-env", "SERO_TEST_KEY"];
    run(keys.command("add", &add).env("SERO_TEST_KEY", &variable).arg("--password-file").arg(&keys.fixture.passphrase))
        .ok();
    let mut mount = sero();
    mount.args(["mount", "--key-env", "SERO_TEST_KEY", "--log"]).arg(&keys.fixture.log).env("SERO_TEST_KEY", &variable);
    run(mount.arg(&keys.fixture.vault).arg(&keys.fixture.mountpoint)).ok();
    let environment = fs::read(format!("/proc/{}/environ", keys.fixture.daemon())).unwrap();
    assert!(!environment.is_empty());
    assert!(!String::from_utf8_lossy(&environment).contains("SERO_TEST_KEY"));
    keys.fixture.seal().ok();
}

// --- changes ---

#[test]
fn a_changed_passphrase_opens_what_the_old_one_did() {
    can_mount();
    let keys = Keys::new();
    keys.fixture.mount(&[]).ok();
    fs::write(keys.fixture.mountpoint.join("file"), "content").unwrap();
    let new = keys.file("new", b"a wholly different passphrase\n");
    // Also while it is mounted.
    keys.as_owner("change", &[&CHEAP[..], &["--new-password-file", text(&new), "--hint", "wholly new"]].concat()).ok();
    keys.fixture.seal().ok();
    keys.fixture.mount(&[]).fails(3, "hint: wholly new");
    fs::copy(&new, &keys.fixture.passphrase).unwrap();
    keys.fixture.mount(&[]).ok();
    assert_eq!(fs::read_to_string(keys.fixture.mountpoint.join("file")).unwrap(), "content");
    keys.fixture.seal().ok();
}

#[test]
fn a_removed_keyslot_is_in_no_file_of_the_vault() {
    let keys = Keys::new();
    let keyfile = keys.file("keyfile", &[7; 100]);
    keys.as_owner("add", &["--new-keyfile", text(&keyfile)]).ok();
    let listed: Value = serde_json::from_str(&keys.key("list", &["--json"]).ok().stdout).unwrap();
    let key_id = listed["keyslots"][1]["key_id"].as_str().unwrap().to_owned();
    let said = keys.as_owner("remove", &["--slot", "2"]).ok().stdout;
    assert!(said.contains("keyslot 2 is removed; the root key is renewed"), "{said}");
    keys.key("check", &["--keyfile", text(&keyfile)]).fails(3, "no keyslot of this vault opens with a keyfile alone");
    for name in ["sero.json", "sero.json.bak"] {
        assert!(!fs::read_to_string(keys.fixture.vault.join(name)).unwrap().contains(&key_id), "{name}");
    }
    assert_eq!(keys.opens(&["--password-file", text(&keys.fixture.passphrase)]), 1);
}

#[test]
fn a_backup_with_a_removed_keyslot_is_pointed_out() {
    let keys = Keys::new();
    let keyfile = keys.file("keyfile", &[7; 100]);
    keys.as_owner("add", &["--new-keyfile", text(&keyfile)]).ok();
    let with_two = keys.configuration();
    keys.as_owner("remove", &["--slot", "2"]).ok();
    fs::write(keys.fixture.vault.join("sero.json.bak"), with_two).unwrap();
    let outcome = keys.key("list", &[]).ok();
    assert!(outcome.stderr.contains("still has keyslots that were removed"), "{outcome:?}");
}

/// "an edited, removed, swapped or replayed slot is noticed"
#[test]
fn an_edited_table_is_noticed() {
    let keys = Keys::new();
    let keyfile = keys.file("keyfile", &[7; 100]);
    keys.as_owner("add", &["--new-keyfile", text(&keyfile)]).ok();
    let before: Value = serde_json::from_slice(&keys.configuration()).unwrap();
    keys.as_owner("remove", &["--slot", "2"]).ok();
    let after: Value = serde_json::from_slice(&keys.configuration()).unwrap();
    let edited = |edit: &dyn Fn(&mut Value), base: &Value| {
        let mut configuration = base.clone();
        edit(&mut configuration);
        fs::write(keys.fixture.vault.join("sero.json"), configuration.to_string()).unwrap();
        keys.as_owner("check", &[]).fails(8, "edited");
    };
    edited(&|configuration| configuration["keyslots"][1]["role"] = json!("auditor"), &before);
    edited(&|configuration| drop(configuration["keyslots"].as_array_mut().unwrap().pop()), &before);
    edited(&|configuration| configuration["keyslots"].as_array_mut().unwrap().swap(0, 1), &before);
    edited(
        &|configuration| configuration["keyslots"].as_array_mut().unwrap().push(before["keyslots"][1].clone()),
        &after,
    );
}

#[test]
fn the_last_keyslot_and_missing_ones_cannot_be_removed() {
    let keys = Keys::new();
    keys.refuses("remove", &["--slot", "1"], 20, "the last keyslot cannot be removed");
    keys.refuses("remove", &["--slot", "7"], 20, "there is no keyslot 7");
    keys.refuses("change", &["--slot", "7", "--new-recovery"], 20, "there is no keyslot 7");
    keys.key("remove", &[]).fails(2, "--slot");
}

// --- bad input ---

/// "Empty or one-byte keyfile": clear error, own exit code, nothing changed
#[test]
fn bad_keyfiles() {
    let keys = Keys::new();
    for (name, content) in [("empty", &b""[..]), ("one", b"x"), ("short", &[1; 31])] {
        let path = keys.file(name, content);
        keys.refuses("add", &["--new-keyfile", text(&path)], 18, "a keyfile has at least 32");
        keys.key("check", &["--keyfile", text(&path)]).fails(18, "a keyfile has at least 32");
    }
    keys.refuses("add", &["--new-keyfile", "/nowhere"], 18, "cannot be read");
    keys.refuses("add", &["--new-keyfile", "/dev/urandom"], 18, "not a file");
}

/// "a keyfile that changes while read"
#[test]
fn a_keyfile_that_is_being_written() {
    let keys = Keys::new();
    let path = keys.file("keyfile", &vec![1; 2 << 20]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            let mut count = 0_u64;
            while !done.load(Ordering::Relaxed) {
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(&count.to_le_bytes()).unwrap();
                count += 1;
            }
        });
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            keys.refuses("add", &["--new-keyfile", text(&path)], 18, "changed while it was read");
        }));
        done.store(true, Ordering::Relaxed);
        refused.unwrap();
    });
}

/// "a command that fails, hangs (time limit) or prints garbage"
#[test]
fn bad_key_commands() {
    let keys = Keys::new();
    keys.refuses("add", &["--new-key-command", "exit 3"], 18, "failed (exit status: 3)");
    keys.refuses("add", &["--new-key-command", "echo garbage"], 18, "are no key");
    keys.refuses("add", &["--new-key-command", "true"], 18, "printed 0 bytes");
    keys.refuses("add", &["--new-key-command", "head -c 100000 /dev/urandom"], 18, "too much");
    let hangs = ["--new-key-command", "exec sleep 100", "--command-timeout", "1"];
    keys.refuses("add", &hangs, 18, "did not end within 1 second;");
    keys.key("check", &["--password-command", "exec sleep 100", "--command-timeout", "1"]).fails(13, "did not end");
    keys.refuses("add", &["--new-key-env", "SERO_TEST_UNSET"], 18, "is not set");
    let mut bad = keys.command("add", &["--new-key-env", "SERO_TEST_KEY"]);
    run(bad.env("SERO_TEST_KEY", "0123").arg("--password-file").arg(&keys.fixture.passphrase))
        .fails(18, "holds no key");
}

/// "a recovery key with a typo (named as such by its checksum)"
#[test]
fn a_mistyped_recovery_key() {
    let keys = Keys::new();
    let shown = recovery_key(&keys.as_owner("add", &["--new-recovery"]).ok());
    let before = keys.configuration();
    let last = shown.lines().last().unwrap();
    let mistyped = shown.replace(last, &last.replacen(|char: char| char.is_ascii_alphanumeric(), "z", 2));
    assert_ne!(mistyped.to_uppercase(), shown);
    let check = |content: &str| keys.key("check", &["--recovery-file", text(&keys.file("paper", content.as_bytes()))]);
    check(&mistyped).fails(19, "line 4 of the recovery key was mistyped");
    check(&shown[..shown.len() - 1]).fails(19, "63 characters");
    check(&shown).ok();
    assert_eq!(keys.configuration(), before);
    // Typed rightly, but of another vault: that is no typo.
    let other = recovery_key(&Keys::new().as_owner("add", &["--new-recovery"]).ok());
    check(&other).fails(3, "wrong recovery key");
}

// --- what is asked of passphrases ---

#[test]
fn weak_passphrases_are_refused_unless_allowed() {
    let fixture = Fixture::empty();
    let create = |passphrase: &str, more: &[&str]| {
        fs::write(&fixture.passphrase, passphrase).unwrap();
        run(fixture.create_command().args(more))
    };
    create("elevenchars", &[]).fails(17, "--allow-weak");
    create("password1234", &[]).fails(17, "too easy to guess");
    assert!(!fixture.vault.exists());
    create("short", &["--allow-weak"]).ok();
    let keys = Keys { fixture };
    let weak = keys.file("weak", b"weak\n");
    keys.refuses("add", &["--new-password-file", text(&weak)], 17, "has 4 characters");
    keys.refuses("change", &["--new-password-file", text(&weak)], 17, "has 4 characters");
    keys.as_owner("add", &[&CHEAP[..], &["--new-password-file", text(&weak), "--allow-weak"]].concat()).ok();
}

#[test]
fn a_hint_must_not_contain_the_passphrase() {
    let fixture = Fixture::empty();
    let hint = format!("it is: {}", PASSPHRASE.to_uppercase());
    run(fixture.create_command().args(["--hint", &hint])).fails(17, "the hint contains the passphrase");
    run(fixture.create_command().args(["--allow-weak", "--hint", &hint])).fails(17, "the hint contains the passphrase");
    run(fixture.create_command().args(["--hint", "an animal and its shop"])).ok();
    let keys = Keys { fixture };
    let new = keys.file("new", b"an animal and its shop");
    keys.refuses("add", &["--new-password-file", text(&new)], 17, "the hint contains the passphrase");
    let wrong = keys.file("wrong", b"something else");
    keys.key("check", &["--password-file", text(&wrong)]).fails(3, "hint: an animal and its shop");
}

/// "Wrong tries wait longer each time (per vault, kept across runs)"
#[test]
fn wrong_tries_wait_and_a_right_one_clears_them() {
    let keys = Keys::new();
    let wrong = keys.file("wrong", b"not the passphrase");
    let state = tempfile::tempdir().unwrap();
    let check = |vault: &Keys, file: &Path| {
        let mut command = vault.command("check", &["--password-file", text(file)]);
        run(command.env("XDG_STATE_HOME", state.path()))
    };
    let waited = |outcome: &Outcome| outcome.stderr.contains("waiting");
    // The wait is counted from the last wrong try: this machine may be so slow that it is over when the next begins. A
    // try that is yet to come was just now.
    let just_now = || {
        for entry in fs::read_dir(state.path().join("sero/attempts")).unwrap() {
            let path = entry.unwrap().path();
            let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            record["last"] = json!(record["last"].as_u64().unwrap() + 1_000_000);
            fs::write(&path, record.to_string()).unwrap();
        }
    };
    let first = check(&keys, &wrong);
    assert!(!waited(&first));
    just_now();
    let second = check(&keys, &wrong);
    assert!(waited(&second) && second.stderr.contains("as 1 try was wrong"), "{second:?}");
    just_now();
    let third = check(&keys, &wrong);
    assert!(third.stderr.contains("as 2 tries were wrong"), "{third:?}");
    // Another vault has its own count.
    let other = Keys::new();
    assert!(!waited(&check(&other, &wrong)));
    // The owner waits, and is let in; then nobody waits any more.
    just_now();
    let right = check(&keys, &keys.fixture.passphrase).ok();
    assert!(waited(&right), "{right:?}");
    assert!(!waited(&check(&keys, &keys.fixture.passphrase).ok()));
    // No secret is kept, and without a place to keep it nobody is locked out.
    for entry in fs::read_dir(state.path().join("sero/attempts")).unwrap() {
        let content = fs::read_to_string(entry.unwrap().path()).unwrap();
        let kept: Option<Value> = serde_json::from_str(&content).ok();
        let is_count = kept.is_some_and(|kept| kept["wrong"] == 1 && kept.as_object().unwrap().len() == 2);
        assert!(content.is_empty() || is_count, "{content}");
    }
    let mut nowhere = keys.command("check", &["--password-file", text(&keys.fixture.passphrase)]);
    run(nowhere.env("XDG_STATE_HOME", "/proc/nowhere")).ok();
}

// --- the configuration apart from the vault ---

#[test]
fn a_vault_whose_configuration_lies_apart_from_the_start() {
    let fixture = Fixture::empty();
    let apart = fixture.folder.path().join("papers.json");
    run(fixture.create_command().arg("--config").arg(&apart)).ok();
    assert!(!fixture.vault.join("sero.json").exists());
    assert_eq!(fs::metadata(&apart).unwrap().permissions().mode() & 0o077, 0);
    let keys = Keys { fixture };
    keys.as_owner("check", &[]).fails(4, "give that with --config");
    let config = ["--config", text(&apart)];
    keys.as_owner("check", &config).ok();
    keys.as_owner("add", &["--config", text(&apart), "--new-recovery"]).ok();
    assert!(apart.with_extension("json.bak").exists() && !keys.fixture.vault.join("sero.json.bak").exists());
    let info = run(sero().args(["info", "--json", "--config"]).arg(&apart).arg(&keys.fixture.vault)).ok();
    assert!(info.stdout.contains(text(&apart)));
    run(keys.fixture.create_command().arg("--config").arg(&apart)).fails(15, "not empty");
    let mut again = Fixture::empty();
    again.passphrase.clone_from(&keys.fixture.passphrase);
    run(again.create_command().arg("--config").arg(&apart)).fails(15, "choose another place");
    can_mount();
    keys.fixture.mount(&config).ok();
    fs::write(keys.fixture.mountpoint.join("file"), "content").unwrap();
    keys.fixture.seal().ok();
    run(sero().arg("seal").arg(&keys.fixture.vault)).fails(11, "it is sealed already");
    // The configuration of another vault does not open this one.
    let other = Fixture::new();
    let foreign = other.vault.join("sero.json");
    keys.fixture.mount(&["--config", text(&foreign)]).fails(8, "this configuration is not the vault's");
}

#[test]
fn a_configuration_is_copied_or_moved_away() {
    let keys = Keys::new();
    let copy = keys.fixture.folder.path().join("copy.json");
    keys.key("export-config", &[text(&copy)]).ok();
    assert_eq!(fs::read(&copy).unwrap(), keys.configuration());
    keys.key("export-config", &[text(&copy)]).fails(15, "choose another place");
    let moved = keys.fixture.folder.path().join("moved.json");
    let inside = keys.fixture.vault.join("sero.json.bak");
    keys.as_owner("export-config", &[text(&inside), "--detach"]).fails(2, "lies in the vault");
    assert_eq!(fs::read(&copy).unwrap(), keys.configuration());
    keys.as_owner("export-config", &[text(&moved), "--detach"]).ok();
    assert!(!keys.fixture.vault.join("sero.json").exists() && !keys.fixture.vault.join("sero.json.bak").exists());
    keys.as_owner("check", &["--config", text(&moved)]).ok();
    keys.key("export-config", &["/nowhere/x", "--config", text(&moved)]).fails(9, "no such directory");
}

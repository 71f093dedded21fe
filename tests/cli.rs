//! The commands without a mount: create, info, and every error that comes before one. The exit codes are those
//! of docs/cli.md.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::{Fixture, can_mount, run, sero};
use serde_json::{Value, json};

fn edit_configuration(fixture: &Fixture, edit: impl FnOnce(&mut Value)) {
    let path = fixture.vault.join("sero.json");
    let mut configuration = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut configuration);
    fs::write(&path, serde_json::to_vec_pretty(&configuration).unwrap()).unwrap();
}

// --- create and info ---

#[test]
fn create_makes_what_info_shows() {
    let fixture = Fixture::empty();
    let outcome = run(fixture.create_command().args(["--label", "mine", "--hint", "the usual"])).ok();
    assert!(outcome.stdout.contains("sero mount"), "{outcome:?}");
    let info = fixture.info();
    assert_eq!(info["path"], json!(fixture.vault));
    assert_eq!(info["format"], 1);
    assert_eq!(info["hint"], "the usual");
    assert_eq!(info["keyslots"][0]["label"], "mine");
    assert_eq!(
        info["keyslots"][0]["kdf"],
        json!({"algorithm": "argon2id", "memory_kib": 1024, "passes": 1, "lanes": 1})
    );
    assert_eq!((&info["mounted"], &info["sealed"]), (&json!(false), &json!(true)));
    assert_eq!(info["holder"], Value::Null);
    let text = run(sero().arg("info").arg(&fixture.vault)).ok().stdout;
    assert!(text.contains("sealed") && text.contains("argon2id with 1024 KiB"), "{text}");
}

/// "If what was asked for cannot be written there (a full disk), the command does its work, and the exit code is 1"
#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let fixture = Fixture::new();
    let vault = fixture.vault.to_str().unwrap();
    let secret = ["--password-file", fixture.passphrase.to_str().unwrap()];
    let lines: [(&[&str], &[&str]); 8] = [
        (&["info"], &[]),
        (&["info", "--json"], &[]),
        (&["key", "list"], &[]),
        (&["key", "list", "--json"], &[]),
        (&["rotate", "--status"], &[]),
        (&["key", "check", "--json"], &secret),
        (&["verify", "--json"], &secret),
        (&["ls", "-l"], &secret),
    ];
    let printing_to = |place: &str, line: &[&str], secret: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$@\" {place}"), "sh", env!("CARGO_BIN_EXE_sero")]);
        run(shell.args(line).args(secret).arg(vault))
    };
    fs::create_dir(fixture.folder.path().join("source")).unwrap();
    fs::write(fixture.folder.path().join("source/file"), "x").unwrap();
    run(sero().arg("import").args(secret).arg(fixture.folder.path().join("source")).arg(vault)).ok();
    for (line, secret) in lines {
        printing_to(">/dev/full", line, secret).fails(1, "standard output");
        let piped = printing_to("| true", line, secret).ok();
        assert_eq!(piped.stderr, "", "{line:?}");
    }
}

#[test]
fn a_new_vault_is_its_owners_alone() {
    let fixture = Fixture::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&fixture.vault) & 0o077, 0);
    assert_eq!(mode(&fixture.vault.join("sero.json")) & 0o022, 0);
}

#[test]
fn an_existing_empty_directory_becomes_a_vault() {
    let fixture = Fixture::empty();
    fs::create_dir(&fixture.vault).unwrap();
    run(&mut fixture.create_command()).ok();
}

#[test]
fn create_does_not_overwrite() {
    let fixture = Fixture::new();
    let before = fs::read(fixture.vault.join("sero.json")).unwrap();
    run(&mut fixture.create_command()).fails(15, "a vault exists here already");
    assert_eq!(fs::read(fixture.vault.join("sero.json")).unwrap(), before);

    let other = Fixture::empty();
    fs::create_dir(&other.vault).unwrap();
    fs::write(other.vault.join("file"), "x").unwrap();
    run(&mut other.create_command()).fails(15, "not empty");
    assert_eq!(fs::read_dir(&other.vault).unwrap().count(), 1);

    let file = Fixture::empty();
    fs::write(&file.vault, "x").unwrap();
    run(&mut file.create_command()).fails(15, "not a directory");
}

#[test]
fn create_needs_a_parent() {
    let mut fixture = Fixture::empty();
    fixture.vault = fixture.vault.join("deeper");
    run(&mut fixture.create_command()).fails(9, "make it first");
}

#[test]
fn key_derivation_out_of_bounds_is_refused() {
    let fixture = Fixture::empty();
    for arguments in [["--kdf-lanes", "0"], ["--kdf-passes", "4000000000"], ["--kdf-memory", "4000000000"]] {
        let mut command = sero();
        command.arg("create").args(arguments).arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault);
        run(&mut command).fails(14, "Argon2id");
        assert!(!fixture.vault.exists());
    }
}

#[test]
fn a_configuration_that_would_take_all_memory_is_refused() {
    can_mount();
    let fixture = Fixture::new();
    edit_configuration(&fixture, |configuration| configuration["keyslots"][0]["kdf"]["memory_kib"] = json!(u32::MAX));
    fixture.mount(&[]).fails(14, "Argon2id with 4294967295 KiB of memory");
}

// --- passphrases ---

#[test]
fn an_empty_passphrase_is_refused() {
    let fixture = Fixture::empty();
    fs::write(&fixture.passphrase, "\n").unwrap();
    run(&mut fixture.create_command()).fails(13, "the passphrase is empty");
    fs::write(&fixture.passphrase, "").unwrap();
    run(&mut fixture.create_command()).fails(13, "gave no passphrase");
    assert!(!fixture.vault.exists());
}

#[test]
fn a_passphrase_file_that_others_can_read_is_warned_about() {
    let fixture = Fixture::empty();
    fs::set_permissions(&fixture.passphrase, PermissionsExt::from_mode(0o644)).unwrap();
    let outcome = run(&mut fixture.create_command()).ok();
    assert!(outcome.stderr.contains("chmod 600"), "{outcome:?}");
}

#[test]
fn passphrases_that_cannot_be_had() {
    let fixture = Fixture::empty();
    let with = |arguments: &[&str]| run(sero().arg("create").args(arguments).arg(&fixture.vault));
    with(&["--password-file", "/nowhere"]).fails(13, "cannot be opened");
    with(&["--password-command", "exit 7"]).fails(13, "failed (exit status: 7)");
    with(&["--password-command", "true"]).fails(13, "gave no passphrase");
    with(&["--password-file", "a", "--password-command", "b"]).fails(2, "cannot be used with");
    assert!(!fixture.vault.exists());
}

#[test]
fn the_passphrase_comes_from_standard_input_or_a_command() {
    can_mount();
    let fixture = Fixture::empty();
    let mut command = sero();
    command.args(["create", "--kdf-memory", "1", "--kdf-passes", "1", "--kdf-lanes", "1", "--password-file", "-"]);
    let mut child = command.arg(&fixture.vault).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{}\nnoise", harness::PASSPHRASE).unwrap();
    assert!(harness::end_of(&mut child).success());

    let mut command = sero();
    command.args(["mount", "--password-command"]).arg(format!("echo '{}'", harness::PASSPHRASE));
    run(command.arg("--log").arg(&fixture.log).arg(&fixture.vault).arg(&fixture.mountpoint)).ok();
    fixture.seal().ok();
}

#[test]
fn a_wrong_passphrase_is_said_to_be_wrong() {
    can_mount();
    let fixture = Fixture::new();
    fs::write(&fixture.passphrase, "something else\n").unwrap();
    fixture.mount(&[]).fails(3, "wrong passphrase");
    assert!(fixture.mounts().is_empty());
}

// --- what is not a vault ---

#[test]
fn what_is_not_a_vault() {
    let fixture = Fixture::empty();
    let info = |path: &Path| run(sero().arg("info").arg(path));
    info(&fixture.vault).fails(4, "no such directory");
    info(&fixture.passphrase).fails(4, "not a directory");
    info(&fixture.mountpoint).fails(4, "not a vault");
    run(sero().arg("mount").arg(&fixture.mountpoint).arg(&fixture.mountpoint)).fails(4, "not a vault");
}

#[test]
fn a_newer_format_is_said_to_be_newer() {
    let fixture = Fixture::new();
    edit_configuration(&fixture, |configuration| {
        configuration["format"] = json!(2);
        configuration["something_new"] = json!({"deep": [1, 2, 3]});
    });
    run(sero().arg("info").arg(&fixture.vault)).fails(5, "format 2");
}

#[test]
fn a_damaged_configuration_is_said_to_be_damaged() {
    let fixture = Fixture::new();
    fs::write(fixture.vault.join("sero.json"), "{\"format\": 1, ").unwrap();
    run(sero().arg("info").arg(&fixture.vault)).fails(8, "damaged");
}

#[test]
fn an_edited_configuration_is_noticed_with_the_passphrase() {
    can_mount();
    let fixture = Fixture::new();
    edit_configuration(&fixture, |configuration| configuration["created"] = json!(1));
    fixture.mount(&[]).fails(8, "edited");
    assert!(fixture.mounts().is_empty());
}

// --- mountpoints, options, usage ---

#[test]
fn mountpoints_that_cannot_be_used() {
    let fixture = Fixture::new();
    let base = fixture.folder.path();
    let full = base.join("full");
    fs::create_dir_all(full.join("entry")).unwrap();
    let around = base.join("around");
    symlink(base, &around).unwrap();
    let refused = |mountpoint: &Path, why: &str| {
        run(sero().arg("mount").arg(&fixture.vault).arg(mountpoint)).fails(7, why);
    };
    refused(&base.join("missing"), "does not exist");
    refused(&fixture.passphrase, "not a directory");
    refused(&full, "not empty");
    refused(&fixture.vault, "is the vault itself");
    refused(&fixture.vault.join("tree"), "is inside the vault");
    refused(&around, "contains the vault");
    refused(Path::new("/proc"), "is a mountpoint already");
}

#[test]
fn usage_errors_have_their_code() {
    for arguments in [&[][..], &["frobnicate"], &["mount", "only-one"], &["create", "--kdf-memory", "much", "v"]] {
        run(sero().args(arguments)).fails(2, "--help");
    }
    let fixture = Fixture::new();
    let with = |options: &[&str]| run(sero().arg("mount").args(options).arg(&fixture.vault).arg(&fixture.mountpoint));
    with(&["-o", "ro,colour=red"]).fails(2, "`colour=red` is not known");
    with(&["-o", "rw", "--read-only"]).fails(2, "contradict");
}

#[test]
fn help_is_no_error() {
    for arguments in [&["--help"][..], &["--version"], &["mount", "--help"], &["seal", "--help"]] {
        let outcome = run(sero().args(arguments)).ok();
        assert!(!outcome.stdout.is_empty() && outcome.stderr.is_empty(), "{outcome:?}");
    }
}

#[test]
fn without_fuse_it_is_said_what_to_do() {
    can_mount();
    // As an ordinary user without a search path there is no fusermount3; where /dev/fuse is root's alone, that comes
    // first. Both have the same code.
    use std::os::unix::process::CommandExt;
    let fixture = Fixture::new();
    let give = |path: &Path| std::os::unix::fs::chown(path, Some(harness::NOBODY), Some(harness::NOBODY)).unwrap();
    for entry in [&fixture.vault, &fixture.mountpoint, &fixture.passphrase] {
        give(entry);
    }
    let _ = Command::new("chown").arg("-R").arg(harness::NOBODY.to_string()).arg(&fixture.vault).status();
    let mut command = fixture.mount_command(&[]);
    run(command.env("PATH", "/nowhere").uid(harness::NOBODY).gid(harness::NOBODY)).fails(12, "; ");
}

#[test]
fn there_is_nothing_to_seal() {
    let fixture = Fixture::new();
    run(sero().arg("seal").arg(&fixture.vault)).fails(11, "it is sealed already");
    run(sero().arg("unmount").arg(&fixture.mountpoint)).fails(11, "neither a vault nor where one is mounted");
    run(sero().arg("seal").arg("/nowhere")).fails(11, "/nowhere does not exist");
}

#[test]
fn the_daemon_is_not_started_by_hand() {
    run(sero().arg("serve")).fails_quietly();
}

impl harness::Outcome {
    /// The daemon's standard output is its parent's pipe: what it says is a report in JSON.
    #[track_caller]
    fn fails_quietly(self) {
        assert_eq!(self.code, Some(2), "{self:?}");
    }
}

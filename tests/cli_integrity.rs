//! `verify`, `repair`, `salvage`, `ls` and `cat` as commands: what they print, and their exit codes.

#[path = "cli/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{Fixture, Outcome, can_mount, eventually, pattern, run, sero};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A vault with a few files, sealed again.
fn sample() -> Fixture {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let at = |name: &str| fixture.mountpoint.join(name);
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/notes.txt"), "hello\n").unwrap();
    fs::write(at("large"), pattern(2_000_000)).unwrap();
    symlink("folder/notes.txt", at("link")).unwrap();
    symlink("/folder", at("absolute")).unwrap();
    fs::write(at("odd\u{1b}[2J\nname"), "x").unwrap();
    fixture.seal().ok();
    fixture
}

fn with(fixture: &Fixture, command: &str, options: &[&str], paths: &[&str]) -> Outcome {
    run(sero()
        .arg(command)
        .args(options)
        .arg("--password-file")
        .arg(&fixture.passphrase)
        .arg(&fixture.vault)
        .args(paths))
}

fn json_of(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:#?}"))
}

/// The backing file of the largest file.
fn large(fixture: &Fixture) -> PathBuf {
    let entries = fs::read_dir(fixture.vault.join("tree")).unwrap().map(|entry| entry.unwrap());
    entries.max_by_key(|entry| entry.metadata().unwrap().len()).unwrap().path()
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn verify_says_what_is_wrong_and_where() {
    let fixture = sample();
    let outcome = with(&fixture, "verify", &[], &[]).ok();
    assert!(outcome.stdout.contains("nothing is damaged"), "{outcome:?}");
    assert_eq!(outcome.stderr, "");

    flip(&large(&fixture), 4096 * 5 + 9);
    let outcome = with(&fixture, "verify", &[], &[]);
    assert!(
        outcome.stdout.starts_with("damage: /large, bytes 16384 to 20479: the page does not verify"),
        "{outcome:?}"
    );
    outcome.fails(21, "1 finding of damage");
    with(&fixture, "verify", &[], &["folder"]).ok();
    with(&fixture, "verify", &[], &["large"]).fails(21, "damage");
    with(&fixture, "verify", &[], &["nothing"]).fails(1, "/nothing");

    let outcome = with(&fixture, "verify", &["--json", "--jobs", "1"], &[]);
    assert_eq!(outcome.code, Some(21));
    let report = json_of(&outcome);
    assert_eq!((&report["whole"], &report["damaged"], &report["files"]), (&json!(false), &json!(1), &json!(3)));
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["path"], &finding["kind"], &finding["offset"]),
        (&json!("/large"), &json!("page"), &json!(16384))
    );
    assert!(finding["backing"].as_str().unwrap().starts_with("tree/"));
}

#[test]
fn a_mounted_vault_is_verified_by_its_daemon_without_the_passphrase() {
    let fixture = sample();
    fixture.mount(&[]).ok();
    fs::write(fixture.mountpoint.join("new"), pattern(700_000)).unwrap();
    let verify = |arguments: &[&str]| run(sero().args(["verify", "--json"]).arg(&fixture.vault).args(arguments));
    let report = json_of(&verify(&[]).ok());
    assert_eq!((&report["whole"], &report["files"]), (&json!(true), &json!(4)));
    flip(&large(&fixture), 4096 * 5 + 9);
    let outcome = verify(&[]);
    assert_eq!(outcome.code, Some(21), "{outcome:?}");
    assert_eq!(json_of(&outcome)["findings"][0]["path"], "/large");
    verify(&["folder"]).ok();
    verify(&["nothing"]).fails(1, "");
    let by_mountpoint = run(sero().args(["verify", "--json"]).arg(&fixture.mountpoint)).fails(21, "");
    assert_eq!(json_of(&by_mountpoint)["findings"][0]["path"], "/large");
    flip(&large(&fixture), 4096 * 5 + 9);
    fixture.seal().ok();
}

#[test]
fn a_wrong_passphrase_verifies_nothing() {
    let fixture = sample();
    fs::write(&fixture.passphrase, "something else\n").unwrap();
    for command in ["verify", "ls"] {
        with(&fixture, command, &[], &[]).fails(3, "wrong passphrase");
    }
}

#[test]
fn ls_lists_and_cannot_steer_the_terminal() {
    let fixture = sample();
    let lines = |options: &[&str], paths: &[&str]| {
        let outcome = with(&fixture, "ls", options, paths).ok();
        outcome.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&[], &[]), ["absolute", "folder", "large", "link", "odd\\u{1b}[2J\\nname"]);
    assert_eq!(lines(&[], &["folder"]), ["notes.txt"]);
    assert_eq!(
        lines(&["-R"], &[]),
        ["absolute", "folder", "large", "link", "odd\\u{1b}[2J\\nname", "folder/notes.txt"]
    );
    let long = lines(&["-l"], &["large", "link"]);
    assert!(
        long[0].starts_with("-rw-r--r--") && long[0].contains(" 2000000 ") && long[0].ends_with(" large"),
        "{long:?}"
    );
    assert!(long[1].starts_with("lrwxrwxrwx") && long[1].ends_with("link -> folder/notes.txt"), "{long:?}");
    assert_eq!(with(&fixture, "ls", &["-0"], &[]).ok().stdout.split('\0').nth(4), Some("odd\u{1b}[2J\nname"));
    let outcome = with(&fixture, "ls", &["--json", "-R"], &[]).ok();
    let objects: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 6);
    assert_eq!((&objects[2]["path"], &objects[2]["size"]), (&json!("/large"), &json!(2_000_000)));
    assert_eq!(objects[3]["target"], "folder/notes.txt");
    with(&fixture, "ls", &[], &["nothing"]).fails(1, "there is no such file");
}

#[test]
fn cat_streams_follows_links_and_stops_at_damage() {
    let fixture = sample();
    let cat = |paths: &[&str]| {
        let mut command = sero();
        command.arg("cat").arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault).args(paths);
        command.output().unwrap()
    };
    assert_eq!(cat(&["link", "absolute/notes.txt"]).stdout, b"hello\nhello\n");
    assert_eq!(cat(&["large"]).stdout, pattern(2_000_000));
    with(&fixture, "cat", &[], &["folder"]).fails(1, "this is a directory");
    with(&fixture, "cat", &[], &["nothing"]).fails(1, "there is no such file");
    with(&fixture, "cat", &[], &["large/x"]).fails(1, "no directory");

    // A reader that has enough ends it, in silence.
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" cat --password-file \"$1\" \"$2\" large | head -c 10 | wc -c"]);
    command.arg(env!("CARGO_BIN_EXE_sero")).arg(&fixture.passphrase).arg(&fixture.vault).stderr(Stdio::piped());
    let outcome = command.output().unwrap();
    assert_eq!((outcome.stdout.trim_ascii(), outcome.stderr.as_slice()), (b"10".as_slice(), b"".as_slice()));

    flip(&large(&fixture), 4096 * 300);
    let outcome = cat(&["large"]);
    assert_eq!(outcome.status.code(), Some(8));
    // Block 300 is page 296: up to there everything came out.
    assert_eq!(outcome.stdout, pattern(2_000_000)[..296 * 4096]);
}

#[test]
fn reading_without_a_mount_leaves_a_mounted_vault_alone() {
    let fixture = sample();
    fixture.mount(&[]).ok();
    let place = fixture.mountpoint.display();
    with(&fixture, "ls", &[], &[]).fails(6, &format!("already mounted on {place}"));
    with(&fixture, "cat", &[], &["large"]).fails(6, "use it there");
    // The mountpoint names the vault, too.
    run(sero().arg("ls").arg(&fixture.mountpoint)).fails(6, &format!("already mounted on {place}"));
    fixture.seal().ok();
}

#[test]
fn salvage_copies_what_opens_and_says_what_does_not() {
    let fixture = sample();
    let out = fixture.folder.path().join("out");
    with(&fixture, "salvage", &[], &[fixture.vault.join("inside").to_str().unwrap()]).fails(2, "lies in the vault");
    let outcome = with(&fixture, "salvage", &[], &[out.to_str().unwrap()]).ok();
    assert!(outcome.stdout.contains("copied 3 files"), "{outcome:?}");
    assert_eq!(fs::read(out.join("large")).unwrap(), pattern(2_000_000));
    with(&fixture, "salvage", &[], &[out.to_str().unwrap()]).fails(15, "not empty");

    flip(&large(&fixture), 4096 * 5 + 9);
    let again = fixture.folder.path().join("again");
    let outcome = with(&fixture, "salvage", &["--json"], &[again.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(21), "{outcome:?}");
    let loss = &json_of(&outcome)["losses"][0];
    assert_eq!((&loss["path"], &loss["offset"], &loss["length"]), (&json!("/large"), &json!(16384), &json!(4096)));
    assert_eq!(loss["destination"], json!(again.join("large")));
}

#[test]
fn repair_shows_asks_and_mends() {
    let fixture = sample();
    let outcome = with(&fixture, "repair", &["--yes"], &[]).ok();
    assert!(outcome.stdout.contains("nothing to repair"), "{outcome:?}");

    let path = large(&fixture);
    flip(&path, 4096 * 5 + 9);
    let before = fs::read(&path).unwrap();
    // Without consent nothing happens, neither to holes nor at all.
    with(&fixture, "repair", &[], &[]).fails(21, "--holes");
    with(&fixture, "repair", &["--holes"], &[]).fails(2, "--yes");
    let outcome = with(&fixture, "repair", &["--holes", "--dry-run"], &[]);
    assert!(outcome.stdout.starts_with("/large: make holes of 4096 bytes"), "{outcome:?}");
    outcome.fails(21, "1 repair to do; give --yes instead of --dry-run to do it");
    assert!(fs::read(&path).unwrap() == before);

    let report = json_of(&with(&fixture, "repair", &["--holes", "--yes", "--json"], &[]).ok());
    assert_eq!((&report["done"][0]["path"], &report["left"]), (&json!("/large"), &json!([])));
    with(&fixture, "verify", &[], &[]).ok();
    fixture.mount(&[]).ok();
    let mut expected = pattern(2_000_000);
    expected[16384..20480].fill(0);
    assert!(fs::read(fixture.mountpoint.join("large")).unwrap() == expected);
    with(&fixture, "repair", &["--yes"], &[]).fails(6, "already mounted");
    fixture.seal().ok();
}

/// A configuration from before a rotation opens nothing of what came after: none of it is damaged, and none is touched.
#[test]
fn repair_with_an_old_configuration_changes_nothing() {
    let fixture = sample();
    let configuration = fixture.vault.join("sero.json");
    let old = fs::read(&configuration).unwrap();
    with(&fixture, "rotate", &[], &[]).ok();
    let new = fs::read(&configuration).unwrap();
    fixture.mount(&[]).ok();
    let large = fs::OpenOptions::new().write(true).open(fixture.mountpoint.join("large")).unwrap();
    large.write_all_at(b"synced", 100_000).unwrap();
    large.sync_all().unwrap();
    drop(large);
    fixture.signal(Signal::KILL);
    eventually("it is cleaned up", || run(sero().arg("seal").arg(&fixture.mountpoint)).code == Some(0));
    let listed = || {
        let found = run(Command::new("find").arg(&fixture.vault).args(["-printf", "%p %s %T@\n"])).ok().stdout;
        found
            .lines()
            .filter(|line| !line.contains("/private ") && !line.contains("/lock "))
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    fs::write(&configuration, &old).unwrap();
    let before = listed();
    with(&fixture, "repair", &["--yes"], &[]).fails(8, "older than the last rotation");
    assert_eq!(before, listed());
    fs::write(&configuration, &new).unwrap();
    fixture.mount(&[]).ok();
    let found = fs::read(fixture.mountpoint.join("large")).unwrap();
    assert_eq!(found.get(100_000..100_006), Some(&b"synced"[..]));
    fixture.seal().ok();
}

/// What the destination does not take is missed there; the rest is copied.
#[test]
fn salvage_goes_on_after_what_the_destination_does_not_take() {
    let fixture = sample();
    fixture.mount(&[]).ok();
    // A path that is too long where it is copied to.
    let deep = "for i in $(seq 25); do mkdir $(printf 'd%.0s' $(seq 180)) && cd d*; done; echo x >file";
    run(Command::new("bash").args(["-c", deep]).current_dir(&fixture.mountpoint)).ok();
    fixture.seal().ok();
    let saved = fixture.folder.path().join("saved");
    let outcome = with(&fixture, "salvage", &[], &[saved.to_str().unwrap()]);
    assert!(outcome.code == Some(21) && outcome.stdout.contains("File name too long"), "{outcome:?}");
    assert_eq!(fs::read(saved.join("large")).unwrap(), pattern(2_000_000));
    assert_eq!(fs::read_to_string(saved.join("folder/notes.txt")).unwrap(), "hello\n");
    run(Command::new("rm").arg("-rf").arg(&saved)).ok();
}

//! `sero import`: everything of a tree arrives, nothing that is there is lost, and what was stopped goes on.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{Fixture, can_mount, end_of, eventually, pattern, run, sero};

fn import(fixture: &Fixture, options: &[&str]) -> Command {
    let mut command = sero();
    command.arg("import").args(options).arg("--password-file").arg(&fixture.passphrase);
    command.arg(source(fixture)).arg(&fixture.vault);
    command
}

fn source(fixture: &Fixture) -> PathBuf {
    fixture.folder.path().join("source")
}

/// Directories, files of every form, links, special files, attributes.
fn make_source(fixture: &Fixture) -> PathBuf {
    let source = source(fixture);
    fs::create_dir_all(source.join("deep/er/still")).unwrap();
    fs::write(source.join("small"), "a few bytes").unwrap();
    fs::write(source.join("empty"), "").unwrap();
    fs::write(source.join("deep/large"), pattern(3_000_001)).unwrap();
    fs::write(source.join("x".repeat(255)), "long name").unwrap();
    fs::hard_link(source.join("small"), source.join("deep/er/twin")).unwrap();
    symlink("../nowhere", source.join("deep/link")).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    sparse.write_all_at(b"end", 50_000_000).unwrap();
    let outcome = run(Command::new("sh").current_dir(&source).args([
        "-ec",
        "mkfifo pipe; chmod 2750 deep; chmod 4711 small; touch -d 1969-05-05T05:05:05.5 empty
         setfattr -n user.colour -v green small; setfacl -m u:nobody:r deep/large; setfacl -d -m g:nogroup:rx deep
         chown nobody:nogroup deep/er",
    ]));
    outcome.ok();
    source
}

/// What `find`, `stat`, `getfattr`, `getfacl` and `md5sum` say of a tree.
fn listing(place: &Path) -> String {
    run(Command::new("sh").current_dir(place).args([
        "-ec",
        "find . -mindepth 1 -printf '%p %y %m %U %G %l %n ' \\( -type d -printf '%T@\\n' -o -printf '%s %T@\\n' \\) | sort
         find . -type f -exec md5sum {} + | sort -k2
         find . -mindepth 1 \\( -type f -o -type d \\) | sort | while read -r it; do getfattr -d -m '^user' \"$it\"; getfacl -p -n \"$it\"; done",
    ]))
    .ok()
    .stdout
}

#[test]
fn everything_of_a_tree_arrives() {
    can_mount();
    let fixture = Fixture::new();
    let source = make_source(&fixture);
    let outcome = run(&mut import(&fixture, &["--into", "a/b"])).ok();
    assert!(outcome.stdout.contains("compared with the source: equal"), "{outcome:?}");
    assert_eq!(fixture.info()["sealed"], true);
    fixture.mount(&[]).ok();
    let copy = fixture.mountpoint.join("a/b");
    assert_eq!(listing(&copy), listing(&source));
    let blocks = fs::metadata(copy.join("sparse")).unwrap().blocks();
    assert!(blocks < 1000, "a sparse file takes {blocks} blocks");
    fixture.seal().ok();
}

#[test]
fn the_same_import_again_copies_nothing_and_finds_all_equal() {
    let fixture = Fixture::new();
    make_source(&fixture);
    run(&mut import(&fixture, &[])).ok();
    let again = run(&mut import(&fixture, &[])).ok().stdout;
    assert!(
        again.contains(" 0 files and 0 bytes copied") || again.starts_with("0 files and 0 bytes copied"),
        "{again}"
    );
    assert!(again.contains("compared with the source: equal"), "{again}");
}

#[test]
fn what_is_there_and_differs_stays_unless_it_is_to_be_replaced() {
    let fixture = Fixture::new();
    let source = make_source(&fixture);
    run(&mut import(&fixture, &[])).ok();
    fs::write(source.join("small"), "other bytes").unwrap();
    let outcome = run(&mut import(&fixture, &[])).fails(1, "--replace");
    // "small" has a second name, which is a problem of its own.
    assert!(outcome.stderr.contains("2 problems, see above"), "{outcome:?}");
    assert_eq!(outcome.stderr.matches("/small: ").count(), 1, "{outcome:?}");
    run(&mut import(&fixture, &["--replace"])).ok();
    run(&mut import(&fixture, &[])).ok();
}

#[test]
fn a_file_with_the_same_size_and_time_and_other_bytes_is_noticed() {
    let fixture = Fixture::new();
    let source = make_source(&fixture);
    run(&mut import(&fixture, &[])).ok();
    let path = source.join("deep/large");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"!", 1_000_000).unwrap();
    file.set_modified(modified).unwrap();
    run(&mut import(&fixture, &[])).fails(1, "differs");
}

#[test]
fn stopped_it_leaves_whole_files_and_goes_on() {
    let fixture = Fixture::new();
    let source = source(&fixture);
    fs::create_dir(&source).unwrap();
    for number in 0..2000 {
        fs::write(source.join(format!("file {number}")), pattern(10_000)).unwrap();
    }
    let mut child = import(&fixture, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let tree = fixture.vault.join("tree");
    eventually("files appear", || fs::read_dir(&tree).is_ok_and(|entries| entries.count() > 5));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(end_of(&mut child).code(), Some(1));
    assert_eq!(fixture.info()["sealed"], true);
    let rest = run(&mut import(&fixture, &[])).ok().stdout;
    assert!(rest.contains("were there already"), "{rest}");
    assert!(rest.contains("2000 compared"), "{rest}");
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_copied() {
    let fixture = Fixture::new();
    let source = source(&fixture);
    fs::create_dir(&source).unwrap();
    fs::write(source.join("good"), "good").unwrap();
    // Longer than a name may be in the vault: none; a socket that nobody can copy: none. A directory in the way is.
    fs::write(source.join("taken"), "file").unwrap();
    run(&mut import(&fixture, &[])).ok();
    fs::remove_file(source.join("taken")).unwrap();
    fs::create_dir(source.join("taken")).unwrap();
    fs::write(source.join("later"), "later").unwrap();
    let outcome = run(&mut import(&fixture, &[]));
    assert!(outcome.stderr.contains("taken"), "{outcome:?}");
    outcome.fails(1, "1 problem, see above");
    fs::remove_dir(source.join("taken")).unwrap();
    let rest = run(&mut import(&fixture, &[])).ok().stdout;
    assert!(rest.contains("2 files were there already"), "{rest}");
}

#[test]
fn mistakes_are_found_before_the_passphrase_is_asked_for() {
    let fixture = Fixture::new();
    let source = source(&fixture);
    run(&mut import(&fixture, &[])).fails(1, "give a directory");
    fs::write(&source, "a file").unwrap();
    run(&mut import(&fixture, &[])).fails(2, "is not a directory");
    fs::remove_file(&source).unwrap();
    fs::create_dir(&source).unwrap();
    run(&mut import(&fixture, &["--into", "../out"])).fails(2, "..");
    let mut around = sero();
    around.arg("import").arg("--password-file").arg(&fixture.passphrase).arg(fixture.folder.path()).arg(&fixture.vault);
    run(&mut around).fails(2, "holds the vault");
}

#[test]
fn a_mounted_vault_is_not_imported_into() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fs::create_dir(source(&fixture)).unwrap();
    run(&mut import(&fixture, &[])).fails(6, "mounted");
    fixture.seal().ok();
}

#[test]
fn permissions_of_the_source_do_not_open_the_vault() {
    let fixture = Fixture::new();
    let source = source(&fixture);
    fs::create_dir(&source).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o777)).unwrap();
    run(&mut import(&fixture, &[])).ok();
    let mode = fs::metadata(fixture.vault.join("tree")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700);
}

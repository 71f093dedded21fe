//! `sero import`: everything of a tree arrives, nothing that is there is lost, and what was stopped goes on.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::{Fixture, Outcome, can_mount, end_of, eventually, pattern, run, sero};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

fn import(fixture: &Fixture, options: &[&str]) -> Command {
    import_of(&source(fixture), fixture, options)
}

fn import_of(source: &Path, fixture: &Fixture, options: &[&str]) -> Command {
    let mut command = sero();
    command.arg("import").args(options).arg("--password-file").arg(&fixture.passphrase);
    command.arg(source).arg(&fixture.vault);
    command
}

/// Runs a script in the test's own directory: `source` and others are made there.
#[track_caller]
fn prepare(fixture: &Fixture, script: &str) {
    run(Command::new("sh").current_dir(fixture.folder.path()).args(["-ec", script])).ok();
}

/// A command that looks into the vault.
#[track_caller]
fn look(fixture: &Fixture, command: &[&str], path: &str) -> Outcome {
    run(sero().args(command).arg("--password-file").arg(&fixture.passphrase).arg(&fixture.vault).arg(path)).ok()
}

#[track_caller]
fn cat(fixture: &Fixture, path: &str) -> String {
    look(fixture, &["cat"], path).stdout
}

/// An import that is under way. Ends with the test.
struct Running(Child);

impl Running {
    fn start(fixture: &Fixture) -> Self {
        Self(import(fixture, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Stops it as soon as it has this open, and something else is so.
    fn stop_at(&self, path: &Path, mut is_so: impl FnMut() -> bool) {
        let handles = format!("/proc/{}/fd", self.0.id());
        eventually("the import comes to it", || {
            let mut handles = fs::read_dir(&handles).unwrap().flatten();
            is_so() && handles.any(|handle| fs::read_link(handle.path()).is_ok_and(|target| target == path))
        });
        self.signal(Signal::STOP);
    }

    #[track_caller]
    fn end(mut self) -> Outcome {
        self.signal(Signal::CONT);
        let code = end_of(&mut self.0).code();
        let text = |pipe: &mut dyn std::io::Read| {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        };
        let stdout = text(self.0.stdout.as_mut().unwrap());
        Outcome { code, stdout, stderr: text(self.0.stderr.as_mut().unwrap()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Files of the vault's backing of so many bytes.
fn backing_files(fixture: &Fixture, size: &str) -> usize {
    let find = run(Command::new("find").arg(fixture.vault.join("tree")).args(["-type", "f", "-size", size]));
    // Its exit code says that some went while it looked.
    find.stdout.lines().count()
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
    assert!(outcome.stdout.starts_with("6 files and "), "{outcome:?}");
    assert!(outcome.stdout.contains(", 6 compared with the source: equal"), "{outcome:?}");
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
fn stopped_or_killed_it_leaves_whole_files_and_goes_on() {
    can_mount();
    for signal in [Signal::INT, Signal::KILL] {
        let fixture = Fixture::new();
        let below = source(&fixture).join("deep/er");
        fs::create_dir_all(&below).unwrap();
        for number in 0..3000 {
            fs::write(below.join(format!("file {number}")), pattern(10_000)).unwrap();
        }
        prepare(&fixture, "chmod 2751 source/deep/er; touch -d 2001-01-01T01:01:01.5 source/deep/er source/deep");
        let mut import_under_way = Running::start(&fixture);
        eventually("files appear", || backing_files(&fixture, "+9k") > 5);
        import_under_way.signal(signal);
        let code = end_of(&mut import_under_way.0).code();
        assert_eq!(code, (signal == Signal::INT).then_some(1));
        assert_eq!(fixture.info()["sealed"], signal == Signal::INT);
        let rest = run(&mut import(&fixture, &[])).ok().stdout;
        assert!(rest.contains("were there already"), "{rest}");
        assert!(rest.contains("3000 compared"), "{rest}");
        fixture.mount(&[]).ok();
        assert_eq!(listing(&fixture.mountpoint), listing(&source(&fixture)));
        fixture.seal().ok();
    }
}

/// Times are equal where an archive sets them, or a filesystem keeps them roughly.
#[test]
fn with_the_same_time_other_content_stays_and_a_beginning_goes_on() {
    let fixture = Fixture::new();
    prepare(
        &fixture,
        "mkdir old source; printf 'precious old content' >old/shorter; printf 'pre' >old/longer
         printf new >source/shorter; printf 'prefix' >source/longer; printf 'old' >old/as-long; printf new >source/as-long
         touch -d @1 old/* source/*; touch -d @2 source/as-long",
    );
    run(&mut import_of(&fixture.folder.path().join("old"), &fixture, &[])).ok();
    let outcome = run(&mut import(&fixture, &[])).fails(1, "2 problems, see above");
    assert_eq!(outcome.stderr.matches("`--replace` replaces it").count(), 2, "{outcome:?}");
    assert_eq!(cat(&fixture, "shorter"), "precious old content");
    assert_eq!(cat(&fixture, "as-long"), "old");
    assert_eq!(cat(&fixture, "longer"), "prefix");
    run(&mut import(&fixture, &["--replace"])).ok();
    assert_eq!(cat(&fixture, "shorter"), "new");
}

#[test]
fn a_directory_that_was_there_keeps_its_own_attributes() {
    can_mount();
    let fixture = Fixture::new();
    prepare(
        &fixture,
        "mkdir -p old/mine source/mine old/ours; chmod 700 old/mine; setfattr -n user.keep -v it old/mine
         chmod 777 source/mine; setfattr -n user.keep -v other source/mine; echo new >source/mine/file
         cp -a old/ours source; echo new >source/ours/file; touch -d @5 old/ours source/ours",
    );
    run(&mut import_of(&fixture.folder.path().join("old"), &fixture, &[])).ok();
    let looked_at = |options: &[&str]| {
        run(&mut import(&fixture, options)).ok();
        fixture.mount(&[]).ok();
        let it = fixture.mountpoint.join("mine");
        let looked_at = run(Command::new("sh")
            .current_dir(it)
            .args(["-ec", "stat -c %a .; getfattr --only-values -n user.keep .; cat file; stat -c %Y ../ours"]));
        fixture.seal().ok();
        looked_at.ok().stdout
    };
    assert_eq!(looked_at(&[]), "700\nitnew\n5\n");
    assert_eq!(looked_at(&["--replace"]), "777\nothernew\n5\n");
}

#[test]
fn what_changes_place_during_the_import_is_not_followed_waited_for_or_missed() {
    let fixture = Fixture::new();
    let source = source(&fixture);
    prepare(
        &fixture,
        "mkdir -p source/b secret; echo inside >source/b/file; echo secret >secret/secret; echo >source/c; echo >source/d
         head -c 256M /dev/zero >source/a",
    );
    let import_under_way = Running::start(&fixture);
    import_under_way.stop_at(&source.join("a"), || true);
    prepare(&fixture, "mv source/b moved; ln -s ../secret source/b; rm source/c source/d; mkfifo source/c");
    let outcome = import_under_way.end().ok();
    assert!(outcome.stdout.starts_with("1 file and "), "{outcome:?}");
    assert_eq!(look(&fixture, &["ls", "--recursive"], "/").stdout, "a\nb\nc\n");
}

#[test]
fn what_goes_away_before_it_is_compared_is_a_problem() {
    let fixture = Fixture::new();
    let source = source(&fixture);
    fs::create_dir_all(source.join("z/deep")).unwrap();
    fs::write(source.join("z/deep/file"), pattern(300_000)).unwrap();
    fs::write(source.join("z/pipe"), "not yet").unwrap();
    // Copied in a moment, and read for minutes.
    let long = fs::File::create(source.join("long")).unwrap();
    long.set_len(100 << 30).unwrap();
    let import_under_way = Running::start(&fixture);
    import_under_way.stop_at(&source.join("long"), || backing_files(&fixture, "+290k") > 1);
    prepare(&fixture, "mv source/z/deep elsewhere; rm source/z/pipe; mkfifo source/z/pipe");
    long.set_len(0).unwrap();
    let outcome = import_under_way.end().fails(1, "3 problems, see above");
    for name in ["/z/deep/file: No such file", "/z/pipe: it changed", "/long: the file in the vault differs"] {
        assert!(outcome.stderr.contains(name), "{outcome:?}");
    }
}

#[test]
fn each_name_of_a_file_is_compared() {
    let fixture = Fixture::new();
    prepare(&fixture, "mkdir source; printf one >source/a; printf two >source/b; touch -d @1 source/a source/b");
    run(&mut import(&fixture, &[])).ok();
    prepare(&fixture, "ln -f source/a source/b");
    let outcome = run(&mut import(&fixture, &[])).fails(1, "1 problem, see above");
    assert!(outcome.stderr.contains("/source/b: the file in the vault differs"), "{outcome:?}");
}

/// A disk that keeps whole seconds, and 1 KiB of extended attributes for a file.
struct OldDisk(tempfile::TempDir);

impl OldDisk {
    fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        run(Command::new("sh").current_dir(disk.0.path()).args([
            "-ec",
            "truncate -s 64M image; mkfs.ext4 -q -F -m 0 -b 1024 -I 128 image; mkdir disk; mount -o loop image disk",
        ]))
        .ok();
        disk
    }

    fn path(&self) -> PathBuf {
        fs::canonicalize(self.0.path()).unwrap().join("disk")
    }
}

impl Drop for OldDisk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn where_times_are_kept_roughly_it_goes_on_all_the_same() {
    can_mount();
    let disk = OldDisk::new();
    let fixture = Fixture::with_vault_in(&disk.path());
    prepare(
        &fixture,
        "mkdir -p source/in; echo 1 >source/one; echo 2 >source/in/two; touch -d @1.5 source/one source/in/two",
    );
    run(&mut import(&fixture, &[])).ok();
    prepare(&fixture, "echo 3 >source/three");
    let again = run(&mut import(&fixture, &[])).ok().stdout;
    assert!(again.starts_with("1 file and 2 bytes copied"), "{again}");
    assert!(again.contains("2 files were there already, 3 compared with the source: equal"), "{again}");
}

#[test]
fn attributes_that_do_not_fit_are_the_problem_of_their_file_alone() {
    can_mount();
    let disk = OldDisk::new();
    let fixture = Fixture::with_vault_in(&disk.path());
    prepare(
        &fixture,
        "mkdir -p source/dir; cd source; echo good >after; echo too much >a; echo good >dir/in; touch -d @1 dir/in; mkfifo b
         value=$(head -c 2000 /dev/zero | tr '\\0' v)
         for name in a dir; do setfattr -n user.large -v $value $name; done; setfattr -n trusted.large -v $value b",
    );
    let outcome = run(&mut import(&fixture, &[])).fails(1, "3 problems, see above");
    assert_eq!(outcome.stderr.matches("its attributes cannot be kept in the vault").count(), 3, "{outcome:?}");
    assert_eq!(look(&fixture, &["ls", "--recursive"], "/").stdout, "after\ndir\ndir/in\n");
    // What is mended is brought, a directory's attributes too.
    prepare(
        &fixture,
        "cd source; setfattr -x user.large a; setfattr -n user.large -v short dir; setfattr -x trusted.large b",
    );
    run(&mut import(&fixture, &[])).ok();
    fixture.mount(&[]).ok();
    assert_eq!(listing(&fixture.mountpoint.join("dir")), listing(&source(&fixture).join("dir")));
    let value =
        run(Command::new("getfattr").args(["--only-values", "-n", "user.large"]).arg(fixture.mountpoint.join("dir")));
    assert_eq!(value.ok().stdout, "short");
    fixture.seal().ok();
}

#[test]
fn names_like_those_of_the_import_are_in_nobodys_way() {
    let fixture = Fixture::new();
    prepare(
        &fixture,
        "mkdir -p old/.sero-import-0123456789abcdef.d old/in source/.sero-import source/in; cd old
         echo mine >.sero-import; echo rest >in/.sero-import-0123456789abcdef; mkfifo in/.sero-import-0123456789abcdee
         echo mine >in/.sero-import-0123456789abcdeg; cd ..; echo 1 >source/.sero-import/1; echo 2 >source/in/.sero-import; echo 3 >source/in/3",
    );
    run(&mut import_of(&fixture.folder.path().join("old"), &fixture, &[])).ok();
    run(&mut import(&fixture, &["--into", "in"])).ok();
    let names = look(&fixture, &["ls", "--recursive"], "/").stdout;
    let expected = "\
.sero-import
.sero-import-0123456789abcdef.d
in
in/.sero-import
in/.sero-import-0123456789abcdee
in/.sero-import-0123456789abcdeg
in/in
in/.sero-import/1
in/in/.sero-import
in/in/3
";
    assert_eq!(names, expected);
}

#[test]
fn names_in_problems_do_not_steer_the_terminal() {
    let fixture = Fixture::new();
    let name = "a\u{1b}[2J";
    fs::create_dir(source(&fixture)).unwrap();
    fs::write(source(&fixture).join(name), "old").unwrap();
    run(&mut import(&fixture, &[])).ok();
    fs::write(source(&fixture).join(name), "other").unwrap();
    run(&mut import(&fixture, &[])).fails(1, "/a\\u{1b}[2J: something else");
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

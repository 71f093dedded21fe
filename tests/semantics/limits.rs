//! Limits: of sizes, numbers, and what the daemon itself may use.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::harness::{Fixture, pattern};
use crate::{needs_mount, new_file};

/// > Files have up to about 128 TiB, where the filesystem under the vault takes them; a sparse file of 8 TiB costs what its data cost.
#[test]
fn very_large_files() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let path = fixture.mountpoint.join("file");
    let file = new_file(&path);
    let end = 8_u64 << 40;
    for at in [0, 1 << 40, (5 << 40) + 12_345, end - 10_000] {
        file.write_all_at(&pattern(10_000), at).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), end);
    assert!(file.metadata().unwrap().blocks() < 4096, "{} blocks", file.metadata().unwrap().blocks());
    let mut bytes = vec![0; 10_000];
    for at in [0, 1 << 40, (5 << 40) + 12_345, end - 10_000] {
        file.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes == pattern(10_000), "at {at}");
    }
    file.read_exact_at(&mut bytes, 3 << 40).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    // Cut, grown and removed, without a walk over all that is not there.
    file.set_len(2 << 40).unwrap();
    file.set_len(7 << 40).unwrap();
    file.read_exact_at(&mut bytes, (5 << 40) + 12_345).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    drop(file);
    fs::remove_file(&path).unwrap();
    // Beyond what anything can have: an error, and nothing lost.
    let file = new_file(&path);
    file.write_all_at(b"kept", 0).unwrap();
    assert!(file.set_len(i64::MAX as u64).is_err());
    assert_eq!(file.metadata().unwrap().len(), 4);
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"kept");
}

/// > The daemon holds a descriptor for each open file and a bounded number besides: thousands of known files and directories cost none.
#[test]
fn descriptors() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let descriptors = || {
        let folder = format!("/proc/{}/fd", fixture.daemon().as_raw_nonzero());
        fs::read_dir(folder).unwrap().count()
    };
    for folder in 0..60 {
        let folder = fixture.mountpoint.join(format!("folder {folder}"));
        fs::create_dir(&folder).unwrap();
        for file in 0..30 {
            fs::write(folder.join(format!("file {file}")), "x").unwrap();
        }
    }
    let before = descriptors();
    let open: Vec<File> = (0..900)
        .map(|index| File::open(fixture.mountpoint.join(format!("folder {}/file {}", index / 30, index % 30))).unwrap())
        .collect();
    let during = descriptors();
    // Before, some that were closed may not have been released yet.
    assert!((900..=before + 900 + 64).contains(&during), "{before}, with 900 open files {during}");
    drop(open);
    crate::harness::eventually("closed", || descriptors() <= before + 16);
}

/// > What a process may have open it may have open here; at the daemon's own limit of open files the caller gets EMFILE or ENFILE, and all goes on when some are closed.
#[test]
fn the_limit_of_open_files() {
    needs_mount!();
    let fixture = Fixture::mounted(&[]);
    let pid = fixture.daemon();
    let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap();
    let row = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(fields[3], fields[4], "the daemon takes all that it may have: {row}");
    for index in 0..400 {
        fs::write(fixture.mountpoint.join(format!("{index}")), format!("{index}")).unwrap();
    }
    let limited = rustix::process::Rlimit { current: Some(200), maximum: Some(200) };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, limited).unwrap();
    let (mut open, mut undone) = (Vec::new(), Vec::new());
    let refused = (0..400).find_map(|index| match File::open(fixture.mountpoint.join(format!("{index}"))) {
        Ok(file) => {
            open.push(file);
            None
        }
        Err(error) => error.raw_os_error(),
    });
    assert!(matches!(refused, Some(libc::EMFILE | libc::ENFILE)), "{refused:?} after {} files", open.len());
    // What cannot be made is not there, whatever it would be called.
    let target = "t".repeat(3000);
    for name in ["folder".to_owned(), "long".repeat(50)] {
        let made = |what: &str| fixture.mountpoint.join(format!("{what} {name}"));
        let outcomes = [
            fs::create_dir(made("mkdir")).map_err(|_| made("mkdir")),
            std::os::unix::fs::symlink(&target, made("symlink")).map_err(|_| made("symlink")),
            fs::hard_link(fixture.mountpoint.join("0"), made("link")).map_err(|_| made("link")),
        ];
        undone.extend(outcomes.into_iter().filter_map(Result::err));
    }
    // Those that are open work on, and are not lost.
    for (index, file) in open.iter().enumerate() {
        let mut bytes = [0; 8];
        let len = file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..len], format!("{index}").as_bytes());
    }
    drop(open);
    crate::harness::eventually("room again", || fs::read(fixture.mountpoint.join("399")).is_ok());
    fs::write(fixture.mountpoint.join("new"), "x").unwrap();
    let listed = fs::read_dir(&fixture.mountpoint).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    for path in undone {
        assert!(!listed.contains(&path) && fs::symlink_metadata(&path).is_err(), "{} is there", path.display());
        fs::create_dir(&path).unwrap();
    }
    fixture.seal().ok();
    let verified = ["verify", "--password-file", fixture.passphrase.to_str().unwrap(), fixture.vault.to_str().unwrap()];
    crate::harness::run(crate::harness::sero().args(verified)).ok();
    fixture.mount(&[]).ok();
    assert_eq!(fs::read(fixture.mountpoint.join("new")).unwrap(), b"x");
}

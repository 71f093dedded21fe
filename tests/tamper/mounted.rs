//! Attacks while the vault is open, in the library and through the kernel. What is in memory was verified, and is
//! served; everything that is read from the backing is verified when it is.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use log::Level;
use sero::format::geometry::{PageIndex, page_block};
use sero::vault::{Mode, VaultError};

use super::harness::{Fixture, can_mount, pattern};
use super::specimen::{PAGE, Specimen, entry_of_inode, logged, open, write_pages};

fn overwrite(home: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(home).unwrap().write_all_at(bytes, at).unwrap();
}

fn offset(page: u64) -> u64 {
    page_block(PageIndex(page)).offset_bytes()
}

#[test]
fn an_open_file_notices_what_is_done_to_its_home() {
    let specimen = Specimen::new();
    let victim = specimen.victim(b"two levels");
    let vault = open(&specimen.vault, Mode::ReadWrite);
    let file = vault.root().open_file(&victim.name).unwrap();
    let mut page = [0; PAGE];
    // Root and header are in memory, the nodes below are not.
    overwrite(&victim.home, 0, &[0; PAGE]);
    overwrite(&victim.home, offset(1), &[0; 512]);
    overwrite(&victim.home, 249 * PAGE as u64, &[0; 512]);
    let ((), lines) = logged(Level::Warn, || {
        for _ in 0..3 {
            for (at, good) in [(0, true), (1, false), (2, true), (120, true), (247, false), (375, false)] {
                let read = file.read(at * PAGE as u64, &mut page);
                assert_eq!(read.is_ok(), good, "page {at}");
                if good {
                    assert_eq!(page, victim.new.0.bytes[at as usize * PAGE..][..PAGE]);
                }
            }
        }
    });
    assert_eq!(lines.len(), 2, "one line for the page, one for the node: {lines:?}");
    OpenOptions::new().write(true).open(&victim.home).unwrap().set_len(120 * PAGE as u64).unwrap();
    assert!(matches!(file.read(offset(125), &mut page), Err(VaultError::Integrity(_))), "cut off");
    // The others are not concerned.
    vault.root().open_file(b"tree").unwrap().read(0, &mut page).unwrap();
    drop(file);
    // Its damaged home is not taken for what it was when it is opened again.
    assert!(vault.root().open_file(&victim.name).is_err());
}

#[test]
fn the_journal_in_use_is_verified_like_a_home() {
    let specimen = Specimen::new();
    let vault = open(&specimen.vault, Mode::ReadWrite);
    let victim = specimen.victim(b"tree");
    let file = vault.root().open_file(&victim.name).unwrap();
    let mut content = victim.new.0.clone();
    write_pages(&file, &mut content, &[4], 9);
    file.sync().unwrap();
    let mut page = [0; PAGE];
    file.read(4 * PAGE as u64, &mut page).unwrap();
    assert_eq!(page, content.bytes[4 * PAGE..5 * PAGE]);
    let journal = specimen.vault.join("private/journal.0");
    overwrite(&journal, PAGE as u64, &[0; 16 * PAGE]);
    assert!(matches!(file.read(4 * PAGE as u64, &mut page), Err(VaultError::Integrity(_))));
    file.read(5 * PAGE as u64, &mut page).unwrap();
    OpenOptions::new().write(true).open(&journal).unwrap().set_len(PAGE as u64).unwrap();
    assert!(matches!(file.read(4 * PAGE as u64, &mut page), Err(VaultError::Integrity(_))));
    assert!(!vault.is_read_only(), "one bad page is not the vault");
}

/// A mounted vault with a file of 300 pages, committed and forgotten by the daemon.
fn mounted(name: &str) -> (Fixture, PathBuf) {
    let fixture = Fixture::mounted(&[]);
    fs::write(fixture.mountpoint.join(name), pattern(300 * PAGE)).unwrap();
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let ino = fs::metadata(fixture.mountpoint.join(name)).unwrap().ino();
    let tree = fixture.vault.join("tree");
    let home = fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
        let about = fs::symlink_metadata(path).unwrap();
        about.is_file() && (about.ino() == ino || about.len() > 300 * PAGE as u64)
    });
    (fixture, home.unwrap())
}

fn errno<T>(outcome: std::io::Result<T>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

#[test]
fn through_the_kernel_a_bad_page_is_an_error_and_the_only_one() {
    can_mount();
    let (fixture, home) = mounted("file");
    let path = fixture.mountpoint.join("file");
    let expected = pattern(300 * PAGE);
    for page in [57, 250] {
        overwrite(&home, offset(page), &[0; PAGE]);
    }
    for round in 0..2 {
        let file = fs::File::open(&path).unwrap();
        for page in 0..300 {
            let mut bytes = [0; PAGE];
            let read = file.read_exact_at(&mut bytes, page * PAGE as u64);
            if [57, 250].contains(&page) {
                assert_eq!(errno(read), Some(libc::EIO), "page {page}, round {round}");
            } else {
                read.unwrap();
                assert_eq!(bytes, expected[page as usize * PAGE..][..PAGE], "page {page}, round {round}");
            }
        }
        assert_eq!(errno(fs::read(&path)), Some(libc::EIO), "in one go");
        drop(file);
        let log = fixture.log();
        let name = home.file_name().unwrap().to_str().unwrap();
        for page in [57, 250] {
            let line = format!("tree/{name}, page {page}: ");
            let found = log.lines().filter(|logged| logged.contains(&line)).count();
            assert_eq!(found, round + 1, "one line a mount for page {page}:\n{log}");
        }
        if round == 0 {
            fixture.seal().ok();
            fixture.mount(&[]).ok();
        }
    }
    // The mount lives: the page can be written anew.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&expected[57 * PAGE..58 * PAGE], 57 * PAGE as u64).unwrap();
    file.sync_all().unwrap();
    drop(file);
    fixture.seal().ok();
    fixture.mount(&[]).ok();
    let mut bytes = [0; PAGE];
    fs::File::open(&path).unwrap().read_exact_at(&mut bytes, 57 * PAGE as u64).unwrap();
    assert_eq!(bytes, expected[57 * PAGE..][..PAGE]);
}

#[test]
fn through_the_kernel_an_attack_while_it_is_mounted_is_an_error() {
    can_mount();
    let (fixture, home) = mounted("file");
    let path = fixture.mountpoint.join("file");
    let file = fs::File::open(&path).unwrap();
    let mut bytes = [0; PAGE];
    file.read_exact_at(&mut bytes, 0).unwrap();
    // What the kernel has not read yet: far behind what it read ahead.
    overwrite(&home, offset(280), &[1; 7]);
    assert_eq!(errno(file.read_exact_at(&mut bytes, 280 * PAGE as u64)), Some(libc::EIO));
    file.read_exact_at(&mut bytes, 270 * PAGE as u64).unwrap();
    OpenOptions::new().write(true).open(&home).unwrap().set_len(offset(290)).unwrap();
    assert_eq!(errno(file.read_exact_at(&mut bytes, 290 * PAGE as u64)), Some(libc::EIO));
    drop(file);
    // Names and directories.
    fs::create_dir(fixture.mountpoint.join("folder")).unwrap();
    fs::write(fixture.mountpoint.join("folder/name"), "content").unwrap();
    let ino = fs::metadata(fixture.mountpoint.join("folder")).unwrap().ino();
    fixture.seal().ok();
    let folder = entry_of_inode(&fixture.vault.join("tree"), ino);
    fixture.mount(&[]).ok();
    fs::rename(folder.join("=iv"), fixture.vault.join("aside")).unwrap();
    assert_eq!(errno(fs::read(fixture.mountpoint.join("folder/name"))), Some(libc::EIO));
    assert!(fs::read_dir(fixture.mountpoint.join("folder")).and_then(|mut dir| dir.next().transpose()).is_err());
    fs::rename(fixture.vault.join("aside"), folder.join("=iv")).unwrap();
    assert_eq!(fs::read(fixture.mountpoint.join("folder/name")).unwrap(), b"content");
    fs::write(fixture.mountpoint.join("new"), "the mount lives").unwrap();
    fixture.seal().ok();
}

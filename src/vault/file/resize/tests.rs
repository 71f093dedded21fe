//! Lengths that the backing does not take, and the space that is reserved and given back.

use std::sync::Arc;

use super::super::Body;
use crate::crypto::{KdfParams, Passphrase};
use crate::storage::{Fault, SimDisk, SimStorage};
use crate::vault::create::{CreateOptions, create_on};
use crate::vault::{Mode, NewInode, Vault, VaultError, VaultFile, unlock};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// More than a file of the simulated disk can have, as of ext4.
const TOO_LARGE: u64 = 20 << 40;

type File = Arc<VaultFile<SimStorage>>;

fn vault() -> (SimDisk, Arc<Vault<SimStorage>>) {
    let disk = SimDisk::new(1);
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    create_on(&disk.storage(), &CreateOptions { kdf, label: String::new(), hint: None }, &passphrase()).unwrap();
    let vault = open(&disk);
    (disk, vault)
}

fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

fn open(disk: &SimDisk) -> Arc<Vault<SimStorage>> {
    let keys = unlock(&disk.storage(), &passphrase()).unwrap();
    Vault::open(disk.storage(), keys, Mode::ReadWrite).unwrap()
}

fn make(vault: &Arc<Vault<SimStorage>>, content: &[u8]) -> File {
    let (_, file) = vault.root().make_file(b"file", &NewInode { mode: 0o600, uid: None, gid: None }).unwrap();
    file.write(0, content).unwrap();
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut content = vec![0; file.len_bytes() as usize];
    file.read(0, &mut content).unwrap();
    content
}

fn is_too_large(error: &VaultError) -> bool {
    matches!(error, VaultError::TooLarge) || error.is_errno(libc::EFBIG)
}

/// The length that failed was taken over all the same: the file could not be synced, nor opened again.
#[test]
fn a_new_file_that_cannot_become_so_long_is_what_it_was() {
    for len in [0, 100, 20_000] {
        let (disk, vault) = vault();
        let file = make(&vault, &vec![7; len]);
        assert!(is_too_large(&file.truncate(TOO_LARGE).unwrap_err()), "{len}");
        // As where a backing says so only when it is tried.
        let tried = file.state.write().truncate_volatile(&file.core, TOO_LARGE);
        assert!(is_too_large(&tried.unwrap_err()), "{len}");
        assert_eq!(file.len_bytes(), len as u64);
        file.sync().unwrap();
        drop(file);
        vault.seal().unwrap();
        drop(vault);
        let file = open(&disk).root().open_file(b"file").unwrap();
        assert!(content(&file) == vec![7; len], "{len}");
    }
}

/// What a crash left was made as long as its header says, which a backing may not do, and the length was all that it had.
#[test]
fn what_a_crash_left_does_not_become_longer() {
    let (disk, vault) = vault();
    let before: Vec<_> = disk.raw_list().into_iter().map(|entry| entry.path).collect();
    let file = make(&vault, &[7; 20_000]);
    file.truncate(MIB).unwrap();
    file.commit().unwrap();
    let killed = disk.kill();
    let home = killed.raw_list().into_iter().map(|entry| entry.path);
    let home = { home }.find(|path| path.starts_with("tree") && !before.contains(path)).unwrap();
    killed.raw_set_len(&home, killed.raw_stat(&home).unwrap().size_bytes - 4096).unwrap();
    let file = open(&killed).root().open_file(b"file").unwrap();
    let mut expected = vec![7; 20_000];
    expected.resize(20_480, 0);
    assert!(content(&file) == expected, "{} bytes", file.len_bytes());
}

/// It was in the journal then, and no checkpoint could bring it home any more.
#[test]
fn a_length_that_the_backing_does_not_take_is_not_journaled() {
    for len in [5, 20_000] {
        let (disk, vault) = vault();
        let file = make(&vault, &vec![7; len]);
        file.sync().unwrap();
        assert!(is_too_large(&file.truncate(TOO_LARGE).unwrap_err()), "{len}");
        assert!(is_too_large(&file.write(TOO_LARGE, b"x").unwrap_err()), "{len}");
        assert!(is_too_large(&file.reserve(0, TOO_LARGE).unwrap_err()), "{len}");
        assert_eq!(file.len_bytes(), len as u64);
        file.write(0, b"x").unwrap();
        vault.checkpoint().unwrap();
        // What it takes is taken.
        file.truncate(10 << 40).unwrap();
        vault.checkpoint().unwrap();
        file.truncate(len as u64).unwrap();
        vault.checkpoint().unwrap();
        drop(file);
        vault.seal().unwrap();
        drop(vault);
        let file = open(&disk).root().open_file(b"file").unwrap();
        assert!(content(&file) == [b"x".as_slice(), &vec![7; len - 1]].concat(), "{len}");
    }
}

/// A page in the midst of a sparse file took all the space from there to its end.
#[test]
fn space_is_reserved_for_what_was_asked_for_and_not_behind() {
    for is_durable in [false, true] {
        let (disk, vault) = vault();
        let file = make(&vault, &[]);
        file.truncate(300 * MIB).unwrap();
        if is_durable {
            file.sync().unwrap();
            vault.checkpoint().unwrap();
        }
        for (at, nodes) in [(0, 1), (200 * MIB, 3)] {
            let before = disk.used_bytes();
            file.reserve(at, 4096).unwrap();
            let taken = disk.used_bytes() - before;
            assert!((4096..=4096 * (1 + nodes)).contains(&taken), "{taken} bytes for a page at {at}");
        }
        // It is there, with that of the nodes above, when the disk is full.
        file.reserve(100 * MIB, 256 << 10).unwrap();
        file.sync().unwrap();
        vault.checkpoint().unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        file.write(100 * MIB, &[1; 256 << 10]).unwrap();
        file.sync().unwrap();
        vault.checkpoint().unwrap();
    }
}

/// A small file has its one block already.
#[test]
fn a_small_file_needs_no_second_block() {
    let (disk, vault) = vault();
    let file = make(&vault, &[1; 100]);
    file.commit().unwrap();
    let before = disk.used_bytes();
    file.reserve(0, 3000).unwrap();
    file.truncate(3000).unwrap();
    file.sync().unwrap();
    vault.checkpoint().unwrap();
    assert_eq!(disk.used_bytes(), before);
    file.reserve(0, 6000).unwrap();
    assert_eq!(disk.used_bytes(), before + 4096);
}

/// The next checkpoint took it back.
#[test]
fn what_is_reserved_over_a_hole_stays() {
    for is_waiting in [false, true] {
        let (disk, vault) = vault();
        let file = make(&vault, &vec![7; 4 << 20]);
        file.sync().unwrap();
        vault.checkpoint().unwrap();
        let full = disk.used_bytes();
        file.punch_hole(0, 2 * MIB).unwrap();
        if is_waiting {
            // Of a checkpoint that waits for room.
            disk.inject(Fault::NoSpaceBelow { folder: "tree" });
            assert!(vault.checkpoint().is_err() && !vault.is_read_only());
            disk.clear_faults();
        }
        file.reserve(MIB, MIB).unwrap();
        vault.checkpoint().unwrap();
        vault.checkpoint().unwrap();
        let given_back = full - disk.used_bytes();
        assert!((MIB - 16 * 4096..=MIB + 16 * 4096).contains(&given_back), "{given_back} bytes");
    }
}

/// Each node's pages were given back by a call of their own, also where nothing was.
#[test]
fn a_large_hole_is_given_back_at_once() {
    for is_durable in [false, true] {
        let (disk, vault) = vault();
        let file = make(&vault, &[]);
        file.truncate(4 * GIB).unwrap();
        file.commit().unwrap();
        if is_durable {
            file.sync().unwrap();
        }
        let empty = disk.used_bytes();
        file.write(3 * GIB, &vec![7; 1 << 20]).unwrap();
        file.commit().unwrap();
        vault.checkpoint().unwrap();
        assert!(disk.used_bytes() >= empty + MIB);
        disk.record_steps();
        file.punch_hole(8192, 4 * GIB).unwrap();
        file.commit().unwrap();
        vault.checkpoint().unwrap();
        let punched = disk.recorded_steps().iter().filter(|step| step.call == "punch_hole").count();
        assert!((1..100).contains(&punched), "{punched} calls");
        // The nodes too, but the one that goes on behind the end.
        assert_eq!(disk.used_bytes(), empty + 4096);
        assert!(file.next_data(0).unwrap().is_none());
    }
}

/// A node that does not verify was the end of every checkpoint.
#[test]
fn a_damaged_node_keeps_no_checkpoint_from_its_end() {
    let (disk, vault) = vault();
    let before: Vec<_> = disk.raw_list().into_iter().map(|entry| entry.path).collect();
    let file = make(&vault, &vec![7; 4 << 20]);
    file.sync().unwrap();
    let home = disk.raw_list().into_iter().map(|entry| entry.path);
    let home = { home }.find(|path| path.starts_with("tree") && !before.contains(path)).unwrap();
    // In the midst of what the node at block 120 covers; once more, which changes nothing in it.
    for _ in 0..2 {
        vault.checkpoint().unwrap();
        file.punch_hole(150 * 4096, 4096).unwrap();
    }
    if let Body::Paged(tree) = &mut file.state.write().body {
        tree.evict(0);
    }
    disk.raw_write_at(&home, 120 * 4096 + 8, &[0x5a; 8]).unwrap();
    vault.checkpoint().unwrap();
    assert!(matches!(file.read(150 * 4096, &mut [0; 10]), Err(VaultError::Integrity(_))));
}

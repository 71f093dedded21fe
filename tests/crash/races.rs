//! Two at once, where the one must not undo what the other was promised.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sero::storage::{RenameMode, SimDisk, SimStorage};
use sero::vault::{Vault, VaultError, VaultFile};

use super::budget::first_seed;
use super::explore::POLICIES;
use super::world::{PLAIN, PLAIN_DIR, prepared, read_all};

const BIG: usize = 3 << 20;

fn crashed_with_a_leftover(seed: u64) -> SimDisk {
    let disk = prepared().disk.to_disk();
    let vault = prepared().open(&disk).expect("it opens");
    let (_, file) = vault.root().make_file(b"leftover", &PLAIN).expect("it is made");
    file.write(0, &vec![7; BIG]).expect("it is written");
    file.commit().expect("it is completed");
    let (_, policy) = &POLICIES[seed as usize % POLICIES.len()];
    disk.crash(policy, seed)
}

/// Who looks a leftover of a crash up first cuts off what does not verify. Another who did the same at that moment
/// would cut off what the first has written since.
#[test]
fn a_leftover_of_a_crash_is_settled_once() {
    let first = first_seed();
    for seed in first..first + 24 {
        let disk = crashed_with_a_leftover(seed);
        let vault = prepared().open(&disk).expect("it opens");
        let root = vault.root();
        let written = thread::scope(|scope| {
            scope.spawn(|| vault.settle_leftovers().expect("leftovers are settled"));
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        // Power cuts may have left not even the name.
                        let file = root.open_file(b"leftover").ok()?;
                        let end = file.len_bytes().max(BIG as u64 + 1);
                        file.write(end, b"promised").expect("it is written");
                        file.sync().expect("it is synced");
                        Some(end)
                    })
                })
                .collect();
            writers.into_iter().filter_map(|writer| writer.join().expect("no panic")).max()
        });
        drop((root, vault));
        let Some(end) = written else { continue };
        let after = disk.crash(&POLICIES[0].1, seed);
        let vault = prepared().open(&after).expect("it opens again");
        let content = read_all(&vault.root().open_file(b"leftover").expect("it is there")).expect("it is whole");
        assert_eq!(content.get(end as usize..), Some(&b"promised"[..]), "seed {seed}");
    }
}

/// What is acknowledged while a vault is sealed is in the sealed vault.
#[test]
fn sealing_loses_nothing_that_was_acknowledged() {
    for round in 0..12 {
        let disk = prepared().disk.to_disk();
        let vault = prepared().open(&disk).expect("it opens");
        let make = |name: &str| vault.root().make_file(name.as_bytes(), &PLAIN).expect("it is made").1;
        let (durable, new) = (make("durable"), make("new"));
        for file in [&durable, &new] {
            file.write(0, &vec![0; 100_000]).expect("it is written");
        }
        durable.sync().expect("it is synced");
        let acknowledged = [AtomicU64::new(0), AtomicU64::new(0)];
        thread::scope(|scope| {
            for (file, acknowledged) in [&durable, &new].into_iter().zip(&acknowledged) {
                scope.spawn(|| count_up(file, acknowledged));
            }
            while acknowledged.iter().any(|count| count.load(Ordering::Acquire) < 5) {
                thread::yield_now();
            }
            seal(&vault);
        });
        drop((durable, new));
        drop(vault);
        let vault = prepared().open(&disk).expect("it opens again");
        assert!(vault.recovery().is_none(), "it was sealed");
        for (name, acknowledged) in ["durable", "new"].into_iter().zip(&acknowledged) {
            let content =
                read_all(&vault.root().open_file(name.as_bytes()).expect("it is there")).expect("it is whole");
            let found = u64::from_le_bytes(content[..8].try_into().expect("eight bytes"));
            let acknowledged = acknowledged.load(Ordering::Acquire);
            assert!(found >= acknowledged, "round {round}, {name}: {found} of {acknowledged}");
        }
    }
}

/// Until the vault takes no more.
fn count_up(file: &VaultFile<SimStorage>, acknowledged: &AtomicU64) {
    for number in 1_u64.. {
        match file.write(0, &number.to_le_bytes()) {
            Ok(()) => acknowledged.store(number, Ordering::Release),
            Err(VaultError::ReadOnly) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// With somebody who never stops writing it may say that it can't.
fn seal(vault: &Vault<SimStorage>) {
    loop {
        match vault.seal() {
            Ok(()) => return,
            Err(VaultError::Io { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The journal knows a file by a name that is gone: it is found by the other.
#[test]
fn a_file_with_another_name_is_found_by_it() {
    for gone in 0..2 {
        let disk = prepared().disk.to_disk();
        let before: Vec<_> = disk.raw_list().into_iter().map(|entry| entry.path).collect();
        let vault = prepared().open(&disk).expect("it opens");
        let root = vault.root();
        let (_, file) = root.make_file(b"one", &PLAIN).expect("it is made");
        file.write(0, &vec![1; 60_000]).expect("it is written");
        file.sync().expect("it is synced");
        root.link(b"one", &root, b"two").expect("it is linked");
        vault.sync().expect("all is synced");
        file.write(20_000, b"promised").expect("it is written");
        file.sync().expect("it is synced");
        drop((file, root));
        let after = disk.kill();
        drop(vault);
        let names: Vec<_> = after.raw_list().into_iter().map(|entry| entry.path).collect();
        let names: Vec<_> =
            names.into_iter().filter(|path| path.starts_with("tree") && !before.contains(path)).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        after.raw_remove(&names[gone]).expect("it is removed");
        let vault = prepared().open(&after).expect("it opens again");
        let recovery = vault.recovery().expect("it was not sealed");
        assert_eq!((recovery.gone, recovery.stale.len()), (0, 0), "{recovery}");
        let root = vault.root();
        let file = root.open_file(b"one").or_else(|_| root.open_file(b"two")).expect("one of them is left");
        assert_eq!(read_all(&file).expect("it is whole").get(20_000..20_008), Some(&b"promised"[..]));
    }
}

/// A checkpoint sets the length that a home had when it was taken: what was written behind that since, straight to the
/// home, stays. (The home was longer all the time: the file had been, before it was written anew.)
#[test]
fn a_file_written_anew_beside_checkpoints_is_whole() {
    let disk = prepared().disk.to_disk();
    let vault = prepared().open(&disk).expect("it opens");
    let file = vault.root().make_file(b"anew", &PLAIN).expect("it is made").1;
    file.write(0, &vec![1; 2 * BIG]).expect("it is written");
    file.sync().expect("it is synced");
    let is_over = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while is_over.load(Ordering::Acquire) == 0 {
                vault.checkpoint().expect("a checkpoint");
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..40_u8 {
                let content = vec![round; 2 * BIG];
                file.truncate(0).expect("it is emptied");
                for (at, chunk) in (0..).step_by(128 << 10).zip(content.chunks(128 << 10)) {
                    file.write(at, chunk).expect("it is written");
                }
                file.sync().expect("it is synced");
                vault.checkpoint().expect("a checkpoint");
                assert!(read_all(&file).expect("it is whole") == content, "round {round}");
            }
        }));
        is_over.store(1, Ordering::Release);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A directory that is moved while somebody looks for what a crash left is looked into all the same, or the search is not
/// over.
#[test]
fn a_leftover_in_a_directory_that_is_moved_is_found() {
    let first = first_seed();
    for seed in first..first + 24 {
        let disk = prepared().disk.to_disk();
        let vault = prepared().open(&disk).expect("it opens");
        let made = |name: &str| vault.root().make_dir(name.as_bytes(), &PLAIN_DIR).expect("it is made").1;
        let places = [made("a"), made("z")];
        (0..20).for_each(|number| drop(made(&format!("more {number}"))));
        let (_, moving) = places[0].make_dir(b"moving", &PLAIN_DIR).expect("it is made");
        vault.sync().expect("it is synced");
        let (_, file) = moving.make_file(b"leftover", &PLAIN).expect("it is made");
        file.write(0, &vec![7; BIG]).expect("it is written");
        file.commit().expect("it is completed");
        drop((file, moving, places, vault));
        let disk = disk.crash(&POLICIES[seed as usize % POLICIES.len()].1, seed);
        let vault = prepared().open(&disk).expect("it opens");
        let root = vault.root();
        let places = ["a", "z"].map(|name| root.open_child(name.as_bytes()).expect("it is there"));
        let is_over = AtomicU64::new(0);
        let at = thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let mut at = 0;
                while is_over.load(Ordering::Acquire) == 0 {
                    places[at].rename(b"moving", &places[1 - at], b"moving", RenameMode::Replace).expect("it is moved");
                    at = 1 - at;
                    thread::yield_now();
                }
                at
            });
            let settled = vault.settle_leftovers();
            is_over.store(1, Ordering::Release);
            let at = mover.join().expect("no panic");
            settled.expect("leftovers are looked for");
            at
        });
        let moved = places[at].open_child(b"moving").expect("it is there");
        match moved.open_file(b"leftover") {
            Ok(file) => drop(read_all(&file).unwrap_or_else(|error| panic!("seed {seed}: {error}"))),
            // The power cut left not even the name.
            Err(VaultError::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}

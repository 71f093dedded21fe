//! How long the next mount takes after a crash with a full journal, on a real disk. It is printed, and in docs/testing.md.

use std::time::Instant;

use sero::crypto::{KdfParams, Passphrase};
use sero::storage::PosixStorage;
use sero::vault::create::{CreateOptions, create_on};
use sero::vault::unlock::unlock;
use sero::vault::{Mode, Vault};

use super::random::Random;
use super::world::PLAIN;

const FILES: u64 = 16;
const FILE_PAGES: u64 = 4096;
/// The largest segment, without what a checkpoint needs for itself.
const PAGES: u64 = 15_000;
const PAGES_PER_WRITE: u64 = 8;

#[test]
fn a_full_journal_is_replayed() {
    let place = tempfile::tempdir().expect("a place");
    let passphrase = Passphrase::new(b"correct horse".to_vec());
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let storage = || PosixStorage::open(place.path()).expect("the backing opens");
    create_on(&storage(), &CreateOptions { kdf, label: "test".into(), hint: None }, &passphrase)
        .expect("a vault is made");
    let open = || {
        let storage = storage();
        let keys = unlock(&storage, &passphrase).expect("it is unlocked");
        Vault::open(storage, keys, Mode::ReadWrite).expect("it opens")
    };

    let vault = open();
    let files: Vec<_> = (0..FILES)
        .map(|number| {
            let (_, file) = vault.root().make_file(format!("file {number}").as_bytes(), &PLAIN).expect("it is made");
            file.write(0, &vec![1; (FILE_PAGES * 4096) as usize]).expect("it is written");
            file.sync().expect("it is synced");
            file
        })
        .collect();
    let mut random = Random::new(1);
    let mut write = |round: u64, pages: u64| {
        for number in 0..pages / PAGES_PER_WRITE {
            let at = random.below(FILE_PAGES - PAGES_PER_WRITE) * 4096;
            let data = vec![round as u8; (PAGES_PER_WRITE * 4096) as usize];
            files[(number % FILES) as usize].write(at, &data).expect("it is written");
        }
    };
    let is_grown = || {
        let len = |name| std::fs::metadata(place.path().join("private").join(name)).map_or(0, |found| found.len());
        len("journal.0") == len("journal.1") && len("journal.0") == 64 << 20
    };
    let mut rounds = 1;
    while !is_grown() {
        rounds += 1;
        assert!(rounds < 40, "the journal does not grow");
        write(rounds, PAGES);
    }
    vault.checkpoint().expect("a checkpoint");
    write(100, PAGES);
    for file in &files {
        file.sync().expect("it is synced");
    }
    // As a killed process leaves it.
    drop((files, vault));

    let started = Instant::now();
    let vault = open();
    let taken = started.elapsed();
    let recovery = vault.recovery().expect("it was not sealed").clone();
    println!("a journal of {PAGES} pages: {recovery}, in {} ms", taken.as_millis());
    assert!(recovery.files as u64 == FILES && recovery.stale.is_empty() && recovery.damage.is_empty(), "{recovery}");
    let file = vault.root().open_file(b"file 3").expect("it opens");
    let mut bytes = vec![0; (FILE_PAGES * 4096) as usize];
    file.read(0, &mut bytes).expect("it is read");
    assert!(bytes.contains(&100) && bytes.iter().all(|byte| *byte > 0), "what was written is there");
    vault.seal().expect("it seals");
}

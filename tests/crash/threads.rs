//! Several threads at once, with crashes beside them: writers with `fsync`, renames, files replaced by rename, or emptied
//! and written again, the background sync, and checkpoints one after another.
//!
//! What the threads do in which order is not repeatable; the seeds of the crashes are printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sero::storage::{RenameMode, SimDisk, SimStorage};
use sero::vault::{Directory, Vault, VaultError, VaultFile};

use super::budget::{count_state, first_seed, share};
use super::explore::POLICIES;
use super::world::{PLAIN, prepared, read_all};

const WRITERS: usize = 3;
const FILES: usize = 9;
/// Where each file has its number: in its first page, and behind its first leaf's pages.
const PLACES: [u64; 2] = [0, 600_000];
/// Replaced by files of other sizes, blobs and trees.
const SIZES: [usize; 3] = [100, 16_000, 40_000];

/// A file is emptied and written again at these lengths, by so much at a time.
const LENGTHS: [usize; 3] = [300_000, 1_500_000, 700_000];
const STEP: usize = 96 << 10;

/// What a number was set to, and what of it was acknowledged by a sync.
#[derive(Default)]
struct Counter {
    begun: AtomicU64,
    synced: AtomicU64,
}

struct Bench {
    vault: Arc<Vault<SimStorage>>,
    root: Arc<Directory<SimStorage>>,
    files: Vec<Arc<VaultFile<SimStorage>>>,
    counters: Vec<Counter>,
    replaced: Counter,
    anew: Counter,
    /// Appended to, line by line; the number of lines.
    log: Counter,
    is_over: AtomicBool,
}

impl Bench {
    fn new(disk: &SimDisk) -> Self {
        let vault = prepared().open(disk).expect("it opens");
        let root = vault.root();
        let files = (0..FILES).map(|number| {
            let (_, file) = root.make_file(format!("file {number} a").as_bytes(), &PLAIN).expect("it is made");
            file.write(0, &vec![0; 620_000]).expect("it is written");
            file.sync().expect("it is synced");
            file
        });
        let files = files.collect();
        vault.sync().expect("it is synced");
        let counters = (0..FILES).map(|_| Counter::default()).collect();
        Self {
            vault,
            root,
            files,
            counters,
            replaced: Counter::default(),
            anew: Counter::default(),
            log: Counter::default(),
            is_over: AtomicBool::new(false),
        }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn write(&self, writer: usize) -> Result<(), VaultError> {
        let mut number = 0_u64;
        while self.goes_on() {
            number += 1;
            let at = (number as usize % (FILES / WRITERS)) * WRITERS + writer;
            let (file, counter) = (&self.files[at], &self.counters[at]);
            counter.begun.store(number, Ordering::SeqCst);
            for place in PLACES {
                file.write(place, &number.to_le_bytes())?;
            }
            file.sync()?;
            counter.synced.store(number, Ordering::SeqCst);
        }
        Ok(())
    }

    fn append(&self) -> Result<(), VaultError> {
        let (_, file) = self.root.make_file(b"log", &PLAIN)?;
        let mut lines = 0_u64;
        while self.goes_on() {
            lines += 1;
            self.log.begun.store(lines, Ordering::SeqCst);
            file.write((lines - 1) * 8, &lines.to_le_bytes())?;
            if lines.is_multiple_of(3) {
                file.sync()?;
                self.log.synced.store(lines, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    fn rename(&self) -> Result<(), VaultError> {
        let mut flipped = [false; FILES];
        for number in (0..FILES).cycle() {
            if !self.goes_on() {
                break;
            }
            let (a, b) = (format!("file {number} a"), format!("file {number} b"));
            let (from, to) = if flipped[number] { (b, a) } else { (a, b) };
            flipped[number] = !flipped[number];
            self.root.rename(from.as_bytes(), &self.root, to.as_bytes(), RenameMode::NoReplace)?;
            if number.is_multiple_of(2) {
                self.root.sync()?;
            }
        }
        Ok(())
    }

    fn replace(&self) -> Result<(), VaultError> {
        // So that the first version replaces something, too: what takes a free name is not durable by that.
        self.root.make_file(b"replaced", &PLAIN)?.1.sync()?;
        self.root.sync()?;
        let mut version = 0_u64;
        while self.goes_on() {
            version += 1;
            self.replaced.begun.store(version, Ordering::SeqCst);
            let (_, file) = self.root.make_file(b"replaced.new", &PLAIN)?;
            file.write(0, &version.to_le_bytes().repeat(SIZES[version as usize % SIZES.len()]))?;
            file.commit()?;
            drop(file);
            // What replaces a file is durable before it does, asked or not.
            self.root.rename(b"replaced.new", &self.root, b"replaced", RenameMode::Replace)?;
            self.root.sync()?;
            self.replaced.synced.store(version, Ordering::SeqCst);
        }
        Ok(())
    }

    fn write_anew(&self) -> Result<(), VaultError> {
        let (_, file) = self.root.make_file(b"anew", &PLAIN)?;
        let mut version = 0_u64;
        while self.goes_on() {
            version += 1;
            self.anew.begun.store(version, Ordering::SeqCst);
            file.truncate(0)?;
            let content = version.to_le_bytes().repeat(LENGTHS[version as usize % LENGTHS.len()] / 8);
            for (at, step) in (0..).step_by(STEP).zip(content.chunks(STEP)) {
                file.write(at, step)?;
            }
            file.sync()?;
            self.anew.synced.store(version, Ordering::SeqCst);
            assert!(read_all(&file)? == content, "version {version} is not what was written");
        }
        Ok(())
    }

    fn tick(&self) -> Result<(), VaultError> {
        while self.goes_on() {
            self.vault.tick()?;
            std::thread::yield_now();
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), VaultError> {
        while self.goes_on() {
            self.vault.checkpoint()?;
        }
        Ok(())
    }

    fn acknowledged(&self) -> Vec<u64> {
        let all = self.counters.iter().chain([&self.replaced, &self.log, &self.anew]);
        all.map(|counter| counter.synced.load(Ordering::SeqCst)).collect()
    }

    /// What is wrong on a disk after a crash.
    fn check(&self, disk: &SimDisk, acknowledged: &[u64]) -> Result<(), String> {
        count_state();
        let vault = prepared().open(disk).map_err(|error| format!("it does not open: {error}"))?;
        let root = vault.root();
        if let Some(recovery) = vault.recovery()
            && (!recovery.stale.is_empty() || !recovery.damage.is_empty())
        {
            return Err(format!("a crash was taken for damage: {recovery:?}"));
        }
        let within = |what: &str, found: u64, counter: &Counter, synced: u64| {
            let begun = counter.begun.load(Ordering::SeqCst);
            let said = || format!("{what} has {found}, synced {synced}, begun {begun}; {:?}", vault.recovery());
            if synced <= found && found <= begun { Ok(()) } else { Err(said()) }
        };
        for (number, counter) in self.counters.iter().enumerate() {
            let open = |letter| root.open_file(format!("file {number} {letter}").as_bytes());
            let file = open('a').or_else(|_| open('b')).map_err(|error| format!("file {number} is gone: {error}"))?;
            let bytes = read_all(&file).map_err(|error| format!("file {number} cannot be read: {error}"))?;
            for place in PLACES {
                let found = number_at(&bytes, place as usize);
                within(&format!("file {number} at {place}"), found, counter, acknowledged[number])?;
            }
        }
        let read = |name: &str| match root.open_file(name.as_bytes()) {
            Ok(file) => read_all(&file).map_err(|error| format!("{name} cannot be read: {error}")),
            Err(_) => Ok(Vec::new()),
        };
        let bytes = read("replaced")?;
        let version = number_at(&bytes, 0);
        within("what was replaced", version, &self.replaced, acknowledged[FILES])?;
        if bytes
            != version.to_le_bytes().repeat(if bytes.is_empty() { 0 } else { SIZES[version as usize % SIZES.len()] })
        {
            return Err(format!("what was replaced is not all of version {version}: {} bytes", bytes.len()));
        }
        let bytes = read("anew")?;
        let (version, synced) = (number_at(&bytes, 0), acknowledged[FILES + 2]);
        let whole = version.to_le_bytes().repeat(LENGTHS[version as usize % LENGTHS.len()] / 8);
        if !whole.starts_with(&bytes) || (version == synced && version > 0 && bytes.len() < whole.len()) {
            return Err(format!("the file written anew has {} bytes, not of version {version}", bytes.len()));
        }
        if !(bytes.is_empty() && self.anew.begun.load(Ordering::SeqCst) > synced) {
            within("the file written anew", version, &self.anew, synced)?;
        }
        let bytes = read("log")?;
        let lines = (0..bytes.len() / 8).take_while(|line| number_at(&bytes, line * 8) == *line as u64 + 1).count();
        within("the log", lines as u64, &self.log, acknowledged[FILES + 1])
    }
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[test]
fn several_threads_and_crashes_beside_them() {
    let deadline = share(5);
    let disk = prepared().disk.to_disk();
    let bench = Bench::new(&disk);
    let mut violations = Vec::new();
    let mut seed = first_seed() * 1_000_000;
    std::thread::scope(|scope| {
        let bench = &bench;
        let started = |work: &'static str, outcome: Result<(), VaultError>| {
            if let Err(error) = outcome {
                panic!("{work}: {error}");
            }
        };
        for writer in 0..WRITERS {
            scope.spawn(move || started("write", bench.write(writer)));
        }
        scope.spawn(move || started("append", bench.append()));
        scope.spawn(move || started("rename", bench.rename()));
        scope.spawn(move || started("replace", bench.replace()));
        scope.spawn(move || started("write anew", bench.write_anew()));
        scope.spawn(move || started("tick", bench.tick()));
        scope.spawn(move || started("checkpoint", bench.checkpoint()));
        while !deadline.is_over() && violations.len() < 5 {
            let acknowledged = bench.acknowledged();
            seed += 1;
            // One in four is killed; the other disks keep their order, or not.
            let after = match POLICIES.get(seed as usize % (POLICIES.len() + 1)) {
                Some((_, policy)) => disk.crash(policy, seed),
                None => disk.kill(),
            };
            if let Err(reason) = bench.check(&after, &acknowledged) {
                violations.push(format!("seed {seed}: {reason}"));
            }
        }
        bench.is_over.store(true, Ordering::Relaxed);
    });
    println!("threads: {} crashes, seeds up to {seed}", seed - first_seed() * 1_000_000);
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n\n"));
    bench.vault.seal().expect("it seals");
}

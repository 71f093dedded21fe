//! The journal: of a crashed vault, edited; and put back beside a vault that was sealed since. What is left is always
//! one moment of the session in full. More of the same, on every block and with crashes: tests/crash/attacks.rs.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use log::Level;
use sero::vault::{Mode, VaultError};
use tempfile::TempDir;

use super::specimen::{
    Content, File, Opened, PAGE, PLAIN, copy, logged, new_vault, open, passphrase, seal, write_pages,
};

const SEGMENTS: [&str; 2] = ["private/journal.0", "private/journal.1"];
const NAMES: [&[u8]; 2] = [b"blob", b"tree"];

/// What the two files held at one moment.
type Moment = [Vec<u8>; 2];

/// A vault whose session left a copy of itself after every sync.
struct Session {
    scratch: TempDir,
    vault: PathBuf,
    moments: Vec<Moment>,
    /// The backing as a `kill -9` would have left it after the last sync.
    crashed: PathBuf,
}

/// One page of one file, synced.
fn change(files: &[File; 2], contents: &mut [Content; 2], step: usize) -> Moment {
    let which = step % 2;
    let page = [step as u64 % 3, step as u64 % 22][which];
    write_pages(&files[which], &mut contents[which], &[page], step as u8 + 2);
    files[which].sync().unwrap();
    [contents[0].bytes.clone(), contents[1].bytes.clone()]
}

impl Session {
    /// A session of so many syncs; a checkpoint after `checkpoint` of them. `visit` sees the vault after each.
    fn new(syncs: usize, checkpoint: usize, mut visit: impl FnMut(usize, &Path)) -> Self {
        let scratch = TempDir::new().unwrap();
        let path = scratch.path().join("vault");
        new_vault(&path);
        let vault = open(&path, Mode::ReadWrite);
        let mut contents = [10_000, 21 * PAGE + 100].map(|len| Content { bytes: vec![0; len], pages: [].into() });
        for (name, content) in NAMES.iter().zip(&mut contents) {
            let (_, file) = vault.root().make_file(name, &PLAIN).unwrap();
            let pages: Vec<u64> = (0..content.bytes.len().div_ceil(PAGE) as u64).collect();
            write_pages(&file, content, &pages, 1);
            file.sync().unwrap();
        }
        seal(vault);
        let vault = open(&path, Mode::ReadWrite);
        let files = NAMES.map(|name| vault.root().open_file(name).unwrap());
        let mut moments = vec![[contents[0].bytes.clone(), contents[1].bytes.clone()]];
        for step in 0..syncs {
            moments.push(change(&files, &mut contents, step));
            if step + 1 == checkpoint {
                vault.checkpoint().unwrap();
            }
            visit(step, &path);
        }
        let crashed = scratch.path().join("crashed");
        copy(&path, &crashed);
        drop(files);
        seal(vault);
        Self { scratch, vault: path, moments, crashed }
    }
}

/// What the files hold now.
fn found(vault: &Opened) -> Result<Moment, VaultError> {
    let mut moment = Moment::default();
    for (name, content) in NAMES.iter().zip(&mut moment) {
        let file = vault.root().open_file(name)?;
        content.resize(file.len_bytes() as usize, 0);
        file.read(0, content)?;
    }
    Ok(moment)
}

/// Opens a crashed vault; which moment it shows, and whether anything was said about it.
fn shown(what: &str, vault: &Path, moments: &[Moment]) -> (usize, bool) {
    let (opened, lines) = logged(Level::Warn, || open(vault, Mode::ReadOnly));
    let now = found(&opened).unwrap_or_else(|error| panic!("{what}: {error}"));
    let moment = moments.iter().rposition(|moment| *moment == now);
    let said = opened.recovery().is_some_and(|recovery| !recovery.damage.is_empty() || !recovery.stale.is_empty());
    assert!(!said || !lines.is_empty(), "{what}: what is reported is logged");
    (moment.unwrap_or_else(|| panic!("{what}: a state that never was")), said)
}

#[test]
fn a_damaged_journal_shows_one_moment_and_what_was_cut_from_its_middle_is_said() {
    for checkpoint in [0, 6] {
        let session = Session::new(12, checkpoint, |_, _| ());
        let last = session.moments.len() - 1;
        assert_eq!(shown("untouched", &session.crashed, &session.moments), (last, false));
        for segment in SEGMENTS {
            let path = session.crashed.join(segment);
            let before = fs::read(&path).unwrap();
            let mut attacks: Vec<(String, Vec<u8>, usize)> = Vec::new();
            for block in 0..40 {
                for (kind, at, len) in [("a byte changed", 1000, 1), ("a sector zeroed", 3584, 512)] {
                    let mut edited = before.clone();
                    let range = block * PAGE + at..block * PAGE + at + len;
                    edited[range].iter_mut().for_each(|byte| *byte = if len == 1 { !*byte } else { 0 });
                    // Of the first block only the header counts; without it the segment is as good as removed.
                    attacks.push((
                        format!("{segment}, block {block}: {kind}"),
                        edited,
                        if block == 0 { last } else { 1 },
                    ));
                }
                let mut swapped = before.clone();
                let (left, right) = swapped.split_at_mut((block + 1) * PAGE);
                left[block * PAGE..].swap_with_slice(&mut right[..PAGE]);
                attacks.push((
                    format!("{segment}, block {block} and the next exchanged"),
                    swapped,
                    if block == 0 { last } else { 2 },
                ));
            }
            for blocks in [1, 2, 5, 20, 400] {
                attacks.push((format!("{segment} cut to {blocks} blocks"), before[..blocks * PAGE].to_vec(), 1));
            }
            for len in [0, 1, 100, 4095] {
                attacks.push((format!("{segment} cut to {len} bytes"), before[..len].to_vec(), last));
            }
            for (what, edited, tail) in attacks {
                fs::write(&path, &edited).unwrap();
                let (moment, said) = shown(&what, &session.crashed, &session.moments);
                // Nothing else knows that the last record was whole (or two, where one attack hit both); or that a
                // segment without its header was there at all.
                assert!(said || moment + tail >= last, "{what}: back to {moment}, and nothing is said");
            }
            fs::remove_file(&path).unwrap();
            shown("removed", &session.crashed, &session.moments);
            fs::write(&path, &before).unwrap();
        }
    }
}

#[test]
fn segments_exchanged_or_of_another_vault_or_session_are_not_mixed_in() {
    let (session, other) = (Session::new(12, 6, |_, _| ()), Session::new(12, 6, |_, _| ()));
    let own = SEGMENTS.map(|segment| fs::read(session.crashed.join(segment)).unwrap());
    let foreign = SEGMENTS.map(|segment| fs::read(other.crashed.join(segment)).unwrap());
    let put = |what: &str, first: &[u8], second: &[u8]| {
        fs::write(session.crashed.join(SEGMENTS[0]), first).unwrap();
        fs::write(session.crashed.join(SEGMENTS[1]), second).unwrap();
        shown(what, &session.crashed, &session.moments)
    };
    let last = session.moments.len() - 1;
    assert_eq!(put("exchanged", &own[1], &own[0]), (last, false), "where a segment stands is not what it is");
    put("the first of another vault", &foreign[0], &own[1]);
    put("the second of another vault", &own[0], &foreign[1]);
    assert_eq!(put("both of another vault", &foreign[0], &foreign[1]).0, 6, "as the checkpoint left it");
    put("the first twice", &own[0], &own[0]);
    put("the second twice", &own[1], &own[1]);
}

#[test]
fn an_older_journal_beside_a_sealed_vault_changes_nothing_and_is_reported() {
    let mut journals: Vec<[Vec<u8>; 2]> = Vec::new();
    let session = Session::new(8, 5, |_, vault| {
        journals.push(SEGMENTS.map(|segment| fs::read(vault.join(segment)).unwrap()));
    });
    let sealed = session.moments.last().unwrap();
    for (step, journal) in journals.iter().enumerate() {
        for mode in [Mode::ReadOnly, Mode::ReadWrite] {
            let copied = session.scratch.path().join(format!("again-{step}-{mode:?}"));
            copy(&session.vault, &copied);
            for (segment, bytes) in SEGMENTS.iter().zip(journal) {
                fs::write(copied.join(segment), bytes).unwrap();
            }
            let (vault, lines) = logged(Level::Warn, || open(&copied, mode));
            assert!(found(&vault).unwrap() == *sealed, "the journal of step {step}: an older state, {mode:?}");
            let recovery = vault.recovery().unwrap();
            // The last two journals lead to what was sealed, for one file or for both.
            if step + 2 < journals.len() {
                // Right after the checkpoint, nothing.
                let in_it = 2.min((step + 1) % 5);
                assert_eq!(recovery.stale.len(), in_it, "step {step}: {recovery}");
                assert!(lines.iter().filter(|line| line.contains("tree/")).count() >= in_it, "{lines:?}");
            }
            if mode == Mode::ReadWrite {
                vault.settle_leftovers().unwrap();
                seal(vault);
                assert!(found(&open(&copied, Mode::ReadOnly)).unwrap() == *sealed, "step {step}, sealed again");
            }
        }
    }
}

#[test]
fn what_is_no_journal_is_none() {
    let session = Session::new(3, 0, |_, _| ());
    let sealed = session.moments.last().unwrap();
    let path = session.vault.join(SEGMENTS[0]);
    for bytes in [Vec::new(), vec![0; PAGE], vec![0xff; 100], (0..40 * PAGE).map(|at| (at * 7) as u8).collect()] {
        fs::write(&path, &bytes).unwrap();
        assert!(found(&open(&session.vault, Mode::ReadOnly)).unwrap() == *sealed);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let keys = sero::vault::unlock::unlock(&sero::vault::PosixStorage::open(&session.vault).unwrap(), &passphrase());
    let storage = sero::vault::PosixStorage::open(&session.vault).unwrap();
    let refused = sero::vault::Vault::open(storage, keys.unwrap(), Mode::ReadOnly);
    assert!(matches!(refused, Err(VaultError::Integrity(_))), "it is said, and nothing is done");
}

#[test]
fn a_journal_of_any_length_is_read_as_far_as_one_can_be_long() {
    let session = Session::new(5, 0, |_, _| ());
    let journal = OpenOptions::new().write(true).open(session.crashed.join(SEGMENTS[0])).unwrap();
    journal.set_len(1 << 40).unwrap();
    let last = session.moments.len() - 1;
    assert_eq!(shown("extended", &session.crashed, &session.moments).0, last);
    journal.write_all_at(&[1; 100], 1 << 39).unwrap();
    assert_eq!(shown("extended", &session.crashed, &session.moments).0, last);
}

// --- what is not noticed, as the threat model says ---

#[test]
fn a_file_made_just_before_a_crash_is_cut_where_it_is_damaged_and_that_is_logged() {
    let scratch = TempDir::new().unwrap();
    let (mounted, crashed) = (scratch.path().join("mounted"), scratch.path().join("crashed"));
    new_vault(&mounted);
    let vault = open(&mounted, Mode::ReadWrite);
    let (stat, file) = vault.root().make_file(b"new", &PLAIN).unwrap();
    file.write(0, &vec![7; 20 * PAGE]).unwrap();
    file.commit().unwrap();
    copy(&mounted, &crashed);
    let name = super::specimen::entry_of_inode(&mounted.join("tree"), stat.ino);
    let home = crashed.join("tree").join(name.file_name().unwrap());
    OpenOptions::new().write(true).open(&home).unwrap().write_all_at(&[0; 512], 10 * PAGE as u64).unwrap();
    let vault = open(&crashed, Mode::ReadWrite);
    let (file, lines) = logged(Level::Warn, || vault.root().open_file(b"new").unwrap());
    assert_eq!(file.len_bytes(), 9 * PAGE as u64, "what verifies from its start");
    let mut content = vec![0; 9 * PAGE];
    file.read(0, &mut content).unwrap();
    assert!(content.iter().all(|byte| *byte == 7));
    assert!(lines.iter().any(|line| line.contains("shortly before a crash") && line.contains("tree/")), "{lines:?}");
    drop(file);
    // From when it was looked at, the same is damage.
    vault.settle_leftovers().unwrap();
    seal(vault);
    OpenOptions::new().write(true).open(&home).unwrap().write_all_at(&[0; 512], 5 * PAGE as u64).unwrap();
    let file = open(&crashed, Mode::ReadOnly).root().open_file(b"new").unwrap();
    assert!(matches!(file.read(4 * PAGE as u64, &mut content), Err(VaultError::Integrity(_))));
}

#[test]
fn what_was_durable_is_no_leftover_of_a_crash_whose_journal_is_put_back() {
    let scratch = TempDir::new().unwrap();
    let (mounted, vault_path) = (scratch.path().join("mounted"), scratch.path().join("vault"));
    new_vault(&mounted);
    let vault = open(&mounted, Mode::ReadWrite);
    vault.root().make_file(b"first", &PLAIN).unwrap().1.sync().unwrap();
    copy(&mounted, &vault_path);
    seal(vault);
    let segments = SEGMENTS.map(|segment| (segment, fs::read(vault_path.join(segment)).ok()));
    let vault = open(&vault_path, Mode::ReadWrite);
    let (stat, file) = vault.root().make_file(b"later", &PLAIN).unwrap();
    file.write(0, &vec![7; 100 * PAGE]).unwrap();
    file.sync().unwrap();
    drop(file);
    seal(vault);
    for (segment, bytes) in segments {
        bytes.into_iter().for_each(|bytes| fs::write(vault_path.join(segment), bytes).unwrap());
    }
    let name = super::specimen::entry_of_inode(&vault_path.join("tree"), stat.ino);
    let home = vault_path.join("tree").join(name.file_name().unwrap());
    OpenOptions::new().write(true).open(&home).unwrap().set_len(60 * PAGE as u64).unwrap();
    for mode in [Mode::ReadOnly, Mode::ReadWrite] {
        let vault = open(&vault_path, mode);
        let (outcome, lines) = logged(Level::Warn, || vault.root().open_file(b"later").map(|file| file.len_bytes()));
        assert!(matches!(outcome, Err(VaultError::Integrity(_))), "{mode:?}: {outcome:?}");
        assert!(lines.iter().any(|line| line.contains("length")), "{lines:?}");
    }
}

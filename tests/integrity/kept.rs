//! What a mount cannot replay of a journal is kept, said, and can be put back.

use sero::vault::FindingKind;

use super::*;

const SEGMENTS: [&str; 2] = ["journal.0", "journal.1"];

/// A vault with two files; and what stood in the backing file of the first before its last change.
fn sealed() -> (Sample, Vec<u8>) {
    let sample = Sample::empty();
    sample.with(|vault| {
        put(&vault.root(), b"one", &pattern(9, 300_000));
        put(&vault.root(), b"two", &pattern(2, 300_000));
    });
    let older = fs::read(sample.backing("one")).unwrap();
    sample.with(|vault| {
        vault.root().open_file(b"one").unwrap().write(0, &pattern(1, 300_000)).unwrap();
    });
    (sample, older)
}

/// The same, killed after both files were changed and synced.
fn killed() -> (Sample, Vec<u8>) {
    let (sample, older) = sealed();
    let vault = Vault::open(sample.storage(), sample.keys(), Mode::ReadWrite).unwrap();
    for name in [b"one", b"two"] {
        let file = vault.root().open_file(name).unwrap();
        file.write(5000, b"changed").unwrap();
        file.sync().unwrap();
    }
    (sample, older)
}

fn with_change(seed: u8) -> Vec<u8> {
    let mut content = pattern(seed, 300_000);
    content[5000..5007].copy_from_slice(b"changed");
    content
}

fn segments(sample: &Sample) -> [Vec<u8>; 2] {
    SEGMENTS.map(|segment| fs::read(sample.vault.join("private").join(segment)).unwrap())
}

/// The paths and contents of `private/lost`, in the order of the segments.
fn kept(sample: &Sample) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(sample.vault.join("private/lost")) else { return Vec::new() };
    let mut kept: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    kept.sort_by_key(|path| path.extension().map(ToOwned::to_owned));
    kept.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// "A copy is kept in `private/lost`."
#[test]
fn a_mount_keeps_a_copy_of_what_it_cannot_replay() {
    let (sample, older) = killed();
    let journal = segments(&sample);
    let home = sample.backing("one");
    let before = fs::read(&home).unwrap();
    fs::write(&home, older).unwrap();
    let vault = Vault::open(sample.storage(), sample.keys(), Mode::ReadOnly).unwrap();
    assert!(
        !vault.recovery().unwrap().copy_kept && kept(&sample).is_empty(),
        "nothing is changed by a read-only mount"
    );
    drop(vault);
    sample.with(|vault| {
        let recovery = vault.recovery().unwrap();
        assert!(recovery.stale.len() == 1 && recovery.copy_kept, "{recovery:?}");
        assert!(recovery.to_string().ends_with("a copy of the journal is kept in private/lost"), "{recovery}");
    });
    let copies = kept(&sample);
    assert!(copies.iter().map(|(_, content)| content).eq(&journal), "the journal as it was before the mount");
    let (_, findings) = sample.verify();
    let lost: Vec<_> = findings.iter().filter(|finding| finding.kind == FindingKind::Lost).collect();
    assert!(lost.len() == 2 && lost.iter().all(|finding| finding.severity == Severity::Leftover), "{findings:#?}");

    // "Put it back": the file as it was, and the journal beside it.
    fs::write(&home, &before).unwrap();
    for ((from, _), segment) in copies.iter().zip(SEGMENTS) {
        fs::copy(from, sample.vault.join("private").join(segment)).unwrap();
    }
    sample.with(|_| ());
    assert!(sample.content("one") == with_change(1) && sample.content("two") == with_change(2));
    // What is kept already is not kept again.
    assert!(kept(&sample) == copies);
    for (path, _) in copies {
        fs::remove_file(path).unwrap();
    }
    let (summary, findings) = sample.verify();
    assert!(summary.is_whole() && findings.is_empty(), "{findings:#?}");
}

/// The copy of an earlier state of the same journal does not stand for a later one, which has more.
#[test]
fn a_later_state_of_the_same_journal_is_kept_too() {
    let (sample, older) = sealed();
    let vault = Vault::open(sample.storage(), sample.keys(), Mode::ReadWrite).unwrap();
    let states = [b"one", b"two"].map(|name| {
        let file = vault.root().open_file(name).unwrap();
        file.write(5000, b"changed").unwrap();
        file.sync().unwrap();
        segments(&sample)
    });
    drop(vault);
    assert!(states[0][0][..4096] == states[1][0][..4096] && states[0][0] != states[1][0]);
    for state in &states {
        for (segment, content) in SEGMENTS.iter().zip(state) {
            fs::write(sample.vault.join("private").join(segment), content).unwrap();
        }
        fs::write(sample.backing("one"), &older).unwrap();
        sample.with(|vault| assert!(vault.recovery().unwrap().copy_kept));
    }
    for state in states.as_flattened() {
        assert!(kept(&sample).iter().any(|(_, content)| content == state));
    }
}

/// "A copy of a damaged journal goes to `private/lost` first."
#[test]
fn a_repair_keeps_one_copy() {
    let (sample, _) = killed();
    // The record of the first file, which later ones knew to be synced.
    flip(&sample.vault.join("private/journal.0"), 4096 + 100);
    let journal = segments(&sample);
    super::repair::repair(&sample, false);
    assert!(kept(&sample).iter().map(|(_, content)| content).eq(&journal));
}

#[test]
fn a_whole_journal_is_not_kept() {
    let (sample, _) = killed();
    sample.with(|vault| assert!(!vault.recovery().unwrap().copy_kept));
    assert!(kept(&sample).is_empty());
    assert!(sample.content("one") == with_change(1));
}

//! Damaged, cut, foreign, stale and spliced journals: what verifies is replayed, the rest is reported, and an older
//! state is never shown without a word.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sero::storage::sim::Snapshot;
use sero::storage::{Fault, SimDisk};
use sero::vault::{Mode, ROOM_TO_MOUNT_BYTES, VaultError};

use super::budget::scale;
use super::check::{End, Violation, explain, look};
use super::explore::{POLICIES, run};
use super::model::Model;
use super::ops::{BLOB, INNER, Op, PAGED};
use super::random::Random;
use super::world::{Prepared, prepare, prepared};

const SEGMENTS: [&str; 2] = ["private/journal.0", "private/journal.1"];

/// A disk whose vault was killed, with a journal in which everything is synced. What the last record alone says may
/// be lost: that it was damaged cannot be told from that it was never whole. It is about the file `INNER`.
fn killed(prepared: &Prepared, ops: &[Op]) -> (Snapshot, Model) {
    let world = run(prepared, ops).unwrap_or_else(|violation| panic!("{violation}")).expect("it makes sense");
    let (mut world, is_sealed) = (world, ops.last() == Some(&Op::Seal));
    let mut model = world.model.clone();
    if !is_sealed {
        world.apply(&Op::Write { path: INNER, at: 40_000, len: 10 }).expect("it is written");
        model = world.model.clone();
        world.apply(&Op::Fsync(INNER)).expect("it is synced");
    }
    let disk = world.disk.kill();
    disk.settle();
    (disk.snapshot(), model)
}

fn one_segment() -> Vec<Op> {
    vec![
        Op::Write { path: PAGED, at: 5000, len: 9000 },
        Op::Fsync(PAGED),
        Op::Write { path: BLOB, at: 0, len: 3000 },
        Op::Fsync(BLOB),
        Op::Write { path: INNER, at: 4096, len: 4096 },
        Op::Fsync(INNER),
        Op::Write { path: PAGED, at: 5000, len: 5000 },
        Op::Fsync(PAGED),
        Op::Fsync(BLOB),
    ]
}

fn two_segments() -> Vec<Op> {
    let mut ops = one_segment();
    ops.extend([
        Op::Checkpoint,
        Op::Write { path: PAGED, at: 30_000, len: 9000 },
        Op::Fsync(PAGED),
        Op::Write { path: BLOB, at: 0, len: 1000 },
        Op::Fsync(BLOB),
        Op::Sync,
    ]);
    ops
}

/// What opening a disk with a tampered journal came to.
enum Outcome {
    /// An error, or a report: nobody is misled.
    Said,
    /// All that was synced is there.
    Whole,
    /// Something older is shown, and nothing was said.
    Silent(String),
}

fn outcome(prepared: &Prepared, disk: &SimDisk, model: &Model) -> Result<Outcome, Violation> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let vault = match prepared.open(disk) {
            Ok(vault) => vault,
            Err(_) => return Ok(Outcome::Said),
        };
        let said = vault.recovery().is_some_and(|recovery| !recovery.stale.is_empty() || !recovery.damage.is_empty());
        let found = match look(&vault) {
            Ok(found) => found,
            // An integrity error names the file.
            Err(reason) if reason.contains("integrity") => return Ok(Outcome::Said),
            Err(reason) => return Err(reason),
        };
        match explain(model, &found, End::PowerCut) {
            Ok(()) => Ok(Outcome::Whole),
            Err(_) if said => Ok(Outcome::Said),
            Err(reason) => Ok(Outcome::Silent(reason)),
        }
    }));
    opened.unwrap_or_else(|_| Err("a panic (see above)".into()))
}

/// Where records begin and end is not known here: so every length and every block.
fn tamper_with_all(
    what: &str,
    prepared: &Prepared,
    (snapshot, model): &(Snapshot, Model),
    attacks: impl IntoIterator<Item = (String, Box<dyn Fn(&SimDisk)>)>,
) -> Result<Vec<String>, Violation> {
    let mut silent = Vec::new();
    for (name, attack) in attacks {
        let disk = snapshot.to_disk();
        attack(&disk);
        match outcome(prepared, &disk, model).map_err(|reason| format!("{what}, {name}: {reason}"))? {
            Outcome::Said | Outcome::Whole => {}
            Outcome::Silent(reason) => silent.push(format!("{what}, {name}: {reason}")),
        }
    }
    Ok(silent)
}

type Attack = (String, Box<dyn Fn(&SimDisk)>);

fn bit_flips(blocks: u64, count: u64) -> Vec<Attack> {
    let mut random = Random::new(3);
    let mut attacks: Vec<Attack> = Vec::new();
    for segment in SEGMENTS {
        for _ in 0..count {
            let (at, bit) = (random.below(blocks * 4096), random.below(8));
            attacks.push((
                format!("bit {bit} of byte {at} (block {}) of {segment} flipped", at / 4096),
                Box::new(move |disk| {
                    if let Ok(bytes) = disk.raw_read(segment) {
                        let _ = disk.raw_write_at(segment, at, &[bytes[at as usize] ^ (1 << bit)]);
                    }
                }),
            ));
        }
    }
    attacks
}

fn lost_blocks(blocks: u64) -> Vec<Attack> {
    let mut attacks: Vec<Attack> = Vec::new();
    for segment in SEGMENTS {
        for block in 0..blocks {
            attacks.push((
                format!("block {block} of {segment} zeroed"),
                Box::new(move |disk| {
                    if disk.raw_stat(segment).is_ok() {
                        let _ = disk.raw_write_at(segment, block * 4096, &[0; 4096]);
                    }
                }),
            ));
            attacks.push((
                format!("{segment} cut in block {block}"),
                Box::new(move |disk| {
                    let _ = disk.raw_set_len(segment, block * 4096 + 1000);
                }),
            ));
            attacks.push((
                format!("{segment} cut before block {block}"),
                Box::new(move |disk| {
                    let _ = disk.raw_set_len(segment, block * 4096);
                }),
            ));
        }
        attacks.push((
            format!("{segment} removed"),
            Box::new(move |disk| {
                let _ = disk.raw_remove(segment);
            }),
        ));
    }
    attacks.push((
        "the segments exchanged".into(),
        Box::new(|disk| {
            let (first, second) = (disk.raw_read(SEGMENTS[0]), disk.raw_read(SEGMENTS[1]));
            if let (Ok(first), Ok(second)) = (first, second) {
                let _ = disk.raw_write(SEGMENTS[0], &second);
                let _ = disk.raw_write(SEGMENTS[1], &first);
            }
        }),
    ));
    attacks
}

fn put_journal(from: &SimDisk, to: &SimDisk, segments: &[&str]) {
    for segment in segments {
        match from.raw_read(segment) {
            Ok(bytes) => to.raw_write(segment, &bytes).expect("it is written"),
            Err(_) => {
                let _ = to.raw_remove(segment);
            }
        }
    }
}

/// A journal of an older session put beside a vault that went on.
fn stale() -> Result<(), Violation> {
    let (old, _) = killed(prepared(), &one_segment());
    let mut newer = one_segment();
    newer.extend([
        Op::Seal,
        Op::Write { path: PAGED, at: 0, len: 20_000 },
        Op::Write { path: BLOB, at: 0, len: 2000 },
        Op::Write { path: INNER, at: 0, len: 20_000 },
        Op::Seal,
    ]);
    let (new, model) = killed(prepared(), &newer);
    let (old, disk) = (old.to_disk(), new.to_disk());
    put_journal(&old, &disk, &SEGMENTS);
    let vault = prepared().open(&disk).map_err(|error| format!("a stale journal: {error}"))?;
    let found = look(&vault)?;
    explain(&model, &found, End::PowerCut).map_err(|reason| format!("a stale journal was replayed: {reason}"))?;
    match vault.recovery() {
        Some(recovery) if recovery.stale.len() + recovery.gone >= 3 => Ok(()),
        other => Err(format!("a stale journal is not reported: {other:?}")),
    }
}

/// A disk whose vault was killed while a checkpoint waited for room: both segments count, and other files changed in each.
pub fn both_count() -> (Snapshot, Model) {
    for pages in 1..60 {
        let mut world = prepared().world();
        for op in &one_segment()[..4] {
            world.apply(op).expect("it is done");
        }
        world.disk.inject(Fault::NoSpace { after_bytes: pages * 4096 });
        let waits = world.apply(&Op::Checkpoint).is_err();
        world.disk.clear_faults();
        if !waits || world.vault().is_read_only() {
            continue;
        }
        for op in [Op::Write { path: INNER, at: 4096, len: 9000 }, Op::Fsync(INNER), Op::Fsync(INNER)] {
            world.apply(&op).expect("it is done");
        }
        let model = world.model.clone();
        let disk = world.disk.kill();
        disk.settle();
        let snapshot = disk.snapshot();
        let records = |without: &[&str]| {
            let disk = snapshot.to_disk();
            without.iter().for_each(|segment| disk.raw_remove(segment).expect("it is there"));
            let vault = prepared().open_as(&disk, Mode::ReadOnly).expect("it opens");
            vault.recovery().map_or(0, |recovery| recovery.records)
        };
        let [all, first, second] = [records(&[]), records(&SEGMENTS[1..]), records(&SEGMENTS[..1])];
        if first > 0 && second > 0 && all == first + second {
            return (snapshot, model);
        }
    }
    panic!("no full disk stops a checkpoint between the two");
}

/// The older of two segments that count, taken away: what is left is no state that the vault ever had, and that is said,
/// also after a crash in the recovery.
fn taken_away() -> Result<(), Violation> {
    let (snapshot, _) = both_count();
    let (older_session, _) = killed(prepared(), &two_segments());
    let earlier = older_session.to_disk().raw_read(SEGMENTS[0]).map_err(|error| error.to_string())?;
    let ways: [(&str, Box<dyn Fn(&SimDisk)>); 4] = [
        ("removed", Box::new(|disk| disk.raw_remove(SEGMENTS[0]).expect("it is there"))),
        ("emptied", Box::new(|disk| disk.raw_set_len(SEGMENTS[0], 0).expect("it is there"))),
        ("without its header", Box::new(|disk| disk.raw_write_at(SEGMENTS[0], 20, &[0; 512]).expect("it is there"))),
        ("of another session", Box::new(move |disk| disk.raw_write(SEGMENTS[0], &earlier).expect("it is there"))),
    ];
    for (way, attack) in ways {
        let disk = snapshot.to_disk();
        attack(&disk);
        let vault = prepared().open_as(&disk, Mode::ReadOnly).map_err(|error| format!("{way}: {error}"))?;
        let said = |recovery: Option<&sero::vault::Recovery>| recovery.is_some_and(|found| !found.damage.is_empty());
        if !said(vault.recovery()) {
            return Err(format!("the older segment {way}, and nothing is said: {:?}", vault.recovery()));
        }
        drop(vault);
        let tampered = disk.snapshot();
        // Nothing that was not replayed is gone, whenever the recovery crashed, and nothing is kept twice.
        let before = SEGMENTS.map(|segment| tampered.to_disk().raw_read(segment).unwrap_or_default());
        let newer = tampered.to_disk().raw_read(SEGMENTS[1]).map_err(|error| error.to_string())?;
        let is_kept = |disk: &SimDisk| kept(disk).iter().any(|(_, copy)| *copy == newer);
        for step in 1.. {
            let disk = tampered.to_disk();
            disk.set_crash_at(step);
            if let Ok(vault) = prepared().open(&disk) {
                if !said(vault.recovery()) || !is_kept(&disk) {
                    return Err(format!("the older segment {way}, and a mount says nothing, or keeps no copy"));
                }
                break;
            }
            let after = disk.crash(&POLICIES[step as usize % POLICIES.len()].1, step);
            // As long as the newer segment is there, and no journal of the next session in its place.
            let header =
                |disk: &SimDisk| disk.raw_read(SEGMENTS[1]).ok().and_then(|bytes| Some(bytes.get(..128)?.to_vec()));
            let is_there = header(&after) == header(&tampered.to_disk());
            let vault = prepared().open(&after).map_err(|error| format!("{way}, crashed at step {step}: {error}"))?;
            if is_there && !said(vault.recovery()) {
                return Err(format!("the older segment {way}: nothing is said after a crash at step {step}"));
            }
            if !is_kept(&after) {
                return Err(format!("the older segment {way}: no copy is kept after a crash at step {step}"));
            }
            let copies = kept(&after).len();
            if copies != before.iter().filter(|segment| !segment.is_empty()).count() {
                return Err(format!("the older segment {way}: {copies} copies after a crash at step {step}"));
            }
        }
    }
    Ok(())
}

/// What is in `private/lost`.
fn kept(disk: &SimDisk) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = disk.raw_list().into_iter().filter(|entry| entry.path.starts_with("private/lost"));
    entries.filter_map(|entry| Some((entry.path.clone(), disk.raw_read(&entry.path).ok()?))).collect()
}

/// A disk with the newer of two segments that count, and what that holds.
fn older_taken_away() -> (SimDisk, Vec<u8>) {
    let (snapshot, _) = both_count();
    let disk = snapshot.to_disk();
    disk.raw_remove(SEGMENTS[0]).expect("it is there");
    let newer = disk.raw_read(SEGMENTS[1]).expect("it is there");
    (disk, newer)
}

/// "Where there is no room for the copy, the vault is not mounted for writing."
#[test]
fn without_room_for_a_copy_a_damaged_journal_stays() {
    let (disk, newer) = older_taken_away();
    let mut needed_bytes = 0;
    for pages in [0, 4, 100, 500] {
        disk.set_capacity(Some(disk.used_bytes() + pages * 4096));
        let refused = prepared().open(&disk).err();
        let Some(VaultError::NoRoomForCopy { needed_bytes: bytes, .. }) = refused else {
            panic!("{pages} pages: {refused:?}");
        };
        let text = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains(&format!("{} MiB at least", bytes.div_ceil(1 << 20))), "{text}");
        assert!(text.contains("--read-only"), "{text}");
        assert!(disk.raw_read(SEGMENTS[1]).is_ok_and(|bytes| bytes == newer) && kept(&disk).is_empty());
        assert!((newer.len() as u64..=newer.len() as u64 + ROOM_TO_MOUNT_BYTES).contains(&bytes), "{bytes}");
        needed_bytes = bytes;
        // The way out that it names.
        let vault = prepared().open_as(&disk, Mode::ReadOnly).expect("it takes no room");
        look(&vault).expect("it can be read");
    }
    // What it says is enough.
    disk.set_capacity(Some(disk.used_bytes() + needed_bytes));
    let vault = prepared().open(&disk).expect("there is room");
    assert!(vault.recovery().is_some_and(|recovery| recovery.copy_kept));
    assert!(kept(&disk).iter().map(|(_, copy)| copy).eq([&newer]));
}

/// "A mount that is killed, or fails, and is tried again keeps no second copy of the same."
#[test]
fn a_recovery_that_fails_again_and_again_keeps_one_copy() {
    let (disk, newer) = older_taken_away();
    let mut snapshot = disk.snapshot();
    let mut changed = 0;
    for step in 1.. {
        let disk = snapshot.to_disk();
        disk.set_crash_at(step);
        let is_open = prepared().open(&disk).is_ok();
        let copies = kept(&disk);
        if is_open {
            assert!(copies.iter().map(|(_, copy)| copy).eq([&newer]), "the journal as it was before the first of them");
            break;
        }
        // Each goes on with what the one before has left.
        let after = disk.crash(&POLICIES[step as usize % POLICIES.len()].1, step);
        let is_changed = after.raw_read(SEGMENTS[1]).is_ok_and(|bytes| bytes != newer);
        changed += usize::from(is_changed);
        let names =
            kept(&after).into_iter().filter(|(path, _)| !path.ends_with("copy.new") && path.extension().is_some());
        let names: Vec<_> = names.map(|(path, _)| path).collect();
        assert!(names.len() <= 1, "step {step}: {names:?}");
        snapshot = after.snapshot();
    }
    assert!(changed > 1, "it is seldom that a recovery finds a changed segment");
}

/// What the mutation check needs of this.
pub fn quick() -> Result<(), Violation> {
    stale()?;
    taken_away()
}

#[test]
fn the_older_of_two_segments_is_missed() {
    taken_away().unwrap_or_else(|violation| panic!("{violation}"));
}

/// A file of the journal put back, from before its last use: the newer segment tells, and is not left out for it.
#[test]
fn a_segment_of_an_earlier_use_is_left_out() {
    let mut world = prepared().world();
    let mut earlier = Vec::new();
    for round in 0..4 {
        let write = Op::Write { path: [PAGED, BLOB][round % 2], at: 0, len: 2000 };
        for op in [write, Op::Fsync([PAGED, BLOB][round % 2]), Op::Sync, Op::Checkpoint] {
            world.apply(&op).expect("it is done");
        }
        earlier.push(world.disk.snapshot());
    }
    // The fifth use is that of the first file. The fourth is retired: all is home.
    for op in [Op::Write { path: INNER, at: 0, len: 100 }, Op::Fsync(INNER), Op::Fsync(INNER)] {
        world.apply(&op).expect("it is done");
    }
    let model = world.model.clone();
    let disk = world.disk.kill();
    disk.settle();
    let second = earlier[0].to_disk().raw_read(SEGMENTS[1]).expect("it is there");
    disk.raw_write(SEGMENTS[1], &second).expect("it is written");
    let vault = prepared().open_as(&disk, Mode::ReadOnly).expect("it opens");
    let recovery = vault.recovery().expect("it was killed");
    assert!(recovery.damage.iter().any(|text| text.contains("earlier use")), "{recovery}");
    let found = look(&vault).expect("it can be read");
    explain(&model, &found, End::PowerCut).expect("the newer segment was replayed");
}

#[test]
fn a_journal_of_an_older_session_is_refused() {
    stale().unwrap_or_else(|violation| panic!("{violation}"));
}

/// It brings the crash window of its session back: that excuses nothing that was there before the session.
#[test]
fn a_journal_of_an_older_session_excuses_no_damage() {
    let (old, _) = killed(prepared(), &one_segment());
    let (sealed, _) = killed(prepared(), &[Op::Write { path: PAGED, at: 0, len: 10 }, Op::Seal]);
    for at in [0, 40, 200] {
        let disk = sealed.to_disk();
        put_journal(&old.to_disk(), &disk, &SEGMENTS);
        for home in disk.raw_list().into_iter().filter(|entry| entry.path.starts_with("tree")) {
            if home.kind == sero::storage::FileKind::Regular {
                disk.raw_write_at(&home.path, at, &[0; 20]).expect("it is written");
            }
        }
        let vault = prepared().open(&disk).expect("it opens");
        // Not of the blob: the journal has the whole of it, as it was then.
        let read = vault.root().open_file(PAGED.as_bytes()).and_then(|file| file.read(0, &mut [0; 100]));
        assert!(matches!(read, Err(VaultError::Integrity(_))), "byte {at}: {read:?}");
    }
}

#[test]
fn a_journal_of_another_vault_is_left_out() {
    let other = prepare(&[]);
    let (foreign, _) = killed(&other, &two_segments());
    // Beside a sealed vault, it changes nothing.
    let (sealed, model) = killed(prepared(), &[Op::Write { path: PAGED, at: 0, len: 10 }, Op::Seal]);
    let disk = sealed.to_disk();
    put_journal(&foreign.to_disk(), &disk, &SEGMENTS);
    let vault = prepared().open(&disk).expect("it opens");
    let found = look(&vault).expect("it can be read");
    explain(&model, &found, End::PowerCut).expect("nothing was replayed");
    drop(vault);
    // In the place of its own journal, it must not hide that synced changes are gone.
    let (own, model) = killed(prepared(), &two_segments());
    for segments in [&SEGMENTS[..1], &SEGMENTS[1..], &SEGMENTS[..]] {
        let disk = own.to_disk();
        put_journal(&foreign.to_disk(), &disk, segments);
        match outcome(prepared(), &disk, &model).expect("no panic, no garbage") {
            Outcome::Said | Outcome::Whole => {}
            // The newest segment is as good as removed: the session is rolled back, which nothing in it can tell.
            Outcome::Silent(_) if segments.contains(&SEGMENTS[1]) => {}
            Outcome::Silent(reason) => panic!("{segments:?} of another vault: {reason}"),
        }
    }
}

#[test]
fn segments_of_two_sessions_are_not_mixed() {
    let (first, _) = killed(prepared(), &two_segments());
    let mut more = two_segments();
    more.push(Op::Seal);
    more.extend(two_segments());
    let (second, model) = killed(prepared(), &more);
    for segment in SEGMENTS {
        let disk = second.to_disk();
        put_journal(&first.to_disk(), &disk, &[segment]);
        match outcome(prepared(), &disk, &model).expect("no panic, no garbage") {
            Outcome::Said | Outcome::Whole => {}
            Outcome::Silent(reason) => panic!("{segment} of an older session: {reason}"),
        }
    }
}

#[test]
fn damage_is_reported_and_the_rest_replayed() {
    let mut silent = Vec::new();
    for (what, ops) in [("one segment", one_segment()), ("two segments", two_segments())] {
        let case = killed(prepared(), &ops);
        let attacks = bit_flips(30, 40 * scale()).into_iter().chain(lost_blocks(30));
        // Without its header the newest segment is as good as removed, and the session rolled back.
        let newest = if what == "one segment" { SEGMENTS[0] } else { SEGMENTS[1] };
        let rolled_back = [
            format!("block 0 of {newest} zeroed"),
            format!("{newest} cut in block 0"),
            format!("{newest} cut before block 0"),
            format!("{newest} removed"),
        ];
        let mut found =
            tamper_with_all(what, prepared(), &case, attacks).unwrap_or_else(|violation| panic!("{violation}"));
        found.retain(|reason| !rolled_back.iter().any(|known| reason.contains(known)));
        silent.extend(found);
    }
    assert!(silent.is_empty(), "an older state was shown without a word:\n{}", silent.join("\n"));
}

//! Beside a checkpoint that is not over, and after a sync that failed for somebody else.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sero::storage::{Fault, SetTime, Timestamp};
use sero::vault::VaultError;

use super::check::Violation;
use super::explore::{Depth, POLICIES, explore};
use super::ops::{BLOB, BLOB_LEN, INNER, Op, PAGED, PAGED_LEN};
use super::world::{World, prepared};

fn apply(world: &mut World, ops: &[Op]) {
    for op in ops {
        world.apply(op).unwrap_or_else(|stop| panic!("{op:?}: {stop:?}"));
    }
}

fn must_survive(ops: &[Op]) {
    let outcome: Result<(), Violation> = explore(prepared(), ops, Depth { states: 2, seed: 1 });
    outcome.unwrap_or_else(|violation| panic!("{violation}"));
}

/// Recovery brought the time home that the segment had for it, over a newer one that was synced.
#[test]
fn a_time_that_was_set_beside_a_checkpoint_is_kept() {
    let time = Timestamp { seconds: 1_234_567_890, nanoseconds: 5 };
    let same_size = Op::Truncate { path: PAGED, size: PAGED_LEN };
    for (path, change) in [
        (PAGED, Op::Write { path: PAGED, at: 100, len: 50 }),
        (BLOB, Op::Write { path: BLOB, at: 100, len: 50 }),
        // Nothing of it has an image.
        (PAGED, same_size),
    ] {
        let mut world = prepared().world();
        // So that the checkpoint is held in any case.
        apply(&mut world, &[Op::Write { path: INNER, at: 0, len: 9000 }, change, Op::Fsync(path), Op::HeldCheckpoint]);
        let vault = world.vault().clone();
        let file = vault.root().open_file(path.as_bytes()).expect("it opens");
        file.set_times(SetTime::Keep, SetTime::To(time)).expect("set_times");
        file.sync().expect("sync");
        for (name, policy) in POLICIES {
            for seed in 0..4 {
                let disk = world.disk.crash(&policy, seed);
                let vault = prepared().open(&disk).expect("it opens");
                let found = vault.root().lookup(path.as_bytes()).expect("it is there").mtime;
                assert_eq!(found, time, "{path}, {name}, seed {seed}");
            }
        }
    }
}

/// `fsync` asked for room in a journal that has none, although it had all of the file.
#[test]
fn what_the_journal_has_can_be_synced_on_a_full_disk() {
    let mut world = prepared().world();
    apply(&mut world, &[Op::Write { path: PAGED, at: 0, len: 5000 }, Op::HeldCheckpoint]);
    world.disk.inject(Fault::NoSpaceBelow { folder: "tree" });
    let vault = world.vault().clone();
    let (full, other) =
        (vault.root().open_file(BLOB.as_bytes()).unwrap(), vault.root().open_file(PAGED.as_bytes()).unwrap());
    other.write(9000, b"accepted").expect("there is room yet");
    let refused = (0..100_000).find_map(|turn| full.write(turn % 100, b"again").err());
    assert!(matches!(refused, Some(VaultError::Io { .. })), "{refused:?}");
    other.sync().expect("all of it is in the journal");
    drop((full, other, vault));
    world.disk.clear_faults();
    for (name, policy) in POLICIES {
        let vault = prepared().open(&world.disk.crash(&policy, 1)).expect("it opens");
        let mut found = [0; 8];
        vault.root().open_file(PAGED.as_bytes()).unwrap().read(9000, &mut found).unwrap();
        assert_eq!(&found, b"accepted", "{name}");
    }
}

/// Part of a new file was made durable in the background, the rest is home and not yet.
#[test]
fn what_replaces_another_file_is_all_there() {
    let replaced = [
        Op::Create("new"),
        Op::Append { path: "new", len: 100_000 },
        Op::Sync,
        Op::Append { path: "new", len: 400_000 },
        Op::Close("new"),
        Op::Rename("new", BLOB),
    ];
    for (name, policy) in POLICIES {
        for seed in 0..6 {
            let mut world = prepared().world();
            apply(&mut world, &replaced);
            let vault = prepared().open(&world.disk.crash(&policy, seed)).expect("it opens");
            let size = vault.root().open_file(BLOB.as_bytes()).expect("it is there").len_bytes();
            assert!(size == BLOB_LEN || size == 500_000, "{size} bytes: {name}, seed {seed}");
        }
    }
}

/// The kernel tells of an error once. What comes after must not say that all is well.
#[test]
fn no_sync_succeeds_after_one_that_failed() {
    let mut world = prepared().world();
    apply(&mut world, &[Op::Create("new"), Op::Append { path: "new", len: 9000 }, Op::Close("new"), Op::Mkdir("made")]);
    let vault = world.vault().clone();
    let root = vault.root();
    world.disk.inject(Fault::SyncError { nth: 1 });
    assert!(vault.sync().is_err());
    world.disk.clear_faults();
    assert!(matches!(root.sync(), Err(VaultError::ReadOnly)));
    assert!(matches!(root.open_file(PAGED.as_bytes()).unwrap().sync(), Err(VaultError::ReadOnly)));
    assert!(matches!(vault.sync(), Err(VaultError::ReadOnly)));
    assert!(matches!(vault.sync_names(), Err(VaultError::ReadOnly)));
    assert!(matches!(vault.checkpoint(), Err(VaultError::ReadOnly)));
}

/// Of two who sync one file at once the kernel tells one of an error.
#[test]
fn no_sync_succeeds_beside_one_that_fails() {
    let mut world = prepared().world();
    apply(&mut world, &[Op::Write { path: PAGED, at: 0, len: 5000 }]);
    let vault = world.vault().clone();
    let file = vault.root().open_file(PAGED.as_bytes()).expect("it opens");
    let ((arrived, has_arrived), (go, may_go)) = (mpsc::channel(), mpsc::channel());
    world.disk.before_sync_file(move || {
        let _ = arrived.send(());
        let _ = may_go.recv();
    });
    thread::scope(|scope| {
        let checkpoint = scope.spawn(|| vault.checkpoint());
        has_arrived.recv().expect("the checkpoint syncs the file");
        let (done, is_done) = mpsc::channel();
        let beside = scope.spawn(move || {
            // New pages go straight home, and are synced there before the journal speaks of them.
            let wrote = file.write(PAGED_LEN, &vec![7; 100_000]);
            let outcome = wrote.and_then(|()| file.sync());
            let _ = done.send(());
            outcome
        });
        // As long as a sync that does not wait for the other would take, and more.
        let _ = is_done.recv_timeout(Duration::from_millis(300));
        world.disk.inject(Fault::SyncError { nth: 1 });
        go.send(()).expect("the checkpoint waits");
        assert!(checkpoint.join().expect("no panic").is_err());
        assert!(beside.join().expect("no panic").is_err(), "what was written beside it may be gone");
    });
}

/// As long as the disk takes, whoever read or wrote the file waited for the checkpoint that brought it home.
#[test]
fn nobody_waits_for_the_sync_of_a_checkpoint() {
    let mut world = prepared().world();
    apply(&mut world, &[Op::Write { path: PAGED, at: 0, len: 5000 }]);
    let vault = world.vault().clone();
    let file = vault.root().open_file(PAGED.as_bytes()).expect("it opens");
    let (done, is_done) = mpsc::channel();
    world.disk.before_sync_file(move || {
        let (beside, went_on) = mpsc::channel();
        thread::spawn(move || {
            let mut found = [0; 4];
            let outcome = file.write(3, b"1234").and_then(|()| file.read(3, &mut found));
            let _ = beside.send(outcome.map(|_| found));
        });
        let _ = done.send(went_on.recv_timeout(Duration::from_secs(30)));
    });
    vault.checkpoint().expect("a checkpoint");
    let found = is_done.recv().expect("the checkpoint syncs the file").expect("nobody waits").expect("no error");
    assert_eq!(&found, b"1234");
}

/// A checkpoint reads on over what it does not want. Where that cannot be read, it reads what it wants alone.
#[test]
fn a_bad_sector_between_images_costs_nothing() {
    let mut world = prepared().world();
    // Twice: what the first write left in the journal lies between.
    apply(&mut world, &[Op::Write { path: PAGED, at: 0, len: 20_000 }, Op::Write { path: PAGED, at: 4096, len: 8192 }]);
    let vault = world.vault().clone();
    let mut before = [0; 20_000];
    vault.root().open_file(PAGED.as_bytes()).unwrap().read(0, &mut before).expect("it reads");
    world.disk.inject(Fault::ReadError { nth: 1 });
    vault.checkpoint().expect("a checkpoint");
    let mut found = [0; 20_000];
    vault.root().open_file(PAGED.as_bytes()).unwrap().read(0, &mut found).expect("it reads");
    assert!(before == found);
}

/// What a checkpoint gives back of holes, with the nodes above them: never what the state needs to which a crash goes back,
/// also where more became holes since that is not durable.
#[test]
fn what_is_given_back_beside_newer_holes_is_needed_by_nobody() {
    let page = |page: u64| page * 4096;
    let punch = |first: u64, end: u64| Op::Punch { path: PAGED, at: page(first), len: page(end - first) };
    let long = Op::Append { path: PAGED, len: 1_200_000 };
    let write = |first: u64| Op::Write { path: PAGED, at: page(first), len: 9000 };
    // A whole leaf, written to again before the checkpoint and dropped again beside it.
    must_survive(&[long.clone(), punch(110, 260), write(130), Op::HeldCheckpoint, punch(100, 300), Op::Checkpoint]);
    // The same with steps in between that need the leaf, when they are taken again after a crash.
    let (back, beside) = ([punch(110, 260), write(130), Op::HeldCheckpoint], [punch(100, 300), Op::Checkpoint]);
    for between in [write(140), punch(135, 145)] {
        let before = [std::slice::from_ref(&long), back.as_slice()].concat();
        must_survive(&[before, vec![between, Op::Fsync(PAGED)], beside.to_vec()].concat());
    }
    // Part of what a leaf covers, holes already, so that the checkpoint has no image of the leaf; all of it beside that.
    must_survive(&[
        long,
        punch(240, 300),
        Op::Checkpoint,
        punch(240, 300),
        write(0),
        Op::HeldCheckpoint,
        punch(240, 500),
        Op::Checkpoint,
    ]);
}

/// A file of a terabyte with nothing in it was looked through page by page, whenever somebody looked at it.
#[test]
fn a_large_hole_in_a_crash_window_is_passed_at_once() {
    let mut world = prepared().world();
    apply(&mut world, &[Op::Create("new"), Op::Append { path: "new", len: 20_000 }]);
    let file = world.vault().root().open_file(b"new").expect("it opens");
    file.truncate(1 << 40).expect("it is extended");
    file.write((1 << 40) - 100, &[7; 100]).expect("it is written");
    file.commit().expect("it is committed");
    drop(file);
    let disk = world.disk.kill();
    let vault = prepared().open(&disk).expect("it opens");
    let file = vault.root().open_file(b"new").expect("it opens");
    assert_eq!(file.len_bytes(), 1 << 40);
    let mut end = [0; 100];
    file.read((1 << 40) - 100, &mut end).expect("it reads");
    assert_eq!(end, [7; 100]);
}

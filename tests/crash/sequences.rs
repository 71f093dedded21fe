//! All short sequences of operations, crashed everywhere.

use std::sync::atomic::Ordering;

use super::budget::{STATES, first_seed, scale};
use super::explore::{Depth, explore};
use super::ops::{BLOB, BLOB_MAX, DIR, INNER, LONG, Op, PAGED};
use super::world::prepared;

/// What is combined in threes.
fn small() -> Vec<Op> {
    vec![
        Op::Write { path: PAGED, at: 8192 - 10, len: 20 },
        Op::Append { path: PAGED, len: 65_536 },
        Op::Truncate { path: PAGED, size: 0 },
        Op::Truncate { path: PAGED, size: 20_000 },
        Op::Fsync(PAGED),
        Op::Checkpoint,
        Op::Write { path: BLOB, at: 10, len: 100 },
        Op::Create("new"),
        Op::Rename("new", BLOB),
    ]
}

/// What is combined in twos.
fn large() -> Vec<Op> {
    let mut ops = small();
    ops.extend([
        Op::Write { path: PAGED, at: 0, len: 4096 },
        Op::Write { path: PAGED, at: 118 * 4096 + 100, len: 9000 },
        Op::Append { path: PAGED, len: 100 },
        Op::Append { path: PAGED, len: 300_000 },
        Op::Append { path: BLOB, len: 10 },
        Op::Append { path: BLOB, len: 20_000 },
        Op::Append { path: BLOB, len: 100_000 },
        Op::Append { path: "new", len: 100 },
        Op::Append { path: "new", len: 30_000 },
        Op::Truncate { path: PAGED, size: BLOB_MAX },
        Op::Truncate { path: PAGED, size: BLOB_MAX + 1 },
        Op::Truncate { path: PAGED, size: 119 * 4096 },
        Op::Truncate { path: PAGED, size: 700_001 },
        Op::Truncate { path: BLOB, size: 0 },
        Op::Truncate { path: BLOB, size: BLOB_MAX + 5 },
        Op::Punch { path: PAGED, at: 5000, len: 100_000 },
        Op::Punch { path: PAGED, at: 117 * 4096, len: 8 * 4096 },
        Op::HeldCheckpoint,
        Op::SetTimes(PAGED),
        Op::Fsync(BLOB),
        Op::Fsync("new"),
        Op::Close("new"),
        Op::Close(PAGED),
        Op::Rename(PAGED, "elsewhere"),
        Op::Rename(PAGED, BLOB),
        Op::Rename(DIR, "moved"),
        Op::Rename(INNER, "out"),
        Op::Rename(BLOB, LONG),
        Op::Exchange(BLOB, PAGED),
        Op::Link(PAGED, "dir/link"),
        Op::Unlink(PAGED),
        Op::UnlinkOpen(PAGED),
        Op::WriteOrphan { at: 100, len: 5000 },
        Op::CloseOrphan,
        Op::Unlink(BLOB),
        Op::Create(LONG),
        Op::Fsync(LONG),
        Op::Mkdir("made"),
        Op::Create("made/file"),
        Op::Fsync("made/file"),
        Op::Rmdir("made"),
        Op::SyncDir(""),
        Op::Write { path: INNER, at: 4096, len: 8192 },
        Op::Fsync(INNER),
        Op::Tick,
        Op::Sync,
        Op::Seal,
        Op::ShortSession,
    ]);
    ops
}

/// What is combined in twos after a file was made without a name.
fn unnamed() -> Vec<Op> {
    vec![
        Op::WriteUnnamed { at: 10, len: 5000 },
        Op::WriteUnnamed { at: 4000, len: 90_000 },
        Op::FsyncUnnamed,
        Op::LinkUnnamed("new"),
        Op::LinkUnnamed(LONG),
        Op::LinkUnnamed("made/file"),
        Op::Link("new", "dir/link"),
        Op::Append { path: "new", len: 9000 },
        Op::Fsync("new"),
        Op::SyncDir(""),
        Op::Unlink("new"),
        Op::Rename("new", BLOB),
        Op::CloseUnnamed,
        Op::CreateUnnamed,
        Op::Tick,
        Op::Checkpoint,
        Op::Rotate,
    ]
}

fn explore_all(alphabet: &[Op], len: usize, states: u64) -> (u64, Vec<String>) {
    explore_after(&[], alphabet, len, states)
}

fn explore_after(first: &[Op], alphabet: &[Op], len: usize, states: u64) -> (u64, Vec<String>) {
    let mut violations = Vec::new();
    let mut sequences = 0;
    let total = alphabet.len().pow(len as u32);
    for number in 0..total {
        let mut rest = number;
        let combined = (0..len).map(|_| {
            let op = alphabet[rest % alphabet.len()].clone();
            rest /= alphabet.len();
            op
        });
        let ops: Vec<Op> = first.iter().cloned().chain(combined).collect();
        sequences += 1;
        let depth = Depth { states, seed: first_seed().wrapping_add(number as u64) };
        if let Err(violation) = explore(prepared(), &ops, depth) {
            violations.push(violation);
            if violations.len() >= 10 {
                break;
            }
        }
    }
    (sequences, violations)
}

fn report(what: &str, (sequences, violations): (u64, Vec<String>)) {
    println!("{what}: {sequences} sequences; {} crash states so far in this process", STATES.load(Ordering::Relaxed));
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n\n"));
}

#[test]
fn every_operation_crashed_everywhere() {
    report("one operation", explore_all(&large(), 1, 6 * scale()));
}

#[test]
fn every_two_operations_crashed_everywhere() {
    report("two operations", explore_all(&large(), 2, 2 * scale()));
}

#[test]
fn every_three_operations_crashed_everywhere() {
    report("three operations", explore_all(&small(), 3, 2 * scale()));
}

/// While a checkpoint waits for room, or takes its time, what is written counts on top of what it brings home.
#[test]
fn beside_a_checkpoint_crashed_everywhere() {
    let write = |path, len| Op::Write { path, at: 0, len };
    let truncate = |path, size| Op::Truncate { path, size };
    let paged = [
        write(PAGED, 100),
        Op::Append { path: PAGED, len: 100_000 },
        truncate(PAGED, 100),
        truncate(PAGED, 50_000),
        Op::Punch { path: PAGED, at: 0, len: 100_000 },
        Op::SetTimes(PAGED),
        Op::Fsync(PAGED),
        Op::Unlink(PAGED),
        Op::Tick,
        Op::HeldCheckpoint,
        Op::Checkpoint,
    ];
    let blob = [
        write(BLOB, 12_000),
        write(BLOB, 100_000),
        truncate(BLOB, 1 << 17),
        Op::Append { path: BLOB, len: 10 },
        Op::Fsync(BLOB),
        Op::Tick,
        Op::Checkpoint,
    ];
    let held = |first: &[Op], then: &[Op]| [first, &[Op::HeldCheckpoint], then].concat();
    for (what, first, alphabet) in [
        ("beside a checkpoint of pages", held(&[write(PAGED, 5000)], &[]), &paged[..]),
        (
            "after appending beside one",
            held(&[write(PAGED, 5000)], &[Op::Append { path: PAGED, len: 400_000 }, Op::Fsync(PAGED)]),
            &paged,
        ),
        ("beside a checkpoint of a blob", held(&[write(BLOB, 12_000)], &[]), &blob),
        ("after emptying beside one", held(&[write(BLOB, 12_000)], &[truncate(BLOB, 0)]), &blob),
        (
            "after emptying and extending beside one",
            held(&[write(BLOB, 12_000)], &[truncate(BLOB, 0), truncate(BLOB, 1 << 20)]),
            &blob,
        ),
    ] {
        let len = if scale() > 1 { 3 } else { 2 };
        report(what, explore_after(&first, alphabet, len, 2));
    }
}

#[test]
fn a_file_without_a_name_crashed_everywhere() {
    let small = Op::WriteUnnamed { at: 0, len: 3000 };
    let large = Op::WriteUnnamed { at: 0, len: 30_000 };
    for (what, first) in [
        ("without a name", vec![Op::Mkdir("made"), Op::CreateUnnamed, small]),
        // The epoch that it was made in is durable long before it gets a name.
        (
            "without a name, for a while",
            vec![Op::Mkdir("made"), Op::CreateUnnamed, large.clone(), Op::Create("other"), Op::Tick],
        ),
        ("named", vec![Op::Mkdir("made"), Op::CreateUnnamed, large.clone(), Op::LinkUnnamed("new")]),
        // A name was refused: it is durable all the same, and its changes go through the journal.
        ("after a refused name", vec![Op::Mkdir("made"), Op::CreateUnnamed, large, Op::LinkUnnamedRefused(BLOB)]),
    ] {
        report(what, explore_after(&first, &unnamed(), 2, 2 * scale()));
    }
}

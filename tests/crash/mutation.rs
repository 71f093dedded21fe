//! Every barrier and every condition taken out in turn: the suite must notice.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sero::vault::switches::{ALL, take_out, was_met};

use super::attacks;
use super::budget::scale;
use super::cases;
use super::check::Violation;
use super::explore::{Depth, POLICIES, explore};
use super::nested;
use super::ops::{BLOB, INNER, LONG, Op, PAGED};
use super::world::{PLAIN, prepared, read_all};

/// Switches that no run on one thread can miss, with the reason.
const REDUNDANT: &[(&str, &str)] = &[
    (
        "journal.chain",
        "number, segment and place are sealed into a record; only two recoveries of one journal could mix",
    ),
    (
        "journal.lsn-continues",
        "while a checkpoint has the gate, nobody else appends to the next segment before the sync",
    ),
    (
        "checkpoint.retirement-synced-before-reuse",
        "the next switch syncs the segment with the retirement before it goes on",
    ),
    (
        "rename.all-names-are-durable",
        "a file with several names that is at none that the journal knows is looked for by its salt",
    ),
];

/// What finds it quickly.
fn targeted(switch: &str) -> Vec<Vec<Op>> {
    let write = || Op::Write { path: PAGED, at: 8000, len: 30_000 };
    let leaf = || Op::Write { path: PAGED, at: 119 * 4096, len: 9000 };
    match switch {
        "journal.sync" | "journal.images-verify" => vec![vec![write(), Op::Fsync(PAGED)]],
        "file.home-synced-before-record" => vec![vec![Op::Append { path: PAGED, len: 100_000 }, Op::Fsync(PAGED)]],
        "file.extending-is-recorded" => vec![vec![Op::Append { path: PAGED, len: 300_000 }]],
        "file.journal-not-home" => vec![vec![write()], vec![write(), Op::Fsync(PAGED)]],
        "file.dropped-is-not-fresh" => vec![
            vec![Op::Truncate { path: PAGED, size: 20_480 }, Op::Append { path: PAGED, len: 100_000 }],
            vec![
                Op::Punch { path: PAGED, at: 40_960, len: 409_600 },
                Op::Write { path: PAGED, at: 40_960, len: 200_000 },
            ],
        ],
        "file.superseded-is-synced" => {
            vec![vec![Op::Truncate { path: PAGED, size: 0 }, Op::Append { path: PAGED, len: 600_000 }]]
        }
        "file.sync-new-home" => {
            vec![vec![Op::Create("new"), Op::Append { path: "new", len: 20_000 }, Op::Fsync("new")]]
        }
        "file.base-is-synced" => vec![vec![
            Op::Create("new"),
            Op::Append { path: "new", len: 30_000 },
            Op::Close("new"),
            Op::Kill,
            Op::Write { path: "new", at: 5000, len: 10 },
            Op::Fsync("new"),
        ]],
        "rename.source-is-durable" => {
            vec![vec![Op::Create("new"), Op::Append { path: "new", len: 9000 }, Op::Rename("new", BLOB)]]
        }
        "rename.intent-is-recorded" => {
            vec![vec![write(), Op::Fsync(PAGED), Op::Rename(PAGED, "elsewhere"), Op::SyncDir("")]]
        }
        "rename.name-is-durable" => vec![
            vec![
                Op::Rename(PAGED, "elsewhere"),
                Op::Write { path: "elsewhere", at: 5000, len: 10 },
                Op::Fsync("elsewhere"),
            ],
            vec![
                Op::Rename("dir", "moved"),
                Op::Write { path: "moved/inner", at: 5000, len: 10 },
                Op::Fsync("moved/inner"),
            ],
        ],
        "rename.all-names-are-durable" => vec![vec![
            Op::Create("new"),
            Op::Tick,
            Op::Link("new", "dir/link"),
            Op::SetTimes("dir/link"),
            Op::Truncate { path: "dir/link", size: 0 },
            Op::Close("dir/link"),
            Op::Checkpoint,
            Op::Write { path: "dir/link", at: 100, len: 20 },
            Op::Tick,
        ]],
        "recovery.cache-is-synced" => vec![
            vec![Op::Create(LONG), Op::Close(LONG), Op::Kill, Op::Fsync(LONG)],
            vec![Op::Rename(INNER, "other"), Op::Kill, Op::Append { path: "other", len: 100_000 }, Op::Fsync("other")],
        ],
        "link.first-name-is-of-a-durable-file" => vec![vec![
            Op::CreateUnnamed,
            Op::WriteUnnamed { at: 0, len: 9000 },
            Op::FsyncUnnamed,
            Op::LinkUnnamed("new"),
            Op::SyncDir(""),
        ]],
        "tick.epoch-synced" => {
            vec![vec![Op::Create("new"), Op::Append { path: "new", len: 9000 }, Op::Close("new"), Op::Tick]]
        }
        "seal.everything-synced" => {
            vec![vec![Op::Rename(PAGED, "elsewhere"), Op::Seal], vec![Op::Create(LONG), Op::Seal]]
        }
        name if name.starts_with("checkpoint.") || name.starts_with("journal.") => vec![
            vec![write(), leaf(), Op::Checkpoint],
            vec![write(), leaf(), Op::Fsync(PAGED), Op::Checkpoint],
            vec![write(), Op::Write { path: INNER, at: 0, len: 9000 }, Op::Checkpoint, leaf(), Op::Fsync(PAGED)],
            vec![write(), Op::Checkpoint, leaf(), Op::Checkpoint],
            vec![write(), Op::Checkpoint, leaf(), Op::Fsync(PAGED), Op::Checkpoint, write(), Op::Fsync(PAGED)],
        ],
        _ => Vec::new(),
    }
}

/// A background sync has begun with a file, and not synced it, when somebody writes to it and syncs that; then the power goes.
fn beside_a_background_sync(switch: Option<&'static str>) -> Result<(), Violation> {
    const WRITTEN: &[u8] = b"beside it";
    for seed in 0..6 {
        let world = prepared().world();
        let vault = world.vault().clone();
        let (_, file) = vault.root().make_file(b"new", &PLAIN).map_err(|error| error.to_string())?;
        let mut expected = vec![7; 30_000];
        file.write(0, &expected).and_then(|()| file.commit()).map_err(|error| error.to_string())?;
        expected[5000..5000 + WRITTEN.len()].copy_from_slice(WRITTEN);
        let disk = Arc::new(world.disk);
        let (crashed, left) = mpsc::channel();
        disk.before_sync_all({
            let disk = Arc::clone(&disk);
            move || {
                let other = thread::spawn(move || {
                    take_out(switch);
                    let done = file.write(5000, WRITTEN).and_then(|()| file.sync());
                    for (_, policy) in POLICIES {
                        let _ = crashed.send((done.is_ok(), disk.crash(&policy, seed)));
                    }
                });
                other.join().expect("no panic");
            }
        });
        for _ in 0..3 {
            vault.tick().map_err(|error| error.to_string())?;
        }
        let mut states = 0;
        for (is_synced, disk) in left {
            states += 1;
            assert!(is_synced);
            let vault = prepared().open(&disk).map_err(|error| format!("the vault does not open: {error}"))?;
            let content = vault.root().open_file(b"new").and_then(|file| read_all(&file));
            if content.as_deref().ok() != Some(expected.as_slice()) {
                return Err(format!(
                    "what was synced beside a background sync is lost (seed {seed}): {:?}",
                    content.err()
                ));
            }
        }
        assert_eq!(states, POLICIES.len(), "nobody synced everything");
    }
    Ok(())
}

/// The first violation that is found with a switch out; `limit`: how long to look.
fn find(switch: &'static str, limit: Duration) -> Option<Violation> {
    let started = Instant::now();
    for states in [2, 8, 24] {
        for ops in targeted(switch) {
            let depth = Depth { states, seed: 11 + states };
            if let Err(violation) = explore(prepared(), &ops, depth) {
                return Some(violation);
            }
            if started.elapsed() > limit {
                return None;
            }
        }
        if let Err(violation) = attacks::quick() {
            return Some(violation);
        }
        if switch == "file.attributes-are-synced"
            && let Err(violation) = cases::mode_in_the_journal()
        {
            return Some(violation);
        }
        if switch == "recovery.retirement-synced-before-removal"
            && let Err(violation) = nested::of_two_segments()
        {
            return Some(violation);
        }
        if switch == "file.base-is-synced"
            && let Err(violation) = beside_a_background_sync(Some(switch))
        {
            return Some(violation);
        }
    }
    None
}

#[test]
fn every_switch_is_missed() {
    prepared();
    let mut survivors = Vec::new();
    for switch in ALL {
        take_out(Some(switch));
        let is_redundant = REDUNDANT.iter().any(|(name, _)| name == switch);
        let violation = find(switch, Duration::from_secs(if is_redundant { 2 } else { 20 * scale() }));
        let met = was_met();
        take_out(None);
        match violation {
            Some(violation) => println!("{switch}: missed: {}", violation.lines().last().unwrap_or_default()),
            None if is_redundant => println!("{switch}: redundant here"),
            None => survivors.push(format!("{switch} (met: {met})")),
        }
        if !met {
            survivors.push(format!("{switch} was never come across"));
        }
    }
    assert!(survivors.is_empty(), "taken out and not missed:\n{}", survivors.join("\n"));
}

#[test]
fn nothing_is_missed_while_everything_is_in_place() {
    for switch in ALL {
        for ops in targeted(switch) {
            explore(prepared(), &ops, Depth { states: 2, seed: 5 })
                .unwrap_or_else(|violation| panic!("{switch}: {violation}"));
        }
    }
    beside_a_background_sync(None).unwrap_or_else(|violation| panic!("{violation}"));
    attacks::quick().unwrap_or_else(|violation| panic!("{violation}"));
}

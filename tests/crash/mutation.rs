//! Every barrier and every condition taken out in turn: the suite must notice.

use std::time::{Duration, Instant};

use sero::storage::Fault;
use sero::vault::switches::{ALL, take_out, was_met};

use super::attacks;
use super::budget::scale;
use super::cases;
use super::check::Violation;
use super::explore::{Depth, crash_now, explore};
use super::nested;
use super::ops::{BLOB, INNER, LONG, Op, PAGED};
use super::world::{World, prepared};

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

/// A background sync that stopped on a full disk, and a file that it had begun with.
fn half_a_background_sync() -> Result<(), Violation> {
    for seed in 0..6 {
        let mut world = prepared().world();
        let apply = |world: &mut World, op: Op| world.apply(&op).map_err(|stop| format!("{op:?}: {stop:?}"));
        for op in [
            Op::Create("new"),
            Op::Append { path: "new", len: 30_000 },
            Op::Close("new"),
            Op::Create("other"),
            Op::Append { path: "other", len: 30_000 },
        ] {
            apply(&mut world, op)?;
        }
        // Open, but not changed: nothing is to be written. For the other there is no room. Which of the two comes
        // first is left to chance.
        apply(&mut world, Op::SetTimes("new"))?;
        world.disk.inject(Fault::NoSpace { after_bytes: 0 });
        for _ in 0..3 {
            let _ = world.vault().tick();
        }
        world.disk.clear_faults();
        apply(&mut world, Op::Write { path: "new", at: 5000, len: 10 })?;
        apply(&mut world, Op::Fsync("new"))?;
        crash_now(prepared(), &world.disk, &world.model, Depth { states: 4, seed }, true)?;
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
            && let Err(violation) = half_a_background_sync()
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
    half_a_background_sync().unwrap_or_else(|violation| panic!("{violation}"));
    attacks::quick().unwrap_or_else(|violation| panic!("{violation}"));
}

//! Runs a sequence of operations, crashes it at every step of the last one, and checks what is left.

use sero::storage::{CrashPolicy, SimDisk};

use super::check::{End, Violation, survives};
use super::model::Model;
use super::ops::Op;
use super::random::Random;
use super::world::{Prepared, Stop, World};

/// The filesystems that the crashes are on: ordered metadata, the same on a disk that tears sectors, and no order.
pub const POLICIES: [(&str, CrashPolicy); 3] = [
    ("ordered", CrashPolicy::JOURNALED),
    ("ordered, torn sectors", CrashPolicy::JOURNALED_TORN),
    ("any subset", CrashPolicy::UNORDERED),
];

/// How many states of each crash are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// For each policy: all of them if they are not more, else so many at random.
    pub states: u64,
    pub seed: u64,
}

/// All crashes inside the last operation, and after it. The crashes before are those of shorter sequences.
pub fn explore(prepared: &Prepared, ops: &[Op], depth: Depth) -> Result<(), Violation> {
    let Some((last, before)) = ops.split_last() else { return Ok(()) };
    let Some(mut world) = run(prepared, before)? else { return Ok(()) };
    if !world.can(last) {
        return Ok(());
    }
    world.disk.record_steps();
    let first = world.disk.steps() + 1;
    finish(world.apply(last), ops)?;
    finish(world.check_live(), ops)?;
    let end = world.disk.steps();
    // The operation may have come to a crash that was ordered, and gone on.
    let first = if end < first { end + 1 } else { first };
    let steps = world.disk.recorded_steps();
    crash_now(prepared, &world.disk, &world.model, depth, true).map_err(|reason| said(ops, "the end", &reason))?;
    drop(world);
    for step in first..=end {
        let what = steps.iter().find(|known| known.number == step).map(ToString::to_string).unwrap_or_default();
        // At a sync, the disk may hold what it may hold after the step before. A reopened disk counts anew.
        if what.contains(" sync_") || matches!(last, Op::Kill | Op::CutSoon { .. }) {
            continue;
        }
        let Some(mut world) = run(prepared, before)? else { return Ok(()) };
        world.cut = None;
        world.disk.set_crash_at(step);
        match world.apply(last) {
            Err(Stop::Crash) => {}
            // The order of steps may differ where many files are brought home.
            Ok(()) | Err(Stop::Error(_)) if !world.disk.has_crashed() => {}
            Ok(()) => {}
            Err(Stop::Error(error)) => return Err(said(ops, &what, &format!("refused: {error}"))),
        }
        let is_write = what.contains(" write_at ");
        crash_now(prepared, &world.disk, &world.model, depth, is_write).map_err(|reason| said(ops, &what, &reason))?;
    }
    Ok(())
}

/// Runs operations that are expected to succeed. None: one of them makes no sense.
pub fn run(prepared: &Prepared, ops: &[Op]) -> Result<Option<World>, Violation> {
    let mut world = prepared.world();
    for op in ops {
        if !world.can(op) {
            return Ok(None);
        }
        finish(world.apply(op), ops)?;
    }
    Ok(Some(world))
}

fn finish(outcome: Result<(), Stop>, ops: &[Op]) -> Result<(), Violation> {
    outcome.map_err(|stop| said(ops, "the run", &format!("{stop:?}")))
}

/// Looks at the states that a crash of this disk now may leave.
pub fn crash_now(
    prepared: &Prepared,
    disk: &SimDisk,
    model: &Model,
    depth: Depth,
    with_kill: bool,
) -> Result<(), Violation> {
    for (number, (name, policy)) in (0..).zip(POLICIES) {
        let states: Box<dyn Iterator<Item = SimDisk>> = if depth.states > 2 {
            Box::new(disk.crashes(policy, depth.states, depth.seed))
        } else if (depth.seed + number).is_multiple_of(3) {
            // The newest state of all is what a kill leaves; what nothing reached but what was synced says the most.
            Box::new(std::iter::once(disk.crash_again(&policy, &[])))
        } else {
            Box::new(std::iter::once(disk.crash(&policy, depth.seed)))
        };
        for state in states {
            survives(prepared, &state, model, End::PowerCut)
                .map_err(|reason| format!("{name}, choices {:?}: {reason}", shortened(state.choices())))?;
        }
    }
    if with_kill {
        survives(prepared, &disk.kill(), model, End::Kill).map_err(|reason| format!("killed: {reason}"))?;
        let inside = disk.kill_inside(depth.seed);
        survives(prepared, &inside, model, End::Kill).map_err(|reason| format!("killed in a write: {reason}"))?;
    }
    Ok(())
}

fn shortened(choices: &[u32]) -> &[u32] {
    &choices[..choices.len().min(40)]
}

fn said(ops: &[Op], step: &str, reason: &str) -> Violation {
    format!("{}\n  crash at {step}\n  {reason}", shown(ops))
}

/// Operations as they stand in a test.
pub fn shown(ops: &[Op]) -> String {
    format!("{ops:?}").replace(super::ops::LONG, "LONG")
}

/// Leaves out of a failing sequence what it does not need to fail.
pub fn shrink(prepared: &Prepared, ops: &[Op], depth: Depth) -> Option<Violation> {
    let mut kept = ops.to_vec();
    // A crash that nobody expected any more, or a panic, is no shorter way to the same.
    let outcome = |ops: &[Op]| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| explore(prepared, ops, depth))).unwrap_or(Ok(()))
    };
    let mut violation = outcome(&kept).err()?;
    loop {
        let before = kept.len();
        for at in (0..kept.len()).rev() {
            let mut fewer = kept.clone();
            fewer.remove(at);
            if let Err(shorter) = outcome(&fewer) {
                kept = fewer;
                violation = shorter;
            }
        }
        if kept.len() == before {
            return Some(violation);
        }
    }
}

/// A random operation on the files of the prepared vault and a few more.
pub fn random_op(random: &mut Random) -> Op {
    use super::ops::{BLOB, BLOB_MAX, DIR, INNER, LONG, PAGED};
    const FILES: &[&str] = &[BLOB, PAGED, INNER, "new", "new", "dir/new", "made/file", "other", LONG];
    const DIRS: &[&str] = &[DIR, "made", "dir/deep"];
    let path = random.pick(FILES);
    let at = match random.below(4) {
        0 => random.below(3) * 4096,
        1 => random.below(20_000),
        2 => random.below(540_000),
        _ => 118 * 4096 + random.below(8192),
    };
    let len = match random.below(4) {
        0 => 1 + random.below(200),
        1 => 4096,
        2 => 1 + random.below(20_000),
        _ => 70_000 + random.below(60_000),
    };
    match random.below(43) {
        0..=3 => Op::Create(path),
        4..=9 => Op::Write { path, at, len },
        10..=12 => Op::Append { path, len: len.min(5000) },
        13..=14 => Op::Append { path, len: 65_536 + len },
        15 => Op::Truncate { path, size: 0 },
        16 => Op::Truncate { path, size: random.pick(&[BLOB_MAX, BLOB_MAX + 1, 100, 40_000, 118 * 4096]) },
        17 => Op::Truncate { path, size: random.below(600_000) },
        18 => Op::Punch { path, at, len: len * 2 },
        19..=22 => Op::Fsync(path),
        23..=24 => Op::Close(path),
        25 => Op::SetTimes(path),
        26..=27 => Op::Rename(path, random.pick(FILES)),
        28 => Op::Exchange(path, random.pick(FILES)),
        29 => Op::Link(path, random.pick(FILES)),
        30 => Op::Unlink(path),
        31 => Op::UnlinkOpen(path),
        32 => match random.below(3) {
            0 => Op::CloseOrphan,
            _ => Op::WriteOrphan { at: random.below(20_000), len },
        },
        33 => Op::Mkdir(random.pick(DIRS)),
        34 => match random.below(3) {
            0 => Op::Rmdir(random.pick(DIRS)),
            1 => Op::SyncDir(random.pick(&["", DIR, "made"])),
            _ => Op::Rename(random.pick(DIRS), random.pick(&["moved", "made", "dir"])),
        },
        35 => Op::Checkpoint,
        36 => Op::HeldCheckpoint,
        37 => Op::Tick,
        38 => Op::Sync,
        39 => Op::CreateUnnamed,
        40 => Op::LinkUnnamed(path),
        41 => match random.below(3) {
            0 => Op::FsyncUnnamed,
            1 => Op::CloseUnnamed,
            _ => Op::WriteUnnamed { at: random.below(20_000), len },
        },
        _ => match random.below(3) {
            0 => Op::Seal,
            1 => Op::Kill,
            _ => Op::ShortSession,
        },
    }
}

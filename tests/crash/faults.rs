//! Errors of the backing: a full disk, writes cut short, failed writes and failed syncs, each at every point.
//!
//! The caller gets the error, what was acknowledged by a sync is not lost, a full disk is usable again when space
//! was freed, and after a failed sync the vault takes no more changes.

use sero::storage::Fault;
use sero::vault::VaultError;

use super::budget::scale;
use super::check::{End, Violation, survives};
use super::explore::{POLICIES, shown};
use super::ops::{BLOB, DIR, INNER, LONG, Op, PAGED};
use super::random::Random;
use super::world::{Prepared, Stop, prepared};

fn workload() -> Vec<Op> {
    vec![
        Op::Write { path: PAGED, at: 4000, len: 10_000 },
        Op::Fsync(PAGED),
        Op::Create("new"),
        Op::Append { path: "new", len: 9000 },
        Op::Fsync("new"),
        Op::Append { path: PAGED, len: 100_000 },
        Op::Append { path: BLOB, len: 20_000 },
        Op::Fsync(BLOB),
        Op::Mkdir("made"),
        Op::Create("made/file"),
        Op::Append { path: "made/file", len: 30_000 },
        Op::Create(LONG),
        Op::Close("made/file"),
        Op::Fsync(PAGED),
        Op::Truncate { path: PAGED, size: 300_000 },
        Op::Checkpoint,
        Op::Rename("new", BLOB),
        Op::Write { path: PAGED, at: 100_000, len: 200_000 },
        Op::Punch { path: INNER, at: 0, len: 40_000 },
        Op::Tick,
        Op::Truncate { path: INNER, size: 0 },
        Op::Append { path: INNER, len: 100_000 },
        Op::Fsync(INNER),
        Op::Sync,
    ]
}

/// Runs the workload until the fault hits. False: it never did.
fn fail_once(prepared: &Prepared, ops: &[Op], fault: Fault, is_sync: bool, seed: u64) -> Result<bool, Violation> {
    let mut world = prepared.world();
    world.disk.inject(fault);
    let mut failed = None;
    for op in ops {
        if !world.can(op) {
            continue;
        }
        match world.apply(op) {
            Ok(()) => {}
            Err(Stop::Error(error)) => {
                failed = Some((op.clone(), error));
                break;
            }
            Err(Stop::Crash) => return Err("a crash that nobody ordered".into()),
        }
    }
    let Some((op, error)) = failed else { return Ok(false) };
    let said = |reason: String| format!("{fault:?} in {}: \"{error}\": {reason}", shown(std::slice::from_ref(&op)));
    world.disk.clear_faults();
    if is_sync && !world.vault().is_read_only() {
        return Err(said("the vault goes on after a failed sync".into()));
    }
    if matches!(&error, VaultError::Integrity(_) | VaultError::Internal(_)) {
        return Err(said("not the backing's error".into()));
    }
    let degraded = world.vault().degraded();
    if degraded.is_some() != world.vault().is_read_only() {
        return Err(said(format!("read-only: {}, and the reason: {degraded:?}", world.vault().is_read_only())));
    }
    if let Some(degraded) = degraded {
        if degraded.errno != Some(libc::EIO) {
            return Err(said(format!("not the backing's error: {degraded:?}")));
        }
        match world.apply(&Op::Write { path: PAGED, at: 0, len: 10 }) {
            Err(Stop::Error(VaultError::ReadOnly)) => {}
            other => return Err(said(format!("a read-only vault answers a write with {other:?}"))),
        }
    }
    let mut random = Random::new(seed);
    for (name, policy) in POLICIES {
        let disk = world.disk.crash(&policy, random.next());
        survives(prepared, &disk, &world.model, End::PowerCut).map_err(|reason| said(format!("{name}: {reason}")))?;
    }
    survives(prepared, &world.disk.kill(), &world.model, End::PowerCut)
        .map_err(|reason| said(format!("killed: {reason}")))?;
    Ok(true)
}

fn at_every_point(make: impl Fn(u64) -> Fault, is_sync: bool, step: u64) {
    let ops = workload();
    let mut violations = Vec::new();
    let mut nth = 1;
    let mut points = 0;
    loop {
        match fail_once(prepared(), &ops, make(nth), is_sync, nth) {
            Ok(true) => {}
            // Some errors concern nobody: punching, growing the journal.
            Ok(false) if nth < 150 => {}
            Ok(false) => break,
            Err(violation) => violations.push(violation),
        }
        points += 1;
        nth += step;
        if violations.len() > 5 {
            break;
        }
    }
    println!("{points} points");
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n\n"));
}

#[test]
fn every_failed_sync() {
    at_every_point(|nth| Fault::SyncError { nth }, true, 1);
}

#[test]
fn every_failed_write() {
    at_every_point(|nth| Fault::WriteError { nth }, false, 1);
}

#[test]
fn every_write_cut_short() {
    at_every_point(|nth| Fault::ShortWrite { nth }, false, 1);
}

/// One run on a disk with this many pages to spare.
fn fill_up(prepared: &Prepared, ops: &[Op], spare_pages: u64, seed: u64) -> Result<(), Violation> {
    let mut world = prepared.world();
    world.disk.set_capacity(Some(world.disk.used_bytes() + spare_pages * 4096));
    let said = |op: &Op, reason: String| {
        format!("{spare_pages} pages to spare, {}: {reason}", shown(std::slice::from_ref(op)))
    };
    for op in ops {
        if !world.can(op) {
            continue;
        }
        match world.apply(op).and_then(|()| world.check_live()) {
            Ok(()) => {}
            Err(Stop::Error(error)) => {
                let is_full = matches!(&error, VaultError::Io { source, .. } if source.raw_os_error() == Some(libc::ENOSPC))
                    || matches!(&error, VaultError::NoSpace { .. });
                if !is_full {
                    return Err(said(op, format!("a full disk gives \"{error}\"")));
                }
                if world.vault().is_read_only() {
                    return Err(said(op, "a full disk makes the vault read-only".into()));
                }
                world.adopt_live().map_err(|reason| said(op, reason))?;
            }
            Err(Stop::Crash) => return Err("a crash that nobody ordered".into()),
        }
    }
    let mut random = Random::new(seed);
    let policy = random.pick(&POLICIES);
    let disk = world.disk.crash(&policy.1, random.next());
    disk.set_capacity(None);
    survives(prepared, &disk, &world.model, End::PowerCut)
        .map_err(|reason| format!("{spare_pages} pages to spare, crashed full, {}: {reason}", policy.0))?;
    // Space that is freed is usable again.
    let paged = if world.model.file(PAGED).is_some() { PAGED } else { INNER };
    for op in [
        Op::Close(paged),
        Op::Unlink(paged),
        Op::Checkpoint,
        Op::Checkpoint,
        Op::Create("dir/after"),
        Op::Append { path: "dir/after", len: 40_000 },
        Op::Fsync("dir/after"),
        Op::Write { path: "dir/after", at: 100, len: 20_000 },
        Op::Checkpoint,
        Op::Seal,
    ] {
        if matches!(op, Op::Seal) {
            world.disk.set_capacity(None);
        }
        if let Err(stop) = world.apply(&op) {
            return Err(said(&op, format!("after space was freed: {stop:?}")));
        }
    }
    survives(prepared, &world.disk.kill(), &world.model, End::Kill)
        .map_err(|reason| format!("{spare_pages} pages to spare, sealed: {reason}"))
}

#[test]
fn a_full_disk() {
    let ops = workload();
    let mut violations = Vec::new();
    let step = if scale() > 1 { 1 } else { 3 };
    for spare in (0..200).step_by(step).chain((256..700).step_by(step * 16)) {
        if let Err(violation) = fill_up(prepared(), &ops, spare, spare) {
            violations.push(violation);
            if violations.len() > 5 {
                break;
            }
        }
    }
    let _ = DIR;
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n\n"));
}

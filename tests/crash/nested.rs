//! Crashes inside recovery, two deep.

use super::attacks;
use super::budget::{first_seed, scale};
use super::check::{End, Violation, survives};
use super::explore::{POLICIES, run};
use super::ops::{BLOB, INNER, Op, PAGED};
use super::random::Random;
use super::world::{Prepared, prepared};

/// Crashes a recovery of `disk` at each of its steps (or some of them), and the recovery of that again.
pub fn crash_recovery(
    prepared: &Prepared,
    disk: &sero::storage::SimDisk,
    model: &super::model::Model,
    random: &mut Random,
    deep: u32,
    tries: u64,
) -> Result<(), Violation> {
    let snapshot = disk.snapshot();
    let steps = {
        let copy = snapshot.to_disk();
        let vault = prepared.open(&copy).map_err(|error| format!("{deep} to go: it does not open: {error}"))?;
        drop(vault);
        copy.steps()
    };
    for attempt in 0..tries.min(steps) {
        let step = if tries >= steps { attempt + 1 } else { 1 + random.below(steps) };
        let copy = snapshot.to_disk();
        copy.set_crash_at(step);
        if prepared.open(&copy).is_ok() {
            continue;
        }
        for (name, policy) in POLICIES {
            let after = copy.crash(&policy, random.next());
            let at = |reason| format!("{deep} to go, recovery crashed at step {step} of {steps}, {name}: {reason}");
            if deep > 1 {
                crash_recovery(prepared, &after, model, random, deep - 1, 2).map_err(at)?;
            } else {
                survives(prepared, &after, model, End::PowerCut).map_err(at)?;
            }
        }
        survives(prepared, &copy.kill_inside(random.next()), model, End::PowerCut)
            .map_err(|reason| format!("recovery killed at step {step}: {reason}"))?;
    }
    Ok(())
}

/// Two segments that count: the older is removed first, and the newer must not say then that it was taken away.
pub fn of_two_segments() -> Result<(), Violation> {
    let (snapshot, model) = attacks::both_count();
    crash_recovery(prepared(), &snapshot.to_disk(), &model, &mut Random::new(first_seed()), 1, u64::MAX)
}

#[test]
fn recovery_of_two_segments_survives_crashes_of_its_own() {
    of_two_segments().unwrap_or_else(|violation| panic!("{violation}"));
    let (snapshot, model) = attacks::both_count();
    let mut random = Random::new(first_seed());
    crash_recovery(prepared(), &snapshot.to_disk(), &model, &mut random, 2, 8 * scale())
        .unwrap_or_else(|violation| panic!("two deep: {violation}"));
}

#[test]
fn recovery_survives_crashes_of_its_own() {
    let cases: [&[Op]; 6] = [
        &[Op::Write { path: PAGED, at: 0, len: 30_000 }, Op::Fsync(PAGED)],
        &[
            Op::Append { path: PAGED, len: 100_000 },
            Op::Write { path: BLOB, at: 5, len: 5 },
            Op::Fsync(PAGED),
            Op::Fsync(BLOB),
        ],
        &[Op::Truncate { path: PAGED, size: 0 }, Op::Append { path: PAGED, len: 200_000 }, Op::Fsync(PAGED)],
        &[Op::Truncate { path: PAGED, size: 20_000 }, Op::Write { path: INNER, at: 0, len: 9000 }, Op::Sync],
        &[
            Op::Append { path: BLOB, len: 60_000 },
            Op::Fsync(BLOB),
            Op::Checkpoint,
            Op::Write { path: BLOB, at: 30_000, len: 9000 },
            Op::Fsync(BLOB),
        ],
        &[
            Op::Create("new"),
            Op::Append { path: "new", len: 30_000 },
            Op::Write { path: PAGED, at: 118 * 4096, len: 9000 },
            Op::Fsync(PAGED),
        ],
    ];
    let mut random = Random::new(first_seed());
    let mut violations = Vec::new();
    for ops in cases {
        let world = run(prepared(), ops).unwrap_or_else(|violation| panic!("{violation}")).expect("it makes sense");
        let (_, policy) = POLICIES[0];
        for _ in 0..2 * scale() {
            let disk = world.disk.crash(&policy, random.next());
            if let Err(violation) = crash_recovery(prepared(), &disk, &world.model, &mut random, 2, 5) {
                violations.push(format!("{ops:?}\n  {violation}"));
                break;
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
}

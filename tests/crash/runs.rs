//! Long random runs: crash somewhere, go on with what is left, crash again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::budget::{STATES, first_seed, share};
use super::check::{End, Violation, look, survives};
use super::explore::{Depth, POLICIES, crash_now, random_op, shown, shrink};
use super::model::Model;
use super::ops::Op;
use super::random::Random;
use super::world::{Prepared, Stop, World, prepared};

/// One run of up to `ops` operations in each of `lives` lives.
pub fn run(prepared: &Prepared, seed: u64, lives: u64, ops: u64) -> Result<(), Violation> {
    let mut random = Random::new(seed);
    let mut world = prepared.world();
    let mut done: Vec<Op> = Vec::new();
    for life in 0..lives {
        let crash_at = world.disk.steps() + 1 + random.below(ops * 4);
        world.disk.set_crash_at(crash_at);
        for _ in 0..ops {
            let op = random_op(&mut random);
            if !world.can(&op) {
                continue;
            }
            done.push(op.clone());
            match world.apply(&op).and_then(|()| world.check_live()) {
                Ok(()) => {}
                Err(Stop::Crash) => break,
                Err(Stop::Error(error)) => return Err(said(prepared, life, &done, &error.to_string())),
            }
        }
        let done = &done;
        let depth = Depth { states: 2, seed: random.next() };
        crash_now(prepared, &world.disk, &world.model, depth, true).map_err(|reason| said(prepared, life, done, &reason))?;
        // Go on with one of them.
        let (name, policy) = random.pick(&POLICIES);
        let killed = random.below(4) == 0;
        let disk = if killed { world.disk.kill() } else { world.disk.crash(&policy, random.next()) };
        let end = if killed { End::Kill } else { End::PowerCut };
        let snapshot = disk.snapshot();
        survives(prepared, &snapshot.to_disk(), &world.model, end)
            .map_err(|reason| said(prepared, life, done, &format!("{name}: {reason}")))?;
        disk.advance(std::time::Duration::from_secs(60));
        world = go_on(prepared, disk, &world.model).map_err(|reason| said(prepared, life, done, &reason))?;
        // The files of the next life are older than its crash.
        world.disk.advance(std::time::Duration::from_secs(60));
    }
    Ok(())
}

/// A world of what a crash left, with a model of exactly that.
fn go_on(prepared: &Prepared, disk: sero::storage::SimDisk, before: &Model) -> Result<World, Violation> {
    let mut world = prepared
        .world_on(disk, before.clone())
        .map_err(|stop| format!("the vault does not open to go on: {stop:?}"))?;
    if world.vault().has_leftovers_to_settle() {
        world.vault().settle_leftovers().map_err(|error| error.to_string())?;
    }
    world.vault().sync().map_err(|error| error.to_string())?;
    let found = look(world.vault())?;
    world.model = Model::found(&found);
    Ok(world)
}

fn said(prepared: &Prepared, life: u64, done: &[Op], reason: &str) -> Violation {
    // In one life, the shortest sequence that shows it.
    let shorter = if life == 0 { shrink(prepared, done, Depth { states: 8, seed: 1 }) } else { Vec::new() };
    format!("life {life}: {}\n  shortened: {}\n  {reason}", shown(done), shown(&shorter))
}

#[test]
fn long_random_runs() {
    let deadline = share(25);
    let mut seed = first_seed() * 1_000_000;
    let mut violations = Vec::new();
    let mut runs = 0;
    while !deadline.is_over() && violations.len() < 5 {
        seed += 1;
        runs += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| run(prepared(), seed, 1 + seed % 3, 12 + seed % 30)))
            .unwrap_or_else(|_| Err("a panic while it ran (see above)".into()));
        if let Err(violation) = outcome {
            violations.push(format!("seed {seed}: {violation}"));
        }
    }
    println!(
        "random runs: {runs}, seeds {} to {seed}; {} crash states so far in this process",
        first_seed() * 1_000_000 + 1,
        STATES.load(Ordering::Relaxed)
    );
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n\n"));
}

//! Long random runs: crash somewhere, go on with what is left, crash again. `SERO_CRASH_RUN=SEED,SEED` repeats these alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::budget::{STATES, first_seed, share};
use super::check::Violation;
use super::explore::{Depth, POLICIES, crash_now, random_op, shown, shrink};
use super::ops::Op;
use super::random::Random;
use super::world::{Prepared, Stop, prepared};

/// One run of up to `ops` operations in each of `lives` lives.
fn run(prepared: &Prepared, seed: u64, lives: u64, ops: u64, rotations: bool) -> Result<(), Violation> {
    let mut random = Random::new(seed);
    let mut world = prepared.world();
    let mut done: Vec<Op> = Vec::new();
    for life in 1..=lives {
        let steps = 1 + random.below(if rotations { 500 } else { ops * 4 });
        if life < lives {
            let policy = random.below(POLICIES.len() as u64 + 1) as usize;
            done.push(Op::CutSoon { steps, policy, seed: random.next() });
            world.apply(&done[done.len() - 1]).map_err(|stop| format!("{stop:?}"))?;
        } else {
            world.cut = None;
            world.disk.set_crash_at(world.disk.steps() + steps);
        }
        for _ in 0..ops {
            let op = if rotations && random.below(8) == 0 { Op::Rotate } else { random_op(&mut random) };
            if !world.can(&op) {
                continue;
            }
            done.push(op);
            match world.apply(&done[done.len() - 1]).and_then(|()| world.check_live()) {
                Ok(()) if life < lives && world.cut.is_none() => break,
                Ok(()) => {}
                Err(Stop::Crash) => break,
                Err(Stop::Error(error)) => return Err(said(prepared, &done, &error.to_string())),
            }
        }
    }
    let depth = Depth { states: 3, seed: random.next() };
    crash_now(prepared, &world.disk, &world.model, depth, true).map_err(|reason| said(prepared, &done, &reason))
}

fn said(prepared: &Prepared, done: &[Op], reason: &str) -> Violation {
    let shorter = shrink(prepared, done, Depth { states: 8, seed: 1 });
    format!("{}\n  {reason}\nshortened: {}", shown(done), shorter.as_deref().unwrap_or("did not fail again"))
}

#[test]
fn long_random_runs() {
    let deadline = share(20);
    let mut seed = first_seed() * 1_000_000;
    let mut violations = Vec::new();
    let mut runs = 0;
    let only = std::env::var("SERO_CRASH_RUN").ok();
    let mut only: Vec<u64> =
        only.iter().flat_map(|seeds| seeds.split(',')).filter_map(|seed| seed.parse().ok()).collect();
    let repeats = !only.is_empty();
    while !deadline.is_over() && violations.len() < 5 {
        seed = match only.pop() {
            Some(seed) => seed,
            None if repeats => break,
            None => seed + 1,
        };
        runs += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| run(prepared(), seed, 1 + seed % 3, 12 + seed % 30, false)))
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

/// The project key is rotated between other operations, and cut anywhere.
#[test]
fn rotations_cut_anywhere() {
    let deadline = share(10);
    let mut seed = first_seed() * 1_000_000 + 500_000;
    let mut violations = Vec::new();
    let mut runs = 0;
    let bounded = std::env::var_os("SERO_CRASH_SECONDS").is_none();
    while !deadline.is_over() && violations.len() < 5 && !(bounded && runs >= 200) {
        seed += 1;
        runs += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| run(prepared(), seed, 1 + seed % 2, 8 + seed % 12, true)))
            .unwrap_or_else(|_| Err("a panic while it ran (see above)".into()));
        if let Err(violation) = outcome {
            violations.push(format!("seed {seed}: {violation}"));
        }
    }
    println!("rotations: {runs} runs up to seed {seed}");
    assert!(runs > 0 && violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n\n"));
}

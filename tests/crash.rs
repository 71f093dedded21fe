//! The crash suite: the vault on a simulated disk that loses power at any point, and an oracle that knows what
//! may be left.
//!
//! What is promised (G1): after a crash at any instant every page of every file reads as one that was written,
//! nothing that was synced is lost, every directory lists and takes new files, and the vault opens without help,
//! takes changes, seals, and opens again. How long the suite runs is set by `SERO_CRASH_SECONDS`
//! (`scripts/crash-long.sh`); how many states it looked at is printed (`--nocapture`).

mod crash {
    pub mod budget;
    pub mod check;
    pub mod explore;
    pub mod model;
    pub mod ops;
    pub mod random;
    pub mod world;

    mod attacks;
    mod beside;
    mod cases;
    mod faults;
    mod full_journal;
    mod mutation;
    mod nested;
    mod races;
    mod regressions;
    mod runs;
    mod sequences;
    mod threads;
}

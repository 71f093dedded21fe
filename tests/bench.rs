//! `sero bench` measures, and leaves nothing behind.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::io::Read;
use std::process::Stdio;

use harness::{can_mount, end_of, eventually, run, sero};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sero::fuse::mountinfo;

#[test]
fn it_measures_the_directory_and_a_vault_in_it() {
    can_mount();
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(sero().args(["bench", "--json"]).arg(folder.path())).ok();
    let facts: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let is_measured = |value: &Value| value.as_f64().is_some_and(|value| value > 0.0);
    for place in ["disk", "vault"] {
        let figures = facts["mount"][place].as_object().unwrap();
        assert_eq!(figures.len(), 6, "{facts:#}");
        assert!(figures.values().all(is_measured), "{facts:#}");
    }
    assert!(is_measured(&facts["pages_sealed_bytes_per_second"]), "{facts:#}");
    assert_eq!(facts["kdf"].as_array().unwrap().len(), 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something is left");
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    can_mount();
    for (signal, before_the_mount) in [(Signal::INT, false), (Signal::TERM, true)] {
        let folder = tempfile::tempdir().unwrap();
        let is_there = || fs::read_dir(folder.path()).unwrap().count() > 0;
        let is_mounted = || mountinfo::read().unwrap().iter().any(|mount| mount.mountpoint.starts_with(folder.path()));
        let mut command = sero();
        let mut bench = command.args(["bench", "--quiet"]).arg(folder.path()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("begun", || if before_the_mount { is_there() } else { is_mounted() });
        kill_process(Pid::from_child(&bench), signal).unwrap();
        let code = end_of(&mut bench).code();
        let mut said = String::new();
        bench.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(code == Some(1) && said.contains("stopped; what it made is removed"), "{code:?} {said}");
        assert!(!is_mounted() && !is_there());
    }
}

#[test]
fn it_says_which_directory_it_cannot_use() {
    let folder = tempfile::tempdir().unwrap();
    run(sero().arg("bench").arg(folder.path().join("missing"))).fails(1, "give a directory that you may write");
}

#[test]
fn the_table_is_for_people() {
    let text = run(sero().args(["bench", "--no-mount"])).ok().stdout;
    for word in ["AES-256-GCM", "AES-256-SIV", "Argon2id"] {
        assert!(text.contains(word), "{text}");
    }
}

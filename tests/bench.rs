//! `sero bench` measures, and leaves nothing behind.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;

use harness::{can_mount, run, sero};
use serde_json::Value;

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

//! Mounts that seal themselves: without use, at the end of a session, and not while somebody uses them.
//!
//! The limits are short; nothing here depends on how exactly they are kept.

#[path = "cli/harness.rs"]
mod harness;

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use harness::{Fixture, can_mount, eventually, run, sero};
use serde_json::Value;

fn status(fixture: &Fixture) -> Option<Value> {
    let outcome = run(sero().args(["status", "--json"]).arg(&fixture.vault));
    let list: Vec<Value> = serde_json::from_str(&outcome.stdout).ok()?;
    list.into_iter().next()
}

fn is_sealed(fixture: &Fixture) -> bool {
    let info = fixture.info();
    info["sealed"] == true && info["mounted"] == false
}

#[test]
fn an_idle_mount_seals_itself_and_says_so() {
    can_mount();
    let fixture = Fixture::mounted(&["--idle", "3s"]);
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    eventually("sealed", || is_sealed(&fixture));
    assert!(fixture.mounts().is_empty());
    assert!(fixture.log().contains("idle: sealing"), "{}", fixture.log());
    // "of contradictory ones the last counts"
    fixture.mount(&["-o", "rw,idle=1h,idle=2h,max_session=3h", "-o", "max_session=1d"]).ok();
    assert_eq!(fs::read(fixture.mountpoint.join("file")).unwrap(), b"x");
    let session = status(&fixture).unwrap()["session"].clone();
    assert_eq!((session["idle_limit"].as_u64(), session["limit"].as_u64()), (Some(7200), Some(86_400)));
}

#[test]
fn an_open_file_keeps_it_mounted() {
    can_mount();
    let fixture = Fixture::mounted(&["--idle", "3s"]);
    let file = File::create_new(fixture.mountpoint.join("file")).unwrap();
    // Several times the limit.
    eventually("time passes", || status(&fixture).unwrap()["session"]["seconds"].as_u64() >= Some(8));
    let mount = status(&fixture).unwrap();
    assert_eq!((&mount["state"], &mount["session"]["idle_seconds"]), (&"mounted".into(), &0.into()));
    drop(file);
    eventually("sealed", || is_sealed(&fixture));
}

/// "A rotation of the key that runs, and a verify that somebody waits for, are use, too."
#[test]
fn a_rotation_keeps_it_mounted() {
    can_mount();
    let fixture = Fixture::mounted(&["--idle", "3s"]);
    fs::write(fixture.mountpoint.join("file"), harness::pattern(8 << 20)).unwrap();
    // It takes several times the limit.
    let mut rotate = sero();
    rotate.args(["rotate", "--rate", "1", "--password-file"]).arg(&fixture.passphrase).arg(&fixture.vault);
    run(&mut rotate).ok();
    eventually("sealed", || is_sealed(&fixture));
}

#[test]
fn one_that_is_idle_and_in_use_is_tried_again_and_says_by_whom() {
    can_mount();
    let fixture = Fixture::mounted(&["--idle", "3s"]);
    let mut user = Command::new("sleep").arg("1000").current_dir(&fixture.mountpoint).spawn().unwrap();
    let name = format!("{} (sleep)", user.id());
    eventually("busy", || status(&fixture).is_some_and(|mount| mount["state"] == "ending"));
    let ending = status(&fixture).unwrap()["session"]["ending"].clone();
    assert_eq!((&ending["reason"], &ending["users"][0]), (&"idle".into(), &name.as_str().into()));
    let text = run(sero().arg("status").arg(&fixture.mountpoint)).ok().stdout;
    assert!(text.contains(&format!("to be sealed (idle), in use by {name}")), "{text}");
    assert!(fixture.log().contains(&format!("in use by {name}; trying again")), "{}", fixture.log());
    // Used again, it is not to end any more.
    fs::write(fixture.mountpoint.join("file"), "x").unwrap();
    eventually("used again", || fixture.log().contains("the mount is used again"));
    user.kill().unwrap();
    user.wait().unwrap();
    eventually("sealed", || is_sealed(&fixture));
}

#[test]
fn a_session_ends_however_busy_it_is_after_a_warning_and_nothing_written_is_lost() {
    can_mount();
    let fixture = Fixture::mounted(&["--max-session", "8s"]);
    let mut file = File::create_new(fixture.mountpoint.join("file")).unwrap();
    file.write_all(b"in time").unwrap();
    eventually("detached", || fixture.mounts().is_empty());
    eventually("sealed", || is_sealed(&fixture));
    let log = fixture.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text}: {log}"));
    assert!(at("the session ends in") < at("the session is over (max-session): sealing"), "{log}");
    assert!(log.contains(&format!("in use by {}", std::process::id())), "{log}");
    drop(file);
    fixture.mount(&[]).ok();
    assert_eq!(fs::read(fixture.mountpoint.join("file")).unwrap(), b"in time");
}

#[test]
fn spans_that_are_none_are_refused_before_anything_is_asked() {
    let fixture = Fixture::new();
    for wrong in ["soon", "10 parsecs", ""] {
        fixture.mount(&["--idle", wrong]).fails(2, "--idle");
        fixture.mount(&["-o", &format!("max_session={wrong}")]).fails(2, "--max-session");
    }
}

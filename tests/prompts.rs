//! Sessions on a pseudo-terminal: prompts, questions, and Ctrl-C at each of them, after which everything is as before.

#[path = "cli/harness.rs"]
mod harness;
#[path = "cli/terminal.rs"]
mod terminal;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{Fixture, PASSPHRASE, can_mount, eventually, pattern, run, sero};
use rustix::process::Signal;
use terminal::{from_a_shell, on_a_terminal};

const CHEAP: [&str; 6] = ["--kdf-memory", "8", "--kdf-passes", "1", "--kdf-lanes", "1"];
const OTHER: &str = "seven purple ladders at noon";

fn is_sealed(fixture: &Fixture) -> bool {
    let info = fixture.info();
    info["sealed"] == true && info["mounted"] == false
}

/// Every file and link of the vault with what is in it.
fn content(vault: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut content = BTreeMap::new();
    let mut pending = vec![vault.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let path = entry.path();
            let bytes = if kind.is_dir() {
                pending.push(path.clone());
                Vec::new()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            content.insert(path, bytes);
        }
    }
    content
}

#[test]
fn ctrl_c_while_a_vault_is_made_or_mounted_leaves_nothing_half_made() {
    can_mount();
    let fixture = Fixture::empty();
    let vault = fixture.vault.to_str().unwrap();
    let create: Vec<&str> = ["create"].into_iter().chain(CHEAP).chain([vault]).collect();
    for answers in [vec![("New passphrase", "^C")], vec![("New passphrase", PASSPHRASE), ("again", "^C")]] {
        let outcome = on_a_terminal(&create, &answers);
        assert_ne!(outcome.code, Some(0), "{outcome:?}");
        assert!(!fixture.vault.exists(), "nothing was made");
    }
    on_a_terminal(&create, &[("New passphrase", PASSPHRASE), ("again", PASSPHRASE)]).ok();
    let mount = ["mount", vault, fixture.mountpoint.to_str().unwrap()];
    let outcome = on_a_terminal(&mount, &[("Passphrase", "^C")]);
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    assert!(fixture.mounts().is_empty() && is_sealed(&fixture));
    let said = on_a_terminal(&mount, &[("Passphrase", PASSPHRASE)]).ok().stdout;
    assert!(said.contains("is mounted on") && !said.contains(PASSPHRASE), "{said}");
    fixture.seal().ok();
}

#[test]
fn ctrl_c_at_every_other_prompt_changes_nothing() {
    can_mount();
    let fixture = Fixture::new();
    let vault = fixture.vault.to_str().unwrap();
    let folder = fixture.folder.path();
    let tree = folder.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), pattern(200_000)).unwrap();
    let (tree, out) = (tree.to_str().unwrap(), folder.join("out"));
    run(sero().args(["import", "--password-file"]).arg(&fixture.passphrase).args([tree, vault])).ok();
    // Something for repair to ask about.
    let paths = content(&fixture.vault.join("tree"));
    let (home, _) = paths.iter().find(|(_, bytes)| bytes.len() > 100_000).unwrap();
    let mut bytes = fs::read(home).unwrap();
    bytes[30_000] ^= 1;
    fs::write(home, bytes).unwrap();
    let before = content(&fixture.vault);

    let first = ("Passphrase", "^C");
    let mut lines: Vec<(Vec<&str>, Vec<(&str, &str)>)> = vec![
        (vec!["key", "check", vault], vec![first]),
        (vec!["key", "remove", "--others", vault], vec![first]),
        (vec!["key", "add", "--new-recovery", vault], vec![first]),
        (vec!["rotate", vault], vec![first]),
        (vec!["verify", vault], vec![first]),
        (vec!["repair", "--holes", vault], vec![first]),
        (vec!["repair", "--holes", vault], vec![("Passphrase", PASSPHRASE), ("Do this?", "^C")]),
        (vec!["repair", "--holes", vault], vec![("Passphrase", PASSPHRASE), ("Do this?", "n")]),
        (vec!["salvage", vault, out.to_str().unwrap()], vec![first]),
        (vec!["import", "--replace", tree, vault], vec![first]),
        (vec!["ls", vault], vec![first]),
        (vec!["cat", vault, "file"], vec![first]),
    ];
    for command in ["add", "change"] {
        let line: Vec<&str> = ["key", command].into_iter().chain(CHEAP).chain([vault]).collect();
        let old = ("Passphrase", PASSPHRASE);
        lines.push((line.clone(), vec![first]));
        lines.push((line.clone(), vec![old, ("New passphrase", "^C")]));
        lines.push((line.clone(), vec![old, ("New passphrase", OTHER), ("again", "^C")]));
        // Typed differently the second time, and too weak, which is said before it is typed again.
        lines.push((line.clone(), vec![old, ("New passphrase", OTHER), ("again", PASSPHRASE)]));
        lines.push((line, vec![old, ("New passphrase", "horse")]));
    }
    for (line, answers) in lines {
        let outcome = on_a_terminal(&line, &answers);
        assert_ne!(outcome.code, Some(0), "{line:?} {answers:?}: {outcome:?}");
        assert!(outcome.code == Some(17) || !answers.contains(&("New passphrase", "horse")), "{line:?}: {outcome:?}");
        assert!(content(&fixture.vault) == before, "{line:?} {answers:?}: {outcome:?}");
        assert!(!outcome.stdout.contains(PASSPHRASE) && !outcome.stdout.contains(OTHER), "{outcome:?}");
        assert!(!out.exists() && is_sealed(&fixture), "{line:?} {answers:?}");
    }

    // The same with the right answers.
    let change: Vec<&str> = ["key", "change"].into_iter().chain(CHEAP).chain([vault]).collect();
    on_a_terminal(&change, &[("Passphrase", PASSPHRASE), ("New passphrase", OTHER), ("again", OTHER)]).ok();
    on_a_terminal(&["repair", "--holes", vault], &[("Passphrase", OTHER), ("Do this?", "y")]).ok();
    on_a_terminal(&["verify", vault], &[("Passphrase", OTHER)]).ok();
}

#[test]
fn whatever_comes_at_a_prompt_finds_the_terminal_as_it_was() {
    let fixture = Fixture::new();
    let ls = ["ls", fixture.vault.to_str().unwrap()];
    let answer = |what| vec![("Passphrase", what)];
    let stopped = vec![("Passphrase", "^Z"), ("Passphrase", PASSPHRASE)];
    for (answers, code) in [
        (answer("^C"), 130),
        (answer("SIGTERM"), 143),
        (answer("SIGHUP"), 129),
        (answer("SIGQUIT"), 131),
        (stopped.clone(), 0),
        (vec![stopped[0], ("Passphrase", "^C")], 130),
        (answer(PASSPHRASE), 0),
    ] {
        let outcome = from_a_shell(&ls, &answers);
        assert_eq!(outcome.code, Some(code), "{answers:?}: {outcome:?}");
        let has = |flag: &str| outcome.stdout.split_whitespace().filter(|word| *word == flag).count();
        for flag in ["isig", "icanon", "echo", "-echonl"] {
            assert_eq!(has(flag), answers.len(), "{flag} after {answers:?}: {outcome:?}");
        }
        assert!(!outcome.stdout.contains(PASSPHRASE), "{outcome:?}");
    }
}

/// "A carriage return before the newline is not part of the passphrase; all other bytes are."
#[test]
fn bytes_that_are_no_text_are_part_of_what_is_typed() {
    let fixture = Fixture::empty();
    let vault = fixture.vault.to_str().unwrap();
    let typed = "latin-1:gr\u{f6}\u{df}e tisch lampe horse";
    let create: Vec<&str> = ["create"].into_iter().chain(CHEAP).chain([vault]).collect();
    on_a_terminal(&create, &[("New passphrase", typed), ("again", typed)]).ok();
    fs::write(&fixture.passphrase, b"gr\xf6\xdfe tisch lampe horse\n").unwrap();
    run(sero().args(["ls", "--password-file"]).arg(&fixture.passphrase).arg(vault)).ok();
    on_a_terminal(&["ls", vault], &[("Passphrase", typed)]).ok();
    let other = typed.replace('\u{df}', "\u{e4}");
    on_a_terminal(&["ls", vault], &[("Passphrase", &other)]).fails(3, "");
}

#[test]
fn ctrl_c_at_the_offer_to_clean_up_leaves_the_dead_mount() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    fixture.signal(Signal::KILL);
    eventually("dead", || {
        fs::metadata(&fixture.mountpoint).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    let mount = ["mount", fixture.vault.to_str().unwrap(), fixture.mountpoint.to_str().unwrap()];
    let outcome = on_a_terminal(&mount, &[("Clean it up?", "^C")]);
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(fixture.mounts().len(), 1);
    fixture.seal().ok();
}

#[test]
fn status_is_drawn_again_on_the_same_screen_until_ctrl_c() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let shown = ("mounted, for reading and writing", "");
    let line = ["status", "--watch", fixture.mountpoint.to_str().unwrap()];
    let outcome = on_a_terminal(&line, &[shown, shown, ("errors      none", "^C")]);
    assert_eq!(outcome.code, Some(130), "by SIGINT: {outcome:?}");
    let screens = outcome.stdout.matches("\u{1b}[H\u{1b}[2J").count();
    assert!(screens >= 2 && outcome.stdout.matches("mountpoint ").count() == screens, "{outcome:?}");
    fixture.seal().ok();
}

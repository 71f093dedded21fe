//! Repair: afterwards verify is clean, the vault works, what was whole is untouched, and nothing that had content is
//! deleted.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sero::vault::FindingKind;
use sero::vault::repair::{Repair, apply};

use super::*;

/// Repairs until there is nothing left to do; returns what was done.
pub fn repair(sample: &Sample, holes: bool) -> Vec<Repair> {
    let mut done = Vec::new();
    for _ in 0..4 {
        let plan = sample.plan(holes);
        if plan.steps.is_empty() {
            return done;
        }
        let open = || Ok((sample.storage(), sample.keys().into()));
        apply(&open, &plan, &mut |step, outcome| {
            outcome.unwrap_or_else(|error| panic!("{step:?}: {error}"));
            done.push(step.repair.clone());
        })
        .unwrap();
    }
    panic!("it does not end: {done:?}");
}

/// No damage, and the vault takes and keeps something new.
#[track_caller]
fn works(sample: &Sample) {
    let (summary, findings) = sample.verify();
    assert!(summary.is_whole(), "{findings:#?}");
    sample.with(|vault| drop(put(&vault.root(), b"new", &pattern(99, 100_000)).sync()));
    assert!(sample.content("new") == pattern(99, 100_000));
    let (summary, findings) = sample.verify();
    assert!(summary.is_whole(), "{findings:#?}");
}

fn names(sample: &Sample, path: &[&str]) -> Vec<String> {
    let vault = sample.tolerant();
    let directory = path.iter().fold(vault.root(), |at, name| at.open_child(name.as_bytes()).unwrap());
    let mut names = Vec::new();
    directory
        .list(0, &mut |entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })
        .unwrap();
    names.sort();
    names
}

#[test]
fn a_clean_vault_needs_nothing() {
    let sample = Sample::full();
    assert_eq!(sample.plan(true), RepairPlan::default());
}

#[test]
fn pages_become_holes_only_if_asked() {
    let sample = Sample::full();
    flip(&sample.backing("medium"), 11 * 4096);
    flip(&sample.backing("large"), 120 * 4096);
    flip(&sample.backing("large"), 249 * 4096);
    let mtime = fs::metadata(sample.backing("medium")).unwrap().mtime();
    let plan = sample.plan(false);
    assert_eq!((plan.steps.len(), plan.left.len()), (0, 3), "{plan:#?}");
    assert_eq!(repair(&sample, true).len(), 2);
    works(&sample);
    let mut medium = pattern(3, 300_000);
    medium[10 * 4096..11 * 4096].fill(0);
    assert!(sample.content("medium") == medium);
    let mut large = pattern(4, 3_000_000);
    large[119 * 4096..].fill(0);
    assert!(sample.content("large") == large);
    assert_eq!(fs::metadata(sample.backing("medium")).unwrap().mtime(), mtime);
}

#[test]
fn lengths_are_mended_and_what_is_left_is_kept() {
    let sample = Sample::full();
    let set_len = |plain: &str, len: u64| {
        fs::OpenOptions::new().write(true).open(sample.backing(plain)).unwrap().set_len(len).unwrap();
    };
    set_len("medium", 71 * 4096 + 10);
    set_len("large", 4_000_000);
    set_len("deep/one", 5000);
    repair(&sample, false);
    works(&sample);
    assert!(sample.content("medium") == pattern(3, 300_000)[..70 * 4096]);
    assert!(sample.content("large") == pattern(4, 3_000_000));
    assert!(sample.content("deep/one") == pattern(9, 10));
}

#[test]
fn names_that_do_not_open_go_to_lost_and_found() {
    let sample = Sample::full();
    let small = sample.backing("small");
    fs::rename(&small, small.with_file_name("AAAA")).unwrap();
    let deeper = sample.backing(&format!("deep/{}", "d".repeat(200)));
    fs::remove_file(format!("{}.n", deeper.display())).unwrap();
    repair(&sample, false);
    works(&sample);
    let lost = names(&sample, &["lost+found"]);
    assert_eq!(lost.len(), 2);
    let found = |wanted: &[u8]| {
        lost.iter().any(|name| {
            let is_file = sample.backing(&format!("lost+found/{name}")).is_file();
            is_file && sample.content(&format!("lost+found/{name}")) == wanted
        })
    };
    assert!(found(&pattern(1, 100)));
    let folder = lost.iter().find(|name| sample.backing(&format!("lost+found/{name}")).is_dir()).unwrap();
    assert!(sample.content(&format!("lost+found/{folder}/inner")) == pattern(8, 50_000));
    // Done again, there is nothing to do.
    assert_eq!(repair(&sample, true), []);
}

#[test]
fn a_directory_without_its_iv_gives_its_entries_to_lost_and_found() {
    for foreign in [false, true] {
        let sample = Sample::full();
        let iv = sample.backing("deep").join("=iv");
        let other = fs::read_link(sample.vault.join("tree/=iv")).unwrap();
        fs::remove_file(&iv).unwrap();
        if foreign {
            std::os::unix::fs::symlink(other, &iv).unwrap();
        }
        repair(&sample, false);
        works(&sample);
        assert_eq!(names(&sample, &["deep"]), Vec::<String>::new());
        assert_eq!(names(&sample, &["lost+found"]).len(), 4, "foreign {foreign}");
        sample.with(|vault| drop(put(&vault.root().open_child(b"deep").unwrap(), b"again", b"x")));
        works_again(&sample);
    }
}

fn works_again(sample: &Sample) {
    assert!(sample.verify().0.is_whole());
}

#[test]
fn what_has_no_content_is_put_aside_and_leftovers_go() {
    let sample = Sample::full();
    flip(&sample.backing("small"), 70);
    flip(&sample.backing("shared"), 3);
    flip(&sample.backing("large"), 200);
    retarget(&sample.backing("link"), edited);
    let medium = sample.backing("medium");
    rustix::fs::setxattr(&medium, "user.sero", &[7; 50], rustix::fs::XattrFlags::empty()).unwrap();
    fs::write(sample.vault.join("tree/=hello"), "x").unwrap();
    fs::write(sample.vault.join("private/state"), "garbage").unwrap();
    fs::write(sample.vault.join("sero.json.tmp"), "x").unwrap();
    std::os::unix::fs::symlink("x", sample.vault.join(format!("tree/={}.n", "A".repeat(43)))).unwrap();
    repair(&sample, false);
    works(&sample);
    let lost = fs::read_dir(sample.vault.join("private/lost")).unwrap().count();
    // Small, shared by both its names, large, the link, the table, "=hello", the state.
    assert_eq!(lost, 8);
    let (_, findings) = sample.verify();
    assert!(findings.iter().all(|finding| finding.kind == FindingKind::Lost), "{findings:#?}");
    assert!(sample.content("medium") == pattern(3, 300_000));
    assert!(!names(&sample, &[]).contains(&"small".to_owned()));
}

#[test]
fn a_vault_without_its_private_folder_gets_one() {
    let sample = Sample::full();
    fs::remove_dir_all(sample.vault.join("private")).unwrap();
    repair(&sample, false);
    works(&sample);
    assert!(sample.content("large") == pattern(4, 3_000_000));
}

/// Something else in the place of the vault's own files and folders: it is put aside, and nothing stops at it.
#[test]
fn what_is_no_file_of_the_vaults_own_is_put_aside() {
    let kinds: [fn(&Path); 4] = [
        |path| fs::create_dir(path).unwrap(),
        |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        |path| rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
        |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), "x").unwrap();
        },
    ];
    let opened = ["private/lock", "private/state", "private/journal.0", "private/journal.1"];
    for own in opened.into_iter().chain(["private/links", "private/lost", "private/state.new", "private"]) {
        for make in kinds {
            let sample = Sample::full();
            let path = sample.vault.join(own);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            make(&path);
            if opened.contains(&own) {
                let refused = Vault::open(sample.storage(), sample.keys(), Mode::ReadWrite);
                assert!(refused.is_err(), "{own} is something else");
            }
            let saved = sample.folder.path().join("saved");
            sample.tolerant().salvage(&saved, &mut |_| ()).unwrap();
            assert!(fs::read(saved.join("large")).unwrap() == pattern(4, 3_000_000), "{own}");
            repair(&sample, false);
            works(&sample);
            assert!(sample.content("large") == pattern(4, 3_000_000), "{own}");
        }
    }
}

/// The names of the top directory do not open any more: lost+found is there all the same.
#[test]
fn the_iv_of_the_top_and_of_lost_and_found_are_mended() {
    let sample = Sample::full();
    flip(&sample.backing("medium"), 70);
    retarget(&sample.vault.join("tree/=iv"), edited);
    repair(&sample, false);
    works(&sample);
    // All but the one that has no content; with what `works` has put there.
    assert_eq!(names(&sample, &[]), ["lost+found", "new"]);
    let saved = names(&sample, &["lost+found"]);
    let contents: Vec<_> = saved.iter().map(|name| format!("lost+found/{name}")).collect();
    let vault = sample.tolerant();
    let is_there = |wanted: Vec<u8>| {
        contents.iter().any(|path| {
            let name = path.rsplit('/').next().unwrap();
            let folder = vault.root().open_child(b"lost+found").unwrap();
            folder.open_file(name.as_bytes()).is_ok_and(|file| file.len_bytes() == wanted.len() as u64)
                && read(&vault, path) == wanted
        })
    };
    assert!(is_there(pattern(4, 3_000_000)) && is_there(pattern(2, 16256)) && !is_there(pattern(3, 300_000)));
    drop(vault);
    // And now that of lost+found.
    retarget(&sample.backing("lost+found").join("=iv"), edited);
    flip(&sample.backing("new"), 70);
    repair(&sample, false);
    works(&sample);
    assert_eq!(names(&sample, &["lost+found.1"]).len(), saved.len());
}

/// Without a name at the top there is nothing to be moved, and the IV is mended all the same.
#[test]
fn the_iv_of_an_empty_vault_is_mended() {
    let sample = Sample::empty();
    sample.with(|vault| drop(put(&vault.root(), b"gone", b"x")));
    sample.with(|vault| vault.root().unlink(b"gone").unwrap());
    retarget(&sample.vault.join("tree/=iv"), edited);
    assert!(!sample.verify().0.is_whole());
    repair(&sample, false);
    works(&sample);
}

/// A link that does not open by one of its pieces: the others are kept with it.
#[test]
fn pieces_of_a_damaged_link_are_kept() {
    let sample = Sample::full();
    let links = sample.vault.join("private/links");
    let before = fs::read_dir(&links).unwrap().count();
    assert!(before > 1);
    let piece = fs::read_dir(&links).unwrap().next().unwrap().unwrap().path();
    retarget(&piece, edited);
    repair(&sample, false);
    works(&sample);
    let kept = fs::read_dir(sample.vault.join("private/lost")).unwrap().count() + fs::read_dir(&links).unwrap().count();
    // With the link itself.
    assert_eq!(kept, before + 1);
}

#[test]
fn what_a_journal_has_that_cannot_be_read_yet_is_not_taken_for_lost() {
    let sample = Sample::full();
    let crashed = Sample { vault: sample.folder.path().join("crashed"), folder: tempfile::tempdir().unwrap() };
    let vault = Vault::open(sample.storage(), sample.keys(), Mode::ReadWrite).unwrap();
    for (name, offset, content) in [("medium", 49 * 4096, pattern(90, 4096)), ("small", 0, pattern(91, 100))] {
        let file = vault.root().open_file(name.as_bytes()).unwrap();
        file.write(offset, &content).unwrap();
        file.sync().unwrap();
    }
    super::verify::copy_tree(&sample.vault, &crashed.vault);
    drop(vault);
    let (medium, small) = (crashed.backing("medium"), crashed.backing("small"));
    flip(&medium, 50 * 4096 + 7);
    flip(&small, 70);
    assert!(crashed.verify().0.is_whole(), "the journal has both");
    // In the place of the segment that nothing is in.
    let away = crashed.folder.path().join("away");
    let segments = ["private/journal.0", "private/journal.1"].map(|segment| crashed.vault.join(segment));
    let is_unused = |segment: &&PathBuf| {
        fs::rename(segment, &away).unwrap();
        let is_unused = crashed.verify().0.is_whole();
        fs::rename(&away, segment).unwrap();
        is_unused
    };
    let unused = segments.iter().find(is_unused).unwrap();
    fs::remove_file(unused).unwrap();
    fs::create_dir(unused).unwrap();

    let plan = crashed.plan(true);
    assert!(plan.is_partial && plan.steps.len() == 1 && plan.steps[0].repair == Repair::PutAside, "{plan:#?}");
    assert_eq!(repair(&crashed, true)[0], Repair::PutAside);
    works(&crashed);
    let mut expected = pattern(3, 300_000);
    expected[49 * 4096..50 * 4096].copy_from_slice(&pattern(90, 4096));
    assert!(crashed.content("medium") == expected);
    assert!(crashed.content("small") == pattern(91, 100));
}

/// The backing gave errors when it was looked at, and does not any more.
#[test]
fn what_opens_by_now_is_left_as_it_is() {
    let sample = Sample::full();
    let (medium, small) = (sample.backing("medium"), sample.backing("small"));
    let before = [fs::read(&medium).unwrap(), fs::read(&small).unwrap()];
    flip(&medium, 50 * 4096 + 7);
    flip(&small, 70);
    let plan = sample.plan(true);
    assert_eq!(plan.steps.len(), 2, "{plan:#?}");
    fs::write(&medium, &before[0]).unwrap();
    fs::write(&small, &before[1]).unwrap();
    apply(&|| Ok((sample.storage(), sample.keys().into())), &plan, &mut |_, outcome| outcome.unwrap()).unwrap();
    works(&sample);
    assert!(sample.content("medium") == pattern(3, 300_000));
    assert!(sample.content("small") == pattern(1, 100));
}

#[test]
fn a_stranger_beside_an_iv_does_not_cost_the_iv() {
    let sample = Sample::full();
    fs::write(sample.backing("hollow").join("=iv.sync-conflict-20261123"), b"stray").unwrap();
    repair(&sample, false);
    works(&sample);
    sample.with(|vault| drop(put(&vault.root().open_child(b"hollow").unwrap(), b"taken", &pattern(92, 10)).sync()));
    assert!(sample.content("hollow/taken") == pattern(92, 10));
    // The same where the IV is damaged.
    let iv = sample.backing("deep").join("=iv");
    retarget(&iv, edited);
    fs::write(sample.backing("deep").join("stray"), b"stray").unwrap();
    repair(&sample, false);
    sample.with(|vault| drop(put(&vault.root().open_child(b"deep").unwrap(), b"taken", &pattern(93, 10)).sync()));
    assert!(sample.content("deep/taken") == pattern(93, 10));
}

#[test]
fn a_mounted_vault_is_refused() {
    let sample = Sample::full();
    flip(&sample.backing("small"), 70);
    let plan = sample.plan(false);
    let vault = Vault::open(sample.storage(), sample.keys(), Mode::ReadWrite).unwrap();
    let outcome = apply(&|| Ok((sample.storage(), sample.keys().into())), &plan, &mut |_, _| ());
    assert!(matches!(outcome, Err(sero::vault::VaultError::AlreadyMounted { .. })), "{outcome:?}");
    vault.seal().unwrap();
}

/// Random damage of every kind, then repair: verify is clean, the vault works, and every file that verify did not name
/// is as it was.
#[test]
fn random_damage_is_repaired() {
    let seed: u64 = std::env::var("SERO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123);
    println!("seed {seed}; SERO_SEED sets another");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..8 {
        let sample = Sample::full();
        let contents = super::salvage::contents();
        let backings: Vec<_> = contents.keys().map(|plain| (plain.clone(), sample.backing(plain))).collect();
        for _ in 0..5 {
            let (_, path) = &backings[random.random_range(0..backings.len())];
            let Ok(len) = fs::metadata(path).map(|metadata| metadata.len()) else { continue };
            match random.random_range(0..4) {
                0 => {
                    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                    file.set_len(random.random_range(0..len + 5000)).unwrap();
                }
                1 => {
                    let mut name = path.file_name().unwrap().to_owned().into_string().unwrap();
                    if !name.starts_with('=') {
                        name = edited(name);
                        fs::rename(path, path.with_file_name(name)).unwrap();
                    }
                }
                _ => flip(path, random.random_range(0..len.clamp(1, 400_000))),
            }
        }
        let (_, findings) = sample.verify();
        let is_named = |plain: &str| findings.iter().any(|finding| finding.plain.as_deref() == Some(plain.as_bytes()));
        repair(&sample, true);
        works(&sample);
        let vault = sample.tolerant();
        for (plain, backing) in backings {
            let is_shared = ["shared", "deep/hard"].contains(&plain.as_str());
            if is_named(&plain) || is_shared || !backing.exists() {
                continue;
            }
            assert!(read(&vault, &plain) == contents[&plain], "seed {seed}, round {round}: {plain}");
        }
    }
}

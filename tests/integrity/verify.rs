//! What verify finds, and what it does not.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sero::vault::{FindingKind, RenameMode, VaultError};

use super::*;

const PAGE: u64 = 4096;
/// Of the first node below the root, which covers pages 119 to 246.
const FIRST_NODE: u64 = 120 * PAGE;

#[test]
fn a_clean_vault_is_silent() {
    let sample = Sample::full();
    let (summary, findings) = sample.verify();
    assert_eq!(findings, []);
    assert!(summary.is_whole());
    assert_eq!((summary.files, summary.directories, summary.symlinks, summary.others), (11, 4, 2, 1));
    assert_eq!(summary.bytes, 100 + 16256 + 300_000 + 3_000_000 + 40_000_000 + 5000 + 50_000 + 10 + 20 + 20_000);
}

/// One attack and what must be said about it: kind, plain path, extent.
struct Case {
    name: &'static str,
    attack: fn(&Sample),
    kind: FindingKind,
    plain: Option<&'static str>,
    extent: Option<(u64, u64)>,
}

fn cases() -> Vec<Case> {
    use FindingKind as K;
    let case = |name, kind, plain, extent, attack| Case { name, attack, kind, plain, extent };
    let page = PAGE;
    vec![
        case("a bit of a page", K::Page, Some("medium"), Some((10 * page, page)), |s| {
            flip(&s.backing("medium"), 11 * PAGE + 77);
        }),
        case(
            "a bit of the last, short page",
            K::Page,
            Some("large"),
            Some((732 * page, 3_000_000 - 732 * page)),
            |s| {
                let path = s.backing("large");
                flip(&path, fs::metadata(&path).unwrap().len() - 1);
            },
        ),
        case("two pages exchanged", K::Page, Some("medium"), Some((3 * page, 2 * page)), |s| {
            let file = fs::OpenOptions::new().read(true).write(true).open(s.backing("medium")).unwrap();
            let mut pages = [[0; 4096]; 2];
            file.read_exact_at(&mut pages[0], 4 * PAGE).unwrap();
            file.read_exact_at(&mut pages[1], 5 * PAGE).unwrap();
            file.write_all_at(&pages[1], 4 * PAGE).unwrap();
            file.write_all_at(&pages[0], 5 * PAGE).unwrap();
        }),
        case("pages zeroed", K::Page, Some("large"), Some((200 * page, 7 * page)), |s| {
            let file = fs::OpenOptions::new().write(true).open(s.backing("large")).unwrap();
            file.write_all_at(&[0; 7 * 4096], 202 * PAGE).unwrap_or_else(|error| panic!("{error}"));
        }),
        case("a node", K::Node, Some("large"), Some((119 * page, 128 * page)), |s| {
            flip(&s.backing("large"), FIRST_NODE + 5);
        }),
        case("a node of height 2", K::Node, Some("large"), Some((247 * page, 3_000_000 - 247 * page)), |s| {
            flip(&s.backing("large"), 249 * PAGE);
        }),
        case("a node in a sparse file", K::Node, Some("sparse"), Some((7287 * page, 128 * page)), |s| {
            // Page 7324 (30,000,000 bytes) is the 37th of its leaf.
            flip(&s.backing("sparse"), 4096 * (250 + 55 * 129) + 3);
        }),
        case("the root", K::Root, Some("large"), None, |s| flip(&s.backing("large"), 200)),
        case("a header", K::Header, Some("medium"), None, |s| flip(&s.backing("medium"), 70)),
        case("a salt", K::Header, Some("small"), None, |s| flip(&s.backing("small"), 3)),
        case("a blob", K::Blob, Some("small"), Some((0, 100)), |s| flip(&s.backing("small"), 150)),
        case("a long blob", K::Blob, Some("blob"), Some((0, 16256)), |s| flip(&s.backing("blob"), 16000)),
        case("a link", K::Symlink, Some("link"), None, |s| retarget(&s.backing("link"), edited)),
        case("a piece of a long link", K::Symlink, Some("longlink"), None, |s| {
            let piece = fs::read_dir(s.vault.join("private/links")).unwrap().next().unwrap().unwrap().path();
            retarget(&piece, edited);
        }),
        case("attributes", K::Xattrs, Some("small"), None, |s| {
            let path = s.backing("small");
            let mut value = [0; 4096];
            let len = rustix::fs::getxattr(&path, "user.sero", &mut value).unwrap();
            value[len - 1] ^= 1;
            rustix::fs::setxattr(&path, "user.sero", &value[..len], rustix::fs::XattrFlags::empty()).unwrap();
        }),
        case("a name", K::Name, None, None, |s| {
            let path = s.backing("small");
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            fs::rename(&path, path.with_file_name(edited(name))).unwrap();
        }),
        case("a name in another directory", K::Name, None, None, |s| {
            let path = s.backing("small");
            fs::rename(&path, s.backing("deep").join(path.file_name().unwrap())).unwrap();
        }),
        case("a sidecar gone", K::Name, None, None, |s| {
            let path = s.backing(&format!("deep/{}", "d".repeat(200)));
            fs::remove_file(format!("{}.n", path.display())).unwrap();
        }),
        case("a name that nothing has", K::Name, None, None, |s| {
            fs::write(s.vault.join("tree/=hello"), "x").unwrap();
        }),
        case("an IV edited", K::DirectoryIv, Some("deep"), None, |s| retarget(&s.backing("deep").join("=iv"), edited)),
        case("an IV gone", K::DirectoryIv, Some("deep"), None, |s| {
            fs::remove_file(s.backing("deep").join("=iv")).unwrap();
        }),
        case("an IV that is no link", K::DirectoryIv, Some("deep"), None, |s| {
            let path = s.backing("deep").join("=iv");
            fs::remove_file(&path).unwrap();
            fs::write(path, "x").unwrap();
        }),
        case("the state", K::State, None, None, |s| fs::write(s.vault.join("private/state"), [7; 100]).unwrap()),
        case("the configuration before", K::ConfigurationBackup, None, None, |s| {
            fs::write(s.vault.join("sero.json.bak"), "{}").unwrap();
        }),
    ]
}

#[test]
fn each_damage_is_found_once_with_its_place() {
    for case in cases() {
        let sample = Sample::full();
        (case.attack)(&sample);
        let (summary, findings) = sample.verify();
        let named = case.name;
        assert_eq!(findings.len(), 1, "{named}: {findings:#?}");
        let finding = &findings[0];
        assert_eq!(finding.severity, Severity::Damage, "{named}: {finding:?}");
        assert_eq!(finding.kind, case.kind, "{named}: {finding:?}");
        assert_eq!(finding.plain.as_deref(), case.plain.map(str::as_bytes), "{named}: {finding:?}");
        let extent = finding.extent.map(|extent| (extent.offset_bytes, extent.len_bytes));
        assert_eq!(extent, case.extent, "{named}: {finding:?}");
        assert!(!summary.is_whole(), "{named}");
        let is_there = sample.vault.join(&finding.backing).symlink_metadata().is_ok();
        assert!(is_there || case.name == "an IV gone", "{named}: {finding:?}");
    }
}

#[test]
fn another_directorys_iv_is_found_with_every_name() {
    let sample = Sample::full();
    let target = fs::read_link(sample.vault.join("tree/=iv")).unwrap();
    let iv = sample.backing("deep").join("=iv");
    fs::remove_file(&iv).unwrap();
    symlink(target, iv).unwrap();
    let (_, findings) = sample.verify();
    let of = |kind| findings.iter().filter(|finding| finding.kind == kind).count();
    assert_eq!((of(FindingKind::DirectoryIv), of(FindingKind::Name), findings.len()), (1, 4, 5), "{findings:#?}");
}

#[test]
fn a_file_that_was_cut_loses_what_is_gone_and_one_that_was_extended_nothing() {
    for (cut, expected) in [
        (true, vec![(FindingKind::Length, None), (FindingKind::Missing, Some((70 * PAGE, 300_000 - 70 * PAGE)))]),
        (false, vec![(FindingKind::Length, None)]),
    ] {
        let sample = Sample::full();
        let path = sample.backing("medium");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(if cut { 71 * PAGE + 10 } else { len + 1 }).unwrap();
        let (_, findings) = sample.verify();
        let said: Vec<_> = findings
            .iter()
            .map(|finding| (finding.kind, finding.extent.map(|extent| (extent.offset_bytes, extent.len_bytes))))
            .collect();
        assert_eq!(said, expected, "{findings:#?}");
        assert!(findings[0].reason.contains(if cut { "cut" } else { "extended" }));
    }
}

#[test]
fn what_is_left_over_is_no_damage() {
    let sample = Sample::full();
    let deep = sample.backing("deep");
    let sidecar = format!("={}.n", "A".repeat(43));
    symlink("x", deep.join(&sidecar)).unwrap();
    fs::write(sample.vault.join("sero.json.tmp"), "x").unwrap();
    fs::write(sample.vault.join("private/state.new"), "x").unwrap();
    symlink("x", sample.vault.join(format!("private/links/{}.0", "B".repeat(32)))).unwrap();
    fs::write(deep.join(".nfs0001"), "x").unwrap();
    let (summary, findings) = sample.verify();
    let mut kinds: Vec<_> = findings.iter().map(|finding| finding.kind).collect();
    kinds.sort();
    use FindingKind as K;
    assert_eq!(kinds, [K::Sidecar, K::LinkPiece, K::Temporary, K::Temporary, K::Foreign], "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.severity == Severity::Leftover));
    assert!(summary.is_whole());
}

#[test]
fn a_path_is_checked_alone() {
    let sample = Sample::full();
    flip(&sample.backing("shared"), 3 * PAGE);
    flip(&sample.backing("deep/one"), 130);
    let kinds = |paths: &[&[u8]]| {
        let (summary, findings) = sample.verify_paths(paths);
        let plain: Vec<_> = findings.into_iter().map(|finding| finding.plain.unwrap()).collect();
        (summary.files, plain)
    };
    assert_eq!(kinds(&[b"/large"]), (1, vec![]));
    assert_eq!(kinds(&[b"deep/one"]), (1, vec![b"deep/one".to_vec()]));
    let (files, mut plain) = kinds(&[b"/deep/"]);
    plain.sort();
    assert_eq!((files, plain), (5, vec![b"deep/hard".to_vec(), b"deep/one".to_vec()]));
    assert!(sample.tolerant().verify(&VerifyOptions { paths: vec![b"no/such".to_vec()], jobs: 1 }, &Nobody).is_err());
}

struct Nobody;

impl VerifyObserver for Nobody {
    fn found(&self, _: Finding) {}
}

#[test]
fn what_lies_below_a_lost_name_is_checked_too() {
    let sample = Sample::full();
    let inner = sample.backing(&format!("deep/{}/inner", "d".repeat(200)));
    flip(&inner, 2 * PAGE);
    let deep = sample.backing("deep");
    fs::rename(&deep, deep.with_file_name("AAAA")).unwrap();
    let (_, findings) = sample.verify();
    let kinds: Vec<_> = findings.iter().map(|finding| (finding.kind, finding.plain.is_some())).collect();
    assert_eq!(kinds.len(), 2, "{findings:#?}");
    assert!(kinds.contains(&(FindingKind::Name, false)) && kinds.contains(&(FindingKind::Page, false)), "{kinds:?}");
}

#[test]
fn a_crashed_vault_is_verified_with_its_journal() {
    let sample = Sample::full();
    let copy = Sample { vault: sample.folder.path().join("crashed"), folder: tempfile::tempdir().unwrap() };
    let vault = Vault::open(sample.storage(), sample.keys(), Mode::ReadWrite).unwrap();
    let file = vault.root().open_file(b"medium").unwrap();
    file.write(5000, &pattern(90, 20_000)).unwrap();
    file.sync().unwrap();
    put(&vault.root(), b"fresh", &pattern(91, 70_000)).sync().unwrap();
    copy_tree(&sample.vault, &copy.vault);
    drop(vault);

    let (summary, findings) = copy.verify();
    assert!(summary.is_whole(), "{findings:#?}");
    let kinds: Vec<_> = findings.iter().map(|finding| (finding.kind, finding.severity)).collect();
    assert_eq!(kinds, [(FindingKind::Journal, Severity::Crash)], "{findings:#?}");
    let mut expected = pattern(3, 300_000);
    expected[5000..25_000].copy_from_slice(&pattern(90, 20_000));
    assert_eq!(copy.content("medium"), expected);

    // A page in the home that the journal does not replace.
    flip(&copy.backing("medium"), 60 * PAGE);
    let (_, findings) = copy.verify();
    let pages: Vec<_> = findings.iter().filter(|finding| finding.kind == FindingKind::Page).collect();
    assert_eq!(pages.len(), 1, "{findings:#?}");
    assert_eq!(pages[0].extent.unwrap().offset_bytes, 59 * PAGE);
}

/// A part is not told as the whole.
#[test]
fn what_was_cancelled_has_no_outcome() {
    struct Cancelled;
    impl VerifyObserver for Cancelled {
        fn found(&self, _: Finding) {}
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let sample = Sample::full();
    flip(&sample.backing("large"), 249 * PAGE);
    for vault in [sample.tolerant(), Vault::open(sample.storage(), sample.keys(), Mode::ReadOnly).unwrap()] {
        let outcome = vault.verify(&VerifyOptions::default(), &Cancelled);
        assert!(matches!(outcome, Err(sero::vault::VaultError::Interrupted)), "{outcome:?}");
    }
}

pub fn copy_tree(from: &Path, to: &Path) {
    assert!(spawning::status(std::process::Command::new("cp").arg("-a").arg(from).arg(to)).success());
}

/// Ends the workers, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_vault_in_use_is_never_said_to_be_damaged() {
    let sample = Sample::full();
    let vault = Vault::open(sample.storage(), sample.keys(), Mode::ReadWrite).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2_u8 {
            let (vault, is_over) = (&vault, &is_over);
            scope.spawn(move || {
                let top = vault.root().make_dir(&[b'w', b'0' + worker], &DIR).unwrap().1;
                let mut round = 0_usize;
                while !is_over.load(Ordering::Relaxed) {
                    round += 1;
                    let name = format!("{}{}", "n".repeat(if round.is_multiple_of(3) { 200 } else { 5 }), round % 7);
                    let _ = top.unlink(name.as_bytes());
                    let file = put(&top, name.as_bytes(), &pattern(worker, 1000 + (round % 11) * 60_000));
                    file.write((round % 13) as u64 * 5000, &pattern(77, 9000)).unwrap();
                    match round % 5 {
                        0 => file.sync().unwrap(),
                        1 => file.truncate((round % 17) as u64 * 9000).unwrap(),
                        2 => drop(top.rename(name.as_bytes(), &top, b"other", RenameMode::Replace)),
                        3 => file.punch_hole(4096, 60_000).unwrap(),
                        _ => vault.checkpoint().unwrap(),
                    }
                    if round.is_multiple_of(4) {
                        vault.tick().unwrap();
                    }
                }
            });
        }
        let _end = End(&is_over);
        for _ in 0..6 {
            let (_, findings) = verify_open(&vault, &[]);
            assert_eq!(findings, [], "beside ordinary work");
        }
    });
    // And damage is noticed, also in what is cached: the file was read before.
    read(&vault, "large");
    let home = sample.vault.join("tree");
    let large = fs::read_dir(home)
        .unwrap()
        .map(|entry| entry.unwrap())
        .find(|entry| entry.metadata().unwrap().ino() == vault.root().lookup(b"large").unwrap().ino)
        .unwrap();
    let keep_open = vault.root().open_file(b"large").unwrap();
    flip(&large.path(), FIRST_NODE + 9);
    let (_, findings) = verify_open(&vault, &[]);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].kind, FindingKind::Node);
    flip(&large.path(), FIRST_NODE + 9);
    drop(keep_open);
    vault.seal().unwrap();
    drop(vault);
    let (_, findings) = sample.verify();
    assert_eq!(findings, []);
}

#[test]
fn a_file_is_in_memory_once_however_it_is_opened_written_and_let_go() {
    let sample = Sample::full();
    let vault = Vault::open(sample.storage(), sample.keys(), Mode::ReadWrite).unwrap();
    let top = vault.root().make_dir(b"busy", &DIR).unwrap().1;
    let len = 40 * PAGE as usize;
    for (name, is_durable) in [("volatile", false), ("durable", true)] {
        let file = put(&top, name.as_bytes(), &vec![0; len]);
        if is_durable {
            file.sync().unwrap()
        } else {
            file.commit().unwrap()
        }
        drop(file);
        let (is_over, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let _end = End(&is_over);
            scope.spawn(|| {
                // The writer waits for it.
                let _end = End(&is_over);
                let mut content = vec![0; len];
                while !is_over.load(Ordering::Relaxed) {
                    let file = match top.open_file(name.as_bytes()) {
                        Ok(file) => file,
                        // It has the other name just now.
                        Err(VaultError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                        Err(error) => panic!("{error}"),
                    };
                    assert_eq!(file.read(0, &mut content).unwrap(), len);
                    for page in content.chunks(PAGE as usize) {
                        assert!(page.iter().all(|byte| *byte == page[0]), "{name}: a page of two rounds");
                    }
                    drop(file);
                    opened.fetch_add(1, Ordering::Relaxed);
                    // Most of the time nobody has it.
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    vault.sync().unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let mut round = 0_u8;
            while opened.load(Ordering::Relaxed) < 1000 && !is_over.load(Ordering::Relaxed) {
                round = round.wrapping_add(1);
                let file = top.open_file(name.as_bytes()).unwrap();
                file.punch_hole(PAGE, len as u64 - PAGE).unwrap();
                file.write(PAGE, &vec![round; len - PAGE as usize]).unwrap();
                // Without being committed: the last one who has it does so.
                drop(file);
                if round.is_multiple_of(8) {
                    top.rename(name.as_bytes(), &top, b"other", RenameMode::NoReplace).unwrap();
                    top.rename(b"other", &top, name.as_bytes(), RenameMode::NoReplace).unwrap();
                    vault.checkpoint().unwrap();
                }
                let mut content = vec![0; len];
                assert_eq!(top.open_file(name.as_bytes()).unwrap().read(0, &mut content).unwrap(), len);
                assert!(content[PAGE as usize..].iter().all(|byte| *byte == round), "{name}: not the newest round");
            }
        });
    }
    vault.seal().unwrap();
    drop(vault);
    let (_, findings) = sample.verify();
    assert_eq!(findings, []);
}

#[test]
fn a_backing_name_that_is_no_text_is_reported_as_it_is() {
    let sample = Sample::full();
    let odd = std::ffi::OsStr::from_bytes(b"AA\xff\xfe");
    fs::write(sample.vault.join("tree").join(odd), "x").unwrap();
    let (_, findings) = sample.verify();
    let named: Vec<_> = findings.iter().filter(|finding| finding.kind == FindingKind::Name).collect();
    assert_eq!(named.len(), 1, "{findings:#?}");
    assert!(named[0].backing.as_bytes().ends_with(b"/AA\xff\xfe"));
}

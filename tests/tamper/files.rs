//! Content at rest: "a flipped bit anywhere; zeroed, punched, swapped, moved, foreign or older pages and nodes; an older
//! header over a newer body and the reverse; truncation and extension by any number of bytes".

use std::fs;
use std::os::unix::fs::FileExt;

use log::Level;
use rustix::fs::FallocateFlags;
use sero::format::geometry::HEADER_LEN;
use sero::vault::{FileKind, Mode, VaultError};

use super::attacks::{Attack, flipped_bits, foreign, moved, replayed, resized, zeroed};
use super::oracle::{Expected, check, expect, read};
use super::specimen::{Content, PAGE, PLAIN, Specimen, Victim, logged, open, seal, write_pages};

/// Attacks every file in turn; returns how many attacks were noticed.
fn attack_all(specimen: &Specimen, attacks: impl Fn(&Victim) -> Vec<Attack>) -> usize {
    let mut noticed = 0;
    for victim in &specimen.victims {
        for (what, home) in attacks(victim) {
            // That is no attack; or it is the replay of a whole file, which the threat model names.
            if home == victim.new.1 || home == victim.old.1 {
                continue;
            }
            let what = format!("{}: {what}", victim.name.escape_ascii());
            fs::write(&victim.home, &home).unwrap();
            let (content, expected) = expected_of(victim, &home);
            noticed += usize::from(expected.is_noticed());
            check(&what, specimen, victim, content, &expected);
        }
        fs::write(&victim.home, &victim.new.1).unwrap();
        check("untouched", specimen, victim, &victim.new.0, &expect(&victim.new.0, &victim.new.1, &victim.new.1));
    }
    noticed
}

/// Whose version the header says it is, and what is then lost.
fn expected_of<'a>(victim: &'a Victim, home: &[u8]) -> (&'a Content, Expected) {
    let (content, of) = [&victim.new, &victim.old]
        .into_iter()
        .find(|(_, of)| home.get(..HEADER_LEN) == of.get(..HEADER_LEN))
        .map_or((&victim.new.0, &victim.new.1), |(content, of)| (content, of));
    (content, expect(content, of, home))
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let noticed = attack_all(&Specimen::new(), flipped_bits);
    assert!(noticed > 800, "{noticed}");
}

#[test]
fn zeroed_and_punched_blocks_are_no_holes() {
    let specimen = Specimen::new();
    let noticed = attack_all(&specimen, zeroed);
    assert!(noticed > 300, "{noticed}");
    // Really punched: the same bytes, and no space.
    for victim in specimen.victims.iter().filter(|victim| victim.new.1.len() > 4 * PAGE) {
        for block in [0, 2, 120] {
            let home = fs::OpenOptions::new().write(true).open(&victim.home).unwrap();
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&home, flags, block * PAGE as u64, PAGE as u64).unwrap();
            let found = fs::read(&victim.home).unwrap();
            let (content, expected) = expected_of(victim, &found);
            check("a punched block", &specimen, victim, content, &expected);
            fs::write(&victim.home, &victim.new.1).unwrap();
        }
    }
}

#[test]
fn blocks_in_the_place_of_others_are_noticed() {
    let noticed = attack_all(&Specimen::new(), moved);
    assert!(noticed > 100, "{noticed}");
}

#[test]
fn blocks_of_other_files_and_vaults_are_noticed() {
    let (specimen, other) = (Specimen::new(), Specimen::new());
    let noticed = attack_all(&specimen, |victim| foreign(victim, &specimen, &other));
    assert!(noticed > 300, "{noticed}");
}

#[test]
fn older_pages_nodes_and_headers_are_noticed() {
    let noticed = attack_all(&Specimen::new(), replayed);
    assert!(noticed > 60, "{noticed}");
}

#[test]
fn other_lengths_are_noticed() {
    let noticed = attack_all(&Specimen::new(), resized);
    assert!(noticed > 500, "{noticed}");
}

#[test]
fn a_file_with_two_names_is_damaged_under_both() {
    let specimen = Specimen::new();
    let victim = specimen.victim(b"tree");
    let home = fs::OpenOptions::new().write(true).open(&victim.home).unwrap();
    home.write_all_at(&[0; 512], 3 * PAGE as u64).unwrap();
    let vault = open(&specimen.vault, Mode::ReadOnly);
    for name in [&b"tree"[..], b"second name"] {
        let (_, pages) = read(&vault.root(), name).unwrap();
        let lost: Vec<usize> = (0..pages.len()).filter(|page| pages[*page].is_err()).collect();
        assert_eq!(lost, [2]);
    }
}

/// Nodes in three storeys: a file of 70 MB with a page here and there.
#[test]
fn damage_in_a_large_file_costs_what_is_below_it() {
    let specimen = Specimen::new();
    let vault = open(&specimen.vault, Mode::ReadWrite);
    let pages = [0, 118, 119, 247, 16_630, 16_631, 16_760, 17_000];
    let size = 17_001 * PAGE as u64;
    let (stat, file) = vault.root().make_file(b"large", &PLAIN).unwrap();
    for page in pages {
        file.write(page * PAGE as u64, &[page as u8 | 1; PAGE]).unwrap();
    }
    file.truncate(size).unwrap();
    file.commit().unwrap();
    drop(file);
    seal(vault);
    let path = super::specimen::entry_of_inode(&specimen.vault.join("tree"), stat.ino);
    let home = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // The top of the subtree of height 3 is at block 16762, its first child (height 2) behind it, and below that the
    // nodes of height 1, 129 blocks each.
    let cases: [(u64, &[u64]); 6] = [
        (1, &[0]),
        (120, &[119]),
        (249, &[247, 16_630]),
        (16_762, &[16_631, 16_760, 17_000]),
        (16_763, &[16_631, 16_760, 17_000]),
        (16_764, &[16_631]),
    ];
    for (block, lost) in cases {
        let mut before = [0; PAGE];
        home.read_exact_at(&mut before, block * PAGE as u64).unwrap();
        assert_ne!(before, [0; PAGE], "something stands at block {block}");
        home.write_all_at(&[0; PAGE], block * PAGE as u64).unwrap();
        let vault = open(&specimen.vault, Mode::ReadOnly);
        let file = vault.root().open_file(b"large").unwrap();
        for page in pages {
            let mut bytes = [0; PAGE];
            let read = file.read(page * PAGE as u64, &mut bytes);
            assert_eq!(read.is_err(), lost.contains(&page), "block {block}, page {page}");
            assert!(read.is_err() || bytes == [page as u8 | 1; PAGE]);
        }
        home.write_all_at(&before, block * PAGE as u64).unwrap();
    }
    for len in [0, 100, 120 * PAGE as u64, home.metadata().unwrap().len() - PAGE as u64] {
        home.set_len(len).unwrap();
        let vault = open(&specimen.vault, Mode::ReadOnly);
        assert!(matches!(vault.root().open_file(b"large"), Err(VaultError::Integrity(_))), "cut to {len}");
    }
}

#[test]
fn another_kind_of_inode_in_the_place_of_a_file_gives_none_of_its_content() {
    let specimen = Specimen::new();
    let victim = specimen.victim(b"tree");
    let put: [(&str, FileKind, fn(&std::path::Path)); 5] = [
        ("an empty file", FileKind::Regular, |path| fs::write(path, b"").unwrap()),
        ("a plain file", FileKind::Regular, |path| fs::write(path, vec![b'x'; 40_000]).unwrap()),
        ("a link", FileKind::Symlink, |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()),
        ("a directory", FileKind::Directory, |path| fs::create_dir(path).unwrap()),
        ("a FIFO", FileKind::Fifo, |path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        }),
    ];
    for (what, kind, put) in put {
        fs::remove_file(&victim.home).unwrap();
        put(&victim.home);
        let vault = open(&specimen.vault, Mode::ReadOnly);
        // Types are the backing's: what a name stands for can be seen, and is not authenticated.
        assert_eq!(vault.root().lookup(b"tree").unwrap().kind(), kind, "{what}");
        let opened = vault.root().open_file(b"tree");
        assert!(opened.is_err(), "{what}");
        if kind == FileKind::Regular {
            assert!(matches!(opened, Err(VaultError::Integrity(_))), "{what}");
        }
        if kind == FileKind::Symlink {
            let (target, lines) = logged(Level::Error, || vault.root().read_symlink(b"tree"));
            assert!(matches!(target, Err(VaultError::Integrity(_))), "{what}");
            assert_eq!(lines.len(), 1);
        }
        specimen.restore(victim);
    }
}

// --- what can still be done with a damaged file ---

#[test]
fn a_lost_page_can_be_written_anew_and_nothing_else_is_lost_by_it() {
    let specimen = Specimen::new();
    let victim = specimen.victim(b"two levels");
    let home = fs::OpenOptions::new().write(true).open(&victim.home).unwrap();
    for page in [2_u64, 120] {
        let block = sero::format::geometry::page_block(sero::format::geometry::PageIndex(page));
        home.write_all_at(&[0; PAGE], block.offset_bytes()).unwrap();
    }
    let vault = open(&specimen.vault, Mode::ReadWrite);
    let file = vault.root().open_file(&victim.name).unwrap();
    let mut content = victim.new.0.clone();
    // A part of a page needs the rest of it.
    assert!(matches!(file.write(2 * PAGE as u64 + 5, b"part"), Err(VaultError::Integrity(_))));
    write_pages(&file, &mut content, &[2], 3);
    file.sync().unwrap();
    drop(file);
    seal(vault);
    let found = fs::read(&victim.home).unwrap();
    let vault = open(&specimen.vault, Mode::ReadOnly);
    let (_, pages) = read(&vault.root(), &victim.name).unwrap();
    for (page, read) in pages.iter().enumerate() {
        match read {
            Err(_) => assert_eq!(page, 120),
            Ok(bytes) => assert_eq!(bytes, &content.bytes[page * PAGE..content.bytes.len().min((page + 1) * PAGE)]),
        }
    }
    assert_eq!(found.len(), victim.new.1.len());
}

#[test]
fn a_file_that_does_not_open_can_be_renamed_and_removed() {
    let specimen = Specimen::new();
    let victim = specimen.victim(b"tree");
    fs::write(&victim.home, &victim.new.1[..100]).unwrap();
    let vault = open(&specimen.vault, Mode::ReadWrite);
    let root = vault.root();
    assert!(root.open_file(b"tree").is_err());
    root.rename(b"tree", &root, b"bad", sero::vault::RenameMode::NoReplace).unwrap();
    assert!(matches!(root.open_file(b"bad"), Err(VaultError::Integrity(_))));
    root.unlink(b"bad").unwrap();
    root.unlink(b"second name").unwrap();
    assert!(root.lookup(b"bad").is_err());
    seal(vault);
}

// --- what is not noticed, as the threat model says ---

#[test]
fn replay_and_exchange_of_whole_files_are_not_noticed_and_show_a_committed_version() {
    let specimen = Specimen::new();
    for victim in &specimen.victims {
        fs::write(&victim.home, &victim.old.1).unwrap();
        let expected = expect(&victim.old.0, &victim.old.1, &victim.old.1);
        check("an older file in full", &specimen, victim, &victim.old.0, &expected);
        fs::write(&victim.home, &victim.new.1).unwrap();
    }
    let (a, b) = (specimen.victim(b"blob"), specimen.victim(b"two levels"));
    fs::write(&a.home, &b.new.1).unwrap();
    fs::write(&b.home, &a.new.1).unwrap();
    let vault = open(&specimen.vault, Mode::ReadOnly);
    for (under, of) in [(a, b), (b, a)] {
        let (size, pages) = read(&vault.root(), &under.name).unwrap();
        assert_eq!(size, of.new.0.bytes.len() as u64);
        assert_eq!(pages.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat(), of.new.0.bytes);
    }
}

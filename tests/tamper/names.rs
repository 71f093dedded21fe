//! What names, links and attributes are kept in: "an encrypted name edited or moved to another directory; a directory's
//! IV replaced; a symlink target or xattr edited". What is told from an edit by hand is in tests/directory/tamper.rs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use log::Level;
use rustix::fs::XattrFlags;
use sero::vault::{FileKind, Mode, NodeRef, VaultError, XattrTable};
use tempfile::TempDir;

use super::specimen::{Folder, Opened, PLAIN, PLAIN_DIR, entry_of_inode, logged, new_vault, open, seal};

const LONG: [u8; 200] = [b'l'; 200];

/// Directories "one" and "two" with names of both forms, links of both forms, and attributes.
struct Named {
    _scratch: TempDir,
    vault: PathBuf,
    one: PathBuf,
    two: PathBuf,
}

impl Named {
    fn new() -> Self {
        let scratch = TempDir::new().unwrap();
        let path = scratch.path().join("vault");
        new_vault(&path);
        let vault = open(&path, Mode::ReadWrite);
        let mut folders = Vec::new();
        for name in [&b"one"[..], b"two"] {
            let (stat, folder) = vault.root().make_dir(name, &PLAIN_DIR).unwrap();
            for name in [&b"a"[..], b"b", &LONG] {
                folder.make_file(name, &PLAIN).unwrap();
            }
            folder.make_symlink(b"short link", b"a/target", &PLAIN).unwrap();
            folder.make_symlink(b"long link", &[b't'; 3000], &PLAIN).unwrap();
            let mut table = XattrTable::default();
            table.insert(b"user.comment", name);
            table.insert(b"user.other", &[7; 300]);
            vault.set_xattrs(NodeRef::Entry(&folder, b"a"), FileKind::Regular, &table).unwrap();
            vault.set_xattrs(NodeRef::Directory(&folder), FileKind::Directory, &table).unwrap();
            folders.push(entry_of_inode(&path.join("tree"), stat.ino));
        }
        seal(vault);
        let two = folders.pop().unwrap();
        Self { one: folders.pop().unwrap(), two, vault: path, _scratch: scratch }
    }

    fn open(&self) -> (Opened, Folder) {
        let vault = open(&self.vault, Mode::ReadOnly);
        let one = vault.root().open_child(b"one").unwrap();
        (vault, one)
    }

    /// The backing entry of a name in "one".
    fn entry(&self, name: &[u8]) -> PathBuf {
        let (_vault, one) = self.open();
        entry_of_inode(&self.one, one.lookup(name).unwrap().ino)
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.vault).unwrap().to_str().unwrap().to_owned()
    }

    /// A listing of "one": the names that it gives, and the error at its end with the lines in the log.
    fn list(&self) -> (Vec<Vec<u8>>, Result<(), VaultError>, Vec<String>) {
        let (_vault, one) = self.open();
        let mut names = Vec::new();
        let (outcome, lines) = logged(Level::Warn, || {
            one.list(0, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            })
        });
        names.sort();
        (names, outcome, lines)
    }

    fn is_noticed_in_a_listing(&self, what: &str, path: &Path, rest: usize) {
        let (names, outcome, lines) = self.list();
        let Err(VaultError::Integrity(error)) = outcome else { panic!("{what}: {outcome:?}") };
        assert_eq!(error.path, self.shown(path), "{what}");
        assert_eq!((names.len(), lines.len()), (rest, 1), "{what}: {lines:?}");
        assert!(lines[0].contains(&self.shown(path)), "{what}: {lines:?}");
    }
}

/// Texts that differ from this one in one character, at every place; and that are cut or longer.
fn edits(text: &str, step: usize) -> Vec<String> {
    let mut edits = Vec::new();
    for at in (0..text.len()).step_by(step) {
        let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        let mut edited = text.to_owned();
        edited.replace_range(at..=at, other);
        edits.push(edited);
    }
    for cut in [1, 2, 16, text.len() / 2] {
        edits.push(text[..text.len() - cut].to_owned());
    }
    edits.extend([format!("{text}A"), format!("{text}AAAA"), format!("A{text}")]);
    edits.retain(|edit| !edit.is_empty());
    edits
}

fn link(path: &Path, target: &str) {
    let _ = fs::remove_file(path);
    symlink(target, path).unwrap();
}

fn target(path: &Path) -> String {
    fs::read_link(path).unwrap().into_os_string().into_string().unwrap()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    path.with_file_name(format!("{}{suffix}", path.file_name().unwrap().to_str().unwrap()))
}

#[test]
fn an_edited_name_is_noticed_at_every_character() {
    let named = Named::new();
    for name in [&b"a"[..], &LONG, b"short link"] {
        let entry = named.entry(name);
        for edit in edits(entry.file_name().unwrap().to_str().unwrap(), 1) {
            let edited = entry.with_file_name(&edit);
            fs::rename(&entry, &edited).unwrap();
            named.is_noticed_in_a_listing(&format!("renamed to {edit}"), &edited, 4);
            let (_vault, one) = named.open();
            assert!(one.lookup(name).is_err());
            one.lookup(b"b").unwrap();
            fs::rename(&edited, &entry).unwrap();
        }
    }
}

#[test]
fn a_name_of_another_directory_or_vault_is_noticed() {
    let (named, other) = (Named::new(), Named::new());
    for from in [&named.two, &other.one] {
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap();
            if name == "=iv" || name.ends_with(".n") {
                continue;
            }
            let to = named.one.join(name);
            fs::copy(&entry, &to).or_else(|_| symlink(fs::read_link(&entry)?, &to).map(|()| 0)).unwrap();
            let sidecar = with_suffix(&entry, ".n");
            if fs::symlink_metadata(&sidecar).is_ok() {
                symlink(fs::read_link(&sidecar).unwrap(), with_suffix(&to, ".n")).unwrap();
            }
            named.is_noticed_in_a_listing(name, &to, 5);
            fs::remove_file(&to).unwrap();
            let _ = fs::remove_file(with_suffix(&to, ".n"));
        }
    }
}

#[test]
fn an_edited_sidecar_is_noticed_at_every_character() {
    let named = Named::new();
    let entry = named.entry(&LONG);
    let sidecar = with_suffix(&entry, ".n");
    let before = target(&sidecar);
    for edit in edits(&before, 3) {
        link(&sidecar, &edit);
        named.is_noticed_in_a_listing(&format!("sidecar {edit}"), &entry, 4);
    }
    fs::remove_file(&sidecar).unwrap();
    named.is_noticed_in_a_listing("no sidecar", &entry, 4);
    fs::create_dir(&sidecar).unwrap();
    named.is_noticed_in_a_listing("a directory for a sidecar", &entry, 4);
}

#[test]
fn an_edited_iv_is_noticed_at_every_character_and_costs_its_directory() {
    let named = Named::new();
    let path = named.one.join("=iv");
    let before = target(&path);
    let mut edited = edits(&before, 1);
    edited.extend([target(&named.two.join("=iv")), format!("{before}.{before}"), "x".into()]);
    let is_noticed = |what: &str| {
        let (vault, one) = named.open();
        let (looked, lines) = logged(Level::Warn, || one.lookup(b"a"));
        let Err(VaultError::Integrity(error)) = looked else { panic!("{what}: {looked:?}") };
        assert_eq!((error.path, lines.len()), (named.shown(&path), 1), "{what}: {lines:?}");
        vault.root().open_child(b"two").unwrap().lookup(b"a").unwrap();
        let (names, outcome, _) = named.list();
        assert!(names.is_empty() && matches!(outcome, Err(VaultError::Integrity(_))), "{what}: {outcome:?}");
    };
    for edit in edited {
        link(&path, &edit);
        is_noticed(&edit);
    }
    fs::remove_file(&path).unwrap();
    is_noticed("no IV");
    fs::write(&path, &before).unwrap();
    is_noticed("a file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    is_noticed("a directory");
}

#[test]
fn names_that_do_not_open_hide_none_that_do() {
    let named = Named::new();
    for index in 0..300 {
        fs::write(named.one.join(format!("{index:0>43}")), b"").unwrap();
    }
    let (_vault, one) = named.open();
    one.lookup(b"a").unwrap();
    let (names, outcome, lines) = named.list();
    assert!(names.len() == 5 && matches!(outcome, Err(VaultError::Integrity(_))));
    assert!(lines.len() < 30, "the log is not flooded");
}

#[test]
fn an_edited_link_is_noticed_at_every_character() {
    let named = Named::new();
    let is_noticed = |what: &str, name: &[u8], path: &str| {
        let (_vault, one) = named.open();
        let (read, lines) = logged(Level::Warn, || one.read_symlink(name));
        let Err(VaultError::Integrity(error)) = read else { panic!("{what}: {read:?}") };
        assert_eq!((error.path.as_str(), lines.len()), (path, 1), "{what}: {lines:?}");
        // It still has its name, and can be removed.
        one.lookup(name).unwrap();
    };
    let entry = named.entry(b"short link");
    let before = target(&entry);
    for edit in edits(&before, 1).into_iter().chain(["/etc/passwd".into(), "=".into(), format!("={}", "A".repeat(32))])
    {
        link(&entry, &edit);
        is_noticed(&edit, b"short link", &named.shown(&entry));
    }
    // The reference of a long one, and each of its pieces.
    let entry = named.entry(b"long link");
    let shown = named.shown(&entry);
    let reference = target(&entry);
    for edit in edits(&reference, 1) {
        link(&entry, &edit);
        is_noticed(&edit, b"long link", &shown);
    }
    link(&entry, &reference);
    let links = named.vault.join("private/links");
    let piece = |index: usize| links.join(format!("{}.{index}", &reference[1..]));
    let pieces: Vec<String> = (0..5).map(|index| target(&piece(index))).collect();
    assert!(!piece(5).exists());
    for (index, before) in pieces.iter().enumerate() {
        for edit in edits(before, 50) {
            link(&piece(index), &edit);
            is_noticed(&format!("piece {index}"), b"long link", &shown);
        }
        fs::remove_file(piece(index)).unwrap();
        is_noticed(&format!("no piece {index}"), b"long link", &shown);
        fs::write(piece(index), before).unwrap();
        is_noticed(&format!("piece {index} a file"), b"long link", &shown);
        link(&piece(index), &pieces[(index + 1) % 5]);
        is_noticed(&format!("piece {index} twice"), b"long link", &shown);
        link(&piece(index), before);
    }
    link(&piece(5), &pieces[0]);
    is_noticed("one piece more", b"long link", &shown);
    fs::remove_file(piece(5)).unwrap();
    fs::rename(&links, named.vault.join("private/aside")).unwrap();
    is_noticed("no folder", b"long link", &shown);
    fs::write(&links, b"").unwrap();
    let (_vault, one) = named.open();
    assert!(matches!(one.read_symlink(b"long link"), Err(VaultError::Integrity(_))), "a file for the folder");
}

#[test]
fn edited_attributes_are_noticed_at_every_byte() {
    let (named, other) = (Named::new(), Named::new());
    let get = |path: &Path| {
        let mut value = vec![0; 2000];
        let len = rustix::fs::getxattr(path, "user.sero", &mut value).unwrap();
        value.truncate(len);
        value
    };
    let foreign = get(&other.one);
    for (path, of_directory) in [(named.entry(b"a"), false), (named.one.clone(), true)] {
        let before = get(&path);
        let mut edited: Vec<Vec<u8>> = (0..before.len())
            .map(|at| {
                let mut edited = before.clone();
                edited[at] ^= 1 << (at % 8);
                edited
            })
            .collect();
        edited.extend([Vec::new(), before[..27].to_vec(), before[..before.len() - 1].to_vec(), foreign.clone()]);
        edited.extend([[&before[..], b"x"].concat(), vec![0; before.len()]]);
        for edit in edited {
            rustix::fs::setxattr(&path, "user.sero", &edit, XattrFlags::empty()).unwrap();
            let (vault, one) = named.open();
            let (read, lines) = logged(Level::Warn, || match of_directory {
                true => vault.xattrs(NodeRef::Directory(&one), FileKind::Directory),
                false => vault.xattrs(NodeRef::Entry(&one, b"a"), FileKind::Regular),
            });
            let Err(VaultError::Integrity(error)) = read else { panic!("{edit:?}: it is taken") };
            assert_eq!((error.path, lines.len()), (named.shown(&path), 1), "{lines:?}");
            // The inode itself is as good as before.
            one.open_file(b"a").unwrap();
        }
        rustix::fs::setxattr(&path, "user.sero", &before, XattrFlags::empty()).unwrap();
    }
}

// --- what is not noticed, as the threat model says ---

#[test]
fn exchanged_links_and_attributes_and_removed_attributes_are_not_noticed() {
    let named = Named::new();
    let entry = named.entry(b"short link");
    let (_vault, one) = named.open();
    one.read_symlink(b"short link").unwrap();
    let two = fs::read_dir(&named.two).unwrap().map(|entry| entry.unwrap().path());
    let short = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::symlink_metadata(path).unwrap().is_symlink() && !name.starts_with('=') && !target(path).starts_with('=')
    };
    link(&entry, &target(&two.into_iter().find(short).unwrap()));
    assert_eq!(named.open().1.read_symlink(b"short link").unwrap(), b"a/target");
    let file = named.entry(b"a");
    rustix::fs::removexattr(&file, "user.sero").unwrap();
    let (vault, one) = named.open();
    assert!(vault.xattrs(NodeRef::Entry(&one, b"a"), FileKind::Regular).unwrap().is_empty());
}

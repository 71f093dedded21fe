//! Keys are retired long before they have sealed too much; here the limit is a few seals.

use std::collections::BTreeMap;

use sero::format::header::{Header, Seal};
use sero::format::seals::Sealed;

use super::*;

fn home_of(test: &TestVault, vault: &Opened, name: &[u8]) -> Vec<u8> {
    vault.sync().unwrap();
    vault.checkpoint().unwrap();
    let ino = vault.root().lookup(name).unwrap().ino;
    fs::read(entry_of_inode(&test.path().join("tree"), ino)).unwrap()
}

/// How many pages of a file of up to 119 pages are sealed under the key of each session.
fn sessions(test: &TestVault, home: &[u8]) -> BTreeMap<u32, u64> {
    let unlocked = UnlockedKeys::from(test.unlock());
    let keys = unlocked.keys().file(&Header::salt(home).unwrap());
    let header = Header::open(home, keys.header()).unwrap();
    let mut root = home[128..4096].to_vec();
    let node = Sealed::Node(sero::format::geometry::BlockIndex::ROOT);
    keys.page(header.body.session).open(&header.body.nonce, &node.aad(), &header.body.tag, &mut root).unwrap();
    let mut sessions = BTreeMap::new();
    for entry in root.chunks_exact(32) {
        if let Some(seal) = Seal::decode(entry.try_into().unwrap()) {
            *sessions.entry(seal.session).or_default() += 1;
        }
    }
    sessions
}

/// "The pages of a file are retired with their session": none seals more than the limit.
#[test]
fn no_page_key_seals_more_than_the_limit() {
    let test = TestVault::new();
    let vault = test.open(Mode::ReadWrite);
    vault.set_seal_limit(20);
    write(&vault.root(), b"file", 0, &bytes(100 * 4096, 1));
    let fresh = sessions(&test, &home_of(&test, &vault, b"file"));
    assert!(fresh.len() >= 5 && fresh.values().all(|count| *count <= 20), "{fresh:?}");
    // Now it is durable, and goes through the journal.
    for round in 0..5 {
        write(&vault.root(), b"file", 4096 * round, &bytes(90 * 4096, round + 2));
    }
    let overwritten = sessions(&test, &home_of(&test, &vault, b"file"));
    assert!(overwritten.len() >= 5 && overwritten.values().all(|count| *count <= 20), "{overwritten:?}");
    assert!(fresh.keys().all(|session| overwritten.get(session).is_none_or(|count| *count <= 20)));
    drop(vault);
    // A crash among all these sessions.
    let vault = test.open(Mode::ReadWrite);
    let mut content = vec![0; 90 * 4096];
    vault.root().open_file(b"file").unwrap().read(4 * 4096, &mut content).unwrap();
    assert_eq!(content, bytes(90 * 4096, 6));
    vault.seal().unwrap();
}

/// "The header of a blob: at the first change in a session, and after so many headers."
#[test]
fn a_blob_gets_another_salt_when_its_key_is_used_up() {
    let test = TestVault::new();
    let vault = test.open(Mode::ReadWrite);
    vault.set_seal_limit(4);
    let mut salts = Vec::new();
    for round in 0..20 {
        write(&vault.root(), b"blob", 0, &bytes(500, round));
        salts.push(Header::salt(&home_of(&test, &vault, b"blob")).unwrap());
    }
    let mut uses = BTreeMap::<_, u64>::new();
    salts.iter().for_each(|salt| *uses.entry(*salt).or_default() += 1);
    assert!(uses.len() >= 5 && uses.values().all(|count| *count <= 4), "{:?}", uses.values());
    vault.seal().unwrap();
    drop(vault);

    let vault = test.open(Mode::ReadWrite);
    let before = Header::salt(&home_of(&test, &vault, b"blob")).unwrap();
    write(&vault.root(), b"blob", 0, b"changed");
    assert_ne!(Header::salt(&home_of(&test, &vault, b"blob")).unwrap(), before, "another session, another key");
    vault.seal().unwrap();
    drop(vault);
    let seen = look(&test.open(Mode::ReadOnly));
    assert_eq!(&seen[b"/blob".as_slice()].content[..7], b"changed");
}

/// A mount whose page keys were retired is one session for what a crash may have cost: files made before are found.
#[test]
fn a_new_file_of_before_the_page_keys_changed_is_a_leftover_of_the_same_crash() {
    let test = TestVault::new();
    let vault = test.open(Mode::ReadWrite);
    vault.set_seal_limit(20);
    let (_, file) = vault.root().make_file(b"new", &FILE).unwrap();
    file.write(0, &bytes(100 * 4096, 1)).unwrap();
    file.commit().unwrap();
    let ino = vault.root().lookup(b"new").unwrap().ino;
    drop((file, vault));
    let backing = entry_of_inode(&test.path().join("tree"), ino);
    // The crash took the last pages, and left the header.
    let mut home = fs::read(&backing).unwrap();
    home[80 * 4096..].fill(0);
    fs::write(&backing, &home).unwrap();
    let vault = test.open(Mode::ReadWrite);
    let file = vault.root().open_file(b"new").unwrap();
    let mut content = vec![0; file.len_bytes() as usize];
    file.read(0, &mut content).unwrap();
    assert_eq!(content, bytes(100 * 4096, 1)[..79 * 4096]);
    vault.settle_leftovers().unwrap();
    drop(file);
    vault.seal().unwrap();
}

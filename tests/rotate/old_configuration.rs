//! A configuration from before a rotation, put back beside what is newer.

use super::*;

/// A copy of a vault that is open: as a crash would leave it.
fn crashed(test: &TestVault) -> TestVault {
    let backing = tempfile::tempdir().unwrap();
    let mut copy = std::process::Command::new("cp");
    assert!(spawning::status(copy.arg("-a").arg(test.path().join(".")).arg(backing.path())).success());
    TestVault { backing }
}

fn journals(test: &TestVault) -> usize {
    let entries = fs::read_dir(test.path().join("private")).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("journal")).count()
}

/// It does not open the journal: what was synced would be thrown away with it.
#[test]
fn a_journal_under_the_new_key_is_not_thrown_away() {
    for finished in [false, true] {
        let test = TestVault::new();
        let before = fs::read(test.path().join("sero.json")).unwrap();
        let old = UnlockedKeys::from(test.unlock());
        let vault = test.open(Mode::ReadWrite);
        write(&vault.root(), b"file", 0, &bytes(100_000, 1));
        vault.sync().unwrap();
        vault.begin_rotation(test.begin(false).into()).unwrap();
        if finished {
            assert_eq!(vault.rotate(&RotationControl::new(), test.finish()).unwrap(), RotationEnd::Done);
        } else {
            // The other segment of the journal is in use, under the new key.
            vault.checkpoint().unwrap();
        }
        let file = vault.root().open_file(b"file").unwrap();
        file.write(50_000, b"promised").unwrap();
        file.sync().unwrap();
        let copy = crashed(&test);
        drop(file);
        vault.seal().unwrap();

        let newest = fs::read(copy.path().join("sero.json")).unwrap();
        fs::write(copy.path().join("sero.json"), &before).unwrap();
        assert!(journals(&copy) > 0);
        let before = journals(&copy);
        for mode in [Mode::ReadOnly, Mode::ReadWrite] {
            let old = UnlockedKeys::from_exposed(&copy.storage(), &old.expose()).unwrap();
            match Vault::open(copy.storage(), old, mode) {
                Err(VaultError::Integrity(error)) => assert_eq!(error.path, "private/state"),
                Err(error) => panic!("{error}"),
                Ok(_) => panic!("it opens"),
            }
        }
        assert_eq!(journals(&copy), before);
        fs::write(copy.path().join("sero.json"), newest).unwrap();
        let vault = copy.open(Mode::ReadWrite);
        let file = vault.root().open_file(b"file").unwrap();
        let mut found = [0; 8];
        assert_eq!(file.read(50_000, &mut found).unwrap(), found.len());
        assert_eq!(&found, b"promised");
        drop(file);
        vault.seal().unwrap();
    }
}

/// A vault with a journal that holds what was synced last.
fn promised(test: &TestVault) -> TestVault {
    let vault = test.open(Mode::ReadWrite);
    write(&vault.root(), b"file", 0, &bytes(100_000, 1));
    vault.sync().unwrap();
    let file = vault.root().open_file(b"file").unwrap();
    file.write(50_000, b"promised").unwrap();
    file.sync().unwrap();
    let copy = crashed(test);
    drop(file);
    vault.seal().unwrap();
    copy
}

fn is_kept(vault: &Opened) -> bool {
    let file = vault.root().open_file(b"file").unwrap();
    let mut found = [0; 8];
    file.read(50_000, &mut found).unwrap() == found.len() && &found == b"promised"
}

/// Somebody restores the `sero.json` of another vault, which opens with the same passphrase.
#[test]
fn keys_of_another_vault_throw_no_journal_away() {
    let (test, other) = (TestVault::new(), TestVault::new());
    let copy = promised(&test);
    let before = journals(&copy);
    for rotated in [false, true] {
        if rotated {
            // Of a later version the state is stored, where there is none.
            other.rotate(false);
        }
        for mode in [Mode::ReadOnly, Mode::ReadWrite] {
            let foreign = UnlockedKeys::from(other.unlock());
            assert!(matches!(Vault::open(copy.storage(), foreign, mode), Err(VaultError::ForeignConfiguration)));
        }
    }
    assert_eq!(journals(&copy), before);
    assert!(!copy.path().join("private/state").exists());
    let vault = copy.open(Mode::ReadWrite);
    assert!(is_kept(&vault));
    vault.seal().unwrap();
}

/// What `--keep-old` is for.
#[test]
fn an_old_copy_opens_with_the_key_that_was_kept() {
    for kept in [true, false] {
        let test = TestVault::new();
        let copy = promised(&test);
        test.rotate(kept);
        test.rotate(false);
        let keys = UnlockedKeys::from(test.unlock());
        assert_eq!(keys.check_belong_to(&copy.storage()).is_ok(), kept);
        assert!(!keys.opens_top(&copy.storage()).unwrap() && keys.opens_top(&test.storage()).unwrap());
        let (live, version) = keys.into_live_for(&copy.storage());
        assert_eq!(version.is_some(), kept);
        match Vault::open(copy.storage(), live, Mode::ReadWrite) {
            Ok(vault) => {
                assert!(kept && is_kept(&vault));
                write(&vault.root(), b"new", 0, b"by the old key");
                vault.seal().unwrap();
                drop(vault);
                // The copy's own configuration opens what was written.
                let vault = copy.open(Mode::ReadOnly);
                assert_eq!(vault.root().open_file(b"new").unwrap().len_bytes(), 14);
            }
            Err(VaultError::ForeignConfiguration) => assert!(!kept && journals(&copy) > 0),
            Err(error) => panic!("{error}"),
        }
    }
}

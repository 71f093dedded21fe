//! A configuration from before a rotation, put back beside what is newer.

use super::*;

/// A copy of a vault that is open: as a crash would leave it.
fn crashed(test: &TestVault) -> TestVault {
    let backing = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(test.path().join(".")).arg(backing.path()).status();
    assert!(status.unwrap().success());
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

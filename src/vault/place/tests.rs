use std::fs;
use std::path::Path;

use super::*;
use crate::crypto::{KdfParams, Passphrase};
use crate::format::configuration::KeyslotId;
use crate::storage::{CrashPolicy, PosixStorage, SimDisk};
use crate::vault::create::{CreateOptions, create, create_on};
use crate::vault::unlock::{UnlockedKeys, read_configuration, unlock};

fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

fn options() -> CreateOptions {
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    CreateOptions { kdf, label: "main".into(), hint: Some("a horse".into()) }
}

fn new_vault() -> (tempfile::TempDir, PosixStorage) {
    let backing = tempfile::tempdir().unwrap();
    create(backing.path(), &options(), &passphrase()).unwrap();
    let storage = PosixStorage::open(backing.path()).unwrap();
    (backing, storage)
}

/// Takes the hint away.
fn change<S: Storage>(storage: &S, keys: &UnlockedKeys, before: Before) -> Result<()> {
    ConfigurationPlace::inside(storage).change(keys.keys(), keys.keys(), before, |configuration| {
        configuration.hint = None;
        Ok(())
    })
}

fn listed(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_no_vault_is_said_to_be_none() {
    let backing = tempfile::tempdir().unwrap();
    let storage = PosixStorage::open(backing.path()).unwrap();
    let path = backing.path().join(configuration::ENTRY);
    assert!(matches!(read_configuration(&storage), Err(VaultError::NotAVault { .. })));
    fs::write(backing.path().join("sero.json.bak"), b"{}").unwrap();
    let error = read_configuration(&storage).unwrap_err().to_string();
    assert!(error.contains("sero.json.bak"), "{error}");
    fs::create_dir(&path).unwrap();
    assert!(matches!(read_configuration(&storage), Err(VaultError::NotAVault { .. })));
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(read_configuration(&storage), Err(VaultError::NotAVault { .. })));
    fs::remove_file(&path).unwrap();
    for damaged in [&b""[..], b"{", b"\xff\xfe", &vec![b' '; configuration::FILE_MAX + 1]] {
        fs::write(&path, damaged).unwrap();
        assert!(matches!(read_configuration(&storage), Err(VaultError::ConfigurationDamaged { .. })));
    }
}

#[test]
fn a_vault_without_its_configuration_says_where_it_may_be() {
    let (backing, storage) = new_vault();
    fs::remove_file(backing.path().join(configuration::ENTRY)).unwrap();
    let error = read_configuration(&storage).unwrap_err().to_string();
    assert!(error.contains("--config"), "{error}");
}

#[test]
fn the_configuration_is_changed_and_the_one_before_kept() {
    let (backing, storage) = new_vault();
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    // Left by a crash.
    fs::write(backing.path().join("sero.json.tmp"), b"half").unwrap();
    change(&storage, &unlocked, Before::Kept).unwrap();
    assert_eq!(unlock(&storage, &passphrase()).unwrap().configuration().hint, None);
    assert_eq!(listed(backing.path()), ["private", "sero.json", "sero.json.bak", "tree"]);
    let backup = ConfigurationPlace::inside(&storage).read_backup().unwrap();
    assert_eq!(&backup, unlocked.configuration());
}

#[test]
fn a_version_that_must_not_come_back_is_not_kept() {
    let (_backing, storage) = new_vault();
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    change(&storage, &unlocked, Before::Forgotten).unwrap();
    let place = ConfigurationPlace::inside(&storage);
    assert_eq!(place.read_backup().unwrap(), place.read().unwrap());
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let (backing, storage) = new_vault();
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    let before = fs::read(backing.path().join("sero.json")).unwrap();
    let place = ConfigurationPlace::inside(&storage);
    let (now, then) = (unlocked.keys(), unlocked.keys());
    let refused = place.change(now, then, Before::Kept, |_| Err::<(), _>(VaultError::LastKeyslot));
    assert!(matches!(refused, Err(VaultError::LastKeyslot)));
    // Nor one to what the format does not have.
    let bad = |configuration: &mut Configuration| {
        configuration.keyslots[0].id = KeyslotId(7);
        configuration.keyslots.push(configuration.keyslots[0].clone());
        Ok(())
    };
    assert!(place.change(now, then, Before::Kept, bad).is_err());
    assert_eq!(fs::read(backing.path().join("sero.json")).unwrap(), before);
    assert_eq!(listed(backing.path()), ["private", "sero.json", "tree"]);
}

#[test]
fn an_edited_configuration_is_not_changed() {
    let (backing, storage) = new_vault();
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    let path = backing.path().join("sero.json");
    let edited = fs::read_to_string(&path).unwrap().replace("a horse", "a mouse");
    fs::write(&path, &edited).unwrap();
    assert!(matches!(change(&storage, &unlocked, Before::Kept), Err(VaultError::ConfigurationEdited)));
    assert_eq!(fs::read_to_string(&path).unwrap(), edited);
}

#[test]
fn changes_at_once_are_all_made() {
    let (backing, storage) = new_vault();
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    std::thread::scope(|scope| {
        for index in 0..8 {
            let (unlocked, path) = (&unlocked, backing.path());
            scope.spawn(move || {
                let storage = PosixStorage::open(path).unwrap();
                let (now, then) = (unlocked.keys(), unlocked.keys());
                let add = |configuration: &mut Configuration| {
                    let mut slot = configuration.keyslots[0].clone();
                    slot.id = configuration.free_keyslot_id();
                    slot.label = format!("thread {index}");
                    configuration.keyslots.push(slot);
                    Ok(())
                };
                ConfigurationPlace::inside(&storage).change(now, then, Before::Kept, add).unwrap();
            });
        }
    });
    let slots = unlock(&storage, &passphrase()).unwrap().configuration().keyslots.clone();
    let ids: Vec<u32> = slots.iter().map(|slot| slot.id.0).collect();
    assert_eq!(ids, (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_configuration_can_lie_apart() {
    let (_backing, vault) = new_vault();
    let apart = tempfile::tempdir().unwrap();
    let directory = PosixStorage::open(apart.path()).unwrap();
    let place = ConfigurationPlace::detached(&directory, OsStr::new("papers.json"));
    place.copy_from(&ConfigurationPlace::inside(&vault)).unwrap();
    assert!(matches!(place.copy_from(&ConfigurationPlace::inside(&vault)), Err(VaultError::ConfigurationExists)));
    ConfigurationPlace::inside(&vault).remove().unwrap();
    assert!(matches!(read_configuration(&vault), Err(VaultError::NotAVault { .. })));
    assert_eq!(place.read().unwrap().hint.as_deref(), Some("a horse"));
    assert_eq!(listed(apart.path()), ["papers.json"]);
}

#[test]
fn a_crash_while_the_configuration_is_changed_leaves_one_of_the_two() {
    let disk = SimDisk::new(2);
    let old = create_on(&disk.storage(), &options(), &passphrase()).unwrap();
    disk.settle();
    let unlocked = unlock(&disk.storage(), &passphrase()).unwrap();
    let made = disk.steps();
    let snapshot = disk.snapshot();
    change(&disk.storage(), &unlocked, Before::Forgotten).unwrap();
    let new = read_configuration(&disk.storage()).unwrap();
    assert_ne!(old, new);
    for step in made + 1..=disk.steps() {
        for policy in CrashPolicy::ALL {
            let disk = snapshot.to_disk();
            disk.set_crash_at(disk.steps() + (step - made));
            assert!(change(&disk.storage(), &unlocked, Before::Forgotten).is_err());
            for crashed in disk.crashes(policy, 200, step) {
                let found = read_configuration(&crashed.storage()).unwrap();
                assert!(found == old || found == new, "step {step}, {policy:?}");
            }
        }
    }
}

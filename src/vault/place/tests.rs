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
    ConfigurationPlace::inside(storage).change(keys.vouching(), keys.keys(), before, |configuration| {
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
    change(&storage, &unlocked, Before::Replaced).unwrap();
    let place = ConfigurationPlace::inside(&storage);
    assert_eq!(place.read_backup().unwrap(), place.read().unwrap());
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let (backing, storage) = new_vault();
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    let before = fs::read(backing.path().join("sero.json")).unwrap();
    let place = ConfigurationPlace::inside(&storage);
    let (now, then) = (unlocked.vouching(), unlocked.keys());
    let refused = place.change(now, then, Before::Kept, |_| Err::<(), _>(VaultError::LastKeyslot));
    assert!(matches!(refused, Err(VaultError::LastKeyslot)));
    // Nor one to what the format does not have.
    let bad = |configuration: &mut Configuration| {
        configuration.keyslots[0].id = KeyslotId(7);
        configuration.keyslots.push(configuration.keyslots[0].clone());
        Ok(())
    };
    assert!(matches!(place.change(now, then, Before::Kept, bad), Err(VaultError::ConfigurationRefused(_))));
    assert_eq!(fs::read(backing.path().join("sero.json")).unwrap(), before);
    assert_eq!(listed(backing.path()), ["private", "sero.json", "tree"]);
}

#[test]
fn an_edited_configuration_is_not_changed() {
    let (backing, storage) = new_vault();
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    let path = backing.path().join("sero.json");
    // Keys of before a rotation cannot tell whether it was edited.
    let (_, key) = unlocked.vouching();
    let older = (crate::format::configuration::KeyVersion(0), key);
    let other = unlock(&new_vault().1, &passphrase()).unwrap();
    for (now, is_busy) in [(older, false), ((older.0, other.keys()), true), (other.vouching(), false)] {
        let changed = ConfigurationPlace::inside(&storage).change(now, key, Before::Kept, |_| Ok(()));
        match changed {
            Ok(()) => assert!(std::ptr::eq(now.1, key)),
            Err(VaultError::ConfigurationBusy) => assert!(is_busy),
            Err(error) => assert!(!is_busy && matches!(error, VaultError::ConfigurationEdited), "{error}"),
        }
    }
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
                let (now, then) = (unlocked.vouching(), unlocked.keys());
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
    let (backing, vault) = new_vault();
    let apart = tempfile::tempdir().unwrap();
    let directory = PosixStorage::open(apart.path()).unwrap();
    let place = ConfigurationPlace::detached(&directory, OsStr::new("papers.json"));
    place.copy_from(&ConfigurationPlace::inside(&vault)).unwrap();
    assert!(matches!(place.copy_from(&ConfigurationPlace::inside(&vault)), Err(VaultError::ConfigurationExists)));
    let unlocked = unlock(&vault, &passphrase()).unwrap();
    let inside = ConfigurationPlace::inside(&vault);
    assert!(matches!(inside.move_to(&place, unlocked.vouching()), Err(VaultError::ConfigurationExists)));
    fs::remove_file(apart.path().join("papers.json")).unwrap();
    change(&vault, &unlocked, Before::Kept).unwrap();
    fs::write(backing.path().join("sero.json.bak.tmp"), "left by a crash").unwrap();
    let unlocked = unlock(&vault, &passphrase()).unwrap();
    inside.move_to(&place, unlocked.vouching()).unwrap();
    assert_eq!(listed(backing.path()), ["private", "tree"]);
    assert!(matches!(read_configuration(&vault), Err(VaultError::NotAVault { .. })));
    assert_eq!(place.read().unwrap(), *unlocked.configuration());
    assert_eq!(listed(apart.path()), ["papers.json"]);
    // What has the temporary's name is the user's.
    fs::write(apart.path().join("other.tmp"), "mine").unwrap();
    let other = ConfigurationPlace::detached(&directory, OsStr::new("other"));
    assert!(matches!(other.copy_from(&place), Err(VaultError::ConfigurationExists)));
    assert_eq!(fs::read_to_string(apart.path().join("other.tmp")).unwrap(), "mine");
}

/// What was moved was looked at by nobody else: a copy of what is damaged must not be all that is left.
#[test]
fn an_edited_configuration_is_not_moved() {
    let (backing, vault) = new_vault();
    let unlocked = unlock(&vault, &passphrase()).unwrap();
    let path = backing.path().join("sero.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("a horse", "a mouse")).unwrap();
    let apart = tempfile::tempdir().unwrap();
    let directory = PosixStorage::open(apart.path()).unwrap();
    let place = ConfigurationPlace::detached(&directory, OsStr::new("papers.json"));
    let refused = ConfigurationPlace::inside(&vault).move_to(&place, unlocked.vouching());
    assert!(matches!(refused, Err(VaultError::ConfigurationEdited)));
    assert!(path.exists() && listed(apart.path()).is_empty());
}

/// Root may change what is a user's, who must be able to read it afterwards.
#[test]
fn a_change_keeps_owner_and_permissions() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (backing, vault) = new_vault();
    let path = backing.path().join("sero.json");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&path, Some(1234), Some(1235)).unwrap();
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    change(&vault, &unlock(&vault, &passphrase()).unwrap(), Before::Kept).unwrap();
    for name in ["sero.json", "sero.json.bak"] {
        let found = fs::metadata(backing.path().join(name)).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o640, "{name}");
        assert!(!is_root || (found.uid(), found.gid()) == (1234, 1235), "{name}");
    }
}

#[test]
fn a_crash_while_the_configuration_is_changed_leaves_one_of_the_two() {
    let disk = SimDisk::new(2);
    let old = create_on(&disk.storage(), &options(), &passphrase()).unwrap();
    disk.settle();
    let unlocked = unlock(&disk.storage(), &passphrase()).unwrap();
    let made = disk.steps();
    let snapshot = disk.snapshot();
    change(&disk.storage(), &unlocked, Before::Replaced).unwrap();
    let new = read_configuration(&disk.storage()).unwrap();
    assert_ne!(old, new);
    for step in made + 1..=disk.steps() {
        for policy in CrashPolicy::ALL {
            let disk = snapshot.to_disk();
            disk.set_crash_at(disk.steps() + (step - made));
            assert!(change(&disk.storage(), &unlocked, Before::Replaced).is_err());
            for crashed in disk.crashes(policy, 200, step) {
                let found = read_configuration(&crashed.storage()).unwrap();
                assert!(found == old || found == new, "step {step}, {policy:?}");
            }
        }
    }
}

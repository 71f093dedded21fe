use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::crypto::KdfParams;
use crate::format::configuration;
use crate::storage::PosixStorage;
use crate::vault::create::{CreateOptions, create, create_on};

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

fn edit(backing: &Path, change: impl FnOnce(&mut Value)) {
    let path = backing.join(configuration::ENTRY);
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}

fn listed(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_vault_unlocks_with_its_passphrase_alone() {
    let (backing, storage) = new_vault();
    assert_eq!(listed(backing.path()), ["private", "sero.json", "tree"]);
    assert_eq!(listed(&backing.path().join("tree")), ["=iv"]);
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    assert_eq!(unlocked.configuration(), &read_configuration(&storage).unwrap());
    match unlock(&storage, &Passphrase::new(b"wrong".to_vec())) {
        Err(VaultError::WrongPassphrase { hint, .. }) => assert_eq!(hint.as_deref(), Some("a horse")),
        _ => panic!("it was accepted"),
    }
}

#[test]
fn the_configuration_names_no_secret() {
    let (backing, storage) = new_vault();
    let text = fs::read(backing.path().join(configuration::ENTRY)).unwrap();
    let exposed = unlock(&storage, &passphrase()).unwrap().expose();
    let key = &exposed[4..];
    let encodings = [
        key.to_vec(),
        data_encoding::BASE64.encode(key).into_bytes(),
        data_encoding::HEXLOWER.encode(key).into_bytes(),
        b"correct horse".to_vec(),
    ];
    for secret in encodings {
        assert!(!text.windows(secret.len()).any(|window| window == secret));
    }
}

#[test]
fn exposed_keys_unlock_again() {
    let (_backing, storage) = new_vault();
    let unlocked = unlock(&storage, &passphrase()).unwrap();
    let exposed = unlocked.expose();
    let again = UnlockedKeys::from_exposed(&storage, &exposed).unwrap();
    assert_eq!(again.keys().directory_iv_tag(&[0; 16]), unlocked.keys().directory_iv_tag(&[0; 16]));
    assert!(UnlockedKeys::from_exposed(&storage, &exposed[..35]).is_err());
    assert!(UnlockedKeys::from_exposed(&storage, &[]).is_err());
    let mut other = exposed.to_vec();
    other[10] ^= 1;
    assert!(matches!(UnlockedKeys::from_exposed(&storage, &other), Err(VaultError::ConfigurationEdited)));
}

#[test]
fn an_edited_configuration_is_refused() {
    type Edit = fn(&mut Value);
    let edits: [(Edit, fn(&VaultError) -> bool); 7] = [
        (|json| json["hint"] = "another".into(), |error| matches!(error, VaultError::ConfigurationEdited)),
        (|json| json["created"] = 1.into(), |error| matches!(error, VaultError::ConfigurationEdited)),
        (|json| json["keyslots"][0]["label"] = "mine".into(), |error| matches!(error, VaultError::ConfigurationEdited)),
        (
            |json| json["project_keys"][0]["wrapped"] = data_encoding::BASE64.encode(&[0; 60]).into(),
            |error| matches!(error, VaultError::ConfigurationEdited),
        ),
        (|json| json["format"] = 2.into(), |error| matches!(error, VaultError::UnsupportedFormat { found: 2, .. })),
        (|json| json["extra"] = 2.into(), |error| matches!(error, VaultError::ConfigurationDamaged { .. })),
        (
            |json| json["keyslots"][0]["kdf"]["memory_kib"] = u32::MAX.into(),
            |error| matches!(error, VaultError::KdfRefused(_)),
        ),
    ];
    for (index, (change, expected)) in edits.into_iter().enumerate() {
        let (backing, storage) = new_vault();
        edit(backing.path(), change);
        let error = unlock(&storage, &passphrase()).err().unwrap();
        assert!(expected(&error), "edit {index}: {error}");
    }
}

/// The vault's id goes into every key and every wrapping: the passphrase no longer fits.
#[test]
fn another_vaults_id_makes_the_passphrase_wrong() {
    let (backing, storage) = new_vault();
    edit(backing.path(), |json| json["vault_id"] = "00000000000000000000000000000000".into());
    assert!(matches!(unlock(&storage, &passphrase()), Err(VaultError::WrongPassphrase { .. })));
}

#[test]
fn a_vault_is_made_in_a_new_or_empty_directory_alone() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("vault");
    create(&path, &options(), &passphrase()).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(matches!(create(&path, &options(), &passphrase()), Err(VaultError::VaultExists)));
    let full = parent.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), b"").unwrap();
    assert!(matches!(create(&full, &options(), &passphrase()), Err(VaultError::TargetNotEmpty)));
    assert_eq!(listed(&full), ["mine"]);
    assert!(matches!(create(&parent.path().join("a/b"), &options(), &passphrase()), Err(VaultError::Io { .. })));
}

#[test]
fn what_is_refused_leaves_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("vault");
    let mut bad_kdf = options();
    bad_kdf.kdf.lanes = 0;
    assert!(matches!(create(&path, &bad_kdf, &passphrase()), Err(VaultError::KdfRefused(_))));
    let mut bad_hint = options();
    bad_hint.hint = Some("\u{7}".into());
    assert!(matches!(create(&path, &bad_hint, &passphrase()), Err(VaultError::ConfigurationRefused(_))));
    assert!(listed(parent.path()).is_empty());
}

/// "a crash leaves no half vault that looks whole"
#[test]
fn a_crash_while_a_vault_is_made_leaves_it_whole_or_visibly_none() {
    use crate::storage::{CrashPolicy, SimDisk};

    let disk = SimDisk::new(1);
    create_on(&disk.storage(), &options(), &passphrase()).unwrap();
    for step in 1..=disk.steps() {
        for policy in CrashPolicy::ALL {
            let disk = SimDisk::new(1);
            disk.set_crash_at(step);
            assert!(create_on(&disk.storage(), &options(), &passphrase()).is_err());
            for after in disk.crashes(policy, 200, step) {
                match unlock(&after.storage(), &passphrase()) {
                    Ok(_) => {
                        let path = Path::new("tree/=iv");
                        assert!(after.raw_stat(path).is_ok() && after.raw_stat("private/lock").is_ok(), "step {step}");
                    }
                    Err(VaultError::NotAVault { .. }) => {}
                    Err(other) => panic!("step {step}, {policy:?}: {other}"),
                }
            }
        }
    }
}

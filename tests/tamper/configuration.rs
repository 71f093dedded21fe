//! `sero.json` and `private/state`: "`sero.json` edited in any field gives a clear error at mount".

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sero::vault::unlock::unlock;
use sero::vault::{Configuration, Mode, PosixStorage, VaultError};
use tempfile::TempDir;

use super::specimen::{PLAIN, copy, new_vault, open, passphrase, seal, try_open};

fn made() -> (TempDir, std::path::PathBuf) {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("vault");
    new_vault(&path);
    (scratch, path)
}

fn unlocked(vault: &Path) -> Result<Configuration, VaultError> {
    Ok(unlock(&PosixStorage::open(vault).unwrap(), &passphrase())?.configuration().clone())
}

/// Every place in a document, as a path of keys and indices.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, below)| places(below, &format!("{at}/{name}"), found)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, below)| places(below, &format!("{at}/{i}"), found))
        }
        _ => {}
    }
    found.push(at.to_owned());
}

/// Other values of the same kind: likely ones, that a reader might take.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            vec![json!(number + 1), json!(number.saturating_sub(1)), json!(0), json!(u64::MAX), json!(-1), json!(1.5)]
        }
        Value::String(text) => {
            let mut texts: Vec<String> =
                vec![String::new(), format!("{text}A"), text.to_uppercase(), text.to_lowercase()];
            for at in 0..text.len() {
                let other = if text.as_bytes()[at] == b'a' { "b" } else { "a" };
                let mut edited = text.clone();
                edited.replace_range(at..=at, other);
                texts.push(edited);
            }
            texts.into_iter().map(Value::String).collect()
        }
        Value::Array(items) => {
            let twice: Vec<Value> = items.iter().chain(items).cloned().collect();
            vec![json!([]), Value::Array(twice)]
        }
        _ => Vec::new(),
    }
}

#[test]
fn an_edited_field_is_refused_whichever_it_is() {
    let (_scratch, vault) = made();
    let path = vault.join("sero.json");
    let before: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut found = Vec::new();
    places(&before, "", &mut found);
    let mut tried = 0;
    for place in found.iter().filter(|place| !place.is_empty()) {
        let value = before.pointer(place).unwrap();
        let mut edits: Vec<Value> = others(value).into_iter().filter(|other| other != value).collect();
        edits.extend([Value::Null, json!({}), json!(true)].into_iter().filter(|other| other != value));
        for edit in edits {
            let mut edited = before.clone();
            *edited.pointer_mut(place).unwrap() = edit.clone();
            fs::write(&path, serde_json::to_vec(&edited).unwrap()).unwrap();
            assert!(unlocked(&vault).is_err(), "{place} = {edit} is taken");
            tried += 1;
        }
        // Left out.
        let (above, name) = place.rsplit_once('/').unwrap();
        let mut edited = before.clone();
        if let Some(fields) = edited.pointer_mut(above).unwrap().as_object_mut() {
            fields.remove(name);
            fs::write(&path, serde_json::to_vec(&edited).unwrap()).unwrap();
            assert!(unlocked(&vault).is_err(), "{place} is not missed");
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn a_flipped_bit_changes_nothing_that_counts() {
    let (_scratch, vault) = made();
    let path = vault.join("sero.json");
    let before = fs::read(&path).unwrap();
    let configuration = unlocked(&vault).unwrap();
    for at in 0..before.len() {
        let mut edited = before.clone();
        edited[at] ^= 1 << (at % 7);
        fs::write(&path, &edited).unwrap();
        // Between fields, some white space is as good as another.
        if let Ok(read) = unlocked(&vault) {
            assert_eq!(read, configuration, "byte {at}");
        }
    }
    for len in (0..before.len()).step_by(7) {
        fs::write(&path, &before[..len]).unwrap();
        assert!(unlocked(&vault).is_err(), "cut to {len}");
    }
}

#[test]
fn another_vaults_configuration_opens_nothing() {
    let ((_one, vault), (_two, other)) = (made(), made());
    let opened = open(&vault, Mode::ReadWrite);
    opened.root().make_file(b"name", &PLAIN).unwrap();
    seal(opened);
    fs::copy(other.join("sero.json"), vault.join("sero.json")).unwrap();
    // The same passphrase: it unlocks, and fits nothing that is there.
    match try_open(&vault, Mode::ReadOnly) {
        Err(_) => {}
        Ok(opened) => {
            assert!(matches!(opened.root().lookup(b"name"), Err(VaultError::Integrity(_))));
            assert!(matches!(opened.root().list(0, &mut |_| true), Err(VaultError::Integrity(_))));
        }
    }
}

// --- private/state ---

/// A vault that was killed, and killed again before anybody had looked at what the first crash left.
fn with_state() -> (TempDir, std::path::PathBuf) {
    let (scratch, mounted) = made();
    let crashed = scratch.path().join("crashed");
    let again = scratch.path().join("again");
    let vault = open(&mounted, Mode::ReadWrite);
    vault.root().make_file(b"name", &PLAIN).unwrap();
    copy(&mounted, &crashed);
    drop(vault);
    let vault = open(&crashed, Mode::ReadWrite);
    copy(&crashed, &again);
    drop(vault);
    assert!(again.join("private/state").exists());
    (scratch, again)
}

#[test]
fn an_edited_state_is_refused() {
    let (_scratch, vault) = with_state();
    let (_other_scratch, other) = with_state();
    let path = vault.join("private/state");
    let before = fs::read(&path).unwrap();
    let refused = |what: &str| match try_open(&vault, Mode::ReadOnly) {
        Err(VaultError::Integrity(error)) => assert_eq!(error.path, "private/state", "{what}"),
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: it opens"),
    };
    for at in 0..before.len() {
        let mut edited = before.clone();
        edited[at] ^= 1 << (at % 8);
        fs::write(&path, &edited).unwrap();
        refused(&format!("byte {at}"));
    }
    for len in [0, 1, 27, 28, before.len() - 1] {
        fs::write(&path, &before[..len]).unwrap();
        refused(&format!("cut to {len}"));
    }
    fs::write(&path, [&before[..], &[0]].concat()).unwrap();
    refused("extended");
    fs::write(&path, vec![0; 100_000]).unwrap();
    refused("zeros");
    fs::copy(other.join("private/state"), &path).unwrap();
    refused("another vault's");
    fs::write(&path, &before).unwrap();
    open(&vault, Mode::ReadOnly);
    // Without it, nothing is excused any more.
    fs::remove_file(&path).unwrap();
    open(&vault, Mode::ReadOnly);
}

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::crypto::ProjectKey;

fn keys() -> VaultKeys {
    VaultKeys::derive(&ProjectKey::from_bytes(&mut [5; 32]), &[6; 16])
}

fn example() -> Configuration {
    let mut configuration = Configuration {
        format: FORMAT,
        vault_id: Hex([6; 16]),
        created: 1_700_000_000,
        cipher: Cipher::Aes256Gcm,
        names: NameCipher::Aes256Siv,
        project_keys: vec![WrappedProjectKey { version: KeyVersion(1), key_id: Hex([1; 8]), wrapped: Base64([2; 60]) }],
        active_key: KeyVersion(1),
        keyslots: vec![Keyslot {
            id: KeyslotId(1),
            key_id: Hex([8; 8]),
            kind: KeyslotKind::Passphrase,
            label: "main".into(),
            role: "owner".into(),
            created: 1_700_000_000,
            kdf: Kdf::Argon2id { memory_kib: 64, passes: 1, lanes: 1, salt: Base64([3; 32]) },
            wrapped: Base64([4; 60]),
        }],
        hint: Some("the blue one".into()),
        rotation: None,
        authenticator: Base64([0; 32]),
    };
    configuration.authenticate(&keys());
    configuration
}

fn as_json() -> Value {
    serde_json::from_slice(&example().encode().unwrap()).unwrap()
}

fn parse(value: &Value) -> Result<Configuration, ConfigurationError> {
    Configuration::parse(&serde_json::to_vec(value).unwrap())
}

/// The example, with the value at this place replaced.
fn with(pointer: &str, value: Value) -> Result<Configuration, ConfigurationError> {
    let mut json = as_json();
    *json.pointer_mut(pointer).unwrap() = value;
    parse(&json)
}

#[test]
fn a_configuration_round_trips_and_verifies() {
    let parsed = Configuration::parse(&example().encode().unwrap()).unwrap();
    assert_eq!(parsed, example());
    assert!(parsed.verify(&keys()));
    let mut without_hint = example();
    without_hint.hint = None;
    without_hint.authenticate(&keys());
    assert_eq!(Configuration::parse(&without_hint.encode().unwrap()).unwrap(), without_hint);
}

/// "so that any edited field is noticed"
#[test]
fn every_edited_field_is_noticed() {
    let edits = [
        ("/vault_id", json!("00000000000000000000000000000000")),
        ("/created", json!(1)),
        ("/project_keys/0/version", json!(2)),
        ("/project_keys/0/key_id", json!("0000000000000000")),
        ("/project_keys/0/wrapped", json!(BASE64.encode(&[0; 60]))),
        ("/active_key", json!(2)),
        ("/keyslots/0/id", json!(2)),
        ("/keyslots/0/key_id", json!("0000000000000000")),
        ("/keyslots/0/label", json!("mine")),
        ("/keyslots/0/role", json!("guest")),
        ("/keyslots/0/created", json!(1)),
        ("/keyslots/0/kdf/memory_kib", json!(65)),
        ("/keyslots/0/kdf/passes", json!(2)),
        ("/keyslots/0/kdf/lanes", json!(2)),
        ("/keyslots/0/kdf/salt", json!(BASE64.encode(&[0; 32]))),
        ("/keyslots/0/wrapped", json!(BASE64.encode(&[0; 60]))),
        ("/hint", json!("the red one")),
        ("/hint", Value::Null),
        ("/authenticator", json!(BASE64.encode(&[0; 32]))),
    ];
    for (pointer, value) in edits {
        match with(pointer, value) {
            Ok(edited) => assert!(!edited.verify(&keys()), "{pointer}"),
            Err(ConfigurationError::Rule(_)) => {}
            Err(other) => panic!("{pointer}: {other}"),
        }
    }
}

#[test]
fn an_added_removed_or_swapped_slot_is_noticed() {
    let mut two = example();
    let mut second = two.keyslots[0].clone();
    second.id = KeyslotId(2);
    two.keyslots.push(second);
    assert!(!two.verify(&keys()));
    two.authenticate(&keys());
    assert!(two.verify(&keys()));
    let mut swapped = two.clone();
    swapped.keyslots.swap(0, 1);
    assert!(!swapped.verify(&keys()));
    two.keyslots.pop();
    assert!(!two.verify(&keys()));
}

#[test]
fn a_slot_without_costs_has_none_in_the_canonical_bytes() {
    let mut keyfile = example();
    keyfile.keyslots[0].kind = KeyslotKind::Keyfile;
    keyfile.keyslots[0].kdf = Kdf::HkdfSha256 { salt: Base64([3; 32]) };
    let text = |text: &str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let expected = [&text("hkdf-sha256")[..], &[3; 32], &[4; 60], &[1], &text("the blue one")].concat();
    assert!(keyfile.canonical().ends_with(&expected));
    keyfile.authenticate(&keys());
    assert_eq!(Configuration::parse(&keyfile.encode().unwrap()).unwrap(), keyfile);
}

#[test]
fn a_new_slot_gets_a_number_that_none_has() {
    let mut configuration = example();
    assert_eq!(configuration.free_keyslot_id(), KeyslotId(2));
    configuration.keyslots[0].id = KeyslotId(u32::MAX);
    assert_eq!(configuration.free_keyslot_id(), KeyslotId(1));
}

#[test]
fn bytes_cannot_move_between_fields() {
    let (mut one, mut other) = (example(), example());
    (one.keyslots[0].label, one.keyslots[0].role) = ("ab".into(), "c".into());
    (other.keyslots[0].label, other.keyslots[0].role) = ("a".into(), "bc".into());
    assert_ne!(one.canonical(), other.canonical());
}

#[test]
fn the_canonical_bytes_are_those_of_the_format() {
    let text = |text: &str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let expected = [
        &1_u32.to_le_bytes()[..],
        &[6; 16],
        &1_700_000_000_u64.to_le_bytes(),
        &text("AES-256-GCM"),
        &text("AES-256-SIV"),
        &1_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &[1; 8],
        &[2; 60],
        &1_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &[8; 8],
        &text("passphrase"),
        &text("main"),
        &text("owner"),
        &1_700_000_000_u64.to_le_bytes(),
        &text("argon2id"),
        &64_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &[3; 32],
        &[4; 60],
        &[1],
        &text("the blue one"),
    ]
    .concat();
    assert_eq!(example().canonical(), expected);
}

#[test]
fn the_names_in_the_file_are_those_that_are_authenticated() {
    let json = as_json();
    let name = |pointer| json.pointer(pointer).and_then(Value::as_str).unwrap();
    assert_eq!(name("/cipher"), Cipher::Aes256Gcm.name());
    assert_eq!(name("/names"), NameCipher::Aes256Siv.name());
    assert_eq!(name("/keyslots/0/kdf/algorithm"), example().keyslots[0].kdf.name());
    for kind in KeyslotKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.name()));
    }
    let kdf = Kdf::HkdfSha256 { salt: Base64([3; 32]) };
    assert_eq!(serde_json::to_value(&kdf).unwrap()["algorithm"], json!(kdf.name()));
}

#[test]
fn rejects_a_newer_format_by_its_number_whatever_else_it_has() {
    let newer = Configuration::parse(br#"{"format": 2, "future": [1, 2]}"#);
    assert!(matches!(newer, Err(ConfigurationError::NewerFormat { found: 2 })));
    assert!(matches!(with("/format", json!(u64::MAX)), Err(ConfigurationError::NewerFormat { found: u64::MAX })));
    assert!(matches!(with("/format", json!(0)), Err(ConfigurationError::Rule(_))));
}

#[test]
fn rejects_what_is_not_the_listed_fields() {
    let mut unknown = as_json();
    unknown["extra"] = json!(1);
    let mut unknown_in_slot = as_json();
    unknown_in_slot["keyslots"][0]["extra"] = json!(1);
    let mut missing = as_json();
    missing.as_object_mut().unwrap().remove("authenticator");
    for bad in [unknown, unknown_in_slot, missing] {
        assert!(matches!(parse(&bad), Err(ConfigurationError::Syntax(_))), "{bad}");
    }
    let text = String::from_utf8(example().encode().unwrap()).unwrap();
    let twice = text.replacen("\"created\"", "\"created\": 1, \"created\"", 1);
    for bad in ["", "{}", "[]", "null", &text[..text.len() / 2], &twice, &format!("{text}x"), "\u{feff}{}"] {
        assert!(matches!(Configuration::parse(bad.as_bytes()), Err(ConfigurationError::Syntax(_))), "{bad}");
    }
}

#[test]
fn rejects_fields_of_the_wrong_type_or_length() {
    for (pointer, value) in [
        ("/format", json!("1")),
        ("/format", json!(-1)),
        ("/vault_id", json!("00")),
        ("/vault_id", json!("0606060606060606060606060606060G")),
        ("/vault_id", json!("AB060606060606060606060606060606")),
        ("/created", json!(-1)),
        ("/cipher", json!("AES-128-GCM")),
        ("/names", json!("plain")),
        ("/project_keys", json!({})),
        ("/project_keys/0/wrapped", json!(BASE64.encode(&[0; 59]))),
        ("/project_keys/0/wrapped", json!("???")),
        ("/active_key", json!(1.5)),
        ("/keyslots/0/kind", json!("telepathy")),
        ("/keyslots/0/kdf", json!({"algorithm": "argon2id", "salt": BASE64.encode(&[0; 32])})),
        ("/keyslots/0/kdf", json!({"algorithm": "hkdf-sha256", "passes": 1, "salt": BASE64.encode(&[0; 32])})),
        ("/keyslots/0/kdf/algorithm", json!("md5")),
        ("/keyslots/0/kdf/salt", json!(BASE64.encode(&[0; 31]))),
        ("/keyslots/0/kdf/memory_kib", json!(1_u64 << 32)),
        ("/authenticator", json!("")),
    ] {
        assert!(matches!(with(pointer, value), Err(ConfigurationError::Syntax(_))), "{pointer}");
    }
}

#[test]
fn rejects_impossible_values() {
    let key = as_json()["project_keys"][0].clone();
    let slot = as_json()["keyslots"][0].clone();
    for (pointer, value) in [
        ("/project_keys", json!([])),
        ("/project_keys", json!([key, key])),
        ("/project_keys", json!(vec![&key; 65])),
        ("/project_keys/0/version", json!(0)),
        ("/active_key", json!(2)),
        ("/keyslots", json!([])),
        ("/keyslots", json!([slot, slot])),
        ("/keyslots", json!(vec![&slot; 65])),
        ("/keyslots/0/label", json!("x".repeat(257))),
        ("/keyslots/0/label", json!("\u{1b}[2J")),
        ("/keyslots/0/role", json!("a\nb")),
        ("/keyslots/0/kind", json!("keyfile")),
        ("/keyslots/0/kdf", json!({"algorithm": "hkdf-sha256", "salt": BASE64.encode(&[0; 32])})),
        ("/hint", json!("x".repeat(1025))),
        ("/hint", json!("\u{7f}")),
    ] {
        assert!(matches!(with(pointer, value), Err(ConfigurationError::Rule(_))), "{pointer}");
    }
}

#[test]
fn rejects_kdf_parameters_out_of_bounds() {
    for (field, value) in [
        ("memory_kib", 0),
        ("memory_kib", 7),
        ("memory_kib", u32::MAX),
        ("passes", 0),
        ("passes", 1001),
        ("lanes", 0),
        ("lanes", 65),
        ("lanes", u32::MAX),
    ] {
        let refused = with(&format!("/keyslots/0/kdf/{field}"), json!(value));
        assert!(matches!(refused, Err(ConfigurationError::Kdf(_))), "{field} {value}");
    }
}

#[test]
fn rejects_a_file_beyond_the_limit() {
    let mut bytes = example().encode().unwrap();
    bytes.resize(FILE_MAX, b' ');
    assert!(Configuration::parse(&bytes).is_ok());
    bytes.push(b' ');
    assert!(matches!(Configuration::parse(&bytes), Err(ConfigurationError::TooLarge)));
}

#[test]
fn what_would_not_parse_is_not_written() {
    let mut bad = example();
    bad.hint = Some("x".repeat(HINT_MAX + 1));
    assert!(bad.encode().is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Configuration::parse(&bytes).is_err());
    }

    #[test]
    fn an_edited_byte_is_refused_or_noticed(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = example().encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(edited) = Configuration::parse(&bytes) {
            prop_assert!(edited == example() || !edited.verify(&keys()));
        }
    }
}

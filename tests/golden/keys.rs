//! The golden vault's keyslots, one of each kind: what opened them once opens them for ever, and by the format's text
//! alone.

use super::*;
use sero::crypto::RawKey;
use sero::vault::{ConfigurationPlace, KeyslotKind, NewKeyslot, Secrets, add_keyslot, recovery_key, unlock_root};

const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

/// Not random, so that they need no file.
struct Keys {
    passphrase: Passphrase,
    keyfile: RawKey,
    recovery: RawKey,
    command: RawKey,
    environment: RawKey,
}

fn keyfile_content() -> Vec<u8> {
    noise(b"the golden keyfile", 0, 5000)
}

fn key(name: &str) -> RawKey {
    RawKey::of_parts([name.as_bytes()])
}

fn all() -> Keys {
    Keys {
        passphrase: passphrase(),
        keyfile: RawKey::of_parts([keyfile_content().as_slice()]),
        recovery: key("the golden recovery key"),
        command: key("the golden command"),
        environment: key("the golden environment"),
    }
}

impl Keys {
    fn of(&self, kind: KeyslotKind) -> Secrets<'_> {
        let none = Secrets::default();
        match kind {
            KeyslotKind::Passphrase => Secrets { passphrase: Some(&self.passphrase), ..none },
            KeyslotKind::PassphraseKeyfile => {
                Secrets { passphrase: Some(&self.passphrase), keyfile: Some(&self.keyfile), ..none }
            }
            KeyslotKind::Keyfile => Secrets { keyfile: Some(&self.keyfile), ..none },
            KeyslotKind::Recovery => Secrets { recovery: Some(&self.recovery), ..none },
            KeyslotKind::Command => Secrets { command: Some(&self.command), ..none },
            KeyslotKind::Environment => Secrets { environment: Some(&self.environment), ..none },
        }
    }
}

/// To a vault with a slot of the passphrase alone: all other kinds, and two more of the passphrase and a keyfile.
pub fn add_every_kind(path: &Path) {
    let storage = PosixStorage::open(path).unwrap();
    let place = ConfigurationPlace::inside(&storage);
    let all = all();
    let more = [KeyslotKind::PassphraseKeyfile, KeyslotKind::Keyfile];
    for kind in KeyslotKind::ALL.into_iter().skip(1).chain(more) {
        let keys = unlock_root(&place, &all.of(KeyslotKind::Passphrase)).unwrap();
        let new = NewKeyslot { secrets: all.of(kind), kdf: CHEAP, label: kind.name(), role: "editor" };
        add_keyslot(&place, &keys, &new).unwrap();
    }
    // Nothing of the making is to stay.
    fs::remove_file(path.join("sero.json.bak")).unwrap();
}

#[test]
fn the_golden_keyslots_open_as_ever() {
    let unpacked = unpack("vault");
    let storage = PosixStorage::open(&unpacked.vault).unwrap();
    let place = ConfigurationPlace::inside(&storage);
    assert_eq!(place.read().unwrap().keyslots.len(), 8);
    let all = all();
    for kind in KeyslotKind::ALL {
        let keys = unlock_root(&place, &all.of(kind)).unwrap();
        let opened = keys.unlocked().configuration().keyslot(keys.slot()).unwrap().kind;
        // Both given, the keyfile alone is the cheaper way.
        let expected = if kind == KeyslotKind::PassphraseKeyfile { KeyslotKind::Keyfile } else { kind };
        assert_eq!(opened.name(), expected.name());
    }
}

/// "the key hierarchy in docs/format.md recomputed by the independent reader"
#[test]
fn an_independent_reader_opens_every_kind_of_keyslot() {
    let unpacked = unpack("vault");
    let scratch = TempDir::new().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = scratch.path().join(name);
        fs::write(&path, content).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let keyfile = file("keyfile", &keyfile_content());
    let recovery = file("recovery", recovery_key::encode(&all().recovery).to_lowercase().as_bytes());
    let command = file("command", BASE64.encode(all().command.expose()).as_bytes());
    let environment = file("environment", BASE64.encode(all().environment.expose()).as_bytes());
    let config = unpacked.vault.join("sero.json");
    let with = |options: &[&str], passphrase: &[u8]| reader(options, &unpacked.vault, passphrase);
    for options in
        [["--keyfile", &keyfile], ["--recovery", &recovery], ["--command", &command], ["--environment", &environment]]
    {
        assert_eq!(said(&with(&options, b"")), unpacked.manifest, "{options:?}");
    }
    let refused = |read: &Output, rule: &str| {
        assert_eq!(read.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&read.stderr).starts_with(rule), "{read:?}");
    };
    refused(&with(&["--command", &environment], b""), "keyslot-does-not-open");
    refused(&with(&[], b"not it"), "keyslot-does-not-open");
    let typo = fs::read_to_string(&recovery).unwrap().replacen(|char: char| char.is_ascii_digit(), "z", 1);
    refused(&with(&["--recovery", &file("typo", typo.as_bytes())], b""), "recovery-key-mistyped");

    // Passphrase and keyfile together: in a vault that has no other slot of the two, and its configuration apart.
    let apart = scratch.path().join("apart.json");
    fs::rename(&config, &apart).unwrap();
    let options = ["--config", apart.to_str().unwrap(), "--keyfile", &keyfile];
    assert_eq!(said(&with(&options, &passphrase_bytes())), unpacked.manifest);
    combined_alone(&apart);
    refused(&with(&options, b""), "keyslot-does-not-open");
    refused(&with(&options, b"not it"), "keyslot-does-not-open");
    refused(&with(&options[..2], &passphrase_bytes()), "keyslot-does-not-open");
    assert_eq!(said(&with(&options, &passphrase_bytes())), unpacked.manifest);
}

/// Removes every slot but those of passphrase and keyfile together.
fn combined_alone(config: &Path) {
    let directory = PosixStorage::open(config.parent().unwrap()).unwrap();
    let place = ConfigurationPlace::detached(&directory, config.file_name().unwrap());
    let (all, both) = (all(), KeyslotKind::PassphraseKeyfile);
    let keys = unlock_root(&place, &all.of(KeyslotKind::Recovery)).unwrap();
    for slot in place.read().unwrap().keyslots.iter().filter(|slot| slot.kind != both) {
        use sero::vault::{Removal, remove_keyslots};
        remove_keyslots(&place, &keys, &all.of(KeyslotKind::Recovery), Removal::One(slot.id)).unwrap();
    }
}

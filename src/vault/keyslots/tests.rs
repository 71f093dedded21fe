use super::*;
use crate::crypto::{Passphrase, RawKey};
use crate::storage::PosixStorage;
use crate::vault::create::create_with;
use crate::vault::unlock::unlock_root;

const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

/// One secret of each kind.
struct Everything {
    passphrase: Passphrase,
    keyfile: RawKey,
    recovery: RawKey,
    command: RawKey,
    environment: RawKey,
}

fn everything() -> Everything {
    let key = |byte| RawKey::from_bytes(&mut [byte; 32]);
    Everything {
        passphrase: Passphrase::new(b"correct horse".to_vec()),
        keyfile: key(1),
        recovery: key(2),
        command: key(3),
        environment: key(4),
    }
}

impl Everything {
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

fn new<'a>(secrets: Secrets<'a>, label: &'a str) -> NewKeyslot<'a> {
    NewKeyslot { secrets, kdf: CHEAP, label, role: "owner" }
}

fn vault(first: Secrets<'_>) -> (tempfile::TempDir, PosixStorage) {
    let backing = tempfile::tempdir().unwrap();
    create_with(backing.path(), None, None, &[new(first, "first")]).unwrap();
    let storage = PosixStorage::open(backing.path()).unwrap();
    (backing, storage)
}

fn opened_by(storage: &PosixStorage, secrets: &Secrets<'_>) -> Option<u32> {
    unlock_root(&ConfigurationPlace::inside(storage), secrets).ok().map(|keys| keys.slot().0)
}

#[test]
fn every_kind_opens_with_exactly_its_own_secrets() {
    let all = everything();
    for kind in KeyslotKind::ALL {
        let (_backing, storage) = vault(all.of(kind));
        for given in KeyslotKind::ALL {
            // Whoever gives both passphrase and keyfile gives what each of these takes, too.
            let gives_more = given == KeyslotKind::PassphraseKeyfile
                && matches!(kind, KeyslotKind::Passphrase | KeyslotKind::Keyfile);
            let opens = opened_by(&storage, &all.of(given)).is_some();
            assert_eq!(opens, given == kind || gives_more, "{} for {}", given.name(), kind.name());
        }
    }
}

#[test]
fn a_vault_with_slots_of_all_kinds_opens_with_each() {
    let all = everything();
    let (_backing, storage) = vault(all.of(KeyslotKind::Passphrase));
    let place = ConfigurationPlace::inside(&storage);
    for kind in KeyslotKind::ALL.into_iter().skip(1) {
        let keys = unlock_root(&place, &all.of(KeyslotKind::Passphrase)).unwrap();
        add_keyslot(&place, &keys, &new(all.of(kind), kind.name())).unwrap();
    }
    let key_of = |kind| unlock_root(&place, &all.of(kind)).unwrap().unlocked().expose().to_vec();
    for kind in KeyslotKind::ALL {
        assert_eq!(key_of(kind), key_of(KeyslotKind::Passphrase), "{}", kind.name());
    }
}

#[test]
fn a_changed_slot_opens_with_the_new_secret_alone() {
    let all = everything();
    let (_backing, storage) = vault(all.of(KeyslotKind::Passphrase));
    let place = ConfigurationPlace::inside(&storage);
    let keys = unlock_root(&place, &all.of(KeyslotKind::Passphrase)).unwrap();
    let (old, usb) = (all.of(KeyslotKind::Passphrase), new(all.of(KeyslotKind::Keyfile), "usb"));
    let renewed = change_keyslot(&place, &keys, &old, keys.slot(), &usb, Some("under the mat")).unwrap();
    assert!(renewed, "there is no other slot");
    assert_eq!(opened_by(&storage, &all.of(KeyslotKind::Passphrase)), None);
    assert_eq!(opened_by(&storage, &all.of(KeyslotKind::Keyfile)), Some(1));
    let configuration = place.read().unwrap();
    assert_eq!(configuration.hint.as_deref(), Some("under the mat"));
    assert_ne!(configuration.keyslots[0].key_id, keys.unlocked().configuration().keyslots[0].key_id);
    assert_eq!(place.read_backup(), Some(configuration), "the old secret is in no file");
    let keys = unlock_root(&place, &all.of(KeyslotKind::Keyfile)).unwrap();
    let missing = change_keyslot(&place, &keys, &all.of(KeyslotKind::Keyfile), KeyslotId(9), &usb, None);
    assert!(matches!(missing, Err(VaultError::NoKeyslot { id: 9 })));
}

/// After a passphrase has become known, changing it has to be enough, with a rotation: who opened the old slot has the
/// old root key, and with it would have the new project key.
#[test]
fn who_opened_a_changed_slot_opens_nothing_that_comes_later() {
    let all = everything();
    let (_backing, storage) = vault(all.of(KeyslotKind::Passphrase));
    let place = ConfigurationPlace::inside(&storage);
    let (passphrase, command) = (all.of(KeyslotKind::Passphrase), all.of(KeyslotKind::Command));
    let keys = unlock_root(&place, &passphrase).unwrap();
    add_keyslot(&place, &keys, &new(all.of(KeyslotKind::Keyfile), "usb")).unwrap();
    let keys = unlock_root(&place, &passphrase).unwrap();
    let both = Secrets { keyfile: all.of(KeyslotKind::Keyfile).keyfile, ..passphrase };
    assert!(change_keyslot(&place, &keys, &both, KeyslotId(1), &new(command, ""), None).unwrap());
    let now = place.read().unwrap();
    assert_ne!(now.project_keys[0].wrapped, keys.unlocked().configuration().project_keys[0].wrapped);
    let opened = crate::crypto::AeadKey::new(keys.root.expose())
        .open_message(&now.project_key_aad(now.active_key), &now.project_keys[0].wrapped.0);
    assert!(opened.is_err());
    for (secrets, slot) in [(command, 1), (all.of(KeyslotKind::Keyfile), 2)] {
        assert_eq!(opened_by(&storage, &secrets), Some(slot));
    }
}

/// Three slots: a passphrase, a keyfile, a command.
fn three(all: &Everything) -> (tempfile::TempDir, PosixStorage) {
    let (backing, storage) = vault(all.of(KeyslotKind::Passphrase));
    let place = ConfigurationPlace::inside(&storage);
    for kind in [KeyslotKind::Keyfile, KeyslotKind::Command] {
        let keys = unlock_root(&place, &all.of(KeyslotKind::Passphrase)).unwrap();
        add_keyslot(&place, &keys, &new(all.of(kind), "")).unwrap();
    }
    (backing, storage)
}

#[test]
fn a_removed_slot_opens_nothing_and_the_others_stay() {
    let all = everything();
    let (_backing, storage) = three(&all);
    let place = ConfigurationPlace::inside(&storage);
    let (passphrase, keyfile) = (all.of(KeyslotKind::Passphrase), all.of(KeyslotKind::Keyfile));
    let keys = unlock_root(&place, &passphrase).unwrap();
    let removed = remove_keyslots(&place, &keys, &passphrase, Removal::One(KeyslotId(2))).unwrap();
    // The command's secret was not given: its slot can only be kept with the old root key.
    assert_eq!(removed, Removed { slots: vec![KeyslotId(2)], root_key_renewed: false });
    assert_eq!(opened_by(&storage, &keyfile), None);
    assert_eq!(opened_by(&storage, &passphrase), Some(1));
    assert_eq!(opened_by(&storage, &all.of(KeyslotKind::Command)), Some(3));
    assert!(place.read_backup().unwrap().keyslot(KeyslotId(2)).is_none());
    let again = remove_keyslots(&place, &keys, &passphrase, Removal::One(KeyslotId(2)));
    assert!(matches!(again, Err(VaultError::NoKeyslot { id: 2 })));
}

#[test]
fn the_last_slot_cannot_be_removed() {
    let all = everything();
    let (_backing, storage) = vault(all.of(KeyslotKind::Passphrase));
    let place = ConfigurationPlace::inside(&storage);
    let secrets = all.of(KeyslotKind::Passphrase);
    let keys = unlock_root(&place, &secrets).unwrap();
    let refused = remove_keyslots(&place, &keys, &secrets, Removal::One(KeyslotId(1)));
    assert!(matches!(refused, Err(VaultError::LastKeyslot)));
    assert_eq!(opened_by(&storage, &secrets), Some(1));
}

#[test]
fn with_a_renewed_root_key_an_old_slot_opens_nothing_new() {
    let all = everything();
    let (_backing, storage) = three(&all);
    let place = ConfigurationPlace::inside(&storage);
    let old = place.read().unwrap();
    let (passphrase, command) = (all.of(KeyslotKind::Passphrase), all.of(KeyslotKind::Command));
    let keys = unlock_root(&place, &passphrase).unwrap();
    let before = keys.unlocked().expose().to_vec();
    let removed = remove_keyslots(&place, &keys, &passphrase, Removal::Others).unwrap();
    assert_eq!(removed, Removed { slots: vec![KeyslotId(2), KeyslotId(3)], root_key_renewed: true });
    let now = unlock_root(&place, &passphrase).unwrap();
    assert_eq!(now.unlocked().expose().to_vec(), before, "the project key is the same until it is rotated");
    // An attacker puts the old slot back, or knows the old root key: it does not fit the new table.
    let mut revived = place.read().unwrap();
    revived.keyslots.push(old.keyslot(KeyslotId(3)).unwrap().clone());
    let aad = old.keyslot_aad(KeyslotId(3), KeyslotKind::Command);
    let slot = old.keyslot(KeyslotId(3)).unwrap();
    let old_root = command.kek(slot).unwrap().unwrap().unwrap(&aad, &slot.wrapped.0).unwrap();
    let key = &revived.project_keys[0];
    let opened = crate::crypto::AeadKey::new(old_root.expose())
        .open_message(&revived.project_key_aad(key.version), &key.wrapped.0);
    assert!(opened.is_err());
    assert!(!revived.verify(now.unlocked().keys()));
}

#[test]
fn changes_beside_a_renewed_root_key_are_refused() {
    let all = everything();
    let (_backing, storage) = three(&all);
    let place = ConfigurationPlace::inside(&storage);
    let passphrase = all.of(KeyslotKind::Passphrase);
    let stale = unlock_root(&place, &passphrase).unwrap();
    remove_keyslots(&place, &stale, &passphrase, Removal::Others).unwrap();
    let refused = add_keyslot(&place, &stale, &new(all.of(KeyslotKind::Recovery), ""));
    assert!(matches!(refused, Err(VaultError::ConfigurationBusy)));
}

#[test]
fn a_table_is_full_at_its_bound() {
    let all = everything();
    let (_backing, storage) = vault(all.of(KeyslotKind::Keyfile));
    let place = ConfigurationPlace::inside(&storage);
    let keys = unlock_root(&place, &all.of(KeyslotKind::Keyfile)).unwrap();
    for expected in 2..=u32::try_from(KEYSLOTS_MAX).unwrap() {
        let id = add_keyslot(&place, &keys, &new(all.of(KeyslotKind::Recovery), "")).unwrap();
        assert_eq!(id, KeyslotId(expected));
    }
    let full = add_keyslot(&place, &keys, &new(all.of(KeyslotKind::Recovery), ""));
    assert!(matches!(full, Err(VaultError::NoSpace { .. })));
}

/// Between unlocking and the lock of the configuration somebody else may have changed it.
#[test]
fn a_slot_that_was_changed_meanwhile_is_not_brought_back() {
    let all = everything();
    let (_backing, storage) = vault(all.of(KeyslotKind::Passphrase));
    let place = ConfigurationPlace::inside(&storage);
    let passphrase = all.of(KeyslotKind::Passphrase);
    let stale = unlock_root(&place, &passphrase).unwrap();
    add_keyslot(&place, &stale, &new(all.of(KeyslotKind::Keyfile), "second")).unwrap();
    let stale = unlock_root(&place, &passphrase).unwrap();
    let other = Passphrase::new(b"another battery".to_vec());
    let changed = Secrets { passphrase: Some(&other), ..Secrets::default() };
    let keys = unlock_root(&place, &passphrase).unwrap();
    let renewed = change_keyslot(&place, &keys, &passphrase, KeyslotId(1), &new(changed, "first"), None).unwrap();
    assert!(!renewed, "the keyfile was not given");
    for removal in [Removal::One(KeyslotId(1)), Removal::Others] {
        let refused = remove_keyslots(&place, &stale, &passphrase, removal);
        assert!(matches!(refused, Err(VaultError::ConfigurationBusy)), "{refused:?}");
    }
    let refused = change_keyslot(&place, &stale, &passphrase, KeyslotId(1), &new(passphrase, "first"), None);
    assert!(matches!(refused, Err(VaultError::ConfigurationBusy)), "{refused:?}");
    // The other slot can go, and the changed one stays changed.
    let removed = remove_keyslots(&place, &stale, &passphrase, Removal::One(KeyslotId(2))).unwrap();
    assert!(!removed.root_key_renewed);
    assert_eq!(opened_by(&storage, &passphrase), None);
    assert_eq!(opened_by(&storage, &changed), Some(1));
}

/// The new version would be wrapped by a root key that no slot opens any more.
#[test]
fn a_rotation_is_not_begun_with_a_root_key_that_was_renewed_meanwhile() {
    let all = everything();
    let (_backing, storage) = vault(all.of(KeyslotKind::Passphrase));
    let place = ConfigurationPlace::inside(&storage);
    let passphrase = all.of(KeyslotKind::Passphrase);
    let keys = unlock_root(&place, &passphrase).unwrap();
    add_keyslot(&place, &keys, &new(all.of(KeyslotKind::Keyfile), "second")).unwrap();
    let stale = unlock_root(&place, &passphrase).unwrap();
    assert!(remove_keyslots(&place, &stale, &passphrase, Removal::Others).unwrap().root_key_renewed);
    let refused = crate::vault::rotate::configuration::start(&place, &stale, false);
    assert!(matches!(refused, Err(VaultError::ConfigurationBusy)));
    assert_eq!(opened_by(&storage, &passphrase), Some(1));
}

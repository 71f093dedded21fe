//! Making, adding, replacing and removing keyslots. None of it needs the secrets of other slots: the root key stands
//! between them and the project keys.

use super::error::{Result, VaultError};
use super::place::{Before, ConfigurationPlace};
use super::unlock::{RootKeys, Secrets, open_keyslot, wrap_project_key};
use crate::crypto::kdf::KdfError;
use crate::crypto::{KdfParams, RawKey, entropy};
use crate::format::configuration::{
    self, Base64, Configuration, Hex, KEYSLOTS_MAX, Kdf, Keyslot, KeyslotId, KeyslotKind,
};
use crate::storage::Storage;

/// What a new slot takes, and what is said of it.
#[derive(Clone, Copy)]
pub struct NewKeyslot<'a> {
    /// Exactly what will open it.
    pub secrets: Secrets<'a>,
    /// What guessing costs, if there is a passphrase in it.
    pub kdf: KdfParams,
    /// Readable by everyone who can read the configuration.
    pub label: &'a str,
    pub role: &'a str,
}

impl NewKeyslot<'_> {
    /// What kind of slot takes what is given.
    pub fn kind(&self) -> Result<KeyslotKind> {
        let Secrets { passphrase, keyfile, recovery, command, environment } = self.secrets;
        match (passphrase, keyfile, recovery, command, environment) {
            (Some(_), None, None, None, None) => Ok(KeyslotKind::Passphrase),
            (Some(_), Some(_), None, None, None) => Ok(KeyslotKind::PassphraseKeyfile),
            (None, Some(_), None, None, None) => Ok(KeyslotKind::Keyfile),
            (None, None, Some(_), None, None) => Ok(KeyslotKind::Recovery),
            (None, None, None, Some(_), None) => Ok(KeyslotKind::Command),
            (None, None, None, None, Some(_)) => Ok(KeyslotKind::Environment),
            _ => Err(VaultError::Internal("no kind of keyslot takes these secrets")),
        }
    }

    /// The slot, with a key id and a salt of its own.
    pub(super) fn seal(
        &self,
        configuration: &Configuration,
        id: KeyslotId,
        created: u64,
        root: &RawKey,
    ) -> Result<Keyslot> {
        let kind = self.kind()?;
        let salt = Base64(entropy::array());
        let KdfParams { memory_kib, passes, lanes } = self.kdf;
        let mut slot = Keyslot {
            id,
            key_id: Hex(entropy::array()),
            kind,
            label: self.label.to_owned(),
            role: self.role.to_owned(),
            created,
            kdf: match kind.has_passphrase() {
                true => Kdf::Argon2id { memory_kib, passes, lanes, salt },
                false => Kdf::HkdfSha256 { salt },
            },
            wrapped: Base64([0; crate::crypto::kdf::WRAPPED_KEY_LEN]),
        };
        wrap(configuration, &mut slot, &self.secrets, root)?;
        Ok(slot)
    }
}

/// Whether a label and a hint keep the format's rules, before anything is done for them.
pub fn check_texts(label: &str, hint: Option<&str>) -> Result<()> {
    configuration::check_texts(label, hint).map_err(VaultError::ConfigurationRefused)
}

/// Adds a keyslot; returns its number.
pub fn add_keyslot<S: Storage>(
    place: &ConfigurationPlace<'_, S>,
    keys: &RootKeys,
    new: &NewKeyslot<'_>,
) -> Result<KeyslotId> {
    // Before the lock is taken, as it may take a second; the number is looked at again under it.
    let expected = keys.unlocked().configuration().free_keyslot_id();
    let now = place.now();
    let slot = new.seal(keys.unlocked().configuration(), expected, now, &keys.root)?;
    place.change(keys.unlocked().vouching(), keys.unlocked().keys(), Before::Kept, |configuration| {
        if configuration.keyslots.len() >= KEYSLOTS_MAX {
            return Err(VaultError::NoSpace { what: "another keyslot; remove one first" });
        }
        check_root(configuration, keys)?;
        let id = configuration.free_keyslot_id();
        let slot = if id == expected { slot } else { new.seal(configuration, id, now, &keys.root)? };
        configuration.keyslots.push(slot);
        Ok(id)
    })
}

/// Replaces the secret of a keyslot, which keeps its number. If `secrets` open every other slot, the root key is renewed;
/// whether it was.
pub fn change_keyslot<S: Storage>(
    place: &ConfigurationPlace<'_, S>,
    keys: &RootKeys,
    secrets: &Secrets<'_>,
    id: KeyslotId,
    new: &NewKeyslot<'_>,
    hint: Option<&str>,
) -> Result<bool> {
    let before = keys.unlocked().configuration();
    let slot = new.seal(before, id, place.now(), &keys.root)?;
    let opened = opened_slots(before, secrets, |slot| slot.id != id);
    place.change(keys.unlocked().vouching(), keys.unlocked().keys(), Before::Replaced, |configuration| {
        check_root(configuration, keys)?;
        check_slot(configuration, before, id)?;
        let old =
            configuration.keyslots.iter_mut().find(|slot| slot.id == id).ok_or(VaultError::NoKeyslot { id: id.0 })?;
        *old = slot;
        if let Some(hint) = hint {
            configuration.hint = (!hint.is_empty()).then(|| hint.to_owned());
        }
        let renews = configuration.keyslots.iter().all(|slot| slot.id == id || opened.opens(slot));
        if renews {
            renew_root_key(configuration, keys, |slot| if slot.id == id { &new.secrets } else { secrets })?;
        }
        Ok(renews)
    })
}

/// Which slots stay when some are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    One(KeyslotId),
    /// All but those that what is given opens.
    Others,
}

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    pub slots: Vec<KeyslotId>,
    /// Whether the root key is new, so that nothing that the removed slots ever opened opens what comes from now on.
    pub root_key_renewed: bool,
}

/// Removes keyslots, never the last one. If `secrets` open every slot that stays, the root key is renewed.
pub fn remove_keyslots<S: Storage>(
    place: &ConfigurationPlace<'_, S>,
    keys: &RootKeys,
    secrets: &Secrets<'_>,
    removal: Removal,
) -> Result<Removed> {
    let before = keys.unlocked().configuration();
    let mut opened = opened_slots(before, secrets, |slot| removal != Removal::One(slot.id));
    if removal == Removal::Others
        && let Some(refused) = opened.refused.take()
    {
        // It may be the caller's own.
        return Err(VaultError::KdfRefused(refused));
    }
    place.change(keys.unlocked().vouching(), keys.unlocked().keys(), Before::Replaced, |configuration| {
        check_root(configuration, keys)?;
        let goes = |slot: &Keyslot| match removal {
            Removal::One(id) => slot.id == id,
            Removal::Others => !opened.opens(slot),
        };
        let slots: Vec<KeyslotId> =
            configuration.keyslots.iter().filter(|slot| goes(slot)).map(|slot| slot.id).collect();
        if let Removal::One(id) = removal
            && slots.is_empty()
        {
            return Err(VaultError::NoKeyslot { id: id.0 });
        }
        for id in &slots {
            check_slot(configuration, before, *id)?;
        }
        if slots.len() == configuration.keyslots.len() {
            return Err(VaultError::LastKeyslot);
        }
        configuration.keyslots.retain(|slot| !slots.contains(&slot.id));
        let root_key_renewed = configuration.keyslots.iter().all(|slot| opened.opens(slot));
        if root_key_renewed {
            renew_root_key(configuration, keys, |_| secrets)?;
        }
        Ok(Removed { slots, root_key_renewed })
    })
}

/// Slots that what is given opens, by what a change of its secret changes.
struct Opened {
    key_ids: Vec<Hex<8>>,
    /// Why one of them could not be tried.
    refused: Option<KdfError>,
}

impl Opened {
    fn opens(&self, slot: &Keyslot) -> bool {
        self.key_ids.contains(&slot.key_id)
    }
}

fn opened_slots(configuration: &Configuration, secrets: &Secrets<'_>, counts: impl Fn(&Keyslot) -> bool) -> Opened {
    let mut opened = Opened { key_ids: Vec::new(), refused: None };
    for slot in configuration.keyslots.iter().filter(|slot| counts(slot)) {
        match open_keyslot(configuration, slot, secrets) {
            Some(Ok(Some(_))) => opened.key_ids.push(slot.key_id),
            Some(Err(refused)) => opened.refused = Some(refused),
            Some(Ok(None)) | None => {}
        }
    }
    opened
}

/// A slot is still the one that was seen before the lock was taken: neither changed, nor another of the same number.
fn check_slot(configuration: &Configuration, before: &Configuration, id: KeyslotId) -> Result<()> {
    let key_id = |configuration: &Configuration| configuration.keyslot(id).map(|slot| slot.key_id);
    if key_id(configuration) == key_id(before) { Ok(()) } else { Err(VaultError::ConfigurationBusy) }
}

/// Whoever once opened a slot may have kept the root key. With a new one, that opens no more than it did.
fn renew_root_key<'a>(
    configuration: &mut Configuration,
    keys: &RootKeys,
    secrets: impl Fn(&Keyslot) -> &'a Secrets<'a>,
) -> Result<()> {
    let root = RawKey::generate().map_err(|e| VaultError::io("get random bytes for the keys", e))?;
    let mut renewed = configuration.clone();
    for (version, key) in keys.unlocked().versions() {
        for wrapped in renewed.project_keys.iter_mut().filter(|wrapped| wrapped.version == *version) {
            wrapped.wrapped = fixed(wrap_project_key(configuration, &root, *version, key))?;
        }
    }
    for slot in &mut renewed.keyslots {
        let secrets = secrets(slot);
        wrap(configuration, slot, secrets, &root)?;
    }
    *configuration = renewed;
    Ok(())
}

/// Somebody may have renewed the root key, or rotated the project key, between the unlocking and the change.
pub(super) fn check_root(configuration: &Configuration, keys: &RootKeys) -> Result<()> {
    if configuration.project_keys == keys.unlocked().configuration().project_keys {
        Ok(())
    } else {
        Err(VaultError::ConfigurationBusy)
    }
}

fn wrap(configuration: &Configuration, slot: &mut Keyslot, secrets: &Secrets<'_>, root: &RawKey) -> Result<()> {
    let kek = secrets.kek(slot).ok_or(VaultError::Internal("a keyslot's secret is missing"))?;
    let aad = configuration.keyslot_aad(slot.id, slot.kind);
    slot.wrapped = fixed(kek.map_err(VaultError::KdfRefused)?.wrap(&aad, root.expose()))?;
    Ok(())
}

pub(super) fn fixed<const N: usize>(wrapped: Vec<u8>) -> Result<Base64<N>> {
    wrapped.try_into().map(Base64).map_err(|_| VaultError::Internal("a wrapped key has another length"))
}

#[cfg(test)]
mod tests;

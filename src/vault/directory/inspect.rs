//! What stands in a backing directory, entry by entry, whether it opens or not: for verify, repair and salvage.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::iv::Ivs;
use super::listing::{NO_NAME, Opened};
use super::{Directory, Location, Place};
use crate::format::names::EntryForm;
use crate::storage::{FileKind, Storage};
use crate::vault::error::{Result, VaultError};

/// Entries that are read from the backing at a time.
const BATCH: usize = 512;

/// One entry of a backing directory.
pub(crate) struct Inspected {
    pub entry: OsString,
    pub form: EntryForm,
    pub kind: FileKind,
    pub name: InspectedName,
}

/// What an entry's name is in plain.
pub(crate) enum InspectedName {
    Opens(Vec<u8>),
    /// Not a name: an IV, a sidecar, another filesystem's.
    Special,
    /// Why it does not open.
    Bad(String),
    /// Why the backing does not give it: it may open.
    Unreadable(String),
}

impl<S: Storage> Directory<S> {
    /// A handle of the caller's own, for [`inspect`](Self::inspect).
    pub(crate) fn open_to_inspect(&self) -> Result<S::Dir> {
        self.open_anew()
    }

    /// The IV as it was read. None: there is none, and no names.
    pub(crate) fn inspect_iv(&self) -> Result<Option<Arc<Ivs>>> {
        self.unchecked_iv()
    }

    /// Where an entry is, whatever it is named.
    pub(crate) fn entry(&self, entry: &OsStr) -> Result<Location<S>> {
        Ok(Location { directory: self.arc()?, entry: entry.to_owned() })
    }

    /// The path from the vault's top, without a '/' in front. None where a name on the way does not open.
    pub(crate) fn plain_path(&self) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        for directory in self.chain() {
            let (parent, entry) = match &*directory.place.read() {
                Place::Top => continue,
                Place::Below { parent, entry } => (parent.clone(), entry.clone()),
                Place::Gone => return None,
            };
            let ivs = parent.unchecked_iv().ok()??;
            let handle = parent.handle().ok()?;
            match parent.open_found(&ivs, &entry, &handle) {
                Ok(Opened::Name(name)) => names.push(name),
                Ok(Opened::Skipped | Opened::Bad(_)) | Err(_) => return None,
            }
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// The entries after `cookie` (0: from the start), not all of them; and where to go on, if there are more.
    /// Without an IV, no name opens.
    pub(crate) fn inspect(
        &self,
        handle: &S::Dir,
        iv: Option<&Ivs>,
        cookie: u64,
    ) -> Result<(Vec<Inspected>, Option<u64>)> {
        let mut found: Vec<(OsString, FileKind)> = Vec::new();
        let mut next = cookie;
        let mut is_full = false;
        self.core
            .storage
            .read_dir(handle, cookie, &mut |entry| {
                is_full = found.len() >= BATCH;
                if !is_full {
                    found.push((entry.name.to_owned(), entry.kind));
                    next = entry.next_cookie;
                }
                !is_full
            })
            .map_err(|e| VaultError::io("read a directory", e))?;
        let mut inspected = Vec::with_capacity(found.len());
        for (entry, kind) in found {
            let form = EntryForm::of(&entry);
            let name = match (iv, form) {
                (_, EntryForm::DirectoryIv | EntryForm::Sidecar | EntryForm::Foreign) => InspectedName::Special,
                (_, EntryForm::Unknown) => InspectedName::Bad(NO_NAME.into()),
                (None, _) => InspectedName::Bad("its directory has no IV to open it with".into()),
                (Some(iv), _) => match self.open_found(iv, &entry, handle) {
                    Ok(Opened::Name(name)) => InspectedName::Opens(name),
                    // It is gone meanwhile.
                    Ok(Opened::Skipped) => continue,
                    Ok(Opened::Bad(reason)) => InspectedName::Bad(reason),
                    Err(error) => InspectedName::Unreadable(error.to_string()),
                },
            };
            inspected.push(Inspected { entry, form, kind, name });
        }
        Ok((inspected, is_full.then_some(next)))
    }
}

//! How a vault is made and opened.

use std::path::Path;
use std::sync::Arc;

use sero::vault::{CreateOptions, KdfParams, Mode, Passphrase, PosixStorage, Vault, create, unlock};

/// Makes a vault in an empty directory; its passphrase costs next to nothing.
pub fn create_vault(backing: &Path) {
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let options = CreateOptions { kdf, label: "test".into(), hint: None };
    create(backing, &options, &passphrase()).expect("a vault can be made in an empty directory");
}

pub fn open_vault(backing: &Path) -> Arc<Vault<PosixStorage>> {
    let storage = PosixStorage::open(backing).expect("the backing can be opened");
    let keys = unlock(&storage, &passphrase()).expect("the passphrase opens the vault");
    Vault::open(storage, keys, Mode::ReadWrite).expect("the vault can be opened")
}

fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

//! The old key against everything that is in the backing.

use std::os::unix::ffi::OsStrExt;

use sero::format::directory_iv::DirectoryIv;
use sero::format::header::Header;
use sero::format::{names, symlink, xattrs};

use super::*;

/// Tries the keys of an unlocked vault on a backing that was rotated since: nothing opens.
pub(super) fn opens_nothing(test: &TestVault, old: &UnlockedKeys) {
    let (version, key) = &old.versions()[0];
    let vault_id = old.configuration().vault_id.0;
    let keys = VaultKeys::derive(key, &vault_id);

    let configuration = sero::vault::read_configuration(&test.storage()).unwrap();
    assert!(!configuration.verify(&keys), "the old key vouches for the configuration");
    assert!(UnlockedKeys::from_exposed(&test.storage(), &old.expose()).is_err());
    let with_old = Vault::open(test.storage(), LiveKeys::derive(&vault_id, (*version, key), None), Mode::ReadOnly);
    if let Ok(vault) = with_old {
        assert!(vault.root().list(0, &mut |_| true).is_err(), "the tree's top lists with the old key");
        assert!(vault.root().lookup(b"small").is_err());
    }

    let mut tried = [0; 5];
    for path in entries(&test.path().join("tree")) {
        let meta = fs::symlink_metadata(&path).unwrap();
        let entry = path.file_name().unwrap();
        let parent_iv = fs::read_link(path.parent().unwrap().join("=iv")).unwrap();
        let record = data_encoding::BASE64URL_NOPAD.decode(parent_iv.as_os_str().as_bytes()).unwrap();
        let iv = DirectoryIv(record[..16].try_into().unwrap());
        if entry == "=iv" {
            let target = fs::read_link(&path).unwrap();
            assert!(DirectoryIv::decode(&keys, target.as_os_str().as_bytes()).is_err(), "{path:?}");
            tried[0] += 1;
            continue;
        }
        if entry.as_bytes().starts_with(b"=") {
            if entry.as_bytes().ends_with(b".n") {
                let of = names::entry_of_sidecar(entry).unwrap();
                let target = fs::read_link(&path).unwrap();
                assert!(names::open_long(keys.names(), &iv, of, target.as_os_str().as_bytes()).is_err(), "{path:?}");
                assert!(path.with_file_name(of).symlink_metadata().is_ok(), "a sidecar of an old name: {path:?}");
                continue;
            }
        } else {
            assert!(names::open(keys.names(), &iv, entry).is_err(), "{path:?}");
            tried[1] += 1;
        }
        if meta.is_file() {
            let home = fs::read(&path).unwrap();
            let salt = Header::salt(&home).unwrap();
            assert!(Header::open(&home, keys.file(&salt).header()).is_err(), "{path:?}");
            tried[2] += 1;
        }
        if meta.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            assert!(symlink::open(keys.symlink(), target.as_os_str().as_bytes()).is_err(), "{path:?}");
            tried[3] += 1;
        }
        let mut value = vec![0; 65_536];
        for attribute in [xattrs::ATTRIBUTE, xattrs::TRUSTED_ATTRIBUTE] {
            if let Ok(len) = rustix::fs::lgetxattr(&path, attribute, &mut value[..]) {
                assert!(xattrs::Table::open(keys.xattr(), &value[..len]).is_err(), "{path:?}");
                tried[4] += 1;
            }
        }
    }
    assert!(tried.iter().all(|count| *count > 0), "something was not tried: {tried:?}");

    // Pieces of long targets: each whole text.
    let links = test.path().join("private/links");
    for entry in fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().file_name()) {
        let Some(id) = entry.to_str().unwrap().strip_suffix(".0").map(str::to_owned) else { continue };
        let mut text = Vec::new();
        for index in 0.. {
            let Ok(piece) = fs::read_link(links.join(format!("{id}.{index}"))) else { break };
            text.extend_from_slice(piece.as_os_str().as_bytes());
        }
        assert!(symlink::open(keys.symlink(), &text).is_err(), "{id}");
    }
    let state = fs::read(test.path().join("private/state")).unwrap();
    assert!(keys.state().open_message(b"sero/v1/state", &state).is_err(), "private/state");
    for name in ["journal.0", "journal.1", "rotation", "iv.new"] {
        assert!(!test.path().join("private").join(name).exists(), "private/{name} is left");
    }
}

//! Whether a directory can be mounted on, asked before the passphrase is.

use std::fs;
use std::path::{Path, PathBuf};

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use crate::fuse::{self, mountinfo};

/// The mountpoint's canonical path, if the vault (a canonical path, too) can be mounted there.
pub(super) fn check(mountpoint: &Path, vault: &Path, nonempty: bool) -> Result<PathBuf> {
    let shown = mountpoint.display();
    let unusable = |what: &str| Failure::new(ExitCode::MountpointUnusable, format!("{shown} {what}"));
    let metadata = fuse::look(mountpoint).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => unusable("does not exist; make the directory first"),
        Some(libc::ENOTCONN) => unusable(&format!(
            "holds a mount whose process has died; `sero seal {shown}` cleans it up, then mount again"
        )),
        _ => unusable(&format!("cannot be used as a mountpoint: {error}; choose another directory")),
    })?;
    if !metadata.is_dir() {
        return Err(unusable("is not a directory; mount on an empty directory"));
    }
    let canonical = fs::canonicalize(mountpoint)
        .map_err(|error| unusable(&format!("cannot be used as a mountpoint: {error}; choose another directory")))?;
    if canonical == vault {
        return Err(unusable("is the vault itself; mount on another directory"));
    }
    if canonical.starts_with(vault) {
        return Err(unusable("is inside the vault; mount on a directory outside"));
    }
    if vault.starts_with(&canonical) {
        return Err(unusable("contains the vault, which the mount would hide; mount on another directory"));
    }
    let mounts = mountinfo::read().map_err(|error| Failure::other(format!("/proc/self/mountinfo: {error}")))?;
    match mountinfo::at(&mounts, &canonical) {
        Some(mount) if mount.is_vault() => {
            return Err(unusable(&format!(
                "has the vault {} mounted on it; `sero seal {shown}` first, or choose another directory",
                Path::new(&mount.source).display()
            )));
        }
        Some(mount) if !nonempty => {
            return Err(unusable(&format!(
                "is a mountpoint already (of {}); choose another directory, or cover it with `-o nonempty`",
                mount.filesystem_type
            )));
        }
        Some(_) | None => {}
    }
    if !nonempty {
        let mut entries = fs::read_dir(&canonical)
            .map_err(|error| unusable(&format!("cannot be listed: {error}; choose a directory that is yours")))?;
        if entries.next().is_some() {
            return Err(unusable("is not empty; choose an empty directory, or hide its entries with `-o nonempty`"));
        }
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(mountpoint: &Path, vault: &Path) -> String {
        let failure = check(mountpoint, vault, false).unwrap_err();
        assert_eq!(failure.code, ExitCode::MountpointUnusable);
        failure.message
    }

    #[test]
    fn what_cannot_be_mounted_on() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        let vault = base.join("vault");
        let inside = vault.join("tree");
        fs::create_dir_all(&inside).unwrap();
        let file = base.join("file");
        fs::write(&file, "x").unwrap();
        let full = base.join("full");
        fs::create_dir_all(full.join("entry")).unwrap();

        assert!(refusal(&base.join("missing"), &vault).contains("does not exist"));
        assert!(refusal(&file, &vault).contains("is not a directory"));
        assert!(refusal(&vault, &vault).contains("is the vault itself"));
        assert!(refusal(&inside, &vault).contains("is inside the vault"));
        assert!(refusal(&base, &vault).contains("contains the vault"));
        assert!(refusal(&full, &vault).contains("is not empty"));
        assert!(refusal(Path::new("/proc"), &vault).contains("is a mountpoint already"));
        assert_eq!(check(&full, &vault, true).unwrap(), full);
    }

    #[test]
    fn a_symlink_to_an_empty_directory_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(base.join("real")).unwrap();
        std::os::unix::fs::symlink("real", base.join("alias")).unwrap();
        let found = check(&base.join("alias"), &base.join("vault"), false).unwrap();
        assert_eq!(found, base.join("real"));
    }
}

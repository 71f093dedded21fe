//! Where the control sockets are.
//!
//! One socket a mount, named after the mount's device number, which the kernel gives to one mount at a time and shows
//! in `/proc/self/mountinfo`: whoever sees the mount knows the socket, and what lies at that place from before is a
//! dead daemon's. Nothing of the vault, and nothing secret, is in the path.
//!
//! The directory belongs to the mounting user and admits nobody else:
//!
//! | user | directory, the first that can be used |
//! |---|---|
//! | root | `/run/sero`, `/tmp/sero-0` |
//! | others | `$XDG_RUNTIME_DIR/sero`, `/run/user/UID/sero`, `/tmp/sero-UID` |

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::fuse::DeviceNumber;

const EXTENSION: &str = "sock";

/// The name of a mount's socket.
pub(super) fn name(device: DeviceNumber) -> String {
    format!("{}-{}.{EXTENSION}", device.major, device.minor)
}

/// The mount whose socket has this name.
pub(super) fn device(path: &Path) -> Option<DeviceNumber> {
    if path.extension()? != EXTENSION {
        return None;
    }
    let (major, minor) = path.file_stem()?.to_str()?.split_once('-')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Where a user's sockets may be, in the order in which a daemon tries them.
pub(super) fn candidates(user: u32) -> Vec<PathBuf> {
    let temporary = PathBuf::from(format!("/tmp/sero-{user}"));
    if user == 0 {
        return vec!["/run/sero".into(), temporary];
    }
    let mut found = Vec::new();
    // The variable speaks of this process's user alone.
    if user == geteuid().as_raw()
        && let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
        && runtime.is_absolute()
    {
        found.push(runtime.join("sero"));
    }
    let usual = PathBuf::from(format!("/run/user/{user}/sero"));
    if !found.contains(&usual) {
        found.push(usual);
    }
    found.push(temporary);
    found
}

/// Makes the directory, or takes an existing one. Its parent must exist, and must belong to the user or to root.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    let parent = folder.parent().unwrap_or(Path::new("/"));
    let owner = fs::metadata(parent)?.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(refused("the directory above it is another user's"));
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    check(folder, geteuid().as_raw())
}

/// Whether only this user can have put something there.
pub(super) fn check(folder: &Path, user: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() {
        return Err(refused("it is not a directory"));
    }
    if metadata.uid() != user {
        return Err(refused("it is another user's"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(refused("others may enter it; `chmod 700` it"));
    }
    Ok(())
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// The sockets in a user's directories, live and dead, without duplicates.
pub(super) fn sockets(user: u32) -> Vec<PathBuf> {
    let usable = |folder: &PathBuf| check(folder, user).is_ok();
    let mut found: Vec<PathBuf> = candidates(user)
        .into_iter()
        .filter(usable)
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| device(path).is_some())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The users who may have sockets on this machine, as far as this process may ask: for root everyone who has a
/// runtime directory, for others they themselves.
pub(super) fn users() -> Vec<u32> {
    let mut users = vec![geteuid().as_raw()];
    if geteuid().is_root() {
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        users.extend(fs::read_dir("/run/user").into_iter().flatten().flatten().filter_map(number));
    }
    users.sort_unstable();
    users.dedup();
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_name_says_the_device_and_nothing_else() {
        let mount = DeviceNumber { major: 0, minor: 53 };
        assert_eq!(name(mount), "0-53.sock");
        assert_eq!(device(Path::new("/run/sero/0-53.sock")), Some(mount));
        for other in ["/run/sero/0-53", "/run/sero/x-1.sock", "/run/sero/.sock", "/run/sero/0.sock"] {
            assert_eq!(device(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn only_a_directory_that_nobody_else_can_enter_will_do() {
        let base = tempfile::tempdir().unwrap();
        let me = geteuid().as_raw();
        let folder = base.path().join("sero");
        prepare(&folder).unwrap();
        prepare(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);

        assert!(check(&folder, me.wrapping_add(1)).is_err());
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(prepare(&folder).is_err());
        symlink(base.path(), base.path().join("link")).unwrap();
        assert!(prepare(&base.path().join("link")).is_err());
        fs::write(base.path().join("file"), "x").unwrap();
        assert!(prepare(&base.path().join("file")).is_err());
        assert!(prepare(&base.path().join("no/such")).is_err());
    }

    #[test]
    fn the_places_of_a_user() {
        assert_eq!(candidates(0)[0], Path::new("/run/sero"));
        let other = geteuid().as_raw().wrapping_add(4242);
        let places = candidates(other);
        assert_eq!(places, [format!("/run/user/{other}/sero"), format!("/tmp/sero-{other}")].map(PathBuf::from));
    }
}

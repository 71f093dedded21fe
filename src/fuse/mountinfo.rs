//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)): which mounts there are, in mount order.
//!
//! One line per mount: `id parent major:minor root mountpoint options [optional...] - fstype source super-options`.
//! Space, tab, newline, backslash and `#` stand in the fields as three octal digits after a backslash.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The filesystem type of a mounted vault, as the kernel shows it.
pub const FILESYSTEM_TYPE: &str = "fuse.sero";

/// A device number, as `major:minor` names it in `/sys` and in mountinfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// The driver's number; 0 for filesystems without a device, such as FUSE.
    pub major: u32,
    /// For FUSE, also the number of the connection under `/sys/fs/fuse/connections`.
    pub minor: u32,
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Unique while the mount exists.
    pub id: u64,
    /// The mount that this one stands on.
    pub parent_id: u64,
    /// `st_dev` of everything on it.
    pub device: DeviceNumber,
    /// Where it stands.
    pub mountpoint: PathBuf,
    /// The options of this mount (`rw,nosuid,nodev,relatime`).
    pub options: String,
    /// The filesystem's type with its subtype.
    pub filesystem_type: String,
    /// What is mounted: for a vault, the path of its backing directory.
    pub source: OsString,
    /// The options of the filesystem itself (`user_id=0,...`).
    pub super_options: String,
}

impl Mount {
    /// Whether this is a mounted vault.
    pub fn is_vault(&self) -> bool {
        self.filesystem_type == FILESYSTEM_TYPE
    }

    /// Whether both show the same filesystem. A number alone does not tell: that of one that has ended is given out again at once.
    pub fn is_same(&self, other: &Self) -> bool {
        self.device == other.device && self.filesystem_type == other.filesystem_type && self.source == other.source
    }

    /// Whether the mount refuses changes.
    pub fn is_read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
    }

    /// The user who mounted it, as FUSE filesystems say.
    pub fn user_id(&self) -> Option<u32> {
        self.super_options.split(',').find_map(|option| option.strip_prefix("user_id=")).and_then(|id| id.parse().ok())
    }
}

/// All mounts that this process sees. A mount that covers another one comes after it.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// All mounts that another process sees; its mount namespace may not be ours.
pub fn read_of_process(pid: u32) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(format!("/proc/{pid}/mountinfo"))?))
}

/// The uppermost mount at exactly this path, which must be canonical.
pub fn at(mounts: &[Mount], mountpoint: &Path) -> Option<Mount> {
    mounts.iter().rev().find(|mount| mount.mountpoint == mountpoint).cloned()
}

/// Lines that do not parse are left out: the kernel writes none, and one odd mount must not hide the others.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent_id = number(fields.next()?)?;
    let device = parse_device(fields.next()?)?;
    let _root = fields.next()?;
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let options = text(fields.next()?);
    // Any number of optional fields stands before the separator.
    fields.by_ref().find(|field| *field == b"-")?;
    let filesystem_type = text(fields.next()?);
    let source = OsString::from_vec(unescape(fields.next()?));
    let super_options = text(fields.next().unwrap_or_default());
    Some(Mount { id, parent_id, device, mountpoint, options, filesystem_type, source, super_options })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// `major:minor`.
fn parse_device(field: &[u8]) -> Option<DeviceNumber> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Undoes the kernel's `\ooo`; anything that is not three octal digits stays as it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        78 25 0:53 / /mnt/a\\040b rw,nosuid,nodev,relatime shared:9 master:2 - fuse.sero /srv/my\\134vault\\043 rw,user_id=1000,group_id=1000\n\
        79 25 0:54 / /mnt/over ro,relatime - fuse.sero /srv/v rw,user_id=0\n\
        not a mount\n\
        80 79 0:55 / /mnt/over rw - tmpfs none rw\n";

    #[test]
    fn fields_and_octal_escapes() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 4);
        let vault = &mounts[1];
        assert_eq!(vault.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(vault.source, "/srv/my\\vault#");
        assert_eq!(vault.device.to_string(), "0:53");
        assert!(vault.is_vault() && !vault.is_read_only());
        assert_eq!(vault.user_id(), Some(1000));
        assert!(mounts[2].is_read_only());
    }

    #[test]
    fn the_uppermost_mount_is_found() {
        let mounts = parse(TEXT);
        let found = at(&mounts, Path::new("/mnt/over")).map(|mount| mount.id);
        assert_eq!(found, Some(80));
        assert!(at(&mounts, Path::new("/mnt")).is_none());
    }

    #[test]
    fn a_backslash_without_octal_digits_stays() {
        assert_eq!(unescape(b"a\\9b\\"), b"a\\9b\\");
        assert_eq!(unescape(b"\\011\\012"), b"\t\n");
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let mounts = read().unwrap();
        assert!(mounts.iter().any(|mount| mount.mountpoint == Path::new("/")));
    }
}

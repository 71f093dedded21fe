//! Who keeps a mount busy: processes with something of it open, as the working directory, as the
//! program they run, or mapped; and mounts that stand on it.
//!
//! Nothing here asks the mounted filesystem: `statx` with an empty mask is answered from the kernel's
//! memory, so that a mount whose daemon is gone cannot hang the one who looks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::mountinfo::{self, DeviceNumber, Mount};

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The name of its program, as `ps` shows it.
    pub name: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.pid, self.name)
    }
}

/// The processes that use the filesystem with this device number, by number. Processes of other users
/// are seen by root alone.
pub fn processes_using(device: DeviceNumber) -> Vec<Process> {
    processes().filter(|&pid| uses(pid, device)).map(|pid| Process { pid, name: name_of(pid) }).collect()
}

/// Processes in whose mount namespace the filesystem is mounted; after an unmount here, those where it lives on.
pub fn processes_seeing(mount: &Mount) -> Vec<Process> {
    processes()
        .filter(|&pid| {
            mountinfo::read_of_process(pid).is_ok_and(|mounts| mounts.iter().any(|other| other.is_same(mount)))
        })
        .map(|pid| Process { pid, name: name_of(pid) })
        .collect()
}

/// Paths at which the filesystem is mounted, here or where another process sees it.
pub(super) fn places_of(device: DeviceNumber) -> impl Iterator<Item = PathBuf> {
    let mountpoints = move |mounts: Vec<Mount>| {
        mounts.into_iter().filter(move |mount| mount.device == device).map(|mount| mount.mountpoint)
    };
    let here = mountpoints(mountinfo::read().unwrap_or_default());
    let elsewhere = processes().flat_map(move |pid| {
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let below = move |place: PathBuf| root.join(place.strip_prefix("/").unwrap_or(&place));
        mountpoints(mountinfo::read_of_process(pid).unwrap_or_default()).map(below)
    });
    here.chain(elsewhere)
}

/// Mounts that stand on this one, and so keep it busy.
pub fn mounts_on(mounts: &[Mount], below: &Mount) -> Vec<PathBuf> {
    mounts.iter().filter(|mount| mount.parent_id == below.id).map(|mount| mount.mountpoint.clone()).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter()
}

fn name_of(pid: u32) -> String {
    match fs::read(format!("/proc/{pid}/comm")) {
        Ok(name) => String::from_utf8_lossy(&name).trim_end().to_owned(),
        Err(_) => "?".to_owned(),
    }
}

fn uses(pid: u32, device: DeviceNumber) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    ["cwd", "root", "exe"].iter().any(|link| is_on(&process.join(link), device))
        || open_files(&process).any(|file| is_on(&file, device))
        || maps_something_of(&process, device)
}

fn open_files(process: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Whether this, or what a link in `/proc/PID` leads to, is on the device; without a request to its filesystem.
pub(super) fn is_on(link: &Path, device: DeviceNumber) -> bool {
    device_of(link).is_ok_and(|found| found == device)
}

fn device_of(path: &Path) -> io::Result<DeviceNumber> {
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT, StatxFlags::empty())?;
    Ok(DeviceNumber { major: stat.stx_dev_major, minor: stat.stx_dev_minor })
}

/// `/proc/PID/maps`: address, permissions, offset, `major:minor` in hexadecimal, inode, path.
fn maps_something_of(process: &Path, device: DeviceNumber) -> bool {
    let Ok(maps) = fs::read(process.join("maps")) else {
        return false;
    };
    let wanted = format!("{:02x}:{:02x}", device.major, device.minor);
    maps.split(|&byte| byte == b'\n').any(|line| {
        line.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).nth(3) == Some(wanted.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_is_a_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = device_of(file.path()).unwrap();
        let me = std::process::id();
        let users = processes_using(device);
        assert!(users.iter().any(|process| process.pid == me));
        assert!(uses(me, device));
        let nowhere = DeviceNumber { major: 0, minor: 0xf_ffff };
        assert!(processes_using(nowhere).is_empty());
    }
}

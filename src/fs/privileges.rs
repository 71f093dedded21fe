//! Set-user-id and set-group-id bits: when they go. The kernel leaves this to the filesystem
//! (`HANDLE_KILLPRIV_V2`), because it cannot change them together with a write or a truncation.

use super::types::{Attr, Caller};
use crate::vault::FileKind;

const SET_UID: u32 = libc::S_ISUID;
const SET_GID: u32 = libc::S_ISGID;
const GROUP_EXECUTE: u32 = libc::S_IXGRP;

/// The bits that a change of the content by this caller takes away, as `should_remove_suid` of Linux:
/// none for root; set-group-id stays if the group cannot execute the file and the caller is a member of it.
pub(super) fn lost_by_writing(attr: &Attr, caller: &Caller) -> u32 {
    if caller.uid == 0 { 0 } else { lost_by_chown(attr, caller) }
}

/// The bits that a change of the owner or group takes away, also when root does it.
pub(super) fn lost_by_chown(attr: &Attr, caller: &Caller) -> u32 {
    if attr.kind == FileKind::Directory {
        return 0;
    }
    let mode = attr.mode();
    let mut lost = mode & SET_UID;
    if mode & SET_GID != 0 && (mode & GROUP_EXECUTE != 0 || !is_member(caller, attr.gid)) {
        lost |= SET_GID;
    }
    lost
}

/// The bit that setting an access ACL takes away: only a member of the group may have the file run as it.
pub(super) fn lost_by_acl(attr: &Attr, caller: &Caller) -> u32 {
    match attr.mode() & SET_GID != 0 && !is_member(caller, attr.gid) {
        true => SET_GID,
        false => 0,
    }
}

/// Whether the caller is in the group, or is root. The kernel names one group of the caller; the others
/// stand in /proc. Who cannot be found there is taken for a stranger, which only takes bits away.
fn is_member(caller: &Caller, gid: u32) -> bool {
    if caller.uid == 0 || caller.gid == gid {
        return true;
    }
    if caller.pid == 0 {
        return false;
    }
    match std::fs::read_to_string(format!("/proc/{}/status", caller.pid)) {
        Ok(status) => groups(&status).any(|group| group == gid),
        Err(_) => false,
    }
}

/// The numbers of the line "Groups:" of `/proc/PID/status`.
fn groups(status: &str) -> impl Iterator<Item = u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|group| group.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::InodeNo;
    use crate::vault::Stat;

    const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };
    const STRANGER: Caller = Caller { uid: 1000, gid: 1000, pid: 0 };
    const MEMBER: Caller = Caller { uid: 1000, gid: 7, pid: 0 };

    fn file(mode: u32) -> Attr {
        Attr::new(InodeNo(2), &Stat { mode: libc::S_IFREG | mode, gid: 7, ..Stat::default() })
    }

    #[test]
    fn writing_takes_the_bits_from_others_than_root() {
        assert_eq!(lost_by_writing(&file(0o6755), &ROOT), 0);
        assert_eq!(lost_by_writing(&file(0o6755), &MEMBER), 0o6000);
        assert_eq!(lost_by_writing(&file(0o6745), &MEMBER), 0o4000);
        assert_eq!(lost_by_writing(&file(0o6745), &STRANGER), 0o6000);
        assert_eq!(lost_by_writing(&file(0o1755), &STRANGER), 0);
    }

    #[test]
    fn a_change_of_owner_takes_the_bits_also_when_root_does_it_but_not_from_directories() {
        assert_eq!(lost_by_chown(&file(0o6755), &ROOT), 0o6000);
        assert_eq!(lost_by_chown(&file(0o2745), &ROOT), 0);
        let directory = Attr::new(InodeNo(2), &Stat { mode: libc::S_IFDIR | 0o6755, ..Stat::default() });
        assert_eq!(lost_by_chown(&directory, &STRANGER), 0);
    }

    #[test]
    fn supplementary_groups_are_read_from_the_status_of_a_process() {
        let status = "Name:\tx\nGid:\t5 5 5 5\nGroups:\t4 24 1000 \nNStgid:\t9\n";
        assert_eq!(groups(status).collect::<Vec<_>>(), [4, 24, 1000]);
        assert_eq!(groups("Name:\tx\n").count(), 0);
        assert_eq!(groups("Groups:\t\nx").count(), 0);
    }
}

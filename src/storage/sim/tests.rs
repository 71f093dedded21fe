//! One test for each rule of the model. The names are the rules.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use super::*;
use crate::storage::{Access, RenameMode, SetTime, Storage, Target, XattrMode, read_into, write_from};

mod attack;
mod conformance;
mod content;
mod faults;
mod invariants;
mod metadata;
mod process;

const ORDERED: CrashPolicy = CrashPolicy {
    metadata: MetadataOrder::OrderedPrefix,
    sync_keeps_entry: false,
    ordered_data: false,
    garbage: false,
};
const SUBSET: CrashPolicy = CrashPolicy { metadata: MetadataOrder::AnySubset, ..ORDERED };

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

#[track_caller]
fn assert_errno<T>(outcome: io::Result<T>, errno: i32) {
    match outcome {
        Ok(_) => panic!("succeeded instead of {}", io::Error::from_raw_os_error(errno)),
        Err(error) => assert_eq!(error.raw_os_error(), Some(errno), "{error}"),
    }
}

/// An empty disk, a process on it, and its top directory.
fn fresh() -> (SimDisk, SimStorage, SimDir) {
    let disk = SimDisk::new(1);
    let storage = disk.storage();
    let root = storage.open_root().unwrap();
    (disk, storage, root)
}

/// A durable file of this content.
fn durable_file(disk: &SimDisk, content: &[u8]) -> SimFile {
    let storage = disk.storage();
    let root = storage.open_root().unwrap();
    let file = storage.create_file(&root, name("file"), 0o600).unwrap();
    write_from(&storage, &file, content, 0).unwrap();
    disk.settle();
    file
}

fn write(disk: &SimDisk, file: &SimFile, bytes: &[u8], offset_bytes: u64) {
    write_from(&disk.storage(), file, bytes, offset_bytes).unwrap();
}

/// All crash states, which must be few, as what `look` sees in them.
#[track_caller]
fn outcomes<T: Ord>(disk: &SimDisk, policy: CrashPolicy, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    let states = disk.crashes(policy, 20_000, 1);
    assert!(states.is_exhaustive());
    states.map(|state| look(&state)).collect()
}

/// The paths on a disk, and the length of files: "dir/ file:3 link@".
fn listing(disk: &SimDisk) -> String {
    let entries = disk.raw_list().into_iter().map(|entry| {
        let suffix = match entry.kind {
            crate::storage::FileKind::Directory => "/".to_owned(),
            crate::storage::FileKind::Symlink => "@".to_owned(),
            crate::storage::FileKind::Regular => format!(":{}", entry.len_bytes),
            _ => "?".to_owned(),
        };
        entry.path.display().to_string() + &suffix
    });
    entries.collect::<Vec<_>>().join(" ")
}

fn set<const N: usize>(items: [&str; N]) -> BTreeSet<String> {
    items.map(str::to_owned).into()
}

/// The sectors of the file "file", each as its first byte.
fn sectors(disk: &SimDisk) -> String {
    let bytes = disk.raw_read("file").unwrap();
    bytes.chunks(512).map(|sector| if sector[0] == 0 { '-' } else { sector[0] as char }).collect()
}

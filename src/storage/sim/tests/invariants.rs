//! What holds for every disk, whatever was done on it: long random runs.

use std::collections::BTreeMap;

use super::super::crash::{Chooser, crash};
use super::super::random::Random;
use super::super::tree::{Id, Inode, ROOT};
use super::conformance::{Plan, Side, WITH_SYNCS};
use super::*;

/// The tree is one, links are counted, and space is accounted for.
#[track_caller]
fn check(disk: &Disk, context: &str) {
    let mut names: BTreeMap<Id, u32> = BTreeMap::from([(ROOT, 1)]);
    let mut subdirs: BTreeMap<Id, u32> = BTreeMap::new();
    for (parent, inode) in disk.tree.iter() {
        for (_, child) in inode.dir().into_iter().flat_map(|dir| dir.entries.values()) {
            *names.entry(*child).or_default() += 1;
            let child = disk.tree.get(*child).unwrap();
            if let Ok(dir) = child.dir() {
                assert_eq!(dir.parent, parent, "{context}");
                *subdirs.entry(parent).or_default() += 1;
            }
        }
    }
    let mut inos = BTreeSet::new();
    for (id, inode) in disk.tree.iter() {
        let count = names.get(&id).copied().unwrap_or(0);
        let expected = match inode.is_dir() {
            true if count == 1 => 2 + subdirs.get(&id).copied().unwrap_or(0),
            true => 0,
            false => count,
        };
        assert_eq!(inode.nlink, expected, "{context}");
        assert!(inos.insert(inode.ino), "{context}");
    }
    let files = disk.files.iter().filter(|(id, _)| disk.tree.get(**id).is_ok());
    let used: u64 = files.map(|(_, file)| file.now.allocated_pages()).sum();
    assert_eq!(disk.used_bytes(), used * 4096, "{context}");
}

fn dump(disk: &SimDisk) -> Vec<String> {
    let side = Side::new(disk.storage());
    side.dump(&side.dirs[0])
}

#[test]
fn every_crash_state_is_a_sound_disk_with_all_that_is_durable() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(seed);
        let mut side = Side::new(disk.storage());
        for step in 0..120 {
            side.step(&Plan::draw(&mut random, WITH_SYNCS));
            if random.below(8) != 0 {
                continue;
            }
            let context = format!("seed {seed}, step {step}");
            let now = disk.snapshot().0;
            check(&now, &context);
            for policy in CrashPolicy::ALL {
                let after = crash(&now, &policy, &mut Chooser::random(random.next()));
                check(&after, &context);
                assert!(after.tree.iter().all(|(_, inode)| inode.nlink > 0), "{context}");
                // It is at rest: another power cut changes nothing.
                assert_eq!(SimDisk::with(after, 0, Vec::new()).crashes(policy, 10, 0).count(), 1, "{context}");
                check_durable_changes_fit(&now, &policy, &mut random, &context);
            }
            // The newest state is what a process sees.
            let newest = disk.crash_again(&CrashPolicy::JOURNALED_TORN, &[u32::MAX; 4096]);
            assert_eq!(dump(&newest), dump(&disk), "{context}");
            let kept = disk.kill();
            check(&kept.snapshot().0, &context);
            kept.settle();
            assert_eq!(kept.crashes(CrashPolicy::POSIX, 10, 0).count(), 1, "{context}");
            assert_eq!(dump(&kept.crash(&CrashPolicy::POSIX, 0)), dump(&disk), "{context}");
        }
    }
}

/// A change that a sync made durable must find all that it needs, whatever else is lost.
fn check_durable_changes_fit(disk: &Disk, policy: &CrashPolicy, random: &mut Random, context: &str) {
    // Without the entry, a file or directory may be durable and nowhere to be found.
    if !policy.sync_keeps_entry || policy.metadata == MetadataOrder::OrderedPrefix {
        return;
    }
    let mut tree = disk.log.base.clone();
    for (change, durable) in disk.log.changes(policy) {
        let about_name = matches!(
            change.op,
            super::super::tree::Op::Create { .. }
                | super::super::tree::Op::CreateUnnamed { .. }
                | super::super::tree::Op::Link { .. }
                | super::super::tree::Op::Unlink { .. }
                | super::super::tree::Op::RemoveDir { .. }
                | super::super::tree::Op::Rename { .. }
        );
        if !durable && random.below(2) == 0 {
            continue;
        }
        match tree.apply(change) {
            Ok(Some(orphan)) => tree.remove(orphan),
            Ok(None) => {}
            Err(errno) => assert!(!durable || !about_name, "{context}: {errno} {change:?}"),
        }
    }
}

#[test]
fn inode_numbers_start_after_the_root() {
    let disk = Disk::new(EPOCH);
    assert_eq!(disk.tree.get(ROOT).map(Inode::is_dir), Ok(true));
    assert_eq!(disk.tree.free_ino(), 3);
}

//! What the alphabet of the sequences has no word for: clocks that are set back, attributes, copies of a crashed vault,
//! holes on a full disk.

use std::path::Path;
use std::time::Duration;

use sero::storage::sim::RawEntry;
use sero::storage::{CrashPolicy, Fault, FileKind, SetTime, SimDisk, Stat, Timestamp};
use sero::vault::{Mode, NodeRef, Vault, VaultError};

use super::check::{End, Violation, explain, look, survives};
use super::explore::POLICIES;
use super::ops::{BLOB, INNER, Op, PAGED};
use super::world::{PLAIN, Prepared, Stop, World, prepared, read_all};

const HOUR: Duration = Duration::from_secs(3600);

fn apply(world: &mut World, ops: &[Op]) {
    for op in ops {
        world.apply(op).unwrap_or_else(|stop| panic!("{op:?}: {stop:?}"));
    }
}

fn set_back(disk: &SimDisk, by: Duration) {
    let clock = sero::storage::Storage::now(&disk.storage());
    disk.set_clock(Timestamp { seconds: clock.seconds - by.as_secs() as i64, ..clock });
}

/// New files of several sizes, none of them synced, some still open.
fn never_synced() -> Vec<Op> {
    vec![
        Op::Create("new"),
        Op::Append { path: "new", len: 90_000 },
        Op::Create("dir/new"),
        Op::Append { path: "dir/new", len: 9000 },
        Op::Close("dir/new"),
        Op::Mkdir("made"),
        Op::Create("made/file"),
        Op::Append { path: "made/file", len: 40_000 },
    ]
}

/// Crashes in all ways, with something done to each disk before it is opened again.
fn crash_and(world: &World, then: impl Fn(&SimDisk)) {
    for (name, policy) in POLICIES {
        for seed in 0..6 {
            let disk = world.disk.crash(&policy, seed);
            then(&disk);
            survives(prepared(), &disk, &world.model, End::PowerCut)
                .unwrap_or_else(|violation| panic!("{name}, seed {seed}: {violation}"));
        }
    }
}

/// What a crash left half-made was not recognised, as it seemed to be older than the session, or newer than the mount
/// after the crash.
#[test]
fn a_clock_that_is_set_back_hides_no_leftovers() {
    // While it is off.
    let mut world = prepared().world();
    world.disk.advance(HOUR);
    apply(&mut world, &never_synced());
    crash_and(&world, |disk| set_back(disk, HOUR / 2));
    crash_and(&world, |disk| set_back(disk, HOUR * 24 * 365));
    // While it is mounted.
    let mut world = prepared().world();
    set_back(&world.disk, HOUR);
    world.vault().tick().expect("a tick");
    apply(&mut world, &never_synced());
    crash_and(&world, |_| {});
    // Both.
    crash_and(&world, |disk| set_back(disk, HOUR));
}

/// After a change of the page keys, files that were made before it were not taken for files of this mount.
#[test]
fn a_change_of_page_keys_hides_no_leftovers() {
    let mut world = prepared().world();
    apply(&mut world, &[Op::Create("early"), Op::Append { path: "early", len: 50_000 }, Op::Close("early")]);
    apply(&mut world, &[Op::ShortSession]);
    apply(&mut world, &never_synced());
    apply(&mut world, &[Op::Write { path: PAGED, at: 0, len: 50_000 }, Op::Fsync(PAGED), Op::Checkpoint]);
    crash_and(&world, |_| {});
}

/// As `cp -a` would: the same tree with other inodes, made now.
fn copied(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new(11);
    copy.set_clock(sero::storage::Storage::now(&disk.storage()));
    for number in 0..40 {
        copy.raw_write(format!("filler {number}"), b"").expect("it is written");
    }
    let mut inodes: Vec<(u64, std::path::PathBuf)> = Vec::new();
    for entry in disk.raw_list() {
        let ino = disk.raw_stat(&entry.path).expect("it is there").ino;
        match entry.kind {
            FileKind::Directory => copy.raw_make_dir(&entry.path),
            FileKind::Symlink => copy.raw_symlink(&entry.path, &disk.raw_read(&entry.path).expect("it is read")),
            _ => match inodes.iter().find(|(known, _)| *known == ino) {
                Some((_, first)) => copy.raw_link(first, &entry.path),
                None => copy.raw_write(&entry.path, &disk.raw_read(&entry.path).expect("it is read")),
            },
        }
        .unwrap_or_else(|error| panic!("{}: {error}", entry.path.display()));
        inodes.push((ino, entry.path));
    }
    for number in 0..40 {
        copy.raw_remove(format!("filler {number}")).expect("it is removed");
    }
    copy
}

/// A copy of a crashed vault has other inode numbers: files whose known name was gone were looked for by those.
#[test]
fn a_crashed_vault_that_was_copied_is_recovered() {
    let cases: [&[Op]; 3] = [
        &[
            Op::Link(INNER, "new"),
            Op::UnlinkOpen(INNER),
            Op::Write { path: "new", at: 1998, len: 154 },
            Op::Write { path: PAGED, at: 9000, len: 30_000 },
            Op::Sync,
        ],
        &[
            Op::Write { path: INNER, at: 0, len: 9000 },
            Op::Link(INNER, "new"),
            Op::UnlinkOpen(INNER),
            Op::Write { path: "new", at: 1998, len: 9000 },
            Op::Link(BLOB, "dir/other"),
            Op::UnlinkOpen(BLOB),
            Op::Truncate { path: "dir/other", size: 0 },
            Op::Write { path: "dir/other", at: 0, len: 100 },
            Op::Sync,
        ],
        &[Op::Write { path: PAGED, at: 9000, len: 30_000 }, Op::Rename(PAGED, BLOB), Op::Fsync(BLOB)],
    ];
    for ops in cases {
        let mut world = prepared().world();
        apply(&mut world, ops);
        for (name, policy) in POLICIES {
            for seed in 0..4 {
                let copy = copied(&world.disk.crash(&policy, seed));
                survives(prepared(), &copy, &world.model, End::PowerCut)
                    .unwrap_or_else(|violation| panic!("{ops:?}, {name}, seed {seed}: {violation}"));
            }
        }
    }
}

/// What was reserved for pages in the next segment was given back when a checkpoint set the length of their file.
#[test]
fn a_checkpoint_keeps_the_room_for_what_was_appended_meanwhile() {
    // A checkpoint waits for room, and its file grows; then it comes to its end, and the next has to wait.
    let waits = |world: &mut World, pages: u64| {
        world.disk.inject(Fault::NoSpace { after_bytes: pages * 4096 });
        let waits = world.vault().checkpoint().is_err() && !world.vault().is_read_only();
        world.disk.clear_faults();
        waits
    };
    let mut tried = 0;
    for (first, second) in (1..16).flat_map(|first| (1..40).map(move |second| (first, second))) {
        let mut world = prepared().world();
        apply(&mut world, &[Op::Write { path: PAGED, at: 5000, len: 100 }, Op::Fsync(PAGED)]);
        if !waits(&mut world, first) {
            continue;
        }
        apply(&mut world, &[Op::Append { path: PAGED, len: 30_000 }, Op::Fsync(PAGED)]);
        if !waits(&mut world, second) {
            continue;
        }
        // Somebody else takes all that is free.
        world.disk.set_capacity(Some(world.disk.used_bytes()));
        let done = world.vault().checkpoint();
        assert!(done.is_ok(), "{first} and {second} pages: {done:?}");
        tried += 1;
        if tried == 20 {
            break;
        }
    }
    assert!(tried > 0, "no checkpoint waits");
}

/// In a copy of a crashed vault, a file whose header was torn by a checkpoint is known by its salt.
#[test]
fn a_torn_header_in_a_copy_is_written_again() {
    let changed = || {
        let mut world = prepared().world();
        apply(&mut world, &[Op::Write { path: PAGED, at: 9000, len: 30_000 }, Op::Fsync(PAGED)]);
        world
    };
    let mut world = changed();
    let ino = backing_stat(prepared(), &world.disk.crash(&CrashPolicy::JOURNALED, 0), PAGED).ino;
    let first = world.disk.steps() + 1;
    apply(&mut world, &[Op::Checkpoint]);
    let end = world.disk.steps();
    let mut recovered = 0;
    for step in first..=end {
        let mut world = changed();
        world.cut = None;
        world.disk.set_crash_at(step);
        let _ = world.apply(&Op::Checkpoint);
        let disk = world.disk.crash(&CrashPolicy::JOURNALED, 0);
        let copy = copied(&disk);
        let homes = disk.raw_list().into_iter().map(|entry| entry.path);
        let home = { homes }.find(|path| disk.raw_stat(path).is_ok_and(|stat| stat.ino == ino)).expect("its home");
        for disk in [&disk, &copy] {
            disk.raw_write_at(&home, 40, &[0x5a; 30]).expect("it is torn");
        }
        // Where the journal has the header, it is written again.
        if survives(prepared(), &disk, &world.model, End::PowerCut).is_ok() {
            recovered += 1;
            survives(prepared(), &copy, &world.model, End::PowerCut)
                .unwrap_or_else(|violation| panic!("step {step}: {violation}"));
        }
    }
    assert!(recovered > 0, "no crash in the checkpoint left a journal that has the header");
}

fn backing_stat(prepared: &Prepared, disk: &SimDisk, path: &str) -> Stat {
    let vault = prepared.open(disk).unwrap_or_else(|error| panic!("it does not open: {error}"));
    let (directory, name) = match path.split_once('/') {
        Some((above, name)) => (vault.root().open_child(above.as_bytes()).expect("it opens"), name),
        None => (vault.root(), path),
    };
    directory.lookup(name.as_bytes()).expect("it is there")
}

/// `fsync` keeps mode, owner, times and attributes, too, as ext4 does; also of a file that had been synced before, and
/// has changes in the journal.
#[test]
fn a_sync_keeps_the_attributes() {
    let time = Timestamp { seconds: 1_234_567_890, nanoseconds: 5 };
    for (path, before) in [
        (PAGED, vec![]),
        (PAGED, vec![Op::Write { path: PAGED, at: 5000, len: 10 }, Op::Fsync(PAGED)]),
        (INNER, vec![Op::Write { path: INNER, at: 5000, len: 10 }, Op::Fsync(INNER), Op::Checkpoint]),
        (BLOB, vec![Op::Append { path: BLOB, len: 10 }]),
        ("new", vec![Op::Create("new"), Op::Append { path: "new", len: 10 }, Op::Close("new")]),
        ("new", vec![Op::Create("new"), Op::Append { path: "new", len: 10 }, Op::Close("new"), Op::Tick]),
    ] {
        let mut world = prepared().world();
        apply(&mut world, &before);
        let vault = world.vault().clone();
        let (directory, name) = match path.split_once('/') {
            Some((above, name)) => (vault.root().open_child(above.as_bytes()).expect("it opens"), name),
            None => (vault.root(), path),
        };
        let node = NodeRef::Entry(&directory, name.as_bytes());
        vault.set_mode(node, 0o751).expect("set_mode");
        vault.set_owner(node, Some(12), Some(34)).expect("set_owner");
        let file = directory.open_file(name.as_bytes()).expect("it opens");
        file.set_times(SetTime::To(time), SetTime::To(time)).expect("set_times");
        file.sync().expect("sync");
        for (policy_name, policy) in POLICIES {
            for seed in 0..6 {
                let disk = world.disk.crash(&policy, seed);
                let stat = backing_stat(prepared(), &disk, path);
                let found = (stat.mode & 0o7777, stat.uid, stat.gid, stat.atime, stat.mtime);
                assert_eq!(found, (0o751, 12, 34, time, time), "{path} after {before:?}, {policy_name}, seed {seed}");
            }
        }
        drop(file);
        drop(directory);
    }
}

/// The same for a mode that is set after each write to a file that stays open.
#[test]
fn a_sync_keeps_the_mode_of_a_file_in_the_journal() {
    mode_in_the_journal().unwrap_or_else(|violation| panic!("{violation}"));
}

/// What the mutation check needs of this.
pub fn mode_in_the_journal() -> Result<(), Violation> {
    let mut world = prepared().world();
    for round in 0..4 {
        apply(&mut world, &[Op::Write { path: PAGED, at: 5000 * round, len: 10 }, Op::Fsync(PAGED)]);
        let mode = 0o600 + round as u32;
        let root = world.vault().root();
        world.vault().set_mode(NodeRef::Entry(&root, PAGED.as_bytes()), mode).expect("set_mode");
        apply(&mut world, &[Op::Fsync(PAGED)]);
        for (name, policy) in POLICIES {
            let found = backing_stat(prepared(), &world.disk.crash(&policy, round), PAGED).mode & 0o777;
            if found != mode {
                return Err(format!("mode {found:o} instead of {mode:o}, {name}, round {round}"));
            }
        }
    }
    Ok(())
}

/// A small write into a hole is journaled; the space that the checkpoint needs in the home is taken when it is written.
#[test]
fn a_hole_is_written_on_a_full_disk() {
    let refused = |outcome: Result<(), Stop>| match outcome {
        Ok(()) => false,
        Err(Stop::Error(VaultError::Io { source, .. })) if source.raw_os_error() == Some(libc::ENOSPC) => true,
        Err(other) => panic!("not a full disk's error: {other:?}"),
    };
    let mut seen = 0;
    for spare in 0..12 {
        let mut world = prepared().world();
        apply(&mut world, &[Op::Truncate { path: PAGED, size: 40_000 }, Op::Truncate { path: PAGED, size: 3_000_000 }]);
        apply(&mut world, &[Op::Sync, Op::Checkpoint, Op::Checkpoint]);
        world.disk.set_capacity(Some(world.disk.used_bytes() + spare * 4096));
        for number in 0..6 {
            let write = Op::Write { path: PAGED, at: 1_000_000 + number * 200_000, len: 5000 };
            if refused(world.apply(&write)) {
                seen += 1;
                world.adopt_live().expect("it reads as before");
            }
        }
        apply(&mut world, &[Op::Fsync(PAGED), Op::Checkpoint]);
        let disk = world.disk.crash(&POLICIES[0].1, spare);
        disk.set_capacity(None);
        survives(prepared(), &disk, &world.model, End::PowerCut).unwrap_or_else(|violation| panic!("{violation}"));
    }
    assert!(seen > 0, "no disk was too full");
}

/// Closing a new and empty file says that there is no room for it.
#[test]
fn an_empty_file_on_a_full_disk() {
    let mut world = prepared().world();
    world.apply(&Op::Create("new")).expect("it is made");
    world.disk.set_capacity(Some(world.disk.used_bytes()));
    match world.apply(&Op::Close("new")) {
        Err(Stop::Error(VaultError::Io { source, .. })) if source.raw_os_error() == Some(libc::ENOSPC) => {}
        other => panic!("closed on a full disk: {other:?}"),
    }
    // Without a name, it needs no room any more.
    world.apply(&Op::Unlink("new")).expect("it is unlinked");
    world.seal().expect("nothing is in the way of sealing");
}

/// Nothing that was synced is missing where nothing is written, and nothing is written.
#[test]
fn a_read_only_mount_of_a_crashed_vault_shows_the_newest_state() {
    let cases: [&[Op]; 4] = [
        &[Op::Write { path: PAGED, at: 4000, len: 30_000 }, Op::Append { path: BLOB, len: 30_000 }, Op::Sync],
        &[Op::Truncate { path: PAGED, size: 0 }, Op::Append { path: PAGED, len: 100_000 }, Op::Fsync(PAGED)],
        &[
            Op::Write { path: INNER, at: 0, len: 9000 },
            Op::Checkpoint,
            Op::Rename(INNER, "out"),
            Op::Write { path: "out", at: 100, len: 50_000 },
            Op::Fsync("out"),
        ],
        &[
            Op::Create("new"),
            Op::Append { path: "new", len: 90_000 },
            Op::Write { path: PAGED, at: 0, len: 100 },
            Op::Fsync(PAGED),
        ],
    ];
    for ops in cases {
        let mut world = prepared().world();
        apply(&mut world, ops);
        for (name, policy) in POLICIES {
            for seed in 0..4 {
                let disk = world.disk.crash(&policy, seed);
                let all = |disk: &SimDisk| -> Vec<_> {
                    let read = |path: &Path| disk.raw_read(path).unwrap_or_default();
                    disk.raw_list().iter().map(|entry| (entry.path.clone(), read(&entry.path))).collect()
                };
                let before = all(&disk);
                let vault = prepared().open_as(&disk, Mode::ReadOnly).unwrap_or_else(|error| panic!("{error}"));
                let found = look(&vault).unwrap_or_else(|reason| panic!("{name}, seed {seed}: {reason}"));
                explain(&world.model, &found, End::PowerCut)
                    .unwrap_or_else(|reason| panic!("{ops:?}, {name}, seed {seed}: {reason}"));
                let root = vault.root();
                assert!(matches!(
                    root.open_file(PAGED.as_bytes()).map(|file| file.write(0, b"x")),
                    Ok(Err(_)) | Err(_)
                ));
                drop((found, root));
                vault.seal().expect("there is nothing to seal");
                drop::<std::sync::Arc<Vault<_>>>(vault);
                assert!(before == all(&disk), "{name}, seed {seed}: a read-only mount changed the backing");
                // And the next mount for writing does what has to be done.
                survives(prepared(), &disk, &world.model, End::PowerCut)
                    .unwrap_or_else(|violation| panic!("{name}, seed {seed}: {violation}"));
            }
        }
    }
}

/// A new file becomes too long for a blob on a disk that is too full for that: what had been accepted is there.
#[test]
fn a_small_file_that_cannot_grow_keeps_its_content() {
    let mut refused = 0;
    for spare in 0..80 {
        for seen_by_fault in [false, true] {
            let world = prepared().world();
            let root = world.vault().root();
            let (_, file) = root.make_file(b"grows", &PLAIN).expect("it is made");
            file.write(0, &[7; 10_000]).expect("it is written");
            let room = spare * 4096;
            if seen_by_fault {
                world.disk.inject(Fault::NoSpace { after_bytes: room });
            } else {
                world.disk.set_capacity(Some(world.disk.used_bytes() + room));
            }
            let grown = file.write(10_000, &[8; 256 << 10]);
            let whole = [[7; 10_000].as_slice(), &[8; 256 << 10]].concat();
            // It is written in steps: of what is refused a part may be there.
            let least = if grown.is_ok() { whole.len() } else { 10_000 };
            let is_right = |found: &[u8]| whole.starts_with(found) && found.len() >= least;
            refused += u32::from(grown.is_err());
            let told = format!("{spare} pages, {grown:?}");
            assert!(is_right(&read_all(&file).expect(&told)), "{told}");
            world.disk.set_capacity(None);
            world.disk.clear_faults();
            file.sync().expect(&told);
            drop((file, root));
            world.vault().seal().expect(&told);
            let vault = prepared().open(&world.disk.kill()).expect(&told);
            let file = vault.root().open_file(b"grows").expect(&told);
            assert!(is_right(&read_all(&file).expect(&told)), "{told}");
        }
    }
    assert!(refused > 0, "no disk was too full");
}

/// What was there before a crash, each file synced by whoever made it, is not taken for half-made after it.
#[test]
fn synced_files_alone_end_an_epoch() {
    let world = prepared().world();
    let root = world.vault().root();
    let (_, file) = root.make_file(b"synced", &PLAIN).expect("it is made");
    file.write(0, &[7; 100_000]).expect("it is written");
    file.sync().expect("it is synced");
    world.disk.advance(Duration::from_secs(60));
    (0..6).for_each(|_| world.vault().tick().expect("a tick"));
    drop((file, root));
    let disk = world.disk.kill();
    // The one that was made last.
    let home = homes(&disk).max_by_key(|home| disk.raw_stat(&home.path).expect("it is there").ino);
    let home = home.expect("there is a home").path;
    let mut bytes = disk.raw_read(&home).expect("it is there");
    bytes[50_000] ^= 1;
    disk.raw_write(&home, &bytes).expect("it is attacked");
    let vault = prepared().open(&disk).expect("it opens");
    vault.settle_leftovers().expect("leftovers are looked for");
    let file = vault.root().open_file(b"synced").expect("it opens");
    assert_eq!(file.len_bytes(), 100_000, "nothing is cut off");
    assert!(matches!(read_all(&file), Err(VaultError::Integrity(_))));
}

/// The files of the tree.
fn homes(disk: &SimDisk) -> impl Iterator<Item = RawEntry> {
    let listed = disk.raw_list().into_iter();
    listed.filter(|entry| entry.kind == FileKind::Regular && entry.path.starts_with("tree"))
}

/// The disk does not read what a crash left: that says nothing of it, and nothing is cut off.
#[test]
fn a_leftover_that_cannot_be_read_now_is_left_as_it_is() {
    let world = prepared().world();
    let root = world.vault().root();
    let (_, file) = root.make_file(b"leftover", &PLAIN).expect("it is made");
    let content = vec![7; 300_000];
    file.write(0, &content).expect("it is written");
    file.sync().expect("it is synced");
    drop((file, root));
    let mut failed = 0;
    for nth in 1..200 {
        let disk = world.disk.kill();
        let vault = prepared().open(&disk).expect("it opens");
        disk.inject(Fault::ReadError { nth });
        let looked = vault.root().open_file(b"leftover").map(drop);
        disk.clear_faults();
        failed += u32::from(looked.is_err());
        let file = vault.root().open_file(b"leftover").expect("it opens");
        assert!(read_all(&file).expect("it is whole") == content, "read {nth}: {looked:?}");
    }
    assert!(failed > 50, "{failed} reads failed");
}

/// Of a file whose header was taken away after the crash, what the journal has is kept.
#[test]
fn the_journal_of_a_file_without_its_header_is_kept() {
    let mut world = prepared().world();
    apply(&mut world, &[Op::Write { path: PAGED, at: 5000, len: 9000 }, Op::Fsync(PAGED)]);
    let disk = world.disk.kill();
    let home = homes(&disk).max_by_key(|home| home.len_bytes).expect("there is a home").path;
    disk.raw_write_at(&home, 0, &[0; 128]).expect("it is attacked");
    let vault = prepared().open(&disk).expect("it opens");
    let recovery = vault.recovery().expect("it is recovered");
    assert!(recovery.copy_kept && recovery.stale == [home.to_str().expect("it is text").to_owned()], "{recovery:?}");
}

/// A disk that is full in the midst of a small file's content: what it has is in memory until there is room, and nobody
/// else waits for it.
#[test]
fn a_small_file_that_was_written_in_part_is_whole_later() {
    for after_bytes in (0..11_000).step_by(700) {
        let world = prepared().world();
        let root = world.vault().root();
        let (_, file) = root.make_file(b"small", &PLAIN).expect("it is made");
        file.write(0, &[7; 10_000]).expect("it is written");
        world.disk.inject(Fault::NoSpace { after_bytes });
        let outcome = file.write(0, &[8; 10_000]);
        world.disk.clear_faults();
        let told = format!("after {after_bytes} bytes: {outcome:?}");
        let content = read_all(&file).expect(&told);
        assert!(content == [7; 10_000] || content == [8; 10_000], "{told}");
        world.vault().sync().expect(&told);
        file.sync().expect(&told);
        drop((file, root));
        world.vault().seal().expect(&told);
        let vault = prepared().open(&world.disk.kill()).expect(&told);
        assert!(read_all(&vault.root().open_file(b"small").expect(&told)).expect(&told) == content, "{told}");
    }
}

/// What a full disk refused of a new file is not in it later.
#[test]
fn what_was_refused_of_an_empty_file_is_not_there() {
    for after_bytes in [0, 100, 5000] {
        let world = prepared().world();
        let (_, file) = world.vault().root().make_file(b"small", &PLAIN).expect("it is made");
        world.disk.inject(Fault::NoSpace { after_bytes });
        file.write(0, &[8; 10_000]).expect_err("there is no room");
        world.disk.clear_faults();
        assert_eq!(file.len_bytes(), 0);
        file.write(0, b"small").expect("there is room");
        file.sync().expect("it is synced");
        drop(file);
        world.vault().seal().expect("it is sealed");
        let vault = prepared().open(&world.disk.kill()).expect("it opens");
        assert_eq!(read_all(&vault.root().open_file(b"small").expect("it is there")).expect("it is whole"), b"small");
    }
}

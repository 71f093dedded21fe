//! What the suite found, each as short as it could be made.

use super::check::Violation;
use super::explore::{Depth, explore};
use super::ops::{BLOB, INNER, LONG, Op, PAGED};
use super::world::prepared;

fn must_survive(ops: &[Op]) {
    let outcome: Result<(), Violation> = explore(prepared(), ops, Depth { states: 8, seed: 1 });
    outcome.unwrap_or_else(|violation| panic!("{violation}"));
}

/// The journal spoke of a file by a name that a crash took back: what had been written and synced was not found.
#[test]
fn a_file_changed_after_a_rename_is_found_by_either_name() {
    must_survive(&[
        Op::Rename(PAGED, "elsewhere"),
        Op::Append { path: "elsewhere", len: 100_000 },
        Op::Fsync("elsewhere"),
    ]);
    must_survive(&[
        Op::Rename("dir", "moved"),
        Op::Append { path: "moved/inner", len: 100_000 },
        Op::Fsync("moved/inner"),
    ]);
}

/// A name that another file took was reported as a file in the wrong state.
#[test]
fn another_file_under_the_name_of_one_that_is_gone_is_not_stale() {
    must_survive(&[
        Op::Write { path: PAGED, at: 0, len: 100 },
        Op::Fsync(PAGED),
        Op::Unlink(PAGED),
        Op::Rename(INNER, PAGED),
        Op::Fsync(PAGED),
        Op::SyncDir(""),
    ]);
    must_survive(&[Op::Write { path: BLOB, at: 0, len: 100 }, Op::Rename(PAGED, BLOB), Op::Fsync(BLOB)]);
}

/// Growing by less than a page left the last page sealed for its old length, or lost the end of a blob.
#[test]
fn growing_within_the_last_page_keeps_it() {
    must_survive(&[Op::Truncate { path: PAGED, size: 130 * 4096 + 200 }]);
    must_survive(&[
        Op::Truncate { path: PAGED, size: 16_256 },
        Op::Truncate { path: PAGED, size: 16_257 },
        Op::Fsync(PAGED),
    ]);
}

/// A cut at the first page of a leaf left the leaf behind, without a place in the home.
#[test]
fn a_cut_at_the_edge_of_a_leaf_leaves_no_node() {
    must_survive(&[Op::Truncate { path: PAGED, size: 119 * 4096 }, Op::Checkpoint]);
    must_survive(&[Op::Truncate { path: PAGED, size: 119 * 4096 }, Op::Seal, Op::Append { path: PAGED, len: 10 }]);
}

/// What had been deleted was replayed into a file that had just taken its name.
#[test]
fn a_new_file_does_not_get_the_content_of_a_deleted_one() {
    must_survive(&[Op::Write { path: BLOB, at: 0, len: 100 }, Op::Fsync(BLOB), Op::Unlink(BLOB), Op::Create(BLOB)]);
    must_survive(&[
        Op::UnlinkOpen(BLOB),
        Op::Create(BLOB),
        Op::WriteOrphan { at: 19_540, len: 103_015 },
        Op::Write { path: BLOB, at: 8192, len: 117_813 },
        Op::Checkpoint,
    ]);
}

/// A file that had been synced was taken for a new one after a kill, and written in place.
#[test]
fn a_synced_file_is_durable_after_a_kill() {
    must_survive(&[
        Op::Create("dir/new"),
        Op::Write { path: "dir/new", at: 3124, len: 84_902 },
        Op::Fsync("dir/new"),
        Op::Kill,
        Op::Write { path: "dir/new", at: 491_468, len: 2033 },
    ]);
}

/// A nameless file in a directory that is gone takes changes, too.
#[test]
fn a_nameless_file_outlives_its_directory() {
    must_survive(&[
        Op::Mkdir("made"),
        Op::Create("dir/new"),
        Op::Sync,
        Op::Rename("dir/new", "made/file"),
        Op::UnlinkOpen("made/file"),
        Op::Rmdir("made"),
        Op::WriteOrphan { at: 18_381, len: 1743 },
    ]);
}

/// Replaced by a file that a checkpoint was writing when the power went.
#[test]
fn a_file_replaced_by_one_that_is_being_brought_home() {
    must_survive(&[
        Op::Create("new"),
        Op::Fsync("new"),
        Op::Write { path: "new", at: 4096, len: 78_487 },
        Op::Write { path: BLOB, at: 75_658, len: 8271 },
        Op::Rename("new", BLOB),
        Op::Checkpoint,
    ]);
}

/// A retired segment, half written over, made recovery leave out the one after it.
#[test]
fn a_segment_in_use_again_does_not_hide_the_next() {
    let more = |at| Op::Write { path: PAGED, at, len: 30_000 };
    must_survive(&[
        more(0),
        Op::Checkpoint,
        more(50_000),
        Op::Fsync(PAGED),
        Op::Checkpoint,
        more(100_000),
        Op::Fsync(PAGED),
    ]);
}

/// After a kill, what the kernel alone had was taken for durable: names, and what they depend on.
#[test]
fn what_a_kill_left_is_durable_before_anything_relies_on_it() {
    must_survive(&[Op::Create(LONG), Op::Kill, Op::Fsync(LONG)]);
    must_survive(&[Op::Rename(INNER, "other"), Op::Kill, Op::Append { path: "other", len: 69_632 }]);
}

/// Of the windows of two crashes in quick succession, only the first was looked at.
#[test]
fn windows_of_crashes_in_quick_succession() {
    must_survive(&[Op::Kill, Op::Create("dir/new"), Op::Write { path: "dir/new", at: 2684, len: 5 }]);
    must_survive(&[Op::Create("dir/new"), Op::Kill, Op::Write { path: "dir/new", at: 0, len: 14_765 }]);
}

/// A file whose known name went was named in the journal by that name all the same.
#[test]
fn a_file_known_by_a_name_that_went_is_found_by_another() {
    must_survive(&[
        Op::Link(INNER, "new"),
        Op::UnlinkOpen(INNER),
        Op::Write { path: "new", at: 1998, len: 154 },
        Op::Sync,
    ]);
    must_survive(&[
        Op::Write { path: INNER, at: 0, len: 9000 },
        Op::Link(INNER, "new"),
        Op::UnlinkOpen(INNER),
        Op::Write { path: "new", at: 1998, len: 9000 },
        Op::Checkpoint,
    ]);
}

/// A file got a second name, the directory of the first was synced, and then the journal spoke of it by the second.
#[test]
fn every_name_of_a_file_is_durable_before_the_journal_has_one() {
    must_survive(&[
        Op::Rename(INNER, "dir/new"),
        Op::Create("new"),
        Op::Tick,
        Op::Link("new", INNER),
        Op::Truncate { path: INNER, size: 0 },
        Op::Close(INNER),
        Op::Checkpoint,
        Op::Write { path: INNER, at: 100, len: 20 },
        Op::Tick,
    ]);
}

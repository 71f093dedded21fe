//! How much there is to check: the lengths of the homes, found by a walk that opens nothing.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::Arc;

use super::Shared;
use super::walk::Task;
use crate::format::geometry::plain_len;
use crate::storage::{FileKind, Stat, Storage, Target};
use crate::vault::directory::Directory;

/// Files between two looks at whether to stop.
const BETWEEN_LOOKS: usize = 4096;

/// Where the walk begins.
pub(super) struct Estimate<S: Storage> {
    directories: Vec<Arc<Directory<S>>>,
    /// Of single files.
    bytes: u64,
}

impl<S: Storage> Estimate<S> {
    pub fn of(tasks: &[Task<S>]) -> Self {
        let mut estimate = Self { directories: Vec::new(), bytes: 0 };
        for task in tasks {
            match task {
                Task::Directory { directory, .. } => estimate.directories.push(directory.clone()),
                Task::Entry { stat, .. } => estimate.bytes = estimate.bytes.saturating_add(content_of(stat)),
                Task::Rest(_) | Task::Range { .. } => {}
            }
        }
        estimate
    }

    /// Tells the observer, unless something cannot be read: then the total stays unknown.
    pub fn run(&self, shared: &Shared<'_, S>) {
        let mut walk = Bytes { shared, sum: self.bytes, seen: HashSet::new(), looked: 0 };
        let all = self
            .directories
            .iter()
            .all(|directory| directory.open_to_inspect().is_ok_and(|handle| walk.directory(&handle).is_some()));
        if all {
            shared.observer.total(walk.sum);
        }
    }
}

struct Bytes<'a, S: Storage> {
    shared: &'a Shared<'a, S>,
    sum: u64,
    seen: HashSet<u64>,
    looked: usize,
}

impl<S: Storage> Bytes<'_, S> {
    /// None: it cannot be read, or nobody wants to know any more.
    fn directory(&mut self, top: &S::Dir) -> Option<()> {
        let storage = self.shared.vault.storage();
        let mut below = self.entries(top)?;
        // Paths from `top`, as a directory cannot be held open for each that waits.
        while let Some(path) = below.pop() {
            let mut handle = storage.open_dir(top, path.first()?).ok()?;
            for name in path.get(1..)? {
                handle = storage.open_dir(&handle, name).ok()?;
            }
            for more in self.entries(&handle)? {
                below.push([path.as_slice(), &more].concat());
            }
        }
        Some(())
    }

    /// Adds the files of one directory, returns the directories in it.
    fn entries(&mut self, handle: &S::Dir) -> Option<Vec<Vec<OsString>>> {
        let storage = self.shared.vault.storage();
        let mut names = Vec::new();
        storage
            .read_dir(handle, 0, &mut |entry| {
                names.push((entry.name.to_owned(), entry.kind));
                true
            })
            .ok()?;
        let mut below = Vec::new();
        for (name, kind) in names {
            self.looked = self.looked.wrapping_add(1);
            if self.looked.is_multiple_of(BETWEEN_LOOKS) && self.shared.observer.is_cancelled() {
                return None;
            }
            match kind {
                FileKind::Directory => below.push(vec![name]),
                FileKind::Regular | FileKind::Unknown => {
                    let Ok(stat) = storage.stat(Target::Entry(handle, &name)) else { continue };
                    if stat.kind() == FileKind::Directory {
                        below.push(vec![name]);
                    } else if stat.kind() == FileKind::Regular && (stat.nlink < 2 || self.seen.insert(stat.ino)) {
                        self.sum = self.sum.saturating_add(content_of(&stat));
                    }
                }
                _ => {}
            }
        }
        Some(below)
    }
}

fn content_of(stat: &Stat) -> u64 {
    plain_len(stat.size_bytes).unwrap_or(stat.size_bytes)
}

//! A disk in use: numbered steps, the crash that was ordered, faults, open handles and locks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::disk::Disk;
use super::fault::{Faults, SyncVerdict, WriteVerdict};
use super::random::Random;
use super::tree::Id;
use super::{Step, crashed};

/// What a [`SimDisk`](super::SimDisk) and all handles of it share.
pub(super) struct Shared {
    pub(super) live: Mutex<Live>,
    /// What somebody else does beside the next sync of everything.
    pub(super) before_sync_all: Beside,
    /// The same, of one file with its attributes.
    pub(super) before_sync_file: Beside,
}

/// Something that is done once, beside the next call of some kind.
#[derive(Default)]
pub(super) struct Beside(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Beside {
    pub(super) fn set(&self, work: impl FnOnce() + Send + 'static) {
        *self.0.lock() = Some(Box::new(work));
    }

    pub(super) fn run(&self) {
        let work = self.0.lock().take();
        if let Some(work) = work {
            work();
        }
    }
}

pub(super) struct Live {
    pub(super) disk: Disk,
    /// Steps so far; the first is 1.
    pub(super) steps: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) has_crashed: bool,
    pub(super) in_flight: Option<InFlight>,
    pub(super) faults: Faults,
    pub(super) trace: Option<Vec<Step>>,
    random: Random,
    opens: BTreeMap<Id, u64>,
    next_handle: u64,
    locks: BTreeMap<Id, Lock>,
}

/// The write that was under way when the crash came.
pub(super) struct InFlight {
    pub(super) before: Disk,
    pub(super) id: Id,
    pub(super) offset_bytes: u64,
    pub(super) bytes: Vec<u8>,
}

#[derive(Default)]
struct Lock {
    shared: BTreeSet<u64>,
    exclusive: Option<u64>,
}

impl Live {
    pub(super) fn new(disk: Disk, seed: u64) -> Self {
        Self {
            disk,
            steps: 0,
            crash_at: None,
            has_crashed: false,
            in_flight: None,
            faults: Faults::default(),
            trace: None,
            random: Random::new(seed),
            opens: BTreeMap::new(),
            next_handle: 0,
            locks: BTreeMap::new(),
        }
    }

    pub(super) fn check_alive(&self) -> io::Result<()> {
        if self.has_crashed { Err(crashed()) } else { Ok(()) }
    }

    /// Counts a step. True if the power goes off in it.
    fn begin(&mut self, call: &'static str, subject: impl FnOnce(&Disk) -> String) -> io::Result<bool> {
        self.check_alive()?;
        self.steps += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(Step { number: self.steps, call, subject: subject(&self.disk) });
        }
        self.has_crashed = self.crash_at.is_some_and(|step| self.steps >= step);
        Ok(self.has_crashed)
    }

    /// A step that changes names or attributes. In the step of the crash the change is made, so that
    /// crash states with and without it exist, but the caller never learns.
    pub(super) fn change<T>(
        &mut self,
        call: &'static str,
        subject: impl FnOnce(&Disk) -> String,
        change: impl FnOnce(&mut Disk) -> Result<T, Errno>,
    ) -> io::Result<T> {
        let crashes = self.begin(call, subject)?;
        let outcome = change(&mut self.disk);
        if crashes { Err(crashed()) } else { Ok(outcome?) }
    }

    /// As [`Self::change`], for what needs space for a name or an attribute.
    pub(super) fn change_taking_space<T>(
        &mut self,
        call: &'static str,
        subject: impl FnOnce(&Disk) -> String,
        change: impl FnOnce(&mut Disk) -> Result<T, Errno>,
    ) -> io::Result<T> {
        let is_full = self.faults.is_full();
        self.change(call, subject, |disk| if is_full { Err(Errno::NOSPC) } else { change(disk) })
    }

    /// As [`Self::change`], for what may take the last name of an inode.
    pub(super) fn change_dropping(
        &mut self,
        call: &'static str,
        subject: impl FnOnce(&Disk) -> String,
        change: impl FnOnce(&mut Disk) -> Result<Option<Id>, Errno>,
    ) -> io::Result<()> {
        let mut orphan = None;
        let outcome = self.change(call, subject, |disk| {
            orphan = change(disk)?;
            Ok(())
        });
        if let Some(id) = orphan {
            self.reclaim_unless_open(id);
        }
        outcome
    }

    pub(super) fn reclaim_unless_open(&mut self, id: Id) {
        if !self.opens.contains_key(&id) {
            self.disk.reclaim(id);
        }
    }

    /// After the disk was replaced: inodes without names live on only in handles that are open now.
    pub(super) fn reclaim_closed(&mut self) {
        let orphans: Vec<Id> = self.disk.tree.orphans().collect();
        orphans.into_iter().for_each(|id| self.reclaim_unless_open(id));
    }

    pub(super) fn write(&mut self, id: Id, buffers: &[IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        let crashes = self.begin("write_at", |disk| {
            let len: usize = buffers.iter().map(|buffer| buffer.len()).sum();
            format!("{} {offset_bytes}+{len}", disk.tree.path_of(id).display())
        })?;
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if crashes {
            let bytes = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
            self.in_flight = Some(InFlight { before: self.disk.clone(), id, offset_bytes, bytes });
            // Whether there was space for it does not matter any more.
            let _ = self.disk.write(id, buffers, offset_bytes, WriteVerdict::All);
            return Err(crashed());
        }
        let Self { disk, faults, random, .. } = self;
        let verdict = faults.on_write(|| disk.tree.path_of(id), bytes as u64, random);
        Ok(self.disk.write(id, buffers, offset_bytes, verdict)?)
    }

    /// A sync of this inode, or of everything.
    pub(super) fn sync(
        &mut self,
        call: &'static str,
        id: Option<Id>,
        sync: impl FnOnce(&mut Disk) -> Result<(), Errno>,
    ) -> io::Result<()> {
        let subject = |disk: &Disk| id.map(|id| disk.tree.path_of(id).display().to_string()).unwrap_or_default();
        if self.begin(call, subject)? {
            return Err(crashed());
        }
        match self.faults.on_sync() {
            SyncVerdict::Done => Ok(sync(&mut self.disk)?),
            SyncVerdict::Skipped => Ok(()),
            SyncVerdict::Failed => {
                self.disk.lose_unsynced(id);
                Err(Errno::IO.into())
            }
        }
    }

    // --- handles ---

    /// A number for a new handle of the inode, which keeps it alive.
    pub(super) fn open(&mut self, id: Id) -> u64 {
        *self.opens.entry(id).or_default() += 1;
        self.next_handle += 1;
        self.next_handle
    }

    pub(super) fn close(&mut self, id: Id, handle: u64) {
        self.unlock(id, handle);
        if let Some(count) = self.opens.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.opens.remove(&id);
                if self.disk.tree.get(id).is_ok_and(|inode| inode.nlink == 0) {
                    self.disk.reclaim(id);
                }
            }
        }
    }

    pub(super) fn could_lock(&self, id: Id, handle: u64, exclusive: bool) -> bool {
        let Some(lock) = self.locks.get(&id) else { return true };
        let others_exclude = lock.exclusive.is_some_and(|holder| holder != handle);
        let others_share = lock.shared.iter().any(|holder| *holder != handle);
        !(others_exclude || exclusive && others_share)
    }

    /// As fcntl_locking(2): also changes a lock that the handle has already.
    pub(super) fn try_lock(&mut self, id: Id, handle: u64, exclusive: bool) -> bool {
        if !self.could_lock(id, handle, exclusive) {
            return false;
        }
        let lock = self.locks.entry(id).or_default();
        lock.shared.remove(&handle);
        lock.exclusive = exclusive.then_some(handle);
        if !exclusive {
            lock.shared.insert(handle);
        }
        true
    }

    fn unlock(&mut self, id: Id, handle: u64) {
        if let Some(lock) = self.locks.get_mut(&id) {
            lock.shared.remove(&handle);
            lock.exclusive = lock.exclusive.filter(|holder| *holder != handle);
            if lock.shared.is_empty() && lock.exclusive.is_none() {
                self.locks.remove(&id);
            }
        }
    }
}

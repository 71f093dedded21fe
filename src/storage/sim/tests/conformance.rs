//! The simulated disk against a real one: the same calls, the same results.

use super::super::random::Random;
use super::*;
use crate::storage::{PosixStorage, Stat};

/// How many actions there are; the last are syncs.
const WITHOUT_SYNCS: u64 = 26;
pub(super) const WITH_SYNCS: u64 = 30;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A backing in use, and what one step of the comparison did on it.
pub(super) struct Side<S: Storage> {
    storage: S,
    pub(super) dirs: Vec<S::Dir>,
    files: Vec<S::File>,
    pins: Vec<S::Pin>,
}

/// All the decisions of one step, made once for both sides.
pub(super) struct Plan {
    action: u64,
    dir: usize,
    other_dir: usize,
    file: usize,
    name: &'static OsStr,
    other_name: &'static OsStr,
    offset_bytes: u64,
    len_bytes: u64,
    fill: u8,
    mode: u32,
    times: [SetTime; 2],
}

impl Plan {
    pub(super) fn draw(random: &mut Random, actions: u64) -> Self {
        let time = |random: &mut Random| match random.below(2) {
            0 => SetTime::Keep,
            _ => SetTime::To(Timestamp {
                seconds: random.below(1 << 31) as i64 - (1 << 30),
                nanoseconds: random.below(1_000_000_000) as u32,
            }),
        };
        Self {
            action: random.below(actions),
            dir: random.next() as usize,
            other_dir: random.next() as usize,
            file: random.next() as usize,
            name: OsStr::new(NAMES[random.below(NAMES.len() as u64) as usize]),
            other_name: OsStr::new(NAMES[random.below(NAMES.len() as u64) as usize]),
            offset_bytes: random.below(20_000),
            len_bytes: random.below(10_000),
            fill: random.below(255) as u8 + 1,
            mode: random.below(0o10000) as u32,
            times: [time(random), time(random)],
        }
    }
}

impl<S: Storage> Side<S> {
    pub(super) fn new(storage: S) -> Self {
        let root = storage.open_root().unwrap();
        Self { storage, dirs: vec![root], files: Vec::new(), pins: Vec::new() }
    }

    /// Does one step; what it gave, as text.
    pub(super) fn step(&mut self, plan: &Plan) -> String {
        shown(self.try_step(plan))
    }

    fn try_step(&mut self, plan: &Plan) -> io::Result<String> {
        let storage = &self.storage;
        let at = &self.dirs[plan.dir % self.dirs.len()];
        let to = &self.dirs[plan.other_dir % self.dirs.len()];
        let entry = Target::Entry(at, plan.name);
        let file = self.files.get(plan.file % self.files.len().max(1));
        let done = String::new();
        match plan.action {
            1 if plan.fill < 96 => self.files.push(storage.create_unnamed(at, plan.mode)?),
            0 | 1 => self.files.push(storage.create_file(at, plan.name, plan.mode)?),
            2 | 3 => storage.make_dir(at, plan.name, plan.mode & 0o777)?,
            4 => storage.make_symlink(at, plan.name, &vec![plan.fill; plan.len_bytes as usize % 300])?,
            5 => storage.make_node(at, plan.name, libc::S_IFIFO | plan.mode & 0o777, 0)?,
            6 => return Ok(format!("{:?}", storage.read_symlink(at, plan.name)?)),
            7 => match (self.pins.get(plan.file % self.pins.len().max(1)), file) {
                (Some(pin), _) if plan.fill < 64 => storage.link(Target::Pin(pin), to, plan.other_name)?,
                (_, Some(file)) if plan.fill < 160 => storage.link(Target::File(file), to, plan.other_name)?,
                (_, _) => storage.link(entry, to, plan.other_name)?,
            },
            8 => storage.rename(at, plan.name, to, plan.other_name, RenameMode::Replace)?,
            9 => storage.rename(at, plan.name, to, plan.other_name, RenameMode::NoReplace)?,
            10 => storage.rename(at, plan.name, to, plan.other_name, RenameMode::Exchange)?,
            11 => storage.unlink(at, plan.name)?,
            12 => storage.remove_dir(at, plan.name)?,
            13 | 14 => self.dirs.push(storage.open_dir(at, plan.name)?),
            15 => self.files.push(storage.open_file(at, plan.name, Access::ReadWrite)?),
            16 => self.pins.push(storage.pin(at, plan.name)?),
            17 => match self.pins.get(plan.file % self.pins.len().max(1)) {
                Some(pin) => {
                    self.files.push(storage.open_pinned(pin, Access::ReadWrite)?);
                    return Ok(describe(&storage.stat(Target::Pin(pin))?));
                }
                None => return Ok(done),
            },
            18 => storage.set_mode(entry, plan.mode)?,
            19 => storage.set_times(entry, plan.times[0], plan.times[1])?,
            20 => storage.set_xattr(entry, OsStr::new("user.a"), &[plan.fill], XattrMode::Create)?,
            21 => storage.remove_xattr(entry, OsStr::new("user.a"))?,
            22 => return Ok(format!("{:?}", storage.xattr(entry, OsStr::new("user.a"))?)),
            26 => storage.sync_dir(at)?,
            27 if plan.fill < 32 => storage.sync_all()?,
            _ => {
                let Some(file) = file else { return Ok(done) };
                match plan.action {
                    27 | 28 => storage.sync_file(file)?,
                    29 => storage.sync_data(file)?,
                    23 => write_from(storage, file, &vec![plan.fill; plan.len_bytes as usize], plan.offset_bytes)?,
                    24 => storage.set_len(file, plan.offset_bytes)?,
                    _ => storage.punch_hole(file, plan.offset_bytes, plan.len_bytes)?,
                }
                let mut bytes = vec![0; 32_000];
                let count = read_into(storage, file, &mut bytes, plan.len_bytes)?;
                let hash = bytes[..count].iter().fold(0_u64, |hash, byte| hash.wrapping_mul(257) + u64::from(*byte));
                return Ok(format!("{count} {hash} {}", describe(&storage.stat(Target::File(file))?)));
            }
        }
        Ok(done)
    }

    /// Everything below a directory.
    pub(super) fn dump(&self, dir: &S::Dir) -> Vec<String> {
        let mut names = Vec::new();
        let sink = &mut |entry: crate::storage::DirEntry<'_>| {
            names.push((entry.name.to_owned(), entry.kind));
            true
        };
        self.storage.read_dir(dir, 0, sink).unwrap();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let mut lines = vec![describe(&self.storage.stat(Target::Dir(dir)).unwrap())];
        for (entry, kind) in names {
            let target = Target::Entry(dir, &entry);
            let stat = self.storage.stat(target).unwrap();
            assert_eq!(stat.kind(), kind);
            let xattr = shown(self.storage.xattr(target, OsStr::new("user.a")).map(|value| format!("{value:?}")));
            lines.push(format!("{entry:?} {} {xattr}", describe(&stat)));
            if let Ok(below) = self.storage.open_dir(dir, &entry) {
                lines.extend(self.dump(&below).into_iter().map(|line| format!("{entry:?}/{line}")));
            }
        }
        lines
    }
}

fn shown(outcome: io::Result<String>) -> String {
    match outcome {
        Ok(text) => text,
        Err(error) => error.to_string(),
    }
}

/// What both sides must agree on.
fn describe(stat: &Stat) -> String {
    let is_dir = stat.kind() == crate::storage::FileKind::Directory;
    let size_bytes = if is_dir { 0 } else { stat.size_bytes };
    // Times that were set, not those of the clock. (The simulated disk is mounted noatime.)
    let mtime = if stat.mtime.seconds < 1 << 30 { format!("{:?}", stat.mtime) } else { String::new() };
    format!("{:o} {} {size_bytes} {mtime}", stat.mode, stat.nlink)
}

#[test]
fn the_simulated_disk_behaves_as_a_real_one() {
    rustix::process::umask(rustix::fs::Mode::empty());
    for seed in 0..25 {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random::new(seed);
        let mut real = Side::new(PosixStorage::open(folder.path()).unwrap());
        let mut simulated = Side::new(SimDisk::new(seed).storage());
        // A temporary directory is made for its owner only.
        let root = real.storage.open_root().unwrap();
        real.storage.set_mode(Target::Dir(&root), 0o755).unwrap();
        for step in 0..300 {
            let mut plan = Plan::draw(&mut random, WITHOUT_SYNCS);
            if !rustix::process::geteuid().is_root() {
                // Permissions and what clears set-id bits are not the simulated disk's matter.
                plan.mode = plan.mode & 0o777 | 0o700;
            }
            let (expected, found) = (real.step(&plan), simulated.step(&plan));
            assert_eq!(found, expected, "seed {seed}, step {step}, action {}", plan.action);
        }
        assert_eq!(simulated.dump(&simulated.dirs[0]), real.dump(&real.dirs[0]), "seed {seed}");
    }
}

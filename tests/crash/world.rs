//! A vault on a simulated disk, and the model beside it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sero::crypto::{KdfParams, Passphrase};
use sero::storage::sim::{Fault, Snapshot, is_crash};
use sero::storage::{RenameMode, SetTime, SimDisk, SimStorage, Timestamp};
use sero::vault::create::{CreateOptions, create_on};
use sero::vault::rotate::{RotationControl, RotationEnd, configuration};
use sero::vault::unlock::{UnlockedKeys, unlock};
use sero::vault::{ConfigurationPlace, Secrets, unlock_root};
use sero::vault::{Directory, Mode, NewInode, NodeRef, Vault, VaultError, VaultFile};

use super::check::{End, explain, look};
use super::explore::POLICIES;
use super::model::{FileNo, Model};
use super::ops::{BLOB, BLOB_LEN, DIR, INNER, INNER_LEN, Op, PAGED, PAGED_LEN};

pub type File = Arc<VaultFile<SimStorage>>;

/// Why an operation did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// The power went.
    Crash,
    /// The vault said so.
    Error(VaultError),
}

impl From<VaultError> for Stop {
    fn from(error: VaultError) -> Self {
        match &error {
            VaultError::Io { source, .. } if is_crash(source) => Self::Crash,
            _ => Self::Error(error),
        }
    }
}

/// A vault at rest with what its model says in it, all durable.
pub struct Prepared {
    pub disk: Snapshot,
    pub model: Model,
    secret: Vec<u8>,
}

/// The vault that all sequences begin with.
pub fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| prepare(&[]))
}

/// A vault of its own, prepared in the same way, and by these operations.
pub fn prepare(more: &[Op]) -> Prepared {
    let disk = SimDisk::new(7);
    let options =
        CreateOptions { kdf: KdfParams { memory_kib: 8, passes: 1, lanes: 1 }, label: "test".into(), hint: None };
    let passphrase = Passphrase::new(b"correct horse".to_vec());
    create_on(&disk.storage(), &options, &passphrase).expect("a vault is made");
    let secret = unlock(&disk.storage(), &passphrase).expect("it is unlocked").expose().to_vec();
    let mut world = World::on(disk, Model::new(), &secret).expect("it opens");
    let ops = [
        Op::Create(BLOB),
        Op::Append { path: BLOB, len: BLOB_LEN },
        Op::Create(PAGED),
        Op::Append { path: PAGED, len: PAGED_LEN },
        Op::Mkdir(DIR),
        Op::Create(INNER),
        Op::Append { path: INNER, len: INNER_LEN },
    ];
    for op in ops.iter().chain(more) {
        world.apply(op).unwrap_or_else(|stop| panic!("{op:?}: {stop:?}"));
    }
    world.seal().unwrap_or_else(|stop| panic!("seal: {stop:?}"));
    let World { disk, model, handles, orphan, unnamed, .. } = world;
    drop((handles, orphan, unnamed));
    // The prepared files are older than any crash.
    disk.advance(Duration::from_secs(1000));
    disk.settle();
    Prepared { disk: disk.snapshot(), model, secret }
}

impl Prepared {
    /// Opens a copy of it.
    pub fn world(&self) -> World {
        World::on(self.disk.to_disk(), self.model.clone(), &self.secret).expect("it opens")
    }

    /// Opens a disk of it that was through something.
    pub fn open(&self, disk: &SimDisk) -> Result<Arc<Vault<SimStorage>>, VaultError> {
        open(disk, &self.secret)
    }

    /// As [`Self::open`], perhaps without changing anything.
    pub fn open_as(&self, disk: &SimDisk, mode: Mode) -> Result<Arc<Vault<SimStorage>>, VaultError> {
        Vault::open(disk.storage(), UnlockedKeys::from_exposed(&disk.storage(), &self.secret)?, mode)
    }
}

fn open(disk: &SimDisk, secret: &[u8]) -> Result<Arc<Vault<SimStorage>>, VaultError> {
    let keys = match UnlockedKeys::from_exposed(&disk.storage(), secret) {
        // The keys that were exposed are older than a rotation.
        Err(VaultError::ConfigurationBusy) => unlock(&disk.storage(), &passphrase())?,
        keys => keys?,
    };
    // A rotation that a crash cut needs both versions.
    let keys = if keys.configuration().rotation.is_some() { unlock(&disk.storage(), &passphrase())? } else { keys };
    Vault::open(disk.storage(), keys, Mode::ReadWrite)
}

fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

/// Rotates the project key as the command does, or goes on where a crash cut that.
pub fn rotate(disk: &SimDisk, vault: &Arc<Vault<SimStorage>>) -> Result<(), VaultError> {
    let storage = disk.storage();
    let place = ConfigurationPlace::inside(&storage);
    if !vault.is_rotating() {
        let passphrase = passphrase();
        let secrets = Secrets { passphrase: Some(&passphrase), ..Secrets::default() };
        let keys = configuration::start(&place, &unlock_root(&place, &secrets)?, false)?;
        vault.begin_rotation(keys.into())?;
    }
    match vault.rotate(&RotationControl::new(), |active| configuration::finish(&place, active))? {
        RotationEnd::Done => Ok(()),
        end => Err(VaultError::Io { context: "rotate to the end", source: io::Error::other(format!("{end:?}")) }),
    }
}

/// An open vault and what is known of it.
pub struct World {
    pub disk: SimDisk,
    pub model: Model,
    secret: Vec<u8>,
    vault: Option<Arc<Vault<SimStorage>>>,
    handles: HashMap<FileNo, File>,
    orphan: Option<(FileNo, File)>,
    unnamed: Option<Unnamed>,
    /// What a crash that was ordered by [`Op::CutSoon`] leaves: policy and seed.
    pub cut: Option<(usize, u64)>,
}

/// What was made without a name last, and may have got some since.
struct Unnamed {
    number: FileNo,
    file: File,
    was_linked: bool,
}

pub const PLAIN: NewInode = NewInode { mode: 0o644, uid: None, gid: None };
pub const PLAIN_DIR: NewInode = NewInode { mode: 0o755, uid: None, gid: None };

impl World {
    fn on(disk: SimDisk, model: Model, secret: &[u8]) -> Result<Self, Stop> {
        let vault = open(&disk, secret)?;
        Ok(Self {
            disk,
            model,
            secret: secret.to_vec(),
            vault: Some(vault),
            handles: HashMap::new(),
            orphan: None,
            unnamed: None,
            cut: None,
        })
    }

    pub fn vault(&self) -> &Arc<Vault<SimStorage>> {
        self.vault.as_ref().expect("the vault is open")
    }

    /// Whether an operation makes sense now.
    pub fn can(&self, op: &Op) -> bool {
        let model = &self.model;
        let has_parent = |path: &str| model.split(path).is_some();
        let is_free = |path: &str| has_parent(path) && model.find(path).is_none();
        match op {
            Op::Create(path) | Op::Mkdir(path) => is_free(path),
            Op::Write { path, .. }
            | Op::Append { path, .. }
            | Op::Truncate { path, .. }
            | Op::Punch { path, .. }
            | Op::SetTimes(path)
            | Op::Fsync(path)
            | Op::Close(path)
            | Op::Unlink(path)
            | Op::UnlinkOpen(path) => model.file(path).is_some(),
            Op::Rename(from, to) => {
                let (Some(source), true) = (model.find(from), has_parent(to)) else { return false };
                if to.starts_with(from) {
                    return false;
                }
                let is_file = matches!(source, super::model::Node::File(_));
                match model.find(to) {
                    Some(super::model::Node::File(_)) => is_file && Some(source) != model.find(to),
                    Some(super::model::Node::Dir(dir)) => !is_file && self.is_empty(dir),
                    None => true,
                }
            }
            Op::Exchange(a, b) => {
                model.find(a).is_some()
                    && model.find(b).is_some()
                    && model.find(a) != model.find(b)
                    && !a.starts_with(b)
                    && !b.starts_with(a)
            }
            Op::Link(from, to) => model.file(from).is_some() && is_free(to),
            Op::Rmdir(path) => model.dir(path).is_some_and(|dir| self.is_empty(dir)),
            Op::SyncDir(path) => model.dir(path).is_some(),
            Op::WriteOrphan { .. } | Op::CloseOrphan => self.orphan.is_some(),
            Op::WriteUnnamed { .. } | Op::FsyncUnnamed | Op::CloseUnnamed => self.unnamed.is_some(),
            Op::LinkUnnamed(path) => {
                // What had a name and lost it gets none.
                let linkable = |known: &Unnamed| !known.was_linked || model.files[known.number].names > 0;
                self.unnamed.as_ref().is_some_and(linkable) && is_free(path)
            }
            Op::LinkUnnamedRefused(path) => self.unnamed.is_some() && model.find(path).is_some(),
            Op::CreateUnnamed
            | Op::Checkpoint
            | Op::HeldCheckpoint
            | Op::Sync
            | Op::Tick
            | Op::Seal
            | Op::Kill
            | Op::ShortSession
            | Op::Rotate
            | Op::CutSoon { .. } => true,
        }
    }

    fn is_empty(&self, dir: usize) -> bool {
        self.model.dirs[dir].slots.values().all(|slot| slot.now.is_none())
    }

    fn unnamed(&self) -> (FileNo, File) {
        self.unnamed.as_ref().map(|known| (known.number, known.file.clone())).expect("the operation was possible")
    }

    fn directory<'a>(&self, path: &'a str) -> Result<(Arc<Directory<SimStorage>>, &'a [u8]), VaultError> {
        let mut directory = self.vault().root();
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return Ok((directory, name.as_bytes()));
            }
            directory = directory.open_child(name.as_bytes())?;
        }
        Ok((directory, &[]))
    }

    fn handle(&mut self, path: &str) -> Result<(FileNo, File), VaultError> {
        let number = self.model.file(path).expect("the operation was possible");
        if let Some(file) = self.handles.get(&number) {
            return Ok((number, file.clone()));
        }
        let (directory, name) = self.directory(path)?;
        let file = directory.open_file(name)?;
        self.handles.insert(number, file.clone());
        Ok((number, file))
    }

    /// Does it, to the vault and to the model.
    pub fn apply(&mut self, op: &Op) -> Result<(), Stop> {
        match self.apply_once(op) {
            // Where the power went while something was dropped, the next call has another error.
            Err(_) if self.disk.has_crashed() && self.cut.is_some() => self.go_on(),
            Err(_) if self.disk.has_crashed() => Err(Stop::Crash),
            other => other,
        }
    }

    /// After a crash that was ordered: goes on with what is left, and a model of exactly that.
    fn go_on(&mut self) -> Result<(), Stop> {
        let Some((policy, seed)) = self.cut.take() else { return Ok(()) };
        let (disk, end) = match POLICIES.get(policy) {
            Some((_, policy)) => (self.disk.crash(policy, seed), End::PowerCut),
            None => (self.disk.kill_inside(seed), End::Kill),
        };
        self.handles.clear();
        self.orphan = None;
        self.unnamed = None;
        self.vault = None;
        self.disk = disk;
        self.vault = Some(open(&self.disk, &self.secret)?);
        let wrong = |reason: String| {
            Stop::Error(VaultError::Io { context: "go on after a crash", source: io::Error::other(reason) })
        };
        let found = look(self.vault()).map_err(wrong)?;
        explain(&self.model, &found, end).map_err(wrong)?;
        drop(found);
        if self.vault().has_leftovers_to_settle() {
            self.vault().settle_leftovers()?;
        }
        self.vault().sync()?;
        self.model = Model::found(&look(self.vault()).map_err(wrong)?);
        // The files of the next life are older than its crash.
        self.disk.advance(Duration::from_secs(60));
        Ok(())
    }

    fn apply_once(&mut self, op: &Op) -> Result<(), Stop> {
        self.model.begin();
        match op {
            Op::Create(path) => {
                let number = self.model.create(path);
                let (directory, name) = self.directory(path)?;
                let (_, file) = directory.make_file(name, &PLAIN)?;
                self.handles.insert(number, file);
            }
            Op::Write { path, at, len } => {
                let (number, file) = self.handle(path)?;
                self.write(number, &file, *at, *len)?;
            }
            Op::Append { path, len } => {
                let (number, file) = self.handle(path)?;
                let at = self.model.files[number].now().len() as u64;
                self.write(number, &file, at, *len)?;
            }
            Op::Truncate { path, size } => {
                let (number, file) = self.handle(path)?;
                let mut bytes = self.model.files[number].now().to_vec();
                bytes.resize(*size as usize, 0);
                self.model.files[number].push(bytes);
                file.truncate(*size)?;
            }
            Op::Punch { path, at, len } => {
                let (number, file) = self.handle(path)?;
                let mut bytes = self.model.files[number].now().to_vec();
                let size = bytes.len() as u64;
                let end = (at + len).min(size);
                if *at < end {
                    bytes[*at as usize..end as usize].fill(0);
                    self.model.files[number].push(bytes);
                    file.punch_hole(*at, end - at)?;
                }
            }
            Op::SetTimes(path) => {
                let (_, file) = self.handle(path)?;
                file.set_times(SetTime::Keep, SetTime::To(Timestamp { seconds: 1_000_000_000, nanoseconds: 7 }))?;
            }
            Op::Fsync(path) => {
                let (_, file) = self.handle(path)?;
                file.sync()?;
                self.model.fsynced(path);
            }
            Op::Close(path) => {
                let (number, file) = self.handle(path)?;
                self.handles.remove(&number);
                file.commit()?;
                self.model.files[number].committed = true;
            }
            Op::Rename(from, to) => {
                let replaces = self.model.find(to).is_some();
                let ((from_dir, from_name), (to_dir, to_name)) = (self.directory(from)?, self.directory(to)?);
                self.model.rename(from, to);
                from_dir.rename(from_name, &to_dir, to_name, RenameMode::Replace)?;
                if replaces {
                    self.model.replaced_by(to);
                }
            }
            Op::Exchange(a, b) => {
                let ((a_dir, a_name), (b_dir, b_name)) = (self.directory(a)?, self.directory(b)?);
                self.model.exchange(a, b);
                a_dir.rename(a_name, &b_dir, b_name, RenameMode::Exchange)?;
            }
            Op::Link(from, to) => {
                let ((from_dir, from_name), (to_dir, to_name)) = (self.directory(from)?, self.directory(to)?);
                self.model.link(from, to);
                from_dir.link(from_name, &to_dir, to_name)?;
            }
            Op::Unlink(path) => {
                let number = self.model.file(path).expect("the operation was possible");
                let (directory, name) = self.directory(path)?;
                self.model.remove(path);
                if self.model.files[number].names == 0 {
                    self.handles.remove(&number);
                }
                directory.unlink(name)?;
            }
            Op::UnlinkOpen(path) => {
                let (number, file) = self.handle(path)?;
                let (directory, name) = self.directory(path)?;
                self.model.remove(path);
                directory.unlink(name)?;
                if self.model.files[number].names == 0 {
                    self.handles.remove(&number);
                    self.orphan = Some((number, file));
                }
            }
            Op::WriteOrphan { at, len } => {
                let (number, file) =
                    self.orphan.as_ref().map(|(number, file)| (*number, file.clone())).expect("possible");
                self.write(number, &file, *at, *len)?;
                file.sync()?;
                self.check_file(number, &file)?;
            }
            Op::CloseOrphan => {
                if let Some((_, file)) = self.orphan.take() {
                    file.commit()?;
                }
            }
            Op::CreateUnnamed => {
                let number = self.model.create_unnamed();
                let (_, file) = self.vault().root().make_unnamed(&PLAIN)?;
                self.unnamed = Some(Unnamed { number, file, was_linked: false });
            }
            Op::WriteUnnamed { at, len } => {
                let (number, file) = self.unnamed();
                self.write(number, &file, *at, *len)?;
                self.check_file(number, &file)?;
            }
            Op::FsyncUnnamed => {
                let (number, file) = self.unnamed();
                file.sync()?;
                // Without a name, that is to be seen only when it gets one.
                self.model.files[number].settle();
            }
            Op::LinkUnnamed(path) => {
                let (number, file) = self.unnamed();
                let (directory, name) = self.directory(path)?;
                self.model.link_unnamed(number, path);
                if let Some(known) = &mut self.unnamed {
                    known.was_linked = true;
                }
                self.vault().link(NodeRef::File(&file), &directory, name)?;
                self.handles.insert(number, file);
            }
            Op::LinkUnnamedRefused(path) => {
                let (_, file) = self.unnamed();
                let (directory, name) = self.directory(path)?;
                match self.vault().link(NodeRef::File(&file), &directory, name) {
                    Err(VaultError::Io { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                    Ok(_) => panic!("{path} was replaced by a link"),
                }
            }
            Op::CloseUnnamed => {
                if let Some(known) = self.unnamed.take() {
                    known.file.commit()?;
                }
            }
            Op::Mkdir(path) => {
                let (directory, name) = self.directory(path)?;
                self.model.make_dir(path);
                directory.make_dir(name, &PLAIN_DIR)?;
            }
            Op::Rmdir(path) => {
                let (directory, name) = self.directory(path)?;
                self.model.remove(path);
                directory.remove_dir(name)?;
            }
            Op::SyncDir(path) => {
                let number = self.model.dir(path).expect("the operation was possible");
                let directory = match *path {
                    "" => self.vault().root(),
                    _ => {
                        let (above, name) = self.directory(path)?;
                        above.open_child(name)?
                    }
                };
                directory.sync()?;
                self.model.dir_synced(number);
            }
            Op::Checkpoint => self.vault().checkpoint()?,
            Op::HeldCheckpoint => {
                self.disk.inject(Fault::NoSpaceBelow { folder: "tree" });
                let outcome = self.vault().checkpoint();
                self.disk.clear_faults();
                // What needs nothing written home is done all the same.
                if self.disk.has_crashed() || self.vault().is_read_only() {
                    outcome?;
                }
            }
            Op::Sync => {
                self.vault().sync()?;
                self.model.all_synced();
            }
            Op::Tick => {
                self.disk.advance(Duration::from_secs(3));
                for _ in 0..3 {
                    self.vault().tick()?;
                }
                // What is closed or open is durable now; names are on most filesystems, too, but nobody asked.
                for file in &mut self.model.files {
                    if file.names > 0 {
                        file.settle();
                        file.committed = true;
                    }
                }
            }
            Op::Seal => {
                self.seal()?;
                self.handles.clear();
                self.orphan = None;
                self.unnamed = None;
                self.vault = None;
                self.vault = Some(open(&self.disk, &self.secret)?);
            }
            Op::Kill => {
                // A step ordered for the crash belongs to the disk that is left.
                let disk = self.disk.kill();
                self.handles.clear();
                self.orphan = None;
                self.unnamed = None;
                self.vault = None;
                self.disk = disk;
                self.cut = None;
                self.disk.record_steps();
                self.vault = Some(open(&self.disk, &self.secret)?);
                self.adopt_names()?;
            }
            Op::CutSoon { steps, policy, seed } => {
                self.disk.set_crash_at(self.disk.steps() + steps);
                self.cut = Some((*policy, *seed));
            }
            Op::ShortSession => self.vault().set_seal_limit(3),
            Op::Rotate => {
                rotate(&self.disk, self.vault())?;
                self.model.all_synced();
            }
        }
        Ok(())
    }

    fn write(&mut self, number: FileNo, file: &File, at: u64, len: u64) -> Result<(), Stop> {
        let data = self.model.fresh_bytes(len);
        let mut bytes = self.model.files[number].now().to_vec();
        bytes.resize(bytes.len().max((at + len) as usize), 0);
        bytes[at as usize..(at + len) as usize].copy_from_slice(&data);
        self.model.files[number].push(bytes);
        file.write(at, &data)?;
        Ok(())
    }

    /// A live file reads as the model says.
    pub fn check_file(&self, number: FileNo, file: &File) -> Result<(), Stop> {
        let expected = self.model.files[number].now();
        let found = read_all(file)?;
        if found != **expected {
            let at = found.iter().zip(expected.iter()).position(|(a, b)| a != b);
            let reason = format!(
                "file {number} reads wrong while open: {} of {} bytes, first difference {at:?}",
                found.len(),
                expected.len()
            );
            return Err(Stop::Error(VaultError::Io {
                context: "trust what is read",
                source: io::Error::other(reason),
            }));
        }
        Ok(())
    }

    /// Every open file reads as the model says.
    pub fn check_live(&self) -> Result<(), Stop> {
        self.handles.iter().try_for_each(|(number, file)| self.check_file(*number, file))
    }

    /// Closes everything and seals. The vault stays, and takes no more changes.
    pub fn seal(&mut self) -> Result<(), Stop> {
        let open: Vec<_> = self.handles.drain().collect();
        for (number, file) in open {
            file.commit()?;
            self.model.files[number].committed = true;
        }
        self.orphan = None;
        self.unnamed = None;
        self.vault().seal()?;
        self.model.all_synced();
        Ok(())
    }

    /// After a kill: what the files read now is what they are.
    fn adopt_names(&mut self) -> Result<(), Stop> {
        for (path, node) in self.model.paths() {
            let super::model::Node::File(number) = node else { continue };
            let (directory, name) = self.directory(&path)?;
            let found = read_all(&*directory.open_file(name)?)?;
            let model = &mut self.model.files[number];
            if let Err(reason) = model.explains(&found, None) {
                let error = io::Error::other(format!("{path} after a kill: {reason}"));
                return Err(Stop::Error(VaultError::Io { context: "trust what is read", source: error }));
            }
            if **model.now() != found {
                model.push(found);
            }
            model.committed = true;
        }
        Ok(())
    }

    /// After an operation was refused: takes what a file reads now for what it is, if that can be.
    pub fn adopt_live(&mut self) -> Result<(), String> {
        self.model.undo_names();
        for (number, file) in &self.handles {
            let found =
                read_all(file).map_err(|error| format!("file {number} cannot be read after an error: {error}"))?;
            let model = &mut self.model.files[*number];
            model.explains(&found, None).map_err(|reason| format!("file {number} after an error: {reason}"))?;
            if **model.now() != found {
                model.push(found);
            }
        }
        Ok(())
    }
}

/// The whole content.
pub fn read_all(file: &VaultFile<SimStorage>) -> Result<Vec<u8>, VaultError> {
    let mut bytes = vec![0; file.len_bytes() as usize];
    // In odd pieces, so that runs begin and end inside pages.
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + 100_003).min(bytes.len());
        let read = file.read(at as u64, &mut bytes[at..end])?;
        if read != end - at {
            return Err(VaultError::Io { context: "read a whole file", source: io::Error::other("a short read") });
        }
        at = end;
    }
    Ok(bytes)
}

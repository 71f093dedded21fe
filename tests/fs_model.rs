//! Random operations against a reference model: whatever is done through [`Fs`] on a real directory, the
//! result, the tree and the content are those of the simplest filesystem one can write down.
//!
//! The test plays the kernel: it looks names up, counts references and forgets them, keeps files open that have no
//! name any more, and calls what the kernel would have refused before.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use sero::fs::{Attr, Caller, FileHandle, FileKind, Fs, FsError, FsOptions, InodeNo, Ownership, SetAttr, Usage};
use sero::vault::PosixStorage;

#[path = "fs_model/operations.rs"]
mod operations;
#[path = "fs_model/reference.rs"]
mod reference;
#[path = "fs_model/support.rs"]
mod support;

use operations::{Op, operations};
use reference::{Content, Inode, Model, Outcome};

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };

/// The kernel's part, and the model beside the filesystem.
struct Kernel {
    fs: Fs<PosixStorage>,
    model: Model,
    references: HashMap<InodeNo, u64>,
    open: Vec<(FileHandle, InodeNo, usize)>,
}

fn errno<T>(outcome: Result<T, FsError>) -> Outcome<T> {
    outcome.map_err(|error| error.errno())
}

fn done<T>(outcome: &Outcome<T>) -> Outcome {
    outcome.as_ref().map(drop).map_err(|errno| *errno)
}

impl Kernel {
    fn new(backing: &Path) -> Self {
        Self { fs: filesystem(backing), model: Model::new(), references: HashMap::new(), open: Vec::new() }
    }

    fn refer(&mut self, ino: InodeNo) -> InodeNo {
        *self.references.entry(ino).or_default() += 1;
        ino
    }

    fn lookup(&mut self, parent: InodeNo, name: &[u8]) -> Outcome<Attr> {
        let entry = errno(self.fs.lookup(parent, name))?;
        self.refer(entry.attr.ino);
        Ok(entry.attr)
    }

    /// The directory of a place, in the model and in the filesystem.
    fn directory(&mut self, at: u8) -> (usize, InodeNo) {
        let directories = self.model.directories();
        let (id, path) = &directories[usize::from(at) % directories.len()];
        let mut ino = InodeNo::ROOT;
        for name in path {
            ino = self.lookup(ino, name).expect("a directory of the model is there").ino;
        }
        (*id, ino)
    }

    fn opened(&self, at: u8) -> Option<(FileHandle, InodeNo, usize)> {
        self.open.get(usize::from(at).checked_rem(self.open.len())?).copied()
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Create((at, name), perm) => {
                let (id, ino) = self.directory(at);
                let expected = self.model.add(id, &name, Content::File(vec![]), perm & !0o022);
                let made =
                    errno(self.fs.create(&CALLER, ino, &name, u32::from(perm), 0o022, libc::O_EXCL | libc::O_RDWR));
                prop_assert_eq!(done(&made), done(&expected));
                if let (Ok((entry, handle)), Ok(id)) = (made, expected) {
                    prop_assert_eq!(entry.attr.perm, perm & !0o022);
                    self.refer(entry.attr.ino);
                    self.open.push((handle, entry.attr.ino, id));
                }
            }
            Op::MakeDir((at, name), perm) => {
                let (id, ino) = self.directory(at);
                let expected = self.model.add(id, &name, Content::Directory(BTreeMap::new()), perm & !0o022);
                let made = errno(self.fs.mkdir(&CALLER, ino, &name, u32::from(perm), 0o022));
                prop_assert_eq!(done(&made), done(&expected));
                made.map(|entry| self.refer(entry.attr.ino)).ok();
            }
            Op::Symlink((at, name), target) => {
                let (id, ino) = self.directory(at);
                let expected = self.model.add(id, &name, Content::Symlink(target.clone()), 0o777);
                let made = errno(self.fs.symlink(&CALLER, ino, &name, &target));
                prop_assert_eq!(done(&made), done(&expected));
                made.map(|entry| self.refer(entry.attr.ino)).ok();
            }
            Op::Fifo((at, name)) => {
                let (id, ino) = self.directory(at);
                let expected = self.model.add(id, &name, Content::Fifo, 0o644);
                let made = errno(self.fs.mknod(&CALLER, ino, &name, libc::S_IFIFO | 0o666, 0o022, 0));
                prop_assert_eq!(done(&made), done(&expected));
                made.map(|entry| self.refer(entry.attr.ino)).ok();
            }
            Op::Link((from_at, from_name), (to_at, to_name)) => {
                let (from, from_ino) = self.directory(from_at);
                let (to, to_ino) = self.directory(to_at);
                let Ok(id) = self.model.get(from, &from_name) else { return Ok(()) };
                let attr = self.lookup(from_ino, &from_name).expect("an entry of the model is there");
                let expected = self.model.link(id, to, &to_name);
                let made = errno(self.fs.link(attr.ino, to_ino, &to_name));
                prop_assert_eq!(done(&made), done(&expected));
                if let Ok(entry) = made {
                    prop_assert_eq!(entry.attr.ino, attr.ino);
                    prop_assert_eq!(entry.attr.nlink as usize, self.model.inodes[id].names);
                    self.refer(attr.ino);
                }
            }
            Op::Unlink((at, name)) => {
                let (id, ino) = self.directory(at);
                self.lookup(ino, &name).ok();
                prop_assert_eq!(errno(self.fs.unlink(ino, &name)), self.model.remove(id, &name, false));
            }
            Op::RemoveDir((at, name)) => {
                let (id, ino) = self.directory(at);
                prop_assert_eq!(errno(self.fs.rmdir(ino, &name)), self.model.remove(id, &name, true));
            }
            Op::Rename((from_at, from_name), (to_at, to_name), flags) => {
                let (from, from_ino) = self.directory(from_at);
                let (to, to_ino) = self.directory(to_at);
                let expected = self.model.rename((from, &from_name), (to, &to_name), flags);
                let renamed = errno(self.fs.rename(from_ino, &from_name, to_ino, &to_name, flags));
                // Where several errors apply, the kernel decides which; it asks before the filesystem does.
                prop_assert_eq!(renamed.is_ok(), expected.is_ok(), "{:?} instead of {:?}", renamed, expected);
            }
            Op::Open((at, name), truncate) => {
                let (id, ino) = self.directory(at);
                let Ok(id) = self.model.get(id, &name) else { return Ok(()) };
                let attr = self.lookup(ino, &name).expect("an entry of the model is there");
                let flags = if truncate { libc::O_RDWR | libc::O_TRUNC } else { libc::O_RDWR };
                let opened = errno(self.fs.open(&CALLER, attr.ino, flags));
                let file = self.model.file(id);
                prop_assert_eq!(opened.is_ok(), file.is_some());
                if let (Ok(handle), Some(file)) = (opened, file) {
                    if truncate {
                        file.clear();
                    }
                    self.open.push((handle, attr.ino, id));
                }
            }
            Op::Close(at) => {
                if let Some(index) = usize::from(at).checked_rem(self.open.len()) {
                    let (handle, _, _) = self.open.remove(index);
                    prop_assert_eq!(errno(self.fs.release(handle)), Ok(()));
                    prop_assert_eq!(errno(self.fs.fsync(handle, false)), Err(libc::EBADF));
                }
            }
            Op::Write(at, offset, byte, len) => {
                let Some((handle, ino, id)) = self.opened(at) else { return Ok(()) };
                let data: Vec<u8> = (0..len).map(|index| byte.wrapping_add((index / 7) as u8)).collect();
                prop_assert_eq!(errno(self.fs.write(&CALLER, handle, offset, &data, false)), Ok(len));
                let file = self.model.file(id).expect("only files are open");
                let end = offset as usize + len;
                file.resize(file.len().max(end), 0);
                file[offset as usize..end].copy_from_slice(&data);
                prop_assert_eq!(errno(self.fs.getattr(ino, None)).map(|attr| attr.size_bytes), Ok(file.len() as u64));
            }
            Op::Read(at, offset, len) => {
                let Some((handle, _, id)) = self.opened(at) else { return Ok(()) };
                let mut read = vec![b'-'; len];
                let read_bytes = errno(self.fs.read(handle, offset, &mut read));
                let file = self.model.file(id).expect("only files are open");
                let start = file.len().min(offset as usize);
                let end = file.len().min(offset as usize + len);
                prop_assert_eq!(read_bytes, Ok(end - start));
                prop_assert!(read[..end - start] == file[start..end], "read differs at {offset}");
            }
            Op::Truncate((at, name), len) => {
                let (id, ino) = self.directory(at);
                let Ok(id) = self.model.get(id, &name) else { return Ok(()) };
                let attr = self.lookup(ino, &name).expect("an entry of the model is there");
                let change = SetAttr { size: Some(len), ..SetAttr::default() };
                let changed = errno(self.fs.setattr(&CALLER, attr.ino, None, change));
                let file = self.model.file(id);
                prop_assert_eq!(changed.as_ref().ok().map(|attr| attr.size_bytes), file.as_ref().map(|_| len));
                if let Some(file) = file {
                    file.resize(len as usize, 0);
                }
            }
            Op::TruncateOpen(at, len) => {
                let Some((handle, ino, id)) = self.opened(at) else { return Ok(()) };
                let change = SetAttr { size: Some(len), ..SetAttr::default() };
                let changed = errno(self.fs.setattr(&CALLER, ino, Some(handle), change));
                prop_assert_eq!(changed.map(|attr| attr.size_bytes), Ok(len));
                self.model.file(id).expect("only files are open").resize(len as usize, 0);
            }
            Op::Allocate(at, offset, len, mode) => {
                let Some((handle, ino, id)) = self.opened(at) else { return Ok(()) };
                let done = errno(self.fs.fallocate(handle, offset, len, mode));
                if len == 0 {
                    prop_assert_eq!(done, Err(libc::EINVAL));
                    return Ok(());
                }
                if done == Err(libc::EOPNOTSUPP) {
                    return Ok(());
                }
                prop_assert_eq!(done, Ok(()));
                let file = self.model.file(id).expect("only files are open");
                let (start, end) = (offset as usize, (offset + len) as usize);
                if mode & 0x12 != 0 {
                    let (from, to) = (start.min(file.len()), end.min(file.len()));
                    file[from..to].fill(0);
                }
                if mode & 1 == 0 {
                    file.resize(file.len().max(end), 0);
                }
                prop_assert_eq!(errno(self.fs.getattr(ino, None)).map(|attr| attr.size_bytes), Ok(file.len() as u64));
            }
            Op::Chmod((at, name), perm) => {
                let (id, ino) = self.directory(at);
                let Ok(id) = self.model.get(id, &name) else { return Ok(()) };
                if matches!(self.model.inodes[id].content, Content::Symlink(_)) {
                    return Ok(());
                }
                let attr = self.lookup(ino, &name).expect("an entry of the model is there");
                self.chmod(attr.ino, id, perm)?;
            }
            Op::ChmodOpen(at, perm) => {
                let Some((_, ino, id)) = self.opened(at) else { return Ok(()) };
                self.chmod(ino, id, perm)?;
            }
            Op::SetXattr((at, name), key, len, flags) => {
                let (id, ino) = self.directory(at);
                let Ok(id) = self.model.get(id, &name) else { return Ok(()) };
                let attr = self.lookup(ino, &name).expect("an entry of the model is there");
                let (key, value) = (xattr_name(key), vec![b'v'; len]);
                let inode = &mut self.model.inodes[id];
                let exists = inode.xattrs.contains_key(&key);
                let expected = match (&inode.content, flags) {
                    (Content::Symlink(_) | Content::Fifo, _) => Err(libc::EPERM),
                    (_, libc::XATTR_CREATE) if exists => Err(libc::EEXIST),
                    (_, libc::XATTR_REPLACE) if !exists => Err(libc::ENODATA),
                    _ => Ok(()),
                };
                if expected.is_ok() {
                    inode.xattrs.insert(key.clone(), value.clone());
                }
                prop_assert_eq!(errno(self.fs.setxattr(&CALLER, attr.ino, &key, &value, flags)), expected);
            }
            Op::RemoveXattr((at, name), key) => {
                let (id, ino) = self.directory(at);
                let Ok(id) = self.model.get(id, &name) else { return Ok(()) };
                let attr = self.lookup(ino, &name).expect("an entry of the model is there");
                let inode = &mut self.model.inodes[id];
                let expected = match inode.content {
                    Content::Symlink(_) | Content::Fifo => Err(libc::EPERM),
                    _ => inode.xattrs.remove(&xattr_name(key)).map(|_| ()).ok_or(libc::ENODATA),
                };
                prop_assert_eq!(errno(self.fs.removexattr(attr.ino, &xattr_name(key))), expected);
            }
            Op::Sync(at) => {
                let Some((handle, _, _)) = self.opened(at) else { return Ok(()) };
                prop_assert_eq!(errno(self.fs.fsync(handle, false)), Ok(()));
            }
            Op::ForgetAll => self.forget_all(),
            Op::Compare => self.compare()?,
            Op::Tick => prop_assert!(self.fs.vault().tick().is_ok()),
        }
        Ok(())
    }

    fn chmod(&mut self, ino: InodeNo, id: usize, perm: u16) -> Result<(), TestCaseError> {
        let perm = if self.model.is_directory(id) { perm | 0o700 } else { perm };
        let change = SetAttr { mode: Some(u32::from(perm)), ..SetAttr::default() };
        prop_assert_eq!(errno(self.fs.setattr(&CALLER, ino, None, change)).map(|attr| attr.perm), Ok(perm));
        self.model.inodes[id].perm = perm;
        Ok(())
    }

    /// Everything that is not open goes from the kernel's caches.
    fn forget_all(&mut self) {
        let open: Vec<_> = self.open.iter().map(|(_, ino, _)| *ino).collect();
        self.references.retain(|ino, count| {
            let keep = open.contains(ino);
            if !keep {
                self.fs.forget(*ino, *count);
            }
            keep
        });
    }

    /// The tree and the open files are those of the model.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        self.compare_directory(0, InodeNo::ROOT)?;
        for (handle, ino, id) in self.open.clone() {
            let attr = errno(self.fs.getattr(ino, Some(handle)));
            let expected = self.model.inodes[id].names;
            prop_assert_eq!(attr.map(|attr| attr.nlink as usize), Ok(expected));
            self.compare_content(handle, id)?;
        }
        Ok(())
    }

    fn compare_directory(&mut self, id: usize, ino: InodeNo) -> Result<(), TestCaseError> {
        let entries = self.model.entries(id).clone();
        prop_assert_eq!(self.list(ino), entries.keys().cloned().collect::<Vec<_>>());
        for (name, child) in entries {
            let attr = self.lookup(ino, &name).expect("a listed entry is there");
            let Inode { content, perm, names, xattrs } = self.model.inodes[child].clone();
            prop_assert_eq!(attr.perm, perm);
            let found = errno(self.fs.listxattr(&CALLER, attr.ino)).expect("attributes can be listed");
            let found: Vec<_> = found.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
            prop_assert_eq!(found, xattrs.keys().collect::<Vec<_>>());
            for (name, value) in &xattrs {
                prop_assert_eq!(errno(self.fs.getxattr(attr.ino, name)), Ok(value.clone()));
            }
            match content {
                Content::Directory(_) => {
                    prop_assert_eq!(attr.kind, FileKind::Directory);
                    self.compare_directory(child, attr.ino)?;
                }
                Content::File(data) => {
                    prop_assert_eq!(attr.kind, FileKind::Regular);
                    prop_assert_eq!((attr.size_bytes, attr.nlink as usize), (data.len() as u64, names));
                    let handle = errno(self.fs.open(&CALLER, attr.ino, libc::O_RDONLY)).expect("a file can be opened");
                    self.compare_content(handle, child)?;
                    prop_assert_eq!(errno(self.fs.release(handle)), Ok(()));
                }
                Content::Symlink(target) => {
                    prop_assert_eq!(attr.kind, FileKind::Symlink);
                    prop_assert_eq!(attr.size_bytes, target.len() as u64);
                    prop_assert_eq!(errno(self.fs.readlink(attr.ino)), Ok(target));
                }
                Content::Fifo => prop_assert_eq!(attr.kind, FileKind::Fifo),
            }
        }
        Ok(())
    }

    fn compare_content(&mut self, handle: FileHandle, id: usize) -> Result<(), TestCaseError> {
        let expected = self.model.file(id).expect("only files are open").clone();
        let mut read = vec![0; expected.len() + 1];
        let read_bytes = errno(self.fs.read(handle, 0, &mut read));
        prop_assert_eq!(&read_bytes, &Ok(expected.len()), "content of inode {} of the model", id);
        read.truncate(expected.len());
        let differs = read.iter().zip(&expected).position(|(found, wanted)| found != wanted);
        prop_assert_eq!(differs, None, "content of inode {} of the model", id);
        Ok(())
    }

    /// The names in a directory, sorted; read in small portions, with attributes for every other one.
    fn list(&mut self, ino: InodeNo) -> Vec<Vec<u8>> {
        let handle = errno(self.fs.opendir(ino)).expect("a directory can be opened");
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let mut got = Vec::new();
            let with_attributes = names.len() % 2 == 0;
            if with_attributes {
                let mut references = Vec::new();
                let listed = self.fs.readdirplus(handle, offset, &mut |item| {
                    if got.len() == 3 {
                        return false;
                    }
                    if !matches!(item.name, b"." | b"..") {
                        references.push(item.entry.attr.ino);
                    }
                    got.push((item.name.to_vec(), item.next_cookie));
                    true
                });
                errno(listed).expect("a directory can be listed with attributes");
                references.into_iter().for_each(|ino| {
                    self.refer(ino);
                });
            } else {
                let listed = self.fs.readdir(handle, offset, &mut |item| {
                    got.push((item.name.to_vec(), item.next_cookie));
                    got.len() < 4
                });
                errno(listed).expect("a directory can be listed");
                got.truncate(3);
            }
            let Some((_, next)) = got.last() else { break };
            offset = *next;
            names.extend(got.into_iter().map(|(name, _)| name));
        }
        errno(self.fs.releasedir(handle)).expect("a directory can be closed");
        names.retain(|name| !matches!(name.as_slice(), b"." | b".."));
        names.sort();
        names
    }
}

fn xattr_name(key: u8) -> Vec<u8> {
    format!("user.{key}").into_bytes()
}

fn filesystem(backing: &Path) -> Fs<PosixStorage> {
    let options = FsOptions { ownership: Ownership::Daemon, ..FsOptions::for_this_process() };
    Fs::new(support::open_vault(backing), options).expect("a vault has a root")
}

fn check(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let backing = tempfile::tempdir()?;
    support::create_vault(backing.path());
    let mut kernel = Kernel::new(backing.path());
    for op in ops {
        kernel.apply(op)?;
    }
    kernel.compare()?;
    // Nothing is left in memory once the kernel let go of everything.
    for (handle, _, _) in std::mem::take(&mut kernel.open) {
        prop_assert_eq!(errno(kernel.fs.release(handle)), Ok(()));
    }
    kernel.forget_all();
    prop_assert_eq!(kernel.fs.usage(), Usage { nodes: 1, files: 0, directories: 0 });
    // Everything is there after the next mount.
    prop_assert_eq!(errno(kernel.fs.shutdown()), Ok(()));
    let Kernel { fs, model, .. } = kernel;
    drop(fs);
    let mut kernel = Kernel { model, ..Kernel::new(backing.path()) };
    kernel.compare()
}

/// Enough to find most mistakes within a minute; set `PROPTEST_CASES` for thousands.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fs_behaves_like_the_model(ops in prop::collection::vec(operations(), 1..60)) {
        check(ops)?;
    }
}

/// Requests of several threads on few names: no deadlock, no leak, and every answer one that can be.
#[test]
fn concurrent_requests_neither_deadlock_nor_leak() {
    let backing = tempfile::tempdir().expect("a directory for the test");
    support::create_vault(backing.path());
    let fs = Arc::new(filesystem(backing.path()));
    let references = parking_lot::Mutex::new(HashMap::<InodeNo, u64>::new());
    let directories: Vec<InodeNo> = (0..3)
        .map(|index: u8| fs.mkdir(&CALLER, InodeNo::ROOT, &[b'A' + index], 0o755, 0).expect("a new directory").attr.ino)
        .collect();
    std::thread::scope(|scope| {
        for seed in 1..=4u64 {
            let (fs, references, directories) = (&fs, &references, &directories);
            scope.spawn(move || {
                let mut random = seed;
                let mut next = |below: u64| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random % below
                };
                for _ in 0..4000 {
                    let (from, to) = (directories[next(3) as usize], directories[next(3) as usize]);
                    let (name, other) = ([b'a' + next(4) as u8], [b'a' + next(4) as u8]);
                    let count = |ino: InodeNo| *references.lock().entry(ino).or_default() += 1;
                    let outcome = match next(12) {
                        0 | 1 => fs.create(&CALLER, from, &name, 0o644, 0, libc::O_RDWR).and_then(|(entry, handle)| {
                            count(entry.attr.ino);
                            fs.write(&CALLER, handle, next(9000), b"some bytes", false)?;
                            fs.release(handle)
                        }),
                        2 => fs.mkdir(&CALLER, from, &name, 0o755, 0).map(|entry| count(entry.attr.ino)),
                        3 => fs.unlink(from, &name),
                        4 => fs.rmdir(from, &name),
                        5..=7 => fs.rename(from, &name, to, &other, next(3) as u32),
                        8 => fs.lookup(from, &name).and_then(|entry| {
                            count(entry.attr.ino);
                            fs.link(entry.attr.ino, to, &other).map(|entry| count(entry.attr.ino))
                        }),
                        9 => fs.lookup(from, &name).and_then(|entry| {
                            count(entry.attr.ino);
                            let mode = Some(0o700 | next(0o100) as u32);
                            fs.setattr(&CALLER, entry.attr.ino, None, SetAttr { mode, ..SetAttr::default() }).map(drop)
                        }),
                        10 => fs.opendir(from).and_then(|handle| {
                            let mut listed = Vec::new();
                            fs.readdirplus(handle, 0, &mut |item| {
                                if !matches!(item.name, b"." | b"..") {
                                    listed.push(item.entry.attr.ino);
                                }
                                true
                            })?;
                            listed.into_iter().for_each(count);
                            fs.releasedir(handle)
                        }),
                        _ => {
                            let gone = references.lock().drain().collect::<Vec<_>>();
                            gone.into_iter().for_each(|(ino, count)| fs.forget(ino, count));
                            Ok(())
                        }
                    };
                    let expected = [
                        libc::ENOENT,
                        libc::EEXIST,
                        libc::EISDIR,
                        libc::ENOTDIR,
                        libc::ENOTEMPTY,
                        libc::EPERM,
                        libc::ESTALE,
                        libc::EINVAL,
                    ];
                    if let Err(error) = outcome {
                        assert!(expected.contains(&error.errno()), "{error}");
                    }
                }
            });
        }
    });
    references.into_inner().into_iter().for_each(|(ino, count)| fs.forget(ino, count));
    directories.into_iter().for_each(|ino| fs.forget(ino, 1));
    assert_eq!(fs.usage(), Usage { nodes: 1, files: 0, directories: 0 });
}

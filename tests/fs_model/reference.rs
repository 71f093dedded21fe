//! The simplest filesystem that one can write down.

use std::collections::BTreeMap;

const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;

#[derive(Clone, Debug)]
pub enum Content {
    Directory(BTreeMap<Vec<u8>, usize>),
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
}

#[derive(Clone, Debug)]
pub struct Inode {
    pub content: Content,
    pub perm: u16,
    pub names: usize,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug)]
pub struct Model {
    pub inodes: Vec<Inode>,
}

pub type Outcome<T = ()> = Result<T, i32>;

impl Model {
    pub fn new() -> Self {
        Self {
            inodes: vec![Inode {
                content: Content::Directory(BTreeMap::new()),
                perm: 0o755,
                names: 1,
                xattrs: BTreeMap::new(),
            }],
        }
    }

    /// The directories that can be reached, with their paths, in a fixed order.
    pub fn directories(&self) -> Vec<(usize, Vec<Vec<u8>>)> {
        let mut found = vec![(0, vec![])];
        let mut at = 0;
        while let Some((id, path)) = found.get(at).cloned() {
            for (name, child) in self.entries(id) {
                if matches!(self.inodes[*child].content, Content::Directory(_)) {
                    found.push((*child, [path.clone(), vec![name.clone()]].concat()));
                }
            }
            at += 1;
        }
        found
    }

    pub fn entries(&self, directory: usize) -> &BTreeMap<Vec<u8>, usize> {
        match &self.inodes[directory].content {
            Content::Directory(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    pub fn entries_mut(&mut self, directory: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.inodes[directory].content {
            Content::Directory(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    pub fn get(&self, directory: usize, name: &[u8]) -> Outcome<usize> {
        self.entries(directory).get(name).copied().ok_or(libc::ENOENT)
    }

    pub fn is_directory(&self, id: usize) -> bool {
        matches!(self.inodes[id].content, Content::Directory(_))
    }

    pub fn add(&mut self, directory: usize, name: &[u8], content: Content, perm: u16) -> Outcome<usize> {
        if self.get(directory, name).is_ok() {
            return Err(libc::EEXIST);
        }
        let id = self.inodes.len();
        self.inodes.push(Inode { content, perm, names: 1, xattrs: BTreeMap::new() });
        self.entries_mut(directory).insert(name.to_vec(), id);
        Ok(id)
    }

    pub fn link(&mut self, id: usize, directory: usize, name: &[u8]) -> Outcome {
        if self.is_directory(id) {
            return Err(libc::EPERM);
        }
        if self.get(directory, name).is_ok() {
            return Err(libc::EEXIST);
        }
        self.entries_mut(directory).insert(name.to_vec(), id);
        self.inodes[id].names += 1;
        Ok(())
    }

    pub fn remove(&mut self, directory: usize, name: &[u8], wants_directory: bool) -> Outcome {
        let id = self.get(directory, name)?;
        match (&self.inodes[id].content, wants_directory) {
            (Content::Directory(_), false) => return Err(libc::EISDIR),
            (Content::Directory(entries), true) if !entries.is_empty() => return Err(libc::ENOTEMPTY),
            (Content::Directory(_), true) => {}
            (_, true) => return Err(libc::ENOTDIR),
            (_, false) => {}
        }
        self.entries_mut(directory).remove(name);
        self.inodes[id].names -= 1;
        Ok(())
    }

    pub fn is_within(&self, directory: usize, ancestor: usize) -> bool {
        directory == ancestor
            || self.is_directory(ancestor)
                && self
                    .entries(ancestor)
                    .values()
                    .any(|child| self.is_directory(*child) && self.is_within(directory, *child))
    }

    pub fn rename(&mut self, from: (usize, &[u8]), to: (usize, &[u8]), flags: u32) -> Outcome {
        let source = self.get(from.0, from.1)?;
        let target = self.get(to.0, to.1).ok();
        match target {
            Some(_) if flags == RENAME_NOREPLACE => return Err(libc::EEXIST),
            None if flags == RENAME_EXCHANGE => return Err(libc::ENOENT),
            _ => {}
        }
        if target == Some(source) {
            return Ok(());
        }
        if self.is_directory(source) && self.is_within(to.0, source) {
            return Err(libc::EINVAL);
        }
        if let Some(target) = target {
            if self.is_directory(target) && self.is_within(from.0, target) {
                return Err(libc::ENOTEMPTY);
            }
            if flags == RENAME_EXCHANGE {
                self.entries_mut(from.0).insert(from.1.to_vec(), target);
                self.entries_mut(to.0).insert(to.1.to_vec(), source);
                return Ok(());
            }
            match (self.is_directory(source), self.is_directory(target)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.entries(target).is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
            self.inodes[target].names -= 1;
        }
        self.entries_mut(from.0).remove(from.1);
        self.entries_mut(to.0).insert(to.1.to_vec(), source);
        Ok(())
    }

    pub fn file(&mut self, id: usize) -> Option<&mut Vec<u8>> {
        match &mut self.inodes[id].content {
            Content::File(data) => Some(data),
            _ => None,
        }
    }
}

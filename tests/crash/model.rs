//! What may be found after a crash: for each name, what it may stand for; for each file, the contents that its
//! pages may come from.

use std::collections::BTreeMap;
use std::sync::Arc;

pub type FileNo = usize;
pub type DirNo = usize;
pub const ROOT: DirNo = 0;
const PAGE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    File(FileNo),
    Dir(DirNo),
}

/// What a name may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: Option<Node>,
    /// A file that came here by replacing another: whole, in this version or a later one.
    pub since: Option<usize>,
}

/// A name in a directory.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    pub now: Option<Node>,
    /// After a power cut: everything since the name was last durable.
    pub allowed: Vec<Candidate>,
    /// After the process alone ended: what it was before and after the last operation.
    pub shown: Vec<Option<Node>>,
}

#[derive(Clone, Debug)]
pub struct Version {
    pub bytes: Arc<Vec<u8>>,
    /// It came about by growth from this length, in steps of whole pages.
    pub grown_from: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct FileModel {
    pub versions: Vec<Version>,
    /// The number of `versions[0]`.
    first: usize,
    /// Everything before this version is overtaken by a sync. None: the file is volatile.
    pub durable: Option<usize>,
    /// Some name of it must be there.
    pub must_exist: bool,
    /// It still has the name under which it was made, and no other.
    pub at_birthplace: bool,
    pub names: usize,
    /// Closed, and not changed since.
    pub committed: bool,
}

#[derive(Clone, Debug, Default)]
pub struct DirModel {
    pub slots: BTreeMap<String, Slot>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub files: Vec<FileModel>,
    pub dirs: Vec<DirModel>,
    writes: u64,
}

impl FileModel {
    pub fn now(&self) -> &Arc<Vec<u8>> {
        &self.versions.last().expect("a file has a version").bytes
    }

    pub fn last_version(&self) -> usize {
        self.first + self.versions.len() - 1
    }

    pub fn push(&mut self, bytes: Vec<u8>) {
        let before = self.now().len() as u64;
        let grown_from = (bytes.len() as u64 > before).then_some(before);
        self.versions.push(Version { bytes: Arc::new(bytes), grown_from });
        self.committed = false;
    }

    /// Everything up to now is durable.
    pub fn settle(&mut self) {
        self.durable = Some(self.last_version());
        self.first = self.last_version();
        self.versions.drain(..self.versions.len() - 1);
        self.versions[0].grown_from = None;
    }

    /// Whether a content may be this file's after a crash; `since`: as if that version had been synced.
    pub fn explains(&self, found: &[u8], since: Option<usize>) -> Result<(), String> {
        let from = self.durable.max(since);
        let skipped = from.map_or(0, |version| version.saturating_sub(self.first)).min(self.versions.len() - 1);
        let versions = &self.versions[skipped..];
        if versions.iter().any(|version| *version.bytes == found) {
            return Ok(());
        }
        let len = found.len() as u64;
        let longest = versions.iter().map(|version| version.bytes.len() as u64).max().unwrap_or(0);
        let whole_pages = len.is_multiple_of(PAGE as u64);
        let fits = versions.iter().enumerate().any(|(at, version)| {
            let grown_from = version.grown_from.filter(|_| at > 0 || from.is_none());
            version.bytes.len() as u64 == len
                || whole_pages && grown_from.is_some_and(|before| before < len && len < version.bytes.len() as u64)
        });
        if !(fits || from.is_none() && whole_pages && len < longest) {
            let known: Vec<_> = versions.iter().map(|version| version.bytes.len()).collect();
            return Err(format!("it has {len} bytes, of {known:?} (volatile: {})", from.is_none()));
        }
        for (page, bytes) in found.chunks(PAGE).enumerate() {
            let explained = versions.iter().any(|version| {
                let start = page * PAGE;
                match version.bytes.get(start..) {
                    None | Some([]) => bytes.iter().all(|byte| *byte == 0),
                    Some(rest) => rest.get(..bytes.len()) == Some(bytes),
                }
            });
            if !explained {
                let zero = bytes.iter().all(|byte| *byte == 0);
                return Err(format!(
                    "page {page} of {} is from none of {} versions (zeros: {zero}, durable: {from:?})",
                    found.len().div_ceil(PAGE),
                    versions.len()
                ));
            }
        }
        Ok(())
    }
}

impl Slot {
    fn allow(&mut self, node: Option<Node>, since: Option<usize>) {
        let candidate = Candidate { node, since };
        if !self.allowed.contains(&candidate) {
            self.allowed.push(candidate);
        }
    }

    fn settle(&mut self) {
        let now = self.now;
        let since = self.allowed.iter().rev().find(|candidate| candidate.node == now).and_then(|found| found.since);
        self.allowed = vec![Candidate { node: now, since }];
    }
}

impl Model {
    /// An empty tree.
    pub fn new() -> Self {
        Self { files: Vec::new(), dirs: vec![DirModel::default()], writes: 0 }
    }

    /// An operation begins: what was before it is what the last one came to.
    pub fn begin(&mut self) {
        for slot in self.dirs.iter_mut().flat_map(|dir| dir.slots.values_mut()) {
            slot.shown = vec![slot.now];
        }
    }

    /// The directory of a path, and the last name.
    pub fn split<'a>(&self, path: &'a str) -> Option<(DirNo, &'a str)> {
        let mut dir = ROOT;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return Some((dir, name));
            }
            match self.dirs[dir].slots.get(name)?.now? {
                Node::Dir(below) => dir = below,
                Node::File(_) => return None,
            }
        }
        None
    }

    pub fn find(&self, path: &str) -> Option<Node> {
        let (dir, name) = self.split(path)?;
        self.dirs[dir].slots.get(name)?.now
    }

    pub fn file(&self, path: &str) -> Option<FileNo> {
        match self.find(path)? {
            Node::File(file) => Some(file),
            Node::Dir(_) => None,
        }
    }

    pub fn dir(&self, path: &str) -> Option<DirNo> {
        match path {
            "" => Some(ROOT),
            _ => match self.find(path)? {
                Node::Dir(dir) => Some(dir),
                Node::File(_) => None,
            },
        }
    }

    fn set(&mut self, path: &str, node: Option<Node>, since: Option<usize>) {
        let Some((dir, name)) = self.split(path) else { return };
        let slot = self.dirs[dir].slots.entry(name.to_owned()).or_default();
        if slot.allowed.is_empty() {
            slot.allow(slot.now, None);
            slot.shown = vec![slot.now];
        }
        slot.now = node;
        slot.allow(node, since);
        slot.shown.push(node);
    }

    pub fn create(&mut self, path: &str) -> FileNo {
        let file = self.create_unnamed();
        self.files[file].at_birthplace = true;
        self.files[file].names = 1;
        self.set(path, Some(Node::File(file)), None);
        file
    }

    /// A file without a name.
    pub fn create_unnamed(&mut self) -> FileNo {
        let file = self.files.len();
        self.files.push(FileModel {
            versions: vec![Version { bytes: Arc::default(), grown_from: None }],
            first: 0,
            durable: None,
            must_exist: false,
            at_birthplace: false,
            names: 0,
            committed: false,
        });
        file
    }

    /// It gets a name. Where that is, there is all of it.
    pub fn link_unnamed(&mut self, file: FileNo, to: &str) {
        if self.files[file].durable.is_none() {
            self.files[file].settle();
        }
        self.files[file].names += 1;
        self.set(to, Some(Node::File(file)), None);
    }

    pub fn make_dir(&mut self, path: &str) {
        let dir = self.dirs.len();
        self.dirs.push(DirModel::default());
        self.set(path, Some(Node::Dir(dir)), None);
    }

    pub fn remove(&mut self, path: &str) {
        if let Some(Node::File(file)) = self.find(path) {
            self.drop_name(file);
        }
        self.set(path, None, None);
    }

    fn drop_name(&mut self, file: FileNo) {
        let file = &mut self.files[file];
        file.names -= 1;
        file.must_exist = false;
        file.at_birthplace = false;
    }

    pub fn link(&mut self, from: &str, to: &str) {
        if let Some(node @ Node::File(file)) = self.find(from) {
            self.files[file].names += 1;
            self.files[file].at_birthplace = false;
            self.set(to, Some(node), None);
        }
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let (Some(moved), replaced) = (self.find(from), self.find(to)) else { return };
        let mut since = None;
        if let Node::File(file) = moved {
            self.files[file].at_birthplace = false;
            if replaced.is_some() && self.files[file].durable.is_none() {
                since = Some(self.files[file].last_version());
            }
        }
        if let Some(Node::File(file)) = replaced {
            self.drop_name(file);
        }
        // The target first: a path through what is moved is not asked for any more then.
        self.set(to, Some(moved), since);
        self.set(from, None, None);
    }

    pub fn exchange(&mut self, a: &str, b: &str) {
        let (Some(at_a), Some(at_b)) = (self.find(a), self.find(b)) else { return };
        for node in [at_a, at_b] {
            if let Node::File(file) = node {
                self.files[file].at_birthplace = false;
            }
        }
        self.set(a, Some(at_b), None);
        self.set(b, Some(at_a), None);
    }

    /// A file was synced. The disk keeps the name under which it was made, if that is still its name.
    pub fn fsynced(&mut self, path: &str) {
        let Some(file) = self.file(path) else { return };
        self.files[file].settle();
        self.files[file].committed = true;
        if self.files[file].at_birthplace {
            self.files[file].must_exist = true;
            if let Some((dir, name)) = self.split(path)
                && let Some(slot) = self.dirs[dir].slots.get_mut(name)
            {
                slot.settle();
            }
        }
    }

    /// The last operation was refused: names are what they were.
    pub fn undo_names(&mut self) {
        for file in &mut self.files {
            file.names = 0;
        }
        for dir in 0..self.dirs.len() {
            for slot in self.dirs[dir].slots.values_mut() {
                slot.now = slot.shown.first().copied().flatten();
                if let Some(Node::File(file)) = slot.now {
                    self.files[file].names += 1;
                }
            }
        }
    }

    /// All names now, with where they are.
    pub fn paths(&self) -> Vec<(String, Node)> {
        let mut paths = Vec::new();
        let mut pending = vec![(String::new(), ROOT)];
        while let Some((above, dir)) = pending.pop() {
            for (name, slot) in &self.dirs[dir].slots {
                let Some(node) = slot.now else { continue };
                let path = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
                if let Node::Dir(below) = node {
                    pending.push((path.clone(), below));
                }
                paths.push((path, node));
            }
        }
        paths
    }

    /// A rename that replaces something made its source durable first.
    pub fn replaced_by(&mut self, path: &str) {
        if let Some(file) = self.file(path) {
            let file = &mut self.files[file];
            if file.durable.is_none() {
                file.settle();
                file.committed = true;
            }
        }
    }

    pub fn dir_synced(&mut self, dir: DirNo) {
        for slot in self.dirs[dir].slots.values_mut() {
            slot.settle();
        }
    }

    /// Everything is durable.
    pub fn all_synced(&mut self) {
        for slot in self.dirs.iter_mut().flat_map(|dir| dir.slots.values_mut()) {
            slot.settle();
        }
        for file in &mut self.files {
            if file.names > 0 {
                file.settle();
                file.must_exist = true;
            }
        }
    }

    /// Bytes that no other write wrote.
    pub fn fresh_bytes(&mut self, len: u64) -> Vec<u8> {
        self.writes += 1;
        let seed = self.writes;
        (0..len)
            .map(|at| {
                let mixed = (seed.wrapping_mul(0x9e37_79b9) ^ (at >> 6)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                ((mixed >> 40) as u8).wrapping_add(at as u8) | 1
            })
            .collect()
    }
}

impl Model {
    /// Exactly what was found, all of it durable.
    pub fn found(found: &super::check::FoundDir) -> Self {
        let mut model = Self::new();
        let mut inodes = BTreeMap::new();
        model.take_in(ROOT, found, &mut inodes);
        model.writes = 1_000_000;
        model
    }

    fn take_in(&mut self, dir: DirNo, found: &super::check::FoundDir, inodes: &mut BTreeMap<u64, FileNo>) {
        for (name, found) in &found.names {
            let node = match found {
                super::check::Found::Dir(below) => {
                    let number = self.dirs.len();
                    self.dirs.push(DirModel::default());
                    self.take_in(number, below, inodes);
                    Node::Dir(number)
                }
                super::check::Found::File { bytes, file } => {
                    let number = *inodes.entry(file.ino()).or_insert_with(|| {
                        self.files.push(FileModel {
                            versions: vec![Version { bytes: Arc::new(bytes.clone()), grown_from: None }],
                            first: 0,
                            durable: Some(0),
                            must_exist: true,
                            at_birthplace: false,
                            names: 0,
                            committed: true,
                        });
                        self.files.len() - 1
                    });
                    self.files[number].names += 1;
                    Node::File(number)
                }
            };
            let candidate = Candidate { node: Some(node), since: None };
            let slot = Slot { now: Some(node), allowed: vec![candidate], shown: vec![Some(node)] };
            self.dirs[dir].slots.insert(name.clone(), slot);
        }
    }
}

//! Whole vaults on a simulated disk: crafted, edited, and worked with.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use sero::crypto::{KdfParams, Passphrase, ProjectKey, VaultKeys};
use sero::format::geometry::{BlockIndex, HEADER_LEN, PAGE_BYTES, PAGE_LEN, ROOT_ENTRIES, home_len, page_count};
use sero::format::header::{Birth, Header, Seal};
use sero::format::seals::Sealed;
use sero::storage::sim::Snapshot;
use sero::storage::{FileKind, SimDisk, SimStorage};
use sero::vault::create::{CreateOptions, create_on};
use sero::vault::unlock::{UnlockedKeys, unlock};
use sero::vault::{Mode, NewInode, Vault, VaultError, VaultFile};

use super::Input;

type Opened = Arc<Vault<SimStorage>>;
type File = Arc<VaultFile<SimStorage>>;

const PLAIN: NewInode = NewInode { mode: 0o644, uid: None, gid: None };
const PAGE: usize = PAGE_LEN;
/// Name, size, and the pages that hold content; the others are holes.
const FILES: [(&str, usize, &[usize]); 3] = [
    ("blob", 1000, &[0]),
    ("pages", 22 * PAGE + 100, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]),
    ("holes", 140 * PAGE, &[0, 5, 118, 119, 139]),
];

/// A vault in three states, with what its files hold in each.
struct Template {
    secret: Vec<u8>,
    homes: [PathBuf; 3],
    /// The homes before the last change.
    old_homes: [Vec<u8>; 3],
    old: [Vec<u8>; 3],
    sealed: Snapshot,
    new: [Vec<u8>; 3],
    crashed: Snapshot,
    /// What each file held when it was synced in the session that crashed.
    synced: [Vec<Vec<u8>>; 3],
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| make_template().expect("the simulated disk does not fail"))
}

fn open(disk: &SimDisk, secret: &[u8], mode: Mode) -> Result<Opened, VaultError> {
    Vault::open(disk.storage(), UnlockedKeys::from_exposed(&disk.storage(), secret)?, mode)
}

fn new_vault() -> Result<(SimDisk, Vec<u8>), VaultError> {
    let disk = SimDisk::new(1);
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let options = CreateOptions { kdf, label: String::new(), hint: None };
    let passphrase = Passphrase::new(b"correct horse".to_vec());
    create_on(&disk.storage(), &options, &passphrase)?;
    let secret = unlock(&disk.storage(), &passphrase)?.expose().to_vec();
    Ok((disk, secret))
}

/// Pages in which every byte tells page and version.
fn write_pages(file: &File, content: &mut [u8], pages: &[usize], version: u8) -> Result<(), VaultError> {
    for page in pages {
        let end = content.len().min((page + 1) * PAGE);
        let part = &mut content[page * PAGE..end];
        part.fill(version.wrapping_mul(64).wrapping_add(*page as u8 % 61 + 1));
        file.write((page * PAGE) as u64, part)?;
    }
    Ok(())
}

fn make_template() -> Result<Template, VaultError> {
    let (disk, secret) = new_vault()?;
    let vault = open(&disk, &secret, Mode::ReadWrite)?;
    let mut old: [Vec<u8>; 3] = Default::default();
    for ((name, size, pages), content) in FILES.iter().zip(&mut old) {
        let (_, file) = vault.root().make_file(name.as_bytes(), &PLAIN)?;
        content.resize(*size, 0);
        write_pages(&file, content, pages, 0)?;
        file.truncate(*size as u64)?;
        file.sync()?;
    }
    vault.seal()?;
    drop(vault);
    let homes = FILES.map(|(_, size, _)| {
        let wanted = home_len(size as u64);
        let found = disk.raw_list().into_iter().find(|entry| {
            entry.kind == FileKind::Regular && entry.path.starts_with("tree") && entry.len_bytes == wanted
        });
        found.expect("every file has a home").path
    });
    let old_homes = homes.each_ref().map(|path| disk.raw_read(path).expect("it is there"));
    let vault = open(&disk, &secret, Mode::ReadWrite)?;
    let mut new = old.clone();
    for ((name, _, pages), content) in FILES.iter().zip(&mut new) {
        let some: Vec<usize> = pages.iter().copied().filter(|page| page % 3 != 1).collect();
        write_pages(&vault.root().open_file(name.as_bytes())?, content, &some, 1)?;
    }
    vault.seal()?;
    drop(vault);
    disk.advance(std::time::Duration::from_secs(1000));
    disk.settle();
    let sealed = disk.snapshot();
    let vault = open(&disk, &secret, Mode::ReadWrite)?;
    let mut synced = new.each_ref().map(|content| vec![content.clone()]);
    for (version, checkpoint) in [(2, false), (3, true), (4, false)] {
        for ((name, _, pages), states) in FILES.iter().zip(&mut synced) {
            let file = vault.root().open_file(name.as_bytes())?;
            let mut content = states.last().expect("there is a first").clone();
            // One page at a time: a sync between writes is a state, too.
            for page in pages.iter().filter(|page| *page % 4 != usize::from(version) - 2).take(3) {
                write_pages(&file, &mut content, &[*page], version)?;
                file.sync()?;
                states.push(content.clone());
            }
        }
        if checkpoint {
            vault.checkpoint()?;
        }
    }
    let killed = disk.kill();
    killed.settle();
    Ok(Template { secret, homes, old_homes, old, sealed, new, crashed: killed.snapshot(), synced })
}

/// Edits the bytes of backing files, as an attacker with old copies would.
fn attack(input: &mut Input<'_>, disk: &SimDisk, files: &[PathBuf], old: &[Vec<u8>]) {
    for _ in 0..16 {
        if input.is_empty() {
            return;
        }
        let (kind, at) = (input.byte(), usize::from(input.byte()) % files.len());
        let path = &files[at];
        let Ok(bytes) = disk.raw_read(path) else { continue };
        let blocks = bytes.len() as u64 / PAGE_BYTES + 1;
        let offset = match kind & 0x80 {
            0 => input.number(bytes.len() as u64 + 1),
            _ => input.number(blocks) * PAGE_BYTES,
        };
        let written = match kind % 7 {
            0 => {
                let value = bytes.get(offset as usize).copied().unwrap_or(0) ^ input.byte().max(1);
                disk.raw_write_at(path, offset, &[value])
            }
            1 => disk.raw_write_at(path, offset, &vec![0; input.number(3 * PAGE_BYTES) as usize]),
            2 => disk.raw_set_len(path, offset),
            3 => disk.raw_set_len(path, bytes.len() as u64 + input.number(3 * PAGE_BYTES)),
            // From another place, and from another file.
            4 => {
                let from = disk.raw_read(&files[usize::from(input.byte()) % files.len()]).unwrap_or_default();
                let start = (input.number(from.len() as u64 / PAGE_BYTES + 1) * PAGE_BYTES) as usize;
                let end = from.len().min(start + input.number(3 * PAGE_BYTES) as usize);
                disk.raw_write_at(path, offset, from.get(start..end).unwrap_or_default())
            }
            // What stood here before.
            5 => {
                let from = old.get(at).map(Vec::as_slice).unwrap_or_default();
                let end = from.len().min(offset as usize + input.number(3 * PAGE_BYTES) as usize);
                disk.raw_write_at(path, offset, from.get(offset as usize..end).unwrap_or_default())
            }
            _ => {
                let count = usize::from(input.byte());
                let part = input.0.get(..count).unwrap_or(input.0);
                let written = disk.raw_write_at(path, offset, part);
                input.0 = &input.0[part.len()..];
                written
            }
        };
        written.expect("the simulated disk does not fail");
    }
}

/// The pages of a file, each as it read; None: the file does not open.
fn read_pages(vault: &Opened, name: &str) -> Option<(u64, Vec<Option<Vec<u8>>>)> {
    let file = vault.root().open_file(name.as_bytes()).ok()?;
    let size = file.len_bytes();
    let pages = (0..page_count(size)).map(|page| {
        let mut page_bytes = vec![0; PAGE];
        let len = file.read(page * PAGE_BYTES, &mut page_bytes).ok()?;
        page_bytes.truncate(len);
        Some(page_bytes)
    });
    let pages = pages.collect();
    let _ = (file.next_data(0), file.next_hole(0));
    Some((size, pages))
}

/// Whether everything that was read is of this content.
fn agrees(pages: &(u64, Vec<Option<Vec<u8>>>), content: &[u8]) -> bool {
    pages.0 == content.len() as u64
        && pages.1.iter().zip(content.chunks(PAGE)).all(|(read, page)| read.as_ref().is_none_or(|read| read == page))
}

/// A sealed vault whose homes were edited: what reads is of one committed version.
pub fn home(data: &[u8]) {
    let template = template();
    let disk = template.sealed.to_disk();
    attack(&mut Input(data), &disk, &template.homes, &template.old_homes);
    let vault = open(&disk, &template.secret, Mode::ReadOnly).expect("homes are not looked at before they are opened");
    for (index, (name, ..)) in FILES.iter().enumerate() {
        let Some(read) = read_pages(&vault, name) else { continue };
        // Names are bound to no content: the attack may have put a whole file in the place of another.
        let versions = template.new.iter().chain(&template.old);
        let fits = versions.filter(|version| agrees(&read, version)).count();
        assert!(fits > 0, "{name} ({index}) reads as what it never was");
    }
}

/// A crashed vault whose journal and homes were edited: every page that reads is one that was written there.
pub fn journal(data: &[u8]) {
    let template = template();
    let disk = template.crashed.to_disk();
    let mut files = vec![PathBuf::from("private/journal.0"), PathBuf::from("private/journal.1")];
    files.extend(template.homes.iter().cloned());
    attack(&mut Input(data), &disk, &files, &[]);
    let Ok(vault) = open(&disk, &template.secret, Mode::ReadOnly) else { return };
    for (index, (name, ..)) in FILES.iter().enumerate() {
        let Some((size, pages)) = read_pages(&vault, name) else { continue };
        // Homes may have been exchanged.
        let any = template.synced.iter().flatten().filter(|state| state.len() as u64 == size).collect::<Vec<_>>();
        assert!(!any.is_empty(), "{name} ({index}) has a size that it never had");
        for (page, read) in pages.iter().enumerate() {
            let Some(read) = read else { continue };
            let known = any.iter().any(|state| state.chunks(PAGE).nth(page) == Some(read.as_slice()));
            assert!(known, "page {page} of {name} reads as what it never was");
        }
    }
}

/// `private/state`, sealed with the right key, whatever it says; and raw.
pub fn state(data: &[u8]) {
    let template = template();
    let keys = UnlockedKeys::from_exposed(&template.sealed.to_disk().storage(), &template.secret);
    let keys = keys.expect("the configuration is as it was");
    let sealed = keys.keys().state().seal_message(b"sero/v1/state", data);
    for bytes in [data, &sealed] {
        let disk = template.sealed.to_disk();
        disk.raw_write("private/state", bytes).expect("the simulated disk does not fail");
        if let Ok(vault) = open(&disk, &template.secret, Mode::ReadOnly) {
            for (name, ..) in FILES {
                assert!(read_pages(&vault, name).is_some());
            }
        }
    }
}

/// A home whose header, root and one node are authentic, and say anything.
pub fn node(data: &[u8]) {
    static DISK: OnceLock<(Snapshot, PathBuf, Vec<u8>, ProjectKey, [u8; 16])> = OnceLock::new();
    let (snapshot, path, secret, project_key, id) = DISK.get_or_init(|| {
        let template = template();
        let disk = template.sealed.to_disk();
        let unlocked = UnlockedKeys::from_exposed(&disk.storage(), &template.secret).expect("it is unlocked");
        let mut key = [0; 32];
        key.copy_from_slice(&template.secret[4..36]);
        let id = unlocked.configuration().vault_id.0;
        (
            template.sealed.clone(),
            template.homes[0].clone(),
            template.secret.clone(),
            ProjectKey::from_bytes(&mut key),
            id,
        )
    });
    let keys = VaultKeys::derive(project_key, id).file(&[8; 32]);
    let mut input = Input(data);
    let pages = [17, 119, 120, 246, 247, 248, 375, 600][usize::from(input.byte() % 8)];
    let size = pages * PAGE_BYTES - input.number(PAGE_BYTES);
    let (offset, len) = (input.number(size + 10), input.number(1 << 20) as usize);
    let mut root = [0; ROOT_ENTRIES * 32];
    let mut node = [0; PAGE_LEN];
    let rest = input.rest();
    let (first, second) = rest.split_at(rest.len().min(root.len()));
    root[..first.len()].copy_from_slice(first);
    let second = &second[..second.len().min(node.len())];
    node[..second.len()].copy_from_slice(second);
    let seal = |what: Sealed, bytes: &mut [u8]| {
        let tag = keys.page(3).seal(&[6; 12], &what.aad(), bytes).expect("it seals");
        Seal { nonce: [6; 12], tag, session: 3 }
    };
    let below = seal(Sealed::Node(BlockIndex(120)), &mut node).encode();
    root[119 * 32..120 * 32].copy_from_slice(&below);
    let body = seal(Sealed::Node(BlockIndex::ROOT), &mut root);
    let header = Header { size, seq: 1, birth: Birth { session: 1, epoch: 1 }, body, under: 0 };
    let header = header.seal(&[8; 32], keys.header()).expect("it seals");
    let disk = snapshot.to_disk();
    disk.raw_set_len(path, 0).expect("the simulated disk does not fail");
    disk.raw_write_at(path, 0, &header).expect("the simulated disk does not fail");
    disk.raw_write_at(path, HEADER_LEN as u64, &root).expect("the simulated disk does not fail");
    if home_len(size) > 121 * PAGE_BYTES {
        disk.raw_write_at(path, 120 * PAGE_BYTES, &node).expect("the simulated disk does not fail");
    }
    disk.raw_set_len(path, home_len(size)).expect("the simulated disk does not fail");
    let vault = open(&disk, secret, Mode::ReadOnly).expect("it opens");
    let file = vault.root().open_file(b"blob").expect("header and root are authentic");
    assert_eq!(file.len_bytes(), size);
    let _ = file.read(offset, &mut vec![0; len]);
    let _ = (file.next_data(offset), file.next_hole(offset));
    // What is no hole cannot be read, as nobody has sealed it.
    let mut page = [1; PAGE];
    for at in [0, 118, 119, 246, 247] {
        if let Ok(len) = file.read(at * PAGE_BYTES, &mut page) {
            assert!(page[..len].iter().all(|byte| *byte == 0));
        }
    }
}

/// A vault that goes on from one input to the next.
struct World {
    disk: SimDisk,
    secret: Vec<u8>,
    vault: Option<Opened>,
    files: u32,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Operations on one file, beside a model of it.
pub fn operations(data: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        // Now and then a new disk, so that what is wrong does not hang on what was long before.
        if world.as_ref().is_none_or(|world| world.files >= 500) {
            let (disk, secret) = new_vault().expect("the simulated disk does not fail");
            *world = Some(World { disk, secret, vault: None, files: 0 });
        }
        let mut now = world.take().expect("it was just made");
        now.run(&mut Input(data)).expect("the simulated disk does not fail");
        *world = Some(now);
    });
}

impl World {
    fn vault(&mut self) -> Result<Opened, VaultError> {
        if self.vault.is_none() {
            self.vault = Some(open(&self.disk, &self.secret, Mode::ReadWrite)?);
        }
        Ok(self.vault.clone().expect("it was just opened"))
    }

    fn run(&mut self, input: &mut Input<'_>) -> Result<(), VaultError> {
        self.files += 1;
        let name = format!("file {}", self.files);
        let (_, file) = self.vault()?.root().make_file(name.as_bytes(), &PLAIN)?;
        let mut file = Some(file);
        let mut model: Vec<u8> = Vec::new();
        let mut fill = 0_u8;
        for _ in 0..40 {
            if input.is_empty() {
                break;
            }
            if file.is_none() {
                file = Some(self.vault()?.root().open_file(name.as_bytes())?);
            }
            let Some(at_hand) = &file else { break };
            fill = fill.wrapping_add(1).max(1);
            match input.byte() % 12 {
                0..=2 => {
                    let (at, len) = (position(input), position(input).min(80 * PAGE));
                    at_hand.write(at as u64, &vec![fill; len])?;
                    if len > 0 {
                        model.resize(model.len().max(at + len), 0);
                        model[at..at + len].fill(fill);
                    }
                }
                3 => {
                    let (at, len) = (model.len(), position(input).min(80 * PAGE));
                    at_hand.write(at as u64, &vec![fill; len])?;
                    model.resize(at + len, fill);
                }
                4 | 5 => {
                    let size = position(input);
                    at_hand.truncate(size as u64)?;
                    model.resize(size, 0);
                }
                6 => {
                    let (at, len) = (position(input), position(input));
                    at_hand.punch_hole(at as u64, len as u64)?;
                    let end = model.len().min(at + len);
                    if let Some(hole) = model.get_mut(at..end) {
                        hole.fill(0);
                    }
                }
                7 => at_hand.sync()?,
                8 => self.vault()?.checkpoint()?,
                9 => (0..3).try_for_each(|_| self.vault()?.tick())?,
                10 => {
                    at_hand.commit()?;
                    file = None;
                }
                _ => {
                    at_hand.commit()?;
                    file = None;
                    self.vault()?.seal()?;
                    self.vault = None;
                }
            }
            if let Some(file) = &file {
                compare(file, &model, input);
            }
        }
        let file = match file {
            Some(file) => file,
            None => self.vault()?.root().open_file(name.as_bytes())?,
        };
        let mut all = vec![0xa5; model.len() + 1];
        assert_eq!(file.read(0, &mut all)?, model.len());
        assert!(all[..model.len()] == model, "the content differs");
        file.commit()?;
        self.vault()?.root().unlink(name.as_bytes())
    }
}

/// A place in a file: small, around the edges of the format, or anywhere below a mebibyte.
fn position(input: &mut Input<'_>) -> usize {
    let near = |edge: usize, by: u8| (edge + usize::from(by % 16)).saturating_sub(8);
    match input.byte() % 8 {
        0 => usize::from(input.byte()),
        1 => near(16256, input.byte()),
        2 => near(PAGE * usize::from(input.byte() % 32), input.byte()),
        3 => near(119 * PAGE, input.byte()),
        4 => near(247 * PAGE, input.byte()),
        5 => PAGE * usize::from(input.byte()),
        _ => input.number(1 << 20) as usize,
    }
}

fn compare(file: &File, model: &[u8], input: &mut Input<'_>) {
    assert_eq!(file.len_bytes(), model.len() as u64);
    let at = position(input).min(model.len());
    let mut part = [0; 300];
    let len = file.read(at as u64, &mut part).expect("it reads");
    assert_eq!(part[..len], model[at..model.len().min(at + 300)]);
    if let Ok(Some(data)) = file.next_data(at as u64) {
        assert!(model[at..data as usize].iter().all(|byte| *byte == 0), "data in a hole");
    }
}

//! Makes `tests/damaged`: two small vaults, and for each rule what is edited in one of them. With the keys at hand, so
//! that what a rule forbids behind the cipher is there, too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};
use sero::crypto::{KdfParams, VaultKeys};
use sero::format::record::{Lsn, Record, RecordHead, SegmentHeader, SegmentSeq, seal_record};
use sero::vault::create::{CreateOptions, create};
use sero::vault::unlock::unlock;
use sero::vault::{FileKind, Mode, NewInode, NodeRef, PosixStorage, XattrTable};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Folder, Opened, folder, open, passphrase};

const PLAIN: NewInode = NewInode { mode: 0o644, uid: None, gid: None };
const PLAIN_DIR: NewInode = NewInode { mode: 0o755, uid: None, gid: None };
const PAGE: usize = 4096;
const LONG: [u8; 200] = [b'l'; 200];

fn fill(folder: &Folder, name: &[u8], size: usize, pages: &[usize], value: u8) {
    let (_, file) = folder.make_file(name, &PLAIN).unwrap();
    for page in pages {
        let end = size.min((page + 1) * PAGE);
        file.write((page * PAGE) as u64, &vec![value.wrapping_add(*page as u8); end - page * PAGE]).unwrap();
    }
    file.truncate(size as u64).unwrap();
    file.commit().unwrap();
}

fn seal(vault: Opened) {
    vault.seal().unwrap();
    drop(vault);
}

/// The vault as it was before its last change, as it is, and as a session left it that did not end.
struct Vaults {
    scratch: TempDir,
    old_tree: Vec<u8>,
}

fn make_vaults() -> Vaults {
    let scratch = TempDir::new().unwrap();
    let base = scratch.path().join("base");
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    create(&base, &CreateOptions { kdf, label: "damaged".into(), hint: None }, &passphrase()).unwrap();
    let vault = open(&base, Mode::ReadWrite).unwrap();
    let root = vault.root();
    fill(&root, b"blob", 300, &[0], 1);
    fill(&root, b"tree", 5 * PAGE - 100, &[0, 1, 2, 3, 4], 2);
    fill(&root, b"nodes", 250 * PAGE, &[0, 119, 247], 3);
    root.make_symlink(b"short link", b"blob", &PLAIN).unwrap();
    root.make_symlink(b"long link", &[b't'; 1500], &PLAIN).unwrap();
    for name in [&b"folder"[..], b"other"] {
        let (_, below) = root.make_dir(name, &PLAIN_DIR).unwrap();
        fill(&below, b"a", 10, &[0], 4);
        fill(&below, &LONG, 20, &[0], 5);
    }
    let mut table = XattrTable::default();
    table.insert(b"user.a", b"1");
    vault.set_xattrs(NodeRef::Entry(&root, b"blob"), FileKind::Regular, &table).unwrap();
    drop(root);
    seal(vault);
    let old_tree = fs::read(home(&base, b"tree")).unwrap();
    let vault = open(&base, Mode::ReadWrite).unwrap();
    vault.root().open_file(b"tree").unwrap().write(2 * PAGE as u64, &[9; PAGE]).unwrap();
    seal(vault);
    fs::write(base.join("private/lock"), "").unwrap();
    // Killed, after four syncs.
    let (mounted, crashed) = (scratch.path().join("mounted"), scratch.path().join("crashed"));
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    copy(&base, &mounted);
    let vault = open(&mounted, Mode::ReadWrite).unwrap();
    let file = vault.root().open_file(b"tree").unwrap();
    for value in 0..4 {
        file.write(PAGE as u64, &[value; PAGE]).unwrap();
        file.sync().unwrap();
    }
    copy(&mounted, &crashed);
    fs::write(crashed.join("private/lock"), "").unwrap();
    for (segment, used) in [("journal.0", 12), ("journal.1", 0)] {
        // What is behind the records is random, and counts for nothing; a hole is smaller.
        let segment = fs::File::options().write(true).open(crashed.join("private").join(segment)).unwrap();
        let len = segment.metadata().unwrap().len();
        segment.set_len(used * PAGE as u64).unwrap();
        segment.set_len(len).unwrap();
    }
    Vaults { scratch, old_tree }
}

/// The backing path of a name of the top directory.
fn home(vault: &Path, name: &[u8]) -> PathBuf {
    let opened = open(vault, Mode::ReadOnly).unwrap();
    entry_of(&vault.join("tree"), opened.root().lookup(name).unwrap().ino)
}

fn entry_of(directory: &Path, ino: u64) -> PathBuf {
    let mut entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| fs::symlink_metadata(path).unwrap().ino() == ino).unwrap()
}

fn shown<'a>(vault: &Path, path: &'a Path) -> &'a str {
    path.strip_prefix(vault).unwrap().to_str().unwrap()
}

fn target(path: &Path) -> String {
    fs::read_link(path).unwrap().into_os_string().into_string().unwrap()
}

fn flipped(text: &str) -> String {
    format!("{}{}", if text.starts_with('A') { 'B' } else { 'A' }, &text[1..])
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Writes the file of a rule: who must notice it, and the edits.
fn rule(name: &str, head: &str, edits: &[String]) {
    fs::write(folder().join(name), format!("{head}\n{}\n", edits.join("\n"))).unwrap();
}

#[test]
#[ignore = "makes tests/damaged anew, which stays as it is"]
fn make() {
    let made = make_vaults();
    for entry in fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_none() {
            fs::remove_file(entry).unwrap();
        }
    }
    for name in ["base", "crashed"] {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--numeric-owner", "--owner=0", "--group=0", "--sparse", "--format=pax"])
            .args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,globexthdr.name=global,delete=atime,delete=ctime"])
            .args(["--xattrs", "--xattrs-include=user.*", "--file"])
            .arg(folder().join(format!("{name}.tar")))
            .arg("--directory")
            .arg(made.scratch.path())
            .arg(name);
        assert!(tar.status().unwrap().success());
    }
    let base = made.scratch.path().join("base");
    let unlocked = unlock(&PosixStorage::open(&base).unwrap(), &passphrase()).unwrap();
    configuration(&base);
    names(&base, unlocked.keys());
    links_and_attributes(&base, unlocked.keys());
    files(&base, unlocked.keys(), &made.old_tree);
    journal(&made.scratch.path().join("crashed"), unlocked.keys());
}

fn configuration(base: &Path) {
    let before: Value = serde_json::from_slice(&fs::read(base.join("sero.json")).unwrap()).unwrap();
    let text = |name: &str, text: String| rule(name, "vault", &[format!("text sero.json {text}")]);
    let with = |name: &str, place: &str, value: Value| {
        let mut edited = before.clone();
        let (above, field) = place.rsplit_once('/').unwrap();
        edited.pointer_mut(above).unwrap()[field] = value;
        text(name, edited.to_string());
    };
    let twice = |list: &str| json!([before[list][0], before[list][0]]);
    let edited = |wrapped: &Value| json!(flipped(wrapped.as_str().unwrap()));
    rule("configuration-too-large", "vault", &["length sero.json 1048577".into()]);
    text("configuration-not-json", format!("{before}x"));
    with("configuration-newer-format", "/format", json!(2));
    with("configuration-format-zero", "/format", json!(0));
    with("configuration-unknown-field", "/keyslots/0/more", json!(1));
    let mut without = before.clone();
    without.as_object_mut().unwrap().remove("created");
    text("configuration-missing-field", without.to_string());
    text("configuration-duplicate-field", before.to_string().replacen("\"format\":1", "\"format\":1,\"format\":1", 1));
    with("configuration-wrong-type", "/created", json!("1"));
    with("configuration-unknown-cipher", "/cipher", json!("AES-128-GCM"));
    with("configuration-bad-hex", "/vault_id", json!("ABCDEF00112233445566778899aabbcc"));
    with("configuration-bad-base64", "/authenticator", json!("AAAA"));
    with("configuration-no-project-key", "/project_keys", json!([]));
    with("configuration-duplicate-key-version", "/project_keys", twice("project_keys"));
    with("configuration-active-key-unknown", "/active_key", json!(7));
    with("configuration-no-keyslot", "/keyslots", json!([]));
    with("configuration-duplicate-keyslot", "/keyslots", twice("keyslots"));
    with("configuration-rotation", "/rotation", json!({ "from": 1, "keep_old": false, "started": 1 }));
    with("configuration-text-too-long", "/keyslots/0/label", json!("x".repeat(257)));
    with("configuration-control-character", "/keyslots/0/label", json!("\u{7}"));
    with("configuration-kdf-out-of-bounds", "/keyslots/0/kdf/lanes", json!(65));
    let other = json!({ "algorithm": "hkdf-sha256", "salt": before["keyslots"][0]["kdf"]["salt"] });
    with("configuration-kdf-of-another-kind", "/keyslots/0/kdf", other);
    with("keyslot-does-not-open", "/keyslots/0/wrapped", edited(&before["keyslots"][0]["wrapped"]));
    with("project-key-does-not-open", "/project_keys/0/wrapped", edited(&before["project_keys"][0]["wrapped"]));
    with("configuration-edited", "/created", json!(1));
    rule("state-edited", "vault", &[format!("bytes private/state {}", hex(&[7; 60]))]);
}

fn names(base: &Path, keys: &VaultKeys) {
    let (folder, other) = (home(base, b"folder"), home(base, b"other"));
    let at = shown(base, &folder);
    let (iv, other_iv) = (target(&folder.join("=iv")), target(&other.join("=iv")));
    let (short, long) = {
        let vault = open(base, Mode::ReadOnly).unwrap();
        let below = vault.root().open_child(b"folder").unwrap();
        (entry_of(&folder, below.lookup(b"a").unwrap().ino), entry_of(&folder, below.lookup(&LONG).unwrap().ino))
    };
    let (short, long) = (shown(base, &short), shown(base, &long));
    let mut raw_iv = [0; 16];
    raw_iv.copy_from_slice(&BASE64URL_NOPAD.decode(iv.as_bytes()).unwrap()[..16]);
    let sealed = |padded: &[u8]| keys.names().seal(&raw_iv, padded);
    let text = |sealed: &[u8]| BASE64URL_NOPAD.encode(sealed);
    let special = |sealed: &[u8]| format!("={}", BASE64URL_NOPAD.encode(&Sha256::digest(sealed)));
    let damage = |name: &str, edits: &[String]| rule(name, "entry /folder", edits);
    damage("directory-iv-missing", &[format!("remove {at}/=iv")]);
    damage("directory-iv-not-a-link", &[format!("remove {at}/=iv"), format!("bytes {at}/=iv 00")]);
    damage("directory-iv-syntax", &[format!("link {at}/=iv nonsense")]);
    damage("directory-iv-two-records", &[format!("link {at}/=iv {iv}.{other_iv}")]);
    damage("directory-iv-edited", &[format!("link {at}/=iv {}", flipped(&iv))]);
    damage("directory-iv-of-another-directory", &[format!("link {at}/=iv {other_iv}")]);
    damage("name-alphabet", &[format!("bytes {at}/{}+ 00", "A".repeat(42))]);
    damage("name-length", &[format!("bytes {at}/{} 00", text(&[3; 33]))]);
    let (folder_path, entry) = short.rsplit_once('/').unwrap();
    damage("name-edited", &[format!("rename {short} {folder_path}/{}", flipped(entry))]);
    let mut padded = b"name".to_vec();
    padded.resize(32, 0);
    damage("name-padding", &[format!("bytes {at}/{} 00", text(&sealed(&padded)))]);
    damage("name-not-a-name", &[format!("bytes {at}/{} 00", text(&sealed(b"..\0\0\0\0\0\0\0\0\0\0\0\0\0\0")))]);
    let as_long = sealed(b"0123456789abcdef");
    let entry = special(&as_long);
    let edits = [format!("bytes {at}/{entry} 00"), format!("link {at}/{entry}.n {}", text(&as_long))];
    damage("name-wrong-form", &edits);
    damage("name-sidecar-missing", &[format!("remove {long}.n")]);
    damage("name-sidecar-not-a-link", &[format!("remove {long}.n"), format!("bytes {long}.n 00")]);
    let mut padded = [b'm'; 208];
    padded[200..].fill(0);
    damage("name-sidecar-of-another-name", &[format!("link {long}.n {}", text(&sealed(&padded)))]);
    damage("name-unknown-special", &[format!("bytes {at}/=junk 00")]);
}

fn links_and_attributes(base: &Path, keys: &VaultKeys) {
    let (short, long, blob) = (home(base, b"short link"), home(base, b"long link"), home(base, b"blob"));
    let at = shown(base, &short);
    let damage = |name: &str, target: String| rule(name, "entry /short link", &[format!("link {at} {target}")]);
    damage("symlink-alphabet", "../../etc/passwd".into());
    damage("symlink-length", BASE64URL_NOPAD.encode(&[0; 28]));
    damage("symlink-edited", flipped(&target(&short)));
    damage("symlink-not-a-target", BASE64URL_NOPAD.encode(&keys.symlink().seal_message(b"", b"a\0b")));
    let piece = format!("remove private/links/{}.1", &target(&long)[1..]);
    rule("symlink-piece-missing", "entry /long link", &[piece]);
    let at = shown(base, &blob);
    let damage = |name: &str, value: &[u8]| rule(name, "entry /blob", &[format!("xattr {at} {}", hex(value))]);
    let table = |plain: &[u8]| keys.xattr().seal_message(b"", plain);
    let attribute = |name: &[u8]| [&(name.len() as u16).to_le_bytes()[..], &1_u32.to_le_bytes(), name, b"1"].concat();
    let mut edited = table(&attribute(b"user.a"));
    edited[30] ^= 1;
    damage("xattr-length", &[0; 27]);
    damage("xattr-edited", &edited);
    damage("xattr-cut", &table(&attribute(b"user.a")[..9]));
    damage("xattr-name", &table(&attribute(b"")));
    damage("xattr-order", &table(&[attribute(b"user.b"), attribute(b"user.a")].concat()));
}

/// A home's header with another plaintext, sealed with the right key.
fn resealed(home: &[u8], keys: &VaultKeys, edit: impl Fn(&mut [u8])) -> String {
    let mut salt = [0; 32];
    salt.copy_from_slice(&home[..32]);
    let file = keys.file(&salt);
    let mut plain = file.header().open_message(b"sero/v1/header", &home[32..128]).unwrap().to_vec();
    edit(&mut plain);
    hex(&file.header().seal_message(b"sero/v1/header", &plain))
}

fn files(base: &Path, keys: &VaultKeys, old_tree: &[u8]) {
    let [blob, tree, nodes] = [&b"blob"[..], b"tree", b"nodes"].map(|name| home(base, name));
    let [blob_bytes, tree_bytes, nodes_bytes] = [&blob, &tree, &nodes].map(|path| fs::read(path).unwrap());
    let [blob, tree, nodes] = [&blob, &tree, &nodes].map(|path| shown(base, path));
    let of_blob = |name: &str, edit: String| rule(name, "entry /blob", &[edit]);
    let of_tree = |name: &str, head: &str, edit: String| rule(name, &format!("entry /tree{head}"), &[edit]);
    let flip = |bytes: &[u8], at: usize| format!("{at} {}", hex(&[bytes[at] ^ 1]));
    let header = |edit: &dyn Fn(&mut [u8])| format!("put {blob} 32 {}", resealed(&blob_bytes, keys, edit));
    of_blob("file-short", format!("length {blob} 100"));
    of_blob("file-header-edited", format!("put {blob} {}", flip(&blob_bytes, 70)));
    of_blob("file-header-kind", header(&|plain| plain[0] = 3));
    of_blob("file-header-reserved", header(&|plain| plain[2] = 1));
    of_blob("file-header-size", header(&|plain| (plain[0], plain[15]) = (2, 1)));
    of_blob("file-kind-of-another-size", header(&|plain| plain[0] = 2));
    of_blob("file-blob-edited", format!("put {blob} {}", flip(&blob_bytes, 200)));
    of_tree("file-cut", "", format!("length {tree} {}", tree_bytes.len() - 100));
    of_tree("file-extended", "", format!("length {tree} {}", tree_bytes.len() + 5));
    of_tree("file-root-edited", "", format!("put {tree} {}", flip(&tree_bytes, 200)));
    of_tree("file-page-edited", "", format!("put {tree} {} {}", 3 * PAGE, hex(&[0; 512])));
    let as_edited = "\nsays file-page-edited";
    of_tree("file-page-moved", as_edited, format!("put {tree} {} {}", 2 * PAGE, hex(&tree_bytes[PAGE..2 * PAGE])));
    let older = &old_tree[3 * PAGE..4 * PAGE];
    assert_ne!(older, &tree_bytes[3 * PAGE..4 * PAGE]);
    of_tree("file-page-replayed", as_edited, format!("put {tree} {} {}", 3 * PAGE, hex(older)));
    rule("file-node-edited", "entry /nodes", &[format!("put {nodes} {}", flip(&nodes_bytes, 120 * PAGE + 5))]);
    let moved = format!("put {nodes} {} {}", 120 * PAGE, hex(&nodes_bytes[250 * PAGE..251 * PAGE]));
    rule("file-node-moved", "entry /nodes\nsays file-node-edited", &[moved]);
}

fn journal(crashed: &Path, keys: &VaultKeys) {
    let bytes = fs::read(crashed.join("private/journal.0")).unwrap();
    let block = |index: usize| &bytes[index * PAGE..(index + 1) * PAGE];
    let key = keys.journal(&SegmentHeader::journal_id(block(0)).unwrap());
    let (header, _) = SegmentHeader::open(block(0), &key).unwrap();
    // Where the second record stands, which the third knew to be synced.
    let (first, _) = Record::open(block(1), 1, &key).unwrap();
    let at = 2 + usize::from(first.images);
    let (record, _) = Record::open(block(at), at as u64, &key).unwrap();
    let damage = |name: &str, edits: &[String]| rule(name, "journal", edits);
    let put = |segment: &str, at: usize, bytes: &[u8]| format!("put private/{segment} {} {}", at * PAGE, hex(bytes));
    damage("journal-segment-cut", &[format!("length private/journal.0 {}", 12 * PAGE)]);
    damage("journal-record-edited", &[put("journal.0", at, &[block(at)[0] ^ 1])]);
    damage("journal-record-moved", &[put("journal.0", at, block(1))]);
    let mut unknown = [0; PAGE];
    let head = RecordHead {
        lsn: record.lsn,
        segment: record.segment,
        previous: record.previous,
        synced_through: record.synced_through,
    };
    seal_record(&head, &[99], &[], at as u64, &key, &mut unknown).unwrap();
    damage("journal-operation-unknown", &[put("journal.0", at, &unknown)]);
    // Second segments that do not belong to the first.
    let later = |uses: u64, session: u32, first_lsn: u64, synced: u64, operations: &[u8]| {
        let id = [5; 16];
        let key = keys.journal(&id);
        let seq = SegmentSeq(header.seq.0 + uses);
        let mut blocks = [0; 2 * PAGE];
        let (first, next) = blocks.split_at_mut(PAGE);
        let header = SegmentHeader { seq, first_lsn: Lsn(first_lsn), session, previous: [8; 16], ..header };
        let previous = header.seal(&id, &key, first).unwrap();
        let head = RecordHead { lsn: Lsn(first_lsn), segment: seq, previous, synced_through: Lsn(synced) };
        seal_record(&head, operations, &[], 1, &key, next).unwrap();
        put("journal.1", 0, &blocks)
    };
    let second = |session, first_lsn, synced| later(1, session, first_lsn, synced, &[11]);
    damage("journal-segment-gap", &[second(header.session, 100, 99)]);
    damage("journal-of-another-session", &[second(header.session ^ 2, 100, 0)]);
    damage("journal-segment-missing", &[second(header.session, 100, 0), "remove private/journal.0".into()]);
    let retired = [&[12][..], &(header.seq.0 + 1).to_le_bytes()].concat();
    damage("journal-segment-put-back", &[later(2, header.session, 100, 0, &retired)]);
    let home = home(crashed, b"tree");
    let other_seq = resealed(&fs::read(&home).unwrap(), keys, |plain| plain[23] ^= 0x10);
    damage("journal-stale-base", &[format!("put {} 32 {other_seq}", shown(crashed, &home))]);
}

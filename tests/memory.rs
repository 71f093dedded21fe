//! What a process has in its memory: read through /proc/PID/mem. docs/threat-model.md, "Memory".

#[path = "cli/harness.rs"]
mod harness;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};

use argon2::{Algorithm, Argon2, Params, Version};
use harness::{Fixture, PASSPHRASE, can_mount, eventually};
use sero::crypto::{Passphrase, kdf};
use sero::vault::{self, Mode, NewInode, PosixStorage, Vault};

/// Bytes that are looked for, kept as their complement: this process must not find its own copy.
struct Needle {
    name: &'static str,
    complement: Vec<u8>,
}

impl Needle {
    fn new(name: &'static str, bytes: &[u8]) -> Self {
        Self { name, complement: bytes.iter().map(|byte| !byte).collect() }
    }

    fn is_in(&self, memory: &[u8]) -> bool {
        let first = !self.complement[0];
        let same = |window: &[u8]| window.iter().zip(&self.complement).all(|(byte, other)| *byte == !other);
        let mut rest = memory;
        while let Some(at) = rest.iter().position(|byte| *byte == first) {
            if rest[at..].len() >= self.complement.len() && same(&rest[at..]) {
                return true;
            }
            rest = &rest[at + 1..];
        }
        false
    }
}

/// The names of those that are in the memory of this process.
fn found<'a>(pid: &str, needles: &'a [Needle]) -> Vec<&'a str> {
    const CHUNK: usize = 1 << 20;
    // Needles that lie across two chunks are found, too.
    const OVERLAP: usize = 64;
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root reads the memory of others");
    let mut found = Vec::new();
    let mut chunk = vec![0; CHUNK];
    let mut seen = 0;
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, flags) = (fields.next().unwrap(), fields.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let bound = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (bound(start), bound(end));
        // What can be written: the program's own code holds no secret.
        while flags.starts_with("rw") && at < end {
            let wanted = usize::try_from(end - at).unwrap().min(CHUNK);
            let Ok(read) = memory.read_at(&mut chunk[..wanted], at) else { break };
            if read == 0 {
                break;
            }
            seen += read;
            let here = needles.iter().filter(|needle| needle.is_in(&chunk[..read])).map(|needle| needle.name);
            found.extend(here);
            if read <= OVERLAP {
                break;
            }
            at += (read - if at + read as u64 == end { 0 } else { OVERLAP }) as u64;
        }
    }
    assert!(seen > 1 << 20, "only {seen} bytes were looked at");
    found.sort_unstable();
    found.dedup();
    found
}

/// Passphrase, KEK, root key and project key of a vault that has one keyslot.
fn secrets(vault: &Path) -> Vec<Needle> {
    let storage = PosixStorage::open(vault).unwrap();
    let configuration = vault::read_configuration(&storage).unwrap();
    let slot = &configuration.keyslots[0];
    let params = slot.kdf.params().unwrap();
    let passphrase = Passphrase::new(PASSPHRASE.as_bytes().to_vec());
    let kek = kdf::derive_kek(&passphrase, slot.kdf.salt(), &params).unwrap();
    let root = kek.unwrap(&configuration.keyslot_aad(slot.id, slot.kind), &slot.wrapped.0).unwrap();
    let mut kek_bytes = [0; 32];
    let costs = Params::new(params.memory_kib, params.passes, params.lanes, Some(32)).unwrap();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, costs)
        .hash_password_into(PASSPHRASE.as_bytes(), slot.kdf.salt(), &mut kek_bytes)
        .unwrap();
    let exposed = vault::unlock(&storage, &passphrase).unwrap().expose();
    let needles = vec![
        Needle::new("passphrase", PASSPHRASE.as_bytes()),
        Needle::new("KEK", &kek_bytes),
        Needle::new("root key", root.expose()),
        Needle::new("project key", &exposed[4..36]),
    ];
    kek_bytes.fill(0);
    std::hint::black_box(&mut kek_bytes);
    needles
}

/// Once mounted, the daemon has the project key, and nothing that led to it.
#[test]
fn the_daemon_forgets_what_unlocked_it() {
    can_mount();
    let fixture = Fixture::new();
    fixture.mount(&[]).ok();
    fs::write(fixture.mountpoint.join("file"), "content").unwrap();
    assert_eq!(found(&fixture.daemon().to_string(), &secrets(&fixture.vault)), ["project key"]);
    fixture.seal().ok();
}

/// The same where one process did all of it.
#[test]
fn a_mount_in_the_foreground_forgets_what_unlocked_it() {
    can_mount();
    let fixture = Fixture::new();
    let mut child = Foreground(
        fixture.mount_command(&["--foreground"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap(),
    );
    eventually("the mount", || !fixture.mounts().is_empty());
    fs::write(fixture.mountpoint.join("file"), "content").unwrap();
    assert_eq!(found(&child.0.id().to_string(), &secrets(&fixture.vault)), ["project key"]);
    fixture.seal().ok();
    assert!(harness::end_of(&mut child.0).success());
}

struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In one process: a vault is made, used, sealed and dropped. (Nothing else runs in this program at that time that has a
/// key: the other tests look at other processes, with other keys.)
#[test]
fn a_sealed_vault_leaves_no_key_behind() {
    let fixture = Fixture::new();
    let needles = secrets(&fixture.vault);
    let project_key = needles.iter().find(|needle| needle.name == "project key").unwrap();
    let storage = PosixStorage::open(&fixture.vault).unwrap();
    let passphrase = Passphrase::new(PASSPHRASE.as_bytes().to_vec());
    let keys = vault::unlock(&storage, &passphrase).unwrap();
    let project = keys.expose();
    let vault = Vault::open(storage, keys, Mode::ReadWrite).unwrap();
    let new = NewInode { mode: 0o600, uid: None, gid: None };
    let (_, file) = vault.root().make_file(b"file", &new).unwrap();
    file.write(0, b"content").unwrap();
    file.sync().unwrap();
    drop(file);
    let own = "self";
    assert_eq!(found(own, std::slice::from_ref(project_key)), ["project key"], "it can be found while it is there");
    vault.seal().unwrap();
    drop((vault, project));
    vault::wipe_stack();
    assert_eq!(found(own, std::slice::from_ref(project_key)), [""; 0]);
}

/// "the process is not dumpable, cores off"
#[test]
fn the_daemon_is_not_dumpable_and_writes_no_core() {
    can_mount();
    let fixture = Fixture::mounted(&[]);
    let daemon = fixture.daemon();
    let limits = fs::read_to_string(format!("/proc/{daemon}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().rev().skip(1).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap().trim();
    assert_ne!(locked, "0 kB", "keys are locked");
    fixture.seal().ok();
}

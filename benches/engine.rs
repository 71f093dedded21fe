//! The engine without a mount: what a page, a header, a name cost, and what the vault adds to the calls of its backing.
//! `cargo bench --bench engine [FILTER]`. Vaults are made in a temporary directory: TMPDIR on a tmpfs measures the
//! program, on a disk the disk.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sero::crypto::aead::AeadKey;
use sero::crypto::keys::{ProjectKey, VaultKeys};
use sero::crypto::{KdfParams, Passphrase, entropy};
use sero::format::directory_iv::DirectoryIv;
use sero::format::geometry::{BlockIndex, PAGE_LEN};
use sero::format::header::{Birth, Header, Seal};
use sero::format::names;
use sero::format::seals::Sealed;
use sero::fs::{Caller, FileHandle, Fs, FsOptions, InodeNo};
use sero::vault::create::{CreateOptions, create};
use sero::vault::unlock::unlock;
use sero::vault::{Mode, PosixStorage, Vault};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };

/// A vault that is open, and its filesystem.
struct Place {
    fs: Fs<PosixStorage>,
    _backing: TempDir,
}

impl Place {
    fn new() -> Self {
        let backing = tempfile::tempdir().unwrap();
        let passphrase = || Passphrase::new(b"bench".to_vec());
        let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        create(backing.path(), &CreateOptions { kdf, label: String::new(), hint: None }, &passphrase()).unwrap();
        let storage = PosixStorage::open(backing.path()).unwrap();
        let keys: VaultKeys = unlock(&storage, &passphrase()).unwrap().into();
        let vault: Arc<_> = Vault::open(storage, keys, Mode::ReadWrite).unwrap();
        Self { fs: Fs::new(vault, FsOptions::for_this_process()).unwrap(), _backing: backing }
    }

    fn create(&self, name: &[u8]) -> FileHandle {
        self.fs.create(&CALLER, InodeNo::ROOT, name, 0o644, 0, libc::O_RDWR).unwrap().1
    }

    fn write(&self, file: FileHandle, offset_bytes: u64, data: &[u8]) {
        assert_eq!(self.fs.write(&CALLER, file, offset_bytes, data, false).unwrap(), data.len());
    }
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    entropy::fill(&mut bytes);
    bytes
}

fn vault_keys() -> VaultKeys {
    VaultKeys::derive(&ProjectKey::generate().unwrap(), &entropy::array())
}

fn pages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("page");
    group.throughput(Throughput::Bytes(PAGE_LEN as u64));
    let key = AeadKey::new(&entropy::array());
    let (plain, mut out) = (random(PAGE_LEN), vec![0; PAGE_LEN]);
    let aad = Sealed::Page(BlockIndex(7)).aad();
    group.bench_function("seal, with its nonce", |bencher| {
        bencher.iter(|| key.seal_into(&entropy::array(), &aad, black_box(&plain), &mut out).unwrap());
    });
    let nonce = entropy::array();
    let mut sealed = vec![0; PAGE_LEN];
    let tag = key.seal_into(&nonce, &aad, &plain, &mut sealed).unwrap();
    group.bench_function("open", |bencher| {
        bencher.iter(|| key.open_into(&nonce, &aad, &tag, black_box(&sealed), &mut out).unwrap());
    });
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header");
    let keys = vault_keys();
    let salt = entropy::array();
    group.bench_function("keys of a file", |bencher| {
        bencher.iter(|| keys.file(black_box(&salt)).page(3));
    });
    let file = keys.file(&salt);
    let body = Seal { nonce: entropy::array(), tag: entropy::array(), session: 3 };
    let header = Header { size: 20_000, seq: 1, birth: Birth { session: 3, epoch: 1 }, body, under: 1 };
    group.bench_function("seal", |bencher| {
        bencher.iter(|| header.seal(&salt, file.header()).unwrap());
    });
    let sealed = header.seal(&salt, file.header()).unwrap();
    group.bench_function("open", |bencher| {
        bencher.iter(|| Header::open(black_box(&sealed), file.header()).unwrap());
    });
}

fn sealed_names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("name");
    let keys = vault_keys();
    let iv = DirectoryIv::random();
    for len in [10, 100, 255] {
        let name = vec![b'n'; len];
        group.bench_function(format!("seal, {len} bytes"), |bencher| {
            bencher.iter(|| names::seal(keys.names(), &iv, black_box(&name)).unwrap());
        });
    }
    let sealed = names::seal(keys.names(), &iv, b"Makefile").unwrap();
    group.bench_function("open, 8 bytes", |bencher| {
        bencher.iter(|| names::open(keys.names(), &iv, black_box(&sealed.entry)).unwrap());
    });
}

fn files(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("file");
    let place = Place::new();
    let data = random(MIB);
    group.throughput(Throughput::Bytes(MIB as u64));
    // With its nodes: behind the first 119 pages, each 128 have one.
    let file = place.create(b"fresh");
    group.bench_function("write 1 MiB of a new file", |bencher| {
        bencher.iter(|| place.write(file, 64 * MIB as u64, &data));
    });
    let mut out = vec![0; MIB];
    group.bench_function("read 1 MiB", |bencher| {
        bencher.iter(|| place.fs.read(file, 64 * MIB as u64, &mut out).unwrap());
    });
    place.fs.fsync(file, false).unwrap();
    group.throughput(Throughput::Elements(1));
    group.bench_function("overwrite 4 KiB, through the journal", |bencher| {
        bencher.iter(|| place.write(file, 64 * MIB as u64, &data[..PAGE_LEN]));
    });
    group.bench_function("overwrite 4 KiB and fsync: a commit of the journal", |bencher| {
        bencher.iter(|| {
            place.write(file, 64 * MIB as u64, &data[..PAGE_LEN]);
            place.fs.fsync(file, true).unwrap();
        });
    });
    group.bench_function("read 4 KiB", |bencher| {
        bencher.iter(|| place.fs.read(file, 65 * MIB as u64 - PAGE_LEN as u64, &mut out[..PAGE_LEN]).unwrap());
    });
}

fn metadata(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("names of files");
    group.throughput(Throughput::Elements(1));
    let place = Place::new();
    let held = place.create(b"held");
    group.bench_function("lookup of a node in memory", |bencher| {
        bencher.iter(|| place.fs.lookup(InodeNo::ROOT, b"held").unwrap());
    });
    let file = place.create(b"forgotten");
    place.fs.release(file).unwrap();
    let entry = place.fs.lookup(InodeNo::ROOT, b"forgotten").unwrap();
    place.fs.forget(entry.attr.ino, u64::MAX);
    group.bench_function("lookup of one that was forgotten", |bencher| {
        bencher.iter(|| {
            let entry = place.fs.lookup(InodeNo::ROOT, b"forgotten").unwrap();
            place.fs.forget(entry.attr.ino, 1);
        });
    });
    let data = random(1024);
    let mut number = 0_u64;
    group.bench_function("create 1 KiB and close", |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                format!("new {number}").into_bytes()
            },
            |name| {
                let (entry, file) = place.fs.create(&CALLER, InodeNo::ROOT, &name, 0o644, 0, libc::O_WRONLY).unwrap();
                place.write(file, 0, &data);
                place.fs.release(file).unwrap();
                place.fs.forget(entry.attr.ino, 1);
            },
            BatchSize::SmallInput,
        );
    });
    place.fs.release(held).unwrap();
}

criterion_group!(benches, pages, headers, sealed_names, files, metadata);
criterion_main!(benches);

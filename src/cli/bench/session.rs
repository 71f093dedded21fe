//! A short session in a directory: a large file, small files, syncs. The vault's is mounted by the program itself, as a
//! user would do it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::cli::failure::{Failure, Result};

/// What [`measure`] reports.
pub(super) const STEPS: u64 = 6;

const LARGE_BYTES: usize = 128 << 20;
const CHUNK_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;
const SMALL_FILES: usize = 2000;
const SMALL_BYTES: usize = 2048;
const SYNCS: usize = 200;

/// In bytes or calls per second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Figures {
    write_bytes_per_second: f64,
    read_bytes_per_second: f64,
    overwrite_bytes_per_second: f64,
    syncs_per_second: f64,
    files_made_per_second: f64,
    files_removed_per_second: f64,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rate {
    Bytes,
    Calls,
}

/// For a table.
pub(super) fn rows(a: &Figures, b: &Figures) -> [(&'static str, Rate, f64, f64); 6] {
    [
        ("write a large file, and sync", Rate::Bytes, a.write_bytes_per_second, b.write_bytes_per_second),
        ("read it, not from memory", Rate::Bytes, a.read_bytes_per_second, b.read_bytes_per_second),
        ("overwrite it, and sync", Rate::Bytes, a.overwrite_bytes_per_second, b.overwrite_bytes_per_second),
        ("write 4 KiB and sync, each", Rate::Calls, a.syncs_per_second, b.syncs_per_second),
        ("make small files", Rate::Calls, a.files_made_per_second, b.files_made_per_second),
        ("remove them", Rate::Calls, a.files_removed_per_second, b.files_removed_per_second),
    ]
}

/// Works in `place`. `forget` makes what was written be read from below, where that takes more than advice to the kernel.
pub(super) fn measure(place: &Path, step: &dyn Fn() -> Result<()>, forget: &dyn Fn() -> Result<()>) -> Result<Figures> {
    let failed = |error: io::Error| Failure::other(format!("{}: {error}; is there room for 300 MB?", place.display()));
    let mut figures = Figures::default();
    let large = place.join("large");
    let chunk: Vec<u8> = (0..CHUNK_BYTES).map(|index| (index ^ (index >> 8)) as u8).collect();

    let write = |truncate: bool| -> io::Result<f64> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(truncate).open(&large)?;
        let started = Instant::now();
        for _ in 0..LARGE_BYTES / CHUNK_BYTES {
            file.write_all(&chunk)?;
        }
        file.sync_all()?;
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(LARGE_BYTES as f64 / started.elapsed().as_secs_f64())
    };
    figures.write_bytes_per_second = write(true).map_err(failed)?;
    step()?;
    forget()?;
    figures.read_bytes_per_second = read(&large).map_err(failed)?;
    step()?;
    figures.overwrite_bytes_per_second = write(false).map_err(failed)?;
    step()?;
    figures.syncs_per_second = sync_often(&large, &chunk[..PAGE_BYTES]).map_err(failed)?;
    step()?;
    fs::remove_file(&large).map_err(failed)?;

    let small = |number: usize| place.join(format!("small {number}"));
    let started = Instant::now();
    for number in 0..SMALL_FILES {
        fs::write(small(number), &chunk[..SMALL_BYTES]).map_err(failed)?;
    }
    figures.files_made_per_second = SMALL_FILES as f64 / started.elapsed().as_secs_f64();
    step()?;
    let started = Instant::now();
    for number in 0..SMALL_FILES {
        fs::remove_file(small(number)).map_err(failed)?;
    }
    figures.files_removed_per_second = SMALL_FILES as f64 / started.elapsed().as_secs_f64();
    step()?;
    Ok(figures)
}

fn read(path: &Path) -> io::Result<f64> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut file = File::open(path)?;
    let started = Instant::now();
    while file.read(&mut buffer)? > 0 {}
    Ok(LARGE_BYTES as f64 / started.elapsed().as_secs_f64())
}

fn sync_often(path: &Path, page: &[u8]) -> io::Result<f64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let started = Instant::now();
    for number in 0..SYNCS {
        // All over the file, none twice.
        let index = number * 7919 % (LARGE_BYTES / PAGE_BYTES);
        file.write_all_at(page, (index * PAGE_BYTES) as u64)?;
        file.sync_data()?;
    }
    Ok(SYNCS as f64 / started.elapsed().as_secs_f64())
}

// --- a place of its own, and a vault in it ---

/// A directory that is removed when this is dropped.
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn make(directory: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            Failure::other(format!("{}: {error}; give a directory that you may write", directory.display()))
        };
        let directory = fs::canonicalize(directory).map_err(failed)?;
        let path = directory.join(format!(".sero-bench-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let scratch = Self { path };
        for folder in [scratch.plain(), scratch.mountpoint()] {
            fs::create_dir(folder).map_err(failed)?;
        }
        Ok(scratch)
    }

    pub(super) fn plain(&self) -> PathBuf {
        self.path.join("plain")
    }

    fn mountpoint(&self) -> PathBuf {
        self.path.join("open")
    }

    fn vault(&self) -> PathBuf {
        self.path.join("vault")
    }

    /// Makes a vault, and mounts it.
    pub(super) fn mount(&self) -> Result<MountedVault<'_>> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| Failure::other(format!("no randomness: {error}")))?;
        let vault = MountedVault { scratch: self, passphrase: HEXLOWER.encode(&key) };
        let cheap = ["--kdf-memory", "8", "--kdf-passes", "1", "--kdf-lanes", "1"];
        vault.sero("create", &cheap, &[&self.vault()])?;
        vault.open()?;
        Ok(vault)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A mounted vault in a [`Scratch`]; detached when this is dropped before [`MountedVault::end`].
pub(super) struct MountedVault<'a> {
    scratch: &'a Scratch,
    passphrase: String,
}

impl MountedVault<'_> {
    pub(super) fn mountpoint(&self) -> PathBuf {
        self.scratch.mountpoint()
    }

    /// What the kernel and the daemon know of it is gone then.
    pub(super) fn remount(&self) -> Result<()> {
        self.seal()?;
        self.open()
    }

    pub(super) fn end(self) -> Result<()> {
        self.seal()
    }

    fn open(&self) -> Result<()> {
        self.sero("mount", &[], &[&self.scratch.vault(), &self.scratch.mountpoint()])
    }

    fn seal(&self) -> Result<()> {
        let mut command = self.command()?;
        command.arg("seal").arg(self.scratch.mountpoint());
        finish(&mut command, None)
    }

    fn sero(&self, command: &str, options: &[&str], paths: &[&Path]) -> Result<()> {
        let mut call = self.command()?;
        call.arg(command).args(options).args(["--password-file", "-"]).args(paths);
        finish(&mut call, Some(&self.passphrase))
    }

    fn command(&self) -> Result<Command> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::other(format!("this program does not find itself: {error}")))?;
        let mut command = Command::new(program);
        // A Ctrl-C is for this process, which goes on to the end of the step.
        command.arg("--quiet").process_group(0);
        Ok(command)
    }
}

impl Drop for MountedVault<'_> {
    fn drop(&mut self) {
        // After `end` there is nothing mounted any more, and nothing happens. Detached only if it has to be: the directory is
        // removed next, and whoever seals works in it.
        if self.seal().is_err()
            && let Ok(mut command) = self.command()
        {
            command.args(["seal", "--lazy"]).arg(self.scratch.mountpoint());
            let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Runs it to the end; its error is this one's.
fn finish(command: &mut Command, passphrase: Option<&str>) -> Result<()> {
    let lost = |error: io::Error| Failure::other(format!("sero could not be started again: {error}"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(lost)?;
    if let (Some(mut stdin), Some(passphrase)) = (child.stdin.take(), passphrase) {
        // If nobody reads it, the exit code says why.
        let _ = writeln!(stdin, "{passphrase}");
    }
    let output = child.wait_with_output().map_err(lost)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::other(said.trim().trim_start_matches("sero: ").to_owned()))
}

//! docs/semantics.md, claim by claim: each test quotes the sentence that it shows (`tests/tidy.rs` compares the two).
//! Through the kernel, on a mounted vault.

#[path = "semantics/attributes.rs"]
mod attributes;
#[path = "semantics/differences.rs"]
mod differences;
#[path = "semantics/files.rs"]
mod files;
#[path = "cli/harness.rs"]
mod harness;
#[path = "semantics/limits.rs"]
mod limits;
#[path = "semantics/memory.rs"]
mod memory;
#[path = "semantics/names.rs"]
mod names;
#[path = "semantics/unnamed.rs"]
mod unnamed;

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::Command;

/// Fails where this process may not mount.
macro_rules! needs_mount {
    () => {
        crate::harness::can_mount();
    };
}
use needs_mount;

/// A new file, open for reading and writing.
fn new_file(path: impl AsRef<Path>) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

/// A vault for all users, who may pass through its top directory.
fn for_all() -> harness::Fixture {
    use std::os::unix::fs::PermissionsExt;
    let fixture = harness::Fixture::mounted(&["-o", "allow_other"]);
    fs::set_permissions(&fixture.mountpoint, fs::Permissions::from_mode(0o755)).unwrap();
    fixture
}

/// A filesystem of its own in memory; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        harness::run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "disk"]).arg(folder.path())).ok();
        Self(folder)
    }

    fn path(&self) -> std::path::PathBuf {
        fs::canonicalize(self.0.path()).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Runs a Python script in a directory: for calls that Rust has no safe way to.
#[track_caller]
fn python(directory: &Path, script: &str) -> String {
    harness::run(Command::new("python3").arg("-c").arg(script).current_dir(directory)).ok().stdout
}

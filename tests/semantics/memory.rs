//! What the daemon remembers. The mount is served by this process, so that its tables can be looked at.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, mpsc};

use sero::fs::Usage;
use sero::fuse::{Fs, FsOptions, MountOptions, MountRequest, MountedSession, Unmount, serve};
use sero::vault::{CreateOptions, KdfParams, Mode, Passphrase, PosixStorage, Vault, create, unlock};

use crate::harness::{LIMIT, eventually};
use crate::needs_mount;

struct Served {
    filesystem: Arc<Fs<PosixStorage>>,
    session: MountedSession,
    ended: mpsc::Receiver<std::io::Result<()>>,
    folder: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        let (vault, mountpoint) = (base.join("vault"), base.join("mount"));
        fs::create_dir(&vault).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        let passphrase = Passphrase::new(b"test".to_vec());
        let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        create(&vault, &CreateOptions { kdf, label: "test".into(), hint: None }, &passphrase).unwrap();
        let storage = PosixStorage::open(&vault).unwrap();
        let keys = unlock(&storage, &passphrase).unwrap();
        let opened = Vault::open(storage, keys, Mode::ReadWrite).unwrap();
        let filesystem = Arc::new(Fs::new(opened, FsOptions::for_this_process()).unwrap());
        let request = MountRequest { source: vault, mountpoint, options: MountOptions::default() };
        let (sender, ended) = mpsc::channel();
        let session = serve(filesystem.clone(), &request, move |outcome| sender.send(outcome).unwrap()).unwrap();
        Self { filesystem, session, ended, folder }
    }

    fn top(&self) -> &Path {
        self.session.mountpoint()
    }

    /// Drops caches until the daemon remembers just this: a process that another test starts has what this one has open, for a
    /// moment.
    #[track_caller]
    fn remembers(&self, expected: Usage) {
        eventually(&format!("{expected:?}"), || {
            self.drop_caches();
            self.filesystem.usage() == expected
        });
    }

    /// Has the kernel forget every inode that nobody uses: a remount drops all names that it remembers of this mount.
    fn drop_caches(&self) {
        rustix::mount::mount_remount(self.top(), rustix::mount::MountFlags::empty(), c"").unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.top(), rustix::mount::UnmountFlags::DETACH);
        let _ = &self.folder;
    }
}

/// > The daemon forgets what the kernel forgets: when nothing is in use and the caches are dropped, it remembers the top directory alone.
#[test]
fn only_the_root_is_remembered() {
    needs_mount!();
    let served = Served::new();
    let top = served.top();
    for round in 0..3 {
        let folder = top.join(format!("{round}"));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        for index in 0..300 {
            let path = folder.join(format!("file {index}"));
            fs::write(&path, "x").unwrap();
            match index % 6 {
                0 => fs::remove_file(&path).unwrap(),
                1 => fs::rename(&path, folder.join(format!("a/moved {index}"))).unwrap(),
                2 => fs::hard_link(&path, folder.join(format!("a/b/linked {index}"))).unwrap(),
                3 => std::os::unix::fs::symlink("x", folder.join(format!("a/link {index}"))).unwrap(),
                4 => fs::rename(&path, folder.join("replaced")).unwrap(),
                _ => {}
            }
        }
        // Listed with and without attributes, looked up in vain, and opened after the name is gone.
        for _ in 0..2 {
            for folder in [folder.clone(), folder.join("a"), folder.join("a/b")] {
                fs::read_dir(&folder).unwrap().for_each(|entry| drop(entry.unwrap().metadata()));
            }
        }
        assert!(File::open(folder.join("absent")).is_err());
        let open = File::open(folder.join("file 5")).unwrap();
        fs::remove_file(folder.join("file 5")).unwrap();
        assert!(served.filesystem.usage().nodes > 150);
        drop(open);
        served.remembers(Usage { nodes: 1, files: 0, directories: 0 });
    }
    // What is in use is remembered: the file, and the directories that lead to it.
    let open = File::open(top.join("0/a/b/linked 2")).unwrap();
    let listing = fs::read_dir(top.join("1")).unwrap();
    served.remembers(Usage { nodes: 6, files: 1, directories: 1 });
    drop((open, listing));
    served.remembers(Usage { nodes: 1, files: 0, directories: 0 });
    served.session.unmount(Unmount::IfIdle).unwrap();
    served.ended.recv_timeout(LIMIT).unwrap().unwrap();
    served.filesystem.shutdown().unwrap();
}

//! What no run comes to: a checkpoint that was given up half-way.

use super::*;
use crate::crypto::{KdfParams, Passphrase, VaultKeys};
use crate::storage::{SimDisk, SimStorage};
use crate::vault::create::{CreateOptions, create_on};
use crate::vault::directory::NewInode;
use crate::vault::unlock::unlock;
use crate::vault::{Mode, Vault};

fn open(disk: &SimDisk) -> Arc<Vault<SimStorage>> {
    let keys: VaultKeys = unlock(&disk.storage(), &Passphrase::new(b"correct horse".to_vec())).unwrap().into();
    Vault::open(disk.storage(), keys, Mode::ReadWrite).unwrap()
}

/// Its node and header images are of what the file was before it became a blob, or empty: the end mark of the next
/// checkpoint is not theirs.
#[test]
fn images_from_before_a_file_began_anew_do_not_count() {
    for (size, more) in [(100, 0), (0, 60_000)] {
        let disk = SimDisk::new(3);
        let options =
            CreateOptions { kdf: KdfParams { memory_kib: 8, passes: 1, lanes: 1 }, label: String::new(), hint: None };
        create_on(&disk.storage(), &options, &Passphrase::new(b"correct horse".to_vec())).unwrap();
        let vault = open(&disk);
        let (_, file) = vault.root().make_file(b"file", &NewInode { mode: 0o644, uid: None, gid: None }).unwrap();
        file.write(0, &[1; 600_000]).unwrap();
        file.sync().unwrap();
        file.write(5000, &[2; 5000]).unwrap();
        assert!(file.seal_for_checkpoint().unwrap().is_some());
        file.truncate(size).unwrap();
        file.write(size, &vec![3; more]).unwrap();
        let appended = vault.core.append(&[(Operation::CheckpointEnd, &[])]).unwrap();
        vault.core.sync_journal(appended.lsn).unwrap();
        let killed = disk.kill();
        drop((file, vault));

        let vault = open(&killed);
        let recovery = vault.recovery().unwrap();
        assert!(recovery.files == 1 && recovery.stale.is_empty() && recovery.damage.is_empty(), "{recovery}");
        let file = vault.root().open_file(b"file").unwrap();
        let mut content = vec![0; file.len_bytes() as usize];
        file.read(0, &mut content).unwrap();
        let expected = [vec![1; size as usize], vec![3; more]].concat();
        assert!(content == expected, "{size} and {more} bytes");
    }
}

use super::*;
use crate::storage::PosixStorage;

/// A folder with private/ in it.
fn backing() -> (tempfile::TempDir, PosixStorage) {
    let backing = tempfile::tempdir().unwrap();
    std::fs::create_dir(backing.path().join(PRIVATE)).unwrap();
    let storage = PosixStorage::open(backing.path()).unwrap();
    (backing, storage)
}

fn private(storage: &PosixStorage) -> <PosixStorage as Storage>::Dir {
    storage.open_dir(&storage.open_root().unwrap(), PRIVATE.as_ref()).unwrap()
}

fn exclusive(storage: &PosixStorage) -> Result<VaultLock<PosixStorage>> {
    VaultLock::exclusive(storage, &private(storage))
}

fn shared(storage: &PosixStorage) -> Result<VaultLock<PosixStorage>> {
    VaultLock::shared(storage, &private(storage))
}

#[test]
fn a_second_writer_is_refused_and_told_who_holds_the_vault() {
    let (_backing, storage) = backing();
    assert_eq!(holder(&storage).unwrap(), None);
    let held = exclusive(&storage).unwrap();
    for refused in [exclusive(&storage), shared(&storage)] {
        match refused {
            Err(VaultError::AlreadyMounted { holder }) => {
                assert_eq!(holder.pid, Some(std::process::id()));
                assert!(!holder.host.unwrap().is_empty() && holder.started.is_some());
            }
            _ => panic!("not refused"),
        }
    }
    assert_eq!(holder(&storage).unwrap().unwrap().pid, Some(std::process::id()));
    assert!(is_in_use(&storage).unwrap());
    drop(held);
    assert_eq!(holder(&storage).unwrap(), None);
    assert!(!is_in_use(&storage).unwrap());
    exclusive(&storage).unwrap();
}

#[test]
fn readers_share_and_exclude_a_writer() {
    let (_backing, storage) = backing();
    drop(exclusive(&storage).unwrap());
    let _readers = [shared(&storage).unwrap(), shared(&storage).unwrap()];
    // The writer that signed last has nothing to do with it.
    match exclusive(&storage) {
        Err(VaultError::AlreadyMounted { holder }) => assert_eq!(holder, Holder::default()),
        _ => panic!("not refused"),
    }
    assert_eq!(holder(&storage).unwrap(), None);
    assert!(is_in_use(&storage).unwrap());
}

/// "A stale lock of a dead process is not in the way."
#[test]
fn what_a_dead_process_left_is_not_in_the_way() {
    for content in ["", "{", "{\"host\":\"gone\",\"pid\":1,\"started\":1}\n", "\u{0}"] {
        let (backing, storage) = backing();
        std::fs::write(backing.path().join(PRIVATE).join(ENTRY), content).unwrap();
        assert_eq!(holder(&storage).unwrap(), None);
        exclusive(&storage).unwrap();
    }
}

#[test]
fn whoever_only_looks_is_not_in_the_way() {
    let (_backing, storage) = backing();
    drop(exclusive(&storage).unwrap());
    let looking = std::thread::scope(|scope| {
        let looker = scope.spawn(|| (0..200).filter(|_| is_in_use(&storage).unwrap()).count());
        let taken = (0..50).filter(|_| exclusive(&storage).is_ok()).count();
        looker.join().unwrap();
        taken
    });
    assert_eq!(looking, 50);
}

#[test]
fn two_who_look_see_nobody() {
    let (_backing, storage) = backing();
    drop(exclusive(&storage).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| (0..1000).for_each(|_| assert_eq!(holder(&storage).unwrap(), None)));
        (0..1000).for_each(|_| assert!(!is_in_use(&storage).unwrap()));
    });
}

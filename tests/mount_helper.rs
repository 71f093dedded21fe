//! mount(8), fstab and umount(8), by way of the names `mount.sero` and `umount.fuse.sero`.
//!
//! mount(8) looks for its helpers in /sbin. So that nothing of the machine is touched, everything happens in a mount
//! namespace of its own, with another /sbin and another /etc/fstab.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use harness::{Fixture, Outcome, can_mount, run, shell_in_namespace};

/// Runs a script as root where `mount -t sero` works and /etc/fstab is this text.
#[track_caller]
fn with_helpers(fixture: &Fixture, fstab: &str, script: &str) -> Outcome {
    let sbin = fixture.folder.path().join("sbin");
    fs::create_dir_all(&sbin).unwrap();
    for name in ["mount.sero", "mount.fuse.sero", "umount.sero", "umount.fuse.sero"] {
        let link = sbin.join(name);
        if !link.exists() {
            symlink(env!("CARGO_BIN_EXE_sero"), &link).unwrap();
        }
    }
    let table = fixture.folder.path().join("fstab");
    fs::write(&table, fstab).unwrap();
    let script = format!(
        "mount --bind {sbin} \"$(readlink -f /sbin)\"
         mount --bind {table} /etc/fstab
         mount -t tmpfs none /run
         mkdir /run/mount
         trap 'umount -i -l {mountpoint} 2>/dev/null || true' EXIT
         {script}",
        sbin = sbin.display(),
        table = table.display(),
        mountpoint = fixture.mountpoint.display(),
    );
    run(&mut shell_in_namespace(&script))
}

fn line(fixture: &Fixture, kind: &str, options: &str) -> String {
    format!(
        "{} {} {kind} passfile={},{options} 0 0\n",
        fixture.vault.display(),
        fixture.mountpoint.display(),
        fixture.passphrase.display()
    )
}

#[test]
fn a_line_of_fstab_mounts_and_umount_seals() {
    can_mount();
    for kind in ["sero", "fuse.sero"] {
        let fixture = Fixture::new();
        let options =
            "noauto,nofail,_netdev,x-systemd.automount,allow_other,noatime,idle=2h,max_session=1d,uhelper=sero";
        let script = "
            mount \"$MOUNTPOINT\"
            echo content >\"$MOUNTPOINT/file\"
            findmnt -n -o FSTYPE,SOURCE,OPTIONS \"$MOUNTPOINT\"
            \"$SERO\" status --json \"$MOUNTPOINT\"
            umount \"$MOUNTPOINT\"
            \"$SERO\" info --json \"$VAULT\"
            mount \"$MOUNTPOINT\" -o ro
            cat \"$MOUNTPOINT/file\"
            if echo more >\"$MOUNTPOINT/new\"; then exit 90; fi
            umount \"$MOUNTPOINT\"";
        let said = with_helpers(&fixture, &line(&fixture, kind, options), &variables(&fixture, script)).ok().stdout;
        for part in ["fuse.sero", "noatime", "allow_other", "\"idle_limit\": 7200", "\"limit\": 86400", "content"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // When umount returned, the vault was at rest.
        assert!(said.contains("\"sealed\": true"), "{said}");
        assert_eq!(fixture.info()["sealed"], true);
    }
}

fn variables(fixture: &Fixture, script: &str) -> String {
    format!(
        "MOUNTPOINT='{}' VAULT='{}' PASSFILE='{}' SERO='{}'\n{script}",
        fixture.mountpoint.display(),
        fixture.vault.display(),
        fixture.passphrase.display(),
        env!("CARGO_BIN_EXE_sero")
    )
}

#[test]
fn the_command_line_of_mount() {
    can_mount();
    let fixture = Fixture::new();
    let script = "
        mount -t sero -o ro,passfile=\"$PASSFILE\" \"$VAULT\" \"$MOUNTPOINT\"
        findmnt -n -o OPTIONS \"$MOUNTPOINT\" | grep -q '^ro'
        \"$SERO\" seal \"$MOUNTPOINT\"
        mount -t fuse.sero -o passfile=\"$PASSFILE\" \"$VAULT\" \"$MOUNTPOINT\"
        echo x >\"$MOUNTPOINT/file\"
        umount \"$MOUNTPOINT\"";
    with_helpers(&fixture, "", &variables(&fixture, script)).ok();
    harness::eventually("sealed", || fixture.info()["sealed"] == true);
}

#[test]
fn what_went_well_is_not_said_unless_asked_for() {
    can_mount();
    for (flags, said) in [("", ["", ""]), ("-v", ["is mounted on", "is sealed"])] {
        let fixture = Fixture::new();
        let script = format!(
            "exec 3>\"$VAULT.mounted\" 4>\"$VAULT.sealed\"
             /sbin/mount.sero \"$VAULT\" \"$MOUNTPOINT\" {flags} -o passfile=\"$PASSFILE\" >&3 2>&3
             /sbin/umount.sero \"$MOUNTPOINT\" {flags} >&4 2>&4"
        );
        with_helpers(&fixture, "", &variables(&fixture, &script)).ok();
        for (what, said) in ["mounted", "sealed"].into_iter().zip(said) {
            let found = fs::read_to_string(fixture.vault.with_extension(what)).unwrap();
            assert!(if said.is_empty() { found.is_empty() } else { found.contains(said) }, "{what} {flags}: {found:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_the_exit_codes_of_mount() {
    can_mount();
    let fixture = Fixture::new();
    let mount = |options: &str| {
        let script = format!("mount -t sero -o {options} \"$VAULT\" \"$MOUNTPOINT\"");
        with_helpers(&fixture, "", &variables(&fixture, &script))
    };
    mount("colour=red,passfile=/dev/null").fails(1, "the mount option `colour=red` is not known");
    mount("idle=soon").fails(1, "--idle");
    mount("passfile=/no/such/file").fails(32, "/no/such/file");
    fs::write(&fixture.passphrase, "wrong\n").unwrap();
    mount("passfile=\"$PASSFILE\"").fails(32, "wrong passphrase");
    assert!(fixture.mounts().is_empty());
}

#[test]
fn nofail_lets_a_vault_be_missing_and_nothing_else() {
    can_mount();
    let fixture = Fixture::new();
    let missing = format!("/no/such/vault {} sero nofail 0 0\n", fixture.mountpoint.display());
    with_helpers(&fixture, &missing, "mount -a").ok();
    let wrong = line(&fixture, "sero", "nofail,colour=red");
    let outcome = with_helpers(&fixture, &wrong, &variables(&fixture, "mount \"$MOUNTPOINT\""));
    outcome.fails(1, "colour=red");
}

/// By the name alone: as mount(8) does it, without mount(8).
#[test]
fn an_ordinary_user_by_the_name_alone() {
    harness::users_can_mount();
    let fixture = Fixture::new();
    let helper = fixture.folder.path().join("mount.sero");
    symlink(env!("CARGO_BIN_EXE_sero"), &helper).unwrap();
    let as_user = |program: &Path| {
        let mut command = Command::new(program);
        command.uid(harness::NOBODY).gid(harness::NOBODY);
        command
    };
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(harness::NOBODY), Some(harness::NOBODY)).unwrap();
    let tree = run(Command::new("chown").arg("-R").arg(format!("{0}:{0}", harness::NOBODY)).arg(&fixture.vault));
    tree.ok();
    own(&fixture.mountpoint);
    own(&fixture.passphrase);
    let mut command = as_user(&helper);
    command.arg(&fixture.vault).arg(&fixture.mountpoint).arg("-o");
    run(command.arg(format!("rw,user=nobody,passfile={}", fixture.passphrase.display()))).ok();
    assert_eq!(fixture.mounts()[0].user_id(), Some(harness::NOBODY));
    let status = run(as_user(Path::new(env!("CARGO_BIN_EXE_sero"))).arg("status").arg(&fixture.mountpoint)).ok();
    assert!(status.stdout.contains(&format!("by user {}", harness::NOBODY)), "{status:?}");
    // Root may ask, too.
    run(harness::sero().arg("status").arg(&fixture.mountpoint)).ok();
    let unmounter = fixture.folder.path().join("umount.fuse.sero");
    symlink(env!("CARGO_BIN_EXE_sero"), &unmounter).unwrap();
    run(as_user(&unmounter).arg(&fixture.mountpoint)).ok();
    assert_eq!(fixture.info()["sealed"], true);
}

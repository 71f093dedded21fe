//! `sero seal MOUNTPOINT|VAULT`, also `sero unmount`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::Context;
use super::control::{self, Endpoint, Request, Response, Unreachable};
use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::mount::ENDING;
use super::opening::{Backing, POLL, is_mount_of};
use super::paths;
use crate::fuse::mountinfo::{self, Mount};
use crate::fuse::{self, FuseError, Lost, Unmount};
use crate::vault::Holder;

/// How long the kernel may take to detach a mount whose daemon does not answer.
const DETACH_LIMIT: Duration = Duration::from_secs(10);
const LISTED: &str = "`sero status` lists what is mounted";
/// How long a mount may be busy without anybody who can be named.
const GLANCE: Duration = Duration::from_secs(3);
/// After this it is said what is waited for.
const SILENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero seal ~/papers            by the mountpoint
  sero seal ~/papers.sero       by the vault
  sero seal --lazy /srv/data    detach it now; it is sealed when the last file is closed

When it returns 0 without --lazy, the vault is at rest and can be copied. A mount whose process
has died is cleaned up, too. `umount` and `fusermount3 -u` seal as well, but return before it is
done.")]
pub(super) struct SealArguments {
    /// Where the vault is mounted, or the vault itself
    #[arg(value_name = "MOUNTPOINT|VAULT")]
    target: PathBuf,

    /// Detach it even if it is in use; sealing waits for the last user
    #[arg(long, short = 'z')]
    lazy: bool,
}

pub(super) fn run(arguments: &SealArguments, context: &Context) -> Result<()> {
    let mounts = mountinfo::read().map_err(|error| Failure::other(format!("/proc/self/mountinfo: {error}")))?;
    let Some(mount) = find(&mounts, &arguments.target) else {
        return wait_for_ending(arguments, context);
    };
    let daemon = Daemon::behind(&mount);
    match daemon {
        Daemon::Dead => return clean_up(&mount, context),
        Daemon::Silent if arguments.lazy => return detach_silent(&mount, context),
        Daemon::Silent => {
            return Err(Failure::from(Unreachable::Silent)
                .about(format!("{}: it cannot be sealed now (--lazy detaches it)", mount.mountpoint.display())));
        }
        // What the kernel holds is written now, so that afterwards it is known what did not fit.
        Daemon::Answers { .. } if !arguments.lazy => write_back(&mount),
        Daemon::Answers { .. } | Daemon::Unknown => {}
    }
    let lost = lost(&mount);
    let vault = Path::new(&mount.source);
    // The place of the vault may not answer, either.
    let is_waited_for = !arguments.lazy && !mount.is_read_only();
    let holder =
        is_waited_for.then(|| Backing::find(vault).and_then(|backing| backing.holder()).ok().flatten()).flatten();
    let how = if arguments.lazy { Unmount::Lazily } else { Unmount::IfIdle };
    unmount(&mounts, &mount, how)?;
    if arguments.lazy {
        context.say(&format!(
            "{} is detached; {} is sealed when its last user is gone",
            mount.mountpoint.display(),
            vault.display()
        ));
        return Ok(());
    }
    wait_until_sealed(vault, &mount, (daemon, holder), context)?;
    match lost {
        Some(lost) if lost.files > 0 => return Err(writes_lost(&vault.display().to_string(), lost)),
        None if !mount.is_read_only() => log::warn!("{}", unknown_losses(vault)),
        _ => {}
    }
    context.say(&format!("{} is sealed", vault.display()));
    Ok(())
}

/// Best effort: unmounting does it as well.
fn write_back(mount: &Mount) {
    let written = File::open(&mount.mountpoint).and_then(|root| fuse::write_back(&root, mount.device, GLANCE));
    if let Err(error) = written {
        log::debug!("{}: not written back before it is unmounted: {error}", mount.mountpoint.display());
    }
}

/// What programs wrote and the vault could not take, if its daemon says it.
fn lost(mount: &Mount) -> Option<Lost> {
    match control::exchange(&Endpoint::of(mount), &Request::Status) {
        Ok(Response::Status(status)) => Some(Lost { files: status.errors.lost_files, bytes: status.errors.lost_bytes }),
        Ok(_) | Err(_) => None,
    }
}

fn unknown_losses(vault: &Path) -> String {
    format!(
        "whether everything that was written is in {} is not known: its process could not be asked; its log says so if \
         something was lost",
        vault.display()
    )
}

/// A vault that is sealed, and lacks something all the same.
pub(super) fn writes_lost(vault: &str, lost: Lost) -> Failure {
    let Lost { files, bytes } = lost;
    Failure::new(
        ExitCode::WritesLost,
        format!(
            "{vault} is sealed and whole, but {bytes} bytes that programs wrote to {files} file(s) are not in it: they did not \
             fit, or the filesystem under it refused them (the log says when); make room, mount it, and write these files \
             again"
        ),
    )
}

/// The process behind a mount.
#[derive(Clone, Copy)]
enum Daemon {
    Answers {
        pid: u32,
    },
    /// Killed: there is nobody to seal the vault, only a mount to clean up.
    Dead,
    /// Stopped, or stuck: an ordinary unmount would wait for it, and could not be interrupted.
    Silent,
    /// It cannot be asked, by us.
    Unknown,
}

impl Daemon {
    fn behind(mount: &Mount) -> Self {
        let endpoint = Endpoint::of(mount);
        match control::exchange(&endpoint, &Request::Status) {
            Ok(Response::Status(status)) => Self::Answers { pid: status.pid },
            Ok(_) => Self::Unknown,
            Err(Unreachable::Silent) => Self::Silent,
            // Only now is the mount itself asked: nobody may answer there.
            Err(Unreachable::Dead) if fuse::is_dead(&mount.mountpoint) => Self::Dead,
            Err(_) if fuse::looks_dead(&mount.mountpoint) => Self::Dead,
            Err(_) => Self::Unknown,
        }
    }
}

/// Somebody's look at the mount (`fuser`, `df`, a process that is just ending) keeps it for a moment, too: busy is what is
/// used by somebody who can be named, or stays so.
fn unmount(mounts: &[Mount], mount: &Mount, how: Unmount) -> Result<()> {
    let deadline = Instant::now() + GLANCE;
    loop {
        if !is_there(mount)? {
            // Somebody else has unmounted it meanwhile.
            return Ok(());
        }
        match fuse::unmount(&mount.mountpoint, how) {
            Ok(()) => return Ok(()),
            Err(FuseError::Busy { .. }) => {
                let users = users(mounts, mount);
                if !users.is_empty() || Instant::now() > deadline {
                    return Err(busy(mount, &users));
                }
                thread::sleep(POLL);
            }
            Err(FuseError::NotMounted { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether it still stands where it stood.
///
/// # Errors
/// If another one stands on it: an unmount would take that.
fn is_there(mount: &Mount) -> Result<bool> {
    let mounts = mountinfo::read().map_err(|error| Failure::other(format!("/proc/self/mountinfo: {error}")))?;
    // Its number is given out again as well.
    let is_it = |other: &Mount| other.id == mount.id && other.is_same(mount);
    match mountinfo::at(&mounts, &mount.mountpoint) {
        Some(uppermost) if is_it(&uppermost) => Ok(true),
        Some(uppermost) if mounts.iter().any(is_it) => Err(Failure::new(
            ExitCode::Busy,
            format!(
                "{} is covered by another mount ({}); unmount that first",
                mount.mountpoint.display(),
                uppermost.filesystem_type
            ),
        )),
        _ => Ok(false),
    }
}

fn clean_up(mount: &Mount, context: &Context) -> Result<()> {
    // Whoever still has something of it open can do nothing with it.
    if is_there(mount)? {
        fuse::unmount(&mount.mountpoint, Unmount::Lazily)?;
    }
    Endpoint::of(mount).remove_leftover();
    let (shown, vault) = (mount.mountpoint.display(), Path::new(&mount.source));
    // Its connection may have been cut: then its process sealed before it ended.
    context.say(&if Backing::find(vault).is_ok_and(|backing| backing.is_sealed().unwrap_or(false)) {
        format!("{shown} is unmounted; its process had ended, and {} is sealed", vault.display())
    } else {
        format!(
            "{shown} is unmounted; its process had died, so that {} was not sealed: the next mount repairs it",
            vault.display()
        )
    });
    Ok(())
}

/// The kernel may have dirty pages for a daemon that does not take them, and whoever unmounts waits for that: so
/// another process does it, and we wait for the mount alone to go.
fn detach_silent(mount: &Mount, context: &Context) -> Result<()> {
    let shown = mount.mountpoint.display();
    if is_there(mount)? {
        fuse::begin_detaching(&mount.mountpoint)?;
    }
    let deadline = Instant::now() + DETACH_LIMIT;
    while is_there(mount)? {
        if Instant::now() > deadline {
            return Err(Failure::new(
                ExitCode::DaemonUnreachable,
                format!("{shown} could not be detached; end its process"),
            ));
        }
        thread::sleep(POLL);
    }
    context.say(&format!(
        "{shown} is detached; its process does not answer: {} is sealed when it goes on, and repaired by the next mount \
         if it is ended",
        Path::new(&mount.source).display()
    ));
    Ok(())
}

/// The vault's mount at this path, or of this vault; the uppermost one.
pub(super) fn find(mounts: &[Mount], target: &Path) -> Option<Mount> {
    // First without touching the target itself: nobody may answer there.
    let untouched = paths::canonical_parent(target);
    let matches = |path: &Path| {
        let vaults = || mounts.iter().rev().filter(|mount| mount.is_vault());
        vaults()
            .find(|mount| mount.mountpoint == path)
            .or_else(|| vaults().find(|mount| is_mount_of(mount, path)))
            .cloned()
    };
    untouched.as_deref().and_then(matches).or_else(|| fs::canonicalize(target).ok().as_deref().and_then(matches))
}

/// It is mounted nowhere: its process may be sealing it (`umount` returns before that is done).
fn wait_for_ending(arguments: &SealArguments, context: &Context) -> Result<()> {
    let target = arguments.target.as_path();
    let holder = |backing: &Backing| backing.holder().ok().flatten();
    let Ok(backing) = Backing::find(target) else { return Err(not_mounted(target)) };
    let Some(ending) = holder(&backing).filter(|holder| backing.is_ending(holder)) else {
        return Err(not_mounted(target));
    };
    let vault = backing.path().display();
    let process = ending.pid.unwrap_or_default();
    let started = Instant::now();
    let mut said = false;
    // At its end a session takes its name off first.
    while holder(&backing).is_some_and(|now| now.pid.is_none() || now == ending) {
        if !backing.mounts().is_empty() {
            // It has only just begun.
            return run(arguments, context);
        }
        if started.elapsed() > ENDING {
            return Err(Failure::new(
                ExitCode::NotMounted,
                format!(
                    "{vault} is mounted nowhere, and process {process} still has it (it works on it, or a file of it is open in \
                     what was detached); it is sealed when that ends"
                ),
            ));
        }
        if !said && started.elapsed() > SILENCE {
            said = true;
            context.note(&format!("waiting until process {process} has let go of {vault}"));
        }
        thread::sleep(POLL);
    }
    if backing.rest()? != (false, true) {
        return Err(not_mounted(target));
    }
    log::warn!("{}", unknown_losses(backing.path()));
    context.say(&format!("{vault} is sealed"));
    Ok(())
}

pub(super) fn not_mounted(target: &Path) -> Failure {
    let shown = target.display();
    let message = match Backing::find(target).and_then(|vault| Ok((vault.is_vault(), vault.rest()?))) {
        Ok((true, (false, true))) => format!("{shown} is not mounted; it is sealed already"),
        Ok((true, (false, false))) => {
            format!("{shown} is not mounted, and was not sealed cleanly; mount it once to repair it, then seal it")
        }
        Ok((true, (true, _))) => {
            format!("{shown} is in use, but not mounted where this process can see it; seal it where it is mounted")
        }
        Ok((false, _)) => format!("{shown} is neither a vault nor where one is mounted; {LISTED}"),
        Err(_) if fs::symlink_metadata(target).is_ok() => {
            format!("{shown} is neither a vault nor where one is mounted; {LISTED}")
        }
        Err(_) => format!("{shown} does not exist; {LISTED}"),
    };
    Failure::new(ExitCode::NotMounted, message)
}

fn users(mounts: &[Mount], mount: &Mount) -> Vec<String> {
    let processes = fuse::processes_using(mount.device);
    let nested = fuse::mounts_on(mounts, mount);
    let mut users: Vec<String> = processes.iter().map(ToString::to_string).collect();
    users.extend(nested.iter().map(|path| format!("the mount on {}", path.display())));
    users
}

fn busy(mount: &Mount, users: &[String]) -> Failure {
    let by = if users.is_empty() {
        "by processes that only root can see, or by the kernel (a loop device, a swap file)".to_owned()
    } else {
        format!("by {}", users.join(", "))
    };
    Failure::new(
        ExitCode::Busy,
        format!(
            "{} is in use {by}; close it there (a shell whose directory is inside counts, too), or detach it with --lazy",
            mount.mountpoint.display()
        ),
    )
}

/// Until the daemon has let go of the vault, however long it has to write. `holder`: whose it was just before it was unmounted.
fn wait_until_sealed(
    vault: &Path,
    mount: &Mount,
    (daemon, holder): (Daemon, Option<Holder>),
    context: &Context,
) -> Result<()> {
    if mount.is_read_only() {
        // Nothing to write, and others may be reading still: only this one's end matters.
        if let Daemon::Answers { pid } = daemon {
            wait_for_end(pid);
        }
        return Ok(());
    }
    if matches!(fs::symlink_metadata(vault), Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
        return Err(Failure::new(
            ExitCode::BackingIo,
            format!(
                "{} is unmounted, but {} is not where it was when it was mounted (moved, removed, or on a disk that was \
                 detached); find it, and copy it when `sero info` says there that it is sealed",
                mount.mountpoint.display(),
                vault.display()
            ),
        ));
    }
    let Ok(backing) = Backing::find(vault) else {
        // Another user's vault: root unmounts and cannot look (a network filesystem).
        log::warn!("{}: cannot be read, so that the end of sealing is not seen", vault.display());
        return Ok(());
    };
    let started = Instant::now();
    let mut said = false;
    let holder = if holder.is_some() { holder } else { backing.holder()? };
    while let Some(now) = backing.holder()? {
        // At its end a session takes its name off first.
        if now.pid.is_some() && Some(&now) != holder.as_ref() {
            // The next has begun, which the end of this one allowed it.
            return Ok(());
        }
        if !said && started.elapsed() > SILENCE {
            said = true;
            check_other_places(mount)?;
            context.note(&format!("waiting until everything is written to {}", vault.display()));
        }
        thread::sleep(POLL);
    }
    // Not at rest: the next session may just have begun.
    if backing.is_sealed()? || backing.holder()?.is_some() || backing.is_sealed()? {
        Ok(())
    } else {
        Err(Failure::new(
            ExitCode::BackingIo,
            format!(
                "{} is unmounted, but could not be sealed (the log says why); see to the filesystem under it (is it full?), \
                 then mount the vault again and seal it; do not copy it before",
                vault.display()
            ),
        ))
    }
}

/// Until a process has ended, if it is soon: it may have another mount namespace, or live in another of processes.
fn wait_for_end(pid: u32) {
    let deadline = Instant::now() + SILENCE;
    let process = PathBuf::from(format!("/proc/{pid}"));
    while process.exists() && Instant::now() < deadline {
        thread::sleep(POLL);
    }
}

/// A mount that was bound to another place, or copied into other mount namespaces (services, containers),
/// lives on there.
fn check_other_places(mount: &Mount) -> Result<()> {
    let here = mountinfo::read().unwrap_or_default();
    let mut places: Vec<String> =
        here.iter().filter(|other| other.is_same(mount)).map(|other| other.mountpoint.display().to_string()).collect();
    if places.is_empty() {
        let processes = fuse::processes_seeing(mount);
        places.extend(processes.iter().map(|process| format!("the mount namespace of process {process}")));
    }
    if places.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Busy,
        format!(
            "{} is unmounted, but the vault is still mounted on {}; it is sealed when that ends",
            mount.mountpoint.display(),
            places.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::DeviceNumber;

    fn mount(mountpoint: &str, source: &str) -> Mount {
        Mount {
            id: 1,
            parent_id: 0,
            device: DeviceNumber { major: 0, minor: 9 },
            mountpoint: mountpoint.into(),
            options: "rw".into(),
            filesystem_type: mountinfo::FILESYSTEM_TYPE.into(),
            source: source.into(),
            super_options: String::new(),
        }
    }

    #[test]
    fn found_by_mountpoint_and_by_vault() {
        let mounts = [mount("/mnt", "/srv/vault"), mount("/srv", "/other")];
        let found = |target: &str| find(&mounts, Path::new(target)).map(|mount| mount.mountpoint);
        assert_eq!(found("/mnt"), Some("/mnt".into()));
        assert_eq!(found("/srv"), Some("/srv".into()));
        assert_eq!(found("/other"), Some("/srv".into()));
        assert_eq!(found("/"), None);
    }

    #[test]
    fn another_filesystem_is_not_ours_to_unmount() {
        let other = Mount { filesystem_type: "fuse.sshfs".into(), ..mount("/mnt", "host:") };
        assert_eq!(find(&[other], Path::new("/mnt")), None);
    }
}

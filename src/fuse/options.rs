//! Mount options: what `-o` accepts, and what becomes of it for mount(2) and for fusermount3.
//!
//! The words are those of mount(8) and mount.fuse(8), so that lines of fstab and habits carry over. Root's
//! mounts honour set-user-id bits and devices as ext4 does, unless `nosuid` or `nodev` is given; for
//! ordinary users fusermount3 forces both off, whatever is asked.

use rustix::mount::MountFlags;

/// What the user asked for, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Refuse changes.
    pub read_only: bool,
    /// Users other than the one who mounts may enter; ownership and permissions decide what they may do.
    pub allow_other: bool,
    /// Mount over a directory that has entries.
    pub nonempty: bool,
    /// Honour set-user-id and set-group-id bits (root's mounts only).
    pub suid: bool,
    /// Honour device nodes (root's mounts only).
    pub dev: bool,
    /// Allow programs to be run.
    pub exec: bool,
    /// Every write is synchronous.
    pub sync: bool,
    /// Every change of a directory is synchronous.
    pub dirsync: bool,
    /// When a read updates the access time.
    pub access_time: AccessTime,
    /// Directories' access times are left alone.
    pub nodiratime: bool,
    /// Times are written lazily.
    pub lazytime: bool,
    /// Requests come over io_uring where the kernel can do that.
    pub io_uring: bool,
}

/// When reading updates the access time (mount(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessTime {
    /// When it is older than the modification, or than a day.
    Relative,
    /// Always.
    Strict,
    /// Never.
    Never,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: false,
            nonempty: false,
            suid: true,
            dev: true,
            exec: true,
            sync: false,
            dirsync: false,
            access_time: AccessTime::Relative,
            nodiratime: false,
            lazytime: false,
            io_uring: true,
        }
    }
}

/// An option that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mount option `{0}` is not known")]
pub struct UnknownOption(pub String);

impl MountOptions {
    /// Applies one comma-separated list, as `-o` gives it; of contradictory options the last one counts.
    pub fn apply(&mut self, list: &str) -> Result<(), UnknownOption> {
        list.split(',').filter(|option| !option.is_empty()).try_for_each(|option| self.apply_one(option))
    }

    fn apply_one(&mut self, option: &str) -> Result<(), UnknownOption> {
        match option {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "nonempty" => self.nonempty = true,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dirsync = true,
            "relatime" | "atime" | "nostrictatime" => self.access_time = AccessTime::Relative,
            "strictatime" | "norelatime" => self.access_time = AccessTime::Strict,
            "noatime" => self.access_time = AccessTime::Never,
            "diratime" => self.nodiratime = false,
            "nodiratime" => self.nodiratime = true,
            "lazytime" => self.lazytime = true,
            "nolazytime" => self.lazytime = false,
            "io_uring" => self.io_uring = true,
            "no_io_uring" => self.io_uring = false,
            "defaults" => {
                let Self { allow_other, nonempty, io_uring, .. } = *self;
                *self = Self { allow_other, nonempty, io_uring, ..Self::default() };
            }
            // Always so.
            "default_permissions" => {}
            // For mount(8) and systemd, not for the filesystem.
            "auto" | "noauto" | "nofail" | "user" | "nouser" | "users" | "owner" | "group" | "_netdev" => {}
            option if ["x-", "X-", "comment=", "user=", "uhelper="].iter().any(|start| option.starts_with(start)) => {}
            option => return Err(UnknownOption(option.to_owned())),
        }
        Ok(())
    }

    /// The flags for mount(2).
    pub(super) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NOSUID, !self.suid);
        flags.set(MountFlags::NODEV, !self.dev);
        flags.set(MountFlags::NOEXEC, !self.exec);
        flags.set(MountFlags::SYNCHRONOUS, self.sync);
        flags.set(MountFlags::DIRSYNC, self.dirsync);
        flags.set(MountFlags::NODIRATIME, self.nodiratime);
        flags.set(MountFlags::LAZYTIME, self.lazytime);
        match self.access_time {
            AccessTime::Relative => flags |= MountFlags::RELATIME,
            AccessTime::Strict => flags |= MountFlags::STRICTATIME,
            AccessTime::Never => flags |= MountFlags::NOATIME,
        }
        flags
    }

    /// The words for fusermount3, which knows the flags by name. `suid` and `dev` are not its to give.
    pub(super) fn words(&self) -> Vec<&'static str> {
        let mut words = vec![if self.read_only { "ro" } else { "rw" }, "nosuid", "nodev"];
        let optional = [
            (!self.exec, "noexec"),
            (self.sync, "sync"),
            (self.dirsync, "dirsync"),
            (self.nodiratime, "nodiratime"),
            (self.lazytime, "lazytime"),
            (self.access_time == AccessTime::Never, "noatime"),
            (self.access_time == AccessTime::Strict, "strictatime"),
            (self.allow_other, "allow_other"),
        ];
        words.extend(optional.iter().filter(|(on, _)| *on).map(|(_, word)| *word));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Result<MountOptions, UnknownOption> {
        let mut options = MountOptions::default();
        options.apply(list)?;
        Ok(options)
    }

    #[test]
    fn roots_default_is_as_ext4() {
        let flags = MountOptions::default().flags();
        assert!(!flags.intersects(MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY));
        assert!(flags.contains(MountFlags::RELATIME));
    }

    #[test]
    fn the_last_of_contradictory_options_counts() {
        let options = parsed("ro,nosuid,rw,noatime,nodev,dev").unwrap();
        assert!(!options.read_only && !options.suid && options.dev);
        assert_eq!(options.access_time, AccessTime::Never);
    }

    #[test]
    fn lines_of_fstab_are_understood() {
        let options = parsed("defaults,noauto,nofail,x-systemd.automount,_netdev,allow_other").unwrap();
        assert_eq!(options, MountOptions { allow_other: true, ..MountOptions::default() });
    }

    #[test]
    fn defaults_are_those_of_mount_8() {
        let options = parsed("nosuid,no_io_uring,allow_other,defaults").unwrap();
        assert_eq!(options, MountOptions { allow_other: true, io_uring: false, ..MountOptions::default() });
    }

    #[test]
    fn an_unknown_option_is_named() {
        assert_eq!(parsed("ro,colour=red"), Err(UnknownOption("colour=red".to_owned())));
    }

    #[test]
    fn users_never_get_suid_or_dev() {
        let words = parsed("suid,dev,ro,noexec").unwrap().words();
        assert_eq!(words, ["ro", "nosuid", "nodev", "noexec"]);
    }
}

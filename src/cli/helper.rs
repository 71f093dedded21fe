//! Called by another name: as the helper of mount(8) and umount(8), for lines of fstab and `mount -t sero`.
//!
//! mount(8) runs `/sbin/mount.TYPE SPEC DIR [-sfnvrw] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]` (its manual, "External
//! helpers"), and expects its own exit codes. What is understood here becomes an ordinary command line of sero.
//!
//! Options of sero that have a value can stand in `-o` as well, there and in `sero mount`: fstab has no other place.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use crate::fuse::MountOptions;

/// In `-o`, and what it is on the command line.
const VALUES: [(&[u8], &str); 6] = [
    (b"passfile=", "--password-file"),
    (b"keyfile=", "--keyfile"),
    (b"config=", "--config"),
    (b"idle=", "--idle"),
    (b"max_session=", "--max-session"),
    (b"seal_on=", "--seal-on"),
];

/// As whom this process was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// As sero.
    Program,
    /// By mount(8) or umount(8).
    Helper {
        /// With the option `nofail`: that this is missing is no error.
        may_be_missing: Option<PathBuf>,
        /// Only to pretend (`mount -f`).
        pretend: bool,
    },
}

impl Role {
    /// The exit code that the caller expects.
    pub(super) fn exit_code(&self, code: ExitCode) -> std::process::ExitCode {
        /// "incorrect invocation or permissions", "mount failure" (mount(8)).
        const INVOCATION: u8 = 1;
        const FAILURE: u8 = 32;
        match (self, code) {
            (Self::Program, code) => code.into(),
            (Self::Helper { .. }, ExitCode::Ok) => ExitCode::Ok.into(),
            (Self::Helper { .. }, ExitCode::Usage) => INVOCATION.into(),
            (Self::Helper { .. }, _) => FAILURE.into(),
        }
    }

    /// Whether only what went wrong is said, unless `-v` asks for more.
    pub(super) fn is_silent_on_success(&self) -> bool {
        matches!(self, Self::Helper { .. })
    }

    /// Whether there is nothing to do.
    pub(super) fn is_excused(&self) -> bool {
        match self {
            Self::Program => false,
            Self::Helper { may_be_missing, pretend } => {
                *pretend || may_be_missing.as_deref().is_some_and(|vault| !vault.exists())
            }
        }
    }
}

/// As whom this process was called, by its own name.
pub(super) fn role_of(arguments: &[OsString]) -> Role {
    match program(arguments) {
        Some("mount.sero" | "mount.fuse.sero" | "umount.sero" | "umount.fuse.sero") => {
            Role::Helper { may_be_missing: None, pretend: false }
        }
        _ => Role::Program,
    }
}

fn program(arguments: &[OsString]) -> Option<&str> {
    Path::new(arguments.first()?).file_name()?.to_str()
}

/// The command line that is meant.
pub(super) fn understand(arguments: Vec<OsString>) -> Result<(Role, Vec<OsString>)> {
    match program(&arguments) {
        Some("mount.sero" | "mount.fuse.sero") => mount_helper(arguments.get(1..).unwrap_or_default()),
        Some("umount.sero" | "umount.fuse.sero") => unmount_helper(arguments.get(1..).unwrap_or_default()),
        _ => Ok((Role::Program, expand(arguments))),
    }
}

fn mount_helper(arguments: &[OsString]) -> Result<(Role, Vec<OsString>)> {
    let mut words = Words::new(arguments);
    let (mut places, mut lists) = (Vec::new(), Vec::new());
    let (mut pretend, mut sloppy) = (false, false);
    let mut line: Vec<OsString> = ["sero", "mount"].map(OsString::from).to_vec();
    while let Some(word) = words.next() {
        match word {
            Word::Place(place) => places.push(place),
            Word::Flag(b'o') => lists.push(words.value("-o")?),
            // The namespace was entered by mount(8); the type is known.
            Word::Flag(b'N' | b't') => drop(words.value("-N and -t")?),
            Word::Flag(b'f') => pretend = true,
            Word::Flag(b's') => sloppy = true,
            Word::Flag(b'v') => line.push("-v".into()),
            Word::Flag(b'r') => lists.push("ro".into()),
            Word::Flag(b'w') => lists.push("rw".into()),
            Word::Flag(b'n') => {}
            Word::Flag(other) => return Err(unknown(other)),
        }
    }
    let [vault, mountpoint] = <[OsString; 2]>::try_from(places)
        .map_err(|_| Failure::new(ExitCode::Usage, "give a vault and a mountpoint: mount -t sero VAULT MOUNTPOINT"))?;
    let mut may_be_missing = None;
    for list in &lists {
        let (values, mut rest) = split(list);
        line.extend(values);
        if rest.iter().any(|option| option == "nofail") {
            may_be_missing = Some(PathBuf::from(&vault));
        }
        if sloppy {
            rest.retain(|option| option.to_str().is_some_and(|option| MountOptions::default().apply(option).is_ok()));
        }
        line.extend(["-o".into(), rest.join(OsStr::new(","))]);
    }
    line.extend(["--".into(), vault, mountpoint]);
    Ok((Role::Helper { may_be_missing, pretend }, line))
}

fn unmount_helper(arguments: &[OsString]) -> Result<(Role, Vec<OsString>)> {
    let mut words = Words::new(arguments);
    let mut places = Vec::new();
    let mut line: Vec<OsString> = ["sero", "seal"].map(OsString::from).to_vec();
    while let Some(word) = words.next() {
        match word {
            Word::Place(place) => places.push(place),
            Word::Flag(b'l') => line.push("--lazy".into()),
            Word::Flag(b'v') => line.push("-v".into()),
            Word::Flag(b'N' | b't' | b'O') => drop(words.value("-N, -t and -O")?),
            Word::Flag(b'f' | b'n' | b'r') => {}
            Word::Flag(other) => return Err(unknown(other)),
        }
    }
    let [mountpoint] = <[OsString; 1]>::try_from(places)
        .map_err(|_| Failure::new(ExitCode::Usage, "give one mountpoint: umount MOUNTPOINT"))?;
    line.extend(["--".into(), mountpoint]);
    Ok((Role::Helper { may_be_missing: None, pretend: false }, line))
}

fn unknown(flag: u8) -> Failure {
    Failure::new(ExitCode::Usage, format!("the option -{} of mount(8) is not known here", char::from(flag)))
}

/// `sero mount -o idle=10m,ro` is `sero mount --idle 10m -o ro`.
fn expand(arguments: Vec<OsString>) -> Vec<OsString> {
    if !is_mount(&arguments) {
        return arguments;
    }
    let mut line = Vec::with_capacity(arguments.len());
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        let list = match word.as_bytes() {
            b"--" => {
                line.push(word);
                break;
            }
            b"-o" => words.next(),
            [b'-', b'o', list @ ..] => Some(OsString::from_vec(list.strip_prefix(b"=").unwrap_or(list).to_vec())),
            _ => {
                line.push(word);
                continue;
            }
        };
        // Without its value it is clap's to complain about.
        let Some(list) = list else {
            line.push(word);
            continue;
        };
        let (values, rest) = split(&list);
        line.extend(values);
        line.extend(["-o".into(), rest.join(OsStr::new(","))]);
    }
    line.extend(words);
    line
}

/// Whether the command is `mount`: the first word that is neither an option nor the value of one.
fn is_mount(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--config" {
            words.next();
        } else if !word.as_bytes().starts_with(b"-") {
            return word == "mount";
        }
    }
    false
}

/// The options with a value as words of the command line, and the others.
fn split(list: &OsStr) -> (Vec<OsString>, Vec<OsString>) {
    let (mut values, mut rest) = (Vec::new(), Vec::new());
    for option in list.as_bytes().split(|&byte| byte == b',').filter(|option| !option.is_empty()) {
        let known = VALUES.iter().find_map(|(name, flag)| option.strip_prefix(*name).map(|value| (flag, value)));
        match known {
            // In one word, so that a value that begins with a dash stays a value.
            Some((flag, value)) => {
                let mut word = format!("{flag}=").into_bytes();
                word.extend_from_slice(value);
                values.push(OsString::from_vec(word));
            }
            None => rest.push(OsString::from_vec(option.to_vec())),
        }
    }
    (values, rest)
}

/// Words as getopt(3) reads them: short flags, several in one word, with values beside or behind them.
struct Words<'a> {
    rest: std::slice::Iter<'a, OsString>,
    /// What is left of a word of flags.
    flags: &'a [u8],
    only_places: bool,
}

enum Word {
    Place(OsString),
    Flag(u8),
}

impl<'a> Words<'a> {
    fn new(arguments: &'a [OsString]) -> Self {
        Self { rest: arguments.iter(), flags: &[], only_places: false }
    }

    fn next(&mut self) -> Option<Word> {
        if let Some((flag, flags)) = self.flags.split_first() {
            self.flags = flags;
            return Some(Word::Flag(*flag));
        }
        let word = self.rest.next()?;
        match word.as_bytes() {
            b"--" if !self.only_places => {
                self.only_places = true;
                self.next()
            }
            [b'-', flags @ ..] if !self.only_places && !flags.is_empty() => {
                self.flags = flags;
                self.next()
            }
            _ => Some(Word::Place(word.clone())),
        }
    }

    /// The value of the flag that came last.
    fn value(&mut self, flag: &str) -> Result<OsString> {
        let beside = std::mem::take(&mut self.flags);
        if !beside.is_empty() {
            return Ok(OsString::from_vec(beside.to_vec()));
        }
        let missing = || Failure::new(ExitCode::Usage, format!("{flag} needs a value"));
        self.rest.next().cloned().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(words: &str) -> Result<(Role, String)> {
        let arguments = words.split(' ').map(OsString::from).collect();
        understand(arguments).map(|(role, line)| {
            let words: Vec<_> = line.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            (role, words.join(" "))
        })
    }

    fn line(words: &str) -> String {
        understood(words).unwrap().1
    }

    #[test]
    fn as_mount_calls_it() {
        assert_eq!(
            line("/sbin/mount.sero /v /m -o rw,passfile=/k,idle=10m,allow_other"),
            "sero mount --password-file=/k --idle=10m -o rw,allow_other -- /v /m"
        );
        assert_eq!(
            line("/sbin/mount.fuse.sero -nvt fuse.sero -N /proc/1/ns/mnt -oro /v /m"),
            "sero mount -v -o ro -- /v /m"
        );
        assert_eq!(line("mount.sero -r -- -v -m"), "sero mount -o ro -- -v -m");
        assert_eq!(
            line("mount.sero /v /m -o keyfile=/a,config=/b,max_session=8h,seal_on=lock"),
            "sero mount --keyfile=/a --config=/b --max-session=8h --seal-on=lock -o  -- /v /m"
        );
    }

    #[test]
    fn a_global_option_before_the_command() {
        assert_eq!(line("sero --config /c mount -o idle=5m,ro /v /m"), "sero --config /c mount --idle=5m -o ro /v /m");
        assert_eq!(line("sero -v --config=/c mount -o idle=5m /v /m"), "sero -v --config=/c mount --idle=5m -o  /v /m");
        assert_eq!(line("sero --config mount seal -o idle=5m"), "sero --config mount seal -o idle=5m");
    }

    #[test]
    fn as_umount_calls_it() {
        assert_eq!(line("/sbin/umount.fuse.sero /m -l"), "sero seal --lazy -- /m");
        assert_eq!(line("umount.sero -nfr /m"), "sero seal -- /m");
    }

    #[test]
    fn sloppy_leaves_out_what_is_unknown() {
        assert_eq!(line("mount.sero -s /v /m -o ro,colour=red"), "sero mount -o ro -- /v /m");
        assert_eq!(line("mount.sero /v /m -o ro,colour=red"), "sero mount -o ro,colour=red -- /v /m");
    }

    #[test]
    fn nofail_and_pretending() {
        let (role, _) = understood("mount.sero /no/such/vault /m -o nofail").unwrap();
        assert!(role.is_excused());
        let (role, _) = understood("mount.sero / /m -o nofail").unwrap();
        assert!(!role.is_excused());
        assert!(understood("mount.sero -f / /m").unwrap().0.is_excused());
    }

    #[test]
    fn what_is_not_understood_is_a_usage_error() {
        for words in
            ["mount.sero /v", "mount.sero /v /m /x", "mount.sero /v /m -x", "mount.sero /v /m -o", "umount.sero"]
        {
            assert_eq!(understood(words).unwrap_err().code, ExitCode::Usage, "{words}");
        }
    }

    #[test]
    fn the_same_options_with_sero_itself() {
        assert_eq!(line("sero mount -o idle=5m,ro V M"), "sero mount --idle=5m -o ro V M");
        assert_eq!(line("sero -v mount -oidle=5m V M"), "sero -v mount --idle=5m -o  V M");
        assert_eq!(line("sero mount -- -o idle=5m"), "sero mount -- -o idle=5m");
        assert_eq!(line("sero mount V M -o"), "sero mount V M -o");
        assert_eq!(line("sero seal -o idle=5m"), "sero seal -o idle=5m");
    }
}

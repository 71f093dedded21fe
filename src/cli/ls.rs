//! `sero ls VAULT [PATH...]`: what is in a vault, without a mount.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::Context;
use super::cat;
use super::failure::{Failure, Result};
use super::findings::{put_path, shown};
use super::plain::{self, Found, Stopped};
use super::time;
use super::unlocking::UnlockArguments;
use crate::vault::{Directory, FileKind, PosixStorage, Stat, Timestamp, Vault};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero ls ~/papers.sero                  the names at its top
  sero ls -lR ~/papers.sero tax          with sizes and times, all that is below
  sero ls -0 -R ~/papers.sero | xargs -0 -n1 sero cat ~/papers.sero
  sero ls --json -R ~/papers.sero | jq 'select(.size > 1e9).path'

The vault is opened for reading alone, and not mounted; while it is mounted, use ls(1) there. What
does not open is said on standard error, and the exit code is 8; everything else is listed all the
same.")]
pub(super) struct LsArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// Directories or files, as paths from the top of the vault
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<PathBuf>,

    /// Type and permissions, links, owner, size, time
    #[arg(long, short)]
    long: bool,

    /// What is below directories, too
    #[arg(long, short = 'R')]
    recursive: bool,

    /// Print one JSON object a line
    #[arg(long, conflicts_with_all = ["long", "null"])]
    json: bool,

    /// End each path with NUL instead of a newline, and escape nothing
    #[arg(long, short = '0', conflicts_with = "long")]
    null: bool,

    #[command(flatten)]
    unlock: UnlockArguments,
}

pub(super) fn run(arguments: &LsArguments, context: &Context) -> Result<()> {
    let vault = cat::open(&arguments.vault, &arguments.unlock, context)?;
    let mut list = List { arguments, vault: &vault, out: io::BufWriter::new(io::stdout().lock()), failed: None };
    for path in &arguments.paths {
        let listed = list.path(path).and_then(|()| list.out.flush().map_err(Stopped::Output));
        match listed {
            Ok(()) => {}
            // Whoever reads has enough.
            Err(Stopped::Output(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(Stopped::Output(error)) => return Err(Failure::other(format!("standard output: {error}"))),
            Err(Stopped::Vault(error)) => list.fail(cat::about(error, path)),
        }
    }
    list.failed.map_or(Ok(()), Err)
}

struct List<'a, W: Write> {
    arguments: &'a LsArguments,
    vault: &'a Vault<PosixStorage>,
    out: W,
    /// The last failure; those before are said already.
    failed: Option<Failure>,
}

impl<W: Write> List<'_, W> {
    fn fail(&mut self, failure: Failure) {
        if let Some(before) = self.failed.replace(failure) {
            let _ = writeln!(io::stderr().lock(), "sero: {before}");
        }
    }

    fn path(&mut self, path: &Path) -> Result<(), Stopped> {
        let trimmed: Vec<&[u8]> = path
            .as_os_str()
            .as_bytes()
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty() && *name != b".")
            .collect();
        let plain = trimmed.join(&b'/');
        match plain::find(self.vault, path, false)? {
            Found::Other(directory, name, stat) => self.entry(&directory, &name, &plain, &stat),
            Found::Directory(directory) => self.below(directory, plain),
        }
    }

    /// Everything in a directory, breadth first within it.
    fn below(&mut self, directory: Arc<Directory<PosixStorage>>, plain: Vec<u8>) -> Result<(), Stopped> {
        let mut pending = VecDeque::from([(directory, plain)]);
        while let Some((directory, above)) = pending.pop_front() {
            let mut names = Vec::new();
            let listed = directory.list(0, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            });
            if let Err(error) = listed {
                self.fail(cat::about(error, Path::new(std::ffi::OsStr::from_bytes(&above))));
            }
            names.sort();
            let mut deeper = Vec::new();
            for name in names {
                let path = if above.is_empty() { name.clone() } else { [&above, b"/".as_slice(), &name].concat() };
                let shown = || Path::new(std::ffi::OsStr::from_bytes(&path)).to_owned();
                let stat = match directory.lookup(&name) {
                    Ok(stat) => stat,
                    Err(error) => {
                        self.fail(cat::about(error, &shown()));
                        continue;
                    }
                };
                match self.entry(&directory, &name, &path, &stat) {
                    Err(Stopped::Vault(error)) => self.fail(cat::about(error, &shown())),
                    other => other?,
                }
                if self.arguments.recursive && stat.kind() == FileKind::Directory {
                    match directory.open_child(&name) {
                        Ok(child) => deeper.push((child, path)),
                        Err(error) => self.fail(cat::about(error, &shown())),
                    }
                }
            }
            // Depth first, in order of names.
            deeper.into_iter().rev().for_each(|below| pending.push_front(below));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: &Directory<PosixStorage>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), Stopped> {
        let is_long = self.arguments.long || self.arguments.json;
        let target = match stat.kind() {
            FileKind::Symlink if is_long => Some(directory.read_symlink(name)?),
            _ => None,
        };
        if self.arguments.json {
            let object = object(path, stat, target.as_deref());
            return Ok(writeln!(self.out, "{object}")?);
        }
        // Below one directory names do, as with ls.
        let named = if self.arguments.recursive { path } else { name };
        if self.arguments.null {
            self.out.write_all(named)?;
            return Ok(self.out.write_all(b"\0")?);
        }
        if !self.arguments.long {
            return Ok(writeln!(self.out, "{}", shown(named))?);
        }
        let modified = stat.mtime.seconds;
        let arrow = target.map(|target| format!(" -> {}", shown(&target))).unwrap_or_default();
        Ok(writeln!(
            self.out,
            "{} {:>3} {:>5} {:>5} {:>12} {} {}{arrow}",
            mode_text(stat.mode),
            stat.nlink,
            stat.uid,
            stat.gid,
            stat.size_bytes,
            u64::try_from(modified).map_or_else(|_| modified.to_string(), time::utc),
            shown(named)
        )?)
    }
}

/// The names of the fields are an interface (docs/cli.md).
fn object(path: &[u8], stat: &Stat, target: Option<&[u8]>) -> Value {
    let Timestamp { seconds, nanoseconds } = stat.mtime;
    let mut object = json!({
        "kind": kind_name(stat.kind()),
        "ino": stat.ino,
        "mode": stat.mode & 0o7777,
        "links": stat.nlink,
        "uid": stat.uid,
        "gid": stat.gid,
        "size": stat.size_bytes,
        "mtime": seconds,
        "mtime_nanoseconds": nanoseconds,
    });
    put_path(&mut object, "path", &[b"/", path].concat());
    if let Some(target) = target {
        put_path(&mut object, "target", target);
    }
    object
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character-device",
        FileKind::BlockDevice => "block-device",
        FileKind::Unknown => "unknown",
    }
}

/// As `ls -l` shows it.
fn mode_text(mode: u32) -> String {
    let kind = match FileKind::from_mode(mode) {
        FileKind::Regular => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Unknown => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_ls_shows_them() {
        assert_eq!(mode_text(libc::S_IFREG | 0o644), "-rw-r--r--");
        assert_eq!(mode_text(libc::S_IFDIR | 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(libc::S_IFREG | 0o6755), "-rwsr-sr-x");
        assert_eq!(mode_text(libc::S_IFREG | 0o4644), "-rwSr--r--");
    }
}

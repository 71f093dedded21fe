//! Keys that are not passphrases: keyfiles, recovery keys, and what commands and environment variables give.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use data_encoding::{BASE64, BASE64_NOPAD};
use zeroize::{Zeroize, Zeroizing};

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::words::count;
use crate::vault::{RawKey, recovery_key};

/// Less cannot hold a key.
const KEYFILE_MIN_BYTES: usize = 32;
/// More is no keyfile, but the wrong file.
const KEYFILE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// A key in base64 is 44 characters long; more than this is no key.
const OUTPUT_MAX_BYTES: usize = 4096;

/// The environment of a key command: what agents and tokens need, and nothing that could be a secret of ours.
const ENVIRONMENT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TERM",
    "TZ",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "GNUPGHOME",
    "GPG_TTY",
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "CREDENTIALS_DIRECTORY",
    "DISPLAY",
    "WAYLAND_DISPLAY",
];

fn unusable(message: impl Into<String>) -> Failure {
    Failure::new(ExitCode::KeyUnusable, message)
}

/// The hash of a keyfile's content, read whole. A pipe (`<(...)`) is read once; a file twice, as one that is being
/// written would give a key that never comes again.
pub(super) fn keyfile(path: &Path) -> Result<RawKey> {
    let shown = path.display();
    let failed = |error: io::Error| unusable(format!("the keyfile {shown} cannot be read: {error}"));
    let mut file = File::open(path).map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    let kind = before.file_type();
    if !kind.is_file() && !kind.is_fifo() {
        return Err(unusable(format!(
            "the keyfile {shown} is not a file; give one of at least {KEYFILE_MIN_BYTES} bytes"
        )));
    }
    let (key, len) = keyfile_content(&mut file, path)?;
    if kind.is_file() {
        let (again, _) = keyfile_content(&mut File::open(path).map_err(failed)?, path)?;
        let after = file.metadata().map_err(failed)?;
        if !again.matches(&key) || !is_unchanged(&before, &after, len) {
            return Err(unusable(format!("the keyfile {shown} changed while it was read; wait until it is written")));
        }
    }
    Ok(key)
}

fn keyfile_content(file: &mut File, path: &Path) -> Result<(RawKey, usize)> {
    let shown = path.display();
    let content = read_at_most(file, KEYFILE_MAX_BYTES)
        .map_err(|error| unusable(format!("the keyfile {shown} cannot be read: {error}")))?
        .ok_or_else(|| {
            unusable(format!("the keyfile {shown} has more than {KEYFILE_MAX_BYTES} bytes; is it the right file?"))
        })?;
    if content.len() < KEYFILE_MIN_BYTES {
        return Err(unusable(format!(
            "the keyfile {shown} has {} bytes, and a keyfile has at least {KEYFILE_MIN_BYTES} \
             (`head -c 32 /dev/urandom >FILE` makes one)",
            content.len()
        )));
    }
    Ok((RawKey::of_parts([content.as_slice()]), content.len()))
}

fn is_unchanged(before: &Metadata, after: &Metadata, len: usize) -> bool {
    let seen = |metadata: &Metadata| {
        (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
    };
    seen(before) == seen(after) && usize::try_from(after.len()) == Ok(len)
}

/// The recovery key in a file, `-` for standard input.
pub(super) fn recovery_file(path: &Path) -> Result<RawKey> {
    let shown = path.display();
    let failed = |error: io::Error| unusable(format!("the recovery key in {shown} cannot be read: {error}"));
    let mut source = if path.as_os_str() == "-" {
        rustix::stdio::stdin().try_clone_to_owned().map(File::from)
    } else {
        File::open(path)
    }
    .map_err(failed)?;
    let text = read_at_most(&mut source, OUTPUT_MAX_BYTES)
        .map_err(failed)?
        .ok_or_else(|| unusable(format!("{shown} is too long for a recovery key; is it the right file?")))?;
    recovery_key::decode(&text).map_err(|error| {
        Failure::new(ExitCode::RecoveryKeyMistyped, format!("{error}; compare it with the paper, and try again"))
    })
}

/// The key in an environment variable.
pub(super) fn environment(name: &str) -> Result<RawKey> {
    let Some(value) = std::env::var_os(name) else {
        return Err(unusable(format!("the environment variable {name} is not set; it is to hold a key in base64")));
    };
    let value = Zeroizing::new(value.into_encoded_bytes());
    decoded(&value).ok_or_else(|| {
        unusable(format!("the environment variable {name} holds no key: 32 bytes in base64 are expected"))
    })
}

/// The key that `sh -c CMD` prints. It has the terminal, a clean environment, and so much time.
pub(super) fn command(command: &str, limit: Duration) -> Result<RawKey> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).env_clear();
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            shell.env(name, value);
        }
    }
    let output = output_of(&mut shell, limit, |output| read_at_most(output, OUTPUT_MAX_BYTES))
        .map_err(|error| unusable(format!("the key command {error}")))?
        .map_err(|error| unusable(format!("the key command gave no key: {error}")))?
        .ok_or_else(|| unusable("the key command printed too much; 32 bytes, plain or in base64, are expected"))?;
    plain(&output).or_else(|| decoded(&output)).ok_or_else(|| {
        unusable(format!(
            "the key command printed {} bytes that are no key: 32 bytes, plain or in base64, are expected",
            output.len()
        ))
    })
}

/// Runs a command and reads its output; kills it when its time is over. The error completes "the command ...".
pub(super) fn output_of<T: Send + 'static>(
    command: &mut Command,
    limit: Duration,
    read: impl FnOnce(&mut dyn Read) -> T + Send + 'static,
) -> Result<T, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("could not be started: {error}"))?;
    let Some(mut output) = child.stdout.take() else { return Err("has no output".to_owned()) };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let result = read(&mut output);
        // The rest is drained, so that the command is not stopped while it writes.
        let _ = io::copy(&mut output, &mut io::sink());
        let _ = sender.send(result);
    });
    let Ok(result) = receiver.recv_timeout(limit) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!(
            "did not end within {}; run it by hand to see why",
            count(limit.as_secs(), "second", "seconds")
        ));
    };
    let status = child.wait().map_err(|error| format!("was lost: {error}"))?;
    if !status.success() {
        return Err(format!("failed ({status}); run it by hand to see why"));
    }
    Ok(result)
}

/// Everything, or None if it is more than the limit.
fn read_at_most(source: &mut dyn Read, limit_bytes: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Its full length at once: a growing vector would leave copies behind.
    let mut content = Zeroizing::new(vec![0; limit_bytes.saturating_add(1)]);
    let mut len = 0;
    while let Some(rest) = content.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if len > limit_bytes {
        return Ok(None);
    }
    content.truncate(len);
    Ok(Some(content))
}

fn plain(bytes: &[u8]) -> Option<RawKey> {
    let mut key = Zeroizing::new(<[u8; 32]>::try_from(bytes).ok()?);
    is_random_enough(&key).then(|| RawKey::from_bytes(&mut key))
}

fn decoded(text: &[u8]) -> Option<RawKey> {
    let text = text.trim_ascii();
    let mut bytes = Zeroizing::new(BASE64.decode(text).or_else(|_| BASE64_NOPAD.decode(text)).ok()?);
    let key = plain(&bytes);
    bytes.zeroize();
    key
}

/// 32 equal bytes are no key, but a device or a program that failed.
fn is_random_enough(key: &[u8; 32]) -> bool {
    key.iter().any(|byte| *byte != key[0])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
    const LIMIT: Duration = Duration::from_secs(20);

    fn code<T>(result: Result<T>) -> Option<ExitCode> {
        result.err().map(|failure| failure.code)
    }

    #[test]
    fn keyfiles() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for bad in [&b""[..], b"x", &[7; 31], &vec![7; KEYFILE_MAX_BYTES + 1]] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(code(keyfile(&path)), Some(ExitCode::KeyUnusable), "{} bytes", bad.len());
        }
        std::fs::write(&path, KEY).unwrap();
        assert!(keyfile(&path).unwrap().matches(&RawKey::of_parts([&KEY[..]])));
        assert_eq!(code(keyfile(folder.path())), Some(ExitCode::KeyUnusable));
        assert_eq!(code(keyfile(Path::new("/dev/zero"))), Some(ExitCode::KeyUnusable));
        assert_eq!(code(keyfile(&folder.path().join("missing"))), Some(ExitCode::KeyUnusable));
    }

    #[test]
    fn a_keyfile_that_changes_while_it_is_read_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 64]).unwrap();
        let before = file.as_file().metadata().unwrap();
        assert!(is_unchanged(&before, &file.as_file().metadata().unwrap(), 64));
        assert!(!is_unchanged(&before, &before, 63), "it was shorter when it was read");
        file.write_all(b"more").unwrap();
        assert!(!is_unchanged(&before, &file.as_file().metadata().unwrap(), 64));
    }

    #[test]
    fn what_commands_print() {
        let key = |text: &str| command(text, LIMIT).map(|key| *key.expose());
        assert_eq!(key(&format!("printf {}", "0123456789abcdef".repeat(2))).ok(), Some(*KEY));
        assert_eq!(key(&format!("echo {}", BASE64.encode(KEY))).ok(), Some(*KEY));
        assert_eq!(key(&format!("printf {}", BASE64_NOPAD.encode(KEY))).ok(), Some(*KEY));
        for bad in ["true", "echo garbage", "exit 4", "printf %32s", "head -c 32 /dev/zero", "head -c 9999 /dev/zero"] {
            assert_eq!(code(command(bad, LIMIT)), Some(ExitCode::KeyUnusable), "{bad}");
        }
        let hangs = command("exec sleep 60", Duration::from_millis(50));
        assert!(hangs.err().unwrap().message.contains("did not end within"));
    }

    #[test]
    fn a_command_has_a_clean_environment() {
        // cargo sets it for tests, and it is none of what is handed on.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let script = format!("[ -z \"$CARGO_MANIFEST_DIR\" ] && [ -n \"$PATH\" ] && echo {}", BASE64.encode(KEY));
        assert!(command(&script, LIMIT).is_ok());
    }

    #[test]
    fn what_is_no_key_in_base64() {
        for bad in
            ["", "AAAA", &BASE64.encode(&[1; 32]), &BASE64.encode(&KEY[..31]), &format!("{}A", BASE64.encode(KEY))]
        {
            assert!(decoded(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(decoded(format!(" {}\n", BASE64.encode(KEY)).as_bytes()).is_some());
        assert_eq!(code(environment("SERO_TEST_NOT_SET")), Some(ExitCode::KeyUnusable));
    }
}

//! Where the passphrase comes from: the terminal, a file, standard input, or a command.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use super::key_sources::output_of;
use super::prompt::Prompt;
use crate::vault::Passphrase;

/// Longer is no passphrase, but the wrong file.
const LEN_MAX_BYTES: usize = 64 * 1024;

/// A new passphrase from the terminal: asked twice, if the first one will do.
pub(super) fn ask_new(prompt: &str, check: impl FnOnce(&Passphrase) -> Result<()>) -> Result<Passphrase> {
    let passphrase = ask(prompt)?;
    check(&passphrase)?;
    if !passphrase.matches(&ask("The same again: ")?) {
        return Err(unavailable("the two passphrases differ; try again"));
    }
    Ok(passphrase)
}

/// From a file, `-` for standard input.
pub(super) fn from_path(path: &Path) -> Result<Passphrase> {
    if path.as_os_str() == "-" { from_stdin() } else { from_file(path) }
}

pub(super) fn unavailable(message: impl Into<String>) -> Failure {
    Failure::new(ExitCode::PassphraseUnavailable, message)
}

/// Without echo, on the terminal.
pub(super) fn ask(prompt: &str) -> Result<Passphrase> {
    let mut prompt = Prompt::show(prompt).map_err(|_| {
        unavailable("there is no terminal to ask for the passphrase on; give --password-file or --password-command")
    })?;
    first_line(&mut prompt).map_err(|error| unavailable(format!("no passphrase was given: {error}")))
}

fn from_stdin() -> Result<Passphrase> {
    if io::stdin().is_terminal() {
        return ask("Passphrase: ");
    }
    // Unbuffered: the standard library's own buffer would keep a copy.
    rustix::stdio::stdin()
        .try_clone_to_owned()
        .and_then(|stdin| first_line(&mut File::from(stdin)))
        .map_err(|error| unavailable(format!("standard input gave no passphrase: {error}")))
}

fn from_file(path: &Path) -> Result<Passphrase> {
    let shown = path.display();
    let mut file = File::open(path)
        .map_err(|error| unavailable(format!("the passphrase file {shown} cannot be opened: {error}")))?;
    if let Ok(metadata) = file.metadata()
        && metadata.is_file()
        && metadata.permissions().mode() & 0o044 != 0
    {
        log::warn!("the passphrase file {shown} can be read by others; `chmod 600` it");
    }
    first_line(&mut file)
        .map_err(|error| unavailable(format!("the passphrase file {shown} gave no passphrase: {error}")))
}

/// Runs it by `sh -c`. It keeps the terminal, to ask on it if it has to, and its environment.
pub(super) fn from_command(command: &str, limit: Duration) -> Result<Passphrase> {
    output_of(Command::new("sh").arg("-c").arg(command), limit, |mut output| first_line(&mut output))
        .map_err(|error| unavailable(format!("the passphrase command {error}")))?
        .map_err(|error| unavailable(format!("the passphrase command gave no passphrase: {error}")))
}

/// Up to the first newline, byte by byte, so that nothing behind it is taken from the stream. Of a line
/// that ends as on Windows, the carriage return goes too.
fn first_line(source: &mut impl Read) -> io::Result<Passphrase> {
    // Its full length at once: a growing vector would leave copies behind.
    let mut line = Vec::with_capacity(LEN_MAX_BYTES);
    let mut byte = [0_u8];
    let mut any = false;
    let ended = loop {
        match source.read(&mut byte) {
            Ok(0) => break Ok(()),
            Ok(_) if byte == *b"\n" => {
                any = true;
                break Ok(());
            }
            Ok(_) if line.len() == LEN_MAX_BYTES => {
                break Err(io::Error::new(io::ErrorKind::InvalidData, "the first line is too long"));
            }
            Ok(_) => {
                any = true;
                line.push(byte[0]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    // Wipes the line also when it is not used.
    let passphrase = Passphrase::new(line);
    ended?;
    if !any {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty"));
    }
    Ok(passphrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn same(line: &[u8], expected: &[u8]) -> bool {
        first_line(&mut { line }).unwrap().matches(&Passphrase::new(expected.to_vec()))
    }

    #[test]
    fn the_first_line_without_its_end() {
        assert!(same(b"correct horse\nbattery", b"correct horse"));
        assert!(same(b"no newline", b"no newline"));
        assert!(same(b" spaces count \r\n", b" spaces count "));
        assert!(same(b"\n", b""));
    }

    #[test]
    fn nothing_behind_the_line_is_consumed() {
        let mut source: &[u8] = b"one\ntwo\n";
        first_line(&mut source).unwrap();
        assert_eq!(source, b"two\n");
    }

    #[test]
    fn an_empty_source_and_an_endless_line_are_errors() {
        assert!(first_line(&mut io::empty()).is_err());
        assert!(first_line(&mut io::repeat(b'x')).is_err());
    }

    #[test]
    fn commands() {
        assert!(
            from_command("printf 'secret\\nnoise\\n'", LIMIT).unwrap().matches(&Passphrase::new(b"secret".to_vec()))
        );
        assert_eq!(
            from_command("echo x; exit 3", LIMIT).err().map(|failure| failure.code),
            Some(ExitCode::PassphraseUnavailable)
        );
        assert!(from_command("true", LIMIT).is_err());
    }
}

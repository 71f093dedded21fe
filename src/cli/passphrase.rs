//! Where the passphrase comes from: the terminal, a file, standard input, or a command.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::exit_code::ExitCode;
use super::failure::{Failure, Result};
use crate::vault::Passphrase;

/// A command that shows no passphrase for so long is taken to hang.
const COMMAND_TIME_LIMIT: Duration = Duration::from_secs(120);

/// Longer is no passphrase, but the wrong file.
const LEN_MAX_BYTES: usize = 64 * 1024;

/// How the passphrase is given. Without any of these, sero asks on the terminal.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct PassphraseArguments {
    /// Read the passphrase from the first line of FILE; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "password_command")]
    password_file: Option<PathBuf>,

    /// Read the passphrase from the first line that the shell command CMD prints
    #[arg(long, value_name = "CMD")]
    password_command: Option<String>,
}

impl PassphraseArguments {
    /// The passphrase of an existing vault.
    pub(super) fn obtain(&self, vault: &Path) -> Result<Passphrase> {
        match self.elsewhere()? {
            Some(passphrase) => Ok(passphrase),
            None => ask(&format!("Passphrase of {}: ", vault.display())),
        }
    }

    /// The passphrase of a new vault: asked twice, and not empty.
    pub(super) fn obtain_new(&self, vault: &Path) -> Result<Passphrase> {
        let passphrase = match self.elsewhere()? {
            Some(passphrase) => passphrase,
            None => {
                let passphrase = ask(&format!("New passphrase for {}: ", vault.display()))?;
                if !passphrase.is_empty() && !passphrase.matches(&ask("The same again: ")?) {
                    return Err(unavailable("the two passphrases differ; try again"));
                }
                passphrase
            }
        };
        if passphrase.is_empty() {
            return Err(unavailable("the passphrase is empty; choose one"));
        }
        Ok(passphrase)
    }

    fn elsewhere(&self) -> Result<Option<Passphrase>> {
        match (&self.password_file, &self.password_command) {
            (Some(path), _) if path.as_os_str() == "-" => from_stdin().map(Some),
            (Some(path), _) => from_file(path).map(Some),
            (None, Some(command)) => from_command(command).map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn unavailable(message: impl Into<String>) -> Failure {
    Failure::new(ExitCode::PassphraseUnavailable, message)
}

/// Without echo, on the terminal itself: standard input and output may be redirected.
fn ask(prompt: &str) -> Result<Passphrase> {
    match rpassword::prompt_password(prompt) {
        Ok(line) => Ok(Passphrase::new(line.into_bytes())),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(unavailable("interrupted; nothing was done")),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(unavailable("no passphrase was given")),
        Err(_) => Err(unavailable(
            "there is no terminal to ask for the passphrase on; give --password-file or --password-command",
        )),
    }
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

/// Runs it by `sh -c`. It keeps the terminal, to ask on it if it has to.
fn from_command(command: &str) -> Result<Passphrase> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| unavailable(format!("the passphrase command could not be started: {error}")))?;
    let Some(mut output) = child.stdout.take() else {
        return Err(unavailable("the passphrase command has no output"));
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let line = first_line(&mut output);
        // The rest is drained, so that the command is not stopped while it writes.
        let _ = io::copy(&mut output, &mut io::sink());
        let _ = sender.send(line);
    });
    let Ok(line) = receiver.recv_timeout(COMMAND_TIME_LIMIT) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(unavailable(format!(
            "the passphrase command did not end within {} seconds; run it by hand to see why",
            COMMAND_TIME_LIMIT.as_secs()
        )));
    };
    let status = child.wait().map_err(|error| unavailable(format!("the passphrase command was lost: {error}")))?;
    if !status.success() {
        return Err(unavailable(format!("the passphrase command failed ({status}); run it by hand to see why")));
    }
    line.map_err(|error| unavailable(format!("the passphrase command gave no passphrase: {error}")))
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
        assert!(from_command("printf 'secret\\nnoise\\n'").unwrap().matches(&Passphrase::new(b"secret".to_vec())));
        assert_eq!(
            from_command("echo x; exit 3").err().map(|failure| failure.code),
            Some(ExitCode::PassphraseUnavailable)
        );
        assert!(from_command("true").is_err());
    }
}

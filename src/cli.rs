//! The command line: arguments, prompts, reports, exit codes. One file a command.
//!
//! A command takes its arguments and the [`Context`], and returns a [`failure::Failure`] if it fails: one
//! sentence on standard error, and an exit code that scripts can rely on ([`ExitCode`], docs/cli.md).

mod attempts;
mod background;
mod bench;
mod cat;
mod completions;
mod control;
mod create;
mod daemon;
mod exit_code;
mod failure;
mod findings;
mod helper;
mod import;
mod info;
mod kdf;
mod key;
mod key_sources;
mod keyslots;
mod logging;
mod ls;
mod man;
mod mount;
mod mountpoint;
mod new_secret;
mod notify;
mod opening;
mod passphrase;
mod paths;
mod plain;
mod policy;
mod progress;
mod prompt;
mod repair;
mod rotate;
mod salvage;
mod seal;
mod status;
mod terminal;
mod time;
mod unlocking;
mod verify;
mod words;

pub use exit_code::ExitCode;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use clap::{ArgAction, Parser, Subcommand};
use failure::Result;
use logging::Destination;

/// An encrypted, crash-proof, tamper-evident filesystem: a vault that mounts as a normal directory
#[derive(Debug, Parser)]
#[command(
    name = "sero",
    version,
    long_version = concat!(env!("CARGO_PKG_VERSION"), "\nformats of vaults that it knows: 1"),
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  sero create ~/papers.sero
  mkdir ~/papers && sero mount ~/papers.sero ~/papers
  sero seal ~/papers

`sero COMMAND --help` says more about a command. Exit codes: see docs/cli.md."
)]
struct Arguments {
    /// Say more: once for information, twice for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// The vault's configuration, where it lies apart from the vault
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new vault
    Create(create::CreateArguments),
    /// Mount a vault as a normal directory
    Mount(mount::MountArguments),
    /// Write everything to the vault, unmount it, and forget the key
    #[command(visible_alias = "unmount")]
    Seal(seal::SealArguments),
    /// Copy a tree into a vault, and compare every file afterwards
    Import(import::ImportArguments),
    /// Seal everything in a vault anew under a new key, mounted or not
    Rotate(rotate::RotateArguments),
    /// Show what is mounted, and how it is: use, limits, errors
    Status(status::StatusArguments),
    /// Show, add, remove, change and test the ways into a vault
    Key(key::KeyArguments),
    /// Check everything in a vault, mounted or not
    Verify(verify::VerifyArguments),
    /// Mend what verify names, with the least loss
    Repair(repair::RepairArguments),
    /// Copy everything that still opens out of a damaged vault
    Salvage(salvage::SalvageArguments),
    /// List what is in a vault that is not mounted
    Ls(ls::LsArguments),
    /// Write files of a vault that is not mounted to standard output
    Cat(cat::CatArguments),
    /// Show what a vault says about itself, without the passphrase
    Info(info::InfoArguments),
    /// Measure what this machine does: cryptography, key derivation, a short session on a mount
    Bench(bench::BenchArguments),
    /// Print what a shell needs to complete sero's commands and options
    Completions(completions::CompletionsArguments),
    /// Write the manual pages
    Man(man::ManArguments),
    /// The process behind a mount; started by `sero mount` alone
    #[command(name = background::SUBCOMMAND, hide = true)]
    Serve,
}

/// What every command needs to know.
#[derive(Clone, Debug)]
struct Context {
    /// -1 quiet, 0 usual, 1 and more verbose.
    verbosity: i8,
    /// Of whoever called: mount(8) and umount(8) say nothing of what went well.
    is_silent_on_success: bool,
    /// Where the vault's configuration lies, if that is apart from the vault.
    config: Option<PathBuf>,
    /// What kept a result from standard output.
    output_error: Arc<OnceLock<io::Error>>,
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn in_lines(value: &serde_json::Value) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|error| failure::Failure::other(error.to_string()))
}

impl Context {
    /// The result that was asked for. If it cannot be written, the command does its work all the same, and
    /// [`Context::check_output`] says so at its end.
    fn print(&self, text: &str) {
        if let Err(error) = write_out(text) {
            // The first one tells most.
            let _ = self.output_error.set(error);
        }
    }

    /// Whether what is printed still goes anywhere.
    fn is_heard(&self) -> bool {
        self.output_error.get().is_none()
    }

    fn check_output(&self) -> Result<()> {
        match self.output_error.get() {
            // A reader that has gone is no failure of the command.
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failure::Failure::other(format!(
                "the result could not be written to standard output: {error}; see to where it goes, and ask again"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// The same of what is nowhere else.
    ///
    /// # Errors
    /// If it could not be written.
    fn hand_over(&self, text: &str) -> Result<()> {
        write_out(text).map_err(|error| {
            failure::Failure::other(format!("the recovery key could not be shown: {error}; see to where it is printed"))
        })
    }

    fn hand_over_json(&self, value: &serde_json::Value) -> Result<()> {
        self.hand_over(&in_lines(value)?)
    }

    /// Whether results go to a terminal.
    fn is_on_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// The same, as one JSON object.
    fn print_json(&self, value: &serde_json::Value) -> Result<()> {
        self.print(&in_lines(value)?);
        Ok(())
    }

    /// A result that nobody asked for: what was done. It is, whether it can be said or not.
    fn say(&self, text: &str) {
        if self.verbosity >= i8::from(self.is_silent_on_success) {
            let _ = write_out(text);
        }
    }

    /// Something on the way.
    fn note(&self, text: &str) {
        if self.verbosity >= i8::from(self.is_silent_on_success) {
            let _ = writeln!(io::stderr().lock(), "sero: {text}");
        }
    }
}

/// Parses the command line of this process, and runs it. What to say is said when this returns.
pub fn run() -> std::process::ExitCode {
    daemon::keep_secrets();
    let line: Vec<OsString> = std::env::args_os().collect();
    let role = helper::role_of(&line);
    match helper::understand(line) {
        Ok((role, _)) if role.is_excused() => role.exit_code(ExitCode::Ok),
        Ok((role, line)) => role.exit_code(run_line(line, role.is_silent_on_success())),
        Err(failure) => {
            let _ = writeln!(io::stderr().lock(), "sero: {failure}");
            role.exit_code(failure.code)
        }
    }
}

fn run_line(line: Vec<OsString>, is_silent_on_success: bool) -> ExitCode {
    let arguments = match Arguments::try_parse_from(line) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            // Help and version were asked for; everything else is a mistake.
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
        }
    };
    let context = Context {
        verbosity: if arguments.quiet { -1 } else { i8::try_from(arguments.verbose).unwrap_or(i8::MAX) },
        is_silent_on_success,
        config: arguments.config,
        output_error: Arc::default(),
    };
    match dispatch(&arguments.command, &context).and_then(|()| context.check_output()) {
        Ok(()) => ExitCode::Ok,
        Err(failure) => {
            let _ = writeln!(io::stderr().lock(), "sero: {failure}");
            failure.code
        }
    }
}

fn dispatch(command: &Command, context: &Context) -> Result<()> {
    // The daemon learns from its order where to log.
    if matches!(command, Command::Serve) {
        return background::run();
    }
    let destination = match command {
        Command::Verify(_)
        | Command::Repair(_)
        | Command::Salvage(_)
        | Command::Rotate(_)
        | Command::Ls(_)
        | Command::Cat(_) => Destination::Report,
        Command::Mount(arguments) => arguments.log_destination(),
        _ => Destination::Terminal,
    };
    logging::start(destination, context.verbosity)?;
    match command {
        Command::Create(arguments) => create::run(arguments, context),
        Command::Mount(arguments) => mount::run(arguments, context),
        Command::Seal(arguments) => seal::run(arguments, context),
        Command::Import(arguments) => import::run(arguments, context),
        Command::Rotate(arguments) => rotate::run(arguments, context),
        Command::Status(arguments) => status::run(arguments, context),
        Command::Key(arguments) => key::run(arguments, context),
        Command::Verify(arguments) => verify::run(arguments, context),
        Command::Repair(arguments) => repair::run(arguments, context),
        Command::Salvage(arguments) => salvage::run(arguments, context),
        Command::Ls(arguments) => ls::run(arguments, context),
        Command::Cat(arguments) => cat::run(arguments, context),
        Command::Info(arguments) => info::run(arguments, context),
        Command::Bench(arguments) => bench::run(arguments, context),
        Command::Completions(arguments) => completions::run(arguments, context),
        Command::Man(arguments) => man::run(arguments, context),
        Command::Serve => background::run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_version_names_the_formats() {
        let formats: Vec<String> =
            (1..=crate::format::configuration::FORMAT).map(|format| format.to_string()).collect();
        let version = Arguments::command().get_long_version().unwrap_or_default().to_owned();
        assert!(version.ends_with(&format!("vaults that it knows: {}", formats.join(", "))), "{version}");
    }

    #[test]
    fn no_line_below_the_options_is_broken() {
        let mut pending = vec![Arguments::command()];
        while let Some(command) = pending.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{}: {line}", command.get_name());
            }
            pending.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn every_command_has_examples() {
        for command in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:"), "{}", command.get_name());
        }
    }
}

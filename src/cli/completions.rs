//! `sero completions SHELL`: a script for the shell, from the same source as the help.

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::failure::Result;
use super::{Arguments, Context};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero completions bash > /usr/share/bash-completion/completions/sero
  sero completions zsh > \"${fpath[1]}/_sero\"
  sero completions fish > ~/.config/fish/completions/sero.fish")]
pub(super) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

pub(super) fn run(arguments: &CompletionsArguments, context: &Context) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut visible(&Arguments::command()), "sero", &mut script);
    context.print(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}

/// The command without what its help does not show: shells would offer that, too.
fn visible(command: &Command) -> Command {
    Command::new("sero")
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).cloned())
}

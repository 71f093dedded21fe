//! `sero man DIRECTORY`: the manual pages, from the same source as the help.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::failure::{Failure, Result};
use super::{Arguments, Context};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero man /usr/local/share/man/man1
  sero man . && man ./sero-mount.1")]
pub(super) struct ManArguments {
    /// The directory for sero.1 and a page for each command; it must exist
    directory: PathBuf,
}

pub(super) fn run(arguments: &ManArguments, context: &Context) -> Result<()> {
    let directory: &Path = &arguments.directory;
    // Hidden commands have no page.
    clap_mangen::generate_to(Arguments::command(), directory).map_err(|error| {
        Failure::other(format!("{}: {error}; give a directory that exists and that you may write", directory.display()))
    })?;
    context.say(&format!("the manual pages are in {}", directory.display()));
    Ok(())
}

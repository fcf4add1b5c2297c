//! `kernlet completions`: a completion script for the user's shell.
//! Called once by people, or by packagers. It never installs the script.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet completions bash > ~/.local/share/bash-completion/completions/kernlet
  kernlet completions zsh > ~/.zfunc/_kernlet
  kernlet completions fish > ~/.config/fish/completions/kernlet.fish")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::CommandLine::command(), "kernlet", &mut script);
    output::write(&script)
}

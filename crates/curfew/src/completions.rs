//! `curfew completions`: what a shell needs to complete commands and flags.

use std::{error::Error, process::ExitCode};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{cli::Cli, show::out};

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew completions bash > /etc/bash_completion.d/curfew
  curfew completions zsh > \"${fpath[1]}/_curfew\"
  curfew completions fish > ~/.config/fish/completions/curfew.fish")]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Prints them.
    ///
    /// # Errors
    /// When standard output does not take them.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "curfew", &mut script);
        let _ = out(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}

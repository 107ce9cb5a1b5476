//! What the command line looks like, its exit codes, and how an error is printed. Work belongs to the subcommands.

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{audit, policy, run};

/// It could not be done; usage errors included.
pub const FAILED: u8 = 1;
/// Findings, or checks that failed.
pub const FINDINGS: u8 = 3;

/// Curfew ends network sessions on time.
#[derive(Debug, Parser)]
#[command(
    name = "curfew",
    version,
    about,
    after_help = "Exit codes: 0 ok; 1 could not do it; 3 findings or failed checks."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run what the configuration names: the gateway's services, until a signal ends it
    Run(run::Run),
    /// Check policy documents, and explain decisions
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Read and prove the audit log, offline
    #[command(subcommand)]
    Audit(audit::Audit),
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        match self.command {
            Command::Run(command) => command.run(),
            Command::Policy(command) => command.run(),
            Command::Audit(command) => command.run(),
        }
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

//! What the command line looks like, its exit codes, and how an error is printed. Work belongs to the subcommands.

use std::{error::Error, fmt::Display, ops::RangeInclusive, process::ExitCode, str::FromStr};

use clap::{Parser, Subcommand};

use crate::{
    audit, bindings, completions, demo, enforcers, policy, revocations, revoke, run, segments,
    sessions, subjects, tokens, top,
};

/// It could not be done; usage errors included.
pub const FAILED: u8 = 1;
/// Findings, or checks that failed.
pub const FINDINGS: u8 = 3;
/// Done in part: an enforcer did not answer.
pub const PARTIAL: u8 = 4;

/// Curfew ends network sessions on time.
#[derive(Debug, Parser)]
#[command(
    name = "curfew",
    version,
    about,
    after_help = "Exit codes: 0 ok; 1 could not do it; 3 findings or failed checks; 4 done in part: an enforcer did not answer."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run what the configuration names: the gateway's services, until a signal ends it
    Run(run::Run),
    /// See live sessions end on time, beside the same clients without Curfew
    Demo(demo::Demo),
    /// Check policy documents, explain decisions, and apply a set
    #[command(subcommand)]
    Policy(policy::Policy),
    Sessions(sessions::Sessions),
    Top(top::Top),
    Revoke(Box<revoke::Revoke>),
    Revocations(revocations::Revocations),
    Segments(segments::Segments),
    Subjects(subjects::Subjects),
    Bindings(bindings::Bindings),
    Enforcers(enforcers::Enforcers),
    Tokens(tokens::Tokens),
    /// Read and prove the audit log, offline; keep its head
    #[command(subcommand)]
    Audit(audit::Audit),
    Completions(completions::Completions),
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        match self.command {
            Command::Run(command) => command.run(),
            Command::Demo(command) => command.run(),
            Command::Policy(command) => command.run(),
            Command::Sessions(command) => command.run(),
            Command::Top(command) => command.run(),
            Command::Revoke(command) => command.run(),
            Command::Revocations(command) => command.run(),
            Command::Segments(command) => command.run(),
            Command::Subjects(command) => command.run(),
            Command::Bindings(command) => command.run(),
            Command::Enforcers(command) => command.run(),
            Command::Tokens(command) => command.run(),
            Command::Audit(command) => command.run(),
            Command::Completions(command) => command.run(),
        }
    }
}

/// A whole number of the command line, of this range.
pub fn number<T: Clone + FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let (least, most) = (range.start(), range.end());
        number.ok_or_else(|| format!("write a whole number from {least} to {most}"))
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

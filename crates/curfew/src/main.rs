//! The binary's entry: arguments in, exit code out. Every subcommand is a module of its own.

mod applied;
mod asking;
mod audit;
mod bindings;
mod cli;
mod client;
mod clock;
mod completions;
mod config;
mod demo;
mod doors;
mod enforcers;
mod log;
mod node;
mod outcomes;
mod outlet;
mod policy;
mod revocations;
mod revoke;
mod run;
mod segments;
mod sessions;
mod show;
mod sources;
mod subjects;
mod supervisor;
mod tokens;
mod top;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(cli) => cli.run().unwrap_or_else(|error| {
            eprintln!("curfew: {}", cli::chain(&*error));
            ExitCode::from(cli::FAILED)
        }),
        Err(error) => {
            // Help and version come this way too, and are no failure.
            let failed = error.use_stderr();
            let _ = error.print();
            ExitCode::from(if failed { cli::FAILED } else { 0 })
        }
    }
}

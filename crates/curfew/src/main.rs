//! The binary's entry: arguments in, exit code out. Every subcommand is a module of its own.

mod audit;
mod cli;
mod clock;
mod config;
mod node;
mod policy;
mod run;
mod sources;

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

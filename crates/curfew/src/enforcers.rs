//! `curfew enforcers`: the running processes with doors, through the API.

use std::{error::Error, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{
    asking::Asking,
    show::{Reading, Side, Table, list, text},
};

/// Look at enforcers
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew enforcers list
  curfew enforcers list --output yaml")]
pub struct Enforcers {
    #[command(flatten)]
    asking: Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List enforcers with the revision that each has applied
    List,
}

impl Enforcers {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let Command::List = self.command;
        self.asking.list("/v1/enforcers", "enforcers", table)
    }
}

fn table(enforcers: &Value, reading: &Reading) -> String {
    let mut table = Table::new([
        ("ID", Side::Left),
        ("DOORS", Side::Left),
        ("REVISION", Side::Right),
        ("OPEN", Side::Right),
        ("HEARD", Side::Left),
    ]);
    for enforcer in enforcers.as_array().into_iter().flatten() {
        table.row([
            text(enforcer, "id"),
            list(enforcer, "doors"),
            text(enforcer, "revision"),
            text(enforcer, "open"),
            reading.local(enforcer, "heard_at"),
        ]);
    }
    table.written("no enforcers")
}
        ("SERVICES", Side::Left),
            list(enforcer, "services"),

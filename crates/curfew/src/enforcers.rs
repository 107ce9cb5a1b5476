//! `curfew enforcers`: the running processes with doors, through the API.

use std::{error::Error, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{
    client::{Call, Connect},
    show::{Output, Reading, Side, Table, list, text},
};

/// Look at enforcers
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew enforcers list
  curfew enforcers list --output yaml")]
pub struct Enforcers {
    /// The form of what is printed
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: Connect,
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
        let mut answer = self.connect.client()?.send(&Call::get("/v1/enforcers"))?;
        let enforcers = answer.get_mut("enforcers").map(Value::take);
        let enforcers = enforcers.unwrap_or_default();
        self.output
            .show(&enforcers, |enforcers| table(enforcers, &Reading::here()))?;
        Ok(ExitCode::SUCCESS)
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

//! `curfew enforcers`: the running processes with doors, through the API.

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use curfew_model::{EnforcerId, format_duration};
use serde_json::Value;

use crate::{
    asking::Asking,
    client::Call,
    show::{Reading, Side, Table, list, text},
};

/// Look at enforcers, and have one take its clock as it is
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew enforcers list
  curfew enforcers list --output yaml
  curfew enforcers accept-clock gw-1")]
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
    /// Have an enforcer judge by its wall clock again, though a later time is on record
    ///
    /// A clock that is set back lets nobody in again: new sessions are judged by the latest time on record until the clock
    /// gets there, after a restart too. This is for a clock that was wrong ahead, and is right now.
    AcceptClock {
        /// Its name
        #[arg(value_name = "ID")]
        id: EnforcerId,
    },
}

impl Enforcers {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let id = match self.command {
            Command::List => return self.asking.list("/v1/enforcers", "enforcers", table),
            Command::AcceptClock { id } => id,
        };
        let call = Call::post(format!("/v1/enforcers/{id}/accept-clock"));
        let accepted = self.asking.client()?.send(&call)?;
        self.asking.output.show(&accepted, |accepted| {
            table(&Value::Array(vec![accepted.clone()]), &Reading::here())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(enforcers: &Value, reading: &Reading) -> String {
    let mut table = Table::new([
        ("ID", Side::Left),
        ("DOORS", Side::Left),
        ("SERVICES", Side::Left),
        ("REVISION", Side::Right),
        ("OPEN", Side::Right),
        ("HEARD", Side::Left),
        ("CLOCK", Side::Left),
    ]);
    for enforcer in enforcers.as_array().into_iter().flatten() {
        table.row([
            text(enforcer, "id"),
            list(enforcer, "doors"),
            list(enforcer, "services"),
            text(enforcer, "revision"),
            text(enforcer, "open"),
            reading.local(enforcer, "heard_at"),
            clock(enforcer),
        ]);
    }
    table.written("no enforcers")
}

fn clock(enforcer: &Value) -> String {
    match enforcer.get("clock_behind_ms").and_then(Value::as_u64) {
        None => String::new(),
        Some(0) => "ok".to_owned(),
        Some(behind) => {
            let behind = format_duration(Duration::from_millis(behind));
            format!("{behind} behind the record")
        }
    }
}

//! `curfew revocations`: list, show and lift orders, through the API.

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use curfew_model::RevocationId;
use serde_json::Value;

use crate::{
    asking::Asking,
    client::Call,
    outcomes,
    revoke::duration,
    show::{Reading, Side, Table, flag, pairs, scope, text},
};

/// Look at orders to end sessions, and lift their blocks
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew revocations list --blocking
  curfew revocations show 019ac2f0-0000-7000-8000-000000000001
  curfew revocations lift 019ac2f0-0000-7000-8000-000000000001")]
pub struct Revocations {
    #[command(flatten)]
    asking: Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List orders, the oldest first
    List {
        /// Only those that keep new sessions out
        #[arg(long)]
        blocking: bool,
    },
    /// Show an order, and what each enforcer did
    Show {
        /// Its id
        #[arg(value_name = "ID")]
        id: RevocationId,
    },
    /// Let new sessions in again; those that ended stay ended
    Lift {
        /// Its id
        #[arg(value_name = "ID")]
        id: RevocationId,
        /// How long to wait for enforcers, at most 60s [default: 5s]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        wait: Option<Duration>,
    },
}

impl Revocations {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let Asking { output, .. } = self.asking;
        let reading = Reading::here();
        match self.command {
            Command::List { blocking } => {
                let call = Call::get("/v1/revocations").with("blocks", blocking.then_some(true));
                return self.asking.pages(&call, "revocations", table);
            }
            Command::Show { id } => {
                let order = self
                    .asking
                    .client()?
                    .send(&Call::get(format!("/v1/revocations/{id}")))?;
                output.show(&order, |order| details(order, &reading))?;
            }
            Command::Lift { id, wait } => {
                let call = Call::post(format!("/v1/revocations/{id}/lift")).wait(wait);
                let order = self.asking.client()?.send(&call)?;
                output.show(&order, |order| details(order, &reading))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What an order does to new sessions.
#[must_use]
pub fn block_words(order: &Value, reading: &Reading) -> String {
    let lifted = reading.local(order, "lifted_at");
    if !lifted.is_empty() {
        return format!("let in since {lifted}");
    }
    match order.get("block") {
        Some(Value::String(block)) if block == "until_lifted" => "kept out until lifted".to_owned(),
        Some(block @ Value::Object(_)) if flag(order, "blocks") => {
            format!("kept out until {}", reading.deadline(block, "until"))
        }
        Some(block @ Value::Object(_)) => format!("let in since {}", reading.local(block, "until")),
        _ => "let in".to_owned(),
    }
}

fn table(orders: &Value, reading: &Reading) -> String {
    let mut table = Table::new([
        ("ID", Side::Left),
        ("SCOPE", Side::Left),
        ("NEW SESSIONS", Side::Left),
        ("ORDERED", Side::Left),
        ("BY", Side::Left),
        ("REASON", Side::Left),
    ]);
    for order in orders.as_array().into_iter().flatten() {
        table.row([
            text(order, "id"),
            scope(order),
            block_words(order, reading),
            reading.local(order, "created_at"),
            text(order, "source"),
            text(order, "reason"),
        ]);
    }
    table.written("no revocations")
}

fn details(order: &Value, reading: &Reading) -> String {
    let words = pairs([
        ("id", text(order, "id")),
        ("scope", scope(order)),
        ("new sessions", block_words(order, reading)),
        ("reason", text(order, "reason")),
        ("ordered by", text(order, "source")),
        ("ordered", reading.local(order, "created_at")),
        ("lifted", reading.local(order, "lifted_at")),
        ("revision", text(order, "revision")),
    ]);
    // What enforcers did is remembered for a while only.
    match order.get("enforcers") {
        Some(Value::Array(_)) => format!("{words}\n{}", outcomes::table(order)),
        _ => words,
    }
}

//! `curfew segments`: what is in force, through the API.

use std::{error::Error, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{
    asking::Asking,
    show::{Side, Table, text},
};

/// Look at segments
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew segments list
  curfew segments list --output json")]
pub struct Segments {
    #[command(flatten)]
    asking: Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List segments with their limits and how many sessions are open
    List,
}

impl Segments {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let Command::List = self.command;
        self.asking
            .list("/v1/segments", "segments", |segments, _| table(segments))
    }
}

fn table(segments: &Value) -> String {
    let mut table = Table::new([
        ("NAME", Side::Left),
        ("SENSITIVITY", Side::Left),
        ("MODE", Side::Left),
        ("ACCESS", Side::Left),
        ("OPEN", Side::Right),
        ("LIFETIME", Side::Right),
        ("IDLE", Side::Right),
        ("REAUTH", Side::Right),
        ("CONCURRENT", Side::Right),
        ("PLACE", Side::Left),
    ]);
    for segment in segments.as_array().into_iter().flatten() {
        let limit = |field| {
            let limits = segment.get("limits");
            limits.map_or_else(String::new, |limits| text(limits, field))
        };
        table.row([
            text(segment, "name"),
            text(segment, "sensitivity"),
            text(segment, "mode"),
            text(segment, "access"),
            text(segment, "open"),
            limit("max_lifetime"),
            limit("idle_timeout"),
            limit("reauth_every"),
            limit("max_concurrent"),
            text(segment, "place"),
        ]);
    }
    table.written("no segments: apply policy that defines some")
}

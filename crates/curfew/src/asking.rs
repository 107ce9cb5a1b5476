//! What commands that ask a server are given, and how lists are asked for and printed. What is in them may not live here.

use std::{error::Error, process::ExitCode};

use clap::Args;
use serde_json::Value;

use crate::{
    client::{Call, Client, ClientError, Connect},
    show::{Output, Reading},
};

/// Entries of a list that comes in pages.
const LISTED: u32 = 100_000;

/// Which server is asked, and how its answer is printed.
#[derive(Debug, Args)]
pub struct Asking {
    /// The form of what is printed
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Output,
    #[command(flatten)]
    connect: Connect,
}

impl Asking {
    /// A client for the server that the arguments name.
    ///
    /// # Errors
    /// What is missing or cannot be used, and what to do.
    pub fn client(&self) -> Result<Client, ClientError> {
        self.connect.client()
    }

    /// Prints a list that comes whole, under `field` of the answer.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn list(
        &self,
        path: &str,
        field: &str,
        table: impl FnOnce(&Value, &Reading) -> String,
    ) -> Result<ExitCode, Box<dyn Error>> {
        let entries = self.client()?.whole(&Call::get(path), field)?;
        self.output
            .show(&entries, |entries| table(entries, &Reading::here()))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Prints a list that comes in pages, and says when it is cut.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn pages(
        &self,
        call: &Call,
        field: &str,
        table: impl FnOnce(&Value, &Reading) -> String,
    ) -> Result<ExitCode, Box<dyn Error>> {
        let listed = self.client()?.list(call, field, LISTED)?;
        self.output
            .show(&listed.entries, |entries| table(entries, &Reading::here()))?;
        if listed.more {
            eprintln!("curfew: there are more {field} than {LISTED}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

//! `curfew tokens`: list, make and remove the tokens of callers, through the API. A token is printed once, when it is
//! made.

use std::{error::Error, process::ExitCode};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::{
    asking::Asking,
    client::{Call, encoded},
    show::{Output, Reading, Side, Table, clean, list, text},
};

/// Look at the tokens of callers of the API, make some, remove some
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  (umask 077; curfew tokens create dashboard --role viewer > dashboard.token)
  curfew tokens create vpn --role binder --network 100.64.0.0/10
  curfew tokens remove dashboard

A token is shown once, when it is made. What a removed one presents is refused from then on.")]
pub struct Tokens {
    #[command(flatten)]
    asking: Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List tokens by name; they themselves are not kept
    List,
    /// Make a token and print it
    Create {
        /// Its name: 1 to 253 of a-z, 0-9, '-', '.', '_'
        name: String,
        /// What its holder may do
        #[arg(long, value_enum)]
        role: Role,
        /// For a binder: where the addresses that it binds have to be in; may be given several times
        #[arg(long = "network", value_name = "RANGE")]
        networks: Vec<String>,
    },
    /// Remove a token
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Looks
    Viewer,
    /// Looks, cancels, renews and revokes
    Operator,
    /// Makes and removes bindings within its networks
    Binder,
    /// Everything
    Admin,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Binder => "binder",
            Self::Admin => "admin",
        }
    }
}

impl Tokens {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let Asking { output, .. } = self.asking;
        match self.command {
            Command::List => return self.asking.list("/v1/tokens", "tokens", table),
            Command::Create {
                name,
                role,
                networks,
            } => {
                let body = json!({"name": name, "role": role.word(), "networks": networks});
                let made = self
                    .asking
                    .client()?
                    .send(&Call::post("/v1/tokens").body(body))?;
                // Alone, so that it can be sent to a file.
                output.show(&made, |made| clean(&text(made, "token")) + "\n")?;
                if output == Output::Table {
                    eprintln!("curfew: {}", made_words(&made));
                }
            }
            Command::Remove { name } => {
                let call = Call::delete(format!("/v1/tokens/{}", encoded(&name)));
                self.asking.client()?.send(&call)?;
                output.show(&json!({"removed": name}), |_| {
                    format!("token {} is removed\n", clean(&name))
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn made_words(made: &Value) -> String {
    format!(
        "token {} of a {}: it is not shown again; keep it in a file of mode 0600 for --token-file",
        clean(&text(made, "name")),
        clean(&text(made, "role")),
    )
}

fn table(tokens: &Value, reading: &Reading) -> String {
    let mut table = Table::new([
        ("NAME", Side::Left),
        ("ROLE", Side::Left),
        ("MADE", Side::Left),
        ("NETWORKS", Side::Left),
    ]);
    for token in tokens.as_array().into_iter().flatten() {
        table.row([
            text(token, "name"),
            text(token, "role"),
            reading.local(token, "created_at"),
            list(token, "networks"),
        ]);
    }
    table.written("no tokens")
}

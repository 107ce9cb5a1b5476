//! `curfew bindings`: list, set and remove what ties an address, uid or cgroup to a subject, through the API.

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{ArgGroup, Args, Subcommand};
use curfew_model::WallInstant;
use serde_json::{Map, Value, json};

use crate::{
    asking::Asking,
    cli::number,
    client::Call,
    outcomes,
    revoke::{duration, instant},
    show::{Reading, Side, Table, list, name, text},
};

/// Look at bindings, make them, remove them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew bindings list
  curfew bindings set --address 100.64.0.7 --user alice --group dba --until 2026-12-01T08:00:00Z
  curfew bindings set --uid 1001 --workload backup
  curfew bindings remove --address 100.64.0.7

A binding that is set again is refreshed: its subject has proved itself now. When one is removed, its sessions end.
Those with the source `config` are kept in curfew.yaml: change them there, and send the server SIGHUP.")]
pub struct Bindings {
    #[command(flatten)]
    asking: Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List bindings
    List,
    /// Make a binding, or refresh it
    Set(Box<Set>),
    /// Remove a binding; its sessions end now
    Remove {
        #[command(flatten)]
        key: Key,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Args)]
#[group(id = "key", required = true, multiple = false)]
struct Key {
    /// A source address, or a range like 10.0.0.0/24
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// The user id that owns the client's socket on the enforcer's host
    #[arg(long, value_name = "UID", value_parser = number(0..=u32::MAX))]
    uid: Option<u32>,
    /// The client's cgroup on the enforcer's host
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
}

/// How long a change waits for enforcers.
#[derive(Debug, Args)]
pub struct Wait {
    /// How long to wait for enforcers, at most 60s [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("subject").required(true).multiple(false))]
struct Set {
    #[command(flatten)]
    key: Key,
    /// The user, as ID or ISSUER#ID
    #[arg(long, value_name = "USER", group = "subject")]
    user: Option<String>,
    /// The workload, as ID or ISSUER#ID
    #[arg(long, value_name = "WORKLOAD", group = "subject")]
    workload: Option<String>,
    /// What people call the subject; decides nothing
    #[arg(long, value_name = "TEXT")]
    display: Option<String>,
    /// A group of the subject; may be given several times
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// When it ends, like 2026-12-01T08:00:00Z; never if left out
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    until: Option<WallInstant>,
    #[command(flatten)]
    wait: Wait,
}

impl Bindings {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let call = match self.command {
            Command::List => {
                let call = Call::get("/v1/bindings");
                return self.asking.pages(&call, "bindings", table);
            }
            Command::Set(set) => Call::put("/v1/bindings")
                .wait(set.wait.wait)
                .body(set.body()),
            Command::Remove { key, wait } => Call::delete("/v1/bindings")
                .with("address", key.address)
                .with("uid", key.uid)
                .with("cgroup", key.cgroup)
                .wait(wait.wait),
        };
        let answer = self.asking.client()?.send(&call)?;
        self.asking.output.show(&answer, changed)?;
        outcomes::warn(&answer);
        Ok(outcomes::exit_code(&answer))
    }
}

impl Set {
    /// What is not given is left out.
    fn body(self) -> Value {
        let members = [
            ("address", json!(self.key.address)),
            ("uid", json!(self.key.uid)),
            ("cgroup", json!(self.key.cgroup)),
            ("user", json!(self.user)),
            ("workload", json!(self.workload)),
            ("display", json!(self.display)),
            ("groups", json!(self.groups)),
            ("until", json!(self.until)),
        ];
        let given = members.into_iter().filter(|(_, value)| !value.is_null());
        let body: Map<String, Value> = given
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Value::Object(body)
    }
}

/// A change with what each enforcer did.
#[must_use]
pub fn changed(answer: &Value) -> String {
    let revision = crate::show::clean(&text(answer, "revision"));
    format!("revision {revision}\n{}", outcomes::table(answer))
}

fn table(bindings: &Value, reading: &Reading) -> String {
    let mut table = Table::new([
        ("BOUND", Side::Left),
        ("SUBJECT", Side::Left),
        ("GROUPS", Side::Left),
        ("UNTIL", Side::Left),
        ("REFRESHED", Side::Left),
        ("SOURCE", Side::Left),
    ]);
    for binding in bindings.as_array().into_iter().flatten() {
        let keys = ["address", "uid", "cgroup"];
        let bound = keys.into_iter().find_map(|key| {
            let value = text(binding, key);
            (!value.is_empty()).then(|| format!("{key} {value}"))
        });
        table.row([
            bound.unwrap_or_default(),
            binding.get("identity").map_or_else(String::new, name),
            list(binding, "groups"),
            reading.deadline(binding, "until"),
            reading.local(binding, "refreshed_at"),
            text(binding, "source"),
        ]);
    }
    table.written("no bindings")
}

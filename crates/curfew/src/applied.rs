//! `curfew policy apply` and `curfew policy history`: the policy in force, through the API. Documents are read here and
//! judged there.

use std::{error::Error, fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use curfew_policy::Problem;
use serde_json::{Value, json};

use crate::{
    cli::{FINDINGS, number},
    client::{Call, ClientError, Connect, Refusal, finding_text},
    outcomes,
    policy::as_json,
    revoke::duration,
    show::{Output, Reading, Side, Table, clean, items, text},
    sources::{self, Unread},
};

/// Whose documents they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Owner {
    /// The policy path of the server's configuration.
    Files,
    /// Callers of the API.
    Api,
}

/// The arguments of `policy apply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew policy apply ./policy
  curfew policy apply ./policy --owner files --expected-revision 12

The set replaces all documents of its owner. Live sessions that it concerns are decided again at once.
Exit codes: 0 applied; 3 the set has errors and nothing changed; 4 applied, but an enforcer did not answer; 1 not done.")]
pub struct Apply {
    /// A policy file, or a folder of them
    path: PathBuf,
    /// Whose set it replaces [default: files if PATH is the `policy.path` of the configuration, otherwise api]
    #[arg(long, value_enum)]
    owner: Option<Owner>,
    /// Take a set without any document: it removes all documents of its owner
    #[arg(long)]
    allow_empty: bool,
    /// Only if the state still has this revision
    #[arg(long, value_name = "REVISION", value_parser = number(0..=u64::MAX))]
    expected_revision: Option<u64>,
    /// How long to wait for enforcers, at most 60s [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// The form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: Connect,
}

/// The arguments of `policy history`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew policy history
  curfew policy history --output json")]
pub struct History {
    /// The form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: Connect,
}

impl Apply {
    /// Applies the set.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let sources = match sources::read(&self.path) {
            Err(error) if error.is_empty() && self.allow_empty => Vec::new(),
            read => match read?.whole() {
                Ok(sources) => sources,
                Err(unread) => return self.refuse(&unread),
            },
        };
        let sources: Vec<Value> = sources
            .into_iter()
            .map(|(path, text)| json!({"path": path, "text": text}))
            .collect();
        let owner = self.owner();
        let word = match owner {
            Owner::Files => "files",
            Owner::Api => "api",
        };
        let mut body = json!({"sources": sources, "owner": word, "allow_empty": self.allow_empty});
        if let (Some(revision), Some(body)) = (self.expected_revision, body.as_object_mut()) {
            body.insert("expected_revision".to_owned(), json!(revision));
        }
        let call = Call::post("/v1/policies").wait(self.wait).work().body(body);
        let answer = match self.connect.client()?.send(&call) {
            Err(ClientError::Refused(refusal))
                if ["policy_invalid", TAKEN].contains(&refusal.code.as_str()) =>
            {
                self.output
                    .show(&refusal.document, |_| findings(&refusal, owner))?;
                return Ok(ExitCode::from(FINDINGS));
            }
            other => other?,
        };
        self.output.show(&answer, applied)?;
        Ok(outcomes::exit_code(&answer))
    }

    /// Shows what cannot be read, and applies nothing.
    fn refuse(&self, unread: &Unread) -> Result<ExitCode, Box<dyn Error>> {
        let problems: Vec<Problem> = unread.problems().collect();
        let answer = json!({"valid": false, "problems": as_json(&problems)});
        self.output.show(&answer, |_| {
            let lines = problems.iter().map(|problem| format!("{problem}\n"));
            lines.collect::<String>() + "nothing was applied\n"
        })?;
        Ok(ExitCode::from(FINDINGS))
    }

    /// The folder that the server itself reads belongs to its files: what it reads again replaces the same documents.
    fn owner(&self) -> Owner {
        let same = || {
            let configured = self.connect.local().ok()?.policy;
            let same = fs::canonicalize(configured).ok()? == fs::canonicalize(&self.path).ok()?;
            same.then_some(Owner::Files)
        };
        self.owner.or_else(same).unwrap_or(Owner::Api)
    }
}

/// The code of a set with a name that a document of another owner has.
const TAKEN: &str = "name_taken";

/// What is wrong with a set, and what it stands beside.
fn findings(refusal: &Refusal, owner: Owner) -> String {
    let beside = match owner {
        Owner::Api if refusal.code == TAKEN => {
            "\nThe set stands beside the documents of the server's files; --owner files replaces those instead.\n"
        }
        _ => "",
    };
    format!("{refusal}\n{beside}")
}

fn applied(answer: &Value) -> String {
    let mut words = String::new();
    for warning in items(answer, "warnings") {
        words.push_str(&format!("{}\n\n", finding_text(warning)));
    }
    let took = answer.get("took_ms").and_then(Value::as_f64).unwrap_or(0.0);
    words.push_str(&format!(
        "applied as revision {}, set {}, after {took:.1} ms\n",
        clean(&text(answer, "revision")),
        short(&text(answer, "hash")),
    ));
    words + &outcomes::table(answer)
}

/// The start of a hash, which is enough to tell sets apart.
fn short(hash: &str) -> String {
    clean(&hash.chars().take(12).collect::<String>())
}

impl History {
    /// Prints the history.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let call = Call::get("/v1/policies/history");
        let history = self.connect.client()?.whole(&call, "history")?;
        self.output
            .show(&history, |history| past(history, &Reading::here()))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn past(history: &Value, reading: &Reading) -> String {
    let mut table = Table::new([
        ("REVISION", Side::Right),
        ("OWNER", Side::Left),
        ("APPLIED", Side::Left),
        ("BY", Side::Left),
        ("SET", Side::Left),
    ]);
    for set in history.as_array().into_iter().flatten() {
        table.row([
            text(set, "revision"),
            text(set, "owner"),
            reading.local(set, "at"),
            text(set, "by"),
            short(&text(set, "hash")),
        ]);
    }
    table.written("nothing was applied yet")
}

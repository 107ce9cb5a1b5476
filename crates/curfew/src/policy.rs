//! `curfew policy`: validate documents, and explain a decision, offline. What goes through the API is next door.

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use curfew_model::{
    Clock, DeviceId, Facts, Identity, Issuer, Kind, Now, Proof, Revision, ServiceName, Target,
    UpstreamAddress, WallInstant,
};
use curfew_policy::{Outcome, PolicySet, Problem, Severity, check_statement, compile, load};
use serde_json::json;

use crate::{applied, cli::FINDINGS, clock::SystemClock, show::Output, sources};

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check documents: every problem is found in one pass
    Validate(Validate),
    /// Say how a session would be decided, and why
    Explain(Box<Explain>),
    /// Put documents in force, through the API
    Apply(applied::Apply),
    /// Show which sets were applied, when and by whom, through the API
    History(applied::History),
}

/// The arguments of `policy validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// A policy file, or a folder of them
    path: PathBuf,
    /// The form of the report
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The arguments of `policy explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew policy explain ./policy --service payments-db --user alice --group dba
  curfew policy explain ./policy --target 10.20.0.1:5432 --client 192.0.2.1 --output json

Exit codes: 0 admitted; 3 refused, or no segment contains the target; 1 not decided, as the documents are not valid.")]
pub struct Explain {
    /// A policy file, or a folder of them
    path: PathBuf,
    /// The client's address, like 192.0.2.1 or 192.0.2.1:4000
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = address)]
    client: SocketAddr,
    /// The gateway's service that it connects to
    #[arg(long, value_name = "NAME", required_unless_present = "target")]
    service: Option<ServiceName>,
    /// The address that it connects to, like 10.0.0.1:5432
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: Option<SocketAddr>,
    /// The user that is bound to the client, as ID or ISSUER#ID
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The workload that is bound to the client, as ID or ISSUER#ID
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    /// The login name inside the protocol, as SERVICE/NAME; only asserted by the client
    #[arg(long, value_name = "SERVICE/NAME")]
    role: Option<String>,
    /// A group of the subject; may be given several times
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// The client's device
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceId>,
    /// An attribute for `when`, like subject.risk=low; may be given several times
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = known_attribute)]
    attributes: Vec<(String, String)>,
    /// The time, like 2026-11-24T12:00:00Z; now, if it is left out
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    at: Option<WallInstant>,
    /// The form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| {
            text.parse::<std::net::IpAddr>()
                .map(|ip| SocketAddr::new(ip, 0))
        })
        .map_err(|_| "is no address: write it like 192.0.2.1 or [2001:db8::1]:4000".to_owned())
}

/// An attribute as it is written. Whether there is one of that name is for others.
pub fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write it like subject.risk=low")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn known_attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = attribute(text)?;
    check_statement(&name, &value)?;
    Ok((name, value))
}

fn instant(text: &str) -> Result<WallInstant, String> {
    serde_json::from_value(json!(text))
        .map_err(|_| "is no instant: write it like 2026-11-24T12:00:00Z".to_owned())
}

impl Policy {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// When the documents cannot be read.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        match self {
            Self::Validate(validate) => validate.run(),
            Self::Explain(explain) => explain.run(),
            Self::Apply(apply) => apply.run(),
            Self::History(history) => history.run(),
        }
    }
}

/// A set, or why there is none, and the warnings about it.
pub fn compiled(
    sources: &[sources::Source],
    revision: Revision,
) -> (Option<PolicySet>, Vec<Problem>) {
    let loaded = load(
        sources
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    let mut problems = loaded.problems;
    // Names across documents are checked too where single documents are wrong already: one pass finds all.
    let set = match compile(loaded.documents, revision) {
        Ok(set) => Some(set),
        Err(more) => {
            problems.extend(more);
            None
        }
    };
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    let wrong = problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    (set.filter(|_| !wrong), problems)
}

impl Validate {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let sources = sources::read(&self.path)?;
        let (set, problems) = compiled(&sources, Revision(0));
        let answer = json!({"valid": set.is_some(), "problems": as_json(&problems)});
        self.output.show(&answer, |_| {
            let mut text = String::new();
            for problem in &problems {
                text.push_str(&format!("{problem}\n\n"));
            }
            let summary = summary(set.is_some(), sources.len(), &problems);
            text + &format!("{}: {summary}\n", self.path.display())
        })?;
        Ok(if problems.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FINDINGS)
        })
    }
}

fn summary(valid: bool, files: usize, problems: &[Problem]) -> String {
    let errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .count();
    let warnings = problems.len() - errors;
    let verdict = if valid { "valid" } else { "NOT valid" };
    format!("{verdict}; files {files}, errors {errors}, warnings {warnings}")
}

fn as_json(problems: &[Problem]) -> Vec<serde_json::Value> {
    let one = |problem: &Problem| {
        json!({
            "file": &*problem.place.file,
            "line": problem.place.line,
            "column": problem.place.column,
            "severity": problem.severity.to_string(),
            "message": problem.message,
            "excerpt": problem.place.excerpt.as_deref(),
            "consequence": problem.consequence,
            "help": problem.help,
        })
    };
    problems.iter().map(one).collect()
}

impl Explain {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let sources = sources::read(&self.path)?;
        let (set, problems) = compiled(&sources, Revision(0));
        let Some(set) = set else {
            problems.iter().for_each(|problem| eprintln!("{problem}\n"));
            return Err(format!(
                "{}: not valid, so nothing can be decided by it",
                self.path.display()
            )
            .into());
        };
        let now = self.at.map_or_else(
            || SystemClock.now(),
            |wall| Now {
                wall,
                ..SystemClock.now()
            },
        );
        let output = self.output;
        let explanation = set.explain(&self.facts(now), now);
        output.show(&serde_json::to_value(&explanation)?, |_| {
            format!("{explanation}\n")
        })?;
        Ok(match explanation.outcome {
            Outcome::Admitted => ExitCode::SUCCESS,
            Outcome::Refused | Outcome::NoSegment => ExitCode::from(FINDINGS),
        })
    }

    fn facts(self, now: Now) -> Facts {
        let identity = |proof, kind, name: Option<String>| {
            let name = name?;
            let (issuer, id) = name
                .rsplit_once('#')
                .map_or((Issuer::local(), name.clone()), |(issuer, id)| {
                    (Issuer(issuer.to_owned()), id.to_owned())
                });
            Some(Identity {
                proof,
                kind,
                issuer,
                id,
                display: None,
            })
        };
        let mut identities: Vec<Identity> = [
            identity(Proof::Bound, Kind::User, self.user),
            identity(Proof::Bound, Kind::Workload, self.workload),
            identity(Proof::Asserted, Kind::Role, self.role),
        ]
        .into_iter()
        .flatten()
        .collect();
        identities.sort();
        Facts {
            identities,
            groups: self.groups,
            device: self.device,
            attributes: self.attributes.into_iter().collect(),
            client: self.client,
            target: Target {
                service: self.service,
                upstream: self.target.map(UpstreamAddress::Tcp),
            },
            opened_at: now.boot,
            proved_at: None,
            credential_until: None,
            binding_until: None,
            ambiguous: false,
        }
    }
}

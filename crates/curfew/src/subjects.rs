//! `curfew subjects`: list, set and forget what is known of subjects apart from their bindings, through the API.

use std::{error::Error, process::ExitCode};

use clap::{Args, Subcommand};
use curfew_model::Kind;
use serde_json::{Map, Value, json};

use crate::{
    asking::Asking,
    bindings::{Wait, changed},
    client::Call,
    outcomes,
    policy::attribute,
    show::{Reading, Side, Table, list, name, text},
};

/// Look at what is known of subjects, and set it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew subjects list
  curfew subjects set user:alice --group dba --attribute subject.risk=low
  curfew subjects forget user:alice")]
pub struct Subjects {
    #[command(flatten)]
    asking: Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List subjects with their groups and attributes
    List,
    /// Set all groups and attributes of a subject; its sessions are decided again
    Set {
        /// KIND:ID or KIND:ISSUER#ID; the kind is user, workload, device or role
        #[arg(value_parser = subject)]
        subject: Named,
        /// A group; may be given several times
        #[arg(long = "group", value_name = "NAME")]
        groups: Vec<String>,
        /// An attribute for `when`, like subject.risk=low; may be given several times
        #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
        attributes: Vec<(String, String)>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Forget the groups and attributes of a subject; its sessions are decided again
    Forget {
        /// KIND:ID or KIND:ISSUER#ID; the kind is user, workload, device or role
        #[arg(value_parser = subject)]
        subject: Named,
        #[command(flatten)]
        wait: Wait,
    },
}

/// A subject as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    kind: String,
    issuer: Option<String>,
    id: String,
}

fn subject(text: &str) -> Result<Named, String> {
    let form = || "write it like user:alice or user:https://idp.example.org#alice".to_owned();
    let (kind, rest) = text.split_once(':').ok_or_else(form)?;
    if Kind::of_word(kind).is_none() {
        return Err(form());
    }
    let (issuer, id) = match rest.split_once('#') {
        Some((issuer, id)) => (Some(issuer.to_owned()), id),
        None => (None, rest),
    };
    if id.is_empty() {
        return Err(form());
    }
    Ok(Named {
        kind: kind.to_owned(),
        issuer,
        id: id.to_owned(),
    })
}

impl Subjects {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let call = match self.command {
            Command::List => {
                let call = Call::get("/v1/subjects");
                let table = |subjects: &Value, _: &Reading| table(subjects);
                return self.asking.pages(&call, "subjects", table);
            }
            Command::Set {
                subject,
                groups,
                attributes,
                wait,
            } => Call::put("/v1/subjects")
                .wait(wait.wait)
                .body(body(subject, &groups, attributes)),
            Command::Forget { subject, wait } => Call::delete("/v1/subjects")
                .with("kind", Some(subject.kind))
                .with("issuer", subject.issuer)
                .with("id", Some(subject.id))
                .wait(wait.wait),
        };
        let answer = self.asking.client()?.send(&call)?;
        self.asking.output.show(&answer, changed)?;
        outcomes::warn(&answer);
        Ok(outcomes::exit_code(&answer))
    }
}

fn body(subject: Named, groups: &[String], attributes: Vec<(String, String)>) -> Value {
    let attributes: Map<String, Value> = attributes
        .into_iter()
        .map(|(name, value)| (name, Value::String(value)))
        .collect();
    let mut body = json!({
        "kind": subject.kind, "id": subject.id, "groups": groups, "attributes": attributes,
    });
    if let (Some(issuer), Some(body)) = (subject.issuer, body.as_object_mut()) {
        body.insert("issuer".to_owned(), Value::String(issuer));
    }
    body
}

fn table(subjects: &Value) -> String {
    let mut table = Table::new([
        ("SUBJECT", Side::Left),
        ("GROUPS", Side::Left),
        ("ATTRIBUTES", Side::Left),
    ]);
    for subject in subjects.as_array().into_iter().flatten() {
        let attributes = subject.get("attributes").and_then(Value::as_object);
        let attributes: Vec<String> = attributes
            .into_iter()
            .flatten()
            .map(|(name, _)| {
                let attributes = subject.get("attributes");
                let value = attributes.map_or_else(String::new, |all| text(all, name));
                format!("{name}={value}")
            })
            .collect();
        table.row([name(subject), list(subject, "groups"), attributes.join(" ")]);
    }
    table.written("nothing is known of any subject apart from bindings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_named_with_their_kind() {
        let named = |text| subject(text).map(|named| (named.kind, named.issuer, named.id));
        let owned = |text: &str| text.to_owned();
        assert_eq!(
            named("user:alice").unwrap(),
            (owned("user"), None, owned("alice"))
        );
        assert_eq!(
            named("user:https://idp#a:b").unwrap(),
            (owned("user"), Some(owned("https://idp")), owned("a:b"))
        );
        for wrong in ["alice", "group:x", "user:", "user:idp#"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }
}

//! `curfew sessions`: list, show, explain, watch, cancel, renew, through the API.

mod watch;

use std::{error::Error, process::ExitCode};

use clap::{Args, Subcommand, ValueEnum};
use curfew_model::{EnforcerId, PolicyName, SegmentName, ServiceName, SessionId, WallInstant};
use serde_json::Value;
use watch::Watch;

use crate::{
    asking::Asking,
    cli::number,
    client::{Call, Client},
    outcomes,
    show::{Output, Reading, Side, Table, clean, clean_lines, items, list, name, pairs, text},
};

/// Sessions that are listed if nobody says.
const LISTED: u32 = 10_000;

/// Look at sessions, and end them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew sessions list --segment payments-db
  curfew sessions list --subject user:alice --output json
  curfew sessions list --state ended
  curfew sessions explain 019ac2f0-0000-7000-8000-000000000001
  curfew sessions watch --event session.ended
  curfew sessions cancel 019ac2f0-0000-7000-8000-000000000001 --reason \"maintenance\"")]
pub struct Sessions {
    #[command(flatten)]
    asking: Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List sessions, the first opened first
    List(Box<List>),
    /// Show everything about a session
    Show(Id),
    /// Say why a session is there, and when and why it will end or ended
    Explain(Id),
    /// Print what happens to sessions, as it happens
    Watch(Watch),
    /// End a session now
    Cancel(Cancel),
    /// Move a lease on fresh proof of its subject; an operator's word is none, and a refreshed binding does it by itself
    Renew(Id),
}

#[derive(Debug, Args)]
struct Id {
    /// Its id
    #[arg(value_name = "ID")]
    id: SessionId,
}

#[derive(Debug, Args)]
struct List {
    /// Only those that carry this identity: KIND:ID or KIND:ISSUER#ID
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Only those into this segment
    #[arg(long, value_name = "NAME")]
    segment: Option<SegmentName>,
    /// Only those through this service
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    /// Only those of this enforcer
    #[arg(long, value_name = "NAME")]
    enforcer: Option<EnforcerId>,
    /// Only those at this door
    #[arg(long, value_enum)]
    door: Option<Door>,
    /// Those that stand there: the living if nobody says, `ended` or `refused` for the last ones
    #[arg(long, value_enum)]
    state: Option<Standing>,
    /// Only those that this policy matched
    #[arg(long, value_name = "NAME")]
    policy: Option<PolicyName>,
    /// At most so many; it is said when there are more
    #[arg(long, value_name = "COUNT", default_value_t = LISTED, value_parser = number(1..=1_000_000_u32))]
    limit: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Door {
    Kernel,
    Gateway,
    Envoy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Standing {
    Living,
    Open,
    Closing,
    Ended,
    Refused,
    All,
}

/// How clap writes a value.
fn word(value: Option<impl ValueEnum>) -> Option<String> {
    let possible = value?.to_possible_value()?;
    Some(possible.get_name().to_owned())
}

#[derive(Debug, Args)]
struct Cancel {
    /// Its id
    #[arg(value_name = "ID")]
    id: SessionId,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Sessions {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let client = self.asking.client()?;
        let output = self.asking.output;
        match self.command {
            Command::List(wanted) => return wanted.run(&client, output),
            Command::Watch(wanted) => return wanted.run(&client, output),
            Command::Show(Id { id }) => {
                let session = client.send(&Call::get(format!("/v1/sessions/{id}")))?;
                output.show(&session, |session| details(session, &Reading::here()))?;
            }
            Command::Explain(Id { id }) => {
                let answer = client.send(&Call::get(format!("/v1/sessions/{id}/explain")))?;
                output.show(&answer, |answer| explained(answer, &Reading::here()))?;
            }
            Command::Cancel(Cancel { id, reason }) => {
                let call = Call::delete(format!("/v1/sessions/{id}")).with("reason", reason);
                output.show(&client.send(&call)?, cancelled)?;
            }
            Command::Renew(Id { id }) => {
                let session = client.send(&Call::post(format!("/v1/sessions/{id}/renew")))?;
                output.show(&session, |session| {
                    format!("renewed\n{}", details(session, &Reading::here()))
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    fn run(self, client: &Client, output: Output) -> Result<ExitCode, Box<dyn Error>> {
        let call = Call::get("/v1/sessions")
            .with("subject", self.subject)
            .with("segment", self.segment)
            .with("service", self.service)
            .with("enforcer", self.enforcer)
            .with("door", word(self.door))
            .with("state", word(self.state))
            .with("policy", self.policy);
        let listed = client.list(&call, "sessions", self.limit)?;
        output.show(&listed.entries, |sessions| {
            table(sessions, &Reading::here())
        })?;
        for warning in &listed.warnings {
            eprintln!("curfew: {warning}");
        }
        if listed.more {
            eprintln!(
                "curfew: there are more sessions than {}: raise --limit, or filter",
                self.limit
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// When a session ends if nothing moves that.
#[must_use]
pub fn deadline(session: &Value) -> Option<WallInstant> {
    Reading::instant(session, "deadline")
}

fn subject(session: &Value) -> String {
    session.get("subject").map_or_else(String::new, name)
}

const HEADS: [(&str, Side); 11] = [
    ("ID", Side::Left),
    ("SUBJECT", Side::Left),
    ("SEGMENTS", Side::Left),
    ("SERVICE", Side::Left),
    ("STATE", Side::Left),
    ("LEFT", Side::Right),
    ("ENDS", Side::Left),
    ("BY", Side::Left),
    ("CLIENT", Side::Left),
    ("IN", Side::Right),
    ("OUT", Side::Right),
];

/// Sessions as rows.
#[must_use]
pub fn table(sessions: &Value, reading: &Reading) -> String {
    written(Table::new(HEADS), sessions, |session| row(session, reading))
}

/// Open sessions as rows that begin with their end, for a terminal that has no room for more.
#[must_use]
pub fn table_of_ends(sessions: &Value, reading: &Reading) -> String {
    written(Table::new(by_end(HEADS)), sessions, |session| {
        by_end(row(session, reading))
    })
}

fn written<const COLUMNS: usize>(
    mut table: Table<COLUMNS>,
    sessions: &Value,
    row: impl Fn(&Value) -> [String; COLUMNS],
) -> String {
    for session in sessions.as_array().into_iter().flatten() {
        table.row(row(session));
    }
    table.written("no sessions")
}

/// The columns of open sessions in another order.
fn by_end<T>(columns: [T; 11]) -> [T; 10] {
    let [
        id,
        subject,
        segments,
        service,
        _,
        left,
        ends,
        by,
        client,
        bytes_in,
        bytes_out,
    ] = columns;
    [
        left, by, subject, service, client, bytes_in, bytes_out, segments, ends, id,
    ]
}

/// What stands under the heads.
fn row(session: &Value, reading: &Reading) -> [String; 11] {
    let state = text(session, "state");
    let (left, ends, by) = match deadline(session) {
        // What has ended has no time left.
        Some(at) if state == "open" => {
            let audit = text(session, "mode") == "audit";
            let only = if audit { ", only recorded" } else { "" };
            let by = format!("{}{only}", text(session, "deadline_reason"));
            (reading.left_cell(at), reading.local_at(at), by)
        }
        _ => (
            String::new(),
            reading.local(session, "ended_at"),
            text(session, "reason"),
        ),
    };
    [
        text(session, "id"),
        subject(session),
        list(session, "segments"),
        text(session, "service"),
        state,
        left,
        ends,
        by,
        text(session, "client"),
        text(session, "bytes_in"),
        text(session, "bytes_out"),
    ]
}

/// Whether it ended or was refused.
fn is_past(session: &Value) -> bool {
    ["ended", "refused"].contains(&text(session, "state").as_str())
}

fn details(session: &Value, reading: &Reading) -> String {
    let identities: Vec<String> = items(session, "identities")
        .iter()
        .map(|identity| format!("{} ({})", name(identity), text(identity, "proof")))
        .collect();
    let has_ended = is_past(session);
    let deadline = |field: &str| {
        if has_ended {
            reading.local(session, field)
        } else {
            reading.deadline(session, field)
        }
    };
    let late = session.get("late_us").and_then(Value::as_u64);
    let late = late.map_or_else(String::new, |late| format!("{late} µs after its deadline"));
    pairs([
        ("id", text(session, "id")),
        ("state", text(session, "state")),
        ("reason", text(session, "reason")),
        ("ended", reading.local(session, "ended_at")),
        ("late", late),
        ("cause", text(session, "cause")),
        ("subject", subject(session)),
        ("identities", identities.join(", ")),
        ("segments", list(session, "segments")),
        ("mode", text(session, "mode")),
        ("service", text(session, "service")),
        ("door", text(session, "door")),
        ("enforcer", text(session, "enforcer")),
        ("client", text(session, "client")),
        ("upstream", text(session, "upstream")),
        ("opened", reading.local(session, "opened_at")),
        ("expires at", deadline("expires_at")),
        ("idle at", deadline("idle_deadline")),
        ("proof due", deadline("reauth_by")),
        ("credential until", deadline("credential_until")),
        ("binding until", deadline("binding_until")),
        ("bytes in", text(session, "bytes_in")),
        ("bytes out", text(session, "bytes_out")),
        ("policies", list(session, "policies")),
        ("revision", text(session, "revision")),
    ])
}

fn explained(answer: &Value, reading: &Reading) -> String {
    let mut words = format!("{}\n\n", in_words(answer, reading));
    let session = answer.get("session");
    let has_ended = session.is_some_and(is_past);
    if let Some(session) = session {
        words.push_str(&details(session, reading));
        words.push('\n');
    }
    let mut table = Table::new([
        ("BOUND", Side::Left),
        ("LEFT", Side::Right),
        ("AT", Side::Left),
        ("REASON", Side::Left),
        ("SET BY", Side::Left),
        ("FIELD", Side::Left),
        ("PLACE", Side::Left),
    ]);
    for bound in items(answer, "bounds") {
        let at = Reading::instant(bound, "at");
        table.row([
            text(bound, "bound"),
            at.filter(|_| !has_ended)
                .map_or_else(String::new, |at| reading.left_cell(at)),
            reading.local(bound, "at"),
            text(bound, "reason"),
            text(bound, "by"),
            text(bound, "field"),
            text(bound, "place"),
        ]);
    }
    words + &table.written("nothing limits it")
}

/// When and why the session will end, as it is read here; of one that ends already, or that nothing ends, what the server
/// says.
fn in_words(answer: &Value, reading: &Reading) -> String {
    let said = answer.get("session").is_some_and(|session| {
        !text(session, "reason").is_empty() || text(session, "mode") == "audit"
    });
    let end = |bound: &Value, but: &str| {
        let at = Reading::instant(bound, "at")?;
        let [reason, by] = ["reason", "by"].map(|field| clean(&text(bound, field)));
        let (local, left) = (reading.local_at(at), reading.left(at));
        Some(format!(
            "at {local} ({left}) with {reason}{but}: {by} set this."
        ))
    };
    let mut bounds = items(answer, "bounds").iter().filter(|_| !said);
    let words = bounds.next().and_then(|first| {
        if text(first, "reason") != "idle_timeout" {
            let end = end(first, " unless something ends it earlier")?;
            return Some(format!("It ends {end}"));
        }
        let first = end(first, " unless it is used before then")?;
        let last = bounds.next().and_then(|bound| end(bound, ""));
        let last = last.map_or_else(String::new, |end| format!("\nAt the latest it ends {end}"));
        Some(format!("It ends {first}{last}"))
    });
    words.unwrap_or_else(|| clean_lines(&text(answer, "text")))
}

fn cancelled(answer: &Value) -> String {
    let took = answer.get("closed_after_ms").and_then(Value::as_f64);
    let took = took.map_or_else(String::new, |ms| format!(" after {ms:.1} ms"));
    let id = clean(&text(answer, "id"));
    format!("session {id} is closed{took}\n{}", outcomes::table(answer))
}

/// What happened, in one line.
#[must_use]
pub fn event_words(event: &Value, reading: &Reading) -> String {
    let words = [
        reading.local(event, "at"),
        text(event, "event"),
        text(event, "session"),
        subject(event),
        list(event, "segments"),
        text(event, "reason"),
        text(event, "cause"),
    ];
    let words: Vec<String> = words
        .iter()
        .filter(|word| !word.is_empty())
        .map(|word| clean(word))
        .collect();
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_that_use_moves_is_told_from_one_that_stays() {
        let bound = |reason: &str, by: &str| json!({"at": "2023-11-14T22:28:20Z", "reason": reason, "by": by});
        let (idle, last) = (
            bound("idle_timeout", "idle"),
            bound("lifetime_expired", "dba"),
        );
        let words = |bounds: &[&Value]| in_words(&json!({ "bounds": bounds }), &Reading::here());
        let both = words(&[&idle, &last]);
        assert!(
            both.contains(" (due) with idle_timeout unless it is used before then: idle set this.\nAt the latest it ends at ")
                && both.ends_with(" (due) with lifetime_expired: dba set this."),
            "{both}"
        );
        assert_eq!(words(&[&idle]).lines().count(), 1);
        assert!(words(&[&last]).contains(" unless something ends it earlier: "));
    }
}

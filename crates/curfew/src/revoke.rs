//! `curfew revoke`: order sessions to end now, and say what each enforcer did.

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{ArgGroup, Args};
use curfew_model::{
    Block, DeviceId, EnforcerId, Issuer, Kind, PolicyName, Scope, SegmentName, SessionId,
    WallInstant, parse_duration,
};
use serde_json::{Value, json};

use crate::{
    client::{Call, Connect},
    outcomes,
    revocations::block_words,
    show::{Output, Reading, clean, count, flag, scope, text},
};

/// End the sessions of a subject, device, segment, policy, enforcer or all, now
///
/// Sessions opened before the order end at once. New ones of a subject or a device stay out until the block is lifted
/// with `curfew revocations lift`, unless --block says otherwise; for other scopes nothing is blocked.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("scope").required(true).multiple(false),
    after_help = "Examples:
  curfew revoke --user alice --reason \"left the company\" --wait 5s
  curfew revoke --segment payments-db --reason \"incident 4711\" --block until-lifted
  curfew revoke --role orders/admin --reason \"password stolen\" --output json
  curfew revoke --all --yes --reason \"emergency\"

Exit codes: 0 every enforcer did it; 4 some did not answer: they follow when they are heard; 1 it was not done."
)]
pub struct Revoke {
    /// A user, as ID of any issuer, or ISSUER#ID
    #[arg(long, value_name = "USER", group = "scope")]
    user: Option<String>,
    /// A workload, as ID of any issuer, or ISSUER#ID
    #[arg(long, value_name = "WORKLOAD", group = "scope")]
    workload: Option<String>,
    /// A login name inside a protocol
    #[arg(long, value_name = "SERVICE/NAME", group = "scope")]
    role: Option<String>,
    /// A device; no door knows any yet
    #[arg(long, value_name = "NAME", group = "scope")]
    device: Option<DeviceId>,
    /// One session
    #[arg(long, value_name = "ID", group = "scope")]
    session: Option<SessionId>,
    /// Every session into a segment
    #[arg(long, value_name = "NAME", group = "scope")]
    segment: Option<SegmentName>,
    /// Every session that a policy admitted or limits
    #[arg(long, value_name = "NAME", group = "scope")]
    policy: Option<PolicyName>,
    /// Every session of an enforcer
    #[arg(long, value_name = "NAME", group = "scope")]
    enforcer: Option<EnforcerId>,
    /// Every session everywhere; needs --yes
    #[arg(long, group = "scope", requires = "yes")]
    all: bool,
    /// Say that --all is meant
    #[arg(long)]
    yes: bool,
    /// Why, for the record and for those who ask
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long to wait for enforcers, at most 60s [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// What happens to new sessions: none, until-lifted, or an instant like 2026-12-01T08:00:00Z
    #[arg(long, value_name = "BLOCK", value_parser = block)]
    block: Option<Block>,
    /// The form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: Connect,
}

/// A duration of the command line.
///
/// # Errors
/// How it is written.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// An instant of the command line.
///
/// # Errors
/// How it is written.
pub fn instant(text: &str) -> Result<WallInstant, String> {
    serde_json::from_value(json!(text))
        .map_err(|_| "is no instant: write it like 2026-12-01T08:00:00Z".to_owned())
}

fn block(text: &str) -> Result<Block, String> {
    match text {
        "none" => Ok(Block::None),
        // As the API writes it, too.
        "until-lifted" | "until_lifted" => Ok(Block::UntilLifted),
        other => instant(other).map(Block::Until).map_err(|_| {
            "write none, until-lifted, or an instant like 2026-12-01T08:00:00Z".to_owned()
        }),
    }
}

impl Revoke {
    /// Carries the order out.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let client = self.connect.client()?;
        let mut body = json!({"scope": self.scope()?, "reason": self.reason});
        if let (Some(block), Some(body)) = (self.block, body.as_object_mut()) {
            body.insert("block".to_owned(), serde_json::to_value(block)?);
        }
        let call = Call::post("/v1/revocations")
            .body(body)
            .wait(self.wait)
            .key(key()?);
        let answer = client.send(&call)?;
        self.output
            .show(&answer, |answer| done(answer, &Reading::here()))?;
        outcomes::warn(&answer);
        Ok(outcomes::exit_code(&answer))
    }

    /// The scope; clap has seen to it that it is one.
    fn scope(&self) -> Result<Scope, &'static str> {
        let subject = |kind, named: &Option<String>| {
            let named = named.as_ref()?;
            let (issuer, id) = match named.split_once('#') {
                Some((issuer, id)) => (Some(Issuer::from(issuer.to_owned())), id),
                None => (None, named.as_str()),
            };
            let id = id.to_owned();
            Some(Scope::Subject { kind, issuer, id })
        };
        subject(Kind::User, &self.user)
            .or_else(|| subject(Kind::Workload, &self.workload))
            .or_else(|| {
                // `#` may be part of a login name; nobody but this installation vouches for one.
                let id = self.role.clone()?;
                let (kind, issuer) = (Kind::Role, None);
                Some(Scope::Subject { kind, issuer, id })
            })
            .or_else(|| self.device.clone().map(Scope::Device))
            .or_else(|| self.session.map(Scope::Session))
            .or_else(|| self.segment.clone().map(Scope::Segment))
            .or_else(|| self.policy.clone().map(Scope::Policy))
            .or_else(|| self.enforcer.clone().map(Scope::Enforcer))
            .or_else(|| self.all.then_some(Scope::All))
            .ok_or("name whose sessions end: --user, --segment, … or --all")
    }
}

/// A key by which the server knows the order again if the answer is lost.
fn key() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        format!("the system gives no randomness for the key of the order: {error}")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn done(answer: &Value, reading: &Reading) -> String {
    let id = clean(&text(answer, "id"));
    let mut words = format!("revocation {id} of {}\n", clean(&scope(answer)));
    words.push_str(&format!("new sessions: {}\n", block_words(answer, reading)));
    if flag(answer, "blocks") {
        words.push_str(&format!(
            "to let them in again: curfew revocations lift {id}\n"
        ));
    }
    words.push_str(&outcomes::table(answer));
    let millis = |field| answer.get(field).and_then(Value::as_f64).unwrap_or(0.0);
    words.push_str(&format!(
        "matched {}, closed {}, audit only {}, unreachable {}; enforced after {:.1} ms, on disk after {:.1} ms\n",
        count(answer, "matched"),
        count(answer, "closed"),
        count(answer, "audit_only"),
        count(answer, "unreachable"),
        millis("enforced_after_ms"),
        millis("durable_after_ms"),
    ));
    words
}

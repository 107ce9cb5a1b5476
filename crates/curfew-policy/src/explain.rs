//! `explain`: the same judgement as `decide`, told to a person. Nothing is decided here.

use std::fmt;

use curfew_model::{Access, Facts, Mode, Now, Provenance, ServiceName, Target, format_duration};
use serde::Serialize;

use crate::{
    compile::{CompiledSegment, PolicySet},
    decide::is_provable,
    decision::{Decide, Decision, Refusal},
    judge::{Case, NoAdmission, NoMatch, Standing},
    limits::{PlacedLimits, Set},
    problem::nearest,
};

/// What comes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is let in; in audit mode also one that would be refused.
    Admitted,
    /// It is kept out.
    Refused,
    /// No segment contains its target: nothing was decided.
    NoSegment,
}

/// Why a session is admitted for how long, or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The subject, or the address where there is none.
    pub subject: String,
    /// Each destination segment, the most sensitive first, and how it decides.
    pub segments: Vec<String>,
    /// Each policy that leads there, and how it stands.
    pub policies: Vec<String>,
    /// Each limit that acts, and what set it.
    pub limits: Vec<String>,
    /// What comes of it.
    pub outcome: Outcome,
    /// The decision in words.
    pub verdict: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "subject   {}", self.subject)?;
        for (title, lines) in [
            ("segment ", &self.segments),
            ("policy  ", &self.policies),
            ("limit   ", &self.limits),
        ] {
            for line in lines {
                writeln!(f, "{title}  {line}")?;
            }
        }
        write!(f, "decision  {}", self.verdict)
    }
}

impl PolicySet {
    /// Explains the decision that [`Decide::decide`] makes about the same facts at the same time.
    #[must_use]
    pub fn explain(&self, facts: &Facts, now: Now) -> Explanation {
        let case = Case::new(self, facts, now);
        let segments = self.targets(&facts.target);
        let standings = self.standings(&case, &segments);
        let segment = |segment: &CompiledSegment| {
            let access = if facts.ambiguous {
                "two bindings give the client to two subjects, or it could not be learnt whose it is: nobody is let in"
            } else if segment.access == Access::Open {
                "open: only limits apply"
            } else {
                "a policy has to admit"
            };
            let mode = if segment.mode == Mode::Audit {
                ", audit: nothing is refused or ended"
            } else {
                ""
            };
            format!("{} ({}): {access}{mode}", segment.name, segment.sensitivity)
        };
        let policy = |(number, standing): (&usize, &Standing)| {
            let policy = self.policies.get(*number)?;
            let place = &policy.place;
            let failed = *standing == Standing::Limits(NoAdmission::Failed);
            let why = failed.then(|| case.failure(policy)).flatten();
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            Some(format!(
                "{} ({}:{}): {}{why}",
                policy.name,
                place.file,
                place.line,
                standing_text(*standing)
            ))
        };
        let acting = self.acting(&segments);
        let default_proof = |segment: &CompiledSegment| {
            let by = by_text(segment.proof_by_default()?);
            let not_here = if is_provable(facts) {
                ""
            } else {
                ": not asked of this subject, which cannot give any"
            };
            Some(format!("reconnect proof by {by}{not_here}"))
        };
        let default_proofs = self
            .listed(&segments)
            .filter(|segment| segment.mode == acting)
            .filter_map(default_proof);
        let (outcome, verdict) = if segments.is_empty() {
            (Outcome::NoSegment, self.no_segment(&facts.target))
        } else {
            verdict_text(&self.decide(facts, now), facts, now)
        };
        Explanation {
            subject: facts
                .subject()
                .map_or_else(|| facts.client.ip().to_string(), ToString::to_string),
            segments: self.listed(&segments).map(segment).collect(),
            policies: standings.iter().filter_map(policy).collect(),
            limits: self
                .limits(&segments, &standings, acting)
                .into_iter()
                .flat_map(limit_lines)
                .chain(default_proofs)
                .collect(),
            outcome,
            verdict,
        }
    }

    /// What is said of a target that nothing contains.
    fn no_segment(&self, target: &Target) -> String {
        let service = target.service.as_ref();
        let address = target
            .addresses()
            .map(|address| format!("the address {address}"));
        let named = service.map(|service| format!("the service {service}"));
        let named: Vec<String> = named.into_iter().chain(address).collect();
        let mut known: Vec<&str> = self.by_service.keys().map(ServiceName::as_str).collect();
        known.sort_unstable();
        let near = service.and_then(|service| nearest(service.as_str(), known));
        let meant = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        let so = if service.is_some() {
            "so everybody is refused"
        } else {
            "so nothing would limit or refuse a session"
        };
        format!(
            "none: no segment contains {}, {so}{meant}",
            named.join(" or ")
        )
    }
}

fn standing_text(standing: Standing) -> String {
    match standing {
        Standing::Admits(None) => "admits".to_owned(),
        Standing::Admits(Some((end, reason))) => format!("admits until {end} ({reason})"),
        Standing::Limits(why) => match why {
            NoAdmission::Ceiling => "limits only (admit: false)",
            NoAdmission::Asserted => "limits only: what matches is only asserted by the client",
            NoAdmission::Excepted => "limits only: an asserted identity is excepted",
            NoAdmission::Absent => "limits only: an attribute of `when` is absent",
            NoAdmission::Failed => "limits only: `when` cannot be decided",
        }
        .to_owned(),
        Standing::Absent(why) => match why {
            NoMatch::From => "does not match: not for this subject or place".to_owned(),
            NoMatch::Excepted => "does not match: the subject is excepted".to_owned(),
            NoMatch::Condition => "does not match: `when` is false".to_owned(),
            NoMatch::OutsideHours {
                next: Some(next), ..
            } => format!("does not match: outside its hours until {next}"),
            NoMatch::OutsideHours { next: None, .. } => {
                "does not match: outside its hours".to_owned()
            }
            NoMatch::Ended { .. } => "does not match: its grant ended".to_owned(),
        },
    }
}

fn verdict_text(decision: &Decision, facts: &Facts, now: Now) -> (Outcome, String) {
    match &decision.refusal {
        None => {
            let coming = decision.coming.as_ref().map(|coming| coming.end.deadline());
            let ends = decision
                .lease
                .deadline(facts.opened_at)
                .into_iter()
                .chain(coming);
            let text = match ends.min() {
                Some(deadline) => {
                    format!(
                        "admitted; ends at {} ({}) if nothing moves",
                        now.wall_at(deadline.at),
                        deadline.reason
                    )
                }
                None => "admitted without an end".to_owned(),
            };
            (Outcome::Admitted, text)
        }
        Some(Refusal {
            reason,
            cause,
            audit_only,
        }) => {
            if *audit_only {
                let text = format!("admitted; would be refused: {reason} ({cause})");
                (Outcome::Admitted, text)
            } else {
                (Outcome::Refused, format!("refused: {reason} ({cause})"))
            }
        }
    }
}

fn limit_lines(limits: &PlacedLimits) -> Vec<String> {
    let duration = |field: &str, set: &Set<std::time::Duration>| {
        set.as_ref()
            .map(|(value, by)| format!("{field} {} by {}", format_duration(*value), by_text(by)))
    };
    let count = limits
        .max_concurrent
        .as_ref()
        .map(|(count, by)| format!("maxConcurrent {count} by {}", by_text(by)));
    let reconnect = limits.reconnect.as_ref().map(|(reconnect, by)| {
        let need = if reconnect.proof {
            "proof".to_owned()
        } else if reconnect.wait.is_zero() {
            "allow".to_owned()
        } else {
            format_duration(reconnect.wait)
        };
        format!("reconnect {need} by {}", by_text(by))
    });
    let credential = limits.credential.as_ref().map(|(credential, by)| {
        format!(
            "credential {} by {}",
            format!("{credential:?}").to_lowercase(),
            by_text(by)
        )
    });
    [
        duration("maxLifetime", &limits.max_lifetime),
        duration("idleTimeout", &limits.idle_timeout),
        duration("reauthEvery", &limits.reauth_every),
        duration("warnBefore", &limits.warn_before),
        reconnect,
        count,
        credential,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn by_text(by: &Provenance) -> String {
    match by {
        Provenance::Document {
            document,
            field,
            place: Some(place),
            ..
        } => format!("{document} {field} ({place})"),
        Provenance::Document {
            document,
            field,
            place: None,
            ..
        } => format!("{document} {field} (built in)"),
        Provenance::Credential => "the credential".to_owned(),
        Provenance::Binding => "the binding".to_owned(),
        Provenance::Order(order) => order.clone(),
    }
}

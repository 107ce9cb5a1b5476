//! Limits that those of other documents keep from ever acting, policies that lead nowhere, and grants that are over. What
//! one document says twice is found as it is read.

use std::{collections::HashMap, time::Duration};

use curfew_model::{Provenance, Sensitivity, WallInstant, format_duration};

use crate::{
    compile::PolicySet,
    document::SessionPolicy,
    limits::{PlacedLimits, Set},
    problem::{Place, Problem},
    window::InForce,
};

/// Warnings of one kind that are said one by one.
const MAX_SAID: usize = 100;

impl PolicySet {
    /// A warning for each segment and policy with a limit that never acts because a lifetime of another document is as
    /// short; by place. Two defaults that nobody wrote are not held against each other.
    #[must_use]
    pub fn vain(&self) -> Vec<Problem> {
        let segments = self
            .segments
            .iter()
            .flat_map(|segment| of_segment(&segment.place, &segment.limits));
        let longest = self.longest();
        let policies = self
            .policies
            .iter()
            .enumerate()
            .flat_map(|(index, policy)| {
                let longest = longest.get(&index).copied();
                longest
                    .map(|lifetime| of_policy(&policy.place, &policy.limits, lifetime))
                    .unwrap_or_default()
            });
        said(segments.chain(policies), "limits that never act")
    }

    /// A warning for each policy that names segments none of which is of the sensitivities that it asks for; by place.
    #[must_use]
    pub fn astray(&self) -> Vec<Problem> {
        let longest = self.longest();
        let policies = self.policies.iter().enumerate();
        let leads_nowhere = |(index, policy): &(usize, &SessionPolicy)| {
            !policy.to.segments.is_empty() && !longest.contains_key(index)
        };
        let warning = |(_, policy): (usize, &SessionPolicy)| {
            let text = "`to` leads nowhere: no segment that it names is of these sensitivities";
            Problem::warning(&policy.place, text)
                .or_else("it neither admits nor limits")
                .help("leave one of the two out, or correct it")
        };
        let astray = policies.filter(leads_nowhere).map(warning);
        said(astray, "policies that lead nowhere")
    }

    /// A warning for each policy whose grant has ended at `wall`; by place.
    #[must_use]
    pub fn over(&self, wall: WallInstant) -> Vec<Problem> {
        let is_over = |policy: &&SessionPolicy| policy.validity.at(wall) == InForce::Ended;
        let warning = |policy: &SessionPolicy| {
            Problem::warning(&policy.place, "`notAfter` is past")
                .or_else("it neither admits nor limits any more")
        };
        let over = self.policies.iter().filter(is_over).map(warning);
        said(over, "grants that are over")
    }

    /// For each policy that leads somewhere, the longest lifetime of the segments that it leads to.
    fn longest(&self) -> HashMap<usize, Duration> {
        let mut longest: HashMap<usize, Duration> = HashMap::new();
        let mut of_sensitivity: HashMap<Sensitivity, Duration> = HashMap::new();
        let raise = |known: &mut Duration, lifetime| *known = (*known).max(lifetime);
        for segment in &self.segments {
            let lifetime = segment.limits.max_lifetime.as_ref();
            let lifetime = lifetime.map_or(Duration::MAX, |(lifetime, _)| *lifetime);
            let of_all = of_sensitivity.entry(segment.sensitivity).or_default();
            raise(of_all, lifetime);
            for policy in &segment.named_by {
                raise(longest.entry(*policy).or_default(), lifetime);
            }
        }
        for (sensitivity, lifetime) in of_sensitivity {
            for policy in self.leading_to_all(sensitivity) {
                raise(longest.entry(*policy).or_default(), lifetime);
            }
        }
        longest
    }
}

/// Problems by place; of very many, the first, and how many more there are.
fn said(problems: impl Iterator<Item = Problem>, what: &str) -> Vec<Problem> {
    let mut problems: Vec<Problem> = problems.collect();
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    let more = problems.len().saturating_sub(MAX_SAID);
    problems.truncate(MAX_SAID);
    if more > 0
        && let Some(last) = problems.last()
    {
        let text = format!("{more} more {what}");
        problems.push(Problem::warning(&last.place, text));
    }
    problems
}

/// The field, what comes of it, and its value.
fn shorter_ones(limits: &PlacedLimits) -> [(&'static str, &'static str, &Set<Duration>); 2] {
    [
        (
            "idleTimeout",
            "no session ever ends by it",
            &limits.idle_timeout,
        ),
        (
            "warnBefore",
            "every session is warned as it opens",
            &limits.warn_before,
        ),
    ]
}

fn of_segment(place: &Place, limits: &PlacedLimits) -> Vec<Problem> {
    let Some((lifetime, by)) = &limits.max_lifetime else {
        return Vec::new();
    };
    let Some(lifetime_by) = written(by) else {
        return Vec::new();
    };
    let found = |(field, otherwise, set): (&str, &'static str, &Set<Duration>)| {
        let (length, by) = set.as_ref()?;
        let by = written(by).filter(|by| *by != lifetime_by)?;
        (length >= lifetime).then(|| {
            let text = format!(
                "`{field}` {} of {by} is not shorter than `maxLifetime` {} of {lifetime_by}",
                format_duration(*length),
                format_duration(*lifetime),
            );
            Problem::warning(place, text).or_else(otherwise)
        })
    };
    shorter_ones(limits).into_iter().filter_map(found).collect()
}

fn of_policy(place: &Place, limits: &PlacedLimits, longest: Duration) -> Vec<Problem> {
    let own = limits.max_lifetime.as_ref().map(|(lifetime, _)| *lifetime);
    let found = |(field, otherwise, set): (&str, &'static str, &Set<Duration>)| {
        let (length, _) = set.as_ref()?;
        let said = own.is_some_and(|own| *length >= own);
        (!said && *length >= longest).then(|| {
            let text = format!(
                "`{field}` {} is not shorter than the longest lifetime of its segments, {}",
                format_duration(*length),
                format_duration(longest),
            );
            Problem::warning(place, text).or_else(otherwise)
        })
    };
    shorter_ones(limits).into_iter().filter_map(found).collect()
}

/// The document that somebody wrote a limit in; none for a built-in default.
fn written(by: &Provenance) -> Option<&str> {
    match by {
        Provenance::Document {
            document,
            place: Some(_),
            ..
        } => Some(document),
        _ => None,
    }
}

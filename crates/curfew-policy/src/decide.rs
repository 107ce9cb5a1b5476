//! `decide`: every policy that leads to the target, combined into one lease or one refusal (rules 1, 2, 5, 6, 16).

use std::{collections::BTreeMap, sync::Arc};

use curfew_model::{
    Access, BootInstant, Bound, Credential, EndReason, Facts, Identity, Lease, Mode, Now, Proof,
    Provenance, Revision, SegmentName, Target, WallInstant,
};

use crate::{
    compile::{CompiledSegment, PolicySet},
    decision::{ComingEnd, Decide, Decision, MatchedSegment, Refusal},
    document::{End, SessionPolicy},
    judge::{Case, NoMatch, Standing},
    limits::PlacedLimits,
};

/// Windows that are followed one into the next when the end of admission is worked out; those behind them later.
const MAX_WINDOWS: usize = 64;

/// What every policy that leads to one of the target's segments says.
pub(crate) type Standings = BTreeMap<usize, Standing>;

impl Decide for PolicySet {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn decide(&self, facts: &Facts, now: Now) -> Decision {
        let case = Case::new(self, facts, now);
        let segments = self.targets(&facts.target);
        let standings = self.standings(&case, &segments);
        self.combine(&case, &segments, &standings)
    }

    fn leads_to(&self, policy: &str, segment: &SegmentName) -> bool {
        let by_name = |other: &SessionPolicy| other.name.as_str().cmp(policy);
        let Ok(number) = self.policies.binary_search_by(by_name) else {
            return true;
        };
        let segments = &self.segments;
        let found = segments.binary_search_by(|other| other.name.cmp(segment));
        let segment = found.ok().and_then(|index| segments.get(index));
        segment.is_some_and(|segment| self.leading_to(segment).any(|other| other == number))
    }
}

impl PolicySet {
    /// Whether a target is in any segment: a service that is in none has no limits.
    #[must_use]
    pub fn covers(&self, target: &Target) -> bool {
        !self.targets(target).is_empty()
    }

    /// The segments that contain a target, the most sensitive first, then by name: its service, or any address of it, as
    /// nobody can say yet which of them the session will use.
    pub(crate) fn targets(&self, target: &Target) -> Vec<usize> {
        let by_service = target
            .service
            .as_ref()
            .and_then(|service| self.by_service.get(service));
        let by_address = target.addresses().flat_map(|address| {
            self.by_net
                .at(address.ip())
                .filter(move |range| range.is_for(address.port()))
                .map(|range| range.segment)
        });
        let mut found: Vec<usize> = by_service
            .into_iter()
            .flatten()
            .copied()
            .chain(by_address)
            .collect();
        found.sort_by_key(|index| {
            (
                self.segments
                    .get(*index)
                    .map(|s| std::cmp::Reverse(s.sensitivity)),
                *index,
            )
        });
        found.dedup();
        found
    }

    pub(crate) fn standings(&self, case: &Case<'_>, segments: &[usize]) -> Standings {
        let mut standings = Standings::new();
        for segment in self.listed(segments) {
            for number in self.leading_to(segment) {
                if let Some(policy) = self.policies.get(number) {
                    standings
                        .entry(number)
                        .or_insert_with(|| case.judge(policy));
                }
            }
        }
        standings
    }

    pub(crate) fn listed<'s>(
        &'s self,
        segments: &'s [usize],
    ) -> impl Iterator<Item = &'s CompiledSegment> {
        segments
            .iter()
            .filter_map(|index| self.segments.get(*index))
    }

    /// The policies of a segment whose limits apply.
    fn limiting<'s>(
        &'s self,
        segment: &'s CompiledSegment,
        standings: &'s Standings,
    ) -> impl Iterator<Item = &'s SessionPolicy> {
        self.leading_to(segment)
            .filter(|number| {
                matches!(
                    standings.get(number),
                    Some(Standing::Admits(_) | Standing::Limits(_))
                )
            })
            .filter_map(|number| self.policies.get(number))
    }

    /// The mode of the segments that act on a session: the enforced ones, unless all only record.
    pub(crate) fn acting(&self, segments: &[usize]) -> Mode {
        let mut modes = self.listed(segments).map(|segment| segment.mode);
        if modes.any(|mode| mode == Mode::Enforce) {
            Mode::Enforce
        } else {
            Mode::Audit
        }
    }

    /// Every set of limits of the segments in this mode.
    pub(crate) fn limits<'s>(
        &'s self,
        segments: &'s [usize],
        standings: &'s Standings,
        mode: Mode,
    ) -> Vec<&'s PlacedLimits> {
        self.listed(segments)
            .filter(|segment| segment.mode == mode)
            .flat_map(|segment| {
                std::iter::once(&segment.limits).chain(
                    self.limiting(segment, standings)
                        .map(|policy| &policy.limits),
                )
            })
            .collect()
    }

    fn combine(&self, case: &Case<'_>, segments: &[usize], standings: &Standings) -> Decision {
        let acting = self.acting(segments);
        let of = |mode| {
            lease(
                &self.limits(segments, standings, mode),
                case.facts,
                case.now,
            )
        };
        let mut lease = of(acting);
        let overlaps = self.listed(segments).any(|segment| segment.mode != acting);
        let mut shadow = overlaps.then(|| of(Mode::Audit));
        let mut refusals = Vec::new();
        let mut look_again_at = look_again(standings, case.now);
        // Whose a client is with two subjects nobody can say, so that no limit could be counted by it (rule 7).
        let asks =
            |segment: &&CompiledSegment| segment.access == Access::Policy || case.facts.ambiguous;
        for segment in self.listed(segments).filter(asks) {
            let held = (segment.mode == acting).then_some(&mut lease);
            let held = held.or(shadow.as_mut());
            let ends = held.as_ref().and_then(|held| held.expires_at.as_ref());
            match self.admission(case, segment, standings, ends.map(|end| end.at)) {
                Ok(Admitted::Until(until)) => {
                    if let Some(held) = held {
                        held.tighten(Lease {
                            expires_at: until,
                            ..Lease::default()
                        });
                    }
                }
                Ok(Admitted::AtLeastUntil(then)) => {
                    look_again_at = earliest(look_again_at, Some(then));
                }
                Err(reason) => refusals.push((segment.mode == Mode::Audit, reason, &segment.name)),
            }
        }
        let refusal = refusal(case.facts, segments.is_empty(), refusals);
        let policies = standings
            .iter()
            .filter(|(_, standing)| matches!(standing, Standing::Admits(_) | Standing::Limits(_)))
            .filter_map(|(number, _)| self.policies.get(*number).map(|policy| policy.name.clone()));
        Decision {
            policies: policies.collect(),
            segments: self
                .listed(segments)
                .map(|segment| self.matched(segment, standings, case.facts))
                .collect(),
            lease,
            refusal,
            shadow,
            coming: self.coming(case, segments, standings),
            look_again_at,
        }
    }

    /// The first end that policies of the acting segments will set whose windows open later.
    fn coming(
        &self,
        case: &Case<'_>,
        segments: &[usize],
        standings: &Standings,
    ) -> Option<ComingEnd> {
        let acting = self.acting(segments);
        let acting = self
            .listed(segments)
            .filter(|segment| segment.mode == acting);
        let opening = acting
            .flat_map(|segment| self.leading_to(segment))
            .filter_map(|number| match standings.get(&number)? {
                Standing::Absent(NoMatch::OutsideHours { next, .. }) => {
                    Some((self.policies.get(number)?, case.now.boot_at((*next)?)))
                }
                _ => None,
            });
        let mut warn_before = None;
        let mut ends = Vec::new();
        for (policy, opens) in opening {
            let lease = lease_of(&policy.limits, case.facts);
            warn_before = warn_before.max(lease.warn_before);
            let bounds = [lease.expires_at, lease.reauth_by].into_iter().flatten();
            ends.extend(bounds.map(|bound| Bound {
                at: bound.at.max(opens),
                ..bound
            }));
        }
        let end = ends.into_iter().min_by_key(|end| (end.at, end.reason))?;
        Some(ComingEnd { end, warn_before })
    }

    /// Until when a segment's policies admit a session that ends at `ends` anyhow; the refusal's reason if none does.
    fn admission(
        &self,
        case: &Case<'_>,
        segment: &CompiledSegment,
        standings: &Standings,
        ends: Option<BootInstant>,
    ) -> Result<Admitted, EndReason> {
        if case.facts.ambiguous {
            return Err(EndReason::Unattributed);
        }
        let of = |number: usize| Some((self.policies.get(number)?, *standings.get(&number)?));
        let would = |standing: Standing| match standing {
            Standing::Admits(_) => true,
            Standing::Absent(
                NoMatch::OutsideHours { would_admit, .. } | NoMatch::Ended { would_admit },
            ) => would_admit,
            _ => false,
        };
        let candidates: Vec<(&SessionPolicy, Standing)> = self
            .leading_to(segment)
            .filter_map(of)
            .filter(|(_, standing)| would(*standing))
            .collect();
        if candidates
            .iter()
            .any(|(_, standing)| matches!(standing, Standing::Admits(_)))
        {
            return Ok(admitted_until(case.now, &candidates, ends));
        }
        let outside = |(_, standing): &(_, Standing)| {
            matches!(standing, Standing::Absent(NoMatch::OutsideHours { .. }))
        };
        if candidates.iter().any(outside) {
            Err(EndReason::OutsideHours)
        } else if !candidates.is_empty() {
            Err(EndReason::GrantExpired)
        } else if case.facts.identities.is_empty() && !self.has_anyone(segment) {
            Err(EndReason::Unattributed)
        } else {
            Err(EndReason::AccessDenied)
        }
    }

    fn has_anyone(&self, segment: &CompiledSegment) -> bool {
        self.leading_to(segment)
            .filter_map(|number| self.policies.get(number))
            .any(|policy| policy.from.anyone)
    }

    fn matched(
        &self,
        segment: &CompiledSegment,
        standings: &Standings,
        facts: &Facts,
    ) -> MatchedSegment {
        let policies = || {
            self.limiting(segment, standings)
                .map(|policy| &policy.limits)
        };
        let limits = || std::iter::once(&segment.limits).chain(policies());
        let max_concurrent = limits()
            .filter_map(|limits| limits.max_concurrent.clone())
            .min_by_key(|(count, _)| *count);
        let reconnects = || limits().filter_map(|limits| limits.reconnect.as_ref());
        let wait = reconnects()
            .filter(|(reconnect, _)| !reconnect.wait.is_zero())
            .max_by_key(|(reconnect, _)| reconnect.wait);
        let proof = reconnects().find(|(reconnect, _)| reconnect.proof);
        let by_default = segment.proof_by_default().filter(|_| is_provable(facts));
        MatchedSegment {
            name: segment.name.clone(),
            sensitivity: segment.sensitivity,
            mode: segment.mode,
            max_concurrent,
            reconnect_wait: wait.map(|(reconnect, by)| (reconnect.wait, by.clone())),
            reconnect_proof: proof.map(|(_, by)| by).or(by_default).cloned(),
            on_adopt: segment.on_adopt,
            on_control_plane_loss: segment.on_control_plane_loss,
        }
    }
}

/// Until when policies admit.
enum Admitted {
    /// Until an instant, or for longer than the session lasts.
    Until(Option<Bound>),
    /// They still admit then; what follows has to be looked at then.
    AtLeastUntil(BootInstant),
}

/// The instant from which none of the candidates admits any more, if it does not lie behind `ends`: their windows
/// are followed one into the next.
fn admitted_until(
    now: Now,
    candidates: &[(&SessionPolicy, Standing)],
    ends: Option<BootInstant>,
) -> Admitted {
    let mut at = now.wall;
    let mut last: Option<(WallInstant, EndReason, &SessionPolicy)> = None;
    let mut followed = 0;
    loop {
        let in_force = candidates
            .iter()
            .filter_map(|(policy, _)| match policy.validity.at(at) {
                crate::window::InForce::Until(end) => Some((end, *policy)),
                _ => None,
            });
        let mut latest: Option<(WallInstant, EndReason, &SessionPolicy)> = None;
        for (end, policy) in in_force {
            let Some((end, reason)) = end else {
                return Admitted::Until(None);
            };
            if latest.is_none_or(|(until, ..)| end > until) {
                latest = Some((end, reason, policy));
            }
        }
        let Some(found) = latest else { break };
        if ends.is_some_and(|ends| now.boot_at(found.0) > ends) {
            return Admitted::Until(None);
        }
        if followed == MAX_WINDOWS {
            return Admitted::AtLeastUntil(now.boot_at(at));
        }
        followed += 1;
        (at, last) = (found.0, Some(found));
    }
    Admitted::Until(last.map(|(end, reason, policy)| Bound {
        at: now.boot_at(end),
        reason,
        by: Arc::clone(policy.ends_by.reason(reason)),
    }))
}

/// A segment that refuses: whether that is only recorded, why, and its name.
type Refusing<'s> = (bool, EndReason, &'s SegmentName);

/// Why a session is refused, if a segment refuses: an enforced refusal is told before one that is only recorded, equal
/// ones by the order of the reasons.
fn refusal(facts: &Facts, no_segment: bool, refusals: Vec<Refusing<'_>>) -> Option<Refusal> {
    match refusals.into_iter().min() {
        // A service is there to be limited: where nothing limits it any more, nobody may use it (I11). What a door sees of
        // no service and no segment is not Curfew's.
        None if no_segment && let Some(service) = &facts.target.service => Some(Refusal {
            reason: EndReason::AccessDenied,
            cause: format!("no segment contains the service {service}"),
            audit_only: false,
        }),
        None => None,
        Some((audit_only, reason, name)) => {
            let subject = facts.subject();
            let who = subject.map_or_else(|| facts.client.ip().to_string(), ToString::to_string);
            Some(Refusal {
                reason,
                cause: format!("segment {name}: {}: {who}", reason.text()),
                audit_only,
            })
        }
    }
}

/// Whether the subject can prove itself again (rule 3).
pub(crate) fn is_provable(facts: &Facts) -> bool {
    let proven = |subject: &Identity| subject.proof == Proof::Proven;
    facts.proved_at.is_some() || facts.subject().is_some_and(proven)
}

/// The strictest combination of limits, the credential and the binding.
pub(crate) fn lease(limits: &[&PlacedLimits], facts: &Facts, now: Now) -> Lease {
    let mut lease = Lease::default();
    for limits in limits {
        lease.tighten(lease_of(limits, facts));
    }
    let cap = limits
        .iter()
        .filter_map(|limits| limits.credential.as_ref())
        .map(|(credential, _)| *credential)
        .max();
    let bound = |end: End, by: Provenance| {
        end.map(|(at, reason)| Bound {
            at: now.boot_at(at),
            reason,
            by: Arc::new(by),
        })
    };
    let credential = facts
        .credential_until
        .filter(|_| cap == Some(Credential::Cap));
    lease.tighten(Lease {
        credential_until: bound(
            credential.map(|at| (at, EndReason::CredentialExpired)),
            Provenance::Credential,
        ),
        binding_until: bound(
            facts
                .binding_until
                .map(|at| (at, EndReason::BindingExpired)),
            Provenance::Binding,
        ),
        ..Lease::default()
    });
    lease
}

fn lease_of(limits: &PlacedLimits, facts: &Facts) -> Lease {
    let proved_at = facts.proved_at.unwrap_or(facts.opened_at);
    let from = |start: BootInstant,
                set: &Option<(std::time::Duration, Arc<Provenance>)>,
                reason: EndReason| {
        set.as_ref().map(|(length, by)| Bound {
            at: start.after(*length),
            reason,
            by: Arc::clone(by),
        })
    };
    Lease {
        expires_at: from(
            facts.opened_at,
            &limits.max_lifetime,
            EndReason::LifetimeExpired,
        ),
        reauth_by: from(proved_at, &limits.reauth_every, EndReason::ReauthOverdue),
        idle_timeout: limits.idle_timeout.clone(),
        warn_before: limits.warn_before.as_ref().map(|(before, _)| *before),
        ..Lease::default()
    }
}

/// When the next window opens: what opens may tighten.
fn look_again(standings: &Standings, now: Now) -> Option<BootInstant> {
    let opens = standings.values().filter_map(|standing| match standing {
        Standing::Absent(NoMatch::OutsideHours { next, .. }) => *next,
        _ => None,
    });
    opens.min().map(|wall| now.boot_at(wall))
}

fn earliest(one: Option<BootInstant>, other: Option<BootInstant>) -> Option<BootInstant> {
    one.into_iter().chain(other).min()
}

//! The one enforcer of this process as the API's fleet: inventory, explain, cancel, renew, commits.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use curfew_control::{
    Answer, Door, Enforcer as Known, Explanation, Filter, Fleet, FleetError, OpenCount, Outcome,
    Session, SessionState, Standing,
};
use curfew_enforcer::{Enforcer, Engine, EngineError, Input, Report, SessionView, State};
use curfew_model::{
    Binding, BindingKey, BootInstant, Bound, Clock, EnforcerId, Identity, Now, RevocationId,
    SegmentName, ServiceName, SessionId, WallInstant,
};
use curfew_state::Commit;

use super::{configured::Configured, desired::Desired, past, scribe::Scribe};

/// Sessions that are looked at under one hold of the engine's lock.
const AT_ONCE: usize = 256;

/// How long an answer waits for what was done to come on record.
const ON_RECORD: Duration = Duration::from_secs(2);

/// The enforcer of this process.
pub struct LocalFleet {
    pub enforcer: Arc<Enforcer>,
    pub desired: Arc<Desired>,
    pub configured: Arc<Configured>,
    pub id: EnforcerId,
    pub data_dir: PathBuf,
    pub services: Vec<ServiceName>,
    pub clock: Arc<dyn Clock>,
    pub scribe: Arc<Scribe>,
}

/// A session, living, or ended or refused not long ago.
fn known(engine: &Engine, id: SessionId) -> Option<SessionView> {
    engine.session(id).or_else(|| engine.past(id))
}

impl LocalFleet {
    /// The ids of the sessions that may stand there, sorted.
    fn ids(&self, standing: Standing) -> Vec<SessionId> {
        let living = standing.shows(SessionState::Open) || standing.shows(SessionState::Closing);
        let ended = standing.shows(SessionState::Ended);
        let refused = standing.shows(SessionState::Refused);
        let mut ids: Vec<SessionId> = self.enforcer.look(|engine| {
            let living = living.then(|| engine.ids()).into_iter().flatten();
            let ended = ended.then(|| engine.ended_ids()).into_iter().flatten();
            let refused = refused.then(|| engine.refused_ids()).into_iter().flatten();
            living.chain(ended).chain(refused).collect()
        });
        ids.sort_unstable();
        ids
    }

    fn view(&self, id: SessionId) -> Option<(SessionView, Now)> {
        self.enforcer.refresh(&[id]);
        self.enforcer
            .look(|engine| known(engine, id))
            .map(|view| (view, self.clock.now()))
    }

    /// What was done, once that is on record, if that does not take too long.
    fn outcome(&self, report: Report) -> Outcome {
        Outcome {
            enforcer: self.id.clone(),
            answer: match self.scribe.settle(ON_RECORD) {
                true => Answer::Done,
                false => Answer::Unrecorded,
            },
            matched: report.matched,
            closed: report.closed,
            audit_only: report.audit_only,
            closed_at: report.closed_at,
        }
    }

    fn shown(&self, view: SessionView, now: Now) -> Session {
        let at = |bound: &Option<Bound>| bound.as_ref().map(|bound| now.wall_at(bound.at));
        let lease = &view.lease;
        let ends = lease.deadline(view.last_activity).into_iter();
        let coming = view.coming.as_ref().map(Bound::deadline);
        let deadline = ends.chain(coming).min();
        let (state, reason) = match view.state {
            State::Open => (SessionState::Open, None),
            State::Closing(reason) => (SessionState::Closing, Some(reason)),
            State::Ended(reason) => (SessionState::Ended, Some(reason)),
            State::Refused(reason) => (SessionState::Refused, Some(reason)),
        };
        let (ended_at, cause, late) = view.end.map_or((None, None, None), |end| {
            (Some(end.at), end.cause, end.late)
        });
        Session {
            id: view.id,
            subject: view
                .facts
                .subject()
                .cloned()
                .unwrap_or_else(|| Identity::of_address(view.facts.client.ip())),
            segments: view.segments,
            mode: view.mode,
            upstream: view.target.upstream().map(ToString::to_string),
            service: view.target.service,
            door: Door::Gateway,
            enforcer: self.id.clone(),
            state,
            reason,
            ended_at,
            late_us: late.map(|late| u64::try_from(late.as_micros()).unwrap_or(u64::MAX)),
            cause,
            client: view.facts.client,
            opened_at: now.wall_at(view.facts.opened_at),
            expires_at: at(&lease.expires_at),
            idle_deadline: lease
                .idle_timeout
                .as_ref()
                .map(|(idle, _)| now.wall_at(view.last_activity.after(*idle))),
            reauth_by: at(&lease.reauth_by),
            credential_until: at(&lease.credential_until),
            binding_until: at(&lease.binding_until),
            deadline: deadline.map(|deadline| now.wall_at(deadline.at)),
            deadline_reason: deadline.map(|deadline| deadline.reason),
            bytes_in: view.bytes_in,
            bytes_out: view.bytes_out,
            policies: view.policies,
            revision: view.revision,
            identities: view.facts.identities,
        }
    }
}

impl Fleet for LocalFleet {
    fn sessions(&self, filter: &Filter, after: Option<SessionId>, limit: usize) -> Vec<Session> {
        let ids = self.ids(filter.state);
        let start = after.map_or(0, |after| ids.partition_point(|id| *id <= after));
        let mut shown = Vec::new();
        for chunk in ids.get(start..).unwrap_or_default().chunks(AT_ONCE) {
            self.enforcer.refresh(chunk);
            let now = self.clock.now();
            let views: Vec<SessionView> = self
                .enforcer
                .look(|engine| chunk.iter().filter_map(|id| known(engine, *id)).collect());
            let sessions = views.into_iter().map(|view| self.shown(view, now));
            shown.extend(
                sessions
                    .filter(|session| filter.matches(session))
                    .take(limit - shown.len()),
            );
            if shown.len() >= limit {
                break;
            }
        }
        shown
    }

    fn session(&self, id: SessionId) -> Option<Session> {
        self.view(id).map(|(view, now)| self.shown(view, now))
    }

    fn explain(&self, id: SessionId) -> Option<Explanation> {
        let (view, now) = self.view(id)?;
        let coming = view.coming.clone();
        let (lease, last): (_, BootInstant) = (view.lease.clone(), view.last_activity);
        let leases = (&lease, coming.as_ref());
        Some(Explanation::new(self.shown(view, now), leases, last, now))
    }

    fn cancel(&self, id: SessionId, cause: &str) -> Result<Outcome, FleetError> {
        let input = Input::Cancel {
            id,
            cause: cause.to_owned(),
        };
        let done = self.enforcer.handle(input);
        done.map(|report| self.outcome(report))
            .map_err(|error| fleet_error(id, &error))
    }

    fn renew(&self, id: SessionId) -> Result<Session, FleetError> {
        self.enforcer
            .handle(Input::Renew(id))
            .map_err(|error| fleet_error(id, &error))?;
        self.session(id).ok_or(FleetError::Unknown(id))
    }

    fn apply(&self, commit: &Commit, _wait: Duration) -> Vec<Outcome> {
        // In this process there is nobody to wait for: what it closes is closed when this returns.
        let report = self.desired.apply(commit);
        vec![self.outcome(report)]
    }

    fn withdraw(&self, order: RevocationId) {
        self.desired.withdraw(order);
    }

    fn open(&self) -> Vec<OpenCount> {
        let mut counts: BTreeMap<Option<SegmentName>, u64> = BTreeMap::new();
        for chunk in self.ids(Standing::Living).chunks(AT_ONCE) {
            let first = |id: &SessionId, engine: &Engine| {
                engine
                    .session(*id)
                    .map(|view| view.segments.into_iter().next())
            };
            let segments: Vec<Option<SegmentName>> = self
                .enforcer
                .look(|engine| chunk.iter().filter_map(|id| first(id, engine)).collect());
            for segment in segments {
                *counts.entry(segment).or_default() += 1;
            }
        }
        counts
            .into_iter()
            .map(|(segment, open)| OpenCount {
                segment,
                door: Door::Gateway,
                open,
            })
            .collect()
    }

    fn enforcers(&self) -> Vec<Known> {
        let (open, judged_by) = self.enforcer.look(|engine| (engine.len(), engine.wall()));
        let shown = self.clock.now().wall;
        vec![Known {
            id: self.id.clone(),
            doors: vec![Door::Gateway],
            services: self.services.clone(),
            revision: self.desired.revision(),
            open: u64::try_from(open).unwrap_or(u64::MAX),
            heard_at: shown,
            clock_behind_ms: u64::try_from(judged_by.since(shown).as_millis()).unwrap_or(u64::MAX),
        }]
    }

    fn accept_clock(&self, id: &EnforcerId) -> Result<Known, FleetError> {
        let unknown = || FleetError::UnknownEnforcer(id.clone());
        if *id != self.id {
            return Err(unknown());
        }
        // It cannot be refused.
        let _ = self.enforcer.handle(Input::AcceptClock);
        if !self.scribe.settle(ON_RECORD) {
            let why = "its records are slow to come into the audit log";
            return Err(FleetError::NotKept(id.clone(), why.to_owned()));
        }
        self.enforcers().pop().ok_or_else(unknown)
    }

    fn clock_accepted(&self, id: &EnforcerId, at: WallInstant) -> Result<(), FleetError> {
        let kept = past::accept_clock(&self.data_dir, at);
        kept.map_err(|error| FleetError::NotKept(id.clone(), error.to_string()))
    }

    fn configured(&self) -> Arc<BTreeMap<BindingKey, Binding>> {
        self.configured.bindings()
    }
}

fn fleet_error(id: SessionId, error: &EngineError) -> FleetError {
    match error {
        EngineError::ProofRequired(_) => FleetError::ProofRequired(id),
        _ => FleetError::Unknown(id),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use curfew_enforcer::{Bounds, Open, Peer};
    use curfew_gateway::door::GatewayDoor;
    use curfew_model::Revision;
    use curfew_testkit::{BootClock, alice};
    use parking_lot::Mutex;

    use super::*;
    use crate::node::compiler;

    const POLICY: &str = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: db}\n\
        spec: {sensitivity: low, access: open, members: [{cidr: 10.1.0.0/16}]}\n";

    #[test]
    fn what_is_done_is_answered_though_its_records_are_slow_and_that_is_said() {
        let held = Arc::new(Mutex::new(()));
        let holding = Arc::clone(&held);
        let scribe = Scribe::start(move |_| drop(holding.lock())).unwrap();
        let source = curfew_control::Source {
            path: "p.yaml".to_owned(),
            text: POLICY.to_owned(),
        };
        let content = curfew_control::pack(&[source]).unwrap();
        let owners = BTreeMap::from([(curfew_state::Owner::Files, content.into())]);
        let set = Arc::new(compiler::union(&owners, Revision(1)).unwrap());
        let engine = Engine::new(set.clone(), Bounds::default(), BootClock.now());
        let door = Weak::<GatewayDoor>::new();
        let sink = Arc::clone(&scribe);
        let deadlines = Enforcer::start(engine, door, Arc::new(BootClock), sink).unwrap();
        let enforcer = Arc::clone(deadlines.enforcer());
        let id = EnforcerId::new("gw-1").unwrap();
        let state = curfew_state::State::default();
        let desired = Desired::new(Arc::clone(&enforcer), id.clone(), &state, set);
        let fleet = LocalFleet {
            enforcer,
            desired: Arc::new(desired),
            configured: Arc::default(),
            id,
            data_dir: PathBuf::new(),
            services: Vec::new(),
            clock: Arc::new(BootClock),
            scribe,
        };
        let cancel = |number: u8| {
            let id = format!("019ac2f0-0000-7000-8000-00000000000{number}");
            let id: SessionId = id.parse().unwrap();
            let client = ([127, 0, 0, 1], 40_000).into();
            let target = ([10, 1, 0, 1], 5432).into();
            let open = Open {
                id,
                facts: alice(client, target, BootClock.now().boot),
                peer: Peer::default(),
                decided_at: None,
            };
            assert!(fleet.enforcer.open(open).is_ok());
            fleet.cancel(id, "drill").unwrap().answer
        };
        assert_eq!(cancel(1), Answer::Done);
        let slow = held.lock();
        assert_eq!(cancel(2), Answer::Unrecorded);
        drop(slow);
        assert_eq!(cancel(3), Answer::Done);
    }
}

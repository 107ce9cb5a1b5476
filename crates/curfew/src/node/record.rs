//! What happens, put on record and into the log for operators. Nothing is decided here.

use std::{sync::Arc, time::Duration};

use curfew_audit::{Entry, Log, Ticket};
use curfew_control::{Door, Metrics, order_detail};
use curfew_enforcer::{Close, Record};
use curfew_gateway::service::{Away, TurnedAway};
use curfew_model::{
    BootInstant, Clock, EndReason, EnforcerId, Event, EventKind, Revision, ServiceName,
};
use curfew_state::{Bus, EnforcerEvent, Message, State, Store};
use parking_lot::Mutex;
use tracing::warn;

use super::{
    crowd::Crowd,
    keeper::Bell,
    past::Past,
    teller::{Line, Teller},
};

/// How long a flush waits for the disk, and for standard error.
const FLUSH: Duration = Duration::from_secs(10);

/// Puts what happens on record.
pub struct Recorder {
    pub log: Arc<Log>,
    pub enforcer: EnforcerId,
    pub clock: Arc<dyn Clock>,
    pub bus: Arc<dyn Bus>,
    pub metrics: Arc<Metrics>,
    pub bell: Arc<Bell>,
    pub teller: Teller,
    /// For the revision that is in force.
    pub store: Arc<dyn Store>,
    pub counted: Mutex<Counted>,
    pub crowd: Mutex<Crowd>,
}

/// What is counted between events.
#[derive(Default)]
pub struct Counted {
    /// This enforcer's own count of its events.
    seq: u64,
    last: Option<Ticket>,
}

impl Recorder {
    /// Something about the process, not a session.
    pub fn note(&self, event: EventKind, revision: Revision, cause: Option<String>) {
        let event = Event {
            cause,
            ..Event::new(event, self.clock.now().wall, revision)
        };
        self.put(event);
    }

    /// Puts the number of the clients that were not recorded one by one on record, for every span that is over at `now`.
    pub fn count_the_crowd(&self, now: BootInstant) {
        let over = self.crowd.lock().over(now);
        for over in over {
            let (clients, service) = (over.clients, &over.service);
            let words = format!("{clients} more clients of {service} were turned away");
            let event = self.refusal(service, over.reason, &words);
            self.teller.tell(Line::Event(event.clone()));
            self.put(event.count("clients", over.clients));
        }
    }

    /// A refusal that the engine does not know of.
    fn refusal(&self, service: &ServiceName, reason: EndReason, cause: &str) -> Event {
        let refused = EventKind::SessionRefused;
        let event = Event {
            reason: Some(reason),
            cause: Some(cause.to_owned()),
            ..Event::new(refused, self.clock.now().wall, self.store.read().revision)
        };
        event.with("service", service)
    }

    /// Ends the sessions of a process that died, on record, and waits for the disk; false if it does not take them all.
    #[must_use]
    pub fn end_the_dead(&self, openings: &[curfew_audit::Record], revision: Revision) -> bool {
        if !openings.is_empty() {
            warn!(
                sessions = openings.len(),
                "the process before this one died; its sessions ended with it"
            );
        }
        for opening in openings {
            if self.log.health().full && !self.is_on_disk() {
                return false;
            }
            let opening = &opening.entry;
            let event = Event {
                session: opening.session,
                subject: opening.subject.clone(),
                segments: opening.segments.clone(),
                reason: Some(EndReason::EnforcerLost),
                cause: Some("the process before this one died".to_owned()),
                ..Event::new(EventKind::SessionEnded, self.clock.now().wall, revision)
            };
            self.count(&event);
            self.put(event);
        }
        self.is_on_disk()
    }

    /// Puts what is in force on record that the process before this one died with before it was.
    pub fn tell_what_was_not(&self, past: &Past, state: &State) {
        let cause = |words: &str| {
            format!(
                "{words}; found at the start: the process before this one died before this was on record"
            )
        };
        let event = |kind, revision, cause: String| Event {
            cause: Some(cause),
            ..Event::new(kind, self.clock.now().wall, revision)
        };
        let (orders, sets) = past.untold(state);
        for order in orders {
            let words = cause(&format!("revocation {}: {}", order.id, order.reason));
            let mut created = event(EventKind::RevocationCreated, order.revision, words);
            for (name, value) in order_detail(order) {
                created = created.with(name, value);
            }
            self.put(created.with("by", &order.source));
        }
        for set in sets {
            let applied = event(
                EventKind::PolicyApplied,
                set.revision,
                cause(&set.hash.to_string()),
            );
            self.put(applied.with("by", &set.by));
        }
    }

    /// Says that the state is older than what is on record: a backup was put in its place, or it was removed.
    pub fn tell_if_behind(&self, past: &Past, state: &State) {
        let Some(kept) = past.ahead_of(state) else {
            return;
        };
        let cause = format!(
            "the state is of revision {}, and the audit log knows it at {kept}: it was replaced by an older one, or \
             removed; orders, bindings, tokens and policy from between are not in force, give them again",
            state.revision
        );
        warn!("{cause}");
        self.note(EventKind::StateBehind, state.revision, Some(cause));
    }

    /// Waits until what was recorded is on disk, and says so when it is not.
    fn is_on_disk(&self) -> bool {
        let last = self.counted.lock().last;
        let waited = last.map_or(Ok(()), |last| self.log.durable(last, FLUSH));
        if let Err(error) = &waited {
            warn!(%error, "audit records are not on disk");
        }
        waited.is_ok()
    }

    /// The same, and until the log for operators is written.
    pub fn flush(&self) {
        self.is_on_disk();
        self.teller.flush(FLUSH);
    }

    /// On record, and to whoever watches, under one number.
    fn put(&self, event: Event) {
        let mut counted = self.counted.lock();
        counted.seq += 1;
        let (enforcer, seq) = (self.enforcer.clone(), counted.seq);
        let entry = Entry::new(event.clone()).by(enforcer.clone(), seq);
        // A record that is not taken is counted by the log, and its gap comes on record.
        if let Ok(ticket) = self.log.append(&entry) {
            counted.last = Some(ticket);
        }
        self.bus.publish(Message::Event(EnforcerEvent {
            enforcer,
            seq,
            event,
        }));
    }

    fn count(&self, event: &Event) {
        let Some(reason) = event.reason else { return };
        match event.event {
            EventKind::SessionEnded => {
                self.metrics.ended(&event.segments, Door::Gateway, reason);
                // No other end is kept.
                if reason == EndReason::LifetimeExpired {
                    self.bell.ring();
                }
            }
            EventKind::SessionRefused => {
                self.metrics.refused(&event.segments, Door::Gateway, reason)
            }
            _ => {}
        }
    }
}

impl Recorder {
    /// One record of the enforcer.
    pub fn keep(&self, record: Record) {
        let Record { recorded, close } = record;
        // Who gave an order, lifted one or applied a policy set is on record already, by whoever took it, who knows more
        // of it.
        if matches!(
            recorded.event,
            EventKind::RevocationCreated | EventKind::RevocationLifted | EventKind::PolicyApplied
        ) {
            return;
        }
        let mut event = recorded.into_event();
        if let Some(Close { closed, late }) = close {
            if let Some(late) = late {
                self.metrics.closed(Door::Gateway, late);
                event = event.count("late_us", late.as_micros());
            }
            if let Some(moved) = closed.moved {
                event = event
                    .count("bytes_in", moved.bytes_in)
                    .count("bytes_out", moved.bytes_out);
            }
            if closed.untold {
                event = event.with("goodbye", "skipped");
            }
        }
        self.tell(event);
    }

    /// Counted, in the log for operators, on record.
    fn tell(&self, event: Event) {
        self.teller.tell(Line::Event(event.clone()));
        self.count(&event);
        self.put(event);
    }
}

impl TurnedAway for Recorder {
    fn turned_away(&self, away: Away) {
        if !away.was_open {
            self.metrics.refused(&[], Door::Gateway, away.reason);
            let now = self.clock.now().boot;
            if !self.crowd.lock().takes(&away.service, away.reason, now) {
                return;
            }
            let event = Event {
                session: away.session,
                ..self.refusal(&away.service, away.reason, &away.detail)
            };
            self.put(event.with("client", away.client));
        }
        self.teller.tell(Line::TurnedAway(away));
    }
}

#[cfg(test)]
mod tests {
    use curfew_audit::Options;
    use curfew_model::WallInstant;
    use curfew_state::{EmbeddedStore, LocalBus};

    use super::*;
    use crate::clock::SystemClock;

    fn recorder(folder: &std::path::Path) -> Recorder {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let options = Options::new(folder.join("audit"));
        Recorder {
            log: Arc::new(Log::open(options, clock.now().wall).unwrap()),
            enforcer: EnforcerId::new("gw-1").unwrap(),
            clock,
            bus: Arc::new(LocalBus::new()),
            metrics: Arc::new(Metrics::new()),
            bell: Arc::default(),
            teller: Teller::start().unwrap(),
            store: Arc::new(EmbeddedStore::open(folder).unwrap()),
            counted: Mutex::default(),
            crowd: Mutex::default(),
        }
    }

    fn end(reason: EndReason) -> Event {
        Event {
            reason: Some(reason),
            ..Event::new(EventKind::SessionEnded, WallInstant(1), Revision(1))
        }
    }

    #[test]
    fn only_an_end_by_lifetime_rings_the_bell() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = recorder(folder.path());
        let rings = |reason| {
            recorder.tell(end(reason));
            recorder.bell.wait()
        };
        assert!(rings(EndReason::LifetimeExpired));
        assert!(!rings(EndReason::ClosedByClient));
        assert!(!rings(EndReason::SubjectRevoked));
    }

    #[test]
    fn who_is_turned_away_is_refused_unless_the_session_was_open() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = recorder(folder.path());
        let refused = |was_open| {
            recorder.turned_away(Away {
                service: ServiceName::new("db").unwrap(),
                client: "192.0.2.1:4711".parse().unwrap(),
                session: None,
                reason: EndReason::Overloaded,
                detail: "no descriptors".to_owned(),
                was_open,
            });
            recorder.flush();
            recorder.log.health().seq > 0
        };
        assert!(!refused(true));
        assert!(refused(false));
    }
}

//! What happens, put on record and into the log for operators: the enforcer's sink. Nothing is decided here.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use curfew_audit::{Entry, Log, Ticket};
use curfew_control::{Door, Metrics};
use curfew_enforcer::{Bounds, Sink};
use curfew_gateway::service::TurnedAway;
use curfew_model::{
    BootInstant, Clock, EndReason, EnforcerId, Event, EventKind, Revision, ServiceName, SessionId,
};
use curfew_state::{Bus, EnforcerEvent, Message, Store};
use parking_lot::Mutex;
use tracing::warn;

use super::{
    crowd::Crowd,
    keeper::Bell,
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

/// What is counted and remembered between events.
#[derive(Default)]
pub struct Counted {
    /// This enforcer's own count of its events.
    seq: u64,
    last: Option<Ticket>,
    /// What is known of a close before its end or refusal comes on record, which follows at once. A close that tells
    /// nothing has no entry: one of a session whose end is on record already tells nothing.
    closes: HashMap<SessionId, Close>,
    lateness: Lateness,
}

impl Counted {
    /// What is known of the close of a session whose end or refusal comes on record now.
    fn close_of(&mut self, session: SessionId) -> Option<Close> {
        let close = self.closes.remove(&session)?;
        if let Some(late) = close.late {
            self.lateness.keep(session, late, Bounds::default().ended);
        }
        Some(close)
    }
}

/// How late the sessions ended that ended last at a deadline; as many as the engine remembers sessions.
#[derive(Default)]
struct Lateness {
    by_id: HashMap<SessionId, Duration>,
    /// In the order of their ends.
    order: VecDeque<SessionId>,
}

impl Lateness {
    fn keep(&mut self, session: SessionId, late: Duration, bound: usize) {
        if self.by_id.insert(session, late).is_none() {
            self.order.push_back(session);
        }
        while self.order.len() > bound {
            if let Some(oldest) = self.order.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }
}

#[derive(Default)]
struct Close {
    late: Option<Duration>,
    untold: bool,
}

impl Recorder {
    /// How late a session ended that ended not long ago at a deadline.
    pub fn late(&self, session: SessionId) -> Option<Duration> {
        self.counted.lock().lateness.by_id.get(&session).copied()
    }

    /// Something about the process, not a session.
    pub fn note(&self, event: EventKind, revision: Revision, cause: Option<String>) {
        let at = self.clock.now().wall;
        let event = Event {
            at,
            event,
            session: None,
            subject: None,
            segments: Vec::new(),
            reason: None,
            revision,
            cause,
        };
        self.put(event, Entry::new);
    }

    /// Puts the number of the clients that were not recorded one by one on record, for every span that is over at `now`.
    pub fn count_the_crowd(&self, now: BootInstant) {
        let over = self.crowd.lock().over(now);
        for over in over {
            let words = "more clients were turned away, and are counted here";
            let count = |entry: Entry| entry.with("clients", over.clients);
            self.put_refusal(&over.service, over.reason, words, count);
        }
    }

    /// A refusal that the engine does not know of.
    fn put_refusal(
        &self,
        service: &ServiceName,
        reason: EndReason,
        cause: &str,
        more: impl FnOnce(Entry) -> Entry,
    ) {
        let event = Event {
            at: self.clock.now().wall,
            event: EventKind::SessionRefused,
            session: None,
            subject: None,
            segments: Vec::new(),
            reason: Some(reason),
            revision: self.store.read().revision,
            cause: Some(cause.to_owned()),
        };
        self.put(event, |event| {
            more(Entry::new(event).with("service", service))
        });
    }

    /// Ends the sessions of a process that died, on record.
    pub fn end_the_dead(&self, openings: Vec<Entry>, revision: Revision) {
        if !openings.is_empty() {
            warn!(
                sessions = openings.len(),
                "the process before this one died; its sessions ended with it"
            );
        }
        for opening in openings {
            let event = Event {
                at: self.clock.now().wall,
                event: EventKind::SessionEnded,
                session: opening.session,
                subject: opening.subject,
                segments: opening.segments,
                reason: Some(EndReason::EnforcerLost),
                revision,
                cause: Some("the process before this one died".to_owned()),
            };
            self.count(&event);
            self.put(event, Entry::new);
        }
    }

    /// Waits until what was recorded is on disk, and the log for operators is written; says so when records are not.
    pub fn flush(&self) {
        let last = self.counted.lock().last;
        if let Some(Err(error)) = last.map(|last| self.log.durable(last, FLUSH)) {
            warn!(%error, "audit records are not on disk");
        }
        self.teller.flush(FLUSH);
    }

    /// On record, and to whoever watches, under one number.
    fn put(&self, event: Event, entry: impl FnOnce(Event) -> Entry) {
        let mut counted = self.counted.lock();
        counted.seq += 1;
        let (enforcer, seq) = (self.enforcer.clone(), counted.seq);
        let entry = entry(event.clone()).by(enforcer.clone(), seq);
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

impl Sink for Recorder {
    fn record(&self, event: Event) {
        // Who gave an order, lifted one or applied a policy set is on record already, by whoever took it, who knows more
        // of it.
        if matches!(
            event.event,
            EventKind::RevocationCreated | EventKind::RevocationLifted | EventKind::PolicyApplied
        ) {
            return;
        }
        let over = matches!(
            event.event,
            EventKind::SessionEnded | EventKind::SessionRefused
        );
        let close = event
            .session
            .filter(|_| over)
            .and_then(|session| self.counted.lock().close_of(session));
        self.teller.tell(Line::Event(event.clone()));
        self.count(&event);
        self.put(event, |event| {
            let mut entry = Entry::new(event);
            let Some(close) = close else { return entry };
            if let Some(late) = close.late {
                entry = entry.with("late_us", late.as_micros());
            }
            if close.untold {
                entry = entry.with("goodbye", "skipped");
            }
            entry
        });
    }

    fn closed(&self, session: SessionId, _reason: EndReason, late: Option<Duration>) {
        if let Some(late) = late {
            self.metrics.closed(Door::Gateway, late);
            self.counted.lock().closes.entry(session).or_default().late = Some(late);
        }
    }

    fn goodbye_skipped(&self, session: SessionId) {
        self.counted
            .lock()
            .closes
            .entry(session)
            .or_default()
            .untold = true;
    }
}

impl TurnedAway for Recorder {
    fn turned_away(
        &self,
        service: &ServiceName,
        client: SocketAddr,
        reason: EndReason,
        detail: &str,
    ) {
        // That one was a session, and is counted and recorded as ended.
        if reason != EndReason::UpstreamUnreachable {
            self.metrics.refused(&[], Door::Gateway, reason);
            let now = self.clock.now().boot;
            if self.crowd.lock().takes(service, reason, now) {
                let named = |entry: Entry| entry.with("client", client);
                self.put_refusal(service, reason, detail, named);
            }
        }
        self.teller.tell(Line::TurnedAway {
            service: service.clone(),
            client,
            reason,
            detail: detail.to_owned(),
        });
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

    fn about(session: SessionId, event: EventKind) -> Event {
        Event {
            at: WallInstant(1),
            event,
            session: Some(session),
            subject: None,
            segments: Vec::new(),
            reason: Some(EndReason::LifetimeExpired),
            revision: Revision(1),
            cause: None,
        }
    }

    #[test]
    fn nothing_is_kept_of_a_close_once_its_session_is_on_record() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = recorder(folder.path());
        let late = Some(Duration::from_micros(7));
        let id = |number: u8| -> SessionId {
            let text = format!("019ac2f0-0000-7000-8000-00000000000{number}");
            text.parse().unwrap()
        };
        let reason = EndReason::LifetimeExpired;
        recorder.goodbye_skipped(id(1));
        recorder.closed(id(1), reason, late);
        recorder.record(about(id(1), EventKind::SessionEnded));
        assert_eq!((recorder.late(id(1)), recorder.late(id(2))), (late, None));
        // One that was adopted and refused, and one that is closed again.
        recorder.goodbye_skipped(id(2));
        recorder.closed(id(2), reason, None);
        recorder.record(about(id(2), EventKind::SessionRefused));
        recorder.closed(id(1), reason, None);
        assert!(recorder.counted.lock().closes.is_empty());
    }

    #[test]
    fn only_an_end_by_lifetime_rings_the_bell() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = recorder(folder.path());
        let id = "019ac2f0-0000-7000-8000-000000000001".parse().unwrap();
        let rings = |reason| {
            let mut event = about(id, EventKind::SessionEnded);
            event.reason = Some(reason);
            recorder.record(event);
            recorder.bell.wait()
        };
        assert!(rings(EndReason::LifetimeExpired));
        assert!(!rings(EndReason::ClosedByClient));
        assert!(!rings(EndReason::SubjectRevoked));
    }
}

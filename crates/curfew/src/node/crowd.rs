//! Clients that were turned away before they had a session, as the audit log takes them: of each service and reason the
//! first of a minute one by one, the others as a number. Pure: the time is a parameter. Writing may not happen here.

use std::{collections::BTreeMap, time::Duration};

use curfew_model::{BootInstant, EndReason, ServiceName};

/// Clients of one service and reason that are recorded one by one, in one span.
const SINGLE: u64 = 10;
/// How long clients are counted before their number is recorded.
const SPAN: Duration = Duration::from_secs(60);

/// Who was turned away lately. As many entries as services times reasons, at most.
#[derive(Default)]
pub struct Crowd {
    spans: BTreeMap<(ServiceName, EndReason), Span>,
}

struct Span {
    since: BootInstant,
    clients: u64,
}

/// Clients that were not recorded one by one.
#[derive(Debug, PartialEq, Eq)]
pub struct Uncounted {
    pub service: ServiceName,
    pub reason: EndReason,
    pub clients: u64,
}

impl Crowd {
    /// Takes one more client; whether it is recorded by itself.
    pub fn takes(&mut self, service: &ServiceName, reason: EndReason, now: BootInstant) -> bool {
        let key = (service.clone(), reason);
        let span = self.spans.entry(key).or_insert(Span {
            since: now,
            clients: 0,
        });
        span.clients += 1;
        span.clients <= SINGLE
    }

    /// Ends the spans that are over, and gives the numbers that have to be recorded.
    pub fn over(&mut self, now: BootInstant) -> Vec<Uncounted> {
        let over = self
            .spans
            .extract_if(.., |_, span| span.since.after(SPAN) <= now);
        let numbers = over.map(|((service, reason), span)| Uncounted {
            service,
            reason,
            clients: span.clients.saturating_sub(SINGLE),
        });
        numbers.filter(|number| number.clients > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_span_are_recorded_and_the_others_counted() {
        let (mut crowd, now) = (Crowd::default(), BootInstant(5));
        let db = ServiceName::new("db").unwrap();
        let web = ServiceName::new("web").unwrap();
        let many = EndReason::Overloaded;
        let recorded = (0..1_000).filter(|_| crowd.takes(&db, many, now)).count();
        assert_eq!(recorded, 10);
        assert!(crowd.takes(&db, EndReason::ProtocolError, now));
        assert!(crowd.takes(&web, many, now));
        let (before, end) = (BootInstant(now.after(SPAN).0 - 1), now.after(SPAN));
        assert_eq!(crowd.over(before), []);
        let number = Uncounted {
            service: db.clone(),
            reason: many,
            clients: 990,
        };
        assert_eq!(crowd.over(end), [number]);
        assert!(crowd.spans.is_empty());
        assert!(crowd.takes(&db, many, end));
    }
}

//! A record, and how long to wait for one. No assertion may live here.
#![cfg(test)]

use std::time::Duration;

use curfew_audit::Entry;
use curfew_model::{EnforcerId, Event, EventKind, Revision, WallInstant};

pub const NOW: WallInstant = WallInstant(1_800_000_000_000);
pub const LONG: Duration = Duration::from_secs(60);

pub fn entry(n: u64) -> Entry {
    Entry::new(Event {
        segments: vec!["payments-db".parse().unwrap()],
        reason: Some(curfew_model::EndReason::LifetimeExpired),
        cause: Some(format!("event {n} \"quoted\" \u{1b}[31m,\"hash\":\"x\"")),
        ..Event::new(
            EventKind::SessionEnded,
            WallInstant(NOW.0 + i64::try_from(n).unwrap()),
            Revision(n),
        )
    })
    .by(EnforcerId::new("gw-1").unwrap(), n)
}

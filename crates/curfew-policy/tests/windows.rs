//! Until when windows that follow one another admit.
#![cfg(test)]

use std::time::Duration;

use curfew_model::{BootInstant, EndReason, Facts, Now, Provenance, Revision, WallInstant};
use curfew_policy::{Decide, PolicySet};
use curfew_testkit::{alice, compiled, document};

const DAY: u64 = 24 * 3_600;

/// A database, where sessions may last for so long, and policies that admit everyone, each with its hours and more.
fn set(lifetime: &str, policies: &[(&str, &str)]) -> PolicySet {
    let spec = format!(
        "sensitivity: low, members: [{{cidr: 10.0.0.1}}], limits: {{maxLifetime: {lifetime}}}"
    );
    let mut text = document("Segment", "db", &spec);
    for (number, (hours, more)) in policies.iter().enumerate() {
        let during = format!("during: {{hours: '{hours}', timeZone: UTC}}");
        let spec = format!("from: {{anyone: true}}, to: {{segments: [db]}}, {during}{more}");
        text += &document("SessionPolicy", &format!("p{number}"), &spec);
    }
    compiled(&text, 1)
}

/// Alice, who came as the clocks began.
fn facts() -> Facts {
    let (client, target) = ("192.0.2.1:1", "10.0.0.1:5432");
    alice(
        client.parse().unwrap(),
        target.parse().unwrap(),
        BootInstant(0),
    )
}

/// So long after the clocks began, which was at 13:00.
fn after(boot: Duration) -> Now {
    let began = wall("2026-11-24T13:00:00Z");
    Now {
        boot: BootInstant(0).after(boot),
        wall: WallInstant(began.0 + i64::try_from(boot.as_millis()).unwrap()),
    }
}

fn wall(text: &str) -> WallInstant {
    WallInstant(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

/// When, in seconds, and why a lifetime ends.
fn end(set: &PolicySet, now: Now) -> (u64, EndReason) {
    let decision = set.decide(&facts(), now);
    assert_eq!(decision.refusal, None);
    let end = decision.lease.expires_at.unwrap();
    (end.at.since(BootInstant(0)).as_secs(), end.reason)
}

#[test]
fn windows_that_leave_no_gap_end_nothing_before_the_lifetime() {
    let (day, night) = (("08:00-20:00", ""), ("20:00-08:00", ""));
    for (lifetime, seconds) in [("5h", 5 * 3_600), ("30d", 30 * DAY), ("60d", 60 * DAY)] {
        let found = end(&set(lifetime, &[day, night]), after(Duration::ZERO));
        assert_eq!(found, (seconds, EndReason::LifetimeExpired), "{lifetime}");
    }
    // An end of both at one instant is that of the order of the reasons.
    let found = end(&set("7h", &[day]), after(Duration::ZERO));
    let first = EndReason::LifetimeExpired.min(EndReason::OutsideHours);
    assert_eq!(found, (7 * 3_600, first));
}

#[test]
fn windows_are_followed_no_longer_than_the_lifetime() {
    let both = [("06:00-18:00", ""), ("12:00-06:00", "")];
    let look = |lifetime| {
        let decision = set(lifetime, &both).decide(&facts(), after(Duration::ZERO));
        decision.look_again_at
    };
    assert_eq!(look("30d"), None);
    assert!(look("60d").is_some());
}

#[test]
fn a_gap_behind_many_windows_is_found_by_a_later_look() {
    let ends = ", notAfter: 2027-01-10T00:00:00Z";
    let set = set("60d", &[("06:00-18:00", ""), ("12:00-06:00", ends)]);
    let lifetime = (60 * DAY, EndReason::LifetimeExpired);
    assert_eq!(end(&set, after(Duration::ZERO)), lifetime);
    let decision = set.decide(&facts(), after(Duration::ZERO));
    let look = decision.look_again_at.unwrap().since(BootInstant(0));
    let expected = wall("2027-01-10T00:00:00Z").since(after(Duration::ZERO).wall);
    assert!(look < expected);
    let found = end(&set, after(look));
    assert_eq!(found, (expected.as_secs(), EndReason::GrantExpired));
}

#[test]
fn an_end_names_the_line_that_sets_it() {
    let ends = ",\n  notAfter: 2026-11-24T15:00:00Z";
    for (more, field, line) in [("", "during", 10), (ends, "notAfter", 11)] {
        let set = set("12h", &[("06:00-18:00", more)]);
        let decision = set.decide(&facts(), after(Duration::ZERO));
        let by = decision.lease.expires_at.unwrap().by;
        let expected = Provenance::Document {
            document: "SessionPolicy/p0".to_owned(),
            field: format!("spec.{field}"),
            place: Some(format!("p.yaml:{line}")),
            revision: Revision(1),
        };
        assert_eq!(*by, expected);
    }
}

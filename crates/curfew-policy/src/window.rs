//! Time windows and the ends of grants, on the wall clock of a time zone. No clock is read here.

use std::{sync::LazyLock, time::Duration};

use curfew_model::{EndReason, WallInstant};
use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Time, Weekday},
    tz::{AmbiguousOffset, TimeZone},
};

use crate::{
    problem::{Problem, nearest},
    read::Source,
    tree::Node,
};

/// After so much time on end no day of the week is left out.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// In a file with more problems, no zone is looked for that an unknown one may mean.
const MAX_GUESSES: usize = 20;

/// The names of all zones.
static ZONES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let zones = jiff::tz::db().available();
    zones.map(|name| name.to_string()).collect()
});

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// A span of hours on some days of the week. A span that ends before it starts runs past midnight and belongs to
/// the day on which it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    days: Vec<Weekday>,
    start: Time,
    /// None for the midnight that ends the day.
    end: Option<Time>,
    zone: TimeZone,
}

/// When a policy is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) during: Option<Window>,
    pub(crate) not_after: Option<WallInstant>,
}

/// Whether a policy is in force, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InForce {
    /// It is, until an instant for a reason, or for ever.
    Until(Option<(WallInstant, EndReason)>),
    /// Outside its hours; they open next at this instant, if ever.
    OutsideHours(Option<WallInstant>),
    /// Its grant ended.
    Ended,
}

impl Validity {
    /// Whether the policy is in force at `wall`.
    pub(crate) fn at(&self, wall: WallInstant) -> InForce {
        if self.not_after.is_some_and(|end| wall >= end) {
            return InForce::Ended;
        }
        let grant = self.not_after.map(|end| (end, EndReason::GrantExpired));
        let Some(window) = &self.during else {
            return InForce::Until(grant);
        };
        match window.at(wall) {
            Open::Always => InForce::Until(grant),
            Open::Until(end) => InForce::Until(
                [grant, Some((end, EndReason::OutsideHours))]
                    .into_iter()
                    .flatten()
                    .min(),
            ),
            Open::From(next) => InForce::OutsideHours(
                next.filter(|next| self.not_after.is_none_or(|end| *next < end)),
            ),
        }
    }
}

enum Open {
    Always,
    Until(WallInstant),
    From(Option<WallInstant>),
}

impl Window {
    /// Looks at the span that started yesterday, today, and the next eight days: every weekday is among them. Spans that
    /// adjoin are one. A time that a change of the clocks repeats is the first of both; a span that falls into the hour
    /// which the clocks skip never opens.
    fn at(&self, wall: WallInstant) -> Open {
        let Ok(now) = Timestamp::from_millisecond(wall.0) else {
            return Open::From(None);
        };
        let local = now.to_zoned_datetime(self.zone.clone());
        let spans = (-1i64..=8)
            .filter_map(|offset| self.span(local.date().checked_add(offset.days()).ok()?));
        let mut open: Option<WallInstant> = None;
        for (start, end) in spans {
            match open {
                Some(until) if start > until => break,
                Some(until) => open = Some(until.max(end)),
                None if start > wall => return Open::From(Some(start)),
                None if wall < end => open = Some(end),
                None => {}
            }
        }
        let Some(until) = open else {
            return Open::From(None);
        };
        // More than a week on end has no gap.
        if until.since(wall) > WEEK {
            Open::Always
        } else {
            Open::Until(until)
        }
    }

    fn span(&self, date: Date) -> Option<(WallInstant, WallInstant)> {
        if !self.days.contains(&date.weekday()) {
            return None;
        }
        let instant = |date, time| self.instant(date, time);
        let (end_date, end_time) = match self.end {
            Some(end) if end > self.start => (date, end),
            other => (
                date.checked_add(1.day()).ok()?,
                other.unwrap_or(Time::midnight()),
            ),
        };
        let (start, end) = (instant(date, self.start)?, instant(end_date, end_time)?);
        (start < end).then_some((start, end))
    }

    /// When the clocks of the zone first show this time, or go past it.
    fn instant(&self, date: Date, time: Time) -> Option<WallInstant> {
        let time = date.to_datetime(time);
        let shown = self.zone.to_ambiguous_timestamp(time);
        let first = match shown.offset() {
            // By the clock of after the change it lies before it.
            AmbiguousOffset::Gap { after, .. } => {
                let before = after.to_timestamp(time).ok()?;
                self.zone.following(before).next()?.timestamp()
            }
            _ => shown.compatible().ok()?,
        };
        Some(WallInstant(first.as_millisecond()))
    }
}

/// Reads a `during` map.
pub(crate) fn read(source: &Source<'_>, node: &Node) -> Option<Window> {
    let map = source.map(node, "`during`", &["days", "hours", "timeZone"])?;
    let days = match map.get("days") {
        Some(node) => source
            .list(node, "`days`")
            .iter()
            .filter_map(|node| {
                let text = source.text(node, "a day")?;
                let days = read_days(text);
                if days.is_none() {
                    source.error(
                        node,
                        format!(
                            "{text:?} is no day: use mon, tue, wed, thu, fri, sat, sun, or mon-fri"
                        ),
                    );
                }
                days
            })
            .flatten()
            .collect(),
        None => DAYS.iter().map(|(_, day)| *day).collect(),
    };
    let hours = map.need("hours").and_then(|node| {
        let text = source.text(node, "`hours`")?;
        let hours = read_hours(text);
        if hours.is_none() {
            source.error(
                node,
                format!("`hours` is {text:?}: write it like \"08:00-18:00\", at most to 24:00"),
            );
        }
        hours
    });
    let zone = map.need("timeZone").and_then(|node| {
        let text = source.text(node, "`timeZone`")?;
        let zone = TimeZone::get(text);
        if zone.is_err() {
            let message =
                format!("{text:?} is no time zone: use a name like Europe/Berlin, or UTC");
            let problem = Problem::error(&source.place(node), message);
            // Each guess takes a look at all zones.
            let near = (source.problems() < MAX_GUESSES).then(|| {
                let zones = ZONES.iter().map(String::as_str);
                nearest(text, zones)
            });
            source.report(problem.meant(near.flatten()));
        }
        zone.ok()
    });
    let (start, end) = hours?;
    Some(Window {
        days,
        start,
        end,
        zone: zone?,
    })
}

fn read_days(text: &str) -> Option<Vec<Weekday>> {
    let day = |word: &str| DAYS.iter().position(|(name, _)| *name == word);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (day(first)?, day(last)?),
        None => (day(text)?, day(text)?),
    };
    // `sat-mon` runs on over the end of the week.
    let count = (last + DAYS.len() - first) % DAYS.len() + 1;
    Some(
        DAYS.iter()
            .cycle()
            .skip(first)
            .take(count)
            .map(|(_, day)| *day)
            .collect(),
    )
}

fn read_hours(text: &str) -> Option<(Time, Option<Time>)> {
    let time = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let two = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok())?
        };
        Time::new(two(hour)?, two(minute)?, 0, 0).ok()
    };
    let (start, end) = text.split_once('-')?;
    let end = if end == "24:00" {
        None
    } else {
        Some(time(end)?)
    };
    let start = time(start)?;
    (end != Some(start)).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &str, hours: &str, zone: &str) -> Window {
        let (start, end) = read_hours(hours).unwrap();
        Window {
            days: read_days(days).unwrap(),
            start,
            end,
            zone: TimeZone::get(zone).unwrap(),
        }
    }

    fn wall(text: &str) -> WallInstant {
        WallInstant(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    fn at(window: &Window, text: &str) -> InForce {
        Validity {
            during: Some(window.clone()),
            not_after: None,
        }
        .at(wall(text))
    }

    fn until(text: &str) -> InForce {
        InForce::Until(Some((wall(text), EndReason::OutsideHours)))
    }

    #[test]
    fn hours_are_those_of_the_zone() {
        let work = window("mon-fri", "08:00-18:00", "Europe/Berlin");
        // Tuesday 2026-11-24, winter: Berlin is one hour ahead.
        assert_eq!(
            at(&work, "2026-11-24T07:00:00Z"),
            until("2026-11-24T17:00:00Z")
        );
        assert_eq!(
            at(&work, "2026-11-24T06:59:59.999Z"),
            InForce::OutsideHours(Some(wall("2026-11-24T07:00:00Z")))
        );
        assert_eq!(
            at(&work, "2026-11-24T17:00:00Z"),
            InForce::OutsideHours(Some(wall("2026-11-25T07:00:00Z")))
        );
        // Friday evening opens on Monday, in summer two hours ahead.
        assert_eq!(
            at(&work, "2026-07-03T16:00:00Z"),
            InForce::OutsideHours(Some(wall("2026-07-06T06:00:00Z")))
        );
    }

    #[test]
    fn nights_belong_to_the_day_they_start_on() {
        let night = window("fri", "22:00-06:00", "UTC");
        assert_eq!(
            at(&night, "2026-11-28T05:00:00Z"),
            until("2026-11-28T06:00:00Z")
        );
        assert_eq!(
            at(&night, "2026-11-27T05:00:00Z"),
            InForce::OutsideHours(Some(wall("2026-11-27T22:00:00Z")))
        );
        let whole = window("sat", "00:00-24:00", "UTC");
        assert_eq!(
            at(&whole, "2026-11-28T23:59:59Z"),
            until("2026-11-29T00:00:00Z")
        );
    }

    #[test]
    fn windows_that_adjoin_are_one() {
        let week = window("mon-fri", "00:00-24:00", "UTC");
        assert_eq!(
            at(&week, "2026-11-24T12:00:00Z"),
            until("2026-11-28T00:00:00Z")
        );
        for zone in ["UTC", "Europe/Berlin"] {
            let whole = window("mon-sun", "00:00-24:00", zone);
            for text in ["2026-11-28T23:59:59Z", "2026-10-25T00:30:00Z"] {
                assert_eq!(at(&whole, text), InForce::Until(None), "{zone} {text}");
            }
        }
    }

    #[test]
    fn what_the_clock_skips_never_opens_and_what_it_repeats_is_the_first() {
        let gap = window("sun", "02:30-03:00", "Europe/Berlin");
        assert_eq!(
            at(&gap, "2026-03-29T00:00:00Z"),
            InForce::OutsideHours(Some(wall("2026-04-05T00:30:00Z")))
        );
        // Wherever a span lies in the skipped hour, or reaches into it, the clocks show 03:00 at 01:00 UTC.
        let (change, next_week) = ("2026-03-29T01:00:00Z", "2026-04-05T00:15:00Z");
        let within = window("sun", "02:15-02:45", "Europe/Berlin");
        for text in ["2026-03-29T00:00:00Z", "2026-03-29T01:20:00Z"] {
            let next = InForce::OutsideHours(Some(wall(next_week)));
            assert_eq!(at(&within, text), next, "{text}");
        }
        let into = window("sun", "01:00-02:30", "Europe/Berlin");
        assert_eq!(at(&into, "2026-03-29T00:59:59Z"), until(change));
        let out_of = window("sun", "02:30-05:00", "Europe/Berlin");
        let opens = InForce::OutsideHours(Some(wall(change)));
        assert_eq!(at(&out_of, "2026-03-29T00:59:59Z"), opens);
        assert_eq!(at(&out_of, change), until("2026-03-29T03:00:00Z"));
        let repeated = window("sun", "01:00-02:30", "Europe/Berlin");
        assert_eq!(
            at(&repeated, "2026-10-25T00:15:00Z"),
            until("2026-10-25T00:30:00Z")
        );
        let next = InForce::OutsideHours(Some(wall("2026-11-01T00:00:00Z")));
        assert_eq!(at(&repeated, "2026-10-25T01:15:00Z"), next);
    }

    #[test]
    fn what_is_no_window_is_none() {
        assert_eq!(read_days("sat-mon").unwrap().len(), 3);
        for bad in ["monday", "mon-", "-fri", ""] {
            assert!(read_days(bad).is_none(), "{bad}");
        }
        for bad in [
            "8-18",
            "08:00",
            "08:00-25:00",
            "24:00-08:00",
            "08:00-08:00",
            "8:00-18:00",
            "+8:00-18:00",
            "08:+0-18:00",
        ] {
            assert!(read_hours(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_grant_ends_first_when_it_ends_first() {
        let validity = Validity {
            during: Some(window("mon-sun", "08:00-18:00", "UTC")),
            not_after: Some(wall("2026-11-24T12:00:00Z")),
        };
        let end = (wall("2026-11-24T12:00:00Z"), EndReason::GrantExpired);
        assert_eq!(
            validity.at(wall("2026-11-24T09:00:00Z")),
            InForce::Until(Some(end))
        );
        assert_eq!(validity.at(wall("2026-11-24T12:00:00Z")), InForce::Ended);
        assert_eq!(
            validity.at(wall("2026-11-24T05:00:00Z")),
            InForce::OutsideHours(Some(wall("2026-11-24T08:00:00Z")))
        );
    }
}

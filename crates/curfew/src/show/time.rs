//! Instants as people read them: the time left, and what the clock on the wall shows here.

use std::time::Duration;

use curfew_model::{Clock as _, WallInstant};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::Value;

use crate::clock::SystemClock;

/// Where and when is read.
#[derive(Clone, Debug)]
pub struct Reading {
    now: WallInstant,
    zone: TimeZone,
}

impl Reading {
    /// Now, in the time zone of this machine or of `TZ`.
    #[must_use]
    pub fn here() -> Self {
        Self {
            now: SystemClock.now().wall,
            zone: TimeZone::system(),
        }
    }

    /// The instant of a field; none where there is none.
    #[must_use]
    pub fn instant(value: &Value, field: &str) -> Option<WallInstant> {
        serde_json::from_value(value.get(field)?.clone()).ok()
    }

    /// The local reading of a field: the time today, otherwise the day with it. Empty where there is none.
    #[must_use]
    pub fn local(&self, value: &Value, field: &str) -> String {
        Self::instant(value, field).map_or_else(String::new, |at| self.local_at(at))
    }

    /// A deadline: its local reading and the time left until then. Empty where there is none.
    #[must_use]
    pub fn deadline(&self, value: &Value, field: &str) -> String {
        Self::instant(value, field).map_or_else(String::new, |at| {
            format!("{} ({})", self.local_at(at), self.left(at))
        })
    }

    /// The local reading of an instant.
    #[must_use]
    pub fn local_at(&self, at: WallInstant) -> String {
        let zoned = |at: WallInstant| -> Option<DateTime> {
            let at = Timestamp::from_millisecond(at.0).ok()?;
            Some(self.zone.to_datetime(at))
        };
        let (Some(then), Some(now)) = (zoned(at), zoned(self.now)) else {
            return at.to_string();
        };
        let form = if then.date() == now.date() {
            "%H:%M:%S"
        } else if then.year() == now.year() {
            "%b %d %H:%M"
        } else {
            "%Y-%m-%d %H:%M"
        };
        then.strftime(form).to_string()
    }

    /// The time left until an instant, in its two largest units.
    #[must_use]
    pub fn left(&self, at: WallInstant) -> String {
        if at <= self.now {
            return "due".to_owned();
        }
        format!("{} left", short(at.since(self.now)))
    }

    /// The time left until an instant, as a cell of a table.
    #[must_use]
    pub fn left_cell(&self, at: WallInstant) -> String {
        if at <= self.now {
            return "due".to_owned();
        }
        short(at.since(self.now))
    }
}

/// A duration in its two largest units.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => "<1s".to_owned(),
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
impl Reading {
    /// A place and time for tests: 12:00:00 in Berlin.
    pub fn of_tests() -> Self {
        let noon: Timestamp = "2026-11-24T11:00:00Z".parse().unwrap();
        Self {
            now: WallInstant(noon.as_millisecond()),
            zone: TimeZone::get("Europe/Berlin").unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn instants_are_read_where_one_is() {
        let reading = Reading::of_tests();
        for (at, text) in [
            ("2026-11-24T11:14:59.900Z", "12:14:59 (14m59s left)"),
            ("2026-11-24T11:00:00.500Z", "12:00:00 (<1s left)"),
            ("2026-11-24T10:59:59Z", "11:59:59 (due)"),
            ("2026-11-25T13:30:00Z", "Nov 25 14:30 (1d02h left)"),
            ("2026-11-24T23:30:00Z", "Nov 25 00:30 (12h30m left)"),
            ("2027-01-31T00:00:00Z", "2027-01-31 01:00 (67d13h left)"),
        ] {
            assert_eq!(reading.deadline(&json!({"at": at}), "at"), text);
        }
        assert_eq!(reading.deadline(&json!({"at": null}), "at"), "");
        assert_eq!(reading.local(&json!({}), "at"), "");
    }
}

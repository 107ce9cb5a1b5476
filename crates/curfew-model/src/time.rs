//! Instants and durations. Deadlines live on CLOCK_BOOTTIME; wall time is for people and for credentials (I6).
//!
//! Reading a clock may not live here: the [`Clock`] trait is implemented once, in the binary.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// How long before boot instants begin, in nanoseconds: 100 years, the longest duration that documents may ask for.
const BEFORE_BOOT: u64 = 36_525 * 24 * 3_600 * 1_000_000_000;

/// Nanoseconds on CLOCK_BOOTTIME, suspend included, from 100 years before boot on: proof and ends that are older than
/// the machine's last start keep their age.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BootInstant(pub u64);

impl BootInstant {
    /// Later than every instant that occurs.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant at which CLOCK_BOOTTIME shows so many nanoseconds.
    #[must_use]
    pub fn at_uptime(nanos: u64) -> Self {
        Self(BEFORE_BOOT.saturating_add(nanos))
    }

    /// What CLOCK_BOOTTIME shows then, in nanoseconds; zero for what was before boot.
    #[must_use]
    pub fn uptime(self) -> u64 {
        self.0.saturating_sub(BEFORE_BOOT)
    }

    /// This instant plus `duration`, at most [`BootInstant::NEVER`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// This instant less `duration`, at least the first.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// Time from `earlier` until this instant; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970-01-01 UTC. Written as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallInstant(pub i64);

impl WallInstant {
    /// Time from `earlier` until this instant; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for WallInstant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl Serialize for WallInstant {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WallInstant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let timestamp: jiff::Timestamp = text.parse().map_err(|_| {
            serde::de::Error::custom(format_args!(
                "{text:?} is no instant from -009999-01-02T01:59:59Z to 9999-12-30T22:00:00Z: write it like 2026-11-24T12:00:00Z"
            ))
        })?;
        Ok(Self(timestamp.as_millisecond()))
    }
}

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What deadlines are compared with.
    pub boot: BootInstant,
    /// What credentials, grants and time windows are compared with.
    pub wall: WallInstant,
}

impl Now {
    /// The boot instant at which the wall clock, running on undisturbed, first shows `wall`; now if that is past. While
    /// the clocks keep their distance it is the same instant whenever it is asked for.
    #[must_use]
    pub fn boot_at(self, wall: WallInstant) -> BootInstant {
        if wall <= self.wall {
            return self.boot;
        }
        self.shown_since().after(wall.since(self.wall))
    }

    /// The boot instant at which the wall clock, if it ran undisturbed, showed `wall`, before boot too; now if that is
    /// still to come. While the clocks keep their distance it is the same instant whenever it is asked for.
    #[must_use]
    pub fn boot_before(self, wall: WallInstant) -> BootInstant {
        if wall > self.wall {
            return self.boot;
        }
        self.shown_since().before(self.wall.since(wall))
    }

    /// Since when the wall clock shows this millisecond.
    fn shown_since(self) -> BootInstant {
        BootInstant(self.boot.0 - self.boot.0 % 1_000_000)
    }

    /// What the wall clock, undisturbed, shows at `boot`; earlier instants count back. While the clocks keep their
    /// distance, an instant is shown as the same millisecond whenever it is asked for. [`Now::boot_at`] never turns that
    /// into a later instant.
    #[must_use]
    pub fn wall_at(self, boot: BootInstant) -> WallInstant {
        let millis =
            |instant: BootInstant| i64::try_from(instant.0 / 1_000_000).unwrap_or(i64::MAX);
        let ahead = millis(boot).saturating_sub(millis(self.boot));
        WallInstant(self.wall.0.saturating_add(ahead))
    }
}

/// The one source of time. Implemented once, in the binary; tests bring a virtual one.
pub trait Clock: Send + Sync {
    /// Both clocks, read together.
    fn now(&self) -> Now;

    /// The boot clock alone, for those who ask before each write.
    fn boot(&self) -> BootInstant {
        self.now().boot
    }
}

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// Not a sequence of numbers with units.
    #[error("{0:?} is not a duration: write it like 500ms, 60s, 15m, 1h30m or 7d")]
    Malformed(String),
    /// A duration of nothing limits nothing.
    #[error("the duration {0:?} is zero: it must be longer")]
    Zero(String),
    /// More than about 100 years.
    #[error("the duration {0:?} is too long: at most 36500d")]
    TooLong(String),
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Parses `500ms`, `60s`, `15m`, `1h30m`, `7d`: whole numbers with units, each unit once, largest first.
///
/// # Errors
/// [`ParseDurationError`] when malformed, zero (negative is malformed), or longer than 36500 days.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let malformed = || ParseDurationError::Malformed(text.to_owned());
    let too_long = || ParseDurationError::TooLong(text.to_owned());
    let mut rest = text;
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(malformed)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let &(_, factor) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(malformed)?;
        if number.is_empty() || factor >= smallest {
            return Err(malformed());
        }
        let number: u64 = number.parse().map_err(|_| too_long())?;
        total = number
            .checked_mul(factor)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(too_long)?;
        smallest = factor;
        rest = tail;
    }
    match total {
        0 if text.is_empty() => Err(malformed()),
        0 => Err(ParseDurationError::Zero(text.to_owned())),
        millis if millis > 36_500 * 86_400_000 => Err(too_long()),
        millis => Ok(Duration::from_millis(millis)),
    }
}

/// Writes a duration the way [`parse_duration`] reads it; below a millisecond it is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in UNITS {
        let count = rest / factor;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
        rest %= factor;
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_not_lengthened_on_its_way_over_the_wall_clock() {
        for (now, bound) in [
            (900_000, 1_000_000),
            (1, 999_999),
            (999_999, 5_000_000),
            (7, 7),
        ] {
            let now = Now {
                boot: BootInstant(now),
                wall: WallInstant(50),
            };
            let bound = BootInstant(bound);
            assert!(now.boot_at(now.wall_at(bound)) <= bound, "{now:?}");
        }
    }

    #[test]
    fn an_instant_is_the_same_whenever_it_is_asked_for() {
        for boot in [1_000_000, 1_000_001, 1_999_999, 4_500_000, 4_999_999] {
            let now = Now {
                boot: BootInstant(boot),
                wall: WallInstant(40 + i64::try_from(boot / 1_000_000).unwrap()),
            };
            assert_eq!(now.boot_at(WallInstant(45)), BootInstant(5_000_000));
            assert_eq!(now.boot_before(WallInstant(40)), BootInstant(0));
        }
    }

    #[test]
    fn what_was_before_boot_keeps_its_age() {
        let hour = Duration::from_secs(3_600);
        let now = Now {
            boot: BootInstant::at_uptime(60_000_000_000),
            wall: WallInstant(1_700_000_000_000),
        };
        let proved = now.boot_before(WallInstant(now.wall.0 - 10 * 3_600_000));
        assert_eq!(now.boot.since(proved), 10 * hour);
        assert_eq!(proved.uptime(), 0);
        assert_eq!(now.boot.uptime(), 60_000_000_000);
        assert_eq!(now.boot_before(WallInstant(i64::MAX)), now.boot);
    }

    #[test]
    fn the_bounds_that_are_told_are_those_of_instants() {
        let read = |text: &str| serde_json::from_value::<WallInstant>(text.into());
        let told = read("9999-12-31T23:59:59Z").unwrap_err().to_string();
        let bounds = told.split_once("from ").unwrap().1;
        let (bounds, _) = bounds.split_once(": write").unwrap();
        let (first, last) = bounds.split_once(" to ").unwrap();
        assert!(read(first).is_ok() && read(last).is_ok(), "{told}");
    }

    #[test]
    fn durations_read_back() {
        for text in ["500ms", "60s", "15m", "1h30m", "7d", "1d2h3m4s5ms"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(
                parse_duration(&format_duration(duration)).unwrap(),
                duration
            );
        }
        for bad in [
            "",
            "15",
            "m",
            "-5m",
            "5 m",
            "1m1h",
            "1m1m",
            "0s",
            "99999999999999999999s",
            "36501d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn wall_and_boot_convert() {
        let now = Now {
            boot: BootInstant(5_000_000_000),
            wall: WallInstant(1_000_000),
        };
        assert_eq!(
            now.boot_at(WallInstant(1_002_000)),
            BootInstant(7_000_000_000)
        );
        assert_eq!(now.boot_at(WallInstant(1)), now.boot);
        assert_eq!(
            now.wall_at(BootInstant(4_000_000_000)),
            WallInstant(999_000)
        );
        assert_eq!(WallInstant(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}

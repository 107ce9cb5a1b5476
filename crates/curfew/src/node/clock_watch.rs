//! What operators are told of the wall clock: once when it is behind the record, once when it is no more. By which time
//! admissions are judged may not live here.

use std::time::Duration;

use curfew_model::{EnforcerId, WallInstant, format_duration};
use tracing::{info, warn};

/// Being set back by less is what keeps clocks right.
const AMISS: Duration = Duration::from_secs(60);

/// What the last look found.
#[derive(Debug, Default)]
pub struct ClockWatch {
    behind: bool,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// The clock is behind the record.
    Behind {
        /// What it shows.
        shown: WallInstant,
        /// What is on record.
        judged_by: WallInstant,
    },
    /// It is no more, by itself or because an administrator accepted it.
    Caught,
}

impl ClockWatch {
    /// What has changed since the last look.
    pub fn look(&mut self, shown: WallInstant, judged_by: WallInstant) -> Option<Told> {
        let (was_behind, behind) = (self.behind, judged_by.since(shown));
        self.behind = behind >= AMISS || was_behind && !behind.is_zero();
        match (was_behind, self.behind) {
            (false, true) => Some(Told::Behind { shown, judged_by }),
            (true, false) => Some(Told::Caught),
            _ => None,
        }
    }
}

impl Told {
    /// Says it, with what to do.
    pub fn say(&self, enforcer: &EnforcerId) {
        match self {
            Self::Behind { shown, judged_by } => warn!(
                %shown,
                on_record = %judged_by,
                behind = format_duration(judged_by.since(*shown)),
                "the wall clock is behind the latest time on record: until it gets there, windows, grants and credentials \
                 of new sessions are judged by that time. Set the clock if it is wrong; if it is right and was wrong ahead \
                 before: `curfew enforcers accept-clock {enforcer}`"
            ),
            Self::Caught => info!("new sessions are judged by what the wall clock shows again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_behind_the_record_is_told_once_and_so_is_its_return() {
        let mut watch = ClockWatch::default();
        let (shown, judged_by) = (WallInstant(1_000), WallInstant(61_000));
        assert_eq!(watch.look(shown, WallInstant(60_999)), None);
        let behind = Some(Told::Behind { shown, judged_by });
        assert_eq!(watch.look(shown, judged_by), behind);
        assert_eq!(watch.look(WallInstant(60_999), judged_by), None);
        assert_eq!(watch.look(shown, shown), Some(Told::Caught));
        assert_eq!(watch.look(shown, shown), None);
    }
}

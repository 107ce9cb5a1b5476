//! One client as it is shown: on the left its direct connection, on the right its session. Plain data and its words.

use std::time::Duration;

use curfew_model::EndReason;

use super::cast::{PLACES, Part};

/// One client with both of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub part: Part,
    /// What the direct connection read, in bytes; none before it exists.
    pub direct: Option<u64>,
    /// Whether the direct connection is gone.
    pub direct_gone: bool,
    /// What the connection through Curfew read, in bytes.
    pub bytes: u64,
    pub standing: Standing,
}

/// Where the connection through Curfew stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not connected yet.
    Away,
    /// Connected; nothing was heard of its session yet.
    Arriving,
    /// A session, and what is left of its lease before which end; none without a limit.
    Open(Option<(Duration, EndReason)>),
    /// A session that ended.
    Ended(EndReason, Option<Measured>),
    /// It was let in by nobody.
    Refused(EndReason),
}

/// How long an end took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// From the order's request until the client saw the end.
    AfterOrder(Duration),
    /// From the deadline until the client saw the end.
    AfterDeadline(Duration),
    /// From the deadline until the door had closed, as the log has it.
    AtDoor(Duration),
}

impl Row {
    /// A client that has not come yet.
    pub fn new(part: Part) -> Self {
        Self {
            part,
            direct: None,
            direct_gone: false,
            bytes: 0,
            standing: Standing::Away,
        }
    }

    /// The word for how sensitive its segment is.
    pub fn sensitivity(&self) -> &'static str {
        let place = PLACES.iter().find(|place| place.name == self.part.place);
        place.map_or("", |place| place.sensitivity)
    }

    /// `alice → wiki`.
    pub fn name(&self) -> String {
        format!("{} → {}", self.part.user, self.part.place)
    }
}

impl Measured {
    /// In a sentence.
    pub fn text(self) -> String {
        match self {
            Self::AfterOrder(took) => format!("its client saw it {} after the order", ms(took)),
            Self::AfterDeadline(late) => {
                format!("its client saw it {} after the deadline", ms(late))
            }
            Self::AtDoor(late) => format!("closed {} after the deadline", ms(late)),
        }
    }

    /// In a table.
    pub fn short(self) -> String {
        match self {
            Self::AfterOrder(time) | Self::AfterDeadline(time) | Self::AtDoor(time) => {
                format!("+{}", ms(time))
            }
        }
    }
}

/// Milliseconds with one digit behind the point.
pub fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

/// Bytes, for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{}.{} kB", count / 1_000, count % 1_000 / 100),
        _ => format!("{}.{} MB", count / 1_000_000, count % 1_000_000 / 100_000),
    }
}

/// A time that is left.
pub fn time(left: Duration) -> String {
    let seconds = left.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", left.as_secs_f64()),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
    }
}

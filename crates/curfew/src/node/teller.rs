//! What the log for operators says of sessions, by a thread of its own: whoever ends a session hands a line over and goes on. Records
//! for auditors may not come this way, because what finds no room here is counted and left out.

use std::{io, time::Duration};

use curfew_gateway::service::Away;
use curfew_model::{EndReason, Event, SegmentName};
use tracing::info;

use crate::{log::say_left_out, outlet::Outlet, show::clean};

/// Lines that may wait to be written; what comes beyond is left out.
const WAITING: usize = 16_384;
/// What there is to say.
pub enum Line {
    /// Something that is on record too.
    Event(Event),
    /// A client that came to no server.
    TurnedAway(Away),
}

/// The way to the thread.
pub struct Teller(Outlet<Line>);

impl Teller {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's, when no thread is left.
    pub fn start() -> io::Result<Self> {
        let take = |line, left_out| {
            say_left_out(left_out);
            write(line);
        };
        Outlet::start("teller", WAITING, take).map(Self)
    }

    /// Hands a line over; never waits.
    pub fn tell(&self, line: Line) {
        self.0.hand(line);
    }

    /// Waits until what was handed over is said, at most for about `patience`.
    pub fn flush(&self, patience: Duration) {
        self.0.flush(patience);
    }
}

/// Texts from outside are plain, but for what steers a terminal.
fn write(line: Line) {
    match line {
        Line::Event(event) => {
            let kind = serde_json::to_value(event.event).unwrap_or_default();
            info!(
                event = kind.as_str().unwrap_or_default(),
                session = event.session.map(tracing::field::display),
                subject = event
                    .subject
                    .as_ref()
                    .map(|subject| clean(&subject.to_string())),
                segments = names(&event.segments),
                reason = event.reason.map(EndReason::code),
                cause = event.cause.as_deref().map(clean),
            );
        }
        Line::TurnedAway(Away {
            service,
            client,
            session,
            reason,
            detail,
            was_open: _,
        }) => {
            let session = session.map(tracing::field::display);
            let detail = clean(&detail);
            info!(session, %service, %client, reason = reason.code(), detail, "turned away");
        }
    }
}

/// Segments as one text; none without any.
fn names(segments: &[SegmentName]) -> Option<String> {
    let names: Vec<&str> = segments.iter().map(SegmentName::as_str).collect();
    (!names.is_empty()).then(|| names.join(","))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_line_is_plain_text_and_steers_nothing() {
        let identity = |id: &str| curfew_model::Identity {
            proof: curfew_model::Proof::Bound,
            kind: curfew_model::Kind::User,
            issuer: curfew_model::Issuer::local(),
            id: id.to_owned(),
            display: None,
        };
        let written = |id: &str| {
            let event = Event {
                subject: Some(identity(id)),
                segments: vec![
                    SegmentName::new("db").unwrap(),
                    SegmentName::new("pci").unwrap(),
                ],
                cause: Some(format!("binding of {id}")),
                ..Event::new(
                    curfew_model::EventKind::SessionOpened,
                    curfew_model::WallInstant(0),
                    curfew_model::Revision(1),
                )
            };
            let lines = Arc::new(parking_lot::Mutex::new(Vec::new()));
            let into = Arc::clone(&lines);
            let log = tracing_subscriber::fmt()
                .json()
                .with_writer(move || Lines(Arc::clone(&into)))
                .finish();
            tracing::subscriber::with_default(log, || write(Line::Event(event)));
            String::from_utf8(lines.lock().clone()).unwrap()
        };
        let plain: serde_json::Value = serde_json::from_str(&written("alice")).unwrap();
        let fields = &plain["fields"];
        assert_eq!(fields["subject"], "user:alice");
        assert_eq!(fields["segments"], "db,pci");
        assert_eq!(fields["cause"], "binding of alice");
        let hostile = written("a\u{1b}[2J\u{9b}m\u{202e}");
        assert!(
            !hostile.contains(['\u{1b}', '\u{9b}', '\u{202e}']),
            "{hostile}"
        );
    }

    struct Lines(Arc<parking_lot::Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

//! The log for operators, written by a thread of its own: whoever ends a session hands a line over and goes on. Records
//! for auditors may not come this way, because what finds no room here is counted and left out.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    time::Duration,
};

use curfew_gateway::service::Away;
use curfew_model::{EndReason, Event, SegmentName};
use tracing::{info, warn};

use crate::show::clean;

/// Lines that may wait to be written; what comes beyond is left out.
const WAITING: usize = 16_384;
/// Between two tries to find room for a flush.
const LOOK: Duration = Duration::from_millis(10);

/// What there is to say.
pub enum Line {
    /// Something that is on record too.
    Event(Event),
    /// A client that came to no server.
    TurnedAway(Away),
    /// Everything before this is written.
    Flush(SyncSender<()>),
}

/// The way to the thread, which ends after the last line when this is dropped.
pub struct Teller {
    lines: SyncSender<Line>,
    left_out: Arc<AtomicU64>,
}

impl Teller {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's, when no thread is left.
    pub fn start() -> io::Result<Self> {
        Self::with(WAITING, write)
    }

    fn with(waiting: usize, mut write: impl FnMut(Line) + Send + 'static) -> io::Result<Self> {
        let (lines, told): (_, Receiver<Line>) = mpsc::sync_channel(waiting);
        let left_out = Arc::new(AtomicU64::new(0));
        let missing = Arc::clone(&left_out);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                for line in told {
                    let lines = missing.swap(0, Ordering::Relaxed);
                    if lines > 0 {
                        warn!(
                            lines,
                            "lines of this log were left out: they came faster than they could be written; \
                             what ended sessions is in the audit log"
                        );
                    }
                    write(line);
                }
            })?;
        Ok(Self { lines, left_out })
    }

    /// Hands a line over; never waits.
    pub fn tell(&self, line: Line) {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was handed over is written, at most for about `patience`: a standard error that takes nothing
    /// keeps nobody for ever.
    pub fn flush(&self, patience: Duration) {
        let (tell, told) = mpsc::sync_channel(1);
        let mut asking = Line::Flush(tell);
        for _ in 0..=patience.as_millis() / LOOK.as_millis() {
            match self.lines.try_send(asking) {
                Ok(()) => {
                    let _ = told.recv_timeout(patience);
                    return;
                }
                Err(TrySendError::Full(line)) => asking = line,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::park_timeout(LOOK);
        }
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
        Line::Flush(written) => {
            // Whoever asked may have lost patience.
            let _ = written.send(());
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
    use std::net::SocketAddr;

    use curfew_model::ServiceName;

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

    fn line(number: u16) -> Line {
        Line::TurnedAway(Away {
            service: ServiceName::new("db").unwrap(),
            client: SocketAddr::from(([192, 0, 2, 1], number)),
            session: None,
            reason: EndReason::Overloaded,
            detail: String::new(),
            was_open: false,
        })
    }

    #[test]
    fn who_hands_over_never_waits_and_what_finds_no_room_is_counted() {
        let (began, begun) = mpsc::channel();
        let (open, opened) = mpsc::channel::<()>();
        let (wrote, written) = mpsc::channel();
        let mut closed = true;
        let teller = Teller::with(2, move |line| {
            if std::mem::take(&mut closed) {
                began.send(()).unwrap();
                opened.recv().unwrap();
            }
            match line {
                Line::TurnedAway(away) => wrote.send(away.client.port()).unwrap(),
                other => write(other),
            }
        })
        .unwrap();
        teller.tell(line(0));
        begun.recv_timeout(Duration::from_secs(30)).unwrap();
        (1..100).for_each(|number| teller.tell(line(number)));
        assert_eq!(teller.left_out.load(Ordering::Relaxed), 97);
        open.send(()).unwrap();
        teller.flush(Duration::from_secs(30));
        assert_eq!(written.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(teller.left_out.load(Ordering::Relaxed), 0);
    }
}

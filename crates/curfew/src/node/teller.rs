//! The log for operators, written by a thread of its own: whoever ends a session hands a line over and goes on. Records
//! for auditors may not come this way, because what finds no room here is counted and left out.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    time::Duration,
};

use curfew_model::{EndReason, Event, ServiceName};
use tracing::{info, warn};

/// Lines that may wait to be written; what comes beyond is left out.
const WAITING: usize = 16_384;
/// Between two tries to find room for a flush.
const LOOK: Duration = Duration::from_millis(10);

/// What there is to say.
pub enum Line {
    /// Something that is on record too.
    Event(Event),
    /// A client that got no session, and that the enforcer does not know of.
    TurnedAway {
        /// Which service.
        service: ServiceName,
        /// Who.
        client: SocketAddr,
        /// Why.
        reason: EndReason,
        /// Why, in words.
        detail: String,
    },
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

/// Texts from outside are escaped by being written as debug strings.
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
                    .map(|subject| format!("{:?}", subject.to_string())),
                segments = ?event.segments,
                reason = event.reason.map(EndReason::code),
                cause = event.cause.as_ref().map(tracing::field::debug),
            );
        }
        Line::TurnedAway {
            service,
            client,
            reason,
            detail,
        } => info!(%service, %client, reason = reason.code(), ?detail, "turned away"),
        Line::Flush(written) => {
            // Whoever asked may have lost patience.
            let _ = written.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u16) -> Line {
        Line::TurnedAway {
            service: ServiceName::new("db").unwrap(),
            client: SocketAddr::from(([192, 0, 2, 1], number)),
            reason: EndReason::Overloaded,
            detail: String::new(),
        }
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
                Line::TurnedAway { client, .. } => wrote.send(client.port()).unwrap(),
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

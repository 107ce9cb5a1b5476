//! Watching sessions: server-sent events (HTML standard, section 9.2) of what happens to them.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use curfew_model::{EventKind, SegmentName};
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::{broadcast, broadcast::error::RecvError, watch},
    time::Interval,
};
use utoipa::IntoParams;

use crate::{
    app::{App, Phase},
    caller::{Caller, Viewer},
    extract::Query,
    problem::{Answered, Code, Document, Problem},
    shares::Share,
    watchers::{Told, Watched},
};

/// A comment goes out after so long in which nothing did, so that both ends see a broken connection.
const BEAT: Duration = Duration::from_secs(5);

/// What to watch; what is left out matches every event.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Of sessions into this segment.
    #[param(value_type = Option<String>)]
    segment: Option<SegmentName>,
    /// Of sessions of this subject: `kind:ID` or `kind:ISSUER#ID`.
    subject: Option<String>,
    /// Of this kind: `session.opened`, `session.refused`, `session.warned`, `session.renewed`, `session.ended`,
    /// `session.would_refuse`, `session.would_end`, `session.cancelled`.
    event: Option<String>,
}

impl Wanted {
    fn matches(&self, event: &Watched) -> bool {
        let of_subject = |name: &String| {
            let subject = event.subject.as_ref();
            subject.is_some_and(|subject| subject.is_called(name))
        };
        self.segment
            .as_ref()
            .is_none_or(|name| event.segments.contains(name))
            && self.subject.as_ref().is_none_or(of_subject)
            && self.event.as_ref().is_none_or(|kind| event.kind == *kind)
    }
}

/// Watches sessions, as server-sent events. An event `lost` says how many were missed, and `null` to who comes back with a
/// `Last-Event-ID`, because nobody counted: list the sessions again.
#[utoipa::path(get, path = "/v1/sessions/watch", tag = "sessions", params(Wanted, ("Last-Event-ID" = Option<String>, Header, description = "the `id` of the event before the stream broke")),
    responses((status = 200, content_type = "text/event-stream"), (status = 429, body = Document, content_type = "application/problem+json")))]
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    Viewer(by): Viewer,
    Query(mut wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Answered<Response> {
    wanted.subject = super::subject_filter(wanted.subject)?;
    check_event(wanted.event.as_deref())?;
    if let Some(name) = wanted.segment.clone() {
        app.look(move |app| check_segment(app, &name)).await??;
    }
    let Some((events, place)) = app.hub.watch(&by.name) else {
        let detail = "too many are watching: close some";
        return Err(Problem::new(Code::TooManyRequests, detail).retry_after(30));
    };
    let watcher = Watcher {
        phase: app.phase.clone(),
        app,
        by,
        news: News::new(wanted, events),
        _place: place,
    };
    // The head goes out at once: who has it misses nothing from there on.
    let mut head = ": watching\n\n".to_owned();
    if headers.contains_key("last-event-id") {
        // Nothing is held for those who come back.
        head.push_str(&written("lost", None, "{\"lost\":null}"));
    }
    let head = Bytes::from(head);
    let events = stream::unfold((watcher, Some(head)), |(mut watcher, head)| async move {
        let bytes = match head {
            Some(head) => head,
            None => watcher.next().await?,
        };
        Some((Ok::<_, Infallible>(bytes), (watcher, None)))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// An event that never comes would be waited for without end.
fn check_event(kind: Option<&str>) -> Answered<()> {
    let known: [EventKind; 8] = [
        EventKind::SessionOpened,
        EventKind::SessionRefused,
        EventKind::SessionWarned,
        EventKind::SessionRenewed,
        EventKind::SessionEnded,
        EventKind::SessionWouldRefuse,
        EventKind::SessionWouldEnd,
        EventKind::SessionCancelled,
    ];
    let known = known.map(super::word);
    match kind {
        Some(kind) if !known.iter().any(|known| known == kind) => {
            let detail = format!("event: {kind:?} is none of {}", known.join(", "));
            Err(Problem::new(Code::BadRequest, detail))
        }
        _ => Ok(()),
    }
}

fn check_segment(app: &App, name: &SegmentName) -> Answered<()> {
    let state = app.parts.store.read();
    let valid = app.segments.of(&state, &*app.parts.compile)?;
    if valid.segments.iter().any(|segment| segment.name == *name) {
        return Ok(());
    }
    let detail = format!("segment: the policy in force has no segment {name}");
    Err(Problem::new(Code::BadRequest, detail))
}

struct Watcher {
    app: Arc<App>,
    by: Caller,
    news: News,
    phase: watch::Receiver<Phase>,
    _place: Share,
}

impl Watcher {
    /// The next event as text; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let text = tokio::select! {
            biased;
            _ = self.phase.wait_for(|phase| *phase == Phase::Stopping) => return None,
            text = self.news.next() => text?,
        };
        // A stream is an open session too: it ends with its token.
        let known = self.by.is_known(&self.app.parts.store.read());
        known.then(|| text.into())
    }
}

/// What goes out to one watcher.
struct News {
    wanted: Wanted,
    events: broadcast::Receiver<Told>,
    beat: Interval,
}

impl News {
    fn new(wanted: Wanted, events: broadcast::Receiver<Told>) -> Self {
        let mut beat = tokio::time::interval(BEAT);
        beat.reset();
        Self {
            wanted,
            events,
            beat,
        }
    }

    async fn next(&mut self) -> Option<String> {
        let text = loop {
            // The beat comes first: events that go to others do not put it off.
            let told = tokio::select! {
                biased;
                _ = self.beat.tick() => break ": beat\n\n".to_owned(),
                told = self.events.recv() => told,
            };
            match told {
                Ok(Told::Event(event)) if !self.wanted.matches(&event) => {}
                Ok(Told::Event(event)) => {
                    break written(&event.kind, Some(&event.id), &event.json);
                }
                Ok(Told::Lost(lost)) | Err(RecvError::Lagged(lost)) => {
                    break written("lost", None, &format!("{{\"lost\":{lost}}}"));
                }
                Err(RecvError::Closed) => return None,
            }
        };
        self.beat.reset();
        Some(text)
    }
}

/// One event. JSON has no line breaks.
fn written(kind: &str, id: Option<&str>, json: &str) -> String {
    let mut text = format!("event: {kind}\n");
    if let Some(id) = id {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "data: {json}\n\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beats_go_out_while_events_come_that_others_want() {
        let (tell, events) = broadcast::channel(16);
        let wanted = Wanted {
            segment: None,
            subject: None,
            event: Some("session.ended".to_owned()),
        };
        let mut news = News::new(wanted, events);
        let event = |kind: &str| {
            Told::Event(Arc::new(Watched {
                kind: kind.to_owned(),
                id: "gw:1".to_owned(),
                json: "{}".to_owned(),
                segments: Vec::new(),
                subject: None,
            }))
        };
        let (opened, ended) = (event("session.opened"), event("session.ended"));
        let telling = tell.clone();
        tokio::spawn(async move {
            loop {
                let _ = telling.send(opened.clone());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let began = tokio::time::Instant::now();
        for beats in 1..=3 {
            let next = tokio::time::timeout(2 * BEAT, news.next()).await;
            assert_eq!(next.unwrap().unwrap(), ": beat\n\n");
            assert_eq!(began.elapsed().as_secs(), beats * BEAT.as_secs());
        }
        // What goes out puts the next beat off.
        tokio::time::sleep(Duration::from_secs(2)).await;
        tell.send(ended).unwrap();
        let next = news.next().await.unwrap();
        assert!(next.starts_with("event: session.ended\n"), "{next}");
        assert_eq!(news.next().await.unwrap(), ": beat\n\n");
        assert_eq!(
            began.elapsed().as_secs(),
            3 * BEAT.as_secs() + 2 + BEAT.as_secs()
        );
    }
}

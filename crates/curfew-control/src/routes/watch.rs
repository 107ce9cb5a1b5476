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
use tokio::sync::{broadcast, broadcast::error::RecvError, watch};
use utoipa::IntoParams;

use crate::{
    app::{App, Phase},
    caller::{Caller, Viewer},
    extract::Query,
    problem::{Answered, Code, Document, Problem},
    shares::Share,
    watchers::{Told, Watched},
};

/// A comment goes out after so long without an event, so that both ends see a broken connection.
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
            subject.is_some_and(|subject| subject.to_string() == *name)
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
        wanted,
        events,
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
    wanted: Wanted,
    events: broadcast::Receiver<Told>,
    phase: watch::Receiver<Phase>,
    _place: Share,
}

impl Watcher {
    /// The next event as text; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let told = tokio::select! {
                biased;
                _ = self.phase.wait_for(|phase| *phase == Phase::Stopping) => return None,
                told = tokio::time::timeout(BEAT, self.events.recv()) => told,
            };
            // A stream is an open session too: it ends with its token.
            if !self.by.is_known(&self.app.parts.store.read()) {
                return None;
            }
            let text = match told {
                Err(_) => ": beat\n\n".to_owned(),
                Ok(Ok(Told::Event(event))) if !self.wanted.matches(&event) => continue,
                Ok(Ok(Told::Event(event))) => written(&event.kind, Some(&event.id), &event.json),
                Ok(Ok(Told::Lost(lost)) | Err(RecvError::Lagged(lost))) => {
                    written("lost", None, &format!("{{\"lost\":{lost}}}"))
                }
                Ok(Err(RecvError::Closed)) => return None,
            };
            return Some(text.into());
        }
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

//! What every request passes before its handler: the Host header, the token, the rate, the size of the body, the time.
//!
//! Nothing of a body is read before the caller is known.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use curfew_state::{POLICY_BYTES, Role};
use http_body_util::LengthLimitError;
use parking_lot::Mutex;

use crate::{
    Limits,
    app::App,
    bucket::Buckets,
    caller::Caller,
    places::Place,
    problem::{Code, Problem},
    shares::{Share, Shares},
    token,
};

/// Bytes of a body, at most.
const BODY: usize = 64 * 1024;
/// Bytes of a body with a policy set, at most: the set, and what is around it.
pub const POLICY_BODY: usize = POLICY_BYTES + BODY;
/// Bodies above [`BODY`] of callers other than admins that are held at once, in all and of one token, so that no viewer
/// fills the memory or keeps others waiting.
const LARGE: (usize, usize) = (16, 4);
/// How long a handler may take: longer than the longest `wait`.
const ANSWER: Duration = Duration::from_secs(90);
/// Wrong tokens a second from one address, and at once.
const WRONG: (u32, u32) = (5, 20);
/// What is answered without a token.
pub(crate) const OPEN: [&str; 3] = ["/healthz", "/readyz", "/v1/openapi.json"];

pub(crate) struct Guard {
    /// Listening on loopback: the Host header has to name it.
    loopback: bool,
    receive: Duration,
    callers: Mutex<Buckets<String>>,
    strangers: Mutex<Buckets<IpAddr>>,
    large: Shares,
}

impl Guard {
    pub(crate) fn new(address: SocketAddr, limits: &Limits) -> Self {
        Self {
            loopback: address.ip().to_canonical().is_loopback(),
            receive: limits.receive,
            callers: Mutex::new(Buckets::new(limits.requests_per_second, limits.burst)),
            strangers: Mutex::new(Buckets::new(WRONG.0, WRONG.1)),
            large: Shares::new(LARGE.0, LARGE.1),
        }
    }
}

/// The middleware.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match admit(&app, request).await {
        Ok((request, _large)) => match tokio::time::timeout(ANSWER, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(
                Code::TimedOut,
                "the work goes on; look whether it was done before you try again",
            )
            .into_response(),
        },
        Err(problem) => problem.into_response(),
    }
}

/// The request with its body read, and its turn to hold a large one.
async fn admit(app: &App, mut request: Request) -> Result<(Request, Option<Share>), Problem> {
    if app.guard.loopback {
        check_host(request.uri(), request.headers())?;
    }
    if OPEN.contains(&request.uri().path()) {
        // Nothing behind these reads a body.
        *request.body_mut() = Body::empty();
        return Ok((request, None));
    }
    let caller = recognise(app, &request)?;
    if !app
        .guard
        .callers
        .lock()
        .take(caller.name.clone(), app.parts.clock.now().boot)
    {
        let detail = format!("the token {:?} called too often", caller.name);
        return Err(Problem::new(Code::TooManyRequests, detail).retry_after(1));
    }
    let stated = content_length(request.headers());
    let limit = body_limit(request.uri().path(), caller.role);
    let is_large = limit > BODY
        && !request.body().is_end_stream()
        && stated.is_none_or(|length| length > BODY);
    let turn = if is_large && caller.role != Role::Admin {
        let turn = app.guard.large.take(&caller.name);
        Some(turn.ok_or_else(|| {
            let detail = "too many large bodies are under way: four of one token, sixteen in all";
            Problem::new(Code::TooManyRequests, detail).retry_after(1)
        })?)
    } else {
        None
    };
    request.extensions_mut().insert(caller.clone());
    let request = receive(app, request, limit, stated).await?;
    // A body takes its time: the token may have been removed meanwhile.
    caller.check_known(&app.parts.store.read())?;
    Ok((request, turn))
}

/// Against DNS rebinding: a page elsewhere can have a browser connect here, but not under our name.
fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => {
            let mut hosts = headers.get_all(header::HOST).iter();
            let host = hosts.next().filter(|_| hosts.next().is_none());
            host.and_then(|host| host.to_str().ok())
        }
    };
    if host.is_some_and(is_loopback) {
        return Ok(());
    }
    Err(Problem::new(
        Code::WrongHost,
        "this listens on loopback: call it as localhost, 127.0.0.1 or [::1], in one Host header",
    ))
}

fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, "")) => (name, None),
            Some((name, rest)) => (name, rest.strip_prefix(':').or(Some("?"))),
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    port.is_none_or(|port| port.parse::<u16>().is_ok())
        && (name.eq_ignore_ascii_case("localhost")
            || name
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback()))
}

/// The caller of a bearer token (RFC 6750 §2.1). Wrong ones cost their address.
fn recognise(app: &App, request: &Request) -> Result<Caller, Problem> {
    let presented = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let state = app.parts.store.read();
    let place = request.extensions().get::<Arc<Place>>();
    let token = presented.and_then(|token| token::find(&state, token));
    if let Some(place) = place {
        place.set_known(token.map(|token| token.name.as_str()));
    }
    if let Some(token) = token {
        return Ok(Caller::from(token));
    }
    let unknown = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let peer = place.map_or(unknown, |place| place.peer);
    if !app
        .guard
        .strangers
        .lock()
        .take(peer, app.parts.clock.now().boot)
    {
        let detail = "too many requests from this address without a valid token";
        return Err(Problem::new(Code::TooManyRequests, detail).retry_after(1));
    }
    Err(Problem::new(
        Code::Unauthenticated,
        "send `Authorization: Bearer TOKEN` with a token that is on record; the first is in admin.token of the data directory",
    ))
}

/// Bytes that the body of a request may have: what waits for its end here counts against the server.
fn body_limit(path: &str, role: Role) -> usize {
    match (path, role) {
        (_, Role::Binder) => BODY,
        ("/v1/policies" | "/v1/policies/validate", _) => POLICY_BODY,
        _ => BODY,
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    let stated = headers.get(header::CONTENT_LENGTH)?;
    stated.to_str().ok()?.parse().ok()
}

/// Reads the body whole, within its limits.
async fn receive(
    app: &App,
    request: Request,
    limit: usize,
    stated: Option<usize>,
) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let too_large = || {
        Problem::new(
            Code::TooLarge,
            format!("the body may have {limit} bytes here"),
        )
    };
    if stated.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let reading = axum::body::to_bytes(body, limit);
    let bytes = match tokio::time::timeout(app.guard.receive, reading).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let broken = || Problem::new(Code::BadRequest, "the body ended before it was whole");
            let large = error.into_inner().is::<LengthLimitError>();
            return Err(if large { too_large() } else { broken() });
        }
        Err(_) => {
            let detail = "the body did not arrive in time";
            return Err(Problem::new(Code::RequestTimeout, detail));
        }
    };
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_loopback_pass() {
        for good in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.0.0.2:65535",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "localhost:x",
            "[::1",
            "[::1]x",
            "[::2]:80",
            "::1",
            "localhost:80:80",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}

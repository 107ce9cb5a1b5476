//! A client of the control plane's API: one request, one answer as JSON, with bounds on both. What commands mean may not
//! live here.

mod access;
mod error;
mod stream;

use std::{io, sync::Arc, time::Duration};

use curfew_control::POLICY_BODY;
use serde_json::Value;
use ureq::{
    Agent, AsSendBody, Body, Error,
    http::{Method, Request, Response, header},
    tls::{Certificate, RootCerts, TlsConfig},
};

use access::Access;
pub use access::Connect;
pub use error::{ClientError, Refusal, finding_text};
pub use stream::Events;

/// For a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// For an answer, beside the time that the server is asked to wait.
const ANSWER: Duration = Duration::from_secs(15);
/// For the answer to what the server has to work on: a policy set is compiled, after those of others.
const WORK: Duration = Duration::from_secs(60);
/// A longer answer is not taken, in bytes.
const LONGEST: u64 = 64 << 20;
/// How a proxy says that the server behind it does not answer (RFC 9110, sections 15.6.3 to 15.6.5).
const GATEWAY: [u16; 3] = [502, 503, 504];
/// Entries of a page of a list.
const PAGE: usize = 1_000;

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    wait: Duration,
    answer: Duration,
    key: Option<String>,
    /// The id of the last event that came.
    after: Option<String>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            body: None,
            wait: Duration::ZERO,
            answer: ANSWER,
            key: None,
            after: None,
        }
    }

    /// Looks.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Does something.
    #[must_use]
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Sets something.
    #[must_use]
    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    /// Removes something.
    #[must_use]
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// One parameter, where there is one.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.query.push((name, value.to_string()));
        }
        self
    }

    /// The body.
    #[must_use]
    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// How long the answer waits for enforcers, where somebody says.
    #[must_use]
    pub fn wait(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait.unwrap_or_default();
        self.with("wait", wait.map(curfew_model::format_duration))
    }

    /// The server has to work on it.
    #[must_use]
    pub fn work(mut self) -> Self {
        self.answer = WORK;
        self
    }

    /// A key by which the server knows the request again, so that it may be sent twice.
    #[must_use]
    pub fn key(mut self, key: String) -> Self {
        self.key = Some(key);
        self
    }

    /// Events again, after the one of this id: the server tells first that others were missed.
    #[must_use]
    pub fn again_after(mut self, id: &str) -> Self {
        self.after = Some(id.to_owned());
        self
    }

    fn path_and_query(&self) -> String {
        let mut text = self.path.clone();
        for (index, (name, value)) in self.query.iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(&format!("{name}={}", encoded(value)));
        }
        text
    }
}

/// Text as it stands in a path or a query.
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug)]
enum Patience {
    /// From the request to the last byte.
    Whole(Duration),
    /// From one sign of life to the next.
    EachRead(Duration),
}

/// A server that can be asked.
pub struct Client {
    agent: Agent,
    access: Access,
}

impl Connect {
    /// A client for the server that the arguments name.
    ///
    /// # Errors
    /// [`ClientError`]: what is missing or cannot be used, and what to do.
    pub fn client(&self) -> Result<Client, ClientError> {
        let mut access = self.access()?;
        let mut tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if access.server.starts_with("https:") {
            let authorities = match access.authorities.take() {
                Some(authorities) => authorities,
                None => machine_authorities()?,
            };
            tls = tls.root_certs(RootCerts::from(authorities));
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            // A redirect would take the token elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .user_agent(concat!("curfew/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .build()
            .new_agent();
        Ok(Client { agent, access })
    }
}

fn machine_authorities() -> Result<Vec<Certificate<'static>>, ClientError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(
            || "none is installed".to_owned(),
            std::string::ToString::to_string,
        );
        return Err(ClientError::NoAuthorities(why));
    }
    let owned = |der: &rustls::pki_types::CertificateDer<'_>| Certificate::from_der(der).to_owned();
    Ok(found.certs.iter().map(owned).collect())
}

impl Client {
    /// Asks, and gives the answer.
    ///
    /// # Errors
    /// [`ClientError`]: no answer, no good one, or the server's no.
    pub fn send(&self, call: &Call) -> Result<Value, ClientError> {
        let sent = self.once(call);
        // With a key the server does it once however often it is asked. One that hangs would only hang again.
        match sent {
            Err(ClientError::Lost { .. }) if call.key.is_some() => self.once(call),
            other => other,
        }
    }

    fn once(&self, call: &Call) -> Result<Value, ClientError> {
        let mut response = self.respond(call, Patience::Whole(call.answer + call.wait))?;
        let status = response.status();
        if status.as_u16() == 204 {
            return Ok(Value::Null);
        }
        let body = self.read(call, &mut response)?;
        let value = serde_json::from_slice(&body);
        if status.is_success() {
            return value.map_err(|_| self.strange("something else than JSON"));
        }
        Err(self.refused(call, &response, value.ok()))
    }

    /// Every entry of a list that comes whole, as an array.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn whole(&self, call: &Call, field: &str) -> Result<Value, ClientError> {
        let mut answer = self.send(call)?;
        self.entries(&mut answer, field).map(Value::Array)
    }

    fn entries(&self, answer: &mut Value, field: &str) -> Result<Vec<Value>, ClientError> {
        match answer.get_mut(field).map(Value::take) {
            Some(Value::Array(entries)) => Ok(entries),
            _ => Err(self.strange("a list without entries")),
        }
    }

    /// Every entry of a list that comes in pages, at most `most`, and whether there are more.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn list(&self, call: &Call, field: &str, most: u32) -> Result<Listed, ClientError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let (mut entries, mut warnings) = (Vec::new(), Vec::new());
        let mut after = None;
        loop {
            let page = PAGE.min(most - entries.len());
            let call = call.clone().with("limit", Some(page)).with("after", after);
            let mut answer = self.send(&call)?;
            let mut found = self.entries(&mut answer, field)?;
            found.truncate(page);
            let empty = found.is_empty();
            let said = answer.get("warnings").and_then(Value::as_array);
            let said = said.into_iter().flatten().filter_map(Value::as_str);
            warnings.extend(said.map(crate::show::clean));
            entries.append(&mut found);
            after = match answer.get_mut("next").map(Value::take) {
                Some(Value::String(next)) if !empty => Some(next),
                _ => None,
            };
            if after.is_none() || entries.len() >= most {
                return Ok(Listed {
                    more: after.is_some(),
                    entries: Value::Array(entries),
                    warnings,
                });
            }
        }
    }

    fn respond(&self, call: &Call, patience: Patience) -> Result<Response<Body>, ClientError> {
        let uri = format!("{}{}", self.access.server, call.path_and_query());
        let token = format!("Bearer {}", self.access.token);
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(uri)
            .header(header::AUTHORIZATION, token);
        if let Some(key) = &call.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(after) = &call.after {
            request = request.header("last-event-id", after);
        }
        let answered = match &call.body {
            None => self.run(request.body(()), patience),
            Some(body) => {
                let body = body.to_string();
                if body.len() > POLICY_BODY {
                    return Err(ClientError::TooLong {
                        server: self.access.server.clone(),
                        bytes: body.len(),
                    });
                }
                let request = request.header(header::CONTENT_TYPE, "application/json");
                self.run(request.body(body), patience)
            }
        };
        answered.map_err(|error| self.failed(call, &error))
    }

    fn run<B: AsSendBody>(
        &self,
        request: Result<Request<B>, ureq::http::Error>,
        patience: Patience,
    ) -> Result<Response<Body>, Error> {
        let config = self.agent.configure_request(request.map_err(Error::Http)?);
        let config = match patience {
            Patience::Whole(time) => config.timeout_global(Some(time)),
            Patience::EachRead(time) => config.timeout_per_read(Some(time)),
        };
        self.agent.run(config.build())
    }

    fn read(&self, call: &Call, response: &mut Response<Body>) -> Result<Vec<u8>, ClientError> {
        let body = response.body_mut().with_config().limit(LONGEST);
        body.read_to_vec().map_err(|error| match error {
            Error::BodyExceedsLimit(_) => self.strange("more than 64 MiB"),
            error => self.failed(call, &error),
        })
    }

    /// What a failed exchange means.
    fn failed(&self, call: &Call, error: &Error) -> ClientError {
        let server = self.access.server.clone();
        let why = match error {
            Error::Io(error) => error.to_string(),
            Error::Timeout(_) => "not in time".to_owned(),
            Error::HostNotFound => "no such host is known".to_owned(),
            other => other.to_string(),
        };
        let why = crate::show::clean(&why);
        let refused = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
                    | io::ErrorKind::PermissionDenied
            )
        };
        match error {
            Error::Io(error) if is_plain(error) => {
                self.strange("something else than TLS: write http:// if it has none")
            }
            Error::Io(error) if is_authority(error) => ClientError::Authority { server },
            Error::Rustls(_) | Error::Tls(_) => ClientError::Untrusted { server, why },
            Error::Io(error) if is_tls(error) => ClientError::Untrusted { server, why },
            Error::Protocol(_) | Error::LargeResponseHeader(..) => {
                ClientError::Strange { server, why }
            }
            Error::Io(error) if call.method != Method::GET && !refused(error) => {
                ClientError::Lost { server, why }
            }
            Error::Timeout(timeout)
                if call.method != Method::GET
                    && ![ureq::Timeout::Resolve, ureq::Timeout::Connect].contains(timeout) =>
            {
                ClientError::Late { server }
            }
            Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                ClientError::Wordless { server }
            }
            _ => ClientError::Unreachable { server, why },
        }
    }

    fn strange(&self, why: &str) -> ClientError {
        ClientError::Strange {
            server: self.access.server.clone(),
            why: why.to_owned(),
        }
    }

    fn refused(
        &self,
        call: &Call,
        response: &Response<Body>,
        document: Option<Value>,
    ) -> ClientError {
        match document {
            Some(document) if document.get("code").is_some_and(Value::is_string) => {
                let retry = response.headers().get(header::RETRY_AFTER);
                let retry = retry.and_then(|value| value.to_str().ok());
                let (server, origin) = (&self.access.server, &self.access.origin);
                ClientError::Refused(Box::new(Refusal::new(server, origin, retry, document)))
            }
            _ => {
                let (server, why) = (self.access.server.clone(), response.status().to_string());
                match (GATEWAY.contains(&response.status().as_u16()), &call.method) {
                    (true, &Method::GET) => ClientError::Unreachable { server, why },
                    (true, _) => ClientError::Lost { server, why },
                    (false, _) => self.strange(&format!("{why}, without saying why")),
                }
            }
        }
    }
}

/// Whether an error of the system is one of TLS.
fn is_tls(error: &io::Error) -> bool {
    tls_error(error).is_some()
}

/// Whether the other end speaks no TLS at all.
fn is_plain(error: &io::Error) -> bool {
    let not_tls = rustls::InvalidMessage::InvalidContentType;
    tls_error(error) == Some(&rustls::Error::InvalidMessage(not_tls))
}

/// Whether the certificate that the other end shows is an authority's. This error has no variant, but a name.
fn is_authority(error: &io::Error) -> bool {
    use rustls::{CertificateError::Other, Error::InvalidCertificate};
    matches!(
        tls_error(error),
        Some(InvalidCertificate(Other(other))) if other.to_string() == "CaUsedAsEndEntity"
    )
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Entries of a list.
#[derive(Debug)]
pub struct Listed {
    /// The entries, an array.
    pub entries: Value,
    /// Whether there are more than were wanted.
    pub more: bool,
    /// What is probably not meant.
    pub warnings: Vec<String>,
}

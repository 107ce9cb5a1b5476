//! Server-sent events (HTML standard, section 9.2), as far as the API sends them. Lines and events have bounds.

use std::{
    io::{self, BufRead, BufReader, Read as _},
    time::Duration,
};

use serde_json::Value;
use ureq::{BodyReader, http::header};

use super::{Call, Client, ClientError, Patience};

/// The server says something every 5 s; after so long it is gone.
const SILENCE: Duration = Duration::from_secs(20);
/// A longer line is not taken, in bytes.
const LINE: u64 = 1 << 20;

/// A longer id is not kept, in bytes.
const ID: usize = 256;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What.
    pub kind: String,
    /// More about it.
    pub data: Value,
}

/// Events as they come.
pub struct Events<R> {
    lines: BufReader<R>,
    server: String,
    last: Option<String>,
}

impl Client {
    /// Asks for events; it listens until the server ends them.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn events(&self, call: &Call) -> Result<Events<BodyReader<'static>>, ClientError> {
        let mut response = self.respond(call, Patience::EachRead(SILENCE))?;
        if !response.status().is_success() {
            let body = self.read(call, &mut response)?;
            return Err(self.refused(call, &response, serde_json::from_slice(&body).ok()));
        }
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Err(self.strange("something else than events"));
        }
        Ok(Events {
            lines: BufReader::new(response.into_body().into_reader()),
            server: self.access.server.clone(),
            last: call.after.clone(),
        })
    }
}

impl<R: std::io::Read> Events<R> {
    /// The id of the last event that has one, of the watch before if there was one.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The next event; none when the server has ended them.
    ///
    /// # Errors
    /// [`ClientError`] when the connection broke, or what comes is no event.
    pub fn next(&mut self) -> Result<Option<Event>, ClientError> {
        let mut kind = String::new();
        let mut data = String::new();
        while let Some(line) = self.line()? {
            match line.split_once(':') {
                // An empty line is the end of an event.
                None if line.is_empty() && !data.is_empty() => {
                    let data = serde_json::from_str(&data)
                        .map_err(|_| self.strange("an event that is not JSON"))?;
                    return Ok(Some(Event { kind, data }));
                }
                // Whatever is no id of Curfew's is not sent back.
                Some(("id", value)) if is_id(value.trim_start()) => {
                    self.last = Some(value.trim_start().to_owned());
                }
                Some(("event", value)) => value.trim_start().clone_into(&mut kind),
                Some(("data", value)) => {
                    data.push_str(value.trim_start());
                    if data.len() as u64 > LINE {
                        return Err(self.strange("an event of more than 1 MiB"));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn line(&mut self) -> Result<Option<String>, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LINE).read_until(b'\n', &mut line);
        read.map_err(|error| ClientError::Unreachable {
            server: self.server.clone(),
            why: if is_timeout(&error) {
                format!("nothing was read for {} s", SILENCE.as_secs())
            } else {
                crate::show::clean(&error.to_string())
            },
        })?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() as u64 == LINE {
            return Err(self.strange("a line of more than 1 MiB"));
        }
        let line = String::from_utf8_lossy(&line);
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn strange(&self, why: &str) -> ClientError {
        ClientError::Strange {
            server: self.server.clone(),
            why: why.to_owned(),
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() <= ID && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(ureq::Error::Timeout(_)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn events(text: &str) -> Events<&[u8]> {
        Events {
            lines: BufReader::new(text.as_bytes()),
            server: "http://x".to_owned(),
            last: None,
        }
    }

    #[test]
    fn events_are_read_between_beats() {
        let mut events = events(
            ": watching\n\nevent: session.opened\nid: a:1\ndata: {\"a\":1}\n\n: beat\n\nevent: lost\ndata: {\"lost\":3}\n\n",
        );
        let event = |kind: &str, data| Event {
            kind: kind.to_owned(),
            data,
        };
        assert_eq!(
            events.next().unwrap(),
            Some(event("session.opened", json!({"a": 1})))
        );
        assert_eq!(
            events.next().unwrap(),
            Some(event("lost", json!({"lost": 3})))
        );
        assert_eq!(events.next().unwrap(), None);
        assert_eq!(events.last(), Some("a:1"));
    }

    #[test]
    fn an_id_that_no_header_takes_is_not_kept() {
        for id in ["a b", "\u{1}", "ä", &"x".repeat(ID + 1)] {
            let text = format!("id: a:1\ndata: 1\n\nid: {id}\ndata: 2\n\n");
            let mut events = events(&text);
            while events.next().unwrap().is_some() {}
            assert_eq!(events.last(), Some("a:1"), "{id}");
        }
    }

    #[test]
    fn silence_is_told_from_a_broken_connection() {
        let silent = io::Error::other(ureq::Error::Timeout(ureq::Timeout::PerRead));
        assert!(is_timeout(&silent));
        assert!(!is_timeout(&io::ErrorKind::ConnectionReset.into()));
    }

    #[test]
    fn what_is_no_event_ends_the_watch() {
        for text in [
            "data: {\n\n".to_owned(),
            "x".repeat(2 << 20),
            "data: 1111111111\n".repeat(200_000),
        ] {
            assert!(matches!(
                events(&text).next(),
                Err(ClientError::Strange { .. })
            ));
        }
    }
}

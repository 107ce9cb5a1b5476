//! `curfew sessions watch`: what happens to sessions, as it happens, over what interrupts a connection. How
//! events are read from a connection may not live here.

use std::{error::Error, process::ExitCode, thread, time::Duration};

use clap::Args;
use curfew_model::{BootInstant, Clock as _, SegmentName};
use serde_json::Value;
use ureq::BodyReader;

use super::event_words;
use crate::{
    client::{Call, Client, ClientError, Events},
    clock::SystemClock,
    show::{Output, Reading, clean, out, text},
};

/// How long it is tried to take up a watch that ended, and the pause before each try.
const TRYING: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);
/// A watch that lasted so long was no mere try: when it ends there is all the time again.
const LASTED: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Only of sessions into this segment
    #[arg(long, value_name = "NAME")]
    segment: Option<SegmentName>,
    /// Only of sessions of this subject: KIND:ID or KIND:ISSUER#ID
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Only of this kind: session.opened, session.refused, session.warned, session.renewed, session.ended …
    #[arg(long, value_name = "KIND")]
    event: Option<String>,
}

impl Watch {
    pub(super) fn run(self, client: &Client, output: Output) -> Result<ExitCode, Box<dyn Error>> {
        let mut call = Call::get("/v1/sessions/watch")
            .with("segment", self.segment)
            .with("subject", self.subject)
            .with("event", self.event);
        let mut events = client.events(&call)?;
        let mut began = now();
        let mut until = began.after(TRYING);
        while let Some(ended) = print(&mut events, output)? {
            let at = now();
            if at.since(began) >= LASTED {
                until = at.after(TRYING);
            }
            if at >= until {
                return Err(format!(
                    "the watch ends again and again ({ended}): start it again once the server stays"
                )
                .into());
            }
            eprintln!("curfew: the watch ended ({ended}): taking it up again");
            // Where nothing came yet, any id makes the server tell that something may have been missed.
            call = call.again_after(events.last().unwrap_or("none"));
            drop(events);
            events = taken_up(client, &call, until)?;
            began = now();
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn now() -> BootInstant {
    SystemClock.boot()
}

/// Prints events as they come; how the watch ended, or nothing if nobody reads what is printed any more.
fn print(
    events: &mut Events<BodyReader<'static>>,
    output: Output,
) -> Result<Option<String>, Box<dyn Error>> {
    loop {
        let event = match events.next() {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Some("by the server".to_owned())),
            Err(ClientError::Unreachable { why, .. }) => return Ok(Some(why)),
            Err(other) => return Err(other.into()),
        };
        // What was lost is an event of its own in every form.
        let line = output.one_of_many(&event.data, |data| {
            line(&event.kind, data, &Reading::here())
        })?;
        if out(&line)?.is_break() {
            return Ok(None);
        }
    }
}

/// Takes up a watch that ended: the server may have stopped to start again, or have given up on a watch that was stopped
/// itself, and then it holds the old one's place for a moment. A token that holds no more is told at once.
fn taken_up(
    client: &Client,
    call: &Call,
    until: BootInstant,
) -> Result<Events<BodyReader<'static>>, ClientError> {
    loop {
        thread::park_timeout(PAUSE);
        let answered = client.events(call);
        let passes = match &answered {
            Err(ClientError::Unreachable { .. }) => true,
            Err(ClientError::Refused(refusal)) => refusal.code == "too_many_requests",
            _ => false,
        };
        if !passes || now() >= until {
            return answered;
        }
    }
}

fn line(kind: &str, event: &Value, reading: &Reading) -> String {
    if kind == "lost" {
        let lost = clean(&text(event, "lost"));
        let lost = if lost.is_empty() { "some" } else { &lost };
        return format!("{lost} events were missed: list the sessions again\n");
    }
    event_words(event, reading) + "\n"
}

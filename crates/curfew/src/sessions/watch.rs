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
/// A watch that lasted so long was no mere try, which is given up after 20 s of silence: when it ends there is all the
/// time again.
const LASTED: Duration = Duration::from_secs(30);

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
        let (mut tries, mut began) = (Tries::default(), now());
        while let Some(ended) = print(&mut events, output)? {
            let Some(until) = tries.until(began, now()) else {
                return Err(format!(
                    "the watch ends again and again ({ended}): start it again once the server stays"
                )
                .into());
            };
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

/// How long a watch that ends again and again is taken up.
#[derive(Default)]
struct Tries {
    until: Option<BootInstant>,
}

impl Tries {
    /// Until when it is tried to take up a watch that began and ended so; nothing if that was tried for long enough.
    fn until(&mut self, began: BootInstant, ended: BootInstant) -> Option<BootInstant> {
        if ended.since(began) >= LASTED {
            self.until = None;
        }
        let until = *self.until.get_or_insert(ended.after(TRYING));
        (ended < until).then_some(until)
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
        let passes = answered.as_ref().is_err_and(ClientError::passes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_only_ends_is_given_up_and_one_that_lasted_has_all_the_time_again() {
        let at = |seconds| BootInstant(0).after(Duration::from_secs(seconds));
        let mut tries = Tries::default();
        assert_eq!(tries.until(at(0), at(5)), Some(at(35)));
        // Taken up, and silent until that is given up.
        assert_eq!(tries.until(at(6), at(26)), Some(at(35)));
        assert_eq!(tries.until(at(27), at(47)), None);
        let mut tries = Tries::default();
        assert_eq!(tries.until(at(0), at(5)), Some(at(35)));
        assert_eq!(tries.until(at(20), at(50)), Some(at(80)));
        assert_eq!(tries.until(at(79), at(80)), None);
    }
}

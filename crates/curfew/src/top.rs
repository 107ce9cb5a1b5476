//! `curfew top`: the open sessions, those that end first on top, drawn anew on a terminal; once where there is none.

use std::{
    error::Error,
    io::{self, IsTerminal as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Args;
use curfew_model::{Clock as _, WallInstant};
use serde_json::{Value, json};

use crate::{
    client::{Call, Client, ClientError, Connect},
    clock::SystemClock,
    sessions,
    show::{Output, Reading, clean, count, cut, list, out, text},
};

/// Between two drawings.
const PAUSE: Duration = Duration::from_secs(1);
/// Sessions that are looked at.
const LOOKED_AT: u32 = 10_000;
/// Lines and columns where the terminal does not say how many it has.
const SIZE: (u16, u16) = (24, 80);
/// Lines that are no session.
const HEAD: usize = 4;
/// The cursor home, and nothing below it.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Watch the open sessions, those that end first on top
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew top
  curfew top --output json

On a terminal it is drawn every second until Ctrl-C, and says so while the server does not answer; elsewhere, and as JSON or
YAML, it is printed once.")]
pub struct Top {
    /// The form of what is printed
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: Connect,
}

impl Top {
    /// Draws until nobody looks any more.
    ///
    /// # Errors
    /// What could not be asked or drawn, and why.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let client = self.connect.client()?;
        if self.output != Output::Table || !io::stdout().is_terminal() {
            let looked = look(&client)?;
            self.output.show(&looked, |looked| {
                drawn(looked, "", usize::MAX, &Reading::here())
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut frame = Frame::new(look(&client)?);
        loop {
            let (lines, columns) = size();
            let text = frame.drawn(lines.saturating_sub(HEAD), &Reading::here());
            let text: Vec<String> = text.lines().map(|line| cut(line, columns)).collect();
            let text = text.join("\n");
            if out(&format!("{CLEAR}{text}"))?.is_break() {
                return Ok(ExitCode::SUCCESS);
            }
            thread::park_timeout(PAUSE);
            match look(&client) {
                Ok(looked) => frame = Frame::new(looked),
                Err(error) if error.passes() => frame.trouble = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What was seen last.
struct Frame {
    looked: Value,
    at: WallInstant,
    /// Why nothing newer was.
    trouble: Option<ClientError>,
}

impl Frame {
    fn new(looked: Value) -> Self {
        Self {
            looked,
            at: SystemClock.now().wall,
            trouble: None,
        }
    }

    fn drawn(&self, lines: usize, reading: &Reading) -> String {
        let stale = |trouble| format!("stale since {}: {trouble}", reading.local_at(self.at));
        let note = self.trouble.as_ref().map(stale).unwrap_or_default();
        drawn(&self.looked, &note, lines, reading)
    }
}

/// Lines and columns of the terminal.
fn size() -> (usize, usize) {
    let (lines, columns) = match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => SIZE,
    };
    (lines.into(), columns.into())
}

/// Enforcers and sessions, those that end first on top.
fn look(client: &Client) -> Result<Value, ClientError> {
    let mut answer = client.send(&Call::get("/v1/enforcers"))?;
    let enforcers = answer.get_mut("enforcers").map(Value::take);
    let call = Call::get("/v1/sessions").with("state", Some("open"));
    let mut sessions = client.list(&call, "sessions", LOOKED_AT)?.entries;
    // What nothing limits comes last.
    let by_deadline = |session: &Value| {
        let deadline = sessions::deadline(session);
        (deadline.is_none(), deadline)
    };
    if let Value::Array(sessions) = &mut sessions {
        sessions.sort_by_key(by_deadline);
    }
    Ok(json!({"enforcers": enforcers, "sessions": sessions}))
}

/// A picture with a note between the enforcers and the sessions.
fn drawn(looked: &Value, note: &str, lines: usize, reading: &Reading) -> String {
    let members = |field| looked.get(field).and_then(Value::as_array);
    let mut heads = Vec::new();
    for enforcer in members("enforcers").into_iter().flatten() {
        heads.push(format!(
            "{} ({}) {} open, revision {}",
            text(enforcer, "id"),
            list(enforcer, "doors"),
            count(enforcer, "open"),
            text(enforcer, "revision"),
        ));
    }
    let sessions = members("sessions").map_or(&[][..], Vec::as_slice);
    let shown: Value = sessions.iter().take(lines).cloned().collect();
    let more = sessions.len().saturating_sub(lines);
    let heads = clean(&heads.join("; "));
    let mut words = format!(
        "{heads}\n{note}\n{}",
        sessions::table_of_ends(&shown, reading)
    );
    if more > 0 {
        words.push_str(&format!("and {more} more"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let session = |id: &str, ends: &str| {
            json!({
                "id": id, "state": "open", "deadline": ends, "deadline_reason": "lifetime_expired",
                "bytes_in": 1, "bytes_out": 2,
            })
        };
        let looked = json!({
            "enforcers": [{"id": "gw-1", "doors": ["gateway"], "open": 3, "revision": 7}],
            "sessions": [session("a", "2026-11-24T11:00:30Z"), session("b", "2026-11-24T11:01:30Z"), session("c", "2026-11-24T12:00:00Z")],
        });
        assert_eq!(
            drawn(&looked, "", 2, &Reading::of_tests()),
            "gw-1 (gateway) 3 open, revision 7\n\n\
             \x20LEFT  BY                SUBJECT  SERVICE  CLIENT  IN  OUT  SEGMENTS  ENDS      ID\n\
             \x20 30s  lifetime_expired  -        -        -        1    2  -         12:00:30  a\n\
             1m30s  lifetime_expired  -        -        -        1    2  -         12:01:30  b\n\
             and 1 more"
        );
        let stale = drawn(&looked, "stale", 0, &Reading::of_tests());
        assert_eq!(stale.lines().nth(1), Some("stale"));
    }
}

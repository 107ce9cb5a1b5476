//! What Curfew says to a PostgreSQL client: warning, goodbye and refusal. Text for clients only; causes that name
//! policies or people may not appear here.

use std::time::Duration;

use curfew_model::{EndReason, SessionId};

use crate::protocol::whole_seconds;

/// The most bytes of one field.
const MAX_FIELD: usize = 500;

/// A NoticeResponse that warns of an end to come. `text` says when, `hint` what to do.
#[must_use]
pub fn warning(reason: EndReason, session: SessionId, text: &str, hint: &str) -> Vec<u8> {
    let message = format!("curfew: {text} ({reason})");
    build(
        b'N',
        "WARNING",
        "01000",
        &message,
        &format!("session {session}"),
        hint,
    )
}

/// The ErrorResponse FATAL of a session that ends.
#[must_use]
pub fn goodbye(reason: EndReason, session: SessionId) -> Vec<u8> {
    let code = if reason == EndReason::IdleTimeout {
        "57P05"
    } else {
        "57P01"
    };
    let text = format!("session ended: {}", reason.text());
    fatal(code, &text, reason, session, hint(reason))
}

/// The ErrorResponse FATAL of a session that does not come to its server, with the time to wait where it is known.
#[must_use]
pub fn refusal(reason: EndReason, session: SessionId, wait: Option<Duration>) -> Vec<u8> {
    let code = match reason {
        EndReason::ConcurrencyExceeded | EndReason::Overloaded => "53300",
        EndReason::ControlPlaneLost | EndReason::UpstreamUnreachable | EndReason::Shutdown => {
            "57P03"
        }
        EndReason::ProtocolError => "08P01",
        _ => "28000",
    };
    let hint = match (wait, reason) {
        (Some(wait), _) => format!("Try again in {}.", whole_seconds(wait)),
        (None, EndReason::LifetimeExpired | EndReason::Shutdown) => "Try again later.".to_owned(),
        (None, other) => hint(other).to_owned(),
    };
    // Who finds no server was let in, and is on record with an end.
    let what = if reason == EndReason::UpstreamUnreachable {
        "session ended"
    } else {
        "session refused"
    };
    let why = match (wait, reason) {
        (Some(_), EndReason::LifetimeExpired) => {
            "the session before reached its maximum lifetime, and a new one has to wait"
        }
        _ => reason.text(),
    };
    fatal(code, &format!("{what}: {why}"), reason, session, &hint)
}

fn fatal(code: &str, text: &str, reason: EndReason, session: SessionId, hint: &str) -> Vec<u8> {
    let message = format!("curfew: {text} ({reason})");
    build(
        b'E',
        "FATAL",
        code,
        &message,
        &format!("session {session}"),
        hint,
    )
}

fn hint(reason: EndReason) -> &'static str {
    match reason {
        EndReason::IdleTimeout | EndReason::Shutdown => "Connect again if you still need access.",
        EndReason::LifetimeExpired => {
            "Connect again if you still need access; you may have to wait, or to log in first."
        }
        EndReason::ReauthOverdue | EndReason::CredentialExpired | EndReason::BindingExpired => {
            "Log in again, then connect again."
        }
        EndReason::ConcurrencyExceeded => "Close another of your sessions, then connect again.",
        EndReason::OutsideHours => "Connect again within the allowed hours.",
        EndReason::ControlPlaneLost | EndReason::UpstreamUnreachable | EndReason::Overloaded => {
            "Try again later."
        }
        _ => "Give the session id to your administrator.",
    }
}

fn build(kind: u8, severity: &str, code: &str, text: &str, detail: &str, hint: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let fields = [
        (b'S', severity),
        (b'V', severity),
        (b'C', code),
        (b'M', text),
        (b'D', detail),
        (b'H', hint),
    ];
    for (field, value) in fields {
        body.push(field);
        body.extend(clean(value).as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len()).unwrap_or(0) + 4;
    let mut out = vec![kind];
    out.extend(length.to_be_bytes());
    out.extend(body);
    out
}

/// Without control characters, and no longer than a field may be.
fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > MAX_FIELD {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_byte_exact() {
        let bytes = build(b'E', "FATAL", "57P01", "a\0b", "d", "h");
        assert_eq!(
            bytes,
            b"E\0\0\0\x25SFATAL\0VFATAL\0C57P01\0Ma b\0Dd\0Hh\0\0"
        );
    }

    #[test]
    fn fields_are_bounded_at_a_character() {
        assert_eq!(clean(&"é".repeat(400)).len(), MAX_FIELD);
    }
}

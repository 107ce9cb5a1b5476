//! Properties of the PostgreSQL protocol code: chunks change nothing, and garbage is an error, never a panic.
#![cfg(test)]

use curfew_gateway::postgres::frames::{Conversation, Scan};
use curfew_gateway::postgres::preamble::{Outcome, Preamble, PreambleError};
use proptest::collection::vec;
use proptest::prelude::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend((payload.len() as u32 + 4).to_be_bytes());
    out.extend(payload);
    out
}

/// A message from the client: any of the types, any payload.
fn from_client() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(b"QPBESDCHFXdcfp".to_vec()), payload()).prop_map(|(k, p)| frame(k, &p))
}

/// A message from the server whose state, where it carries some, is well formed.
fn from_server() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (
            prop::sample::select(b"STDCENA123nstIVGHWdcv".to_vec()),
            payload()
        )
            .prop_map(|(k, p)| frame(k, &p)),
        prop::sample::select(b"ITE".to_vec()).prop_map(|status| frame(b'Z', &[status])),
        vec(any::<u8>(), 8..=260).prop_map(|key| frame(b'K', &key)),
        Just(frame(b'R', &[0; 4])),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 16_000..17_000)]
}

/// Feeds `stream` in chunks of these sizes, over and over, and holds each answer against the true boundaries.
fn walk(
    messages: &[Vec<u8>],
    sizes: &[usize],
    mut scan: impl FnMut(&[u8]) -> Scan,
) -> Result<(), TestCaseError> {
    let stream = messages.concat();
    let mut ends = vec![0];
    for message in messages {
        ends.push(ends[ends.len() - 1] + message.len());
    }
    let (mut at, mut sizes) = (0, sizes.iter().cycle());
    while at < stream.len() {
        let to = stream.len().min(at + sizes.next().unwrap());
        let got = scan(&stream[at..to]);
        let last = *ends.iter().filter(|&&end| end <= to).max().unwrap();
        prop_assert_eq!(got.complete, last.saturating_sub(at));
        prop_assert_eq!(got.at_boundary, last == to);
        // The header tells the rest; before that, what is missing of the header.
        let begun = to - last;
        let next = ends
            .iter()
            .find(|&&end| end > last)
            .map_or(last, |&end| end);
        let missing = match begun {
            0 => 0,
            1..5 => 5 - begun,
            _ => next - to,
        };
        prop_assert_eq!(got.remaining as usize, missing);
        at = to;
    }
    Ok(())
}

proptest! {
    #[test]
    fn chunks_do_not_move_the_client_s_boundaries(
        messages in vec(from_client(), 0..30),
        sizes in vec(1..3_000_usize, 1..20),
    ) {
        let mut talk = Conversation::default();
        walk(&messages, &sizes, |chunk| talk.scan_client(chunk).unwrap())?;
    }

    #[test]
    fn chunks_do_not_move_the_server_s_boundaries_nor_its_state(
        messages in vec(from_server(), 0..30),
        sizes in vec(1..3_000_usize, 1..20),
    ) {
        let mut talk = Conversation::default();
        walk(&messages, &sizes, |chunk| talk.scan_server(chunk).unwrap())?;
        let mut whole = Conversation::default();
        whole.scan_server(&messages.concat()).unwrap();
        prop_assert_eq!(talk.transaction(), whole.transaction());
        prop_assert_eq!((talk.busy(), talk.may_run()), (whole.busy(), whole.may_run()));
        prop_assert!(talk.key() == whole.key());
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(chunks in vec(vec(any::<u8>(), 0..300), 0..10)) {
        let mut talk = Conversation::default();
        for chunk in &chunks {
            if talk.scan_client(chunk).is_err() {
                break;
            }
        }
        for chunk in &chunks {
            if talk.scan_server(chunk).is_err() {
                break;
            }
        }
        feed(&chunks).ok();
    }

    #[test]
    fn chunks_do_not_change_a_preamble(
        fields in vec("[a-z_]{1,12}", 0..12),
        sizes in vec(1..50_usize, 1..10),
    ) {
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for field in &fields {
            body.extend(field.as_bytes());
            body.push(0);
        }
        body.push(0);
        let packet = [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat();
        let mut rest = &packet[..];
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle() {
            let (chunk, left) = rest.split_at(rest.len().min(*size));
            chunks.push(chunk.to_vec());
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(feed(&chunks), feed(&[packet]));
    }
}

/// What a preamble comes to.
fn feed(chunks: &[Vec<u8>]) -> Result<Outcome, PreambleError> {
    let mut preamble = Preamble::default();
    for chunk in chunks {
        match preamble.feed(chunk)? {
            Outcome::NeedMore | Outcome::Reply(_) => {}
            done => return Ok(done),
        }
    }
    Ok(Outcome::NeedMore)
}

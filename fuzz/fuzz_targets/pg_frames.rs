//! The messages of a PostgreSQL session, either direction: no bytes panic, and chunks change nothing. Bit 0 of the
//! first byte is the direction, the second byte the chunk size.
#![no_main]

use curfew_gateway::postgres::frames::{Conversation, FrameError, Scan};
use libfuzzer_sys::fuzz_target;

/// Where `data`, in chunks, leaves a conversation: the last boundary, and what was seen.
fn walk(data: &[u8], chunk: usize, server: bool) -> Result<(usize, Conversation), FrameError> {
    let mut talk = Conversation::default();
    let (mut at, mut boundary) = (0, 0);
    for part in data.chunks(chunk.max(1)) {
        let Scan {
            complete,
            at_boundary,
            remaining,
        } = if server {
            talk.scan_server(part)?
        } else {
            talk.scan_client(part)?
        };
        assert!(complete <= part.len());
        assert_eq!(at_boundary, remaining == 0);
        if complete > 0 {
            boundary = at + complete;
        }
        at += part.len();
        assert_eq!(at_boundary, boundary == at);
    }
    Ok((boundary, talk))
}

fuzz_target!(|data: &[u8]| {
    let [direction, chunk, data @ ..] = data else {
        return;
    };
    let server = direction & 1 == 1;
    let whole = walk(data, data.len(), server);
    let parts = walk(data, usize::from(*chunk), server);
    match (whole, parts) {
        (Ok((boundary, whole)), Ok((other, parts))) => {
            assert_eq!(boundary, other);
            assert_eq!(whole.busy(), parts.busy());
            assert_eq!(whole.transaction(), parts.transaction());
            assert_eq!(whole.may_run(), parts.may_run());
            assert!(whole.may_run() || !whole.busy());
            assert!(whole.key() == parts.key());
        }
        (Err(whole), Err(parts)) => assert_eq!(whole, parts),
        (whole, parts) => panic!("{:?} whole, {:?} in chunks", whole.err(), parts.err()),
    }
});

//! What a PostgreSQL client sends first: no bytes panic, and chunks change nothing. The first byte is the chunk size.
#![no_main]

use curfew_gateway::postgres::preamble::{MAX_NAME, MAX_STARTUP, Outcome, Preamble, PreambleError};
use libfuzzer_sys::fuzz_target;

/// Plays a client that sends its next packet only after the answer to the last.
fn feed(packets: &[u8], chunk: usize) -> Result<Outcome, PreambleError> {
    let mut preamble = Preamble::default();
    let mut rest = packets;
    while let Some(length) = rest.first_chunk().map(|four| u32::from_be_bytes(*four)) {
        let (packet, after) = rest.split_at(rest.len().min(length.max(1) as usize));
        for part in packet.chunks(chunk) {
            match preamble.feed(part)? {
                Outcome::NeedMore | Outcome::Reply(_) => {}
                done => return Ok(done),
            }
        }
        rest = after;
    }
    Ok(Outcome::NeedMore)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, packets)) = data.split_first() else {
        return;
    };
    let whole = feed(packets, usize::MAX);
    assert_eq!(whole, feed(packets, usize::from(size).max(1)));
    if let Ok(Outcome::Startup(startup)) = whole {
        assert!((1..=MAX_NAME).contains(&startup.user.len()));
        assert!(startup.raw.len() <= MAX_STARTUP);
        assert!(!startup.database.is_empty());
    }
});

//! Boundaries and state, message by message.

use super::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend((payload.len() as u32 + 4).to_be_bytes());
    out.extend(payload);
    out
}

#[test]
fn any_chunking_gives_the_boundaries_of_the_whole() {
    let parts = [
        frame(b'R', &[0; 4]),
        frame(b'K', &[7; 12]),
        frame(b'D', &[1; 40]),
        frame(b'Z', b"T"),
    ];
    let whole = parts.concat();
    let ends: Vec<usize> = parts
        .iter()
        .scan(0, |at, part| {
            *at += part.len();
            Some(*at)
        })
        .collect();
    for size in 1..=whole.len() {
        let mut talk = Conversation::default();
        let mut at = 0;
        for chunk in whole.chunks(size) {
            let scan = talk.scan_server(chunk).unwrap();
            let last = ends
                .iter()
                .copied()
                .filter(|&e| e > at && e <= at + chunk.len())
                .max();
            assert_eq!(
                scan.complete,
                last.map_or(0, |e| e - at),
                "chunks of {size}"
            );
            at += chunk.len();
            assert_eq!(scan.at_boundary, ends.contains(&at), "chunks of {size}");
        }
        assert!(talk.authenticated());
        assert_eq!(talk.transaction(), Some(Transaction::Open));
        assert_eq!(talk.key().unwrap().key(), &[7; 8]);
    }
}

/// The client sends messages of these kinds.
fn send(talk: &mut Conversation, kinds: &[u8]) {
    let frames: Vec<u8> = kinds.iter().flat_map(|kind| frame(*kind, b"")).collect();
    talk.scan_client(&frames).unwrap();
}

/// The server answers with messages of these kinds, and is idle where it is ready.
fn answer(talk: &mut Conversation, kinds: &[u8]) {
    let frames: Vec<u8> = kinds.iter().flat_map(|kind| frame(*kind, b"I")).collect();
    talk.scan_server(&frames).unwrap();
}

/// Ready for the first query.
fn logged_in() -> Conversation {
    let mut talk = Conversation::default();
    talk.scan_server(&frame(b'Z', b"I")).unwrap();
    talk
}

#[test]
fn a_query_sent_ahead_of_the_login_s_answer_is_not_answered_by_it() {
    let mut talk = Conversation::default();
    talk.scan_client(&frame(b'Q', b"select 1\0")).unwrap();
    talk.scan_server(&frame(b'Z', b"I")).unwrap();
    assert!(talk.may_run() && talk.busy());
    talk.scan_server(&frame(b'Z', b"I")).unwrap();
    assert!(!talk.may_run());
}

#[test]
fn the_first_key_is_the_session_s() {
    let mut talk = logged_in();
    talk.scan_server(&frame(b'K', &[7; 12])).unwrap();
    talk.scan_server(&frame(b'K', &[8; 12])).unwrap();
    assert_eq!(talk.key().unwrap().key(), &[7; 8]);
}

#[test]
fn busy_from_query_to_ready() {
    let mut talk = logged_in();
    talk.scan_client(&frame(b'Q', b"select 1\0")).unwrap();
    assert!(talk.busy());
    talk.scan_server(&frame(b'C', b"SELECT 1\0")).unwrap();
    assert!(talk.busy());
    talk.scan_server(&frame(b'Z', b"I")).unwrap();
    assert!(!talk.busy());
}

#[test]
fn a_pipeline_that_was_not_flushed_may_run_and_is_not_busy() {
    let mut talk = logged_in();
    assert!(!talk.may_run());
    talk.scan_client(&frame(b'E', &[0; 5])).unwrap();
    assert!(talk.may_run() && !talk.busy());
    talk.scan_client(&frame(b'S', b"")).unwrap();
    let done = [frame(b'C', b"SELECT 1\0"), frame(b'Z', b"I")].concat();
    talk.scan_server(&done).unwrap();
    assert!(!talk.may_run());
}

#[test]
fn what_the_server_skips_after_an_error_is_no_work_of_it() {
    let mut talk = logged_in();
    send(&mut talk, b"PH");
    answer(&mut talk, b"E");
    for kinds in [&b"EH"[..], b"Q", b"BEH"] {
        send(&mut talk, kinds);
        assert!(!talk.busy() && !talk.may_run(), "{kinds:?}");
    }
    send(&mut talk, b"S");
    assert!(talk.busy());
    answer(&mut talk, b"Z");
    assert!(!talk.busy());
    send(&mut talk, b"BEH");
    assert!(talk.busy());
    answer(&mut talk, b"2C");
    assert!(!talk.busy());
    // The query does not run, which shows when the bind before it is answered.
    send(&mut talk, b"SBQ");
    answer(&mut talk, b"ZE");
    assert!(!talk.busy());
}

#[test]
fn a_flush_that_the_server_cannot_read_has_it_skip_what_follows() {
    let mut talk = logged_in();
    talk.scan_client(&frame(b'H', &[0])).unwrap();
    send(&mut talk, b"Q");
    answer(&mut talk, b"E");
    assert!(!talk.busy() && !talk.may_run());
    send(&mut talk, b"Q");
    assert!(!talk.busy());
}

#[test]
fn a_function_call_behind_what_was_not_synced_is_over_with_its_answer() {
    let mut talk = logged_in();
    send(&mut talk, b"PFH");
    assert!(talk.busy());
    answer(&mut talk, b"1VZ");
    assert!(!talk.busy() && !talk.may_run());
    send(&mut talk, b"F");
    assert!(talk.busy());
    answer(&mut talk, b"V");
    assert!(talk.busy());
    answer(&mut talk, b"Z");
    assert!(!talk.busy());
}

#[test]
fn a_query_behind_what_was_not_synced_is_owed_an_answer() {
    let mut talk = logged_in();
    send(&mut talk, b"P");
    assert!(!talk.busy() && talk.may_run());
    send(&mut talk, b"Q");
    assert!(talk.busy());
    answer(&mut talk, b"1CZ");
    assert!(!talk.busy() && !talk.may_run());
    send(&mut talk, b"Q");
    assert!(talk.busy());
}

#[test]
fn an_error_of_a_synced_batch_skips_nothing_after_it() {
    let mut talk = logged_in();
    send(&mut talk, b"ES");
    answer(&mut talk, b"EZ");
    send(&mut talk, b"EH");
    assert!(talk.busy());
    answer(&mut talk, b"E");
    send(&mut talk, b"S");
    assert!(talk.busy());
}

#[test]
fn copy_in_of_the_extended_protocol_is_not_busy_for_ever() {
    let mut talk = logged_in();
    send(&mut talk, b"ES");
    assert!(talk.busy());
    answer(&mut talk, b"G");
    assert!(!talk.busy());
    send(&mut talk, b"cS");
    assert!(talk.busy());
    answer(&mut talk, b"CZ");
    assert!(!talk.busy());
}

#[test]
fn an_error_of_a_query_skips_nothing_whatever_was_sent_before_it() {
    let mut talk = logged_in();
    send(&mut talk, b"PQ");
    answer(&mut talk, b"1EZ");
    assert!(!talk.busy() && !talk.may_run());
    send(&mut talk, b"Q");
    assert!(talk.busy() && talk.may_run());
}

#[test]
fn a_query_that_is_skipped_behind_one_that_ran_is_owed_nothing() {
    let mut talk = logged_in();
    send(&mut talk, b"PQPQ");
    answer(&mut talk, b"1CZE");
    send(&mut talk, b"Q");
    assert!(!talk.busy() && !talk.may_run());
}

#[test]
fn a_sync_behind_a_copy_that_failed_does_not_answer_the_query_behind_it() {
    for answers in [&b"EZZ"[..], b"EZ"] {
        let mut talk = logged_in();
        send(&mut talk, b"Q");
        answer(&mut talk, b"G");
        assert!(!talk.busy() && talk.may_run());
        send(&mut talk, b"dS");
        // The error shows only now, so that this is as far as the client knows data.
        answer(&mut talk, answers);
        send(&mut talk, b"Q");
        assert!(talk.busy() && talk.may_run());
        answer(&mut talk, b"CZ");
        assert!(!talk.busy() && !talk.may_run());
    }
}

#[test]
fn what_a_copy_may_swallow_keeps_no_session_busy() {
    let mut talk = logged_in();
    send(&mut talk, b"BES");
    answer(&mut talk, b"2G");
    // It fails at its data. The Sync ahead of that was ignored, and the one behind it was not.
    send(&mut talk, b"dcS");
    answer(&mut talk, b"EZ");
    assert!(!talk.busy());
    send(&mut talk, b"BES");
    answer(&mut talk, b"2");
    assert!(talk.busy());
    answer(&mut talk, b"CZ");
    assert!(!talk.busy() && !talk.may_run());
}

#[test]
fn a_query_in_the_place_of_data_cannot_be_followed_and_is_cancelled_in_any_case() {
    let mut talk = logged_in();
    send(&mut talk, b"Q");
    answer(&mut talk, b"G");
    send(&mut talk, b"dQ");
    answer(&mut talk, b"EZ");
    assert!(!talk.busy() && talk.may_run());
}

#[test]
fn what_is_sent_ahead_of_a_copy_is_taken_in_order() {
    let mut talk = logged_in();
    send(&mut talk, b"BEdcSQ");
    answer(&mut talk, b"2GCZ");
    assert!(talk.busy());
    answer(&mut talk, b"CZ");
    assert!(!talk.busy() && !talk.may_run());
}

#[test]
fn broken_frames_are_errors() {
    let mut talk = Conversation::default();
    assert_eq!(
        talk.scan_client(b"!"),
        Err(FrameError::UnknownType(b'!', "client"))
    );
    assert_eq!(
        talk.scan_client(b"Q\0\0\0\x03"),
        Err(FrameError::BadLength(b'Q', 3))
    );
    let long = Conversation::default().scan_server(b"D\xff\xff\xff\xff");
    assert_eq!(long, Err(FrameError::BadLength(b'D', u32::MAX)));
    let status = Conversation::default().scan_server(&frame(b'Z', b"?"));
    assert_eq!(status, Err(FrameError::BadPayload(b'Z')));
}

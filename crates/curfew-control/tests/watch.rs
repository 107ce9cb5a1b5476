//! Watching over the wire: events as they come, filtered, counted when lost, ended with the token and with the server.
#![cfg(test)]

mod support;

use curfew_model::{
    EndReason, Event, EventKind, Identity, Issuer, Kind, Proof, Revision, SessionId, WallInstant,
};
use curfew_state::{Bus as _, EnforcerEvent, Message};
use serde_json::{Value, json};
use support::{World, is_problem};
use uuid::Uuid;

fn event(world: &World, seq: u64, kind: EventKind, user: &str, segment: &str) {
    let event = Event {
        session: Some(SessionId(Uuid::from_u128(u128::from(seq)))),
        subject: Some(Identity {
            proof: Proof::Bound,
            kind: Kind::User,
            issuer: Issuer::local(),
            id: user.to_owned(),
            display: Some("two\nlines".to_owned()),
        }),
        segments: vec![segment.parse().unwrap()],
        reason: Some(EndReason::IdleTimeout),
        ..Event::new(kind, WallInstant(1_700_000_000_000), Revision(7))
    };
    let enforcer = "gw-1".parse().unwrap();
    world.bus.publish(Message::Event(EnforcerEvent {
        enforcer,
        seq,
        event,
    }));
}

/// The next event: its kind, its id and its data.
fn next(lines: &mut impl Iterator<Item = String>) -> (String, String, Value) {
    let mut field = |name: &str| {
        let mut lines = lines
            .by_ref()
            .skip_while(|line| line.is_empty() || line.starts_with(':'));
        let line = lines.next().unwrap();
        line.strip_prefix(name)
            .unwrap_or_else(|| panic!("{line}"))
            .to_owned()
    };
    let (kind, id, data) = (field("event: "), field("id: "), field("data: "));
    (kind, id, serde_json::from_str(&data).unwrap())
}

fn watching(client: &support::client::Client, query: &str) -> impl Iterator<Item = String> + use<> {
    let mut lines = client.lines(&format!("/v1/sessions/watch{query}"));
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head[0].ends_with(" 200 OK"), "{head:?}");
    assert!(
        head.iter()
            .any(|line| line == "content-type: text/event-stream"),
        "{head:?}"
    );
    assert_eq!(lines.next().unwrap(), ": watching");
    lines
}

#[test]
fn events_are_seen_as_they_come() {
    let world = World::start();
    let set = json!({"sources": [{"path": "p.yaml", "text": "segment db\n"}]});
    assert_eq!(world.admin().post("/v1/policies", &set).status, 200);
    let mut all = watching(&world.admin(), "");
    let mut ended = watching(
        &world.role("viewer"),
        "?segment=db&subject=user:local%23alice&event=session.ended",
    );
    event(&world, 1, EventKind::SessionOpened, "alice", "db");
    event(&world, 2, EventKind::EnforcerStarted, "alice", "db");
    event(&world, 3, EventKind::SessionEnded, "bob", "db");
    event(&world, 4, EventKind::SessionEnded, "alice", "web");
    event(&world, 5, EventKind::SessionEnded, "alice", "db");
    let seen: Vec<String> = (0..4).map(|_| next(&mut all).1).collect();
    assert_eq!(seen, ["gw-1:1", "gw-1:3", "gw-1:4", "gw-1:5"]);
    let (kind, id, data) = next(&mut ended);
    assert_eq!((kind.as_str(), id.as_str()), ("session.ended", "gw-1:5"));
    assert_eq!(data["reason"], "idle_timeout");
    assert_eq!(data["event"], "session.ended");
    assert_eq!(data["enforcer"], "gw-1");
    assert_eq!(data["enforcer_seq"], 5);
    assert_eq!(data["subject"]["display"], "two\nlines");
}

#[test]
fn who_comes_back_is_told_that_events_were_lost() {
    let world = World::start();
    let back = world.admin().with("Last-Event-ID", "gw-1:1");
    let lines = watching(&back, "");
    let told: Vec<String> = lines.skip_while(String::is_empty).take(2).collect();
    assert_eq!(told, ["event: lost", "data: {\"lost\":null}"]);
}

#[test]
fn a_stream_ends_with_its_token() {
    let world = World::start();
    let viewer = world.role("viewer");
    let mut lines = watching(&viewer, "");
    event(&world, 1, EventKind::SessionOpened, "alice", "db");
    assert_eq!(next(&mut lines).1, "gw-1:1");
    assert_eq!(world.admin().delete("/v1/tokens/a-viewer").status, 204);
    event(&world, 2, EventKind::SessionOpened, "alice", "db");
    let more = lines.find(|line| line.starts_with("event"));
    assert_eq!(more, None);
}

#[test]
fn a_stream_ends_with_the_server() {
    let world = World::start();
    let mut lines = watching(&world.admin(), "");
    world.stop();
    assert!(lines.all(|line| line.is_empty()), "events after the end");
}

#[test]
fn watchers_are_bounded_and_an_unknown_filter_is_refused() {
    let world = World::start();
    let viewer = world.role("viewer");
    let held: Vec<_> = (0..16).map(|_| watching(&viewer, "")).collect();
    let over = viewer.get("/v1/sessions/watch");
    assert!(is_problem(&over, 429, "too_many_requests"), "{over:?}");
    // Others are not kept from watching by one who does not stop.
    drop(watching(&world.admin(), ""));
    drop(held);
    for (query, said) in [
        ("user=alice", "user"),
        ("event=session.openned", "session.opened"),
        ("event=policy.applied", "session.opened"),
        ("segment=nowhere", "no segment nowhere"),
    ] {
        let path = format!("/v1/sessions/watch?{query}");
        let unknown = world.admin().get(&path);
        assert!(is_problem(&unknown, 400, "bad_request"), "{unknown:?}");
        assert!(unknown.body.contains(said), "{unknown:?}");
    }
}

#[test]
fn a_slow_watcher_is_told_how_much_it_lost() {
    let world = World::start();
    let mut lines = watching(&world.admin(), "");
    // More than every buffer on the way holds.
    for seq in 1..=60_000 {
        event(&world, seq, EventKind::SessionOpened, "alice", "db");
    }
    event(&world, 60_001, EventKind::SessionEnded, "alice", "db");
    let mut seen = 0;
    let mut lost = 0;
    while seen + lost < 60_001 {
        let line = lines.next().unwrap();
        if line.starts_with("event: session.") {
            seen += 1;
        } else if let Some(data) = line.strip_prefix("data: {\"lost\":") {
            lost += data.trim_end_matches('}').parse::<u64>().unwrap();
        }
    }
    assert!(lost > 0 && seen > 0, "{seen} seen, {lost} lost");
    assert_eq!(seen + lost, 60_001);
}

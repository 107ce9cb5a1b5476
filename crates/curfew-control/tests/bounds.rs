//! How much the API takes: bodies, requests, connections, and how long each may take to arrive.
#![cfg(test)]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{atomic::Ordering, mpsc},
    time::Duration,
};

use curfew_state::POLICY_BYTES;
use serde_json::json;
use support::{
    SOON, World,
    client::{Client, read},
    fakes::boot,
    is_problem,
};

#[test]
fn bodies_are_bounded() {
    let world = World::start();
    let json = world.admin().with("Content-Type", "application/json");
    let large = vec![b' '; 64 * 1024 + 1];
    let stated = json.send("POST", "/v1/revocations", Some(&large));
    assert!(is_problem(&stated, 413, "too_large"), "{stated:?}");
    let head = json.clone().with("Transfer-Encoding", "chunked").head(
        "POST",
        "/v1/revocations",
        "1.1",
        None,
    );
    let mut stream = TcpStream::connect(world.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream
        .write_all(format!("{:x}\r\n", large.len()).as_bytes())
        .unwrap();
    stream.write_all(&large).unwrap();
    let chunked = read(&mut stream);
    assert!(is_problem(&chunked, 413, "too_large"), "{chunked:?}");
    // A policy set may be larger, up to 8 MiB.
    let mut set = json!({"sources": [{"path": "p.yaml", "text": "ok"}]}).to_string();
    set.push_str(&" ".repeat(5 * 1024 * 1024));
    let set = json.send("POST", "/v1/policies/validate", Some(set.as_bytes()));
    assert_eq!(set.status, 200, "{set:?}");
    // Of a stranger nothing is read at all.
    let stranger = world.stranger().with("Content-Type", "application/json");
    let head = stranger.head("POST", "/v1/revocations", "1.1", Some(1_000_000_000));
    let mut stream = TcpStream::connect(world.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read(&mut stream).status, 401);
}

#[test]
fn a_set_is_validated_and_applied_up_to_what_the_store_keeps() {
    let world = World::start();
    let set = |bytes: usize| {
        let of = |path: &str| json!([{"path": path, "text": "segment db"}]);
        let path = "p".repeat(bytes - of("").to_string().len());
        json!({"sources": of(&path)})
    };
    for path in ["/v1/policies/validate", "/v1/policies"] {
        let largest = world.admin().post(path, &set(POLICY_BYTES));
        assert_eq!(largest.status, 200, "{path}");
        let larger = world.admin().post(path, &set(POLICY_BYTES + 1));
        assert!(is_problem(&larger, 422, "invalid"), "{path}: {larger:?}");
        let detail = larger.json()["detail"].to_string();
        assert!(detail.contains("8388608 is the most"), "{detail}");
    }
}

#[test]
fn large_bodies_are_for_those_who_may_send_them_and_few_at_once() {
    let world = World::start();
    let large = Some(5 * 1024 * 1024);
    let begin = |client: Client, path: &str| {
        let json = client.with("Content-Type", "application/json");
        let mut stream = TcpStream::connect(world.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let head = json.head("POST", path, "1.1", large);
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let binder = world.role("binder");
    let refused = read(&mut begin(binder, "/v1/policies"));
    assert!(is_problem(&refused, 413, "too_large"), "{refused:?}");
    let elsewhere = read(&mut begin(world.admin(), "/v1/policies/history"));
    assert!(is_problem(&elsewhere, 413, "too_large"), "{elsewhere:?}");
    let viewer = world.role("viewer");
    let (tell, told) = mpsc::channel();
    let waiting: Vec<_> = (0..64)
        .map(|_| begin(viewer.clone(), "/v1/policies/validate"))
        .collect();
    for stream in &waiting {
        let mut stream = stream.try_clone().unwrap();
        let tell = tell.clone();
        std::thread::spawn(move || {
            let mut first = [0; 12];
            if stream.read_exact(&mut first).is_ok() {
                tell.send(first).unwrap();
            }
        });
    }
    drop(tell);
    for _ in 4..64 {
        assert_eq!(&told.recv_timeout(SOON).unwrap(), b"HTTP/1.1 429");
    }
    // A request without a body needs no turn.
    assert_eq!(viewer.get("/v1/policies").status, 200);
    // They keep nobody else from one.
    let text = "segment db\n".repeat(7_000);
    let set = json!({"sources": [{"path": "a.yaml", "text": text}]});
    let validated = world.role("operator").post("/v1/policies/validate", &set);
    assert_eq!(validated.status, 200, "{validated:?}");
    // The four wait for the rest of the body, which never comes.
    for stream in waiting {
        stream.shutdown(Shutdown::Read).unwrap();
    }
    assert_eq!(told.iter().count(), 0);
}

#[test]
fn slow_requests_end() {
    let world = World::with(|settings| settings.limits.receive = Duration::from_millis(200));
    let json = world.admin().with("Content-Type", "application/json");
    let head = json.head("POST", "/v1/revocations", "1.1", Some(100));
    let mut stream = TcpStream::connect(world.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"{").unwrap();
    let answer = read(&mut stream);
    assert!(is_problem(&answer, 408, "request_timeout"), "{answer:?}");
    let mut stream = TcpStream::connect(world.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: loc")
        .unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
}

#[test]
fn callers_and_strangers_are_slowed_down_apart() {
    let world = World::with(|settings| {
        settings.limits.requests_per_second = 1;
        settings.limits.burst = 5;
    });
    let answers: Vec<_> = (0..6).map(|_| world.admin().get("/v1/sessions")).collect();
    let ok = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(ok, 5, "{answers:?}");
    assert!(
        is_problem(&answers[5], 429, "too_many_requests"),
        "{answers:?}"
    );
    assert_eq!(answers[5].header("retry-after"), Some("1"));
    let mut strangers: Vec<u16> = (0..40)
        .map(|_| world.stranger().get("/v1/sessions").status)
        .collect();
    assert_eq!(strangers.first(), Some(&401));
    strangers.retain(|status| *status == 429);
    assert!(!strangers.is_empty());
}

#[test]
fn a_stranger_s_flood_does_not_keep_an_operator_out() {
    let world = World::start();
    for _ in 0..60 {
        world.stranger().get("/v1/sessions");
    }
    assert_eq!(world.stranger().get("/v1/sessions").status, 429);
    let order = json!({"scope": "all", "reason": "drill"});
    assert_eq!(world.admin().post("/v1/revocations", &order).status, 201);
}

/// A connection that has had this answered and stays.
fn kept(world: &World, client: &Client, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = client.head("GET", path, "1.1", None);
    let head = head.replace("Connection: close\r\n", "");
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read(&mut stream).status, 200);
    stream
}

/// Closed or reset: in either case nothing is answered.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut nothing = Vec::new();
    let _ = stream.read_to_end(&mut nothing);
    nothing.is_empty()
}

#[test]
fn connections_are_bounded() {
    let world = World::with(|settings| settings.limits.connections = 3);
    let held = [(); 3].map(|()| kept(&world, &world.admin(), "/v1/sessions"));
    let over = TcpStream::connect(world.address()).unwrap();
    over.set_read_timeout(Some(SOON)).unwrap();
    assert!(is_closed(over));
    drop(held);
    support::wait_for_a_place(&world.admin());
}

#[test]
fn connections_without_a_token_make_room_for_others() {
    let world = World::with(|settings| settings.limits.connections = 3);
    let known = kept(&world, &world.admin(), "/v1/sessions");
    let held = [(); 2].map(|()| kept(&world, &world.stranger(), "/healthz"));
    assert_eq!(world.admin().get("/v1/sessions").status, 200);
    let [oldest, other] = held;
    assert!(is_closed(oldest));
    drop(other);
    // It has kept its place: another request on it is answered.
    let mut known = known;
    let head = world.admin().head("GET", "/v1/sessions", "1.1", None);
    known.write_all(head.as_bytes()).unwrap();
    assert_eq!(read(&mut known).status, 200);
}

#[test]
fn sets_are_validated_one_at_a_time_though_callers_hang_up() {
    let world = World::start();
    let set = json!({"sources": [{"path": "p.yaml", "text": "segment a"}]});
    let (viewer, operator) = (world.role("viewer"), world.role("operator"));
    let held = world.compile.gate.lock();
    let json = viewer.clone().with("Content-Type", "application/json");
    let body = set.to_string();
    let hung_up = json.open(
        "POST",
        "/v1/policies/validate",
        "1.1",
        Some(body.as_bytes()),
    );
    let give_up = boot().after(SOON);
    while world.compile.at_once.load(Ordering::SeqCst) == 0 {
        assert!(boot() < give_up, "nothing is validated");
    }
    drop(hung_up);
    std::thread::scope(|scope| {
        for caller in [&viewer, &operator].repeat(4) {
            let set = &set;
            scope.spawn(move || {
                let validated = caller.post("/v1/policies/validate", set);
                assert_eq!(validated.status, 200);
            });
        }
        // Time enough for one that has its turn to begin.
        for _ in 0..100 {
            assert_eq!(world.stranger().get("/healthz").status, 200);
        }
        drop(held);
    });
    assert_eq!(world.compile.most.load(Ordering::SeqCst), 1);
}

#[test]
fn an_order_waits_for_none_of_those_who_only_look() {
    let world = World::start();
    let viewer = world.role("viewer");
    let held = world.fleet.sessions.lock();
    let open = |_| viewer.open("GET", "/v1/sessions", "1.1", None);
    let looking: Vec<TcpStream> = (0..100).map(open).collect();
    let order = json!({"scope": "all", "reason": "drill"});
    assert_eq!(world.admin().post("/v1/revocations", &order).status, 201);
    drop(held);
    for mut looked in looking {
        assert_eq!(read(&mut looked).status, 200);
    }
}

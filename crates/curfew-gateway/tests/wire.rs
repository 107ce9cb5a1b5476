//! PostgreSQL through the gateway as the wire has it: each message, odd clients and odd servers.
#![cfg(test)]

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use curfew_enforcer::Door;
use curfew_gateway::protocol::Protocol;
use curfew_model::{EndReason, EventKind, Reconnect, UpstreamAddress};
use curfew_testkit::{DENIED, Limited};
use socket2::{Domain, Socket, Type};
use support::{
    Heard, Lab, PATIENCE, eventually,
    server::server,
    wire::{Wire, frame, listener, says, serve, startup},
};

#[test]
fn encryption_is_declined_and_the_session_goes_on_in_the_clear() {
    let (_server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let mut wire = Wire::connect(lab.address());
    for code in [80_877_104_u32, 80_877_103] {
        wire.0
            .write_all(&[&8_u32.to_be_bytes()[..], &code.to_be_bytes()].concat())
            .unwrap();
        let mut answer = [0];
        wire.0.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"N");
    }
    wire.0.write_all(&startup("postgres", "clear")).unwrap();
    assert_eq!(wire.next().unwrap().0, b'R');
}

#[test]
fn refusals_have_their_codes() {
    let (_server, upstream) = server();
    let lab = Lab::with(upstream, Limited::default(), |config| {
        config.max_connections = 1
    });
    let refused = |user: &str| {
        let mut wire = Wire::connect(lab.address());
        wire.0.write_all(&startup(user, "refused")).unwrap();
        let first = wire.next();
        assert!(wire.next().is_none());
        first
    };
    says(refused(DENIED), b'E', "28000", "access_denied");
    // A name that the server would cut is not the role that policy sees.
    says(refused(&"a".repeat(64)), b'E', "08P01", "protocol_error");
    assert_eq!(lab.turned_away(), EndReason::ProtocolError);
    let _held = Wire::log_in(lab.address(), "postgres", "held");
    let over = refused("postgres");
    // The id that the client is told is the one on record.
    let (reason, id) = lab.turned_away_as();
    assert_eq!(reason, EndReason::Overloaded);
    let text = &over.as_ref().unwrap().1;
    assert!(text.contains(&format!("session {}", id.unwrap())), "{text}");
    says(over, b'E', "53300", "overloaded");

    let nobody = listener().1;
    let lab = Lab::new(nobody, Limited::default());
    let mut wire = Wire::connect(lab.address());
    wire.0.write_all(&startup("postgres", "nobody")).unwrap();
    says(wire.next(), b'E', "57P03", "upstream_unreachable");
    let (reason, cause, session) = lab.wait("the end", |heard| match heard {
        Heard::Event(event) if event.event == EventKind::SessionEnded => {
            Some((event.reason, event.cause, event.session))
        }
        _ => None,
    });
    assert_eq!(reason, Some(EndReason::UpstreamUnreachable));
    assert!(cause.unwrap().contains("refused"));
    // It has ended, and is not refused as well.
    let told = lab.wait("the service's word", |heard| match heard {
        Heard::TurnedAway(away) => Some((away.reason, away.session, away.was_open)),
        _ => None,
    });
    assert_eq!(told, (EndReason::UpstreamUnreachable, session, true));
}

#[test]
fn a_session_ended_while_its_upstream_is_connected_is_told_at_once() {
    // A listener whose queue is full answers nobody.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(
        &"127.0.0.1:0"
            .parse::<std::net::SocketAddr>()
            .unwrap()
            .into(),
    )
    .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let lab = Lab::with(
        UpstreamAddress::Tcp(address),
        Limited::default(),
        |config| {
            config.connect_timeout = PATIENCE;
        },
    );
    let mut wire = Wire::connect(lab.address());
    wire.0.write_all(&startup("postgres", "slow")).unwrap();
    lab.cancel(lab.opened());
    says(wire.next(), b'E', "57P01", "session_cancelled");
    assert_eq!(lab.ended(), EndReason::SessionCancelled);
    eventually("the session is off the table", PATIENCE, || {
        lab.door_is_empty()
    });
}

#[test]
fn a_service_of_plain_tcp_relays_and_ends_by_a_reset() {
    let (listener, upstream) = listener();
    let lab = Lab::with(upstream, Limited::default(), |config| {
        config.protocol = Protocol::Tcp;
        config.max_connections = 1;
    });
    let mut client = Wire::connect(lab.address()).0;
    client.write_all(b"ping").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0; 4]).unwrap();
    let id = lab.opened();
    let mut second = Wire::connect(lab.address()).0;
    let error = second.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(lab.turned_away(), EndReason::Overloaded);
    lab.cancel(id);
    for end in [&mut client, &mut server] {
        let error = end.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let _third = Wire::connect(lab.address());
    lab.opened();
}

#[test]
fn clients_that_say_nothing_keep_nobody_out() {
    let (_server, upstream) = server();
    let lab = Lab::with(upstream, Limited::default(), |config| {
        config.max_waiting = 50;
        config.max_connections = 2;
    });
    let mut silent: Vec<Wire> = (0..500).map(|_| Wire::connect(lab.address())).collect();
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", "loud");
    wire.query("select 1");
    assert_eq!(wire.next().unwrap().0, b'T');
    assert_eq!(lab.turned_away(), EndReason::Overloaded);
    let oldest = silent[0].0.read(&mut [0; 1]).unwrap_err();
    assert_eq!(oldest.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_takes_too_long_to_say_what_it_wants_is_told() {
    let (_server, upstream) = server();
    let lab = Lab::with(upstream, Limited::default(), |config| {
        config.handshake_timeout = Duration::from_millis(100);
    });
    let mut wire = Wire::connect(lab.address());
    wire.0
        .write_all(&startup("postgres", "half")[..20])
        .unwrap();
    let told = wire.next();
    let text = told.clone().unwrap_or_default().1;
    says(told, b'E', "28000", "handshake_timeout");
    assert!(wire.next().is_none());
    let (reason, session) = lab.turned_away_as();
    assert_eq!(reason, EndReason::HandshakeTimeout);
    assert!(text.contains(&session.unwrap().to_string()), "{text}");
}

#[test]
fn a_cancel_of_a_session_that_ended_goes_nowhere() {
    let (listener, upstream) = listener();
    let lab = Lab::new(upstream, Limited::default());
    let to = lab.address();
    let (mut wire, key) = std::thread::scope(|scope| {
        let client = scope.spawn(move || Wire::log_in(to, "postgres", "gone"));
        let mut server = serve(&listener);
        let (mut wire, key) = client.join().unwrap();
        let _sent = Wire::send_cancel(lab.address(), &key);
        let (mut cancel, _) = listener.accept().unwrap();
        let mut request = [0; 16];
        cancel.read_exact(&mut request).unwrap();
        assert_eq!(request[8..], key[..]);
        // While it is on its way, another is not.
        Wire::request_cancel(lab.address(), &key);
        wire.0.write_all(&frame(b'X', b"")).unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        (wire, key)
    });
    assert!(wire.next().is_none());
    drop(wire);
    assert_eq!(lab.ended(), EndReason::ClosedByClient);
    Wire::request_cancel(lab.address(), &key);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_query_sent_ahead_of_the_login_s_answer_ends_with_its_session() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let mut wire = Wire::connect(lab.address());
    let query = frame(b'Q', b"select pg_sleep(600)\0");
    let ahead = [startup("postgres", "ahead"), query].concat();
    wire.0.write_all(&ahead).unwrap();
    let sql = "select count(*) from pg_stat_activity where application_name = 'ahead' and state = 'active'";
    let active = |count: &str| server.query(sql).unwrap() == count;
    eventually("the query runs", PATIENCE, || active("1"));
    lab.cancel(lab.opened());
    eventually("the query is gone", Duration::from_secs(1), || active("0"));
}

#[test]
fn a_row_that_cannot_be_finished_gets_no_goodbye() {
    let (listener, upstream) = listener();
    let lab = Lab::new(upstream, Limited::default());
    let to = lab.address();
    let (mut wire, _server) = std::thread::scope(|scope| {
        let client = scope.spawn(move || Wire::log_in(to, "postgres", "row"));
        let mut server = serve(&listener);
        let row = frame(b'D', &vec![1; 1 << 20]);
        server.write_all(&row[..200_000]).unwrap();
        (client.join().unwrap().0, server)
    });
    let id = lab.opened();
    wire.0.read_exact(&mut [0; 200_000]).unwrap();
    lab.cancel(id);
    let error = wire.0.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let skipped = lab.wait("that no goodbye was said", |heard| match heard {
        Heard::GoodbyeSkipped(id) => Some(id),
        _ => None,
    });
    assert_eq!(skipped, id);
}

#[test]
fn garbage_harms_nobody_else() {
    let (_server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let (mut other, _) = Wire::log_in(lab.address(), "postgres", "other");
    let mut state = 7_u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    for length in 0..200_u32 {
        let garbage: Vec<u8> = (0..length).map(|_| byte()).collect();
        let mut wire = Wire::connect(lab.address());
        let _ = wire.0.write_all(&garbage);
        let mut framed = Wire::connect(lab.address());
        let packet = [
            &(length + 8).to_be_bytes()[..],
            &196_608_u32.to_be_bytes(),
            &garbage,
        ];
        let _ = framed.0.write_all(&packet.concat());
    }
    let (mut broken, _) = Wire::log_in(lab.address(), "postgres", "broken");
    broken.0.write_all(&[0; 64]).unwrap();
    let reason = lab.wait("the broken session's end", |heard| match heard {
        Heard::Event(event) => event
            .reason
            .filter(|reason| *reason == EndReason::ProtocolError),
        _ => None,
    });
    assert_eq!(reason, EndReason::ProtocolError);
    other.query("select 1");
    assert_eq!(other.next().unwrap().0, b'T');
}

#[test]
fn a_client_of_a_server_that_speaks_something_else_is_told() {
    let (listener, upstream) = listener();
    let lab = Lab::new(upstream, Limited::default());
    let mut wire = Wire::connect(lab.address());
    wire.0.write_all(&startup("postgres", "elsewhere")).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server
        .write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
        .unwrap();
    says(wire.next(), b'E', "57P01", "protocol_error");
    let cause = lab.wait("the end", |heard| match heard {
        Heard::Event(event) if event.reason == Some(EndReason::ProtocolError) => event.cause,
        _ => None,
    });
    assert_eq!(cause, "the upstream broke the protocol, or speaks another");
}

#[test]
fn a_client_that_has_to_wait_is_told_how_long() {
    let (_server, upstream) = server();
    let limits = Limited {
        max_lifetime: Some(Duration::from_millis(500)),
        reconnect: Reconnect {
            wait: Duration::from_secs(60),
            proof: false,
        },
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", "waiting");
    says(wire.next(), b'E', "57P01", "lifetime_expired");
    let mut again = Wire::connect(lab.address());
    again.0.write_all(&startup("postgres", "waiting")).unwrap();
    let refusal = again.next();
    let text = refusal.clone().unwrap().1;
    says(refusal, b'E', "28000", "lifetime_expired");
    let wait = text.split("HTry again in ").nth(1).expect("how long");
    assert!(wait.starts_with("1m.") || wait.starts_with("5"), "{text}");
}

/// A listening socket whose queue is full, so that it answers nobody, and what fills it.
fn full_queue() -> (Socket, UpstreamAddress, Vec<Socket>) {
    let queue = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    queue
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    queue.listen(0).unwrap();
    let address = queue.local_addr().unwrap();
    let filling = (0..4)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
            let _ = socket.connect(&address);
            socket
        })
        .collect();
    let upstream = UpstreamAddress::Tcp(address.as_socket().unwrap());
    (queue, upstream, filling)
}

#[test]
fn a_client_that_leaves_while_its_upstream_is_connected_is_let_go_at_once() {
    let (_queue, upstream, _filling) = full_queue();
    let lab = Lab::with(upstream, Limited::default(), |config| {
        config.connect_timeout = Duration::from_secs(3600);
    });
    let mut wire = Wire::connect(lab.address());
    wire.0.write_all(&startup("postgres", "impatient")).unwrap();
    let session = lab.opened();
    assert_eq!(lab.door.snapshot(), [session]);
    drop(wire);
    assert_eq!(lab.ended(), EndReason::ClosedByClient);
    assert!(lab.door_is_empty());
}

#[test]
fn clients_that_have_no_session_yet_are_told_of_a_shutdown() {
    let (_queue, upstream, _filling) = full_queue();
    let mut lab = Lab::with(upstream, Limited::default(), |config| {
        config.handshake_timeout = Duration::from_secs(3600);
        config.connect_timeout = Duration::from_secs(3600);
    });
    let mut connecting = Wire::connect(lab.address());
    connecting
        .0
        .write_all(&startup("postgres", "slow"))
        .unwrap();
    lab.opened();
    let mut in_handshake = Wire::connect(lab.address());
    let encryption = [0, 0, 0, 8, 4, 210, 22, 47];
    in_handshake.0.write_all(&encryption).unwrap();
    in_handshake.0.read_exact(&mut [0]).unwrap();
    lab.shut_down();
    for wire in [&mut connecting, &mut in_handshake] {
        says(wire.next(), b'E', "57P03", "shutdown");
        assert!(wire.next().is_none());
    }
    let (mut turned_away, mut ended) = (None, None);
    lab.wait("both", |heard| {
        match heard {
            Heard::TurnedAway(away) => turned_away = Some(away.reason),
            Heard::Event(event) => ended = ended.or(event.reason),
            Heard::GoodbyeSkipped(_) => {}
        }
        turned_away.zip(ended)
    });
    let shutdown = Some(EndReason::Shutdown);
    assert_eq!((turned_away, ended), (shutdown, shutdown));
}

#[test]
fn a_client_that_the_relay_does_not_take_is_told() {
    let (_listener, upstream) = listener();
    let lab = Lab::new(upstream, Limited::default());
    lab.drain();
    let mut wire = Wire::connect(lab.address());
    wire.0.write_all(&startup("postgres", "late")).unwrap();
    says(wire.next(), b'E', "57P03", "shutdown");
    assert!(wire.next().is_none());
    assert_eq!(lab.ended(), EndReason::Shutdown);
    assert!(lab.door_is_empty());
}

#[test]
fn a_tcp_client_that_has_said_all_while_its_upstream_is_connected_gets_its_answer() {
    let (queue, upstream, filling) = full_queue();
    let lab = Lab::with(upstream, Limited::default(), |config| {
        config.protocol = Protocol::Tcp;
        config.connect_timeout = Duration::from_secs(3600);
    });
    let mut client = TcpStream::connect(lab.address()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    lab.opened();
    drop(filling);
    let queue = TcpListener::from(queue);
    // Those that filled the queue said nothing.
    let (mut server, said) = loop {
        let (mut stream, _) = queue.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = String::new();
        if stream.read_to_string(&mut said).is_ok_and(|read| read > 0) {
            break (stream, said);
        }
    };
    assert_eq!(said, "question");
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

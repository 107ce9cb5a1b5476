//! Accepting and connecting over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test helper that cannot go on fails its test"
)]

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use curfew_gateway::accept::{self, Client, Next};
use curfew_gateway::connect::{ConnectError, Connecting, Progress, alternate_families};
use curfew_gateway::tuning::Tuning;
use curfew_model::{BootInstant, UpstreamAddress};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);

/// Connects at a time that stands still, and waits as long as it takes.
fn connect(addresses: &[UpstreamAddress]) -> Result<TcpStream, ConnectError> {
    let now = BootInstant(5);
    let mut connecting = Connecting::new(addresses, PATIENCE, now);
    loop {
        match connecting.advance(now) {
            Progress::Connected(socket, _) => return Ok(socket.into()),
            Progress::Failed(error) => return Err(error),
            Progress::Waiting(until) => {
                assert!(until > now);
                let socket = connecting.socket().unwrap();
                poll(
                    &mut [PollFd::from_borrowed_fd(socket, PollFlags::OUT)],
                    None,
                )
                .unwrap();
            }
        }
    }
}

/// The next client, waited for.
fn next(listener: &Socket) -> Client {
    loop {
        match accept::next(listener) {
            Next::Client(client) => return client,
            Next::Nobody => drop(poll(&mut [PollFd::new(listener, PollFlags::IN)], None).unwrap()),
            _ => panic!("the queue is lost"),
        }
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_shown_as_ipv4() {
    let listener = accept::listen("[::]:0".parse().unwrap(), Tuning::default()).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(next(&listener).address, client.local_addr().unwrap());
}

#[test]
fn a_client_inherits_what_is_set_on_the_listening_socket() {
    let listener = accept::listen("127.0.0.1:0".parse().unwrap(), Tuning::default()).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _client = TcpStream::connect(address).unwrap();
    let accepted = next(&listener);
    let socket = SockRef::from(&accepted.socket);
    let tuning = Tuning::default();
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.nonblocking().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), tuning.keepalive);
    assert_eq!(
        socket.tcp_user_timeout().unwrap(),
        Some(tuning.user_timeout)
    );
    assert_eq!(socket.tcp_notsent_lowat().unwrap(), 128 * 1024);
}

#[test]
fn a_socket_that_is_shut_down_says_that_it_listens_no_more() {
    let listener = accept::listen("127.0.0.1:0".parse().unwrap(), Tuning::default()).unwrap();
    assert!(matches!(accept::next(&listener), Next::Nobody));
    listener.shutdown(Shutdown::Both).unwrap();
    assert!(matches!(accept::next(&listener), Next::Closed));
}

#[test]
fn the_second_address_is_tried_when_the_first_refuses() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [gone, here.local_addr().unwrap()].map(UpstreamAddress::Tcp);
    let socket = connect(&addresses).unwrap();
    assert_eq!(socket.peer_addr().unwrap(), here.local_addr().unwrap());
    let refused = connect(&addresses[..1]).unwrap_err();
    assert!(matches!(refused, ConnectError::Failed { .. }));
    assert!(matches!(connect(&[]), Err(ConnectError::NoAddress)));
}

#[test]
fn an_address_that_stays_silent_has_its_share_of_the_timeout() {
    // The kernel answers nobody whom a full queue has no place for, and this one holds a single client.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    silent
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    silent.listen(0).unwrap();
    let address = silent.local_addr().unwrap().as_socket().unwrap();
    let _queued = TcpStream::connect(address).unwrap();
    let addresses = [address, address].map(UpstreamAddress::Tcp);
    let timeout = Duration::from_secs(10);
    let mut connecting = Connecting::new(&addresses, timeout, BootInstant(0));
    for (attempt, now, share) in [(1, 0, 5), (2, 5, 10)] {
        let at = |seconds: u64| BootInstant(seconds * 1_000_000_000);
        let progress = connecting.advance(at(now));
        assert!(matches!(progress, Progress::Waiting(until) if until == at(share)));
        assert_eq!(connecting.attempts(), attempt);
    }
    let failed = connecting.advance(BootInstant(10_000_000_000));
    assert!(matches!(
        failed,
        Progress::Failed(ConnectError::Failed { .. })
    ));
}

#[test]
fn a_unix_socket_can_be_an_upstream() {
    let folder = std::env::temp_dir().join(format!("curfew-connect-{}", std::process::id()));
    let _ = std::fs::remove_file(&folder);
    let listener = UnixListener::bind(&folder).unwrap();
    connect(&[UpstreamAddress::Unix(folder.clone())]).unwrap();
    listener.accept().unwrap();
    std::fs::remove_file(folder).unwrap();
}

#[test]
fn a_unix_socket_whose_queue_is_full_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let address = [UpstreamAddress::Unix(path)];
    let _waits = connect(&address).unwrap();
    let now = BootInstant(5);
    let mut connecting = Connecting::new(&address, PATIENCE, now);
    let Progress::Waiting(again) = connecting.advance(now) else {
        panic!("its queue was not full")
    };
    assert!(again < now.after(PATIENCE) && connecting.socket().is_none());
    listener.accept().unwrap();
    let connected = connecting.advance(again);
    assert!(matches!(connected, Progress::Connected(..)));
    // No longer than the timeout.
    let mut connecting = Connecting::new(&address, PATIENCE, now);
    assert!(matches!(connecting.advance(now), Progress::Waiting(_)));
    let late = connecting.advance(now.after(PATIENCE));
    assert!(matches!(late, Progress::Failed(_)));
}

#[test]
fn families_alternate() {
    let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
    let (a6, b6, a4) = (parse("[::1]:1"), parse("[::2]:1"), parse("1.1.1.1:1"));
    assert_eq!(alternate_families(&[a6, b6, a4]), [a6, a4, b6]);
}

//! Accepting and connecting over real sockets.
#![allow(
    clippy::unwrap_used,
    reason = "a test helper that cannot go on fails its test"
)]

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use curfew_gateway::accept::{Accepted, Client, Listener};
use curfew_gateway::connect::{
    ConnectError, Connecting, Progress, UpstreamAddress, alternate_families,
};
use curfew_model::BootInstant;
use rustix::event::{PollFd, PollFlags, poll};

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

struct Handler(Sender<Result<Client, SocketAddr>>);

impl Accepted for Handler {
    fn accepted(&self, client: Client) {
        let _ = self.0.send(Ok(client));
    }

    fn over_limit(&self, address: SocketAddr) {
        let _ = self.0.send(Err(address));
    }
}

#[test]
fn the_limit_resets_the_client_over_it_until_a_permit_is_back() {
    let (sender, clients) = channel();
    let listener =
        Listener::start("127.0.0.1:0".parse().unwrap(), 1, Arc::new(Handler(sender))).unwrap();
    let first = TcpStream::connect(listener.address()).unwrap();
    let held = clients.recv_timeout(PATIENCE).unwrap().ok().unwrap();
    assert_eq!(held.address, first.local_addr().unwrap());
    let mut second = TcpStream::connect(listener.address()).unwrap();
    let refused = clients.recv_timeout(PATIENCE).unwrap().err().unwrap();
    assert_eq!(refused, second.local_addr().unwrap());
    assert_eq!(
        second.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    drop(held);
    let _third = TcpStream::connect(listener.address()).unwrap();
    assert!(clients.recv_timeout(PATIENCE).unwrap().is_ok());
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_shown_as_ipv4() {
    let (sender, clients) = channel();
    let listener =
        Listener::start("[::]:0".parse().unwrap(), 1, Arc::new(Handler(sender))).unwrap();
    let _client = TcpStream::connect(("127.0.0.1", listener.address().port())).unwrap();
    let client = clients.recv_timeout(PATIENCE).unwrap().ok().unwrap();
    assert_eq!(client.address.ip().to_string(), "127.0.0.1");
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
    // The addresses of TEST-NET-1 lead nowhere, or are unreachable at once: either way the time is up after a share.
    let nowhere = UpstreamAddress::Tcp("192.0.2.1:9".parse().unwrap());
    let addresses = [nowhere.clone(), nowhere];
    let mut connecting = Connecting::new(&addresses, Duration::from_secs(10), BootInstant(0));
    if let Progress::Waiting(until) = connecting.advance(BootInstant(0)) {
        assert_eq!(
            (until, connecting.attempts()),
            (BootInstant(5_000_000_000), 1)
        );
        connecting.advance(until);
        assert_eq!(connecting.attempts(), 2);
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
fn families_alternate() {
    let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
    let (a6, b6, a4) = (parse("[::1]:1"), parse("[::2]:1"), parse("1.1.1.1:1"));
    assert_eq!(alternate_families(&[a6, b6, a4]), [a6, a4, b6]);
}

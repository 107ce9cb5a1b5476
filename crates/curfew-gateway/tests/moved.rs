//! A service that leads elsewhere while it runs.
#![cfg(test)]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, OnceLock},
};

use curfew_gateway::{protocol::Protocol, service::Upstreams};
use curfew_model::{Facts, Now, Revision, UpstreamAddress};
use curfew_policy::{Decide, Decision};
use curfew_testkit::Limited;
use support::{Lab, PATIENCE, eventually};

fn at(server: &TcpListener) -> UpstreamAddress {
    UpstreamAddress::Tcp(server.local_addr().unwrap())
}

fn servers() -> [TcpListener; 2] {
    [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap())
}

/// A client, and its connection at this server.
fn open(lab: &Lab, server: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(lab.address()).unwrap();
    server.set_nonblocking(true).unwrap();
    let mut accepted = None;
    eventually("the session leads there", PATIENCE, || {
        accepted = server.accept().ok();
        accepted.is_some()
    });
    let (socket, _) = accepted.unwrap();
    socket.set_nonblocking(false).unwrap();
    (client, socket)
}

#[test]
fn new_sessions_lead_where_the_name_leads_now_and_live_ones_stay() {
    let servers = servers();
    let mut upstreams = None;
    let lab = Lab::with(at(&servers[0]), Limited::default(), |config| {
        config.protocol = Protocol::Tcp;
        upstreams = Some(config.upstreams.clone());
    });
    let passes = |client: &mut TcpStream, server: &mut TcpStream| {
        server.write_all(b"x").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read_exact(&mut [0]).unwrap();
    };
    let (mut early, mut old) = open(&lab, &servers[0]);
    assert!(upstreams.unwrap().replace(&[at(&servers[1])]));
    let (mut late, mut new) = open(&lab, &servers[1]);
    passes(&mut late, &mut new);
    passes(&mut early, &mut old);
}

/// The name leads elsewhere while a session is decided on.
struct Moves {
    upstreams: Arc<OnceLock<Upstreams>>,
    to: UpstreamAddress,
}

impl Decide for Moves {
    fn revision(&self) -> Revision {
        Revision(1)
    }

    fn decide(&self, facts: &Facts, now: Now) -> Decision {
        if let Some(upstreams) = self.upstreams.get() {
            upstreams.replace(std::slice::from_ref(&self.to));
        }
        Limited::default().decide(facts, now)
    }
}

#[test]
fn a_session_leads_where_it_was_decided_that_it_may() {
    let servers = servers();
    let upstreams = Arc::new(OnceLock::new());
    let moves = Moves {
        upstreams: Arc::clone(&upstreams),
        to: at(&servers[1]),
    };
    let lab = Lab::with(at(&servers[0]), moves, |config| {
        config.protocol = Protocol::Tcp;
        assert!(upstreams.set(config.upstreams.clone()).is_ok());
    });
    open(&lab, &servers[0]);
    open(&lab, &servers[1]);
}

//! A service that leads elsewhere while it runs.
#![cfg(test)]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use curfew_gateway::protocol::Protocol;
use curfew_model::UpstreamAddress;
use curfew_testkit::Limited;
use support::{Lab, PATIENCE};

#[test]
fn new_sessions_lead_where_the_name_leads_now_and_live_ones_stay() {
    let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let at = |server: &TcpListener| UpstreamAddress::Tcp(server.local_addr().unwrap());
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
    let open = |server: &TcpListener| {
        let client = TcpStream::connect(lab.address()).unwrap();
        (client, server.accept().unwrap().0)
    };
    let (mut early, mut old) = open(&servers[0]);
    assert!(upstreams.unwrap().replace(&[at(&servers[1])]));
    let (mut late, mut new) = open(&servers[1]);
    passes(&mut late, &mut new);
    passes(&mut early, &mut old);
}

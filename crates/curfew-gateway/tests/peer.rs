//! A client on the same host is the subject that its uid is bound to: socket, inet_diag, service and engine together.
#![cfg(test)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;

use curfew_enforcer::Input;
use curfew_engine::Keeper;
use curfew_gateway::protocol::Protocol;
use curfew_model::{BindingKey, EventKind, Identity, Proof, UpstreamAddress};
use curfew_testkit::{Limited, bound};

use support::{Heard, Lab};

fn lab(upstream: &TcpListener) -> Lab {
    let address = UpstreamAddress::Tcp(upstream.local_addr().unwrap());
    Lab::with(address, Limited::default(), |config| {
        config.protocol = Protocol::Tcp;
    })
}

/// Binds a uid to alice.
fn bind(lab: &Lab, uid: u32) {
    let binding = bound(BindingKey::Uid(uid), "alice", &[]);
    lab.deadlines
        .enforcer()
        .handle(Input::BindingSet(Keeper::Config, binding))
        .unwrap();
}

fn opened(lab: &Lab) -> Option<Identity> {
    lab.wait("the opening", |heard| match heard {
        Heard::Event(event) if event.event == EventKind::SessionOpened => Some(event.subject),
        _ => None,
    })
}

fn uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn subject_with(uid: u32) -> Option<Identity> {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let lab = lab(&upstream);
    bind(&lab, uid);
    let _client = TcpStream::connect(lab.address()).unwrap();
    opened(&lab)
}

#[test]
fn a_local_client_is_the_subject_of_its_uid() {
    let subject = subject_with(uid()).unwrap();
    assert_eq!(
        (subject.id.as_str(), subject.proof),
        ("alice", Proof::Bound)
    );
}

#[test]
fn a_binding_of_another_uid_is_not_its() {
    let subject = subject_with(uid() + 1);
    assert!(
        subject.as_ref().is_none_or(|subject| subject.id != "alice"),
        "{subject:?}"
    );
}

#[test]
fn the_first_binding_by_uid_finds_whose_the_live_sessions_are() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let lab = lab(&upstream);
    let mut client = TcpStream::connect(lab.address()).unwrap();
    assert!(opened(&lab).is_none_or(|subject| subject.id != "alice"));
    client.write_all(b"x").unwrap();
    let (mut server, _) = upstream.accept().unwrap();
    server.read_exact(&mut [0]).unwrap();
    bind(&lab, uid());
    let engine_says = lab.deadlines.enforcer().look(|engine| {
        let id = engine.ids().next().unwrap();
        engine.session(id).unwrap().facts.identities
    });
    assert_eq!(engine_says.len(), 1, "{engine_says:?}");
    assert_eq!(engine_says[0].id, "alice");
}

//! A client on the same host is the subject that its uid is bound to: socket, inet_diag, service and engine together.
#![cfg(test)]

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;

use curfew_enforcer::Input;
use curfew_engine::Keeper;
use curfew_gateway::protocol::Protocol;
use curfew_model::{
    Binding, BindingKey, EventKind, Identity, Issuer, Kind, Proof, UpstreamAddress,
};
use curfew_testkit::Limited;

use support::{Heard, Lab};

fn subject_with(uid: u32) -> Option<Identity> {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = UpstreamAddress::Tcp(upstream.local_addr().unwrap());
    let lab = Lab::with(address, Limited::default(), |config| {
        config.protocol = Protocol::Tcp;
    });
    let identity = Identity {
        proof: Proof::Bound,
        kind: Kind::User,
        issuer: Issuer::local(),
        id: "alice".to_owned(),
        display: None,
    };
    let binding = Binding {
        key: BindingKey::Uid(uid),
        identity,
        groups: Vec::new(),
        until: None,
        refreshed_at: None,
    };
    lab.deadlines
        .enforcer()
        .handle(Input::BindingSet(Keeper::Config, binding))
        .unwrap();
    let _client = TcpStream::connect(lab.address()).unwrap();
    lab.wait("the opening", |heard| match heard {
        Heard::Event(event) if event.event == EventKind::SessionOpened => Some(event.subject),
        _ => None,
    })
}

#[test]
fn a_local_client_is_the_subject_of_its_uid() {
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    let subject = subject_with(uid).unwrap();
    assert_eq!(
        (subject.id.as_str(), subject.proof),
        ("alice", Proof::Bound)
    );
}

#[test]
fn a_binding_of_another_uid_is_not_its() {
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    let subject = subject_with(uid + 1);
    assert!(
        subject.as_ref().is_none_or(|subject| subject.id != "alice"),
        "{subject:?}"
    );
}

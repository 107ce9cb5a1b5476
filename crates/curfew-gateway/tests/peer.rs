//! A client on the same host is the subject that its uid is bound to: socket, inet_diag, service and engine together.
#![cfg(test)]

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;

use curfew_enforcer::Input;
use curfew_engine::Keeper;
use curfew_gateway::protocol::Protocol;
use curfew_model::{BindingKey, EventKind, Identity, Proof, UpstreamAddress};
use curfew_testkit::{Limited, bound};

use support::{Heard, Lab};

fn subject_with(uid: u32) -> Option<Identity> {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = UpstreamAddress::Tcp(upstream.local_addr().unwrap());
    let lab = Lab::with(address, Limited::default(), |config| {
        config.protocol = Protocol::Tcp;
    });
    let binding = bound(BindingKey::Uid(uid), "alice", &[]);
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

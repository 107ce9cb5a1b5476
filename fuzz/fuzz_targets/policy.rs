//! Policy documents: no text panics or hangs. It is read, compiled, decided by and explained; every problem has a place
//! in the text and shows its line.
#![no_main]

use std::{collections::BTreeMap, net::SocketAddr};

use curfew_model::{BootInstant, Facts, Identity, Issuer, Kind, Now, Proof, Revision, ServiceName, Target,     WallInstant, UpstreamAddress};
use curfew_policy::{Decide, Problem, compile, load};
use libfuzzer_sys::fuzz_target;

const NOW: Now = Now {
    boot: BootInstant(1_000_000_000),
    wall: WallInstant(1_795_521_600_000),
};

/// Someone who connects to `service` and `target`, with an identity of each kind or none.
fn facts(client: &str, service: Option<&str>, target: Option<&str>, kinds: &[Kind]) -> Facts {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let identity = |kind: &Kind| Identity {
        proof: Proof::Bound,
        kind: *kind,
        issuer: Issuer::local(),
        id: "alice".to_owned(),
        display: None,
    };
    let mut identities: Vec<Identity> = kinds.iter().map(identity).collect();
    identities.sort();
    Facts {
        identities,
        groups: vec!["dba".to_owned()],
        device: None,
        attributes: BTreeMap::from([("subject.risk".to_owned(), "low".to_owned())]),
        client: address(client),
        target: Target {
            service: service.map(|name| ServiceName::new(name).unwrap()),
            upstreams: target.map(address).map(UpstreamAddress::Tcp).into_iter().collect(),
        },
        opened_at: NOW.boot,
        proved_at: None,
        credential_until: None,
        binding_until: None,
        ambiguous: false,
    }
}

fn hold(problem: &Problem) {
    assert_eq!(
        problem.place.excerpt.is_some(),
        problem.place.line > 0,
        "{problem}"
    );
}

fuzz_target!(|text: &str| {
    let loaded = load([("fuzz.yaml", text)]);
    let wrong = loaded.has_errors();
    loaded.problems.iter().for_each(hold);
    let set = match compile(loaded.documents, Revision(1)) {
        Ok(set) => set,
        Err(problems) => {
            assert!(!problems.is_empty());
            problems.iter().for_each(hold);
            return;
        }
    };
    if wrong {
        return;
    }
    for facts in [
        facts("127.0.0.1:1", Some("db"), None, &[]),
        facts(
            "192.0.2.1:1",
            Some("db"),
            Some("10.0.0.1:5432"),
            &[Kind::User],
        ),
        facts(
            "[2001:db8::1]:1",
            None,
            Some("10.0.0.1:5432"),
            &[Kind::Workload, Kind::Role],
        ),
        facts(
            "10.0.0.1:1",
            Some("payments-db"),
            Some("[2001:db8::2]:80"),
            &[Kind::Device],
        ),
    ] {
        assert_eq!(set.decide(&facts, NOW), set.decide(&facts, NOW));
        assert!(!set.explain(&facts, NOW).to_string().is_empty());
    }
});

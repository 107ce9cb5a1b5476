//! Sessions that ended, against the real thing: what is still known of one, that it counts as open nowhere, and what it
//! means for the next one.
#![cfg(test)]

mod support;

use std::net::Shutdown;

use curfew_model::Revocation;
use curfew_state::{Change, EmbeddedStore, Expected, Store as _};
use serde_json::{Value, json};
use support::{
    Ran, curfew,
    site::{Site, policy},
};

/// What `look` finds, once it does.
fn wait<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let found = (0..5_000).find_map(|_| look());
    found.unwrap_or_else(|| panic!("{what} does not come"))
}

/// The first session that ended.
fn ended(site: &Site) -> Value {
    wait("an ended session", || {
        let list = ["sessions", "list", "--state", "ended", "--output", "json"];
        site.curfew(&list)
            .json()
            .as_array()
            .unwrap()
            .first()
            .cloned()
    })
}

/// The first record of this kind, once it is on disk.
fn record(site: &Site, event: &str) -> Value {
    let audit = site.path("data/audit");
    wait(event, || {
        let export = Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()]));
        let line = export.out.lines().find(|line| line.contains(event))?;
        serde_json::from_str(line).unwrap()
    })
}

#[test]
fn an_ended_session_says_when_why_and_how_late() {
    let site = Site::start("");
    std::fs::write(site.path("policy/p.yaml"), policy("1500ms")).unwrap();
    let policy = site.path("policy");
    let applied = site.curfew(&["policy", "apply", policy.to_str().unwrap()]);
    assert_eq!(applied.code, 0, "{applied:?}");
    let mut client = site.open("127.0.0.1");
    let id = site.sessions()[0]["id"].clone();
    assert!(client.is_ended());
    let session = ended(&site);
    assert_eq!(
        (&session["id"], &session["state"], &session["reason"]),
        (&id, &json!("ended"), &json!("lifetime_expired"))
    );
    assert!(session["late_us"].is_u64(), "{session}");
    let cause = session["cause"].as_str().unwrap();
    assert!(cause.contains("SessionPolicy/dba"), "{cause}");
    let id = id.as_str().unwrap();
    let shown = site.curfew(&["sessions", "show", id]).out;
    for part in ["ended  ", "lifetime_expired", "µs after its deadline"] {
        assert!(shown.contains(part), "{part} is missing: {shown}");
    }
    assert!(!shown.contains("(due)"), "{shown}");
    let explained = site.curfew(&["sessions", "explain", id]).out;
    assert!(
        explained.starts_with("The session ended at ")
            && explained.contains("with lifetime_expired, ")
            && explained.contains("spec.limits.maxLifetime"),
        "{explained}"
    );
    // The record says the same.
    let record = record(&site, "session.ended");
    assert_eq!(record["at"], session["ended_at"]);
    assert_eq!(record["cause"], session["cause"]);
    let detail = &record["detail"];
    for figure in ["late_us", "bytes_in", "bytes_out"] {
        assert!(
            detail[figure].is_u64() && detail[figure] == session[figure],
            "{figure}"
        );
    }
    // The record of the opening says who came from where, and where to.
    let opened = self::record(&site, "session.opened");
    for fact in ["client", "service", "upstream"] {
        assert_eq!(opened["detail"][fact], session[fact], "{fact}");
    }
    // And under which rules it was let in.
    assert_eq!(opened["detail"]["policies"], "dba");
    // To the second: instants on the wall clock are made anew for each answer.
    let second = |value: &Value| value.as_str().unwrap()[..19].to_owned();
    let expires = second(&opened["detail"]["expires_at"]);
    assert!(expires <= second(&record["at"]), "{opened}");
}

#[test]
fn what_ended_counts_as_open_nowhere() {
    let site = Site::start("");
    let client = site.open("127.0.0.1");
    let bob = site.open("127.0.0.2");
    client.shut(Shutdown::Both);
    let session = ended(&site);
    assert_eq!(
        (&session["reason"], &session["late_us"]),
        (&json!("closed_by_client"), &Value::Null)
    );
    assert_eq!(
        (&session["bytes_in"], &session["bytes_out"]),
        (&json!(5), &json!(5))
    );
    let living = site.sessions();
    assert_eq!(living.len(), 1);
    assert_eq!(living[0]["subject"]["id"], "bob");
    let all = ["sessions", "list", "--state", "all", "--output", "json"];
    assert_eq!(site.curfew(&all).json().as_array().unwrap().len(), 2);
    let enforcers = ["enforcers", "list", "--output", "json"];
    assert_eq!(site.curfew(&enforcers).json()[0]["open"], 1);
    let id = session["id"].as_str().unwrap();
    let cancel = site.curfew(&["sessions", "cancel", id]);
    assert_eq!(cancel.code, 1);
    let words = ["is not open: The session ended at ", "closed_by_client"];
    let says = words.iter().all(|word| cancel.err.contains(word));
    assert!(says, "{}", cancel.err);
    let unknown = site.curfew(&["sessions", "list", "--segment", "ehco"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (0, "no sessions\n"));
    let says = unknown.err.contains("no segment `ehco` in the policy");
    assert!(says, "{}", unknown.err);
    drop(bob);
}

#[test]
fn the_id_that_a_refused_client_was_told_says_why() {
    let site = Site::start("");
    let order = ["revoke", "--user", "alice", "--reason", "left the company"];
    assert_eq!(site.curfew(&order).code, 0);
    assert!(!site.connect("127.0.0.1").echoes());
    let list = ["sessions", "list", "--state", "refused", "--output", "json"];
    let refused = &site.curfew(&list).json()[0];
    assert_eq!(
        (&refused["state"], &refused["reason"]),
        (&json!("refused"), &json!("subject_revoked"))
    );
    let explain = ["sessions", "explain", refused["id"].as_str().unwrap()];
    let explained = site.curfew(&explain).out;
    assert!(
        explained.starts_with("The session was refused at ")
            && explained.contains("with subject_revoked")
            && explained.contains("left the company"),
        "{explained}"
    );
    // It never was one.
    let all = ["sessions", "list", "--state", "all", "--output", "json"];
    assert_eq!(site.curfew(&all).json(), json!([]));
}

#[test]
fn who_has_no_identity_waits_after_an_end_by_lifetime_though_the_process_is_killed() {
    let mut site = Site::start("");
    let anyone = policy("1s, reconnect: 60s").replace("{groups: [dba]}", "{anyone: true}");
    std::fs::write(site.path("policy/p.yaml"), anyone).unwrap();
    let path = site.path("policy");
    let applied = site.curfew(&["policy", "apply", path.to_str().unwrap()]);
    assert_eq!(applied.code, 0, "{applied:?}");
    let revision = |site: &Site| {
        let listed = site.curfew(&["enforcers", "list", "--output", "json"]);
        listed.json()[0]["revision"].as_u64().unwrap()
    };
    let before = revision(&site);
    let mut client = site.open("127.0.0.3");
    let address =
        json!({"proof": "asserted", "kind": "address", "issuer": "local", "id": "127.0.0.3"});
    assert_eq!(site.sessions()[0]["subject"], address);
    assert_eq!(site.sessions()[0]["identities"], json!([]));
    assert!(client.is_ended());
    assert!(!site.connect("127.0.0.3").echoes());
    wait("the end in the state", || {
        (revision(&site) > before).then_some(())
    });
    site.restart();
    assert!(!site.connect("127.0.0.3").echoes(), "a restart lets it in");
    site.open("127.0.0.4");
    let refused = record(&site, "session.refused");
    assert_eq!(refused["reason"], "lifetime_expired");
}

#[test]
fn what_an_ordered_end_cut_off_is_known_to_the_last_byte() {
    let site = Site::start("");
    let mut client = site.open("127.0.0.1");
    let id = site.sessions()[0]["id"].as_str().unwrap().to_owned();
    assert!(client.echoes());
    assert_eq!(site.curfew(&["sessions", "cancel", &id]).code, 0);
    let shown = || site.curfew(&["sessions", "show", &id, "--output", "json"]);
    let whole =
        |session: &Value| (&session["bytes_in"], &session["bytes_out"]) == (&json!(10), &json!(10));
    wait("the last byte", || Some(shown().json()).filter(whole));
}

#[test]
fn what_is_in_force_without_a_record_is_put_on_record_by_the_next_start_once() {
    let mut site = Site::start("");
    let told = ["revoke", "--user", "bob", "--reason", "on record"];
    assert_eq!(site.curfew(&told).code, 0);
    // As if it had died between the two disks.
    site.restart_after(|folder| {
        let store = EmbeddedStore::open(&folder.join("data")).unwrap();
        let order = Revocation {
            reason: "left the company".to_owned(),
            ..store.read().revocations.values().next().unwrap().clone()
        };
        let order = Revocation {
            id: "0192e4a0-0000-7000-8000-000000000001".parse().unwrap(),
            ..order
        };
        store
            .commit(Expected::Nothing, &[Change::Revoke(order)])
            .unwrap();
    });
    site.restart();
    let audit = site.path("data/audit");
    let export = Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()]));
    let records: Vec<Value> = export
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|record: &Value| record["event"] == "revocation.created")
        .collect();
    let causes: Vec<&str> = records
        .iter()
        .map(|r| r["cause"].as_str().unwrap())
        .collect();
    assert_eq!(causes.len(), 2, "{causes:?}");
    assert!(causes[0].ends_with("on record"), "{causes:?}");
    assert!(
        causes[1].contains("left the company; found at the start"),
        "{causes:?}"
    );
    let verified = Ran::of(&mut curfew(&["audit", "verify", audit.to_str().unwrap()]));
    assert_eq!(verified.code, 0, "{verified:?}");
}

//! The command line against the real thing: `curfew run` with live TCP sessions. What is typed, what becomes of the
//! connections, and which exit code a script sees.
#![cfg(test)]

mod support;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use support::{
    Ran, curfew, secret,
    site::{PATIENCE, Site},
};

#[test]
fn a_session_is_listed_explained_and_cancelled() {
    let site = Site::start("");
    let mut client = site.open("127.0.0.1");
    let sessions = site.sessions();
    let session = &sessions[0];
    for field in [
        "id",
        "subject",
        "identities",
        "segments",
        "service",
        "door",
        "enforcer",
        "state",
        "client",
        "upstream",
        "opened_at",
        "expires_at",
        "idle_deadline",
        "reauth_by",
        "bytes_in",
        "bytes_out",
        "policies",
    ] {
        assert!(
            session.get(field).is_some(),
            "{field} is missing: {session}"
        );
    }
    assert_eq!(
        (sessions.len(), &session["segments"], &session["state"]),
        (1, &json!(["echo"]), &json!("open"))
    );
    assert_eq!(
        (&session["bytes_in"], &session["bytes_out"]),
        (&json!(5), &json!(5))
    );
    let id = session["id"].as_str().unwrap();
    let table = site
        .curfew(&[
            "sessions",
            "list",
            "--subject",
            "user:alice",
            "--state",
            "open",
            "--door",
            "gateway",
        ])
        .out;
    let row = table.lines().nth(1).unwrap();
    assert!(
        row.starts_with(id) && row.contains("user:alice") && row.contains("m"),
        "{table}"
    );
    assert_eq!(
        site.curfew(&["sessions", "list", "--subject", "user:bob"])
            .out,
        "no sessions\n"
    );
    let nameless = site.curfew(&["sessions", "list", "--subject", "alice"]);
    assert_eq!(nameless.code, 1, "{nameless:?}");
    assert!(nameless.err.contains("like user:alice"), "{nameless:?}");
    let explained = site.curfew(&["sessions", "explain", id]).out;
    assert!(
        explained.contains("spec.limits.maxLifetime") && explained.contains("p.yaml:"),
        "{explained}"
    );
    let cancelled = site.curfew(&["sessions", "cancel", id, "--reason", "maintenance"]);
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    assert!(
        cancelled
            .out
            .starts_with(&format!("session {id} is closed after ")),
        "{cancelled:?}"
    );
    assert!(client.is_ended());
    assert_eq!(site.sessions(), Vec::<Value>::new());
    let again = site.curfew(&["sessions", "cancel", id]);
    assert_eq!(again.code, 1);
    assert!(
        again.err.contains("is not open") && again.err.contains("(not_found)"),
        "{}",
        again.err
    );
}

#[test]
fn a_revoked_user_stays_out_until_the_block_is_lifted() {
    let site = Site::start("");
    let mut alice = [site.open("127.0.0.1"), site.open("127.0.0.1")];
    let mut bob = site.open("127.0.0.2");
    let revoke = [
        "revoke",
        "--user",
        "alice",
        "--reason",
        "left the company",
        "--wait",
        "5s",
        "--output",
        "json",
    ];
    let revoked = site.curfew(&revoke);
    assert_eq!(revoked.code, 0, "{revoked:?}");
    let order = revoked.json();
    assert_eq!(
        (&order["matched"], &order["closed"], &order["unreachable"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert!(alice.iter_mut().all(|client| client.is_ended()));
    assert!(bob.echoes());
    assert!(!site.connect("127.0.0.1").echoes(), "alice is let in");
    let id = order["id"].as_str().unwrap();
    let list = || site.curfew(&["revocations", "list", "--blocking"]).out;
    assert!(
        list().contains(id) && list().contains("user:alice") && list().contains("left the company"),
        "{}",
        list()
    );
    let shown = site.curfew(&["revocations", "show", id]).out;
    assert!(
        shown.contains("kept out until lifted") && shown.contains("done"),
        "{shown}"
    );
    assert_eq!(site.curfew(&["revocations", "lift", id]).code, 0);
    assert_eq!(list(), "no revocations\n");
    site.open("127.0.0.1");
    let all = site.curfew(&["revoke", "--all", "--yes", "--reason", "drill"]);
    assert_eq!(all.code, 0);
    assert!(
        all.out.contains("of all\nnew sessions: let in\n"),
        "{}",
        all.out
    );
    assert!(bob.is_ended());
}

#[test]
fn who_is_bound_with_an_issuer_is_revoked_by_the_name_that_is_shown() {
    let carol = "- {address: 127.0.0.3, user: 'https://idp.example.org#carol', groups: [dba]}\n";
    let site = Site::start_with("", carol);
    let mut client = site.open("127.0.0.3");
    let shown = site.curfew(&["sessions", "list"]).out;
    let name = "https://idp.example.org#carol";
    assert!(shown.contains(&format!("user:{name}")), "{shown}");
    let revoked = site.curfew(&["revoke", "--user", name, "--reason", "left"]);
    assert_eq!(revoked.code, 0, "{revoked:?}");
    assert!(client.is_ended());
}

#[test]
fn bindings_and_subjects_are_made_and_unmade() {
    let site = Site::start("");
    assert!(!site.connect("127.0.0.3").echoes(), "a stranger is let in");
    let bind = [
        "bindings",
        "set",
        "--address",
        "127.0.0.3",
        "--user",
        "carol",
        "--group",
        "dba",
        "--until",
        "2099-01-01T00:00:00Z",
    ];
    let bound = site.curfew(&bind);
    assert_eq!(bound.code, 0, "{bound:?}");
    let mut carol = site.open("127.0.0.3");
    let listed = site.curfew(&["bindings", "list"]).out;
    assert!(
        listed.contains("address 127.0.0.3/32  user:carol  dba     2099-01-01 00:00"),
        "{listed}"
    );
    let id = site.sessions()[0]["id"].as_str().unwrap().to_owned();
    // Set again, it is fresh proof, and its sessions have it at once.
    assert_eq!(site.curfew(&bind).code, 0);
    let renewed = site.curfew(&["sessions", "renew", &id]);
    assert_eq!(renewed.code, 0, "{renewed:?}");
    let renewed = site.curfew(&["sessions", "renew", &id]);
    assert!(renewed.err.contains("(proof_required)"), "{renewed:?}");
    let removed = site.curfew(&["bindings", "remove", "--address", "127.0.0.3"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(carol.is_ended());
    let set = site.curfew(&[
        "subjects",
        "set",
        "user:carol",
        "--group",
        "dba",
        "--attribute",
        "subject.risk=low",
    ]);
    assert_eq!(set.code, 0, "{set:?}");
    let subjects = site.curfew(&["subjects", "list"]).out;
    assert!(
        subjects.contains("user:carol  dba     subject.risk=low"),
        "{subjects}"
    );
    assert_eq!(site.curfew(&["subjects", "forget", "user:carol"]).code, 0);
    let gone = site.curfew(&["subjects", "forget", "user:carol"]);
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("(not_found)"), "{}", gone.err);
    let enforcers = site
        .curfew(&["enforcers", "list", "--output", "json"])
        .json();
    assert_eq!(enforcers[0]["doors"], json!(["gateway"]));
}

#[test]
fn a_renewal_without_proof_is_refused_in_words() {
    let site = Site::start("");
    let _client = site.open("127.0.0.1");
    let id = site.sessions()[0]["id"].as_str().unwrap().to_owned();
    let renewed = site.curfew(&["sessions", "renew", &id]);
    assert_eq!(renewed.code, 1);
    assert!(
        renewed.err.contains("A renewal needs fresh proof")
            && renewed.err.contains("(proof_required)"),
        "{}",
        renewed.err
    );
}

#[test]
fn a_watch_tells_of_an_end_as_it_happens() {
    let site = Site::start("");
    let mut watch = site
        .command("http", &["sessions", "watch", "--output", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(watch.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    // It watches from some moment on: sessions are opened until it has seen one open.
    let mut client = loop {
        let client = site.open("127.0.0.1");
        let event = lines.recv_timeout(Duration::from_millis(500));
        if event.is_ok_and(|event| event["event"] == "session.opened") {
            break client;
        }
    };
    let revoked = site.curfew(&["revoke", "--user", "alice", "--reason", "watched"]);
    assert_eq!(revoked.code, 0);
    assert!(client.is_ended());
    let ended = loop {
        let event = lines.recv_timeout(PATIENCE).unwrap();
        if event["reason"] == "subject_revoked" {
            break event;
        }
    };
    assert_eq!(
        (&ended["event"], &ended["subject"]["id"]),
        (&json!("session.ended"), &json!("alice"))
    );
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_token_that_is_not_known_is_named_by_where_it_is_from() {
    let site = Site::start("");
    let file = secret(&site.path("token"), "curfew_0");
    let ran = site.curfew(&["sessions", "list", "--token-file", file.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("(unauthenticated)")
            && ran
                .err
                .contains(&format!("the token is from {}", file.display())),
        "{}",
        ran.err
    );
}

#[test]
fn top_has_what_ends_first_on_top() {
    let site = Site::start("");
    let bind = [
        "bindings",
        "set",
        "--address",
        "127.0.0.3",
        "--user",
        "carol",
        "--group",
        "dba",
        "--until",
    ];
    let soon = ["2099-01-01T00:00:00Z", "--wait", "1s"];
    assert_eq!(site.curfew(&[&bind[..], &soon].concat()).code, 0);
    let mut clients = [
        site.open("127.0.0.1"),
        site.open("127.0.0.3"),
        site.open("127.0.0.2"),
    ];
    // The first that was opened is the last to be idle.
    assert!(clients[0].echoes());
    let top = site.curfew(&["top"]);
    assert_eq!(top.code, 0, "{top:?}");
    assert!(
        top.out.contains("(gateway) 3 open, revision") && !top.out.contains('\u{1b}'),
        "{}",
        top.out
    );
    let sessions = site.curfew(&["top", "--output", "json"]).json()["sessions"].clone();
    let idle = |index: usize| {
        sessions[index]["idle_deadline"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(idle(0) <= idle(1) && idle(1) <= idle(2), "{sessions}");
}

#[test]
fn a_made_token_opens_what_its_role_may_until_it_is_removed() {
    let site = Site::start("");
    let create = ["tokens", "create", "dashboard", "--role", "viewer"];
    let made = site.curfew(&create);
    assert_eq!(made.code, 0, "{made:?}");
    let token = made.out.trim_end().to_owned();
    assert!(made.err.contains("not shown again"), "{}", made.err);
    let as_viewer = |args: &[&str]| Ran::of(site.command("http", args).env("CURFEW_TOKEN", &token));
    assert_eq!(as_viewer(&["sessions", "list"]).code, 0);
    let revoke = as_viewer(&["revoke", "--user", "alice", "--reason", "x"]);
    assert_eq!(revoke.code, 1);
    assert!(revoke.err.contains("(forbidden)"), "{}", revoke.err);
    let listed = site.curfew(&["tokens", "list"]).out;
    assert!(
        listed.contains("dashboard  viewer") && !listed.contains(&token),
        "{listed}"
    );
    assert!(site.curfew(&create).err.contains("(conflict)"));
    assert_eq!(site.curfew(&["tokens", "remove", "dashboard"]).code, 0);
    assert!(
        as_viewer(&["sessions", "list"])
            .err
            .contains("the token is from CURFEW_TOKEN")
    );
}

/// In this folder a certificate for 127.0.0.1 that signs itself, and the configuration that names it and its key.
fn self_signed(folder: &Path, is_ca: IsCa) -> (PathBuf, String) {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = is_ca;
    let signing = KeyPair::generate().unwrap();
    let (certificate, key) = (folder.join("api.pem"), folder.join("api.key"));
    std::fs::write(&certificate, params.self_signed(&signing).unwrap().pem()).unwrap();
    secret(&key, &signing.serialize_pem());
    let tls = format!(
        ", tls: {{certificate: '{}', key: '{}'}}",
        certificate.display(),
        key.display()
    );
    (certificate, tls)
}

#[test]
fn a_certificate_that_is_an_authoritys_is_told_from_one_of_a_stranger() {
    let folder = tempfile::tempdir().unwrap();
    let any = IsCa::Ca(BasicConstraints::Unconstrained);
    let (certificate, tls) = self_signed(folder.path(), any);
    let site = Site::start(&tls);
    let list = [
        "sessions",
        "list",
        "--ca-file",
        certificate.to_str().unwrap(),
    ];
    let ran = Ran::of(&mut site.command("https", &list));
    assert_eq!(ran.code, 1);
    let help = "-addext basicConstraints=critical,CA:FALSE -addext subjectAltName";
    assert!(ran.err.contains(help), "{}", ran.err);
}

#[test]
fn a_server_with_tls_has_to_be_vouched_for() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, tls) = self_signed(folder.path(), IsCa::NoCa);
    let site = Site::start(&tls);
    let list = |scheme: &str, more: &[&str]| {
        Ran::of(&mut site.command(scheme, &[&["sessions", "list"], more].concat()))
    };
    let trusted = list("https", &["--ca-file", certificate.to_str().unwrap()]);
    assert_eq!(
        (trusted.code, trusted.out.as_str()),
        (0, "no sessions\n"),
        "{trusted:?}"
    );
    // A configuration on this machine is enough: its address, its certificate, its token.
    let config = site.path("client.yaml");
    let text = format!(
        "data_dir: data\ncontrol: {{listen: '{}'{tls}}}\npolicy: {{path: policy}}\ngateway: {{services: [{{name: a, listen: '127.0.0.1:0', upstream: 'a:1'}}]}}\n",
        site.control
    );
    std::fs::write(&config, text).unwrap();
    let ran = Ran::of(curfew(&["sessions", "list", "-c"]).arg(&config));
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "no sessions\n"),
        "{ran:?}"
    );
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let wrong = folder.path().join("other.pem");
    std::fs::write(&wrong, other.cert.pem()).unwrap();
    let stranger = list("https", &["--ca-file", wrong.to_str().unwrap()]);
    assert_eq!(stranger.code, 1);
    assert!(
        stranger.err.contains("cannot be trusted") && stranger.err.contains("--ca-file"),
        "{}",
        stranger.err
    );
    assert_eq!(list("http", &[]).code, 1);
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let nothing = list("https", &["--ca-file", empty.to_str().unwrap()]);
    assert!(
        nothing.err.contains("it holds no certificate"),
        "{}",
        nothing.err
    );
}

#[test]
fn a_key_that_is_written_wider_or_narrower_leaves_the_sessions_of_its_user_alone() {
    let site = Site::start("");
    let mut alice = site.open("127.0.0.1");
    let mut bob = site.open("127.0.0.2");
    let config = site.path("curfew.yaml");
    let narrow = std::fs::read_to_string(&config).unwrap();
    let wide = narrow.replace("address: 127.0.0.1,", "address: 127.0.0.0/31,");
    assert_ne!(wide, narrow);
    let nobody = wide.replace("address: 127.0.0.2,", "address: 127.0.0.9,");
    for written in [&wide, &narrow, &nobody] {
        std::fs::write(&config, written).unwrap();
        site.signal("HUP");
        site.logged("reloaded");
        assert!(alice.echoes());
    }
    assert!(bob.is_ended(), "his key is gone");
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = Ran::of(&mut curfew(&["completions", shell]));
        assert_eq!(ran.code, 0);
        for word in ["revoke", "sessions", "explain", "--reason", "completions"] {
            assert!(
                ran.out.contains(word.trim_start_matches("--")),
                "{shell}: {word}"
            );
        }
    }
}

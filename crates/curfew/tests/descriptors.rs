//! When clients take all descriptors that they may: operators still get through.
#![cfg(test)]

mod support;

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Command, Stdio},
};

use serde_json::Value;
use support::{
    Ran, curfew,
    site::{Running, leads_nowhere},
};

const FILES: usize = 120;

#[test]
fn an_operator_gets_through_when_clients_have_taken_all_descriptors_that_they_may() {
    let folder = tempfile::tempdir().unwrap();
    // Clients that say nothing hold one descriptor each, for as long as they may.
    let more = ", protocol: postgres, handshake_timeout: 1h";
    let config = leads_nowhere(folder.path(), more);
    let few = format!("ulimit -n {FILES} && exec \"$0\" run --log json -c \"$1\"");
    let server = Command::new("sh")
        .args(["-c", &few, env!("CARGO_BIN_EXE_curfew")])
        .arg(&config)
        .stderr(Stdio::piped())
        .spawn();
    let mut server = Running(server.unwrap());
    let stderr = BufReader::new(server.0.stderr.take().unwrap());
    // Kept until the end, so that the server never writes into a closed pipe.
    let mut lines = stderr.lines();
    let mut address = |name: &str| {
        let found = lines.find_map(|line| {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let fields = &line["fields"];
            let is_this = fields["message"] == "listening" && fields["service"] == name;
            is_this.then(|| fields["address"].as_str().unwrap().to_owned())
        });
        found.unwrap()
    };
    let (address, control) = (address("echo"), address("control"));
    let _clients: Vec<TcpStream> = (0..2 * FILES)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    let token = folder.path().join("data/admin.token");
    let mut revoke = curfew(&["revoke", "--user", "alice", "--reason", "left"]);
    revoke.args(["--server", &format!("http://{control}"), "--token-file"]);
    let revoked = Ran::of(revoke.arg(token));
    assert_eq!(revoked.code, 0, "{}", revoked.err);
}

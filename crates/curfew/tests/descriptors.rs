//! When clients take all descriptors that they may: operators still get through.
#![cfg(test)]

mod support;

use std::{
    io::{BufRead, BufReader, Read as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use support::{
    Ran, curfew,
    site::{Running, leads_nowhere},
};

const FILES: usize = 120;
/// Those of them that no client may take.
const KEPT: usize = 30;
/// Much sooner than a head that does not come is given up.
const SOON: Duration = Duration::from_secs(5);

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
    // Those of the API that show no token leave some to the log and the state: the next takes the place of the oldest.
    let connect = |_| TcpStream::connect(&control).unwrap();
    let mut strangers: Vec<TcpStream> = (0..KEPT - 4).map(connect).collect();
    strangers[0].set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(strangers[0].read(&mut [0]).unwrap(), 0);
    // And many at once keep nobody out.
    strangers.extend((0..FILES).map(connect));
    let token = folder.path().join("data/admin.token");
    let mut revoke = curfew(&["revoke", "--user", "alice", "--reason", "left"]);
    revoke.args(["--server", &format!("http://{control}"), "--token-file"]);
    let revoked = Ran::of(revoke.arg(token));
    assert_eq!(revoked.code, 0, "{}", revoked.err);
}

//! A service whose upstream is a Unix socket: that its path is named wherever a session is shown.
#![cfg(test)]

mod support;

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
};

use serde_json::Value;

use support::{Ran, curfew, site::Site};

#[test]
fn the_path_of_the_socket_is_shown_and_recorded() {
    let mut site = Site::start("");
    let path = site.path("upstream.sock");
    let path = path.to_str().unwrap();
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&hello).unwrap();
        let _ = stream.read(&mut hello);
    });
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let (before, rest) = config.split_once("upstream: '").unwrap();
    let (_, after) = rest.split_once('\'').unwrap();
    let config = format!("{before}upstream: 'unix:{path}'{after}");
    std::fs::write(site.path("curfew.yaml"), config).unwrap();
    site.restart();

    let _client = site.open("127.0.0.1");
    let sessions = site.sessions();
    assert_eq!(sessions[0]["upstream"], path);
    let id = sessions[0]["id"].as_str().unwrap();
    for shown in ["show", "explain"] {
        let shown = site.curfew(&["sessions", shown, id]);
        assert!(shown.out.contains(path), "{shown:?}");
    }
    let log = site.path("data/audit");
    let exported = Ran::of(&mut curfew(&["audit", "export", log.to_str().unwrap()]));
    let mut records = exported
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let opened = records.find(|record| record["event"] == "session.opened");
    assert_eq!(opened.unwrap()["detail"]["upstream"], path);
}

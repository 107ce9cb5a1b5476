//! What is said of a PostgreSQL server's work, against a real one: any messages in any order, and what it then does.
#![cfg(test)]

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use curfew_gateway::postgres::frames::Conversation;
use curfew_model::Clock;
use curfew_testkit::BootClock;
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use support::{
    PATIENCE,
    server::server,
    wire::{Wire, frame, query, startup},
};

/// Looks in a row at which a server that waits has taken all that was sent.
const LOOKS: u32 = 8;
/// How long a query lasts that is to be seen at work.
const LONG: &str = "select pg_sleep(600)";

const NAMES: &[&str] = &[
    "parse",
    "parse nothing",
    "parse copy",
    "parse rubbish",
    "bind",
    "describe",
    "describe statement",
    "execute",
    "close",
    "sync",
    "long sync",
    "flush",
    "long flush",
    "select",
    "two",
    "nothing",
    "fail",
    "begin",
    "copy in",
    "copy in and on",
    "copy out",
    "row",
    "bad row",
    "done",
    "give up",
    "call",
];

/// Those around a COPY from the client, where it is hardest to tell.
const COPYING: &[&str] = &[
    "parse copy",
    "bind",
    "execute",
    "sync",
    "copy in",
    "row",
    "bad row",
    "done",
    "parse rubbish",
    "select",
];

/// A message of the client, by its name.
fn message(name: &str) -> Vec<u8> {
    let parse = |sql: &str| frame(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    match name {
        "parse" => parse("select 1"),
        "parse nothing" => parse(""),
        "parse copy" => parse("copy t from stdin"),
        "parse rubbish" => parse("rubbish"),
        "bind" => frame(b'B', &[0; 8]),
        "describe" => frame(b'D', b"P\0"),
        "describe statement" => frame(b'D', b"S\0"),
        "execute" => frame(b'E', &[0; 5]),
        "close" => frame(b'C', b"P\0"),
        "sync" => frame(b'S', b""),
        "long sync" => frame(b'S', &[0]),
        "flush" => frame(b'H', b""),
        "long flush" => frame(b'H', &[0]),
        "select" => query("select 1"),
        "two" => query("select 1; select 2"),
        "nothing" => query(""),
        "fail" => query("select 1/0"),
        "begin" => query("begin"),
        "copy in" => query("copy t from stdin"),
        "copy in and on" => query("copy t from stdin; select 1"),
        "copy out" => query("copy t to stdout"),
        "row" => frame(b'd', b"1\n"),
        "bad row" => frame(b'd', b"x\n"),
        "done" => frame(b'c', b""),
        "give up" => frame(b'f', b"no\0"),
        "call" => frame(b'F', &[0; 14]),
        name => panic!("{name}"),
    }
}

/// What a server is about.
#[derive(Debug, PartialEq, Eq)]
enum Server {
    Waits,
    Works,
    /// It lost track of the messages itself.
    Left,
}

/// A session of the test's own, followed as the relay does.
struct Followed {
    stream: TcpStream,
    talk: Conversation,
    pid: u32,
}

impl Followed {
    fn log_in(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut followed = Self {
            stream,
            talk: Conversation::default(),
            pid: 0,
        };
        let hello = startup("postgres", "followed");
        followed.stream.write_all(&hello).unwrap();
        while followed.talk.transaction().is_none() {
            followed.read();
        }
        let request = followed.talk.key().unwrap().request();
        followed.pid = u32::from_be_bytes(request[8..12].try_into().unwrap());
        followed
    }

    fn send(&mut self, bytes: &[u8]) {
        self.talk.scan_client(bytes).unwrap();
        // A server that has left shows when it is looked at.
        let _ = self.stream.write_all(bytes);
    }

    /// Reads what there is; false when there is nothing.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(read) => {
                self.talk.scan_server(&buffer[..read]).unwrap();
                read > 0
            }
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(
                    kind,
                    ErrorKind::WouldBlock | ErrorKind::ConnectionReset
                ));
                false
            }
        }
    }

    /// Takes in what the server says, until what is said of it holds: it waits, for some looks in a row, or it works.
    fn settle(&mut self, observer: &mut Wire) -> Server {
        let sql = format!(
            "select coalesce(wait_event, 'none') from pg_stat_activity where pid = {}",
            self.pid
        );
        let give_up = BootClock.now().boot.after(PATIENCE);
        let mut rested = 0;
        while rested < LOOKS {
            assert!(
                BootClock.now().boot < give_up,
                "it waits for its client, and is said to work"
            );
            let seen = ask(observer, &sql);
            self.read_all();
            match seen.as_deref() {
                Some("ClientRead") if !self.talk.busy() => rested += 1,
                Some("PgSleep") => return Server::Works,
                None => return Server::Left,
                Some(_) => rested = 0,
            }
        }
        Server::Waits
    }

    fn read_all(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        while self.read() {}
        self.stream.set_nonblocking(false).unwrap();
    }
}

/// The only field that a query gives.
fn ask(observer: &mut Wire, sql: &str) -> Option<String> {
    observer.query(sql);
    let mut found = None;
    loop {
        let (kind, text) = observer.next().unwrap();
        match kind {
            // The count of fields, and the length of the first.
            b'D' => found = text.get(6..).map(str::to_owned),
            b'Z' => return found,
            _ => {}
        }
    }
}

/// So many, or as many as the environment asks for.
fn cases(few: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(few),
    }
}

#[test]
fn a_server_that_waits_is_never_said_to_work_and_one_that_works_is_never_said_to_wait() {
    let (server, _) = server();
    let groups = |names| vec(vec(select(names), 1..6), 1..4);
    let groups = prop_oneof![groups(NAMES), groups(COPYING)];
    let config = ProptestConfig {
        failure_persistence: None,
        ..cases(300)
    };
    let tested = TestRunner::new(config).run(&groups, |groups| {
        let (mut observer, _) = Wire::log_in(server.address(), "postgres", "observer");
        let mut session = Followed::log_in(server.address());
        session.send(&query("create temp table t (a int)"));
        session.settle(&mut observer);
        for group in &groups {
            for name in group {
                session.send(&message(name));
            }
            if session.settle(&mut observer) == Server::Left {
                return Ok(());
            }
        }
        session.send(&query(LONG));
        if session.settle(&mut observer) == Server::Works {
            prop_assert!(session.talk.may_run(), "it is at work");
        }
        let end = format!("select pg_terminate_backend({})", session.pid);
        ask(&mut observer, &end);
        Ok(())
    });
    tested.unwrap_or_else(|error| panic!("{error}"));
}

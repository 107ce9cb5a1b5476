//! The gateway's relay against HAProxy, nginx and Envoy: rounds interleaved, the order balanced, ratios taken round by
//! round. `make bench` runs it in a network namespace and keeps what it prints in `docs/performance.md`.
//!
//! `relay_bench [ROUNDS [WORKLOAD]]` measures all workloads or those with this in their name,
//! `relay_bench postgres [ROUNDS]` PostgreSQL against pgbouncer; `relay_bench serve` and `relay_bench gateway` are the other processes.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark may stop at the first surprise"
)]

mod gateway;
mod load;
mod postgres;
mod relays;
mod report;
mod serve;
#[path = "../watch/mod.rs"]
mod watch;

use std::{
    process::{Child, Command},
    time::Duration,
};

use relays::{ECHO, KINDS, Kind, Running, SOURCE};
use report::Table;

/// The first port of the relays; each takes two.
const PORTS: u16 = 7100;
/// Connections that are opened to weigh an idle one.
const IDLE: usize = 2_000;
/// Connections whose end is watched, how long they may last, and the streams that saturate the relay.
const ENDING: usize = 1_000;
const LIMIT: Duration = Duration::from_secs(4);
const BUSY: usize = 8;

/// What is measured of every relay in every round: more is better.
type Workload = (&'static str, fn(&Running) -> f64);

const WORKLOADS: [Workload; 5] = [
    ("bulk, 1 stream, MB/s", |relay| {
        load::bulk(relay.ports.0, 1) / 1e6
    }),
    ("bulk, 8 streams, MB/s", |relay| {
        load::bulk(relay.ports.0, 8) / 1e6
    }),
    ("64 B, 1 connection, answers/s", |relay| {
        load::ping(relay.ports.1)
    }),
    ("64 B, 64 connections, answers/s", |relay| {
        load::pings(relay.ports.1, 64)
    }),
    ("connections/s", |relay| load::connections(relay.ports.1)),
];

/// Ends the process with itself.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => serve::serve(SOURCE, ECHO),
        ["gateway", source, echo, seconds] => gateway::tcp(
            source.parse().unwrap(),
            echo.parse().unwrap(),
            Duration::from_secs(seconds.parse().unwrap()),
        ),
        ["gateway-postgres", port, upstream] => {
            gateway::postgres(port.parse().unwrap(), upstream.parse().unwrap());
        }
        ["postgres"] => postgres::measure(6),
        ["postgres", rounds] => postgres::measure(rounds.parse().unwrap()),
        [] => measure(6, ""),
        [rounds] => measure(rounds.parse().unwrap(), ""),
        [rounds, workload] => measure(rounds.parse().unwrap(), workload),
        _ => panic!("usage: relay_bench [ROUNDS [WORKLOAD]] | postgres [ROUNDS]"),
    }
}

fn measure(rounds: usize, only: &str) {
    let me = std::env::current_exe().unwrap();
    let _upstreams = Ended(Command::new(me).arg("serve").spawn().unwrap());
    load::wait_for(SOURCE);
    load::wait_for(ECHO);
    let port = |index: usize| PORTS + u16::try_from(index).unwrap() * 2;
    let relays: Vec<Running> = KINDS
        .iter()
        .enumerate()
        .map(|(index, kind)| kind.start(None, port(index)))
        .collect();
    let mut table = Table::new(KINDS.map(Kind::name).to_vec());
    for round in 0..rounds {
        let chosen = WORKLOADS.iter().filter(|(name, _)| name.contains(only));
        for &(name, workload) in chosen {
            for at in order(KINDS.len(), round) {
                if let (Some(relay), Some(kind)) = (relays.get(at), KINDS.get(at)) {
                    let figure = workload(relay);
                    eprintln!("round {round} {name} {} {figure:.0}", kind.name());
                    table.add(name, kind.name(), figure);
                    load::settle();
                }
            }
        }
    }
    drop(relays);
    println!("{}", table.with_ratios());
    if std::env::var_os("BENCH_ENDINGS").is_some() {
        let weights: Vec<_> = relayed().map(|kind| (kind, weight(kind))).collect();
        println!("{}", report::weights(&weights));
        let late: Vec<_> = relayed()
            .map(|kind| (kind, late(kind, 0), late(kind, BUSY)))
            .collect();
        println!("{}", report::lateness(&late));
    }
}

/// Who comes when in a round: Williams' design for an even number. In as many rounds as there are relays, each comes
/// at each place once and after each other once, so that what one leaves behind is met by all.
fn order(relays: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..relays).map(move |turn| {
        let place = if turn % 2 == 0 {
            turn / 2
        } else {
            relays - turn.div_ceil(2)
        };
        (place + round) % relays
    })
}

fn relayed() -> impl Iterator<Item = Kind> {
    KINDS.into_iter().filter(|kind| *kind != Kind::Direct)
}

/// What an idle connection adds to the memory of a relay, in bytes.
fn weight(kind: Kind) -> f64 {
    let relay = kind.start(None, PORTS);
    let warm: Vec<_> = (0..200).map(|_| load::connect(relay.ports.1)).collect();
    load::settle();
    let before = relay.anonymous_kib();
    let idle: Vec<_> = (0..IDLE).map(|_| load::connect(relay.ports.1)).collect();
    load::settle();
    let after = relay.anonymous_kib();
    let bytes = after.saturating_sub(before) as f64 * 1024.0;
    let each = bytes / idle.len() as f64;
    drop(warm);
    each
}

/// How late the relay closes connections, with `busy` streams beside them.
fn late(kind: Kind, busy: usize) -> Vec<Duration> {
    let relay = kind.start(Some(LIMIT), PORTS);
    load::lateness((relay.ports.1, relay.ports.0), LIMIT, ENDING, busy)
}

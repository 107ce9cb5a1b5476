//! How fast a leaver is cut off by the real `curfew run`: 1,000 sessions of ten users, and one user's 100 revoked over
//! and over. From before the API call is written until the last of the clients has read its reset, on CLOCK_BOOTTIME,
//! in a process of its own; order and record are on disk in every trial.
//!
//! `make bench` runs it; `revocation_bench [TRIALS]` wants a release build of `curfew` beside it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark may stop at the first surprise"
)]

mod api;
mod clients;
mod site;

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use clients::Clients;
use site::Site;

/// Users with sessions.
pub(crate) const USERS: usize = 10;
/// Sessions of each.
pub(crate) const EACH: usize = 100;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("upstream") => upstream(),
        trials => measure(trials.map_or(200, |text| text.parse().expect("TRIALS: a number"))),
    }
}

/// Answers every byte with itself, on a port that it prints.
fn upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let answer = move || {
            let mut byte = [0];
            while stream.read(&mut byte).is_ok_and(|read| read > 0) {
                if stream.write_all(&byte).is_err() {
                    return;
                }
            }
        };
        let small = std::thread::Builder::new().stack_size(64 * 1024);
        small.spawn(answer).unwrap();
    }
}

/// What the trials came to.
#[derive(Default)]
struct Figures {
    each: Vec<Duration>,
    last: Vec<Duration>,
    acknowledged: Vec<Duration>,
    enforced: Vec<Duration>,
    durable: Vec<Duration>,
}

fn measure(trials: usize) {
    let site = Site::start();
    let mut api = site.api();
    let mut clients = Clients::connect(site.service());
    let mut figures = Figures::default();
    for trial in 0..trials {
        clients.all_answer();
        let user = trial % USERS;
        let (done, started, acknowledged, ends) =
            clients.watch(user, || api.revoke(&site::name(user)));
        let since = |end: &curfew_model::BootInstant| end.since(started);
        assert_eq!(done["matched"], EACH, "{done}");
        assert_eq!(done["closed"], EACH, "{done}");
        figures.each.extend(ends.iter().map(since));
        figures.last.extend(ends.iter().max().map(since));
        figures.acknowledged.push(since(&acknowledged));
        let stage = |name: &str| {
            Duration::from_secs_f64(done[name].as_f64().expect("a figure of the answer") / 1e3)
        };
        figures.enforced.push(stage("enforced_after_ms"));
        figures.durable.push(stage("durable_after_ms"));
        api.lift(done["id"].as_str().expect("an order has an id"));
        clients.reconnect(user, site.service());
    }
    println!(
        "{trials} trials, {EACH} sessions of {} ended each time; clients watched under {}",
        USERS * EACH,
        clients.scheduling()
    );
    println!("| from the API call until | p50, ms | p99, ms | max, ms |\n|---|---:|---:|---:|");
    for (what, durations) in [
        ("a client reads its reset", figures.each),
        ("the last client reads its reset", figures.last),
        (
            "the answer is read, order and record on disk",
            figures.acknowledged,
        ),
        ("all are closed, by the answer's word", figures.enforced),
        (
            "the order is on disk, by the answer's word",
            figures.durable,
        ),
    ] {
        println!("{}", row(what, durations));
    }
}

fn row(what: &str, mut durations: Vec<Duration>) -> String {
    durations.sort_unstable();
    let at = |percent: usize| {
        let rank = (durations.len() * percent).div_ceil(100).saturating_sub(1);
        durations
            .get(rank)
            .map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e3)
    };
    format!(
        "| {what} | {:.2} | {:.2} | {:.2} |",
        at(50),
        at(99),
        at(100)
    )
}

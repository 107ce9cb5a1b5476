//! The workloads, as a client sees them. Each runs for a while and returns a figure.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use curfew_model::{BootInstant, Clock};
use curfew_testkit::BootClock;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
};

use crate::{
    serve::{CHUNK, small},
    watch::watch,
};

/// How long a measurement warms up, and then counts.
struct Span {
    warm_up: Duration,
    counted: Duration,
}

const SHORT: Span = Span {
    warm_up: Duration::from_millis(150),
    counted: Duration::from_millis(700),
};
/// The kernel's buffers grow for about a second, to what a stream that lasts has all the time.
const LASTING: Span = Span {
    warm_up: Duration::from_millis(1_000),
    counted: Duration::from_millis(1_500),
};
/// Threads that connect.
const CONNECTORS: u64 = 4;
/// Size of a small message, in bytes.
const SMALL: usize = 64;
/// Longer than anything here should block.
const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> BootInstant {
    BootClock.now().boot
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    small(&stream);
    stream
}

/// Runs `step`, which returns what it did, on so many threads; the sum a second.
fn a_second<S>(
    threads: u64,
    span: Span,
    start: impl Fn() -> S + Sync,
    step: impl Fn(&mut S) -> u64 + Sync,
) -> f64 {
    let done = AtomicU64::new(0);
    let begin = now().after(span.warm_up);
    let end = begin.after(span.counted);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut state = start();
                loop {
                    let did = step(&mut state);
                    let at = now();
                    if at >= end {
                        break;
                    }
                    if at >= begin {
                        done.fetch_add(did, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    done.into_inner() as f64 / span.counted.as_secs_f64()
}

/// Bytes a second over so many streams.
pub(crate) fn bulk(port: u16, streams: u64) -> f64 {
    a_second(
        streams,
        LASTING,
        || (connect(port), vec![0u8; CHUNK]),
        |(stream, buffer)| stream.read(buffer).unwrap() as u64,
    )
}

/// Answers a second on one connection.
pub(crate) fn ping(port: u16) -> f64 {
    a_second(
        1,
        SHORT,
        || connect(port),
        |stream| {
            let mut message = [5u8; SMALL];
            stream.write_all(&message).unwrap();
            stream.read_exact(&mut message).unwrap();
            1
        },
    )
}

/// Answers a second on so many connections, each with one question under way.
pub(crate) fn pings(port: u16, connections: usize) -> f64 {
    let streams: Vec<TcpStream> = (0..connections).map(|_| connect(port)).collect();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    for (number, stream) in (0u64..).zip(&streams) {
        epoll::add(
            &epoll,
            stream.as_fd(),
            EventData::new_u64(number),
            EventFlags::IN,
        )
        .unwrap();
        (&mut &*stream).write_all(&[5; SMALL]).unwrap();
    }
    a_second(
        1,
        SHORT,
        || Vec::with_capacity(connections),
        |events: &mut Vec<Event>| {
            events.clear();
            epoll::wait(&epoll, spare_capacity(events), None).unwrap();
            for event in &*events {
                let number = usize::try_from(event.data.u64()).unwrap();
                if let Some(mut stream) = streams.get(number) {
                    let mut message = [0u8; SMALL];
                    stream.read_exact(&mut message).unwrap();
                    stream.write_all(&message).unwrap();
                }
            }
            events.len() as u64
        },
    )
}

/// Connections a second that carry one byte there and back.
pub(crate) fn connections(port: u16) -> f64 {
    a_second(
        CONNECTORS,
        SHORT,
        || (),
        |()| {
            let mut stream = connect(port);
            stream.write_all(&[5]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            1
        },
    )
}

/// How late each of so many connections was closed, counted from before it was opened and the time it was given, while
/// `busy` bulk streams saturate the relay; in the order of lateness.
pub(crate) fn lateness(
    (small_port, bulk_port): (u16, u16),
    given: Duration,
    connections: usize,
    busy: usize,
) -> Vec<Duration> {
    let opened: Vec<(TcpStream, BootInstant)> = (0..connections)
        .map(|_| {
            let before = now();
            let mut stream = connect(small_port);
            // One byte there and back: it was accepted, and the next one does not wait behind it.
            stream.write_all(&[5]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            (stream, before)
        })
        .collect();
    for _ in 0..busy {
        let mut stream = connect(bulk_port);
        std::thread::spawn(move || {
            let mut buffer = vec![0u8; CHUNK];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
    }
    let (streams, opened): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    let seen = watch(&streams);
    // Each relay ends them in its own way.
    let bytes = seen.iter().filter(|seen| seen.last_byte.0 > 0).count();
    let resets = seen.iter().filter(|seen| seen.how == "reset").count();
    eprintln!("{connections} ended, {resets} of them by a reset, {bytes} after bytes");
    let mut late: Vec<Duration> = seen
        .iter()
        .filter_map(|seen| Some(seen.end.since(opened.get(seen.number)?.after(given))))
        .collect();
    late.sort_unstable();
    late
}

/// Waits until something listens, for a bounded time.
pub(crate) fn wait_for(port: u16) {
    let until = now().after(PATIENCE);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(now() < until, "nothing listens on port {port}");
        pause();
    }
}

/// Gives others a moment.
fn pause() {
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::wait(
        &epoll,
        spare_capacity(&mut Vec::with_capacity(1)),
        Some(&moment),
    )
    .unwrap();
}

/// Gives others a moment, so that closed connections are gone.
pub(crate) fn settle() {
    let until = now().after(Duration::from_millis(150));
    while now() < until {
        pause();
    }
}

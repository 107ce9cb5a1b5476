//! The other process: the clients, and the service behind the gateway.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
};

use curfew_model::BootInstant;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags},
    },
};

use crate::{BULK, SESSIONS, watch::watch};

/// The service sends to every session this often, a message of 64 bytes.
const PERIOD: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// The service looks at the end of one session in so many: more would keep the processor from the clients.
const LOOKED_AT: usize = 10;

/// What one client saw, and the service.
pub(crate) struct Seen {
    pub(crate) client: SocketAddr,
    /// When the last byte was read; 0 for never.
    pub(crate) last_byte: BootInstant,
    /// When the end was read.
    pub(crate) end: BootInstant,
    /// `reset` or `fin`.
    pub(crate) how: String,
    /// When the service read the end, where it looked.
    pub(crate) upstream_end: Option<BootInstant>,
}

impl Seen {
    /// Reads a line that `run` has printed.
    pub(crate) fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("a line of five words");
        Self {
            client: word().parse().unwrap(),
            last_byte: BootInstant(word().parse().unwrap()),
            end: BootInstant(word().parse().unwrap()),
            how: word().to_owned(),
            upstream_end: word().parse().ok().map(BootInstant),
        }
    }
}

/// Prints the service's address, reads the gateway's, opens the sessions, and prints how each ended.
pub(crate) fn run(busy: bool) {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", service.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || serve(&service, &tell));
    let mut gateway = String::new();
    std::io::stdin().read_line(&mut gateway).unwrap();
    let gateway: SocketAddr = gateway.trim().parse().unwrap();
    let open = |kind: u8, number: usize| {
        let mut client = TcpStream::connect(gateway).unwrap();
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        client.write_all(&[kind, high, low]).unwrap();
        client
    };
    let mut clients: Vec<TcpStream> = (0..SESSIONS).map(|number| open(b's', number)).collect();
    let addresses: Vec<SocketAddr> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
    if busy {
        for mut client in (0..BULK).map(|number| open(b'b', number)) {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 262_144];
                while client.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
        }
    }
    let (upstreams, numbers): (Vec<TcpStream>, Vec<usize>) = told.recv().unwrap();
    clients.extend(upstreams);
    let (of_clients, of_upstreams): (Vec<_>, Vec<_>) = watch(&clients)
        .into_iter()
        .partition(|seen| seen.number < SESSIONS);
    let upstream_ends: HashMap<usize, u64> = of_upstreams
        .iter()
        .map(|seen| (*numbers.get(seen.number - SESSIONS).unwrap(), seen.end.0))
        .collect();
    for seen in of_clients {
        let client = addresses.get(seen.number).unwrap();
        let upstream = upstream_ends.get(&seen.number);
        let upstream = upstream.map_or_else(|| "-".to_owned(), u64::to_string);
        println!(
            "{client} {} {} {} {upstream}",
            seen.last_byte.0, seen.end.0, seen.how
        );
    }
}

/// Sends small messages on sessions that began with `s`, without pause on those that began with `b`; tells of some of the
/// first, and of the numbers of their clients.
fn serve(service: &TcpListener, tell: &mpsc::Sender<(Vec<TcpStream>, Vec<usize>)>) {
    let mut sessions = Vec::new();
    let (mut looked_at, mut numbers) = (Vec::new(), Vec::new());
    while let Ok((mut session, _)) = service.accept() {
        let mut first = [0; 3];
        session.read_exact(&mut first).unwrap();
        let [kind, high, low] = first;
        if kind == b'b' {
            std::thread::spawn(move || while session.write_all(&[7; 262_144]).is_ok() {});
            continue;
        }
        let number = usize::from(u16::from_be_bytes([high, low]));
        if number.is_multiple_of(LOOKED_AT) {
            looked_at.push(session.try_clone().unwrap());
            numbers.push(number);
        }
        sessions.push(session);
        if sessions.len() == SESSIONS {
            let some = (std::mem::take(&mut looked_at), std::mem::take(&mut numbers));
            tell.send(some).unwrap();
            let sessions = std::mem::take(&mut sessions);
            std::thread::spawn(move || send_small(sessions));
        }
    }
}

fn send_small(mut sessions: Vec<TcpStream>) {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    loop {
        for session in &mut sessions {
            // One that has ended stays ended.
            let _ = session.write_all(&[7; 64]);
        }
        let mut none = Vec::with_capacity(1);
        epoll::wait(&epoll, spare_capacity(&mut none), Some(&PERIOD)).unwrap();
    }
}

//! The other process: the clients, and the service behind the gateway.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
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

/// What one client saw.
pub(crate) struct Seen {
    pub(crate) client: SocketAddr,
    /// When the last byte was read; 0 for never.
    pub(crate) last_byte: BootInstant,
    /// When the end was read.
    pub(crate) end: BootInstant,
    /// `reset` or `fin`.
    pub(crate) how: String,
}

impl Seen {
    /// Reads a line that `run` has printed.
    pub(crate) fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("a line of four words");
        Self {
            client: word().parse().unwrap(),
            last_byte: BootInstant(word().parse().unwrap()),
            end: BootInstant(word().parse().unwrap()),
            how: word().to_owned(),
        }
    }
}

/// Prints the service's address, reads the gateway's, opens the sessions, and prints how each ended.
pub(crate) fn run(busy: bool) {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", service.local_addr().unwrap());
    std::thread::spawn(move || serve(&service));
    let mut gateway = String::new();
    std::io::stdin().read_line(&mut gateway).unwrap();
    let gateway: SocketAddr = gateway.trim().parse().unwrap();
    let open = |first: &[u8]| {
        let mut client = TcpStream::connect(gateway).unwrap();
        client.write_all(first).unwrap();
        client
    };
    let clients: Vec<TcpStream> = (0..SESSIONS).map(|_| open(b"s")).collect();
    let addresses: Vec<SocketAddr> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
    if busy {
        for mut client in (0..BULK).map(|_| open(b"b")) {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 262_144];
                while client.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
        }
    }
    for seen in watch(&clients) {
        let client = addresses.get(seen.number).unwrap();
        println!("{client} {} {} {}", seen.last_byte.0, seen.end.0, seen.how);
    }
}

/// Sends small messages on sessions that began with `s`, without pause on those that began with `b`.
fn serve(service: &TcpListener) {
    let mut sessions = Vec::new();
    while sessions.len() < SESSIONS {
        let mut session = service.accept().unwrap().0;
        session.read_exact(&mut [0]).unwrap();
        sessions.push(session);
    }
    std::thread::spawn(move || {
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        loop {
            for session in &mut sessions {
                // One that has ended stays ended.
                let _ = session.write_all(&[7; 64]);
            }
            let mut none = Vec::with_capacity(1);
            epoll::wait(&epoll, spare_capacity(&mut none), Some(&PERIOD)).unwrap();
        }
    });
    while let Ok((mut bulk, _)) = service.accept() {
        std::thread::spawn(move || while bulk.write_all(&[7; 262_144]).is_ok() {});
    }
}

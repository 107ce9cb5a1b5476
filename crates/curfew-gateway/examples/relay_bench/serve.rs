//! The upstreams of the benchmark: one that sends without end, one that answers every byte with itself.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
};
use socket2::{Domain, SockRef, Socket, Type};

/// What one write or read of the bulk workloads moves at most, in bytes.
pub(crate) const CHUNK: usize = 256 * 1024;
/// Threads that answer.
const ECHOES: usize = 2;

pub(crate) fn listen(port: u16, reuse_port: bool) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(reuse_port).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
        .unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

/// Serves for as long as the process lives.
pub(crate) fn serve(source: u16, echo: u16) {
    let bulk = listen(source, false);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = bulk.accept() {
            std::thread::spawn(move || send_without_end(stream));
        }
    });
    let threads: Vec<_> = (0..ECHOES)
        .map(|_| std::thread::spawn(move || echo_on(&listen(echo, true))))
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn send_without_end(mut stream: TcpStream) {
    let chunk = vec![7u8; CHUNK];
    while stream.write_all(&chunk).is_ok() {}
}

fn echo_on(listener: &TcpListener) {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listening = EventData::new_u64(u64::MAX);
    epoll::add(&epoll, listener.as_fd(), listening, EventFlags::IN).unwrap();
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut events: Vec<Event> = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        for event in &events {
            if event.data.u64() == u64::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let slot = free.pop().unwrap_or_else(|| {
                        streams.push(None);
                        streams.len() - 1
                    });
                    let data = EventData::new_u64(slot as u64);
                    epoll::add(&epoll, stream.as_fd(), data, EventFlags::IN).unwrap();
                    if let Some(place) = streams.get_mut(slot) {
                        *place = Some(stream);
                    }
                }
                continue;
            }
            let slot = usize::try_from(event.data.u64()).unwrap();
            let Some(place) = streams.get_mut(slot) else {
                continue;
            };
            if let Some(stream) = place
                && !echo(stream)
            {
                *place = None;
                free.push(slot);
            }
        }
    }
}

/// Answers what is there; false once the peer has left.
fn echo(mut stream: &TcpStream) -> bool {
    let mut buffer = [0u8; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(read) => buffer
            .get(..read)
            .is_some_and(|bytes| stream.write_all(bytes).is_ok()),
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// Small messages leave at once on this stream.
pub(crate) fn small(stream: &TcpStream) {
    SockRef::from(stream).set_tcp_nodelay(true).unwrap();
}

//! Accepting clients of one service on a thread of its own, with a limit. What becomes of a client is
//! the handler's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, SockRef, Socket, Type};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long to leave the queue alone when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// An accepted client.
pub struct Client {
    /// Its non-blocking socket.
    pub socket: OwnedFd,
    /// Where it comes from; an IPv4 address is never shown as IPv6.
    pub address: SocketAddr,
    /// Its place under the service's limit; drop it when the connection is over.
    pub permit: Permit,
}

/// Takes the clients of one service.
pub trait Accepted: Send + Sync {
    /// Called on the accepting thread: must hand the client on without blocking.
    fn accepted(&self, client: Client);
    /// A client was reset because the service was at its limit.
    fn over_limit(&self, address: SocketAddr);
}

/// A place under a limit; dropping it gives it back.
pub struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// A place under `limit`, counted by `taken`; none when all are taken.
    #[must_use]
    pub fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        if taken.fetch_add(1, Ordering::AcqRel) >= limit {
            taken.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A listening service. Dropping it stops accepting; accepted clients are untouched.
pub struct Listener {
    address: SocketAddr,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on `address` and accepts up to `limit` clients at a time.
    ///
    /// # Errors
    /// When the address cannot be bound, or descriptors or a thread cannot be had.
    pub fn start(
        address: SocketAddr,
        limit: usize,
        handler: Arc<dyn Accepted>,
    ) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let address = socket
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::Unsupported)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let thread = std::thread::Builder::new().name("accept".into()).spawn({
            let stop = Arc::clone(&stop);
            move || run(&socket, &stop, limit, &*handler)
        })?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// The address bound, with the port that the kernel chose where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(listener: &Socket, stop: &OwnedFd, limit: usize, handler: &dyn Accepted) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let mut waiting = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        if let Err(error) = poll(&mut waiting, None)
            && error != Errno::INTR
        {
            return;
        }
        let [stopped, _] = waiting;
        if stopped.revents().contains(PollFlags::IN) {
            return;
        }
        match acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((socket, from)) => {
                let Some(address) = from.and_then(|from| SocketAddr::try_from(from).ok()) else {
                    continue;
                };
                let address = canonical(address);
                let Some(permit) = Permit::take(&open, limit) else {
                    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                    drop(socket);
                    handler.over_limit(address);
                    continue;
                };
                handler.accepted(Client {
                    socket,
                    address,
                    permit,
                });
            }
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                // The queue stays readable: wait for the stop alone, or this would spin.
                let mut stopped = [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
                let _ = poll(&mut stopped, Some(&EXHAUSTED_PAUSE));
            }
            // A client that left the queue, or an interruption: the next one.
            Err(_) => {}
        }
    }
}

/// The address with an IPv4-mapped IPv6 address as the IPv4 address that it is.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    if ip == address.ip() {
        address
    } else {
        SocketAddr::new(ip, address.port())
    }
}

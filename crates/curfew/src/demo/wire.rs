//! One client connection of the demo: it reads until the other end stops it, and notes when and how that was. It knows
//! nothing of Curfew: what it sees is what any client would see.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use curfew_model::{BootInstant, Clock};
use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};

use super::cast::Wish;

/// How long connecting on this host may take.
const CONNECT: Duration = Duration::from_secs(2);

/// What a client saw so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Payload that it read.
    pub bytes: u64,
    /// When its connection was gone, the moment that a read said so.
    pub gone_at: Option<BootInstant>,
}

/// A connection with the thread that reads from it; dropping it closes it.
pub struct Wire {
    socket: TcpStream,
    local: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Connects from `from` and says what is wanted.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(
        from: IpAddr,
        to: SocketAddr,
        wish: Wish,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        let mut seen = Seen::default();
        match socket.connect_timeout(&to.into(), CONNECT) {
            // Let in by the kernel and refused by the gateway before this thread looked again.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                seen.gone_at = Some(clock.now().boot);
            }
            other => other?,
        }
        let mut socket = TcpStream::from(socket);
        let local = socket.local_addr()?;
        let seen = Arc::new(Mutex::new(seen));
        // The reader finds out if this is not taken any more.
        let _ = socket.write_all(&[wish.byte()]);
        let (mut reader, noted) = (socket.try_clone()?, Arc::clone(&seen));
        let thread = Builder::new()
            .name("demo-client".to_owned())
            .spawn(move || read(&mut reader, &noted, &*clock))?;
        Ok(Self {
            socket,
            local,
            seen,
            thread: Some(thread),
        })
    }

    /// Its own address, by which Curfew knows it.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What it saw so far.
    pub fn seen(&self) -> Seen {
        *self.seen.lock()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(socket: &mut TcpStream, seen: &Mutex<Seen>, clock: &dyn Clock) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => seen.lock().bytes += u64::try_from(read).unwrap_or(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let now = clock.now().boot;
    seen.lock().gone_at.get_or_insert(now);
}

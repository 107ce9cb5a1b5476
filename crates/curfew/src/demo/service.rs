//! The real TCP services of the demo: each client says what it wants in one byte, and gets it until it leaves.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use super::cast::Wish;

/// Between two chunks.
const PACE: Duration = Duration::from_millis(40);
/// What a client gets at once.
const CHUNK: [u8; 2048] = [b'.'; 2048];
/// Connections of one service at the same time.
const OPEN: usize = 64;

impl Wish {
    /// How a client says it.
    pub fn byte(self) -> u8 {
        match self {
            Self::Stream => b's',
            Self::Quiet => b'q',
        }
    }
}

/// A listening service; dropping it ends its connections and waits for its threads.
pub struct Service {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// The system's, when no port or thread is left.
    pub fn start(name: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = Builder::new()
            .name(format!("demo-{name}"))
            .spawn(move || accept(&listener, &stop))?;
        Ok(Self {
            address,
            stopping,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the thread that waits for the next client.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stopping: &AtomicBool) {
    std::thread::scope(|scope| {
        let mut open = Vec::new();
        for client in listener.incoming() {
            if stopping.load(Ordering::Acquire) {
                return;
            }
            open.retain(|thread: &std::thread::ScopedJoinHandle<'_, ()>| !thread.is_finished());
            if let Ok(client) = client
                && open.len() < OPEN
                && let Ok(thread) = Builder::new().spawn_scoped(scope, move || {
                    // A client that goes away is the point of the demo, not an error.
                    let _ = serve(client, stopping);
                })
            {
                open.push(thread);
            }
        }
    });
}

fn serve(mut client: TcpStream, stopping: &AtomicBool) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PACE))?;
    client.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut wish = None;
    let mut buffer = [0; 64];
    while !stopping.load(Ordering::Acquire) {
        match client.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => wish = buffer.first().copied(),
            // Waiting for the client is also what sets the pace.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        if wish == Some(Wish::Stream.byte()) {
            client.write_all(&CHUNK)?;
        }
    }
    Ok(())
}

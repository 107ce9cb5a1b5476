//! What is set on every TCP socket that the gateway relays. When a socket is made may not live here.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// What may stay unsent in a socket, in bytes: bounds what is in flight at a deadline.
const NOTSENT_BYTES: u32 = 128 * 1024;

/// The options of a TCP socket. Set on a listening socket, they are those of its clients.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How long sent bytes may stay unacknowledged before the connection counts as broken.
    pub user_timeout: Duration,
    /// Silence after which TCP keepalives probe a peer. They are not activity.
    pub keepalive: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            user_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
        }
    }
}

impl Tuning {
    /// Sets the options on a TCP socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(NOTSENT_BYTES)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        // An urgent byte is one like others to the relay, which passes on no marks.
        socket.set_out_of_band_inline(true)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(self.keepalive))
    }
}

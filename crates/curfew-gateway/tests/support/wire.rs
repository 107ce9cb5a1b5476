//! A client that speaks just enough PostgreSQL to see each message.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "each test file uses a part of it, and a helper that cannot go on fails its test"
)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use curfew_model::UpstreamAddress;

use super::PATIENCE;

/// One connection.
pub struct Wire(pub TcpStream);

impl Wire {
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// A session that waits for its first query, and its cancel key.
    pub fn log_in(to: SocketAddr, user: &str, name: &str) -> (Self, Vec<u8>) {
        let mut wire = Self::connect(to);
        wire.0.write_all(&startup(user, name)).unwrap();
        let mut key = Vec::new();
        loop {
            let (kind, payload) = wire.receive().unwrap();
            match kind {
                b'K' => key = payload,
                b'Z' => return (wire, key),
                kind => assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&payload)),
            }
        }
    }

    /// Sends a CancelRequest and waits for its end, as clients do.
    pub fn request_cancel(to: SocketAddr, key: &[u8]) {
        let mut wire = Self::send_cancel(to, key);
        assert_eq!(wire.0.read(&mut [0; 1]).unwrap(), 0);
    }

    /// Sends a CancelRequest.
    pub fn send_cancel(to: SocketAddr, key: &[u8]) -> Self {
        let mut wire = Self::connect(to);
        let mut request = (key.len() as u32 + 8).to_be_bytes().to_vec();
        request.extend(80_877_102_u32.to_be_bytes());
        request.extend(key);
        wire.0.write_all(&request).unwrap();
        wire
    }

    pub fn query(&mut self, sql: &str) {
        // A session that has ended shows when it is read.
        let _ = self.0.write_all(&query(sql));
    }

    /// The next message, its payload as text; none at the end of the connection. One cut short by anything but a
    /// reset is a failure.
    pub fn next(&mut self) -> Option<(u8, String)> {
        let (kind, payload) = self.receive()?;
        Some((kind, String::from_utf8_lossy(&payload).into_owned()))
    }

    fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        if !self.fill(&mut header[..1], true) || !self.fill(&mut header[1..], false) {
            return None;
        }
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let mut payload = vec![0; length as usize - 4];
        self.fill(&mut payload, false)
            .then_some((header[0], payload))
    }

    /// False at a reset, and, where it may end, at the end.
    fn fill(&mut self, buffer: &mut [u8], may_end: bool) -> bool {
        match self.0.read_exact(buffer) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && may_end => false,
            other => {
                other.unwrap();
                true
            }
        }
    }
}

/// A server of the test's own.
pub fn listener() -> (TcpListener, UpstreamAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = UpstreamAddress::Tcp(listener.local_addr().unwrap());
    (listener, address)
}

/// Takes a session as a server does, up to its first ReadyForQuery.
pub fn serve(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut rest).unwrap();
    let ready = [
        frame(b'R', &[0; 4]),
        frame(b'K', &[7; 8]),
        frame(b'Z', b"I"),
    ];
    stream.write_all(&ready.concat()).unwrap();
    stream
}

/// A simple query.
pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend((payload.len() as u32 + 4).to_be_bytes());
    out.extend(payload);
    out
}

pub fn startup(user: &str, name: &str) -> Vec<u8> {
    let fields = [
        "user",
        user,
        "database",
        "postgres",
        "application_name",
        name,
    ];
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for field in fields {
        body.extend(field.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut out = (body.len() as u32 + 4).to_be_bytes().to_vec();
    out.extend(body);
    out
}

/// The text of a message with that SQLSTATE, reason and severity.
pub fn says(message: Option<(u8, String)>, kind: u8, code: &str, reason: &str) {
    let (got, text) = message.expect("the connection ended without a message");
    assert_eq!(got, kind, "{text}");
    assert!(text.contains(&format!("\0C{code}\0")), "{text}");
    assert!(text.contains(&format!("({reason})")), "{text}");
    assert!(text.contains("\0Dsession "), "{text}");
    assert!(text.contains("\0H"), "{text}");
}

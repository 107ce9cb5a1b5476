//! Message boundaries of an open session in both directions, and what the messages say about its state.
//! Payloads are skipped by count; only the few bytes that carry state are kept. No payload is buffered here.

mod owed;

use self::owed::Owed;
use super::{be32, cancel::CancelKey};

/// The longest length field accepted, in bytes: PostgreSQL's own 1 GiB and some slack.
pub const MAX_MESSAGE: u32 = (1 << 30) + (64 << 10);

/// The payload bytes kept: a process id and the longest cancel key.
const KEPT: usize = 260;

const CLIENT_TYPES: &[u8] = b"QPBESDCHFXdcfp";
const SERVER_TYPES: &[u8] = b"RSKZTDCENA123nstIVGHWdcv";

/// A broken frame: the session ends `protocol_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The type byte is none of this direction.
    #[error("unknown message type {0:#04x} from the {1}; close the session")]
    UnknownType(u8, &'static str),
    /// The length field is under 4 or over [`MAX_MESSAGE`].
    #[error("message type {0:#04x} has the impossible length {1}; close the session")]
    BadLength(u8, u32),
    /// BackendKeyData, Authentication or ReadyForQuery with an impossible payload.
    #[error("message type {0:#04x} from the server has a malformed payload; close the session")]
    BadPayload(u8),
}

/// Where a chunk of bytes left one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Bytes of the chunk up to the end of the last message that it completes; 0 if it completes none.
    pub complete: usize,
    /// Whether the chunk ends exactly between two messages.
    pub at_boundary: bool,
    /// Bytes of the current message still to come; while its header is cut, those of the header.
    pub remaining: u32,
}

/// The transaction status of the last ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// Outside a transaction.
    Idle,
    /// Inside one.
    Open,
    /// Inside one that failed.
    Failed,
}

/// Which way a COPY moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    /// From the client.
    In,
    /// To the client.
    Out,
    /// Both, as in replication.
    Both,
}

#[derive(Debug)]
struct Walker {
    types: &'static [u8],
    side: &'static str,
    header: [u8; 5],
    header_len: usize,
    remaining: u32,
    kept: Vec<u8>,
}

impl Walker {
    fn new(types: &'static [u8], side: &'static str) -> Self {
        Self {
            types,
            side,
            header: [0; 5],
            header_len: 0,
            remaining: 0,
            kept: Vec::new(),
        }
    }

    fn scan(
        &mut self,
        bytes: &[u8],
        mut seen: impl FnMut(u8, u32, &[u8]) -> Result<(), FrameError>,
    ) -> Result<Scan, FrameError> {
        let mut rest = bytes;
        let mut complete = 0;
        while let Some((&first, tail)) = rest.split_first() {
            if self.header_len < self.header.len() {
                if self.header_len == 0 && !self.types.contains(&first) {
                    return Err(FrameError::UnknownType(first, self.side));
                }
                if let Some(slot) = self.header.get_mut(self.header_len) {
                    *slot = first;
                }
                self.header_len += 1;
                rest = tail;
                if self.header_len < self.header.len() {
                    continue;
                }
                let length = self.length();
                if !(4..=MAX_MESSAGE).contains(&length) {
                    return Err(FrameError::BadLength(self.kind(), length));
                }
                self.remaining = length - 4;
            } else {
                let take = rest
                    .len()
                    .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
                let (payload, after) = rest.split_at(take);
                if matches!(self.kind(), b'R' | b'K' | b'Z') {
                    let room = KEPT.saturating_sub(self.kept.len()).min(take);
                    self.kept.extend(payload.iter().take(room));
                }
                self.remaining -= u32::try_from(take).unwrap_or(self.remaining);
                rest = after;
            }
            if self.remaining == 0 {
                seen(self.kind(), self.length() - 4, &self.kept)?;
                self.kept.clear();
                self.header_len = 0;
                complete = bytes.len() - rest.len();
            }
        }
        let missing = match self.header_len {
            0 => 0,
            5 => self.remaining,
            cut => 5 - u32::try_from(cut).unwrap_or(0),
        };
        Ok(Scan {
            complete,
            at_boundary: self.header_len == 0,
            remaining: missing,
        })
    }

    fn kind(&self) -> u8 {
        let [kind, ..] = self.header;
        kind
    }

    fn length(&self) -> u32 {
        be32(&self.header, 1).unwrap_or(0)
    }
}

/// Both directions of one session after its StartupMessage. After an error the session must be closed.
#[derive(Debug)]
pub struct Conversation {
    client: Walker,
    server: Walker,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    authenticated: bool,
    terminated: bool,
    key: Option<CancelKey>,
    transaction: Option<Transaction>,
    owed: Owed,
}

impl Default for Conversation {
    fn default() -> Self {
        Self {
            client: Walker::new(CLIENT_TYPES, "client"),
            server: Walker::new(SERVER_TYPES, "server"),
            state: State::default(),
        }
    }
}

impl Conversation {
    /// Walks bytes that the client sent.
    ///
    /// # Errors
    /// A frame that the protocol does not know.
    pub fn scan_client(&mut self, bytes: &[u8]) -> Result<Scan, FrameError> {
        let state = &mut self.state;
        self.client.scan(bytes, |kind, length, _| {
            state.note_client(kind, length);
            Ok(())
        })
    }

    /// Walks bytes that the server sent.
    ///
    /// # Errors
    /// A frame that the protocol does not know, or a malformed one that carries state.
    pub fn scan_server(&mut self, bytes: &[u8]) -> Result<Scan, FrameError> {
        let state = &mut self.state;
        self.server.scan(bytes, |kind, length, kept| {
            state.note_server(kind, length, kept)
        })
    }

    /// Whether the server owes an answer for certain, so that silence is not idleness. A COPY that waits for the client's
    /// data is not work of the server, and neither is a pipeline that was not flushed.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.state.owed.is_certain()
    }

    /// Whether the server may be running something: as [`Conversation::busy`], but a pipeline that was not flushed, a
    /// COPY that waits for data, and all that cannot be told count too.
    #[must_use]
    pub fn may_run(&self) -> bool {
        self.state.owed.is_possible()
    }

    /// Whether the server accepted the login.
    #[must_use]
    pub fn authenticated(&self) -> bool {
        self.state.authenticated
    }

    /// Whether the client said Terminate.
    #[must_use]
    pub fn terminated(&self) -> bool {
        self.state.terminated
    }

    /// The key by which a running query of this session can be cancelled.
    #[must_use]
    pub fn key(&self) -> Option<&CancelKey> {
        self.state.key.as_ref()
    }

    /// The transaction status, once the server was ready.
    #[must_use]
    pub fn transaction(&self) -> Option<Transaction> {
        self.state.transaction
    }
}

impl State {
    fn note_client(&mut self, kind: u8, length: u32) {
        self.terminated |= kind == b'X';
        self.owed.client(kind, length);
    }

    fn note_server(&mut self, kind: u8, length: u32, kept: &[u8]) -> Result<(), FrameError> {
        let bad = FrameError::BadPayload(kind);
        match kind {
            b'R' => self.authenticated |= be32(kept, 0).ok_or(bad)? == 0,
            b'K' => {
                if usize::try_from(length) != Ok(kept.len()) {
                    return Err(bad);
                }
                let key = CancelKey::from_payload(kept).ok_or(bad)?;
                // The first is the one that is forwarded, and forgotten when the session is over.
                self.key.get_or_insert(key);
            }
            b'Z' => {
                // The first answers the login: what the client sent behind it is still to come.
                let answers_login = self.transaction.is_none();
                self.transaction = Some(match (length, kept) {
                    (1, b"I") => Transaction::Idle,
                    (1, b"T") => Transaction::Open,
                    (1, b"E") => Transaction::Failed,
                    _ => return Err(bad),
                });
                if !answers_login {
                    self.owed.ready();
                }
            }
            kind if self.transaction.is_some() => self.owed.server(kind),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! What a client sends before its session: encryption requests, a cancel, or the startup.
//! Decisions about the session may not live here.

use super::{be32, cancel::CancelKey};

pub(super) const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// The longest startup packet, in bytes: PostgreSQL's own limit.
pub const MAX_STARTUP: usize = 10_000;
/// The most parameters in a startup packet.
pub const MAX_PARAMETERS: usize = 100;

/// The longest user name, in bytes: PostgreSQL cuts longer ones, and then the name here is not the role there.
pub const MAX_NAME: usize = 63;

/// What the client sent, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send these bytes to the client and go on feeding.
    Reply(&'static [u8]),
    /// Feed more bytes.
    NeedMore,
    /// A session may begin.
    Startup(Startup),
    /// A CancelRequest; the connection ends after it.
    Cancel(CancelKey),
}

/// The startup of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The role that the client asks for (asserted).
    pub user: String,
    /// The database; the user's name where the client gave none.
    pub database: String,
    /// What the client calls itself.
    pub application_name: Option<String>,
    /// The packet as it came, to be forwarded.
    pub raw: Vec<u8>,
    /// Bytes that the client sent after the packet.
    pub rest: Vec<u8>,
}

/// A preamble that breaks the protocol: the connection is refused `protocol_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// The length field is impossible.
    #[error("the startup packet has the impossible length {0}; refuse the connection")]
    BadLength(u32),
    /// Not protocol 3.
    #[error("protocol code {0} is not PostgreSQL 3; refuse the connection")]
    Version(u32),
    /// Bytes follow an encryption request before its answer (CVE-2021-23222).
    #[error("bytes follow an encryption request before its answer; refuse the connection")]
    Stuffed,
    /// The same encryption request came twice.
    #[error("the encryption request came twice; refuse the connection")]
    Repeated,
    /// The parameters or the key cannot be read.
    #[error("the startup packet is malformed; refuse the connection")]
    Malformed,
    /// More than [`MAX_PARAMETERS`].
    #[error("the startup packet has more than {MAX_PARAMETERS} parameters; refuse the connection")]
    TooMany,
    /// A user name that the server would cut.
    #[error("the user name has more than {MAX_NAME} bytes; refuse the connection")]
    LongName,
    /// No user name.
    #[error("the startup packet names no user; refuse the connection")]
    NoUser,
}

/// Collects the preamble of one connection.
#[derive(Debug, Default)]
pub struct Preamble {
    buffer: Vec<u8>,
    ssl: bool,
    gssenc: bool,
}

impl Preamble {
    /// Takes bytes from the client. After Startup, Cancel or an error, feed no more.
    ///
    /// # Errors
    /// The client broke the protocol.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Outcome, PreambleError> {
        self.buffer.extend_from_slice(bytes);
        let Some(length) = be32(&self.buffer, 0) else {
            return Ok(Outcome::NeedMore);
        };
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if !(8..=MAX_STARTUP).contains(&size) {
            return Err(PreambleError::BadLength(length));
        }
        let Some((packet, rest)) = self.buffer.split_at_checked(size) else {
            return Ok(Outcome::NeedMore);
        };
        let body = packet.get(8..).unwrap_or(&[]);
        match be32(packet, 4).ok_or(PreambleError::Malformed)? {
            code @ (SSL | GSSENC) => {
                if size != 8 || !rest.is_empty() {
                    return Err(PreambleError::Stuffed);
                }
                let seen = if code == SSL {
                    &mut self.ssl
                } else {
                    &mut self.gssenc
                };
                if std::mem::replace(seen, true) {
                    return Err(PreambleError::Repeated);
                }
                self.buffer.clear();
                Ok(Outcome::Reply(b"N"))
            }
            CANCEL => CancelKey::from_payload(body)
                .map(Outcome::Cancel)
                .ok_or(PreambleError::Malformed),
            version if version >> 16 == 3 => startup(packet, body, rest).map(Outcome::Startup),
            version => Err(PreambleError::Version(version)),
        }
    }
}

fn startup(packet: &[u8], body: &[u8], rest: &[u8]) -> Result<Startup, PreambleError> {
    // Each parameter is two strings ended by NUL; an empty name ends the list and the packet.
    let list = body.strip_suffix(&[0]).ok_or(PreambleError::Malformed)?;
    let (mut user, mut database, mut application_name) = (None, None, None);
    if !list.is_empty() {
        let list = list.strip_suffix(&[0]).ok_or(PreambleError::Malformed)?;
        let mut fields = list.split(|&byte| byte == 0);
        let mut count = 0;
        while let Some(name) = fields.next() {
            let value = fields.next().ok_or(PreambleError::Malformed)?;
            count += 1;
            if count > MAX_PARAMETERS {
                return Err(PreambleError::TooMany);
            }
            let slot = match name {
                b"" => return Err(PreambleError::Malformed),
                b"user" => &mut user,
                b"database" => &mut database,
                b"application_name" => &mut application_name,
                _ => continue,
            };
            // Twice the same name could mean one thing here and another at the server.
            let text = std::str::from_utf8(value).map_err(|_| PreambleError::Malformed)?;
            if slot.replace(text.to_owned()).is_some() {
                return Err(PreambleError::Malformed);
            }
        }
    }
    let user = user
        .filter(|user| !user.is_empty())
        .ok_or(PreambleError::NoUser)?;
    if user.len() > MAX_NAME {
        return Err(PreambleError::LongName);
    }
    let database = database
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| user.clone());
    Ok(Startup {
        user,
        database,
        application_name,
        raw: packet.to_vec(),
        rest: rest.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
        out.extend(code.to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn encryption_is_declined_once_and_never_with_bytes_behind() {
        let mut preamble = Preamble::default();
        assert_eq!(preamble.feed(&packet(SSL, b"")), Ok(Outcome::Reply(b"N")));
        assert_eq!(
            preamble.feed(&packet(GSSENC, b"")),
            Ok(Outcome::Reply(b"N"))
        );
        assert_eq!(
            preamble.feed(&packet(SSL, b"")),
            Err(PreambleError::Repeated)
        );
        let mut stuffed = packet(SSL, b"");
        stuffed.push(0);
        assert_eq!(
            Preamble::default().feed(&stuffed),
            Err(PreambleError::Stuffed)
        );
    }

    #[test]
    fn a_startup_is_read_byte_by_byte_and_forwarded_as_it_came() {
        let raw = packet(196_608, b"user\0alice\0application_name\0psql\0\0");
        let mut preamble = Preamble::default();
        let (last, head) = raw.split_last().unwrap();
        for byte in head {
            assert_eq!(preamble.feed(&[*byte]), Ok(Outcome::NeedMore));
        }
        let Ok(Outcome::Startup(startup)) = preamble.feed(&[*last]) else {
            panic!("no startup");
        };
        assert_eq!(
            (startup.user.as_str(), startup.database.as_str()),
            ("alice", "alice")
        );
        assert_eq!(startup.application_name.as_deref(), Some("psql"));
        assert_eq!(startup.raw, raw);
    }

    #[test]
    fn broken_startups_are_errors() {
        let feed = |code, body: &[u8]| Preamble::default().feed(&packet(code, body));
        assert_eq!(feed(196_608, b"\0"), Err(PreambleError::NoUser));
        let long = [b"user\0", &[b'a'; 64][..], b"\0\0"].concat();
        assert_eq!(feed(196_608, &long), Err(PreambleError::LongName));
        assert_eq!(
            feed(196_608, b"user\0a\0user\0b\0\0"),
            Err(PreambleError::Malformed)
        );
        assert_eq!(feed(131_072, b""), Err(PreambleError::Version(131_072)));
        assert_eq!(feed(CANCEL, &[0; 7]), Err(PreambleError::Malformed));
        assert_eq!(
            Preamble::default().feed(&[0xff; 4]),
            Err(PreambleError::BadLength(u32::MAX))
        );
    }
}

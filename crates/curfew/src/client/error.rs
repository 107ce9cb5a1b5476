//! Why the API could not be asked, or did not do it: what, where, why, and what to do. Words of the server are cleaned
//! before they get here.

use std::{fmt, io, path::PathBuf};

use curfew_control::POLICY_BODY;
use serde_json::Value;

use super::access::Origin;
use crate::{
    config::ConfigError,
    show::{clean, clean_lines, items, text},
};

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No server is named anywhere.
    #[error(
        "no server is named: give --server http://127.0.0.1:7171 or set CURFEW_SERVER, or name the configuration of a server on this machine with -c"
    )]
    NoServer(#[source] Box<ConfigError>),
    /// The configuration that was named, or is there, does not say it.
    #[error("which server is meant cannot be told from the configuration {}", path.display())]
    BadConfig {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<ConfigError>,
    },
    /// A server that cannot be meant.
    #[error("{given:?} is not a server: {why}")]
    Server {
        /// As it was given.
        given: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// No token is named anywhere.
    #[error(
        "there is no token for {server}: give --token-file FILE or set CURFEW_TOKEN; the token in the data directory is only for a server on this machine"
    )]
    NoToken {
        /// Whom it is for.
        server: String,
        /// Why the local configuration gives none.
        #[source]
        source: Option<Box<ConfigError>>,
    },
    /// A token's file that cannot be read.
    #[error("the token in {} cannot be read: {why}; {hint}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The system's word.
        why: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A token that others can read.
    #[error("the token in {path} can be read by others (mode {mode:04o}), so it is not used: run `chmod 600 {path}`, and make a new token if somebody may have read it", path = path.display())]
    TokenOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something that is no token.
    #[error("{0} holds no token: a token is one line of visible ASCII characters")]
    TokenForm(Origin),
    /// Certificates that cannot be read.
    #[error("the certificates in {} cannot be used: {why}; --ca-file takes a PEM file", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// This machine trusts nobody.
    #[error(
        "this machine has no certificate authorities ({0}): name the server's with --ca-file FILE"
    )]
    NoAuthorities(String),
    /// Nobody answers.
    #[error(
        "{server} does not answer: {why}; check that `curfew run` runs there and that the address is right"
    )]
    Unreachable {
        /// The server.
        server: String,
        /// What was seen.
        why: String,
    },
    /// It takes a connection, and ends it.
    #[error(
        "{server} answers, but not as Curfew's API does: it ended the connection without a word; check that the address is that of `control.listen`, and that `curfew run` is not just stopping there"
    )]
    Wordless {
        /// The server.
        server: String,
    },
    /// The server is not who it has to be.
    #[error(
        "{server} cannot be trusted: {why}; name its authority with --ca-file FILE and use the name that its certificate holds"
    )]
    Untrusted {
        /// The server.
        server: String,
        /// What was seen.
        why: String,
    },
    /// The server shows the certificate of an authority.
    #[error(
        "{server} cannot be trusted: its certificate is an authority's (CA:TRUE), which is no server's own; let an authority sign one for it, or make one that signs itself with `openssl req -x509 -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:NAME` and what else it takes, where an address is IP:ADDRESS"
    )]
    Authority {
        /// The server.
        server: String,
    },
    /// More than the API takes.
    #[error(
        "the request has {bytes} bytes, and {server} takes no more than {POLICY_BODY}: send less at once"
    )]
    TooLong {
        /// The server.
        server: String,
        /// What was to be sent.
        bytes: usize,
    },
    /// The connection broke on the way.
    #[error(
        "the answer of {server} was lost: {why}; whether it was done is not known: look with the `list` command, and do it again if it was not"
    )]
    Lost {
        /// The server.
        server: String,
        /// What was seen.
        why: String,
    },
    /// The connection stands, and no answer comes.
    #[error(
        "{server} took the request and does not answer in time: whether it was done is not known; look with the `list` command once it answers, and do it again if it was not"
    )]
    Late {
        /// The server.
        server: String,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Something that is not Curfew, or another version of it.
    #[error(
        "{server} answers, but not as Curfew's API does: {why}; check that the address is that of `control.listen`"
    )]
    Strange {
        /// The server.
        server: String,
        /// What was seen.
        why: String,
    },
}

impl ClientError {
    /// Whether it may be over in a moment: nobody answers, or the server has no room.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Wordless { .. } => true,
            Self::Refused(refusal) => refusal.code == "too_many_requests",
            _ => false,
        }
    }
}

/// A problem document (RFC 9457) in words.
#[derive(Debug)]
pub struct Refusal {
    /// The stable code of the problem.
    pub code: String,
    /// The document itself.
    pub document: Value,
    text: String,
}

impl Refusal {
    /// Reads a problem document.
    #[must_use]
    pub fn new(server: &str, origin: &Origin, retry_after: Option<&str>, document: Value) -> Self {
        let code = clean(&text(&document, "code"));
        let mut words = format!(
            "{server}: {}: {} ({code})",
            clean(&text(&document, "title")),
            clean(&text(&document, "detail"))
        );
        if code == "unauthenticated" {
            words.push_str(&format!(
                "; the token is from {origin}: use one of this server"
            ));
        }
        if let Some(seconds) = retry_after {
            words.push_str(&format!("; try again in {} s", clean(seconds)));
        }
        for finding in items(&document, "findings") {
            words.push_str(&format!("\n\n{}", finding_text(finding)));
        }
        for outcome in items(&document, "enforcers") {
            words.push_str(&format!(
                "\n{}: {}, matched {}, closed {}",
                clean(&text(outcome, "enforcer")),
                clean(&text(outcome, "answer")),
                clean(&text(outcome, "matched")),
                clean(&text(outcome, "closed"))
            ));
        }
        Self {
            code,
            document,
            text: words,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A finding about a policy document, as `policy validate` words it.
#[must_use]
pub fn finding_text(finding: &Value) -> String {
    let field = |name: &str| clean_lines(&text(finding, name));
    let (level, path, message) = (field("level"), field("path"), field("message"));
    let mut words = if path.is_empty() {
        format!("{level}: {message}")
    } else {
        let (line, column) = (field("line"), field("column"));
        format!("{level}: {path}:{line}:{column}: {message}")
    };
    for (name, label) in [
        ("excerpt", ""),
        ("consequence", "otherwise: "),
        ("help", "help: "),
    ] {
        let text = field(name);
        if !text.is_empty() {
            words.push_str(&format!("\n  {label}{text}"));
        }
    }
    words
}

//! What the server is started with, and why it may not start.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use curfew_model::Clock;
use curfew_state::{Bus, Store};

use crate::{Compile, FirstTokenError, Fleet, Journal, Metrics};

/// Where the API listens, and how much it takes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its address; port 0 takes a free one. Outside loopback `tls` is required.
    pub listen: SocketAddr,
    /// Its certificate.
    pub tls: Option<Tls>,
    /// Where `admin.token` is made at the first start; it exists.
    pub data_dir: PathBuf,
    /// The audit log's directory, to read it.
    pub audit_dir: PathBuf,
    /// How much it takes.
    pub limits: Limits,
}

impl Settings {
    /// Listens on `listen` without TLS, with the audit log in `audit` of the data directory.
    #[must_use]
    pub fn new(listen: SocketAddr, data_dir: &Path) -> Self {
        Self {
            listen,
            tls: None,
            data_dir: data_dir.to_owned(),
            audit_dir: data_dir.join("audit"),
            limits: Limits::default(),
        }
    }
}

/// A certificate with its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Tls {
    /// Whether a server starts with these files: they are there, and the key is the certificate's.
    ///
    /// # Errors
    /// [`StartError::Certificate`](crate::StartError::Certificate).
    pub fn check(&self) -> Result<(), crate::StartError> {
        crate::tls::acceptor(self).map(drop)
    }
}

/// How much the API takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; from one address that is not loopback, a quarter of them.
    pub connections: usize,
    /// A connection that the system gives this descriptor or a greater one has to take the place of another, so that some
    /// are left to write the log and the state.
    pub descriptors: u64,
    /// Requests a second of one token.
    pub requests_per_second: u32,
    /// Requests of one token at once.
    pub burst: u32,
    /// How long the head and the body of a request may each take to arrive.
    pub receive: Duration,
}

impl Default for Limits {
    /// 1,024 connections with any descriptors, 200 requests a second, 400 at once, 10 s.
    fn default() -> Self {
        Self {
            connections: 1_024,
            descriptors: u64::MAX,
            requests_per_second: 200,
            burst: 400,
            receive: Duration::from_secs(10),
        }
    }
}

/// What the server works with.
#[derive(Clone)]
pub struct Parts {
    /// The desired state.
    pub store: Arc<dyn Store>,
    /// The audit log.
    pub journal: Arc<dyn Journal>,
    /// What enforcers report.
    pub bus: Arc<dyn Bus>,
    /// The live sessions.
    pub fleet: Arc<dyn Fleet>,
    /// The policy compiler.
    pub compile: Arc<dyn Compile>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Outside loopback without TLS.
    #[error(
        "control.listen is {0}, which others can reach, and there is no certificate: tokens would cross the network in the clear; configure TLS, or listen on 127.0.0.1"
    )]
    TlsRequired(SocketAddr),
    /// The certificate or its key is not usable.
    #[error("the certificate {} with the key {} cannot be used: {detail}", certificate.display(), key.display())]
    Certificate {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The address is taken or not ours.
    #[error(
        "cannot listen on {address}: stop what listens there, or choose another control.listen"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system has no threads left.
    #[error("cannot start the threads of the API")]
    Threads(#[source] io::Error),
    /// There is no token to call the API with.
    #[error(transparent)]
    FirstToken(#[from] FirstTokenError),
    /// The first token is not on the audit log.
    #[error("the audit log does not take the record of the first token: {0}")]
    NotOnRecord(String),
}

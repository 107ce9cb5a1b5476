//! What is known of a session when it is decided: the same record at admission and at every later look.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use crate::{BootInstant, DeviceId, Identity, ServiceName, WallInstant};

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamAddress {
    /// An IPv4 or IPv6 address and port.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What a session leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The gateway service, when there is one.
    pub service: Option<ServiceName>,
    /// Every address that the session may lead to, in the order to try; sessions of one service share it.
    pub upstreams: Arc<[UpstreamAddress]>,
}

impl Target {
    /// The one that is shown: the first.
    #[must_use]
    pub fn upstream(&self) -> Option<&UpstreamAddress> {
        self.upstreams.first()
    }

    /// The addresses that policy matches, all of one port if they are those of one name; a Unix socket has none.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.upstreams.iter().filter_map(|upstream| match upstream {
            UpstreamAddress::Tcp(address) => Some(*address),
            UpstreamAddress::Unix(_) => None,
        })
    }
}

/// Everything `decide` looks at, apart from the policy set and the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Every identity that the session carries, sorted: the first is the subject.
    pub identities: Vec<Identity>,
    /// Groups of the subject.
    pub groups: Vec<String>,
    /// The device, when it is known.
    pub device: Option<DeviceId>,
    /// Typed attributes for `when`, by their dotted name (`subject.risk`); absent is absent.
    pub attributes: BTreeMap<String, String>,
    /// Where it comes from, v4-mapped addresses normalised.
    pub client: SocketAddr,
    /// Where it leads.
    pub target: Target,
    /// When it was opened: what lifetimes count from.
    pub opened_at: BootInstant,
    /// The subject's last proof on the boot clock; none counts from `opened_at` (rule 3).
    pub proved_at: Option<BootInstant>,
    /// The end of the credential presented, if any.
    pub credential_until: Option<WallInstant>,
    /// The end of the binding used, if any.
    pub binding_until: Option<WallInstant>,
    /// Two bindings claim the client, or it could not be learnt whose it is.
    pub ambiguous: bool,
}

impl Facts {
    /// The first identity that is proven, else bound, else asserted (rule 7).
    #[must_use]
    pub fn subject(&self) -> Option<&Identity> {
        self.identities.iter().min()
    }
}

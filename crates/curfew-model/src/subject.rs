//! Who holds a session: identities, how well they are proven, and the bindings that tie addresses to them.

use std::{borrow::Cow, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What an identity names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A person.
    User,
    /// A program: a service account, a SPIFFE id, a cgroup.
    Workload,
    /// A machine.
    Device,
    /// A login name inside a protocol, written `SERVICE/NAME`.
    Role,
    /// An address, which stands for whoever comes from there without any identity. No session carries it, and neither
    /// policy nor an order names it.
    Address,
}

impl Kind {
    /// What identities name: every kind but the address.
    pub const OF_IDENTITIES: [Self; 4] = [Self::User, Self::Workload, Self::Device, Self::Role];

    /// The kind that is written so, if identities have it.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::OF_IDENTITIES
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Workload => "workload",
            Self::Device => "device",
            Self::Role => "role",
            Self::Address => "address",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How well an identity is known. Ordered, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// A verified credential.
    Proven,
    /// A binding.
    Bound,
    /// The client said so.
    Asserted,
}

/// Who vouches for an identity: an issuer URL, or `local` for this installation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Issuer(pub Cow<'static, str>);

impl From<String> for Issuer {
    fn from(issuer: String) -> Self {
        Self(issuer.into())
    }
}

impl Issuer {
    /// The issuer of bindings and bare names.
    #[must_use]
    pub fn local() -> Self {
        Self(Cow::Borrowed("local"))
    }

    /// Who vouches in a name that people write, `[ISSUER#]ID`, and the id. An issuer has no fragment (OpenID Connect
    /// Discovery 1.0, section 4.1), so that what follows the first `#` is the id's; a bare name is local.
    #[must_use]
    pub fn of_name(name: &str) -> (Self, &str) {
        match name.split_once('#') {
            Some((issuer, id)) => (Self::from(issuer.to_owned()), id),
            None => (Self::local(), name),
        }
    }
}

/// Who or what holds a session. The *subject* is the first identity by proof, then by kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// First, so that the derived order is the order of the subject: proof, then kind.
    pub proof: Proof,
    /// What it names.
    pub kind: Kind,
    /// Who vouches.
    pub issuer: Issuer,
    /// The name, unique within issuer and kind.
    pub id: String,
    /// For people to read; decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
}

impl Identity {
    /// The subject of a session without any identity: where it comes from, asserted (rule 7).
    #[must_use]
    pub fn of_address(client: IpAddr) -> Self {
        Self {
            proof: Proof::Asserted,
            kind: Kind::Address,
            issuer: Issuer::local(),
            id: client.to_canonical().to_string(),
            display: None,
        }
    }

    /// `ISSUER#ID`, the issuer left out when it is local.
    fn name(&self) -> Cow<'_, str> {
        if self.issuer == Issuer::local() {
            Cow::Borrowed(&self.id)
        } else {
            Cow::Owned(format!("{}#{}", self.issuer.0, self.id))
        }
    }

    /// Whether `text` names it: as it is shown, or with its name as it is.
    #[must_use]
    pub fn is_called(&self, text: &str) -> bool {
        let bare = text.strip_prefix(self.kind.as_str());
        let bare = bare.and_then(|rest| rest.strip_prefix(':'));
        bare.is_some_and(|name| name == self.name() || name == quoted(&self.name()))
    }
}

impl fmt::Display for Identity {
    /// `kind:ISSUER#ID`, the issuer left out when it is local; after the kind as [`quoted`] has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, quoted(&self.name()))
    }
}

/// A name that stands among other words: as it is, or in quotes and escaped where it would look like more than one.
#[must_use]
pub fn quoted(name: &str) -> Cow<'_, str> {
    let parts = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '"' | '(' | ')');
    if name.contains(parts) {
        Cow::Owned(format!("{name:?}"))
    } else {
        Cow::Borrowed(name)
    }
}

/// The one form of a range: v4-mapped ones, `::ffff:0:0/96` and what is in it, are written as IPv4. Host bits stay.
#[must_use]
pub fn canonical_net(net: IpNet) -> IpNet {
    let v4 = match net.addr().to_canonical() {
        address @ IpAddr::V4(_) if net.addr().is_ipv6() => net
            .prefix_len()
            .checked_sub(96)
            .and_then(|length| IpNet::new(address, length).ok()),
        _ => None,
    };
    v4.unwrap_or(net)
}

/// What a binding is looked up by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindingKey {
    /// A source address or range; the longest prefix wins.
    Address(IpNet),
    /// The user id that owns the client's socket on this host.
    Uid(u32),
    /// The cgroup path of the client on this host.
    Cgroup(String),
}

impl BindingKey {
    /// The one form of a key: addresses without host bits, IPv4 never written as IPv6.
    #[must_use]
    pub fn canonical(self) -> Self {
        let Self::Address(net) = self else {
            return self;
        };
        Self::Address(canonical_net(net).trunc())
    }

    /// Whether `address` falls under this key; v4-mapped addresses count as IPv4.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        matches!(self, Self::Address(net) if net.contains(&address.to_canonical()))
    }
}

impl fmt::Display for BindingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // One address is not written as a range.
            Self::Address(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "address {}", net.addr())
            }
            Self::Address(net) => write!(f, "address {net}"),
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
        }
    }
}

/// Ties an address, uid or cgroup to a subject for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// What is bound.
    pub key: BindingKey,
    /// To whom; its proof is `Bound`.
    pub identity: Identity,
    /// Groups of the subject as the binding's source knows them.
    #[serde(default)]
    pub groups: Vec<String>,
    /// When it ends; none for a binding of the configuration.
    #[serde(default)]
    pub until: Option<crate::WallInstant>,
    /// When its source last confirmed it: the proof that `reauthEvery` counts from. None for the configuration's.
    #[serde(default)]
    pub refreshed_at: Option<crate::WallInstant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(proof: Proof, kind: Kind) -> Identity {
        Identity {
            proof,
            kind,
            issuer: Issuer::local(),
            id: "x".to_owned(),
            display: None,
        }
    }

    #[test]
    fn the_subject_is_the_least() {
        let mut all = [
            identity(Proof::Asserted, Kind::User),
            identity(Proof::Bound, Kind::Role),
            identity(Proof::Bound, Kind::Workload),
        ];
        all.sort();
        assert_eq!(all[0], identity(Proof::Bound, Kind::Workload));
    }

    #[test]
    fn no_name_looks_like_two() {
        for (id, shown) in [
            ("pg/postgres", "role:pg/postgres"),
            ("CORP\\o'brien+ü@x", "role:CORP\\o'brien+ü@x"),
            ("pg/p user:ceo", r#"role:"pg/p user:ceo""#),
            ("p (bound), user:ceo", r#"role:"p (bound), user:ceo""#),
            ("p\u{a0}x", r#"role:"p\u{a0}x""#),
            ("p\"\n\u{1b}", r#"role:"p\"\n\u{1b}""#),
        ] {
            let role = Identity {
                id: id.to_owned(),
                ..identity(Proof::Asserted, Kind::Role)
            };
            assert_eq!(role.to_string(), shown);
            assert!(role.is_called(shown) && role.is_called(&format!("role:{id}")));
            assert!(!role.is_called(id) && !role.is_called(&format!("user:{id}")));
        }
    }

    #[test]
    fn v4_mapped_addresses_are_v4() {
        let key = BindingKey::Address("10.0.0.0/8".parse().unwrap());
        assert!(key.covers("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!key.covers("11.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_key_has_one_form() {
        let key = |text: &str| BindingKey::Address(text.parse().unwrap()).canonical();
        for (written, said) in [
            ("10.1.0.4/32", "address 10.1.0.4"),
            ("10.1.0.4/8", "address 10.0.0.0/8"),
            ("::ffff:10.1.0.4/128", "address 10.1.0.4"),
            ("::ffff:10.1.0.4/104", "address 10.0.0.0/8"),
            ("::ffff:0:0/96", "address 0.0.0.0/0"),
            ("::ffff:10.1.0.4/64", "address ::/64"),
            ("2001:db8::1/32", "address 2001:db8::/32"),
        ] {
            assert_eq!(key(written).to_string(), said, "{written}");
        }
        assert_eq!(BindingKey::Uid(7).canonical().to_string(), "uid 7");
    }
}

//! Who holds a session: everything that is equal for all sessions of one person from one address and process, kept
//! as one run of bytes. Deciding may not live here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use curfew_model::{DeviceId, Facts, Identity, Issuer, Kind, Proof};

use crate::{Owner, Peer, index::Key};

/// An identity set with its address and process, encoded: equal if and only if the bytes are.
pub(crate) type Encoded = Arc<[u8]>;

/// [`Issuer::local`], which is not written out.
const LOCAL: &str = "local";

/// What the door knew of a client, or what bindings and the desired state add to that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Sorted.
    pub(crate) identities: Vec<Identity>,
    /// Sorted.
    pub(crate) groups: Vec<String>,
    pub(crate) attributes: BTreeMap<String, String>,
    /// They name two subjects of one kind.
    pub(crate) ambiguous: bool,
}

/// The decoded form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) client: IpAddr,
    /// What the door knew itself.
    pub(crate) own: Bound,
    /// What was added.
    pub(crate) bound: Bound,
    pub(crate) device: Option<DeviceId>,
    pub(crate) peer: Peer,
}

impl Who {
    /// Every identity, sorted: the first is the subject.
    pub(crate) fn identities(&self) -> Vec<Identity> {
        let mut all = self.own.identities.clone();
        all.extend(self.bound.identities.iter().cloned());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The first identity that is proven, else bound, else asserted (rule 7).
    pub(crate) fn subject(&self) -> Option<&Identity> {
        let all = self.own.identities.iter();
        all.chain(&self.bound.identities).min()
    }

    /// The subject, or the address that stands for it.
    pub(crate) fn holder(&self) -> Identity {
        let subject = self.subject().cloned();
        subject.unwrap_or_else(|| Identity::of_address(self.client))
    }

    /// By what the subject is counted and remembered.
    pub(crate) fn subject_text(&self) -> String {
        subject_text(self.subject(), self.client)
    }
}

/// The subject as text, by which concurrency and reconnecting count (rule 7).
pub(crate) fn subject_text(subject: Option<&Identity>, client: IpAddr) -> String {
    match subject {
        Some(subject) => {
            let issuer = subject.issuer.0.as_ref();
            [subject.kind.as_str(), ":", issuer, "#", &subject.id].concat()
        }
        None => format!("address:{}", client.to_canonical()),
    }
}

/// Whether two identities name the same one, however well it is known.
pub(crate) fn is_same(a: &Identity, b: &Identity) -> bool {
    (a.kind, &a.issuer, &a.id) == (b.kind, &b.issuer, &b.id)
}

/// Adds what bindings and the desired state say to what the door knew, whose attributes hold.
pub(crate) fn merge(facts: &mut Facts, bound: &Bound) {
    facts.identities.extend(bound.identities.iter().cloned());
    facts.identities.sort_unstable();
    facts.identities.dedup();
    facts.groups.extend(bound.groups.iter().cloned());
    facts.groups.sort_unstable();
    facts.groups.dedup();
    for (name, value) in &bound.attributes {
        let entry = facts.attributes.entry(name.clone());
        entry.or_insert_with(|| value.clone());
    }
    facts.ambiguous |= bound.ambiguous;
}

/// An address as the index orders it.
pub(crate) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// What stands in the place of a uid that could not be learnt, and of one that was not asked for.
const UNKNOWN: u8 = 1;
const UNASKED: u8 = 2;

/// Writes to `out` who the facts of a door and the bindings say it is. `facts` are those of the door, sorted.
pub(crate) fn encode(out: &mut Vec<u8>, facts: &Facts, bound: &Bound, peer: &Peer) {
    let Facts {
        identities,
        groups,
        device,
        attributes,
        client,
        ambiguous,
        ..
    } = facts;
    out.clear();
    out.extend_from_slice(&octets(client.ip()));
    put_bound(out, identities, groups, *ambiguous);
    put_attributes(out, attributes);
    put_bound(out, &bound.identities, &bound.groups, bound.ambiguous);
    put_attributes(out, &bound.attributes);
    put_option(out, device.as_ref().map(DeviceId::as_str));
    put_option(out, peer.cgroup.as_deref());
    match peer.owner {
        Owner::Elsewhere => {}
        Owner::Uid(uid) => out.extend_from_slice(&uid.to_le_bytes()),
        Owner::Unknown => out.push(UNKNOWN),
        Owner::Unasked => out.push(UNASKED),
    }
}

fn put_bound(out: &mut Vec<u8>, identities: &[Identity], groups: &[String], ambiguous: bool) {
    out.push(u8::from(ambiguous));
    put_count(out, identities.len());
    for identity in identities {
        out.push(((identity.proof as u8) << 4) | identity.kind as u8);
        let issuer = identity.issuer.0.as_ref();
        // Absent is the issuer of almost everyone.
        put_option(out, (issuer != LOCAL).then_some(issuer));
        put_text(out, &identity.id);
        put_option(out, identity.display.as_deref());
    }
    put_count(out, groups.len());
    groups.iter().for_each(|group| put_text(out, group));
}

fn put_attributes(out: &mut Vec<u8>, attributes: &BTreeMap<String, String>) {
    put_count(out, attributes.len());
    for (name, value) in attributes {
        put_text(out, name);
        put_text(out, value);
    }
}

/// A length in seven bits a byte, the least first.
fn put_count(out: &mut Vec<u8>, mut count: usize) {
    while count > 0x7f {
        out.push((count & 0x7f) as u8 | 0x80);
        count >>= 7;
    }
    out.push(count as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_option(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        put_text(out, text);
    }
}

/// What [`encode`] wrote; none for anything else.
pub(crate) fn decode(bytes: &[u8]) -> Option<Who> {
    let (address, rest) = bytes.split_first_chunk::<16>()?;
    let mut reader = Reader(rest);
    Some(Who {
        client: IpAddr::from(Ipv6Addr::from(*address)).to_canonical(),
        own: reader.bound()?,
        bound: reader.bound()?,
        device: match reader.option()? {
            Some(device) => Some(DeviceId::new(device).ok()?),
            None => None,
        },
        peer: Peer {
            cgroup: reader.option()?.map(str::to_owned),
            owner: reader.owner(),
        },
    })
}

/// Every key that the index finds what [`encode`] wrote by.
pub(crate) fn keys(bytes: &[u8]) -> Option<Vec<Key<'_>>> {
    let (_, rest) = bytes.split_first_chunk::<16>()?;
    let mut reader = Reader(rest);
    let mut keys = Vec::with_capacity(4);
    reader.identities(|reader| {
        let (_, kind) = reader.tag()?;
        reader.option()?;
        keys.push(Key::Identity(kind, reader.text()?));
        reader.option().map(drop)
    })?;
    keys.extend(reader.option()?.map(Key::Device));
    keys.extend(reader.option()?.map(Key::Cgroup));
    keys.extend(match reader.owner() {
        Owner::Uid(uid) => Some(Key::Uid(uid)),
        Owner::Unknown => Some(Key::Unlearnt),
        Owner::Elsewhere | Owner::Unasked => None,
    });
    Some(keys)
}

/// The subject of what [`encode`] wrote as text, with no more read than that takes.
pub(crate) fn encoded_subject(bytes: &[u8]) -> Option<String> {
    let (address, rest) = bytes.split_first_chunk::<16>()?;
    let mut reader = Reader(rest);
    let mut all = Vec::new();
    reader.identities(|reader| {
        all.push(reader.identity()?);
        Some(())
    })?;
    let client = IpAddr::from(Ipv6Addr::from(*address));
    Some(subject_text(all.iter().min(), client))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn count(&mut self) -> Option<usize> {
        let (mut count, mut shift) = (0usize, 0u32);
        loop {
            let byte = self.byte()?;
            count |= usize::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(count);
            }
            shift += 7;
        }
    }

    fn raw(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.raw()?).ok()
    }

    fn owned(&mut self) -> Option<String> {
        self.text().map(str::to_owned)
    }

    fn owner(&self) -> Owner {
        match self.0 {
            [] => Owner::Elsewhere,
            [UNASKED] => Owner::Unasked,
            bytes => bytes
                .first_chunk()
                .map_or(Owner::Unknown, |uid| Owner::Uid(u32::from_le_bytes(*uid))),
        }
    }

    /// Passes over a number of entries of so many texts each.
    fn pass_texts(&mut self, each: usize) -> Option<()> {
        let entries = self.count()?;
        (0..entries).try_for_each(|_| (0..each).try_for_each(|_| self.raw().map(drop)))
    }

    fn option(&mut self) -> Option<Option<&'a str>> {
        match self.byte()? {
            0 => Some(None),
            _ => self.text().map(Some),
        }
    }

    fn many<T, C: FromIterator<T>>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<C> {
        (0..self.count()?).map(|_| one(self)).collect()
    }

    /// Reads each identity that the door knew or that was added, and passes over what else is kept beside them.
    fn identities(&mut self, mut one: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        for _ in 0..2 {
            self.byte()?;
            for _ in 0..self.count()? {
                one(self)?;
            }
            self.pass_texts(1)?;
            self.pass_texts(2)?;
        }
        Some(())
    }

    fn tag(&mut self) -> Option<(Proof, Kind)> {
        let tag = self.byte()?;
        let proof = match tag >> 4 {
            0 => Proof::Proven,
            1 => Proof::Bound,
            _ => Proof::Asserted,
        };
        let kind = match tag & 15 {
            0 => Kind::User,
            1 => Kind::Workload,
            2 => Kind::Device,
            3 => Kind::Role,
            _ => Kind::Address,
        };
        Some((proof, kind))
    }

    fn identity(&mut self) -> Option<Identity> {
        let (proof, kind) = self.tag()?;
        let issuer = self.option()?.map(str::to_owned);
        Some(Identity {
            proof,
            kind,
            issuer: issuer.map_or_else(Issuer::local, Issuer::from),
            id: self.owned()?,
            display: self.option()?.map(str::to_owned),
        })
    }

    fn bound(&mut self) -> Option<Bound> {
        Some(Bound {
            ambiguous: self.byte()? != 0,
            identities: self.many(Self::identity)?,
            groups: self.many(Self::owned)?,
            attributes: self.many(|reader| Some((reader.owned()?, reader.owned()?)))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let identity = |kind, proof, issuer: &str, display| Identity {
            proof,
            kind,
            issuer: Issuer::from(issuer.to_owned()),
            id: "x".repeat(300),
            display,
        };
        Facts {
            identities: vec![
                identity(Kind::User, Proof::Proven, "", Some("Äda".to_owned())),
                identity(Kind::Workload, Proof::Bound, "local", None),
                identity(Kind::Device, Proof::Bound, "https://idp.example", None),
                identity(Kind::Role, Proof::Asserted, "local", None),
            ],
            groups: vec![String::new(), "staff".to_owned()],
            device: Some(DeviceId::new("laptop-7").unwrap()),
            attributes: [("subject.risk".to_owned(), "low".to_owned())].into(),
            client: "10.0.0.5:4000".parse().unwrap(),
            target: curfew_model::Target {
                service: None,
                upstreams: [].into(),
            },
            opened_at: curfew_model::BootInstant(0),
            proved_at: None,
            credential_until: None,
            binding_until: None,
            ambiguous: true,
        }
    }

    #[test]
    fn a_subject_is_read_without_the_rest() {
        let everything = facts();
        let identities = everything.identities.clone();
        let bound = Bound {
            identities,
            ..Bound::default()
        };
        let unknown = Facts {
            identities: vec![],
            ..everything
        };
        for (bound, subject) in [
            (&bound, format!("user:#{}", "x".repeat(300))),
            (&Bound::default(), "address:10.0.0.5".to_owned()),
        ] {
            let mut bytes = Vec::new();
            encode(&mut bytes, &unknown, bound, &Peer::default());
            assert_eq!(encoded_subject(&bytes), Some(subject));
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let facts = facts();
        let bound = Bound {
            identities: facts.identities.clone(),
            groups: vec!["dba".to_owned()],
            attributes: [("device.compliant".to_owned(), "true".to_owned())].into(),
            ambiguous: false,
        };
        for (owner, key) in [
            (Owner::Elsewhere, None),
            (Owner::Unknown, Some(Key::Unlearnt)),
            (Owner::Unasked, None),
            (Owner::Uid(1_000), Some(Key::Uid(1_000))),
        ] {
            let cgroup = key.map(|_| "/user.slice".to_owned());
            let peer = Peer { owner, cgroup };
            let mut bytes = Vec::new();
            encode(&mut bytes, &facts, &bound, &peer);
            let who = decode(&bytes).unwrap();
            assert_eq!(who.client, facts.client.ip());
            assert_eq!(who.own.identities, facts.identities);
            assert_eq!(who.own.groups, facts.groups);
            assert!(who.own.ambiguous);
            assert_eq!(who.bound, bound);
            assert_eq!(who.device, facts.device);
            assert_eq!(who.own.attributes, facts.attributes);
            assert_eq!(who.peer, peer);
            assert_eq!(encoded_subject(&bytes), Some(who.subject_text()));
            let identities = who.own.identities.iter().chain(&bound.identities);
            let mut found: Vec<Key<'_>> =
                identities.map(|i| Key::Identity(i.kind, &i.id)).collect();
            found.push(Key::Device("laptop-7"));
            found.extend(who.peer.cgroup.as_deref().map(Key::Cgroup));
            found.extend(key);
            assert_eq!(keys(&bytes), Some(found));
            for cut in 0..bytes.len() - 4 {
                assert_ne!(decode(&bytes[..cut]), Some(who.clone()), "cut at {cut}");
            }
        }
    }
}

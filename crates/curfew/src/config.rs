//! `curfew.yaml`: raw documents to checked values. Unknown fields are errors. Nothing is opened or started here.

mod audit;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use curfew_control::Tls;
use curfew_gateway::{
    connect::{UpstreamAddress, alternate_families},
    protocol::Protocol,
};
use curfew_model::{
    Binding, BindingKey, Identity, Issuer, Kind, Proof, ServiceName, parse_duration,
};
use ipnet::IpNet;
use serde::Deserialize;

pub use audit::Audit;

/// Where the API listens unless the configuration says otherwise.
const CONTROL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7171);
/// Larger files are no configuration.
const MAX_BYTES: u64 = 1 << 20;

/// Why `curfew.yaml` is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: cannot be read; name the file with -c")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// It is longer than a configuration can be.
    #[error("{0}: longer than 1 MiB: this is no curfew.yaml")]
    TooLong(PathBuf),
    /// It is not YAML of the right form.
    #[error("{path}: {message}")]
    Form {
        /// Which file.
        path: PathBuf,
        /// With place and excerpt.
        message: String,
    },
    /// A value cannot be meant so.
    #[error("{path}: {field}: {message}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// The dotted path of the field.
        field: String,
        /// What is wrong and what to do.
        message: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    data_dir: PathBuf,
    #[serde(default)]
    control: RawControl,
    policy: RawPolicy,
    gateway: RawGateway,
    #[serde(default)]
    audit: audit::RawAudit,
    #[serde(default)]
    bindings: Vec<RawBinding>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawControl {
    listen: Option<SocketAddr>,
    tls: Option<RawTls>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    path: PathBuf,
    #[serde(default)]
    watch: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGateway {
    services: Vec<RawService>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: String,
    listen: SocketAddr,
    upstream: String,
    #[serde(default)]
    protocol: RawProtocol,
    max_connections: Option<u32>,
    connect_timeout: Option<String>,
    handshake_timeout: Option<String>,
    busy_is_active: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBinding {
    address: Option<String>,
    uid: Option<u32>,
    cgroup: Option<String>,
    user: Option<String>,
    workload: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawProtocol {
    #[default]
    Tcp,
    Postgres,
}

/// One service of the gateway, its upstream's name not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name, which policy refers to.
    pub name: ServiceName,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where it leads.
    pub upstream: Upstream,
    /// What it speaks.
    pub protocol: Protocol,
    /// Open sessions; more are refused.
    pub max_connections: usize,
    /// For reaching the upstream.
    pub connect_timeout: Duration,
    /// For the client to say what it wants.
    pub handshake_timeout: Duration,
    /// PostgreSQL: a session whose server is at work is not idle.
    pub busy_is_active: bool,
}

/// Where a service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A name or address, and a port.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Upstream {
    /// Every address of it, the families in turn.
    ///
    /// # Errors
    /// The resolver's, for a name that it does not know.
    pub fn resolve(&self) -> std::io::Result<Vec<UpstreamAddress>> {
        match self {
            Self::Unix(path) => Ok(vec![UpstreamAddress::Unix(path.clone())]),
            Self::Tcp(name) => {
                let found: Vec<SocketAddr> = name.to_socket_addrs()?.collect();
                Ok(alternate_families(&found)
                    .into_iter()
                    .map(UpstreamAddress::Tcp)
                    .collect())
            }
        }
    }
}

/// Where the API listens.
#[derive(Clone, Debug)]
pub struct Control {
    /// Its address; 127.0.0.1:7171 unless it is given.
    pub listen: SocketAddr,
    /// Its certificate; required outside loopback.
    pub tls: Option<Tls>,
}

impl PartialEq for Control {
    fn eq(&self, other: &Self) -> bool {
        let files = |tls: &Option<Tls>| {
            tls.as_ref()
                .map(|tls| (tls.certificate.clone(), tls.key.clone()))
        };
        self.listen == other.listen && files(&self.tls) == files(&other.tls)
    }
}

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where state, log and keys are kept.
    pub data_dir: PathBuf,
    /// The API.
    pub control: Control,
    /// A policy file or directory.
    pub policy: PathBuf,
    /// Whether the policy is read again when its files change.
    pub watch: bool,
    /// The gateway's services.
    pub services: Vec<Service>,
    /// How the audit log is kept.
    pub audit: Audit,
    /// The configuration's bindings.
    pub bindings: Vec<Binding>,
}

/// Reads and checks a configuration.
///
/// # Errors
/// [`ConfigError`]: what, where, and what to do.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
        return Err(ConfigError::TooLong(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let raw: RawConfig = serde_saphyr::from_str(&text).map_err(|error| ConfigError::Form {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    check(raw, path.parent().unwrap_or(Path::new("."))).map_err(|(field, message)| {
        ConfigError::Value {
            path: path.to_owned(),
            field,
            message,
        }
    })
}

type Refused = (String, String);

fn check(raw: RawConfig, folder: &Path) -> Result<Config, Refused> {
    if raw.gateway.services.is_empty() {
        return Err((
            "gateway.services".to_owned(),
            "is empty: name at least one service".to_owned(),
        ));
    }
    let mut services = Vec::new();
    let mut seen = BTreeMap::new();
    for (index, service) in raw.gateway.services.into_iter().enumerate() {
        let field = |name: &str| format!("gateway.services[{index}].{name}");
        if let Some(first) = seen.insert(service.name.clone(), index) {
            return Err((
                field("name"),
                format!(
                    "is {:?}, as is services[{first}]: names are unique",
                    service.name
                ),
            ));
        }
        services.push(check_service(service).map_err(|(name, message)| (field(name), message))?);
    }
    let bindings = raw
        .bindings
        .into_iter()
        .enumerate()
        .map(|(index, binding)| {
            check_binding(binding).map_err(|message| (format!("bindings[{index}]"), message))
        })
        .collect::<Result<_, _>>()?;
    let audit =
        audit::check(raw.audit).map_err(|(field, message)| (format!("audit.{field}"), message))?;
    let data_dir = folder.join(raw.data_dir);
    let tls = raw.control.tls.map(|tls| Tls {
        certificate: folder.join(tls.certificate),
        key: folder.join(tls.key),
    });
    let listen = raw.control.listen.unwrap_or(CONTROL);
    if tls.is_none() && !listen.ip().is_loopback() {
        let message = format!(
            "is {listen}, which others can reach: give it `tls: {{certificate, key}}`, or listen on 127.0.0.1"
        );
        return Err(("control.listen".to_owned(), message));
    }
    Ok(Config {
        control: Control { listen, tls },
        data_dir,
        policy: folder.join(raw.policy.path),
        watch: raw.policy.watch,
        services,
        audit,
        bindings,
    })
}

fn check_service(raw: RawService) -> Result<Service, (&'static str, String)> {
    let duration = |field, text: Option<String>, default| match text {
        None => Ok(Duration::from_secs(default)),
        Some(text) => parse_duration(&text).map_err(|error| (field, error.to_string())),
    };
    let max_connections = raw.max_connections.unwrap_or(10_000);
    if max_connections == 0 {
        return Err((
            "max_connections",
            "is 0: no client could ever connect".to_owned(),
        ));
    }
    let protocol = match raw.protocol {
        RawProtocol::Tcp => Protocol::Tcp,
        RawProtocol::Postgres => Protocol::Postgres,
    };
    if raw.busy_is_active.is_some() && protocol == Protocol::Tcp {
        return Err((
            "busy_is_active",
            "goes with `protocol: postgres` only".to_owned(),
        ));
    }
    Ok(Service {
        name: ServiceName::new(&raw.name).map_err(|error| ("name", error.to_string()))?,
        listen: raw.listen,
        upstream: check_upstream(&raw.upstream).map_err(|message| ("upstream", message))?,
        protocol,
        max_connections: usize::try_from(max_connections).unwrap_or(usize::MAX),
        connect_timeout: duration("connect_timeout", raw.connect_timeout, 5)?,
        handshake_timeout: duration("handshake_timeout", raw.handshake_timeout, 10)?,
        busy_is_active: raw.busy_is_active.unwrap_or(true),
    })
}

fn check_upstream(text: &str) -> Result<Upstream, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') {
            Ok(Upstream::Unix(path.into()))
        } else {
            Err(format!(
                "is {text:?}: a Unix socket is written unix:/absolute/path"
            ))
        };
    }
    let port = text
        .rsplit_once(':')
        .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
    match port {
        Some(port) if port > 0 => Ok(Upstream::Tcp(text.to_owned())),
        _ => Err(format!(
            "is {text:?}: write HOST:PORT, or unix:/absolute/path"
        )),
    }
}

fn check_binding(raw: RawBinding) -> Result<Binding, String> {
    let key = match (raw.address, raw.uid, raw.cgroup) {
        (Some(address), None, None) => BindingKey::Address(network(&address)?),
        (None, Some(uid), None) => BindingKey::Uid(uid),
        (None, None, Some(path)) if path.starts_with('/') => BindingKey::Cgroup(path),
        (None, None, Some(path)) => {
            return Err(format!("`cgroup: {path}` is no path from the root"));
        }
        _ => return Err("needs exactly one of `address`, `uid` and `cgroup`".to_owned()),
    };
    let (kind, id) = match (raw.user, raw.workload) {
        (Some(user), None) => (Kind::User, user),
        (None, Some(workload)) => (Kind::Workload, workload),
        _ => return Err("needs exactly one of `user` and `workload`".to_owned()),
    };
    let identity = Identity {
        proof: Proof::Bound,
        kind,
        issuer: Issuer::local(),
        id,
        display: None,
    };
    Ok(Binding {
        key,
        identity,
        groups: raw.groups,
        until: None,
        refreshed_at: None,
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| format!("`address: {text}` is neither an address nor a range like 10.0.0.0/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curfew.yaml");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    const SERVICE: &str =
        "gateway: {services: [{name: db, listen: '127.0.0.1:0', upstream: 'localhost:5432'}]}\n";

    #[test]
    fn a_short_configuration_is_enough() {
        let config = checked(&format!(
            "data_dir: data\npolicy: {{path: policy}}\n{SERVICE}bindings: [{{address: 127.0.0.1, user: alice, groups: [dba]}}]\n"
        ))
        .unwrap();
        assert_eq!(config.services[0].connect_timeout, Duration::from_secs(5));
        assert_eq!(config.bindings[0].identity.to_string(), "user:alice");
        assert!(config.policy.ends_with("policy"));
    }

    #[test]
    fn what_is_not_meant_is_refused_with_its_place() {
        for (text, part) in [
            ("data_dir: d\npolicy: {path: p}\ngateway: {services: []}\n".to_owned(), "gateway.services: is empty"),
            (format!("data_dir: d\npolicy: {{path: p, pat: q}}\n{SERVICE}"), "pat"),
            (format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}bindings: [{{user: a}}]\n"), "bindings[0]: needs exactly one of"),
            (
                "data_dir: d\npolicy: {path: p}\ngateway: {services: [{name: A, listen: '[::1]:1', upstream: 'x:1'}]}\n".to_owned(),
                "gateway.services[0].name: \"A\" is not a name",
            ),
            (
                "data_dir: d\npolicy: {path: p}\ngateway: {services: [{name: a, listen: '[::1]:1', upstream: 'x:1', connect_timeout: 0s}]}\n"
                    .to_owned(),
                "connect_timeout: the duration \"0s\" is zero",
            ),
            (format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}audit: {{on_ful: continue}}\n"), "on_ful"),
            (format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}audit: {{on_full: refuse}}\n"), "refuse-new"),
            (format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}audit: {{segment_size: 64MB}}\n"), "audit.segment_size: is \"64MB\": write a whole number"),
            (format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}audit: {{keep_segments: 0}}\n"), "audit.keep_segments: is 0"),
            (format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}audit: {{keep_for: 0d}}\n"), "audit.keep_for: the duration \"0d\" is zero"),
            (format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}audit: {{queue: 0}}\n"), "audit.queue: is 0"),
            (format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}audit: {{queue: 1000001}}\n"), "audit.queue: is 1000001"),
            ("data_dir: d\npolicy: {path: p}\ngateway: {services: [{name: a, listen: '[::1]:1', upstream: x}]}\n".to_owned(), "upstream: is \"x\": write HOST:PORT"),
        ] {
            let error = checked(&text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_guides_configuration_is_one() {
        let guide = include_str!("../../../docs/guide/configuration.md");
        let block = guide
            .split("```yaml\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let config = checked(block.unwrap()).unwrap();
        assert_eq!((config.services.len(), config.bindings.len()), (1, 2));
    }
}

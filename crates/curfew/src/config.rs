//! `curfew.yaml`: what it says, checked as strictly as policy, every problem found in one pass. How each part of it is
//! read is next door. Nothing is opened or started here.

mod audit;
mod bindings;
mod control;
mod document;
mod services;

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use curfew_control::Tls;
use curfew_gateway::{connect::alternate_families, protocol::Protocol};
use curfew_model::{Binding, ServiceName, UpstreamAddress};
use curfew_policy::{Place, Problem, Severity};

pub use audit::{Audit, OnFull};
pub use services::overlap;

use crate::sources::{self, SourceError};

/// Why `curfew.yaml` is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("the configuration cannot be read (-c names its file)")]
    Read(#[from] SourceError),
    /// Something in it is an error; every problem, as it is shown.
    #[error("{0}")]
    Wrong(String),
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

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Upstream {
    /// Whether its addresses may change: it is neither an address nor a path.
    pub fn is_name(&self) -> bool {
        match self {
            Self::Tcp(address) => address.parse::<SocketAddr>().is_err(),
            Self::Unix(_) => false,
        }
    }

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
    pub tls: Option<Placed<Tls>>,
}

impl PartialEq for Control {
    fn eq(&self, other: &Self) -> bool {
        let files = |tls: &Option<Placed<Tls>>| {
            tls.as_ref()
                .map(|tls| (tls.value.certificate.clone(), tls.value.key.clone()))
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

/// A value of the configuration, and where it stands.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// A service, and where the parts of it stand that are held against the world.
#[derive(Clone, Debug)]
pub struct PlacedService {
    /// The service.
    pub service: Service,
    /// Where its name stands.
    pub name: Place,
    /// Where its upstream stands.
    pub upstream: Place,
}

/// A configuration as far as it can be read, so that all that is wrong with it and with what it names is found at once.
#[derive(Debug, Default)]
pub struct Draft {
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Where state, log and keys are to be kept.
    pub data_dir: Option<Placed<PathBuf>>,
    /// The API's certificate.
    pub tls: Option<Placed<Tls>>,
    /// The policy that it names.
    pub policy: Option<Placed<PathBuf>>,
    /// The services that can be read.
    pub services: Vec<PlacedService>,
    config: Option<Config>,
}

impl Draft {
    /// The configuration, if nothing in it is an error.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] with every problem.
    pub fn finish(self) -> Result<Config, ConfigError> {
        let wrong = self
            .problems
            .iter()
            .any(|problem| problem.severity == Severity::Error);
        match self.config {
            Some(config) if !wrong => Ok(config),
            _ => Err(ConfigError::Wrong(shown(&self.problems))),
        }
    }
}

/// Problems as they are shown together.
pub fn shown(problems: &[Problem]) -> String {
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    shown.join("\n")
}

/// Reads a configuration as far as that is possible.
///
/// # Errors
/// [`ConfigError::Read`].
pub fn draft(path: &Path) -> Result<Draft, ConfigError> {
    let (name, text) = sources::read_file(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let (draft, problems) = curfew_policy::read(&name, &text, |source, nodes| {
        document::read(source, nodes, folder)
    });
    Ok(Draft {
        problems,
        ..draft.unwrap_or_default()
    })
}

/// Reads and checks a configuration.
///
/// # Errors
/// [`ConfigError`]: what, where, and what to do.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    draft(path)?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a configuration, `curfew.yaml` standing for where it is.
    fn checked(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curfew.yaml");
        std::fs::write(&path, text).unwrap();
        let before = format!("{}/", folder.path().display());
        load(&path).map_err(|error| error.to_string().replace(&before, ""))
    }

    const SERVICE: &str =
        "gateway: {services: [{name: db, listen: '127.0.0.1:0', upstream: 'localhost:5432'}]}\n";

    #[test]
    fn only_names_may_lead_elsewhere() {
        let tcp = |text: &str| Upstream::Tcp(text.to_owned()).is_name();
        assert!(tcp("localhost:5432") && tcp("db.example.org:5432"));
        assert!(!tcp("10.0.0.1:5432") && !tcp("[::1]:5432"));
        assert!(!Upstream::Unix("/run/db".into()).is_name());
    }

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
    fn everything_wrong_is_found_in_one_pass() {
        let text = "\
data_dirr: data
control: {listen: '127.0.0.1:6432'}
policy: {path: policy, watch: yess}
gateway:
  services:
  - {name: db, listen: '0.0.0.0:6432', upstream: 'x:1', max_connections: 0}
  - {name: db, listen: '[::]:7000', upstream: x, protocol: postgre}
  - {name: web, listen: 127.0.0.1:7000, upstream: 'x:1'}
  - {name: web2, listen: 127.0.0.1:7000, upstream: 'x:1', connect_timeout: 5}
bindings:
- {address: 10.1.0.4/8, user: alice}
- {address: 10.1.0.4, user: ''}
- {address: '::ffff:10.1.0.4', workload: w, groups: []}
- {uid: 7, user: a}
- {uid: 7, user: a}
- {cgroup: x, user: a, workload: b}
";
        let expected = r#"curfew.yaml:1:1: error: unknown field `data_dirr` in the configuration
  1 | data_dirr: data
    | ^
  = otherwise: it would be ignored, and what it says would not happen
  = help: did you mean `data_dir`?
curfew.yaml:1:1: error: the field `data_dir` is missing
  1 | data_dirr: data
    | ^
"#;
        let said = checked(text).unwrap_err();
        assert!(said.starts_with(expected), "{said}");
        let errors: Vec<&str> = said
            .lines()
            .filter_map(|line| line.strip_prefix("curfew.yaml:"))
            .collect();
        let expected = [
            "1:1: error: unknown field `data_dirr` in the configuration",
            "1:1: error: the field `data_dir` is missing",
            "3:31: error: `watch` is a text: it has to be true or false",
            "6:24: error: `listen` is 0.0.0.0:6432, where the API listens already, at curfew.yaml:2:19",
            "6:74: error: `max_connections` is 0: it has to be a whole number from 1 to 100000000",
            "7:12: error: the service `db` is given twice; the first is at curfew.yaml:6:12",
            "7:47: error: `upstream` is \"x\": write HOST:PORT, '[ADDRESS]:PORT' for IPv6, or unix:/absolute/path",
            "7:60: error: `protocol` is \"postgre\", which is not one of its words",
            "8:25: error: `listen` is 127.0.0.1:7000, where another service listens already, at curfew.yaml:7:24",
            "9:26: error: `listen` is 127.0.0.1:7000, where another service listens already, at curfew.yaml:7:24",
            "9:76: error: `connect_timeout` is the bare number 5",
            "11:13: error: `address` is \"10.1.0.4/8\", which has bits set behind its prefix",
            "12:29: error: `user` is an empty text",
            "13:13: error: the address 10.1.0.4 is bound twice; the first is at curfew.yaml:12:13",
            "13:53: error: `groups` is an empty list",
            "15:9: error: the uid 7 is bound twice; the first is at curfew.yaml:14:9",
            "16:3: error: a binding needs exactly one of `user`, `workload`",
            "16:12: error: `cgroup` is \"x\": it is a path from the root, like /system.slice/x.service",
        ];
        assert_eq!(errors, expected, "{said}");
    }

    #[test]
    fn what_is_not_meant_is_refused_with_its_place() {
        let with = |more: &str| format!("data_dir: d\npolicy: {{path: p}}\n{SERVICE}{more}\n");
        let service = |more: &str| {
            format!(
                "data_dir: d\npolicy: {{path: p}}\ngateway: {{services: [{{name: a, listen: '[::1]:1', {more}}}]}}\n"
            )
        };
        for (text, part) in [
            (
                String::new(),
                "curfew.yaml: error: the configuration is empty",
            ),
            ("a: [".to_owned(), "curfew.yaml:1:4: error: not YAML: "),
            (with("--- \n{}"), "5:1: error: a second document"),
            (
                "data_dir: d\npolicy: {path: p}\ngateway: {services: []}\n".to_owned(),
                "3:21: error: `services` is an empty list",
            ),
            (
                with("data_dir: e"),
                "4:1: error: `data_dir` is given twice; the first is at curfew.yaml:1:1",
            ),
            (
                with("bindings: [{user: a}]"),
                "4:12: error: a binding needs exactly one of `address`, `uid`, `cgroup`",
            ),
            (
                with("bindings: [{uid: 1}]"),
                "4:12: error: a binding needs exactly one of `user`, `workload`",
            ),
            (
                with("bindings: [{uid: -1, user: a}]"),
                "4:18: error: `uid` is -1",
            ),
            (
                with("bindings: [{uid: 1, user: 2}]"),
                "help: write it in quotes",
            ),
            (
                with("control: {listen: '0.0.0.0:1'}"),
                "4:19: error: the API listens on 0.0.0.0:1, which others can reach",
            ),
            (
                with("control: {tls: {certificate: c}}"),
                "the field `key` is missing",
            ),
            (
                service("upstream: x"),
                "error: `upstream` is \"x\": write HOST:PORT",
            ),
            (service("upstream: '::1:5432'"), "'[ADDRESS]:PORT' for IPv6"),
            (
                service("upstream: 'unix:x'"),
                "is written unix:/absolute/path",
            ),
            (
                service("upstream: 'x:1', connect_timeout: 0s"),
                "error: `connect_timeout`: the duration \"0s\" is zero",
            ),
            (
                service("upstream: 'x:1', busy_is_active: true"),
                "goes with `protocol: postgres` only",
            ),
            (service("upstream: 'x:1', name: A"), "`name` is given twice"),
            (with("audit: {on_ful: continue}"), "did you mean `on_full`?"),
            (
                with("audit: {on_full: refuse}"),
                "use one of: refuse-new, continue",
            ),
            (
                with("audit: {segment_size: 64MB}"),
                "4:23: error: `segment_size` is \"64MB\": write a whole number",
            ),
            (
                with("audit: {keep_segments: 0}"),
                "`keep_segments` is 0: it has to be a whole number from 1",
            ),
            (
                with("audit: {keep_for: 0d}"),
                "`keep_for`: the duration \"0d\" is zero",
            ),
            (with("audit: {queue: 0}"), "`queue` is 0"),
            (
                with("audit: {queue: 1000001}"),
                "`queue` is 1000001: it has to be a whole number from 1 to 1000000",
            ),
        ] {
            let said = checked(&text).unwrap_err();
            assert!(
                said.contains(part),
                "{text}\n expected {part}\n found {said}"
            );
        }
    }

    #[test]
    fn services_of_one_port_may_listen_on_addresses_of_their_own() {
        let two = |one: &str, other: &str| {
            checked(&format!(
                "data_dir: d\npolicy: {{path: p}}\ngateway: {{services: [{{name: a, listen: '{one}', upstream: 'x:1'}}, {{name: b, listen: '{other}', upstream: 'x:1'}}]}}\n"
            ))
        };
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("0.0.0.0:1", "[::1]:1"),
            ("127.0.0.1:1", "127.0.0.1:2"),
        ] {
            two(one, other).unwrap();
        }
        for (one, other) in [
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1"),
            ("[::]:1", "0.0.0.0:1"),
            ("127.0.0.1:1", "0.0.0.0:1"),
        ] {
            let said = two(one, other).unwrap_err();
            assert!(
                said.contains("where another service listens already"),
                "{said}"
            );
        }
        let said = two("127.0.0.1:7171", "127.0.0.1:1").unwrap_err();
        assert!(
            said.contains("where the API listens already, without being told to"),
            "{said}"
        );
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

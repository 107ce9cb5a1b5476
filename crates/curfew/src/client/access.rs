//! Which server is asked, whom it has to be, and with which token: from the arguments, the environment, or the local
//! configuration. Nothing is sent here.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use ureq::{
    http::{Uri, uri::Scheme},
    tls::{Certificate, PemItem, parse_pem},
};

use super::error::ClientError;
use crate::config::{self, Config, ConfigError};

/// A longer file holds no token, in bytes.
const TOKEN: u64 = 4_096;
/// A longer file holds no authorities, in bytes.
const AUTHORITIES: u64 = 4 << 20;
/// The variable that holds a token.
const VARIABLE: &str = "CURFEW_TOKEN";
/// Where the configuration is if nobody says.
const CONFIG: &str = "/etc/curfew/curfew.yaml";

/// How the server is found.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct Connect {
    /// The server, like `https://curfew.example.org:7171` [default: `control.listen` of the configuration]
    #[arg(long, global = true, value_name = "URL", env = "CURFEW_SERVER")]
    server: Option<String>,
    /// A file (0600) with the token; CURFEW_TOKEN holds a token itself [default: `admin.token` of the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The authority of the server's certificate, as PEM [default: those of this machine]
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The configuration of a server on this machine
    #[arg(short, long, global = true, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// The environment.
    Variable,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable => f.write_str(VARIABLE),
        }
    }
}

/// All that is needed to ask.
pub struct Access {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub server: String,
    /// Whom a server with TLS has to be vouched for by; the machine's authorities if none.
    pub authorities: Option<Vec<Certificate<'static>>>,
    /// The token.
    pub token: String,
    /// Where it is from.
    pub origin: Origin,
}

impl Connect {
    /// To a server that is known, with the token of a file.
    pub fn to(server: String, token_file: PathBuf) -> Self {
        Self {
            server: Some(server),
            token_file: Some(token_file),
            ca_file: None,
            config: CONFIG.into(),
        }
    }

    /// Finds the server and a token for it.
    ///
    /// # Errors
    /// [`ClientError`]: what is missing or cannot be used, and what to do.
    pub fn access(&self) -> Result<Access, ClientError> {
        // An empty variable is how a shell unsets one in passing.
        let (server, certificate) = match self.server.as_ref().filter(|given| !given.is_empty()) {
            Some(given) => (Server::parse(given)?, None),
            None => {
                let config = self.local().map_err(|error| self.no_server(error))?;
                let tls = config.control.tls.as_ref();
                let server = Server::configured(config.control.listen, tls.is_some())?;
                (server, tls.map(|tls| tls.value.certificate.clone()))
            }
        };
        let authorities = match self.ca_file.as_ref().or(certificate.as_ref()) {
            Some(path) if server.tls => Some(read_authorities(path)?),
            _ => None,
        };
        let (token, origin) = self.token(&server)?;
        Ok(Access {
            server: server.url,
            authorities,
            token,
            origin,
        })
    }

    /// The local configuration.
    ///
    /// # Errors
    /// Why there is none.
    pub fn local(&self) -> Result<Config, ConfigError> {
        config::load(&self.config)
    }

    fn no_server(&self, error: ConfigError) -> ClientError {
        let source = Box::new(error);
        // One that nobody named need not be there.
        if self.config == Path::new(CONFIG) && matches!(*source, ConfigError::Read(_)) {
            return ClientError::NoServer(source);
        }
        let path = self.config.clone();
        ClientError::BadConfig { path, source }
    }

    fn token(&self, server: &Server) -> Result<(String, Origin), ClientError> {
        if let Some(path) = &self.token_file {
            return read_token(path, "--token-file names it");
        }
        match std::env::var_os(VARIABLE) {
            Some(token) if !token.is_empty() => {
                let token = token.to_str().and_then(valid_token);
                let token = token.ok_or(ClientError::TokenForm(Origin::Variable))?;
                return Ok((token, Origin::Variable));
            }
            _ => {}
        }
        let none = |source| ClientError::NoToken {
            server: server.url.clone(),
            source,
        };
        if !server.loopback {
            return Err(none(None));
        }
        let config = self.local().map_err(|error| none(Some(Box::new(error))))?;
        let path = config.data_dir.join("admin.token");
        read_token(
            &path,
            "it is made when `curfew run` first starts, for its own user: run this as that user, or give --token-file",
        )
    }
}

/// A server as it was named.
#[derive(Debug)]
struct Server {
    url: String,
    tls: bool,
    loopback: bool,
}

impl Server {
    fn parse(given: &str) -> Result<Self, ClientError> {
        let wrong = |why: &str| ClientError::Server {
            given: given.to_owned(),
            why: why.to_owned(),
        };
        let form = "write it like http://127.0.0.1:7171 or https://curfew.example.org:7171";
        let uri: Uri = given.parse().map_err(|_| wrong(form))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong(form)),
        };
        let authority = uri.authority().ok_or_else(|| wrong(form))?;
        if authority.as_str().contains('@')
            || !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
        {
            return Err(wrong(form));
        }
        let host = authority.host().trim_matches(['[', ']']);
        let loopback = host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback());
        if !tls && !loopback {
            return Err(wrong(
                "without TLS the token would cross the network in the clear: write https://, or log in there and use http://127.0.0.1",
            ));
        }
        let scheme = if tls { "https" } else { "http" };
        Ok(Self {
            url: format!("{scheme}://{authority}"),
            tls,
            loopback,
        })
    }

    /// The server of the local configuration.
    fn configured(listen: SocketAddr, tls: bool) -> Result<Self, ClientError> {
        let scheme = if tls { "https" } else { "http" };
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        if listen.port() == 0 {
            return Err(ClientError::Server {
                given: listen.to_string(),
                why:
                    "`control.listen` takes any free port: name the one that it took with --server"
                        .to_owned(),
            });
        }
        Ok(Self {
            url: format!("{scheme}://{}", SocketAddr::new(ip, listen.port())),
            tls,
            // It is this machine, whatever address it listens on.
            loopback: true,
        })
    }
}

fn read_token(path: &Path, hint: &'static str) -> Result<(String, Origin), ClientError> {
    let unreadable = |why| ClientError::TokenFile {
        path: path.to_owned(),
        why,
        hint,
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o7777;
    // A pipe is nobody else's to open; what others may read or write is not secret.
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(ClientError::TokenOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let text = read_bounded(file, TOKEN).map_err(unreadable)?;
    let origin = Origin::File(path.to_owned());
    let token = String::from_utf8(text).ok();
    match token.as_deref().and_then(valid_token) {
        Some(token) => Ok((token, origin)),
        None => Err(ClientError::TokenForm(origin)),
    }
}

/// Reads all, or fails when it is more than `most` bytes.
fn read_bounded(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is longer than {most} bytes"),
        ));
    }
    Ok(bytes)
}

fn valid_token(text: &str) -> Option<String> {
    let token = text.trim();
    let visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    visible.then(|| token.to_owned())
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate<'static>>, ClientError> {
    let wrong = |why: String| ClientError::Authorities {
        path: path.to_owned(),
        why,
    };
    let pem = File::open(path)
        .and_then(|file| read_bounded(file, AUTHORITIES))
        .map_err(|error| wrong(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(wrong(error.to_string())),
        }
    }
    if found.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_and_tokens_never_cross_networks_in_the_clear() {
        for (given, url, loopback) in [
            ("http://127.0.0.1:7171/", "http://127.0.0.1:7171", true),
            ("http://[::1]:7171", "http://[::1]:7171", true),
            ("http://localhost:1", "http://localhost:1", true),
            (
                "https://curfew.example.org",
                "https://curfew.example.org",
                false,
            ),
            ("https://10.0.0.1:7171", "https://10.0.0.1:7171", false),
        ] {
            let server = Server::parse(given).unwrap();
            assert_eq!((server.url.as_str(), server.loopback), (url, loopback));
        }
        for (given, part) in [
            ("127.0.0.1:7171", "write it like"),
            ("ftp://localhost", "write it like"),
            ("http://a@localhost:1", "write it like"),
            ("http://localhost:1/v1", "write it like"),
            ("http://localhost.example.org:1", "in the clear"),
            ("http://10.0.0.1:7171", "in the clear"),
        ] {
            let error = Server::parse(given).unwrap_err().to_string();
            assert!(error.contains(part), "{given}: {error}");
        }
    }

    #[test]
    fn a_configured_server_is_reached_on_this_machine() {
        let url = |listen: &str, tls| {
            Server::configured(listen.parse().unwrap(), tls).map(|server| server.url)
        };
        assert_eq!(url("0.0.0.0:1", true).unwrap(), "https://127.0.0.1:1");
        assert_eq!(url("[::]:1", true).unwrap(), "https://[::1]:1");
        assert_eq!(url("10.0.0.1:1", true).unwrap(), "https://10.0.0.1:1");
        assert!(url("127.0.0.1:0", false).is_err());
    }
}

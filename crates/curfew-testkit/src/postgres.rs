//! A PostgreSQL server of the tests' own: a fresh cluster in a temporary folder, on a free port, stopped when it is
//! dropped. What is asked of it may not live here.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tempfile::TempDir;

/// Where Debian keeps the programs.
const DEBIAN: &str = "/usr/lib/postgresql";
/// The user that the server runs as when the tests run as root: PostgreSQL refuses root.
const USER: &str = "postgres";
/// Starts until the port, free a moment before, was not taken by somebody else.
const ATTEMPTS: usize = 3;

/// A running server. Its superuser is `postgres`, without a password.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    address: SocketAddr,
}

/// The server that the tests of one process share; the last one to let go stops it.
static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());

impl Postgres {
    /// The server that the tests of this process share.
    ///
    /// # Errors
    /// When PostgreSQL is not installed (`scripts/parts` installs it) or does not start.
    pub fn shared() -> io::Result<Arc<Self>> {
        let mut shared = SHARED.lock();
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    fn start() -> io::Result<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("curfew-pg-").tempdir()?;
        if rustix::process::getuid().is_root() {
            check(Command::new("chown").arg(USER).arg(folder.path()))?;
        }
        let mut server = Self {
            programs,
            folder,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        let data = server.data();
        check(
            server
                .program("initdb")
                .args([
                    "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale", "C", "-N", "-D",
                ])
                .arg(&data),
        )?;
        let mut attempt = 1;
        loop {
            server.address = free_address()?;
            match server.launch() {
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
    }

    fn launch(&self) -> io::Result<()> {
        let options = format!(
            "-c listen_addresses={} -p {} -k {} -c fsync=off -c max_connections=200 -c logging_collector=off",
            self.address.ip(),
            self.address.port(),
            self.folder.path().display(),
        );
        // The server inherits what it is given: a pipe would keep the launcher's reader waiting for ever.
        check(
            self.program("pg_ctl")
                .args(["-w", "-t", "60", "-s", "-D"])
                .arg(self.data())
                .arg("-l")
                .arg(self.folder.path().join("log"))
                .args(["-o", &options, "start"])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )
    }

    /// Where it listens with TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens with a Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder
            .path()
            .join(format!(".s.PGSQL.{}", self.address.port()))
    }

    /// One of PostgreSQL's programs, run as a user that PostgreSQL accepts.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        let mut command = if rustix::process::getuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", USER, "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// `psql` to `address` as `user`: no configuration file, values alone, tab separated.
    #[must_use]
    pub fn psql(&self, address: SocketAddr, user: &str) -> Command {
        let mut command = self.program("psql");
        command
            .args(["-X", "-A", "-t", "-q", "-w", "-d", "postgres", "-U", user])
            .args(["-h", &address.ip().to_string()])
            .args(["-p", &address.port().to_string()]);
        command
    }

    /// What a query gives, straight from the server.
    ///
    /// # Errors
    /// When psql cannot run or the query fails.
    pub fn query(&self, sql: &str) -> io::Result<String> {
        let output = self
            .psql(self.address, "postgres")
            .args(["-c", sql])
            .output()?;
        succeeded(&output)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        stop.args(["-w", "-s", "-m", "immediate", "-D"])
            .arg(self.data())
            .arg("stop");
        // Nothing better can be done about a server that does not stop.
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// The folder of the newest version installed.
fn programs() -> io::Result<PathBuf> {
    let missing = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("no PostgreSQL server under {DEBIAN}; run scripts/parts, which installs it"),
        )
    };
    std::fs::read_dir(DEBIAN)
        .map_err(|_| missing())?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let version: u32 = name.to_str()?.parse().ok()?;
            let folder = Path::new(DEBIAN).join(name).join("bin");
            folder.join("initdb").exists().then_some((version, folder))
        })
        .max()
        .map(|(_, folder)| folder)
        .ok_or_else(missing)
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn check(command: &mut Command) -> io::Result<()> {
    succeeded(&command.output()?)
}

fn succeeded(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

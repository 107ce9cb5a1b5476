//! `curfew run` before a TCP service that echoes, with three subjects by their source address. Assertions may not live
//! here.
#![cfg(test)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{Ran, curfew};

/// What waiting for something may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The running server with its folder.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub service: SocketAddr,
    pub control: SocketAddr,
    /// What its log said until it listened everywhere.
    pub begun: Vec<Value>,
    child: Running,
    log: mpsc::Receiver<Value>,
}

impl Site {
    /// Sessions of the group `dba`: alice from 127.0.0.1, bob from 127.0.0.2. `more` goes into `control`.
    pub fn start(more: &str) -> Self {
        Self::start_with(more, "")
    }

    /// The same, with `parts` of the configuration of their own.
    pub fn start_with(more: &str, parts: &str) -> Self {
        let upstream = echo();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "data_dir: data\ncontrol: {{listen: '127.0.0.1:0'{more}}}\npolicy: {{path: policy}}\n\
             gateway: {{services: [{{name: echo, listen: '127.0.0.1:0', upstream: '{upstream}'}}]}}\n\
             bindings:\n- {{address: 127.0.0.1, user: alice, groups: [dba]}}\n- {{address: 127.0.0.2, user: bob, groups: [dba]}}\n{parts}"
        );
        std::fs::write(folder.path().join("curfew.yaml"), config).unwrap();
        std::fs::create_dir(folder.path().join("policy")).unwrap();
        std::fs::write(folder.path().join("policy/p.yaml"), policy("30m")).unwrap();
        let (child, log, begun) = run(folder.path().join("curfew.yaml"));
        let [service, control] = addresses(&begun);
        Self {
            service,
            control,
            begun,
            folder,
            child,
            log,
        }
    }

    /// Waits for a line of the server's log that says this, and gives its fields.
    pub fn logged(&self, what: &str) -> Value {
        self.logged_until(what).pop().unwrap()
    }

    /// The same, after the lines before it that nobody waited for.
    pub fn logged_until(&self, what: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("{what} was not logged in time"));
            let found = line.to_string().contains(what);
            lines.push(line);
            if found {
                return lines;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        self.child.signal(name);
    }

    /// Waits until the server has ended by itself.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.0.wait().unwrap().code()
    }

    /// What the API says without a token.
    pub fn get(&self, path: &str) -> String {
        self.begin("GET", path, "", "").answer()
    }

    /// The metrics, read as an admin.
    pub fn metrics(&self) -> String {
        let token = std::fs::read_to_string(self.path("data/admin.token")).unwrap();
        self.begin("GET", "/metrics", &token, "").answer()
    }

    /// Puts a question to the API.
    pub fn begin(&self, method: &str, path: &str, token: &str, body: &str) -> Asked {
        let mut stream = TcpStream::connect(self.control).unwrap();
        let (host, token, length) = (self.control, token.trim(), body.len());
        let of_body = "Content-Type: application/json\r\nContent-Length";
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{of_body}: {length}\r\n\r\n{body}"
        )
        .unwrap();
        Asked(stream)
    }

    /// From now on no file of the server grows, as on a full disk.
    pub fn fill_disk(&self) {
        self.limit_files("0");
    }

    /// Takes [`Site::fill_disk`] back.
    pub fn free_disk(&self) {
        self.limit_files("unlimited");
    }

    fn limit_files(&self, bytes: &str) {
        // The soft limit alone, so that it can be raised again.
        let limit = format!("--fsize={bytes}:");
        let pid = format!("--pid={}", self.child.0.id());
        let limited = Command::new("prlimit").args([pid, limit]).status();
        assert!(limited.unwrap().success());
    }

    /// Kills the server and starts it again in the same folder.
    pub fn restart(&mut self) {
        self.restart_after(|_| ());
    }

    /// The same; something is done to its folder in between.
    pub fn restart_after(&mut self, between: impl FnOnce(&Path)) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
        between(self.folder.path());
        (self.child, self.log, self.begun) = run(self.path("curfew.yaml"));
        [self.service, self.control] = addresses(&self.begun);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, scheme: &str, args: &[&str]) -> Command {
        let mut command = curfew(args);
        command.arg("-c").arg(self.path("curfew.yaml"));
        let server = format!("{scheme}://{}", self.control);
        command.env("CURFEW_SERVER", server);
        command
    }

    /// The binary as an admin.
    pub fn curfew(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.command("http", args))
    }

    pub fn sessions(&self) -> Vec<Value> {
        let listed = self.curfew(&["sessions", "list", "--output", "json"]);
        listed.json().as_array().unwrap().clone()
    }

    /// A client from this source address.
    pub fn connect(&self, from: &str) -> Client {
        let from: IpAddr = from.parse().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&self.service.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    /// A client that is through: what it sends comes back.
    pub fn open(&self, from: &str) -> Client {
        let mut client = self.connect(from);
        assert!(client.echoes(), "{from} is not let in");
        client
    }
}

/// A question whose answer is still to come.
pub struct Asked(TcpStream);

impl Asked {
    pub fn answer(mut self) -> String {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// In this folder the configuration of a server that leads nowhere, with `more` of its only service.
pub fn leads_nowhere(folder: &Path, more: &str) -> PathBuf {
    let config = folder.join("curfew.yaml");
    let service = format!("{{name: echo, listen: '127.0.0.1:0', upstream: '127.0.0.1:9'{more}}}");
    let text = format!(
        "data_dir: data\ncontrol: {{listen: '127.0.0.1:0'}}\npolicy: {{path: p.yaml}}\ngateway: {{services: [{service}]}}\n"
    );
    std::fs::write(&config, text).unwrap();
    std::fs::write(folder.join("p.yaml"), policy("30m")).unwrap();
    config
}

/// A process that ends with its test.
pub struct Running(pub Child);

impl Running {
    pub fn signal(&self, name: &str) {
        let args = [format!("-{name}"), self.0.id().to_string()];
        let sent = Command::new("kill").args(args).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The only policy: a segment, and its lifetime.
pub fn policy(lifetime: &str) -> String {
    format!(
        "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {{name: echo}}\nspec: {{sensitivity: high, members: [{{service: echo}}]}}\n\
         ---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: dba}}\n\
         spec: {{from: {{groups: [dba]}}, to: {{segments: [echo]}}, limits: {{maxLifetime: {lifetime}}}}}\n"
    )
}

/// Starts the server and waits until it listens everywhere: the service, and the API. What it says until then comes
/// last.
fn run(config: PathBuf) -> (Running, mpsc::Receiver<Value>, Vec<Value>) {
    let mut child = curfew(&["run", "--log", "json", "-c"])
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, log) = mpsc::channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            // The rest is read too, so that the server never waits for a reader.
            let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    let mut begun = Vec::new();
    while listening(&begun).count() < 2 {
        begun.push(log.recv_timeout(PATIENCE).unwrap());
    }
    (Running(child), log, begun)
}

/// The fields of the lines that say who listens where.
fn listening(lines: &[Value]) -> impl Iterator<Item = &Value> {
    let fields = lines.iter().map(|line| &line["fields"]);
    fields.filter(|fields| fields["message"] == "listening")
}

/// Where the service listens, and the API.
fn addresses(begun: &[Value]) -> [SocketAddr; 2] {
    ["echo", "control"].map(|name| {
        let fields = listening(begun).find(|fields| fields["service"] == name);
        fields.unwrap()["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    })
}

fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut bytes = [0; 1_024];
                while let Ok(count @ 1..) = (&stream).read(&mut bytes) {
                    let _ = (&stream).write_all(&bytes[..count]);
                }
            });
        }
    });
    address
}

/// One connection through the gateway.
pub struct Client(TcpStream);

impl Client {
    /// Whether what it sends comes back.
    pub fn echoes(&mut self) -> bool {
        let mut back = [0; 5];
        self.0.write_all(b"hello").is_ok()
            && self.0.read_exact(&mut back).is_ok()
            && back == *b"hello"
    }

    /// Says that it is through.
    pub fn shut(&self, how: Shutdown) {
        self.0.shutdown(how).unwrap();
    }

    /// Whether it was ended from the other side, waiting for that.
    pub fn is_ended(&mut self) -> bool {
        match self.0.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

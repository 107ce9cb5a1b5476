//! A server that answers what a test tells it to, and the real binary as its client. Assertions may not live here.
#![cfg(test)]
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod site;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

/// A token that a test presents.
pub const TOKEN: &str = "curfew_0123456789";

/// What a scripted server got.
#[derive(Clone, Debug)]
pub struct Asked {
    pub line: String,
    pub headers: Vec<String>,
    pub body: String,
}

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Answers by method and path, query included; anything else is 404.
pub struct Scripted {
    pub address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<String, VecDeque<String>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let scripted = Self {
            address: listener.local_addr().unwrap(),
            answers: Arc::default(),
            asked: Arc::default(),
        };
        let (answers, asked) = (Arc::clone(&scripted.answers), Arc::clone(&scripted.asked));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let request = read(&stream);
                let key = request.line.rsplit_once(' ').unwrap().0.to_owned();
                asked.lock().unwrap().push(request);
                let answer = answers.lock().unwrap().get_mut(&key).and_then(next);
                let missing = || {
                    whole(
                        404,
                        "application/problem+json",
                        r#"{"title":"There is no such thing","detail":"nothing is scripted","code":"not_found"}"#,
                    )
                };
                let answer = answer.unwrap_or_else(missing);
                // A client that has seen enough may be gone.
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        scripted
    }

    /// Answers `request`, like `GET /v1/sessions`, with JSON.
    pub fn json(&self, request: &str, status: u16, body: &Value) {
        let kind = if status < 400 {
            "application/json"
        } else {
            "application/problem+json"
        };
        self.raw(request, whole(status, kind, &body.to_string()));
    }

    /// Answers with bytes of HTTP.
    pub fn raw(&self, request: &str, answer: String) {
        self.answers
            .lock()
            .unwrap()
            .insert(request.to_owned(), [answer].into());
    }

    /// Answers the next request with bytes of HTTP, once those before have their answers.
    pub fn then(&self, request: &str, answer: String) {
        let mut answers = self.answers.lock().unwrap();
        answers
            .entry(request.to_owned())
            .or_default()
            .push_back(answer);
    }

    /// Everything that was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The binary as a client of it.
    pub fn curfew(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// The same with its standard output on a terminal: what that showed, and what else the run gave.
    pub fn on_a_terminal(&self, args: &[&str]) -> (String, Ran) {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let inner = File::options().write(true).open(name.to_str().unwrap());
        let mut command = self.command(args);
        let child = command
            .stdout(inner.unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Its end of the terminal is closed with the process.
        drop(command);
        let mut shown = Vec::new();
        // EIO is how the last of the other end's closing is told.
        let _ = File::from(terminal).read_to_end(&mut shown);
        let ran = Ran::from(child.wait_with_output().unwrap());
        (String::from_utf8(shown).unwrap(), ran)
    }

    fn command(&self, args: &[&str]) -> Command {
        let server = format!("http://{}", self.address);
        let mut command = curfew(args);
        command
            .env("CURFEW_SERVER", server)
            .env("CURFEW_TOKEN", TOKEN);
        command
    }
}

/// Each answer once; the last one stays.
fn next(answers: &mut VecDeque<String>) -> Option<String> {
    if answers.len() > 1 {
        answers.pop_front()
    } else {
        answers.front().cloned()
    }
}

pub fn whole(status: u16, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn read(stream: &TcpStream) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().unwrap())
    });
    let mut body = String::new();
    let mut rest = reader.take(length.unwrap_or(0));
    rest.read_to_string(&mut body).unwrap();
    let mut lines = lines.into_iter();
    Asked {
        line: lines.next().unwrap_or_else(|| "? ?".to_owned()),
        headers: lines.collect(),
        body,
    }
}

/// The binary with nothing from the environment of the test, in UTC.
pub fn curfew(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curfew"));
    command
        .args(args)
        .env_remove("CURFEW_SERVER")
        .env_remove("CURFEW_TOKEN")
        .env("TZ", "UTC");
    command
}

/// What a run of the binary gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        command.output().unwrap().into()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Writes a file that only its owner may read.
pub fn secret(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_owned()
}

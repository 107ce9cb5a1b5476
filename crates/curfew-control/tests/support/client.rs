//! A plain HTTP/1.1 client over one socket: what curl sends, and nothing more.
#![cfg(test)]

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use super::SOON;

#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    headers: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let host = ("Host".to_owned(), address.to_string());
        Self {
            address,
            headers: vec![host],
        }
    }

    pub fn token(self, token: &str) -> Self {
        self.with("Authorization", &format!("Bearer {token}"))
    }

    /// With this header, instead of an earlier one of the name.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, None)
    }

    pub fn delete(&self, path: &str) -> Response {
        self.send("DELETE", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.json("POST", path, body)
    }

    pub fn put(&self, path: &str, body: &Value) -> Response {
        self.json("PUT", path, body)
    }

    pub fn json(&self, method: &str, path: &str, body: &Value) -> Response {
        self.clone().with("Content-Type", "application/json").send(
            method,
            path,
            Some(body.to_string().as_bytes()),
        )
    }

    pub fn send(&self, method: &str, path: &str, body: Option<&[u8]>) -> Response {
        let mut stream = self.open(method, path, "1.1", body);
        read(&mut stream)
    }

    /// Sends a request and gives the lines of its answer, body and all, as they come. HTTP/1.0 has no chunks.
    pub fn lines(&self, path: &str) -> impl Iterator<Item = String> + use<> {
        let stream = self.open("GET", path, "1.0", None);
        BufReader::new(stream).lines().map_while(Result::ok)
    }

    pub fn open(&self, method: &str, path: &str, version: &str, body: Option<&[u8]>) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let head = self.head(method, path, version, body.map(<[u8]>::len));
        // A server that refuses may answer and close before it has all of it.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body.unwrap_or_default());
        stream
    }

    pub fn head(&self, method: &str, path: &str, version: &str, length: Option<usize>) -> String {
        let mut head = format!("{method} {path} HTTP/{version}\r\nConnection: close\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head + "\r\n"
    }
}

/// Reads one answer to its end.
pub fn read(stream: &mut impl Read) -> Response {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        head.push(line.trim_end().to_owned());
        line.clear();
    }
    let status = head[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = head[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: u64 = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body).unwrap();
    Response {
        status,
        headers,
        body,
    }
}

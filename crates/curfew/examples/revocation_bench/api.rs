//! A caller of the API on one connection that is kept open. HTTP beyond what that needs may not live here.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::{Value, json};

pub(crate) struct Api {
    stream: BufReader<TcpStream>,
    token: String,
}

impl Api {
    pub(crate) fn connect(address: SocketAddr, token: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
            token: token.trim().to_owned(),
        }
    }

    pub(crate) fn revoke(&mut self, user: &str) -> Value {
        let scope = json!({"subject": {"kind": "user", "issuer": null, "id": user}});
        let order = json!({"scope": scope, "reason": "left the company"});
        self.post("/v1/revocations", &order.to_string())
    }

    pub(crate) fn lift(&mut self, id: &str) {
        self.post(&format!("/v1/revocations/{id}/lift"), "");
    }

    fn post(&mut self, path: &str, body: &str) -> Value {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let status = self.line();
        let mut length = 0;
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(status.contains(" 20"), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

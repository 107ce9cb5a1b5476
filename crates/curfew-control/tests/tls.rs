//! The API over TLS: a client that trusts the certificate is served, on an address that is not loopback too.
#![cfg(test)]

mod support;

use std::{fs, io::Write as _, net::TcpStream, sync::Arc};

use curfew_control::{StartError, Tls};
use serde_json::json;
use support::{SOON, World, client::read};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::ServerName,
};

#[test]
fn over_tls_it_listens_everywhere() {
    let made = rcgen::generate_simple_self_signed(vec!["curfew.test".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let certificate = files.path().join("tls.crt");
    let key = files.path().join("tls.key");
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let world = World::with(|settings| {
        settings.listen = "0.0.0.0:0".parse().unwrap();
        settings.tls = Some(Tls { certificate, key });
    });
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("curfew.test").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let local = ("127.0.0.1", world.address().port());
    let socket = TcpStream::connect(local).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    // The name is the certificate's: no check of loopback applies.
    let order = json!({"scope": "all", "reason": "drill"}).to_string();
    let head = world
        .admin()
        .with("Host", "curfew.test")
        .with("Content-Type", "application/json")
        .head("POST", "/v1/revocations", "1.1", Some(order.len()));
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(order.as_bytes()).unwrap();
    let answer = read(&mut stream);
    assert_eq!(answer.status, 201, "{answer:?}");
    // In the clear nothing is answered.
    let mut socket = TcpStream::connect(local).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let clear = world.admin().head("GET", "/healthz", "1.1", None);
    socket.write_all(clear.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut socket, &mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn a_certificate_that_is_none_is_said() {
    let world = World::start();
    let settings = |certificate: &str| {
        let mut settings =
            curfew_control::Settings::new("0.0.0.0:0".parse().unwrap(), world.dir.path());
        let path = world.dir.path().join(certificate);
        settings.tls = Some(Tls {
            certificate: path.clone(),
            key: path,
        });
        settings
    };
    fs::write(world.dir.path().join("empty.pem"), "").unwrap();
    for certificate in ["missing.pem", "empty.pem"] {
        let refused = curfew_control::Server::start(settings(certificate), world.parts());
        let error = refused.unwrap_err();
        assert!(matches!(error, StartError::Certificate { .. }), "{error}");
        assert!(error.to_string().contains(certificate), "{error}");
    }
}

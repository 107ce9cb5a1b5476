//! The launcher of PostgreSQL, held by a query over each of its two ways in.
#![cfg(test)]

use std::os::unix::net::UnixStream;

use curfew_testkit::Postgres;

#[test]
fn a_shared_server_answers_and_is_gone_with_its_last_user() {
    let one = Postgres::shared().unwrap();
    let two = Postgres::shared().unwrap();
    assert_eq!(one.address(), two.address());
    assert_eq!(one.query("select 6 * 7").unwrap(), "42");
    assert!(one.query("select from nowhere").is_err());
    let socket = one.socket();
    UnixStream::connect(&socket).unwrap();
    drop((one, two));
    assert!(UnixStream::connect(&socket).is_err());
}

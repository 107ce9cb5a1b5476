//! The real server behind the lab, and what it says of its backends.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part of it, and a helper that cannot go on fails its test"
)]

use std::{sync::Arc, time::Duration};

use curfew_model::UpstreamAddress;
use curfew_testkit::Postgres;

use super::{PATIENCE, eventually};

/// The server, and where it is.
pub fn server() -> (Arc<Postgres>, UpstreamAddress) {
    let server = Postgres::shared().unwrap();
    let upstream = UpstreamAddress::Tcp(server.address());
    (server, upstream)
}

/// Nothing of the application `name` is left in the server, within a second.
pub fn nothing_left(server: &Postgres, name: &str) {
    let sql = format!("select count(*) from pg_stat_activity where application_name = '{name}'");
    eventually("the backend is gone", Duration::from_secs(1), || {
        server.query(&sql).unwrap() == "0"
    });
}

/// A query of the application `name` runs in the server.
pub fn running(server: &Postgres, name: &str) {
    let sql = format!(
        "select count(*) from pg_stat_activity where application_name = '{name}' and state = 'active'"
    );
    eventually("the query runs", PATIENCE, || {
        server.query(&sql).unwrap() == "1"
    });
}

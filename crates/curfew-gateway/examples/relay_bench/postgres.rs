//! PostgreSQL through Curfew, pgbouncer and HAProxy: `pgbench` and a COPY by `psql`, against a server of its own.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use curfew_model::Clock;
use curfew_testkit::{BootClock, Postgres};

use crate::{Ended, load, report::Table};

const DIRECT: &str = "direct";
const RELAYS: [&str; 4] = [DIRECT, "Curfew", "pgbouncer", "HAProxy"];
/// The first port; pgbouncer's two processes share one.
const PORT: u16 = 7301;
/// How long one run of `pgbench` takes, and the scale of its tables.
const SECONDS: &str = "5";
const SCALE: &str = "10";
/// What a COPY moves, in rows of so many bytes.
const ROWS: u32 = 300_000;
const ROW: u32 = 1_000;

/// What is measured: more is better.
type Workload = (&'static str, fn(&Postgres, SocketAddr) -> f64);

const WORKLOADS: [Workload; 4] = [
    ("pgbench -S, prepared, 8 clients, tps", |server, address| {
        transactions(server, address, "prepared", "8")
    }),
    (
        "pgbench -S, prepared, 50 clients, tps",
        |server, address| transactions(server, address, "prepared", "50"),
    ),
    ("pgbench -S, simple, 8 clients, tps", |server, address| {
        transactions(server, address, "simple", "8")
    }),
    ("COPY to the client, MB/s", copy),
];

pub(crate) fn measure(rounds: usize) {
    let server = Postgres::shared().unwrap();
    let folder = tempfile::tempdir().unwrap();
    done(bench(&server, server.address()).args(["-i", "-q", "-s", SCALE]));
    let local =
        |index: usize| SocketAddr::from(([127, 0, 0, 1], PORT + u16::try_from(index).unwrap()));
    let addresses: Vec<SocketAddr> = (0..RELAYS.len())
        .map(|index| {
            if index == 0 {
                server.address()
            } else {
                local(index)
            }
        })
        .collect();
    let _relays = [
        curfew(local(1), server.address()),
        pgbouncer(folder.path(), 0, local(2), server.address()),
        pgbouncer(folder.path(), 1, local(2), server.address()),
        haproxy(folder.path(), local(3), server.address()),
    ];
    addresses
        .iter()
        .for_each(|address| load::wait_for(address.port()));
    let mut table = Table::new(RELAYS.to_vec());
    for round in 0..rounds {
        for (name, workload) in WORKLOADS {
            for at in crate::order(RELAYS.len(), round) {
                if let (Some(relay), Some(address)) = (RELAYS.get(at), addresses.get(at)) {
                    let figure = workload(&server, *address);
                    eprintln!("round {round} {name} {relay} {figure:.0}");
                    table.add(name, relay, figure);
                }
            }
        }
    }
    println!("{}", table.with_ratios());
}

fn bench(server: &Postgres, address: SocketAddr) -> Command {
    let mut command = server.program("pgbench");
    command
        .args(["-U", "postgres", "-h", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()]);
    command
}

/// What a program printed; it must succeed.
fn done(command: &mut Command) -> String {
    let output = command.arg("postgres").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Transactions a second, without the time that connecting took.
fn transactions(server: &Postgres, address: SocketAddr, mode: &str, clients: &str) -> f64 {
    let options = [
        "-n", "-S", "-j", "2", "-T", SECONDS, "-M", mode, "-c", clients,
    ];
    let said = done(bench(server, address).args(options));
    let figure = said.lines().find_map(|line| {
        let (figure, _) = line.strip_prefix("tps = ")?.split_once(' ')?;
        figure.parse().ok()
    });
    figure.unwrap_or_else(|| panic!("no tps in {said}"))
}

fn copy(server: &Postgres, address: SocketAddr) -> f64 {
    let sql = format!(
        "COPY (SELECT repeat('x', {}) FROM generate_series(1, {ROWS})) TO STDOUT",
        ROW - 1
    );
    let began = BootClock.now().boot;
    let mut psql = server.psql(address, "postgres");
    let status = psql
        .args(["-c", &sql])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    f64::from(ROWS * ROW) / 1e6 / BootClock.now().boot.since(began).as_secs_f64()
}

fn start(command: &mut Command) -> Ended {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ended(
        quiet
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")),
    )
}

fn curfew(at: SocketAddr, upstream: SocketAddr) -> Ended {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "gateway-postgres",
        &at.port().to_string(),
        &upstream.to_string(),
    ]);
    start(&mut command)
}

/// One of two processes, which is pgbouncer at its best on two cores. It lets go of server processes that no client has,
/// so that its runs begin with new ones, as those of the others do.
fn pgbouncer(folder: &Path, number: u8, at: SocketAddr, upstream: SocketAddr) -> Ended {
    let config = format!(
        "[databases]\npostgres = host={} port={} user=postgres\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {}\n\
         auth_type = any\npool_mode = session\ndefault_pool_size = 100\nmax_client_conn = 1000\npkt_buf = 65536\n\
         so_reuseport = 1\nserver_idle_timeout = 1\nunix_socket_dir =\nlogfile = /dev/null\n",
        upstream.ip(),
        upstream.port(),
        at.ip(),
        at.port(),
    );
    let path = folder.join(format!("pgbouncer-{number}.ini"));
    fs::write(&path, config).unwrap();
    let mut command = Command::new("pgbouncer");
    if rustix::process::getuid().is_root() {
        // It refuses to run as root.
        command.args(["-u", "nobody"]);
    }
    start(command.arg("-q").arg(path))
}

fn haproxy(folder: &Path, at: SocketAddr, upstream: SocketAddr) -> Ended {
    let config = format!(
        "global\n  nbthread 2\n  maxconn 4000\n  tune.bufsize 262144\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen postgres\n  bind {at}\n  server s {upstream}\n"
    );
    let path = folder.join("haproxy.cfg");
    fs::write(&path, config).unwrap();
    start(Command::new("haproxy").args(["-db", "-q", "-f"]).arg(path))
}

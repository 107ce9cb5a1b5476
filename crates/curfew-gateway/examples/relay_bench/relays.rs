//! The relays that are compared, each with its best settings, as processes of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::load::wait_for;

/// What a relay leads to.
pub(crate) const SOURCE: u16 = 7001;
pub(crate) const ECHO: u16 = 7002;

/// A relay that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No relay: the ceiling.
    Direct,
    Curfew,
    HaProxy,
    HaProxySplice,
    Nginx,
    Envoy,
}

pub(crate) const KINDS: [Kind; 6] = [
    Kind::Direct,
    Kind::Curfew,
    Kind::HaProxy,
    Kind::HaProxySplice,
    Kind::Nginx,
    Kind::Envoy,
];

/// One that runs; it is ended with this.
pub(crate) struct Running {
    process: Option<Child>,
    /// Where it takes connections for the source and for the echo.
    pub(crate) ports: (u16, u16),
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Curfew => "Curfew",
            Self::HaProxy => "HAProxy",
            Self::HaProxySplice => "HAProxy, splice",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }

    /// Starts it; connections live for `limit` if there is one: without traffic for HAProxy and nginx, which know no
    /// other limit, in all for the others.
    pub(crate) fn start(self, limit: Option<Duration>, port: u16) -> Running {
        if self == Self::Direct {
            return Running {
                process: None,
                ports: (SOURCE, ECHO),
            };
        }
        let ports = (port, port + 1);
        let directory = std::env::temp_dir().join(format!("relay-bench-{port}"));
        fs::create_dir_all(&directory).unwrap();
        let mut command = match self {
            Self::Direct | Self::Curfew => curfew(ports, limit),
            Self::HaProxy => haproxy(&directory, ports, limit, false),
            Self::HaProxySplice => haproxy(&directory, ports, limit, true),
            Self::Nginx => nginx(&directory, ports, limit),
            Self::Envoy => envoy(&directory, ports, limit),
        };
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        wait_for(ports.0);
        wait_for(ports.1);
        Running {
            process: Some(process),
            ports,
        }
    }
}

impl Running {
    /// Memory that is its own, with its workers', in KiB.
    pub(crate) fn anonymous_kib(&self) -> u64 {
        let Some(process) = &self.process else {
            return 0;
        };
        let id = process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().map(str::to_owned);
        children
            .chain([id.to_string()])
            .filter_map(|id| fs::read_to_string(format!("/proc/{id}/status")).ok())
            .filter_map(|status| {
                let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // SIGTERM, so that a master takes its workers along.
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
    }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn curfew((source, echo): (u16, u16), limit: Option<Duration>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let limit = limit.unwrap_or(Duration::from_secs(86_400));
    command.arg("gateway").args([
        source.to_string(),
        echo.to_string(),
        limit.as_secs().to_string(),
    ]);
    command
}

fn haproxy(
    directory: &Path,
    (source, echo): (u16, u16),
    limit: Option<Duration>,
    splice: bool,
) -> Command {
    let idle = limit.map_or(86_400, |limit| limit.as_secs());
    let (pipes, options) = if splice {
        (
            "  tune.pipesize 1048576\n  maxpipes 500\n",
            "  option splice-request\n  option splice-response\n",
        )
    } else {
        ("", "")
    };
    let config = format!(
        "global\n  nbthread 2\n  maxconn 4000\n  tune.bufsize 262144\n{pipes}\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client {idle}s\n  timeout server {idle}s\n\
         \x20 backlog 4096\n{options}\
         listen source\n  bind 127.0.0.1:{source}\n  server s 127.0.0.1:{SOURCE}\n\
         listen echo\n  bind 127.0.0.1:{echo}\n  server s 127.0.0.1:{ECHO}\n"
    );
    let path = write(directory, "haproxy.cfg", &config);
    let mut command = Command::new("haproxy");
    command.args(["-db", "-q", "-f"]).arg(path);
    command
}

fn nginx(directory: &Path, (source, echo): (u16, u16), limit: Option<Duration>) -> Command {
    let idle = limit.map_or(86_400, |limit| limit.as_secs());
    let server = |port, upstream| {
        format!(
            "  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{upstream}; \
             proxy_buffer_size 256k; proxy_timeout {idle}s; }}\n"
        )
    };
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nworker_processes 2;\ndaemon off;\n\
         error_log /dev/null crit;\npid {}/pid;\n\
         events {{ worker_connections 9000; }}\nstream {{\n{}{}}}\n",
        directory.display(),
        server(source, SOURCE),
        server(echo, ECHO),
    );
    let path = write(directory, "nginx.conf", &config);
    let mut command = Command::new("nginx");
    command.arg("-c").arg(path);
    command
}

fn envoy(directory: &Path, (source, echo): (u16, u16), limit: Option<Duration>) -> Command {
    let duration = limit.map_or(String::new(), |limit| {
        format!(
            "          max_downstream_connection_duration: {}s\n",
            limit.as_secs()
        )
    });
    let listener = |name, port| {
        format!(
            "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    \
             tcp_backlog_size: 4096\n    filter_chains:\n    - filters:\n      \
             - name: tcp\n        typed_config:\n          \
             \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          \
             stat_prefix: {name}\n          cluster: {name}\n          idle_timeout: 0s\n{duration}"
        )
    };
    let cluster = |name, port| {
        format!(
            "  - name: {name}\n    type: STATIC\n    circuit_breakers: {{thresholds: [{{max_connections: 100000, \
             max_pending_requests: 100000}}]}}\n    \
             load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
             {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}\n"
        )
    };
    let config = format!(
        "static_resources:\n  listeners:\n{}{}  clusters:\n{}{}",
        listener("source", source),
        listener("echo", echo),
        cluster("source", SOURCE),
        cluster("echo", ECHO),
    );
    let path = write(directory, "envoy.yaml", &config);
    let mut command = Command::new(std::env::var("ENVOY").unwrap_or_else(|_| "envoy".to_owned()));
    command
        .args(["--concurrency", "2", "--disable-hot-restart", "-l", "off"])
        .arg("-c")
        .arg(path);
    command
}

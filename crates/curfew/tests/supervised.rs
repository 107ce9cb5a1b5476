//! What a service manager is told of a process that it started, from its socket.
#![cfg(test)]

mod support;

use std::{os::unix::net::UnixDatagram, process::Stdio};

use support::{
    curfew,
    site::{PATIENCE, Running, leads_nowhere, policy},
};

struct Manager {
    socket: UnixDatagram,
    process: Running,
    folder: tempfile::TempDir,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = leads_nowhere(folder.path(), "");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let process = curfew(&["run", "-c", config.to_str().unwrap()])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "200000")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            socket,
            process: Running(process),
            folder,
        }
    }

    /// The next word that is no sign of life.
    fn hears(&self) -> String {
        loop {
            let told = self.next();
            if told != "WATCHDOG=1" {
                return told;
            }
        }
    }

    fn next(&self) -> String {
        let mut buffer = [0; 512];
        let read = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(buffer.get(..read).unwrap())
            .trim_end()
            .to_owned()
    }
}

#[test]
fn a_service_manager_is_told_of_readiness_life_reloads_and_the_end() {
    let mut manager = Manager::start();
    assert_eq!(manager.next(), "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    let reloads = |manager: &Manager| {
        manager.process.signal("HUP");
        let told = manager.hears();
        assert!(told.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told}");
        assert_eq!(manager.hears(), "READY=1");
    };
    reloads(&manager);
    // One that waits for the disk is no process that hangs.
    let busy = rusqlite::Connection::open(manager.folder.path().join("data/state.db")).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::fs::write(manager.folder.path().join("p.yaml"), policy("29m")).unwrap();
    manager.process.signal("HUP");
    assert!(manager.hears().starts_with("RELOADING=1"));
    for _ in 0..5 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    busy.execute_batch("ROLLBACK").unwrap();
    assert_eq!(manager.hears(), "READY=1");
    // One that is refused is over too.
    std::fs::write(manager.folder.path().join("p.yaml"), "nonsense").unwrap();
    reloads(&manager);
    manager.process.signal("TERM");
    assert_eq!(manager.hears(), "STOPPING=1");
    assert!(manager.process.0.wait().unwrap().success());
}

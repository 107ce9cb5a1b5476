//! Everything of the demo that is no client: services, policy files and a whole Curfew process in a temporary folder.

use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use curfew_model::Clock;
use tempfile::TempDir;

use super::{cast, cast::PLACES, service::Service};
use crate::node::{self, AUDIT, Node};

/// The running site. What is taken down first comes first.
pub struct Site {
    pub node: Node,
    services: Vec<Service>,
    folder: TempDir,
}

impl Site {
    /// Starts it on free ports of the loopback addresses.
    ///
    /// # Errors
    /// What could not be written or started.
    pub fn start(unit: Duration, clock: Arc<dyn Clock>) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::Builder::new().prefix("curfew-demo-").tempdir()?;
        let services = PLACES
            .iter()
            .map(|place| Service::start(place.name))
            .collect::<Result<Vec<_>, _>>()?;
        let upstreams: Vec<(&str, SocketAddr)> = PLACES
            .iter()
            .zip(&services)
            .map(|(place, service)| (place.name, service.address()))
            .collect();
        let file = folder.path().join("curfew.yaml");
        std::fs::write(folder.path().join("policy.yaml"), cast::policy(unit))?;
        std::fs::write(&file, cast::config(folder.path(), &upstreams))?;
        let node = Node::start(node::check(&file, node::Purpose::Start)?, clock)?;
        Ok(Self {
            node,
            services,
            folder,
        })
    }

    /// The service itself, without Curfew.
    pub fn direct(&self, place: &str) -> Option<SocketAddr> {
        let mut both = PLACES.iter().zip(&self.services);
        both.find_map(|(known, service)| (known.name == place).then(|| service.address()))
    }

    /// A service behind the gateway, or the API as `control`.
    pub fn through(&self, name: &str) -> Option<SocketAddr> {
        let mut addresses = self.node.addresses();
        addresses.find_map(|(known, address)| (known == name).then_some(address))
    }

    /// The folder with configuration, policy and data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The audit log's folder.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("data").join(AUDIT)
    }

    /// The first token of the API.
    pub fn token(&self) -> PathBuf {
        self.folder.path().join("data").join("admin.token")
    }

    /// Stops Curfew, then the services, and gives the folder, which holds the log until it is dropped.
    pub fn stop(self) -> TempDir {
        self.node.stop();
        self.folder
    }
}

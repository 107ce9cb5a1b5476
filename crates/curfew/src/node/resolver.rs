//! The names of upstreams, looked up again while the process runs: a server that fails over has another address. What an
//! address means is decided at each opening, and live sessions stay where they are.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use curfew_gateway::service::ServiceConfig;
use curfew_model::UpstreamAddress;
use tracing::{error, info, warn};

use super::{compiler::target, desired::Desired};
use crate::config::{Service, Upstream};

/// How often a name is looked up.
const EVERY: Duration = Duration::from_secs(10);

/// The running thread. Dropping it stops it, and does not wait: a resolver takes as long as it likes to fail.
pub struct Resolver {
    stopping: Arc<AtomicBool>,
    thread: Option<Thread>,
}

impl Resolver {
    /// Looks up the names that these services lead to, from now on. Where there is none it does nothing.
    ///
    /// # Errors
    /// The kernel's, when no thread is left.
    pub fn start(
        configured: &[Service],
        running: &[ServiceConfig],
        desired: &Arc<Desired>,
    ) -> io::Result<Self> {
        let mut names: Vec<Name> = configured
            .iter()
            .zip(running)
            .filter(|(configured, _)| configured.upstream.is_name())
            .map(|(configured, running)| Name::new(&configured.upstream, running))
            .collect();
        let mut resolver = Self {
            stopping: Arc::default(),
            thread: None,
        };
        if names.is_empty() {
            return Ok(resolver);
        }
        let (stopping, desired) = (Arc::clone(&resolver.stopping), Arc::clone(desired));
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        let running = thread.spawn(move || {
            while !stopping.load(Ordering::Acquire) {
                std::thread::park_timeout(EVERY);
                for name in &mut names {
                    if stopping.load(Ordering::Acquire) {
                        return;
                    }
                    let found = name.upstream.resolve();
                    if let Some(told) = name.take(found) {
                        name.say(&told, &desired);
                    }
                }
            }
        })?;
        resolver.thread = Some(running.thread().clone());
        Ok(resolver)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.thread.iter().for_each(Thread::unpark);
    }
}

/// A service whose upstream has a name.
struct Name {
    upstream: Upstream,
    service: ServiceConfig,
    /// The last time it could not be looked up.
    failing: bool,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It leads elsewhere.
    Moved,
    /// It cannot be looked up any more.
    Fails(String),
    /// It can again, and leads where it led.
    Recovered,
}

impl Name {
    fn new(upstream: &Upstream, service: &ServiceConfig) -> Self {
        Self {
            upstream: upstream.clone(),
            service: service.clone(),
            failing: false,
        }
    }

    /// Takes what the resolver said. A name without an address is one that cannot be looked up.
    fn take(&mut self, found: io::Result<Vec<UpstreamAddress>>) -> Option<Told> {
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(io::Error::other("the name has no address")),
            false => Ok(found),
        });
        let was_failing = std::mem::replace(&mut self.failing, found.is_err());
        match found {
            Ok(found) => match self.service.upstreams.replace(&found) {
                true => Some(Told::Moved),
                false => was_failing.then_some(Told::Recovered),
            },
            Err(error) => (!was_failing).then(|| Told::Fails(error.to_string())),
        }
    }

    fn say(&self, told: &Told, desired: &Desired) {
        let (service, upstream) = (&self.service.name, &self.upstream);
        match told {
            Told::Moved => {
                let target = target(&self.service);
                let addresses = target.upstreams.iter().map(ToString::to_string);
                let addresses = addresses.collect::<Vec<_>>().join(" ");
                info!(%service, %upstream, addresses, "the upstream has other addresses: new sessions lead there");
                if !desired.covers(&target) {
                    error!(%service, %upstream, addresses, "the service is in no segment now, and everybody is refused: \
                        add it to a segment's members");
                }
            }
            Told::Fails(why) => {
                warn!(%service, %upstream, why, "the upstream cannot be looked up: new sessions lead where they led")
            }
            Told::Recovered => info!(%service, %upstream, "the upstream can be looked up again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use curfew_gateway::protocol::Protocol;

    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_and_one_that_is_lost_are_said_once() {
        let at = |text: &str| UpstreamAddress::Tcp(text.parse().unwrap());
        let (old, new) = (at("10.0.0.1:5432"), at("10.0.0.2:5432"));
        let service = ServiceConfig::new(
            "db".parse().unwrap(),
            "127.0.0.1:0".parse().unwrap(),
            vec![old.clone()],
            Protocol::Tcp,
        );
        let mut name = Name::new(&Upstream::Tcp("db.test:5432".to_owned()), &service);
        let lost = || Err(io::Error::other("no such name"));
        let fails = Some(Told::Fails("no such name".to_owned()));
        assert_eq!(name.take(Ok(vec![old.clone()])), None);
        assert_eq!(name.take(lost()), fails);
        assert_eq!(name.take(lost()), None);
        assert_eq!(name.take(Ok(Vec::new())), None);
        assert!(service.upstreams.now().contains(&old));
        assert_eq!(name.take(Ok(vec![old])), Some(Told::Recovered));
        assert_eq!(name.take(lost()), fails);
        // The running service leads there.
        assert_eq!(name.take(Ok(vec![new.clone()])), Some(Told::Moved));
        assert_eq!(*service.upstreams.now(), [new]);
    }
}

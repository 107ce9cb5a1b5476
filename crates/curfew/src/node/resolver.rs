//! The names of upstreams, looked up again while the process runs: a server that fails over has another address. What an
//! address means is decided at each opening, and live sessions stay where they are.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use curfew_control::Metrics;
use curfew_gateway::service::ServiceConfig;
use curfew_model::{Target, UpstreamAddress};
use tracing::{error, info, warn};

use super::{compiler::target, desired::Desired};
use crate::config::{Service, Upstream};

/// How long after the answer for a name it is looked up again.
const EVERY: Duration = Duration::from_secs(10);

/// The running threads, one for each name: one that nobody answers for holds up no other. Dropping it stops them, and does
/// not wait: a resolver takes as long as it likes to fail.
#[derive(Default)]
pub struct Resolver {
    stopping: Arc<AtomicBool>,
    threads: Vec<Thread>,
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
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let services = configured.iter().zip(running);
        let named = services.filter(|(configured, _)| configured.upstream.is_name());
        let mut names: BTreeMap<String, Vec<Name>> = BTreeMap::new();
        for (configured, running) in named {
            let name = Name::new(&configured.upstream, running);
            // The start looked it up.
            metrics.resolved(&running.name, true);
            let same = names.entry(name.upstream.to_string()).or_default();
            same.push(name);
        }
        let mut resolver = Self::default();
        for same in names.into_values() {
            let desired = Arc::downgrade(desired);
            let covers = move |target: &Target| {
                let desired = desired.upgrade();
                desired.is_none_or(|desired| desired.covers(target))
            };
            let metrics = Arc::clone(metrics);
            let looked_up = move |name: &Name| metrics.resolved(&name.service.name, !name.failing);
            resolver.watch(same, EVERY, Upstream::resolve, covers, looked_up)?;
        }
        Ok(resolver)
    }

    /// Looks up one name for all the services that lead there. `covers` says whether a segment contains a target;
    /// `looked_up` is told after each look.
    fn watch(
        &mut self,
        mut same: Vec<Name>,
        every: Duration,
        lookup: impl Fn(&Upstream) -> io::Result<Vec<UpstreamAddress>> + Send + 'static,
        covers: impl Fn(&Target) -> bool + Send + 'static,
        looked_up: impl Fn(&Name) + Send + 'static,
    ) -> io::Result<()> {
        let Some(upstream) = same.first().map(|name| name.upstream.clone()) else {
            return Ok(());
        };
        let stopping = Arc::clone(&self.stopping);
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        let running = thread.spawn(move || {
            loop {
                std::thread::park_timeout(every);
                if stopping.load(Ordering::Acquire) {
                    return;
                }
                let found = lookup(&upstream).map_err(|error| error.to_string());
                for name in &mut same {
                    if let Some(told) = name.take(&found) {
                        name.say(&told, &covers);
                    }
                    looked_up(name);
                }
            }
        })?;
        self.threads.push(running.thread().clone());
        Ok(())
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
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
    fn take(&mut self, found: &Result<Vec<UpstreamAddress>, String>) -> Option<Told> {
        let found = match found {
            Ok(found) if found.is_empty() => Err("it has no address"),
            Ok(found) => Ok(found),
            Err(error) => Err(error.as_str()),
        };
        let was_failing = std::mem::replace(&mut self.failing, found.is_err());
        match found {
            Ok(found) => match self.service.upstreams.replace(found) {
                true => Some(Told::Moved),
                false => was_failing.then_some(Told::Recovered),
            },
            Err(error) => (!was_failing).then(|| Told::Fails(error.to_owned())),
        }
    }

    fn say(&self, told: &Told, covers: impl Fn(&Target) -> bool) {
        let (service, upstream) = (&self.service.name, &self.upstream);
        match told {
            Told::Moved => {
                let target = target(&self.service);
                let addresses = target.upstreams.iter().map(ToString::to_string);
                let addresses = addresses.collect::<Vec<_>>().join(" ");
                info!(%service, %upstream, addresses, "the upstream has other addresses: new sessions lead there");
                if !covers(&target) {
                    error!(%service, %upstream, addresses, "the service is in no segment where its name leads \
                        now, and new sessions are refused: add it to a segment's members");
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
    use std::sync::mpsc::{self, RecvTimeoutError};

    use curfew_gateway::protocol::Protocol;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn at(text: &str) -> UpstreamAddress {
        UpstreamAddress::Tcp(text.parse().unwrap())
    }

    /// A service that leads to 10.0.0.1, and its name.
    fn named() -> (ServiceConfig, Name) {
        let service = ServiceConfig::new(
            "db".parse().unwrap(),
            "127.0.0.1:0".parse().unwrap(),
            vec![at("10.0.0.1:5432")],
            Protocol::Tcp,
        );
        let upstream = Upstream::Tcp("db.test:5432".to_owned());
        let name = Name::new(&upstream, &service);
        (service, name)
    }

    #[test]
    fn a_name_that_leads_elsewhere_and_one_that_is_lost_are_said_once() {
        let (old, new) = (at("10.0.0.1:5432"), at("10.0.0.2:5432"));
        let (service, mut name) = named();
        let lost = Err("no such name".to_owned());
        let fails = Some(Told::Fails("no such name".to_owned()));
        assert_eq!(name.take(&Ok(vec![old.clone()])), None);
        assert_eq!(name.take(&lost), fails);
        assert_eq!(name.take(&lost), None);
        assert_eq!(name.take(&Ok(Vec::new())), None);
        assert!(service.upstreams.now().contains(&old));
        assert_eq!(name.take(&Ok(vec![old])), Some(Told::Recovered));
        assert_eq!(name.take(&lost), fails);
        // The running service leads there.
        assert_eq!(name.take(&Ok(vec![new.clone()])), Some(Told::Moved));
        assert_eq!(*service.upstreams.now(), [new]);
    }

    #[test]
    fn names_are_looked_up_until_it_is_dropped() {
        let ((one, name), (other, same)) = (named(), named());
        let (asked, asks) = mpsc::sync_channel(0);
        let first = AtomicBool::new(true);
        let lookup = move |upstream: &Upstream| {
            // It waits for the test, as a slow resolver would.
            let _ = asked.send(upstream.to_string());
            match first.swap(false, Ordering::Relaxed) {
                true => Err(io::Error::other("no such name")),
                false => Ok(vec![at("10.0.0.2:5432")]),
            }
        };
        let (tell, told) = mpsc::channel();
        let looked_up = move |name: &Name| {
            // It outlives the test by one look.
            let _ = tell.send(name.failing);
        };
        let mut resolver = Resolver::default();
        resolver
            .watch(
                vec![name, same],
                Duration::ZERO,
                lookup,
                |_| true,
                looked_up,
            )
            .unwrap();
        for failing in [true, false] {
            assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), "db.test:5432");
            for _ in 0..2 {
                assert_eq!(told.recv_timeout(PATIENCE), Ok(failing));
            }
        }
        // The first answer was taken before the second was asked for.
        for service in [one, other] {
            assert_eq!(*service.upstreams.now(), [at("10.0.0.2:5432")]);
        }
        drop(resolver);
        let ended = |asked| matches!(asked, Err(RecvTimeoutError::Disconnected));
        assert!(
            (0..1_000).any(|_| ended(asks.recv_timeout(PATIENCE))),
            "it goes on"
        );
    }
}

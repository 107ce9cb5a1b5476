//! Why a session is not carried, with what is left of it. Deciding and telling may not live here.

use std::os::fd::OwnedFd;

use curfew_enforcer::Refused;
use curfew_model::EndReason;

use crate::relay::{AdoptError, NotTaken};

/// Why a connection is not carried.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// Policy, an order or a limit refuses it.
    #[error("refused: {} ({})", .0.reason, .0.cause)]
    Refused(Refused),
    /// It was ended while it was being opened.
    #[error("ended while it was being opened: {0}")]
    Ended(EndReason),
    /// The relay did not take it.
    #[error("the relay does not take it")]
    Relay(#[from] AdoptError),
    /// The door has no enforcer to ask.
    #[error("no enforcer is attached to this door: nothing is admitted")]
    Detached,
}

impl CarryError {
    /// Why there is no session, in one word.
    pub(crate) fn reason(&self) -> EndReason {
        match self {
            Self::Refused(refused) => refused.reason,
            Self::Ended(reason) => *reason,
            Self::Relay(AdoptError::Full(_)) => EndReason::Overloaded,
            Self::Relay(AdoptError::ShuttingDown) => EndReason::Shutdown,
            Self::Relay(AdoptError::Broken(_)) => EndReason::ProtocolError,
            Self::Relay(AdoptError::Socket(_)) => EndReason::NetworkError,
            Self::Detached => EndReason::EnforcerLost,
        }
    }
}

/// A session that was not carried.
pub(crate) struct Uncarried {
    pub(crate) why: CarryError,
    /// Its client, who was told nothing.
    pub(crate) client: Option<OwnedFd>,
}

impl From<NotTaken> for Uncarried {
    fn from(not_taken: NotTaken) -> Self {
        Self {
            why: not_taken.why.into(),
            client: Some(not_taken.client),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;
    use std::sync::{Arc, Weak};
    use std::time::Duration;

    use curfew_enforcer::{
        Deadlines, Door, Enforcer, Engine, Input, Keeper, Open, Owner, Peer, Record, Sink,
    };
    use curfew_model::{BindingKey, Clock, SessionId};
    use curfew_testkit::{BootClock, Lifetime, alice, bound};

    use super::*;
    use crate::door::{Carriage, GatewayDoor, Opening};
    use crate::relay::{Relay, RelayConfig};

    struct Nobody;

    impl Sink for Nobody {
        fn record(&self, _: Vec<Record>) {}
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    struct Lab {
        door: Arc<GatewayDoor>,
        relay: Relay,
        deadlines: Deadlines,
    }

    impl Lab {
        /// With room for one flow.
        fn new() -> Self {
            let door = Arc::new(GatewayDoor::default());
            let clock: Arc<dyn Clock> = Arc::new(BootClock);
            let one = RelayConfig {
                max_flows: 1,
                ..RelayConfig::default()
            };
            let relay = Relay::start(one, Arc::clone(&clock), door.clone()).unwrap();
            let policy = Arc::new(Lifetime(Duration::from_secs(3600)));
            let engine = Engine::new(policy, Default::default(), clock.now());
            let as_door: Arc<dyn Door> = door.clone();
            let weak: Weak<dyn Door> = Arc::downgrade(&as_door);
            let deadlines =
                Enforcer::start(engine, weak, Arc::clone(&clock), Arc::new(Nobody)).unwrap();
            door.attach(Arc::downgrade(deadlines.enforcer()));
            Self {
                door,
                relay,
                deadlines,
            }
        }

        /// A session that is being opened, of nobody whom the door knows.
        fn open(&self, owner: Owner) -> Opening {
            let facts = alice(
                ([127, 0, 0, 1], 1).into(),
                ([127, 0, 0, 1], 2).into(),
                BootClock.now().boot,
            );
            let open = Open {
                id: ID,
                facts,
                peer: Peer {
                    owner,
                    ..Peer::default()
                },
                decided_at: None,
            };
            self.door.open(open, None).unwrap()
        }

        fn handle(&self, input: Input) {
            self.deadlines.enforcer().handle(input).unwrap();
        }
    }

    const ID: SessionId = SessionId(uuid::Uuid::from_u128(1));

    #[test]
    fn an_order_that_comes_with_the_carrying_gives_the_client_back() {
        let lab = Lab::new();
        let opening = lab.open(Owner::Elsewhere);
        let cause = String::new();
        lab.handle(Input::Cancel { id: ID, cause });

        let ((mut near, client), (mut upstream, far)) = (pair(), pair());
        let home = lab.relay.anywhere();
        let uncarried = opening
            .carry(home, client.into(), far.into(), Carriage::Tcp, None)
            .unwrap_err();
        assert_eq!(uncarried.why.reason(), EndReason::SessionCancelled);
        TcpStream::from(uncarried.client.unwrap())
            .write_all(b"words")
            .unwrap();
        let mut words = String::new();
        near.read_to_string(&mut words).unwrap();
        assert_eq!(words, "words");
        assert_eq!(upstream.read(&mut [0]).unwrap(), 0);
        // Its place is free.
        let ((_near, client), (_upstream, far)) = (pair(), pair());
        lab.relay.adopt(client.into(), far.into(), 2).unwrap();
    }

    #[test]
    fn whose_a_socket_is_that_was_being_opened_at_the_first_binding_by_uid_is_said_before_its_first_byte()
     {
        let lab = Lab::new();
        let opening = lab.open(Owner::Unasked);
        let uid = std::fs::metadata("/proc/self").unwrap().uid();
        let binding = bound(BindingKey::Uid(uid), "bob", &[]);
        lab.handle(Input::BindingSet(Keeper::Config, binding));
        let subjects = || {
            lab.deadlines.enforcer().look(|engine| {
                let facts = engine.session(ID).unwrap().facts;
                facts.identities.len()
            })
        };
        assert_eq!(subjects(), 1);
        let ((_near, client), (_upstream, far)) = (pair(), pair());
        let carriage = Carriage::Tcp;
        let carried = opening.carry(
            lab.relay.anywhere(),
            client.into(),
            far.into(),
            carriage,
            None,
        );
        assert!(carried.is_ok());
        assert_eq!(subjects(), 2);
    }
}

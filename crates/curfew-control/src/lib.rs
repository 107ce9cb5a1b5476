//! The control plane: the HTTP API over the desired state, the live sessions and the audit log.
//!
//! A caller presents a token and holds a role; every change is durable and on record before it is answered; an order to
//! end sessions is carried out while it is written. What decides about sessions, compiles policy or enforces may not
//! live here: it comes in through the traits [`Fleet`] and [`Compile`], which the binary implements.

mod app;
mod bucket;
mod caller;
mod compile;
mod extract;
mod fleet;
mod guard;
mod journal;
mod metrics;
mod orders;
mod outcomes;
mod places;
mod problem;
mod routes;
mod schema;
mod segments;
mod server;
mod session;
mod settings;
mod shares;
mod tls;
mod token;
mod watchers;

pub use compile::{
    Ceilings, Compile, Finding, Level, PackError, Segment, Source, Valid, pack, unpack,
};
pub use fleet::{Answer, Door, Enforcer, Fleet, FleetError, OpenCount, Outcome};
pub use guard::POLICY_BODY;
pub use journal::{Journal, WhenDurable};
pub use metrics::Metrics;
pub use orders::order_detail;
pub use routes::openapi;
pub use server::Server;
pub use session::{ExplainedBound, Explanation, Filter, Session, SessionState, Standing};
pub use settings::{Limits, Parts, Settings, StartError, Tls};
pub use token::FirstTokenError;

//! Dev only: what the tests of several crates share. Nothing here is linked into the product.

mod binding;
mod clock;
mod documents;
mod lifetime;
mod limited;
mod postgres;
mod sockets;

pub use binding::bound;
pub use clock::{BootClock, StillClock};
pub use documents::{compiled, document};
pub use lifetime::{Lifetime, alice};
pub use limited::{DENIED, Limited};
pub use postgres::Postgres;
pub use sockets::connected;

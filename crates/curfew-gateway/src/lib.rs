//! The gateway door: the modules that accept, connect and relay the connections of a service.
//! Nothing here decides about a session; the enforcer does.

pub mod accept;
pub mod connect;
pub mod door;
pub mod postgres;
pub mod relay;

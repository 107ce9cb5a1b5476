//! The gateway door: services that accept, connect and relay, and the protocols that they speak.
//! Nothing here decides about a session; the enforcer does.

pub mod accept;
mod carry;
pub mod connect;
mod descriptors;
mod diag;
pub mod door;
mod opening;
pub mod peer;
pub mod postgres;
pub mod protocol;
pub mod relay;
pub mod service;
pub mod tuning;

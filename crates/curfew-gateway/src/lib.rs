//! curfew-gateway

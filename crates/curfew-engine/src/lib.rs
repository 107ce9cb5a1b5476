//! curfew-engine

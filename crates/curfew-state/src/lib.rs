//! curfew-state

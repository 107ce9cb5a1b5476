//! curfew-audit

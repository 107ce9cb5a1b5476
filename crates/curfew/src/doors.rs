//! What the doors that this process can have are able to see, for what is said of policy and bindings.

use curfew_enforcer::Door as _;
use curfew_gateway::door::GatewayDoor;
use curfew_policy::Sight;

/// What they see beside addresses.
pub fn sees() -> &'static [Sight] {
    GatewayDoor::default().caps().sees
}

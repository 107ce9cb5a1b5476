//! The closed list of why a session ended or was refused (I8). One stable code in audit, metrics, API and client.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $text:literal;)*) => {
        /// Why a session ended or was refused. Ordered: of equal instants the least is the reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum EndReason {
            $(#[doc = $text] $(#[$doc])* $variant,)*
        }

        impl EndReason {
            /// Every reason, in the order that breaks ties.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable code.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),* }
            }

            /// One sentence for the person whose session it was.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

reasons! {
    AllRevoked = "all_revoked", "every session was revoked";
    EnforcerRevoked = "enforcer_revoked", "every session of this enforcer was revoked";
    SegmentRevoked = "segment_revoked", "every session into this segment was revoked";
    PolicyRevoked = "policy_revoked", "every session under this policy was revoked";
    SubjectRevoked = "subject_revoked", "access of this subject was revoked";
    DeviceRevoked = "device_revoked", "access of this device was revoked";
    SessionRevoked = "session_revoked", "the identity provider revoked this session";
    SessionCancelled = "session_cancelled", "an operator cancelled this session";
    RiskRaised = "risk_raised", "the risk of this subject was raised";
    AssuranceLowered = "assurance_lowered", "the assurance of this login was lowered";
    AccessDenied = "access_denied", "policy does not admit this subject";
    PolicyChanged = "policy_changed", "the policy changed and no longer admits this session";
    LifetimeExpired = "lifetime_expired", "the session reached its maximum lifetime";
    GrantExpired = "grant_expired", "the grant for this session ended";
    OutsideHours = "outside_hours", "access is not allowed at this time";
    CredentialExpired = "credential_expired", "the credential of this session expired";
    BindingExpired = "binding_expired", "the binding of this address to its subject ended";
    ReauthOverdue = "reauth_overdue", "the subject has to prove itself again";
    IdleTimeout = "idle_timeout", "the session was idle for too long";
    ConcurrencyExceeded = "concurrency_exceeded", "the subject has too many sessions into this segment";
    Unattributed = "unattributed", "no single subject is known for this address";
    ControlPlaneLost = "control_plane_lost", "the control plane cannot be reached";
    SignalsLost = "signals_lost", "the identity provider's signals are stale";
    PolicyEngineLost = "policy_engine_lost", "the policy engine cannot be reached";
    EnforcerLost = "enforcer_lost", "the enforcer of this session stopped";
    Overloaded = "overloaded", "a limit of Curfew was reached";
    HandshakeTimeout = "handshake_timeout", "the client did not finish its handshake in time";
    UpstreamUnreachable = "upstream_unreachable", "the service behind the gateway cannot be reached";
    ProtocolError = "protocol_error", "the client or the service broke the protocol";
    Shutdown = "shutdown", "the enforcer is shutting down";
    ClosedByClient = "closed_by_client", "the client closed the session";
    ClosedByServer = "closed_by_server", "the service closed the session";
    NetworkError = "network_error", "the network connection failed";
}

impl EndReason {
    /// Whether somebody ordered the end: a revocation or a cancel.
    #[must_use]
    pub fn is_order(self) -> bool {
        self <= Self::SessionCancelled
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A text that is none of the codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an end reason")]
pub struct UnknownReason(String);

impl FromStr for EndReason {
    type Err = UnknownReason;
    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.code() == text)
            .ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back_in_both_forms() {
        for &reason in EndReason::ALL {
            assert_eq!(reason.code().parse(), Ok(reason));
            assert_eq!(
                serde_json::to_string(&reason).unwrap(),
                format!("{:?}", reason.code())
            );
        }
    }
}

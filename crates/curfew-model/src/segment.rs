//! What a segment is, apart from its members: sensitivity, mode, access, and what happens on loss.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// How much a segment matters; sets default limits and failure behaviour. Ordered, `Critical` greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    /// 12 h, idle 1 h.
    Low,
    /// 8 h, idle 30 min.
    Moderate,
    /// 1 h, idle 15 min.
    High,
    /// 15 min, idle 5 min.
    Critical,
}

impl Sensitivity {
    /// Every sensitivity, least first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Moderate, Self::High, Self::Critical];

    /// The word used in documents, metrics and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Moderate => "moderate",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Sensitivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a segment's decisions act or are only recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Sessions are refused and ended.
    #[default]
    Enforce,
    /// What would have happened is recorded; nothing is refused or ended.
    Audit,
}

/// What a session needs to be admitted into a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A matching policy that admits.
    #[default]
    Policy,
    /// Nothing; limits still apply.
    Open,
}

/// What happens to sockets older than the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAdopt {
    /// They get a lease that counts from now.
    #[default]
    Lease,
    /// They are closed.
    Close,
}

/// What happens to live sessions on loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveOnLoss {
    /// They live on to their own deadlines.
    Keep,
    /// They end.
    Close,
}

/// What happens to new sessions on loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewOnLoss {
    /// They are decided on the last known state.
    Allow,
    /// They are refused.
    Refuse,
}

/// What a loss of the control plane, a signal source or the policy engine does (I11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LossRule {
    /// How long the loss lasts before the rule acts.
    pub after: Duration,
    /// For sessions that are open.
    pub live: LiveOnLoss,
    /// For sessions that want to open.
    pub new: NewOnLoss,
}

impl LossRule {
    /// The rule where policy says nothing: critical 60 s/close/refuse, high 5 min/keep/refuse, others keep/allow.
    #[must_use]
    pub fn default_for(sensitivity: Sensitivity) -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        match sensitivity {
            Sensitivity::Critical => Self {
                after: minutes(1),
                live: LiveOnLoss::Close,
                new: NewOnLoss::Refuse,
            },
            Sensitivity::High => Self {
                after: minutes(5),
                live: LiveOnLoss::Keep,
                new: NewOnLoss::Refuse,
            },
            Sensitivity::Moderate | Sensitivity::Low => Self {
                after: minutes(5),
                live: LiveOnLoss::Keep,
                new: NewOnLoss::Allow,
            },
        }
    }
}

//! Properties of lease arithmetic: I3, strictest wins, whatever the order.

#![cfg(test)]

use std::{sync::Arc, time::Duration};

use curfew_model::{BootInstant, Bound, EndReason, Lease, Provenance};
use proptest::prelude::*;

fn bound() -> impl Strategy<Value = Option<Bound>> {
    // Few instants and reasons, so that ties happen.
    proptest::option::of((0u64..6, 0usize..EndReason::ALL.len())).prop_map(|bound| {
        bound.map(|(at, reason)| {
            let reason = EndReason::ALL[reason];
            Bound {
                at: BootInstant(at),
                reason,
                by: Arc::new(Provenance::Order(reason.to_string())),
            }
        })
    })
}

fn lease() -> impl Strategy<Value = Lease> {
    let idle = proptest::option::of(1u64..5).prop_map(|idle| {
        idle.map(|nanos| {
            (
                Duration::from_nanos(nanos),
                Arc::new(Provenance::Order(format!("idle {nanos}"))),
            )
        })
    });
    let warn = proptest::option::of(1u64..5).prop_map(|warn| warn.map(Duration::from_nanos));
    (bound(), bound(), bound(), bound(), idle, warn).prop_map(
        |(expires_at, reauth_by, credential_until, binding_until, idle_timeout, warn_before)| {
            Lease {
                expires_at,
                reauth_by,
                credential_until,
                binding_until,
                idle_timeout,
                warn_before,
            }
        },
    )
}

fn tightened(mut one: Lease, other: Lease) -> Lease {
    one.tighten(other);
    one
}

proptest! {
    #[test]
    fn the_order_of_limits_does_not_matter(a in lease(), b in lease(), c in lease()) {
        prop_assert_eq!(tightened(a.clone(), b.clone()), tightened(b.clone(), a.clone()));
        let left = tightened(tightened(a.clone(), b.clone()), c.clone());
        let right = tightened(a, tightened(b, c));
        prop_assert_eq!(left, right);
    }

    #[test]
    fn the_same_limits_again_change_nothing(a in lease(), b in lease()) {
        let once = tightened(a, b.clone());
        prop_assert_eq!(tightened(once.clone(), b), once);
    }

    #[test]
    fn a_further_limit_never_ends_a_session_later(a in lease(), b in lease(), active in 0u64..6) {
        let active = BootInstant(active);
        let both = tightened(a.clone(), b.clone()).deadline(active);
        let strictest = a.deadline(active).into_iter().chain(b.deadline(active)).min();
        prop_assert_eq!(both, strictest);
    }
}

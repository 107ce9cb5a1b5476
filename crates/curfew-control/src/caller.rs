//! Who calls, and what each role may do. A handler takes one of [`Viewer`], [`Operator`], [`Admin`] or [`Binder`] as an
//! argument and is not reached by anyone else.

use axum::{extract::FromRequestParts, http::request::Parts};
use curfew_model::BindingKey;
use curfew_state::{ApiToken, Hash, Role, State};
use ipnet::IpNet;

use crate::problem::{Code, Problem};

/// A caller whose token is on record.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The token's name.
    pub(crate) name: String,
    pub(crate) role: Role,
    networks: Vec<IpNet>,
    hash: Hash,
}

impl From<&ApiToken> for Caller {
    fn from(token: &ApiToken) -> Self {
        Self {
            name: token.name.clone(),
            role: token.role,
            networks: token.networks.clone(),
            hash: token.hash,
        }
    }
}

impl Caller {
    /// How orders and records name the caller.
    pub(crate) fn source(&self) -> String {
        format!("api:{}", self.name)
    }

    /// Whether its token is still on record.
    pub(crate) fn is_known(&self, state: &State) -> bool {
        let token = state.tokens.get(&self.name);
        token.is_some_and(|token| token.hash == self.hash)
    }

    /// Refuses a caller whose token was removed since it was recognised.
    pub(crate) fn check_known(&self, state: &State) -> Result<(), Problem> {
        if self.is_known(state) {
            return Ok(());
        }
        let detail = "the token was removed meanwhile: nothing was done";
        Err(Problem::new(Code::Unauthenticated, detail))
    }

    /// Whether the caller may make and remove the binding of this key.
    pub(crate) fn may_bind(&self, key: &BindingKey) -> bool {
        match (self.role, key) {
            (Role::Admin, _) => true,
            (Role::Binder, BindingKey::Address(net)) => {
                self.networks.iter().any(|own| own.contains(net))
            }
            _ => false,
        }
    }
}

macro_rules! role_extractor {
    ($($(#[$doc:meta])* $type:ident: $($role:ident)|+, $words:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $type(pub(crate) Caller);

        impl<S: Send + Sync> FromRequestParts<S> for $type {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
                match parts.extensions.get::<Caller>() {
                    Some(caller) if matches!(caller.role, $(Role::$role)|+) => Ok(Self(caller.clone())),
                    Some(caller) => Err(Problem::new(
                        Code::Forbidden,
                        format!("the token {:?} has another role: {} may do this", caller.name, $words),
                    )),
                    None => Err(Problem::new(Code::Unauthenticated, "no token was presented")),
                }
            }
        }
    )*};
}

role_extractor! {
    /// May look.
    Viewer: Viewer | Operator | Admin, "viewer, operator and admin";
    /// May end sessions.
    Operator: Operator | Admin, "operator and admin";
    /// May do everything.
    Admin: Admin, "admin";
    /// May make bindings.
    Binder: Binder | Admin, "binder and admin";
}

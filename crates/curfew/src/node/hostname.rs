//! The name of this enforcer where the configuration gives none: the host's. Nothing else is asked of the host here.

use curfew_model::{EnforcerId, InvalidName};

/// The host's name, with what a name cannot hold replaced; `local` if nothing is left.
///
/// # Errors
/// None is known: what is left is a name.
pub fn enforcer_id() -> Result<EnforcerId, InvalidName> {
    named(&rustix::system::uname().nodename().to_string_lossy())
}

fn named(host: &str) -> Result<EnforcerId, InvalidName> {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') {
            c
        } else {
            '-'
        }
    };
    let name: String = host
        .to_ascii_lowercase()
        .chars()
        .map(allowed)
        .take(253)
        .collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    EnforcerId::new(if name.is_empty() { "local" } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_a_name() {
        for (host, name) in [
            ("DB-1.example.org", "db-1.example.org"),
            ("_x y_", "x-y"),
            ("", "local"),
            ("ü", "local"),
        ] {
            assert_eq!(named(host).unwrap().as_str(), name);
        }
    }
}

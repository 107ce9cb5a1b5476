//! Fields of answers as words. An answer may lack any of them: a server may be older or newer than this.

use curfew_model::quoted;
use serde_json::Value;

/// A field as text; empty where there is none.
#[must_use]
pub fn text(value: &Value, field: &str) -> String {
    value.get(field).map_or_else(String::new, word)
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A field that counts; zero where there is none.
#[must_use]
pub fn count(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or(0)
}

/// Whether a field is there and true.
#[must_use]
pub fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// The entries of a field.
#[must_use]
pub fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value
        .get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The entries of a field as one text.
#[must_use]
pub fn list(value: &Value, field: &str) -> String {
    let words: Vec<String> = items(value, field).iter().map(word).collect();
    words.join(",")
}

/// An identity: `kind:ISSUER#ID`, the issuer left out when it is local or none; what would look like two is in quotes.
#[must_use]
pub fn name(identity: &Value) -> String {
    let (kind, id) = (text(identity, "kind"), text(identity, "id"));
    match text(identity, "issuer").as_str() {
        _ if id.is_empty() => String::new(),
        "" | "local" => format!("{kind}:{}", quoted(&id)),
        issuer => format!("{kind}:{}", quoted(&format!("{issuer}#{id}"))),
    }
}

/// The scope of an order in words. A bare name is that of any issuer, as where the order is given.
#[must_use]
pub fn scope(order: &Value) -> String {
    match order.get("scope") {
        Some(Value::Object(scope)) => {
            let mut members = scope.iter();
            match members.next() {
                Some((kind, subject)) if kind == "subject" => {
                    let [kind, issuer, id] =
                        ["kind", "issuer", "id"].map(|part| text(subject, part));
                    let of = if issuer.is_empty() {
                        issuer
                    } else {
                        format!("{issuer}#")
                    };
                    format!("{kind}:{}", quoted(&format!("{of}{id}")))
                }
                Some((kind, named)) => format!("{kind}:{}", word(named)),
                None => String::new(),
            }
        }
        Some(other) => word(other),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_an_answer_lacks_is_empty() {
        for odd in [json!(null), json!([]), json!({"id": null}), json!("x")] {
            assert_eq!(
                (text(&odd, "id"), count(&odd, "id"), list(&odd, "id")),
                (String::new(), 0, String::new())
            );
            assert_eq!((name(&odd), scope(&odd)), (String::new(), String::new()));
        }
    }

    #[test]
    fn scopes_and_identities_are_named() {
        let order = |scope| json!({"scope": scope});
        assert_eq!(scope(&order(json!("all"))), "all");
        assert_eq!(scope(&order(json!({"segment": "db"}))), "segment:db");
        let subject = json!({"subject": {"kind": "user", "issuer": null, "id": "alice"}});
        assert_eq!(scope(&order(subject)), "user:alice");
        let local = json!({"subject": {"kind": "user", "issuer": "local", "id": "alice"}});
        assert_eq!(scope(&order(local)), "user:local#alice");
        let foreign = json!({"kind": "user", "issuer": "https://idp", "id": "a"});
        assert_eq!(name(&foreign), "user:https://idp#a");
        let two = json!({"kind": "role", "issuer": "local", "id": "pg/p, user:ceo"});
        assert_eq!(name(&two), r#"role:"pg/p, user:ceo""#);
        let two = order(json!({"subject": two}));
        assert_eq!(scope(&two), r#"role:"local#pg/p, user:ceo""#);
    }
}

//! JSON values as YAML. Every string that could be read as something else, or is not plain ASCII, is quoted as JSON
//! quotes it, which YAML reads the same.

use serde_json::{Map, Value};

use super::escaped;

/// A value as one YAML document, with a line break at its end.
#[must_use]
pub fn written(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut text, map, 0),
        Value::Array(items) if !items.is_empty() => sequence(&mut text, items, 0),
        other => {
            text.push_str(&scalar(other));
            text.push('\n');
        }
    }
    text
}

fn mapping(text: &mut String, map: &Map<String, Value>, depth: usize) {
    for (index, (key, value)) in map.iter().enumerate() {
        // The first entry of a mapping in a sequence stands behind its dash.
        if index > 0 || !text.ends_with("- ") {
            indent(text, depth);
        }
        text.push_str(&plain_or_quoted(key));
        text.push(':');
        nested(text, value, depth);
    }
}

fn nested(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            mapping(text, map, depth + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            sequence(text, items, depth);
        }
        other => {
            text.push(' ');
            text.push_str(&scalar(other));
            text.push('\n');
        }
    }
}

fn sequence(text: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(text, depth);
        match item {
            Value::Object(map) if !map.is_empty() => {
                text.push_str("- ");
                mapping(text, map, depth + 1);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push_str("-\n");
                sequence(text, items, depth + 1);
            }
            other => {
                text.push_str("- ");
                text.push_str(&scalar(other));
                text.push('\n');
            }
        }
    }
}

fn indent(text: &mut String, depth: usize) {
    text.push_str(&"  ".repeat(depth));
}

/// A value without entries.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => plain_or_quoted(string),
        other => other.to_string(),
    }
}

fn plain_or_quoted(string: &str) -> String {
    let plain = string.starts_with(|first: char| first.is_ascii_alphabetic())
        && string
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        && ![
            "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf",
        ]
        .contains(&string.to_ascii_lowercase().as_str());
    if plain {
        string.to_owned()
    } else {
        escaped(&Value::String(string.to_owned()).to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_yaml_that_means_the_same() {
        let value = json!({
            "sessions": [{"id": "0190", "segments": ["a", "no"], "none": null, "deep": {"x": [[1, 2], [], {}]}}, {}, "2026-11-24T12:00:00Z"],
            "12": "1e3", "yes": "", "text": "a: b # c", "tilde": "~", "half": 0.5,
        });
        let text = written(&value);
        assert_eq!(
            serde_saphyr::from_str::<Value>(&text).unwrap(),
            value,
            "{text}"
        );
    }

    #[test]
    fn it_reads_well() {
        let value = json!([{"id": "a", "segments": ["x", "yes"], "open": true, "subject": {"kind": "user"}}]);
        assert_eq!(
            written(&value),
            "- id: a\n  open: true\n  segments:\n  - x\n  - \"yes\"\n  subject:\n    kind: user\n"
        );
    }
}

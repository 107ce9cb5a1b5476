//! YAML (or JSON) as a tree whose every node knows its place. Meaning is read from it elsewhere.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    DuplicateKeyPolicy, Error, MessageFormatter as _, Spanned, UserMessageFormatter,
};

/// Documents that a source may have.
const MAX_DOCUMENTS: usize = 10_000;
/// Larger sources are refused unread, in bytes.
const MAX_SOURCE: usize = 4 << 20;
/// What aliases may repeat in one source, in nodes and ends.
const MAX_REPLAYED: usize = 20_000;

const TOO_MUCH: &str = "it nests deeper, or holds more, than a source may";
const TOO_OFTEN: &str = "its aliases repeat more than a source may";
const SPLIT: &str = "split it into several";
const QUOTE: &str = "if a text there is meant as it stands, write it in quotes";

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) line: u64,
    pub(crate) column: u64,
    /// What it holds.
    pub value: Value,
}

/// What a node holds. No field of a document is a fraction, so its value is not kept.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Fraction,
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the order of its source, repeated keys included.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// What it is, in a reader's words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a number",
            Self::Fraction => "a fraction",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self {
            line,
            column,
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value)
            .map(Value::Int)
            .map_err(|_| E::custom("the number is too large"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Fraction)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

/// Why a source is no tree; line and column are zero where it is the source as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) line: u64,
    pub(crate) column: u64,
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

/// Reads every document of a source. Nesting, anchors and size are bounded by the parser's budget.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Unreadable> {
    if text.len() > MAX_SOURCE {
        let size = text.len();
        return Err(Unreadable {
            line: 0,
            column: 0,
            message: format!("{size} bytes are more than the 4 MiB that a source may have"),
            help: SPLIT,
        });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: MAX_DOCUMENTS },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
    };
    serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| {
        let (line, column) = error
            .location()
            .map_or((0, 0), |at| (at.line(), at.column()));
        // Not its own words for where: they count differently.
        let (said, help) = match cause(&error) {
            Error::Budget { .. } => (TOO_MUCH.into(), SPLIT),
            Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. } => (TOO_OFTEN.into(), SPLIT),
            error => (UserMessageFormatter.format_message(error), QUOTE),
        };
        let said = said.replace(char::is_control, " ");
        Unreadable {
            line,
            column,
            message: format!("not YAML: {said}"),
            help,
        }
    })
}

/// The error itself, wherever an alias or an excerpt is around it.
fn cause(error: &Error) -> &Error {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => cause(error),
        itself => itself,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_knows_its_place() {
        let nodes = parse("a: 1\n---\nb:\n  c: [x, 2]\n").unwrap();
        assert_eq!(nodes.len(), 2);
        let Value::Map(entries) = &nodes[1].value else {
            panic!("{nodes:?}")
        };
        let (key, value) = &entries[0];
        assert_eq!((key.line, key.column), (3, 1));
        let Value::Map(inner) = &value.value else {
            panic!("{value:?}")
        };
        assert_eq!((inner[0].0.line, inner[0].0.column), (4, 3));
        let Value::List(list) = &inner[0].1.value else {
            panic!("{inner:?}")
        };
        assert_eq!((list[1].line, list[1].column), (4, 10));
        assert!(matches!(list[1].value, Value::Int(2)));
    }

    #[test]
    fn bombs_and_rubbish_are_errors() {
        let deep = "[".repeat(100_000);
        for text in ["a: [", "\u{0}", deep.as_str()] {
            assert!(parse(text).is_err(), "{:.20}", text);
        }
    }
}

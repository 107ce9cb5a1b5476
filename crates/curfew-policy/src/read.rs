//! Reading typed fields from a tree, every problem collected, none thrown. What a document means is not known here.

use std::{cell::RefCell, collections::HashSet, fmt::Display, str::FromStr, sync::Arc};

use crate::{
    problem::{Place, Problem, nearest},
    tree::{Node, Value},
};

/// Where problems of one source are collected.
pub(crate) struct Source<'a> {
    file: Arc<str>,
    text: Vec<&'a str>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: Arc<str>, text: &'a str) -> Self {
        Self {
            file,
            text: text.lines().collect(),
            problems: RefCell::default(),
        }
    }

    pub(crate) fn place(&self, node: &Node) -> Place {
        Place {
            file: Arc::clone(&self.file),
            line: node.line,
            column: node.column,
        }
    }

    pub(crate) fn report(&self, mut problem: Problem) {
        problem.excerpt = self.excerpt(problem.place.line);
        self.problems.borrow_mut().push(problem);
    }

    pub(crate) fn error(&self, node: &Node, message: impl Into<String>) {
        self.report(Problem::error(&self.place(node), message));
    }

    fn excerpt(&self, line: u64) -> Option<String> {
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        self.text.get(index).map(|line| {
            line.chars()
                .filter(|c| *c == '\t' || !c.is_control())
                .take(160)
                .collect()
        })
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// The node as a map with these fields; unknown and repeated ones are reported.
    pub(crate) fn map<'n>(
        &'n self,
        node: &'n Node,
        what: &str,
        fields: &[&str],
    ) -> Option<Map<'a, 'n>> {
        let Value::Map(entries) = &node.value else {
            self.error(
                node,
                format!("{what} is {}: it has to be a map", node.value.kind()),
            );
            return None;
        };
        let mut seen = HashSet::new();
        for (key, _) in entries {
            let Value::Text(name) = &key.value else {
                self.error(
                    key,
                    format!(
                        "a field's name is {}: it has to be a text",
                        key.value.kind()
                    ),
                );
                continue;
            };
            if !seen.insert(name.as_str()) {
                self.error(key, format!("the field `{name}` is given twice in {what}"));
            }
            if !fields.contains(&name.as_str()) {
                let problem = Problem::error(
                    &self.place(key),
                    format!("unknown field `{name}` in {what}"),
                )
                .or_else("it would be ignored, and the policy would not do what it says");
                self.report(match nearest(name, fields.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help(format!("the fields are: {}", fields.join(", "))),
                });
            }
        }
        Some(Map {
            source: self,
            node,
            entries,
        })
    }

    pub(crate) fn text<'n>(&self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            other => {
                self.error(
                    node,
                    format!("{what} is {}: it has to be a text", other.kind()),
                );
                None
            }
        }
    }

    /// A text that parses.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, node: &Node, what: &str) -> Option<T> {
        let text = self.text(node, what)?;
        text.parse()
            .map_err(|error| self.error(node, format!("{what}: {error}")))
            .ok()
    }

    /// One word of a closed list.
    pub(crate) fn word<T: Copy>(&self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let problem = Problem::error(
            &self.place(node),
            format!("{what} is {text:?}, which is not one of its words"),
        );
        self.report(match nearest(text, names.iter().copied()) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("use one of: {}", names.join(", "))),
        });
        None
    }

    /// A list that is not empty.
    pub(crate) fn list<'n>(&self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.value {
            Value::List(nodes) if nodes.is_empty() => {
                let problem = Problem::error(&self.place(node), format!("{what} is an empty list"));
                self.report(
                    problem
                        .or_else("it would match nothing")
                        .help("leave the field out, or name at least one"),
                );
                nodes
            }
            Value::List(nodes) => nodes,
            other => {
                self.error(
                    node,
                    format!("{what} is {}: it has to be a list", other.kind()),
                );
                &[]
            }
        }
    }

    pub(crate) fn texts(&self, node: &Node, what: &str) -> Vec<String> {
        self.list(node, what)
            .iter()
            .filter_map(|node| self.text(node, what))
            .map(str::to_owned)
            .collect()
    }
}

/// A map under reading.
pub(crate) struct Map<'a, 'n> {
    pub(crate) source: &'n Source<'a>,
    pub(crate) node: &'n Node,
    entries: &'n [(Node, Node)],
}

impl<'n> Map<'_, 'n> {
    pub(crate) fn get(&self, field: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(key, _)| matches!(&key.value, Value::Text(name) if name == field))
            .map(|(_, value)| value)
    }

    /// A field that has to be there.
    pub(crate) fn need(&self, field: &str) -> Option<&'n Node> {
        let found = self.get(field);
        if found.is_none() {
            self.source
                .error(self.node, format!("the field `{field}` is missing"));
        }
        found
    }

    pub(crate) fn flag(&self, field: &str) -> Option<bool> {
        let node = self.get(field)?;
        match node.value {
            Value::Bool(value) => Some(value),
            ref other => {
                self.source.error(
                    node,
                    format!("`{field}` is {}: it has to be true or false", other.kind()),
                );
                None
            }
        }
    }
}

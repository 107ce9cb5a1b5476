//! Reading typed fields from a tree, every problem collected, none thrown. What a document means is not known here.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    fmt::Display,
    net::IpAddr,
    ops::RangeInclusive,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use curfew_model::{canonical_net, parse_duration, steers};
use ipnet::IpNet;

use crate::{
    problem::{Place, Problem, nearest},
    room::with_room,
    tree::{self, Node, Value},
};

/// Reads one source, YAML or JSON: `meaning` gets its documents, and reports what is wrong with them. Nothing comes of
/// a source that is no YAML. Problems are in the order of their places. Nesting is bounded, and needs no stack of the
/// caller's.
pub fn read<T: Send>(
    file: &str,
    text: &str,
    meaning: impl FnOnce(&Source<'_>, &[Node]) -> T + Send,
) -> (Option<T>, Vec<Problem>) {
    let read = || {
        let source = Source::new(file.into(), text);
        let meant = source.documents().map(|nodes| meaning(&source, &nodes));
        (meant, source.into_problems())
    };
    with_room(read).unwrap_or_else(|problem| (None, vec![*problem]))
}

/// Where problems of one source are collected.
pub struct Source<'a> {
    file: Arc<str>,
    text: &'a str,
    lines: Vec<&'a str>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: Arc<str>, text: &'a str) -> Self {
        Self {
            file,
            text,
            // As YAML breaks them: after a carriage return too.
            lines: text
                .split("\r\n")
                .flat_map(|part| part.split(['\n', '\r']))
                .collect(),
            problems: RefCell::default(),
        }
    }

    /// Its documents; none if it is no YAML, which is reported, as are fields that are given twice.
    pub(crate) fn documents(&self) -> Option<Vec<Node>> {
        match tree::parse(self.text) {
            Ok(nodes) => {
                nodes.iter().for_each(|node| self.repeated(node));
                Some(nodes)
            }
            Err(why) => {
                let place = self.at(why.line, why.column);
                self.report(
                    Problem::error(&place, why.message)
                        .or_else(
                            "nothing of this source could be read, so nothing else is said of it",
                        )
                        .help(why.help),
                );
                None
            }
        }
    }

    fn repeated(&self, node: &Node) {
        match &node.value {
            Value::List(nodes) => nodes.iter().for_each(|node| self.repeated(node)),
            Value::Map(entries) => {
                let mut seen = HashMap::new();
                for (key, value) in entries {
                    self.repeated(value);
                    let Value::Text(name) = &key.value else {
                        continue;
                    };
                    match seen.entry(name) {
                        Entry::Vacant(free) => drop(free.insert(key)),
                        Entry::Occupied(first) => {
                            let first = self.place(first.get());
                            let what = format_args!("`{name}` is");
                            self.report(
                                Problem::twice(&self.place(key), what, &first)
                                    .or_else("one of the two would be ignored")
                                    .help("leave one of the two out"),
                            );
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// The source as a whole.
    #[must_use]
    pub fn whole(&self) -> Place {
        Place::whole(Arc::clone(&self.file))
    }

    /// Where a node stands.
    #[must_use]
    pub fn place(&self, node: &Node) -> Place {
        self.at(node.line, node.column)
    }

    fn at(&self, line: u64, column: u64) -> Place {
        Place {
            file: Arc::clone(&self.file),
            line,
            column,
            excerpt: self.excerpt(line),
        }
    }

    /// Takes a problem.
    pub fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Reports an error at a node.
    pub fn error(&self, node: &Node, message: impl Into<String>) {
        self.report(Problem::error(&self.place(node), message));
    }

    fn excerpt(&self, line: u64) -> Option<Arc<str>> {
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        let shown = |line: &&str| {
            // A sign for each, so that the column stays.
            let harmless = |c| match c {
                '\t' => c,
                c if steers(c) => char::REPLACEMENT_CHARACTER,
                c => c,
            };
            let shown = line.chars().map(harmless);
            shown.take(160).collect::<String>().into()
        };
        self.lines.get(index).map(shown)
    }

    /// How many were reported so far.
    pub(crate) fn problems(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Every problem once: what an alias repeats is wrong in one place.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        problems.dedup();
        problems
    }

    /// The node as a map with these fields; unknown ones are reported.
    pub fn map<'n>(&'n self, node: &'n Node, what: &str, fields: &[&str]) -> Option<Map<'a, 'n>> {
        let Value::Map(entries) = &node.value else {
            self.error(
                node,
                format!("{what} is {}: it has to be a map", node.value.kind()),
            );
            return None;
        };
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
            if !fields.contains(&name.as_str()) {
                let problem = Problem::error(
                    &self.place(key),
                    format!("unknown field `{name}` in {what}"),
                )
                .or_else("it would be ignored, and what it says would not happen")
                .help(format!("the fields are: {}", fields.join(", ")));
                self.report(problem.meant(nearest(name, fields.iter().copied())));
            }
        }
        Some(Map {
            source: self,
            node,
            entries,
        })
    }

    /// A text.
    pub fn text<'n>(&self, node: &'n Node, what: &str) -> Option<&'n str> {
        let other = match &node.value {
            Value::Text(text) => return Some(text),
            other => other,
        };
        let problem = Problem::error(
            &self.place(node),
            format!("{what} is {}: it has to be a text", other.kind()),
        );
        self.report(match other {
            Value::Bool(_) | Value::Int(_) | Value::Fraction => {
                problem.help("write it in quotes if it is meant as a text")
            }
            _ => problem,
        });
        None
    }

    /// A text that is not empty.
    pub fn filled<'n>(&self, node: &'n Node, what: &str) -> Option<&'n str> {
        let text = self.text(node, what)?;
        if text.is_empty() {
            self.error(node, format!("{what} is an empty text"));
            return None;
        }
        Some(text)
    }

    /// A whole number in a range.
    pub fn number<T: Copy + Display + PartialOrd + TryFrom<i64>>(
        &self,
        node: &Node,
        what: &str,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let found = match node.value {
            Value::Int(number) => match T::try_from(number) {
                Ok(number) if range.contains(&number) => return Some(number),
                _ => number.to_string(),
            },
            ref other => other.kind().to_owned(),
        };
        let (from, to) = (range.start(), range.end());
        self.error(
            node,
            format!("{what} is {found}: it has to be a whole number from {from} to {to}"),
        );
        None
    }

    /// A duration like `15m`.
    pub fn duration(&self, node: &Node, what: &str) -> Option<Duration> {
        if let Value::Int(number) = node.value {
            let problem = Problem::error(
                &self.place(node),
                format!("{what} is the bare number {number}"),
            );
            self.report(problem.help(format!("give it a unit, like {number}s or {number}m")));
            return None;
        }
        let text = self.text(node, what)?;
        parse_duration(text)
            .map_err(|error| self.error(node, format!("{what}: {error}")))
            .ok()
    }

    /// A range of addresses, or a single one, v4-mapped ones as IPv4; host bits that are set are an error.
    pub fn cidr(&self, node: &Node, what: &str) -> Option<IpNet> {
        let text = self.text(node, what)?;
        let net = text.parse::<IpNet>();
        let net = net.or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
        match net.map(canonical_net) {
            Ok(net) if net.addr() == net.network() => Some(net),
            Ok(net) => {
                let problem = Problem::error(
                    &self.place(node),
                    format!("{what} is {text:?}, which has bits set behind its prefix"),
                );
                let (range, address) = (net.trunc(), net.addr());
                self.report(problem.help(format!(
                    "write {range} for the range, or {address} for the address"
                )));
                None
            }
            Err(_) => {
                self.error(
                    node,
                    format!("{what} is {text:?}: write a range like 10.20.0.0/24, or an address"),
                );
                None
            }
        }
    }

    /// The path of a cgroup.
    pub fn cgroup(&self, node: &Node) -> Option<String> {
        let path = self.text(node, "`cgroup`")?;
        if !path.starts_with('/') {
            self.error(
                node,
                format!(
                    "`cgroup` is {path:?}: it is a path from the root, like /system.slice/x.service"
                ),
            );
            return None;
        }
        Some(path.to_owned())
    }

    /// The number of a user of the system.
    pub fn uid(&self, node: &Node) -> Option<u32> {
        self.number(node, "`uid`", 0..=u32::MAX)
    }

    /// A text that parses.
    pub fn parsed<T: FromStr<Err: Display>>(&self, node: &Node, what: &str) -> Option<T> {
        let text = self.text(node, what)?;
        text.parse()
            .map_err(|error| self.error(node, format!("{what}: {error}")))
            .ok()
    }

    /// One word of a closed list.
    pub fn word<T: Copy>(&self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let problem = Problem::error(
            &self.place(node),
            format!("{what} is {text:?}, which is not one of its words"),
        )
        .help(format!("use one of: {}", names.join(", ")));
        self.report(problem.meant(nearest(text, names.iter().copied())));
        None
    }

    /// A list that is not empty.
    pub fn list<'n>(&self, node: &'n Node, what: &str) -> &'n [Node] {
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

    /// A list of texts, none of them empty.
    pub fn texts(&self, node: &Node, what: &str) -> Vec<String> {
        let texts = self.placed_texts(node, what).into_iter();
        texts.map(|(text, _)| text.to_owned()).collect()
    }

    /// The same, each with the node that it is.
    pub(crate) fn placed_texts<'n>(&self, node: &'n Node, what: &str) -> Vec<(&'n str, &'n Node)> {
        let each = format!("an entry of {what}");
        let nodes = self.list(node, what).iter();
        let placed = |node| Some((self.filled(node, &each)?, node));
        nodes.filter_map(placed).collect()
    }
}

/// A map under reading.
pub struct Map<'a, 'n> {
    pub(crate) source: &'n Source<'a>,
    node: &'n Node,
    entries: &'n [(Node, Node)],
}

impl<'n> Map<'_, 'n> {
    /// A field, if it is there; of two the first.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(key, _)| matches!(&key.value, Value::Text(name) if name == field))
            .map(|(_, value)| value)
    }

    /// A field that has to be there.
    pub fn need(&self, field: &str) -> Option<&'n Node> {
        let found = self.get(field);
        if found.is_none() {
            self.source
                .error(self.node, format!("the field `{field}` is missing"));
        }
        found
    }

    /// A field that is true or false.
    pub fn flag(&self, field: &str) -> Option<bool> {
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

//! Conditions: CEL over a closed, typed list of attributes. No clock is in it, and no function that could read one.

mod check;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use cel::{Context, Env, ExecutionError, Program, Value, objects::Map};
use curfew_model::Facts;

use crate::problem::nearest;

/// The longest condition, in bytes.
const MAX_CONDITION: usize = 4096;
/// Characters of one that an error shows.
const SHOWN: usize = 24;
/// How deep the parts of a condition may nest. Deciding follows them on the stack of whoever asks.
const MAX_DEPTH: usize = 48;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Text,
    Flag,
    Number,
    Texts,
}

impl Type {
    /// How a value of it is written.
    fn form(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Flag => "true or false",
            Self::Number => "a whole number",
            Self::Texts => "a list of texts",
        }
    }
}

/// Who says what an attribute is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// The session itself.
    Session,
    /// Whoever knows the subject or its device.
    Statement,
}

/// Every attribute that a condition may name.
const ATTRIBUTES: [(&str, &str, Type, By); 13] = [
    ("subject", "kind", Type::Text, By::Session),
    ("subject", "issuer", Type::Text, By::Session),
    ("subject", "id", Type::Text, By::Session),
    ("subject", "proof", Type::Text, By::Session),
    ("subject", "groups", Type::Texts, By::Session),
    ("subject", "risk", Type::Text, By::Statement),
    ("subject", "assurance", Type::Text, By::Statement),
    ("device", "id", Type::Text, By::Session),
    ("device", "compliant", Type::Flag, By::Statement),
    ("device", "risk", Type::Text, By::Statement),
    ("client", "address", Type::Text, By::Session),
    ("target", "service", Type::Text, By::Session),
    ("target", "port", Type::Number, By::Session),
];

/// The functions of the language, built once: building them costs more than a decision.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// Some of the attributes, by their place in [`ATTRIBUTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttributeSet(u16);

const _: () = assert!(ATTRIBUTES.len() <= u16::BITS as usize);

impl AttributeSet {
    fn insert(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    fn contains(self, place: usize) -> bool {
        self.0 & (1 << place) != 0
    }
}

/// All that are in any of them.
impl FromIterator<Self> for AttributeSet {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        Self(sets.into_iter().fold(0, |all, set| all | set.0))
    }
}

/// A compiled condition.
#[derive(Debug)]
pub(crate) struct Condition {
    program: Program,
    reads: AttributeSet,
}

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    False,
    /// An attribute was absent: it does not grant, but its limits apply.
    Absent,
    /// It failed otherwise, with the same effect.
    Failed,
}

/// Where a text stops being CEL; lines and columns count from one. The parser's own words name its tokens.
fn not_cel(text: &str, (line, column): (isize, isize)) -> String {
    let before = |count: isize| usize::try_from(count.saturating_sub(1)).unwrap_or(0);
    let rest = text.lines().nth(before(line)).unwrap_or_default();
    let rest: String = rest.chars().skip(before(column)).take(SHOWN).collect();
    if rest.trim().is_empty() {
        "not CEL: it ends where more has to follow".to_owned()
    } else {
        format!("not CEL: it cannot be read from `{rest}` on, at {line}:{column} of the condition")
    }
}

impl Condition {
    /// Compiles a condition and checks every name in it, and that its parts fit each other.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub(crate) fn compile(text: &str) -> Result<Self, Vec<String>> {
        if text.len() > MAX_CONDITION {
            return Err(vec![format!(
                "a condition of {} bytes: at most {MAX_CONDITION} are allowed",
                text.len()
            )]);
        }
        let program = Program::compile(text).map_err(|errors| {
            // What follows the first comes of it.
            let first = errors.errors.first();
            vec![first.map_or_else(|| "not CEL".to_owned(), |error| not_cel(text, error.pos))]
        })?;
        let reads = check::check(program.expression())?;
        Ok(Self { program, reads })
    }

    /// The attributes that it reads.
    pub(crate) fn reads(&self) -> AttributeSet {
        self.reads
    }

    /// Whether it is written like the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.program.expression() == other.program.expression()
    }

    pub(crate) fn truth(&self, attributes: &Attributes) -> Truth {
        match self.program.execute(&attributes.0) {
            Ok(Value::Bool(true)) => Truth::True,
            Ok(Value::Bool(false)) => Truth::False,
            Err(ExecutionError::NoSuchKey(_)) => Truth::Absent,
            _ => Truth::Failed,
        }
    }

    /// Why it cannot be decided, if it cannot.
    pub(crate) fn failure(&self, attributes: &Attributes) -> Option<String> {
        match self.program.execute(&attributes.0) {
            Ok(Value::Bool(_)) => None,
            Ok(_) => Some("it is neither true nor false".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }
}

/// What is said of a name that is none of `names`.
fn unknown(name: &str, names: &[String]) -> String {
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("unknown attribute `{name}`: did you mean `{near}`?"),
        None => format!("unknown attribute `{name}`: there are {}", names.join(", ")),
    }
}

/// Checks what somebody states of a subject or its device: that conditions can name it, and read its value.
///
/// # Errors
/// What is wrong, and what to write.
pub fn check_statement(name: &str, value: &str) -> Result<(), String> {
    let named =
        |(root, field, kind, by): (&str, &str, Type, By)| (format!("{root}.{field}"), kind, by);
    let (stated, told): (Vec<_>, Vec<_>) = ATTRIBUTES
        .into_iter()
        .map(named)
        .partition(|(_, _, by)| *by == By::Statement);
    let names: Vec<String> = stated.iter().map(|(name, _, _)| name.clone()).collect();
    if told.iter().any(|(known, _, _)| known == name) {
        return Err(format!(
            "`{name}` cannot be stated, the session itself says it: there are {}",
            names.join(", ")
        ));
    }
    let Some((_, kind, _)) = stated.iter().find(|(known, _, _)| known == name) else {
        return Err(unknown(name, &names));
    };
    match read(value, *kind) {
        Some(_) => Ok(()),
        None => Err(format!(
            "`{name}` is {value:?}: it has to be {}",
            kind.form()
        )),
    }
}

/// A stated value as a condition sees it; what is of another type is absent, as it must not grant.
fn read(stated: &str, kind: Type) -> Option<Value> {
    match kind {
        Type::Flag => stated.parse().ok().map(Value::Bool),
        Type::Number => stated.parse().ok().map(Value::Int),
        Type::Text => Some(Value::from(stated.to_owned())),
        Type::Texts => None,
    }
}

/// Attributes of one session, built once a decision.
pub(crate) struct Attributes(Context<'static, 'static>);

impl Attributes {
    /// Those in `wanted`: making one costs more than a decision that reads it.
    pub(crate) fn of(facts: &Facts, wanted: AttributeSet) -> Self {
        let mut roots: BTreeMap<&str, HashMap<String, Value>> = BTreeMap::new();
        let all = ATTRIBUTES.into_iter().enumerate();
        for (_, (root, field, kind, _)) in all.filter(|(place, _)| wanted.contains(*place)) {
            // One without fields is there, and says that they are absent.
            let fields = roots.entry(root).or_default();
            if let Some(value) = attribute(facts, root, field, kind) {
                fields.insert(field.to_owned(), value);
            }
        }
        let mut context = Context::with_env(Arc::clone(&LANGUAGE));
        for (root, fields) in roots {
            context.add_variable_from_value(root, Value::Map(Map::from(fields)));
        }
        Self(context)
    }
}

fn attribute(facts: &Facts, root: &str, field: &str, kind: Type) -> Option<Value> {
    let subject = facts.subject();
    let text = |text: String| Some(Value::from(text));
    match (root, field) {
        ("subject", "kind") => text(subject?.kind.to_string()),
        ("subject", "issuer") => text(subject?.issuer.0.to_string()),
        ("subject", "id") => text(subject?.id.clone()),
        ("subject", "proof") => text(format!("{:?}", subject?.proof).to_lowercase()),
        ("subject", "groups") => Some(Value::from(
            facts.groups.iter().map(String::as_str).collect::<Vec<_>>(),
        )),
        ("device", "id") => text(facts.device.as_ref()?.to_string()),
        ("client", "address") => text(facts.client.ip().to_canonical().to_string()),
        ("target", "service") => text(facts.target.service.as_ref()?.to_string()),
        ("target", "port") => Some(Value::Int(facts.target.addresses().next()?.port().into())),
        _ => {
            let stated = facts.attributes.get(&format!("{root}.{field}"))?;
            read(stated, kind)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::with_room;

    fn compiled(text: String) -> Result<Condition, Vec<String>> {
        with_room(move || Condition::compile(&text)).unwrap()
    }

    #[test]
    fn what_conditions_cannot_read_is_not_stated() {
        assert_eq!(check_statement("subject.risk", "low"), Ok(()));
        assert_eq!(check_statement("device.compliant", "true"), Ok(()));
        for (name, value, says) in [
            (
                "subject.rsik",
                "low",
                "unknown attribute `subject.rsik`: did you mean `subject.risk`?",
            ),
            (
                "bogus",
                "1",
                "unknown attribute `bogus`: there are subject.risk, subject.assurance, device.compliant, device.risk",
            ),
            (
                "subject.id",
                "bob",
                "`subject.id` cannot be stated, the session itself says it: there are subject.risk, subject.assurance, device.compliant, device.risk",
            ),
            (
                "device.compliant",
                "yes",
                "`device.compliant` is \"yes\": it has to be true or false",
            ),
        ] {
            assert_eq!(check_statement(name, value), Err(says.to_owned()));
        }
    }

    #[test]
    fn what_does_not_fit_is_said_before_anybody_is_decided_about() {
        for (text, says) in [
            (
                "subject.risk",
                "it is a text, and a condition is true or false",
            ),
            ("'x'", "it is a text, and a condition is true or false"),
            ("target.port", "it is a whole number, and a condition"),
            (
                "subject.risk == 3",
                "`==` compares a text with a whole number",
            ),
            ("subject.risk == null", "`==` compares a text with null"),
            (
                "subject.risk > 3",
                "`>` compares a text with a whole number",
            ),
            ("subject.groups == 'x'", "`==` compares a list with a text"),
            (
                "device.compliant == 'yes'",
                "`==` compares true or false with a text",
            ),
            ("!subject.risk", "`!` takes true or false, not a text"),
            (
                "device.compliant && subject.risk",
                "`&&` takes true or false, not a text",
            ),
            (
                "subject.risk in ['low', 3]",
                "a list holds a text and a whole number",
            ),
            (
                "subject.risk in [1, 2]",
                "`in` looks for a text in a list that holds a whole number",
            ),
            (
                "'dba' in subject.id",
                "`in` looks into a list, not into a text",
            ),
            (
                "subject.groups.exists(g, g == 1)",
                "`==` compares a text with a whole number",
            ),
            (
                "subject.groups.all(g, g)",
                "`&&` takes true or false, not a text",
            ),
            (
                "subject.groups[0] == 1",
                "`==` compares a text with a whole number",
            ),
            (
                "subject.groups['x'] == 'x'",
                "`[ ]` takes a whole number, not a text",
            ),
            (
                "subject.risk.level == 'x'",
                "`.level` is asked of a text, which has no fields",
            ),
            (
                "subject.id.startsWith(1)",
                "`startsWith` is of texts, not of a whole number",
            ),
            ("subject.id.startsWith()", "`startsWith` takes one text"),
            ("startsWith(subject.id, 'x')", "`startsWith` takes one text"),
            (
                "subject.groups.contains('x')",
                "`contains` is of texts, not of a list",
            ),
            (
                "size(target.port) > 1",
                "`size` is of a text or a list, not of a whole number",
            ),
            ("size() > 1", "`size` is of one value"),
            ("subject.risk.matches('(')", "unknown function `matches`"),
            ("1 / 0 == 1", "`/` by zero"),
            (
                "subject.groups.exists(a, subject.groups.exists(b, a == b))",
                "stand inside one another",
            ),
            (
                "[1, 2].map(a, [1, 2].map(b, a)) == [[1]]",
                "stand inside one another",
            ),
            (
                "size(['aaaa'].map(x, x + x).map(x, x + x)[0]) > 0",
                "behind one another",
            ),
            (
                "subject.groups.filter(a, a != 'x').exists(a, a == 'y')",
                "behind one another",
            ),
            ("target.port % 0 == 1", "`%` by zero"),
            (
                "subject.id + 1 == 'x'",
                "`+` cannot be applied to a text and a whole number",
            ),
            ("-subject.id == 'x'", "`-` takes a number, not a text"),
            (
                "device.compliant ? 1 : 'x'",
                "`? :` gives a whole number or a text",
            ),
        ] {
            let wrong = compiled(text.to_owned()).unwrap_err().join("\n");
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
        let both = "subject.risk > 3 || device.compliant == 'yes'";
        assert_eq!(compiled(both.to_owned()).unwrap_err().len(), 2);
    }

    /// Those that a condition reads, of one session.
    fn attributes(condition: &Condition) -> Attributes {
        let facts = curfew_testkit::alice(
            "192.0.2.1:40000".parse().unwrap(),
            "10.0.0.1:5432".parse().unwrap(),
            curfew_model::BootInstant(0),
        );
        Attributes::of(&facts, condition.reads())
    }

    #[test]
    fn what_fits_is_taken_and_can_be_decided() {
        for text in [
            "subject.id in ['alice', 'bob'] && !(subject.kind == 'device')",
            "has(subject.risk) ? subject.risk == 'low' : true",
            "!has(device.compliant) || device.compliant",
            "size(subject.groups) + subject.groups.size() >= 0",
            "subject.groups.all(g, g.startsWith('x') || g.size() > 3 || true)",
            "['a', 'b'].exists_one(x, x + 'b' == 'ab')",
            "[1, 2].map(x, x * 2) == [2, 4] && [1, 2].filter(x, x > 1) == [2]",
            "target.port > 1024.5 && target.port == 5432u && target.port % 2 == 0",
            "subject.groups + ['x'] != []",
            "([[1]])[0][0] == 1 && 'a' < 'b' && -1 < 1",
        ] {
            let condition = compiled(text.to_owned()).unwrap();
            let attributes = attributes(&condition);
            let truth = condition.truth(&attributes);
            assert_eq!(
                truth,
                Truth::True,
                "{text}: {:?}",
                condition.failure(&attributes)
            );
        }
    }

    #[test]
    fn an_absent_attribute_is_told_from_another_failure() {
        for (text, truth) in [
            ("subject.risk == 'low'", Truth::Absent),
            ("subject.groups[7] == 'x'", Truth::Failed),
            ("1 / (target.port - target.port) == 1", Truth::Failed),
        ] {
            let condition = compiled(text.to_owned()).unwrap();
            let attributes = attributes(&condition);
            assert_eq!(condition.truth(&attributes), truth, "{text}");
        }
    }

    #[test]
    fn no_nesting_is_too_deep_for_the_stack() {
        let nested = |open: &str, inner: &str, close: &str| {
            let times = (MAX_CONDITION - 100) / (open.len() + close.len());
            open.repeat(times) + inner + &close.repeat(times)
        };
        for text in [
            nested("(", "true", ")"),
            nested("-(", "1", ")") + " == 1",
            nested("[", "", "]") + " == []",
            nested("1+", "1", "") + " == 1",
            nested("true ? true : ", "true", ""),
            "subject".to_owned() + &nested("", "", ".a") + " == 1",
            "subject.groups".to_owned() + &nested("", "", "[0]") + " == 'x'",
        ] {
            assert!(compiled(text.clone()).is_err(), "{text:.20}");
        }
    }

    #[test]
    fn the_deepest_condition_is_decided_on_any_stack() {
        let text = "1+".repeat(MAX_DEPTH - 3) + "1 > 1";
        let condition = compiled(text).unwrap();
        assert!(matches!(
            condition.program.execute(&Context::default()),
            Ok(Value::Bool(true))
        ));
        let text = "[".repeat(MAX_DEPTH - 2) + &"]".repeat(MAX_DEPTH - 2) + " == []";
        let condition = compiled(text).unwrap();
        assert!(matches!(
            condition.program.execute(&Context::default()),
            Ok(Value::Bool(false))
        ));
    }
}

//! Conditions: CEL over a closed, typed list of attributes. No clock is in it, and no function that could read one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, Program, Value,
    common::ast::{Expr, IdedExpr},
    objects::Map,
};
use curfew_model::Facts;

use crate::problem::nearest;

/// The longest condition, in bytes.
const MAX_CONDITION: usize = 4096;
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

const FUNCTIONS: [&str; 5] = ["size", "startsWith", "endsWith", "contains", "matches"];

/// The functions of the language, built once: building them costs more than a decision.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled condition.
#[derive(Debug)]
pub(crate) struct Condition(Program);

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    False,
    /// An attribute was absent, or it failed otherwise: it does not grant, but its limits apply.
    Unknown,
}

impl Condition {
    /// Compiles a condition and checks every name in it.
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
            errors
                .errors
                .iter()
                .map(|error| format!("not CEL: {}", error.msg))
                .collect::<Vec<_>>()
        })?;
        let mut wrong = Vec::new();
        check(program.expression(), MAX_DEPTH, &mut Vec::new(), &mut wrong);
        if wrong.is_empty() {
            Ok(Self(program))
        } else {
            Err(wrong)
        }
    }

    pub(crate) fn truth(&self, attributes: &Attributes) -> Truth {
        match self.0.execute(&attributes.0) {
            Ok(Value::Bool(true)) => Truth::True,
            Ok(Value::Bool(false)) => Truth::False,
            _ => Truth::Unknown,
        }
    }
}

/// Checks names and, with what is left of it in `depth`, nesting.
fn check(node: &IdedExpr, depth: usize, bound: &mut Vec<String>, wrong: &mut Vec<String>) {
    let Some(depth) = depth.checked_sub(1) else {
        let text = format!("parts nest deeper than {MAX_DEPTH}: write several policies");
        if !wrong.contains(&text) {
            wrong.push(text);
        }
        return;
    };
    match &node.expr {
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(root) if !bound.contains(root) => {
                check_attribute(root, &select.field, wrong)
            }
            _ => check(&select.operand, depth, bound, wrong),
        },
        Expr::Ident(name) if !bound.contains(name) => {
            wrong.push(format!(
                "`{name}` is no attribute by itself: name one like `subject.risk`"
            ));
        }
        Expr::Call(call) => {
            let operator = call.func_name.starts_with(['_', '!', '-', '@']);
            if !operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
                wrong.push(format!(
                    "unknown function `{}`: there are {}",
                    call.func_name,
                    FUNCTIONS.join(", ")
                ));
            }
            for part in call.target.as_deref().into_iter().chain(&call.args) {
                check(part, depth, bound, wrong);
            }
        }
        Expr::List(list) => list
            .elements
            .iter()
            .for_each(|element| check(element, depth, bound, wrong)),
        Expr::Comprehension(over) => {
            check(&over.iter_range, depth, bound, wrong);
            let outer = bound.len();
            bound.push(over.iter_var.clone());
            bound.extend(over.iter_var2.clone());
            bound.push(over.accu_var.clone());
            for part in [
                &over.accu_init,
                &over.loop_cond,
                &over.loop_step,
                &over.result,
            ] {
                check(part, depth, bound, wrong);
            }
            bound.truncate(outer);
        }
        Expr::Map(_) | Expr::Struct(_) => {
            wrong.push("a condition compares attributes: no maps or structures".to_owned())
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
    }
}

fn check_attribute(root: &str, field: &str, wrong: &mut Vec<String>) {
    if !ATTRIBUTES
        .iter()
        .any(|(r, f, _, _)| *r == root && *f == field)
    {
        let all = ATTRIBUTES.iter();
        let names = all.map(|(root, field, _, _)| format!("{root}.{field}"));
        wrong.push(unknown(
            &format!("{root}.{field}"),
            &names.collect::<Vec<_>>(),
        ));
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

/// The attributes of one session, built once a decision.
pub(crate) struct Attributes(Context<'static, 'static>);

impl Attributes {
    pub(crate) fn of(facts: &Facts) -> Self {
        let mut roots: BTreeMap<&str, HashMap<String, Value>> = BTreeMap::new();
        for (root, field, kind, _) in ATTRIBUTES {
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
        ("subject", "issuer") => text(subject?.issuer.0.clone()),
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
            condition.0.execute(&Context::default()),
            Ok(Value::Bool(true))
        ));
        let text = "[".repeat(MAX_DEPTH - 2) + &"]".repeat(MAX_DEPTH - 2) + " == []";
        let condition = compiled(text).unwrap();
        assert!(matches!(
            condition.0.execute(&Context::default()),
            Ok(Value::Bool(false))
        ));
    }
}

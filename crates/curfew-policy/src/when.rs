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

/// Every attribute that a condition may name.
const ATTRIBUTES: [(&str, &str, Type); 13] = [
    ("subject", "kind", Type::Text),
    ("subject", "issuer", Type::Text),
    ("subject", "id", Type::Text),
    ("subject", "proof", Type::Text),
    ("subject", "groups", Type::Texts),
    ("subject", "risk", Type::Text),
    ("subject", "assurance", Type::Text),
    ("device", "id", Type::Text),
    ("device", "compliant", Type::Flag),
    ("device", "risk", Type::Text),
    ("client", "address", Type::Text),
    ("target", "service", Type::Text),
    ("target", "port", Type::Number),
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
    if ATTRIBUTES.iter().any(|(r, f, _)| *r == root && *f == field) {
        return;
    }
    let names: Vec<String> = ATTRIBUTES
        .iter()
        .map(|(root, field, _)| format!("{root}.{field}"))
        .collect();
    let name = format!("{root}.{field}");
    wrong.push(match nearest(&name, names.iter().map(String::as_str)) {
        Some(near) => format!("unknown attribute `{name}`: did you mean `{near}`?"),
        None => format!("unknown attribute `{name}`: there are {}", names.join(", ")),
    });
}

/// The attributes of one session, built once a decision.
pub(crate) struct Attributes(Context<'static, 'static>);

impl Attributes {
    pub(crate) fn of(facts: &Facts) -> Self {
        let mut roots: BTreeMap<&str, HashMap<String, Value>> = BTreeMap::new();
        for (root, field, kind) in ATTRIBUTES {
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
        ("target", "port") => Some(Value::Int(facts.target.address?.port().into())),
        _ => {
            let stated = facts.attributes.get(&format!("{root}.{field}"))?;
            match kind {
                // What is neither is absent: it must not grant.
                Type::Flag => stated.parse().ok().map(Value::Bool),
                Type::Number => stated.parse().ok().map(Value::Int),
                Type::Text => text(stated.clone()),
                Type::Texts => None,
            }
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

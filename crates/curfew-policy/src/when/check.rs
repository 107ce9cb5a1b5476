//! Whether a condition can be decided: its names are known, its parts fit each other, and it is true or false. What
//! cannot be told before there are values passes, and fails towards strict then.

use std::fmt;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue, SelectExpr, operators,
};

use super::{ATTRIBUTES, AttributeSet, MAX_DEPTH, Type, unknown};

const FUNCTIONS: [&str; 4] = ["size", "startsWith", "endsWith", "contains"];

const OPERATORS: [&str; 19] = [
    operators::ADD,
    operators::CONDITIONAL,
    operators::DIVIDE,
    operators::EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
    operators::INDEX,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::LOGICAL_AND,
    operators::LOGICAL_NOT,
    operators::LOGICAL_OR,
    operators::MODULO,
    operators::MULTIPLY,
    operators::NEGATE,
    operators::NOT_EQUALS,
    operators::NOT_STRICTLY_FALSE,
    operators::SUBSTRACT,
];

/// What a part of a condition is.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// Nobody can say yet.
    Any,
    Text,
    Flag,
    Whole,
    Unsigned,
    Fraction,
    Bytes,
    Null,
    List(Box<Self>),
}

impl From<Type> for Shape {
    fn from(attribute: Type) -> Self {
        match attribute {
            Type::Text => Self::Text,
            Type::Flag => Self::Flag,
            Type::Number => Self::Whole,
            Type::Texts => Self::List(Box::new(Self::Text)),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "something",
            Self::Text => "a text",
            Self::Flag => "true or false",
            Self::Whole => "a whole number",
            Self::Unsigned => "an unsigned number",
            Self::Fraction => "a fraction",
            Self::Bytes => "bytes",
            Self::Null => "null",
            Self::List(_) => "a list",
        })
    }
}

impl Shape {
    fn is_number(&self) -> bool {
        matches!(self, Self::Whole | Self::Unsigned | Self::Fraction)
    }

    /// Whether it is, or may be, one of these.
    fn may_be(&self, those: &[Self]) -> bool {
        *self == Self::Any || those.contains(self)
    }

    /// Whether values of both can be equal.
    fn alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::List(one), Self::List(other)) => one.alike(other),
            _ => self == other || self.is_number() && other.is_number(),
        }
    }

    /// What a value is that is one or the other.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::List(one), Self::List(other)) => Self::List(Box::new(one.or(*other))),
            (one, other) if one == other => one,
            _ => Self::Any,
        }
    }
}

/// The attributes that a condition reads.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn check(condition: &IdedExpr) -> Result<AttributeSet, Vec<String>> {
    let mut walk = Walk {
        bound: Vec::new(),
        in_macro: false,
        reads: AttributeSet::default(),
        wrong: Vec::new(),
    };
    let whole = walk.shape(condition, MAX_DEPTH);
    if !whole.may_be(&[Shape::Flag]) {
        walk.say(format!(
            "it is {whole}, and a condition is true or false: compare it, as in `subject.risk == 'low'`"
        ));
    }
    if walk.wrong.is_empty() {
        Ok(walk.reads)
    } else {
        Err(walk.wrong)
    }
}

struct Walk {
    /// Names that a macro like `exists` gives, the innermost last.
    bound: Vec<(String, Shape)>,
    /// Within a macro: the list that it goes over, or what it does for each element.
    in_macro: bool,
    reads: AttributeSet,
    wrong: Vec<String>,
}

impl Walk {
    fn say(&mut self, wrong: String) {
        if !self.wrong.contains(&wrong) {
            self.wrong.push(wrong);
        }
    }

    /// What a part is; nesting may take what is left of it in `depth`.
    fn shape(&mut self, node: &IdedExpr, depth: usize) -> Shape {
        let Some(depth) = depth.checked_sub(1) else {
            self.say(format!(
                "parts nest deeper than {MAX_DEPTH}: write several policies"
            ));
            return Shape::Any;
        };
        match &node.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Shape::Flag,
                LiteralValue::Bytes(_) => Shape::Bytes,
                LiteralValue::Double(_) => Shape::Fraction,
                LiteralValue::Int(_) => Shape::Whole,
                LiteralValue::Null => Shape::Null,
                LiteralValue::String(_) => Shape::Text,
                LiteralValue::UInt(_) => Shape::Unsigned,
            },
            Expr::Ident(name) => self.named(name).unwrap_or_else(|| {
                self.say(format!(
                    "`{name}` is no attribute by itself: name one like `subject.risk`"
                ));
                Shape::Any
            }),
            Expr::Select(select) => self.select(select, depth),
            Expr::List(list) => self.list(list, depth),
            Expr::Call(call) => self.call(call, depth),
            Expr::Comprehension(over) => self.comprehension(over, depth),
            Expr::Map(_) | Expr::Struct(_) => {
                self.say("a condition compares attributes: no maps or structures".to_owned());
                Shape::Any
            }
            Expr::Unspecified => Shape::Any,
        }
    }

    fn named(&self, name: &str) -> Option<Shape> {
        let found = self.bound.iter().rev().find(|(bound, _)| bound == name);
        found.map(|(_, shape)| shape.clone())
    }

    fn select(&mut self, select: &SelectExpr, depth: usize) -> Shape {
        let shape = match &select.operand.expr {
            Expr::Ident(root) if self.named(root).is_none() => self.attribute(root, &select.field),
            _ => {
                let of = self.shape(&select.operand, depth);
                if of != Shape::Any {
                    self.say(format!(
                        "`.{}` is asked of {of}, which has no fields",
                        select.field
                    ));
                }
                Shape::Any
            }
        };
        if select.test { Shape::Flag } else { shape }
    }

    fn attribute(&mut self, root: &str, field: &str) -> Shape {
        let is = |(r, f, _, _): &(&str, &str, Type, _)| *r == root && *f == field;
        if let Some(place) = ATTRIBUTES.iter().position(is)
            && let Some((_, _, kind, _)) = ATTRIBUTES.get(place)
        {
            self.reads.insert(place);
            return (*kind).into();
        }
        let names = ATTRIBUTES.map(|(root, field, _, _)| format!("{root}.{field}"));
        self.say(unknown(&format!("{root}.{field}"), &names));
        Shape::Any
    }

    fn list(&mut self, list: &ListExpr, depth: usize) -> Shape {
        let mut all: Option<Shape> = None;
        for element in &list.elements {
            let shape = self.shape(element, depth);
            all = Some(match all {
                None => shape,
                Some(first) => {
                    if !first.alike(&shape) {
                        self.say(format!("a list holds {first} and {shape}"));
                    }
                    first.or(shape)
                }
            });
        }
        Shape::List(Box::new(all.unwrap_or(Shape::Any)))
    }

    fn comprehension(&mut self, over: &ComprehensionExpr, depth: usize) -> Shape {
        if self.in_macro {
            // Each one multiplies what a decision costs, by what it repeats or by what it makes of an element, and
            // sessions wait for decisions.
            self.say(
                "`exists` and its like stand inside one another, or behind one another: use `in` or `&&`, or write several policies"
                    .to_owned(),
            );
            return Shape::Any;
        }
        self.in_macro = true;
        let range = self.shape(&over.iter_range, depth);
        let element = match range {
            Shape::List(element) => *element,
            other => {
                if other != Shape::Any {
                    self.say(format!("`exists` and its like go over a list, not {other}"));
                }
                Shape::Any
            }
        };
        let start = self.shape(&over.accu_init, depth);
        let outer = self.bound.len();
        match &over.iter_var2 {
            // With two names the first is an index.
            Some(second) => {
                self.bound.push((over.iter_var.clone(), Shape::Any));
                self.bound.push((second.clone(), element));
            }
            None => self.bound.push((over.iter_var.clone(), element)),
        }
        self.bound.push((over.accu_var.clone(), start));
        self.shape(&over.loop_cond, depth);
        self.shape(&over.loop_step, depth);
        self.in_macro = false;
        let result = self.shape(&over.result, depth);
        self.bound.truncate(outer);
        result
    }

    fn call(&mut self, call: &CallExpr, depth: usize) -> Shape {
        let operator = OPERATORS.contains(&call.func_name.as_str());
        if !operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
            self.say(format!(
                "unknown function `{}`: there are {}",
                call.func_name,
                FUNCTIONS.join(", ")
            ));
        }
        let parts = call.target.as_deref().into_iter().chain(&call.args);
        let shapes: Vec<Shape> = parts.map(|part| self.shape(part, depth)).collect();
        if operator {
            self.operator(call, &shapes)
        } else {
            self.function(call, &shapes)
        }
    }

    fn function(&mut self, call: &CallExpr, shapes: &[Shape]) -> Shape {
        let name = call.func_name.as_str();
        match (name, call.target.is_some(), shapes) {
            ("size", _, [of]) => {
                if !matches!(of, Shape::List(_)) && !of.may_be(&[Shape::Text, Shape::Bytes]) {
                    self.say(format!("`size` is of a text or a list, not of {of}"));
                }
                Shape::Whole
            }
            ("size", ..) => {
                self.say("`size` is of one value, as in `size(subject.groups)`".to_owned());
                Shape::Whole
            }
            ("startsWith" | "endsWith" | "contains", method, shapes) => {
                match shapes {
                    [text, part] if method => {
                        for shape in [text, part] {
                            if !shape.may_be(&[Shape::Text]) {
                                self.say(format!("`{name}` is of texts, not of {shape}"));
                            }
                        }
                    }
                    _ => self.say(format!(
                        "`{name}` takes one text, as in `subject.id.{name}('x')`"
                    )),
                }
                Shape::Flag
            }
            _ => Shape::Any,
        }
    }

    fn operator(&mut self, call: &CallExpr, shapes: &[Shape]) -> Shape {
        let name = call.func_name.as_str();
        let shown = name.trim_matches(['_', '@']);
        match (name, shapes) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT, parts) => {
                for part in parts {
                    if !part.may_be(&[Shape::Flag]) {
                        self.say(format!("`{shown}` takes true or false, not {part}"));
                    }
                }
                Shape::Flag
            }
            (operators::EQUALS | operators::NOT_EQUALS, [one, other]) => {
                if !one.alike(other) {
                    self.say(format!(
                        "`{shown}` compares {one} with {other}, which are never equal"
                    ));
                }
                Shape::Flag
            }
            (
                operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS,
                [one, other],
            ) => {
                let ordered = |shape: &Shape| !matches!(shape, Shape::List(_) | Shape::Null);
                if !one.alike(other) || !ordered(one) || !ordered(other) {
                    self.say(format!(
                        "`{shown}` compares {one} with {other}, which have no order"
                    ));
                }
                Shape::Flag
            }
            (operators::IN, [one, of]) => {
                match of {
                    Shape::Any => {}
                    Shape::List(element) if element.alike(one) => {}
                    Shape::List(element) => self.say(format!(
                        "`in` looks for {one} in a list that holds {element}"
                    )),
                    other => self.say(format!("`in` looks into a list, not into {other}")),
                }
                Shape::Flag
            }
            (operators::CONDITIONAL, [when, one, other]) => {
                if !when.may_be(&[Shape::Flag]) {
                    self.say(format!("`?` takes true or false, not {when}"));
                }
                if !one.alike(other) {
                    self.say(format!(
                        "`? :` gives {one} or {other}: both have to be alike"
                    ));
                }
                one.clone().or(other.clone())
            }
            (operators::INDEX, [list, index]) => {
                if !index.may_be(&[Shape::Whole, Shape::Unsigned]) {
                    self.say(format!("`[ ]` takes a whole number, not {index}"));
                }
                match list {
                    Shape::List(element) => return (**element).clone(),
                    Shape::Any => {}
                    other => self.say(format!("`[ ]` is asked of {other}, which is no list")),
                }
                Shape::Any
            }
            (operators::NEGATE, [number]) => {
                if !number.may_be(&[Shape::Whole, Shape::Fraction]) {
                    self.say(format!("`-` takes a number, not {number}"));
                }
                number.clone()
            }
            (
                operators::ADD
                | operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO,
                [one, other],
            ) => self.arithmetic(call, one, other),
            (operators::NOT_STRICTLY_FALSE, _) => Shape::Flag,
            _ => Shape::Any,
        }
    }

    fn arithmetic(&mut self, call: &CallExpr, one: &Shape, other: &Shape) -> Shape {
        let name = call.func_name.as_str();
        let shown = name.trim_matches('_');
        let divides = matches!(name, operators::DIVIDE | operators::MODULO);
        if divides && call.args.get(1).is_some_and(is_zero) {
            self.say(format!("`{shown}` by zero"));
        }
        let fits = |shape: &Shape| match shape {
            Shape::Any | Shape::Whole | Shape::Unsigned => true,
            Shape::Fraction => name != operators::MODULO,
            Shape::Text | Shape::Bytes | Shape::List(_) => name == operators::ADD,
            Shape::Flag | Shape::Null => false,
        };
        match (one, other) {
            (Shape::List(_), Shape::List(_)) if fits(one) => one.clone().or(other.clone()),
            (Shape::Any, known) | (known, Shape::Any) if fits(known) => known.clone(),
            _ if one == other && fits(one) => one.clone(),
            _ => {
                self.say(format!("`{shown}` cannot be applied to {one} and {other}"));
                Shape::Any
            }
        }
    }
}

/// Whether it is a literal zero that nothing can be divided by.
fn is_zero(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Literal(LiteralValue::Int(number)) => *number.inner() == 0,
        Expr::Literal(LiteralValue::UInt(number)) => *number.inner() == 0,
        _ => false,
    }
}

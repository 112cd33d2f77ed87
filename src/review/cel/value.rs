//! What the tree of an expression is worth, with CEL's own rules for errors and numbers.

use std::{cmp::Ordering, collections::BTreeMap};

use regex::Regex;
use serde_json::{Map, Value, json};

use super::{Each, Error, Node, Operator};
use crate::crd::Span;

fn wrong(what: impl Into<String>) -> Error {
    Error::Evaluation(what.into())
}

/// The value as a truth value.
pub(super) fn truth(value: &Value) -> Result<bool, Error> {
    value.as_bool().ok_or_else(|| wrong("no truth value where one belongs"))
}

/// The value of an expression where its variables have these.
pub(super) fn evaluate(node: &Node, variables: &BTreeMap<String, Value>) -> Result<Value, Error> {
    let of = |node: &Node| evaluate(node, variables);
    Ok(match node {
        Node::Literal(value) => value.clone(),
        Node::Variable(name) => variables
            .get(name)
            .cloned()
            .ok_or_else(|| wrong(format!("nothing is called {name}")))?,
        Node::List(nodes) => Value::Array(nodes.iter().map(of).collect::<Result<_, _>>()?),
        Node::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let Value::String(key) = of(key)? else {
                    return Err(wrong("a key that is no text"));
                };
                map.insert(key, of(value)?);
            }
            Value::Object(map)
        }
        Node::Not(node) => Value::Bool(!truth(&of(node)?)?),
        Node::Negative(node) => match of(node)? {
            Value::Number(number) => match number.as_i64().and_then(i64::checked_neg) {
                Some(whole) => json!(whole),
                None => json!(-number.as_f64().unwrap_or_default()),
            },
            _ => return Err(wrong("a minus before what is no number")),
        },
        Node::Binary(operator @ (Operator::And | Operator::Or), left, right) => {
            // Whichever side decides, decides, also over an error of the other.
            let decisive = *operator == Operator::Or;
            let left = of(left).and_then(|value| truth(&value));
            if left == Ok(decisive) {
                return Ok(Value::Bool(decisive));
            }
            let right = of(right).and_then(|value| truth(&value));
            if right == Ok(decisive) {
                return Ok(Value::Bool(decisive));
            }
            left?;
            right?;
            Value::Bool(!decisive)
        }
        Node::Binary(operator, left, right) => binary(*operator, &of(left)?, &of(right)?)?,
        Node::Choice(condition, yes, no) => of(if truth(&of(condition)?)? { yes } else { no })?,
        Node::Field(node, name) => match of(node)? {
            Value::Object(mut fields) => {
                fields.remove(name).ok_or_else(|| wrong(format!("there is no field {name}")))?
            }
            _ => return Err(wrong(format!("a field {name} of what has no fields"))),
        },
        Node::Has(node, name) => match of(node)? {
            Value::Object(fields) => Value::Bool(fields.contains_key(name)),
            _ => return Err(wrong(format!("a field {name} of what has no fields"))),
        },
        Node::Index(node, index) => match (of(node)?, of(index)?) {
            (Value::Object(mut fields), Value::String(key)) => {
                fields.remove(&key).ok_or_else(|| wrong(format!("there is no key {key}")))?
            }
            (Value::Array(mut items), Value::Number(number)) => {
                let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
                let at = at.filter(|at| *at < items.len());
                items.swap_remove(at.ok_or_else(|| wrong("an index outside of the list"))?)
            }
            _ => return Err(wrong("an index of what has none")),
        },
        Node::Call(on, name, arguments) => {
            let on = on.as_deref().map(of).transpose()?;
            let arguments = arguments.iter().map(of).collect::<Result<Vec<_>, _>>()?;
            call(name, on.into_iter().chain(arguments).collect::<Vec<_>>().as_slice())?
        }
        Node::Each { over, how, name, test, then } => {
            let items = match of(over)? {
                Value::Array(items) => items,
                Value::Object(fields) => fields.into_iter().map(|(key, _)| json!(key)).collect(),
                _ => return Err(wrong("a macro over what is no list")),
            };
            each(items, *how, name, test, then.as_deref(), variables)?
        }
    })
}

fn each(
    items: Vec<Value>,
    how: Each,
    name: &str,
    test: &Node,
    then: Option<&Node>,
    variables: &BTreeMap<String, Value>,
) -> Result<Value, Error> {
    let mut inner = variables.clone();
    let mut kept = Vec::new();
    let mut failed = None;
    let mut count = 0_usize;
    let total = items.len();
    for item in items {
        inner.insert(name.to_owned(), item.clone());
        if how == Each::Map && then.is_none() {
            kept.push(evaluate(test, &inner)?);
            continue;
        }
        match evaluate(test, &inner).and_then(|value| truth(&value)) {
            Ok(true) => {
                count += 1;
                match (how, then) {
                    (Each::Exists, _) => return Ok(Value::Bool(true)),
                    (Each::Map, Some(then)) => kept.push(evaluate(then, &inner)?),
                    _ => kept.push(item),
                }
            }
            Ok(false) if how == Each::All => return Ok(Value::Bool(false)),
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(match how {
        Each::All => Value::Bool(count == total),
        Each::Exists => Value::Bool(false),
        Each::ExistsOne => Value::Bool(count == 1),
        Each::Filter | Each::Map => Value::Array(kept),
    })
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, Error> {
    Ok(match (name, arguments) {
        ("size", [Value::String(text)]) => json!(text.chars().count()),
        ("size", [Value::Array(items)]) => json!(items.len()),
        ("size", [Value::Object(fields)]) => json!(fields.len()),
        // Only ever compared with another one: its seconds do.
        ("duration", [Value::String(text)]) => {
            let span = Span::try_from(text.clone()).map_err(wrong)?;
            json!(span.duration().as_secs())
        }
        ("startsWith", [Value::String(text), Value::String(part)]) => {
            json!(text.starts_with(part.as_str()))
        }
        ("endsWith", [Value::String(text), Value::String(part)]) => {
            json!(text.ends_with(part.as_str()))
        }
        ("contains", [Value::String(text), Value::String(part)]) => {
            json!(text.contains(part.as_str()))
        }
        ("matches", [Value::String(text), Value::String(pattern)]) => {
            let pattern = Regex::new(pattern).map_err(|_| wrong("a pattern that is none"))?;
            json!(pattern.is_match(text))
        }
        _ => return Err(wrong(format!("{name} of something else"))),
    })
}

fn binary(operator: Operator, left: &Value, right: &Value) -> Result<Value, Error> {
    let ordered = |fits: fn(Ordering) -> bool| match order(left, right) {
        Some(order) => Ok(Value::Bool(fits(order))),
        None => Err(wrong("a comparison of what has no order")),
    };
    match operator {
        Operator::Equal => Ok(Value::Bool(equal(left, right))),
        Operator::Differs => Ok(Value::Bool(!equal(left, right))),
        Operator::Less => ordered(Ordering::is_lt),
        Operator::LessOrEqual => ordered(Ordering::is_le),
        Operator::More => ordered(Ordering::is_gt),
        Operator::MoreOrEqual => ordered(Ordering::is_ge),
        Operator::In => match right {
            Value::Array(items) => Ok(Value::Bool(items.iter().any(|item| equal(item, left)))),
            Value::Object(fields) => {
                Ok(Value::Bool(left.as_str().is_some_and(|key| fields.contains_key(key))))
            }
            _ => Err(wrong("`in` what is no list")),
        },
        Operator::Plus => match (left, right) {
            (Value::String(one), Value::String(other)) => Ok(json!(format!("{one}{other}"))),
            (Value::Array(one), Value::Array(other)) => {
                Ok(Value::Array(one.iter().chain(other).cloned().collect()))
            }
            _ => calculate(left, right, i64::checked_add, |one, other| one + other),
        },
        Operator::Minus => calculate(left, right, i64::checked_sub, |one, other| one - other),
        Operator::Times => calculate(left, right, i64::checked_mul, |one, other| one * other),
        Operator::Divided => calculate(left, right, i64::checked_div, |one, other| one / other),
        Operator::Modulo => calculate(left, right, i64::checked_rem, |one, other| one % other),
        // They are decided before both sides have a value.
        Operator::And | Operator::Or => Err(wrong("no truth value where one belongs")),
    }
}

fn calculate(
    left: &Value,
    right: &Value,
    whole: fn(i64, i64) -> Option<i64>,
    real: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    match (left.as_i64(), right.as_i64(), left.as_f64(), right.as_f64()) {
        (Some(left), Some(right), _, _) => {
            whole(left, right).map(|value| json!(value)).ok_or_else(|| wrong("no such number"))
        }
        (_, _, Some(left), Some(right)) => Ok(json!(real(left, right))),
        _ => Err(wrong("arithmetic with what is no number")),
    }
}

/// CEL compares numbers by value, whatever their type.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => order(left, right) == Some(Ordering::Equal),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| {
                    other.get(key).is_some_and(|counterpart| equal(value, counterpart))
                })
        }
        _ => left == right,
    }
}

fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
        },
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

//! The part of CEL (Common Expression Language) in which the rules of CRDs are written, so that a
//! manifest is judged by the very rules that the API server will apply, without one.
//!
//! It has the operators, `has`, the macros over lists and maps, and the functions on strings and sizes.
//! What it does not have is an error of [`Expression::parse`], so that a rule is either applied or named
//! as one that was not.
//!
//! Language: <https://github.com/google/cel-spec/blob/master/doc/langdef.md>.

use std::{cmp::Ordering, collections::BTreeMap};

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::crd::Span;

/// How deep expressions may nest.
const DEPTH: usize = 64;

/// Why an expression has no value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// It is not written in the part of CEL that is known here.
    #[error("not understood here: {0}")]
    Unsupported(String),
    /// CEL itself makes it an error: a field that is not there, types that do not fit.
    #[error("{0}")]
    Evaluation(String),
}

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expression(Node);

#[derive(Clone, Debug)]
enum Node {
    Literal(Value),
    Variable(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Not(Box<Node>),
    Negative(Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    Choice(Box<Node>, Box<Node>, Box<Node>),
    Field(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    Has(Box<Node>, String),
    Call(Option<Box<Node>>, String, Vec<Node>),
    Each { over: Box<Node>, how: Each, name: String, test: Box<Node>, then: Option<Box<Node>> },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Each {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operator {
    Or,
    And,
    Equal,
    Differs,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    In,
    Plus,
    Minus,
    Times,
    Divided,
    Modulo,
}

// === Reading ===

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(Value),
    Sign(&'static str),
}

/// The longer ones first.
const SIGNS: [&str; 23] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "?", ":", ".", ",", "(", ")", "[", "]", "{",
    "}", "+", "-", "*", "%",
];

fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported(what.into())
}

fn tokens(text: &str) -> Result<Vec<Token>, Error> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first.is_ascii_alphabetic() || first == '_' {
            let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            let length = rest.find(word).unwrap_or(rest.len());
            if rest[length..].starts_with(['"', '\'']) {
                return Err(unsupported("a raw string or bytes"));
            }
            found.push(Token::Word(rest[..length].to_owned()));
            length
        } else if first.is_ascii_digit() {
            let digit = |c: char| !(c.is_ascii_alphanumeric() || c == '.');
            let length = rest.find(digit).unwrap_or(rest.len());
            let number = &rest[..length];
            let value = match (number.parse::<i64>(), number.parse::<f64>()) {
                (Ok(whole), _) => json!(whole),
                (_, Ok(real)) => json!(real),
                _ => return Err(unsupported(format!("the number {number}"))),
            };
            found.push(Token::Number(value));
            length
        } else if first == '"' || first == '\'' {
            let (text, length) = quoted(rest, first)?;
            found.push(Token::Text(text));
            length
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            found.push(Token::Sign(sign));
            sign.len()
        } else if first == '/' {
            found.push(Token::Sign("/"));
            1
        } else {
            return Err(unsupported(format!("the character {first:?}")));
        };
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

fn quoted(text: &str, quote: char) -> Result<(String, usize), Error> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => return Ok((value, at + 1)),
            '\\' => value.push(match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(same @ ('\\' | '"' | '\'' | '`' | '?')) => same,
                _ => return Err(unsupported("an escape in a string")),
            }),
            other => value.push(other),
        }
    }
    Err(unsupported("a string without an end"))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn takes(&mut self, sign: &'static str) -> bool {
        let is_there = self.tokens.get(self.at) == Some(&Token::Sign(sign));
        self.at += usize::from(is_there);
        is_there
    }

    fn needs(&mut self, sign: &'static str) -> Result<(), Error> {
        if self.takes(sign) {
            Ok(())
        } else {
            Err(unsupported(format!("no `{sign}` where one belongs")))
        }
    }

    fn word(&mut self) -> Result<String, Error> {
        let Some(Token::Word(word)) = self.tokens.get(self.at) else {
            return Err(unsupported("no name where one belongs"));
        };
        self.at += 1;
        Ok(word.clone())
    }

    fn expression(&mut self) -> Result<Node, Error> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(unsupported("it nests too deep"));
        }
        let condition = self.binary(0)?;
        let node = if self.takes("?") {
            let yes = self.expression()?;
            self.needs(":")?;
            let no = self.expression()?;
            Node::Choice(Box::new(condition), Box::new(yes), Box::new(no))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(node)
    }

    fn operator(&self) -> Option<(Operator, u8)> {
        Some(match self.tokens.get(self.at)? {
            Token::Sign("||") => (Operator::Or, 1),
            Token::Sign("&&") => (Operator::And, 2),
            Token::Sign("==") => (Operator::Equal, 3),
            Token::Sign("!=") => (Operator::Differs, 3),
            Token::Sign("<=") => (Operator::LessOrEqual, 3),
            Token::Sign(">=") => (Operator::MoreOrEqual, 3),
            Token::Sign("<") => (Operator::Less, 3),
            Token::Sign(">") => (Operator::More, 3),
            Token::Word(word) if word == "in" => (Operator::In, 3),
            Token::Sign("+") => (Operator::Plus, 4),
            Token::Sign("-") => (Operator::Minus, 4),
            Token::Sign("*") => (Operator::Times, 5),
            Token::Sign("/") => (Operator::Divided, 5),
            Token::Sign("%") => (Operator::Modulo, 5),
            _ => return None,
        })
    }

    fn binary(&mut self, least: u8) -> Result<Node, Error> {
        let mut left = self.unary()?;
        while let Some((operator, rank)) = self.operator().filter(|(_, rank)| *rank > least) {
            self.at += 1;
            let right = self.binary(rank)?;
            left = Node::Binary(operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, Error> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(unsupported("it nests too deep"));
        }
        let node = if self.takes("!") {
            Node::Not(Box::new(self.unary()?))
        } else if self.takes("-") {
            Node::Negative(Box::new(self.unary()?))
        } else {
            self.member()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn member(&mut self) -> Result<Node, Error> {
        let mut node = self.primary()?;
        loop {
            if self.takes(".") {
                let name = self.word()?;
                node = if self.takes("(") {
                    self.method(node, name)?
                } else {
                    Node::Field(Box::new(node), field(&name))
                };
            } else if self.takes("[") {
                let index = self.expression()?;
                self.needs("]")?;
                node = Node::Index(Box::new(node), Box::new(index));
            } else {
                return Ok(node);
            }
        }
    }

    fn method(&mut self, on: Node, name: String) -> Result<Node, Error> {
        let how = match name.as_str() {
            "all" => Each::All,
            "exists" => Each::Exists,
            "exists_one" | "existsOne" => Each::ExistsOne,
            "filter" => Each::Filter,
            "map" => Each::Map,
            "size" | "startsWith" | "endsWith" | "contains" | "matches" => {
                let arguments = self.arguments(")")?;
                return Ok(Node::Call(Some(Box::new(on)), name, arguments));
            }
            _ => return Err(unsupported(format!("the function {name}"))),
        };
        let name = self.word()?;
        self.needs(",")?;
        let test = Box::new(self.expression()?);
        let then = if self.takes(",") { Some(Box::new(self.expression()?)) } else { None };
        self.needs(")")?;
        if then.is_some() && how != Each::Map {
            return Err(unsupported("a macro over keys and values"));
        }
        Ok(Node::Each { over: Box::new(on), how, name, test, then })
    }

    fn arguments(&mut self, end: &'static str) -> Result<Vec<Node>, Error> {
        let mut arguments = Vec::new();
        while !self.takes(end) {
            if !arguments.is_empty() {
                self.needs(",")?;
            }
            arguments.push(self.expression()?);
        }
        Ok(arguments)
    }

    fn primary(&mut self) -> Result<Node, Error> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        Ok(match token {
            Some(Token::Number(value)) => Node::Literal(value),
            Some(Token::Text(text)) => Node::Literal(Value::String(text)),
            Some(Token::Sign("(")) => {
                let node = self.expression()?;
                self.needs(")")?;
                node
            }
            Some(Token::Sign("[")) => Node::List(self.arguments("]")?),
            Some(Token::Sign("{")) => {
                let mut entries = Vec::new();
                while !self.takes("}") {
                    if !entries.is_empty() {
                        self.needs(",")?;
                    }
                    let key = self.expression()?;
                    self.needs(":")?;
                    entries.push((key, self.expression()?));
                }
                Node::Map(entries)
            }
            Some(Token::Word(word)) => match word.as_str() {
                "true" => Node::Literal(Value::Bool(true)),
                "false" => Node::Literal(Value::Bool(false)),
                "null" => Node::Literal(Value::Null),
                "has" => {
                    self.needs("(")?;
                    let argument = self.expression()?;
                    self.needs(")")?;
                    let Node::Field(of, name) = argument else {
                        return Err(unsupported("`has` of something that is no field"));
                    };
                    Node::Has(of, name)
                }
                "size" | "duration" if self.takes("(") => {
                    Node::Call(None, word, self.arguments(")")?)
                }
                _ if self.tokens.get(self.at) == Some(&Token::Sign("(")) => {
                    return Err(unsupported(format!("the function {word}")));
                }
                _ => Node::Variable(word),
            },
            _ => return Err(unsupported("an expression that ends too early")),
        })
    }
}

/// Words that CEL or Kubernetes reserve: none of them selects a field as it is.
pub const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Names that CEL or Kubernetes reserve are written with underscores around them.
/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#escaping>
fn field(name: &str) -> String {
    let inner = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"));
    match inner {
        Some(reserved) if RESERVED.contains(&reserved) => reserved.to_owned(),
        _ => name
            .replace("__dot__", ".")
            .replace("__dash__", "-")
            .replace("__slash__", "/")
            .replace("__underscores__", "__"),
    }
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
        let node = parser.expression()?;
        if parser.at < parser.tokens.len() {
            return Err(unsupported("something after its end"));
        }
        Ok(Self(node))
    }

    /// Whether it compares with what was before (`oldSelf`).
    pub fn names(&self, variable: &str) -> bool {
        names(&self.0, variable)
    }

    /// Whether it is true of these variables.
    ///
    /// # Errors
    /// [`Error::Evaluation`] where CEL has no value for it, or one that is no truth value.
    pub fn holds(&self, variables: &BTreeMap<String, Value>) -> Result<bool, Error> {
        truth(&evaluate(&self.0, variables)?)
    }
}

fn names(node: &Node, variable: &str) -> bool {
    let any = |nodes: &[Node]| nodes.iter().any(|node| names(node, variable));
    match node {
        Node::Literal(_) => false,
        Node::Variable(name) => name == variable,
        Node::List(nodes) => any(nodes),
        Node::Map(entries) => {
            entries.iter().any(|(key, value)| names(key, variable) || names(value, variable))
        }
        Node::Not(of) | Node::Negative(of) | Node::Field(of, _) | Node::Has(of, _) => {
            names(of, variable)
        }
        Node::Binary(_, left, right) | Node::Index(left, right) => {
            names(left, variable) || names(right, variable)
        }
        Node::Choice(one, two, three) => [one, two, three].iter().any(|node| names(node, variable)),
        Node::Call(on, _, arguments) => {
            on.as_ref().is_some_and(|on| names(on, variable)) || any(arguments)
        }
        Node::Each { over, test, then, .. } => {
            names(over, variable)
                || names(test, variable)
                || then.as_ref().is_some_and(|then| names(then, variable))
        }
    }
}

// === Evaluating ===

fn wrong(what: impl Into<String>) -> Error {
    Error::Evaluation(what.into())
}

fn truth(value: &Value) -> Result<bool, Error> {
    value.as_bool().ok_or_else(|| wrong("no truth value where one belongs"))
}

fn evaluate(node: &Node, variables: &BTreeMap<String, Value>) -> Result<Value, Error> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(text: &str, own: Value) -> Result<bool, Error> {
        let variables = BTreeMap::from([("self".to_owned(), own)]);
        Expression::parse(text)?.holds(&variables)
    }

    #[test]
    fn expressions_have_the_values_that_the_language_gives_them() {
        let own = json!({
            "name": "web", "list": ["a", "b"], "count": 3, "empty": {}, "namespace": "admin",
            "items": [{"n": 1}, {"n": 2}],
        });
        for (text, expected) in [
            ("self.name == 'web' && self.count >= 3", true),
            ("1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 7 % 4 == 3 && 7 / 2 == 3", true),
            ("!has(self.absent) || self.absent == 'x'", true),
            ("has(self.absent) && self.absent == 'x'", false),
            ("has(self.empty) != has(self.absent)", true),
            ("[has(self.absent), has(self.name)].filter(given, given).size() <= 1", true),
            ("'a' in self.list && !('c' in self.list) && 'name' in self", true),
            ("self.list.all(x, x.size() == 1) && self.list.exists(x, x == 'b')", true),
            ("self.list.exists_one(x, x == 'b') && self.items.map(i, i.n) == [1, 2]", true),
            ("self.items.map(i, i.n > 1, i.n)[0] == 2", true),
            (
                "self.name.startsWith('w') && self.name.endsWith('b') && self.name.contains('e')",
                true,
            ),
            ("self.name.matches('^[a-z]+$') && size(self.list) == 2", true),
            ("self.count > 2 ? self.name != '' : false", true),
            ("self.__namespace__ == \"admin\"", true),
            ("-1 < 0 && 1 == 1.0 && !(2 > 3)", true),
            ("self.list[1] == 'b' && {'a': 1}['a'] == 1", true),
            ("duration('90m') == duration('1h30m') && duration('59m') < duration('1h')", true),
            ("self.list == ['b', 'a']", false),
            ("'it\\'s' == \"it's\"", true),
        ] {
            assert_eq!(holds(text, own.clone()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_side_that_decides_wins_over_an_error_of_the_other() {
        let own = json!({"a": 1});
        assert_eq!(holds("self.b == 1 || self.a == 1", own.clone()), Ok(true));
        assert_eq!(holds("self.b == 1 && self.a == 2", own.clone()), Ok(false));
        assert!(matches!(
            holds("self.b == 1 || self.a == 2", own.clone()),
            Err(Error::Evaluation(_))
        ));
        assert!(matches!(holds("self.a", own), Err(Error::Evaluation(_))));
    }

    #[test]
    fn what_is_not_known_is_said_and_not_guessed() {
        for text in [
            "isURL(self.x)",
            "self.x.lowerAscii() == 'a'",
            "quantity(self.x) < 1",
            "self.",
            "(",
            "a b",
            "self.x == r'\\d'",
            "self.x == 'a",
            "self ?. x",
            "has(self)",
        ] {
            assert!(matches!(Expression::parse(text), Err(Error::Unsupported(_))), "{text}");
        }
    }

    #[test]
    fn a_rule_about_changes_is_known_by_its_variable() {
        assert!(Expression::parse("self.a == oldSelf.a").unwrap().names("oldSelf"));
        assert!(!Expression::parse("self.oldSelf == 'oldSelf'").unwrap().names("oldSelf"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[a-z0-9 ().,!&|=<>?:'\"\\[\\]{}+*/%-]{0,200}") {
            if let Ok(expression) = Expression::parse(&text) {
                let _ = expression.holds(&BTreeMap::new());
            }
        }

        #[test]
        fn depth_is_bounded(depth in 1_usize..5000, open in prop::sample::select(vec!["(", "!", "[", "-"])) {
            let _ = Expression::parse(&open.repeat(depth));
        }
    }
}

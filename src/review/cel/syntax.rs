//! From the text of an expression to its tree.

use serde_json::{Value, json};

use super::{Each, Error, Node, Operator};

/// How deep expressions may nest.
const DEPTH: usize = 64;

/// Reads an expression.
///
/// # Errors
/// [`Error::Unsupported`].
pub(super) fn parse(text: &str) -> Result<Node, Error> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let node = parser.expression()?;
    if parser.at < parser.tokens.len() {
        return Err(unsupported("something after its end"));
    }
    Ok(node)
}

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

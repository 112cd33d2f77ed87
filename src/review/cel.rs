//! The part of CEL (Common Expression Language) in which the rules of CRDs are written, so that a
//! manifest is judged by the very rules that the API server will apply, without one.
//!
//! It has the operators, `has`, the macros over lists and maps, and the functions on strings and sizes.
//! What it does not have is an error of [`Expression::parse`], so that a rule is either applied or named
//! as one that was not.
//!
//! Language: <https://github.com/google/cel-spec/blob/master/doc/langdef.md>.

mod syntax;
mod value;

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::syntax::RESERVED;
use self::value::{evaluate, truth};

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

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        syntax::parse(text).map(Self)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

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

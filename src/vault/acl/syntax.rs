//! Reads the text of a policy, HCL 1 or JSON, as keys with values; what they mean is not known here.
//!
//! Vault reads more than this does: texts with stray bytes behind a JSON object, an `=` at the very end,
//! identifiers of other alphabets. All that is refused here, because a text that is not understood makes
//! a verdict unknown, while a text that is understood in another way than Vault does makes it wrong.
//!
//! The language: <https://github.com/hashicorp/hcl/tree/hcl1>.

use std::{fmt, rc::Rc};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::ParseError;

/// Blocks and lists within each other.
const MAX_DEPTH: usize = 64;
/// Of the keys of an item: no more are ever looked at.
const MAX_KEYS: usize = 3;

/// `key = value`, or `key "label" { … }`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Item {
    /// Key and labels; of more than [`MAX_KEYS`] the first.
    pub(super) keys: Vec<Rc<str>>,
    pub(super) value: Value,
}

/// What stands behind a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Value {
    /// A string.
    Text(String),
    /// A number, as it is written.
    Number(String),
    /// A list.
    List(Vec<Value>),
    /// A block.
    Object(Vec<Item>),
    /// What no policy needs to be understood: a boolean, a heredoc, a fraction, null.
    Other,
}

/// What was read.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Document {
    /// The keys of the top level.
    pub(super) items: Vec<Item>,
    /// Whether a block sets a key twice by `=`. Vault refuses such HCL since 1.21; older ones, and
    /// OpenBao, take both.
    pub(super) repeats: bool,
}

/// Reads a text.
pub(super) fn read(text: &str) -> Result<Document, ParseError> {
    if text.trim_start().starts_with('{') {
        return Ok(Document { items: json(text)?, repeats: false });
    }
    let text = text.replace("\r\n", "\n");
    let mut reader = Reader { text: &text, at: 0, next: None, repeats: false };
    let items = reader.items(false, 0)?;
    Ok(Document { items, repeats: reader.repeats })
}

// === HCL ===

#[derive(Clone, Debug, Eq, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number(String),
    Other,
    OpenList,
    CloseList,
    OpenBlock,
    CloseBlock,
    Comma,
    Assign,
    End,
}

struct Reader<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
    /// A token that was looked at.
    next: Option<Token>,
    repeats: bool,
}

impl Reader<'_> {
    fn error(&self, what: &'static str) -> ParseError {
        let line = self.text[..self.at].bytes().filter(|byte| *byte == b'\n').count() + 1;
        ParseError::Syntax { line, what }
    }

    fn take(&mut self) -> Result<Token, ParseError> {
        match self.next.take() {
            Some(token) => Ok(token),
            None => self.scan(),
        }
    }

    fn peek(&mut self) -> Result<&Token, ParseError> {
        let token = self.take()?;
        Ok(self.next.insert(token))
    }

    /// The items of the top level, or of a block up to its closing brace.
    fn items(&mut self, is_block: bool, depth: usize) -> Result<Vec<Item>, ParseError> {
        if depth > MAX_DEPTH {
            return Err(self.error("blocks are nested too deep"));
        }
        let mut items = Vec::new();
        let mut assigned = std::collections::HashSet::new();
        loop {
            match (self.peek()?, is_block) {
                (Token::CloseBlock, true) | (Token::End, false) => {
                    self.take()?;
                    return Ok(items);
                }
                _ => {}
            }
            let mut keys: Vec<Rc<str>> = Vec::new();
            let mut raw_key = None;
            let value = loop {
                match self.take()? {
                    Token::Name(name) => {
                        raw_key.get_or_insert((false, name.clone()));
                        keys.push(name.into());
                    }
                    Token::Text(text) => {
                        raw_key.get_or_insert((true, text.clone()));
                        keys.push(text.into());
                    }
                    Token::Assign if keys.len() == 1 => {
                        self.repeats |= raw_key.is_some_and(|key| !assigned.insert(key));
                        break self.value(depth)?;
                    }
                    Token::OpenBlock if !keys.is_empty() => {
                        break Value::Object(self.items(true, depth + 1)?);
                    }
                    _ => return Err(self.error("expected a key, then `=` or `{`")),
                }
            };
            keys.truncate(MAX_KEYS);
            items.push(Item { keys, value });
            if *self.peek()? == Token::Comma {
                self.take()?;
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, ParseError> {
        match self.take()? {
            Token::Text(text) => Ok(Value::Text(text)),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Other => Ok(Value::Other),
            Token::OpenBlock => Ok(Value::Object(self.items(true, depth + 1)?)),
            Token::OpenList => self.list(depth + 1),
            _ => Err(self.error("expected a value")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, ParseError> {
        if depth > MAX_DEPTH {
            return Err(self.error("lists are nested too deep"));
        }
        let mut list = Vec::new();
        loop {
            if *self.peek()? == Token::CloseList {
                self.take()?;
                return Ok(Value::List(list));
            }
            list.push(self.value(depth)?);
            match self.take()? {
                Token::Comma => {}
                Token::CloseList => return Ok(Value::List(list)),
                _ => return Err(self.error("expected `,` or `]`")),
            }
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn scan(&mut self) -> Result<Token, ParseError> {
        self.skip_space()?;
        let Some(&first) = self.rest().as_bytes().first() else { return Ok(Token::End) };
        let single = match first {
            b'[' => Some(Token::OpenList),
            b']' => Some(Token::CloseList),
            b'{' => Some(Token::OpenBlock),
            b'}' => Some(Token::CloseBlock),
            b',' => Some(Token::Comma),
            b'=' => Some(Token::Assign),
            _ => None,
        };
        if let Some(token) = single {
            self.at += 1;
            return Ok(token);
        }
        match first {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.name(),
            b'0'..=b'9' | b'-' => self.number(),
            b'"' => self.string(),
            b'<' => self.heredoc(),
            _ => Err(self.error("a character that is not expected here")),
        }
    }

    /// White space and comments.
    fn skip_space(&mut self) -> Result<(), ParseError> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
            let space = rest.len() - trimmed.len();
            let comment = if trimmed.starts_with('#') || trimmed.starts_with("//") {
                trimmed.find('\n').unwrap_or(trimmed.len())
            } else if let Some(comment) = trimmed.strip_prefix("/*") {
                let Some(end) = comment.find("*/") else {
                    return Err(self.error("a comment does not end"));
                };
                end + 4
            } else {
                0
            };
            if trimmed[..comment].contains(['\0', '\u{e123}']) {
                return Err(self.error("a character that HCL does not allow"));
            }
            self.at += space + comment;
            if comment == 0 {
                return Ok(());
            }
        }
    }

    fn name(&mut self) -> Result<Token, ParseError> {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
        let length = self.rest().bytes().take_while(is_part).count();
        let name = self.rest()[..length].to_owned();
        self.at += length;
        if !self.rest().is_ascii() && self.rest().starts_with(|next: char| !next.is_ascii()) {
            return Err(self.error("a name that is not plain ASCII"));
        }
        Ok(if matches!(name.as_str(), "true" | "false") { Token::Other } else { Token::Name(name) })
    }

    /// A plain decimal number; the stranger ones have no place in a policy.
    fn number(&mut self) -> Result<Token, ParseError> {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.+".contains(byte);
        let length = self.rest().bytes().take_while(is_part).count();
        let number = self.rest()[..length].to_owned();
        let digits = number.strip_prefix('-').unwrap_or(&number);
        let is_plain =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let token = match digits.split_once('.') {
            None if is_plain(digits) && (digits == "0" || !digits.starts_with('0')) => {
                Token::Number(number)
            }
            Some((whole, part)) if is_plain(whole) && is_plain(part) => Token::Other,
            _ => return Err(self.error("a number that is not plain")),
        };
        self.at += length;
        Ok(token)
    }

    /// A string. Within `${…}`, which is nothing to a policy, quotes and line breaks are text.
    fn string(&mut self) -> Result<Token, ParseError> {
        let begin = self.at + 1;
        let text = self.text;
        let mut characters = text[begin..].char_indices().peekable();
        let mut value: Vec<u8> = Vec::new();
        let mut braces = 0_usize;
        while let Some((offset, character)) = characters.next() {
            self.at = begin + offset;
            match character {
                '"' if braces == 0 => {
                    self.at += 1;
                    let value = String::from_utf8(value);
                    return value.map(Token::Text).map_err(|_| self.error("a string is not UTF-8"));
                }
                '\0' | '\u{e123}' => return Err(self.error("a character that HCL does not allow")),
                '\n' if braces == 0 => return Err(self.error("a string does not end in its line")),
                '\\' => {
                    let (bytes, length) = escape(&text[self.at..])
                        .ok_or_else(|| self.error("an escape that HCL does not know"))?;
                    if braces == 0 {
                        value.extend(bytes);
                    } else {
                        value.extend(&text.as_bytes()[self.at..self.at + length]);
                    }
                    // All of an escape is ASCII.
                    for _ in 1..length {
                        characters.next();
                    }
                    continue;
                }
                '$' if braces == 0 && characters.peek().is_some_and(|(_, next)| *next == '{') => {
                    characters.next();
                    value.extend(b"${");
                    braces = 1;
                    continue;
                }
                '{' if braces > 0 => braces += 1,
                '}' if braces > 0 => braces -= 1,
                _ => {}
            }
            value.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Err(self.error("a string does not end"))
    }

    /// `<<WORD`, lines, and a line with the word alone.
    fn heredoc(&mut self) -> Result<Token, ParseError> {
        let Some((head, body)) = self.rest().split_once('\n') else {
            return Err(self.error("a heredoc does not end"));
        };
        let Some(anchor) = head.strip_prefix("<<") else {
            return Err(self.error("a heredoc begins with `<<`"));
        };
        let word = anchor.strip_prefix('-').unwrap_or(anchor);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if word.is_empty() || !word.bytes().all(is_word) {
            return Err(self.error("a heredoc is named by a plain word"));
        }
        let mut end = head.len() + 1;
        for line in body.split_inclusive('\n') {
            end += line.len();
            let Some(line) = line.strip_suffix('\n') else { break };
            if line.contains(['\0', '\u{e123}']) {
                return Err(self.error("a character that HCL does not allow"));
            }
            let trimmed = line.trim_start_matches([' ', '\t', '\u{b}', '\u{c}', '\r']);
            // Vault compares lengths with the dash of `<<-WORD` counted.
            if line.len() >= anchor.len() && trimmed.trim_end_matches('\r') == word {
                self.at += end;
                return Ok(Token::Other);
            }
        }
        Err(self.error("a heredoc does not end"))
    }
}

/// The bytes of an escape, and its length; `text` begins with the backslash.
fn escape(text: &str) -> Option<(Vec<u8>, usize)> {
    let kind = *text.as_bytes().get(1)?;
    let digits = |from: usize, count: usize, radix: u32| {
        let digits = text.get(from..from + count)?;
        let plain = digits.chars().all(|digit| digit.is_digit(radix));
        u32::from_str_radix(digits, radix).ok().filter(|_| plain)
    };
    let character = |from: usize, count: usize| {
        let character = char::from_u32(digits(from, count, 16)?)?;
        Some((character.to_string().into_bytes(), from + count))
    };
    let byte = |value: Option<u32>, length: usize| Some((vec![u8::try_from(value?).ok()?], length));
    match kind {
        b'a' => byte(Some(7), 2),
        b'b' => byte(Some(8), 2),
        b'f' => byte(Some(12), 2),
        b'n' => byte(Some(10), 2),
        b'r' => byte(Some(13), 2),
        b't' => byte(Some(9), 2),
        b'v' => byte(Some(11), 2),
        b'\\' | b'"' => byte(Some(kind.into()), 2),
        b'0'..=b'7' => byte(digits(1, 3, 8), 4),
        b'x' => byte(digits(2, 2, 16), 4),
        b'u' => character(2, 4),
        b'U' => character(2, 8),
        _ => None,
    }
}

// === JSON ===

/// Reads JSON as Vault does: as items, in which objects of nothing but objects become labels.
fn json(text: &str) -> Result<Vec<Item>, ParseError> {
    let read = serde_json::from_str::<Value>(text).map_err(|error| ParseError::Syntax {
        line: error.line(),
        what: "JSON that is not plain, or nested too deep",
    })?;
    match read {
        Value::Object(items) => Ok(flatten(items)),
        _ => Err(ParseError::Syntax { line: 1, what: "JSON has to be an object" }),
    }
}

/// Turns `"a": {"b": {…}, "c": {…}}` into `a b {…}` and `a c {…}`, and lists of objects into as many
/// items.
fn flatten(items: Vec<Item>) -> Vec<Item> {
    let is_object = |value: &Value| matches!(value, Value::Object(_));
    let mut flat = Vec::new();
    let mut open: Vec<Item> = items.into_iter().rev().collect();
    while let Some(Item { keys, value }) = open.pop() {
        match value {
            Value::Object(inner)
                if !inner.is_empty() && inner.iter().all(|item| is_object(&item.value)) =>
            {
                open.extend(inner.into_iter().rev().map(|item| {
                    let keys = keys.iter().chain(&item.keys).take(MAX_KEYS).cloned().collect();
                    Item { keys, value: item.value }
                }));
            }
            Value::List(inner) if !inner.is_empty() && inner.iter().all(is_object) => {
                open.extend(
                    inner.into_iter().rev().map(|value| Item { keys: keys.clone(), value }),
                );
            }
            Value::Object(inner) => {
                flat.push(Item { keys, value: Value::Object(flatten(inner)) });
            }
            value => flat.push(Item { keys, value }),
        }
    }
    flat
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

/// Keeps keys that are there twice: to Vault both count.
struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element::<Value>()? {
            match element {
                // Vault loses its way in a list within a list.
                Value::List(_) => return Err(A::Error::custom("a list within a list")),
                // Vault leaves out booleans.
                Value::Other => {}
                element => list.push(element),
            }
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Value>()? {
            items.push(Item { keys: vec![key.into()], value });
        }
        Ok(Value::Object(items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(item: &Item) -> Vec<&str> {
        item.keys.iter().map(|key| &**key).collect()
    }

    fn one(text: &str) -> Item {
        let mut items = read(text).unwrap().items;
        assert_eq!(items.len(), 1, "{text}");
        items.remove(0)
    }

    #[test]
    fn blocks_lists_and_comments_are_read() {
        let text = "# one\n// two\n/* three\n */ path \"a\" { # four\n  capabilities = [ /* five */ \
                    \"read\", \"list\",\n  ] // six\n}";
        let item = one(text);
        assert_eq!(keys(&item), ["path", "a"]);
        let Value::Object(body) = item.value else { panic!("{:?}", item.value) };
        assert_eq!(keys(&body[0]), ["capabilities"]);
        let words = [Value::Text("read".into()), Value::Text("list".into())];
        assert_eq!(body[0].value, Value::List(words.into()));
    }

    #[test]
    fn escapes_are_those_of_hcl() {
        let value = |text: &str| match read(&format!("a = \"{text}\"")).map(|read| read.items) {
            Ok(items) => match &items[0].value {
                Value::Text(text) => Some(text.clone()),
                other => panic!("{other:?}"),
            },
            Err(_) => None,
        };
        assert_eq!(value(r#"\"\\\n\t\x41\101\u00e9\U0001F600"#).unwrap(), "\"\\\n\tAAé😀");
        assert_eq!(value(r"\xc3\xa9").unwrap(), "é");
        assert_eq!(value(r"\xff"), None);
        assert_eq!(value(r"\ud800"), None);
        assert_eq!(value(r"\q"), None);
        assert_eq!(value(r"\12"), None);
        assert_eq!(value("${ \"quoted\" \n }").unwrap(), "${ \"quoted\" \n }");
        assert_eq!(value(r#"${\"x\"}\""#).unwrap(), r#"${\"x\"}""#);
        assert_eq!(value(r"\u0024{").unwrap(), "${");
        assert_eq!(value("${"), None);
        assert_eq!(value("a\nb"), None);
    }

    #[test]
    fn heredocs_are_passed_over() {
        assert_eq!(one("a = <<EOF\n path \"x\" {}\n  EOF\n").value, Value::Other);
        assert_eq!(one("a = <<-EOF\nEOF\n x\n EOF\n").value, Value::Other);
        assert!(read("a = <<EOF\nEOF").is_err());
        assert!(read("a = <<-EOF\nEOF\n").is_err());
        assert!(read("a = <EOF\nEOF\n").is_err());
    }

    #[test]
    fn a_key_set_twice_is_noticed() {
        assert!(read("p \"x\" { a = 1\n a = 2 }").unwrap().repeats);
        assert!(!read("p \"x\" { a = 1 }\n p \"x\" { a = 2 }").unwrap().repeats);
        assert!(!read("p \"x\" { a {}\n a {} }").unwrap().repeats);
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for text in [
            "path \"a\" {",
            "path \"a\" }",
            "path \"a\" = {}",
            "path",
            "= 1",
            "a = ",
            "a = [1 2]",
            "a = 0x10",
            "a = 012",
            "a = 60s",
            "a + 1",
            "a.b + 1",
            "é = 1",
            "aé = 1",
            "a = \"\0\"",
            "# \0",
            "/* x",
            "/ x",
            ",",
            "{\"a\": 1} x",
            "{\"a\": [[1]]}",
            "[1]",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let error = read("a = 1\n\n b = ?").unwrap_err();
        assert!(matches!(error, ParseError::Syntax { line: 3, .. }), "{error:?}");
    }

    #[test]
    fn depth_is_bounded() {
        for text in ["a = [".repeat(10_000), "a {".repeat(10_000), "{\"a\":".repeat(10_000)] {
            assert!(read(&text).is_err());
        }
        assert!(read(&format!("a = {}", "[".repeat(100_000))).is_err());
    }

    #[test]
    fn json_objects_of_objects_become_labels() {
        let items =
            read(r#"{"path": {"a": {"x": ["1"]}, "b": {"x": ["2"]}}, "path": {"c": {}}}"#).unwrap();
        let found: Vec<Vec<&str>> = items.items.iter().map(keys).collect();
        assert_eq!(found, [["path", "a"], ["path", "b"], ["path", "c"]]);
    }

    #[test]
    fn a_json_list_of_objects_is_as_many_items() {
        let items = read(r#"{"path": [{"a": {"x": 1}}, {"b": {"x": 2}}]}"#).unwrap();
        let found: Vec<Vec<&str>> = items.items.iter().map(keys).collect();
        assert_eq!(found, [["path", "a"], ["path", "b"]]);
    }

    #[test]
    fn a_json_object_with_anything_else_stays_whole() {
        let item = one(r#"{"path": {"a": {"x": 1}, "capabilities": ["read"]}}"#);
        assert_eq!(keys(&item), ["path"]);
    }

    #[test]
    fn labels_without_end_cost_nothing() {
        let leaves = vec!["\"a\":{}"; 20_000].join(",");
        let key = "k".repeat(9_000);
        let text = format!("{}{{{leaves}}}{}", format!("{{\"{key}\":").repeat(60), "}".repeat(60));
        assert!(read(&text).unwrap().items.iter().all(|item| item.keys.len() <= MAX_KEYS));
    }
}

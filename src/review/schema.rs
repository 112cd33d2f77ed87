//! A manifest against the schema of its kind, as the API server would judge it: unknown fields, types,
//! bounds, patterns, defaults, and then the CEL rules. Pure.
//!
//! The schema is the one that `vault-aws crd` prints. Defaults are filled in first, as the API server
//! does it, so that what comes out is what it would store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps as Schema, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use regex::Regex;
use serde_json::Value;

use super::cel::{self, Expression};
use crate::crd;

/// The most faults of one manifest that are told.
const MAX_FAULTS: usize = 32;

/// One thing that the API server would refuse.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Path of the field, such as `spec.tenancy[0].accounts`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// The schemas of our kinds.
pub struct Schemas(BTreeMap<String, Schema>);

impl Schemas {
    /// Those that `vault-aws crd` prints.
    pub fn of_crds() -> Self {
        let schemas = crd::all().into_iter().filter_map(|crd| {
            let version =
                crd.spec.versions.into_iter().find(|version| version.name == crd::VERSION)?;
            Some((crd.spec.names.kind, version.schema?.open_api_v3_schema?))
        });
        Self(schemas.collect())
    }

    /// Whether there is such a kind.
    pub fn knows(&self, kind: &str) -> bool {
        self.0.contains_key(kind)
    }

    /// Fills the defaults in and judges the object; none if it is as it should be. `before` is the
    /// object that it would replace, for the rules about changes.
    pub fn judge(&self, kind: &str, object: &mut Value, before: Option<&Value>) -> Vec<Fault> {
        let Some(schema) = self.0.get(kind) else { return Vec::new() };
        fill(schema, object);
        let mut judge = Judge::default();
        judge.value(schema, object, "", true);
        // As the API server: rules need not expect what the rest of the schema forbids.
        if judge.faults.is_empty() {
            judge.rules(schema, object, before, "");
        }
        judge.faults
    }

    /// The rules that are in the schemas and cannot be applied here, as they are written.
    pub fn rules_not_understood(&self) -> Vec<String> {
        let mut found = Vec::new();
        for schema in self.0.values() {
            each_rule(schema, &mut |rule| {
                if Expression::parse(&rule.rule).is_err() {
                    found.push(rule.rule.clone());
                }
            });
        }
        found
    }
}

fn each_rule(schema: &Schema, visit: &mut impl FnMut(&ValidationRule)) {
    schema.x_kubernetes_validations.iter().flatten().for_each(&mut *visit);
    for inner in schema.properties.iter().flatten().map(|(_, inner)| inner) {
        each_rule(inner, visit);
    }
    if let Some(items) = items(schema) {
        each_rule(items, visit);
    }
    if let Some(values) = values(schema) {
        each_rule(values, visit);
    }
}

fn items(schema: &Schema) -> Option<&Schema> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(items) => Some(items),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn values(schema: &Schema) -> Option<&Schema> {
    match schema.additional_properties.as_ref()? {
        JSONSchemaPropsOrBool::Schema(values) => Some(values),
        JSONSchemaPropsOrBool::Bool(_) => None,
    }
}

/// Defaults, from the outside in; `null` where it is not allowed counts as absent.
fn fill(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in schema.properties.iter().flatten() {
                let is_absent = match fields.get(name) {
                    None => true,
                    Some(Value::Null) => inner.nullable != Some(true),
                    Some(_) => false,
                };
                if is_absent {
                    fields.remove(name);
                    if let Some(default) = &inner.default {
                        fields.insert(name.clone(), default.0.clone());
                    }
                }
                if let Some(field) = fields.get_mut(name) {
                    fill(inner, field);
                }
            }
            if let Some(inner) = values(schema) {
                fields.values_mut().for_each(|field| fill(inner, field));
            }
        }
        Value::Array(list) => {
            if let Some(inner) = items(schema) {
                list.iter_mut().for_each(|item| fill(inner, item));
            }
        }
        _ => {}
    }
}

#[derive(Default)]
struct Judge {
    faults: Vec<Fault>,
    patterns: BTreeMap<String, Option<Regex>>,
}

impl Judge {
    fn fault(&mut self, field: &str, message: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            let field = if field.is_empty() { "(the whole)" } else { field };
            self.faults.push(Fault { field: field.to_owned(), message: message.into() });
        }
    }

    fn value(&mut self, schema: &Schema, value: &Value, path: &str, is_root: bool) {
        if value.is_null() && schema.nullable == Some(true) {
            return;
        }
        let expected = schema.type_.as_deref();
        if let Some(expected) = expected
            && !is_of(value, expected)
            && schema.x_kubernetes_int_or_string != Some(true)
        {
            let hint = match (expected, value) {
                ("string", Value::Number(_) | Value::Bool(_)) => ": put it in quotes",
                _ => "",
            };
            return self.fault(
                path,
                format!("must be {}, is {}{hint}", name_of(expected), kind_of(value)),
            );
        }
        if let Some(allowed) = &schema.enum_
            && !allowed.iter().any(|one| one.0 == *value)
        {
            let words: Vec<String> = allowed.iter().map(|one| one.0.to_string()).collect();
            self.fault(path, format!("is {value}, must be one of {}", words.join(", ")));
        }
        match value {
            Value::String(text) => self.text(schema, text, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Array(list) => self.list(schema, list, path),
            Value::Object(fields) => {
                self.count(
                    schema.min_properties,
                    schema.max_properties,
                    fields.len(),
                    "entries",
                    path,
                );
                for name in schema.required.iter().flatten() {
                    if !fields.contains_key(name) {
                        self.fault(&below(path, name), "is required");
                    }
                }
                for (name, field) in fields {
                    let inner = schema.properties.as_ref().and_then(|all| all.get(name));
                    let place = below(path, name);
                    match inner.or_else(|| values(schema)) {
                        // It has a schema of its own, and was judged by it.
                        _ if is_root
                            && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") => {}
                        Some(inner) => self.value(inner, field, &place, false),
                        None if schema.x_kubernetes_preserve_unknown_fields == Some(true)
                            || matches!(
                                schema.additional_properties,
                                Some(JSONSchemaPropsOrBool::Bool(true))
                            ) => {}
                        None => {
                            let known = schema.properties.iter().flatten().map(|(name, _)| name);
                            self.fault(&place, unknown(name, known));
                        }
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&mut self, schema: &Schema, text: &str, path: &str) {
        self.count(schema.min_length, schema.max_length, text.chars().count(), "characters", path);
        let Some(pattern) = &schema.pattern else { return };
        let compiled =
            self.patterns.entry(pattern.clone()).or_insert_with(|| Regex::new(pattern).ok());
        if !compiled.as_ref().is_some_and(|compiled| compiled.is_match(text)) {
            let short: String = text.chars().take(64).collect();
            self.fault(path, format!("is {short:?}, must match {pattern}"));
        }
    }

    fn number(&mut self, schema: &Schema, value: &Value, path: &str) {
        let number = value.as_f64().unwrap_or_default();
        if let Some(least) = schema.minimum.filter(|least| number < *least) {
            self.fault(path, format!("is {value}, must be at least {least}"));
        }
        if let Some(most) = schema.maximum.filter(|most| number > *most) {
            self.fault(path, format!("is {value}, must be at most {most}"));
        }
    }

    fn list(&mut self, schema: &Schema, list: &[Value], path: &str) {
        self.count(schema.min_items, schema.max_items, list.len(), "items", path);
        let keys: Vec<String> = match schema.x_kubernetes_list_type.as_deref() {
            Some("set") => list.iter().map(Value::to_string).collect(),
            Some("map") => list.iter().map(|item| key_of(schema, item)).collect(),
            _ => Vec::new(),
        };
        let mut seen = BTreeSet::new();
        for (index, key) in keys.iter().enumerate() {
            if !seen.insert(key) {
                let short: String = key.chars().take(64).collect();
                self.fault(&format!("{path}[{index}]"), format!("is there twice: {short}"));
            }
        }
        if let Some(inner) = items(schema) {
            for (index, item) in list.iter().enumerate() {
                self.value(inner, item, &format!("{path}[{index}]"), false);
            }
        }
    }

    fn count(&mut self, least: Option<i64>, most: Option<i64>, count: usize, of: &str, path: &str) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut say = |word: &str, bound: &dyn Display| {
            self.fault(path, format!("has {count} {of}, must have at {word} {bound}"));
        };
        if let Some(least) = least.filter(|least| count < *least) {
            say("least", &least);
        }
        if let Some(most) = most.filter(|most| count > *most) {
            say("most", &most);
        }
    }

    fn rules(&mut self, schema: &Schema, value: &Value, before: Option<&Value>, path: &str) {
        for rule in schema.x_kubernetes_validations.iter().flatten() {
            self.rule(rule, value, before, path);
        }
        match value {
            Value::Object(fields) => {
                let before = before.and_then(Value::as_object);
                for (name, field) in fields {
                    let inner = schema.properties.as_ref().and_then(|all| all.get(name));
                    if let Some(inner) = inner.or_else(|| values(schema)) {
                        let before = before.and_then(|before| before.get(name));
                        self.rules(inner, field, before, &below(path, name));
                    }
                }
            }
            Value::Array(list) => {
                let Some(inner) = items(schema) else { return };
                let is_map = schema.x_kubernetes_list_type.as_deref() == Some("map");
                let before = before.and_then(Value::as_array).filter(|_| is_map);
                for (index, item) in list.iter().enumerate() {
                    let key = key_of(schema, item);
                    let before = before
                        .and_then(|before| before.iter().find(|one| key_of(schema, one) == key));
                    self.rules(inner, item, before, &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, rule: &ValidationRule, value: &Value, before: Option<&Value>, path: &str) {
        let Ok(expression) = Expression::parse(&rule.rule) else { return };
        let mut variables = BTreeMap::from([("self".to_owned(), value.clone())]);
        if expression.names("oldSelf") {
            // About a change, and there is none.
            let Some(before) = before else { return };
            variables.insert("oldSelf".to_owned(), before.clone());
        }
        let message = rule.message.as_deref().unwrap_or(&rule.rule);
        match expression.holds(&variables) {
            Ok(true) => {}
            Ok(false) => self.fault(path, message),
            Err(cel::Error::Evaluation(why) | cel::Error::Unsupported(why)) => {
                self.fault(path, format!("{message} ({why})"));
            }
        }
    }
}

fn key_of(schema: &Schema, item: &Value) -> String {
    let keys = schema.x_kubernetes_list_map_keys.iter().flatten();
    let parts: Vec<String> =
        keys.map(|key| item.get(key).map(ToString::to_string).unwrap_or_default()).collect();
    parts.join(", ")
}

/// The field below a path. A name that is none of a field stands in quotes.
pub fn below(path: &str, name: &str) -> String {
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match (path, is_plain) {
        ("", true) => name.to_owned(),
        (_, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{name:?}]"),
    }
}

/// What to say of a field that does not exist.
pub fn unknown<'a>(name: &str, mut known: impl Iterator<Item = &'a String>) -> String {
    let bare = |name: &str| -> String {
        name.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>().to_ascii_lowercase()
    };
    match known.find(|other| bare(other) == bare(name)) {
        Some(other) => format!("there is no such field; did you mean {other}?"),
        None => "there is no such field".to_owned(),
    }
}

fn is_of(value: &Value, expected: &str) -> bool {
    match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64()
                || value.is_u64()
                || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        _ => true,
    }
}

fn name_of(kind: &str) -> &str {
    match kind {
        "object" => "an object",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(spec: Value) -> Value {
        json!({"apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultAwsRole",
            "metadata": {"name": "web", "namespace": "team-a"}, "spec": spec})
    }

    fn faults(kind: &str, mut object: Value) -> Vec<String> {
        let faults = Schemas::of_crds().judge(kind, &mut object, None);
        faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
    }

    fn role_faults(spec: Value) -> String {
        faults("VaultAwsRole", role(spec)).join("\n")
    }

    #[test]
    fn every_rule_of_the_crds_can_be_applied() {
        assert_eq!(Schemas::of_crds().rules_not_understood(), Vec::<String>::new());
    }

    #[test]
    fn what_is_right_gets_the_defaults_of_the_api_server() {
        let mut object = role(json!({"accountId": "123456789012", "iamRole": "web"}));
        assert_eq!(Schemas::of_crds().judge("VaultAwsRole", &mut object, None), []);
        assert_eq!(object["spec"]["backendRef"], json!({"name": "default"}));
        assert_eq!(object["spec"]["driftInterval"], "15m");
        let mut sync = json!({"apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultCertSync",
            "metadata": {"name": "web", "namespace": "team-a"}});
        assert_eq!(Schemas::of_crds().judge("VaultCertSync", &mut sync, None), []);
        assert_eq!(sync["spec"]["certificates"]["include"], json!(["*"]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        assert_eq!(
            role_faults(json!({"accountId": "123456789012", "iamrole": "web"})),
            "spec.iamRole: is required\n\
             spec.iamrole: there is no such field; did you mean iamRole?"
        );
        assert_eq!(
            role_faults(json!({"accountId": 123_456_789_012_u64, "iamRole": "web"})),
            "spec.accountId: must be a text, is a number: put it in quotes"
        );
        assert_eq!(
            role_faults(json!({"accountId": "12345678901", "iamRole": "web"})).lines().count(),
            2,
            "too short, and not of the pattern"
        );
        let found = role_faults(
            json!({"accountId": "123456789012", "iamRole": "web", "partition": "aws-xx"}),
        );
        assert!(found.starts_with("spec.partition: is \"aws-xx\", must be one of"), "{found}");
    }

    #[test]
    fn rules_are_applied_with_their_own_words() {
        assert_eq!(
            role_faults(json!({"accountId": "123456789012", "iamRole": ".."})),
            "spec: iamRole must not be . or .. : it names a directory in Vault"
        );
        let mut long = role(json!({"accountId": "123456789012", "iamRole": "web"}));
        long["metadata"]["name"] = json!("x".repeat(64));
        assert_eq!(
            faults("VaultAwsRole", long),
            ["(the whole): metadata.name must be at most 63 characters"]
        );
    }

    #[test]
    fn lists_have_bounds_and_no_item_twice() {
        let rule =
            json!({"name": "a", "namespaces": {"names": ["x"]}, "accounts": ["123456789012"]});
        let backend = |tenancy: Value| {
            let mut object = json!({"metadata": {"name": "default"}, "spec": {
                "vault": {"address": "https://v"},
                "operatorLogin": {"serviceAccount": {"role": "r"}},
                "tenancy": tenancy,
            }});
            Schemas::of_crds().judge("VaultAwsBackend", &mut object, None)
        };
        assert_eq!(backend(json!([rule])), []);
        let twice = backend(json!([rule, rule]));
        assert_eq!(twice[0].field, "spec.tenancy[1]");
        let many = vec![rule; 257];
        assert!(backend(json!(many)).iter().any(|fault| fault.message.contains("at most 256")));
        let neither =
            backend(json!([{"name": "a", "namespaces": {}, "accounts": ["123456789012"]}]));
        assert_eq!(neither[0].field, "spec.tenancy[0].namespaces");
        assert_eq!(neither[0].message, "give exactly one of names and selector");
    }

    #[test]
    fn a_change_is_judged_where_it_is_known_what_was_before() {
        let before = role(json!({"accountId": "123456789012", "iamRole": "web"}));
        let mut schemas = before.clone();
        let all = Schemas::of_crds();
        assert_eq!(all.judge("VaultAwsRole", &mut schemas, None), []);
        let mut after = role(json!({"accountId": "123456789012", "iamRole": "api"}));
        let found = all.judge("VaultAwsRole", &mut after, Some(&schemas));
        assert_eq!(found[0].message, "iamRole is immutable; create another VaultAwsRole");
    }

    #[test]
    fn a_null_counts_as_absent_where_it_is_not_allowed() {
        let found = role_faults(json!({"accountId": null, "iamRole": "web", "partition": null}));
        assert_eq!(found, "spec.accountId: is required");
    }
}

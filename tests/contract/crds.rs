//! The CRDs: the files are what the types say, and the schemas are documented and bounded.

use std::{env, fs};

use serde_json::Value;
use vault_aws_operator::{crd, review::cel::RESERVED};

use crate::{kustomized, list, path, text, yaml_files};

const HEADER: &str =
    "# Generated from src/crd by `BLESS=1 cargo test --test contract`; edits here are lost.\n";

#[test]
fn the_files_in_crds_are_what_the_types_say() {
    let bless = env::var_os("BLESS").is_some_and(|value| value == "1");
    let mut names = Vec::new();
    for crd in crd::all() {
        let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        let expected = format!("{HEADER}{}", serde_saphyr::to_string(&crd).unwrap());
        let file = path("crds").join(&name);
        if bless {
            fs::write(&file, &expected).unwrap();
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        if let Some(line) = first_difference(&found, &expected) {
            panic!(
                "crds/{name} differs from the types at line {line}; if the types are right, run \
                 `BLESS=1 cargo test --test contract` and commit the file"
            );
        }
        names.push(name);
    }
    names.sort();
    assert_eq!(yaml_files("crds"), names, "files in crds/");
    assert_eq!(kustomized("crds"), names, "crds/kustomization.yaml");
}

fn first_difference(found: &str, expected: &str) -> Option<usize> {
    if found == expected {
        return None;
    }
    let same = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
    Some(same + 1)
}

#[test]
fn every_field_is_described() {
    let mut bare = Vec::new();
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |at, node, field| {
            let described =
                node["description"].as_str().is_some_and(|text| !text.trim().is_empty());
            // `kubectl explain` describes metadata itself.
            if field && !described && at != format!("{kind}.metadata") {
                bare.push(at.to_owned());
            }
        });
    }
    assert!(bare.is_empty(), "without a description: {bare:#?}");
}

#[test]
fn everything_in_a_spec_is_bounded() {
    let mut open = Vec::new();
    for (kind, schema) in schemas() {
        let spec = &schema["properties"]["spec"];
        walk(&format!("{kind}.spec"), spec, &mut |at, node, _| {
            // Kubernetes' own type; no CEL rule looks inside it.
            if at.contains(".namespaces.selector") {
                return;
            }
            let has = |key: &str| !node[key].is_null();
            let bounded = match node["type"].as_str() {
                Some("string") => has("enum") || has("maxLength"),
                Some("array") => has("maxItems"),
                Some("object") => {
                    has("properties") && !has("additionalProperties") || has("maxProperties")
                        // Nothing can be set in it.
                        || !has("additionalProperties")
                            && !has("x-kubernetes-preserve-unknown-fields")
                }
                Some("integer" | "number" | "boolean") => true,
                _ => false,
            };
            if !bounded {
                open.push(at.to_owned());
            }
        });
    }
    assert!(open.is_empty(), "without a bound: {open:#?}");
}

/// CEL cannot select a field by one of its own words: `self.namespace` is `self.__namespace__`. The API
/// server says of such a rule only that its cost is too high.
#[test]
fn no_rule_selects_a_field_by_a_word_that_cel_reserves() {
    let mut wrong = Vec::new();
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |at, node, _| {
            for rule in list(node, "/x-kubernetes-validations") {
                let rule = text(rule, "/rule");
                let selected = rule.split('.').skip(1).map(|rest| {
                    rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap()
                });
                if selected.into_iter().any(|field| RESERVED.contains(&field)) {
                    wrong.push(format!("{at}: {rule}"));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "write such a field with two underscores round it: {wrong:#?}");
}

/// kubectl warns of the others at each `apply`.
#[test]
fn every_number_has_a_format_that_kubernetes_knows() {
    let mut unknown = Vec::new();
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |at, node, _| {
            let number = matches!(node["type"].as_str(), Some("integer" | "number"));
            let format = node["format"].as_str();
            if number && !matches!(format, None | Some("int32" | "int64" | "float" | "double")) {
                unknown.push(format!("{at}: {}", format.unwrap_or_default()));
            }
        });
    }
    assert!(unknown.is_empty(), "formats that Kubernetes does not know: {unknown:#?}");
}

/// Kind and schema of each version of each CRD.
fn schemas() -> Vec<(String, Value)> {
    crd::all()
        .into_iter()
        .flat_map(|crd| {
            let kind = crd.spec.names.kind;
            crd.spec.versions.into_iter().map(move |version| {
                let schema = version.schema.unwrap().open_api_v3_schema.unwrap();
                (kind.clone(), serde_json::to_value(schema).unwrap())
            })
        })
        .collect()
}

/// Visits each node with its path and whether it is a named field.
fn walk(at: &str, node: &Value, visit: &mut impl FnMut(&str, &Value, bool)) {
    visit(at, node, !at.ends_with(']'));
    if let Some(fields) = node["properties"].as_object() {
        for (name, field) in fields {
            walk(&format!("{at}.{name}"), field, visit);
        }
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "[*]")] {
        if node[key].is_object() {
            walk(&format!("{at}{mark}"), &node[key], visit);
        }
    }
}

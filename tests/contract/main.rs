//! What stands in several files and must agree: the CRDs and the types, the manifests among each other
//! and with the binary, the README and the reasons.
//!
//! Nothing here needs a server. What only an API server or a Vault can judge is judged by the tests on
//! real servers.

mod crds;
mod manifests;
mod readme;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A file of the repository.
fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// The YAML documents of a file; empty ones are left out.
fn documents(relative: &str) -> Vec<Value> {
    parse(relative, &read(relative))
}

fn parse(origin: &str, text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple::<Value>(text)
        .unwrap_or_else(|error| panic!("{origin}: {error}"))
        .into_iter()
        .filter(|document| !document.is_null())
        .collect()
}

/// Names of the YAML files in a folder, sorted, without kustomization.yaml.
fn yaml_files(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path(folder))
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml") && name != "kustomization.yaml")
        .collect();
    names.sort();
    names
}

/// What a folder's kustomization.yaml lists, sorted.
fn kustomized(folder: &str) -> Vec<String> {
    let kustomization = documents(&format!("{folder}/kustomization.yaml")).remove(0);
    let mut names: Vec<String> = kustomization["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Text at a JSON pointer.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} of {value}"))
}

/// List at a JSON pointer; an absent one is empty.
fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Where `part` says something that `whole` does not: the paths.
fn missing(part: &Value, whole: &Value, at: &str, found: &mut Vec<String>) {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            for (key, value) in part {
                match whole.get(key) {
                    Some(other) => missing(value, other, &format!("{at}.{key}"), found),
                    // A type leaves out what is empty.
                    None if empty(value) => {}
                    None => found.push(format!("{at}.{key}")),
                }
            }
        }
        (Value::Array(part), Value::Array(whole)) if part.len() == whole.len() => {
            for (position, (value, other)) in part.iter().zip(whole).enumerate() {
                missing(value, other, &format!("{at}[{position}]"), found);
            }
        }
        _ if part == whole => {}
        _ => found.push(at.to_owned()),
    }
}

fn empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}

//! From the text of files to manifests: YAML and JSON, several documents in a file, lists. Pure.

use std::{collections::BTreeMap, fmt};

use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::schema::{self, Schemas};
use crate::crd::{GROUP, VERSION, VaultAwsBackend, VaultAwsRole, VaultCertSync};

/// Where a manifest stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The file, as it was named; `-` is stdin.
    pub file: String,
    /// Number of the document in the file; empty ones do not count.
    pub document: usize,
    /// The line at which it begins; 0 if unknown.
    pub line: u64,
    /// Number of the item, in a list.
    pub item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)?;
        if self.line > 0 {
            write!(f, " (line {})", self.line)?;
        }
        if let Some(item) = self.item {
            write!(f, ", items[{item}]")?;
        }
        Ok(())
    }
}

/// A manifest that cannot be applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// Which object, as far as it says: `VaultAwsRole team-a/web`.
    pub object: String,
    /// Path of the field; empty if it is about the whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// One of our kinds.
#[derive(Clone, Debug)]
pub enum Object {
    /// The admin's.
    Backend(Box<VaultAwsBackend>),
    /// A team's.
    Role(Box<VaultAwsRole>),
    /// A team's.
    Sync(Box<VaultCertSync>),
}

impl Object {
    /// The kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Backend(_) => "VaultAwsBackend",
            Self::Role(_) => "VaultAwsRole",
            Self::Sync(_) => "VaultCertSync",
        }
    }

    /// Namespace and name; the namespace is empty for a backend.
    pub fn name(&self) -> (String, String) {
        match self {
            Self::Backend(one) => (String::new(), one.name_any()),
            Self::Role(one) => (one.namespace().unwrap_or_default(), one.name_any()),
            Self::Sync(one) => (one.namespace().unwrap_or_default(), one.name_any()),
        }
    }
}

/// A manifest as the API server would store it.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where it stands.
    pub place: Place,
    /// What it declares.
    pub object: Object,
    /// The same as JSON, with defaults.
    pub value: Value,
}

/// All that was read.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Ours, in the order in which they were read.
    pub ours: Vec<Manifest>,
    /// Those that cannot be applied.
    pub problems: Vec<Problem>,
    /// How many there are of other kinds, by `apiVersion` and kind.
    pub skipped: BTreeMap<String, usize>,
    /// Namespaces, by name, with their labels. They matter only where the admin gives them.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// How many files were read.
    pub files: usize,
}

/// How manifests are read.
pub struct Reader<'a> {
    /// The schemas of our kinds.
    pub schemas: &'a Schemas,
    /// The namespace of those that name none.
    pub namespace: Option<&'a str>,
    /// Whether they come from a cluster: then what only the API server sets is kept (`status`, `uid`,
    /// …). Who writes a manifest for review sets none of it.
    pub keeps_state: bool,
}

/// What the API server sets, not the author.
const STATE: [&str; 9] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "ownerReferences",
];
/// The other fields of metadata.
const METADATA: [&str; 6] =
    ["name", "namespace", "labels", "annotations", "generateName", "finalizers"];

impl Reader<'_> {
    /// Reads the text of one file.
    pub fn read(&self, file: &str, text: &str, into: &mut Manifests) {
        into.files += 1;
        let mut bytes = text.as_bytes();
        let options = serde_saphyr::options! { with_snippet: false };
        let documents = serde_saphyr::read_with_options::<_, Spanned<Value>>(&mut bytes, options);
        for (index, document) in documents.enumerate() {
            let mut place =
                Place { file: file.to_owned(), document: index + 1, line: 0, item: None };
            match document {
                Ok(document) => {
                    place.line = document.referenced.line();
                    self.document(place, document.value, into);
                }
                Err(error) => {
                    place.line = error.location().map_or(0, |location| location.line());
                    let message = error.without_snippet().to_string();
                    let message = message.lines().next().unwrap_or_default().to_owned();
                    let object = "not YAML".to_owned();
                    into.problems.push(Problem { place, object, field: String::new(), message });
                }
            }
        }
    }

    fn document(&self, place: Place, mut value: Value, into: &mut Manifests) {
        let text =
            |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api, kind) = (text("apiVersion"), text("kind"));
        if kind.ends_with("List")
            && place.item.is_none()
            && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take)
        {
            for (index, item) in items.into_iter().enumerate() {
                self.document(Place { item: Some(index), ..place.clone() }, item, into);
            }
            return;
        }
        if api == "v1" && kind == "Namespace" {
            let labels = value["metadata"].get("labels").cloned().unwrap_or_default();
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            into.namespaces.insert(name, serde_json::from_value(labels).unwrap_or_default());
        }
        if api.split('/').next() != Some(GROUP) {
            let what = match (api.as_str(), kind.as_str()) {
                ("", _) | (_, "") => "not a Kubernetes object".to_owned(),
                (api, kind) => format!("{api} {kind}"),
            };
            *into.skipped.entry(what).or_default() += 1;
            return;
        }
        let mut found = Vec::new();
        let object = self.object(&api, &kind, &mut value, &mut found);
        let problems = found.into_iter().map(|(field, message)| Problem {
            place: place.clone(),
            object: describe(&kind, &value),
            field,
            message,
        });
        into.problems.extend(problems);
        let Some(object) = object else { return };
        let name = (object.kind(), object.name());
        if let Some(first) =
            into.ours.iter().find(|one| (one.object.kind(), one.object.name()) == name)
        {
            let message = format!("it is declared twice: also in {}", first.place);
            let object = describe(&kind, &value);
            into.problems.push(Problem { place, object, field: String::new(), message });
            return;
        }
        into.ours.push(Manifest { place, object, value });
    }

    fn object(
        &self,
        api: &str,
        kind: &str,
        value: &mut Value,
        problems: &mut Vec<(String, String)>,
    ) -> Option<Object> {
        let mut fault = |field: &str, message: String| problems.push((field.to_owned(), message));
        if api != format!("{GROUP}/{VERSION}") {
            fault("apiVersion", format!("is {api:?}, must be \"{GROUP}/{VERSION}\""));
            return None;
        }
        if !self.schemas.knows(kind) {
            fault("kind", format!("there is no kind {kind:?} in {GROUP}"));
            return None;
        }
        let state = value.as_object_mut()?.remove("status");
        self.metadata(kind, value, &mut fault);
        for schema::Fault { field, message } in self.schemas.judge(kind, value, None) {
            fault(&field, message);
        }
        // It has a default, and only the API server sets it.
        value.as_object_mut()?.remove("status");
        if !problems.is_empty() {
            return None;
        }
        let mut whole = value.clone();
        if let Some(state) = state.filter(|_| self.keeps_state) {
            whole["status"] = state;
        }
        let object = match kind {
            "VaultAwsBackend" => typed(whole).map(Object::Backend),
            "VaultAwsRole" => typed(whole).map(Object::Role),
            _ => typed(whole).map(Object::Sync),
        };
        object.map_err(|message| problems.push((String::new(), message))).ok()
    }

    /// What every object has. The API server checks it before the schema.
    fn metadata(&self, kind: &str, value: &mut Value, fault: &mut impl FnMut(&str, String)) {
        let Some(Value::Object(metadata)) = value.get_mut("metadata") else {
            return fault("metadata", "is required".to_owned());
        };
        let known: Vec<String> = METADATA.iter().chain(&STATE).map(ToString::to_string).collect();
        for name in metadata.keys().filter(|name| !known.contains(name)) {
            fault(&schema::below("metadata", name), schema::unknown(name, known.iter()));
        }
        if !self.keeps_state {
            STATE.iter().for_each(|name| drop(metadata.remove(*name)));
        }
        for (name, of) in [("labels", "text"), ("annotations", "text")] {
            let is_fine = match metadata.get(name) {
                None | Some(Value::Null) => true,
                Some(Value::Object(entries)) => entries.values().all(Value::is_string),
                Some(_) => false,
            };
            if !is_fine {
                fault(&format!("metadata.{name}"), format!("must be a map of {of} to {of}"));
            }
        }
        match metadata.get("name").and_then(Value::as_str) {
            Some(name) if is_subdomain(name) => {}
            Some(name) => fault("metadata.name", format!("is {name:?}, which is no name")),
            None => fault("metadata.name", "is required".to_owned()),
        }
        if kind == "VaultAwsBackend" {
            metadata.remove("namespace");
            return;
        }
        if let (None, Some(namespace)) = (metadata.get("namespace"), self.namespace) {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        match metadata.get("namespace").and_then(Value::as_str) {
            Some(name) if is_subdomain(name) && name.len() <= 63 && !name.contains('.') => {}
            Some(name) => fault("metadata.namespace", format!("is {name:?}, which is no name")),
            None => fault("metadata.namespace", "is not given; say it here or by -n".to_owned()),
        }
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// As far as it says.
fn describe(kind: &str, value: &Value) -> String {
    let text = |key: &str| value["metadata"][key].as_str().unwrap_or_default();
    match (text("namespace"), text("name")) {
        ("", name) => format!("{kind} {name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}

fn is_subdomain(name: &str) -> bool {
    let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|part| {
            part.starts_with(small)
                && part.ends_with(small)
                && part.chars().all(|c| small(c) || c == '-')
        })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::review) fn read(text: &str) -> Manifests {
        let schemas = Schemas::of_crds();
        let reader = Reader { schemas: &schemas, namespace: Some("team-a"), keeps_state: false };
        let mut manifests = Manifests::default();
        reader.read("all.yaml", text, &mut manifests);
        manifests
    }

    const ROLE: &str = "apiVersion: vaultaws.dev/v1alpha1\nkind: VaultAwsRole\n\
                        metadata: {name: web}\nspec: {accountId: '123456789012', iamRole: web}\n";

    fn told(manifests: &Manifests) -> Vec<String> {
        manifests
            .problems
            .iter()
            .map(|problem| format!("{}: {}: {}", problem.place, problem.field, problem.message))
            .collect()
    }

    #[test]
    fn several_documents_lists_and_other_kinds_are_read() {
        let manifests = read(&format!(
            "---\n# Source: chart/templates/x.yaml\n---\n{ROLE}---\napiVersion: v1\nkind: ConfigMap\n---\n\
             {{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{{\"apiVersion\": \
             \"vaultaws.dev/v1alpha1\", \"kind\": \"VaultCertSync\", \"metadata\": {{\"name\": \"web\"}}}}, \
             {{\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\"}}]}}\n---\nfoo: bar\n"
        ));
        assert_eq!(told(&manifests), Vec::<String>::new());
        let names: Vec<_> = manifests.ours.iter().map(|one| one.object.kind()).collect();
        assert_eq!(names, ["VaultAwsRole", "VaultCertSync"]);
        assert_eq!(manifests.ours[1].place.item, Some(0));
        let skipped: Vec<_> = manifests.skipped.keys().map(String::as_str).collect();
        assert_eq!(skipped, ["apps/v1 Deployment", "not a Kubernetes object", "v1 ConfigMap"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_document_and_field() {
        let manifests = read(&format!(
            "{ROLE}---\n{}---\n{}",
            ROLE.replace("iamRole", "iamRoel"),
            ROLE.replace("v1alpha1", "v9")
        ));
        let told = told(&manifests);
        assert_eq!(
            told,
            [
                "all.yaml, document 2 (line 6): spec.iamRole: is required",
                "all.yaml, document 2 (line 6): spec.iamRoel: there is no such field",
                "all.yaml, document 3 (line 11): apiVersion: is \"vaultaws.dev/v9\", must be \
                 \"vaultaws.dev/v1alpha1\"",
            ]
        );
    }

    #[test]
    fn an_account_without_quotes_is_a_number_as_for_kubectl() {
        for account in ["123456789012", "012345678901", "0o17", "yes"] {
            let text = ROLE.replace("'123456789012'", account);
            assert!(told(&read(&text))[0].contains("put it in quotes"), "{account}");
        }
    }

    #[test]
    fn what_the_author_says_of_its_state_is_not_believed() {
        let text = ROLE.replace(
            "{name: web}",
            "{name: web, uid: x, creationTimestamp: '2000-01-01T00:00:00Z'}\nstatus: {roleId: y}",
        );
        let manifests = read(&text);
        let Object::Role(role) = &manifests.ours[0].object else { unreachable!("a role") };
        assert!(role.status.is_none() && role.metadata.uid.is_none());
        assert!(role.metadata.creation_timestamp.is_none());
    }

    #[test]
    fn the_same_object_twice_is_refused() {
        let manifests = read(&format!("{ROLE}---\n{ROLE}"));
        assert_eq!(manifests.ours.len(), 1);
        assert!(told(&manifests)[0].contains("declared twice"), "{:?}", told(&manifests));
    }

    #[test]
    fn text_that_is_no_yaml_is_one_problem_on_one_line() {
        let manifests = read("a: {{ .Values.x }}\n  b: [\n");
        assert_eq!(manifests.problems.len(), 1);
        assert!(!manifests.problems[0].message.contains('\n'));
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                    g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g]\n";
        assert_eq!(read(bomb).problems.len(), 1);
    }
}

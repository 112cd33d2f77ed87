//! crd

/// Every CustomResourceDefinition, as YAML documents.
pub fn yaml() -> String {
    String::new()
}

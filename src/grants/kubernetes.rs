//! The syncer's rights in a tenant's namespace: the manifests of `deploy/tenant`, for one namespace.

use super::Fault;

const SECRETS: &str = include_str!("../../deploy/tenant/role.yaml");
const TOKENS: &str = include_str!("../../deploy/tenant/service-accounts/role.yaml");
const DELETE: &str = include_str!("../../deploy/tenant-delete/role.yaml");

/// What the syncer is to do in a tenant's namespace.
#[derive(Clone, Debug, Default)]
pub struct Tenant<'a> {
    /// The namespace. `None`: whoever applies the manifests says (`kubectl -n`).
    pub namespace: Option<&'a str>,
    /// ServiceAccounts whose tokens it may ask for: those of `identity.serviceAccount`.
    pub service_accounts: &'a [String],
    /// Whether it may delete Secrets: for `target.onSourceRemoved: Delete`.
    pub deletes: bool,
}

impl Tenant<'_> {
    /// The manifests, as one YAML stream.
    ///
    /// # Errors
    /// [`Fault::KubernetesName`] where a name is none.
    pub fn text(&self) -> Result<String, Fault> {
        if let Some(namespace) = self.namespace
            && !is_label(namespace)
        {
            return Err(Fault::KubernetesName(namespace.to_owned(), "namespace"));
        }
        for account in self.service_accounts {
            if account.len() > 253 || !account.split('.').all(is_label) {
                return Err(Fault::KubernetesName(account.clone(), "ServiceAccount"));
            }
        }
        let mut texts = vec![SECRETS.to_owned()];
        if !self.service_accounts.is_empty() {
            let names = format!("resourceNames: [{}]", self.service_accounts.join(", "));
            texts.push(TOKENS.replace("resourceNames: [web]", &names));
        }
        if self.deletes {
            texts.push(DELETE.to_owned());
        }
        Ok(texts.iter().map(|text| self.placed(text)).collect::<Vec<_>>().join("---\n"))
    }

    /// With the namespace behind the name of each object.
    fn placed(&self, text: &str) -> String {
        let Some(namespace) = self.namespace else { return text.to_owned() };
        let mut placed = String::new();
        let mut is_metadata = false;
        for line in text.lines() {
            placed.push_str(line);
            placed.push('\n');
            if is_metadata && line.starts_with("  name: ") {
                // Quoted: `1` and `null` are namespaces too.
                placed.push_str(&format!("  namespace: \"{namespace}\"\n"));
            }
            is_metadata = line == "metadata:";
        }
        placed
    }
}

fn is_label(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.first().copied().is_some_and(word)
        && bytes.last().copied().is_some_and(word)
        && bytes.iter().all(|byte| word(*byte) || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn objects(tenant: &Tenant<'_>) -> Vec<Value> {
        serde_saphyr::from_multiple(&tenant.text().unwrap()).unwrap()
    }

    #[test]
    fn every_object_lies_in_the_namespace_and_every_binding_names_its_role() {
        let accounts = ["web".to_owned(), "api.v1".to_owned()];
        let tenant = Tenant { namespace: Some("1"), service_accounts: &accounts, deletes: true };
        let objects = objects(&tenant);
        assert_eq!(objects.len(), 6);
        for pair in objects.chunks(2) {
            for object in pair {
                assert_eq!(object["metadata"]["namespace"], "1", "{object}");
            }
            assert_eq!(pair[0]["kind"], "Role");
            assert_eq!(pair[1]["roleRef"]["name"], pair[0]["metadata"]["name"]);
        }
        assert_eq!(objects[2]["rules"][0]["resourceNames"], serde_json::json!(["web", "api.v1"]));
    }

    #[test]
    fn rights_that_were_not_asked_for_are_not_given() {
        let objects = objects(&Tenant { namespace: Some("team-a"), ..Tenant::default() });
        let text = Value::from(objects).to_string();
        assert!(!text.contains("serviceaccounts/token") && !text.contains("delete"), "{text}");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "Team", "a b", "a\nb", "-a", "a/b", "a: b"] {
            let tenant = Tenant { namespace: Some(bad), ..Tenant::default() };
            assert!(tenant.text().is_err(), "{bad}");
            let accounts = [bad.to_owned()];
            let tenant = Tenant { service_accounts: &accounts, ..Tenant::default() };
            assert!(tenant.text().is_err(), "{bad}");
        }
    }
}

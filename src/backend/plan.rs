//! What to write to the mount. Pure; empty unless it is managed.

use std::fmt;

use super::{
    desired::Desired,
    observe::{Credentials, Observed},
};
use crate::vault::aws_auth::ClientConfigWrite;

/// The steps, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// May be empty.
    pub steps: Vec<Step>,
}

/// One write.
#[derive(Debug)]
pub enum Step {
    /// Enable the AWS auth method.
    Enable,
    /// Write config/client.
    Client {
        /// The fields that are sent.
        write: Box<ClientConfigWrite>,
        /// The fields that differ.
        changed: Vec<&'static str>,
    },
    /// Write `config/sts/<account>`.
    Account {
        /// Twelve digits.
        account: String,
        /// The role that Vault assumes there.
        sts_role: String,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Enable => writeln!(f, "enable the mount")?,
                Step::Client { changed, .. } => {
                    writeln!(f, "write config/client: {}", changed.join(", "))?;
                }
                Step::Account { account, .. } => writeln!(f, "write config/sts/{account}")?,
            }
        }
        Ok(())
    }
}

/// What differs. `written` is the version of the credentials that was last written.
pub fn plan(
    desired: &Desired,
    observed: &Observed,
    credentials: Option<&Credentials>,
    written: Option<&str>,
) -> Plan {
    let Some(managed) = &desired.managed else { return Plan::default() };
    let mut steps = Vec::new();
    if observed.mount.is_none() {
        steps.push(Step::Enable);
    }
    let config = observed.config.clone().unwrap_or_default();
    let exists = config.client.is_some();
    let found = config.client.unwrap_or_default();
    let mut write = ClientConfigWrite::default();
    let mut changed = Vec::new();
    // A forged STS answer lets anybody in: this field is put right before anything else.
    text(
        "sts_endpoint",
        managed.sts_endpoint.as_ref(),
        &found.sts_endpoint,
        &mut write.sts_endpoint,
        &mut changed,
    );
    text(
        "sts_region",
        managed.sts_region.as_ref(),
        &found.sts_region,
        &mut write.sts_region,
        &mut changed,
    );
    text(
        "iam_endpoint",
        managed.iam_endpoint.as_ref(),
        &found.iam_endpoint,
        &mut write.iam_endpoint,
        &mut changed,
    );
    text(
        "iam_server_id_header_value",
        Some(&managed.server_id),
        &found.iam_server_id_header_value,
        &mut write.iam_server_id_header_value,
        &mut changed,
    );
    if let Some(retries) = managed.max_retries
        && i64::from(retries) != found.max_retries
    {
        changed.push("max_retries");
    }
    if let Some(keys) = credentials
        && (keys.access_key != found.access_key || written != Some(keys.version.as_str()))
    {
        write.access_key = Some(keys.access_key.clone());
        write.secret_key = Some(keys.secret_key.clone());
        changed.push("access_key");
    }
    if !changed.is_empty() || !exists {
        // Vault stores some changes only when this key is in the request.
        let retries = managed.max_retries.map(i64::from);
        write.max_retries = retries.or(Some(if exists { found.max_retries } else { -1 }));
        steps.push(Step::Client { write: Box::new(write), changed });
    }
    for (account, sts_role) in &managed.accounts {
        if config.accounts.get(account) != Some(sts_role) {
            steps.push(Step::Account { account: account.clone(), sts_role: sts_role.clone() });
        }
    }
    Plan { steps }
}

fn text(
    name: &'static str,
    wanted: Option<&String>,
    found: &str,
    write: &mut Option<String>,
    changed: &mut Vec<&'static str>,
) {
    if let Some(wanted) = wanted
        && wanted != found
    {
        *write = Some(wanted.clone());
        changed.push(name);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{desired::Managed, observe::Config},
        *,
    };
    use crate::{redacted::Redacted, vault::aws_auth::ClientConfig};

    fn desired() -> Desired {
        Desired {
            mount: "aws".into(),
            kv_mount: "secret".into(),
            managed: Some(Managed {
                credentials: Some("keys".into()),
                sts_endpoint: Some("https://sts.amazonaws.com".into()),
                server_id: "vault.example.com".into(),
                accounts: vec![("111122223333".into(), "arn:aws:iam::111122223333:role/r".into())],
                ..Managed::default()
            }),
            wants_namespace: false,
        }
    }

    fn keys() -> Credentials {
        Credentials {
            version: "uid/7".into(),
            access_key: "AKIA".into(),
            secret_key: Redacted::new("secret".into()),
        }
    }

    fn configured() -> Observed {
        Observed {
            mount: Some(("aws".into(), "auth_aws_1".into())),
            config: Some(Config {
                client: Some(ClientConfig {
                    access_key: "AKIA".into(),
                    sts_endpoint: "https://sts.amazonaws.com".into(),
                    iam_server_id_header_value: "vault.example.com".into(),
                    max_retries: -1,
                    ..ClientConfig::default()
                }),
                accounts: BTreeMap::from([(
                    "111122223333".into(),
                    "arn:aws:iam::111122223333:role/r".into(),
                )]),
            }),
            kv_version: Some(2),
            kv_denied: false,
        }
    }

    #[test]
    fn a_missing_mount_is_enabled_then_configured() {
        let plan = plan(&desired(), &Observed::default(), Some(&keys()), None);
        assert_eq!(
            plan.to_string(),
            "enable the mount\n\
             write config/client: sts_endpoint, iam_server_id_header_value, access_key\n\
             write config/sts/111122223333\n"
        );
    }

    #[test]
    fn nothing_is_written_to_a_mount_that_is_as_desired() {
        assert_eq!(plan(&desired(), &configured(), Some(&keys()), Some("uid/7")).to_string(), "");
    }

    #[test]
    fn a_changed_secret_is_written_although_vault_never_shows_it() {
        let plan = plan(&desired(), &configured(), Some(&keys()), Some("uid/6"));
        assert_eq!(plan.to_string(), "write config/client: access_key\n");
    }

    #[test]
    fn an_observed_mount_is_never_written() {
        let observed_only = Desired { managed: None, ..desired() };
        assert_eq!(plan(&observed_only, &Observed::default(), None, None).to_string(), "");
    }

    #[test]
    fn what_is_not_given_is_not_touched() {
        let mut found = configured();
        let client = found.config.as_mut().and_then(|config| config.client.as_mut()).unwrap();
        client.iam_endpoint = "https://iam.example.com".into();
        client.max_retries = 3;
        assert_eq!(plan(&desired(), &found, Some(&keys()), Some("uid/7")).to_string(), "");
    }
}

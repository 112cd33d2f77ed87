//! `sys/health`: whether Vault serves, and what it is.

use serde::Deserialize;
use vaultrs::api::sys::requests::ReadHealthRequest;

use super::{
    Client, Operation,
    error::{Cause, Error, classify},
};

/// What stands behind the address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Product {
    /// HashiCorp Vault, Community Edition.
    Vault,
    /// HashiCorp Vault Enterprise or HCP: with namespaces.
    VaultEnterprise,
    /// OpenBao: with namespaces.
    OpenBao,
}

impl Product {
    /// Whether the server has namespaces. Without them it ignores `X-Vault-Namespace` silently.
    pub fn has_namespaces(self) -> bool {
        match self {
            Self::Vault => false,
            Self::VaultEnterprise | Self::OpenBao => true,
        }
    }

    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vault => "Vault",
            Self::VaultEnterprise => "Vault Enterprise",
            Self::OpenBao => "OpenBao",
        }
    }
}

/// The state of the node that answered.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Health {
    /// False: 501.
    #[serde(default)]
    pub initialized: bool,
    /// True: 503.
    #[serde(default)]
    pub sealed: bool,
    /// True: 429, or 473 for a performance standby.
    #[serde(default)]
    pub standby: bool,
    /// As the server writes it: `1.21.1`, `1.21.1+ent`, `2.4.0`.
    #[serde(default)]
    pub version: String,
    /// Absent while sealed.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Absent while sealed.
    #[serde(default)]
    pub cluster_name: Option<String>,
    /// Vault always says it; OpenBao never does.
    #[serde(default)]
    pub enterprise: Option<bool>,
}

impl Health {
    /// What stands behind the address: OpenBao has no `enterprise` key.
    pub fn product(&self) -> Product {
        match self.enterprise {
            Some(true) => Product::VaultEnterprise,
            Some(false) => Product::Vault,
            None => Product::OpenBao,
        }
    }
}

/// Reads the health of the node behind the address: standby, sealed and uninitialised nodes answer
/// too. Never held back by limiter or circuit; a node that serves closes the circuit.
pub async fn read(client: &Client) -> Result<Health, Error> {
    let operation = Operation::new("health", "reading the health of Vault");
    let (status, body) = client.probe(&operation, &ReadHealthRequest::default()).await?;
    let status = status.as_u16();
    if !matches!(status, 200 | 429 | 472 | 473 | 501 | 503) {
        return Err(operation.failed(classify(status, &body, None)));
    }
    let health: Health = serde_json::from_slice(&body).map_err(|error| {
        // A page of something in front of Vault says what its status says.
        operation.failed(match status {
            200 => Cause::malformed(&error),
            _ => classify(status, &body, None),
        })
    })?;
    if health.initialized && !health.sealed {
        client.found_serving();
    }
    Ok(health)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_known_by_the_enterprise_key() {
        let product = |body: &str| serde_json::from_str::<Health>(body).unwrap().product();
        assert_eq!(product(r#"{"enterprise":false}"#), Product::Vault);
        assert_eq!(product(r#"{"enterprise":true}"#), Product::VaultEnterprise);
        assert_eq!(product(r#"{"version":"2.4.0"}"#), Product::OpenBao);
    }
}

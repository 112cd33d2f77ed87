//! `vault-aws policy`: what must be granted, as text that is applied as it is.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{ArgGroup, Args};
use serde_json::json;

use super::backend_file;
use crate::{
    crd::{Partition, VaultAwsBackendSpec},
    grants::{self, Document, aws, kubernetes::Tenant, vault},
};

/// The flags of `policy`.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
#[command(after_help = "\
Examples:
  vault-aws policy --vault --backend backend.yaml | vault policy write vault-aws-operator -
  vault-aws policy --vault --bootstrap --backend backend.yaml \\
    | vault policy write vault-aws-operator-bootstrap -
  vault-aws policy --kubernetes -n team-a --service-account web | kubectl apply -f -
  vault-aws policy --operator-aws --backend backend.yaml > assume-clients.json
  vault-aws policy --client-trust -n team-a --cluster-id 6f1f… \\
    --operator-arn arn:aws:iam::999999999999:role/vault-aws-syncer > trust.json

stdout is applied as it is; remarks are on stderr. Nobody is asked.
Exit codes: 0 it was printed; 1 it cannot be granted so.")]
pub struct PolicyArgs {
    /// The Vault policy of the role writer, for its daily work
    #[arg(long, group = "what")]
    vault: bool,

    /// The Role of the syncer in a tenant's namespace
    #[arg(long, group = "what")]
    kubernetes: bool,

    /// The IAM policy of Vault's own AWS identity
    #[arg(long, group = "what", requires = "backend")]
    vault_aws: bool,

    /// The IAM policy of the syncer, which assumes the clients' roles
    #[arg(long, group = "what", requires = "backend")]
    operator_aws: bool,

    /// The trust policy of a client's role: who may assume it, and with which ExternalId
    #[arg(long, group = "what", requires = "operator_arn", requires = "namespace_of")]
    client_trust: bool,

    /// Manifest of the VaultAwsBackend, - for stdin [default: one with the default mounts and names]
    #[arg(long, value_name = "FILE")]
    backend: Option<PathBuf>,

    /// With --vault: what is needed once, until a managed mount is there
    #[arg(long, requires = "vault")]
    bootstrap: bool,

    /// With --vault: names of the operator's own policies, which it must never write
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "vault")]
    #[arg(default_value = "vault-aws-operator")]
    policy_name: Vec<String>,

    /// The tenant's namespace
    #[arg(id = "namespace_of", short = 'n', long = "namespace", value_name = "NAME")]
    namespace: Option<String>,

    /// With --kubernetes: ServiceAccounts whose tokens the syncer may ask for
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "kubernetes")]
    service_account: Vec<String>,

    /// With --kubernetes: let the syncer delete Secrets, for `target.onSourceRemoved: Delete`
    #[arg(long, requires = "kubernetes")]
    delete_secrets: bool,

    /// With --client-trust: the AWS identity of the syncer
    #[arg(long, value_name = "ARN", requires = "client_trust")]
    operator_arn: Option<String>,

    /// With --client-trust: the cluster's name in ExternalIds, the backend's `status.clusterId`
    #[arg(long, value_name = "ID", requires = "client_trust")]
    cluster_id: Option<String>,

    /// AWS partition of the accounts
    #[arg(long, value_name = "NAME", default_value = "aws", value_parser = partition)]
    partition: Partition,
}

/// Why nothing was printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest.
    #[error(transparent)]
    Backend(#[from] backend_file::Error),
    /// What is asked for cannot be granted.
    #[error(transparent)]
    Fault(#[from] grants::Fault),
    /// The default backend, which a test rules out.
    #[error("making the default backend")]
    Default(#[source] serde_json::Error),
    /// stdout.
    #[error("writing to stdout")]
    Output(#[source] io::Error),
}

/// Prints the text, and on stderr what it cannot say.
pub fn run(args: &PolicyArgs, mut stdout: impl Write) -> Result<(), Error> {
    let Document { text, remarks } = document(args)?;
    for remark in remarks {
        // That nobody can be told is no reason to fail.
        let _ = writeln!(io::stderr(), "note: {remark}");
    }
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}

fn document(args: &PolicyArgs) -> Result<Document, Error> {
    let silent = |text: String| Document { text, remarks: Vec::new() };
    let namespace = args.namespace.as_deref();
    if args.kubernetes {
        let tenant = Tenant {
            namespace,
            service_accounts: &args.service_account,
            deletes: args.delete_secrets,
        };
        return Ok(silent(tenant.text()?));
    }
    let spec = match &args.backend {
        Some(path) => backend_file::read(path)?.spec,
        None => default_spec()?,
    };
    Ok(if args.vault {
        let part = if args.bootstrap { vault::Part::Bootstrap } else { vault::Part::Daily };
        let own: Vec<&str> = args.policy_name.iter().map(String::as_str).collect();
        silent(vault::text(&spec, part, &own)?)
    } else if args.vault_aws {
        aws::of_vault(&spec, args.partition)
    } else if args.operator_aws {
        aws::of_operator(&spec, args.partition)
    } else {
        let operator = args.operator_arn.as_deref().unwrap_or_default();
        let cluster = args.cluster_id.as_deref();
        aws::trust(&spec, operator, namespace.unwrap_or_default(), cluster)?
    })
}

/// The mounts and names that a backend has if it says nothing.
fn default_spec() -> Result<VaultAwsBackendSpec, Error> {
    let spec = json!({"vault": {"address": "https://127.0.0.1:8200"}, "operatorLogin": {}});
    serde_json::from_value(spec).map_err(Error::Default)
}

fn partition(text: &str) -> Result<Partition, String> {
    [Partition::Aws, Partition::AwsUsGov, Partition::AwsCn]
        .into_iter()
        .find(|partition| partition.to_string() == text)
        .ok_or_else(|| "the partitions are aws, aws-us-gov and aws-cn".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_says_nothing_has_the_names_of_the_examples() {
        let example = include_str!("../../deploy/examples/backend.yaml");
        let example: serde_json::Value = serde_saphyr::from_str(example).unwrap();
        let example: VaultAwsBackendSpec = serde_json::from_value(example["spec"].clone()).unwrap();
        let default = default_spec().unwrap();
        assert_eq!(default.auth, example.auth);
        assert_eq!(default.naming, example.naming);
        assert_eq!(default.certificates, example.certificates);
    }
}

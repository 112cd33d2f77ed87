//! Carries the plan out, in its order. Chooses nothing.

use super::plan::{Plan, Step};
use crate::vault::{self, Caller, aws_auth, mounts};

/// Writes each step.
///
/// # Errors
/// What Vault said to the first that failed, with the number of those before it: they stand.
pub async fn apply(caller: &Caller, mount: &str, plan: &Plan) -> Result<(), (usize, vault::Error)> {
    for (done, step) in plan.steps.iter().enumerate() {
        write(caller, mount, step).await.map_err(|error| (done, error))?;
    }
    Ok(())
}

async fn write(caller: &Caller, mount: &str, step: &Step) -> Result<(), vault::Error> {
    match step {
        Step::Enable { kind } => {
            let description = "AWS IAM logins, kept by vault-aws-operator";
            mounts::enable_auth(caller, mount, kind, description).await
        }
        Step::Tune { default_lease_ttl, max_lease_ttl } => {
            mounts::tune_auth(caller, mount, *default_lease_ttl, *max_lease_ttl).await
        }
        Step::StsEndpoint { write, .. } | Step::Client { write, .. } => {
            aws_auth::write_client_config(caller, mount, write).await.map(drop)
        }
        Step::Identity { write, .. } => {
            aws_auth::write_identity_config(caller, mount, write).await.map(drop)
        }
        Step::Account { account, sts_role, external_id, .. } => {
            let external_id = external_id.as_ref();
            aws_auth::write_sts_account(caller, mount, account, sts_role, external_id)
                .await
                .map(drop)
        }
    }
}

//! Carries the plan out, in its order. Chooses nothing.

use super::plan::{Plan, Step};
use crate::vault::{self, Caller, aws_auth, mounts};

/// Writes each step.
///
/// # Errors
/// What Vault said to the first that failed; the steps before it stand, and are not repeated.
pub async fn apply(caller: &Caller, mount: &str, plan: &Plan) -> Result<(), vault::Error> {
    for step in &plan.steps {
        match step {
            Step::Enable => {
                let description = "AWS IAM logins, kept by vault-aws-operator";
                mounts::enable_auth(caller, mount, "aws", description, None, None).await?;
            }
            Step::Client { write, .. } => {
                aws_auth::write_client_config(caller, mount, write).await?;
            }
            Step::Account { account, sts_role } => {
                aws_auth::write_sts_account(caller, mount, account, sts_role, None).await?;
            }
        }
    }
    Ok(())
}

//! Performs the steps of a plan in their order, and chooses nothing. Safe to repeat.

use super::plan::{Plan, Step};
use crate::vault::{Caller, Error, aws_auth, policies};

/// Writes and deletes what the plan says. A failure leaves the steps before it done; the next pass
/// finds them so.
///
/// # Errors
/// What Vault said to the first step that failed.
pub async fn apply(vault: &Caller, plan: &Plan) -> Result<(), Error> {
    for step in &plan.steps {
        let warnings = match step {
            Step::WritePolicy { name, text } => policies::write(vault, name, text).await?,
            Step::WriteRole { mount, name, fields, .. } => {
                aws_auth::write_role(vault, mount, name, fields).await?
            }
            Step::DeleteRole { mount, name } => {
                aws_auth::delete_role(vault, mount, name).await?;
                Vec::new()
            }
            Step::DeletePolicy { name } => {
                policies::delete(vault, name).await?;
                Vec::new()
            }
        };
        for warning in warnings {
            tracing::warn!(%step, warning, "Vault warns");
        }
    }
    Ok(())
}

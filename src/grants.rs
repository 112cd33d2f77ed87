//! What has to be granted, and to whom, for the operator to do its work: Vault policies, Kubernetes
//! Roles, IAM policies, each as text that is applied as it is. Pure.
//!
//! | who | needs | where |
//! | --- | --- | --- |
//! | the role writer, in Vault | [`vault`] | `vault policy write` |
//! | the syncer, in a tenant's namespace | [`kubernetes`] | `kubectl apply` |
//! | Vault itself, in AWS | [`aws::of_vault`] | IAM policy |
//! | the syncer, in AWS | [`aws::of_operator`] | IAM policy |
//! | whoever assumes a client's role | [`aws::trust`] | trust policy of that role |
//!
//! The tests run the operator under exactly these, and look in the servers' audit logs that nothing was
//! refused and nothing is granted that is never used.

pub mod aws;
pub mod kubernetes;
pub mod vault;

/// What is printed: the text for a program, and what people should know that the text cannot hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Document {
    /// Applied as it is.
    pub text: String,
    /// For people, each one or more sentences.
    pub remarks: Vec<String>,
}

/// Why nothing can be granted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Whoever may write policies with the prefix could rewrite his own.
    #[error(
        "the operator's own policy `{policy}` begins with `{prefix}`, the prefix of the policies that it \
         may write: it could grant itself more. Choose another name for it (--policy-name)"
    )]
    OwnPolicy {
        /// The operator's own policy.
        policy: String,
        /// The literal with which `naming.policy` begins.
        prefix: String,
    },
    /// A name that no policy has.
    #[error("`{0}` cannot be the name of a policy: lower-case letters, digits, _ . - only")]
    PolicyName(String),
    /// Not the name of a namespace or ServiceAccount.
    #[error("`{0}` is not the name of a {1} in Kubernetes")]
    KubernetesName(String, &'static str),
    /// Not an ARN that a trust policy can name.
    #[error("`{0}` is not the ARN of an IAM role or user, nor an account")]
    Principal(String),
    /// The ExternalId names the cluster, and nobody said which.
    #[error(
        "the ExternalId names the cluster, and the backend has no clusterId: give --cluster-id, by \
         default what `kubectl get namespace kube-system -o jsonpath='{{.metadata.uid}}'` prints"
    )]
    ClusterId,
}

//! What the reasons of conditions mean: which link of the chain each breaks, and what to do about it.

use super::{
    BACKEND, CERTIFICATES, IDENTITY, LOGIN, OPERATOR, RESOURCE, ROLE, SECRETS, SOURCE, TENANCY,
    VAULT,
};

/// Which link a reason of `Ready` belongs to.
pub(super) type Links = [(&'static str, &'static [&'static str])];

/// Those of a sync, in the order of a pass.
pub(super) const SYNC_LINKS: [(&str, &[&str]); 11] = [
    (RESOURCE, &["InvalidSpec", "Suspended", "MetadataDenied"]),
    (OPERATOR, &["KubernetesError", "DeadlineExceeded", "InternalError"]),
    (BACKEND, &["BackendNotFound", "BackendNotReady"]),
    (TENANCY, &["TenancyDenied"]),
    (ROLE, &["RoleNotFound", "RoleNotReady"]),
    (
        IDENTITY,
        &[
            "IdentityNotReady",
            "NoServiceAccountAccess",
            "AssumeRoleDenied",
            "NoAwsCredentials",
            "AwsCredentialsRefused",
            "StsUnreachable",
            "AwsThrottled",
            "AwsError",
        ],
    ),
    (VAULT, &["VaultUnreachable", "VaultSealed", "VaultTimeout", "VaultThrottled", "VaultError"]),
    (LOGIN, &["LoginDenied", "SessionRefused"]),
    (
        SOURCE,
        &[
            "SourceForbidden",
            "SourceEmpty",
            "TooManyCertificates",
            "TooManyDirectories",
            "NotKvV2",
            "VaultRefused",
            "VaultAnswerMalformed",
            "ClockSkew",
        ],
    ),
    (CERTIFICATES, &["CertificatesRefused"]),
    (SECRETS, &["PasswordNotReady", "NoSecretAccess", "NoDeleteAccess"]),
];

/// Those of a role, in the order of a pass.
pub(super) const ROLE_LINKS: [(&str, &[&str]); 7] = [
    (RESOURCE, &["InvalidSpec", "ReservedName"]),
    (OPERATOR, &["KubernetesError", "DeadlineExceeded", "InternalError"]),
    (BACKEND, &["BackendNotFound", "BackendNotReady", "NamespaceNotFound", "VersionUnsafe"]),
    (TENANCY, &["TenancyDenied"]),
    (
        VAULT,
        &[
            "VaultUnreachable",
            "VaultSealed",
            "VaultTimeout",
            "VaultThrottled",
            "VaultDenied",
            "VaultRefused",
            "VaultError",
            "VaultAnswerMalformed",
            "LoginFailed",
        ],
    ),
    (
        IDENTITY,
        &[
            "PrincipalNotFound",
            "NoStsConfiguration",
            "BadVaultAwsKeys",
            "VaultAwsDenied",
            "StsUnreachable",
            "AwsThrottled",
        ],
    ),
    (ROLE, &["Conflict", "RecreateNeeded", "CleaningUp", "OrphanLeft"]),
];

/// Which of these links a reason belongs to.
pub(super) fn link_of(reason: &str, links: &Links) -> Option<usize> {
    links.iter().position(|(_, reasons)| reasons.contains(&reason))
}

/// What to do about a reason of a condition or of a certificate. The condition's message says the
/// particulars.
pub(super) fn cure(reason: &str) -> &'static str {
    match reason {
        "RoleNotFound" => "make the VaultAwsRole, or name another in spec.roleRef",
        "RoleNotReady" => "see the VaultAwsRole: `vault-aws doctor vaultawsrole/<name>`",
        "BackendNotFound" => "make the VaultAwsBackend, or name another in backendRef",
        "BackendNotReady" => "see the VaultAwsBackend: `vault-aws doctor vaultawsbackend/<name>`",
        "NamespaceNotFound" => "wait; the operator may lack the right to list namespaces",
        "TenancyDenied" => {
            "have one rule in spec.tenancy of the VaultAwsBackend grant namespace, account, role and \
             identity together: rules never combine"
        }
        "InvalidSpec" | "ReservedName" | "NamingNotUnique" => {
            "correct the spec as the message says"
        }
        "IdentityNotReady" => {
            "make the Secret of spec.identity.secretRef with aws_access_key_id and \
             aws_secret_access_key, and label it vaultaws.dev/use=aws-credentials"
        }
        "AssumeRoleDenied" => {
            "let the trust policy of the IAM role name the operator's AWS identity and the ExternalId \
             <clusterId>/<namespace>, and let the operator's own policy allow sts:AssumeRole on it"
        }
        "NoAwsCredentials" => {
            "give the syncer's pod an AWS identity (EKS Pod Identity, IRSA, or keys in its environment)"
        }
        "AwsCredentialsRefused" => "renew the keys in the Secret, or the syncer's own",
        "StsUnreachable" => {
            "open the way to AWS STS: from the syncer for AssumeRole, from Vault for logins"
        }
        "AwsThrottled" | "VaultThrottled" => "wait, or have the quota raised",
        "AwsError" | "VaultError" | "VaultRefused" | "VaultAnswerMalformed" => {
            "see what it says, and the log of Vault"
        }
        "PrincipalNotFound" => "make the IAM role, or correct accountId, iamRole and iamRolePath",
        "NoStsConfiguration" => {
            "add the account to spec.auth.accounts of the VaultAwsBackend, with a role in it that Vault \
             may assume"
        }
        "BadVaultAwsKeys" => "correct Vault's own AWS keys (spec.auth.client.credentialsRef)",
        "VaultAwsDenied" => "allow Vault's AWS identity iam:GetRole and sts:AssumeRole",
        "VaultUnreachable" | "VaultTimeout" => {
            "see that Vault runs and that the operator's pods reach it (address, CA bundle, network \
             policy)"
        }
        "VaultSealed" => "unseal Vault",
        "LoginFailed" => {
            "correct operatorLogin: the auth mount of Vault, its role, and the operator's ServiceAccount \
             or AWS identity"
        }
        "VaultDenied" => "give the operator's policy in Vault what deploy/ shows",
        "MountNotFound" => "enable AWS auth there, or set spec.auth.management: Managed",
        "RotatedElsewhere" => {
            "put that key pair into the Secret of spec.auth.client.credentialsRef, or take credentialsRef \
             out; or have Vault forget it (vault write auth/<mount>/config/client access_key= secret_key=): \
             then the Secret's is written"
        }
        "UnsupportedByServer" => {
            "take the field out of spec.auth, or update Vault to a version that knows it"
        }
        "MountConflict" => "name another mount in spec.auth.mount",
        "NamespacesUnsupported" => "this server has no namespaces: leave vault.namespace out",
        "ReferenceNotFound" => "make the ConfigMap or Secret in the operator's namespace",
        "Conflict" => {
            "somebody else made the role or policy in Vault: delete it there, or choose other names \
             (spec.naming)"
        }
        "RecreateNeeded" => "delete the role in Vault: the operator makes it again",
        "LoginDenied" => {
            "see what Vault says: the role's binding, the region (spec.aws.region of the backend \
             against sts_endpoint of the mount), the server ID"
        }
        "SessionRefused" => "the token was not what it should be: see the role in Vault",
        "SourceForbidden" => {
            "the policy of the role in Vault does not open the directory: is another role or policy \
             attached?"
        }
        "SourceEmpty" => "write certificates to the directory that the message names",
        "SourceAbsent" => "write the entry, or take its name out of spec.certificates.include",
        "SourceDeleted" => "undelete or write the entry, or exclude it; the Secret is kept",
        "SourceDestroyed" => "write the entry again; the Secret is kept",
        "Suspended" => "set spec.suspend to false when it shall go on",
        "MetadataDenied" => "take that label or annotation out of spec.target",
        "NoServiceAccountAccess" => {
            "apply what `vault-aws policy --kubernetes -n <namespace> --service-account <name>` prints, \
             and let the ServiceAccount consent by the annotation vaultaws.dev/allow-sync"
        }
        "PasswordNotReady" => {
            "make the Secret with the keystore's password, with the key that is named"
        }
        "TooManyDirectories" => "narrow spec.certificates, or turn recursive off",
        "NoDeleteAccess" => {
            "apply what `vault-aws policy --kubernetes -n <namespace> --delete-secrets` prints: the \
             syncer's right to delete Secrets there"
        }
        "VersionNotFound" => "name a version that the entry has",
        "ExpiresTooSoon" | "DnsNameMissing" | "ChainIncomplete" => {
            "write a certificate that is as spec.validation demands, or change that"
        }
        "SecretTypeDiffers" => "delete the Secret, whose type cannot change: it is written again",
        "TooManyCertificates" => "narrow spec.certificates.include, or use several syncs",
        "FieldInUse" => {
            "put the old value back, or delete what uses it, or make another VaultAwsBackend"
        }
        "InUse" => "delete the VaultAwsRoles that refer to it",
        "ReferenceInvalid" => "correct the ConfigMap or Secret that the message names",
        "VersionUnsafe" => "update Vault to a version with the fixes",
        "NotKvV2" => "certificates.mount of the backend has to be a KV version 2 engine",
        "NoSecretAccess" => {
            "apply what `vault-aws policy --kubernetes -n <namespace>` prints: the syncer's rights on \
             Secrets there"
        }
        "Malformed" | "MissingField" | "Ambiguous" | "UnsupportedFormat" | "UnsupportedKey"
        | "EncryptedKey" | "TooLarge" => {
            "write certificate and private_key as PEM (ca_chain and issuing_ca are optional) to the \
             entry"
        }
        "KeyMismatch" => "write the certificate together with its own key",
        "WeakSignature" | "CaLeaf" => "have the certificate issued again",
        "Expired" => "write a renewed certificate; the Secret keeps the last good one",
        "NotYetValid" => "wait until it is valid, or correct the clock of who issued it",
        "InvalidName" | "NameTooLong" => "rename the entry, or change spec.target.secretName",
        "NameCollision" => "use {certificate} in spec.target.secretName, or rename an entry",
        "SecretNotOurs" => {
            "delete or rename that Secret, or change spec.target.secretName: the operator takes over \
             nobody's Secret"
        }
        "SecretImmutable" => "delete the immutable Secret: it is written again",
        "ClockSkew" => "synchronise the clocks of Vault and of the operator's nodes",
        "KubernetesError" => "see the operator's rights (deploy/) and the API server",
        "DeadlineExceeded" | "InternalError" => "see the operator's log",
        _ => "see the message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{BackendReason, RoleReason, SyncReason};

    #[test]
    fn every_reason_that_breaks_a_link_has_a_link_and_a_cure() {
        for (_, reasons) in SYNC_LINKS.iter().chain(&ROLE_LINKS) {
            for reason in *reasons {
                assert!(
                    matches!(*reason, "CertificatesRefused" | "CleaningUp" | "OrphanLeft")
                        || cure(reason) != "see the message",
                    "{reason}"
                );
            }
        }
        // The reasons are words of the CRDs.
        let words: Vec<&str> = SyncReason::ALL
            .iter()
            .map(|reason| reason.as_str())
            .chain(RoleReason::ALL.iter().map(|reason| reason.as_str()))
            .chain(BackendReason::ALL.iter().map(|reason| reason.as_str()))
            .collect();
        for (_, reasons) in SYNC_LINKS.iter().chain(&ROLE_LINKS) {
            for reason in *reasons {
                assert!(words.contains(reason), "{reason}");
            }
        }
    }
}

//! What of a managed AWS auth mount is declared: config/client, config/identity, config/sts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KeyRef, LocalRef};

/// `auth/<mount>/config/client`: how Vault itself speaks to AWS. A field that is not given is not
/// touched.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientConfig {
    /// Secret in the operator's namespace with aws_access_key_id and aws_secret_access_key. They are
    /// written where Vault has no access key, this one, or the one that was last written from here;
    /// another one was set by somebody else (config/rotate-root) and is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<LocalRef>,
    /// STS endpoint to which Vault forwards logins: whoever answers there says who is who. That Vault has
    /// another one is told by an event, and corrected before anything else. Not given: not touched, and
    /// Vault's default is `https://sts.amazonaws.com`.
    #[schemars(length(min = 1, max = 512), pattern(r"^https?://[A-Za-z0-9.\[\]:-]+/?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sts_endpoint: Option<String>,
    /// Region for which Vault signs its own STS requests; set it together with stsEndpoint.
    #[schemars(length(min = 1, max = 32), pattern(r"^[a-z0-9-]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sts_region: Option<String>,
    /// Whether Vault forwards a login to AWS's STS of the region it was signed for, whatever stsEndpoint
    /// says. Vault 1.15 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_sts_region_from_client: Option<bool>,
    /// IAM endpoint that Vault asks for unique IDs.
    #[schemars(length(min = 1, max = 512), pattern(r"^https?://[A-Za-z0-9.\[\]:-]+/?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_endpoint: Option<String>,
    /// EC2 endpoint that Vault asks about instances.
    #[schemars(length(min = 1, max = 512), pattern(r"^https?://[A-Za-z0-9.\[\]:-]+/?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2_endpoint: Option<String>,
    /// Further headers X-Amz-… that a login may carry. The whole list: an empty one allows none.
    #[schemars(
        length(max = 32),
        inner(length(max = 128), pattern(r"^[Xx]-[Aa][Mm][Zz]-[A-Za-z0-9]+(-[A-Za-z0-9]+)*$"))
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_sts_header_values: Option<Vec<String>>,
    /// How often Vault retries a failed request to AWS; -1 is the SDK's default.
    #[schemars(range(min = -1, max = 20))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i32>,
}

/// `auth/<mount>/config/identity`: the entity alias that a login gets, and what is known of it. A field
/// that is not given is not touched. The words are Vault's own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityConfig {
    /// Alias of IAM logins. role_id, Vault's default: all who log in at one role are one entity. Another
    /// alias is another entity for the same principal. canonical_arn: Vault 1.16 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_alias: Option<IamAlias>,
    /// What an IAM login records. account_id and auth_type are always kept: without auth_type no token
    /// can be renewed.
    #[schemars(length(max = 9))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_metadata: Option<Vec<IamMetadata>>,
    /// Alias of EC2 logins; Vault's default is role_id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2_alias: Option<Ec2Alias>,
    /// What an EC2 login records. account_id and auth_type are always kept.
    #[schemars(length(max = 5))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2_metadata: Option<Vec<Ec2Metadata>>,
}

/// Declares a set of words that the schema takes as Vault writes them.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
        )]
        pub enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// The word, in the schema and in Vault.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// What identifies an IAM principal.
    IamAlias {
        /// The Vault role: all its principals are one.
        RoleId = "role_id",
        /// AWS's own ID (`AROA…`, `AIDA…`), which a re-created role does not inherit.
        UniqueId = "unique_id",
        /// The ARN of the session, with its name.
        FullArn = "full_arn",
        /// The ARN of the role or user.
        CanonicalArn = "canonical_arn",
    }
}

words! {
    /// What an IAM login can record.
    IamMetadata {
        /// The AWS account.
        AccountId = "account_id",
        /// `iam`.
        AuthType = "auth_type",
        /// The ARN of the role or user.
        CanonicalArn = "canonical_arn",
        /// The ARN of the session.
        ClientArn = "client_arn",
        /// The unique ID.
        ClientUserId = "client_user_id",
        /// Where the inferred instance is.
        InferredAwsRegion = "inferred_aws_region",
        /// The inferred instance.
        InferredEntityId = "inferred_entity_id",
        /// `ec2_instance`.
        InferredEntityType = "inferred_entity_type",
        /// Name of the inferred instance.
        InferredHostname = "inferred_hostname",
    }
}

words! {
    /// What identifies an EC2 instance.
    Ec2Alias {
        /// The Vault role: all its instances are one.
        RoleId = "role_id",
        /// The instance.
        InstanceId = "instance_id",
        /// The image it was started from.
        ImageId = "image_id",
    }
}

words! {
    /// What an EC2 login can record.
    Ec2Metadata {
        /// The AWS account.
        AccountId = "account_id",
        /// `ec2`.
        AuthType = "auth_type",
        /// The image.
        AmiId = "ami_id",
        /// The instance.
        InstanceId = "instance_id",
        /// Where it is.
        Region = "region",
    }
}

/// One foreign account.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StsAccount {
    /// Twelve digits.
    #[schemars(length(equal = 12), pattern(r"^[0-9]{12}$"))]
    pub account_id: String,
    /// ARN of the role in that account which Vault assumes.
    #[schemars(
        length(max = 256),
        pattern(r"^arn:(aws|aws-us-gov|aws-cn):iam::[0-9]{12}:role/[A-Za-z0-9_=.@/-]+$")
    )]
    pub sts_role_arn: String,
    /// Key of a Secret in the operator's namespace with the ExternalId that the role's trust policy asks
    /// for. Vault 1.17 and later; it writes the value to its own log, and a changed one is used only
    /// when config/client changes too or Vault restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id_ref: Option<KeyRef>,
}

/// AWS keys as they were written to config/client. Vault never shows the secret one.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WrittenKeys {
    /// ID of the access key, which is no secret.
    pub access_key: String,
    /// HMAC-SHA-256 of both keys, in hex; its key lies in the Secret vault-aws-fingerprints of the
    /// operator's namespace.
    pub fingerprint: String,
}

//! What a `VaultAwsRole` says of binds, tokens and its own handling, and how far a tenancy rule lets it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// How clients of a role log in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum AuthType {
    /// By a request that is signed with AWS keys.
    #[default]
    #[serde(rename = "iam")]
    Iam,
    /// By the identity document of an EC2 instance.
    #[serde(rename = "ec2")]
    Ec2,
}

impl AuthType {
    /// The word in the schema, which is Vault's too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iam => "iam",
            Self::Ec2 => "ec2",
        }
    }
}

/// Inference of the EC2 instance behind a session.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Inference {
    /// The region in which Vault looks for the instance.
    #[schemars(length(min = 1, max = 32), pattern(r"^[a-z0-9-]+$"))]
    pub region: String,
}

/// What an EC2 instance must be like; each list that is given must hold it.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.amiIds) || has(self.vpcIds) || has(self.subnetIds) || has(self.regions) || has(self.iamRoleArns) || has(self.instanceProfileArns) || has(self.instanceIds)").message("give at least one list: else each instance of the account could log in"))]
pub struct Ec2Binds {
    /// Images.
    #[schemars(length(min = 1, max = 64), inner(length(max = 32), pattern(r"^ami-[0-9a-f]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ami_ids: Vec<String>,
    /// VPCs.
    #[schemars(length(min = 1, max = 64), inner(length(max = 32), pattern(r"^vpc-[0-9a-f]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vpc_ids: Vec<String>,
    /// Subnets.
    #[schemars(length(min = 1, max = 64), inner(length(max = 32), pattern(r"^subnet-[0-9a-f]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnet_ids: Vec<String>,
    /// Regions; with authType ec2 only.
    #[schemars(length(min = 1, max = 64), inner(length(max = 32), pattern(r"^[a-z0-9-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// ARNs of the IAM roles that instances run under, with their paths; a trailing * is a prefix.
    #[schemars(
        length(min = 1, max = 64),
        inner(
            length(max = 640),
            pattern(r"^arn:(aws|aws-us-gov|aws-cn):iam::[0-9]{12}:role/[A-Za-z0-9_=.@/-]*\*?$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iam_role_arns: Vec<String>,
    /// ARNs of instance profiles; a trailing * is a prefix.
    #[schemars(
        length(min = 1, max = 64),
        inner(
            length(max = 640),
            pattern(
                r"^arn:(aws|aws-us-gov|aws-cn):iam::[0-9]{12}:instance-profile/[A-Za-z0-9_=.@/-]*\*?$"
            )
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instance_profile_arns: Vec<String>,
    /// Single instances.
    #[schemars(length(min = 1, max = 64), inner(length(max = 32), pattern(r"^i-[0-9a-f]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instance_ids: Vec<String>,
}

/// What the tokens of a role are like.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.ttl) || !has(self.maxTtl) || duration(self.maxTtl) == duration('0s') || duration(self.ttl) <= duration(self.maxTtl)").message("token.ttl must not be longer than token.maxTtl"))]
#[x_kube(validation = Rule::new("!has(self.type) || self.type != 'batch' || !(has(self.period) || has(self.explicitMaxTtl) || has(self.numUses))").message("batch tokens have no period, explicitMaxTtl or numUses"))]
pub struct TokenSettings {
    /// How long a token lives before it must be renewed. Default: the mount's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// How long a token can live by renewals. Default: the mount's, which also caps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<Span>,
    /// Makes tokens periodic: each renewal gives them this long again, without an end. Vault refuses
    /// more than the mount's maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Span>,
    /// An end that no renewal moves, not even that of a periodic token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explicit_max_ttl: Option<Span>,
    /// How many requests a token is good for. Default 0: no limit.
    #[schemars(range(min = 0, max = 1_000_000), extend("format" = "int32"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_uses: Option<u32>,
    /// What kind of token. Default: as the mount is tuned.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<TokenType>,
    /// IP addresses and networks from which a token works, and from which a login does.
    #[schemars(
        length(max = 64),
        inner(length(min = 2, max = 49), pattern(r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound_cidrs: Vec<String>,
    /// Whether tokens come without Vault's policy `default`. They can then be neither renewed nor
    /// revoked by whoever holds them. Default false.
    #[serde(default)]
    pub no_default_policy: bool,
    /// Further policies of Vault, by name; each must be granted by additionalPolicies of the tenancy
    /// rule. Vault folds their case.
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_policies: Vec<String>,
}

/// A kind of token.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenType {
    /// As the mount is tuned.
    #[default]
    Default,
    /// A token that is kept and can be renewed and revoked.
    Service,
    /// A token that is not kept: cheap, and neither renewed nor revoked.
    Batch,
}

impl TokenType {
    /// Vault's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Service => "service",
            Self::Batch => "batch",
        }
    }
}

/// How far what stands in Vault may be taken over, from least to most.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Deserialize,
    Eq,
    Hash,
    JsonSchema,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
)]
pub enum Adopt {
    /// Not at all.
    #[default]
    Never,
    /// If it is as it would be written, apart from rules that its policy lacks.
    IfEqual,
    /// Whatever it is.
    Always,
}

impl Adopt {
    /// The word in the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::IfEqual => "IfEqual",
            Self::Always => "Always",
        }
    }
}

/// What is done about differences in Vault.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Drift {
    /// They are put right.
    #[default]
    Correct,
    /// They are told, and nothing is written.
    Report,
}

/// Whether role and policy go from Vault with their resource.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RoleDeletion {
    /// They do.
    #[default]
    Delete,
    /// They stay, with the mark of the resource; one of the same name is their owner again.
    Retain,
}

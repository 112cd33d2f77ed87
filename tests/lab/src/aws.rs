//! AWS by signed query calls to the emulator: accounts, users and roles for tests, and what every
//! lab has of them from the start.

use std::{fmt, time::SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use reqwest::Client;
use serde_json::{Value, json};

use crate::{
    error::{Doing as _, Error, Result},
    web::encode,
};

/// The account Vault itself lives in.
pub const HOME_ACCOUNT: &str = "123456789012";
/// The accounts whose roles log in.
pub const CLIENT_ACCOUNTS: [&str; 2] = ["111122223333", "444455556666"];
/// The region of everything here.
pub const REGION: &str = "us-east-1";
/// The external id that the seeded roles `web` and `api` ask for.
pub const EXTERNAL_ID: &str = "lab/team-a";

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// AWS access keys. Debug shows no secret.
#[derive(Clone, Eq, PartialEq)]
pub struct Keys {
    /// For example `AKIA…`, or `ASIA…` for a session.
    pub access_key: String,
    /// The secret access key.
    pub secret_key: String,
    /// Set for a session.
    pub session_token: Option<String>,
}

impl Keys {
    /// The emulator's root keys of an account.
    pub fn root(account: &str) -> Self {
        let access_key = if account == HOME_ACCOUNT { "test" } else { account };
        Self {
            access_key: access_key.to_owned(),
            secret_key: "test".to_owned(),
            session_token: None,
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// An IAM user with keys.
#[derive(Clone, Debug)]
pub struct User {
    /// `arn:aws:iam::<account>:user/<name>`.
    pub arn: String,
    /// Its only keys.
    pub keys: Keys,
}

/// Who may assume a role.
#[derive(Clone, Debug, Default)]
pub struct TrustPolicy {
    /// Users and roles.
    pub principal_arns: Vec<String>,
    /// What they must say as `sts:ExternalId`.
    pub external_id: Option<String>,
}

impl TrustPolicy {
    /// The policy document.
    pub fn document(&self) -> Value {
        let mut statement = json!({
            "Effect": "Allow",
            "Principal": {"AWS": self.principal_arns},
            "Action": "sts:AssumeRole",
        });
        if let Some(id) = &self.external_id {
            statement["Condition"] = json!({"StringEquals": {"sts:ExternalId": id}});
        }
        json!({"Version": "2012-10-17", "Statement": [statement]})
    }
}

/// The trust policy of a role for one ServiceAccount, as IRSA has it: `issuer` is the cluster's, a URL.
pub fn trust_service_account(
    account: &str,
    issuer: &str,
    audience: &str,
    namespace: &str,
    name: &str,
) -> Value {
    let host = provider(issuer);
    // The audience of a Kubernetes token is a list.
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"Federated": format!("arn:aws:iam::{account}:oidc-provider/{host}")},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {
                "StringEquals": {
                    format!("{host}:sub"): format!("system:serviceaccount:{namespace}:{name}"),
                },
                "ForAnyValue:StringEquals": {format!("{host}:aud"): audience},
            },
        }],
    })
}

/// What AWS calls an OIDC provider: its URL without the scheme.
pub(crate) fn provider(issuer: &str) -> &str {
    issuer.strip_prefix("https://").unwrap_or(issuer).trim_end_matches('/')
}

/// A policy that allows these actions on everything.
pub fn allow(actions: &[&str]) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
    })
}

/// The arn of a role without path.
pub fn role_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:role/{name}")
}

/// What every lab has in AWS.
///
/// Each client account has the roles `web` and `api`, which trust the operator's user if it says
/// [`EXTERNAL_ID`], and `vault-reader`, which trusts Vault's user and may read roles and users.
#[derive(Clone, Debug)]
pub struct Seeds {
    /// The identity in Vault's own AWS configuration, in the home account.
    pub vault: User,
    /// The operator's own identity, in the home account.
    pub operator: User,
}

/// A client of the emulator.
#[derive(Clone, Debug)]
pub struct Aws {
    http: Client,
    url: String,
}

impl Aws {
    pub(crate) fn new(http: Client, url: String) -> Self {
        Self { http, url }
    }

    /// Calls IAM; the answer is XML.
    pub async fn iam(&self, keys: &Keys, action: &str, params: &[(&str, &str)]) -> Result<String> {
        self.call("iam", "2010-05-08", keys, action, params).await
    }

    /// Calls STS; the answer is XML.
    pub async fn sts(&self, keys: &Keys, action: &str, params: &[(&str, &str)]) -> Result<String> {
        self.call("sts", "2011-06-15", keys, action, params).await
    }

    async fn call(
        &self,
        service: &str,
        version: &str,
        keys: &Keys,
        action: &str,
        params: &[(&str, &str)],
    ) -> Result<String> {
        let mut body = format!("Action={action}&Version={version}");
        for (name, value) in params {
            body.push_str(&format!("&{}={}", encode(name), encode(value)));
        }
        let url = format!("{}/", self.url);
        let headers = signature(service, keys, &url, &body)
            .map_err(|source| Error::Signing { action: action.to_owned(), source })?;
        let mut request = self.http.post(&url).header("content-type", FORM).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send().await.doing(|| action.to_owned())?;
        let status = answer.status();
        let xml = answer.text().await.doing(|| action.to_owned())?;
        if status.is_success() {
            return Ok(xml);
        }
        Err(Error::Aws {
            action: action.to_owned(),
            status: status.as_u16(),
            code: text(&xml, "Code").unwrap_or_default(),
            message: text(&xml, "Message").unwrap_or(xml),
        })
    }

    /// Creates a role; `path` is `/` or for example `/team/`. Returns its arn, which has the path.
    pub async fn create_role(
        &self,
        account: &str,
        name: &str,
        path: &str,
        trust: &TrustPolicy,
    ) -> Result<String> {
        self.create_role_trusting(account, name, path, &trust.document()).await
    }

    /// Creates a role with any trust policy. Returns its arn.
    pub async fn create_role_trusting(
        &self,
        account: &str,
        name: &str,
        path: &str,
        trust: &Value,
    ) -> Result<String> {
        let document = trust.to_string();
        let params =
            [("RoleName", name), ("Path", path), ("AssumeRolePolicyDocument", document.as_str())];
        let xml = self.iam(&Keys::root(account), "CreateRole", &params).await?;
        Ok(text(&xml, "Arn").unwrap_or_default())
    }

    /// Replaces who may assume the role.
    pub async fn set_trust(&self, account: &str, name: &str, trust: &TrustPolicy) -> Result<()> {
        let document = trust.document().to_string();
        let params = [("RoleName", name), ("PolicyDocument", document.as_str())];
        self.iam(&Keys::root(account), "UpdateAssumeRolePolicy", &params).await.map(drop)
    }

    /// Lets roles of an account trust the tokens of an issuer for these audiences, if it does not yet.
    pub async fn trust_issuer(
        &self,
        account: &str,
        issuer: &str,
        audiences: &[&str],
    ) -> Result<()> {
        let members: Vec<String> =
            (1..=audiences.len()).map(|number| format!("ClientIDList.member.{number}")).collect();
        // AWS does not look at it any more, and asks for it all the same.
        let thumbprint = "0".repeat(40);
        let mut params = vec![("Url", issuer), ("ThumbprintList.member.1", thumbprint.as_str())];
        params.extend(members.iter().map(String::as_str).zip(audiences.iter().copied()));
        match self.iam(&Keys::root(account), "CreateOpenIDConnectProvider", &params).await {
            Err(Error::Aws { code, .. }) if code == "EntityAlreadyExists" => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The audiences that an account takes of an issuer; none if it does not know it.
    pub(crate) async fn audiences(
        &self,
        account: &str,
        issuer: &str,
    ) -> Result<Option<Vec<String>>> {
        let arn = format!("arn:aws:iam::{account}:oidc-provider/{}", provider(issuer));
        let params = [("OpenIDConnectProviderArn", arn.as_str())];
        match self.iam(&Keys::root(account), "GetOpenIDConnectProvider", &params).await {
            Ok(xml) => {
                let list = text(&xml, "ClientIDList").unwrap_or_default();
                let members = list.split("<member>").skip(1);
                let members = members.filter_map(|member| member.split("</member>").next());
                Ok(Some(members.map(str::to_owned).collect()))
            }
            Err(Error::Aws { code, .. }) if code == "NoSuchEntity" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the role one inline policy, named `lab`.
    pub async fn set_role_policy(&self, account: &str, name: &str, policy: &Value) -> Result<()> {
        let document = policy.to_string();
        let params =
            [("RoleName", name), ("PolicyName", "lab"), ("PolicyDocument", document.as_str())];
        self.iam(&Keys::root(account), "PutRolePolicy", &params).await.map(drop)
    }

    /// Deletes a role with its inline policy.
    pub async fn delete_role(&self, account: &str, name: &str) -> Result<()> {
        let root = Keys::root(account);
        let policy = [("RoleName", name), ("PolicyName", "lab")];
        match self.iam(&root, "DeleteRolePolicy", &policy).await {
            Ok(_) => {}
            Err(Error::Aws { code, .. }) if code == "NoSuchEntity" => {}
            Err(error) => return Err(error),
        }
        self.iam(&root, "DeleteRole", &[("RoleName", name)]).await.map(drop)
    }

    /// The unique id (`AROA…`) of a role.
    pub async fn role_id(&self, account: &str, name: &str) -> Result<String> {
        let xml = self.iam(&Keys::root(account), "GetRole", &[("RoleName", name)]).await?;
        Ok(text(&xml, "RoleId").unwrap_or_default())
    }

    /// Creates a user with one inline policy and one pair of keys.
    pub async fn create_user_with_keys(
        &self,
        account: &str,
        name: &str,
        policy: &Value,
    ) -> Result<User> {
        let root = Keys::root(account);
        let user = ("UserName", name);
        let xml = self.iam(&root, "CreateUser", &[user]).await?;
        let arn = text(&xml, "Arn").unwrap_or_default();
        let document = policy.to_string();
        let params = [user, ("PolicyName", "lab"), ("PolicyDocument", document.as_str())];
        self.iam(&root, "PutUserPolicy", &params).await?;
        let xml = self.iam(&root, "CreateAccessKey", &[user]).await?;
        Ok(User { arn, keys: keys_in(&xml) })
    }

    /// Another pair of keys of a user.
    pub async fn add_keys(&self, account: &str, user: &str) -> Result<Keys> {
        let root = Keys::root(account);
        Ok(keys_in(&self.iam(&root, "CreateAccessKey", &[("UserName", user)]).await?))
    }

    /// Takes a pair of keys from a user.
    pub async fn delete_keys(&self, account: &str, user: &str, keys: &Keys) -> Result<()> {
        let params = [("UserName", user), ("AccessKeyId", keys.access_key.as_str())];
        self.iam(&Keys::root(account), "DeleteAccessKey", &params).await.map(drop)
    }

    /// A session of the role, 15 minutes long.
    pub async fn assume_role(
        &self,
        keys: &Keys,
        arn: &str,
        session: &str,
        external_id: Option<&str>,
    ) -> Result<Keys> {
        let mut params =
            vec![("RoleArn", arn), ("RoleSessionName", session), ("DurationSeconds", "900")];
        params.extend(external_id.map(|id| ("ExternalId", id)));
        Ok(keys_in(&self.sts(keys, "AssumeRole", &params).await?))
    }

    /// Creates what [`Seeds`] names.
    pub(crate) async fn seed(&self) -> Result<Seeds> {
        let may = allow(&["sts:AssumeRole", "sts:GetCallerIdentity", "iam:GetRole", "iam:GetUser"]);
        let vault = self.create_user_with_keys(HOME_ACCOUNT, "vault", &may).await?;
        let may = allow(&["sts:AssumeRole"]);
        let operator = self.create_user_with_keys(HOME_ACCOUNT, "operator", &may).await?;
        let of_operator = TrustPolicy {
            principal_arns: vec![operator.arn.clone()],
            external_id: Some(EXTERNAL_ID.to_owned()),
        };
        let of_vault = TrustPolicy { principal_arns: vec![vault.arn.clone()], external_id: None };
        for account in CLIENT_ACCOUNTS {
            self.create_role(account, "web", "/", &of_operator).await?;
            self.create_role(account, "api", "/", &of_operator).await?;
            self.create_role(account, "vault-reader", "/", &of_vault).await?;
            let may = allow(&["iam:GetRole", "iam:GetUser"]);
            self.set_role_policy(account, "vault-reader", &may).await?;
        }
        Ok(Seeds { vault, operator })
    }
}

fn keys_in(xml: &str) -> Keys {
    Keys {
        access_key: text(xml, "AccessKeyId").unwrap_or_default(),
        secret_key: text(xml, "SecretAccessKey").unwrap_or_default(),
        session_token: text(xml, "SessionToken"),
    }
}

type SigningFailure = Box<dyn std::error::Error + Send + Sync>;

/// The headers that sign a form request.
fn signature(
    service: &str,
    keys: &Keys,
    url: &str,
    body: &str,
) -> Result<Vec<(String, String)>, SigningFailure> {
    let identity = Credentials::new(
        &keys.access_key,
        &keys.secret_key,
        keys.session_token.clone(),
        None,
        "vault-aws-lab",
    )
    .into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name(service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?
        .into();
    let headers = [("content-type", FORM)].into_iter();
    let request = SignableRequest::new("POST", url, headers, SignableBody::Bytes(body.as_bytes()))?;
    let (instructions, _) = sign(request, &params)?.into_parts();
    Ok(instructions.headers().map(|(name, value)| (name.into(), value.into())).collect())
}

/// The text of the first element of that name, as in `<Arn>…</Arn>`. Attributes and nesting of the
/// same name do not occur in AWS query answers.
pub fn text(xml: &str, element: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{element}>"))?;
    let (content, _) = rest.split_once(&format!("</{element}>"))?;
    // `&amp;` last, else `&amp;lt;` would become `<`.
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
        .iter()
        .fold(content.to_owned(), |text, (entity, plain)| text.replace(entity, plain));
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_an_element_is_unescaped_once() {
        let xml = "<R><Arn>a&amp;lt;b</Arn><Arn>second</Arn></R>";
        assert_eq!(text(xml, "Arn").as_deref(), Some("a&lt;b"));
        assert_eq!(text(xml, "Id"), None);
    }

    #[test]
    fn a_trust_policy_asks_for_an_external_id_only_if_it_has_one() {
        let mut trust = TrustPolicy { principal_arns: vec!["arn".into()], external_id: None };
        assert_eq!(trust.document()["Statement"][0].get("Condition"), None);
        trust.external_id = Some("x".into());
        let condition = &trust.document()["Statement"][0]["Condition"];
        assert_eq!(condition["StringEquals"]["sts:ExternalId"], "x");
    }

    #[test]
    fn debug_of_keys_shows_no_secret() {
        let shown = format!("{:?}", Keys { secret_key: "hush".into(), ..Keys::root("1") });
        assert!(!shown.contains("hush"), "{shown}");
    }
}

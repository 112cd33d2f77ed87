//! What to do about a failure, in one sentence. Pure; `login` says the same as hints.

use crate::{
    aws,
    aws::signing::StsTarget,
    vault::{AwsRefusal, Cause, Error, error::Step},
};

/// A login as it was tried.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The auth mount.
    pub mount: &'a str,
    /// The Vault role, if one was named.
    pub role: Option<&'a str>,
    /// For which STS the request was signed.
    pub target: &'a StsTarget,
    /// Whether `X-Vault-AWS-IAM-Server-ID` was sent.
    pub has_server_id: bool,
    /// Who logs in, as STS says.
    pub caller: Option<&'a str>,
    /// The region of the STS to which the mount forwards logins, if that is known.
    pub mount_region: Option<&'a str>,
}

/// What to do where AWS gave no credentials, or did not take them.
pub fn of_aws(error: &aws::Error) -> String {
    match error {
        aws::Error::AccessDenied { .. } => {
            "allow it in the trust policy of the role, or in the policy of the caller"
        }
        aws::Error::Throttled => "wait, or ask AWS for a higher rate",
        aws::Error::ExpiredToken { .. } => {
            "get new credentials (`aws sso login`, a new session), and check that key and secret \
             belong together"
        }
        aws::Error::Unreachable { .. } => {
            "check network, proxy (HTTPS_PROXY, NO_PROXY) and AWS_ENDPOINT_URL_STS"
        }
        aws::Error::NoCredentials { .. } => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where there is a \
             role (EC2, ECS, EKS)"
        }
        aws::Error::Region { .. } => "give a region as eu-west-1",
        aws::Error::Endpoint { .. } => "give an endpoint as https://sts.eu-west-1.amazonaws.com",
        aws::Error::Other { .. } => "see what AWS says",
    }
    .to_owned()
}

/// What to do where Vault does not answer as it should, whatever was asked.
pub fn of_vault(error: &Error) -> String {
    of_cause(error.cause()).to_owned()
}

fn of_cause(cause: &Cause) -> &'static str {
    match cause {
        Cause::Unreachable { step: Step::Dns, .. } => {
            "correct the host in VAULT_ADDR (or --address), or the name service"
        }
        Cause::Unreachable { step: Step::Connect, .. } => {
            "start Vault, correct the port in VAULT_ADDR (or --address), or open the way to it \
             (firewall, HTTPS_PROXY)"
        }
        Cause::Unreachable { step: Step::Tls, .. } => {
            "name the CA of Vault's certificate (VAULT_CACERT or --ca-cert), and the name in it where \
             it is not the host (VAULT_TLS_SERVER_NAME or --tls-server-name)"
        }
        Cause::Unreachable { step: Step::Transfer, .. } => {
            "something between here and Vault breaks connections; an http:// address of an https \
             listener does too"
        }
        Cause::Timeout { .. } => "look at the load of Vault and at the way to it",
        Cause::Sealed => "unseal Vault: `vault operator unseal`",
        Cause::NoActiveNode => "wait until a node is elected, or look at Vault's storage",
        Cause::Throttled { .. } => "wait, or raise the quota in Vault (sys/quotas)",
        Cause::TokenInvalid => "log in again",
        Cause::Denied => "allow it in a policy of the token",
        Cause::NotFound { .. } => {
            "correct the mount or namespace: an auth method or secrets engine lies elsewhere"
        }
        Cause::Redirected { .. } => "use the address of the active node or of a load balancer",
        Cause::MfaRequired => "give the second factor at sys/mfa/validate",
        Cause::WrappedAnswer => {
            "something between here and Vault asks for wrapping (X-Vault-Wrap-TTL): take that away"
        }
        Cause::CircuitOpen { cause, .. } => of_cause(cause),
        Cause::NotLeading(_) => "ask the replica that leads",
        Cause::Refused { .. }
        | Cause::Malformed { .. }
        | Cause::TooLarge { .. }
        | Cause::Server { .. }
        | Cause::PermanentServerError { .. }
        | Cause::InvalidRequest { .. } => {
            "see Vault's text; is the address that of Vault, and not of something else?"
        }
    }
}

/// What to do where Vault did not let an AWS identity in.
pub fn of_login(error: &Error, attempt: &Attempt<'_>) -> String {
    let Attempt { mount, role, target, caller, .. } = *attempt;
    let who = caller.unwrap_or("the caller");
    let named = role.map_or_else(|| "of the caller's name".to_owned(), |role| format!("`{role}`"));
    match error.aws_refusal() {
        Some(AwsRefusal::RegionMismatch) => region(attempt),
        Some(AwsRefusal::EntryNotFound) => format!(
            "make the role {named} at auth/{mount} (a VaultAwsRole does), or give --role and --path as \
             they are in Vault"
        ),
        Some(AwsRefusal::PrincipalMismatch) => format!(
            "bind {who} to the role {named} (bound_iam_principal_arn), or use its AWS identity; if the \
             IAM role was deleted and made again, write the Vault role again: it binds the unique ID \
             of the old one"
        ),
        Some(AwsRefusal::AuthTypeMismatch) => {
            format!("the role {named} takes another kind of login: use --type, or another role")
        }
        Some(AwsRefusal::ServerIdMismatch) if attempt.has_server_id => format!(
            "give as --header-value what auth/{mount}/config/client has as iam_server_id_header_value"
        ),
        Some(AwsRefusal::ServerIdMismatch) => format!(
            "auth/{mount} asks for a server ID: give its iam_server_id_header_value as --header-value"
        ),
        Some(AwsRefusal::HeaderRefused) => format!(
            "allow the header at auth/{mount}/config/client (allowed_sts_header_values), or take away \
             what adds it"
        ),
        Some(AwsRefusal::SignatureExpired) => {
            "synchronise the clock of this machine (NTP): AWS takes signatures of the last 15 minutes"
                .to_owned()
        }
        Some(AwsRefusal::SignatureRefused) => {
            "key and secret do not belong together, or something between here and STS changes the \
             request; get the credentials again"
                .to_owned()
        }
        Some(AwsRefusal::CredentialsInvalid) => {
            "the AWS credentials are expired or unknown: get new ones; `aws sts get-caller-identity` \
             shows whether they work"
                .to_owned()
        }
        Some(AwsRefusal::StsUnreachable) => format!(
            "Vault does not reach AWS STS ({host} unless sts_endpoint of auth/{mount}/config/client \
             says otherwise): open its way out",
            host = target.host()
        ),
        Some(AwsRefusal::Throttled) => "AWS throttles Vault: wait".to_owned(),
        Some(AwsRefusal::VaultAwsDenied) => format!(
            "allow Vault's own AWS identity iam:GetRole and iam:GetUser, and for other accounts give \
             it a role at auth/{mount}/config/sts/<account>"
        ),
        Some(AwsRefusal::NoStsConfiguration) => {
            format!("give Vault a role in that account: auth/{mount}/config/sts/<account>")
        }
        Some(AwsRefusal::BadVaultAwsKeys) => {
            format!("correct Vault's own AWS keys at auth/{mount}/config/client")
        }
        Some(AwsRefusal::PrincipalNotFound) => {
            "the bound IAM principal does not exist any more: make it, and write the Vault role again"
                .to_owned()
        }
        Some(AwsRefusal::PrincipalInvalid | AwsRefusal::NotReady | AwsRefusal::Other) => {
            of_instance(error.cause(), mount)
        }
        None => match error.cause() {
            Cause::Denied => format!(
                "is auth/{mount} an AWS auth mount in this namespace? If so, token_bound_cidrs of the \
                 role does not have this machine, or the entity is disabled"
            ),
            Cause::NotFound { .. } => {
                format!("enable AWS auth at auth/{mount}, or give its path (--path) or --namespace")
            }
            _ => of_vault(error),
        },
    }
}

/// What only logins of EC2 instances meet.
fn of_instance(cause: &Cause, mount: &str) -> String {
    let text = match cause {
        Cause::Refused { message, .. } => message.as_str(),
        _ => "",
    };
    if text.contains("nonce mismatch") {
        format!(
            "the nonce of this instance's first login is lost (or somebody else logged in first, which \
             is worth a look): have an admin delete auth/{mount}/identity-accesslist/<instance>"
        )
    } else if text.contains("ec2:DescribeInstances") || text.contains("UnauthorizedOperation") {
        "allow Vault's own AWS identity ec2:DescribeInstances".to_owned()
    } else {
        "see Vault's text".to_owned()
    }
}

/// Both regions, and the two settings of which one has to change.
fn region(attempt: &Attempt<'_>) -> String {
    let Attempt { mount, target, mount_region, .. } = *attempt;
    let (ours, host) = (target.region(), target.host());
    let theirs = match mount_region {
        Some(region) => format!("`{region}`"),
        // Vault's default is the global endpoint.
        None if ours != "us-east-1" => "`us-east-1`, unless sts_endpoint says otherwise".to_owned(),
        None => "another region (sts_endpoint is set there)".to_owned(),
    };
    let flag = mount_region.unwrap_or(if ours == "us-east-1" { "<region>" } else { "us-east-1" });
    format!(
        "the login was signed for `{ours}` ({host}), but auth/{mount} forwards it to the STS of \
         {theirs}. Either sign for that one: --region {flag}; or let Vault ask yours: `vault write \
         auth/{mount}/config/client sts_endpoint=https://{host} sts_region={ours}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> Error {
        Error::new("logging in", Cause::Refused { status: 400, message: message.to_owned() })
    }

    fn cure(message: &str, region: &str, mount_region: Option<&str>) -> String {
        let target = StsTarget::of_region(region).unwrap();
        let attempt = Attempt {
            mount: "aws",
            role: Some("web"),
            target: &target,
            has_server_id: false,
            caller: Some("arn:aws:iam::1:user/bob"),
            mount_region,
        };
        of_login(&refused(message), &attempt)
    }

    #[test]
    fn a_region_mismatch_names_both_regions_and_the_two_settings() {
        let text = "error making upstream request: received error code 403 from STS: \
                    SignatureDoesNotMatch: Credential should be scoped to a valid region";
        for (ours, theirs) in [
            ("eu-west-1", None),
            ("eu-west-1", Some("us-east-1")),
            ("us-east-1", Some("eu-west-1")),
        ] {
            let cure = cure(text, ours, theirs);
            for word in ["`us-east-1`", "`eu-west-1`", "--region", "sts_endpoint", "sts_region"] {
                assert!(
                    cure.contains(word) || theirs.is_none() && word == "`us-east-1`",
                    "{word}: {cure}"
                );
            }
        }
        assert!(cure(text, "us-east-1", None).contains("another region"));
    }

    #[test]
    fn each_refusal_of_a_login_has_its_own_cure() {
        for (text, word) in [
            ("entry for role web not found", "make the role `web`"),
            ("IAM Principal \"x\" does not belong to the role \"web\"", "bind arn:aws:iam::1:user"),
            ("auth method iam not allowed for role web", "--type"),
            ("error validating X-Vault-AWS-IAM-Server-ID header: missing header", "asks for a"),
            ("invalid request header: X-Amz-Foo", "allowed_sts_header_values"),
            ("received error code 403 from STS: Signature expired: x", "clock"),
            ("received error code 403 from STS: SignatureDoesNotMatch", "do not belong together"),
            ("received error code 403 from STS: InvalidClientTokenId", "expired or unknown"),
            ("error making upstream request: error making request: connection refused", "way out"),
            ("error looking up full ARN of entity: x", "iam:GetRole"),
            ("client nonce mismatch", "auth/aws/identity-accesslist/"),
            ("UnauthorizedOperation: x: ec2:DescribeInstances", "ec2:DescribeInstances"),
            ("something else", "see Vault's text"),
        ] {
            let cure = cure(text, "us-east-1", None);
            assert!(cure.contains(word), "{text}: {cure}");
        }
    }

    #[test]
    fn how_far_a_connection_came_decides_the_cure() {
        let cure = |step| {
            let cause = Cause::Unreachable { step, detail: String::new() };
            of_vault(&Error::new("x", cause))
        };
        assert!(cure(Step::Dns).contains("name service"));
        assert!(cure(Step::Tls).contains("VAULT_CACERT"));
        assert!(cure(Step::Connect).contains("port"));
    }
}

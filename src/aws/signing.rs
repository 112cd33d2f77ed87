//! The signed `GetCallerIdentity` with which an AWS identity proves itself to Vault.
//!
//! Vault forwards the request to STS and believes the answer. So the request is made by hand, with
//! no header beyond those needed: Vault refuses `X-Amz-*` headers it does not know, takes only POST
//! in older versions and in OpenBao, and needs the signature's region to be that of the endpoint to
//! which it forwards.

use std::{fmt, time::SystemTime};

use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use jiff::Timestamp;

use super::Credentials;
use crate::{
    fault::{Fault, Retry},
    redacted::Redacted,
};

const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";
const SERVER_ID: &str = "X-Vault-AWS-IAM-Server-ID";

/// A request that proves an identity to whoever holds it, for 15 minutes: used once, never logged.
#[derive(Clone)]
pub struct SignedRequest {
    method: &'static str,
    url: String,
    body: &'static str,
    headers: Vec<(&'static str, Redacted<String>)>,
}

impl fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedRequest").field("url", &self.url).finish_non_exhaustive()
    }
}

impl SignedRequest {
    /// `POST`.
    pub fn method(&self) -> &str {
        self.method
    }

    /// Such as `https://sts.<region>.amazonaws.com/`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The form that asks for the caller's identity.
    pub fn body(&self) -> &str {
        self.body
    }

    /// The headers with canonical names, in the order in which they are sent.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (*name, value.expose().as_str()))
    }

    /// The headers as Vault takes them: `{"Name":["value"]}`.
    pub fn headers_json(&self) -> Redacted<String> {
        let object: serde_json::Map<_, _> = self
            .headers()
            .map(|(name, value)| (name.to_owned(), serde_json::Value::from(vec![value])))
            .collect();
        Redacted::new(serde_json::Value::Object(object).to_string())
    }
}

/// A request that cannot be signed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SigningError {
    /// Not a region: it would become part of a host name.
    #[error("`{region}` is not an AWS region")]
    Region {
        /// As it was given, shortened.
        region: String,
    },
    /// Not an address of STS.
    #[error("`{endpoint}` is not an STS endpoint such as https://sts.eu-west-1.amazonaws.com")]
    Endpoint {
        /// As it was given, shortened.
        endpoint: String,
    },
    /// Endpoint and region do not fit together: every login would be refused.
    #[error(
        "the region is `{region}`, but the STS endpoint is that of `{endpoint}`: AWS takes a signature \
         for the endpoint's own region only"
    )]
    RegionOfEndpoint {
        /// As it was given, shortened.
        region: String,
        /// Which the endpoint's name holds.
        endpoint: String,
    },
    /// The name of the endpoint does not tell its region.
    #[error("the name of the STS endpoint does not tell its region: give the region too")]
    EndpointWithoutRegion,
    /// The server ID does not fit into a header.
    #[error("the Vault server ID holds characters that no header can carry")]
    ServerId,
    /// The signer refused.
    #[error("the request to STS cannot be signed: {text}")]
    Signer {
        /// Its words.
        text: String,
    },
}

impl Fault for SigningError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Region { .. } | Self::RegionOfEndpoint { .. } | Self::EndpointWithoutRegion => {
                "RegionInvalid"
            }
            Self::Endpoint { .. } => "EndpointInvalid",
            Self::ServerId => "ServerIdInvalid",
            Self::Signer { .. } => "AwsError",
        }
    }

    fn retry(&self) -> Retry {
        Retry::WhenChanged
    }
}

/// Whether `region` has the form of one: lower-case letters, digits and dashes, as `eu-west-1`.
pub fn is_region(region: &str) -> bool {
    (2..=32).contains(&region.len())
        && region.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && region.starts_with(|c: char| c.is_ascii_lowercase())
        && !region.ends_with('-')
}

/// The host of STS for a region: the global one for `us-east-1`, as `vault login` has it.
pub fn sts_host(region: &str) -> Result<String, SigningError> {
    if !is_region(region) {
        return Err(SigningError::Region { region: region.chars().take(40).collect() });
    }
    Ok(match region {
        "us-east-1" => "sts.amazonaws.com".to_owned(),
        _ if region.starts_with("cn-") => format!("sts.{region}.amazonaws.com.cn"),
        _ => format!("sts.{region}.amazonaws.com"),
    })
}

/// The address of STS: the endpoint that was given, else that of the region. It ends in a slash.
///
/// # Errors
/// Where either has not the form of one: a path or a query would be signed along.
pub fn sts_url(region: &str, endpoint: Option<&str>) -> Result<String, SigningError> {
    let host = sts_host(region)?;
    let Some(endpoint) = endpoint else { return Ok(format!("https://{host}/")) };
    let refused = || SigningError::Endpoint { endpoint: endpoint.chars().take(80).collect() };
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(refused)?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let is_authority = !authority.is_empty()
        && authority.bytes().all(|c| c.is_ascii_alphanumeric() || b".-:[]".contains(&c));
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next(),
        None => authority.split(':').next(),
    };
    // In clear it would hand sessions and tokens to whoever listens.
    let is_here = host.is_some_and(|host| ["127.0.0.1", "::1", "localhost"].contains(&host));
    match scheme {
        "https" if is_authority => Ok(format!("https://{authority}/")),
        "http" if is_authority && is_here => Ok(format!("http://{authority}/")),
        _ => Err(refused()),
    }
}

/// The STS to which a request is addressed, and the region for which it is signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StsTarget {
    region: String,
    host: String,
}

impl StsTarget {
    /// The STS that [`sts_host`] names for the region.
    pub fn of_region(region: &str) -> Result<Self, SigningError> {
        Ok(Self { region: region.to_owned(), host: sts_host(region)? })
    }

    /// Another endpoint of STS: FIPS, a VPC endpoint, another partition. `https://host[:port]`, or the
    /// host alone. `region` may be left out where the host names it.
    pub fn at(endpoint: &str, region: Option<&str>) -> Result<Self, SigningError> {
        let endpoint = endpoint.trim();
        let address = match endpoint.contains("://") {
            true => endpoint.to_ascii_lowercase(),
            false => format!("https://{}", endpoint.to_ascii_lowercase()),
        };
        // Whatever the region: here it is about the form.
        let url = sts_url("us-east-1", Some(&address))?;
        let host = url.split("://").nth(1).unwrap_or_default().trim_end_matches('/');
        // Signed as SDKs and servers write it: without the port that https has anyway.
        let host = host.strip_suffix(":443").unwrap_or(host).to_owned();
        let named = region_of_host(&host);
        let region = match (region, named) {
            (Some(region), Some(named)) if region != named => {
                return Err(SigningError::RegionOfEndpoint {
                    region: region.chars().take(40).collect(),
                    endpoint: named.to_owned(),
                });
            }
            (Some(region), _) => region.to_owned(),
            (None, Some(named)) => named.to_owned(),
            (None, None) => return Err(SigningError::EndpointWithoutRegion),
        };
        if !is_region(&region) {
            return Err(SigningError::Region { region: region.chars().take(40).collect() });
        }
        Ok(Self { region, host })
    }

    /// For which the request is signed.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Whose name is signed: `sts.eu-west-1.amazonaws.com`.
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// The region whose STS has this name: `us-east-1` for the global one. `None` if the name does not
/// tell.
pub fn region_of_host(host: &str) -> Option<&str> {
    let host = host.split(':').next().unwrap_or(host);
    let name = host.strip_suffix(".amazonaws.com.cn").or(host.strip_suffix(".amazonaws.com"))?;
    let name = name.strip_suffix(".vpce").unwrap_or(name);
    if name == "sts" {
        return Some("us-east-1");
    }
    let mut labels = name.rsplit('.');
    let region = labels.next().filter(|region| is_region(region))?;
    labels.next().is_some_and(|label| matches!(label, "sts" | "sts-fips")).then_some(region)
}

/// Signs a `GetCallerIdentity` for `region` at `now`. `server_id` is what the mount's
/// `iam_server_id_header_value` demands; signed along, it ties the request to one Vault.
pub fn get_caller_identity(
    credentials: &Credentials,
    region: &str,
    server_id: Option<&str>,
    now: Timestamp,
) -> Result<SignedRequest, SigningError> {
    get_caller_identity_at(credentials, region, None, server_id, now)
}

/// The same for another endpoint than that of the region; see [`sts_url`].
pub fn get_caller_identity_at(
    credentials: &Credentials,
    region: &str,
    endpoint: Option<&str>,
    server_id: Option<&str>,
    now: Timestamp,
) -> Result<SignedRequest, SigningError> {
    let url = sts_url(region, endpoint)?;
    signed_request(credentials, region, url, server_id, now)
}

/// The same for a target that was checked before.
pub fn get_caller_identity_for(
    credentials: &Credentials,
    target: &StsTarget,
    server_id: Option<&str>,
    now: Timestamp,
) -> Result<SignedRequest, SigningError> {
    let url = format!("https://{}/", target.host);
    signed_request(credentials, &target.region, url, server_id, now)
}

fn signed_request(
    credentials: &Credentials,
    region: &str,
    url: String,
    server_id: Option<&str>,
    now: Timestamp,
) -> Result<SignedRequest, SigningError> {
    if server_id.is_some_and(|id| id.trim() != id || id.bytes().any(|c| !(0x20..0x7f).contains(&c)))
    {
        return Err(SigningError::ServerId);
    }
    let mut plain = vec![("Content-Type", CONTENT_TYPE.to_owned())];
    plain.extend(server_id.map(|id| (SERVER_ID, id.to_owned())));

    let signed = signature(credentials, region, now, &url, &plain, BODY)?;
    let mut headers: Vec<_> =
        plain.into_iter().map(|(name, value)| (name, Redacted::new(value))).collect();
    headers.push(("Content-Length", Redacted::new(BODY.len().to_string())));
    headers.extend(signed);
    Ok(SignedRequest { method: "POST", url, body: BODY, headers })
}

/// The headers that signing adds: date, session token, authorization.
fn signature(
    credentials: &Credentials,
    region: &str,
    now: Timestamp,
    url: &str,
    headers: &[(&'static str, String)],
    body: &str,
) -> Result<Vec<(&'static str, Redacted<String>)>, SigningError> {
    let refused = |text: String| SigningError::Signer { text };
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(SystemTime::from(now))
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| refused(error.to_string()))?
        .into();
    let request = SignableRequest::new(
        "POST",
        url,
        headers.iter().map(|(name, value)| (*name, value.as_str())),
        SignableBody::Bytes(body.as_bytes()),
    )
    .map_err(|error| refused(error.to_string()))?;
    let (instructions, _) =
        sign(request, &params).map_err(|error| refused(error.to_string()))?.into_parts();
    let (added, _) = instructions.into_parts();
    added
        .into_iter()
        .map(|header| {
            let name = match header.name() {
                "authorization" => "Authorization",
                "x-amz-date" => "X-Amz-Date",
                "x-amz-security-token" => "X-Amz-Security-Token",
                // Vault would refuse it: better to learn that here.
                other => return Err(refused(format!("it adds the header {other}"))),
            };
            Ok((name, Redacted::new(header.value().to_owned())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::hex;

    /// The credentials of AWS's published test suite.
    fn credentials(token: Option<&str>) -> Credentials {
        Credentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            token.map(str::to_owned),
            None,
            "test",
        )
    }

    fn header(request: &SignedRequest, name: &str) -> Option<String> {
        request.headers().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
    }

    fn now() -> Timestamp {
        "2015-08-30T12:36:00Z".parse().unwrap()
    }

    #[test]
    fn the_signer_agrees_with_the_published_test_suite() {
        // Signature Version 4 test suite, case post-x-www-form-urlencoded.
        let identity = credentials(None).into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("service")
            .time(SystemTime::from(now()))
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let request = SignableRequest::new(
            "POST",
            "https://example.amazonaws.com/",
            [("Content-Type", "application/x-www-form-urlencoded")].into_iter(),
            SignableBody::Bytes(b"Param1=value1"),
        )
        .unwrap();
        let (_, signature) = sign(request, &params).unwrap().into_parts();
        assert_eq!(signature, "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a");
    }

    #[test]
    fn only_the_needed_headers_are_sent_and_all_are_signed() {
        let request = get_caller_identity(
            &credentials(Some("TOKEN")),
            "eu-west-1",
            Some("vault.example.com"),
            now(),
        )
        .unwrap();
        assert_eq!(request.method(), "POST");
        assert_eq!(request.url(), "https://sts.eu-west-1.amazonaws.com/");
        assert_eq!(request.body(), "Action=GetCallerIdentity&Version=2011-06-15");
        let mut names: Vec<_> = request.headers().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "Authorization",
                "Content-Length",
                "Content-Type",
                "X-Amz-Date",
                "X-Amz-Security-Token",
                "X-Vault-AWS-IAM-Server-ID"
            ]
        );
        let authorization = header(&request, "Authorization").unwrap();
        assert!(
            authorization.starts_with(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-west-1/sts/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;\
                 x-vault-aws-iam-server-id, Signature="
            ),
            "{authorization}"
        );
        assert_eq!(header(&request, "X-Amz-Date").unwrap(), "20150830T123600Z");
    }

    #[test]
    fn the_signature_is_that_of_the_written_rules() {
        use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
        use sha2::{Digest, Sha256};

        let request = get_caller_identity(
            &credentials(Some("TOKEN")),
            "us-east-1",
            Some("vault.example.com"),
            now(),
        )
        .unwrap();
        let canonical = format!(
            "POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:sts.amazonaws.com\n\
             x-amz-date:20150830T123600Z\nx-amz-security-token:TOKEN\n\
             x-vault-aws-iam-server-id:vault.example.com\n\n\
             content-type;host;x-amz-date;x-amz-security-token;x-vault-aws-iam-server-id\n{}",
            hex(&Sha256::digest(BODY))
        );
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/sts/aws4_request\n{}",
            hex(&Sha256::digest(&canonical))
        );
        let key = generate_signing_key(
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            SystemTime::from(now()),
            "us-east-1",
            "sts",
        );
        let expected = calculate_signature(key, to_sign.as_bytes());
        assert!(header(&request, "Authorization").unwrap().ends_with(&expected));
    }

    #[test]
    fn the_host_fits_the_region() {
        for (region, host) in [
            ("us-east-1", "sts.amazonaws.com"),
            ("eu-central-1", "sts.eu-central-1.amazonaws.com"),
            ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ] {
            assert_eq!(sts_host(region).unwrap(), host);
        }
    }

    #[test]
    fn an_endpoint_tells_its_region() {
        for (endpoint, region) in [
            ("https://sts.amazonaws.com", "us-east-1"),
            ("https://sts.eu-west-1.amazonaws.com/", "eu-west-1"),
            ("sts-fips.us-west-2.amazonaws.com:443", "us-west-2"),
            ("https://vpce-0a-1b.sts.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
            ("https://sts.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ] {
            let target = StsTarget::at(endpoint, None).unwrap();
            assert_eq!(target.region(), region, "{endpoint}");
            assert!(!target.host().contains(['/', ':']), "{endpoint}");
        }
        assert_eq!(
            StsTarget::at("https://sts.internal", None).unwrap_err(),
            SigningError::EndpointWithoutRegion
        );
        assert_eq!(
            StsTarget::at("sts.internal", Some("eu-west-1")).unwrap().host(),
            "sts.internal"
        );
    }

    #[test]
    fn an_endpoint_of_another_region_names_both() {
        let error = StsTarget::at("https://sts.eu-west-1.amazonaws.com", Some("us-east-1"));
        let said = error.unwrap_err().to_string();
        assert!(said.contains("`us-east-1`") && said.contains("`eu-west-1`"), "{said}");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for endpoint in ["", "http://sts.amazonaws.com", "https://a/b", "a b", "user@host", "a?b"] {
            let error = StsTarget::at(endpoint, Some("us-east-1")).unwrap_err();
            assert!(matches!(error, SigningError::Endpoint { .. }), "{endpoint}");
        }
    }

    #[test]
    fn what_is_no_region_becomes_no_host() {
        for region in ["", "x", "evil.com/", "eu-west-1.evil", "EU-WEST-1", "eu west", "-a", "a-"] {
            assert!(sts_host(region).is_err(), "{region}");
        }
    }

    #[test]
    fn a_server_id_cannot_add_a_header() {
        let credentials = credentials(None);
        for id in ["a\r\nX-Amz-Foo: b", " a", "ü"] {
            let error = get_caller_identity(&credentials, "us-east-1", Some(id), now());
            assert_eq!(error.unwrap_err(), SigningError::ServerId, "{id}");
        }
    }

    #[test]
    fn vault_gets_each_header_as_a_list() {
        let request = get_caller_identity(&credentials(None), "us-east-1", None, now()).unwrap();
        let json: serde_json::Value =
            serde_json::from_str(request.headers_json().expose()).unwrap();
        assert_eq!(json["Content-Type"][0], CONTENT_TYPE);
        assert_eq!(json["Content-Length"][0], "43");
        assert!(json.get("X-Amz-Security-Token").is_none());
    }

    #[test]
    fn debug_shows_no_signature() {
        let request = get_caller_identity(&credentials(None), "us-east-1", None, now()).unwrap();
        assert!(!format!("{request:?}").contains("Signature"));
    }

    #[test]
    fn an_endpoint_is_signed_for_by_its_host_and_port() {
        let endpoint = "https://vpce-1.sts.eu-west-1.vpce.amazonaws.com:8443";
        let request =
            get_caller_identity_at(&credentials(None), "eu-west-1", Some(endpoint), None, now())
                .unwrap();
        assert_eq!(request.url(), format!("{endpoint}/"));
        for (endpoint, url) in [
            ("http://localhost:4566/", Some("http://localhost:4566/")),
            ("http://[::1]:4566", Some("http://[::1]:4566/")),
            ("http://sts.example.com", None),
            ("http://localhost.example.com", None),
            ("https://sts.example.com/path", None),
            ("https://sts.example.com?x", None),
            ("https://user@sts.example.com", None),
            ("https://", None),
            ("sts.example.com", None),
        ] {
            assert_eq!(sts_url("eu-west-1", Some(endpoint)).ok().as_deref(), url, "{endpoint}");
        }
    }
}

//! The connection to Vault: trust, client certificate, and what went wrong with it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use super::{
    AT_ONCE, CONNECT_TIMEOUT, ForwardProxy, IDLE, Liberties, Settings,
    error::{Cause, Step},
};
use crate::{
    aws::http::{platform_roots, tls_builder},
    fault::{Fault, Retry},
    redacted::Redacted,
};

/// A certificate and key with which we show ourselves to Vault's listener, as PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientCertificate {
    /// The certificate, followed by its intermediates.
    pub certificate_pem: String,
    /// Its private key, not encrypted.
    pub key_pem: Redacted<String>,
}

/// Settings with which no connection can be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// Not an address that we speak to.
    #[error("the address of Vault cannot be used: {what}")]
    Address {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The namespace does not fit into a header.
    #[error("the Vault namespace holds characters that no header can carry")]
    Namespace,
    /// The CA bundle holds no certificate, or one that cannot be read.
    #[error("the CA bundle cannot be used: {what}")]
    CaBundle {
        /// What is wrong with it.
        what: String,
    },
    /// The client certificate or its key cannot be used.
    #[error("the client certificate cannot be used: {what}")]
    ClientCertificate {
        /// What is wrong with it.
        what: String,
    },
    /// The name to expect in Vault's certificate is none.
    #[error("the TLS server name is not a host name")]
    ServerName,
    /// The forward proxy cannot be used.
    #[error("the HTTP proxy cannot be used: {what}")]
    Proxy {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {what}")]
    Http {
        /// Why.
        what: String,
    },
}

impl Fault for SettingsError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Address { .. } => "AddressInvalid",
            Self::Namespace => "NamespaceInvalid",
            Self::CaBundle { .. } => "CaBundleInvalid",
            Self::ClientCertificate { .. } => "ClientCertificateInvalid",
            Self::ServerName => "ServerNameInvalid",
            Self::Proxy { .. } => "ProxyInvalid",
            Self::Http { .. } => "VaultError",
        }
    }

    fn retry(&self) -> Retry {
        Retry::WhenChanged
    }
}

/// The HTTP client of these settings. With a server name of its own, `base` gets that host, and
/// the name resolves to the address' host: so the name is what TLS asks for and checks.
pub(super) fn http_client(
    settings: &Settings,
    liberties: &Liberties,
    base: &mut Url,
) -> Result<reqwest::Client, SettingsError> {
    let roots = match &settings.ca_pem {
        Some(pem) => bundle(pem)?,
        // Reading the platform's takes longer than an answer over plain http.
        None if base.scheme() == "http" || liberties.any_certificate => RootCertStore::empty(),
        None => platform_roots(),
    };
    let tls = tls_builder().map_err(|error| SettingsError::Http { what: error.to_string() })?;
    let tls = if liberties.any_certificate {
        let provider = Arc::clone(tls.crypto_provider());
        tls.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        tls.with_root_certificates(roots)
    };
    let tls = match &settings.client_certificate {
        None => tls.with_no_client_auth(),
        Some(client) => {
            let invalid = |what: String| SettingsError::ClientCertificate { what };
            let chain = CertificateDer::pem_slice_iter(client.certificate_pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| invalid(format!("certificate: {error}")))?;
            if chain.is_empty() {
                return Err(invalid("it holds no certificate".to_owned()));
            }
            let key = PrivateKeyDer::from_pem_slice(client.key_pem.expose().as_bytes())
                .map_err(|_| invalid("its key cannot be read".to_owned()))?;
            tls.with_client_auth_cert(chain, key).map_err(|error| invalid(error.to_string()))?
        }
    };
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(!liberties.plain_http)
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout / 2))
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(AT_ONCE)
        .user_agent(concat!("vault-aws-operator/", env!("CARGO_PKG_VERSION")));
    match &liberties.proxy {
        ForwardProxy::OfEnvironment => {}
        ForwardProxy::Never => builder = builder.no_proxy(),
        ForwardProxy::Fixed(_) if settings.tls_server_name.is_some() => {
            let what = "it would resolve the TLS server name itself, and find nothing or another";
            return Err(SettingsError::Proxy { what });
        }
        ForwardProxy::Fixed(url) => {
            let proxy = reqwest::Proxy::all(url.clone())
                .map_err(|_| SettingsError::Proxy { what: "its address cannot be used" })?;
            builder = builder.no_proxy().proxy(proxy);
        }
    }
    if let Some(socket) = &liberties.socket {
        builder = builder.unix_socket(socket.clone());
    }
    if let Some(name) = &settings.tls_server_name {
        let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        base.set_host(Some(name)).map_err(|_| SettingsError::ServerName)?;
        // Of what a URL takes, TLS does not take all.
        let is_name = |name: &str| matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)));
        if !base.domain().is_some_and(is_name) {
            return Err(SettingsError::ServerName);
        }
        // A proxy would resolve the name itself, and find nothing or somebody else.
        builder = builder.dns_resolver(Arc::new(Always { host })).no_proxy();
    }
    builder.build().map_err(|error| SettingsError::Http { what: error.without_url().to_string() })
}

/// Takes any certificate, and checks only that the other side holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Resolves every name to the addresses of one host.
struct Always {
    host: String,
}

impl Resolve for Always {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.host.clone();
        Box::pin(async move {
            // Port 0 is replaced by the URL's.
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn bundle(pem: &str) -> Result<RootCertStore, SettingsError> {
    let invalid = |what: String| SettingsError::CaBundle { what };
    let mut roots = RootCertStore::empty();
    for (at, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let number = at + 1;
        let certificate =
            certificate.map_err(|error| invalid(format!("block {number}: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| invalid(format!("certificate {number}: {error}")))?;
    }
    if roots.is_empty() {
        return Err(invalid("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// Why a request got no answer. The innermost cause speaks; the URL is never said.
pub(super) fn unreachable(error: &reqwest::Error) -> Cause {
    if error.is_timeout() && !error.is_connect() {
        // The caller knows its own deadline.
        return Cause::Timeout { after: Duration::ZERO, asks_aws: false };
    }
    let mut step = if error.is_connect() { Step::Connect } else { Step::Transfer };
    let mut detail = String::new();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if text.contains("dns error") {
            step = Step::Dns;
        }
        if let Some(tls) = tls_error(inner) {
            let detail = super::error::clean(&tls.to_string());
            return Cause::Unreachable { step: Step::Tls, detail };
        }
        if !text.is_empty() {
            detail = text;
        }
        cause = inner.source();
    }
    if error.is_timeout() {
        detail = "timed out".to_owned();
    }
    if detail.is_empty() {
        detail = "the connection broke".to_owned();
    }
    Cause::Unreachable { step, detail: super::error::clean(&detail) }
}

/// The TLS error that an I/O error carries, however deep: `source()` skips what it wraps.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut error = error;
    loop {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        error = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::parse_address;

    fn client(change: impl FnOnce(&mut Settings)) -> Result<(reqwest::Client, Url), SettingsError> {
        let mut settings = Settings::new(parse_address("https://10.0.0.1:8200/x").unwrap());
        change(&mut settings);
        let mut base = settings.address.clone();
        http_client(&settings, &Liberties::default(), &mut base).map(|client| (client, base))
    }

    #[test]
    fn a_fixed_proxy_and_a_server_name_exclude_each_other() {
        let mut settings = Settings::new(parse_address("https://10.0.0.1:8200").unwrap());
        let proxy = ForwardProxy::Fixed(Url::parse("http://proxy:3128").unwrap());
        let liberties = Liberties { proxy, ..Liberties::default() };
        let mut base = settings.address.clone();
        http_client(&settings, &liberties, &mut base).unwrap();
        settings.tls_server_name = Some("vault.lab".to_owned());
        let error = http_client(&settings, &liberties, &mut base).unwrap_err();
        assert_eq!(error.reason(), "ProxyInvalid");
    }

    #[test]
    fn a_bundle_without_a_certificate_is_refused() {
        let error = client(|settings| settings.ca_pem = Some("nothing".to_owned())).unwrap_err();
        assert_eq!(error.reason(), "CaBundleInvalid");
    }

    #[test]
    fn a_bundle_and_a_client_certificate_are_taken() {
        let own = rcgen::generate_simple_self_signed(vec!["vault".to_owned()]).unwrap();
        let (_, base) = client(|settings| {
            settings.ca_pem = Some(own.cert.pem());
            settings.client_certificate = Some(ClientCertificate {
                certificate_pem: own.cert.pem(),
                key_pem: Redacted::new(own.signing_key.serialize_pem()),
            });
        })
        .unwrap();
        assert_eq!(base.as_str(), "https://10.0.0.1:8200/x");
    }

    #[test]
    fn a_tls_error_is_found_inside_of_io_errors() {
        let tls = rustls::Error::DecryptError;
        let wrapped = std::io::Error::other(std::io::Error::other(tls));
        assert_eq!(tls_error(&wrapped), Some(&rustls::Error::DecryptError));
        assert_eq!(tls_error(&std::io::Error::other("x")), None);
    }

    #[test]
    fn a_server_name_takes_the_place_of_the_host() {
        let (_, base) =
            client(|settings| settings.tls_server_name = Some("vault.lab".to_owned())).unwrap();
        assert_eq!(base.as_str(), "https://vault.lab:8200/x");
        for bad in ["", "10.0.0.2", "a b"] {
            let error = client(|settings| settings.tls_server_name = Some(bad.to_owned()));
            assert_eq!(error.unwrap_err(), SettingsError::ServerName, "{bad}");
        }
    }
}

//! The lab's own certificates: one CA, one leaf per role, and the key that signs ServiceAccount
//! tokens. All of it lives as long as the lab's folder.

use std::path::PathBuf;

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, date_time_ymd,
};

use crate::{error::Result, files};

/// The only name in the certificate of Vault's second listener.
pub(crate) const MUTUAL_NAME: &str = "vault.lab.internal";

/// Whose certificate it is; also the name of its files.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holder {
    ApiServer,
    ControllerManager,
    Etcd,
    EtcdClient,
    Admin,
    Vault,
    /// The listener that asks for a certificate; its own has no address of this machine.
    VaultMutual,
    /// Whom that listener lets in.
    VaultClient,
}

impl Holder {
    const ALL: [Self; 8] = [
        Self::ApiServer,
        Self::ControllerManager,
        Self::Etcd,
        Self::EtcdClient,
        Self::Admin,
        Self::Vault,
        Self::VaultMutual,
        Self::VaultClient,
    ];

    fn file(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Etcd => "etcd",
            Self::EtcdClient => "etcd-client",
            Self::Admin => "admin",
            Self::Vault => "vault",
            Self::VaultMutual => "vault-mutual",
            Self::VaultClient => "vault-client",
        }
    }

    /// Kubernetes takes the user from CN and the groups from O.
    fn subject(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::ApiServer => ("kube-apiserver", None),
            Self::ControllerManager => ("system:kube-controller-manager", None),
            Self::Etcd => ("etcd", None),
            Self::EtcdClient => ("kube-apiserver-etcd-client", None),
            Self::Admin => ("lab-admin", Some("system:masters")),
            Self::Vault | Self::VaultMutual => ("vault", None),
            Self::VaultClient => ("vault-client", None),
        }
    }

    fn hosts(self) -> &'static [&'static str] {
        match self {
            Self::ApiServer => &["localhost", "127.0.0.1", "kubernetes.default.svc", "10.0.0.1"],
            Self::ControllerManager | Self::Etcd | Self::Vault => &["localhost", "127.0.0.1"],
            Self::VaultMutual => &[MUTUAL_NAME],
            Self::EtcdClient | Self::Admin | Self::VaultClient => &[],
        }
    }

    fn usages(self) -> Vec<ExtendedKeyUsagePurpose> {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        match self {
            Self::ApiServer | Self::Vault | Self::VaultMutual => vec![ServerAuth],
            // etcd is a client of itself; the controller manager of the API server.
            Self::Etcd | Self::ControllerManager => vec![ServerAuth, ClientAuth],
            Self::EtcdClient | Self::Admin | Self::VaultClient => vec![ClientAuth],
        }
    }
}

/// The folder of the certificates.
#[derive(Clone, Debug)]
pub(crate) struct Pki(PathBuf);

impl Pki {
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    pub(crate) fn certificate(&self, holder: Holder) -> PathBuf {
        self.0.join(format!("{}.crt", holder.file()))
    }

    pub(crate) fn key(&self, holder: Holder) -> PathBuf {
        self.0.join(format!("{}.key", holder.file()))
    }

    /// What signs ServiceAccount tokens.
    pub(crate) fn service_account_key(&self) -> PathBuf {
        self.0.join("service-account.key")
    }

    /// What verifies them.
    pub(crate) fn service_account_public_key(&self) -> PathBuf {
        self.0.join("service-account.pub")
    }

    /// Makes everything anew. The CA's key is not kept.
    pub(crate) fn create(&self) -> Result<()> {
        files::create_folder(&self.0)?;
        let ca = authority()?;
        files::write(&self.ca(), ca.pem())?;
        for holder in Holder::ALL {
            let (certificate, key) = leaf(holder, &ca)?;
            files::write(&self.certificate(holder), certificate)?;
            files::write(&self.key(holder), key)?;
        }
        // RSA, as in most clusters.
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
        files::write(&self.service_account_key(), key.serialize_pem())?;
        files::write(&self.service_account_public_key(), key.public_key_pem())
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "lab-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for_a_month(&mut params);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Certificate and key as PEM.
fn leaf(holder: Holder, ca: &CertifiedIssuer<'_, KeyPair>) -> Result<(String, String)> {
    let hosts: Vec<String> = holder.hosts().iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts)?;
    let (name, group) = holder.subject();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = holder.usages();
    params.use_authority_key_identifier_extension = true;
    valid_for_a_month(&mut params);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, ca)?.pem(), key.serialize_pem()))
}

fn valid_for_a_month(params: &mut CertificateParams) {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        // Months are 1 to 12 and days 1 to 31 in both crates.
        date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(30.days()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_names_its_holder_and_carries_a_key() {
        let ca = authority().expect("a CA");
        let (certificate, key) = leaf(Holder::Admin, &ca).expect("a leaf");
        assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}

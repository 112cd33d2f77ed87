//! Certificates as somebody would put them into Vault, and what is to be read in one.

use std::{fmt, io};

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};
use serde_json::{Value, json};

use crate::error::{Doing as _, Result};

/// A small company's CA.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key. Debug shows neither.
pub(crate) struct Issued {
    /// PEM.
    pub(crate) certificate: String,
    key: String,
    ca: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for_days(&mut params, 3650);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// A server certificate for 90 days, with a new P-256 key.
    pub(crate) fn issue(&self, host: &str) -> Result<Issued> {
        self.issue_for(host, &KeyPair::generate()?)
    }

    /// The same with a new RSA key of 2048 bits.
    pub(crate) fn issue_rsa(&self, host: &str) -> Result<Issued> {
        self.issue_for(host, &KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?)
    }

    fn issue_for(&self, host: &str, key: &KeyPair) -> Result<Issued> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, host);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for_days(&mut params, 90);
        let certificate = params.signed_by(key, &self.0)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem(), ca: self.0.pem() })
    }
}

impl Issued {
    /// The fields of a KV entry, named as Vault's PKI engine names them.
    pub(crate) fn fields(&self) -> Value {
        json!({"certificate": self.certificate, "private_key": self.key, "issuing_ca": self.ca})
    }

    /// The keys of a Secret that holds it, with the line ends that the operator writes.
    pub(crate) fn delivered(&self) -> [(&'static str, String); 3] {
        let text = |pem: &str| pem.replace("\r\n", "\n");
        [
            ("tls.crt", text(&self.certificate)),
            ("tls.key", text(&self.key)),
            ("ca.crt", text(&self.ca)),
        ]
    }
}

fn valid_for_days(params: &mut CertificateParams, days: i64) {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        // Months are 1 to 12 and days 1 to 31 in both crates.
        date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(days.days()));
}

/// What people look at in a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Described {
    /// For example `CN=www.example.com`.
    pub(crate) subject: String,
    /// The same of the CA.
    pub(crate) issuer: String,
    /// Hexadecimal, with colons.
    pub(crate) serial: String,
    /// The end of its life.
    pub(crate) not_after: Timestamp,
}

impl Described {
    /// Reads the first certificate of a PEM text.
    pub(crate) fn read(pem: &[u8]) -> Result<Self> {
        let unreadable = |error: &dyn fmt::Display| io::Error::other(error.to_string());
        let attempt = || {
            let (_, block) =
                x509_parser::pem::parse_x509_pem(pem).map_err(|error| unreadable(&error))?;
            let certificate = block.parse_x509().map_err(|error| unreadable(&error))?;
            let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp())
                .map_err(|error| unreadable(&error))?;
            io::Result::Ok(Self {
                subject: certificate.subject().to_string(),
                issuer: certificate.issuer().to_string(),
                serial: certificate.raw_serial_as_string(),
                not_after,
            })
        };
        attempt().doing(|| "reading a certificate".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_described_as_it_was_issued() {
        let authority = Authority::new("Example CA").expect("a CA");
        let issued = authority.issue("www.example.com").expect("a leaf");
        let described = Described::read(issued.certificate.as_bytes()).expect("a certificate");
        assert_eq!(described.subject, "CN=www.example.com");
        assert_eq!(described.issuer, "CN=Example CA");
        let other = authority.issue("www.example.com").expect("a leaf");
        let other = Described::read(other.certificate.as_bytes()).expect("a certificate");
        assert_ne!(described.serial, other.serial);
    }
}

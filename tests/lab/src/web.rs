//! HTTP clients for the lab's own servers: they trust its CA alone and no proxy stands between.

use std::{fs, path::PathBuf, time::Duration};

use reqwest::{Certificate, Client, Identity, redirect};

use crate::error::{Doing as _, Result};

/// Whom a client trusts and who it says it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// PEM file of the CA; none for plain HTTP.
    pub(crate) ca: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    pub(crate) fn client(&self, timeout: Duration) -> Result<Client> {
        let mut builder =
            Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(timeout);
        let read = |path: &PathBuf| fs::read(path).doing(|| format!("reading {}", path.display()));
        if let Some(ca) = &self.ca {
            let ca =
                Certificate::from_pem(&read(ca)?).doing(|| "reading the lab's CA".to_owned())?;
            builder = builder.tls_certs_only([ca]);
        }
        if let Some((certificate, key)) = &self.identity {
            let pem = [read(certificate)?, read(key)?].concat();
            let identity =
                Identity::from_pem(&pem).doing(|| format!("reading {}", certificate.display()))?;
            builder = builder.identity(identity);
        }
        builder.build().doing(|| "making an HTTP client".to_owned())
    }
}

/// Makes aws-lc-rs the process's TLS provider, unless one is installed already.
pub(crate) fn install_tls_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Percent-encodes as forms and signatures both accept: all but the unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte.into());
            }
            // Writing to a String cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stand_for_themselves() {
        assert_eq!(encode("a-Z.0_~ /+é"), "a-Z.0_~%20%2F%2B%C3%A9");
    }
}

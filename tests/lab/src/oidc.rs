//! What AWS checks of a web identity token before it looks at the role's trust policy, which is all
//! that the emulator does: whose it is, for whom, until when, and whether the issuer signed it.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// Code and message of AWS's refusal.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal { code: "InvalidIdentityToken", message: message.into() }
}

/// A token that was taken apart and not yet believed.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    key_id: String,
    claims: Claims,
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    aud: Value,
    exp: i64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

impl<'a> Token<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Refusal> {
        let refused = || invalid("The ID Token provided is not a valid JWT.");
        let (signed, signature) = text.rsplit_once('.').ok_or_else(refused)?;
        let (header, claims) = signed.split_once('.').ok_or_else(refused)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| refused());
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| refused())?;
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| refused())?;
        if header.alg != "RS256" {
            return Err(refused());
        }
        Ok(Self { signed, signature: decode(signature)?, key_id: header.kid, claims })
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// Whether to believe it: `keys` are the issuer's, a JWKS; `audiences` those that the account
    /// takes of it.
    pub(crate) fn verify(
        &self,
        keys: &Value,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let unknown = || invalid("Couldn't retrieve verification key from your identity provider.");
        let mut all = keys["keys"].as_array().into_iter().flatten();
        let key = all.find(|key| key["kid"] == self.key_id.as_str()).ok_or_else(unknown)?;
        let part = |name: &str| {
            let text = key[name].as_str().ok_or_else(unknown)?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| unknown())
        };
        RsaPublicKeyComponents { n: part("n")?, e: part("e")? }
            .verify(&RSA_PKCS1_2048_8192_SHA256, self.signed.as_bytes(), &self.signature)
            .map_err(|_| invalid("The token's signature is not valid."))?;
        let meant = |audience: &Value| audiences.iter().any(|known| audience == known.as_str());
        let fits = match &self.claims.aud {
            Value::Array(all) => all.iter().any(meant),
            one => meant(one),
        };
        if !fits {
            return Err(invalid("Incorrect token audience"));
        }
        if self.claims.exp <= now.as_second() {
            let message = format!(
                "Token expired: current date/time {} must be before the expiration date/time {}",
                now.as_second(),
                self.claims.exp
            );
            return Err(Refusal { code: "ExpiredTokenException", message });
        }
        Ok(())
    }
}

/// AWS's answer where the account does not know the issuer.
pub(crate) fn unknown_issuer(issuer: &str) -> Refusal {
    invalid(format!("No OpenIDConnect provider found in your account for {issuer}"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::{KeyPair, KeySize},
        signature::{KeyPair as _, RSA_PKCS1_SHA256},
    };
    use serde_json::json;
    use x509_parser::{prelude::FromDer as _, public_key::RSAPublicKey};

    use super::*;

    const AUDIENCE: &str = "sts.amazonaws.com";

    struct Issuer(KeyPair);

    impl Issuer {
        fn new() -> Self {
            Self(KeyPair::generate(KeySize::Rsa2048).unwrap())
        }

        fn keys(&self) -> Value {
            let (_, key) = RSAPublicKey::from_der(self.0.public_key().as_ref()).unwrap();
            let encode = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                URL_SAFE_NO_PAD.encode(&bytes[zeros..])
            };
            let (n, e) = (encode(key.modulus), encode(key.exponent));
            json!({"keys": [{"kty": "RSA", "kid": "1", "n": n, "e": e}]})
        }

        fn token(&self, audience: Value, exp: i64) -> String {
            let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let header = encode(json!({"alg": "RS256", "kid": "1"}));
            let claims = encode(json!({"iss": "https://k", "aud": audience, "exp": exp}));
            let signed = format!("{header}.{claims}");
            let mut signature = vec![0; self.0.public_modulus_len()];
            self.0
                .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
                .unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn judge(issuer: &Issuer, token: &str) -> Result<(), String> {
        let code = |refusal: Refusal| format!("{}: {}", refusal.code, refusal.message);
        let now = Timestamp::from_second(1000).unwrap();
        let token = Token::parse(token).map_err(code)?;
        token.verify(&issuer.keys(), &[AUDIENCE.to_owned()], now).map_err(code)
    }

    #[test]
    fn a_token_of_the_issuer_for_us_is_believed_until_it_expires() {
        let issuer = Issuer::new();
        assert_eq!(judge(&issuer, &issuer.token(json!([AUDIENCE]), 1001)), Ok(()));
        assert_eq!(judge(&issuer, &issuer.token(json!(AUDIENCE), 1001)), Ok(()));
        let expired = judge(&issuer, &issuer.token(json!([AUDIENCE]), 1000)).unwrap_err();
        assert!(expired.starts_with("ExpiredTokenException: Token expired"), "{expired}");
        let foreign = judge(&issuer, &issuer.token(json!(["vault"]), 1001)).unwrap_err();
        assert_eq!(foreign, "InvalidIdentityToken: Incorrect token audience");
    }

    #[test]
    fn a_token_that_somebody_else_signed_or_changed_is_not() {
        let (issuer, other) = (Issuer::new(), Issuer::new());
        let token = issuer.token(json!([AUDIENCE]), 1001);
        assert!(judge(&other, &token).unwrap_err().contains("signature"));
        let longer = issuer.token(json!([AUDIENCE]), 9999);
        let part = |token: &str, at: usize| token.split('.').nth(at).unwrap().to_owned();
        let forged = format!("{}.{}.{}", part(&token, 0), part(&longer, 1), part(&token, 2));
        assert!(judge(&issuer, &forged).unwrap_err().contains("signature"));
        let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"1"}"#);
        let unsigned = format!("{unsigned}.{}.", part(&token, 1));
        for bad in [unsigned.as_str(), "", "a.b", "a.b.c"] {
            let refusal = judge(&issuer, bad).unwrap_err();
            assert!(refusal.contains("not a valid JWT"), "{bad}: {refusal}");
        }
    }
}

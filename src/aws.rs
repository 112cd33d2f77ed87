//! AWS: the operator's own credentials, the roles it assumes, and the signed `GetCallerIdentity`
//! with which an AWS identity logs in to Vault. The only user of the AWS crates.
//!
//! Credentials are values that are passed on; nothing is put into the environment of the process,
//! where identities of different tenants would race.

pub(crate) mod http;
pub mod identity;
pub mod person;
pub mod signing;
pub mod text;
pub mod throttle;

pub use aws_credential_types::Credentials;
pub use identity::Error;

//! AWS credentials for programs that start us to get them (`credential_process`): what is kept between
//! two starts, for how long, and what is printed.
//!
//! SDKs start their helper often, some for each request, and several at once; Vault makes new
//! credentials each time it is asked. So they are kept on disk, and everything here exists to make
//! that safe: a key that names all that the answer depends on ([`key`]), an end that is never later
//! than the credentials' own ([`entry`]), files that nobody else can read or replace ([`cache`]).
//! All but [`cache`] is pure.

pub mod cache;
pub mod document;
pub mod entry;
pub mod key;

pub use cache::Cache;
pub use entry::{Entry, Freshness, TokenLife};
pub use key::{Key, Parts};

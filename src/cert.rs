//! VaultCertSync

pub mod desired;
pub mod entry;
pub mod pair;
pub mod plan;
pub mod secrets;
pub mod verdict;

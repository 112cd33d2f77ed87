//! VaultCertSync

pub mod desired;
pub mod plan;
pub mod secrets;
pub mod verdict;

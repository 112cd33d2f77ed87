//! VaultCertSync

pub mod desired;

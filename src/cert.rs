//! VaultCertSync

pub mod apply;
pub mod desired;
pub mod entry;
pub mod observe;
pub mod pair;
pub mod plan;
pub mod secrets;
pub mod verdict;

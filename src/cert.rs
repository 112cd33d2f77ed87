//! cert

pub mod entry;
pub mod pair;

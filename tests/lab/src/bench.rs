//! bench
use crate::error::Result;
/// Settings
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {}
/// run
pub async fn run(_settings: Settings) -> Result<String> {
    Ok(String::new())
}

//! `dalston config`: the effective configuration.

use clap::Args;

use crate::config::{self, Config};
use crate::print;

/// Options of `dalston config`.
#[derive(Debug, Args)]
pub struct Show {
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

/// Prints every setting with its value and who set it.
pub fn run(options: &Show, config: &Config) -> anyhow::Result<()> {
    if options.json {
        print::json(&config::json(&config.values));
    } else {
        print::line(config::table(&config.values));
    }
    Ok(())
}

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
    /// Print the reference page of all settings
    #[arg(long, hide = true, conflicts_with = "json")]
    markdown: bool,
}

/// Prints every setting with its value and who set it.
pub fn run(options: &Show, config: &Config) -> anyhow::Result<()> {
    if options.markdown {
        print::text(&config::markdown());
    } else if options.json {
        print::json(&config::json(&config.values));
    } else {
        print::line(config::table(&config.values));
    }
    Ok(())
}
